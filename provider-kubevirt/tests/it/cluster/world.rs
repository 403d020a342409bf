//! A management cluster, an infra cluster with a load balancer, and the engine between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capi_contract::InfraCluster;
use capi_core::{Clock, Options, Provider};
use capi_testkit::apiserver::{ApiServer, AuditRecord, Authorization, User};
use capi_testkit::crds;
use futures::StreamExt;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, watcher};
use provider_kubevirt::api::{self, KubevirtCluster};
use provider_kubevirt::cluster::Clusters;
use provider_kubevirt::connect::Connector;
use provider_kubevirt::machine::Machines;
use provider_kubevirt::session::Session;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::record::recorded;
use crate::site::{admit, apply, tenant_of};

pub(crate) const PROVIDER: &str = "provider";
pub(crate) const NS: &str = "default";
const INFRA: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";
const CORE: &str = "cluster.x-k8s.io/v1beta2";
const CLUSTERS: &str = "kubevirtclusters.infrastructure.cluster.x-k8s.io";

/// Longer than any wait of a test, in virtual time.
const LIMIT: Duration = Duration::from_secs(1_800);

fn epoch() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// An infra cluster where roles decide what the provider may do.
pub(crate) fn infra() -> ApiServer {
    let builder = ApiServer::builder().authorization(Authorization::Rbac);
    builder.epoch(epoch()).seed(1).build()
}

pub(crate) struct World {
    pub(crate) management: ApiServer,
    /// Who the provider is for the management cluster: an administrator, or a service account.
    account: Option<User>,
    pub(crate) infra: ApiServer,
    clock: Clock,
    /// Whether the infra cluster has a load balancer that answers.
    pub(crate) balances: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
    controllers: JoinHandle<()>,
}

impl World {
    /// With the engine running, and no cluster.
    pub(crate) async fn new() -> Self {
        let mut world = Self::beside(infra(), 2).await;
        world.start();
        world
    }

    /// A management cluster before an infra cluster that is there already; the engine does not run.
    pub(crate) async fn beside(infra: ApiServer, seed: u64) -> Self {
        let management = ApiServer::builder()
            .epoch(epoch())
            .seed(seed)
            .authorization(Authorization::Rbac)
            .build();
        let surroundings = ["clusters.cluster.x-k8s.io", "machines.cluster.x-k8s.io"];
        management
            .install_crds(surroundings.map(|name| crds::named(name).unwrap()))
            .unwrap();
        management.install_crds(api::crds()).unwrap();
        admit(&infra, NS).await;
        let balances = Arc::new(AtomicBool::new(true));
        let controllers = tokio::spawn(serve(infra.client("controllers"), Arc::clone(&balances)));
        Self {
            management,
            account: None,
            infra,
            clock: Clock::tokio(epoch()),
            balances,
            running: None,
            controllers,
        }
    }

    /// With the engine running under the rights that these manifests give it in the management cluster.
    pub(crate) async fn installed(manifests: &str) -> Self {
        let mut world = Self::beside(infra(), 2).await;
        let all: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
        let has_rights = |object: &&Value| {
            let kind = object["kind"].as_str().unwrap();
            kind == "Namespace" || kind == "ServiceAccount" || kind.contains("Role")
        };
        for object in all.iter().filter(has_rights) {
            apply(&world.management, object).await;
        }
        let account = all.iter().find(|one| one["kind"] == "ServiceAccount");
        let meta = &account.unwrap()["metadata"];
        let of = |field: &str| meta[field].as_str().unwrap();
        world.account = Some(User::service_account(of("namespace"), of("name")));
        world.start();
        world
    }

    pub(crate) fn start(&mut self) {
        self.stop();
        let management = match &self.account {
            Some(account) => self.management.client_as(PROVIDER, account),
            None => self.management.client(PROVIDER),
        };
        let provider = self.provide(management, tenant_of(&self.infra, NS), Clusters);
        self.running = Some(tokio::spawn(provider));
    }

    /// The provider with these clusters, which reaches its API servers through these clients.
    pub(crate) fn provide<C>(
        &self,
        management: Client,
        infra: Client,
        clusters: C,
    ) -> impl Future<Output = ()> + Send + use<C>
    where
        C: InfraCluster<Session = Session, Kind = KubevirtCluster>,
    {
        let provider = Provider::new(Connector::new().through(move |_| recorded(infra.clone())))
            .cluster(clusters)
            .machine(Machines)
            .options(Options {
                clock: self.clock.clone(),
                ..Options::default()
            });
        async move {
            provider
                .run(management, std::future::pending())
                .await
                .unwrap();
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    fn api_of(server: &ApiServer, object: &Value) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = object["kind"].as_str().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(server.client("script"), NS, &resource)
    }

    async fn create_in(server: &ApiServer, object: Value) -> Value {
        let api = Self::api_of(server, &object);
        let object = serde_json::from_value(object).unwrap();
        let created = api.create(&PostParams::default(), &object).await.unwrap();
        serde_json::to_value(created).unwrap()
    }

    /// A Cluster `c` and its KubevirtCluster `c`.
    pub(crate) async fn create_cluster(&self, spec: Value) {
        self.create_annotated(spec, json!({})).await;
    }

    pub(crate) async fn create_annotated(&self, spec: Value, metadata: Value) {
        let cluster = Self::create_in(
            &self.management,
            json!({
                "apiVersion": CORE, "kind": "Cluster", "metadata": {"name": "c"},
                "spec": {"infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io",
                    "kind": "KubevirtCluster", "name": "c"}},
            }),
        )
        .await;
        let mut meta = metadata;
        meta["name"] = "c".into();
        meta["labels"] = json!({"cluster.x-k8s.io/cluster-name": "c"});
        meta["ownerReferences"] = json!([{"apiVersion": CORE, "kind": "Cluster", "name": "c",
            "uid": cluster["metadata"]["uid"]}]);
        Self::create_in(
            &self.management,
            json!({
                "apiVersion": INFRA, "kind": "KubevirtCluster", "metadata": meta, "spec": spec,
            }),
        )
        .await;
    }

