//! The played IPAM provider as a program, against the embedded API server: its rights suffice, and are
//! needed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helper functions of tests are tests too"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use capi_testkit::apiserver::{ApiServer, Authorization, TlsFace, User};
use capi_testkit::crds;
use e2e::apply::Applier;
use e2e::audit;
use e2e::ipam::{self, Ipam};
use e2e::process;
use e2e::site::Site;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const CLAIMS: &str = "ipaddressclaims.ipam.cluster.x-k8s.io";
const ADDRESSES: &str = "ipaddresses.ipam.cluster.x-k8s.io";
/// A process starts within a second; a busy machine takes several.
const LIMIT: Duration = Duration::from_secs(60);

struct World {
    server: ApiServer,
    site: Site,
    _face: TlsFace,
}

impl Drop for World {
    fn drop(&mut self) {
        process::stop(&self.site, None).unwrap();
        self.site.clear().unwrap();
    }
}

impl World {
    async fn start(manifests: Vec<Value>) -> Self {
        let name = std::thread::current().name().unwrap().to_owned();
        let site = Site::named(&format!("{name}-{}", std::process::id()));
        let server = ApiServer::builder()
            .authorization(Authorization::Rbac)
            .build();
        server
            .install_crds(crds::cluster_api())
            .expect("valid definitions");
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let face = server.serve_tls(any_port).await.expect("a port");
        let mut applier = Applier::new(server.client("installer"));
        for object in manifests {
            applier.apply(object).await.expect("the server takes it");
        }
        let user = User::service_account(ipam::NAMESPACE, ipam::ACCOUNT);
        let ipam = Ipam::with(site.clone(), &face.token_kubeconfig(&user)).expect("it is built");
        ipam.start().expect("it runs");
        Self {
            server,
            site,
            _face: face,
        }
    }

    async fn apply(&self, object: Value) {
        let mut applier = Applier::new(self.server.client("user"));
        applier.apply(object).await.expect("the server takes it");
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < LIMIT, "not true: {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Codes of the answers to the program.
    fn codes(&self) -> Vec<u16> {
        let user = audit::account(ipam::NAMESPACE, ipam::ACCOUNT);
        let records = self.server.audit().select(|record| record.actor == user);
        records.iter().map(|record| record.code).collect()
    }
}

fn pool() -> Value {
    json!({"apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
        "metadata": {"name": "loopback", "namespace": "default"},
        "spec": {"addresses": ["127.9.0.10-127.9.0.20"], "prefix": 24, "gateway": "127.9.0.1"}})
}

fn claim() -> Value {
    json!({"apiVersion": "ipam.cluster.x-k8s.io/v1beta2", "kind": "IPAddressClaim",
        "metadata": {"name": "one", "namespace": "default"},
        "spec": {"poolRef": {"apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterIPPool",
            "name": "loopback"}}})
}

#[tokio::test]
async fn s_16_a_claim_is_answered_and_released_under_the_rights_of_the_manifests() {
    let world = World::start(ipam::manifests().unwrap()).await;
    world.apply(pool()).await;
    world.apply(claim()).await;
    let given = || world.server.object(ADDRESSES, "default", "one");
    world
        .until("the claim has an address", || given().is_some())
        .await;
    let given = given().unwrap();
    assert_eq!(given["spec"]["address"], "127.9.0.10");

    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "ipam.cluster.x-k8s.io",
        "v1beta2",
        "IPAddressClaim",
    ));
    let claims: Api<DynamicObject> =
        Api::namespaced_with(world.server.client("user"), "default", &resource);
    claims
        .delete("one", &DeleteParams::default())
        .await
        .unwrap();
    world
        .until("claim and address are gone", || {
            world.server.objects(CLAIMS).is_empty() && world.server.objects(ADDRESSES).is_empty()
        })
        .await;
    let refused = world
        .codes()
        .into_iter()
        .filter(|code| *code == 403)
        .count();
    assert_eq!(refused, 0);
}

#[tokio::test]
async fn rb_03_without_its_rights_the_program_can_do_nothing() {
    let mut manifests = ipam::manifests().unwrap();
    manifests.retain(|object| object["kind"] != "ClusterRoleBinding");
    let world = World::start(manifests).await;
    world.apply(pool()).await;
    world.apply(claim()).await;
    world
        .until("the program is refused", || world.codes().contains(&403))
        .await;
    assert!(world.server.objects(ADDRESSES).is_empty());
}
