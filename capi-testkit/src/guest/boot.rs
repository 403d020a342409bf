//! The boot of a guest, stage by stage.

mod coreos;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::guest::SENTINEL;
use crate::guest::agent::{Agent, AgentError};
use crate::guest::cloud_config::{CloudConfig, read_user_data};
use crate::guest::disk::Disk;
use crate::guest::hardware::{Hardware, Image, Medium, Pace};
use crate::guest::kubeadm::{self, Machine};
use crate::guest::network::{self, Network};
use crate::guest::seed::{NoSeed, Seed, Source, find_seed};
use crate::guest::service;
use crate::guest::shell::{self, Action, After, Command};
use crate::workload::{Entry, Join, Refused};

/// Lines kept of the console; a boot prints a few dozen.
const CONSOLE_LINES_MAX: usize = 2000;

/// What a guest tells its platform.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// kubeadm, or the kubelet of a returning member, asks to come in. Answer with
    /// [`Guest::joined`].
    Join(Box<Join>),
    /// cloud-init ended well.
    Booted,
    /// The machine runs, but will not become what its seed asked for; the reason is also the last
    /// line on the console.
    Failed(String),
}

/// How cloud-init stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CloudInit {
    NotInstalled,
    Disabled,
    Running,
    Done,
    Failed(String),
}

/// A running machine. See the [module](crate::guest) for how to drive it.
#[derive(Debug)]
pub struct Guest {
    hardware: Hardware,
    image: Image,
    pace: Pace,
    media: Vec<Medium>,
    disk: Disk,
    network: Network,
    cloud_init: CloudInit,
    /// Where cloud-init found its seed.
    datasource: Option<Source>,
    stage: Stage,
    commands: VecDeque<Command>,
    exit_code: u8,
    /// Of the unit that runs.
    environment: BTreeMap<String, String>,
    /// Ignition gave up before the system was there, and with it the agent.
    emergency: bool,
    console: VecDeque<String>,
    powered_on: Duration,
}

#[derive(Debug)]
enum Stage {
    /// Firmware and kernel.
    Kernel { until: Duration },
    /// cloud-init's configuration stage.
    Configure {
        until: Duration,
        config: CloudConfigured,
    },
    /// systemd starts what is enabled.
    Services { until: Duration },
    /// kubeadm works.
    Kubeadm {
        until: Duration,
        give_up: Duration,
        join: Box<Join>,
    },
    /// Asked to come in, no answer yet.
    Asked { give_up: Duration, join: Box<Join> },
    /// Nothing more happens by itself.
    Settled,
}

/// A cloud-config that shows nothing of its content.
struct CloudConfigured(CloudConfig);

impl std::fmt::Debug for CloudConfigured {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("CloudConfig(..)")
    }
}

impl Guest {
    /// Switches a machine on. `now` is the time since any fixed point.
    pub fn power_on(
        disk: Disk,
        image: Image,
        hardware: Hardware,
        media: Vec<Medium>,
        pace: Pace,
        now: Duration,
    ) -> Self {
        Self {
            stage: Stage::Kernel {
                until: now + pace.kernel,
            },
            hardware,
            image,
            pace,
            media,
            disk,
            network: Network::default(),
            cloud_init: CloudInit::Running,
            datasource: None,
            commands: VecDeque::new(),
            exit_code: 0,
            environment: BTreeMap::new(),
            emergency: false,
            console: VecDeque::new(),
            powered_on: now,
        }
    }

    /// Switches it off, or pulls the plug; the disk stays.
    pub fn power_off(mut self) -> Disk {
        self.disk.forget_volatile();
        self.disk
    }

