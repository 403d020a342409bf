//! A site: the in-process API server, the in-memory Proxmox VE, IPAM, and the real provider between
//! them, all on a paused clock.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use capi_contract::{Connect, InfraMachine};
use capi_core::{Clock, Options, Provider};
use capi_testkit::apiserver::ApiServer;
use capi_testkit::crds;
use capi_testkit::faults::{Call, Faults, Injected};
use capi_testkit::ipam::Ipam;
use capi_testkit::sweep::PROVIDER;
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt as _};
use provider_proxmox::api::{self, ProxmoxCluster};
use provider_proxmox::cluster::Clusters;
use provider_proxmox::connect::{Connector, Settings};
use provider_proxmox::machine::Machines;
use provider_proxmox::pve::{Transport, TransportError};
use provider_proxmox::session::Session;
use pve_sim::Platform;
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) const NAMESPACE: &str = "default";
pub(crate) const MACHINES: &str = "proxmoxmachines.infrastructure.cluster.x-k8s.io";
pub(crate) const CLUSTERS: &str = "proxmoxclusters.infrastructure.cluster.x-k8s.io";
/// When every world begins; the date does not matter, equal runs do.
const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// Longer than any wait of a test, in virtual time.
const LIMIT: Duration = Duration::from_secs(3_600);
/// Finer than anything that a test measures.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// Every definition that provider, IPAM and the objects around them need, parsed once.
static DEFINITIONS: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(|| {
    let published = [
        "clusters.cluster.x-k8s.io",
        "machines.cluster.x-k8s.io",
        "ipaddressclaims.ipam.cluster.x-k8s.io",
        "ipaddresses.ipam.cluster.x-k8s.io",
        "inclusterippools.ipam.cluster.x-k8s.io",
        "globalinclusterippools.ipam.cluster.x-k8s.io",
    ];
    let published = published.map(|name| crds::named(name).unwrap().clone());
    let published = published.map(|value| serde_json::from_value(value).unwrap());
    published.into_iter().chain(api::crds()).collect()
});

/// Both sides of the provider.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) server: ApiServer,
    pub(crate) platform: Platform,
    clock: Clock,
}

impl Site {
    /// Inside the runtime of the test.
    pub(crate) fn new(platform: Platform) -> Self {
        let server = ApiServer::builder().seed(1).epoch(EPOCH).build();
        server.install_crds(DEFINITIONS.iter().cloned()).unwrap();
        Self {
            server,
            platform,
            clock: Clock::tokio(EPOCH),
        }
    }

    /// Around a server that a process uses too, in real time.
    pub(crate) fn of(server: ApiServer, platform: Platform) -> Self {
        Self {
            server,
            platform,
            clock: Clock::system(),
        }
    }

    /// Runs the provider until it is dropped.
    pub(crate) async fn provide<M>(&self, client: Client, line: impl Transport, machines: M)
    where
        M: InfraMachine<Session = Session, Cluster = ProxmoxCluster>,
    {
        let (token, secret) = self.platform.token();
        let connector = connector(&token, &secret, line);
        self.provide_through(client, connector, machines).await;
    }

    /// Runs the provider with any connector until it is dropped.
    pub(crate) async fn provide_through<C, M>(&self, client: Client, connector: C, machines: M)
    where
        C: Connect<Session = Session>,
        M: InfraMachine<Session = Session, Cluster = ProxmoxCluster>,
    {
        let options = Options {
            clock: self.clock.clone(),
            ..Options::default()
        };
        Provider::new(connector)
            .cluster(Clusters)
            .machine(machines)
            .options(options)
            .run(client, futures::future::pending())
            .await
            .unwrap();
    }

    /// Runs provider and IPAM in the background, undisturbed, for as long as the test's runtime.
    pub(crate) fn start(&self) {
        let (provider, ipam) = (self.clone(), self.clone());
        tokio::spawn(async move {
            let client = provider.server.client(PROVIDER);
            let line = Line::new(&provider.platform, Faults::none());
            provider.provide(client, line, Machines).await;
        });
        tokio::spawn(async move { ipam.give_addresses().await });
    }

