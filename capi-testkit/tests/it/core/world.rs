//! A management cluster with Core, and a provider of a few lines: a machine is a guest that boots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use capi_testkit::apiserver::ApiServer;
use capi_testkit::core::{BootstrapData, Core, CoreHandle};
use capi_testkit::crds;
use capi_testkit::guest::{Disk, Event, Guest, Hardware, Image, Medium, Nic, Pace};
use capi_testkit::workload::Workloads;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::guest::iso;

pub(crate) const INFRA: &str = "infrastructure.cluster.x-k8s.io";
pub(crate) const VIP: &str = "10.0.0.9";
/// How often the provider looks at the world.
const TICK: Duration = Duration::from_millis(100);

const KUBE_VIP: &str = "apiVersion: v1
kind: Pod
metadata: {name: kube-vip, namespace: kube-system}
spec:
  containers:
  - name: kube-vip
    image: ghcr.io/kube-vip/kube-vip:v1.0.1
    env:
    - {name: address, value: 10.0.0.9}
";

fn definition(kind: &str, labels: &Value) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{INFRA}"), "labels": labels},
        "spec": {
            "group": INFRA, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
                "listKind": format!("{kind}List")},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"spec": any, "status": any}}},
            }],
        },
    })
}

/// What the provider does otherwise than it should.
#[derive(Default)]
pub(crate) struct Script {
    /// Machines are not made.
    pub(crate) holds_machines: bool,
    /// The cluster is not provisioned.
    pub(crate) holds_cluster: bool,
    /// Deletions are not finished.
    pub(crate) holds_deletion: bool,
    /// Machines are made, but never boot.
    pub(crate) never_boots: bool,
}

struct Provider {
    server: ApiServer,
    client: Client,
    workloads: Workloads,
    script: Arc<Mutex<Script>>,
    guests: Arc<Mutex<BTreeMap<String, Guest>>>,
    made: Mutex<u8>,
    started: Instant,
}

