//! Defects of the Go provider, each with a test that shows that it is none of ours.

use std::time::Duration;

use capi_contract::Identity;
use capi_testkit::apiserver::{ApiServer, Authorization};
use capi_testkit::guest::Image;
use capi_testkit::sweep::PROVIDER;
use capi_testkit::workload::Workloads;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kubevirt_sim::{Builder, Delays, Guests};
use provider_kubevirt::connect::Connector;
use provider_kubevirt::machine::Machines;
use serde_json::{Value, json};

use crate::record::recorded;
use crate::site::{
    CLUSTERS, FLEET, Fleet, MACHINES, NAMESPACE, Site, VMS, admit, condition, create,
    is_provisioned, machine, objects_of, ready, tenant_of,
};

/// Defect 8: no key pair, no user in the guest: the bootstrap data arrive as they were.
#[tokio::test(start_paused = true)]
async fn defect_8_bootstrap_data_arrive_unchanged_and_without_ssh_keys() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    site.until("supplied", |site| !site.secrets().is_empty())
        .await;
    let here = site
        .server
        .object("secrets", "default", "m-0-bootstrap")
        .unwrap();
    assert_eq!(site.secrets()[0]["data"]["userdata"], here["data"]["value"]);
    let secrets = site.server.objects("secrets");
    assert!(!secrets.iter().any(|secret| {
        secret["metadata"]["name"]
            .as_str()
            .unwrap()
            .ends_with("-ssh-keys")
    }));
}

/// Defect 14: a wait is no failure.
#[tokio::test(start_paused = true)]
async fn defect_14_waiting_for_the_bootstrap_is_not_called_failed() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    let object = site.machine("m-0").unwrap();
    let check = condition(&object, "BootstrapExecSucceeded").unwrap();
    assert_eq!(check["reason"], "BootstrapCheckingNotSupported", "{check}");
    assert_eq!(check["status"], "Unknown");
    fleet.join("m-0").await;
    site.until("joined", |site| {
        let object = site.machine("m-0").unwrap();
        condition(&object, "BootstrapExecSucceeded").unwrap()["status"] == "True"
    })
    .await;
}

/// Defect 9 is the price of being drop-in: the cloud controller manager for KubeVirt writes the same
/// id. Two machines of one namespace never share one, since the server gives a name once.
#[tokio::test(start_paused = true)]
async fn defect_9_the_provider_id_is_the_vm_that_it_names() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    for name in ["m-0", "m-1"] {
        fleet.add_like(name, machine()).await;
    }
    site.until("provisioned", |site| {
        ["m-0", "m-1"]
            .iter()
            .all(|name| is_provisioned(&site.machine(name).unwrap()))
    })
    .await;
    for name in ["m-0", "m-1"] {
        let id = format!("kubevirt://{name}");
        assert_eq!(site.machine(name).unwrap()["spec"]["providerID"], id);
        assert!(site.vm(name).is_some());
    }
}

/// Replaces the bootstrap data of a machine that is not made yet.
async fn bootstrap(site: &Site, machine: &str, format: &str, value: &str) {
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(site.server.client("script"), NAMESPACE);
    let patch = Patch::Merge(json!({"stringData": {"format": format, "value": value}}));
    let name = format!("{machine}-bootstrap");
    let patched = secrets.patch(&name, &PatchParams::default(), &patch).await;
    patched.unwrap();
}

/// A machine with bootstrap data of the test's own.
async fn add_with_data(site: &Site, fleet: &Fleet, name: &str, infra: Value, data: (&str, &str)) {
    let owner = fleet.add_owner(name, json!({})).await;
    bootstrap(site, name, data.0, data.1).await;
    fleet.add_infra(name, &owner, infra).await;
}

async fn provisioned(site: &Site, name: &str) {
    site.until("provisioned", |site| {
        site.machine(name).is_some_and(|one| is_provisioned(&one))
    })
    .await;
}

fn userdata(site: &Site) -> Value {
    site.secrets()[0]["data"]["userdata"].clone()
}

