//! The cluster as a state machine: no IO, no waiting; whoever calls says what time it is.

pub(crate) mod access;
pub(crate) mod birth;
mod change;
pub(crate) mod make;
pub(crate) mod storage;
pub(crate) mod task;
pub(crate) mod vm;
pub(crate) mod work;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

use crate::audit::Audit;
use crate::builder::{Builder, GIB, NodeSpec, TemplateSpec};
use crate::delays::Delays;
use crate::fault::{Rates, Script, TaskFault};
use crate::guest::GuestHost;
use crate::property::print_size;
use crate::rng::Rng;
use crate::tls::Authority;
use crate::world::access::Access;
use crate::world::birth::{Births, Maker};
use crate::world::storage::{Storage, Volume};
use crate::world::task::{State, Task, Tasks, Upid};
use crate::world::vm::{Broadcast, Power, Vm};
use crate::world::work::Work;

/// A host's own use of memory.
const HOST_MEMORY: u64 = 2 * GIB;

/// How a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Online,
    /// It answers nobody, yet the cluster still counts it in.
    Silent,
    /// It is off: its VMs don't run and its tasks ended without a status.
    Offline,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) id: usize,
    pub(crate) health: Health,
    /// Memory used by something that is no VM, in bytes.
    pub(crate) pressure: u64,
}

/// A VM that the HA manager looks after.
#[derive(Clone, Debug)]
pub(crate) struct HaResource {
    pub(crate) state: String,
    pub(crate) comment: Option<String>,
}

/// What happens at a later time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    TaskHalfway(String),
    TaskEnds(String),
    LockGivenUp(String),
    GuestWakes(usize),
    NodeSpeaks(String),
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) storages: BTreeMap<String, Storage>,
    pub(crate) vms: BTreeMap<u32, Vm>,
    pub(crate) pools: BTreeMap<String, String>,
    pub(crate) ha: BTreeMap<u32, HaResource>,
    pub(crate) tasks: Tasks,
    pub(crate) access: Access,
    pub(crate) births: Births,
    pub(crate) audit: Audit,
    pub(crate) script: Script,
    pub(crate) rates: Rates,
    pub(crate) delays: Delays,
    pub(crate) speed: f64,
    pub(crate) next_id: (u32, u32),
    pub(crate) quorate: bool,
    pub(crate) rng: Rng,
    pub(crate) guests: GuestHost,
    /// Made when it is first needed, as most tests never do.
    authority: OnceLock<Arc<Authority>>,
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    epoch: Duration,
    events: BTreeMap<(Instant, u64), Event>,
    events_made: u64,
    /// UPIDs of tasks that wait for a lock file, first come first.
    waiting: VecDeque<String>,
}

impl World {
    pub(crate) fn new(builder: Builder, now: Instant) -> Self {
        let delays = builder.delays.divided_by(builder.speed);
        let mut rates = builder.chaos;
        rates.silence = rates.silence.div_f64(builder.speed);
        let guests = GuestHost::new(builder.guests, builder.speed);
        let storages = builder
            .storages
            .into_iter()
            .map(|s| (s.id.clone(), Storage::new(s)));
        let mut world = Self {
            name: builder.name,
            nodes: BTreeMap::new(),
            storages: storages.collect(),
            vms: BTreeMap::new(),
            pools: builder
                .pools
                .into_iter()
                .map(|pool| (pool, String::new()))
                .collect(),
            ha: BTreeMap::new(),
            tasks: Tasks::default(),
            access: Access::new(builder.tokens),
            births: Births::default(),
            audit: Audit::default(),
            script: Script::default(),
            rates,
            delays,
            speed: builder.speed,
            next_id: builder.next_id,
            quorate: true,
            rng: Rng::new(builder.seed),
            guests,
            authority: OnceLock::new(),
            now,
            start: now,
            epoch: builder.epoch.duration_since(UNIX_EPOCH).unwrap_or_default(),
            events: BTreeMap::new(),
            events_made: 0,
            waiting: VecDeque::new(),
        };
        for (id, spec) in (1..).zip(builder.nodes) {
            let node = Node {
                id,
                health: Health::Online,
                pressure: 0,
                spec,
            };
            world.nodes.insert(node.spec.name.clone(), node);
        }
        for template in builder.templates {
            world.place_template(template);
        }
        world
    }

