//! The workload cluster's side: provider ids and drains, with a second API server as that cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use capi_core::{Dial, Options};
use capi_testkit::apiserver::ApiServer;
use http::{Request, Response, StatusCode};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::world::{ENGINE, World, condition, is_provisioned, seconds};

const TENANT: &str = "engine-in-workload";

/// A management cluster with one machine whose node wants something, and its workload cluster.
struct Tenancy {
    world: World,
    tenant: ApiServer,
    /// Whether the control plane answers, and whether it takes the kubeconfig.
    is_up: Arc<AtomicBool>,
    is_trusted: Arc<AtomicBool>,
    dials: Arc<AtomicUsize>,
}

impl Tenancy {
    async fn new() -> Self {
        let world = World::new(Duration::ZERO).await;
        world
            .create(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c-kubeconfig"},
                "stringData": {"value": "a kubeconfig"},
            }))
            .await;
        let mut this = Self {
            world,
            tenant: ApiServer::builder()
                .epoch("2026-01-01T00:00:00Z".parse().unwrap())
                .build(),
            is_up: Arc::new(AtomicBool::new(true)),
            is_trusted: Arc::new(AtomicBool::new(true)),
            dials: Arc::default(),
        };
        this.start();
        this.world.create_machine("m", json!({"node": true})).await;
        this.world.until_provisioned("m").await;
        this
    }

    fn start(&mut self) {
        let provider = self.world.provider().options(Options {
            dial: self.dial(),
            ..self.world.options()
        });
        self.world.run(provider, self.world.server.client(ENGINE));
    }

    /// Reaches the workload cluster as it answers now.
    fn dial(&self) -> Dial {
        let (up, trusted) = (Arc::clone(&self.is_up), Arc::clone(&self.is_trusted));
        let (dials, tenant) = (Arc::clone(&self.dials), self.tenant.clone());
        Dial::new(move |kubeconfig| {
            assert_eq!(kubeconfig, b"a kubeconfig");
            dials.fetch_add(1, Ordering::SeqCst);
            // What this kubeconfig is worth is settled when it is used first.
            let is_good = trusted.load(Ordering::SeqCst);
            let (up, client) = (Arc::clone(&up), tenant.client(TENANT));
            let service = tower::service_fn(move |request: Request<Body>| {
                let (up, client) = (up.load(Ordering::SeqCst), client.clone());
                async move {
                    if !up {
                        return Err("connection refused".into());
                    }
                    if !is_good {
                        let status = json!({"kind": "Status", "apiVersion": "v1", "code": 401,
                            "status": "Failure", "reason": "Unauthorized", "message": "no"});
                        let answer = Response::builder().status(StatusCode::UNAUTHORIZED);
                        return Ok(answer.body(Body::from(status.to_string().into_bytes()))?);
                    }
                    let answer = client.send(request).await;
                    answer.map_err(Box::<dyn std::error::Error + Send + Sync>::from)
                }
            });
            async move { Ok(kube::Client::new(service, "default")) }
        })
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let client = self.tenant.client("script");
        let (group, version) = match kind {
            "PodDisruptionBudget" => ("policy", "v1"),
            "DaemonSet" => ("apps", "v1"),
            _ => ("", "v1"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match kind {
            "Node" => Api::all_with(client, &resource),
            _ => Api::namespaced_with(client, "default", &resource),
        }
    }

    /// Creates an object, and returns its uid.
    async fn create(&self, kind: &str, mut object: Value) -> String {
        object["kind"] = kind.into();
        object["apiVersion"] = match kind {
            "PodDisruptionBudget" => "policy/v1".into(),
            "DaemonSet" => "apps/v1".into(),
            _ => "v1".into(),
        };
        let object = serde_json::from_value(object).unwrap();
        let created = self.api(kind).create(&PostParams::default(), &object).await;
        created.unwrap().metadata.uid.unwrap()
    }

    async fn create_node(&self, spec: Value) {
        self.create("Node", json!({"metadata": {"name": "m"}, "spec": spec}))
            .await;
    }

    async fn create_pod(&self, name: &str, metadata: Value) {
        let mut metadata = metadata;
        metadata["name"] = name.into();
        let spec = json!({"nodeName": "m", "containers": [{"name": "c", "image": "i"}]});
        self.create("Pod", json!({"metadata": metadata, "spec": spec}))
            .await;
        let running = Patch::Merge(json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}}));
        let params = PatchParams::default();
        self.api("Pod")
            .patch_status(name, &params, &running)
            .await
            .unwrap();
    }

    fn node(&self) -> Value {
        self.tenant.object("nodes", "", "m").unwrap_or_default()
    }

    fn pods(&self) -> Vec<String> {
        let mut names: Vec<_> = ["app", "budgeted", "daemon", "mirror"]
            .into_iter()
            .filter(|name| self.tenant.object("pods", "default", name).is_some())
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    async fn budget(&self, allowed: i64) {
        let status = Patch::Merge(
            json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed,
            "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}}),
        );
        let params = PatchParams::default();
        self.api("PodDisruptionBudget")
            .patch_status("b", &params, &status)
            .await
            .unwrap();
    }

    /// Requests of the engine to the workload cluster.
    fn requests(&self) -> Vec<String> {
        let all = self.tenant.audit().select(|record| record.actor == TENANT);
        all.iter()
            .map(|r| format!("{} {} {}", r.verb, r.resource, r.name))
            .collect()
    }

    fn secret_reads(&self) -> usize {
        let all = self.world.requests().into_iter();
        all.filter(|r| r.verb == "get" && r.name == "c-kubeconfig")
            .count()
    }

    fn machine(&self) -> Value {
        self.world.machine("m").unwrap()
    }

    async fn join(&self) {
        let machine = json!({"kind": "Machine", "apiVersion": "cluster.x-k8s.io/v1beta2",
            "metadata": {"name": "m"}});
        self.world
            .patch_status(&machine, json!({"nodeRef": {"name": "m"}}))
            .await;
    }

    /// Waits until something holds, no longer than this.
    async fn within(&self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(
                begun.elapsed() <= limit,
                "{what}: {:#?} {:#?}",
                self.node(),
                self.machine()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn drained(&self) {
        self.create_node(json!({})).await;
        self.join().await;
        seconds(5).await;
        let labels = json!({"app": "d"});
        let template = json!({"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let spec = json!({"selector": {"matchLabels": labels}, "template": template});
        let uid = self
            .create(
                "DaemonSet",
                json!({"metadata": {"name": "d"}, "spec": spec}),
            )
            .await;
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": uid,
            "controller": true});
        self.create_pod("app", json!({})).await;
        self.create_pod("daemon", json!({"ownerReferences": [owner]}))
            .await;
        let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        self.create_pod("mirror", mirror).await;
        self.create_pod("budgeted", json!({"labels": {"app": "b"}}))
            .await;
        let selector = json!({"matchLabels": {"app": "b"}});
        let spec = json!({"minAvailable": 1, "selector": selector});
        self.create(
            "PodDisruptionBudget",
            json!({"metadata": {"name": "b"}, "spec": spec}),
        )
        .await;
        self.budget(0).await;
    }

    fn says(&self, reason: &str) -> bool {
        condition(&self.machine(), "Ready")["reason"] == reason
    }
}

const ANNOTATION: &str = "/metadata/annotations/capi-rs.dev~1drain";

#[tokio::test(start_paused = true)]
async fn im_02_a_node_without_provider_id_gets_the_machines_at_once() {
    let tenancy = Tenancy::new().await;
    seconds(90).await;
    tenancy.create_node(json!({})).await;
    let id = tenancy.machine()["spec"]["providerID"].clone();
    let second = Duration::from_secs(1);
    tenancy
        .within(second, "identified", |t| {
            t.node()["spec"]["providerID"] == id
        })
        .await;
    assert!(id.is_string());
    let requests = tenancy.requests();
    assert_eq!(requests, ["list nodes ", "watch nodes ", "patch nodes m"]);
    assert_eq!(tenancy.secret_reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn r13_a_machine_that_is_a_node_costs_no_request_also_after_a_restart() {
    let mut tenancy = Tenancy::new().await;
    tenancy.create_node(json!({})).await;
    seconds(5).await;
    tenancy.join().await;
    seconds(120).await;
    let (before, reads) = (tenancy.requests().len(), tenancy.secret_reads());
    tenancy.world.stop();
    tenancy.start();
    seconds(1_800).await;
    assert_eq!(tenancy.requests().len(), before, "{:?}", tenancy.requests());
    assert_eq!(tenancy.secret_reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn a_workload_cluster_that_is_down_holds_nothing_back_and_is_not_hammered() {
    let mut tenancy = Tenancy::new().await;
    tenancy.is_up.store(false, Ordering::SeqCst);
    tenancy.world.stop();
    tenancy.start();
    seconds(600).await;
    assert!(is_provisioned(&tenancy.machine()));
    assert!(tenancy.says("Ready") || condition(&tenancy.machine(), "Ready")["status"] == "True");
    // The connection is refused, so the kubeconfig is not read again.
    assert_eq!(tenancy.secret_reads(), 2);
    tenancy.create_node(json!({})).await;
    tenancy.is_up.store(true, Ordering::SeqCst);
    let id = tenancy.machine()["spec"]["providerID"].clone();
    let minute = Duration::from_secs(61);
    tenancy
        .within(minute, "identified", |t| {
            t.node()["spec"]["providerID"] == id
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_kubeconfig_that_is_refused_is_read_again_with_backoff() {
    let mut tenancy = Tenancy::new().await;
    tenancy.is_trusted.store(false, Ordering::SeqCst);
    tenancy.world.stop();
    tenancy.start();
    seconds(600).await;
    let reads = tenancy.secret_reads();
    assert!((8..=20).contains(&reads), "{reads}");
    tenancy.is_trusted.store(true, Ordering::SeqCst);
    tenancy.create_node(json!({})).await;
    let minute = Duration::from_secs(61);
    tenancy
        .within(minute, "identified", |t| {
            t.node()["spec"]["providerID"].is_string()
        })
        .await;
    seconds(600).await;
    assert!(tenancy.secret_reads() <= reads + 1);
}

#[tokio::test(start_paused = true)]
async fn im_03_another_provider_id_is_left_alone_and_reported() {
    let tenancy = Tenancy::new().await;
    tenancy
        .create_node(json!({"providerID": "other://1"}))
        .await;
    seconds(60).await;
    assert_eq!(tenancy.node()["spec"]["providerID"], "other://1");
    let events = tenancy
        .world
        .server
        .audit()
        .select(|r| r.actor == ENGINE && r.is_event());
    assert!(!events.is_empty());
    assert!(!tenancy.requests().iter().any(|r| r.starts_with("patch")));
}

#[tokio::test(start_paused = true)]
async fn a_drain_evicts_what_may_go_honours_budgets_and_is_undone() {
    let tenancy = Tenancy::new().await;
    tenancy.drained().await;
    tenancy.world.farm.evict(Some(Duration::from_secs(600)));
    tenancy.world.farm.tell("m");
    let soon = Duration::from_secs(2);
    let is_cordoned = |t: &Tenancy| t.node()["spec"]["unschedulable"] == true;
    tenancy.within(soon, "cordoned", is_cordoned).await;
    assert!(tenancy.machine().pointer(ANNOTATION).is_some());
    seconds(60).await;
    assert_eq!(tenancy.pods(), ["budgeted", "daemon", "mirror"]);
    assert!(tenancy.says("Draining"), "{:#?}", tenancy.machine());
    tenancy.budget(1).await;
    tenancy
        .within(Duration::from_secs(15), "drained", |t| {
            t.says("DrainedEmpty")
        })
        .await;
    assert_eq!(tenancy.pods(), ["daemon", "mirror"]);
    // The VM has moved: its node takes work again.
    tenancy.world.farm.evict(None);
    tenancy.world.farm.tell("m");
    tenancy
        .within(soon, "uncordoned", |t| !is_cordoned(t))
        .await;
    tenancy
        .within(soon, "noted", |t| t.machine().pointer(ANNOTATION).is_none())
        .await;
    seconds(120).await;
    let (tenant, own) = (tenancy.requests().len(), tenancy.world.requests().len());
    seconds(1_800).await;
    assert_eq!(
        (tenancy.requests().len(), tenancy.world.requests().len()),
        (tenant, own)
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_time_which_a_restart_does_not_prolong() {
    let mut tenancy = Tenancy::new().await;
    tenancy.drained().await;
    tenancy.world.farm.evict(Some(Duration::from_secs(600)));
    tenancy.world.farm.tell("m");
    seconds(400).await;
    assert!(tenancy.says("Draining"));
    tenancy.world.stop();
    tenancy.start();
    seconds(190).await;
    assert!(tenancy.says("Draining"), "{:#?}", tenancy.machine());
    tenancy
        .within(Duration::from_secs(15), "timed out", |t| {
            t.says("DrainTimedOut")
        })
        .await;
    assert_eq!(tenancy.pods(), ["budgeted", "daemon", "mirror"]);
}

#[tokio::test(start_paused = true)]
async fn r12_a_node_that_a_crash_left_cordoned_is_uncordoned_by_the_next_life() {
    let mut tenancy = Tenancy::new().await;
    tenancy.drained().await;
    tenancy.world.farm.evict(Some(Duration::from_secs(600)));
    tenancy.world.farm.tell("m");
    let is_cordoned = |t: &Tenancy| t.node()["spec"]["unschedulable"] == true;
    tenancy
        .within(Duration::from_secs(2), "cordoned", is_cordoned)
        .await;
    tenancy.world.stop();
    tenancy.world.farm.evict(None);
    tenancy.start();
    tenancy
        .within(Duration::from_secs(10), "uncordoned", |t| !is_cordoned(t))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_somebody_else_cordoned_stays_so() {
    let tenancy = Tenancy::new().await;
    tenancy.drained().await;
    let cordoned = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    tenancy
        .api("Node")
        .patch("m", &PatchParams::default(), &cordoned)
        .await
        .unwrap();
    tenancy.world.farm.evict(Some(Duration::from_secs(60)));
    tenancy.world.farm.tell("m");
    tenancy
        .within(Duration::from_secs(70), "over", |t| t.says("DrainTimedOut"))
        .await;
    tenancy.world.farm.evict(None);
    tenancy.world.farm.tell("m");
    tenancy
        .within(Duration::from_secs(5), "noted", |t| {
            t.machine().pointer(ANNOTATION).is_none()
        })
        .await;
    assert_eq!(tenancy.node()["spec"]["unschedulable"], true);
}
