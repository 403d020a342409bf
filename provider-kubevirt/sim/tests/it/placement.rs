//! Where instances run, and how they leave a node.

use serde_json::{Value, json};

use crate::world::{IDLE, World, builder, condition, machine, secret};

/// A machine that may migrate, with this eviction strategy.
fn movable(name: &str, strategy: &str) -> Value {
    let mut machine = machine(name);
    let spec = &mut machine["spec"]["template"]["spec"];
    spec["evictionStrategy"] = json!(strategy);
    spec["domain"]["devices"]["interfaces"] = json!([{"name": "default", "masquerade": {}}]);
    machine
}

async fn run(world: &World, machine: Value) {
    let name = machine["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    world
        .create("Secret", secret(&name, IDLE))
        .await
        .expect("is created");
    world
        .create("VirtualMachine", machine)
        .await
        .expect("is let in");
    world.status(&name, "Running").await;
    world.settle().await;
}

fn node(world: &World, name: &str) -> Option<String> {
    world.platform.vm("default", name)?.node
}

#[tokio::test(start_paused = true)]
async fn a_zone_is_kept_and_no_room_is_said() {
    let world = World::start(builder()).await;
    let affinity = |zone: &str| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}}})
    };
    let mut machine = machine("a");
    machine["spec"]["template"]["spec"]["affinity"] = affinity("zone-3");
    run(&world, machine.clone()).await;
    assert_eq!(node(&world, "a").as_deref(), Some("node-3"));

    machine["metadata"]["name"] = json!("b");
    machine["spec"]["template"]["spec"]["affinity"] = affinity("zone-9");
    world
        .create("VirtualMachine", machine)
        .await
        .expect("is let in");
    world.status("b", "ErrorUnschedulable").await;
    let vmi = world.vmi("b").expect("an instance");
    assert_eq!(
        condition(&vmi, "PodScheduled"),
        Some(("False", "Unschedulable"))
    );
    let hand = world.platform.hand();
    let key = "topology.kubernetes.io/zone";
    hand.label_node("node-1", key, Some("zone-9"))
        .await
        .expect("is patched");
    world.status("b", "Running").await;
    assert_eq!(node(&world, "b").as_deref(), Some("node-1"));
}

