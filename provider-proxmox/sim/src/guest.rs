//! The operating systems in the VMs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capi_testkit::guest::{
    Agent, Disk, Event, Executed, Guest, Hardware, Image, Mac, Medium, Membership, Nic, Pace,
};

use crate::builder::GIB;
use crate::world::World;
use crate::world::vm::Vm;

/// How often a guest may go on at one moment: its stages, and every command of its seed, come
/// one after the other and are far fewer.
const ROUNDS_MAX: usize = 1_000;

/// How many ended commands the agent remembers for `exec-status`.
const EXECUTED_MAX: usize = 64;

/// What boots in VMs that start: what their template has installed, and where it may join.
#[derive(Clone, Debug)]
pub struct Guests {
    clusters: Arc<dyn Membership>,
    pace: Pace,
    image: Image,
    images: BTreeMap<u32, Image>,
}

impl Guests {
    /// Guests whose nodes join these clusters, such as
    /// [`Workloads`](capi_testkit::workload::Workloads): Ubuntu with guest agent, cloud-init and a
    /// fitting Kubernetes, booting at a usual pace.
    pub fn new(clusters: impl Membership + 'static) -> Self {
        Self {
            clusters: Arc::new(clusters),
            pace: Pace::default(),
            image: Image::default(),
            images: BTreeMap::new(),
        }
    }

    /// Sets how fast they boot; the platform's speed makes it faster.
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Says what the clones of a template have installed.
    pub fn image(mut self, template: u32, image: Image) -> Self {
        self.images.insert(template, image);
        self
    }
}

/// What one VM has in it.
#[derive(Debug, Default)]
struct Machine {
    uuid: String,
    disk: Disk,
    guest: Option<Guest>,
    /// What the console showed before the machine was last switched off.
    console: Vec<String>,
    executed: BTreeMap<u64, Executed>,
    pids: u64,
}

/// The guests of all VMs, by birth: VMIDs are used again.
#[derive(Debug)]
pub(crate) struct GuestHost {
    guests: Option<Guests>,
    machines: BTreeMap<usize, Machine>,
}

impl GuestHost {
    pub(crate) fn new(guests: Option<Guests>, speed: f64) -> Self {
        let guests = guests.map(|guests| Guests {
            pace: guests.pace.faster(speed),
            ..guests
        });
        Self {
            guests,
            machines: BTreeMap::new(),
        }
    }

    /// The VM is gone, with its disk.
    pub(crate) fn destroyed(&mut self, birth: usize) {
        if let (Some(guests), Some(machine)) = (&self.guests, self.machines.remove(&birth)) {
            guests.clusters.machine_destroyed(&machine.uuid);
        }
    }

    fn stopped(&mut self, birth: usize) {
        let (Some(guests), Some(machine)) = (&self.guests, self.machines.get_mut(&birth)) else {
            return;
        };
        if let Some(guest) = machine.guest.take() {
            machine.console = guest.console().map(str::to_owned).collect();
            machine.disk = guest.power_off();
        }
        machine.executed.clear();
        guests.clusters.machine_stopped(&machine.uuid);
    }

    fn started(
        &mut self,
        birth: usize,
        origin: u32,
        parts: (Hardware, Vec<Medium>),
        now: Duration,
    ) {
        let Some(guests) = &self.guests else { return };
        let image = guests.images.get(&origin).unwrap_or(&guests.image).clone();
        let machine = self.machines.entry(birth).or_default();
        let (hardware, media) = parts;
        machine.uuid.clone_from(&hardware.uuid);
        let disk = std::mem::take(&mut machine.disk);
        machine.guest = Some(Guest::power_on(
            disk,
            image,
            hardware,
            media,
            guests.pace,
            now,
        ));
    }

