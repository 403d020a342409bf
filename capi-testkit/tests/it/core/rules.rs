//! One rule each.

use serde_json::{Value, json};

use capi_testkit::core::{BootstrapData, NodeLoad};
use std::time::Duration;

use super::World;
use super::world::{INFRA, condition};

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned()
}

fn owners(object: &Value) -> Vec<(String, bool)> {
    let list = object["metadata"]["ownerReferences"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.iter()
        .map(|it| {
            (
                it["kind"].as_str().expect("a kind").to_owned(),
                it["controller"] == true,
            )
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn s_01_a_kind_without_contract_label_is_an_error_for_its_object() {
    let world = World::new();
    let reference = json!({"apiGroup": INFRA, "kind": "Unlabelled", "name": "x"});
    world
        .create(
            json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
            "metadata": {"name": "bad"}, "spec": {"infrastructureRef": reference}}),
        )
        .await;
    world.pass(5).await;
    let cluster = world.one("clusters", "bad");
    assert_eq!(
        condition(&cluster, "InfrastructureReady"),
        "Unknown/InternalError"
    );
}

#[tokio::test(start_paused = true)]
async fn s_02_gates_mirror_and_ownership_of_the_infra_cluster() {
    let world = World::new();
    world.script.lock().holds_cluster = true;
    world.apply_cluster(1).await;
    world.pass(10).await;
    let cluster = world.one("clusters", "c");
    assert_eq!(cluster["status"]["phase"], "Provisioning");
    assert_eq!(condition(&cluster, "InfrastructureReady"), "False/NotReady");
    assert_eq!(cluster["spec"]["controlPlaneEndpoint"], Value::Null);
    assert_eq!(
        owners(&world.one("fakeclusters", "c")),
        [("Cluster".to_owned(), false)]
    );
    // Workers exist, but wait; the control plane does not begin (S-06).
    assert_eq!(world.machines().len(), 1);
    let config = &world.all("kubeadmconfigs")[0];
    assert_eq!(
        condition(config, "DataSecretAvailable"),
        "False/WaitingForClusterInfrastructureReady"
    );
    world.script.lock().holds_cluster = false;
    world
        .until(300, "all run", |it| it.in_phase("Running") == 2)
        .await;
    let cluster = world.one("clusters", "c");
    assert_eq!(condition(&cluster, "InfrastructureReady"), "True/Ready");
    assert_eq!(
        cluster["status"]["initialization"]["controlPlaneInitialized"],
        true
    );
}

#[tokio::test(start_paused = true)]
async fn s_02_one_malformed_condition_spoils_the_mirror_and_provisioned_sticks() {
    let world = World::up(0).await;
    world.script.lock().holds_cluster = true;
    let status = async |value: Value| {
        let api = world.api(INFRA, "v1alpha1", "FakeCluster");
        let patch = kube::api::Patch::Merge(json!({"status": value}));
        api.patch_status("c", &kube::api::PatchParams::default(), &patch)
            .await
            .expect("patches");
        world.pass(5).await;
        world.one("clusters", "c")
    };
    let cluster = status(json!({"conditions": [{"type": "Ready", "status": "True"}]})).await;
    assert_eq!(
        condition(&cluster, "InfrastructureReady"),
        "Unknown/InvalidConditionReported"
    );
    let cluster =
        status(json!({"conditions": null, "initialization": {"provisioned": false}})).await;
    assert_eq!(condition(&cluster, "InfrastructureReady"), "False/NotReady");
    assert_eq!(
        cluster["status"]["initialization"]["infrastructureProvisioned"],
        true
    );
    let domains = json!([{"name": "b", "controlPlane": true}, {"name": "a"}]);
    let cluster = status(json!({"failureDomains": domains})).await;
    assert_eq!(
        cluster["status"]["failureDomains"][0],
        json!({"name": "a", "controlPlane": false})
    );
    let cluster = status(json!({"failureDomains": null})).await;
    assert_eq!(cluster["status"]["failureDomains"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn s_02_pause_stops_everything_and_its_end_resumes() {
    let world = World::up(1).await;
    world
        .patch("Cluster", "c", json!({"spec": {"paused": true}}))
        .await;
    world
        .patch("MachineDeployment", "md", json!({"spec": {"replicas": 3}}))
        .await;
    world.pass(60).await;
    assert_eq!(world.machines().len(), 2);
    for (resource, name) in [
        ("clusters", "c"),
        ("machinedeployments", "md"),
        ("kubeadmcontrolplanes", "cp"),
    ] {
        assert_eq!(
            condition(&world.one(resource, name), "Paused"),
            "True/Paused",
            "{resource}"
        );
    }
    world
        .patch("Cluster", "c", json!({"spec": {"paused": null}}))
        .await;
    world
        .until(300, "4 run", |it| it.in_phase("Running") == 4)
        .await;
    assert_eq!(
        condition(&world.one("clusters", "c"), "Paused"),
        "False/NotPaused"
    );
}

#[tokio::test(start_paused = true)]
async fn s_04_and_s_05_labels_go_down_in_place_and_the_order_of_creation_is_kept() {
    let world = World::up(1).await;
    let before: Vec<_> = world.machines().iter().map(name).collect();
    let worker = &world.workers()[0];
    let set = &world.all("machinesets")[0];
    let labels = &worker["metadata"]["labels"];
    assert_eq!(labels["cluster.x-k8s.io/deployment-name"], "md");
    assert_eq!(labels["cluster.x-k8s.io/set-name"], name(set));
    assert_eq!(
        labels["machine-template-hash"],
        set["metadata"]["labels"]["machine-template-hash"]
    );
    let infra = world.one("fakemachines", &name(worker));
    assert_eq!(infra["metadata"]["labels"]["from"], "template");
    assert_eq!(infra["metadata"]["labels"]["pool"], "a");
    assert_eq!(infra["spec"]["cores"], 2);
    let annotations = &infra["metadata"]["annotations"];
    assert_eq!(annotations["cluster.x-k8s.io/cloned-from-name"], "tmpl");
    assert_eq!(
        annotations["cluster.x-k8s.io/cloned-from-groupkind"],
        format!("FakeMachineTemplate.{INFRA}")
    );
    assert_eq!(
        owners(&infra),
        [("Machine".to_owned(), true)],
        "one adoption replaces the set"
    );
    // Worker: bootstrap config, infra machine, Machine; control plane: infra machine first (S-06).
    for (machine, first) in [
        (worker.clone(), "kubeadmconfigs"),
        (control_plane(&world), "fakemachines"),
    ] {
        let own = name(&machine);
        let made: Vec<_> = world
            .server
            .audit()
            .select(|it| it.actor == "core" && it.name == own && it.code == 201)
            .into_iter()
            .map(|it| it.resource)
            .collect();
        assert_eq!(made[0], first, "{made:?}");
        assert_eq!(made[2], "machines", "{made:?}");
    }
    let patch = json!({"spec": {"template": {"metadata": {"labels": {"pool": "b"}, "annotations": {"note": "1"}}}}});
    world.patch("MachineDeployment", "md", patch).await;
    world
        .until(60, "labels go down", |it| {
            it.one("fakemachines", &name(worker))["metadata"]["labels"]["pool"] == "b"
        })
        .await;
    let infra = world.one("fakemachines", &name(worker));
    assert_eq!(infra["metadata"]["annotations"]["note"], "1");
    let after: Vec<_> = world.machines().iter().map(name).collect();
    assert_eq!(before, after, "no machine was replaced");
    // Dropping a label takes it away again.
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"note": null}}}}});
    world.patch("MachineDeployment", "md", patch).await;
    world
        .until(60, "annotation goes", |it| {
            it.one("fakemachines", &name(worker))["metadata"]["annotations"]["note"].is_null()
        })
        .await;
    // The content of a template alone does nothing.
    let patch = json!({"spec": {"template": {"spec": {"cores": 8}}}});
    world.patch("FakeMachineTemplate", "tmpl", patch).await;
    world.pass(60).await;
    assert_eq!(world.machines().iter().map(name).collect::<Vec<_>>(), after);
}

