//! An infra node that is drained while a VM on it cannot move: its Node in the workload cluster is
//! emptied first.

use std::sync::Arc;
use std::time::Duration;

use capi_core::Dial;
use capi_testkit::apiserver::ApiServer;
use capi_testkit::sweep::PROVIDER;
use http::{Method, Request};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::GroupVersionKind;
use parking_lot::Mutex;
use provider_kubevirt::connect::Connector;
use provider_kubevirt::machine::Machines;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::record::recorded;
use crate::site::{
    FLEET, Fleet, NAMESPACE, Site, condition, create, is_provisioned, persistent, ready, tenant_of,
};

const MIGRATIONS: &str = "virtualmachineinstancemigrations.kubevirt.io";

/// A machine that is a Node of its workload cluster, with a pod on it.
struct Drain {
    site: Site,
    workload: ApiServer,
    /// Paths of the provider's deletions in the infra cluster, with what was asked for.
    deletions: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Drain {
    async fn of(infra: Value) -> Self {
        let site = Site::usual().await;
        let workload = ApiServer::new();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": format!("{FLEET}-kubeconfig"), "namespace": NAMESPACE},
            "stringData": {"value": "a kubeconfig"},
        });
        create(&site.server.client("script"), secret).await;
        let fleet = Fleet::create(&site).await;
        site.play();
        let this = Self {
            site,
            workload,
            deletions: Arc::default(),
        };
        this.serve();
        this.add("Node", json!({"metadata": {"name": "m-0"}})).await;
        let spec = json!({"nodeName": "m-0", "containers": [{"name": "c", "image": "i"}]});
        this.add("Pod", json!({"metadata": {"name": "app"}, "spec": spec}))
            .await;
        let (params, running) = (PatchParams::default(), json!({"phase": "Running"}));
        let patch = Patch::Merge(json!({"status": running}));
        let pods = this.api("Pod");
        pods.patch_status("app", &params, &patch).await.unwrap();
        fleet.add_like("m-0", infra).await;
        this.site
            .until("provisioned", |site| {
                site.machine("m-0").is_some_and(|one| is_provisioned(&one))
            })
            .await;
        fleet.join("m-0").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        this
    }

    fn serve(&self) {
        let (site, workload) = (self.site.clone(), self.workload.clone());
        let deletions = Arc::clone(&self.deletions);
        tokio::spawn(async move {
            let mut options = site.options();
            options.dial = Dial::new(move |_| {
                let client = workload.client(PROVIDER);
                async move { Ok(client) }
            });
            let infra = noting(tenant_of(&site.infra, NAMESPACE), deletions);
            let connector = Connector::new().through(move |_| recorded(infra.clone()));
            let management = site.server.client(PROVIDER);
            site.provide_with(connector, management, options, Machines)
                .await;
        });
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let client = self.workload.client("script");
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
        match kind {
            "Node" => Api::all_with(client, &resource),
            _ => Api::namespaced_with(client, "default", &resource),
        }
    }

    async fn add(&self, kind: &str, mut object: Value) {
        object["apiVersion"] = "v1".into();
        object["kind"] = kind.into();
        let object = serde_json::from_value(object).unwrap();
        let params = PostParams::default();
        self.api(kind).create(&params, &object).await.unwrap();
    }

    fn is_cordoned(&self) -> bool {
        let node = self.workload.object("nodes", "", "m-0").unwrap();
        node["spec"]["unschedulable"] == true
    }

    fn has_pod(&self) -> bool {
        self.workload.object("pods", "default", "app").is_some()
    }

    fn reason(&self) -> String {
        let machine = self.site.machine("m-0").unwrap();
        let one = condition(&machine, "Ready").cloned().unwrap_or_default();
        one["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// Drains the infra node of the machine; the instance as it was.
    async fn begin(&self) -> Value {
        let before = self.site.instance("m-0").unwrap();
        let node = before["status"]["nodeName"].as_str().unwrap().to_owned();
        let drained = self.site.platform.hand().drain(&node).await;
        assert!(drained.unwrap());
        before
    }

    async fn restarted(&self, before: &Value) {
        self.site
            .until("restarted elsewhere", |site| {
                site.instance("m-0").is_some_and(|now| {
                    now["metadata"]["uid"] != before["metadata"]["uid"]
                        && now["status"]["phase"] == "Running"
                        && now["status"]["nodeName"] != before["status"]["nodeName"]
                })
            })
            .await;
    }
}

/// A client whose deletions are noted.
fn noting(client: Client, deletions: Arc<Mutex<Vec<(String, Value)>>>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, deletions) = (client.clone(), Arc::clone(&deletions));
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?.to_vec();
            if parts.method == Method::DELETE {
                let wish = serde_json::from_slice(&bytes).unwrap_or_default();
                deletions.lock().push((parts.uri.path().to_owned(), wish));
            }
            let request = Request::from_parts(parts, Body::from(bytes));
            let answer = client.send(request).await;
            answer.map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        }
    });
    Client::new(service, NAMESPACE)
}