#[tokio::test(start_paused = true)]
async fn a_drain_migrates_what_may_migrate() {
    let world = World::start(builder()).await;
    run(&world, movable("a", "LiveMigrate")).await;
    let before = world.vmi("a").expect("an instance");
    assert_eq!(condition(&before, "LiveMigratable"), Some(("True", "")));
    assert!(
        world
            .platform
            .hand()
            .drain("node-1")
            .await
            .expect("is drained")
    );
    let moved = |world: &World| (node(world, "a")? != "node-1").then_some(());
    world.until("moved", moved).await;
    world.settle().await;
    let after = world.vmi("a").expect("an instance");
    assert_eq!(
        after["metadata"]["uid"], before["metadata"]["uid"],
        "it is the same one"
    );
    assert_eq!(after["status"]["migrationState"]["completed"], true);
    assert_eq!(after["status"]["migrationState"]["sourceNode"], "node-1");
    assert!(after["status"].get("evacuationNodeName").is_none());
    assert_ne!(
        after["status"]["interfaces"][0]["ipAddress"],
        before["status"]["interfaces"][0]["ipAddress"],
        "it is in another pod"
    );
    let migrations = world
        .server
        .objects("virtualmachineinstancemigrations.kubevirt.io");
    assert_eq!(migrations[0]["status"]["phase"], "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn an_external_eviction_waits_for_somebody_to_act() {
    let world = World::start(builder()).await;
    run(&world, movable("a", "External")).await;
    let instance = world.platform.vm("default", "a").expect("a VM").instance;
    world
        .platform
        .hand()
        .drain("node-1")
        .await
        .expect("is drained");
    world.settle().await;
    let vmi = world.vmi("a").expect("an instance");
    assert_eq!(vmi["status"]["evacuationNodeName"], "node-1");
    assert_eq!(
        condition(&vmi, "EvictionRequested"),
        Some(("True", "EvictionRequested"))
    );
    assert_eq!(node(&world, "a").as_deref(), Some("node-1"), "nobody did");

    // What somebody may do: migrate it by hand.
    let migration =
        json!({"metadata": {"name": "m", "namespace": "default"}, "spec": {"vmiName": "a"}});
    world.platform.faults().fail_migrations(1);
    world
        .create("VirtualMachineInstanceMigration", migration.clone())
        .await
        .expect("is let in");
    let phase = |world: &World, name: &str| {
        let resource = "virtualmachineinstancemigrations.kubevirt.io";
        Some(
            world.get(resource, name)?["status"]["phase"]
                .as_str()?
                .to_owned(),
        )
    };
    let failed = |world: &World| (phase(world, "m")? == "Failed").then_some(());
    world.until("failed", failed).await;
    assert_eq!(node(&world, "a").as_deref(), Some("node-1"));
    let mut second = migration;
    second["metadata"]["name"] = json!("m2");
    world
        .create("VirtualMachineInstanceMigration", second)
        .await
        .expect("is let in");
    world
        .until("moved", |world| {
            (node(world, "a")? != "node-1").then_some(())
        })
        .await;
    assert_eq!(
        world.platform.vm("default", "a").expect("a VM").instance,
        instance
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_migrate_refuses_or_is_shut_down() {
    let world = World::start(builder()).await;
    let mut stays = machine("stays");
    stays["spec"]["template"]["spec"]["evictionStrategy"] = json!("LiveMigrate");
    run(&world, stays).await;
    let node_of = node(&world, "stays").expect("a node");
    world
        .platform
        .hand()
        .drain(&node_of)
        .await
        .expect("is drained");
    world.settle().await;
    assert_eq!(
        node(&world, "stays"),
        Some(node_of.clone()),
        "a bridge cannot move"
    );
    let migration =
        json!({"metadata": {"name": "m", "namespace": "default"}, "spec": {"vmiName": "stays"}});
    let refused = world
        .create("VirtualMachineInstanceMigration", migration)
        .await;
    let refused = refused.expect_err("is refused");
    assert!(
        refused.contains("Cannot migrate VMI, Reason: InterfaceNotLiveMigratable"),
        "{refused}"
    );
    world
        .platform
        .hand()
        .cordon(&node_of, false)
        .await
        .expect("is patched");

    run(&world, movable("goes", "None")).await;
    let node_of = node(&world, "goes").expect("a node");
    let first = world.platform.vm("default", "goes").expect("a VM").instance;
    world
        .platform
        .hand()
        .drain(&node_of)
        .await
        .expect("is drained");
    let moved = |world: &World| {
        let vm = world.platform.vm("default", "goes")?;
        (vm.instance != first && vm.status == "Running").then_some(vm.node)
    };
    assert_ne!(world.until("moved", moved).await, Some(node_of));
}

#[tokio::test(start_paused = true)]
async fn a_node_without_power_holds_its_instances_until_it_is_back() {
    let world = World::start(builder()).await;
    run(&world, machine("a")).await;
    let first = world.platform.vm("default", "a").expect("a VM").instance;
    let hand = world.platform.hand();
    hand.power_off_node("node-1").await.expect("is off");
    world.settle().await;
    let vmi = world.vmi("a").expect("an instance");
    assert_eq!(vmi["status"]["phase"], "Running", "nobody says otherwise");
    assert_eq!(condition(&vmi, "Ready"), Some(("False", "NodeNotReady")));
    hand.delete_vmi("default", "a").await.expect("is asked");
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    assert!(world.vmi("a").is_some(), "its finalizer waits for the node");
    hand.power_on_node("node-1").await.expect("is on");
    let again = |world: &World| {
        let vm = world.platform.vm("default", "a")?;
        (vm.instance != first && vm.status == "Running").then_some(())
    };
    world.until("again", again).await;
}
