//! The simulated controllers: one actor over all kinds.

mod address;
mod instance;
mod instancetype;
mod machine;
mod migration;
mod printable;
mod probe;
mod run;
mod running;
mod schedule;
mod service;
mod setup;
mod stage;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use capi_testkit::actor::{self, Actor, Again, Change, Hub, Kind, Name, Object, Result};
use capi_testkit::guest::Disk;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::audit::Book;
use crate::builder::{Builder, scaled};
use crate::fault::{Rates, Script};
use crate::guest::GuestHost;
use crate::rng::Rng;
use crate::word::{
    CLAIM, DATA_SOURCE, DATA_VOLUME, INSTANCE, MACHINE, MIGRATION, NODE, SECRET, SERVICE, WATCHED,
    manager, resource,
};

pub(crate) use self::address::Addresses;
use self::stage::Stages;

/// One thing to reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Machine(Name),
    Instance(Name),
    Volume(Name),
    Claim(Name),
    Migration(Name),
    Service(Name),
}

/// What happens to a running domain, from outside its API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The guest shuts down: `Succeeded`.
    ShutDown,
    /// The domain ends: `Failed`.
    Crash,
}

/// What is on a claim's volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    /// Where it comes from; empty for a blank volume.
    pub(crate) origin: String,
    pub(crate) disk: Disk,
    /// The firmware uuid of the machine that booted from it.
    pub(crate) machine: Option<String>,
}

/// Where an instance's pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: String,
    pub(crate) pod: String,
}

/// What all passes share.
pub(crate) struct World {
    pub(crate) hub: Hub,
    /// For what is done by hand.
    pub(crate) hand: Client,
    pub(crate) settings: Builder,
    /// Whether admission webhooks look at VMs; else the controller does.
    pub(crate) is_admitting: bool,
    pub(crate) started: Instant,
    pub(crate) guests: Mutex<GuestHost>,
    pub(crate) rng: Mutex<Rng>,
    pub(crate) script: Mutex<Script>,
    pub(crate) book: Mutex<Book>,
    pub(crate) stages: Mutex<Stages>,
    pub(crate) addresses: Mutex<Addresses>,
    /// Pods by instance uid.
    pub(crate) places: Mutex<BTreeMap<String, Place>>,
    /// The template that a running instance was made of, by the VM's uid.
    pub(crate) templates: Mutex<BTreeMap<String, Value>>,
    /// By claim uid.
    pub(crate) contents: Mutex<BTreeMap<String, Content>>,
    /// By instance uid.
    pub(crate) orders: Mutex<BTreeMap<String, Order>>,
    /// Nodes without power.
    pub(crate) down: Mutex<BTreeSet<String>>,
    /// Instances that lost their node's power and have not noticed yet.
    pub(crate) lost: Mutex<BTreeSet<String>>,
    wishes: Mutex<Vec<Key>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(mut settings: Builder, clients: [Client; 2], is_admitting: bool) -> Self {
        let [client, hand] = clients;
        let speed = settings.speed;
        let epoch = settings.epoch.unwrap_or_else(Timestamp::now);
        let hub = Hub::new(client, speed, epoch);
        for (kind, version, plural) in WATCHED {
            hub.want(&resource(kind, version, plural));
        }
        let guests = settings.guests.take().map(|guests| guests.faster(speed));
        Self {
            hub,
            hand,
            is_admitting,
            started: Instant::now(),
            guests: Mutex::new(GuestHost::new(guests)),
            rng: Mutex::new(Rng::new(settings.seed)),
            script: Mutex::default(),
            book: Mutex::default(),
            stages: Mutex::default(),
            addresses: Mutex::new(Addresses::new(&settings)),
            places: Mutex::default(),
            templates: Mutex::default(),
            contents: Mutex::default(),
            orders: Mutex::default(),
            down: Mutex::default(),
            lost: Mutex::default(),
            wishes: Mutex::default(),
            settings,
        }
    }

    /// Plays until the future is dropped.
    pub(crate) async fn run(&self) -> std::convert::Infallible {
        self.set_up().await;
        actor::drive(self, futures::stream::empty()).await
    }

    /// The time since the start, which guests count in.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The time as Kubernetes writes it, in whole seconds.
    pub(crate) fn time(&self) -> String {
        self.time_in(Duration::ZERO)
    }

    /// The time so much later.
    pub(crate) fn time_in(&self, span: Duration) -> String {
        let now = self.hub.now();
        let then = now.checked_add(span).unwrap_or(now);
        Timestamp::from_second(then.as_second())
            .unwrap_or(then)
            .to_string()
    }

    /// A delay, or a time that a user set, as this platform has it.
    pub(crate) fn scaled(&self, span: Duration) -> Duration {
        scaled(span, self.settings.speed)
    }

