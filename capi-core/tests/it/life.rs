//! The straight way of a machine and a cluster, and what the contract asks beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capi_contract::{Hook, HookError, Moment, Occasion, Verdict, Waiting, async_trait};
use serde_json::{Value, json};

use crate::world::{World, condition, is_provisioned, seconds};

#[tokio::test(start_paused = true)]
async fn im_21_a_machine_of_a_slow_backend_comes_and_goes() {
    let world = World::with_machine(Duration::from_secs(20)).await;
    world.until_provisioned("m").await;
    let machine = world.machine("m").unwrap();
    let provider_id = machine["spec"]["providerID"].as_str().unwrap();
    assert!(provider_id.starts_with("farm://"), "{provider_id}");
    assert_eq!(condition(&machine, "Ready")["status"], "True");
    assert_eq!(condition(&machine, "VMProvisioned")["status"], "True");
    assert_eq!(machine["status"]["addresses"][0]["address"], "10.0.0.101");
    let finalizer = "farmmachine.infrastructure.cluster.x-k8s.io";
    assert_eq!(machine["metadata"]["finalizers"], json!([finalizer]));
    assert_eq!(world.farm.vms()[&101].data, b"#cloud-config\n");

    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_gets_its_owner_token_and_is_provisioned() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    seconds(1).await;
    let cluster = world.cluster().unwrap();
    assert!(is_provisioned(&cluster), "{cluster:#?}");
    let token = cluster["metadata"]["annotations"]["capi-rs.dev/owner"].as_str();
    assert_eq!(token.unwrap().len(), 32);
    assert_eq!(condition(&cluster, "Ready")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn im_12_a_machine_that_core_has_not_adopted_is_not_touched() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    // An owner that exists, so that owner collection leaves the machine alone.
    let owner = world
        .create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shadow"}}))
        .await;
    world
        .create(json!({
            "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "FarmMachine",
            "metadata": {"name": "m", "labels": {"cluster.x-k8s.io/cluster-name": "c"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "shadow",
                    "uid": owner["metadata"]["uid"]}]},
            "spec": {},
        }))
        .await;
    let before = world.machine("m");
    seconds(60).await;
    assert_eq!(world.machine("m"), before);
    assert_eq!(world.farm.mutations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn ex_01_and_ex_02_an_externally_managed_cluster_stays_byte_identical_and_its_machines_work()
{
    let mut world = World::new(Duration::ZERO).await;
    let managed = json!({"metadata": {"annotations": {"cluster.x-k8s.io/managed-by": ""}}});
    world.patch("FarmCluster", "c", managed).await;
    let endpoint = json!({"spec": {"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}}});
    world.patch("Cluster", "c", endpoint).await;
    let before = world.cluster();
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    assert_eq!(world.cluster(), before);
}

#[tokio::test(start_paused = true)]
async fn pa_02_and_pa_03_a_paused_machine_gets_no_call_also_while_it_is_deleted() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    world
        .patch("Cluster", "c", json!({"spec": {"paused": true}}))
        .await;
    world.create_machine("m", json!({})).await;
    seconds(30).await;
    let machine = world.machine("m").unwrap();
    let paused = condition(&machine, "Paused");
    assert_eq!(paused["status"], "True");
    assert_eq!(paused["message"], "Cluster c has spec.paused");
    assert_eq!(world.farm.mutations(), Vec::<String>::new());

    world
        .patch("Cluster", "c", json!({"spec": {"paused": false}}))
        .await;
    world.until_provisioned("m").await;
    assert_eq!(
        condition(&world.machine("m").unwrap(), "Paused")["status"],
        "False"
    );

    let pause = json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": "false"}}});
    world.patch("FarmMachine", "m", pause).await;
    world.delete("FarmMachine", "m").await;
    seconds(60).await;
    assert_eq!(world.farm.vms().len(), 1);
    let resume = json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": null}}});
    world.patch("FarmMachine", "m", resume).await;
    world.until_gone("m").await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn im_11_each_gate_is_opened_by_its_own_event() {
    let mut world = World::new(Duration::ZERO).await;
    let cluster = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": "c"}});
    world
        .patch_status(
            &cluster,
            json!({"initialization": {"infrastructureProvisioned": null}}),
        )
        .await;
    world.start();
    world.create_machine("m", json!({})).await;
    let no_data = json!({"spec": {"bootstrap": {"dataSecretName": null, "configRef":
        {"apiGroup": "bootstrap.cluster.x-k8s.io", "kind": "KubeadmConfig", "name": "m"}}}});
    world.patch("Machine", "m", no_data).await;
    world
        .until_ready_says("m", "WaitingForClusterInfrastructureReady")
        .await;
    world
        .patch_status(
            &cluster,
            json!({"initialization": {"infrastructureProvisioned": true}}),
        )
        .await;
    world.until_ready_says("m", "WaitingForBootstrapData").await;
    let data = json!({"spec": {"bootstrap": {"dataSecretName": "m-bootstrap"}}});
    world.patch("Machine", "m", data).await;
    world.until_provisioned("m").await;
}

#[tokio::test(start_paused = true)]
async fn ic_14_a_cluster_waits_for_its_machines() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    world.delete("FarmCluster", "c").await;
    seconds(30).await;
    let cluster = world.cluster().unwrap();
    let deleting = condition(&cluster, "Deleting");
    assert_eq!(deleting["status"], "True");
    assert_eq!(
        deleting["message"],
        "waiting until these machines are gone: m"
    );
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    seconds(1).await;
    assert_eq!(world.cluster(), None);
}

#[tokio::test(start_paused = true)]
async fn r7_and_im_20_a_teardown_needs_neither_machine_nor_cluster_nor_bootstrap_data() {
    let world = World::with_machine(Duration::from_secs(5)).await;
    world.until_provisioned("m").await;
    world.delete("Secret", "m-bootstrap").await;
    world.delete("Machine", "m").await;
    world
        .patch(
            "FarmCluster",
            "c",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    world.delete("FarmCluster", "c").await;
    world.delete("Cluster", "c").await;
    // Owner collection may have asked for the deletion already.
    if world
        .machine("m")
        .is_some_and(|m| m["metadata"]["deletionTimestamp"].is_null())
    {
        world.delete("FarmMachine", "m").await;
    }
    world.until_gone("m").await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn r12_status_can_be_thrown_away_and_comes_back() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    seconds(10).await;
    let strip = |value: Option<Value>| {
        let mut value = value.unwrap()["status"].clone();
        for condition in value["conditions"].as_array_mut().unwrap() {
            condition
                .as_object_mut()
                .unwrap()
                .remove("lastTransitionTime");
        }
        value
    };
    let before = strip(world.machine("m"));
    let machine = world.machine("m").unwrap();
    world
        .patch_status(
            &machine,
            json!({"conditions": null, "initialization": null, "addresses": null}),
        )
        .await;
    seconds(1).await;
    assert_eq!(strip(world.machine("m")), before);
    assert_eq!(world.farm.mutations().len(), 3);
}

struct Backup(Arc<AtomicBool>);

#[async_trait]
impl Hook for Backup {
    fn name(&self) -> &str {
        "backup"
    }

    async fn on(&self, occasion: &Occasion) -> Result<Verdict, HookError> {
        let done = self.0.load(Ordering::SeqCst);
        if occasion.moment == Moment::BeforeTeardown && !done {
            let waiting = Waiting::new("BackupRunning", "backup runs", Duration::from_secs(5));
            return Ok(Verdict::Hold(waiting));
        }
        Ok(Verdict::Proceed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_holds_a_teardown_until_a_backup_is_done() {
    let mut world = World::new(Duration::ZERO).await;
    let done = Arc::new(AtomicBool::new(false));
    let provider = world.provider().hook(Backup(Arc::clone(&done)));
    world.run(provider, world.server.client("engine"));
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    world.delete("FarmMachine", "m").await;
    seconds(60).await;
    let machine = world.machine("m").unwrap();
    let deleting = condition(&machine, "Deleting");
    assert_eq!(deleting["reason"], "BackupRunning");
    assert_eq!(deleting["message"], "hook backup holds: backup runs");
    assert_eq!(world.farm.vms().len(), 1);
    done.store(true, Ordering::SeqCst);
    world.until_gone("m").await;
}
