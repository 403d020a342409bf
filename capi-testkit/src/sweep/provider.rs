//! The world of an infrastructure provider: an API server with the objects of Cluster API around one
//! infra cluster and one infra machine, gates open.
//!
//! Cluster API core does not run here: the objects are as it would have left them (2.1 to 2.3 of its
//! state machine), so that a run costs milliseconds and every write counted is the provider's.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use futures::future::BoxFuture;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::apiserver::ApiServer;
use crate::faults::Faults;
use crate::sweep::{Goal, Held, Interference, World};

/// The name under which the provider's requests are recorded, held and traced.
pub const PROVIDER: &str = "provider";
/// The name under which the test's own requests are recorded.
const SCRIPT: &str = "script";
const NAMESPACE: &str = "default";
/// The name of every object.
const NAME: &str = "sweep";
/// The Cluster API version of the objects around the provider's.
const CLUSTER_API: &str = "cluster.x-k8s.io/v1beta2";
const CLUSTER_NAME_LABEL: &str = "cluster.x-k8s.io/cluster-name";

/// What the simulated platform tells the sweep. See [`World`] for what each answer means.
pub trait Backend: Send + Sync + 'static {
    /// See [`World::things`].
    fn things(&self) -> Vec<String>;

    /// See [`World::things_wanted`].
    fn things_wanted(&self) -> usize {
        1
    }

    /// See [`World::violations`].
    fn violations(&self) -> Vec<String> {
        Vec::new()
    }

    /// See [`World::interfere`].
    fn interfere(&self, interference: Interference) -> bool {
        let _ = interference;
        false
    }

    /// Whatever of the platform has to run by itself.
    fn run(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// The objects of one cluster with one machine, as Cluster API core would have left them.
#[derive(Clone)]
pub struct Manifest {
    /// The infra cluster: `apiVersion`, `kind`, `spec`. Name, labels and owner are filled in.
    pub cluster: Value,
    /// The infra machine, likewise.
    pub machine: Value,
    /// Bootstrap data.
    pub bootstrap: String,
    /// More objects that have to be there first: credentials, pools.
    pub others: Vec<Value>,
}

// Bootstrap data and the other objects may hold secrets.
impl std::fmt::Debug for Manifest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Manifest")
            .field("cluster", &self.cluster)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl Manifest {
    /// A cluster and a machine with the smallest bootstrap data.
    pub fn new(cluster: Value, machine: Value) -> Self {
        Self {
            cluster,
            machine,
            bootstrap: "#cloud-config\n".to_owned(),
            others: Vec::new(),
        }
    }

    /// All objects in the order of creation. Owners without a uid get it when they are created.
    fn objects(&self) -> Vec<Value> {
        let reference = |infra: &Value| {
            let version = infra["apiVersion"].as_str().unwrap_or_default();
            let group = version.split('/').next().unwrap_or_default();
            json!({"apiGroup": group, "kind": infra["kind"], "name": NAME})
        };
        let data = base64::engine::general_purpose::STANDARD.encode(&self.bootstrap);
        let mut all = self.others.clone();
        all.push(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
            "metadata": {"name": "sweep-bootstrap", "labels": {CLUSTER_NAME_LABEL: NAME}},
            "data": {"value": data, "format": base64::engine::general_purpose::STANDARD.encode("cloud-config")},
        }));
        all.push(json!({
            "apiVersion": CLUSTER_API, "kind": "Cluster",
            "metadata": {"name": NAME},
            "spec": {"infrastructureRef": reference(&self.cluster)},
            "status": {"initialization": {"infrastructureProvisioned": true, "controlPlaneInitialized": true}},
        }));
        all.push(owned(
            &self.cluster,
            &json!({"apiVersion": CLUSTER_API, "kind": "Cluster", "name": NAME}),
        ));
        all.push(json!({
            "apiVersion": CLUSTER_API, "kind": "Machine",
            "metadata": {"name": NAME, "labels": {CLUSTER_NAME_LABEL: NAME}},
            "spec": {
                "clusterName": NAME,
                "version": "v1.34.2",
                "bootstrap": {"dataSecretName": "sweep-bootstrap"},
                "infrastructureRef": reference(&self.machine),
            },
            "status": {"initialization": {"bootstrapDataSecretCreated": true}},
        }));
        let owner = json!({
            "apiVersion": CLUSTER_API, "kind": "Machine", "name": NAME,
            "controller": true, "blockOwnerDeletion": true,
        });
        all.push(owned(&self.machine, &owner));
        all
    }
}

