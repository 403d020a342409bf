//! KubevirtCluster: what the machines of a workload cluster share.

use std::time::Duration;

use capi_contract::{
    ClusterFacts, ClusterScope, Depth, Effect, Endpoint, External, FailureDomain, Identity,
    InfraCluster, Lookup, Lost, Mark, Plan, Receipt, Step, Supply, Teardown, Waiting,
};
use serde::Serialize;

use crate::api::{CLUSTER_FINALIZER, KubevirtCluster, KubevirtClusterSpec, ObjectReference};
use crate::infra::InfraError;
use crate::session::Session;

/// When to look again for an endpoint that a person has to give.
const ENDPOINT_RECHECK: Duration = Duration::from_secs(60);

/// The credentials that a reference names.
pub(crate) fn secret_identity(secret: &ObjectReference, own: &str) -> Option<Identity> {
    let name = secret.name.clone().filter(|name| !name.is_empty())?;
    let namespace = secret.namespace.clone().filter(|name| !name.is_empty());
    Some(Identity::secret(
        namespace.unwrap_or_else(|| own.to_owned()),
        name,
    ))
}

/// Names the credentials of a cluster's infra cluster, or of a failure domain's where that is another.
/// `None` means the process's own.
pub(crate) fn identity(cluster: &KubevirtCluster, domain: Option<&str>) -> Option<Identity> {
    let own = cluster.metadata.namespace.as_deref().unwrap_or_default();
    let zone = domain.and_then(|name| cluster.spec.zone(name));
    let of_zone = zone.and_then(|zone| zone.infra_cluster_secret_ref.as_ref());
    let secret = of_zone.or(cluster.spec.infra_cluster_secret_ref.as_ref())?;
    secret_identity(secret, own)
}

/// Sees to what the machines of a cluster share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clusters;

/// There is nothing to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterStep {}

impl Step for ClusterStep {
    fn name(&self) -> &'static str {
        match *self {}
    }

    fn effect(&self) -> Effect {
        match *self {}
    }
}

/// The status fields of a KubevirtCluster that are not the contract's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Whether the endpoint is known, as the Go provider shows it.
    pub ready: bool,
}

type Scope = ClusterScope<KubevirtCluster>;

/// The endpoint of the spec, if both halves are there.
fn endpoint(spec: &KubevirtClusterSpec) -> Option<Endpoint> {
    let given = spec.control_plane_endpoint.as_ref()?;
    let endpoint = Endpoint {
        host: given.host.clone()?,
        port: given.port?,
    };
    endpoint.is_valid().then_some(endpoint)
}

impl External for Clusters {
    type Object = KubevirtCluster;
    type Scope = Scope;
    type Session = Session;
    type Claim = Mark;
    type Seen = ();
    type Step = ClusterStep;
    type Facts = ClusterFacts<ClusterStatus>;
    type Error = InfraError;

    fn nothing_outside(&self) -> bool {
        true
    }

    async fn recover(
        &self,
        _on: &Session,
        _lost: &Lost<'_, KubevirtCluster>,
    ) -> Result<Option<Mark>, InfraError> {
        Ok(None)
    }

    async fn claim(
        &self,
        _on: &Session,
        scope: &Scope,
        _given_up: Option<&Mark>,
    ) -> Result<Mark, InfraError> {
        Ok(scope.mark())
    }

    async fn observe(
        &self,
        _on: &Session,
        _claim: &Mark,
        _depth: Depth,
    ) -> Result<Lookup<()>, InfraError> {
        Ok(Lookup::Ours(()))
    }

    fn plan(&self, scope: &Scope, _claim: &Mark, _seen: Option<&()>) -> Plan<ClusterStep> {
        match endpoint(&scope.object.spec) {
            Some(_) => Plan::Settled,
            None => Plan::Wait(Waiting::new(
                "MissingControlPlaneEndpoint",
                "set spec.controlPlaneEndpoint to the host and port of the API server",
                ENDPOINT_RECHECK,
            )),
        }
    }

    fn plan_teardown(&self, _claim: &Mark, _seen: &()) -> Teardown<ClusterStep> {
        Teardown::Release
    }

    async fn apply(
        &self,
        _on: &Session,
        _claim: &Mark,
        step: &ClusterStep,
        _supply: Supply<'_>,
    ) -> Result<Receipt, InfraError> {
        match *step {}
    }

    fn facts(&self, scope: &Scope, _claim: &Mark, _seen: &()) -> ClusterFacts<ClusterStatus> {
        let spec = &scope.object.spec;
        let mut facts = ClusterFacts::default();
        facts.endpoint = endpoint(spec);
        facts.complete = true;
        let zones = spec.failure_domains.iter();
        facts.failure_domains = zones
            .map(|zone| FailureDomain {
                name: zone.name.clone(),
                control_plane: Some(zone.control_plane.unwrap_or(true)),
                attributes: zone.node_labels(),
            })
            .collect();
        facts.own = ClusterStatus {
            ready: facts.endpoint.is_some(),
        };
        facts
    }
}

impl InfraCluster for Clusters {
    const CONDITION: &'static str = "LoadBalancerAvailable";
    const FINALIZER: &'static str = CLUSTER_FINALIZER;

    type Kind = KubevirtCluster;
    type Status = ClusterStatus;

    fn identity(&self, object: &KubevirtCluster) -> Option<Identity> {
        identity(object, None)
    }
}
