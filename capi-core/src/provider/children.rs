//! Kubernetes objects that a provider needs: created, owned, awaited (IPC-*, WR-06).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::condition::reason;
use capi_contract::view::{
    AddressClaimView, AddressView, CLUSTER_NAME_LABEL, CORE_VERSION, IPAM_GROUP, WATCH_FILTER_LABEL,
};
use capi_contract::{Address, AddressRequest, Child, ChildKind, ChildObject, Class, ObjectName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Map, Value, json};

use super::world::{Key, Topic, World};
use crate::engine::{Comparison, Failure, Notice, compare};

/// How soon to look again after a create that found the object already there: the watch shows it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long children are left alone if no event comes; their watches bring every change.
const RECHECK: Duration = Duration::from_secs(600);

/// Whose children they are.
#[derive(Debug)]
pub(crate) struct Parent<'a> {
    pub(crate) key: &'a Key,
    pub(crate) owner: OwnerReference,
    pub(crate) cluster: &'a str,
}

/// What there is of the children.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) addresses: Vec<Address>,
    pub(crate) objects: Vec<DynamicObject>,
    /// What is missing.
    pub(crate) waiting: Option<Notice>,
}

impl Family {
    fn wait(&mut self, notice: Notice) {
        self.waiting.get_or_insert(notice);
    }
}

/// Creates children and looks after them.
pub(crate) struct Nursery<IC, IM> {
    pub(crate) world: Arc<World<IC, IM>>,
    pub(crate) client: Client,
    pub(crate) manager: String,
    pub(crate) watch_filter: Option<String>,
}

/// The owner reference of a child: the only controller, and in the way of a foreground deletion
/// (IPC-01).
pub(crate) fn owner_reference<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

impl<IC: Resource, IM: Resource> Nursery<IC, IM> {
    /// Makes sure that all children exist; those that are missing are all created before the first is
    /// waited for.
    pub(crate) async fn raise(
        &self,
        parent: &Parent<'_>,
        children: Vec<Child>,
    ) -> Result<Family, Failure> {
        let mut family = Family::default();
        let asks_for_addresses = children.iter().any(|c| matches!(c, Child::Address(_)));
        if asks_for_addresses && !self.world.is_ipam_synced(parent.key) {
            family.wait(Notice::new(
                reason::WAITING_FOR_ADDRESS,
                "waiting for the first list of address claims",
                RECHECK,
            ));
            return Ok(family);
        }
        for child in children {
            match child {
                Child::Address(request) => self.address(parent, request, &mut family).await?,
                Child::Object(object) => self.object(parent, object, &mut family).await?,
            }
        }
        Ok(family)
    }

    async fn address(
        &self,
        parent: &Parent<'_>,
        request: AddressRequest,
        family: &mut Family,
    ) -> Result<(), Failure> {
        let namespace = &parent.key.name.namespace;
        let name = ObjectName::new(namespace.clone(), request.name.clone());
        let Some(claim) = self.world.claim(parent.key, &name) else {
            let claim = address_claim(&request);
            if let Some(created) = self.create(parent, &claim).await? {
                let claim: Option<AddressClaimView> = serde_json::to_value(created)
                    .and_then(serde_json::from_value)
                    .ok();
                claim.into_iter().for_each(|c| self.world.claims.created(c));
            }
            let message = format!("waiting for IPAddressClaim {}", request.name);
            family.wait(Notice::new(reason::WAITING_FOR_ADDRESS, message, RECHECK));
            return Ok(());
        };
        let kind = claim_kind();
        self.adopt(
            parent,
            &kind,
            claim.metadata.name.as_deref(),
            claim.as_ref(),
        )
        .await?;
        let given = claim.status.address_ref.as_ref();
        let given = given.filter(|to| !to.name.is_empty()).and_then(|to| {
            let name = ObjectName::new(namespace.clone(), to.name.clone());
            self.world.address(parent.key, &name)
        });
        match given {
            Some(given) => family.addresses.push(read(&request, given.as_ref())?),
            None => family.wait(address_wait(&request, &claim)),
        }
        Ok(())
    }

