//! KubevirtCluster: what the machines of a workload cluster share, the Service in front of its control
//! plane.
//!
//! The Service is shared, so one that is lost is made again, at the endpoint that it gave (R9). A
//! template that changes changes it, as far as the endpoint stays where it is.

use std::sync::Arc;
use std::time::Duration;

use capi_contract::gate;
use capi_contract::view::CLUSTER_NAME_LABEL;
use capi_contract::{
    ChildKind, ClusterFacts, ClusterScope, Depth, Effect, Endpoint, External, Extras,
    FailureDomain, Health, Identity, InfraCluster, Lookup, Lost, Mark, ObjectName, Plan, Proof,
    Receipt, Step, Supply, Teardown, Token, Waiting,
};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{CLUSTER_FINALIZER, KubevirtCluster, MARK_ANNOTATION, ObjectReference};
use crate::infra::{Deletion, InfraError, ServiceView, Version, Watched, mark_in};
use crate::service::{self, Wanted};
use crate::session::{Kind, Session};

/// What the name of the Service ends with; the Go provider's.
const SUFFIX: &str = "-lb";

/// Longest name of a Service.
const NAME_MAX: usize = 63;

/// When to look again at what settles within seconds and is not watched.
const SOON: Duration = Duration::from_secs(2);

/// When to look again at what a watch tells of; where it is not up, how often the infra cluster is
/// asked.
const WATCHED: Duration = Duration::from_secs(15);

/// How long a create may still take effect after its caller is gone: the 60 s after which a Kubernetes
/// API server gives up on a request, and something for clocks.
const LIFETIME_OF_A_REQUEST: Duration = Duration::from_secs(70);

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

/// Identity of the Service of a cluster; all that teardown has to go by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterClaim {
    /// Namespace in the infra cluster.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Whether the endpoint was given by somebody else: then the Service need not be there.
    #[serde(default)]
    pub given: bool,
    /// What it bears.
    pub mark: Mark,
}

impl capi_contract::Claim for ClusterClaim {
    fn mark(&self) -> &Mark {
        &self.mark
    }
}

/// One change of the infra cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterStep {
    /// Creates the Service.
    CreateService(Value),
    /// Makes it as its template says, also where that has changed.
    ChangeService {
        /// The state that the change is meant for.
        version: Version,
        /// A merge patch.
        patch: Value,
    },
    /// Deletes it, for teardown.
    DeleteService(Version),
}

