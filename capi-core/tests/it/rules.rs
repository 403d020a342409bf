//! Rules of the contract that no other file here shows, each by its id.

use std::collections::BTreeMap;
use std::time::Duration;

use capi_contract::Class;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::farm::FarmError;
use crate::world::{MACHINES, World, condition, is_provisioned, seconds};

const INFRA: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";
const CORE: &str = "cluster.x-k8s.io/v1beta2";

#[tokio::test(start_paused = true)]
async fn im_03_a_machine_made_again_under_its_name_gets_another_provider_id() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let first = world.machine("m").unwrap()["spec"]["providerID"].clone();
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    world.delete("Machine", "m").await;
    world.delete("Secret", "m-bootstrap").await;
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    let second = world.machine("m").unwrap()["spec"]["providerID"].clone();
    assert!(first.is_string() && second.is_string());
    assert_ne!(first, second);
}

#[tokio::test(start_paused = true)]
async fn im_04_the_provider_id_stays_through_restart_and_loss_of_status_and_ledger() {
    let mut world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let id = || world.machine("m").unwrap()["spec"]["providerID"].clone();
    let first = id();
    world.stop();
    let strip = json!({"metadata": {"annotations": {"capi-rs.dev/ledger": null}}});
    world.patch("FarmMachine", "m", strip).await;
    let machine = world.machine("m").unwrap();
    let nothing = json!({"conditions": null, "initialization": null, "addresses": null});
    world.patch_status(&machine, nothing).await;
    world.start();
    world.until_provisioned("m").await;
    assert_eq!(world.machine("m").unwrap()["spec"]["providerID"], first);
}

