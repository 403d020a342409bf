//! What goes wrong in an infra cluster: it is lost and comes back, its credentials change, machines end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use capi_testkit::apiserver::{ApiServer, User};
use capi_testkit::sweep::PROVIDER;
use http::Request;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::client::Body;
use provider_kubevirt::api::TERMINAL_LABEL;
use provider_kubevirt::connect::Connector;
use provider_kubevirt::machine::Machines;
use provider_kubevirt::tenant::ACCOUNT;
use rstest::rstest;
use serde_json::{Value, json};

use crate::record::recorded;
use crate::site::{
    Fleet, MACHINES, NAMESPACE, Site, condition, create, is_provisioned, machine, objects_of,
    persistent, ready,
};

/// The way to an infra cluster, which can be cut, and on which another account can be given.
#[derive(Clone)]
struct Road {
    infra: ApiServer,
    is_up: Arc<AtomicBool>,
    is_renewed: Arc<AtomicBool>,
    dials: Arc<AtomicUsize>,
}

/// The account after a rotation.
const NEXT: &str = "next";

impl Road {
    fn to(infra: &ApiServer) -> Self {
        Self {
            infra: infra.clone(),
            is_up: Arc::new(AtomicBool::new(true)),
            is_renewed: Arc::default(),
            dials: Arc::default(),
        }
    }

    /// A client with the credentials of this moment.
    fn client(&self) -> Client {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let is_renewed = self.is_renewed.load(Ordering::SeqCst);
        let account = if is_renewed { NEXT } else { ACCOUNT };
        let user = User::service_account(NAMESPACE, account);
        let client = self.infra.client_as(PROVIDER, &user);
        let is_up = Arc::clone(&self.is_up);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (is_up, client) = (is_up.load(Ordering::SeqCst), client.clone());
            async move {
                if !is_up {
                    return Err("connection refused".into());
                }
                let answer = client.send(request).await;
                answer.map_err(Box::<dyn std::error::Error + Send + Sync>::from)
            }
        });
        Client::new(service, NAMESPACE)
    }

    fn lead(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::SeqCst);
        if !is_up {
            self.infra.break_watches();
        }
    }

    /// Runs the provider on this road, in the background.
    fn serve(&self, site: &Site) {
        let (site, road) = (site.clone(), self.clone());
        tokio::spawn(async move {
            let connector = Connector::new().through(move |_| recorded(road.client()));
            let management = site.server.client(PROVIDER);
            site.provide_by(connector, management, Machines).await;
        });
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

fn is_ready(site: &Site, name: &str) -> bool {
    let machine = site.machine(name);
    machine.is_some_and(|one| ready(&one) == Some("True"))
}

fn reason(site: &Site, name: &str) -> String {
    let machine = site.machine(name).unwrap_or_default();
    let reason = condition(&machine, "Ready").map(|one| one["reason"].clone());
    reason.unwrap_or_default().as_str().unwrap_or("").to_owned()
}

/// A machine `m-0` that is a node, on a road.
async fn joined(infra: Value) -> (Site, Fleet, Road) {
    let site = Site::usual().await;
    let mut cluster = crate::site::cluster();
    cluster["spec"]["infraClusterSecretRef"] = json!({"name": "infra-kubeconfig"});
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://infra:6443"}}],
        "users": [{"name": "u", "user": {"token": "first"}}],
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "infra-kubeconfig", "namespace": NAMESPACE},
        "stringData": {"kubeconfig": kubeconfig.to_string(), "namespace": NAMESPACE},
    });
    create(&site.server.client("script"), secret).await;
    let fleet = Fleet::create_like(&site, cluster).await;
    site.play();
    let road = Road::to(&site.infra);
    road.serve(&site);
    fleet.add_like("m-0", infra).await;
    site.until("provisioned", |site| {
        site.machine("m-0").is_some_and(|one| is_provisioned(&one))
    })
    .await;
    fleet.join("m-0").await;
    site.until("ready", |site| is_ready(site, "m-0")).await;
    seconds(30).await;
    (site, fleet, road)
}