    /// Puts a template where it belongs.
    pub(crate) fn place_template(&mut self, template: TemplateSpec) {
        let TemplateSpec {
            vmid,
            node,
            storage,
            disk_gib,
            pool,
            config,
            is_template,
            snapshots,
        } = template;
        assert!(
            self.nodes.contains_key(&node),
            "template {vmid}: no node {node}"
        );
        let size = disk_gib * GIB;
        let kept = self.storages.get_mut(&storage);
        let kept = kept.unwrap_or_else(|| unreachable!("template {vmid}: no storage {storage}"));
        let volid = match kept.spec.kind {
            "dir" | "nfs" => format!("{storage}:{vmid}/base-{vmid}-disk-0.qcow2"),
            _ => format!("{storage}:base-{vmid}-disk-0"),
        };
        let volume = Volume {
            content: "images",
            format: kept.default_format().into(),
            size,
            vmid: Some(vmid),
            ctime: self.epoch.as_secs(),
            bytes: None,
            given: true,
        };
        kept.insert(&node, &volid, volume);
        let birth = self
            .births
            .add(vmid, &node, Duration::ZERO, Maker::Hand, true);
        let mut vm = Vm::new(vmid, birth, &node);
        vm.config = config;
        vm.pool = pool;
        let disk = format!("{volid},size={}", print_size(size));
        vm.config.entry("scsi0".into()).or_insert(disk);
        if is_template {
            vm.config.insert("template".into(), "1".into());
        }
        let smbios = format!("uuid={}", self.rng.uuid());
        vm.config.entry("smbios1".into()).or_insert(smbios);
        for (name, differences) in snapshots {
            let mut config = vm.config.clone();
            config.extend(differences);
            vm.snapshots.insert(name, config);
        }
        self.vms.insert(vmid, vm);
    }

    /// The cluster's certificate authority.
    pub(crate) fn authority(&self) -> &Arc<Authority> {
        self.authority.get_or_init(|| {
            let nodes: Vec<_> = self.nodes.keys().cloned().collect();
            let made = Authority::new(&self.name, &nodes);
            Arc::new(made.expect("keys of a known kind and names that are host names"))
        })
    }

    /// The SHA-256 fingerprint of a node's certificate.
    pub(crate) fn fingerprint(&self, node: &str) -> String {
        let node = self.authority().nodes.get(node);
        node.map(|node| node.fingerprint.clone())
            .unwrap_or_default()
    }

    /// Seconds since 1970 on the cluster's clock.
    pub(crate) fn time(&self) -> u64 {
        (self.epoch + self.now.duration_since(self.start)).as_secs()
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.events_made += 1;
        self.events.insert((at, self.events_made), event);
    }

    pub(crate) fn schedule_guest(&mut self, birth: usize, at: Duration) {
        self.schedule(self.start + at, Event::GuestWakes(birth));
    }

