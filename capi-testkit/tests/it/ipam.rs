//! The in-cluster IPAM against the API server.

use std::collections::BTreeSet;
use std::time::Duration;

use capi_testkit::apiserver::ApiServer;
use capi_testkit::crds;
use capi_testkit::ipam::{Ipam, IpamHandle};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const GROUP: &str = "ipam.cluster.x-k8s.io";

struct World {
    server: ApiServer,
    ipam: IpamHandle,
    _tasks: JoinSet<()>,
}

fn api(server: &ApiServer, version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let group = if kind == "Cluster" {
        "cluster.x-k8s.io"
    } else {
        GROUP
    };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    if kind == "GlobalInClusterIPPool" {
        Api::all_with(server.client("user"), &resource)
    } else {
        Api::namespaced_with(server.client("user"), "default", &resource)
    }
}

impl World {
    fn new() -> Self {
        let server = ApiServer::builder().seed(3).build();
        server.install_crds(crds::all()).expect("valid definitions");
        let ipam = Ipam::builder(server.client("ipam")).build();
        let handle = ipam.handle();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            ipam.run().await;
        });
        Self {
            server,
            ipam: handle,
            _tasks: tasks,
        }
    }

    fn claims(&self) -> Api<DynamicObject> {
        api(&self.server, "v1beta2", "IPAddressClaim", "ipaddressclaims")
    }

    fn pools(&self) -> Api<DynamicObject> {
        api(
            &self.server,
            "v1alpha2",
            "InClusterIPPool",
            "inclusterippools",
        )
    }

    async fn create(&self, api: &Api<DynamicObject>, value: Value) {
        let mut object: DynamicObject = serde_json::from_value(value).expect("an object");
        let kind = object.types.as_ref().expect("types").kind.clone();
        if kind != "GlobalInClusterIPPool" {
            object.metadata.namespace = Some("default".to_owned());
        }
        api.create(&PostParams::default(), &object)
            .await
            .expect("creates");
    }

    async fn pool(&self, spec: Value) {
        self.create(
            &self.pools(),
            json!({"apiVersion": format!("{GROUP}/v1alpha2"),
            "kind": "InClusterIPPool", "metadata": {"name": "pool"}, "spec": spec}),
        )
        .await;
    }

    async fn claim(&self, name: &str, spec: Value) {
        let mut whole =
            json!({"poolRef": {"apiGroup": GROUP, "kind": "InClusterIPPool", "name": "pool"}});
        json_patch::merge(&mut whole, &spec);
        self.create(
            &self.claims(),
            json!({"apiVersion": format!("{GROUP}/v1beta2"),
            "kind": "IPAddressClaim", "metadata": {"name": name}, "spec": whole}),
        )
        .await;
    }

    fn one(&self, resource: &str, name: &str) -> Value {
        let resource = format!("{resource}.{GROUP}");
        self.server
            .object(&resource, "default", name)
            .unwrap_or_default()
    }

    fn ready(&self, claim: &str) -> String {
        let claim = self.one("ipaddressclaims", claim);
        let held = &claim["status"]["conditions"][0];
        format!(
            "{}/{}",
            held["status"].as_str().unwrap_or(""),
            held["reason"].as_str().unwrap_or("")
        )
    }

    fn addresses(&self) -> Vec<String> {
        let all = self.server.objects(&format!("ipaddresses.{GROUP}"));
        all.iter()
            .map(|it| it["spec"]["address"].as_str().expect("one").to_owned())
            .collect()
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn ipp_03_the_shape_of_claim_and_address() {
    let world = World::new();
    world
        .pool(json!({"addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24, "gateway": "10.0.0.1"}))
        .await;
    world.claim("a", json!({})).await;
    pass(5).await;
    assert_eq!(world.ready("a"), "True/Ready");
    let claim = world.one("ipaddressclaims", "a");
    assert_eq!(claim["status"]["addressRef"]["name"], "a");
    assert_eq!(
        claim["metadata"]["finalizers"],
        json!(["ipam.cluster.x-k8s.io/ReleaseAddress"])
    );
    let address = world.one("ipaddresses", "a");
    assert_eq!(
        address["spec"],
        json!({
        "address": "10.0.0.10", "prefix": 24, "gateway": "10.0.0.1", "claimRef": {"name": "a"},
        "poolRef": {"apiGroup": GROUP, "kind": "InClusterIPPool", "name": "pool"}})
    );
    let owners = &address["metadata"]["ownerReferences"];
    let flags = |index: usize| {
        let owner = &owners[index];
        (
            owner["kind"].clone(),
            owner["controller"].clone(),
            owner["blockOwnerDeletion"].clone(),
        )
    };
    assert_eq!(
        flags(0),
        (json!("IPAddressClaim"), json!(true), json!(true))
    );
    assert_eq!(
        flags(1),
        (json!("InClusterIPPool"), json!(false), json!(true))
    );
    assert_eq!(
        world.one("inclusterippools", "pool")["status"]["ipAddresses"],
        json!({"total": 11, "used": 1, "free": 10, "outOfRange": 0})
    );
}

#[tokio::test(start_paused = true)]
async fn ipp_05_two_hundred_claims_at_once_get_two_hundred_addresses() {
    let world = World::new();
    world
        .pool(json!({"addresses": ["10.0.0.0/24"], "prefix": 24, "gateway": "10.0.0.1"}))
        .await;
    for index in 0..200 {
        world.claim(&format!("c{index}"), json!({})).await;
    }
    pass(30).await;
    let addresses = world.addresses();
    assert_eq!(addresses.len(), 200);
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn ipp_06_release_makes_the_address_free_and_the_pool_waits() {
    let world = World::new();
    world
        .pool(json!({"addresses": ["10.0.0.10"], "prefix": 24}))
        .await;
    world.claim("a", json!({})).await;
    world.claim("b", json!({})).await;
    pass(5).await;
    assert_eq!(
        (world.ready("a").as_str(), world.ready("b").as_str()),
        ("True/Ready", "False/PoolExhausted")
    );
    world
        .claims()
        .delete("a", &DeleteParams::default())
        .await
        .expect("deletes");
    pass(5).await;
    assert!(world.one("ipaddressclaims", "a").is_null());
    assert_eq!(world.ready("b"), "True/Ready");
    assert_eq!(world.addresses(), ["10.0.0.10"]);
    world
        .pools()
        .delete("pool", &DeleteParams::default())
        .await
        .expect("deletes");
    pass(5).await;
    assert!(!world.one("inclusterippools", "pool").is_null(), "in use");
    world
        .claims()
        .delete("b", &DeleteParams::default())
        .await
        .expect("deletes");
    pass(5).await;
    assert!(world.one("inclusterippools", "pool").is_null());
}

#[tokio::test(start_paused = true)]
async fn ipp_01_and_ipp_02_foreign_paused_and_missing() {
    let world = World::new();
    world
        .pool(json!({"addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24}))
        .await;
    let clusters = api(&world.server, "v1beta2", "Cluster", "clusters");
    world
        .create(
            &clusters,
            json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": "c"}, "spec": {"paused": true,
            "infrastructureRef": {"apiGroup": "x", "kind": "K", "name": "n"}}}),
        )
        .await;
    world
        .claim("foreign", json!({"poolRef": {"apiGroup": "other.io"}}))
        .await;
    world.claim("paused", json!({"clusterName": "c"})).await;
    world.claim("lost", json!({"clusterName": "gone"})).await;
    pass(60).await;
    for name in ["foreign", "paused", "lost"] {
        let claim = world.one("ipaddressclaims", name);
        assert!(
            claim["metadata"]["finalizers"].is_null() && claim["status"].is_null(),
            "{claim}"
        );
    }
    let patch = Patch::Merge(json!({"spec": {"paused": false}}));
    clusters
        .patch("c", &PatchParams::default(), &patch)
        .await
        .expect("patches");
    pass(5).await;
    assert_eq!(world.ready("paused"), "True/Ready");
}

#[tokio::test(start_paused = true)]
async fn s_16_delay_exhaustion_and_a_wrong_pool_heal() {
    let world = World::new();
    world.claim("a", json!({})).await;
    pass(5).await;
    assert_eq!(world.ready("a"), "False/PoolNotReady", "no pool yet");
    world.ipam.set_exhausted(true);
    world
        .pool(json!({"addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24}))
        .await;
    pass(5).await;
    assert_eq!(world.ready("a"), "False/PoolExhausted");
    world.ipam.set_exhausted(false);
    pass(5).await;
    assert_eq!(world.ready("a"), "True/Ready");
    world.ipam.set_delay(Duration::from_secs(30));
    world.claim("late", json!({})).await;
    pass(20).await;
    assert_eq!(world.ready("late"), "/");
    pass(15).await;
    assert_eq!(world.ready("late"), "True/Ready");
}