/// Reported once it lasts, nothing changed meanwhile, and well again by itself.
#[tokio::test(start_paused = true)]
async fn an_infra_cluster_that_is_lost_and_comes_back_finds_its_machines_as_they_were() {
    let (site, fleet, road) = joined(machine()).await;
    let before = site.vm("m-0").unwrap();
    let since = site.marks();
    road.lead(false);
    fleet.add("m-1").await;
    site.until("reported", |site| {
        reason(site, "m-0") == "BackendUnreachable"
    })
    .await;
    let object = site.machine("m-0").unwrap();
    assert!(is_provisioned(&object), "provisioned never goes back");
    assert_eq!(ready(&object), Some("Unknown"));
    road.lead(true);
    site.until("well again", |site| {
        is_ready(site, "m-0") && site.machine("m-1").is_some_and(|one| is_provisioned(&one))
    })
    .await;
    let after = site.vm("m-0").unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let touched = site.requests(since, |record| {
        record.is_write() && record.group == "kubevirt.io" && record.name != "m-1"
    });
    assert!(touched.is_empty(), "{touched:#?}");
    // The watch is up again: an end is told at once.
    let deleted = site.platform.hand().delete_vm(NAMESPACE, "m-0").await;
    assert!(deleted.unwrap());
    site.until("lost", |site| reason(site, "m-0") == "Lost")
        .await;
}

/// Defect 4, CAPK's escape that is none: without the infra cluster a deletion waits for ever, until a
/// person says that it is gone for good.
#[tokio::test(start_paused = true)]
async fn capk_defect_4_a_machine_of_a_lost_infra_cluster_is_given_up_by_annotation() {
    let (site, fleet, road) = joined(machine()).await;
    road.lead(false);
    fleet.delete("m-0").await;
    seconds(1_800).await;
    assert!(site.machine("m-0").is_some(), "given up by itself");
    let word = json!({"capi-rs.dev/abandon": "m-0: the rack burned"});
    fleet
        .patch("m-0", json!({"metadata": {"annotations": word}}))
        .await;
    site.until("gone", |site| site.machine("m-0").is_none())
        .await;
    assert!(site.vm("m-0").is_some(), "left to itself");
}