    /// When something will happen by itself.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    /// Lets everything happen that is due by then.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some((at, seq)) = self
            .events
            .keys()
            .next()
            .copied()
            .filter(|(at, _)| *at <= now)
        {
            let Some(event) = self.events.remove(&(at, seq)) else {
                break;
            };
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = self.now.max(now);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::TaskHalfway(upid) => self.halfway(&upid),
            Event::TaskEnds(upid) => self.complete(&upid),
            Event::LockGivenUp(upid) => self.give_up_lock(&upid),
            Event::GuestWakes(birth) => self.wake_guest(birth),
            Event::NodeSpeaks(node) => {
                if let Some(node) = self.nodes.get_mut(&node)
                    && node.health == Health::Silent
                {
                    node.health = Health::Online;
                }
            }
        }
    }

    /// Makes a node fall silent, for good or for a while.
    pub(crate) fn silence(&mut self, node: &str, how_long: Option<Duration>) {
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        known.health = Health::Silent;
        if let Some(how_long) = how_long {
            let at = self.now + how_long;
            self.schedule(at, Event::NodeSpeaks(node.to_owned()));
        }
    }

    /// Switches a node off: its VMs stop, its tasks end without a status.
    pub(crate) fn power_off(&mut self, node: &str) {
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        known.health = Health::Offline;
        let on_it = |task: &&Task| task.is_running() && task.upid.node == node;
        let upids: Vec<_> = self
            .tasks
            .newest()
            .filter(on_it)
            .map(|task| task.upid.to_string())
            .collect();
        for upid in upids {
            self.abort(&upid, "unexpected status");
        }
        let here = |vm: &&Vm| vm.node == node && vm.is_running();
        let vmids: Vec<_> = self.vms.values().filter(here).map(|vm| vm.vmid).collect();
        for vmid in vmids {
            self.set_power(vmid, Power::Stopped);
        }
    }

    /// Forks a worker: what runs it, for whom, and what it does. Returns its UPID.
    pub(crate) fn fork(&mut self, node: &str, user: &str, work: Work) -> String {
        let upid = Upid {
            node: node.to_owned(),
            // Linux hands out pids up to 4194304 on 64 bits.
            pid: u32::try_from(self.rng.next() % 4_194_304).unwrap_or_default(),
            // Ticks of 10 ms since the host's boot, a week ago.
            pstart: 60_480_000_u32
                .wrapping_add(u32::try_from(self.elapsed().as_millis() / 10).unwrap_or(u32::MAX)),
            starttime: self.time(),
            kind: work.kind().to_owned(),
            id: work.id(),
            user: user.to_owned(),
        };
        let fault = self.draw_task_fault(&work);
        let state = State::Running { ends: self.now };
        let task = Task {
            upid,
            state,
            work,
            fault,
            log: Vec::new(),
        };
        let upid = self.tasks.insert(task);
        self.begin(&upid);
        upid
    }

    fn draw_task_fault(&mut self, work: &Work) -> Option<TaskFault> {
        if let Some(fault) = self.script.take_task(work.kind(), work.vmid()) {
            return Some(fault);
        }
        let kind = work.kind();
        let lock = work
            .vmid()
            .map(|vmid| format!("/var/lock/qemu-server/lock-{vmid}.conf"));
        if let Some(file) = lock
            && self.rng.happens(self.rates.lock_timeout)
        {
            return Some(TaskFault::Fail(format!(
                "can't lock file '{file}' - got timeout"
            )));
        }
        if work.stores() && self.rng.happens(self.rates.storage_full) {
            return Some(TaskFault::Fail(format!(
                "{kind} failed: No space left on device"
            )));
        }
        if self.rng.happens(self.rates.task_fails) {
            return Some(TaskFault::Fail(format!(
                "{kind} failed: command failed: exit code 1"
            )));
        }
        if self.rng.happens(self.rates.task_fails_after) {
            return Some(TaskFault::FailAfter(format!("{kind} failed: got timeout")));
        }
        if self.rng.happens(self.rates.task_warns) {
            return Some(TaskFault::Warn(1));
        }
        self.rng
            .happens(self.rates.task_slow)
            .then_some(TaskFault::Slow(5))
    }

    /// Starts a task's work, or lets it wait for its lock files.
    fn begin(&mut self, upid: &str) {
        let Some(task) = self.tasks.get(upid) else {
            return;
        };
        let (work, fault, user) = (
            task.work.clone(),
            task.fault.clone(),
            task.upid.user.clone(),
        );
        if let Err(file) = self.lock_for(&work, upid) {
            let timeout = work.lock_timeout(&self.delays);
            let until = self.now + timeout;
            if let Some(task) = self.tasks.get_mut(upid) {
                task.state = State::Waiting { until };
                task.note(format!("trying to acquire lock on {file}..."));
            }
            self.waiting.push_back(upid.to_owned());
            if timeout.is_zero() {
                self.give_up_lock(upid);
            } else {
                self.schedule(until, Event::LockGivenUp(upid.to_owned()));
            }
            return;
        }
        if let Err(reason) = self.begin_work(&work, &user) {
            self.end(upid, reason, true);
            return;
        }
        let mut duration = work.duration(&self.delays);
        if let Some(TaskFault::Slow(factor)) = fault {
            duration *= factor;
        }
        if duration.is_zero() {
            self.complete(upid);
            return;
        }
        let ends = self.now + duration;
        if let Some(task) = self.tasks.get_mut(upid) {
            task.state = State::Running { ends };
        }
        if matches!(work, Work::Destroy { .. }) {
            self.schedule(self.now + duration / 2, Event::TaskHalfway(upid.to_owned()));
        }
        self.schedule(ends, Event::TaskEnds(upid.to_owned()));
    }

    fn give_up_lock(&mut self, upid: &str) {
        let Some(task) = self.tasks.get(upid) else {
            return;
        };
        if !matches!(task.state, State::Waiting { .. }) {
            return;
        }
        let reason = task.work.lock_message();
        self.waiting.retain(|waiting| waiting != upid);
        self.end(upid, reason, false);
    }

    fn halfway(&mut self, upid: &str) {
        let Some(task) = self.tasks.get(upid) else {
            return;
        };
        let spoiled = matches!(task.fault, Some(TaskFault::Fail(_) | TaskFault::Killed));
        if task.is_running() && !spoiled {
            let work = task.work.clone();
            self.halve_work(&work);
        }
    }

    /// A task comes to its end.
    fn complete(&mut self, upid: &str) {
        let Some(task) = self.tasks.get(upid).filter(|task| task.is_running()) else {
            return;
        };
        let (work, fault, user) = (
            task.work.clone(),
            task.fault.clone(),
            task.upid.user.clone(),
        );
        let unfinished = match &fault {
            Some(TaskFault::Fail(reason)) => Some(reason.clone()),
            Some(TaskFault::Killed) => Some("unexpected status".to_owned()),
            _ => None,
        };
        if let Some(reason) = unfinished {
            self.undo_work(&work, &user);
            self.end(upid, reason, true);
            return;
        }
        let exit = match (self.finish_work(&work, &user), fault) {
            (Err(reason), _) => {
                self.undo_work(&work, &user);
                reason
            }
            (Ok(()), Some(TaskFault::FailAfter(reason))) => reason,
            (Ok(()), Some(TaskFault::KilledAfter)) => "unexpected status".to_owned(),
            (Ok(()), Some(TaskFault::Warn(count))) => format!("WARNINGS: {count}"),
            (Ok(()), _) => "OK".to_owned(),
        };
        self.end(upid, exit, true);
    }

    /// Stops a task from outside.
    pub(crate) fn abort(&mut self, upid: &str, exit: &str) {
        let Some(task) = self.tasks.get(upid).filter(|task| task.is_running()) else {
            return;
        };
        let began = matches!(task.state, State::Running { .. });
        let (work, user) = (task.work.clone(), task.upid.user.clone());
        self.waiting.retain(|waiting| waiting != upid);
        if began {
            self.undo_work(&work, &user);
        }
        self.end(upid, exit.to_owned(), began);
    }

    fn end(&mut self, upid: &str, exit: String, locked: bool) {
        let (at, endtime) = (self.now, self.time());
        let Some(task) = self.tasks.get_mut(upid) else {
            return;
        };
        task.note(match exit.as_str() {
            "OK" => "TASK OK".to_owned(),
            warnings if warnings.starts_with("WARNINGS: ") => format!("TASK {warnings}"),
            reason => format!("TASK ERROR: {reason}"),
        });
        task.state = State::Stopped { at, endtime, exit };
        let work = task.work.clone();
        if locked {
            self.unlock_for(&work, upid);
        }
        for _ in 0..self.waiting.len() {
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            let waits = |task: &Task| matches!(task.state, State::Waiting { .. });
            let Some(task) = self.tasks.get(&next).filter(|task| waits(task)) else {
                continue;
            };
            let work = task.work.clone();
            if self.is_lockable(&work) {
                self.begin(&next);
            } else {
                self.waiting.push_back(next);
            }
        }
    }

    /// What the cluster knows of a VM's name and state: as of the last broadcast.
    pub(crate) fn broadcast(&self, vm: &Vm) -> Option<Broadcast> {
        let current = Broadcast {
            name: vm.get("name").map(str::to_owned),
            running: vm.is_running(),
        };
        match &vm.before {
            _ if self.delays.statistics.is_zero() => Some(current),
            Some((changed, before)) if *changed >= self.last_broadcast() => before.clone(),
            _ => Some(current),
        }
    }

    fn last_broadcast(&self) -> Instant {
        let interval = self.delays.statistics;
        let since = self.elapsed().as_nanos() % interval.as_nanos();
        self.now - Duration::from_nanos(u64::try_from(since).unwrap_or_default())
    }

    /// Must be called before the name or power state of a VM changes.
    pub(crate) fn remember_broadcast(&mut self, vmid: u32) {
        if self.delays.statistics.is_zero() {
            return;
        }
        let known = self.vms.get(&vmid).and_then(|vm| self.broadcast(vm));
        let now = self.now;
        if let Some(vm) = self.vms.get_mut(&vmid) {
            vm.before = Some((now, known));
        }
    }

    pub(crate) fn set_power(&mut self, vmid: u32, power: Power) {
        self.remember_broadcast(vmid);
        let Some(vm) = self.vms.get_mut(&vmid) else {
            return;
        };
        let ran = vm.is_running();
        vm.power = power;
        match (ran, vm.is_running()) {
            (true, false) => {
                vm.apply_pending();
                self.stop_guest(vmid);
            }
            (false, true) => self.boot_guest(vmid),
            (true, true) | (false, false) => {}
        }
    }

    /// Takes a VM out of the world, with its disks.
    pub(crate) fn remove_vm(&mut self, vmid: u32, by: &str) {
        let Some(vm) = self.vms.remove(&vmid) else {
            return;
        };
        for volid in vm.disks() {
            self.remove_volume(&vm.node, &volid);
        }
        self.births.gone(vm.birth, self.elapsed(), by);
        self.guests.destroyed(vm.birth);
    }

    pub(crate) fn remove_volume(&mut self, node: &str, volid: &str) -> Option<Volume> {
        let (storage, _) = volid.split_once(':')?;
        self.storages.get_mut(storage)?.remove(node, volid)
    }

    pub(crate) fn volume(&self, node: &str, volid: &str) -> Option<&Volume> {
        let (storage, _) = volid.split_once(':')?;
        self.storages.get(storage)?.volume(node, volid)
    }

    /// Memory that a node's running VMs, the host and its pressure take, in bytes.
    pub(crate) fn memory_used(&self, node: &str) -> u64 {
        let Some(known) = self.nodes.get(node) else {
            return 0;
        };
        let running = self
            .vms
            .values()
            .filter(|vm| vm.node == node && vm.is_running());
        let used = HOST_MEMORY + known.pressure + running.map(Vm::memory).sum::<u64>();
        used.min(known.spec.memory)
    }

    /// The lowest free VMID of the range.
    pub(crate) fn free_vmid(&self) -> Option<u32> {
        (self.next_id.0..self.next_id.1).find(|vmid| !self.vms.contains_key(vmid))
    }

    /// Brings the record of a VM's mark up to date with its description.
    pub(crate) fn note_mark(&mut self, vmid: u32) {
        let Some(vm) = self.vms.get(&vmid) else {
            return;
        };
        let (birth, mark) = (vm.birth, vm.mark());
        let name = vm.get("name").map(str::to_owned);
        self.births.bears(birth, name, mark, self.elapsed());
    }
}