    /// What is left of a delay that began when `uid` was first seen in this stage; none if nothing.
    pub(crate) fn wait(&self, uid: &str, stage: &'static str, delay: Duration) -> Option<Duration> {
        let slow = self.settings.chaos.slow;
        let draw = || {
            let factor = if self.rng.lock().happens(slow) { 3 } else { 1 };
            self.scaled(delay) * factor
        };
        self.stages.lock().wait(uid, stage, draw)
    }

    pub(crate) fn chance(&self, rate: impl Fn(&Rates) -> u16) -> bool {
        self.rng.lock().happens(rate(&self.settings.chaos))
    }

    pub(crate) fn wish(&self, key: Key) {
        self.wishes.lock().push(key);
        self.hub.ring();
    }

    /// Looks at everything anew, since something changed that no watch shows.
    pub(crate) fn wake_all(&self) {
        let mut wishes = self.wishes.lock();
        for (kind, key) in [
            (&MACHINE, Key::Machine as fn(Name) -> Key),
            (&INSTANCE, Key::Instance),
            (&DATA_VOLUME, Key::Volume),
            (&MIGRATION, Key::Migration),
            (&SERVICE, Key::Service),
        ] {
            let all = self.hub.all(kind);
            wishes.extend(all.iter().map(|object| key(object.key())));
        }
        drop(wishes);
        self.hub.ring();
    }

    /// The VM that an instance belongs to, if it is there.
    pub(crate) fn machine_of(&self, instance: &Object) -> Option<Arc<Object>> {
        let owner = instance.controller().filter(|owner| MACHINE.is_of(owner))?;
        let name = Name::new(instance.namespace(), &owner.name);
        let machine = self.hub.get(&MACHINE, &name)?;
        (machine.uid() == owner.uid).then_some(machine)
    }

    /// The instance of a VM.
    pub(crate) fn instance_of(&self, machine: &Object) -> Option<Arc<Object>> {
        let instance = self.hub.get(&INSTANCE, &machine.key())?;
        instance.is_owned_by(machine.uid()).then_some(instance)
    }

    /// Instances that use a claim.
    pub(crate) fn users_of(&self, claim: &Name) -> Vec<Arc<Object>> {
        let mut all = self.hub.all(&INSTANCE);
        all.retain(|instance| {
            instance.namespace() == claim.namespace
                && instance.at("/spec").is_some_and(|spec| {
                    let claims = crate::hardware::claims(spec);
                    claims.iter().any(|(_, name)| *name == claim.name)
                })
        });
        all
    }

    /// Records an event about an object, as `kubectl describe` shows it. One that cannot be written
    /// is left out, as by a real recorder.
    pub(crate) async fn tell(
        &self,
        about: &Object,
        kind: &Kind,
        word: (&str, &str),
        message: &str,
    ) {
        let (level, reason) = word;
        let suffix = self.rng.lock().suffix();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{}.{suffix}", about.name()), "namespace": about.namespace()},
            "involvedObject": {
                "apiVersion": about.types.as_ref().map(|types| types.api_version.clone()),
                "kind": kind.kind, "name": about.name(), "namespace": about.namespace(),
                "uid": about.uid(),
            },
            "type": level, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": self.time(), "lastTimestamp": self.time(),
            "source": {"component": manager::CONTROLLER},
        });
        let resource = resource(&Kind::fixed("", "Event"), "v1", "events");
        let written = self.hub.create(&resource, event, manager::CONTROLLER).await;
        if let Err(error) = written {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "an event was not recorded"
            );
        }
    }

    fn forget(&self, change: &Change) {
        let (Some(gone), None) = (&change.before, &change.after) else {
            return;
        };
        self.stages.lock().forget(gone.uid());
        if change.kind == INSTANCE {
            self.forget_instance(gone);
        } else if change.kind == CLAIM {
            self.forget_claim(gone);
        } else if change.kind == MACHINE {
            self.templates.lock().remove(gone.uid());
        } else if change.kind == SERVICE {
            self.addresses
                .lock()
                .release_service(&gone.key().to_string());
        }
    }
}

impl Actor for World {
    type Key = Key;

    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn affected(&self, change: &Change) -> Vec<Key> {
        self.book.lock().note(change, self.elapsed());
        self.forget(change);
        let Some(object) = change.object() else {
            return Vec::new();
        };
        let name = object.key();
        if change.kind == MACHINE {
            vec![Key::Machine(name)]
        } else if change.kind == INSTANCE {
            self.affected_by_instance(object)
        } else if change.kind == DATA_VOLUME {
            self.affected_by_volume(object)
        } else if change.kind == CLAIM || change.kind == DATA_SOURCE {
            self.affected_by_claim(&name)
        } else if change.kind == MIGRATION {
            let instance = object.text("/spec/vmiName").unwrap_or_default();
            let instance = Name::new(&name.namespace, instance);
            vec![Key::Migration(name), Key::Instance(instance)]
        } else if change.kind == SERVICE {
            let mut keys = vec![Key::Service(name)];
            if change.after.is_none() {
                // Its address may be what others wait for.
                let others = self.hub.all(&SERVICE);
                keys.extend(others.iter().map(|other| Key::Service(other.key())));
            }
            keys
        } else if change.kind == SECRET {
            self.waiting_for_secret(&name)
        } else if change.kind == NODE {
            let mut keys = self.waiting_instances();
            keys.extend(self.instances_on(&name.name));
            keys
        } else {
            // Instance types and preferences, for which VMs may wait.
            let all = self.hub.all(&MACHINE);
            all.iter()
                .map(|machine| Key::Machine(machine.key()))
                .collect()
        }
    }

