//! What all controllers share, and who is woken by what.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::clone::Metadata;
use super::credentials::Certificates;
use super::driver::{Actor, Again};
use super::hub::{Hub, Result};
use super::nodes::{Roster, Rosters};
use super::object::{Kind, Name, Object};
use super::store::Change;
use super::word::{
    CLUSTER, CONTROL_PLANE_LABEL, CRD, KUBEADM_CONFIG, KUBEADM_CONTROL_PLANE, MACHINE,
    MACHINE_DEPLOYMENT, MACHINE_HEALTH_CHECK, MACHINE_SET, resource,
};
use super::{
    BootstrapData, NodeLoad, bootstrap, cluster, control_plane, deployment, health_check, machine,
    machine_set,
};
use crate::workload::{Endpoint, Workloads};

/// The least distance between two passes over one aggregate (a Cluster, a set, the nodes): one look at
/// a thousand machines costs about as much as a thousand looks at one.
const AGGREGATE_PACE: Duration = Duration::from_millis(100);

/// One thing to reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Cluster(Name),
    Machine(Name),
    MachineSet(Name),
    MachineDeployment(Name),
    ControlPlane(Name),
    Config(Name),
    HealthCheck(Name),
    /// The nodes of all workload clusters.
    Nodes,
}

impl Key {
    /// The reconciler of objects of this kind, if core has one.
    fn of(kind: &Kind, name: Name) -> Option<Self> {
        let make: fn(Name) -> Self = match kind {
            _ if *kind == CLUSTER => Self::Cluster,
            _ if *kind == MACHINE => Self::Machine,
            _ if *kind == MACHINE_SET => Self::MachineSet,
            _ if *kind == MACHINE_DEPLOYMENT => Self::MachineDeployment,
            _ if *kind == KUBEADM_CONTROL_PLANE => Self::ControlPlane,
            _ if *kind == KUBEADM_CONFIG => Self::Config,
            _ if *kind == MACHINE_HEALTH_CHECK => Self::HealthCheck,
            _ => return None,
        };
        Some(make(name))
    }
}

/// What all passes share.
pub(super) struct World {
    pub(super) hub: Hub,
    pub(super) workloads: Workloads,
    pub(super) bootstrap: Mutex<BootstrapData>,
    /// What was applied last as metadata, by uid.
    pub(super) applied: Mutex<BTreeMap<String, Metadata>>,
    /// By uid of the Cluster, as the following three.
    pub(super) certificates: Mutex<HashMap<String, Arc<Certificates>>>,
    pub(super) kubeconfigs: Mutex<BTreeSet<String>>,
    initialisers: Mutex<HashMap<String, String>>,
    rosters: Mutex<Rosters>,
    wishes: Mutex<Vec<Key>>,
    commanded: Mutex<BTreeSet<Name>>,
    loads: Mutex<HashMap<String, NodeLoad>>,
    /// Since when a Machine's node is ready, or is not, by uid of the Machine.
    node_states: Mutex<HashMap<String, (bool, Instant)>>,
    /// Since when a Machine's Node is being deleted, by uid of the Machine.
    node_deletions: Mutex<HashMap<String, Instant>>,
    serial: AtomicU64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn new(hub: Hub, workloads: Workloads, bootstrap: BootstrapData) -> Self {
        const BETA: &str = "v1beta2";
        for (kind, version, plural) in [
            (&CRD, "v1", "customresourcedefinitions"),
            (&CLUSTER, BETA, "clusters"),
            (&MACHINE, BETA, "machines"),
            (&MACHINE_SET, BETA, "machinesets"),
            (&MACHINE_DEPLOYMENT, BETA, "machinedeployments"),
            (&MACHINE_HEALTH_CHECK, BETA, "machinehealthchecks"),
            (&KUBEADM_CONFIG, BETA, "kubeadmconfigs"),
            (&KUBEADM_CONTROL_PLANE, BETA, "kubeadmcontrolplanes"),
        ] {
            hub.want(&resource(kind, version, plural));
        }
        Self {
            hub,
            workloads,
            bootstrap: Mutex::new(bootstrap),
            applied: Mutex::default(),
            certificates: Mutex::default(),
            kubeconfigs: Mutex::default(),
            initialisers: Mutex::default(),
            rosters: Mutex::default(),
            wishes: Mutex::default(),
            commanded: Mutex::default(),
            loads: Mutex::default(),
            node_states: Mutex::default(),
            node_deletions: Mutex::default(),
            serial: AtomicU64::new(0),
        }
    }

