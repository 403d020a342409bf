//! Machines: between the engine and [`InfraMachine`].

use std::sync::Arc;

use capi_contract::condition::reason;
use capi_contract::gate::{self, Gate, MachineInputs};
use capi_contract::ledger::owner_of;
use capi_contract::view::{ClusterView, MachineView};
use capi_contract::{Identity, InfraMachine, MachineScope, ObjectName, Token};
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};

use super::children::{Nursery, Parent, owner_reference};
use super::node::{DRAIN_ANNOTATION, Wishes};
use super::world::{Key, Role, Topic};
use crate::engine::{
    Admission, FactsOf, Failure, Kind, Leave, News, Notice, ObjectOf, ScopeOf, Subject, Told,
};
use crate::events::Recorder;

/// The machines of a provider.
pub(crate) struct Machines<T: InfraMachine> {
    pub(crate) external: T,
    pub(crate) nursery: Nursery<<T as InfraMachine>::Cluster, <T as InfraMachine>::Kind>,
    pub(crate) recorder: Recorder,
    pub(crate) wishes: Arc<Wishes>,
}

/// What surrounds a machine.
struct Around<C> {
    machine: Option<Arc<MachineView>>,
    cluster: Option<Arc<ClusterView>>,
    infra: Option<Arc<C>>,
}

impl<T: InfraMachine> Machines<T> {
    fn key(object: &<T as InfraMachine>::Kind) -> Key {
        Key {
            role: Role::Machine,
            name: ObjectName::of(object),
        }
    }

    fn around(&self, object: &<T as InfraMachine>::Kind) -> Around<<T as InfraMachine>::Cluster> {
        let world = &self.nursery.world;
        let key = Self::key(object);
        let meta = object.meta();
        let beside = |name: &str| ObjectName::new(key.name.namespace.clone(), name);
        let machine = gate::owner_machine(meta).and_then(|name| world.machine(&key, &beside(name)));
        // By the Machine's label; by the own one where the Machine is gone (teardown).
        let named = machine
            .as_ref()
            .and_then(|m| gate::cluster_name(&m.metadata));
        let cluster = named
            .or_else(|| gate::cluster_name(meta))
            .and_then(|name| world.cluster(&key, &beside(name)));
        let reference = cluster
            .as_ref()
            .and_then(|c| c.spec.infrastructure_ref.as_ref())
            .filter(|to| {
                let group = <T as InfraMachine>::Cluster::group(&());
                to.is(&group, &<T as InfraMachine>::Cluster::kind(&()))
            });
        let infra = reference.and_then(|to| world.infra_cluster(&key, &beside(&to.name)));
        Around {
            machine,
            cluster,
            infra,
        }
    }

    async fn open(
        &self,
        object: &<T as InfraMachine>::Kind,
        around: (Arc<MachineView>, Arc<ClusterView>, Arc<T::Cluster>),
        proven: bool,
    ) -> Result<Admission<ScopeOf<Self>>, Failure> {
        let (machine, cluster, infra) = around;
        let unsupported = self.external.unsupported(object, infra.as_ref());
        if !proven && !unsupported.is_empty() {
            let message = unsupported.join("; ");
            let notice = Notice::new(reason::UNSUPPORTED, message, gate::RECHECK);
            return Ok(Admission::Wait(notice));
        }
        let Some(owner) = owner_token(infra.as_ref(), &cluster) else {
            let message = format!(
                "waiting for {} {}, whose conditions say what it waits for itself",
                T::Cluster::kind(&()),
                infra.name_any()
            );
            let why = reason::WAITING_FOR_CLUSTER_INFRASTRUCTURE_READY;
            return Ok(Admission::Wait(Notice::new(why, message, gate::RECHECK)));
        };
        let key = Self::key(object);
        let cluster_name = cluster.metadata.name.clone().unwrap_or_default();
        let parent = Parent {
            key: &key,
            owner: owner_reference(object),
            cluster: &cluster_name,
        };
        let children = self.external.objects(object, infra.as_ref(), &machine);
        let family = self.nursery.raise(&parent, children).await?;
        if let Some(notice) = family.waiting {
            return Ok(Admission::Wait(notice));
        }
        let mut scope = MachineScope::new(
            object.clone(),
            infra.as_ref().clone(),
            machine.as_ref().clone(),
            cluster.as_ref().clone(),
            owner,
        );
        scope.addresses = family.addresses;
        self.nursery.world.note(&key, Topic::Node(key.name.clone()));
        scope.drained = self.wishes.drained(&key.name);
        Ok(Admission::Open(Box::new(scope)))
    }
}

