//! A management cluster with one Cluster and as many machines as a test asks for, gates open.

use std::time::Duration;

use capi_core::{Clock, Options, Provider};
use capi_testkit::apiserver::{ApiServer, AuditRecord};
use capi_testkit::crds;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, CustomResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::farm::{Farm, FarmCluster, FarmClusters, FarmMachine, FarmMachines};

pub(crate) const ENGINE: &str = "engine";
pub(crate) const MACHINES: &str = "farmmachines.infrastructure.cluster.x-k8s.io";
pub(crate) const CLUSTERS: &str = "farmclusters.infrastructure.cluster.x-k8s.io";
const INFRA: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";
const CORE: &str = "cluster.x-k8s.io/v1beta2";
const NAMESPACE: &str = "default";

/// The published kinds that the engine reads.
const SURROUNDINGS: [&str; 4] = [
    "clusters.cluster.x-k8s.io",
    "machines.cluster.x-k8s.io",
    "ipaddressclaims.ipam.cluster.x-k8s.io",
    "ipaddresses.ipam.cluster.x-k8s.io",
];

/// Longer than any wait of a test, in virtual time.
const LIMIT: Duration = Duration::from_secs(3_600);

pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) farm: Farm,
    pub(crate) clock: Clock,
    pub(crate) script: Client,
    running: Option<JoinHandle<()>>,
}

impl World {
    /// A world whose platform's tasks take `delay`, with a Cluster whose infrastructure is ready and
    /// no machine; the engine is not running.
    pub(crate) async fn new(delay: Duration) -> Self {
        // `RUST_LOG=capi_core=trace cargo test` shows what the engine does.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let world = Self::empty(Farm::new(delay), Clock::tokio(clock_epoch()), 1);
        world.create_cluster().await;
        world
    }

    /// A second management cluster before the same platform, without any object.
    pub(crate) fn beside(&self) -> Self {
        Self::empty(self.farm.clone(), self.clock.clone(), 2)
    }

    fn empty(farm: Farm, clock: Clock, seed: u64) -> Self {
        let server = ApiServer::builder().epoch(clock_epoch()).seed(seed).build();
        server
            .install_crds(SURROUNDINGS.map(|name| crds::named(name).unwrap()))
            .unwrap();
        server
            .install_crds([FarmMachine::crd(), FarmCluster::crd()])
            .unwrap();
        Self {
            script: server.client("script"),
            server,
            farm,
            clock,
            running: None,
        }
    }

