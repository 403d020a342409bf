//! The platform: what tests and people look at.

use std::convert::Infallible;
use std::sync::Arc;

use capi_contract::Mark;
use capi_testkit::actor::{Kind, Name, Object};
use kube::Client;

use crate::audit::{self, Birth, Touched, Twins};
use crate::builder::Builder;
use crate::fault::Faults;
use crate::hand::Hand;
use crate::word::{CLAIM, DATA_VOLUME, INSTANCE, MACHINE, MIGRATION, SECRET, SERVICE};
use crate::world::World;

/// A simulated KubeVirt. Clones are the same one.
///
/// # Flow
///
/// [`Platform::run`] plays it, as one future: nothing happens before it is polled or after it is
/// dropped. What it is asked here it answers from what it has seen, without a request.
#[derive(Clone, Debug)]
pub struct Platform {
    pub(crate) world: Arc<World>,
}

/// A VM as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// `status.printableStatus`.
    pub status: String,
    /// The uid of its instance.
    pub instance: Option<String>,
    /// The phase of its instance.
    pub phase: Option<String>,
    /// The node of its instance.
    pub node: Option<String>,
    /// Whether its instance is ready.
    pub ready: bool,
    /// The mark in one of its annotations.
    pub mark: Option<Mark>,
}

impl Platform {
    pub(crate) fn new(builder: Builder, clients: [Client; 2], is_admitting: bool) -> Self {
        Self {
            world: Arc::new(World::new(builder, clients, is_admitting)),
        }
    }

    /// Plays until the future is dropped. It makes the nodes, storage classes and golden images first.
    ///
    /// Failures are logged and tried again; there is none that ends the run.
    pub async fn run(&self) -> Infallible {
        self.world.run().await
    }

    /// What people and other programs do to VMs and nodes.
    pub fn hand(&self) -> Hand<'_> {
        Hand::new(self)
    }

    /// Scripted faults.
    pub fn faults(&self) -> Faults<'_> {
        Faults::new(self)
    }

    /// All VMs, by namespace and name.
    pub fn vms(&self) -> Vec<VmView> {
        let all = self.world.hub.all(&MACHINE);
        all.iter().map(|machine| self.view(machine)).collect()
    }

    /// One VM.
    pub fn vm(&self, namespace: &str, name: &str) -> Option<VmView> {
        let machine = self.world.hub.get(&MACHINE, &Name::new(namespace, name))?;
        Some(self.view(&machine))
    }

    fn view(&self, machine: &Object) -> VmView {
        let instance = self.world.instance_of(machine);
        let text = |pointer: &str| {
            let instance = instance.as_ref()?;
            instance.word(pointer).map(str::to_owned)
        };
        VmView {
            namespace: machine.namespace().to_owned(),
            name: machine.name().to_owned(),
            uid: machine.uid().to_owned(),
            deleting: machine.is_deleting(),
            status: machine
                .text("/status/printableStatus")
                .unwrap_or_default()
                .to_owned(),
            instance: instance.as_ref().map(|instance| instance.uid().to_owned()),
            phase: text("/status/phase"),
            node: text("/status/nodeName"),
            ready: instance.as_ref().is_some_and(|one| one.is_true("Ready")),
            mark: audit::mark(machine),
        }
    }

    /// The VMs and instances that bear a mark of ours, `namespace/name`: what must be gone in the end.
    pub fn vms_left(&self) -> Vec<String> {
        self.left(&[&MACHINE, &INSTANCE, &MIGRATION])
    }

    /// The same of DataVolumes and claims.
    pub fn volumes_left(&self) -> Vec<String> {
        self.left(&[&DATA_VOLUME, &CLAIM])
    }

    /// The same of Secrets.
    pub fn secrets_left(&self) -> Vec<String> {
        self.left(&[&SECRET])
    }

    /// The same of Services.
    pub fn services_left(&self) -> Vec<String> {
        self.left(&[&SERVICE])
    }

    fn left(&self, kinds: &[&Kind]) -> Vec<String> {
        let book = self.world.book.lock();
        let all = kinds.iter().flat_map(|kind| self.world.hub.all(kind));
        let ours = all.filter(|object| book.is_ours(object));
        ours.map(|object| object.key().to_string()).collect()
    }

    /// Every VM that ever was, in the order of making.
    pub fn births(&self) -> Vec<Birth> {
        self.world.book.lock().births()
    }

    /// Pairs of VMs that stand for the same object now.
    pub fn twins(&self) -> Vec<Twins> {
        self.world.book.lock().twins()
    }

    /// Pairs of VMs that at any moment stood for the same object, the parted ones too.
    pub fn overlaps(&self) -> Vec<Twins> {
        self.world.book.lock().overlaps()
    }

    /// What was changed or deleted though it bears no mark of ours. Ours is what has a
    /// [mark](capi_contract::Mark) in an annotation, the label `cluster.x-k8s.io/cluster-name` or the
    /// Go provider's labels, and what such a thing owns.
    pub fn strangers_touched(&self) -> Vec<Touched> {
        self.world.book.lock().touched()
    }

    /// What the serial console of an instance showed at its last boot, oldest line first.
    pub fn console(&self, namespace: &str, name: &str) -> Vec<String> {
        let instance = self.world.hub.get(&INSTANCE, &Name::new(namespace, name));
        instance.map_or_else(Vec::new, |instance| {
            self.world.guests.lock().console(instance.uid())
        })
    }
}