    async fn object(
        &self,
        parent: &Parent<'_>,
        child: ChildObject,
        family: &mut Family,
    ) -> Result<(), Failure> {
        let Some(store) = self.world.child_store(&child.kind) else {
            let message = format!(
                "the provider asks for a {} that it does not list among its kinds",
                child.kind.kind
            );
            return Err(Failure::new("Child", Class::Terminal, message));
        };
        let name = ObjectName::new(parent.key.name.namespace.clone(), child.name.clone());
        let topic = Topic::Child(child.kind.clone(), name.clone());
        self.world.note(parent.key, topic);
        let Some(there) = store.get(&name) else {
            if let Some(created) = self.create(parent, &child).await? {
                store.created(created.clone());
                family.objects.push(created);
                return Ok(());
            }
            let message = format!("waiting for {} {}", child.kind.kind, child.name);
            family.wait(Notice::new(reason::WAITING_FOR_OBJECT, message, LOOK_AGAIN));
            return Ok(());
        };
        self.adopt(parent, &child.kind, Some(&child.name), there.as_ref())
            .await?;
        let there = self.keep_in_shape(parent, &child, there).await?;
        family.objects.push(there);
        Ok(())
    }

    /// Creates a child (R5: a create is a create). `None` if something of that name is there.
    async fn create(
        &self,
        parent: &Parent<'_>,
        child: &ChildObject,
    ) -> Result<Option<DynamicObject>, Failure> {
        let api = self.api(&parent.key.name.namespace, &child.kind);
        let object = self.body(parent, child);
        let params = PostParams {
            field_manager: Some(self.manager.clone()),
            ..PostParams::default()
        };
        match api.create(&params, &object).await {
            Ok(mut created) => {
                created.managed_fields_mut().clear();
                tracing::info!(object = %parent.key.name, kind = child.kind.kind, child = child.name, "created");
                Ok(Some(created))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // It may be ours, created by an earlier life and not yet brought by the watch, or
                // another's without our label, which the watch never brings.
                self.refuse_stranger(parent, child, &api).await?;
                Ok(None)
            }
            Err(error) => Err(refused("creating", &child.kind, &child.name, &error)),
        }
    }

    async fn refuse_stranger(
        &self,
        parent: &Parent<'_>,
        child: &ChildObject,
        api: &Api<DynamicObject>,
    ) -> Result<(), Failure> {
        match api.get_opt(&child.name).await {
            Ok(Some(there)) => {
                is_ours(parent, &child.kind, &child.name, &there)?;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(refused("reading", &child.kind, &child.name, &error)),
        }
    }

    /// Restores the owner reference of a child that lost it, as a restored backup does (WR-06).
    async fn adopt<K: Resource>(
        &self,
        parent: &Parent<'_>,
        kind: &ChildKind,
        name: Option<&str>,
        there: &K,
    ) -> Result<(), Failure> {
        let name = name.unwrap_or_default();
        if is_ours(parent, kind, name, there)? {
            return Ok(());
        }
        let mut owners: Vec<_> = there.owner_references().to_vec();
        owners.retain(|owner| owner.controller != Some(true));
        owners.push(parent.owner.clone());
        let patch = json!({"metadata": {
            "resourceVersion": there.resource_version(),
            "ownerReferences": owners,
        }});
        let params = PatchParams {
            field_manager: Some(self.manager.clone()),
            ..PatchParams::default()
        };
        let api = self.api(&parent.key.name.namespace, kind);
        api.patch(name, &params, &Patch::Merge(&patch))
            .await
            .map(drop)
            .map_err(|error| refused("adopting", kind, name, &error))
    }

    /// Applies the body where what is there differs: only to what was just seen to be ours (R5).
    async fn keep_in_shape(
        &self,
        parent: &Parent<'_>,
        child: &ChildObject,
        there: Arc<DynamicObject>,
    ) -> Result<DynamicObject, Failure> {
        let empty = Map::new();
        let current = there.data.as_object().unwrap_or(&empty);
        if compare(current, &child.body) != Comparison::Different {
            return Ok(there.as_ref().clone());
        }
        let mut object = self.body(parent, child);
        object.metadata.resource_version = there.resource_version();
        let api = self.api(&parent.key.name.namespace, &child.kind);
        let params = PatchParams::apply(&self.manager).force();
        let written = api
            .patch(&child.name, &params, &Patch::Apply(&object))
            .await
            .map_err(|error| refused("applying", &child.kind, &child.name, &error))?;
        Ok(written)
    }

    fn body(&self, parent: &Parent<'_>, child: &ChildObject) -> DynamicObject {
        let mut object = DynamicObject::new(&child.name, &resource_of(&child.kind));
        object.metadata.namespace = Some(parent.key.name.namespace.clone());
        object.metadata.owner_references = Some(vec![parent.owner.clone()]);
        let mut labels = child.labels.clone();
        labels.insert(CLUSTER_NAME_LABEL.to_owned(), parent.cluster.to_owned());
        if let Some(filter) = &self.watch_filter {
            labels.insert(WATCH_FILTER_LABEL.to_owned(), filter.clone());
        }
        object.metadata.labels = Some(labels);
        if !child.annotations.is_empty() {
            object.metadata.annotations = Some(child.annotations.clone());
        }
        let mut body = child.body.clone();
        if child.kind.group == IPAM_GROUP && child.kind.kind == "IPAddressClaim" {
            body["spec"]["clusterName"] = Value::String(parent.cluster.to_owned());
        }
        object.data = Value::Object(body);
        object
    }

    fn api(&self, namespace: &str, kind: &ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource_of(kind))
    }
}

