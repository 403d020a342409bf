//! The rights in the manifests against the requests of a life, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::Duration;

use capi_testkit::apiserver::AuditRecord;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use pve_sim::{Builder, Delays};
use serde_json::json;

use super::{ACCOUNT, HOME, Stage, manifests};
use crate::site::{Fleet, NAMESPACE, cluster, is_provisioned};

/// Group, resource with subresource, verb.
type Right = (String, String, String);

/// Rights that no request of a life can show, and why they are there.
const UNSEEN: [(&str, &str, &str, &str); 3] = [
    (
        "infrastructure.cluster.x-k8s.io",
        "proxmoxclusters/finalizers",
        "update",
        "asked for by the admission plugin OwnerReferencesPermissionEnforcement, when pools name \
         the cluster as an owner that blocks its deletion (RB-02)",
    ),
    (
        "infrastructure.cluster.x-k8s.io",
        "proxmoxmachines/finalizers",
        "update",
        "the same for address claims and their machine (RB-02)",
    ),
    (
        "ipam.cluster.x-k8s.io",
        "ipaddressclaims",
        "get",
        "only after a create was refused because an earlier life's claim had not come by the watch \
         yet; a process that starts has its lists first, so this takes a crash in between",
    ),
];

/// Everything that the manifests allow.
fn granted() -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for role in manifests(&["--without-webhooks"]) {
        if !["ClusterRole", "Role"].contains(&role["kind"].as_str().unwrap()) {
            continue;
        }
        for rule in role["rules"].as_array().unwrap() {
            let list = |key: &str| {
                let items = rule[key].as_array().unwrap().iter();
                items
                    .map(|item| item.as_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            for group in list("apiGroups") {
                for resource in list("resources") {
                    for verb in list("verbs") {
                        all.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    all
}

/// The right that a request used.
fn used(record: &AuditRecord) -> Right {
    let resource = match record.subresource.as_str() {
        "" => record.resource.clone(),
        sub => format!("{}/{sub}", record.resource),
    };
    (record.group.clone(), resource, record.verb.to_owned())
}

fn pools(stage: &Stage) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("ipam.cluster.x-k8s.io", "v1alpha2", "InClusterIPPool");
    let resource = ApiResource::from_gvk_with_plural(&kind, "inclusterippools");
    Api::namespaced_with(stage.site.server.client("script"), NAMESPACE, &resource)
}

fn claims(stage: &Stage) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("ipam.cluster.x-k8s.io", "v1beta2", "IPAddressClaim");
    let resource = ApiResource::from_gvk(&kind);
    Api::namespaced_with(stage.site.server.client("script"), NAMESPACE, &resource)
}

/// Asks for the metrics as a scraper of this name does.
async fn scrape(stage: &Stage, port: u16, user: &str) -> (u16, String) {
    let token = stage.kubernetes.token(user, &[]);
    // Nobody can verify a certificate that the program made for itself.
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    let url = format!("https://127.0.0.1:{port}/metrics");
    let answer = client.get(url).bearer_auth(token).send().await.unwrap();
    let code = answer.status().as_u16();
    (code, answer.text().await.unwrap())
}

/// Lets somebody get `/metrics`.
async fn allow_scraping(stage: &Stage, user: &str) {
    stage
        .create(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "metrics-reader"},
            "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
        }))
        .await;
    stage
        .create(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "metrics-reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "metrics-reader"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }))
        .await;
}

/// One machine comes and goes, and around it happens what needs every right: a pool of another stands
/// in the way, owners are lost as by a restored backup, a pool is edited, somebody asks for metrics.
#[tokio::test(flavor = "multi_thread")]
async fn rb_03_the_manifests_allow_what_is_asked_and_nothing_else() {
    let stage = Stage::new(Builder::new().delays(Delays::zero()).build()).await;
    let stranger = json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
        "metadata": {"name": "fleet-v4-icip", "namespace": NAMESPACE},
        "spec": {"addresses": ["192.168.0.1-192.168.0.9"], "prefix": 24, "gateway": "192.168.0.10"},
    });
    stage.create(&stranger).await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let diagnostics = format!("--diagnostics-address=127.0.0.1:{port}");
    let mut replica = stage.start("a", &[&diagnostics]);
    let fleet = with_credentials(&stage).await;
    fleet.add("m").await;
    let account = format!("system:serviceaccount:{HOME}:{ACCOUNT}");
    let asked = |resource: &str, verb: &str| {
        let is_it =
            |r: &AuditRecord| r.actor == account && r.resource == resource && r.verb == verb;
        stage.site.server.audit().count(|record| is_it(record)) > 0
    };
    stage
        .until("pool looked at", || asked("inclusterippools", "get"))
        .await;
    pools(&stage)
        .delete("fleet-v4-icip", &DeleteParams::default())
        .await
        .unwrap();
    let machine = || stage.site.machine("m").unwrap();
    stage
        .until("provisioned", || is_provisioned(&machine()))
        .await;
    orphan_children(&stage, asked).await;
    ask_for_metrics(&stage, port).await;
    fleet.delete("m").await;
    stage
        .until("deleted", || stage.site.machine("m").is_none())
        .await;
    replica.signal("TERM");
    assert_eq!(replica.ended().await, Some(0), "{}", replica.log());
    assert_eq!(stage.holder(), "", "the lease is given back");
    compare(
        &stage
            .site
            .server
            .audit()
            .select(|record| record.actor == account),
    );
}