/// CAPK 230, 163, 234, 26 and pull request 30: whether a guest has booted is asked of its agent, through
/// KubeVirt. Nothing is dialled, and nothing is added to the bootstrap data.
#[tokio::test(start_paused = true)]
async fn capk_230_the_bootstrap_is_checked_by_the_guest_agent_without_a_way_to_the_guest() {
    let guests = Guests::new(Workloads::new());
    let guests = guests.image(
        "quay.io/capk/ubuntu-container-disk:v1.34.0",
        Image::default(),
    );
    let builder = Builder::new().delays(Delays::realistic()).guests(guests);
    let site = Site::with(builder).await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let sentinel = "/run/cluster-api/bootstrap-success.complete";
    let mut probed = machine();
    let template = &mut probed["spec"]["virtualMachineTemplate"]["spec"]["template"]["spec"];
    template["readinessProbe"] =
        json!({"exec": {"command": ["cat", sentinel]}, "periodSeconds": 5});
    let done = format!(
        "#cloud-config\nwrite_files:\n- path: {sentinel}\n  content: success\nruncmd: []\n"
    );
    let data = ("cloud-config", done.as_str());
    add_with_data(&site, &fleet, "m-0", probed.clone(), data).await;
    let data = ("cloud-config", "#cloud-config\nruncmd: []\n");
    add_with_data(&site, &fleet, "m-1", probed, data).await;
    let check = |site: &Site, name: &str| {
        let machine = site.machine(name).unwrap();
        let one = condition(&machine, "BootstrapExecSucceeded").cloned();
        one.unwrap_or_default()["reason"].clone()
    };
    site.until("checked", |site| {
        check(site, "m-0") == "BootstrapSucceeded" && check(site, "m-1") == "WaitingForBootstrap"
    })
    .await;
    assert_eq!(ready(&site.machine("m-0").unwrap()), Some("True"));
    assert_ne!(ready(&site.machine("m-1").unwrap()), Some("True"));
}

/// CAPK 241: what is written for Ignition arrives as it was, on the drive that Ignition reads.
#[tokio::test(start_paused = true)]
async fn capk_241_ignition_arrives_unchanged_on_a_config_drive() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let config = r#"{"ignition":{"version":"3.4.0"},"passwd":{"users":[]}}"#;
    add_with_data(&site, &fleet, "m-0", machine(), ("ignition", config)).await;
    provisioned(&site, "m-0").await;
    let here = site.server.object("secrets", NAMESPACE, "m-0-bootstrap");
    assert_eq!(userdata(&site), here.unwrap()["data"]["value"]);
    let vm = site.vm("m-0").unwrap();
    let volumes = &vm["spec"]["template"]["spec"]["volumes"];
    let drive = &volumes.as_array().unwrap().last().unwrap()["cloudInitConfigDrive"];
    assert_eq!(
        drive["secretRef"]["name"],
        site.secrets()[0]["metadata"]["name"]
    );
}

/// CAPK 241: a drive that Ignition does not read is refused, and the message says what to change.
#[tokio::test(start_paused = true)]
async fn capk_241_ignition_on_nocloud_is_refused_before_anything_is_made() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let mut nocloud = machine();
    nocloud["spec"]["bootstrapDataSource"] = json!("NoCloud");
    add_with_data(&site, &fleet, "m-0", nocloud, ("ignition", "{}")).await;
    site.until("said", |site| {
        let machine = site.machine("m-0").unwrap();
        condition(&machine, "VMProvisioned").is_some_and(|one| one["reason"] == "Misconfigured")
    })
    .await;
    assert!(site.vm("m-0").is_none());
}

/// CAPK 65: a deletion needs neither the Cluster nor the KubevirtCluster.
#[tokio::test(start_paused = true)]
async fn capk_65_a_machine_goes_without_its_cluster() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    let provider = site.start();
    fleet.add("m-0").await;
    provisioned(&site, "m-0").await;
    provider.abort();
    let cluster = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster"});
    let clusters = objects_of(&fleet.script, &cluster);
    clusters
        .delete(FLEET, &DeleteParams::default())
        .await
        .unwrap();
    let infra = objects_of(&fleet.script, &crate::site::cluster());
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    infra
        .patch(FLEET, &PatchParams::default(), &none)
        .await
        .unwrap();
    let deleted = infra.delete(FLEET, &DeleteParams::default()).await;
    assert!(deleted.is_ok() || site.server.objects(CLUSTERS).is_empty());
    let _again = site.start_provider();
    fleet.delete("m-0").await;
    site.until("gone", |site| site.server.objects(MACHINES).is_empty())
        .await;
    assert!(site.platform.vms_left().is_empty() && site.platform.secrets_left().is_empty());
}