/// The owner token: on the infra cluster, or, where nothing may be written there (EX-01), derived from
/// what names the workload cluster uniquely, its endpoint included.
fn owner_token<C: Resource>(infra: &C, cluster: &ClusterView) -> Option<Token> {
    if !gate::is_externally_managed(infra.meta()) {
        return owner_of(infra);
    }
    let name = ObjectName::of(infra).to_string();
    let endpoint = cluster.endpoint().map(|e| e.to_string());
    Some(Token::derived(&[&name, &endpoint.unwrap_or_default()]))
}

impl<T: InfraMachine> Kind for Machines<T> {
    type External = T;

    const LABEL: &'static str = "machine";
    const REMADE: bool = false;

    fn external(&self) -> &T {
        &self.external
    }

    fn finalizer(&self) -> &'static str {
        T::FINALIZER
    }

    fn condition(&self) -> &'static str {
        T::CONDITION
    }

    fn conditions(&self) -> &'static [&'static str] {
        T::CONDITIONS
    }

    fn load(&self, name: &ObjectName) -> Option<Arc<ObjectOf<Self>>> {
        let found = self.nursery.world.infra_machines.get(name);
        if found.is_none() {
            self.wishes.forget(name);
        }
        found
    }

    fn stored(&self, mut object: ObjectOf<Self>) -> Arc<ObjectOf<Self>> {
        object.managed_fields_mut().clear();
        object.meta_mut().managed_fields = None;
        self.nursery.world.infra_machines.own(object)
    }

    async fn admit(
        &self,
        subject: &Subject<ObjectOf<Self>>,
        proven: bool,
    ) -> Result<Admission<ScopeOf<Self>>, Failure> {
        let object = subject.object.as_ref();
        let around = self.around(object);
        let gate = gate::machine(MachineInputs {
            meta: object.meta(),
            machine: around.machine.as_deref(),
            cluster: around.cluster.as_deref(),
            infra_cluster: around.infra.as_deref().map(Resource::meta),
        });
        let waiting = match gate {
            Gate::Stranger | Gate::External => return Ok(Admission::Ignore),
            Gate::Paused(message) => return Ok(Admission::Paused(message)),
            Gate::Wait(waiting) => Some(waiting),
            Gate::Open => None,
        };
        match (around.machine, around.cluster, around.infra, waiting) {
            (Some(machine), Some(cluster), Some(infra), None) => {
                self.open(object, (machine, cluster, infra), proven).await
            }
            // What is built is watched on, whatever else is not ready yet: after a move the Cluster's
            // status comes back late (MV-03).
            (Some(machine), Some(cluster), Some(infra), Some(_)) if proven => {
                self.open(object, (machine, cluster, infra), proven).await
            }
            (.., Some(waiting)) => Ok(Admission::Wait(waiting.into())),
            (.., None) => Ok(Admission::Ignore),
        }
    }

    fn leave(&self, subject: &Subject<ObjectOf<Self>>) -> Leave {
        let object = subject.object.as_ref();
        // Core drains the nodes of machines that go.
        self.wishes.forget(&ObjectName::of(object));
        let around = self.around(object);
        match gate::teardown(object.meta(), around.cluster.as_deref()) {
            Gate::Stranger | Gate::External => Leave::Ignore,
            Gate::Paused(message) => Leave::Paused(message),
            Gate::Wait(waiting) => Leave::Wait(waiting.into()),
            Gate::Open => Leave::Open,
        }
    }

    fn identity(&self, subject: &Subject<ObjectOf<Self>>) -> Option<Identity> {
        let object = subject.object.as_ref();
        let around = self.around(object);
        let machine = around.machine.as_ref();
        let domain = machine.and_then(|m| m.spec.failure_domain.as_deref());
        self.external
            .identity(object, around.infra.as_deref(), domain)
    }

    fn owner(&self, subject: &Subject<ObjectOf<Self>>) -> Option<Token> {
        let around = self.around(subject.object.as_ref());
        owner_token(around.infra.as_deref()?, around.cluster.as_deref()?)
    }

    fn annotations(&self, _scope: &ScopeOf<Self>) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn bootstrap_secret<'a>(&self, scope: &'a ScopeOf<Self>) -> Option<&'a str> {
        let name = scope.machine.spec.bootstrap.data_secret_name.as_deref();
        name.filter(|name| !name.is_empty())
    }

    fn is_made(&self, subject: &Subject<ObjectOf<Self>>) -> bool {
        provider_id(&subject.raw).is_some()
    }

    /// A drain that an earlier process began.
    fn is_unfinished(&self, subject: &Subject<ObjectOf<Self>>) -> bool {
        let annotations = subject.object.annotations();
        annotations.contains_key(DRAIN_ANNOTATION)
    }

    fn tell(
        &self,
        subject: &Subject<ObjectOf<Self>>,
        scope: &ScopeOf<Self>,
        facts: &FactsOf<Self>,
    ) -> Told {
        let id = provider_id(&subject.raw).or(facts.provider_id.as_deref());
        self.wishes.note(scope, facts.node.as_ref(), id);
        let last = subject.status();
        let own = serde_json::to_value(&facts.own).unwrap_or_default();
        let mut status = own.as_object().cloned().unwrap_or_default();
        // An agent that is silent for a moment does not mean that there are no addresses.
        let addresses = match facts.addresses.as_slice() {
            [] => last.get("addresses").cloned(),
            known => Some(json!(known)),
        };
        let domain = match &facts.failure_domain {
            None => last.get("failureDomain").cloned(),
            Some(known) => Some(json!(known)),
        };
        let has_addresses = addresses.is_some();
        status.extend(addresses.map(|a| ("addresses".to_owned(), a)));
        status.extend(domain.map(|d| ("failureDomain".to_owned(), d)));

        let written = provider_id(&subject.raw).is_some();
        let complete = facts.running && has_addresses && (written || facts.provider_id.is_some());
        let is_final = complete || T::PROVIDER_ID_IS_CLAIMED && facts.provider_id.is_some();
        let spec = (is_final && !written).then(|| {
            let mut spec: Map<String, Value> = facts
                .spec
                .iter()
                .filter(|(field, _)| T::SPEC_WRITES.contains(&field.as_str()))
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect();
            spec.insert("providerID".to_owned(), json!(facts.provider_id));
            spec
        });
        Told {
            status,
            spec,
            is_due: complete,
            complete,
            missing: missing(facts.running, has_addresses),
            health: facts.health.clone(),
            conditions: facts.conditions.clone(),
        }
    }

    async fn release(&self, _subject: &Subject<ObjectOf<Self>>) -> Result<(), Failure> {
        Ok(())
    }

    fn announce(&self, object: &ObjectOf<Self>, news: News<'_>) {
        self.recorder.record(object, news);
    }
}

fn missing(running: bool, has_addresses: bool) -> &'static str {
    if !running {
        "waiting for the machine to run"
    } else if has_addresses {
        "waiting for the machine's provider id"
    } else {
        "waiting for the machine's addresses"
    }
}

fn provider_id(raw: &Value) -> Option<&str> {
    let id = raw.pointer("/spec/providerID")?.as_str()?;
    (!id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn im_16_an_empty_provider_id_is_none() {
        assert_eq!(
            provider_id(&json!({"spec": {"providerID": "x://1"}})),
            Some("x://1")
        );
        assert_eq!(provider_id(&json!({"spec": {"providerID": ""}})), None);
        assert_eq!(provider_id(&json!({"spec": {}})), None);
    }
}