    /// The same with any connector.
    pub(crate) fn start_through(&self, connector: impl Connect<Session = Session>) {
        let (provider, ipam) = (self.clone(), self.clone());
        tokio::spawn(async move {
            let client = provider.server.client(PROVIDER);
            provider.provide_through(client, connector, Machines).await;
        });
        tokio::spawn(async move { ipam.give_addresses().await });
    }

    /// Creates a namespace.
    pub(crate) async fn create_namespace(&self, name: &str) {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Namespace"));
        let namespace = DynamicObject::new(name, &kind);
        let all = Api::<DynamicObject>::all_with(self.server.client("script"), &kind);
        let params = PostParams::default();
        all.create(&params, &namespace).await.unwrap();
    }

    /// Messages of the Events about an object, by reason.
    pub(crate) fn events(&self, name: &str) -> Vec<(String, String)> {
        let about = |event: &&Value| event["involvedObject"]["name"] == name;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.server.objects("events");
        let events = events.iter().filter(about);
        events
            .map(|event| (text(&event["reason"]), text(&event["message"])))
            .collect()
    }

    /// The infra machine of this name.
    pub(crate) fn machine(&self, name: &str) -> Option<Value> {
        self.server.object(MACHINES, NAMESPACE, name)
    }

    /// Waits for this to become true, for at most an hour of virtual time.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            let machines = self.server.objects(MACHINES);
            let states = machines.iter().map(|machine| {
                let conditions = &machine["status"]["conditions"];
                format!("{}: {conditions}", machine["metadata"]["name"])
            });
            let states: Vec<_> = states.collect();
            assert!(begun.elapsed() < LIMIT, "never {what}: {states:#?}");
            tokio::time::sleep(ASKED_EVERY).await;
        }
    }

    /// Gives addresses to claims until it is dropped.
    pub(crate) async fn give_addresses(&self) {
        let client = self.server.client("ipam");
        match Ipam::builder(client).epoch(EPOCH).run().await {}
    }

    /// What the provider asks of the pools and of IPAM, and what IPAM made of it.
    pub(crate) fn address_objects(&self) -> Vec<String> {
        let kinds = [
            "ipaddressclaims.ipam.cluster.x-k8s.io",
            "ipaddresses.ipam.cluster.x-k8s.io",
        ];
        let all = kinds.iter().flat_map(|kind| {
            let objects = self.server.objects(kind).into_iter();
            objects.map(move |object| format!("{kind} {}", object["metadata"]["name"]))
        });
        all.collect()
    }
}

/// The infra cluster: `apiVersion`, `kind`, `spec`.
pub(crate) fn cluster() -> Value {
    bare(serde_json::to_value(crate::world::cluster()).unwrap())
}

/// The infra machine, likewise.
pub(crate) fn machine() -> Value {
    bare(serde_json::to_value(crate::world::machine("m")).unwrap())
}

fn bare(mut object: Value) -> Value {
    object["metadata"] = json!({});
    object.as_object_mut().unwrap().remove("status");
    object
}

/// A connector with credentials of the process's own.
pub(crate) fn connector(token: &str, secret: &str, line: impl Transport) -> Connector {
    let variables = [
        ("PROXMOX_URL", "https://pve.example.com:8006"),
        ("PROXMOX_TOKEN", token),
        ("PROXMOX_SECRET", secret),
        // Nothing is verified in memory, and reading the system's roots takes long.
        ("PROXMOX_INSECURE", "1"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Settings::of_environment(variables).unwrap();
    Connector::new()
        .with_own(settings.unwrap())
        .through(Arc::new(line))
}

/// The way to the platform. Requests meet faults there.
#[derive(Debug)]
pub(crate) struct Line {
    platform: Platform,
    faults: Faults,
}

impl Line {
    pub(crate) fn new(platform: &Platform, faults: Faults) -> Self {
        Self {
            platform: platform.clone(),
            faults,
        }
    }
}

#[async_trait]
impl Transport for Line {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let path = request.uri().path();
        let target = path.trim_start_matches("/api2/json").to_owned();
        let call = Call {
            mutates: request.method() != Method::GET,
            ..Call::read("hypervisor", PROVIDER, request.method().as_str(), target)
        };
        let platform = self.platform.clone();
        let answer = async move { platform.handle(request).await };
        match self.faults.around(call, answer).await {
            Ok(response) => Ok(response),
            Err(injected) => refusal(&injected).ok_or(TransportError::Broken),
        }
    }
}

/// What a proxy or an overloaded node would answer; `None` if the connection broke.
fn refusal(injected: &Injected) -> Option<Response<Bytes>> {
    let status = StatusCode::from_u16(injected.status()?).ok()?;
    let body = json!({"data": null, "message": injected.to_string()});
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    Some(response)
}

/// The objects of one cluster, as Cluster API core would have left them.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) script: Client,
    namespace: String,
    cluster: Value,
}