    /// When [`Guest::advance`] has something to do; `None` if only an answer or nothing is awaited.
    pub fn wakes_at(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Kernel { until }
            | Stage::Configure { until, .. }
            | Stage::Services { until }
            | Stage::Kubeadm { until, .. } => Some(*until),
            Stage::Asked { .. } | Stage::Settled => None,
        }
    }

    /// Does what is due at `now`.
    pub fn advance(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        // Each round ends a stage, and stages follow one another; commands are used up.
        while let Some(at) = self.wakes_at().filter(|at| *at <= now) {
            match std::mem::replace(&mut self.stage, Stage::Settled) {
                Stage::Kernel { .. } => self.start_system(at, &mut events),
                Stage::Configure { config, .. } => {
                    self.configure(config.0, at, &mut events);
                }
                Stage::Services { .. } => {
                    self.commands = service::commands(&self.disk).into();
                    self.run_commands(at, &mut events);
                }
                Stage::Kubeadm { give_up, join, .. } => {
                    events.push(Event::Join(join.clone()));
                    self.stage = Stage::Asked { give_up, join };
                }
                stage @ (Stage::Asked { .. } | Stage::Settled) => {
                    self.stage = stage;
                    break;
                }
            }
        }
        events
    }

    /// The workload cluster's answer to an [`Event::Join`].
    pub fn joined(&mut self, now: Duration, answer: Result<(), Refused>) -> Vec<Event> {
        let mut events = Vec::new();
        let (give_up, join) = match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Asked { give_up, join } => (give_up, join),
            stage => {
                // An answer that nobody waits for, as after a reset.
                self.stage = stage;
                return events;
            }
        };
        let is_return = join.entry == Entry::Return;
        match answer {
            Ok(()) => {
                self.print(
                    now,
                    &format!("kubelet: node {:?} is registered", join.node.name),
                );
                if !is_return {
                    self.become_member(now, &join);
                    self.exit_code = 0;
                    self.run_commands(now, &mut events);
                }
            }
            Err(refused) if refused.is_temporary() && now + self.pace.retry <= give_up => {
                let until = now + self.pace.retry;
                self.print(now, &format!("kubeadm: {refused}; will try again"));
                self.stage = Stage::Kubeadm {
                    until,
                    give_up,
                    join,
                };
            }
            Err(refused) if is_return => {
                let why = format!("kubelet: {refused}");
                self.print(now, &why);
                events.push(Event::Failed(why));
            }
            Err(refused) => {
                self.print(now, &format!("kubeadm: error execution phase: {refused}"));
                self.exit_code = 1;
                self.run_commands(now, &mut events);
            }
        }
        events
    }

    /// What the serial console showed since power on, oldest line first. It holds no secret.
    pub fn console(&self) -> impl Iterator<Item = &str> {
        self.console.iter().map(String::as_str)
    }

    /// The guest agent.
    ///
    /// # Errors
    ///
    /// [`AgentError::NotRunning`] until the kernel is up, or if the image has none.
    pub fn agent(&self) -> Result<Agent<'_>, AgentError> {
        let is_starting = matches!(self.stage, Stage::Kernel { .. });
        if !self.image.agent || self.emergency || is_starting {
            return Err(AgentError::NotRunning);
        }
        Ok(Agent::new(self))
    }

    /// The machine's disk as it is now.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Whether Cluster API's bootstrap script reported success since power on.
    pub fn is_bootstrapped(&self) -> bool {
        self.disk.file(SENTINEL).is_some()
    }

    pub(super) fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    pub(super) fn cloud_init(&self) -> &CloudInit {
        &self.cloud_init
    }

    pub(super) fn made_cluster(&self) -> bool {
        self.disk.made_cluster
    }

    /// The kernel is up: find the seed, set up the network.
    fn start_system(&mut self, now: Duration, events: &mut Vec<Event>) {
        self.print(now, &format!("Linux version {}", self.image.kernel));
        if let Some(reads) = self.image.ignition {
            self.cloud_init = CloudInit::NotInstalled;
            self.start_with_ignition(reads, now, events);
            return;
        }
        if !self.image.cloud_init {
            self.cloud_init = CloudInit::NotInstalled;
            self.network = network::fallback(&self.hardware.nics);
            self.return_to_cluster(now);
            return;
        }
        let seed = match find_seed(&self.media) {
            Ok(seed) => seed,
            // The seed may be detached after the first boot; what was rendered stays.
            Err(NoSeed::Missing(_)) if self.disk.instance_id.is_some() => {
                self.cloud_init = CloudInit::Disabled;
                self.network = self.disk.network.clone().unwrap_or_default();
                self.print(
                    now,
                    "cloud-init: no datasource, using the configuration of the last boot",
                );
                self.return_to_cluster(now);
                return;
            }
            Err(NoSeed::Missing(why)) => {
                self.network = network::fallback(&self.hardware.nics);
                self.fail(
                    now,
                    format!("cloud-init: No local datasource found: {why}"),
                    events,
                );
                return;
            }
            Err(NoSeed::Broken(why)) => {
                self.fail(now, format!("cloud-init: {why}"), events);
                return;
            }
        };
        self.datasource = Some(seed.source);
        self.print(
            now,
            &format!(
                "cloud-init: datasource {} [seed={}], instance-id {}",
                seed.source.class(),
                seed.device,
                seed.instance_id
            ),
        );
        if let Err(why) = self.set_up_network(&seed, now) {
            let why = format!("cloud-init: failed to apply network config: {why}");
            self.fail(now, why, events);
            return;
        }
        if self.disk.instance_id.as_deref() == Some(&seed.instance_id) {
            self.cloud_init = match self.disk.outcome.clone() {
                Some(Err(why)) => CloudInit::Failed(why),
                Some(Ok(())) | None => CloudInit::Done,
            };
            self.print(now, "cloud-init: this instance was set up before");
            self.return_to_cluster(now);
            return;
        }
        self.first_boot(seed, now, events);
    }

    fn set_up_network(&mut self, seed: &Seed, now: Duration) -> Result<(), String> {
        self.network = match &seed.network_config {
            Some(config) => network::configure(config, &self.hardware.nics)?,
            None => network::fallback(&self.hardware.nics),
        };
        self.print_network("cloud-init", now);
        self.disk.network = Some(self.network.clone());
        Ok(())
    }

    /// cloud-init's modules that run once per instance.
    fn first_boot(&mut self, seed: Seed, now: Duration, events: &mut Vec<Event>) {
        let config = match read_user_data(&seed.user_data, &seed.instance_data()) {
            Ok(config) => config,
            Err(why) => {
                self.fail(now, format!("cloud-init: {why}"), events);
                return;
            }
        };
        for warning in &config.warnings {
            self.print(now, &format!("cloud-init: WARNING: {warning}"));
        }
        // A host name of user-data wins over that of meta-data.
        let hostname = config
            .hostname
            .as_deref()
            .or(seed.hostname())
            .map(str::to_owned);
        if let Some(hostname) = hostname {
            self.print(
                now,
                &format!("cloud-init: setting the hostname to {hostname}"),
            );
            self.disk.hostname = Some(hostname);
        }
        let instance_id = format!("{}\n", seed.instance_id);
        let written = self
            .disk
            .write("/var/lib/cloud/data/instance-id", instance_id, 0o644)
            .and_then(|()| {
                self.disk.write(
                    "/var/lib/cloud/instance/user-data.txt",
                    seed.user_data,
                    0o600,
                )
            });
        if let Err(full) = written {
            self.fail(now, format!("cloud-init: {full}"), events);
            return;
        }
        // Written before the modules run, as cloud-init's semaphores are: a machine that is reset
        // half-way does not start over.
        self.disk.instance_id = Some(seed.instance_id);
        self.stage = Stage::Configure {
            until: now + self.pace.cloud_init,
            config: CloudConfigured(config),
        };
    }

    fn configure(&mut self, config: CloudConfig, now: Duration, events: &mut Vec<Event>) {
        for file in config.write_files {
            let written = if file.append {
                self.disk
                    .append(&file.path, &file.content, file.permissions)
            } else {
                self.disk
                    .write(file.path.clone(), file.content, file.permissions)
            };
            if let Err(full) = written {
                self.fail(
                    now,
                    format!("cloud-init: write_files: {}: {full}", file.path),
                    events,
                );
                return;
            }
        }
        if !config.users.is_empty() {
            self.print(
                now,
                &format!("cloud-init: users: {}", config.users.join(", ")),
            );
        }
        self.commands = shell::commands(&config.runcmd).into();
        self.run_commands(now, events);
    }

    /// Runs what is left of the script, until kubeadm takes its time or the script ends.
    fn run_commands(&mut self, now: Duration, events: &mut Vec<Event>) {
        while let Some(command) = self.commands.pop_front() {
            let runs = match command.after {
                After::Anything => true,
                After::Success => self.exit_code == 0,
                After::Failure => self.exit_code != 0,
            };
            if !runs {
                continue;
            }
            match command.action {
                Action::Kubeadm { init, config } => match self.kubeadm(init, &config) {
                    Ok(join) => {
                        self.disk.kubeadm_config = Some(config);
                        let verb = if init { "init" } else { "join" };
                        self.print(now, &format!("kubeadm: {verb} on {}", join.endpoint));
                        let until = now + self.pace.kubeadm;
                        self.stage = Stage::Kubeadm {
                            until,
                            give_up: until + self.pace.discovery,
                            join: Box::new(join),
                        };
                        return;
                    }
                    Err(why) => {
                        self.print(now, &format!("kubeadm: {why}"));
                        self.exit_code = 1;
                    }
                },
                Action::Write { path, text, append } => self.echo(now, &path, text, append),
                Action::Environment(_)
                | Action::DumpEnvironment(_)
                | Action::Substitute { .. }
                | Action::Copy { .. }
                | Action::Remove(_) => self.handle_file(now, command.action),
                Action::Exit(code) => self.exit_code = code,
                Action::Other(name) => {
                    self.print(now, &format!("runcmd: {name}"));
                    self.exit_code = 0;
                }
            }
        }
        self.finish(now, events);
    }

    fn kubeadm(&self, init: bool, config: &str) -> Result<Join, String> {
        let machine = Machine {
            disk: &self.disk,
            hardware: &self.hardware,
            image: &self.image,
            network: &self.network,
        };
        kubeadm::run(&machine, init, config)
    }

    fn echo(&mut self, now: Duration, path: &str, text: String, append: bool) {
        let written = if append {
            self.disk.append(path, text.as_bytes(), 0o644)
        } else {
            self.disk.write(path, text, 0o644)
        };
        self.exit_code = u8::from(written.is_err());
        if let Err(full) = written {
            self.print(now, &format!("sh: {path}: {full}"));
        }
    }

    fn become_member(&mut self, now: Duration, join: &Join) {
        self.disk.made_cluster = matches!(join.entry, Entry::Init { .. });
        self.disk.membership = Some(Join {
            entry: Entry::Return,
            ..join.clone()
        });
        if let Err(full) = self
            .disk
            .write("/etc/kubernetes/kubelet.conf", Bytes::new(), 0o600)
        {
            self.print(
                now,
                &format!("kubeadm: /etc/kubernetes/kubelet.conf: {full}"),
            );
        }
    }

    /// The script ended; cloud-init judges it by its last command.
    fn finish(&mut self, now: Duration, events: &mut Vec<Event>) {
        if self.image.ignition.is_some() {
            self.finish_services(now, events);
            return;
        }
        if self.exit_code != 0 {
            let why = format!(
                "cloud-init: Failed to run module scripts-user: the runcmd script exited with {}",
                self.exit_code
            );
            self.fail(now, why, events);
            return;
        }
        self.cloud_init = CloudInit::Done;
        self.record_outcome(now, Ok(()));
        self.print(now, "cloud-init: finished");
        events.push(Event::Booted);
    }

    fn fail(&mut self, now: Duration, why: String, events: &mut Vec<Event>) {
        self.cloud_init = CloudInit::Failed(why.clone());
        self.record_outcome(now, Err(why.clone()));
        self.print(now, &why);
        events.push(Event::Failed(why));
    }

    fn record_outcome(&mut self, now: Duration, outcome: Result<(), String>) {
        let errors: Vec<&String> = outcome.as_ref().err().into_iter().collect();
        let result = serde_json::json!({
            "v1": { "datasource": self.datasource.map(Source::class), "errors": errors }
        });
        let text = result.to_string();
        let written = self
            .disk
            .write("/var/lib/cloud/data/result.json", text.clone(), 0o644)
            .and_then(|()| self.disk.write("/run/cloud-init/result.json", text, 0o644))
            .and_then(|()| {
                self.disk
                    .write("/var/lib/cloud/instance/boot-finished", Bytes::new(), 0o644)
            });
        if let Err(full) = written {
            self.print(now, &format!("cloud-init: /var/lib/cloud: {full}"));
        }
        self.disk.outcome = Some(outcome);
    }

    /// The kubelet of a member starts with the system.
    fn return_to_cluster(&mut self, now: Duration) {
        let Some(join) = self.disk.membership.clone() else {
            return;
        };
        self.stage = Stage::Kubeadm {
            until: now,
            give_up: now + self.pace.discovery,
            join: Box::new(join),
        };
    }

    fn print_network(&mut self, who: &str, now: Duration) {
        for line in self.network.lines(&self.hardware.nics) {
            self.print(now, &format!("{who}: {line}"));
        }
        for warning in self.network.warnings.clone() {
            self.print(now, &format!("{who}: WARNING: {warning}"));
        }
    }

    fn print(&mut self, now: Duration, line: &str) {
        if self.console.len() == CONSOLE_LINES_MAX {
            self.console.pop_front();
        }
        let since = now.saturating_sub(self.powered_on).as_secs_f64();
        self.console.push_back(format!("[{since:>9.3}] {line}"));
    }
}
