//! ProxmoxCluster: what the machines of a workload cluster share.
//!
//! Nothing of it is outside Kubernetes: the endpoint is given, its address is announced by the
//! machines themselves, and the address pools are objects of the management cluster. So there is
//! nothing to make or to remove, only to see that Proxmox VE can be reached.

use capi_contract::condition::reason;
use capi_contract::view::ClusterView;
use capi_contract::{
    Child, ChildKind, Class, Classify, ClusterFacts, ClusterScope, Depth, Effect, Endpoint,
    External, Health, Identity, InfraCluster, Lookup, Lost, Mark, Plan, Receipt, Step, Supply,
    Teardown, Waiting,
};
use serde::Serialize;

use crate::api::{
    CLUSTER_FINALIZER, CREDENTIALS_FINALIZER, InClusterZoneRef, LocalRef, ProxmoxCluster,
};
use crate::pool::{self, Family};
use crate::pve;
use crate::range;
use crate::session::Session;

/// Names the credentials of a cluster: the Secret of `credentialsRef`, in the cluster's namespace
/// unless another is named. `None` means the process's own.
pub(crate) fn identity(cluster: &ProxmoxCluster) -> Option<Identity> {
    let reference = cluster.spec.credentials_ref.as_ref()?;
    let name = reference.name.clone()?;
    let own = || cluster.metadata.namespace.clone().unwrap_or_default();
    Some(Identity::secret(
        reference.namespace.clone().unwrap_or_else(own),
        name,
    ))
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

/// What was seen of the Proxmox VE cluster: that it answers the token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reachable {
    /// Nodes that answer.
    pub nodes_online: usize,
    /// Nodes in all.
    pub nodes: usize,
}

/// The status fields of a ProxmoxCluster that are not the contract's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The cluster's pools.
    #[serde(rename = "inClusterIPPoolRef", skip_serializing_if = "Vec::is_empty")]
    pub in_cluster_ip_pool_ref: Vec<LocalRef>,
    /// The cluster's pools by zone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_cluster_zone_ref: Vec<InClusterZoneRef>,
}

/// Why Proxmox VE cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ClusterError(#[from] pve::Error);

impl Classify for ClusterError {
    fn class(&self) -> Class {
        self.0.class()
    }
}

type Scope = ClusterScope<ProxmoxCluster>;

impl External for Clusters {
    type Object = ProxmoxCluster;
    type Scope = Scope;
    type Session = Session;
    type Claim = Mark;
    type Seen = Reachable;
    type Step = ClusterStep;
    type Facts = ClusterFacts<ClusterStatus>;
    type Error = ClusterError;

    fn nothing_outside(&self) -> bool {
        true
    }

    async fn recover(
        &self,
        _on: &Session,
        _lost: &Lost<'_, ProxmoxCluster>,
    ) -> Result<Option<Mark>, ClusterError> {
        Ok(None)
    }

    async fn claim(
        &self,
        _on: &Session,
        scope: &Scope,
        _given_up: Option<&Mark>,
    ) -> Result<Mark, ClusterError> {
        Ok(scope.mark())
    }

    async fn observe(
        &self,
        on: &Session,
        _claim: &Mark,
        _depth: Depth,
    ) -> Result<Lookup<Reachable>, ClusterError> {
        let listing = on.listing().await?;
        let nodes = listing
            .rows()
            .iter()
            .filter(|row| row.kind == pve::ResourceKind::Node);
        Ok(Lookup::Ours(Reachable {
            nodes_online: nodes.clone().filter(|row| row.status == "online").count(),
            nodes: nodes.count(),
        }))
    }

    fn plan(&self, scope: &Scope, _claim: &Mark, _seen: Option<&Reachable>) -> Plan<ClusterStep> {
        let spec = &scope.object.spec;
        if spec.endpoint().is_none() && !spec.external_managed_control_plane {
            return Plan::Wait(Waiting::new(
                "MissingControlPlaneEndpoint",
                "set spec.controlPlaneEndpoint to the host and port of the API server, or \
                 spec.externalManagedControlPlane to true",
                std::time::Duration::from_secs(60),
            ));
        }
        Plan::Settled
    }

    fn plan_teardown(&self, _claim: &Mark, _seen: &Reachable) -> Teardown<ClusterStep> {
        Teardown::Release
    }

    async fn apply(
        &self,
        _on: &Session,
        _claim: &Mark,
        step: &ClusterStep,
        _supply: Supply<'_>,
    ) -> Result<Receipt, ClusterError> {
        match *step {}
    }

    fn facts(&self, scope: &Scope, _claim: &Mark, seen: &Reachable) -> ClusterFacts<ClusterStatus> {
        let spec = &scope.object.spec;
        let mut facts = ClusterFacts::default();
        facts.endpoint = spec.endpoint().map(|(host, port)| Endpoint {
            host: host.to_owned(),
            port: port.into(),
        });
        facts.complete = true;
        facts.failure_domains = spec.failure_domains();
        facts.health = if seen.nodes_online == 0 {
            Health::Held {
                reason: reason::UNREACHABLE,
                message: "no node of the Proxmox VE cluster is online".to_owned(),
            }
        } else {
            Health::Good
        };
        facts.own = status(scope);
        facts
    }
}