impl Step for ClusterStep {
    fn name(&self) -> &'static str {
        match self {
            Self::CreateService(_) => "LoadBalancerCreate",
            Self::ChangeService { .. } => "LoadBalancerChange",
            Self::DeleteService(_) => "LoadBalancerDelete",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::CreateService(_) => Effect::Creates {
                settle: LIFETIME_OF_A_REQUEST,
            },
            // The version keeps it off any other state, and so off a second time.
            Self::ChangeService { .. } => Effect::Repeats,
            Self::DeleteService(_) => Effect::Destroys,
        }
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

/// Name of the Service. The Go provider's, or, where that is taken, one that nobody else has.
fn service_name(cluster: &str, taken: Option<&Mark>) -> String {
    let suffix = match taken {
        None => SUFFIX.to_owned(),
        Some(mark) => {
            let token = mark.token().map(Token::as_str).unwrap_or_default();
            format!("{SUFFIX}-{}", token.get(..8).unwrap_or(token))
        }
    };
    let room = NAME_MAX.saturating_sub(suffix.len());
    let stem: String = cluster.chars().take(room).collect();
    format!("{}{suffix}", stem.trim_end_matches(['-', '.']))
}

fn template_namespace(cluster: &KubevirtCluster) -> Option<&str> {
    let template = cluster.spec.control_plane_service_template.as_ref()?;
    let namespace = template.metadata.as_ref()?.namespace.as_deref()?;
    Some(namespace).filter(|namespace| !namespace.is_empty())
}

/// What is wanted of the Service.
fn manifest(scope: &Scope, claim: &ClusterClaim) -> Value {
    let wanted = Wanted {
        name: &claim.service,
        namespace: &claim.namespace,
        cluster: scope
            .owner_cluster
            .metadata
            .name
            .as_deref()
            .unwrap_or_default(),
        mark: &claim.mark.to_string(),
    };
    service::manifest(&scope.object.spec, &wanted)
}

/// The endpoint that cannot change any more.
fn fixed_endpoint(scope: &Scope) -> Option<Endpoint> {
    let given = scope.object.spec.control_plane_endpoint.as_ref();
    let own = given.and_then(|given| {
        let endpoint = Endpoint {
            host: given.host.clone()?,
            port: given.port?,
        };
        endpoint.is_valid().then_some(endpoint)
    });
    own.or_else(|| scope.owner_cluster.endpoint())
}

/// Why the Service is not as the template says, or not where the endpoint is.
fn trouble(scope: &Scope, claim: &ClusterClaim, seen: &ServiceView) -> Option<String> {
    let endpoint = fixed_endpoint(scope)?;
    let patch = service::drift(&manifest(scope, claim), seen);
    let loses = patch.and_then(|patch| service::loses_endpoint(&endpoint, seen, &patch));
    loses.or_else(|| {
        let astray = (!claim.given).then(|| service::astray(&endpoint, seen));
        astray.flatten()
    })
}

fn whose(claim: &ClusterClaim, service: &ServiceView) -> Result<(), String> {
    let at = format!("Service {}/{}", claim.namespace, claim.service);
    match (&claim.mark.proof, mark_in(&service.metadata)) {
        (Proof::Adopted { id }, _) if service.uid().as_ref() == Some(id) => Ok(()),
        (Proof::Adopted { .. }, _) => Err(format!("{at} is not the one that was taken over")),
        (Proof::Made { .. }, Some(mark)) if mark == claim.mark => Ok(()),
        (Proof::Made { .. }, Some(mark)) => Err(format!("{at} belongs to {}", mark.object)),
        (Proof::Made { .. }, None) => Err(format!("{at} has no annotation {MARK_ANNOTATION}")),
    }
}

/// The claim of a Service that is there, if it is this cluster's: by our mark, or, without one, as the
/// Go provider makes it.
fn claim_of(
    object: &KubevirtCluster,
    name: &ObjectName,
    owner: Option<&Token>,
    found: &ServiceView,
) -> Option<ClusterClaim> {
    let mark = match mark_in(&found.metadata) {
        Some(mark) => {
            // What was taken over is known by its uid; its mark may be older than the owner token.
            let is_adopted = match &mark.proof {
                Proof::Adopted { id } => found.uid().as_ref() == Some(id),
                Proof::Made { .. } => false,
            };
            let is_owner = is_adopted || owner.is_none_or(|owner| *owner == mark.owner);
            (mark.object == *name && is_owner).then_some(mark)?
        }
        None => {
            let meta = object.meta();
            let cluster = gate::owner_cluster(meta).or_else(|| gate::cluster_name(meta))?;
            if !service::is_of_the_go_provider(found, cluster) {
                return None;
            }
            // The owner is not on what we did not make; without it the proof alone counts.
            let owner = owner.cloned().unwrap_or_else(Token::random);
            Mark::adopted(owner, name.clone(), found.uid()?)
        }
    };
    Some(ClusterClaim {
        namespace: found.namespace().unwrap_or_default(),
        service: found.name_any(),
        given: service::is_elsewhere(&object.spec, Some(found)),
        mark,
    })
}

impl External for Clusters {
    type Object = KubevirtCluster;
    type Scope = Scope;
    type Session = Session;
    type Claim = ClusterClaim;
    type Seen = Arc<ServiceView>;
    type Step = ClusterStep;
    type Facts = ClusterFacts<ClusterStatus>;
    type Error = InfraError;

    fn creates_once(&self) -> bool {
        // The name of the Service is in the claim, and a name can be given once.
        true
    }

    async fn recover(
        &self,
        on: &Session,
        lost: &Lost<'_, KubevirtCluster>,
    ) -> Result<Option<ClusterClaim>, InfraError> {
        let object = lost.object;
        // Whoever makes the Service sets the finalizer first.
        let finalizers = object.finalizers();
        let begun = finalizers.iter().any(|one| one == CLUSTER_FINALIZER);
        if !begun {
            return Ok(None);
        }
        let namespace = on.namespace(template_namespace(object), &lost.name.namespace);
        let (name, owner) = (&lost.name, lost.owner.as_ref());
        let usual = service_name(&name.name, None);
        let found: Option<ServiceView> = on.infra().get(namespace, &usual).await?;
        let claim = found.and_then(|found| claim_of(object, name, owner, &found));
        if claim.is_some() {
            return Ok(claim);
        }
        let meta = object.meta();
        let cluster = gate::owner_cluster(meta).or_else(|| gate::cluster_name(meta));
        let Some(cluster) = cluster else {
            return Ok(None);
        };
        let selector = format!("{CLUSTER_NAME_LABEL}={cluster}");
        let found: Vec<ServiceView> = on.infra().list(namespace, &selector).await?;
        let marked = found.iter().filter(|one| mark_in(&one.metadata).is_some());
        Ok(marked
            .into_iter()
            .find_map(|one| claim_of(object, name, owner, one)))
    }

