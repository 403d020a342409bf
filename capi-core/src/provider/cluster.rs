//! Infra clusters: between the engine and [`InfraCluster`].

use std::collections::HashMap;
use std::sync::Arc;

use capi_contract::condition::reason;
use capi_contract::gate::{self, Gate};
use capi_contract::ledger::{LEDGER_ANNOTATION, OWNER_ANNOTATION, owner_of};
use capi_contract::view::ClusterView;
use capi_contract::{
    Claim, ClusterScope, Endpoint, External, Identity, InfraCluster, Ledger, ObjectName, Token,
};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::children::{Nursery, Parent, dynamic_address, owner_reference};
use super::extras;
use super::keeper::Keeper;
use super::world::{Key, Role, Topic};
use crate::engine::{
    Admission, FactsOf, Failure, Kind, Leave, News, Notice, ObjectOf, ScopeOf, Subject, Told,
};
use crate::events::Recorder;

/// How many machines a message names.
const NAMED_MAX: usize = 5;

/// The infra clusters of a provider. `M` is the kind of its machines.
pub(crate) struct Clusters<T: InfraCluster, M> {
    pub(crate) external: T,
    pub(crate) nursery: Nursery<<T as InfraCluster>::Kind, M>,
    pub(crate) recorder: Recorder,
    /// Owner tokens that were chosen and are not written yet, so that waiting does not choose again.
    pub(crate) chosen: Mutex<HashMap<ObjectName, Token>>,
    pub(crate) keeper: Keeper,
}

impl<T: InfraCluster, M: Resource + Send + Sync + 'static> Clusters<T, M> {
    fn key(object: &<T as InfraCluster>::Kind) -> Key {
        Key {
            role: Role::Cluster,
            name: ObjectName::of(object),
        }
    }

    fn cluster(&self, object: &<T as InfraCluster>::Kind) -> Option<Arc<ClusterView>> {
        let key = Self::key(object);
        let meta = object.meta();
        let name = gate::owner_cluster(meta).or_else(|| gate::cluster_name(meta))?;
        let name = ObjectName::new(key.name.namespace.clone(), name);
        self.nursery.world.cluster(&key, &name)
    }

    async fn delete_extras(&self, object: &<T as InfraCluster>::Kind) -> Result<(), Failure> {
        let meta = object.meta();
        let cluster = gate::owner_cluster(meta).or_else(|| gate::cluster_name(meta));
        let (Some(extras), Some(cluster)) = (T::EXTRAS, cluster) else {
            return Ok(());
        };
        let namespace = meta.namespace.clone().unwrap_or_default();
        let cluster = ObjectName::new(namespace, cluster);
        let refused = extras::delete(&self.nursery.client, &extras, &cluster).await?;
        if !refused.is_empty() {
            let message = format!(
                "this program may not delete {}: what there is with the label {}={} is left; delete \
                 it, or install with `manifests --extra-resources`",
                refused.join(", "),
                extras.label.0,
                extras.label.1
            );
            // Not a warning: whether there are any it may not ask, and few clusters have some.
            let news = News {
                warning: false,
                reason: "ExtraResourcesLeft",
                message: &message,
            };
            self.recorder.record(object, news);
        }
        Ok(())
    }

    /// The owner token: as written, as the ledger's mark remembers it, or a new one.
    fn token(&self, object: &<T as InfraCluster>::Kind) -> Token {
        if let Some(written) = known_token::<T>(object) {
            return written;
        }
        let name = ObjectName::of(object);
        let mut chosen = self.chosen.lock();
        chosen.entry(name).or_insert_with(Token::random).clone()
    }
}

fn known_token<T: InfraCluster>(object: &<T as InfraCluster>::Kind) -> Option<Token> {
    owner_of(object).or_else(|| {
        let text = object.annotations().get(LEDGER_ANNOTATION)?;
        let name = ObjectName::of(object);
        let ledger: Ledger<<T as External>::Claim> = Ledger::parse(text, &name).ok()?;
        Some(ledger.claim.mark().owner.clone())
    })
}