    /// A look at the nodes now, and one after each change of any workload cluster.
    pub(super) fn node_changes(&self) -> impl Stream<Item = Key> + Send + use<> {
        let changes = stream::unfold(self.workloads.changes(), |mut changes| async move {
            changes.changed().await.ok()?;
            Some((Key::Nodes, changes))
        });
        stream::once(async { Key::Nodes }).chain(changes)
    }

    /// The nodes of one workload cluster, as of the last look.
    pub(super) fn roster(&self, endpoint: &Endpoint) -> Option<Arc<Roster>> {
        self.rosters.lock().get(endpoint)
    }

    /// Something that was never said before, for names that must not come twice.
    pub(super) fn serial(&self) -> String {
        let count = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{count}", self.hub.now())
    }

    /// Whether this machine may run `kubeadm init`. The first one asked for stays the only one.
    pub(super) fn initialises(&self, cluster: &Object, machine: &Object) -> bool {
        let mut held = self.initialisers.lock();
        let first = held.entry(cluster.uid().to_owned()).or_default();
        let name = Name::new(machine.namespace(), first);
        // One that was deleted before it came up leaves its turn to the next.
        if first.is_empty() || self.hub.get(&MACHINE, &name).is_none() {
            machine.name().clone_into(first);
        }
        first == machine.name()
    }

    pub(super) fn is_commanded(&self, cluster: &Object) -> bool {
        self.commanded.lock().contains(&cluster.key())
    }

    pub(super) fn command(&self, cluster: Name) {
        self.commanded.lock().insert(cluster.clone());
        let planes = self.hub.clustered(&KUBEADM_CONTROL_PLANE, &cluster);
        let planes = planes.iter().map(|plane| Key::ControlPlane(plane.key()));
        self.wish(planes.chain([Key::Cluster(cluster)]));
    }

    pub(super) fn set_bootstrap(&self, mode: BootstrapData) {
        *self.bootstrap.lock() = mode;
        let configs = self.hub.read(|store| store.all(&KUBEADM_CONFIG));
        self.wish(configs.iter().map(|config| Key::Config(config.key())));
    }

    pub(super) fn load(&self, node: &str) -> NodeLoad {
        self.loads.lock().get(node).copied().unwrap_or_default()
    }

    pub(super) fn set_load(&self, node: &str, load: NodeLoad) {
        self.loads.lock().insert(node.to_owned(), load);
        let machines = self.hub.read(|store| store.all(&MACHINE));
        let on_it = machines
            .iter()
            .filter(|machine| machine.word("/status/nodeRef/name") == Some(node));
        self.wish(on_it.map(|machine| Key::Machine(machine.key())));
    }

    /// How long a Machine's node has been as it is, in the simulated controllers' own time.
    pub(super) fn node_state_lasted(&self, machine: &str, is_ready: bool) -> Duration {
        let now = Instant::now();
        let mut states = self.node_states.lock();
        let held = states.entry(machine.to_owned()).or_insert((is_ready, now));
        if held.0 != is_ready {
            *held = (is_ready, now);
        }
        self.hub.unscaled(now - held.1)
    }

    /// How long core has tried to delete a Machine's Node; the first question starts the clock.
    pub(super) fn spent_on_node_deletion(&self, machine: &str) -> Duration {
        let now = Instant::now();
        let mut deletions = self.node_deletions.lock();
        let begun = *deletions.entry(machine.to_owned()).or_insert(now);
        self.hub.unscaled(now - begun)
    }

