//! A site: the API servers of a management cluster and of an infra cluster with a simulated KubeVirt,
//! and the real provider between them, all on a paused clock.

use std::sync::LazyLock;
use std::time::Duration;

use capi_contract::InfraMachine;
use capi_core::{Clock, Options, Provider};
use capi_testkit::apiserver::{ApiServer, AuditRecord, Authorization, User};
use capi_testkit::crds;
use capi_testkit::ipam::Ipam;
use capi_testkit::sweep::PROVIDER;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt as _};
use kubevirt_sim::{Builder, Delays, NodeSpec, Platform};
use provider_kubevirt::api::{self, KubevirtCluster};
use provider_kubevirt::cluster::Clusters;
use provider_kubevirt::connect::Connector;
use provider_kubevirt::machine::Machines;
use provider_kubevirt::session::Session;
use provider_kubevirt::tenant::{self, ACCOUNT};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::record::recorded;

pub(crate) const NAMESPACE: &str = "default";
pub(crate) const MACHINES: &str = "kubevirtmachines.infrastructure.cluster.x-k8s.io";
pub(crate) const CLUSTERS: &str = "kubevirtclusters.infrastructure.cluster.x-k8s.io";
pub(crate) const VMS: &str = "virtualmachines.kubevirt.io";
pub(crate) const INSTANCES: &str = "virtualmachineinstances.kubevirt.io";
/// When every world begins; the date does not matter, equal runs do.
const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// Longer than any wait of a test, in virtual time.
const LIMIT: Duration = Duration::from_secs(600);
/// Finer than anything that a test measures.
const ASKED_EVERY: Duration = Duration::from_millis(10);
/// What lasts longer is not measured so finely.
const FINE_FOR: Duration = Duration::from_secs(2);
const ASKED_LATER: Duration = Duration::from_millis(500);

/// The definitions of the management cluster, parsed once.
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
    pub(crate) infra: ApiServer,
    pub(crate) platform: Platform,
    clock: Clock,
}

impl Site {
    /// A site where nothing takes time.
    pub(crate) async fn instant() -> Self {
        Self::with(Builder::new().network(VLAN, None).delays(Delays::zero())).await
    }

    /// One with room for so many machines of a GiB each.
    pub(crate) async fn instant_for(machines: usize) -> Self {
        // A node of the simulator has 64 GiB.
        let nodes = (1..=machines.div_ceil(50)).map(|n| NodeSpec::new(format!("node-{n}")));
        let builder = Builder::new().network(VLAN, None).delays(Delays::zero());
        Self::with(nodes.fold(builder, Builder::node)).await
    }

    /// A site that takes the time of a small cluster.
    pub(crate) async fn usual() -> Self {
        Self::with(
            Builder::new()
                .network(VLAN, None)
                .delays(Delays::realistic()),
        )
        .await
    }

    /// Inside the runtime of the test. In the infra cluster the provider is a tenant: what its rights
    /// do not cover is refused.
    pub(crate) async fn with(builder: Builder) -> Self {
        let server = ApiServer::builder().seed(1).epoch(EPOCH).build();
        server.install_crds(DEFINITIONS.iter().cloned()).unwrap();
        let infra = ApiServer::builder().authorization(Authorization::Rbac);
        let infra = infra.seed(2).epoch(EPOCH).build();
        admit(&infra, NAMESPACE).await;
        let platform = builder.epoch(EPOCH).seed(7).build_in(&infra).await.unwrap();
        Self {
            server,
            infra,
            platform,
            clock: Clock::tokio(EPOCH),
        }
    }

    /// Runs the provider until it is dropped.
    pub(crate) async fn provide<M>(&self, management: Client, infra: Client, machines: M)
    where
        M: InfraMachine<Session = Session, Cluster = KubevirtCluster>,
    {
        let connector = Connector::new().through(move |_| recorded(infra.clone()));
        self.provide_by(connector, management, machines).await;
    }

    /// The same by this connector.
    pub(crate) async fn provide_by<M>(&self, connector: Connector, management: Client, machines: M)
    where
        M: InfraMachine<Session = Session, Cluster = KubevirtCluster>,
    {
        self.provide_with(connector, management, self.options(), machines)
            .await;
    }

    /// What the provider runs with.
    pub(crate) fn options(&self) -> Options {
        Options {
            clock: self.clock.clone(),
            ..Options::default()
        }
    }