fn owned(infra: &Value, owner: &Value) -> Value {
    let mut infra = infra.clone();
    infra["metadata"]["name"] = json!(NAME);
    infra["metadata"]["labels"][CLUSTER_NAME_LABEL] = json!(NAME);
    infra["metadata"]["ownerReferences"] = json!([owner]);
    infra
}

type Start = Arc<dyn Fn(Client, Faults) -> BoxFuture<'static, ()> + Send + Sync>;

/// A [`World`] around a provider, on the in-process API server.
///
/// The provider is started with a client that already passes through the faults, and with the faults
/// for its other ports.
pub struct ProviderWorld<B> {
    server: ApiServer,
    script: Client,
    backend: B,
    manifest: Manifest,
    start: Start,
}

impl<B> std::fmt::Debug for ProviderWorld<B> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ProviderWorld")
            .field("server", &self.server)
            .field("manifest", &self.manifest)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> ProviderWorld<B> {
    /// `server` has the definitions of Cluster API and of the provider installed.
    pub fn new<S, F>(server: ApiServer, backend: B, manifest: Manifest, start: S) -> Self
    where
        S: Fn(Client, Faults) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            script: server.client(SCRIPT),
            server,
            backend,
            manifest,
            start: Arc::new(move |client, faults| Box::pin(start(client, faults))),
        }
    }

    /// The platform.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Merges a patch into an object, or into its status.
    pub(crate) async fn patch(
        &self,
        object: &Value,
        patch: Value,
        status: bool,
    ) -> Result<(), String> {
        let (api, params) = (self.api(object), PatchParams::default());
        let patch = Patch::Merge(patch);
        let patched = if status {
            api.patch_status(NAME, &params, &patch).await
        } else {
            api.patch(NAME, &params, &patch).await
        };
        patched
            .map(|_| ())
            .map_err(|error| format!("patching {}: {error}", object["kind"]))
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        Api::namespaced_with(self.script.clone(), NAMESPACE, &resource(object))
    }

    /// Creates the objects; the script has no faults, so anything else than success is a mistake in
    /// the manifest, and the run cannot go on.
    pub(crate) async fn create_edited(&self, edit: impl Fn(&mut Value)) -> Result<(), String> {
        let mut uids = BTreeMap::new();
        for mut object in self.manifest.objects() {
            edit(&mut object);
            let name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let what = format!("{} {name}", object["kind"]);
            let failed = |error: &dyn std::fmt::Display| format!("creating {what}: {error}");
            let owners = object["metadata"]["ownerReferences"].as_array_mut();
            for owner in owners.into_iter().flatten() {
                let key = (owner["kind"].to_string(), owner["name"].to_string());
                if owner["uid"].is_null() {
                    owner["uid"] = uids.get(&key).cloned().unwrap_or_default();
                }
            }
            let status = object.as_object_mut().and_then(|map| map.remove("status"));
            let api = self.api(&object);
            let parsed = serde_json::from_value(object.clone()).map_err(|error| failed(&error))?;
            let created = api
                .create(&PostParams::default(), &parsed)
                .await
                .map_err(|error| failed(&error))?;
            let uid = json!(created.metadata.uid);
            uids.insert(
                (
                    object["kind"].to_string(),
                    object["metadata"]["name"].to_string(),
                ),
                uid,
            );
            if let Some(status) = status {
                let patch = Patch::Merge(json!({"status": status}));
                api.patch_status(&name, &PatchParams::default(), &patch)
                    .await
                    .map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }

    /// The object as it is stored, without a request.
    pub(crate) fn stored(&self, object: &Value) -> Option<Value> {
        let resource = resource(object);
        let collection = format!("{}.{}", resource.plural, resource.group);
        self.server.object(&collection, NAMESPACE, NAME)
    }

    pub(crate) async fn remove(&self, object: &Value) -> Result<(), String> {
        match self
            .api(object)
            .delete(NAME, &DeleteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(format!("deleting {}: {error}", object["kind"])),
        }
    }

    async fn unmet(&self, goal: Goal) -> Result<Option<String>, String> {
        let machine = self.stored(&self.manifest.machine);
        let cluster = self.stored(&self.manifest.cluster);
        match goal {
            Goal::Built => Ok(unbuilt("infra machine", machine.as_ref(), true)
                .or_else(|| unbuilt("infra cluster", cluster.as_ref(), false))),
            Goal::Lost => Ok(match ready(machine.as_ref()) {
                Some("False") => None,
                ready => Some(format!("condition Ready of the infra machine is {ready:?}")),
            }),
            // The cluster goes after its last machine (2.5 of core's state machine).
            Goal::Gone => match (machine, cluster) {
                (Some(machine), _) => Ok(Some(still_there("infra machine", &machine))),
                (None, Some(cluster)) => {
                    if cluster["metadata"]["deletionTimestamp"].is_null() {
                        self.remove(&self.manifest.cluster).await?;
                    }
                    Ok(Some(still_there("infra cluster", &cluster)))
                }
                (None, None) => Ok(None),
            },
        }
    }
}

fn resource(object: &Value) -> ApiResource {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = object["kind"].as_str().unwrap_or_default();
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn unbuilt(what: &str, object: Option<&Value>, has_id: bool) -> Option<String> {
    let Some(object) = object else {
        return Some(format!("the {what} does not exist"));
    };
    let provisioned = object["status"]["initialization"]["provisioned"] == true;
    let named = !has_id
        || object["spec"]["providerID"]
            .as_str()
            .is_some_and(|id| !id.is_empty());
    if provisioned && named {
        return None;
    }
    Some(format!(
        "the {what} has providerID {} and status {}",
        object["spec"]["providerID"], object["status"]
    ))
}

fn ready(object: Option<&Value>) -> Option<&str> {
    let conditions = object?["status"]["conditions"].as_array()?;
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")?;
    ready["status"].as_str()
}

fn still_there(what: &str, object: &Value) -> String {
    format!(
        "the {what} still exists with finalizers {} and conditions {}",
        object["metadata"]["finalizers"], object["status"]["conditions"]
    )
}

impl<B: Backend> World for ProviderWorld<B> {
    fn start(&self, faults: Faults) -> BoxFuture<'static, ()> {
        let client = self.server.client_with(PROVIDER, &faults);
        (self.start)(client, faults)
    }

    fn surroundings(&self) -> BoxFuture<'static, ()> {
        self.backend.run()
    }

    fn create(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.create_edited(|_| {}))
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.remove(&self.manifest.machine))
    }

    fn missing(&self, goal: Goal) -> BoxFuture<'_, Option<String>> {
        Box::pin(async move { self.unmet(goal).await.unwrap_or_else(Some) })
    }

    fn things(&self) -> Vec<String> {
        self.backend.things()
    }

    fn things_wanted(&self) -> usize {
        self.backend.things_wanted()
    }

    fn violations(&self) -> Vec<String> {
        self.backend.violations()
    }

    fn interfere(&self, interference: Interference) -> BoxFuture<'_, bool> {
        let done = self.backend.interfere(interference);
        Box::pin(async move { done })
    }

    fn hold(&self) -> Option<Held> {
        Some(Box::new(self.server.hold_watch(PROVIDER, "")))
    }
}
