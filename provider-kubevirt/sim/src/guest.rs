//! The operating systems in the instances.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capi_testkit::guest::{Agent, Disk, Event, Guest, Hardware, Image, Medium, Membership, Pace};
use capi_testkit::workload::{Join, Refused};

/// How often a guest may go on at one moment: its stages, and every command of its seed, come one
/// after the other and are far fewer.
const ROUNDS_MAX: usize = 1_000;

/// What boots in instances: what their disks have installed, and where they may join.
#[derive(Clone, Debug)]
pub struct Guests {
    clusters: Arc<dyn Membership>,
    pace: Pace,
    image: Image,
    images: BTreeMap<String, Image>,
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
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Says what a disk has installed that comes from this origin: the image of a container disk,
    /// the URL of an import, or `namespace/name` of a golden claim.
    #[must_use]
    pub fn image(mut self, origin: impl Into<String>, image: Image) -> Self {
        self.images.insert(origin.into(), image);
        self
    }

    /// Divides the pace.
    #[must_use]
    pub(crate) fn faster(mut self, speed: f64) -> Self {
        self.pace = self.pace.faster(speed);
        self
    }
}

/// What one instance has in it.
#[derive(Debug, Default)]
struct Machine {
    uuid: String,
    guest: Option<Guest>,
    /// What the console showed before the machine was switched off.
    console: Vec<String>,
}

/// A machine that is switched on.
#[derive(Debug)]
pub(crate) struct PowerOn {
    pub(crate) disk: Disk,
    /// Where the boot disk's content comes from.
    pub(crate) origin: String,
    pub(crate) hardware: Hardware,
    pub(crate) media: Vec<Medium>,
}

/// The guests of all instances, by uid.
#[derive(Debug, Default)]
pub(crate) struct GuestHost {
    guests: Option<Guests>,
    machines: BTreeMap<String, Machine>,
}

impl GuestHost {
    pub(crate) fn new(guests: Option<Guests>) -> Self {
        Self {
            guests,
            machines: BTreeMap::new(),
        }
    }

    pub(crate) fn power_on(&mut self, uid: &str, parts: PowerOn, now: Duration) {
        let Some(guests) = &self.guests else { return };
        let image = guests.images.get(&parts.origin).unwrap_or(&guests.image);
        let machine = self.machines.entry(uid.to_owned()).or_default();
        machine.uuid.clone_from(&parts.hardware.uuid);
        machine.guest = Some(Guest::power_on(
            parts.disk,
            image.clone(),
            parts.hardware,
            parts.media,
            guests.pace,
            now,
        ));
    }

    /// Switches a machine off; its disk, if it was on.
    pub(crate) fn power_off(&mut self, uid: &str) -> Option<Disk> {
        let machine = self.machines.get_mut(uid)?;
        let guest = machine.guest.take()?;
        machine.console = guest.console().map(str::to_owned).collect();
        if let Some(guests) = &self.guests {
            guests.clusters.machine_stopped(&machine.uuid);
        }
        Some(guest.power_off())
    }

    /// The machine lost its power; what it was is noticed later.
    pub(crate) fn cut(&self, uid: &str) {
        if let (Some(guests), Some(machine)) = (&self.guests, self.machines.get(uid)) {
            guests.clusters.machine_stopped(&machine.uuid);
        }
    }

    /// The machine's disk is gone, and with it what it was.
    pub(crate) fn destroyed(&self, uuid: &str) {
        if let Some(guests) = &self.guests {
            guests.clusters.machine_destroyed(uuid);
        }
    }

    /// The instance is gone, and its console with it.
    pub(crate) fn forget(&mut self, uid: &str) {
        self.power_off(uid);
        self.machines.remove(uid);
    }

    /// Lets a guest go on, and says when it wants to be woken next. `join` answers for the cluster
    /// that it asks to enter.
    pub(crate) fn advance(
        &mut self,
        uid: &str,
        now: Duration,
        join: impl Fn(&dyn Membership, Join, &Disk) -> Result<(), Refused>,
    ) -> Option<Duration> {
        let guests = self.guests.as_ref()?;
        let guest = self.machines.get_mut(uid)?.guest.as_mut()?;
        for _ in 0..ROUNDS_MAX {
            if guest.wakes_at().is_none_or(|at| at > now) {
                break;
            }
            for event in guest.advance(now) {
                if let Event::Join(request) = event {
                    let answer = join(guests.clusters.as_ref(), *request, guest.disk());
                    guest.joined(now, answer);
                }
            }
        }
        guest.wakes_at()
    }

    /// The agent of a machine, if it answers.
    pub(crate) fn agent(&self, uid: &str) -> Option<Agent<'_>> {
        self.machines.get(uid)?.guest.as_ref()?.agent().ok()
    }

    /// Whether its guest is a member of a cluster.
    pub(crate) fn is_member(&self, uid: &str) -> bool {
        let guest = self
            .machines
            .get(uid)
            .and_then(|machine| machine.guest.as_ref());
        guest.is_some_and(|guest| guest.disk().is_member())
    }

    /// What the serial console showed at the last boot.
    pub(crate) fn console(&self, uid: &str) -> Vec<String> {
        let Some(machine) = self.machines.get(uid) else {
            return Vec::new();
        };
        match &machine.guest {
            Some(guest) => guest.console().map(str::to_owned).collect(),
            None => machine.console.clone(),
        }
    }
}