/// A cluster with a Secret of its own, which is kept until the cluster is gone (ID-02).
async fn with_credentials(stage: &Stage) -> Fleet {
    let mut infra = cluster();
    infra["spec"]["credentialsRef"] = json!({"name": "login"});
    let fleet = Fleet::create_like(&stage.site, infra).await;
    let (token, secret) = stage.site.platform.token();
    let login = json!({
        "url": stage.proxmox.url(), "token": token, "secret": secret,
        "root_ca": stage.proxmox.ca_pem(),
    });
    fleet.secret("login", login).await;
    fleet
}

/// Takes the owners off claim and pool, as a restored backup does, and waits for them to come back.
async fn orphan_children(stage: &Stage, asked: impl Fn(&str, &str) -> bool) {
    let script = PatchParams::default();
    let orphan = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    let claim = claims(stage)
        .list(&kube::api::ListParams::default())
        .await
        .unwrap();
    let claim = claim.items[0].metadata.name.clone().unwrap();
    claims(stage).patch(&claim, &script, &orphan).await.unwrap();
    stage
        .until("claim adopted", || asked("ipaddressclaims", "patch"))
        .await;
    pools(stage)
        .patch("fleet-v4-icip", &script, &orphan)
        .await
        .unwrap();
    stage
        .until("pool adopted", || asked("inclusterippools", "patch"))
        .await;
}

/// Metrics are for those who may get them.
async fn ask_for_metrics(stage: &Stage, port: u16) {
    assert_eq!(scrape(stage, port, "nobody").await.0, 403);
    allow_scraping(stage, "prometheus").await;
    let (code, metrics) = scrape(stage, port, "prometheus").await;
    assert_eq!(code, 200, "{metrics}");
    assert!(metrics.contains("capi_leader 1"), "{metrics}");
    assert!(
        metrics.contains("build_info{provider=\"infrastructure-proxmox\""),
        "{metrics}"
    );
}

fn compare(requests: &[AuditRecord]) {
    let granted = granted();
    let refused: Vec<_> = requests
        .iter()
        .filter(|record| record.code == 403)
        .collect();
    assert!(refused.is_empty(), "nothing is missing: {refused:#?}");
    let used: BTreeSet<_> = requests.iter().map(used).collect();
    let missing: Vec<_> = used.difference(&granted).collect();
    assert!(missing.is_empty(), "nothing is missing: {missing:?}");
    let unseen: BTreeMap<Right, &str> = UNSEEN
        .iter()
        .map(|(group, resource, verb, why)| {
            let right = [group, resource, verb].map(|word| (*word).to_owned());
            (right.into(), *why)
        })
        .collect();
    let unused: Vec<_> = granted
        .difference(&used)
        .filter(|right| !unseen.contains_key(*right))
        .collect();
    assert!(unused.is_empty(), "nothing is unused: {unused:?}");
    // An excuse that is not needed is none.
    for right in unseen.keys() {
        assert!(granted.contains(right), "{right:?} is not granted");
        assert!(!used.contains(right), "{right:?} is seen");
    }
}

/// The program's own limit for a review, and what a flood would find.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_without_a_token_are_refused_before_anybody_is_asked() {
    let stage = Stage::new(Builder::new().delays(Delays::zero()).build()).await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let _replica = stage.start("a", &[&format!("--diagnostics-address=127.0.0.1:{port}")]);
    stage.until("leading", || !stage.holder().is_empty()).await;
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let url = format!("https://127.0.0.1:{port}/metrics");
    assert_eq!(
        client.get(&url).send().await.unwrap().status().as_u16(),
        401
    );
    let reviews = |record: &AuditRecord| record.resource == "tokenreviews";
    assert_eq!(stage.site.server.audit().count(reviews), 0);
}