    /// Lets a guest go on, and says when it wants to be woken next.
    fn advance(&mut self, birth: usize, now: Duration) -> Option<Duration> {
        let guests = self.guests.as_ref()?;
        let guest = self.machines.get_mut(&birth)?.guest.as_mut()?;
        for _ in 0..ROUNDS_MAX {
            let due = guest.wakes_at().filter(|at| *at <= now);
            if due.is_none() {
                break;
            }
            for event in guest.advance(now) {
                if let Event::Join(join) = event {
                    let answer = guests.clusters.join(&join, guest.disk());
                    guest.joined(now, answer);
                }
            }
        }
        guest.wakes_at()
    }

    /// The agent of a VM, if it answers.
    pub(crate) fn agent(&self, birth: usize) -> Option<Agent<'_>> {
        self.machines.get(&birth)?.guest.as_ref()?.agent().ok()
    }

    /// Runs a command and returns the process id to ask for.
    pub(crate) fn execute(&mut self, birth: usize, command: &[&str]) -> Option<u64> {
        let executed = self.agent(birth)?.execute(command);
        let machine = self.machines.get_mut(&birth)?;
        machine.pids += 1;
        // The first process ids belong to the system's own services.
        let pid = 1_000 + machine.pids;
        if machine.executed.len() == EXECUTED_MAX {
            machine.executed.pop_first();
        }
        machine.executed.insert(pid, executed);
        Some(pid)
    }

    /// How a command ended. The agent forgets it with that.
    pub(crate) fn executed(&mut self, birth: usize, pid: u64) -> Option<Executed> {
        self.machines.get_mut(&birth)?.executed.remove(&pid)
    }

    /// What the serial console showed at the last boot.
    pub(crate) fn console(&self, birth: usize) -> Vec<String> {
        let Some(machine) = self.machines.get(&birth) else {
            return Vec::new();
        };
        match &machine.guest {
            Some(guest) => guest.console().map(str::to_owned).collect(),
            None => machine.console.clone(),
        }
    }
}

impl World {
    /// The machine was switched on.
    pub(crate) fn boot_guest(&mut self, vmid: u32) {
        let Some(vm) = self.vms.get(&vmid) else {
            return;
        };
        let (birth, origin) = (vm.birth, vm.origin);
        let parts = (self.hardware(vm), self.media(vm));
        let now = self.elapsed();
        self.guests.started(birth, origin, parts, now);
        self.wake_guest(birth);
    }

    /// The machine was switched off.
    pub(crate) fn stop_guest(&mut self, vmid: u32) {
        if let Some(birth) = self.vms.get(&vmid).map(|vm| vm.birth) {
            self.guests.stopped(birth);
        }
    }

    /// Lets a guest do what is due, and comes back when it wants to.
    pub(crate) fn wake_guest(&mut self, birth: usize) {
        let now = self.elapsed();
        if let Some(next) = self.guests.advance(birth, now) {
            self.schedule_guest(birth, next);
        }
    }

    fn hardware(&self, vm: &Vm) -> Hardware {
        let bridges = self
            .nodes
            .get(&vm.node)
            .map(|node| node.spec.bridges.as_slice());
        let nics = vm.nics().filter_map(|(_, nic)| {
            let mut card = Nic::new(nic.mac.as_deref()?.parse::<Mac>().ok()?);
            let plugged = nic.bridge().is_some_and(|bridge| {
                bridges
                    .unwrap_or_default()
                    .iter()
                    .any(|known| known == bridge)
            });
            card.link = plugged && nic.rest.get("link_down") != Some("1");
            Some(card)
        });
        let mut hardware = Hardware::new(vm.uuid().unwrap_or_default(), nics.collect());
        hardware.cores = u32::try_from(vm.cpus()).unwrap_or(u32::MAX);
        hardware.memory_mib = vm.memory() >> 20;
        hardware.disk_gib = vm.disk_size() / GIB;
        hardware
    }

    /// The images in its CD-ROM drives, in the order of the drives' names.
    fn media(&self, vm: &Vm) -> Vec<Medium> {
        let cdroms = vm.drives().filter(|(_, drive)| drive.is_cdrom());
        cdroms
            .filter_map(|(_, drive)| self.volume(&vm.node, &drive.file)?.bytes.clone())
            .map(Medium::Cdrom)
            .collect()
    }
}