    /// The same with other options.
    pub(crate) async fn provide_with<M>(
        &self,
        connector: Connector,
        management: Client,
        options: Options,
        machines: M,
    ) where
        M: InfraMachine<Session = Session, Cluster = KubevirtCluster>,
    {
        Provider::new(connector)
            .cluster(Clusters)
            .machine(machines)
            .options(options)
            .run(management, futures::future::pending())
            .await
            .unwrap();
    }

    /// Runs provider and platform in the background, undisturbed, for as long as the test's runtime.
    pub(crate) fn start(&self) -> tokio::task::JoinHandle<()> {
        self.play();
        self.start_provider()
    }

    /// Runs the platform in the background.
    pub(crate) fn play(&self) {
        let platform = self.platform.clone();
        tokio::spawn(async move { platform.run().await });
    }

    /// Runs the provider in the background.
    pub(crate) fn start_provider(&self) -> tokio::task::JoinHandle<()> {
        let site = self.clone();
        tokio::spawn(async move {
            let clients = (
                site.server.client(PROVIDER),
                tenant_of(&site.infra, NAMESPACE),
            );
            site.provide(clients.0, clients.1, Machines).await;
        })
    }

    /// Answers address claims until it is dropped.
    pub(crate) async fn give_addresses(&self) {
        let client = self.server.client("ipam");
        match Ipam::builder(client).epoch(EPOCH).run().await {}
    }

    /// Makes the pools of [`on_vlan`], and answers claims in the background.
    pub(crate) async fn start_ipam(&self) {
        self.make_pools().await;
        let site = self.clone();
        tokio::spawn(async move { site.give_addresses().await });
    }

    /// Makes the pools of [`on_vlan`].
    pub(crate) async fn make_pools(&self) {
        let pools = [
            ("vlan-v4", "10.7.0.10-10.7.0.99", 24, "10.7.0.1"),
            ("vlan-v6", "fd00:7::10-fd00:7::99", 64, "fd00:7::1"),
        ];
        for (name, range, prefix, gateway) in pools {
            let pool = json!({
                "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"addresses": [range], "prefix": prefix, "gateway": gateway},
            });
            create(&self.server.client("script"), pool).await;
        }
    }

    /// Address claims and addresses that are there.
    pub(crate) fn address_objects(&self) -> Vec<String> {
        let collections = [
            "ipaddressclaims.ipam.cluster.x-k8s.io",
            "ipaddresses.ipam.cluster.x-k8s.io",
        ];
        let all = collections.into_iter().flat_map(|kind| {
            let objects = self.server.objects(kind).into_iter();
            objects.map(move |one| format!("{kind} {}", one["metadata"]["name"]))
        });
        all.collect()
    }

    /// The infra machine of this name.
    pub(crate) fn machine(&self, name: &str) -> Option<Value> {
        self.server.object(MACHINES, NAMESPACE, name)
    }

    /// The VM of this name.
    pub(crate) fn vm(&self, name: &str) -> Option<Value> {
        self.infra.object(VMS, NAMESPACE, name)
    }

    /// The instance of this name.
    pub(crate) fn instance(&self, name: &str) -> Option<Value> {
        self.infra.object(INSTANCES, NAMESPACE, name)
    }

    /// The bootstrap Secrets in the infra cluster.
    pub(crate) fn secrets(&self) -> Vec<Value> {
        let secrets = self.infra.objects("secrets").into_iter();
        secrets
            .filter(|secret| secret["type"] == "cluster.x-k8s.io/secret")
            .collect()
    }

    /// Waits for this to become true, for at most ten minutes of virtual time.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(
                begun.elapsed() < LIMIT,
                "never {what}: {:#?} {:#?}",
                self.states(),
                self.platform.vms()
            );
            let pause = if begun.elapsed() < FINE_FOR {
                ASKED_EVERY
            } else {
                ASKED_LATER
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// What every machine says of itself.
    fn states(&self) -> Vec<String> {
        let machines = self.server.objects(MACHINES);
        let states = machines.iter().map(|machine| {
            let conditions = &machine["status"]["conditions"];
            format!("{}: {conditions}", machine["metadata"]["name"])
        });
        states.collect()
    }

    /// The provider's requests to both servers since the marks that pass `wanted`.
    pub(crate) fn requests(
        &self,
        since: (u64, u64),
        wanted: impl Fn(&AuditRecord) -> bool,
    ) -> Vec<AuditRecord> {
        let here = self.server.audit().since(since.0).into_iter();
        let there = self.infra.audit().since(since.1).into_iter();
        here.chain(there)
            .filter(|record| record.actor == PROVIDER && !record.is_lease() && !record.is_watch())
            .filter(|record| wanted(record))
            .collect()
    }

    /// Marks of both servers' audits.
    pub(crate) fn marks(&self) -> (u64, u64) {
        (self.server.audit().mark(), self.infra.audit().mark())
    }
}