/// The dynamic form of a child kind.
pub(crate) fn resource_of(kind: &ChildKind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    ApiResource::from_gvk_with_plural(&gvk, kind.plural)
}

fn claim_kind() -> ChildKind {
    ChildKind {
        group: IPAM_GROUP,
        version: CORE_VERSION,
        kind: "IPAddressClaim",
        plural: "ipaddressclaims",
    }
}

fn address_claim(request: &AddressRequest) -> ChildObject {
    let mut body = Map::new();
    body.insert("spec".to_owned(), json!({"poolRef": request.pool}));
    let mut claim = ChildObject::new(claim_kind(), request.name.clone(), body);
    claim.labels.clone_from(&request.labels);
    claim.annotations.clone_from(&request.annotations);
    claim
}

/// Whether a child has our owner reference; an error if it has another's.
fn is_ours<K: Resource>(
    parent: &Parent<'_>,
    kind: &ChildKind,
    name: &str,
    there: &K,
) -> Result<bool, Failure> {
    let owners = there.owner_references();
    let Some(controller) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return Ok(false);
    };
    if controller.uid == parent.owner.uid {
        return Ok(true);
    }
    // The same owner with another uid: it was moved or restored.
    if controller.kind == parent.owner.kind && controller.name == parent.owner.name {
        return Ok(false);
    }
    let message = format!(
        "{} {name} belongs to {} {}; delete it or rename one of them",
        kind.kind, controller.kind, controller.name
    );
    Err(Failure::new("Child", Class::Misconfigured, message))
}

fn refused(doing: &str, kind: &ChildKind, name: &str, error: &kube::Error) -> Failure {
    tracing::warn!(kind = kind.kind, name, %error, "{doing} a child failed");
    let (class, why) = match error {
        kube::Error::Api(status) => {
            let class = match status.code {
                409 => Class::Conflict,
                400 | 403 | 404 | 422 => Class::Misconfigured,
                _ => Class::Transient,
            };
            (class, format!(": {}", status.message))
        }
        _ => (Class::Transient, String::new()),
    };
    let message = format!("{doing} {} {name} failed{why}", kind.kind);
    Failure::new("Child", class, message)
}

fn address_wait(request: &AddressRequest, claim: &AddressClaimView) -> Notice {
    let complaint = claim
        .status
        .conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "False");
    let mut message = format!(
        "waiting for an address from {} {} (IPAddressClaim {})",
        request.pool.kind, request.pool.name, request.name
    );
    // Without a complaint, whoever runs the pool has simply not answered yet.
    if let Some(complaint) = complaint {
        message.push_str(": ");
        message.push_str(&complaint.reason);
        if !complaint.message.is_empty() {
            message.push_str(", ");
            message.push_str(&complaint.message);
        }
        message.push_str("; add addresses to the pool, or remove machines that have some");
    }
    Notice::new(reason::WAITING_FOR_ADDRESS, message, RECHECK)
}