impl<T, M> Kind for Clusters<T, M>
where
    T: InfraCluster,
    M: Resource + Send + Sync + 'static,
{
    type External = T;

    const LABEL: &'static str = "cluster";
    const REMADE: bool = true;

    fn external(&self) -> &T {
        &self.external
    }

    fn finalizer(&self) -> &'static str {
        T::FINALIZER
    }

    fn condition(&self) -> &'static str {
        T::CONDITION
    }

    fn load(&self, name: &ObjectName) -> Option<Arc<ObjectOf<Self>>> {
        self.nursery.world.infra_clusters.get(name)
    }

    fn stored(&self, mut object: ObjectOf<Self>) -> Arc<ObjectOf<Self>> {
        object.meta_mut().managed_fields = None;
        let name = ObjectName::of(&object);
        if owner_of(&object).is_some() {
            self.chosen.lock().remove(&name);
        }
        let object = self.nursery.world.infra_clusters.own(object);
        // Machines wait for the owner token, which no other write than ours brings.
        self.nursery.world.wake(&Topic::InfraCluster(name));
        object
    }

    async fn admit(
        &self,
        subject: &Subject<ObjectOf<Self>>,
        proven: bool,
    ) -> Result<Admission<ScopeOf<Self>>, Failure> {
        let object = subject.object.as_ref();
        let cluster = self.cluster(object);
        match gate::cluster(object.meta(), cluster.as_deref()) {
            Gate::Stranger | Gate::External => return Ok(Admission::Ignore),
            Gate::Paused(message) => return Ok(Admission::Paused(message)),
            Gate::Wait(waiting) => return Ok(Admission::Wait(waiting.into())),
            Gate::Open => {}
        }
        let Some(cluster) = cluster else {
            return Ok(Admission::Ignore);
        };
        let unsupported = self.external.unsupported(object);
        if !proven && !unsupported.is_empty() {
            let message = unsupported.join("; ");
            let notice = Notice::new(reason::UNSUPPORTED, message, gate::RECHECK);
            return Ok(Admission::Wait(notice));
        }
        let key = Self::key(object);
        let cluster_name = cluster.metadata.name.clone().unwrap_or_default();
        let parent = Parent {
            key: &key,
            owner: owner_reference(object),
            cluster: &cluster_name,
        };
        let children = self.external.objects(object, &cluster);
        let family = self.nursery.raise(&parent, children).await?;
        if let Some(notice) = family.waiting {
            return Ok(Admission::Wait(notice));
        }
        let token = self.token(object);
        let mut scope = ClusterScope::new(object.clone(), cluster.as_ref().clone(), token);
        scope.children = family.objects;
        scope
            .children
            .extend(family.addresses.iter().map(dynamic_address));
        Ok(Admission::Open(Box::new(scope)))
    }

    fn leave(&self, subject: &Subject<ObjectOf<Self>>) -> Leave {
        let object = subject.object.as_ref();
        let cluster = self.cluster(object);
        match gate::teardown(object.meta(), cluster.as_deref()) {
            Gate::Stranger | Gate::External => return Leave::Ignore,
            Gate::Paused(message) => return Leave::Paused(message),
            Gate::Wait(waiting) => return Leave::Wait(waiting.into()),
            Gate::Open => {}
        }
        let meta = object.meta();
        let name = gate::owner_cluster(meta).or_else(|| gate::cluster_name(meta));
        let Some(name) = name else {
            return Leave::Open;
        };
        let key = Self::key(object);
        let name = ObjectName::new(key.name.namespace.clone(), name);
        let machines = self.nursery.world.machines_of(&key, &name);
        match machines.as_slice() {
            [] => Leave::Open,
            some => {
                let message = machines_message(some);
                let why = reason::WAITING_FOR_MACHINES;
                Leave::Wait(Notice::new(why, message, gate::RECHECK))
            }
        }
    }

    fn identity(&self, subject: &Subject<ObjectOf<Self>>) -> Option<Identity> {
        self.external.identity(subject.object.as_ref())
    }

    fn owner(&self, subject: &Subject<ObjectOf<Self>>) -> Option<Token> {
        known_token::<T>(subject.object.as_ref())
    }

    fn annotations(&self, scope: &ScopeOf<Self>) -> Vec<(&'static str, String)> {
        vec![(OWNER_ANNOTATION, scope.owner.to_string())]
    }

    fn bootstrap_secret<'a>(&self, _scope: &'a ScopeOf<Self>) -> Option<&'a str> {
        None
    }

    /// What is shared may be made again, so nothing in spec forbids it.
    fn is_made(&self, _subject: &Subject<ObjectOf<Self>>) -> bool {
        false
    }

    fn tell(
        &self,
        subject: &Subject<ObjectOf<Self>>,
        scope: &ScopeOf<Self>,
        facts: &FactsOf<Self>,
    ) -> Told {
        let own = serde_json::to_value(&facts.own).unwrap_or_default();
        let mut status = own.as_object().cloned().unwrap_or_default();
        if !facts.failure_domains.is_empty() {
            status.insert("failureDomains".to_owned(), json!(facts.failure_domains));
        }
        let ours = (!self.external.endpoint_is_external(subject.object.as_ref()))
            .then(|| facts.endpoint.clone())
            .flatten();
        let (known, spec) = endpoint(&subject.raw, &scope.owner_cluster, ours);
        Told {
            status,
            spec,
            is_due: true,
            complete: facts.complete && known,
            missing: if facts.complete {
                "waiting for the control-plane endpoint: set spec.controlPlaneEndpoint"
            } else {
                "waiting for the cluster's infrastructure"
            },
            health: facts.health.clone(),
            conditions: Vec::new(),
        }
    }

    async fn connected(&self, subject: &Subject<ObjectOf<Self>>) -> Result<(), Failure> {
        let identity = self.identity(subject);
        let cluster = subject.object.as_ref();
        self.keeper.keep(cluster, identity.as_ref()).await
    }

    async fn release(&self, subject: &Subject<ObjectOf<Self>>) -> Result<(), Failure> {
        let identity = self.identity(subject);
        let cluster = subject.object.as_ref();
        self.delete_extras(cluster).await?;
        self.keeper.release(cluster, identity.as_ref()).await?;
        self.chosen
            .lock()
            .remove(&ObjectName::of(subject.object.as_ref()));
        Ok(())
    }

    fn announce(&self, object: &ObjectOf<Self>, news: News<'_>) {
        self.recorder.record(object, news);
    }
}