    fn wish(&self, keys: impl IntoIterator<Item = Key>) {
        self.wishes.lock().extend(keys);
        self.hub.ring();
    }

    /// Forgets what was remembered of an object that is gone.
    fn forget(&self, object: &Object) {
        let uid = object.uid();
        self.applied.lock().remove(uid);
        self.certificates.lock().remove(uid);
        self.kubeconfigs.lock().remove(uid);
        self.initialisers.lock().remove(uid);
        self.node_states.lock().remove(uid);
        self.node_deletions.lock().remove(uid);
    }

    /// Looks at all nodes once, and wakes the machines of those that changed.
    fn look_at_nodes(&self) {
        let touched = self.rosters.lock().refresh(self.workloads.all());
        if touched.is_empty() {
            return;
        }
        let clusters = self.hub.read(|store| store.all(&CLUSTER));
        for cluster in clusters {
            let Some(touched) = cluster::endpoint(&cluster).and_then(|at| touched.get(&at)) else {
                continue;
            };
            let machines = self.hub.clustered(&MACHINE, &cluster.key());
            let is_touched = |machine: &&Arc<Object>| {
                let has = |set: &BTreeSet<String>, pointer: &str| {
                    machine.word(pointer).is_some_and(|text| set.contains(text))
                };
                touched.all
                    || has(&touched.provider_ids, "/spec/providerID")
                    || has(&touched.names, "/status/nodeRef/name")
            };
            let machines = machines.iter().filter(is_touched);
            let mut keys: Vec<_> = machines.map(|it| Key::Machine(it.key())).collect();
            keys.extend(self.members(&cluster.key(), &MACHINE_HEALTH_CHECK));
            if touched.all {
                keys.push(Key::Cluster(cluster.key()));
                keys.extend(self.members(&cluster.key(), &KUBEADM_CONTROL_PLANE));
            }
            self.wish(keys);
        }
    }

    /// Reconcilers of all objects of a kind in a Cluster.
    fn members(&self, cluster: &Name, kind: &Kind) -> Vec<Key> {
        let members = self.hub.clustered(kind, cluster);
        members
            .iter()
            .filter_map(|member| Key::of(kind, member.key()))
            .collect()
    }

    fn after_cluster(&self, change: &Change, keys: &mut Vec<Key>) {
        let matters = |object: &Option<Arc<Object>>| {
            let object = object.as_ref()?;
            Some((
                object.is_deleting(),
                object.is_annotated_paused(),
                object.at("/spec").cloned(),
                object.at("/status/initialization").cloned(),
                object.is_true("InfrastructureReady"),
            ))
        };
        if matters(&change.before) == matters(&change.after) {
            return;
        }
        let Some(cluster) = change.object() else {
            return;
        };
        let name = cluster.key();
        for kind in [
            &MACHINE,
            &MACHINE_SET,
            &MACHINE_DEPLOYMENT,
            &KUBEADM_CONTROL_PLANE,
            &KUBEADM_CONFIG,
            &MACHINE_HEALTH_CHECK,
        ] {
            keys.extend(self.members(&name, kind));
        }
        // A control plane bears no label before it is adopted.
        if let Some(reference) = cluster.reference("/spec/controlPlaneRef") {
            let name = Name::new(cluster.namespace(), &reference.name);
            keys.extend(Key::of(&reference.kind, name));
        }
    }