fn status(scope: &Scope) -> ClusterStatus {
    let name = scope.name().name;
    let pools = pool::pools(&name, &scope.object.spec);
    let mut zones: Vec<InClusterZoneRef> = Vec::new();
    for pool in &pools {
        let reference = Some(LocalRef {
            name: pool.object.name.clone(),
        });
        let at = match zones.iter().position(|zone| zone.zone == pool.zone) {
            Some(at) => at,
            None => {
                zones.push(InClusterZoneRef {
                    zone: pool.zone.clone(),
                    in_cluster_ip_pool_ref_v4: None,
                    in_cluster_ip_pool_ref_v6: None,
                });
                zones.len() - 1
            }
        };
        match pool.family {
            Family::V4 => zones[at].in_cluster_ip_pool_ref_v4 = reference,
            Family::V6 => zones[at].in_cluster_ip_pool_ref_v6 = reference,
        }
    }
    ClusterStatus {
        in_cluster_ip_pool_ref: pools
            .into_iter()
            .map(|pool| LocalRef {
                name: pool.object.name,
            })
            .collect(),
        in_cluster_zone_ref: zones,
    }
}

impl InfraCluster for Clusters {
    const CONDITION: &'static str = "ProxmoxAvailable";
    const FINALIZER: &'static str = CLUSTER_FINALIZER;
    const SECRET_FINALIZER: Option<&'static str> = Some(CREDENTIALS_FINALIZER);

    type Kind = ProxmoxCluster;
    type Status = ClusterStatus;

    fn identity(&self, object: &ProxmoxCluster) -> Option<Identity> {
        identity(object)
    }

    fn objects(&self, object: &ProxmoxCluster, _cluster: &ClusterView) -> Vec<Child> {
        let name = object.metadata.name.clone().unwrap_or_default();
        pool::pools(&name, &object.spec)
            .into_iter()
            .map(|pool| Child::Object(pool.object))
            .collect()
    }

    fn child_kinds(&self) -> &'static [ChildKind] {
        &[pool::POOL]
    }

    fn endpoint_is_external(&self, object: &ProxmoxCluster) -> bool {
        object.spec.external_managed_control_plane
    }

    fn unsupported(&self, object: &ProxmoxCluster) -> Vec<String> {
        range::check(&object.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DEFAULT_ZONE, IpConfig, ProxmoxClusterSpec, SecretRef, ZoneConfig};

    fn cluster(spec: ProxmoxClusterSpec) -> ProxmoxCluster {
        let mut cluster = ProxmoxCluster::new("c", spec);
        cluster.metadata.namespace = Some("ns".into());
        cluster
    }

    #[test]
    fn id_01_the_secret_is_in_the_namespace_of_the_cluster_unless_another_is_named() {
        let of = |name: Option<&str>, namespace: Option<&str>| {
            let reference = SecretRef {
                name: name.map(Into::into),
                namespace: namespace.map(Into::into),
            };
            let spec = ProxmoxClusterSpec {
                credentials_ref: Some(reference),
                ..ProxmoxClusterSpec::default()
            };
            identity(&cluster(spec))
        };
        assert_eq!(of(Some("pve"), None), Some(Identity::secret("ns", "pve")));
        assert_eq!(
            of(Some("pve"), Some("other")),
            Some(Identity::secret("other", "pve"))
        );
        assert_eq!(identity(&cluster(ProxmoxClusterSpec::default())), None);
    }

    #[test]
    fn a_second_zone_has_references_of_its_own() {
        let spec = ProxmoxClusterSpec {
            ipv4_config: Some(IpConfig::default()),
            ipv6_config: Some(IpConfig::default()),
            zone_config: vec![ZoneConfig {
                zone: "west".into(),
                ipv4_config: Some(IpConfig::default()),
                ..ZoneConfig::default()
            }],
            ..ProxmoxClusterSpec::default()
        };
        let scope = ClusterScope::new(
            cluster(spec),
            ClusterView::default(),
            capi_contract::Token::random(),
        );
        let status = status(&scope);
        let zones: Vec<_> = status
            .in_cluster_zone_ref
            .iter()
            .map(|zone| &zone.zone)
            .collect();
        assert_eq!(zones, [DEFAULT_ZONE, "west"]);
        assert_eq!(
            status.in_cluster_zone_ref[1].in_cluster_ip_pool_ref_v6,
            None
        );
        assert_eq!(status.in_cluster_ip_pool_ref.len(), 3);
    }

    #[test]
    fn addresses_that_cannot_work_hold_the_cluster_back() {
        let mut spec = ProxmoxClusterSpec {
            ipv4_config: Some(IpConfig {
                addresses: vec!["10.0.0.10-10.0.0.20".into()],
                gateway: "10.0.0.1".into(),
                prefix: 24,
                metric: 100,
            }),
            ..ProxmoxClusterSpec::default()
        };
        assert!(Clusters.unsupported(&cluster(spec.clone())).is_empty());
        spec.dns_servers = vec!["dns.example.com".into()];
        let problems = Clusters.unsupported(&cluster(spec));
        assert!(
            problems[0].starts_with("spec.dnsServers[0]: "),
            "{problems:?}"
        );
    }
}