/// A machine whose volume is used like this: what one node alone may write to keeps its VM there.
fn with_volume(mode: &str) -> Value {
    let mut machine = persistent();
    let spec = &mut machine["spec"]["virtualMachineTemplate"]["spec"];
    spec["dataVolumeTemplates"][0]["spec"]["storage"]["accessModes"] = json!([mode]);
    machine
}

/// PR #389 and PR #392: where a live migration is impossible, or has failed, the Node is cordoned and
/// emptied, the VM is started elsewhere, and the Node takes pods again.
#[rstest]
#[case::impossible(with_volume("ReadWriteOnce"), 0)]
#[case::failed(with_volume("ReadWriteMany"), 1)]
#[tokio::test(start_paused = true)]
async fn capk_389_capk_392_a_node_is_emptied_where_its_vm_cannot_move_and_takes_pods_again(
    #[case] infra: Value,
    #[case] migrations: usize,
) {
    let drain = Drain::of(infra).await;
    let vm = drain.site.vm("m-0").unwrap();
    let fails = u32::try_from(migrations).unwrap();
    drain.site.platform.faults().fail_migrations(fails);
    let since = drain.site.marks();
    let before = drain.begin().await;
    drain.site.until("cordoned", |_| drain.is_cordoned()).await;
    drain
        .site
        .until("emptied", |site| {
            let now = site.instance("m-0").unwrap_or_default();
            let is_same = now["metadata"]["uid"] == before["metadata"]["uid"];
            let has_pod = drain.has_pod();
            assert!(is_same || !has_pod, "stopped under its pods");
            !has_pod
        })
        .await;
    drain.restarted(&before).await;
    drain
        .site
        .until("uncordoned", |site| {
            !drain.is_cordoned() && ready(&site.machine("m-0").unwrap()) == Some("True")
        })
        .await;
    // In the foreground: the pod is gone before the next one starts on its disk.
    let deletions = drain.deletions.lock().clone();
    let path = "/virtualmachineinstances/m-0";
    let stops = deletions.iter().filter(|(at, _)| at.ends_with(path));
    let hows: Vec<_> = stops.map(|(_, wish)| &wish["propagationPolicy"]).collect();
    assert_eq!(hows, ["Foreground"], "{deletions:?}");
    let asked = drain.site.requests(since, |record| {
        record.verb == "create" && record.resource == "virtualmachineinstancemigrations"
    });
    assert_eq!(asked.len(), migrations, "{asked:#?}");
    drain
        .site
        .until("forgotten", |site| {
            site.infra.objects(MIGRATIONS).is_empty()
        })
        .await;
    let after = drain.site.vm("m-0").unwrap();
    assert_eq!(after["metadata"]["uid"], vm["metadata"]["uid"]);
}

/// A Node that cannot be emptied holds the drain of the infra node no longer than ten minutes.
#[tokio::test(start_paused = true)]
async fn capk_392_a_drain_of_a_node_is_bounded() {
    let drain = Drain::of(with_volume("ReadWriteOnce")).await;
    // Nobody may be evicted.
    let selector = json!({"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]});
    let kind = GroupVersionKind::gvk("policy", "v1", "PodDisruptionBudget");
    let budgets: Api<DynamicObject> = Api::namespaced_with(
        drain.workload.client("script"),
        "default",
        &ApiResource::from_gvk(&kind),
    );
    let budget = serde_json::from_value(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": selector},
    }));
    let params = PostParams::default();
    budgets.create(&params, &budget.unwrap()).await.unwrap();
    let before = drain.begin().await;
    let begun = Instant::now();
    drain
        .site
        .until("told", |_| drain.reason() == "DrainingNode")
        .await;
    tokio::time::sleep(Duration::from_secs(540)).await;
    let now = drain.site.instance("m-0").unwrap();
    assert_eq!(
        now["metadata"]["uid"], before["metadata"]["uid"],
        "too soon"
    );
    drain.restarted(&before).await;
    assert!(
        begun.elapsed() < Duration::from_secs(720),
        "{:?}",
        begun.elapsed()
    );
}