#[tokio::test(start_paused = true)]
async fn im_05_and_wr_03_the_provider_id_is_in_spec_before_status_says_provisioned() {
    let world = World::with_machine(Duration::from_secs(1)).await;
    loop {
        let machine = world.machine("m").unwrap();
        if is_provisioned(&machine) {
            break;
        }
        assert!(
            machine["status"]["addresses"].is_null() || machine["spec"]["providerID"].is_string(),
            "addresses and provisioned come with one status write, after spec"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let writes = world.writes();
    let status = writes.iter().rposition(|w| w.ends_with("/status")).unwrap();
    let before = &writes[status - 1];
    assert!(before.ends_with("m/"), "status follows spec: {writes:#?}");
}

#[tokio::test(start_paused = true)]
async fn im_09_and_ic_09_ready_is_there_from_the_first_visit_to_the_last() {
    let world = World::with_machine(Duration::from_secs(5)).await;
    let ready = |object: Option<Value>| {
        object.is_none_or(|object| condition(&object, "Ready")["status"].is_string())
    };
    seconds(1).await;
    for second in 0..60 {
        assert!(ready(world.machine("m")), "machine after {second} s");
        assert!(ready(world.cluster()), "cluster after {second} s");
        seconds(1).await;
    }
    world.delete("FarmMachine", "m").await;
    world.delete("FarmCluster", "c").await;
    seconds(1).await;
    for second in 0..30 {
        assert!(
            ready(world.machine("m")),
            "deleting machine after {second} s"
        );
        assert!(ready(world.cluster()), "deleting cluster after {second} s");
        seconds(1).await;
    }
    assert_eq!((world.machine("m"), world.cluster()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn im_10_and_ic_10_an_error_is_retried_and_never_written_as_a_terminal_failure() {
    let mut world = World::new(Duration::ZERO).await;
    for class in [Class::Transient, Class::Terminal, Class::Misconfigured] {
        world.farm.refuse("clone", FarmError::new(class, "broken"));
    }
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    let bodies = world.server.objects(MACHINES);
    for object in bodies.iter().chain(&world.cluster()) {
        let status = object["status"].as_object().unwrap();
        assert!(!status.contains_key("failureReason"), "{status:?}");
        assert!(!status.contains_key("failureMessage"), "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn im_01_and_im_26_and_ict_02_names_as_long_and_odd_as_kubernetes_allows_are_no_obstacle() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    let name = format!("{}.0-odd", "x".repeat(220));
    world.create_machine(&name, json!({})).await;
    world.until_provisioned(&name).await;
    world.delete("FarmMachine", &name).await;
    world.until_gone(&name).await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn im_22_a_hook_annotation_on_the_machine_does_not_hold_the_deletion() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let hook = json!({"metadata": {"annotations":
        {"pre-terminate.delete.hook.machine.cluster.x-k8s.io/backup": "operator"}}});
    world.patch("Machine", "m", hook).await;
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn ic_05_without_an_endpoint_the_cluster_waits_for_the_one_of_core() {
    let mut world = World::new(Duration::ZERO).await;
    let none = json!({"spec": {"controlPlaneEndpoint": null}});
    world.patch("FarmCluster", "c", none).await;
    world.start();
    seconds(30).await;
    let cluster = world.cluster().unwrap();
    assert!(!is_provisioned(&cluster));
    let message = condition(&cluster, "Ready")["message"].clone();
    assert!(
        message
            .as_str()
            .unwrap()
            .contains("set spec.controlPlaneEndpoint"),
        "{message}"
    );
    let endpoint = json!({"spec": {"controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443}}});
    world.patch("Cluster", "c", endpoint).await;
    seconds(2).await;
    let cluster = world.cluster().unwrap();
    assert!(is_provisioned(&cluster), "{cluster:#?}");
    // It is not ours to copy (IC-04, IC-19).
    assert!(cluster["spec"]["controlPlaneEndpoint"].is_null());
}

#[tokio::test(start_paused = true)]
async fn ic_01_and_ic_11_a_cluster_without_owner_is_not_touched_until_core_adopts_it() {
    let mut world = World::new(Duration::ZERO).await;
    let owners = world.cluster().unwrap()["metadata"]["ownerReferences"].clone();
    let orphan = json!({"metadata": {"ownerReferences": null}});
    world.patch("FarmCluster", "c", orphan).await;
    let before = world.cluster();
    world.start();
    seconds(60).await;
    assert_eq!(world.cluster(), before);
    let adopt = json!({"metadata": {"ownerReferences": owners}});
    world.patch("FarmCluster", "c", adopt).await;
    seconds(2).await;
    assert!(is_provisioned(&world.cluster().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn ic_12_a_deleting_cluster_gets_no_finalizer() {
    let mut world = World::new(Duration::ZERO).await;
    let theirs = json!({"metadata": {"finalizers": ["example.com/theirs"]}});
    world.patch("FarmCluster", "c", theirs).await;
    world.delete("FarmCluster", "c").await;
    let before = world.cluster().unwrap();
    world.start();
    seconds(60).await;
    assert_eq!(world.cluster().unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn ic_13_a_cluster_goes_without_its_cluster() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    seconds(2).await;
    world.stop();
    world.delete("FarmCluster", "c").await;
    world.delete("Cluster", "c").await;
    world.start();
    seconds(10).await;
    assert_eq!(world.cluster(), None);
}

#[tokio::test(start_paused = true)]
async fn ic_15_and_pa_06_a_cluster_shows_both_ends_of_a_pause_at_once() {
    let mut world = World::new(Duration::ZERO).await;
    let pause = |paused: bool| json!({"spec": {"paused": paused}});
    world.patch("Cluster", "c", pause(true)).await;
    world.start();
    seconds(2).await;
    let paused = |world: &World| condition(&world.cluster().unwrap(), "Paused");
    assert_eq!(paused(&world)["status"], "True");
    assert!(!is_provisioned(&world.cluster().unwrap()));
    world.patch("Cluster", "c", pause(false)).await;
    seconds(1).await;
    assert_eq!(paused(&world)["status"], "False");
    assert_eq!(paused(&world)["reason"], "NotPaused");
    assert!(is_provisioned(&world.cluster().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn ic_18_and_ic_19_spec_belongs_to_the_topology_and_applying_it_again_changes_nothing() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    seconds(2).await;
    let api = world.api(INFRA, "FarmCluster");
    let apply = |host: &str| {
        let body = json!({"apiVersion": INFRA, "kind": "FarmCluster", "metadata": {"name": "c"},
            "spec": {"controlPlaneEndpoint": {"host": host, "port": 6443}}});
        let api = api.clone();
        async move {
            let params = PatchParams::apply("capi-topology").force();
            let object = api.patch("c", &params, &Patch::Apply(&body)).await.unwrap();
            object.metadata.resource_version
        }
    };
    let first = apply("10.0.0.1").await;
    seconds(30).await;
    let writes = world.writes().len();
    for _ in 0..3 {
        assert_eq!(
            apply("10.0.0.1").await,
            first,
            "we wrote what topology owns"
        );
        seconds(10).await;
    }
    assert_eq!(world.writes().len(), writes);
}

#[tokio::test(start_paused = true)]
async fn ipc_02_a_claim_that_was_deleted_by_hand_is_made_again_under_its_name() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    world.create_machine("m", json!({"pool": "p"})).await;
    world.until_ready_says("m", "WaitingForIPAddress").await;
    let kind = "ipaddressclaims.ipam.cluster.x-k8s.io";
    let claim = || world.server.object(kind, "default", "m-net0");
    let first = claim().unwrap();
    let api = world.api("ipam.cluster.x-k8s.io/v1beta2", "IPAddressClaim");
    api.delete("m-net0", &DeleteParams::default())
        .await
        .unwrap();
    seconds(5).await;
    let second = claim().unwrap();
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    assert_eq!(first["spec"], second["spec"]);
    let all = world.server.objects(kind);
    assert_eq!(all.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pa_05_a_stranger_is_not_even_told_that_it_is_paused() {
    let mut world = World::new(Duration::ZERO).await;
    let managed = json!({"metadata": {"annotations":
        {"cluster.x-k8s.io/managed-by": "", "cluster.x-k8s.io/paused": ""}}});
    world.patch("FarmCluster", "c", managed).await;
    let before = world.cluster();
    world.start();
    seconds(30).await;
    assert_eq!(world.cluster(), before);
}

#[tokio::test(start_paused = true)]
async fn wr_05_a_deletion_that_is_over_logs_and_counts_no_error() {
    let mut world = World::new(Duration::ZERO).await;
    let mut registry = prometheus_client::registry::Registry::default();
    let options = capi_core::Options {
        telemetry: capi_core::Telemetry::register(&mut registry),
        ..world.options()
    };
    let provider = world.provider().options(options);
    world.run(provider, world.server.client(crate::world::ENGINE));
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    seconds(30).await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let bad: Vec<_> = text
        .lines()
        .filter(|line| line.contains("kubernetes_error") || line.starts_with("capi_errors_total"))
        .collect();
    assert_eq!(bad, Vec::<&str>::new());
    assert!(text.contains("outcome=\"released\""), "{text}");
}

/// Everything of the cluster, in the order in which `clusterctl move` makes it on the other side.
fn kinds() -> [(&'static str, &'static str, &'static str); 5] {
    [
        (CORE, "Cluster", "clusters.cluster.x-k8s.io"),
        ("v1", "Secret", "secrets"),
        (
            INFRA,
            "FarmCluster",
            "farmclusters.infrastructure.cluster.x-k8s.io",
        ),
        (CORE, "Machine", "machines.cluster.x-k8s.io"),
        (INFRA, "FarmMachine", MACHINES),
    ]
}

/// Plays `clusterctl move`: pause, copy without status and with new uids, delete without finalizers.
async fn move_to(from: &World, to: &World) {
    from.patch("Cluster", "c", json!({"spec": {"paused": true}}))
        .await;
    seconds(5).await;
    let mut uids = BTreeMap::<String, Value>::new();
    for (version, kind, resource) in kinds() {
        for mut object in from.server.objects(resource) {
            let meta = object["metadata"].as_object_mut().unwrap();
            let old = meta.remove("uid").unwrap();
            for field in [
                "resourceVersion",
                "managedFields",
                "creationTimestamp",
                "generation",
            ] {
                meta.remove(field);
            }
            for owner in meta
                .get_mut("ownerReferences")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                owner["uid"] = uids[owner["uid"].as_str().unwrap()].clone();
            }
            object.as_object_mut().unwrap().remove("status");
            object["apiVersion"] = json!(version);
            object["kind"] = json!(kind);
            let made = to.create(object).await;
            uids.insert(
                old.as_str().unwrap().to_owned(),
                made["metadata"]["uid"].clone(),
            );
        }
    }
    for (version, kind, resource) in kinds().into_iter().rev() {
        for object in from.server.objects(resource) {
            let name = object["metadata"]["name"].as_str().unwrap();
            let api = from.api(version, kind);
            let for_move = json!({"metadata": {"annotations":
                {"clusterctl.cluster.x-k8s.io/delete-for-move": ""}}});
            let params = PatchParams::default();
            api.patch(name, &params, &Patch::Merge(for_move))
                .await
                .unwrap();
            let _ = api.delete(name, &DeleteParams::default()).await;
            let strip = json!({"metadata": {"finalizers": null}});
            let _ = api.patch(name, &params, &Patch::Merge(strip)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mv_02_and_mv_03_a_moved_cluster_gets_its_status_back_and_no_call_changes_anything() {
    let mut source = World::with_machine(Duration::from_secs(1)).await;
    source.until_provisioned("m").await;
    seconds(5).await;
    let before = source.machine("m").unwrap();
    let calls = source.farm.mutations();
    let mut target = source.beside();
    target.start();
    move_to(&source, &target).await;
    seconds(60).await;
    assert_eq!(source.machine("m"), None);
    assert_eq!(source.farm.mutations(), calls, "the source does nothing");
    source.stop();

    target
        .patch("Cluster", "c", json!({"spec": {"paused": false}}))
        .await;
    target.until_provisioned("m").await;
    seconds(5).await;
    let after = target.machine("m").unwrap();
    assert_eq!(after["spec"], before["spec"]);
    for field in ["addresses", "initialization"] {
        assert_eq!(after["status"][field], before["status"][field], "{field}");
    }
    assert_eq!(condition(&after, "Ready")["status"], "True");
    assert!(is_provisioned(&target.cluster().unwrap()));
    assert_eq!(target.farm.mutations(), calls, "the target makes nothing");

    target.delete("FarmMachine", "m").await;
    target.until_gone("m").await;
    assert!(target.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn mv_02_a_move_in_the_middle_of_a_clone_makes_no_twin() {
    for cut_ms in [50, 1_500, 4_000, 7_000] {
        let source = World::with_machine(Duration::from_secs(3)).await;
        tokio::time::sleep(Duration::from_millis(cut_ms)).await;
        let mut target = source.beside();
        target.start();
        move_to(&source, &target).await;
        target
            .patch("Cluster", "c", json!({"spec": {"paused": false}}))
            .await;
        let cluster = json!({"apiVersion": CORE, "kind": "Cluster", "metadata": {"name": "c"}});
        let ready = json!({"initialization": {"infrastructureProvisioned": true}});
        target.patch_status(&cluster, ready).await;
        target.until_provisioned("m").await;
        let clones = target.farm.mutations();
        let clones = clones
            .iter()
            .filter(|call| call.starts_with("clone"))
            .count();
        assert_eq!(clones, 1, "moved after {cut_ms} ms");
        assert_eq!(target.farm.vms().len(), 1, "moved after {cut_ms} ms");
    }
}