fn read(request: &AddressRequest, given: &AddressView) -> Result<Address, Failure> {
    let name = given.metadata.name.as_deref().unwrap_or_default();
    let parse = |field: &str, text: &str| {
        text.parse::<IpAddr>().map_err(|_| {
            let message = format!("IPAddress {name}: {field} {text:?} is not an IP address");
            Failure::new("Address", Class::Misconfigured, message)
        })
    };
    let gateway = given
        .spec
        .gateway
        .as_deref()
        .filter(|text| !text.is_empty());
    Ok(Address {
        claim: request.name.clone(),
        device: request.device.clone(),
        ip: parse("spec.address", &given.spec.address)?,
        prefix: given.spec.prefix,
        gateway: gateway
            .map(|text| parse("spec.gateway", text))
            .transpose()?,
    })
}

/// An address as a dynamic object, for infra clusters, whose scope holds children in that form.
pub(crate) fn dynamic_address(address: &Address) -> DynamicObject {
    let gvk = GroupVersionKind::gvk(IPAM_GROUP, CORE_VERSION, "IPAddress");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "ipaddresses");
    let mut object = DynamicObject::new(&address.claim, &resource);
    object.data = json!({"spec": {
        "address": address.ip.to_string(),
        "prefix": address.prefix,
        "gateway": address.gateway.map(|ip| ip.to_string()),
        "claimRef": {"name": address.claim},
    }});
    object
}

#[cfg(test)]
mod tests {
    use capi_contract::PoolRef;

    use super::*;

    fn request() -> AddressRequest {
        let pool = PoolRef {
            api_group: "ipam.cluster.x-k8s.io".into(),
            kind: "InClusterIPPool".into(),
            name: "pool".into(),
        };
        AddressRequest::new("m-net0", "net0", pool)
    }

    fn claim(value: Value) -> AddressClaimView {
        serde_json::from_value(value).unwrap()
    }

    fn parent(key: &Key) -> Parent<'_> {
        Parent {
            key,
            owner: OwnerReference {
                kind: "InfraMachine".into(),
                name: "m".into(),
                uid: "uid-1".into(),
                controller: Some(true),
                ..OwnerReference::default()
            },
            cluster: "c",
        }
    }

    fn key() -> Key {
        Key {
            role: super::super::world::Role::Machine,
            name: ObjectName::new("ns", "m"),
        }
    }

    #[test]
    fn ipc_04_an_exhausted_pool_shows_with_its_own_words() {
        let waiting = address_wait(
            &request(),
            &claim(
                json!({"status": {"conditions": [{"type": "Ready", "status": "False",
                "reason": "PoolExhausted", "message": "no free address",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
            ),
        );
        assert!(waiting.message.contains("InClusterIPPool pool"));
        assert!(waiting.message.contains("PoolExhausted, no free address; "));
    }

    #[test]
    fn ipc_03_an_address_is_read_and_a_bad_one_names_the_field() {
        let view: AddressView = serde_json::from_value(json!({"metadata": {"name": "a"},
            "spec": {"address": "10.0.0.7", "prefix": 24, "gateway": ""}}))
        .unwrap();
        let address = read(&request(), &view).unwrap();
        assert_eq!(
            (address.ip.to_string().as_str(), address.prefix),
            ("10.0.0.7", 24)
        );
        assert_eq!(address.gateway, None);
        let bad: AddressView =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"address": "x"}}))
                .unwrap();
        let failure = read(&request(), &bad).unwrap_err();
        assert!(failure.message.contains("spec.address"));
    }

    #[test]
    fn wr_06_a_stripped_owner_is_restored_and_a_stranger_is_left_alone() {
        let key = key();
        let owned = |owners: Value| {
            let view = claim(json!({"metadata": {"ownerReferences": owners}}));
            is_ours(&parent(&key), &claim_kind(), "m-net0", &view)
        };
        let owner = |name: &str, uid: &str| {
            json!([{"apiVersion": "x/v1", "kind": "InfraMachine", "name": name, "uid": uid,
                "controller": true}])
        };
        assert_eq!(owned(owner("m", "uid-1")), Ok(true));
        assert_eq!(owned(owner("m", "uid-0")), Ok(false));
        assert_eq!(owned(json!([])), Ok(false));
        let failure = owned(owner("other", "uid-2")).unwrap_err();
        assert!(failure.message.contains("InfraMachine other"));
    }
}
