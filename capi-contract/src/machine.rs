//! InfraMachine: one machine of a workload cluster (contract rules IM-*).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::child::{Address, Child, ChildKind};
use crate::condition::Report;
use crate::connect::Identity;
use crate::external::{External, Object};
use crate::mark::{Mark, ObjectName, Token};
use crate::view::{ClusterView, MachineView};

/// All that is needed to build a machine.
///
/// The engine makes it from the gates (IM-11), so having one is the proof that the owner was set,
/// nothing was paused, the infra cluster was ready, the bootstrap data existed and the addresses
/// were given. [`MachineScope::new`] is there for tests of pure code.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MachineScope<O, C> {
    /// The InfraMachine.
    pub object: O,
    /// The InfraCluster.
    pub cluster: C,
    /// Core's Machine.
    pub machine: MachineView,
    /// Core's Cluster.
    pub owner_cluster: ClusterView,
    /// Owner token of the infra cluster: the beginning of every mark.
    pub owner: Token,
    /// Where the machine must be, from `Machine.spec.failureDomain` (IM-06).
    pub failure_domain: Option<String>,
    /// Whether the Machine is being deleted, though this object is not yet: take it out of load
    /// balancers now (IM-18).
    pub leaving: bool,
    /// The addresses asked for in [`InfraMachine::objects`], in that order.
    pub addresses: Vec<Address>,
    /// How the drain stands that [`NodeWish::drain_within`] asked for; `None` if none was asked for
    /// or it is under way. A change wakes the machine.
    pub drained: Option<Drained>,
}

impl<O: Object, C> MachineScope<O, C> {
    /// A scope without addresses and failure domain.
    pub fn new(
        object: O,
        cluster: C,
        machine: MachineView,
        owner_cluster: ClusterView,
        owner: Token,
    ) -> Self {
        let failure_domain = machine.spec.failure_domain.clone();
        let leaving = machine.metadata.deletion_timestamp.is_some();
        Self {
            object,
            cluster,
            machine,
            owner_cluster,
            owner,
            failure_domain,
            leaving,
            addresses: Vec::new(),
            drained: None,
        }
    }

    /// Namespace and name of the InfraMachine.
    pub fn name(&self) -> ObjectName {
        ObjectName::of(&self.object)
    }

    /// A new mark for this machine, with a random claim token.
    pub fn mark(&self) -> Mark {
        Mark::made(self.owner.clone(), self.name())
    }

    /// Whether this is a control-plane machine (IM-18).
    pub fn is_control_plane(&self) -> bool {
        self.machine.is_control_plane()
    }

    /// Whether the machine has become a node: bootstrap data is used up.
    pub fn has_node(&self) -> bool {
        self.machine.status.node_ref.is_some()
    }
}

/// The kinds of `status.addresses` (IM-08).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressType {
    /// A host name.
    Hostname,
    /// An address reachable from outside.
    ExternalIP,
    /// An address of the cluster's network.
    InternalIP,
    /// A DNS name that resolves outside.
    ExternalDNS,
    /// A DNS name of the cluster's network.
    InternalDNS,
}

/// One entry of `status.addresses` (IM-08).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineAddress {
    /// What kind of address it is.
    #[serde(rename = "type")]
    pub kind: AddressType,
    /// The address, 1 to 256 characters.
    pub address: String,
}

impl MachineAddress {
    /// An address of a kind.
    pub fn new(kind: AddressType, address: impl Into<String>) -> Self {
        Self {
            kind,
            address: address.into(),
        }
    }
}

/// What the facts ask of the workload cluster, which the engine reaches with the kubeconfig that the
/// control plane provider keeps in Secret `<cluster>-kubeconfig` (S-10).
///
/// Nothing here holds anything back: a machine is provisioned whether or not its workload cluster
/// can be reached. Once core has found the Node (`Machine.status.nodeRef`), `provider_id` costs no
/// request any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeWish {
    /// Name of the Node; `None` if it is called as the InfraMachine is.
    pub name: Option<String>,
    /// Write [`MachineFacts::provider_id`] into the Node, where it has none and no cloud controller
    /// writes it.
    pub provider_id: bool,
    /// Cordon the Node and evict its pods, no longer than this; the time runs from the first moment
    /// that it was asked for and is kept on the object. [`MachineScope::drained`] tells of the end.
    /// Once it is not asked for any more, what was cordoned for it is uncordoned.
    pub drain_within: Option<Duration>,
}

impl NodeWish {
    /// Asks for the provider id to be written into the Node.
    pub fn provider_id() -> Self {
        Self {
            provider_id: true,
            ..Self::default()
        }
    }

    /// Asks for a drain, too, that takes no longer than `within`.
    #[must_use]
    pub fn drain(mut self, within: Duration) -> Self {
        self.drain_within = Some(within);
        self
    }