    /// The same, with the engine running and one machine.
    pub(crate) async fn with_machine(delay: Duration) -> Self {
        let mut world = Self::new(delay).await;
        world.start();
        world.create_machine("m", json!({})).await;
        world
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            clock: self.clock.clone(),
            ..Options::default()
        }
    }

    pub(crate) fn provider(&self) -> Provider<Farm, FarmClusters, FarmMachines> {
        Provider::new(self.farm.clone())
            .cluster(FarmClusters::new())
            .machine(FarmMachines::default())
            .options(self.options())
    }

    pub(crate) fn start(&mut self) {
        let provider = self.provider();
        self.run(provider, self.server.client(ENGINE));
    }

    pub(crate) fn run(
        &mut self,
        provider: Provider<Farm, FarmClusters, FarmMachines>,
        client: Client,
    ) {
        self.stop();
        let running = async move {
            let never = std::future::pending();
            provider.run(client, never).await.unwrap();
        };
        self.running = Some(tokio::spawn(running));
    }

    /// Kills the engine.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    async fn create_cluster(&self) {
        let cluster = self
            .create(json!({
                "apiVersion": CORE, "kind": "Cluster", "metadata": {"name": "c"},
                "spec": {"infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io",
                    "kind": "FarmCluster", "name": "c"}},
            }))
            .await;
        self.patch_status(
            &cluster,
            json!({"initialization": {"infrastructureProvisioned": true,
                "controlPlaneInitialized": true}}),
        )
        .await;
        self.create(json!({
            "apiVersion": INFRA, "kind": "FarmCluster",
            "metadata": {"name": "c", "labels": {"cluster.x-k8s.io/cluster-name": "c"},
                "ownerReferences": [{"apiVersion": CORE, "kind": "Cluster", "name": "c",
                    "uid": cluster["metadata"]["uid"]}]},
            "spec": {"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}},
        }))
        .await;
    }

    /// Creates a Machine, its bootstrap Secret and its FarmMachine.
    pub(crate) async fn create_machine(&self, name: &str, spec: Value) {
        self.create(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-bootstrap")},
            "stringData": {"value": "#cloud-config\n", "format": "cloud-config"},
        }))
        .await;
        let machine = self
            .create(json!({
                "apiVersion": CORE, "kind": "Machine",
                "metadata": {"name": name, "labels": {"cluster.x-k8s.io/cluster-name": "c"}},
                "spec": {"clusterName": "c",
                    "bootstrap": {"dataSecretName": format!("{name}-bootstrap")},
                    "infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io",
                        "kind": "FarmMachine", "name": name}},
            }))
            .await;
        self.create(json!({
            "apiVersion": INFRA, "kind": "FarmMachine",
            "metadata": {"name": name, "labels": {"cluster.x-k8s.io/cluster-name": "c"},
                "ownerReferences": [{"apiVersion": CORE, "kind": "Machine", "name": name,
                    "uid": machine["metadata"]["uid"], "controller": true,
                    "blockOwnerDeletion": true}]},
            "spec": spec,
        }))
        .await;
    }

    pub(crate) fn api(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.script.clone(), NAMESPACE, &resource)
    }

    fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        self.api(
            object["apiVersion"].as_str().unwrap(),
            object["kind"].as_str().unwrap(),
        )
    }

    pub(crate) async fn create(&self, object: Value) -> Value {
        let api = self.api_of(&object);
        let parsed = serde_json::from_value(object).unwrap();
        let created = api.create(&PostParams::default(), &parsed).await.unwrap();
        serde_json::to_value(created).unwrap()
    }

    pub(crate) async fn patch_status(&self, object: &Value, status: Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let patch = Patch::Merge(json!({"status": status}));
        self.api_of(object)
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Merges into an object: `FarmMachine`, `FarmCluster`, `Machine` or `Cluster`.
    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) {
        let version = if kind.starts_with("Farm") {
            INFRA
        } else {
            CORE
        };
        self.api(version, kind)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) async fn patch_secret(&self, name: &str, patch: Value) {
        self.api("v1", "Secret")
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let version = match kind {
            "Secret" => "v1",
            kind if kind.starts_with("Farm") => INFRA,
            _ => CORE,
        };
        self.api(version, kind)
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub(crate) fn machine(&self, name: &str) -> Option<Value> {
        self.server.object(MACHINES, NAMESPACE, name)
    }

    pub(crate) fn cluster(&self) -> Option<Value> {
        self.server.object(CLUSTERS, NAMESPACE, "c")
    }

    /// Waits until something holds of a machine, `None` if it is gone.
    pub(crate) async fn until(
        &self,
        what: &str,
        name: &str,
        holds: impl Fn(Option<&Value>) -> bool,
    ) {
        let begun = tokio::time::Instant::now();
        while !holds(self.machine(name).as_ref()) {
            let shown = self.machine(name);
            assert!(begun.elapsed() < LIMIT, "{name} never {what}: {shown:#?}");
            // Fine at first, for what must be quick; coarse later, since every look costs real time.
            let pause = if begun.elapsed() < Duration::from_secs(2) {
                10
            } else {
                500
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    pub(crate) async fn until_provisioned(&self, name: &str) {
        self.until("provisioned", name, |machine| {
            machine.is_some_and(is_provisioned)
        })
        .await;
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        self.until("gone", name, |machine| machine.is_none()).await;
    }

    /// Waits until `Ready` has a reason.
    pub(crate) async fn until_ready_says(&self, name: &str, reason: &str) {
        let what = format!("ready with {reason}");
        self.until(&what, name, |machine| {
            machine.is_some_and(|machine| condition(machine, "Ready")["reason"] == reason)
        })
        .await;
    }

    /// Requests of the engine that count as writes or reads: watches, lists at the start, and Events
    /// aside.
    pub(crate) fn requests(&self) -> Vec<AuditRecord> {
        self.server.audit().select(|record| {
            record.actor == ENGINE
                && !record.is_event()
                && (record.is_write() || record.verb == "get")
        })
    }

    /// Accepted writes of the engine, for messages.
    pub(crate) fn writes(&self) -> Vec<String> {
        let all = self.requests().into_iter();
        all.filter(|r| r.is_write() && r.is_success())
            .map(|r| format!("{} {} {}/{}", r.verb, r.resource, r.name, r.subresource))
            .collect()
    }
}

fn clock_epoch() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn is_provisioned(machine: &Value) -> bool {
    machine["status"]["initialization"]["provisioned"] == true
}

pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.cloned().unwrap_or(Value::Null)
}

pub(crate) async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}