impl Provider {
    async fn run(self) {
        loop {
            for cluster in self.server.objects(&format!("fakeclusters.{INFRA}")) {
                self.cluster(&cluster).await;
            }
            for machine in self.server.objects(&format!("fakemachines.{INFRA}")) {
                self.machine(&machine).await;
            }
            self.boot();
            sleep(TICK).await;
        }
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), "default", &fake(kind))
    }

    async fn finish(&self, kind: &str, name: &str) {
        let patch = json!({"metadata": {"finalizers": null}});
        let api = self.api(kind);
        let _ = api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
    }

    async fn merge(&self, kind: &str, name: &str, patch: Value, status: Value) {
        let (api, params) = (self.api(kind), PatchParams::default());
        api.patch(name, &params, &Patch::Merge(patch))
            .await
            .expect("patches");
        let status = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &params, &status)
            .await
            .expect("patches status");
    }

    async fn cluster(&self, cluster: &Value) {
        let name = cluster["metadata"]["name"].as_str().expect("a name");
        if cluster["metadata"]["deletionTimestamp"].is_string() {
            if !self.script.lock().holds_deletion {
                self.finish("FakeCluster", name).await;
            }
            return;
        }
        let is_adopted = cluster["metadata"]["ownerReferences"][0]["kind"] == "Cluster";
        let is_done = cluster["status"]["initialization"]["provisioned"] == true;
        if !is_adopted || is_done || self.script.lock().holds_cluster {
            return;
        }
        let patch = json!({
            "metadata": {"finalizers": ["fake.x-k8s.io/cluster"]},
            "spec": {"controlPlaneEndpoint": {"host": VIP, "port": 6443}},
        });
        let status = json!({"initialization": {"provisioned": true}});
        self.merge("FakeCluster", name, patch, status).await;
    }

    async fn machine(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        if object["metadata"]["deletionTimestamp"].is_string() {
            if !self.script.lock().holds_deletion {
                self.guests.lock().remove(name);
                self.workloads.machine_destroyed(&format!("uuid-{name}"));
                self.finish("FakeMachine", name).await;
            }
            return;
        }
        let owner = &object["metadata"]["ownerReferences"][0];
        let is_done = object["status"]["initialization"]["provisioned"] == true;
        if owner["kind"] != "Machine" || is_done || self.script.lock().holds_machines {
            return;
        }
        let machine = self.server.object(
            "machines.cluster.x-k8s.io",
            "default",
            owner["name"].as_str().expect("a name"),
        );
        let machine = machine.unwrap_or_default();
        let Some(secret) = machine["spec"]["bootstrap"]["dataSecretName"].as_str() else {
            return;
        };
        let secret = self
            .server
            .object("secrets", "default", secret)
            .expect("the Secret");
        let data = secret["data"]["value"].as_str().expect("the key value");
        let data = base64::engine::general_purpose::STANDARD
            .decode(data)
            .expect("base64");
        let data = String::from_utf8(data).expect("text");
        let number = {
            let mut made = self.made.lock();
            *made += 1;
            *made
        };
        if !self.script.lock().never_boots {
            let guest = self.power_on(name, number, &data);
            self.guests.lock().insert(name.to_owned(), guest);
        }
        let patch = json!({
            "metadata": {"finalizers": ["fake.x-k8s.io/machine"]},
            "spec": {"providerID": format!("fake://uuid-{name}")},
        });
        let status = json!({
            "initialization": {"provisioned": true},
            "addresses": [{"type": "InternalIP", "address": format!("10.0.0.{}", 20 + number)}],
        });
        self.merge("FakeMachine", name, patch, status).await;
    }

    fn power_on(&self, name: &str, number: u8, user_data: &str) -> Guest {
        let mac = format!("bc:24:11:00:00:{number:02x}");
        let network = format!(
            "version: 2\nethernets:\n  eth0:\n    match: {{macaddress: '{mac}'}}\n    addresses: \
             ['10.0.0.{}/24']\n    routes: [{{to: default, via: 10.0.0.1}}]\n",
            20 + number
        );
        let meta = format!("instance-id: uuid-{name}\nlocal-hostname: {name}\n");
        let files = [
            ("meta-data", meta.as_str()),
            ("network-config", &network),
            ("user-data", user_data),
        ];
        Guest::power_on(
            Disk::default(),
            Image::default(),
            Hardware::new(
                format!("uuid-{name}"),
                vec![Nic::new(mac.parse().expect("a MAC"))],
            ),
            vec![Medium::Cdrom(iso("cidata", &files, true))],
            Pace::default(),
            self.started.elapsed(),
        )
    }

    fn boot(&self) {
        let now = self.started.elapsed();
        for guest in self.guests.lock().values_mut() {
            let mut events = guest.advance(now);
            while let Some(event) = events.pop() {
                if let Event::Join(join) = event {
                    let answer = self.workloads.join(&join);
                    events.extend(guest.joined(now, answer));
                }
            }
        }
    }
}

fn fake(kind: &str) -> ApiResource {
    resource(INFRA, "v1alpha1", kind)
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        },
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    }
}