fn control_plane(world: &World) -> Value {
    let workers: Vec<_> = world.workers().iter().map(name).collect();
    let machines = world.machines();
    machines
        .into_iter()
        .find(|it| !workers.contains(&name(it)))
        .expect("one")
}

#[tokio::test(start_paused = true)]
async fn s_05_orphans_are_removed_and_marked_machines_go_first() {
    let world = World::up(3).await;
    let set = &world.all("machinesets")[0];
    let owner = json!([{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineSet",
        "name": name(set), "uid": set["metadata"]["uid"]}]);
    world
        .create(
            json!({"apiVersion": format!("{INFRA}/v1alpha1"), "kind": "FakeMachine",
            "metadata": {"name": "orphan", "ownerReferences": owner}, "spec": {}}),
        )
        .await;
    world
        .until(60, "the orphan goes", |it| {
            it.one("fakemachines", "orphan").is_null()
        })
        .await;
    let marked = name(&world.workers()[1]);
    let annotations = json!({"metadata": {"annotations": {"cluster.x-k8s.io/delete-machine": ""}}});
    world.patch("Machine", &marked, annotations).await;
    world
        .patch("MachineDeployment", "md", json!({"spec": {"replicas": 2}}))
        .await;
    world
        .until(120, "one goes", |it| it.machines().len() == 3)
        .await;
    assert!(world.one("machines", &marked).is_null());
}

