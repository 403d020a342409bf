//! The world that all programs start in: gates open, nothing built yet, nothing that waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use capi_core::Provider;
use capi_testkit::apiserver::ApiServer;
use capi_testkit::crds;
use capi_testkit::ipam::Ipam;
use futures::{StreamExt as _, TryStreamExt as _, future::pending};
use http::{Request, Response};
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use provider_proxmox::cluster::Clusters;
use provider_proxmox::connect::{Connector, Settings};
use provider_proxmox::machine::Machines;
use provider_proxmox::pve::{Transport, TransportError};
use pve_sim::{Builder, Delays, Platform};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Whatever ends a bench before its time.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The user of the requests that count.
pub const PROVIDER: &str = "provider";
/// VMID of the machine with number 0: six digits, which nothing else in a request happens to be.
pub const VMID_FIRST: u32 = 731_000;
/// Machines have three digits in name and VMID, so that requests for all have the same length.
pub const MACHINES_MAX: usize = 1_000;

const CLUSTER_API: &str = "cluster.x-k8s.io/v1beta2";
const INFRASTRUCTURE: &str = "infrastructure.cluster.x-k8s.io/v1alpha2";
const CLUSTER: &str = "bench";
const CLUSTERS: &str = "proxmoxclusters.infrastructure.cluster.x-k8s.io";
const MACHINES: &str = "proxmoxmachines.infrastructure.cluster.x-k8s.io";
const NAMESPACE: &str = "default";
/// Between two looks at a state for which no time is taken.
const LOOK: Duration = Duration::from_millis(10);
/// What is not there by then will not come; the slowest run takes half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// The name of a machine, of its VM, and of everything that belongs to it.
pub fn name(number: usize) -> String {
    format!("machine-{number:03}")
}

/// The simulator's in-memory face.
#[derive(Debug)]
struct Direct(Platform);

#[async_trait]
impl Transport for Direct {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        Ok(self.0.handle(request).await)
    }
}

/// Management cluster and hypervisor, with `machines` machines to be built.
pub struct World {
    /// The management cluster.
    pub server: ApiServer,
    /// The hypervisor; its tasks end at once.
    pub platform: Platform,
    /// The uid of each `ProxmoxMachine`.
    pub uids: Vec<String>,
    script: Client,
    actors: JoinSet<()>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let machines = self.uids.len();
        f.debug_struct("World")
            .field("machines", &machines)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Prepares everything; the provider has provisioned the cluster and is stopped again.
    ///
    /// # Errors
    ///
    /// Whatever the management cluster refuses, or that the cluster is not provisioned in time.
    pub async fn new(machines: usize) -> Result<Self, Failure> {
        let server = ApiServer::new();
        let ours = provider_proxmox::api::crds()
            .into_iter()
            .map(serde_json::to_value)
            .collect::<Result<Vec<_>, _>>()?;
        server.install_crds(crds::all().cloned().chain(ours))?;
        let mut actors = JoinSet::new();
        let ipam = Ipam::builder(server.client("ipam"));
        actors.spawn(async move { match ipam.run().await {} });
        let mut world = Self {
            script: server.client("script"),
            server,
            platform: Builder::new().delays(Delays::zero()).build(),
            uids: Vec::new(),
            actors,
        };
        world.prepare_cluster().await?;
        world.add_machines(machines).await?;
        world.server.audit().clear();
        world.platform.clear_audit();
        Ok(world)
    }

    /// Prepares machines until there are `count`, at most [`MACHINES_MAX`].
    ///
    /// # Errors
    ///
    /// Whatever the management cluster refuses.
    pub async fn add_machines(&mut self, count: usize) -> Result<(), Failure> {
        for number in self.uids.len()..count.min(MACHINES_MAX) {
            let uid = self.prepare_machine(number).await?;
            self.uids.push(uid);
        }
        Ok(())
    }