/// Whether the endpoint is known, and what to write of it. A preset one wins, then the Cluster's, and
/// neither is ever overwritten (IC-03, IC-04).
fn endpoint(
    raw: &Value,
    cluster: &ClusterView,
    ours: Option<Endpoint>,
) -> (bool, Option<Map<String, Value>>) {
    let preset = raw
        .pointer("/spec/controlPlaneEndpoint")
        .and_then(|value| serde_json::from_value::<Endpoint>(value.clone()).ok())
        .is_some_and(|endpoint| endpoint.is_valid());
    if preset || cluster.endpoint().is_some() {
        return (true, None);
    }
    match ours.filter(Endpoint::is_valid) {
        None => (false, None),
        Some(endpoint) => {
            let mut spec = Map::new();
            spec.insert("controlPlaneEndpoint".to_owned(), json!(endpoint));
            (true, Some(spec))
        }
    }
}

fn machines_message(names: &[String]) -> String {
    let shown = names.len().min(NAMED_MAX);
    let list = names[..shown].join(", ");
    let more = names.len() - shown;
    if more == 0 {
        format!("waiting until these machines are gone: {list}")
    } else {
        format!("waiting until these machines are gone: {list} and {more} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Option<Endpoint> {
        Some(Endpoint {
            host: "10.0.0.1".into(),
            port: 6443,
        })
    }

    #[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn cluster(endpoint: Value) -> ClusterView {
        serde_json::from_value(json!({"spec": {"controlPlaneEndpoint": endpoint}})).unwrap()
    }

    #[test]
    fn ic_04_a_preset_endpoint_and_the_clusters_are_never_overwritten() {
        let none = cluster(Value::Null);
        let preset = json!({"spec": {"controlPlaneEndpoint": {"host": "a", "port": 1}}});
        assert_eq!(endpoint(&preset, &none, ours()), (true, None));
        let of_cluster = cluster(json!({"host": "b", "port": 2}));
        assert_eq!(endpoint(&json!({}), &of_cluster, ours()), (true, None));
    }

    #[test]
    fn ic_03_half_an_endpoint_is_none() {
        let half = json!({"spec": {"controlPlaneEndpoint": {"host": "", "port": 0}}});
        let (known, spec) = endpoint(&half, &cluster(json!({"host": "b"})), ours());
        assert!(known);
        let spec = spec.unwrap();
        assert_eq!(
            spec["controlPlaneEndpoint"],
            json!({"host": "10.0.0.1", "port": 6443})
        );
        assert_eq!(endpoint(&half, &cluster(Value::Null), None), (false, None));
    }

    #[test]
    fn ic_14_the_message_names_some_machines() {
        let names: Vec<_> = (0..7).map(|n| format!("m{n}")).collect();
        assert!(machines_message(&names[..2]).ends_with("m0, m1"));
        assert!(machines_message(&names).ends_with("m4 and 2 more"));
    }
}