/// The name of the Cluster and of its ProxmoxCluster.
pub(crate) const FLEET: &str = "fleet";
const CLUSTER_API: &str = "cluster.x-k8s.io/v1beta2";

impl Fleet {
    /// Creates a cluster without machines, its gates open.
    pub(crate) async fn create(site: &Site) -> Self {
        Self::create_like(site, cluster()).await
    }

    /// The same with an infra cluster of the test's own: `apiVersion`, `kind`, `spec`.
    pub(crate) async fn create_like(site: &Site, infra: Value) -> Self {
        Self::create_in(site, NAMESPACE, infra).await
    }

    /// The same in any namespace.
    pub(crate) async fn create_in(site: &Site, namespace: &str, mut infra: Value) -> Self {
        let script = site.server.client("script");
        let reference = json!({"apiGroup": api::GROUP, "kind": "ProxmoxCluster", "name": FLEET});
        let owner = json!({
            "apiVersion": CLUSTER_API, "kind": "Cluster",
            "metadata": {"name": FLEET, "namespace": namespace},
            "spec": {"infrastructureRef": reference},
            "status": {"initialization": {
                "infrastructureProvisioned": true, "controlPlaneInitialized": true,
            }},
        });
        let fleet = Self {
            cluster: create(&script, owner).await,
            namespace: namespace.to_owned(),
            script,
        };
        infra["metadata"] = fleet.owned_by(&fleet.cluster, FLEET);
        create(&fleet.script, infra).await;
        fleet
    }

    /// Creates a machine, its gates open.
    pub(crate) async fn add(&self, name: &str) {
        self.add_like(name, machine()).await;
    }

    /// The same with an infra machine of the test's own: `apiVersion`, `kind`, `spec`.
    pub(crate) async fn add_like(&self, name: &str, infra: Value) {
        self.add_with(name, infra, json!({})).await;
    }

    /// The same in a failure domain.
    pub(crate) async fn add_to(&self, domain: &str, name: &str, infra: Value) {
        let more = json!({"failureDomain": domain});
        self.add_with(name, infra, more).await;
    }