    /// Asks for the deletion of all machines.
    ///
    /// # Errors
    ///
    /// Whatever the management cluster refuses.
    pub async fn delete_machines(&self) -> Result<(), Failure> {
        let api = self.api(INFRASTRUCTURE, "ProxmoxMachine")?;
        for number in 0..self.uids.len() {
            api.delete(&name(number), &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// How many machines there are.
    pub fn machines(&self) -> usize {
        self.server.objects(MACHINES).len()
    }

    /// Runs the provider until the future is dropped.
    ///
    /// # Errors
    ///
    /// Settings that the connector refuses.
    pub fn provide(
        &self,
        client: Client,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
        let (token, secret) = self.platform.token();
        let environment = [
            ("PROXMOX_URL", "https://pve:8006".to_owned()),
            ("PROXMOX_TOKEN", token),
            ("PROXMOX_SECRET", secret),
        ];
        let environment = environment.map(|(key, value)| (key.to_owned(), value));
        let own = Settings::of_environment(environment)?.ok_or("the settings are incomplete")?;
        let transport = transport.unwrap_or_else(|| Arc::new(Direct(self.platform.clone())));
        let provider = Provider::new(Connector::new().with_own(own).through(transport))
            .cluster(Clusters)
            .machine(Machines);
        Ok(async move {
            // It ends only for options that it refuses; then the bench runs out of patience.
            let _ended = provider.run(client, pending()).await;
        })
    }

    /// Follows a kind, and tells the names of those objects that are `wanted`.
    ///
    /// # Errors
    ///
    /// That the first list does not come.
    pub async fn follow(
        &mut self,
        (api_version, kind): (&str, &str),
        wanted: fn(&Value) -> bool,
    ) -> Result<watch::Receiver<BTreeSet<String>>, Failure> {
        let api = self.api(api_version, kind)?;
        let (names, told) = watch::channel(BTreeSet::new());
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        self.actors.spawn(async move {
            let mut ready = Some(ready);
            let mut changes = watcher(api, watcher::Config::default()).boxed();
            while let Ok(Some(change)) = changes.try_next().await {
                match change {
                    watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                        if wanted(&object.data) {
                            let name = object.metadata.name.unwrap_or_default();
                            names.send_if_modified(|all| all.insert(name));
                        }
                    }
                    watcher::Event::InitDone => {
                        // Who does not wait for it does not need it.
                        let _told = ready.take().map(|ready| ready.send(()));
                    }
                    watcher::Event::Init | watcher::Event::Delete(_) => {}
                }
            }
        });
        timeout(PATIENCE, is_ready).await??;
        Ok(told)
    }

    /// Follows the machines that are provisioned.
    ///
    /// # Errors
    ///
    /// As [`follow`](Self::follow).
    pub async fn provisioned(&mut self) -> Result<watch::Receiver<BTreeSet<String>>, Failure> {
        let kind = (INFRASTRUCTURE, "ProxmoxMachine");
        self.follow(kind, is_provisioned).await
    }

    /// Follows the addresses that are given; they are named like their claims.
    ///
    /// # Errors
    ///
    /// As [`follow`](Self::follow).
    pub async fn addresses(&mut self) -> Result<watch::Receiver<BTreeSet<String>>, Failure> {
        let kind = ("ipam.cluster.x-k8s.io/v1beta2", "IPAddress");
        self.follow(kind, |_| true).await
    }

    async fn prepare_cluster(&self) -> Result<(), Failure> {
        let cluster = json!({
            "apiVersion": CLUSTER_API, "kind": "Cluster", "metadata": {"name": CLUSTER},
            "spec": {"infrastructureRef": reference("ProxmoxCluster", CLUSTER)},
        });
        let uid = self.create(&cluster).await?;
        let mut owner = json!({"apiVersion": CLUSTER_API, "kind": "Cluster", "name": CLUSTER});
        owner["uid"] = json!(uid);
        self.create(&json!({
            "apiVersion": INFRASTRUCTURE, "kind": "ProxmoxCluster",
            "metadata": {"name": CLUSTER, "labels": label(), "ownerReferences": [owner]},
            "spec": {
                "controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443},
                "allowedNodes": ["pve1", "pve2", "pve3"],
                "ipv4Config": {"addresses": ["10.0.1.0-10.0.9.0"], "prefix": 16, "gateway": "10.0.0.1"},
                "dnsServers": ["10.0.0.2"],
            },
        }))
        .await?;
        let provider = self.provide(self.server.client(PROVIDER), None)?;
        let provider = tokio::spawn(provider);
        let is_there = async {
            while !self
                .server
                .object(CLUSTERS, NAMESPACE, CLUSTER)
                .is_some_and(|object| is_provisioned(&object))
            {
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, is_there).await?;
        provider.abort();
        let initialization =
            json!({"infrastructureProvisioned": true, "controlPlaneInitialized": true});
        self.report(&cluster, initialization).await
    }

    async fn prepare_machine(&self, number: usize) -> Result<String, Failure> {
        let name = name(number);
        let secret = format!("{name}-bootstrap");
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        self.create(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
            "metadata": {"name": secret, "labels": label()},
            "data": {"value": encode("#cloud-config\n"), "format": encode("cloud-config")},
        }))
        .await?;
        let machine = json!({
            "apiVersion": CLUSTER_API, "kind": "Machine",
            "metadata": {"name": name, "labels": label()},
            "spec": {
                "clusterName": CLUSTER, "version": "v1.36.0",
                "bootstrap": {"dataSecretName": secret},
                "infrastructureRef": reference("ProxmoxMachine", &name),
            },
        });
        let uid = self.create(&machine).await?;
        self.report(&machine, json!({"bootstrapDataSecretCreated": true}))
            .await?;
        let owner = json!({
            "apiVersion": CLUSTER_API, "kind": "Machine", "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        });
        self.create(&json!({
            "apiVersion": INFRASTRUCTURE, "kind": "ProxmoxMachine",
            "metadata": {"name": name, "labels": label(), "ownerReferences": [owner]},
            "spec": {
                "sourceNode": "pve1", "templateID": 9000, "numCores": 4,
                // The three nodes hold a thousand of them.
                "memoryMiB": 128,
                "vmIDRange": {"start": VMID_FIRST, "end": VMID_FIRST + 999},
                "disks": {"bootVolume": {"disk": "scsi0", "sizeGb": 20}},
                "network": {"networkDevices": [{"name": "net0", "bridge": "vmbr0"}]},
                "checks": {"skipQemuGuestAgent": true},
            },
        }))
        .await
    }

    /// Creates an object; its uid.
    async fn create(&self, object: &Value) -> Result<String, Failure> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let created = self
            .api_of(&object)?
            .create(&PostParams::default(), &object)
            .await?;
        Ok(created.metadata.uid.unwrap_or_default())
    }

    /// Says of an object of Cluster API how far it is.
    async fn report(&self, object: &Value, initialization: Value) -> Result<(), Failure> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let patch = Patch::Merge(json!({"status": {"initialization": initialization}}));
        let name = object.metadata.name.as_deref().unwrap_or_default();
        self.api_of(&object)?
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    fn api_of(&self, object: &DynamicObject) -> Result<Api<DynamicObject>, Failure> {
        let types = object.types.as_ref().ok_or("an object has no kind")?;
        self.api(&types.api_version, &types.kind)
    }

    fn api(&self, api_version: &str, kind: &str) -> Result<Api<DynamicObject>, Failure> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, kind);
        let mut resource = ApiResource::from_gvk(&kind);
        if kind.kind == "IPAddress" {
            "ipaddresses".clone_into(&mut resource.plural);
        }
        Ok(Api::namespaced_with(
            self.script.clone(),
            NAMESPACE,
            &resource,
        ))
    }
}

/// Waits until `count` names have been told.
///
/// # Errors
///
/// That it takes too long.
pub async fn told(
    names: &mut watch::Receiver<BTreeSet<String>>,
    count: usize,
) -> Result<(), Failure> {
    let enough = names.wait_for(|all| all.len() >= count);
    let outcome = timeout(PATIENCE, enough).await.map(|told| told.map(drop));
    match outcome {
        Ok(told) => Ok(told?),
        Err(_) => Err(format!("only {} of {count} are done", names.borrow().len()).into()),
    }
}

fn is_provisioned(object: &Value) -> bool {
    object.pointer("/status/initialization/provisioned") == Some(&Value::Bool(true))
}

fn label() -> Value {
    json!({"cluster.x-k8s.io/cluster-name": CLUSTER})
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": kind, "name": name})
}
