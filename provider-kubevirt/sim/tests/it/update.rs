//! Changes of a VM that runs, and instance types.

use serde_json::json;

use crate::world::{IDLE, World, builder, condition, machine, secret};

#[tokio::test(start_paused = true)]
async fn sockets_follow_at_once_and_cores_need_a_restart() {
    let world = World::start(builder()).await;
    world
        .create("Secret", secret("a", IDLE))
        .await
        .expect("is created");
    let mut machine = machine("a");
    machine["spec"]["template"]["spec"]["domain"]["cpu"] =
        json!({"cores": 2, "sockets": 1, "maxSockets": 4});
    world
        .create("VirtualMachine", machine)
        .await
        .expect("is let in");
    world.status("a", "Running").await;
    let cpu = |field: &str, value: u32| json!({"spec": {"template": {"spec": {"domain": {"cpu": {field: value}}}}}});
    world.patch("VirtualMachine", "a", cpu("sockets", 2)).await;
    world.settle().await;
    let vmi = world.vmi("a").expect("an instance");
    assert_eq!(vmi["status"]["currentCPUTopology"]["sockets"], 2);
    assert_eq!(
        condition(&world.vm("a").expect("a VM"), "RestartRequired"),
        None
    );

    world.patch("VirtualMachine", "a", cpu("cores", 4)).await;
    world.settle().await;
    let vm = world.vm("a").expect("a VM");
    assert_eq!(condition(&vm, "RestartRequired"), Some(("True", "")));
    assert_eq!(
        world.vmi("a").expect("an instance")["spec"]["domain"]["cpu"]["cores"],
        2
    );
    world
        .platform
        .hand()
        .restart("default", "a")
        .await
        .expect("is asked");
    let done = |world: &World| {
        let cores = world.vmi("a")?["spec"]["domain"]["cpu"]["cores"].clone();
        (cores == 4).then_some(())
    };
    world.until("restarted", done).await;
    world.status("a", "Running").await;
    assert_eq!(
        condition(&world.vm("a").expect("a VM"), "RestartRequired"),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn an_instance_type_is_waited_for_and_applied() {
    let world = World::start(builder()).await;
    world
        .create("Secret", secret("a", IDLE))
        .await
        .expect("is created");
    let mut machine = machine("a");
    machine["spec"]["instancetype"] =
        json!({"name": "small", "kind": "VirtualMachineInstancetype"});
    let domain = &mut machine["spec"]["template"]["spec"]["domain"];
    domain["cpu"] = json!(null);
    domain["memory"] = json!(null);
    world
        .create("VirtualMachine", machine)
        .await
        .expect("is let in");
    world.settle().await;
    let vm = world.vm("a").expect("a VM");
    assert_eq!(
        condition(&vm, "Failure"),
        Some(("True", "FailedFindInstancetype"))
    );
    let small = json!({"metadata": {"name": "small", "namespace": "default"},
        "spec": {"cpu": {"guest": 3}, "memory": {"guest": "6Gi"}}});
    world
        .create("VirtualMachineInstancetype", small)
        .await
        .expect("is created");
    world.status("a", "Running").await;
    let domain = world.vmi("a").expect("an instance")["spec"]["domain"].clone();
    assert_eq!(domain["cpu"]["sockets"], 3);
    assert_eq!(domain["memory"]["guest"], "6Gi");
    assert_eq!(condition(&world.vm("a").expect("a VM"), "Failure"), None);
}