    async fn add_with(&self, name: &str, mut infra: Value, more: Value) {
        let namespace = &self.namespace;
        let labels = json!({"cluster.x-k8s.io/cluster-name": FLEET});
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
            "metadata": {"name": format!("{name}-bootstrap"), "namespace": namespace, "labels": labels},
            "stringData": {"value": "#cloud-config\n", "format": "cloud-config"},
        });
        create(&self.script, secret).await;
        let owner = json!({
            "apiVersion": CLUSTER_API, "kind": "Machine",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "clusterName": FLEET, "version": "v1.36.0",
                "bootstrap": {"dataSecretName": format!("{name}-bootstrap")},
                "infrastructureRef":
                    {"apiGroup": api::GROUP, "kind": "ProxmoxMachine", "name": name},
            },
            "status": {"initialization": {"bootstrapDataSecretCreated": true}},
        });
        let mut owner = owner;
        for (key, value) in more.as_object().unwrap() {
            owner["spec"][key] = value.clone();
        }
        let owner = create(&self.script, owner).await;
        infra["metadata"] = self.owned_by(&owner, name);
        create(&self.script, infra).await;
    }

    fn owned_by(&self, owner: &Value, name: &str) -> Value {
        json!({
            "name": name, "namespace": self.namespace,
            "labels": {"cluster.x-k8s.io/cluster-name": FLEET},
            "ownerReferences": [{
                "apiVersion": CLUSTER_API, "kind": owner["kind"],
                "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    }

    /// Says that the machine's Node is there.
    pub(crate) async fn join(&self, name: &str) {
        let machine = json!({"apiVersion": CLUSTER_API, "kind": "Machine"});
        let node = json!({"status": {"nodeRef": {"name": name}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(node));
        let machines = objects_in(&self.script, &self.namespace, &machine);
        machines.patch_status(name, &params, &patch).await.unwrap();
    }

    /// Asks for the deletion of the infra machine.
    pub(crate) async fn delete(&self, name: &str) {
        let machines = objects_in(&self.script, &self.namespace, &machine());
        machines
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Merges this into an object.
    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) {
        let of = match kind {
            "Secret" => json!({"apiVersion": "v1", "kind": kind}),
            _ => json!({"apiVersion": format!("{}/{}", api::GROUP, api::VERSION), "kind": kind}),
        };
        let all = objects_in(&self.script, &self.namespace, &of);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        all.patch(name, &params, &patch).await.unwrap();
    }

    /// Asks for the deletion of an object.
    pub(crate) async fn remove(&self, kind: &str, name: &str) {
        let of = match kind {
            "Secret" => json!({"apiVersion": "v1", "kind": kind}),
            _ => json!({"apiVersion": format!("{}/{}", api::GROUP, api::VERSION), "kind": kind}),
        };
        let all = objects_in(&self.script, &self.namespace, &of);
        all.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Merges this into the status of an object of the provider's.
    pub(crate) async fn patch_status(&self, kind: &str, name: &str, status: Value) {
        let of = json!({"apiVersion": format!("{}/{}", api::GROUP, api::VERSION), "kind": kind});
        let all = objects_in(&self.script, &self.namespace, &of);
        let patch = Patch::Merge(json!({"status": status}));
        let params = PatchParams::default();
        all.patch_status(name, &params, &patch).await.unwrap();
    }

    /// Creates a Secret of text.
    pub(crate) async fn secret(&self, name: &str, text: Value) {
        create(&self.script, secret_in(&self.namespace, name, &text)).await;
    }
}

fn secret_in(namespace: &str, name: &str, text: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace}, "stringData": text,
    })
}

/// Creates a Secret of text in any namespace.
pub(crate) async fn secret(site: &Site, namespace: &str, name: &str, text: Value) {
    let script = site.server.client("script");
    create(&script, secret_in(namespace, name, &text)).await;
}

/// Creates an object with its status, and says what was stored.
pub(crate) async fn create(client: &Client, mut object: Value) -> Value {
    let status = object.as_object_mut().unwrap().remove("status");
    let namespace = object["metadata"]["namespace"].as_str().unwrap();
    let api = objects_in(client, namespace, &object);
    let object = serde_json::from_value(object).unwrap();
    let mut stored = api.create(&PostParams::default(), &object).await.unwrap();
    if let Some(status) = status {
        let (name, patch) = (stored.name_any(), Patch::Merge(json!({"status": status})));
        let params = PatchParams::default();
        stored = api.patch_status(&name, &params, &patch).await.unwrap();
    }
    serde_json::to_value(stored).unwrap()
}

/// The collection of a namespace that an object is in.
fn objects_in(client: &Client, namespace: &str, of: &Value) -> Api<DynamicObject> {
    let version = of["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, of["kind"].as_str().unwrap());
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

/// Whether the contract's field says that the infrastructure is there.
pub(crate) fn is_provisioned(machine: &Value) -> bool {
    machine["status"]["initialization"]["provisioned"] == true
}

/// The status of condition Ready.
pub(crate) fn ready(machine: &Value) -> Option<&str> {
    let conditions = machine["status"]["conditions"].as_array()?;
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")?;
    ready["status"].as_str()
}
