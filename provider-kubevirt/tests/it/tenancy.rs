//! A tenant's rights: enough, and no more.

use capi_contract::checkup::Health;
use capi_testkit::apiserver::{ApiServer, Authorization, User};
use capi_testkit::crds;
use kube::Config;
use provider_kubevirt::doctor::{self, Wishes};
use provider_kubevirt::rights::RULES;
use provider_kubevirt::tenant::{self, ACCOUNT, Tenant};

fn infra() -> ApiServer {
    let server = ApiServer::builder()
        .authorization(Authorization::Rbac)
        .build();
    let kinds = ["virtualmachines.kubevirt.io", "datavolumes.cdi.kubevirt.io"];
    server
        .install_crds(kinds.map(|name| crds::named(name).unwrap()))
        .unwrap();
    server
}

async fn made(server: &ApiServer, namespace: &str) -> serde_json::Value {
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
    // Made once more, it is the same.
    made(&server, "tenant-a").await;
    assert_eq!(server.objects("roles.rbac.authorization.k8s.io").len(), 2);
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
