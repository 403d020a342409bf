//! A tenant's rights: enough, and no more.

use std::sync::Arc;

use capi_contract::checkup::Health;
use capi_testkit::apiserver::{ApiServer, Authorization, User};
use capi_testkit::crds;
use http::{Request, Response};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, Patch, PatchParams};
use kube::client::Body;
use kube::{Client, Config};
use parking_lot::Mutex;
use provider_kubevirt::doctor::{self, Wishes};
use provider_kubevirt::rights::{RULES, rules};
use provider_kubevirt::tenant::{self, ACCOUNT, Tenant, TenantError};
use serde_json::{Value, json};

/// An infra cluster with the kinds of KubeVirt and CDI, where roles decide.
pub(crate) fn infra() -> ApiServer {
    let server = ApiServer::builder()
        .authorization(Authorization::Rbac)
        .build();
    let kinds = ["virtualmachines.kubevirt.io", "datavolumes.cdi.kubevirt.io"];
    server
        .install_crds(kinds.map(|name| crds::named(name).unwrap()))
        .unwrap();
    server
}

async fn made(server: &ApiServer, namespace: &str) -> Value {
    let config = Config::new("https://infra.example:6443".parse().unwrap());
    let tenant = Tenant {
        namespace: namespace.into(),
        secret: "infra-kubeconfig".into(),
        days: 30,
    };
    tenant::make(&server.client("administrator"), &config, &tenant)
        .await
        .unwrap()
}

async fn findings(server: &ApiServer, of: &str, namespace: &str) -> Vec<(String, Health, String)> {
    let user = User::service_account(of, ACCOUNT);
    let client = server.client_as("tenant", &user);
    let checkup = doctor::examine(&client, namespace, &Wishes::default()).await;
    let all = checkup.findings.into_iter();
    all.map(|finding| (finding.subject, finding.health, finding.detail))
        .collect()
}

fn health(findings: &[(String, Health, String)], subject: &str) -> Health {
    findings.iter().find(|(one, ..)| one == subject).unwrap().1
}

/// Defect 16: the rights are those of one namespace, and Secrets cannot be listed.
#[tokio::test]
async fn capk_defect_16_a_tenant_has_what_is_used_in_its_namespace_and_nothing_else() {
    let server = infra();
    let secret = made(&server, "tenant-a").await;
    made(&server, "tenant-b").await;
    let own = findings(&server, "tenant-a", "tenant-a").await;
    assert_eq!(health(&own, "rights"), Health::Good, "{own:?}");
    assert!(
        own.iter().all(|(subject, ..)| subject != "privileges"),
        "{own:?}"
    );
    let others = findings(&server, "tenant-a", "tenant-b").await;
    let (.., detail) = others
        .iter()
        .find(|(subject, ..)| subject == "rights")
        .unwrap();
    for rule in RULES {
        assert!(detail.contains(rule.resource), "{detail}");
    }
    let kubeconfig = secret["stringData"]["kubeconfig"].as_str().unwrap();
    let read = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let cluster = read.clusters[0].cluster.as_ref().unwrap();
    assert_eq!(
        cluster.server.as_deref(),
        Some("https://infra.example:6443/")
    );
    assert_eq!(secret["stringData"]["namespace"], "tenant-a");
    assert_eq!(
        secret["metadata"]["labels"]["clusterctl.cluster.x-k8s.io/move"],
        "true"
    );
    // Made once more, it is the same.
    made(&server, "tenant-a").await;
    assert_eq!(server.objects("roles.rbac.authorization.k8s.io").len(), 2);
}

/// A Role that somebody has changed is brought up to date.
#[tokio::test]
async fn a_role_that_is_there_is_brought_up_to_date() {
    let (server, namespace) = (infra(), "tenant-a");
    made(&server, namespace).await;
    let mut role = tenant::manifests(namespace).remove(2);
    role["rules"] = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]);
    let roles = Api::<Role>::namespaced(server.client("administrator"), namespace);
    let params = PatchParams::apply("somebody").force();
    let changed = roles.patch(ACCOUNT, &params, &Patch::Apply(role)).await;
    assert_ne!(changed.unwrap().rules, Some(rules()));
    made(&server, namespace).await;
    assert_eq!(roles.get(ACCOUNT).await.unwrap().rules, Some(rules()));
}

/// The token lives as long as was wished, and an empty one is none.
#[tokio::test]
async fn a_token_is_asked_for_days() {
    let server = infra();
    let administrator = server.client("administrator");
    let asked = Arc::new(Mutex::new(Value::Null));
    let noted = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, noted) = (administrator.clone(), Arc::clone(&noted));
        async move {
            if !request.uri().path().ends_with("/token") {
                let answer = client.send(request).await;
                return answer.map_err(Box::<dyn std::error::Error + Send + Sync>::from);
            }
            let body = request.into_body().collect_bytes().await?;
            *noted.lock() = serde_json::from_slice(&body)?;
            let answer = json!({"status": {"token": ""}}).to_string();
            Ok(Response::new(Body::from(answer.into_bytes())))
        }
    });
    let config = Config::new("https://infra.example:6443".parse().unwrap());
    let tenant = Tenant {
        namespace: "tenant-a".into(),
        secret: "infra-kubeconfig".into(),
        days: 30,
    };
    let client = Client::new(service, "default");
    let error = tenant::make(&client, &config, &tenant).await.unwrap_err();
    assert!(matches!(error, TenantError::NoToken), "{error}");
    assert_eq!(asked.lock()["spec"]["expirationSeconds"], 2_592_000);
}

#[tokio::test]
async fn an_infra_cluster_without_kubevirt_is_named() {
    let server = ApiServer::builder().build();
    let checkup = doctor::examine(
        &server.client("administrator"),
        "default",
        &Wishes::default(),
    )
    .await;
    let kubevirt = checkup
        .findings
        .iter()
        .find(|one| one.subject == "kubevirt.io")
        .unwrap();
    assert_eq!(kubevirt.health, Health::Bad);
    assert!(!checkup.is_healthy());
    // An administrator may list Secrets, which this provider need not.
    assert!(
        checkup
            .findings
            .iter()
            .any(|one| one.subject == "privileges")
    );
}