#[tokio::test(start_paused = true)]
async fn s_07_two_nodes_with_one_provider_id_are_an_error() {
    let world = World::up(1).await;
    let worker = world.workers()[0].clone();
    let workload = world.workloads.all().remove(0);
    let mut twin = workload.by_name(&name(&worker))[0].clone();
    twin.name = "twin".to_owned();
    world.workloads.insert_node(&workload.endpoint, twin);
    world
        .until(60, "the error shows", |it| {
            condition(&it.one("machines", &name(&worker)), "NodeHealthy") == "Unknown/InternalError"
        })
        .await;
    world.workloads.remove_node(&workload.endpoint, "twin");
    world
        .until(60, "it heals", |it| {
            condition(&it.one("machines", &name(&worker)), "NodeHealthy") == "True/NodeHealthy"
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn s_08_hooks_drain_volumes_and_timeouts_hold_a_deletion() {
    let world = World::up(1).await;
    let worker = name(&world.workers()[0]);
    let drain = "pre-drain.delete.hook.machine.cluster.x-k8s.io/backup";
    let terminate = "pre-terminate.delete.hook.machine.cluster.x-k8s.io/backup";
    let load = NodeLoad {
        pods: 1,
        volumes: 1,
    };
    world.core.set_node_load(&worker, load);
    world
        .patch(
            "Machine",
            &worker,
            json!({
                "metadata": {"annotations": {drain: "", terminate: ""}},
                "spec": {"deletion": {"nodeDrainTimeoutSeconds": 100}},
            }),
        )
        .await;
    world.delete("Machine", &worker).await;
    let shows = |it: &World, reason: &str| {
        condition(&it.one("machines", &worker), "Deleting") == format!("True/{reason}")
    };
    world.pass(600).await;
    assert!(shows(&world, "WaitingForPreDrainHook"), "unbounded");
    let remove = |hook: &str| json!({"metadata": {"annotations": {hook: null}}});
    world.patch("Machine", &worker, remove(drain)).await;
    world
        .until(30, "drains", |it| shows(it, "DrainingNode"))
        .await;
    assert!(
        world.workloads.all()[0].by_name(&worker)[0].unschedulable,
        "cordoned"
    );
    world
        .until(130, "drain times out", |it| {
            shows(it, "WaitingForVolumeDetach")
        })
        .await;
    world.core.set_node_load(&worker, NodeLoad::default());
    world
        .until(30, "terminates", |it| {
            shows(it, "WaitingForPreTerminateHook")
        })
        .await;
    assert!(world.one("fakemachines", &worker)["metadata"]["deletionTimestamp"].is_null());
    world.script.lock().holds_deletion = true;
    world.patch("Machine", &worker, remove(terminate)).await;
    world
        .until(30, "infra", |it| {
            shows(it, "WaitingForInfrastructureDeletion")
        })
        .await;
    world.script.lock().holds_deletion = false;
    world
        .until(60, "gone", |it| it.one("machines", &worker).is_null())
        .await;
    assert!(
        world.workloads.all()[0].by_name(&worker).is_empty(),
        "its Node went, too"
    );
    assert!(world.one("kubeadmconfigs", &worker).is_null());
    world
        .until(300, "replaced", |it| it.in_phase("Running") == 2)
        .await;
}

#[tokio::test(start_paused = true)]
async fn s_08_an_infra_machine_deleted_directly_is_reported_and_not_made_again() {
    let world = World::up(1).await;
    let worker = name(&world.workers()[0]);
    world.delete("FakeMachine", &worker).await;
    world
        .until(60, "reported", |it| {
            condition(&it.one("machines", &worker), "InfrastructureReady") == "False/ObjectDeleted"
        })
        .await;
    world.pass(300).await;
    assert!(world.one("fakemachines", &worker).is_null());
    assert_eq!(world.machines().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn s_10_delayed_and_withheld_bootstrap_data() {
    let world = World::with(1.0, BootstrapData::Never);
    world.apply_cluster(0).await;
    world.pass(300).await;
    assert_eq!(world.in_phase("Pending"), 1);
    let config = &world.all("kubeadmconfigs")[0];
    assert_eq!(condition(config, "DataSecretAvailable"), "False/Delayed");
    world
        .core
        .set_bootstrap(BootstrapData::After(Duration::from_secs(400)));
    world.pass(60).await;
    assert_eq!(world.in_phase("Pending"), 1);
    world
        .until(600, "runs", |it| it.in_phase("Running") == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn s_10_secrets_have_the_type_label_owner_and_keys_of_the_contract() {
    let world = World::up(0).await;
    let machine = name(&world.machines()[0]);
    let secret = world.one("secrets", &machine);
    assert_eq!(secret["type"], "cluster.x-k8s.io/secret");
    assert_eq!(
        secret["metadata"]["labels"]["cluster.x-k8s.io/cluster-name"],
        "c"
    );
    assert_eq!(owners(&secret), [("KubeadmConfig".to_owned(), true)]);
    let keys: Vec<_> = secret["data"].as_object().expect("data").keys().collect();
    assert_eq!(keys, ["format", "value"]);
    for purpose in ["ca", "etcd", "proxy", "sa", "kubeconfig"] {
        let secret = world.one("secrets", &format!("c-{purpose}"));
        assert_eq!(secret["type"], "cluster.x-k8s.io/secret", "{purpose}");
        assert_eq!(
            owners(&secret),
            [("KubeadmControlPlane".to_owned(), true)],
            "{purpose}"
        );
    }
}

fn health_check(remediation: &Value) -> Value {
    json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineHealthCheck",
    "metadata": {"name": "check"}, "spec": {
        "clusterName": "c", "selector": {"matchLabels": {"pool": "a"}},
        "checks": {"unhealthyNodeConditions": [
            {"type": "Ready", "status": "Unknown", "timeoutSeconds": 300}]},
        "remediation": remediation,
    }})
}

#[tokio::test(start_paused = true)]
async fn rm_01_a_lost_machine_is_replaced_by_its_owner() {
    let world = World::up(2).await;
    world
        .create(health_check(
            &json!({"triggerIf": {"unhealthyLessThanOrEqualTo": "50%"}}),
        ))
        .await;
    world.pass(30).await;
    let victim = name(&world.workers()[0]);
    world.destroy(&victim);
    world.pass(200).await;
    assert!(
        !world.one("machines", &victim).is_null(),
        "not before its time"
    );
    world
        .until(300, "it goes", |it| it.one("machines", &victim).is_null())
        .await;
    world
        .until(600, "3 run", |it| it.in_phase("Running") == 3)
        .await;
}

#[tokio::test(start_paused = true)]
async fn s_11_a_machine_that_never_becomes_a_node_times_out() {
    let world = World::up(1).await;
    world
        .create(health_check(
            &json!({"triggerIf": {"unhealthyInRange": "[0-1]"}}),
        ))
        .await;
    world.script.lock().never_boots = true;
    world
        .patch("MachineDeployment", "md", json!({"spec": {"replicas": 2}}))
        .await;
    world
        .until(60, "provisioned", |it| it.in_phase("Provisioned") == 1)
        .await;
    let stuck = |it: &World| {
        it.workers()
            .into_iter()
            .find(|it| it["status"]["nodeRef"].is_null())
    };
    let first = name(&stuck(&world).expect("one"));
    world.pass(500).await;
    assert_eq!(stuck(&world).map(|it| name(&it)), Some(first.clone()));
    world.script.lock().never_boots = false;
    world
        .until(300, "replaced", |it| it.one("machines", &first).is_null())
        .await;
    world
        .until(300, "3 run", |it| it.in_phase("Running") == 3)
        .await;
}

#[tokio::test(start_paused = true)]
async fn rm_02_external_remediation_gets_one_request_that_goes_when_the_machine_is_well() {
    let world = World::up(1).await;
    world
        .create(
            json!({"apiVersion": format!("{INFRA}/v1alpha1"), "kind": "FakeFixerTemplate",
            "metadata": {"name": "fix"}, "spec": {"template": {"spec": {"how": "reboot"}}}}),
        )
        .await;
    let template = json!({"apiVersion": format!("{INFRA}/v1alpha1"), "kind": "FakeFixerTemplate", "name": "fix"});
    world
        .create(health_check(&json!({"templateRef": template})))
        .await;
    let worker = name(&world.workers()[0]);
    let endpoint = world.workloads.all()[0].endpoint.clone();
    world.workloads.set_ready(&endpoint, &worker, false);
    world
        .until(400, "asked", |it| !it.one("fakefixers", &worker).is_null())
        .await;
    let request = world.one("fakefixers", &worker);
    assert_eq!(owners(&request), [("Machine".to_owned(), false)]);
    assert_eq!(request["spec"]["how"], "reboot");
    let machine = world.one("machines", &worker);
    assert_eq!(
        condition(&machine, "ExternallyRemediated"),
        "False/WaitingForRemediation"
    );
    assert_eq!(condition(&machine, "OwnerRemediated"), "/");
    world.workloads.set_ready(&endpoint, &worker, true);
    world
        .until(60, "withdrawn", |it| {
            it.one("fakefixers", &worker).is_null()
        })
        .await;
    assert_eq!(
        condition(&world.one("machines", &worker), "HealthCheckSucceeded"),
        "True/Succeeded"
    );
}

#[tokio::test(start_paused = true)]
async fn the_speed_divides_cores_own_delays() {
    let world = World::with(100.0, BootstrapData::After(Duration::from_secs(1000)));
    world.apply_cluster(0).await;
    world
        .until(60, "data", |it| {
            it.in_phase("Pending") == 0 && it.machines().len() == 1
        })
        .await;
}