    async fn claim(
        &self,
        on: &Session,
        scope: &Scope,
        given_up: Option<&ClusterClaim>,
    ) -> Result<ClusterClaim, InfraError> {
        let (own, object) = (scope.name(), &scope.object);
        if let Some(given_up) = given_up {
            let (namespace, name) = (&given_up.namespace, &given_up.service);
            let found: Option<ServiceView> = on.infra().get(namespace, name).await?;
            // One of this very cluster, from an earlier life that was not found.
            let earlier =
                found.and_then(|found| claim_of(object, &own, Some(&scope.owner), &found));
            if let Some(earlier) = earlier.filter(|earlier| earlier.mark != given_up.mark) {
                return Ok(earlier);
            }
        }
        let mark = scope.mark();
        Ok(ClusterClaim {
            namespace: on
                .namespace(template_namespace(object), &own.namespace)
                .to_owned(),
            service: service_name(&own.name, given_up.map(|_| &mark)),
            given: given_up.map_or_else(
                || service::is_elsewhere(&object.spec, None),
                |given_up| given_up.given,
            ),
            mark,
        })
    }

    async fn observe(
        &self,
        on: &Session,
        claim: &ClusterClaim,
        depth: Depth,
    ) -> Result<Lookup<Arc<ServiceView>>, InfraError> {
        let (namespace, name) = (&claim.namespace, &claim.service);
        on.want(namespace, &[Kind::Service]);
        let services = on.services();
        on.first_list(Kind::Service, services, namespace).await;
        let known = services.get(namespace, name);
        if depth == Depth::Listing {
            let is_live = services.watched(namespace) == Watched::Live;
            let ours = known.filter(|service| is_live && whose(claim, service).is_ok());
            return Ok(ours.map_or_else(|| Lookup::Unsettled(unlisted(claim)), Lookup::Ours));
        }
        let found = match known {
            Some(known) => Some(known),
            None => match on.infra().get::<ServiceView>(namespace, name).await? {
                Some(found) => Some(services.answered(found)),
                None => {
                    services.forget(namespace, name);
                    None
                }
            },
        };
        Ok(match found {
            None => Lookup::Absent,
            Some(service) => match whose(claim, &service) {
                Ok(()) => Lookup::Ours(service),
                Err(other) => Lookup::Foreign(other),
            },
        })
    }

    fn plan(
        &self,
        scope: &Scope,
        claim: &ClusterClaim,
        seen: Option<&Arc<ServiceView>>,
    ) -> Plan<ClusterStep> {
        let wanted = manifest(scope, claim);
        let Some(seen) = seen else {
            let placed = if claim.given {
                wanted
            } else {
                service::placed(&scope.object.spec, wanted)
            };
            return Plan::Apply(ClusterStep::CreateService(placed));
        };
        if seen.metadata.deletion_timestamp.is_some() {
            return Plan::Wait(going(seen));
        }
        let patch = service::drift(&wanted, seen);
        let endpoint = fixed_endpoint(scope);
        let is_harmless = |patch: &Value| {
            let loses = endpoint
                .as_ref()
                .map(|to| service::loses_endpoint(to, seen, patch));
            loses.flatten().is_none()
        };
        if let Some(patch) = patch.filter(is_harmless) {
            let version = Version::state(&seen.metadata);
            return Plan::Apply(ClusterStep::ChangeService { version, patch });
        }
        match service::endpoint(&scope.object.spec, seen) {
            Err(waiting) if endpoint.is_none() => Plan::Wait(waiting),
            Ok(_) | Err(_) => Plan::Settled,
        }
    }

    fn plan_teardown(
        &self,
        _claim: &ClusterClaim,
        seen: &Arc<ServiceView>,
    ) -> Teardown<ClusterStep> {
        if seen.metadata.deletion_timestamp.is_some() {
            return Teardown::Wait(going(seen));
        }
        Teardown::Apply(ClusterStep::DeleteService(Version::identity(
            &seen.metadata,
        )))
    }

