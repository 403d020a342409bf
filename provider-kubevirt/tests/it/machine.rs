//! The life of a machine, field by field and trouble by trouble.

use std::time::Duration;

use kube::api::DeleteParams;
use provider_kubevirt::api::{MARK_ANNOTATION, TERMINAL_LABEL};
use serde_json::{Value, json};

use crate::site::{
    Fleet, MACHINES, Site, condition, is_provisioned, machine, objects_of, persistent, ready,
};

async fn built(infra: Value) -> (Site, Fleet) {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add_like("m-0", infra).await;
    site.until("provisioned", |site| {
        site.machine("m-0").is_some_and(|one| is_provisioned(&one))
    })
    .await;
    (site, fleet)
}

async fn gone(site: &Site, fleet: &Fleet) {
    fleet.delete("m-0").await;
    site.until("gone", |site| site.server.objects(MACHINES).is_empty())
        .await;
    let left = |left: Vec<String>| assert_eq!(left, Vec::<String>::new());
    left(site.platform.vms_left());
    left(site.platform.volumes_left());
    left(site.platform.secrets_left());
    assert!(site.platform.overlaps().is_empty());
    assert!(site.platform.strangers_touched().is_empty());
}

fn reason(site: &Site, kind: &str) -> String {
    let machine = site.machine("m-0").unwrap();
    let one = condition(&machine, kind).cloned().unwrap_or_default();
    one["reason"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_machine_lives_and_leaves_nothing() {
    let (site, fleet) = built(machine()).await;
    let object = site.machine("m-0").unwrap();
    assert_eq!(object["spec"]["providerID"], "kubevirt://m-0");
    let instance = site.instance("m-0").unwrap();
    let ip = &instance["status"]["interfaces"][0]["ipAddress"];
    let addresses = json!([
        {"type": "Hostname", "address": "m-0"},
        {"type": "InternalIP", "address": ip},
        {"type": "InternalDNS", "address": "m-0"},
    ]);
    assert_eq!(object["status"]["addresses"], addresses);
    assert_eq!(
        object["status"]["infraNode"],
        instance["status"]["nodeName"]
    );
    assert_eq!(object["status"]["ready"], true);

    let secrets = site.secrets();
    assert_eq!(secrets.len(), 1);
    let (vm, secret) = (site.vm("m-0").unwrap(), &secrets[0]);
    assert_eq!(
        secret["metadata"]["ownerReferences"][0]["uid"],
        vm["metadata"]["uid"]
    );
    let name = secret["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-0-bootstrap-userdata"), "{name}");
    let volumes = vm["spec"]["template"]["spec"]["volumes"]
        .as_array()
        .unwrap();
    assert_eq!(
        volumes.last().unwrap()["cloudInitConfigDrive"]["secretRef"]["name"],
        name
    );
    gone(&site, &fleet).await;
}

/// The data are taken out once they were used; the Secret stays, since the pod of a VM that restarts
/// or moves mounts it again.
#[tokio::test(start_paused = true)]
async fn the_bootstrap_data_are_taken_out_once_the_node_is_there() {
    let (site, fleet) = built(persistent()).await;
    let full = site.secrets()[0]["data"]["userdata"].clone();
    fleet.join("m-0").await;
    site.until("used", |site| site.secrets()[0]["data"]["userdata"] != full)
        .await;
    let begun = site.instance("m-0").unwrap()["metadata"]["uid"].clone();
    assert!(
        site.platform
            .hand()
            .restart("default", "m-0")
            .await
            .unwrap()
    );
    site.until("restarted", |site| {
        site.instance("m-0").is_some_and(|one| {
            one["metadata"]["uid"] != begun && one["status"]["phase"] == "Running"
        })
    })
    .await;
    gone(&site, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_persistent_machine_takes_its_volumes_along() {
    let (site, fleet) = built(persistent()).await;
    let vm = site.vm("m-0").unwrap();
    assert_eq!(
        vm["spec"]["dataVolumeTemplates"][0]["metadata"]["name"],
        "m-0-root"
    );
    assert!(!site.platform.volumes_left().is_empty());
    gone(&site, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn the_words_of_the_go_provider_say_what_is_waited_for() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add_like("m-0", persistent()).await;
    site.until("importing", |site| {
        reason(site, "VMProvisioned").starts_with("DV")
    })
    .await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    let mut greedy = machine();
    let spec = &mut greedy["spec"]["virtualMachineTemplate"]["spec"]["template"]["spec"];
    spec["domain"]["cpu"]["cores"] = json!(1000);
    fleet.add_like("m-1", greedy).await;
    site.until("unschedulable", |site| {
        let machine = site.machine("m-1").unwrap();
        condition(&machine, "VMProvisioned").is_some_and(|one| one["reason"] == "Unschedulable")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_template_that_kubevirt_refuses_is_told_with_its_words() {
    let site = Site::instant().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let mut wrong = machine();
    wrong["spec"]["virtualMachineTemplate"]["spec"]["runStrategy"] = json!("Sometimes");
    fleet.add_like("m-0", wrong).await;
    site.until("refused", |site| {
        reason(site, "VMProvisioned") == "Misconfigured"
    })
    .await;
    let object = site.machine("m-0").unwrap();
    let message = condition(&object, "VMProvisioned").unwrap()["message"].to_string();
    assert!(
        message.contains("create VirtualMachine default/m-0"),
        "{message}"
    );
    gone(&site, &fleet).await;
}

/// Defect 3: the Go provider drops its finalizer right after the delete call.
#[tokio::test(start_paused = true)]
async fn defect_3_the_finalizer_stays_until_the_vm_is_gone() {
    let (site, fleet) = built(persistent()).await;
    fleet.delete("m-0").await;
    site.until("deleting", |site| {
        site.vm("m-0")
            .is_some_and(|vm| !vm["metadata"]["deletionTimestamp"].is_null())
    })
    .await;
    site.until("gone", |site| {
        let gone = site.server.objects(MACHINES).is_empty();
        assert!(!gone || site.platform.vms_left().is_empty());
        assert!(!gone || site.platform.volumes_left().is_empty());
        gone
    })
    .await;
}

/// What outlived its VM, since somebody deleted that without what it owns, is found and removed.
#[tokio::test(start_paused = true)]
async fn r11_what_outlived_the_vm_is_removed() {
    let (site, fleet) = built(persistent()).await;
    let hand = site.infra.client("hand");
    let vms = objects_of(
        &hand,
        &json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine"}),
    );
    let orphan = DeleteParams {
        propagation_policy: Some(kube::api::PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    vms.delete("m-0", &orphan).await.unwrap();
    site.until("orphaned", |site| site.vm("m-0").is_none())
        .await;
    assert!(site.instance("m-0").is_some());
    gone(&site, &fleet).await;
}

/// R5: an equally named VM of another is left alone, and the machine gets another name.
#[tokio::test(start_paused = true)]
async fn r5_a_taken_name_is_left_to_its_owner() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.play();
    site.platform
        .hand()
        .stranger("default", "m-0")
        .await
        .unwrap();
    let _provider = site.start_provider();
    fleet.add("m-0").await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    let object = site.machine("m-0").unwrap();
    let id = object["spec"]["providerID"].as_str().unwrap();
    assert!(id.starts_with("kubevirt://m-0-"), "{id}");
    fleet.delete("m-0").await;
    site.until("gone", |site| site.server.objects(MACHINES).is_empty())
        .await;
    assert_eq!(site.platform.strangers_touched(), []);
    assert!(site.vm("m-0").is_some());
}

/// R12, MV-03: without ledger and status the machine is found again by its mark.
#[tokio::test(start_paused = true)]
async fn a_machine_without_ledger_is_found_by_its_mark() {
    let site = Site::instant().await;
    let fleet = Fleet::create(&site).await;
    site.play();
    let provider = site.start_provider();
    fleet.add("m-0").await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    provider.abort();
    let vm = site.vm("m-0").unwrap();
    let ledger = json!({"metadata": {"annotations": {"capi-rs.dev/ledger": null}}});
    fleet.patch("m-0", ledger).await;
    let _again = site.start_provider();
    site.until("found", |site| {
        let annotations = &site.machine("m-0").unwrap()["metadata"]["annotations"];
        annotations["capi-rs.dev/ledger"].is_string()
    })
    .await;
    assert_eq!(
        site.vm("m-0").unwrap()["metadata"]["uid"],
        vm["metadata"]["uid"]
    );
    gone(&site, &fleet).await;
}

/// Terminal states, and their end where the cause goes (R10).
#[tokio::test(start_paused = true)]
async fn a_vm_that_is_declared_failed_is_reported_lost() {
    let (site, fleet) = built(machine()).await;
    let label = |value: Value| json!({"metadata": {"labels": {TERMINAL_LABEL: value}}});
    let hand = site.platform.hand();
    hand.edit_vm("default", "m-0", &label(json!("disk-failure")))
        .await
        .unwrap();
    site.until("lost", |site| {
        ready(&site.machine("m-0").unwrap()) == Some("False")
    })
    .await;
    let object = site.machine("m-0").unwrap();
    let message = condition(&object, "VMProvisioned").unwrap()["message"].to_string();
    assert!(message.contains("disk-failure"), "{message}");
    hand.edit_vm("default", "m-0", &label(Value::Null))
        .await
        .unwrap();
    site.until("well", |site| {
        ready(&site.machine("m-0").unwrap()) == Some("True")
    })
    .await;
    gone(&site, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ran_once_and_stopped_is_lost() {
    let mut once = machine();
    once["spec"]["virtualMachineTemplate"]["spec"]["runStrategy"] = json!("Once");
    let (site, fleet) = built(once).await;
    assert!(site.platform.hand().crash("default", "m-0"));
    site.until("lost", |site| reason(site, "VMProvisioned") == "Lost")
        .await;
    gone(&site, &fleet).await;
}

/// PR #389, PR #392: a live migration first.
#[tokio::test(start_paused = true)]
async fn a_drained_infra_node_is_left_by_live_migration() {
    let mut movable = persistent();
    let spec = &mut movable["spec"]["virtualMachineTemplate"]["spec"];
    spec["dataVolumeTemplates"][0]["spec"]["storage"]["accessModes"] = json!(["ReadWriteMany"]);
    let (site, fleet) = built(movable).await;
    fleet.join("m-0").await;
    let before = site.instance("m-0").unwrap();
    site.until("migratable", |site| {
        let machine = site.machine("m-0").unwrap();
        condition(&machine, "VMLiveMigratable").is_some_and(|one| one["status"] == "True")
    })
    .await;
    assert!(site.platform.hand().evict("default", "m-0").await.unwrap());
    site.until("moved", |site| {
        let now = site.instance("m-0").unwrap();
        now["status"]["nodeName"] != before["status"]["nodeName"]
            && now["status"]["evacuationNodeName"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
    })
    .await;
    let after = site.instance("m-0").unwrap();
    assert_eq!(
        after["metadata"]["uid"], before["metadata"]["uid"],
        "not restarted"
    );
    let migrations = "virtualmachineinstancemigrations.kubevirt.io";
    site.until("forgotten", |site| {
        site.infra.objects(migrations).is_empty()
    })
    .await;
    gone(&site, &fleet).await;
}

/// A mark that was taken off by hand: lost, and what is there is left alone.
#[tokio::test(start_paused = true)]
async fn a_vm_without_its_mark_is_not_ours_any_more() {
    let (site, _fleet) = built(machine()).await;
    let none = json!({"metadata": {"annotations": {MARK_ANNOTATION: null}}});
    site.platform
        .hand()
        .edit_vm("default", "m-0", &none)
        .await
        .unwrap();
    site.until("lost", |site| {
        ready(&site.machine("m-0").unwrap()) == Some("False")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(site.vm("m-0").is_some());
}

/// The infra cluster is lost and comes back: reported, nothing changed, well again.
#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_taken_up_again() {
    let (site, fleet) = built(machine()).await;
    fleet.join("m-0").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    site.infra.break_watches();
    site.infra.compact();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(
        site.platform
            .hand()
            .delete_vm("default", "m-0")
            .await
            .unwrap()
    );
    site.until("reported", |site| {
        ready(&site.machine("m-0").unwrap()) == Some("False")
    })
    .await;
    gone(&site, &fleet).await;
}

/// IM-06: a failure domain that the cluster lists, and one that it does not.
#[tokio::test(start_paused = true)]
async fn im_06_defect_12_a_failure_domain_decides_where_a_machine_runs() {
    let site = Site::usual().await;
    let mut cluster = crate::site::cluster();
    cluster["spec"]["failureDomains"] = json!([{"name": "zone-2"}]);
    let fleet = Fleet::create_like(&site, cluster).await;
    site.start();
    fleet
        .add_with("m-0", machine(), json!({"failureDomain": "zone-2"}))
        .await;
    fleet
        .add_with("m-1", machine(), json!({"failureDomain": "moon"}))
        .await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    let object = site.machine("m-0").unwrap();
    assert_eq!(object["status"]["failureDomain"], "zone-2");
    assert_eq!(object["status"]["infraNode"], "node-2");
    let other = site.machine("m-1").unwrap();
    let message = condition(&other, "VMProvisioned").unwrap()["message"].to_string();
    assert!(message.contains("failure domain moon"), "{message}");
}

/// IM-14: there may be no bootstrap data.
#[tokio::test(start_paused = true)]
async fn im_14_a_machine_without_bootstrap_data_runs_without_a_secret() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet
        .add_with(
            "m-0",
            machine(),
            json!({"bootstrap": {"dataSecretName": ""}}),
        )
        .await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    assert!(site.secrets().is_empty());
    let vm = site.vm("m-0").unwrap();
    let volumes = &vm["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes.as_array().unwrap().len(), 1);
}
