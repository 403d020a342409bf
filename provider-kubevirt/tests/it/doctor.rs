//! An infra cluster is asked, and what it answers is told.

use std::fmt::Debug;

use capi_contract::checkup::{Checkup, Health};
use capi_testkit::apiserver::ApiServer;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::client::Body;
use provider_kubevirt::doctor::{self, Wishes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::tenancy::infra;

/// Answers requests for a path itself, before the server is asked.
fn answering(server: &ApiServer, path: &'static str, code: u16, answer: Value) -> Client {
    let client = server.client("administrator");
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, answer) = (client.clone(), answer.to_string());
        async move {
            if request.uri().path() != path {
                let answer = client.send(request).await;
                return answer.map_err(Box::<dyn std::error::Error + Send + Sync>::from);
            }
            let body = Body::from(answer.into_bytes());
            Ok(Response::builder().status(code).body(body)?)
        }
    });
    Client::new(service, "default")
}

async fn add<K>(server: &ApiServer, object: Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let api = Api::<K>::all(server.client("script"));
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

async fn examined(client: &Client) -> Checkup {
    let wishes = Wishes {
        storage_classes: vec!["fast".into(), "slow".into()],
        failure_domains: vec!["a".into(), "b".into()],
    };
    doctor::examine(client, "default", &wishes).await
}

/// What is said of a subject.
fn told(checkup: &Checkup, subject: &str) -> Vec<(Health, String)> {
    let all = checkup.findings.iter().filter(|one| one.subject == subject);
    all.map(|one| (one.health, one.detail.clone())).collect()
}

fn one(health: Health, detail: &str) -> Vec<(Health, String)> {
    vec![(health, detail.to_owned())]
}

#[tokio::test]
async fn an_administrator_is_told_of_versions_storage_and_nodes() {
    let server = infra();
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/disk",
        "metadata": {"name": "fast",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    });
    add::<StorageClass>(&server, class).await;
    for name in ["n-1", "n-2"] {
        let labels = json!({"kubevirt.io/schedulable": "true", "topology.kubernetes.io/zone": "a"});
        let meta = json!({"name": name, "labels": labels});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": meta});
        add::<Node>(&server, node).await;
    }
    let path = "/apis/subresources.kubevirt.io/v1/version";
    let client = answering(&server, path, 200, json!({"gitVersion": "v1.9.0"}));
    let checkup = examined(&client).await;
    let version = server.client("script").apiserver_version().await.unwrap();
    let kubernetes = format!("Kubernetes {}", version.git_version);
    assert_eq!(told(&checkup, "reachable"), one(Health::Good, &kubernetes));
    assert_eq!(told(&checkup, "kubevirt.io"), one(Health::Good, "v1.9.0"));
    assert_eq!(
        told(&checkup, "cdi.kubevirt.io"),
        one(Health::Good, "served")
    );
    let missing = "there is no storage class slow; there are: fast";
    assert_eq!(
        told(&checkup, "storage"),
        [
            (Health::Good, "fast".to_owned()),
            (Health::Bad, missing.to_owned())
        ]
    );
    let missing =
        "failure domain b: no node that takes VMs has the label topology.kubernetes.io/zone=b";
    assert_eq!(told(&checkup, "failure domains"), one(Health::Bad, missing));
    assert_eq!(
        told(&checkup, "nodes"),
        one(Health::Good, "2 nodes take VMs, in zones a")
    );
    assert_eq!(
        told(&checkup, "privileges"),
        one(Health::Doubtful, "more than is used: list secrets")
    );
}

/// A group alone is not the kind.
#[tokio::test]
async fn a_group_that_lacks_the_kind_is_not_enough() {
    let server = infra();
    let path = "/apis/kubevirt.io/v1";
    let other = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "kubevirt.io/v1",
        "resources": [{"name": "kubevirts"}]});
    let checkup = examined(&answering(&server, path, 200, other)).await;
    assert_eq!(
        told(&checkup, "kubevirt.io"),
        one(Health::Bad, "virtualmachines.kubevirt.io is not served")
    );
}

#[tokio::test]
async fn an_infra_cluster_that_refuses_or_is_silent_is_told_as_such() {
    let server = infra();
    let refusal = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 401,
        "reason": "Unauthorized", "message": "the token has expired"});
    let checkup = examined(&answering(&server, "/version", 401, refusal)).await;
    assert_eq!(
        told(&checkup, "reachable"),
        one(Health::Bad, "the token has expired")
    );
    assert!(!checkup.is_healthy() && checkup.findings.len() == 1);
    let nobody = tower::service_fn(|_: Request<Body>| async {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Err::<Response<Body>, _>(Box::<dyn std::error::Error + Send + Sync>::from(refused))
    });
    let checkup = examined(&Client::new(nobody, "default")).await;
    assert_eq!(
        told(&checkup, "reachable"),
        one(Health::Bad, "the infra cluster does not answer")
    );
}

#[test]
fn without_credentials_it_is_said_where_they_may_come_from() {
    let error = std::io::Error::other("no Secret default/infra-kubeconfig");
    let checkup = doctor::without_credentials(&error);
    let finding = &checkup.findings[0];
    assert_eq!(finding.health, Health::Bad);
    assert_eq!(finding.detail, "no Secret default/infra-kubeconfig");
    let fix = finding.fix.as_deref().unwrap_or_default();
    assert!(fix.contains("--secret NAMESPACE/NAME") && fix.contains("--kubeconfig"));
}