    fn after_machine(&self, change: &Change, keys: &mut Vec<Key>) {
        let Some(machine) = change.object() else {
            return;
        };
        let cluster = machine.cluster_name().unwrap_or_default();
        let cluster = Name::new(machine.namespace(), cluster);
        let has_node = |object: &Option<Arc<Object>>| {
            object
                .as_ref()
                .map(|it| (it.at("/status/nodeRef").is_some(), it.is_deleting()))
        };
        let is_deleting = self
            .hub
            .get(&CLUSTER, &cluster)
            .is_some_and(|cluster| cluster.is_deleting());
        let matters = machine.label(CONTROL_PLANE_LABEL).is_some() || is_deleting;
        if matters && has_node(&change.before) != has_node(&change.after) {
            keys.push(Key::Cluster(cluster.clone()));
            // A control plane goes after the last worker.
            keys.extend(self.members(&cluster, &KUBEADM_CONTROL_PLANE));
        } else if is_deleting && change.after.is_none() {
            keys.extend(self.members(&cluster, &KUBEADM_CONTROL_PLANE));
        }
        keys.extend(self.members(&cluster, &MACHINE_HEALTH_CHECK));
        if let Some(config) = machine.reference("/spec/bootstrap/configRef") {
            let name = Name::new(machine.namespace(), &config.name);
            keys.extend(Key::of(&config.kind, name));
        }
    }
}

impl Actor for World {
    type Key = Key;

    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn affected(&self, change: &Change) -> Vec<Key> {
        let Some(object) = change.object() else {
            return Vec::new();
        };
        if change.after.is_none() {
            self.forget(object);
        }
        let mut keys: Vec<_> = Key::of(&change.kind, object.key()).into_iter().collect();
        for object in [&change.before, &change.after].into_iter().flatten() {
            for owner in object.owners() {
                let group = super::object::group_of(&owner.api_version);
                let kind = Kind::new(group, &owner.kind);
                let name = Name::new(object.namespace(), &owner.name);
                // A Cluster looks after its machines by another way, see below.
                if !(kind == CLUSTER && change.kind == MACHINE) {
                    keys.extend(Key::of(&kind, name));
                }
            }
        }
        if change.kind == CLUSTER {
            self.after_cluster(change, &mut keys);
        } else if change.kind == MACHINE {
            self.after_machine(change, &mut keys);
        }
        keys
    }

    fn synced(&self, kind: &Kind) -> Vec<Key> {
        let mut keys = Vec::new();
        let refers = |object: &Object, pointers: &[&str]| {
            pointers
                .iter()
                .filter_map(|pointer| object.reference(pointer))
                .any(|reference| reference.kind == *kind)
        };
        for cluster in self.hub.read(|store| store.all(&CLUSTER)) {
            if refers(
                &cluster,
                &["/spec/infrastructureRef", "/spec/controlPlaneRef"],
            ) {
                keys.push(Key::Cluster(cluster.key()));
            }
        }
        for machine in self.hub.read(|store| store.all(&MACHINE)) {
            let pointers = ["/spec/infrastructureRef", "/spec/bootstrap/configRef"];
            if refers(&machine, &pointers) {
                keys.push(Key::Machine(machine.key()));
            }
        }
        keys
    }

    fn pace(&self, key: &Key) -> Duration {
        match key {
            Key::Machine(_) | Key::Config(_) => Duration::ZERO,
            Key::Cluster(_)
            | Key::MachineSet(_)
            | Key::MachineDeployment(_)
            | Key::ControlPlane(_)
            | Key::HealthCheck(_)
            | Key::Nodes => self.hub.scaled(AGGREGATE_PACE),
        }
    }

    fn wishes(&self) -> Vec<Key> {
        std::mem::take(&mut *self.wishes.lock())
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Again>> {
        match key {
            Key::Cluster(name) => Box::pin(cluster::reconcile(self, name)),
            Key::Machine(name) => Box::pin(machine::reconcile(self, name)),
            Key::MachineSet(name) => Box::pin(machine_set::reconcile(self, name)),
            Key::MachineDeployment(name) => Box::pin(deployment::reconcile(self, name)),
            Key::ControlPlane(name) => Box::pin(control_plane::reconcile(self, name)),
            Key::Config(name) => Box::pin(bootstrap::reconcile(self, name)),
            Key::HealthCheck(name) => Box::pin(health_check::reconcile(self, name)),
            Key::Nodes => Box::pin(async {
                self.look_at_nodes();
                Ok(None)
            }),
        }
    }
}