    /// Gives the Node another name than the InfraMachine's.
    #[must_use]
    pub fn of(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left on the node that had to go, or the node does not exist.
    Empty,
    /// The time was over with pods left, or the workload cluster did not answer in that time.
    TimedOut,
}

/// Whether a running machine may be called ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// As far as can be seen, all is well.
    Good,
    /// Something holds `Ready` back, such as an unfinished bootstrap check; the reason is CamelCase.
    Held {
        /// Reason of the condition.
        reason: &'static str,
        /// What is wrong and what to change.
        message: String,
    },
}

/// What is told to Kubernetes about a machine that is ours.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MachineFacts<S> {
    /// Value of `spec.providerID`: byte-equal to the Node's, never changes, never reused (IM-02 to
    /// IM-04).
    pub provider_id: Option<String>,
    /// Whether the instance runs. `provisioned` is set once it runs, its provider id is in spec and
    /// it has addresses (IM-05).
    pub running: bool,
    /// Value of `status.addresses`, in a stable order (IM-08).
    pub addresses: Vec<MachineAddress>,
    /// Where the machine is (IM-07).
    pub failure_domain: Option<String>,
    /// What may hold back `Ready`, beside the plan.
    pub health: Health,
    /// Further conditions, of the types in [`InfraMachine::CONDITIONS`]. They are shown, and say
    /// nothing about `Ready`: what does is [`health`](Self::health).
    pub conditions: Vec<Report>,
    /// The provider's own status fields, merged into the one status write.
    pub own: S,
    /// Spec fields that the provider's CRD documents as written by the controller (R14), listed in
    /// [`InfraMachine::SPEC_WRITES`]. Written once, with the provider id.
    pub spec: Map<String, Value>,
    /// What is asked of the workload cluster.
    pub node: Option<NodeWish>,
}

impl<S: Default> Default for MachineFacts<S> {
    fn default() -> Self {
        Self {
            provider_id: None,
            running: false,
            addresses: Vec::new(),
            failure_domain: None,
            health: Health::Good,
            conditions: Vec::new(),
            own: S::default(),
            spec: Map::new(),
            node: None,
        }
    }
}

/// One machine of a workload cluster: [`External`] plus the words of the contract.
///
/// # Guarantees
///
/// A [`MachineScope`] exists only behind the gates of IM-11; `spec.providerID` is written before
/// `provisioned` (IM-05) and never changes (IM-04); a machine once seen as ours is never made again
/// (IM-16); objects without an owner Machine are never touched (IM-12).
pub trait InfraMachine:
    External<
        Object = <Self as InfraMachine>::Kind,
        Scope = MachineScope<<Self as InfraMachine>::Kind, <Self as InfraMachine>::Cluster>,
        Facts = MachineFacts<<Self as InfraMachine>::Status>,
    >
{
    /// Type of the condition that says whether the machine is made. Drop-in providers use the Go
    /// provider's.
    const CONDITION: &'static str = "Provisioned";
    /// The finalizer, domain-qualified (IC-12). Drop-in providers use the Go provider's.
    const FINALIZER: &'static str;
    /// Spec fields beside `providerID` that [`MachineFacts::spec`] may write (R14).
    const SPEC_WRITES: &'static [&'static str] = &[];

    /// Types of the conditions that [`MachineFacts::conditions`] may report, beside
    /// [`CONDITION`](Self::CONDITION). One that a look says nothing of stays as it was.
    const CONDITIONS: &'static [&'static str] = &[];
    /// Whether the provider id follows from the claim alone, and so is final before the machine runs.
    /// Then it is written together with the next intent after the machine was first seen, which saves
    /// a write per life; otherwise once the machine runs.
    const PROVIDER_ID_IS_CLAIMED: bool = false;

    /// The InfraMachine kind.
    type Kind: Object;
    /// The InfraCluster kind of the same provider.
    type Cluster: Object;
    /// The provider's own status fields.
    type Status: Serialize + Default + Clone + fmt::Debug + Send + Sync + 'static;

    /// Names the credentials of a machine; `None` means the process's own. The infra cluster is
    /// `None` if it is gone. Pure.
    fn identity(
        &self,
        object: &Self::Kind,
        cluster: Option<&Self::Cluster>,
        failure_domain: Option<&str>,
    ) -> Option<Identity>;

    /// Kubernetes objects that the machine needs before it is built: address claims above all
    /// (IPC-01). Pure and deterministic; must not depend on status.
    fn objects(
        &self,
        _object: &Self::Kind,
        _cluster: &Self::Cluster,
        _machine: &MachineView,
    ) -> Vec<Child> {
        Vec::new()
    }

    /// Kinds of the [`Child::Object`]s that [`objects`](Self::objects) may ask for.
    fn child_kinds(&self) -> &'static [ChildKind] {
        &[]
    }

    /// Fields of the spec that ask for behaviour which this version does not have, with what to do
    /// about each. Anything here keeps the machine from being built: nothing is silently ignored.
    fn unsupported(&self, _object: &Self::Kind, _cluster: &Self::Cluster) -> Vec<String> {
        Vec::new()
    }
}

/// Labels and annotations, as Kubernetes has them.
pub type StringMap = BTreeMap<String, String>;