    fn synced(&self, _kind: &Kind) -> Vec<Key> {
        Vec::new()
    }

    fn pace(&self, _key: &Key) -> Duration {
        Duration::ZERO
    }

    fn wishes(&self) -> Vec<Key> {
        std::mem::take(&mut *self.wishes.lock())
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Again>> {
        match key {
            Key::Machine(name) => Box::pin(machine::reconcile(self, name)),
            Key::Instance(name) => Box::pin(instance::reconcile(self, name)),
            Key::Volume(name) => Box::pin(volume::reconcile(self, name)),
            Key::Claim(name) => Box::pin(volume::reconcile_claim(self, name)),
            Key::Migration(name) => Box::pin(migration::reconcile(self, name)),
            Key::Service(name) => Box::pin(service::reconcile(self, name)),
        }
    }
}

impl World {
    fn affected_by_instance(&self, instance: &Object) -> Vec<Key> {
        let mut keys = vec![Key::Instance(instance.key())];
        if let Some(owner) = instance.controller().filter(|owner| MACHINE.is_of(owner)) {
            keys.push(Key::Machine(Name::new(instance.namespace(), &owner.name)));
        }
        let claims = instance.at("/spec").map(crate::hardware::claims);
        for (_, claim) in claims.unwrap_or_default() {
            let claim = Name::new(instance.namespace(), claim);
            keys.push(Key::Volume(claim.clone()));
            keys.push(Key::Claim(claim));
        }
        let migrations = self.hub.all(&MIGRATION);
        let mine = migrations.iter().filter(|migration| {
            migration.namespace() == instance.namespace()
                && migration.text("/spec/vmiName") == Some(instance.name())
        });
        keys.extend(mine.map(|migration| Key::Migration(migration.key())));
        // Room on a node, or a name that spread rules count, may be what others wait for.
        let is_final = matches!(instance.text("/status/phase"), Some("Succeeded" | "Failed"));
        if is_final || self.hub.get(&INSTANCE, &instance.key()).is_none() {
            keys.extend(self.waiting_instances());
        }
        keys
    }

    fn affected_by_volume(&self, volume: &Object) -> Vec<Key> {
        let mut keys = vec![Key::Volume(volume.key())];
        if let Some(owner) = volume.controller().filter(|owner| MACHINE.is_of(owner)) {
            keys.push(Key::Machine(Name::new(volume.namespace(), &owner.name)));
        }
        let users = self.users_of(&volume.key());
        keys.extend(users.iter().map(|user| Key::Instance(user.key())));
        keys
    }

    fn affected_by_claim(&self, claim: &Name) -> Vec<Key> {
        let mut keys = vec![Key::Claim(claim.clone()), Key::Volume(claim.clone())];
        let users = self.users_of(claim);
        keys.extend(users.iter().map(|user| Key::Instance(user.key())));
        // Clones that wait for their source.
        let volumes = self.hub.all(&DATA_VOLUME);
        let waiting = volumes
            .iter()
            .filter(|volume| matches!(volume.text("/status/phase"), None | Some("Pending")));
        keys.extend(waiting.map(|volume| Key::Volume(volume.key())));
        keys
    }

    /// Instances that are not on a node yet.
    fn waiting_instances(&self) -> Vec<Key> {
        let all = self.hub.all(&INSTANCE);
        let waiting = all.iter().filter(|instance| is_waiting(instance));
        waiting.map(|one| Key::Instance(one.key())).collect()
    }

    /// Instances whose pods may wait for this Secret.
    fn waiting_for_secret(&self, secret: &Name) -> Vec<Key> {
        let all = self.hub.all(&INSTANCE);
        let waiting = all.iter().filter(|instance| {
            instance.namespace() == secret.namespace
                && is_waiting(instance)
                && crate::seed::mounts(instance, &secret.name)
        });
        waiting.map(|one| Key::Instance(one.key())).collect()
    }

    pub(crate) fn instances_on(&self, node: &str) -> Vec<Key> {
        let all = self.hub.all(&INSTANCE);
        let there = all
            .iter()
            .filter(|instance| instance.text("/status/nodeName") == Some(node));
        there.map(|one| Key::Instance(one.key())).collect()
    }
}

/// Whether an instance is not on a node yet.
fn is_waiting(instance: &Object) -> bool {
    matches!(
        instance.text("/status/phase"),
        None | Some("Pending" | "Scheduling")
    )
}