/// Makes the provider a tenant of a namespace, with the rights that `tenant` gives it and no others.
pub(crate) async fn admit(infra: &ApiServer, namespace: &str) {
    for object in tenant::manifests(namespace) {
        let mut object = object;
        if object["kind"] != "Namespace" {
            object["metadata"]["namespace"] = namespace.into();
        }
        apply(infra, &object).await;
    }
}

/// Applies an object as an administrator does.
pub(crate) async fn apply(server: &ApiServer, object: &Value) {
    let version = object["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
    let resource = ApiResource::from_gvk(&kind);
    let administrator = server.client("administrator");
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        None => Api::all_with(administrator, &resource),
        Some(namespace) => Api::namespaced_with(administrator, namespace, &resource),
    };
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams::apply("administrator");
    let applied = api.patch(name, &params, &Patch::Apply(object)).await;
    applied.unwrap();
}

/// A client of the infra cluster with a tenant's rights.
pub(crate) fn tenant_of(infra: &ApiServer, namespace: &str) -> Client {
    infra.client_as(PROVIDER, &User::service_account(namespace, ACCOUNT))
}

/// The infra cluster: `apiVersion`, `kind`, `spec`.
pub(crate) fn cluster() -> Value {
    json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "KubevirtCluster",
        "metadata": {},
        "spec": {"controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443}},
    })
}

/// The infra machine, likewise: what the Go provider's templates make.
pub(crate) fn machine() -> Value {
    json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "KubevirtMachine",
        "metadata": {},
        "spec": {
            "virtualMachineBootstrapCheck": {"checkStrategy": "ssh"},
            "virtualMachineTemplate": {
                "metadata": {"namespace": NAMESPACE},
                "spec": {"runStrategy": "Always", "template": {"spec": {
                    "evictionStrategy": "External",
                    "domain": {
                        "cpu": {"cores": 1}, "memory": {"guest": "1Gi"},
                        "devices": {
                            "networkInterfaceMultiqueue": true,
                            "disks": [{"name": "containervolume", "disk": {"bus": "virtio"}}],
                            "interfaces": [{"name": "default", "masquerade": {}}],
                        },
                    },
                    "networks": [{"name": "default", "pod": {}}],
                    "volumes": [{
                        "name": "containervolume",
                        "containerDisk": {"image": "quay.io/capk/ubuntu-container-disk:v1.34.0"},
                    }],
                }}},
            },
        },
    })
}

/// The same with a disk that outlives its instance.
pub(crate) fn persistent() -> Value {
    let mut machine = machine();
    let spec = &mut machine["spec"]["virtualMachineTemplate"]["spec"];
    spec["dataVolumeTemplates"] = json!([{
        "metadata": {"name": "root"},
        "spec": {
            "source": {"registry": {"url": "docker://quay.io/capk/ubuntu-container-disk:v1.34.0"}},
            "storage": {"resources": {"requests": {"storage": "10Gi"}}},
        },
    }]);
    spec["template"]["spec"]["volumes"][0] =
        json!({"name": "containervolume", "dataVolume": {"name": "root"}});
    machine
}

/// The same on a secondary network whose addresses come from two pools.
pub(crate) fn on_vlan(mut machine: Value) -> Value {
    let instance = &mut machine["spec"]["virtualMachineTemplate"]["spec"]["template"]["spec"];
    let interfaces = &mut instance["domain"]["devices"]["interfaces"];
    interfaces
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "vlan", "bridge": {}}));
    let networks = instance["networks"].as_array_mut().unwrap();
    networks.push(json!({"name": "vlan", "multus": {"networkName": VLAN}}));
    machine["spec"]["networkInterfaces"] = json!([{
        "name": "vlan",
        "addressesFromPools": [
            {"kind": "InClusterIPPool", "name": "vlan-v4"},
            {"apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterIPPool", "name": "vlan-v6"},
        ],
        "nameservers": ["10.7.0.2"],
    }]);
    machine
}

/// The Multus attachment of [`on_vlan`].
pub(crate) const VLAN: &str = "default/vlan";

/// The objects of one cluster, as Cluster API core would have left them.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) script: Client,
    cluster: Value,
}

/// The name of the Cluster and of its KubevirtCluster.
pub(crate) const FLEET: &str = "fleet";
const CLUSTER_API: &str = "cluster.x-k8s.io/v1beta2";