    async fn apply(
        &self,
        on: &Session,
        claim: &ClusterClaim,
        step: &ClusterStep,
        _supply: Supply<'_>,
    ) -> Result<Receipt, InfraError> {
        let (namespace, name) = (&claim.namespace, &claim.service);
        let infra = on.infra();
        let left: Option<ServiceView> = match step {
            ClusterStep::CreateService(manifest) => {
                Some(infra.create(namespace, name, manifest).await?)
            }
            ClusterStep::ChangeService { version, patch } => Some(
                infra
                    .change(namespace, name, version, patch.clone())
                    .await?,
            ),
            ClusterStep::DeleteService(version) => {
                infra
                    .delete(namespace, name, version, Deletion::Background)
                    .await?
            }
        };
        match left {
            Some(service) => {
                on.services().answered(service);
            }
            None => on.services().forget(namespace, name),
        }
        Ok(Receipt::Finished)
    }

    fn facts(
        &self,
        scope: &Scope,
        claim: &ClusterClaim,
        seen: &Arc<ServiceView>,
    ) -> ClusterFacts<ClusterStatus> {
        let spec = &scope.object.spec;
        let mut facts = ClusterFacts::default();
        facts.endpoint = service::endpoint(spec, seen).ok();
        facts.complete = seen.metadata.deletion_timestamp.is_none();
        let zones = spec.failure_domains.iter();
        facts.failure_domains = zones
            .map(|zone| FailureDomain {
                name: zone.name.clone(),
                control_plane: Some(zone.control_plane.unwrap_or(true)),
                attributes: zone.node_labels(),
            })
            .collect();
        if let Some(message) = trouble(scope, claim, seen) {
            facts.health = Health::Held {
                reason: "EndpointElsewhere",
                message,
            };
        }
        facts.own = ClusterStatus {
            ready: facts.endpoint.is_some() || fixed_endpoint(scope).is_some(),
        };
        facts
    }
}

/// What the Go provider deletes with a cluster: the parts of a cloud controller manager.
const EXTRA_KINDS: &[ChildKind] = &[
    extra("", "ConfigMap", "configmaps"),
    extra("", "ServiceAccount", "serviceaccounts"),
    extra("apps", "Deployment", "deployments"),
    extra("rbac.authorization.k8s.io", "Role", "roles"),
    extra("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
];

const fn extra(group: &'static str, kind: &'static str, plural: &'static str) -> ChildKind {
    ChildKind {
        group,
        version: "v1",
        kind,
        plural,
    }
}

fn unlisted(claim: &ClusterClaim) -> Waiting {
    let message = format!(
        "the watch does not show Service {}/{} as it should be",
        claim.namespace, claim.service
    );
    Waiting::new("LookingCloser", message, SOON)
}

fn going(service: &ServiceView) -> Waiting {
    let held = service.finalizers().join(", ");
    let name = service.name_any();
    let message = if held.is_empty() {
        format!("waiting until Service {name} is gone")
    } else {
        format!("waiting until Service {name} is gone, which is held by {held}")
    };
    Waiting::new("LoadBalancerDeleting", message, WATCHED)
}

impl InfraCluster for Clusters {
    const CONDITION: &'static str = "LoadBalancerAvailable";
    const FINALIZER: &'static str = CLUSTER_FINALIZER;
    const EXTRAS: Option<Extras> = Some(Extras {
        label: ("capk.cluster.x-k8s.io/template-kind", "extra-resource"),
        kinds: EXTRA_KINDS,
    });

    type Kind = KubevirtCluster;
    type Status = ClusterStatus;

    fn identity(&self, object: &KubevirtCluster) -> Option<Identity> {
        identity(object, None)
    }

    fn unsupported(&self, object: &KubevirtCluster) -> Vec<String> {
        service::faults(&object.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_called_as_the_go_provider_calls_it_unless_that_is_taken() {
        assert_eq!(service_name("c", None), "c-lb");
        let mark = Mark::made(Token::random(), ObjectName::new("ns", "c"));
        let other = service_name("c", Some(&mark));
        assert!(
            other.starts_with("c-lb-") && other.len() == "c-lb-".len() + 8,
            "{other}"
        );
        let long = service_name(&"c".repeat(80), Some(&mark));
        assert_eq!(long.len(), NAME_MAX);
    }
}