async fn grant(site: &Site, account: &str) {
    let api = "rbac.authorization.k8s.io";
    let binding = json!({
        "apiVersion": format!("{api}/v1"), "kind": "RoleBinding",
        "metadata": {"name": account, "namespace": NAMESPACE},
        "roleRef": {"apiGroup": api, "kind": "Role", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    });
    create(&site.infra.client("administrator"), binding).await;
}

async fn revoke(site: &Site, account: &str) {
    let kind = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding"});
    let bindings = objects_of(&site.infra.client("administrator"), &kind);
    let params = DeleteParams::default();
    bindings.delete(account, &params).await.unwrap();
    site.infra.break_watches();
}

/// The Secret's kubeconfig gets another token, as `tenant` writes it when run again.
async fn rotate(site: &Site, road: &Road) {
    road.is_renewed.store(true, Ordering::SeqCst);
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(site.server.client("script"), NAMESPACE);
    let secret = secrets.get("infra-kubeconfig").await.unwrap();
    let text = secret.data.unwrap().remove("kubeconfig").unwrap().0;
    let text = String::from_utf8(text).unwrap().replace("first", "second");
    let patch = Patch::Merge(json!({"stringData": {"kubeconfig": text}}));
    let params = PatchParams::default();
    secrets
        .patch("infra-kubeconfig", &params, &patch)
        .await
        .unwrap();
}

/// The token is revoked, and the new one is in the Secret later: nobody restarts the provider.
#[tokio::test(start_paused = true)]
async fn credentials_of_an_infra_cluster_that_are_rotated_are_taken_up_live() {
    let (site, fleet, road) = joined(machine()).await;
    let before = site.vm("m-0").unwrap();
    grant(&site, NEXT).await;
    revoke(&site, ACCOUNT).await;
    site.until("refused", |site| {
        reason(site, "m-0") == "CredentialsRefused"
    })
    .await;
    rotate(&site, &road).await;
    site.until("well again", |site| is_ready(site, "m-0")).await;
    assert_eq!(road.dials.load(Ordering::SeqCst), 2, "one client each");
    let after = site.vm("m-0").unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    // Watched with the new ones: what ends is told at once, and what is new is built.
    fleet.add("m-1").await;
    site.until("built", |site| {
        site.machine("m-1").is_some_and(|one| is_provisioned(&one))
    })
    .await;
    let deleted = site.platform.hand().delete_vm(NAMESPACE, "m-0").await;
    assert!(deleted.unwrap());
    site.until("lost", |site| reason(site, "m-0") == "Lost")
        .await;
}

/// How a machine comes to its end.
#[derive(Clone, Copy, Debug)]
enum End {
    Crash,
    ShutDown,
    LabelOnVm,
    LabelOnInstance,
    Deletion,
}

async fn end(site: &Site, how: End) {
    let hand = site.platform.hand();
    let label = json!({"metadata": {"labels": {TERMINAL_LABEL: "disk-failure"}}});
    match how {
        End::Crash => assert!(hand.crash(NAMESPACE, "m-0")),
        End::ShutDown => assert!(hand.shut_down(NAMESPACE, "m-0")),
        End::LabelOnVm => assert!(hand.edit_vm(NAMESPACE, "m-0", &label).await.unwrap()),
        End::LabelOnInstance => {
            let kind = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"});
            let instances = objects_of(&site.infra.client("hand"), &kind);
            let params = PatchParams::default();
            let patch = Patch::Merge(&label);
            instances.patch("m-0", &params, &patch).await.unwrap();
        }
        End::Deletion => assert!(hand.delete_vm(NAMESPACE, "m-0").await.unwrap()),
    }
}

fn running(strategy: &str) -> Value {
    let mut machine = machine();
    machine["spec"]["virtualMachineTemplate"]["spec"]["runStrategy"] = json!(strategy);
    machine
}

/// CAPK 70 among them: a VM with an ephemeral disk that may not start again. Lost is said for the
/// health check to see, nothing is made in its place (R9), and what remediation does then, delete the
/// machine and make another, leaves nothing of the first.
#[rstest]
#[case::once_crashed("Once", End::Crash)]
#[case::once_shut_down("Once", End::ShutDown)]
#[case::rerun_shut_down("RerunOnFailure", End::ShutDown)]
#[case::declared_on_the_vm("Always", End::LabelOnVm)]
#[case::declared_on_the_instance("Always", End::LabelOnInstance)]
#[case::deleted("Always", End::Deletion)]
#[tokio::test(start_paused = true)]
async fn capk_70_a_terminal_state_is_reported_and_healed_by_remediation(
    #[case] strategy: &str,
    #[case] how: End,
) {
    let (site, fleet, _road) = joined(running(strategy)).await;
    end(&site, how).await;
    site.until("lost", |site| {
        let machine = site.machine("m-0").unwrap();
        condition(&machine, "VMProvisioned").is_some_and(|one| one["reason"] == "Lost")
    })
    .await;
    let object = site.machine("m-0").unwrap();
    assert_eq!(ready(&object), Some("False"));
    assert!(is_provisioned(&object), "provisioned never goes back");
    let births = site.platform.births().len();
    seconds(120).await;
    assert_eq!(site.platform.births().len(), births, "R9");

    fleet.delete("m-0").await;
    fleet.add_like("m-1", running(strategy)).await;
    site.until("replaced", |site| {
        let is_built = site.machine("m-1").is_some_and(|one| is_provisioned(&one));
        is_built && site.machine("m-0").is_none()
    })
    .await;
    fleet.delete("m-1").await;
    site.until("gone", |site| site.server.objects(MACHINES).is_empty())
        .await;
    assert_eq!(site.platform.vms_left(), Vec::<String>::new());
    assert_eq!(site.platform.secrets_left(), Vec::<String>::new());
    assert!(site.platform.overlaps().is_empty());
}

/// CAPK 70: on a disk that outlives its instance, a VM that is started again is the same machine.
#[tokio::test(start_paused = true)]
async fn capk_70_a_vm_with_a_persistent_disk_is_the_same_machine_after_a_crash() {
    let (site, fleet, _road) = joined(persistent()).await;
    let volumes = "datavolumes.cdi.kubevirt.io";
    let before = (
        site.instance("m-0").unwrap(),
        site.infra.objects(volumes)[0]["metadata"]["uid"].clone(),
    );
    assert!(site.platform.hand().crash(NAMESPACE, "m-0"));
    site.until("restarted", |site| {
        let object = site.machine("m-0").unwrap();
        let made = condition(&object, "VMProvisioned").unwrap();
        assert_ne!(made["reason"], "Lost", "it comes back by itself");
        site.instance("m-0").is_some_and(|one| {
            one["metadata"]["uid"] != before.0["metadata"]["uid"]
                && one["status"]["phase"] == "Running"
        })
    })
    .await;
    site.until("ready", |site| is_ready(site, "m-0")).await;
    assert_eq!(
        site.infra.objects(volumes)[0]["metadata"]["uid"],
        before.1,
        "the disk is the same"
    );
    let object = site.machine("m-0").unwrap();
    assert_eq!(object["spec"]["providerID"], "kubevirt://m-0");
    // Its address is another, and told.
    let ip = &site.instance("m-0").unwrap()["status"]["interfaces"][0]["ipAddress"];
    assert_eq!(&object["status"]["addresses"][1]["address"], ip);
    fleet.delete("m-0").await;
    site.until("gone", |site| site.server.objects(MACHINES).is_empty())
        .await;
    assert_eq!(site.platform.volumes_left(), Vec::<String>::new());
}