/// Everything that runs in one test.
pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    pub(crate) workloads: Workloads,
    pub(crate) core: CoreHandle,
    pub(crate) script: Arc<Mutex<Script>>,
    guests: Arc<Mutex<BTreeMap<String, Guest>>>,
    _tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(1.0, BootstrapData::Prompt)
    }

    pub(crate) fn with(speed: f64, bootstrap: BootstrapData) -> Self {
        // Shown with a failing test only.
        let log = tracing_subscriber::fmt().with_test_writer();
        let _ = log.with_env_filter("capi_testkit=info").try_init();
        let server = ApiServer::builder().seed(7).build();
        let label = json!({"cluster.x-k8s.io/v1beta2": "v1alpha1"});
        server.install_crds(crds::all()).expect("valid definitions");
        for kind in [
            "FakeCluster",
            "FakeMachine",
            "FakeMachineTemplate",
            "FakeFixer",
            "FakeFixerTemplate",
        ] {
            server
                .install_crds([definition(kind, &label)])
                .expect("a valid definition");
        }
        server
            .install_crds([definition("Unlabelled", &json!({}))])
            .expect("valid");
        let workloads = Workloads::new();
        let script = Arc::new(Mutex::new(Script::default()));
        let guests = Arc::new(Mutex::new(BTreeMap::new()));
        let core = Core::builder(server.client("core"), workloads.clone())
            .speed(speed)
            .bootstrap(bootstrap)
            .build();
        let handle = core.handle();
        let provider = Provider {
            server: server.clone(),
            client: server.client("provider"),
            workloads: workloads.clone(),
            script: Arc::clone(&script),
            guests: Arc::clone(&guests),
            made: Mutex::new(0),
            started: Instant::now(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            core.run().await;
        });
        tasks.spawn(provider.run());
        Self {
            client: server.client("user"),
            server,
            workloads,
            core: handle,
            script,
            guests,
            _tasks: tasks,
        }
    }

    pub(crate) fn api(&self, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            "default",
            &resource(group, version, kind),
        )
    }

    /// Creates an object as a user does.
    pub(crate) async fn create(&self, value: Value) {
        let api_version = value["apiVersion"].as_str().expect("an apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let api = self.api(group, version, value["kind"].as_str().expect("a kind"));
        let mut object: DynamicObject = serde_json::from_value(value).expect("an object");
        object.metadata.namespace = Some("default".to_owned());
        api.create(&PostParams::default(), &object)
            .await
            .expect("creates");
    }

    /// Merge-patches an object of core's as a user does.
    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) {
        let group = match kind {
            "KubeadmControlPlane" => "controlplane.cluster.x-k8s.io",
            _ if kind.starts_with("Fake") => INFRA,
            _ => "cluster.x-k8s.io",
        };
        let version = if group == INFRA {
            "v1alpha1"
        } else {
            "v1beta2"
        };
        let api = self.api(group, version, kind);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("patches");
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let (group, version) = if kind.starts_with("Fake") {
            (INFRA, "v1alpha1")
        } else {
            ("cluster.x-k8s.io", "v1beta2")
        };
        let api = self.api(group, version, kind);
        api.delete(name, &DeleteParams::default())
            .await
            .expect("deletes");
    }

    /// A cluster with one control plane machine and this many workers.
    pub(crate) async fn apply_cluster(&self, workers: u32) {
        for value in Self::cluster(workers) {
            self.create(value).await;
        }
    }

    /// The objects of that cluster.
    pub(crate) fn cluster(workers: u32) -> Vec<Value> {
        let registration = json!({
            "name": "{{ ds.meta_data.local_hostname }}",
            "kubeletExtraArgs": [{"name": "provider-id", "value": "fake://{{ ds.meta_data.instance_id }}"}],
        });
        let core = "cluster.x-k8s.io/v1beta2";
        let template = |kind: &str| json!({"apiGroup": INFRA, "kind": kind, "name": "tmpl"});
        let infra = format!("{INFRA}/v1alpha1");
        vec![
            json!({"apiVersion": infra, "kind": "FakeCluster", "metadata": {"name": "c"}, "spec": {}}),
            json!({"apiVersion": infra, "kind": "FakeMachineTemplate", "metadata": {"name": "tmpl"},
                "spec": {"template": {"metadata": {"labels": {"from": "template"}}, "spec": {"cores": 2}}}}),
            json!({"apiVersion": "bootstrap.cluster.x-k8s.io/v1beta2", "kind": "KubeadmConfigTemplate",
                "metadata": {"name": "workers"},
                "spec": {"template": {"spec": {"joinConfiguration": {"nodeRegistration": registration}}}}}),
            json!({"apiVersion": core, "kind": "Cluster", "metadata": {"name": "c"}, "spec": {
                "clusterNetwork": {"pods": {"cidrBlocks": ["10.244.0.0/16"]}},
                "infrastructureRef": {"apiGroup": INFRA, "kind": "FakeCluster", "name": "c"},
                "controlPlaneRef": {"apiGroup": "controlplane.cluster.x-k8s.io",
                    "kind": "KubeadmControlPlane", "name": "cp"}}}),
            json!({"apiVersion": "controlplane.cluster.x-k8s.io/v1beta2", "kind": "KubeadmControlPlane",
            "metadata": {"name": "cp"}, "spec": {
                "replicas": 1, "version": "v1.34.2",
                "machineTemplate": {"spec": {"infrastructureRef": template("FakeMachineTemplate")}},
                "kubeadmConfigSpec": {
                    "files": [{"path": "/etc/kubernetes/manifests/kube-vip.yaml", "owner": "root:root",
                        "permissions": "0644", "content": KUBE_VIP}],
                    "preKubeadmCommands": ["echo it's \"time\""],
                    "initConfiguration": {"nodeRegistration": registration},
                    "joinConfiguration": {"nodeRegistration": registration},
                }}}),
            json!({"apiVersion": core, "kind": "MachineDeployment", "metadata": {"name": "md"}, "spec": {
            "clusterName": "c", "replicas": workers, "selector": {},
            "template": {
                "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "pool": "a"}},
                "spec": {
                    "clusterName": "c", "version": "v1.34.2",
                    "bootstrap": {"configRef": {"apiGroup": "bootstrap.cluster.x-k8s.io",
                        "kind": "KubeadmConfigTemplate", "name": "workers"}},
                    "infrastructureRef": template("FakeMachineTemplate"),
                }}}}),
        ]
    }

    /// Waits until something holds, for at most `seconds` of virtual time.
    pub(crate) async fn until(&self, seconds: u64, what: &str, holds: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(seconds);
        while !holds(self) {
            if Instant::now() > limit {
                let tree: String = self
                    .core
                    .snapshot()
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                let consoles: Vec<_> = self
                    .guests
                    .lock()
                    .iter()
                    .map(|(name, guest)| {
                        format!(
                            "{name}:\n{}",
                            guest.console().collect::<Vec<_>>().join("\n")
                        )
                    })
                    .collect();
                panic!(
                    "not within {seconds} s: {what}\n{tree}\n{}",
                    consoles.join("\n")
                );
            }
            sleep(TICK).await;
        }
    }

    pub(crate) async fn pass(&self, seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    pub(crate) fn all(&self, resource: &str) -> Vec<Value> {
        let group = match resource {
            "fakemachines" | "fakeclusters" | "fakefixers" => format!("{resource}.{INFRA}"),
            "secrets" => resource.to_owned(),
            "kubeadmconfigs" => format!("{resource}.bootstrap.cluster.x-k8s.io"),
            "kubeadmcontrolplanes" => format!("{resource}.controlplane.cluster.x-k8s.io"),
            _ => format!("{resource}.cluster.x-k8s.io"),
        };
        self.server.objects(&group)
    }

    pub(crate) fn one(&self, resource: &str, name: &str) -> Value {
        let all = self.all(resource);
        let found = all.into_iter().find(|it| it["metadata"]["name"] == name);
        found.unwrap_or(Value::Null)
    }

    pub(crate) fn machines(&self) -> Vec<Value> {
        self.all("machines")
    }

    pub(crate) fn workers(&self) -> Vec<Value> {
        let is_worker = |machine: &Value| {
            machine["metadata"]["labels"]["cluster.x-k8s.io/control-plane"].is_null()
        };
        self.machines().into_iter().filter(is_worker).collect()
    }

    /// How many machines are in this phase.
    pub(crate) fn in_phase(&self, phase: &str) -> usize {
        let machines = self.machines();
        machines
            .iter()
            .filter(|it| it["status"]["phase"] == phase)
            .count()
    }

    /// Destroys a machine behind the provider's back: its guest is gone.
    pub(crate) fn destroy(&self, name: &str) {
        self.guests.lock().remove(name);
        self.workloads.machine_destroyed(&format!("uuid-{name}"));
    }

    /// Brings a cluster up.
    pub(crate) async fn up(workers: u32) -> Self {
        let world = Self::new();
        world.apply_cluster(workers).await;
        let all = workers as usize + 1;
        world
            .until(600, "all run", |it| it.in_phase("Running") == all)
            .await;
        world
    }
}

/// A condition's status and reason, joined.
pub(crate) fn condition(object: &Value, kind: &str) -> String {
    let list = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = list
        .into_iter()
        .find(|it| it["type"] == kind)
        .unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("status"), text("reason"))
}