impl Fleet {
    /// Creates a cluster without machines, its gates open.
    pub(crate) async fn create(site: &Site) -> Self {
        Self::create_like(site, cluster()).await
    }

    /// The same with an infra cluster of the test's own: `apiVersion`, `kind`, `spec`.
    pub(crate) async fn create_like(site: &Site, mut infra: Value) -> Self {
        let script = site.server.client("script");
        let reference = json!({"apiGroup": api::GROUP, "kind": "KubevirtCluster", "name": FLEET});
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
        infra["metadata"] = owned_by(&fleet.cluster, FLEET);
        create(&fleet.script, infra).await;
        fleet
    }

    /// Creates a machine, its gates open.
    pub(crate) async fn add(&self, name: &str) {
        self.add_with(name, machine(), json!({})).await;
    }

    /// The same with an infra machine of the test's own: `apiVersion`, `kind`, `spec`.
    pub(crate) async fn add_like(&self, name: &str, infra: Value) {
        self.add_with(name, infra, json!({})).await;
    }

    /// The same with more in the Machine's spec.
    pub(crate) async fn add_with(&self, name: &str, infra: Value, more: Value) {
        let owner = self.add_owner(name, more).await;
        self.add_infra(name, &owner, infra).await;
    }

    /// Creates the infra machine of a Machine.
    pub(crate) async fn add_infra(&self, name: &str, owner: &Value, mut infra: Value) {
        let given = infra["metadata"].take();
        infra["metadata"] = owned_by(owner, name);
        for (key, value) in given.as_object().into_iter().flatten() {
            infra["metadata"][key] = value.clone();
        }
        create(&self.script, infra).await;
    }

    /// Creates bootstrap data and Machine.
    pub(crate) async fn add_owner(&self, name: &str, more: Value) -> Value {
        let labels = json!({"cluster.x-k8s.io/cluster-name": FLEET});
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
            "metadata":
                {"name": format!("{name}-bootstrap"), "namespace": NAMESPACE, "labels": labels},
            "stringData": {"value": "#cloud-config\nruncmd: []\n", "format": "cloud-config"},
        });
        create(&self.script, secret).await;
        let mut owner = json!({
            "apiVersion": CLUSTER_API, "kind": "Machine",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "clusterName": FLEET, "version": "v1.36.0",
                "bootstrap": {"dataSecretName": format!("{name}-bootstrap")},
                "infrastructureRef":
                    {"apiGroup": api::GROUP, "kind": "KubevirtMachine", "name": name},
            },
            "status": {"initialization": {"bootstrapDataSecretCreated": true}},
        });
        for (key, value) in more.as_object().unwrap() {
            owner["spec"][key] = value.clone();
        }
        create(&self.script, owner).await
    }

    /// Says that the machine's Node is there.
    pub(crate) async fn join(&self, name: &str) {
        let machine = json!({"apiVersion": CLUSTER_API, "kind": "Machine"});
        let node = json!({"status": {"nodeRef": {"name": name}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(node));
        let machines = objects_of(&self.script, &machine);
        machines.patch_status(name, &params, &patch).await.unwrap();
    }

    /// Asks for the deletion of the infra machine.
    pub(crate) async fn delete(&self, name: &str) {
        let machines = objects_of(&self.script, &machine());
        let params = DeleteParams::default();
        machines.delete(name, &params).await.unwrap();
    }

    /// Merges this into an infra machine.
    pub(crate) async fn patch(&self, name: &str, patch: Value) {
        let machines = objects_of(&self.script, &machine());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        machines.patch(name, &params, &patch).await.unwrap();
    }
}

fn owned_by(owner: &Value, name: &str) -> Value {
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

/// Creates an object with its status, and says what was stored.
pub(crate) async fn create(client: &Client, mut object: Value) -> Value {
    let status = object.as_object_mut().unwrap().remove("status");
    let api = objects_of(client, &object);
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
pub(crate) fn objects_of(client: &Client, of: &Value) -> Api<DynamicObject> {
    let version = of["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, of["kind"].as_str().unwrap());
    Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind))
}

/// Whether the contract's field says that the infrastructure is there.
pub(crate) fn is_provisioned(machine: &Value) -> bool {
    machine["status"]["initialization"]["provisioned"] == true
}

/// A condition of a machine.
pub(crate) fn condition<'a>(machine: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = machine["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == kind)
}

/// The status of condition Ready.
pub(crate) fn ready(machine: &Value) -> Option<&str> {
    condition(machine, "Ready")?["status"].as_str()
}
