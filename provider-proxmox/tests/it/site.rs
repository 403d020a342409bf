//! A site: the in-process API server, the in-memory Proxmox VE, IPAM, and the real provider between
//! them, all on a paused clock.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use capi_contract::InfraMachine;
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

    /// Runs the provider until it is dropped.
    pub(crate) async fn provide<M>(&self, client: Client, line: impl Transport, machines: M)
    where
        M: InfraMachine<Session = Session, Cluster = ProxmoxCluster>,
    {
        let (token, secret) = self.platform.token();
        let settings = Settings::of_environment([
            (
                "PROXMOX_URL".to_owned(),
                "https://pve.example.com:8006".to_owned(),
            ),
            ("PROXMOX_TOKEN".to_owned(), token),
            ("PROXMOX_SECRET".to_owned(), secret),
            // Nothing is verified in memory, and reading the system's roots takes long.
            ("PROXMOX_INSECURE".to_owned(), "1".to_owned()),
        ]);
        let connector = Connector::new()
            .with_own(settings.unwrap().unwrap())
            .through(Arc::new(line));
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

    /// The infra machine of this name.
    pub(crate) fn machine(&self, name: &str) -> Option<Value> {
        self.server.object(MACHINES, NAMESPACE, name)
    }

    /// Waits for this to become true, for at most an hour of virtual time.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            let machines = self.server.objects(MACHINES);
            assert!(begun.elapsed() < LIMIT, "never {what}: {machines:#?}");
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
    script: Client,
    cluster: Value,
}

/// The name of the Cluster and of its ProxmoxCluster.
const FLEET: &str = "fleet";
const CLUSTER_API: &str = "cluster.x-k8s.io/v1beta2";

impl Fleet {
    /// Creates a cluster without machines, its gates open.
    pub(crate) async fn create(site: &Site) -> Self {
        Self::create_like(site, cluster()).await
    }

    /// The same with an infra cluster of the test's own: `apiVersion`, `kind`, `spec`.
    pub(crate) async fn create_like(site: &Site, mut infra: Value) -> Self {
        let script = site.server.client("script");
        let reference = json!({"apiGroup": api::GROUP, "kind": "ProxmoxCluster", "name": FLEET});
        let owner = json!({
            "apiVersion": CLUSTER_API, "kind": "Cluster",
            "metadata": {"name": FLEET, "namespace": NAMESPACE},
            "spec": {"infrastructureRef": reference},
            "status": {"initialization": {
                "infrastructureProvisioned": true, "controlPlaneInitialized": true,
            }},
        });
        let fleet = Self {
            cluster: create(&script, owner).await,
            script,
        };
        infra["metadata"] = fleet.owned_by(&fleet.cluster, FLEET);
        create(&fleet.script, infra).await;
        fleet
    }

    /// Creates a machine, its gates open.
    pub(crate) async fn add(&self, name: &str) {
        let labels = json!({"cluster.x-k8s.io/cluster-name": FLEET});
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
            "metadata": {"name": format!("{name}-bootstrap"), "namespace": NAMESPACE, "labels": labels},
            "stringData": {"value": "#cloud-config\n", "format": "cloud-config"},
        });
        create(&self.script, secret).await;
        let owner = json!({
            "apiVersion": CLUSTER_API, "kind": "Machine",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "clusterName": FLEET, "version": "v1.36.0",
                "bootstrap": {"dataSecretName": format!("{name}-bootstrap")},
                "infrastructureRef":
                    {"apiGroup": api::GROUP, "kind": "ProxmoxMachine", "name": name},
            },
            "status": {"initialization": {"bootstrapDataSecretCreated": true}},
        });
        let owner = create(&self.script, owner).await;
        let mut infra = machine();
        infra["metadata"] = self.owned_by(&owner, name);
        create(&self.script, infra).await;
    }

    fn owned_by(&self, owner: &Value, name: &str) -> Value {
        json!({
            "name": name, "namespace": NAMESPACE,
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
        let machines = objects(&self.script, &machine);
        machines.patch_status(name, &params, &patch).await.unwrap();
    }

    /// Asks for the deletion of the infra machine.
    pub(crate) async fn delete(&self, name: &str) {
        let machines = objects(&self.script, &machine());
        machines
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
}

/// Creates an object with its status, and says what was stored.
async fn create(client: &Client, mut object: Value) -> Value {
    let status = object.as_object_mut().unwrap().remove("status");
    let api = objects(client, &object);
    let object = serde_json::from_value(object).unwrap();
    let mut stored = api.create(&PostParams::default(), &object).await.unwrap();
    if let Some(status) = status {
        let (name, patch) = (stored.name_any(), Patch::Merge(json!({"status": status})));
        let params = PatchParams::default();
        stored = api.patch_status(&name, &params, &patch).await.unwrap();
    }
    serde_json::to_value(stored).unwrap()
}

/// The collection that an object is in.
fn objects(client: &Client, of: &Value) -> Api<DynamicObject> {
    let version = of["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, of["kind"].as_str().unwrap());
    Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind))
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