    pub(crate) async fn create_beside(&self, object: Value) {
        Self::create_in(&self.management, object).await;
    }

    pub(crate) async fn create_service(&self, service: Value) -> Value {
        let mut service = service;
        service["apiVersion"] = "v1".into();
        service["kind"] = "Service".into();
        Self::create_in(&self.infra, service).await
    }

    pub(crate) async fn patch(&self, patch: Value) {
        let of = json!({"apiVersion": INFRA, "kind": "KubevirtCluster"});
        let api = Self::api_of(&self.management, &of);
        api.patch("c", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) async fn patch_service(&self, name: &str, patch: Value) {
        let api = Self::api_of(&self.infra, &json!({"apiVersion": "v1", "kind": "Service"}));
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) async fn delete_service(&self, name: &str) {
        let api = Self::api_of(&self.infra, &json!({"apiVersion": "v1", "kind": "Service"}));
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn delete_cluster(&self) {
        self.try_delete_cluster().await.unwrap();
    }

    /// Asks for the deletion of the cluster, which may be gone already.
    pub(crate) async fn try_delete_cluster(&self) -> Result<(), String> {
        let of = json!({"apiVersion": INFRA, "kind": "KubevirtCluster"});
        let api = Self::api_of(&self.management, &of);
        match api.delete("c", &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(format!("deleting the cluster: {error}")),
        }
    }

    pub(crate) fn cluster(&self) -> Option<Value> {
        self.management.object(CLUSTERS, NS, "c")
    }

    pub(crate) fn service(&self, name: &str) -> Option<Value> {
        self.infra.object("services", NS, name)
    }

    pub(crate) fn services(&self) -> Vec<Value> {
        self.infra.objects("services")
    }

    /// Waits until something holds of the KubevirtCluster and of this world.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self) {
            let (cluster, services) = (self.cluster(), self.services());
            assert!(
                begun.elapsed() < LIMIT,
                "never {what}: {cluster:#?} {services:#?}"
            );
            sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    pub(crate) async fn until_provisioned(&self) -> Duration {
        self.until("provisioned", |world| {
            is_provisioned(&world.cluster().unwrap())
        })
        .await
    }

    pub(crate) fn endpoint(&self) -> String {
        let cluster = self.cluster().unwrap();
        let endpoint = &cluster["spec"]["controlPlaneEndpoint"];
        format!(
            "{}:{}",
            endpoint["host"].as_str().unwrap_or_default(),
            endpoint["port"]
        )
    }

    pub(crate) fn condition(&self, kind: &str) -> Value {
        let cluster = self.cluster().unwrap();
        let all = cluster["status"]["conditions"].as_array();
        let found = all.and_then(|all| all.iter().find(|one| one["type"] == kind));
        found.cloned().unwrap_or_default()
    }

    /// Requests of the provider, watches, their lists and Events aside.
    pub(crate) fn requests(&self) -> Vec<String> {
        let counts = |record: &AuditRecord| {
            record.actor == PROVIDER
                && !record.is_event()
                && (record.is_write() || record.verb == "get")
        };
        let both = [("m", &self.management), ("i", &self.infra)];
        let all = both.into_iter().flat_map(|(at, server)| {
            let records = server.audit().select(counts);
            records.into_iter().map(move |r| {
                format!(
                    "{at} {} {} {}/{}",
                    r.verb, r.resource, r.name, r.subresource
                )
            })
        });
        all.collect()
    }

    pub(crate) fn loses_balancer(&self) {
        self.balances.store(false, Ordering::SeqCst);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
        self.controllers.abort();
    }
}

pub(crate) fn is_provisioned(cluster: &Value) -> bool {
    cluster["status"]["initialization"]["provisioned"] == true
}

pub(crate) async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

/// Plays what gives Services their addresses: the API server's allocator, and a load balancer that
/// has 192.0.2.7 and what it is asked for.
async fn serve(client: Client, balances: Arc<AtomicBool>) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Service"));
    let api: Api<DynamicObject> = Api::namespaced_with(client, NS, &resource);
    let events = watcher(api.clone(), watcher::Config::default());
    let mut services = std::pin::pin!(events.applied_objects());
    let mut next = 9;
    while let Some(Ok(service)) = services.next().await {
        let name = service.metadata.name.clone().unwrap_or_default();
        let spec = &service.data["spec"];
        let kind = spec["type"].as_str().unwrap_or_default();
        let params = PatchParams::default();
        if spec["clusterIP"].is_null() {
            let address = json!({"spec": {"clusterIP": format!("10.96.0.{next}")}});
            next += 1;
            let _ = api.patch(&name, &params, &Patch::Merge(address)).await;
        }
        if kind == "NodePort" && spec["ports"][0]["nodePort"].is_null() {
            let mut ports = spec["ports"].clone();
            ports[0]["nodePort"] = 30_123.into();
            let patch = Patch::Merge(json!({"spec": {"ports": ports}}));
            let _ = api.patch(&name, &params, &patch).await;
        }
        let has_address = !service.data["status"]["loadBalancer"]["ingress"].is_null();
        if kind == "LoadBalancer" && !has_address && balances.load(Ordering::SeqCst) {
            let asked = spec["loadBalancerIP"].as_str().unwrap_or("192.0.2.7");
            let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": asked}]}}});
            let _ = api
                .patch_status(&name, &params, &Patch::Merge(status))
                .await;
        }
    }
}
