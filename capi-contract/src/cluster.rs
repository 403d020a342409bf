//! InfraCluster: what the machines of a workload cluster share (contract rules IC-*).

use std::collections::BTreeMap;
use std::fmt;

use kube::core::DynamicObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::child::{Child, ChildKind};
use crate::connect::Identity;
use crate::external::{External, Object};
use crate::machine::Health;
use crate::mark::{Mark, ObjectName, Token};
use crate::view::ClusterView;

/// Host and port of a control plane (IC-02).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// Host name or address, 1 to 512 characters.
    #[schemars(length(min = 1, max = 512))]
    pub host: String,
    /// Port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl Endpoint {
    /// Whether core would take it over (IC-03): both halves are there.
    pub fn is_valid(&self) -> bool {
        !self.host.is_empty() && (1..=65535).contains(&self.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One entry of `status.failureDomains` (IC-06).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureDomain {
    /// Its name, 1 to 256 characters.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Whether control-plane machines may be there (IC-07).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<bool>,
    /// Free-form attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// All that is needed to build what the machines of a cluster share. Made by the gates (IC-11).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterScope<O> {
    /// The InfraCluster.
    pub object: O,
    /// Core's Cluster.
    pub owner_cluster: ClusterView,
    /// Owner token of this infra cluster.
    pub owner: Token,
    /// The objects asked for in [`InfraCluster::objects`], as last seen.
    pub children: Vec<DynamicObject>,
}

impl<O: Object> ClusterScope<O> {
    /// A scope without children.
    pub fn new(object: O, owner_cluster: ClusterView, owner: Token) -> Self {
        Self {
            object,
            owner_cluster,
            owner,
            children: Vec::new(),
        }
    }

    /// Namespace and name of the InfraCluster.
    pub fn name(&self) -> ObjectName {
        ObjectName::of(&self.object)
    }

    /// A new mark for what is shared, with a random claim token.
    pub fn mark(&self) -> Mark {
        Mark::made(self.owner.clone(), self.name())
    }
}

/// What is told to Kubernetes about an infra cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterFacts<S> {
    /// The endpoint, once it is final. A preset one wins and is never overwritten (IC-04).
    pub endpoint: Option<Endpoint>,
    /// Whether the base infrastructure is complete. `provisioned` is set once this holds and a valid
    /// endpoint is known (IC-03, IC-05, IC-08), and never goes back.
    pub complete: bool,
    /// Value of `status.failureDomains`; empty means that there are none (IC-06, IC-07).
    pub failure_domains: Vec<FailureDomain>,
    /// What may hold back `Ready` (CO-10: do not let it flap).
    pub health: Health,
    /// The provider's own status fields, merged into the one status write.
    pub own: S,
}

impl<S: Default> Default for ClusterFacts<S> {
    fn default() -> Self {
        Self {
            endpoint: None,
            complete: false,
            failure_domains: Vec::new(),
            health: Health::Good,
            own: S::default(),
        }
    }
}

/// Which objects of others go with a cluster: those of these kinds that bear this label and the
/// cluster's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// Name and value of the label.
    pub label: (&'static str, &'static str),
    /// The kinds.
    pub kinds: &'static [ChildKind],
}

/// What the machines of a workload cluster share: [`External`] plus the words of the contract.
///
/// # Guarantees
///
/// Objects without an owner Cluster are never touched (IC-11), nor externally managed ones (EX-01);
/// the endpoint is in spec before `provisioned` is set (IC-03); on deletion the engine waits until
/// the last machine is gone (IC-14).
pub trait InfraCluster:
    External<
        Object = <Self as InfraCluster>::Kind,
        Scope = ClusterScope<<Self as InfraCluster>::Kind>,
        Facts = ClusterFacts<<Self as InfraCluster>::Status>,
    >
{
    /// Type of the condition that says whether the infrastructure is there.
    const CONDITION: &'static str = "Provisioned";
    /// The finalizer, domain-qualified (IC-12). Drop-in providers use the Go provider's.
    const FINALIZER: &'static str;

    /// Finalizer that keeps the credentials Secret in the cluster's own namespace until the cluster
    /// is gone (ID-02); the Secret gets the cluster as an owner, too. Drop-in providers use the Go
    /// provider's. `None` leaves Secrets alone, and the right to patch them is not asked for.
    const SECRET_FINALIZER: Option<&'static str> = None;

    /// Objects in the cluster's namespace that somebody else applied and that go with the cluster. The
    /// right to delete them is asked for on request only (`manifests --extra-resources`); without it
    /// they stay, and an Event says so. Drop-in providers use the Go provider's.
    const EXTRAS: Option<Extras> = None;

    /// The InfraCluster kind.
    type Kind: Object;
    /// The provider's own status fields.
    type Status: Serialize + Default + Clone + fmt::Debug + Send + Sync + 'static;

    /// Names the credentials; `None` means the process's own. Pure.
    fn identity(&self, object: &Self::Kind) -> Option<Identity>;

    /// Kubernetes objects that the cluster needs: pools, Services. Pure and deterministic.
    fn objects(&self, _object: &Self::Kind, _cluster: &ClusterView) -> Vec<Child> {
        Vec::new()
    }

    /// Kinds of the objects that [`objects`](Self::objects) may ask for.
    fn child_kinds(&self) -> &'static [ChildKind] {
        &[]
    }

    /// Whether the endpoint comes from elsewhere, such as a hosted control plane (IC-05): then it is
    /// waited for, never written.
    fn endpoint_is_external(&self, _object: &Self::Kind) -> bool {
        false
    }

    /// Fields of the spec that ask for behaviour which this version does not have, with what to do
    /// about each.
    fn unsupported(&self, _object: &Self::Kind) -> Vec<String> {
        Vec::new()
    }
}