/// Defect 5: a change of the KubevirtCluster reaches its machines at once, however their Machines are
/// named.
#[tokio::test(start_paused = true)]
async fn defect_5_a_change_of_the_cluster_wakes_machines_by_their_own_names() {
    let site = Site::instant().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let reference = json!({"apiGroup": "infrastructure.cluster.x-k8s.io",
        "kind": "KubevirtMachine", "name": "infra-0"});
    let more = json!({"infrastructureRef": reference, "failureDomain": "zone-2"});
    let owner = fleet.add_owner("owner-0", more).await;
    fleet.add_infra("infra-0", &owner, machine()).await;
    site.until("told", |site| {
        let machine = site.machine("infra-0").unwrap();
        condition(&machine, "VMProvisioned")
            .is_some_and(|one| one["reason"] == "FailureDomainUnknown")
    })
    .await;
    // Neither at the beginning nor at the end of the time until it looks again by itself.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let clusters = objects_of(&fleet.script, &crate::site::cluster());
    let zone = Patch::Merge(json!({"spec": {"failureDomains": [{"name": "zone-2"}]}}));
    clusters
        .patch(FLEET, &PatchParams::default(), &zone)
        .await
        .unwrap();
    let changed = tokio::time::Instant::now();
    provisioned(&site, "infra-0").await;
    assert!(
        changed.elapsed() <= Duration::from_millis(100),
        "{:?}",
        changed.elapsed()
    );
}

/// Defect 10: nothing is asked of the tenant's API server before a machine is provisioned.
#[tokio::test(start_paused = true)]
async fn defect_10_a_machine_is_provisioned_without_the_workload_cluster() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    provisioned(&site, "m-0").await;
    let kubeconfig = format!("{FLEET}-kubeconfig");
    assert!(
        site.server
            .object("secrets", NAMESPACE, &kubeconfig)
            .is_none()
    );
    assert_eq!(ready(&site.machine("m-0").unwrap()), Some("True"));
}

/// Defect 13: a pause is shown, and what happens is told as Events.
#[tokio::test(start_paused = true)]
async fn defect_13_a_pause_is_shown_and_events_are_told() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    provisioned(&site, "m-0").await;
    let paused = json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": ""}}});
    fleet.patch("m-0", paused).await;
    site.until("paused", |site| {
        let machine = site.machine("m-0").unwrap();
        condition(&machine, "Paused").is_some_and(|one| one["status"] == "True")
    })
    .await;
    let events = site.server.objects("events").into_iter();
    let told: Vec<_> = events.map(|one| one["reason"].clone()).collect();
    for reason in ["VMCreate", "BootstrapSecretCreate"] {
        assert!(told.contains(&json!(reason)), "{told:?}");
    }
}

/// CAPK 385: a failure domain may be another infra cluster, with credentials of its own.
#[tokio::test(start_paused = true)]
async fn capk_385_a_failure_domain_may_be_another_infra_cluster() {
    let site = Site::usual().await;
    let other = ApiServer::builder()
        .authorization(Authorization::Rbac)
        .build();
    admit(&other, NAMESPACE).await;
    let builder = Builder::new().delays(Delays::realistic()).seed(8);
    let beyond = builder.build_in(&other).await.unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://other:6443"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "other-site", "namespace": NAMESPACE},
        "stringData": {"kubeconfig": kubeconfig.to_string(), "namespace": NAMESPACE},
    });
    create(&site.server.client("script"), secret).await;
    let mut cluster = crate::site::cluster();
    cluster["spec"]["failureDomains"] = json!([
        {"name": "zone-1"},
        {"name": "other-site", "infraClusterSecretRef": {"name": "other-site"}},
    ]);
    let fleet = Fleet::create_like(&site, cluster).await;
    site.play();
    let playing = beyond.clone();
    tokio::spawn(async move { playing.run().await });
    let (running, there) = (site.clone(), other.clone());
    tokio::spawn(async move {
        let (here, there) = (
            tenant_of(&running.infra, NAMESPACE),
            tenant_of(&there, NAMESPACE),
        );
        let dial = move |identity: Option<&Identity>| match identity {
            Some(identity) if identity.secret.name == "other-site" => there.clone(),
            _ => here.clone(),
        };
        let connector = Connector::new().through(move |identity| recorded(dial(identity)));
        let management = running.server.client(PROVIDER);
        running.provide_by(connector, management, Machines).await;
    });
    for (name, domain) in [("m-0", "zone-1"), ("m-1", "other-site")] {
        fleet
            .add_with(name, machine(), json!({"failureDomain": domain}))
            .await;
    }
    provisioned(&site, "m-0").await;
    provisioned(&site, "m-1").await;
    let names = |server: &ApiServer| {
        let vms = server.objects(VMS).into_iter();
        vms.map(|vm| vm["metadata"]["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&site.infra), ["m-0"]);
    assert_eq!(names(&other), ["m-1"]);
    // It is found there again without its cluster.
    for name in ["m-0", "m-1"] {
        fleet.delete(name).await;
    }
    site.until("gone", |site| site.server.objects(MACHINES).is_empty())
        .await;
    assert!(site.platform.vms_left().is_empty() && beyond.vms_left().is_empty());
}
