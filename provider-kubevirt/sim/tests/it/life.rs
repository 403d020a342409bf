//! A VM comes, runs and goes.

use serde_json::json;

use crate::world::{IDLE, World, builder, condition, machine, secret};

#[tokio::test(start_paused = true)]
async fn a_machine_runs_once_its_secret_is_there_and_goes_when_it_is_deleted() {
    let world = World::start(builder()).await;
    world
        .create("VirtualMachine", machine("a"))
        .await
        .expect("is let in");
    world.status("a", "Starting").await;
    world.settle().await;
    let vmi = world.vmi("a").expect("an instance");
    assert_eq!(
        vmi["status"]["phase"], "Scheduling",
        "its pod waits for the Secret"
    );
    world
        .create("Secret", secret("a", IDLE))
        .await
        .expect("is created");
    world.status("a", "Running").await;
    world.settle().await;

    let (vm, vmi) = (
        world.vm("a").expect("a VM"),
        world.vmi("a").expect("an instance"),
    );
    assert_eq!(vm["status"]["ready"], true);
    assert_eq!(condition(&vm, "AgentConnected"), Some(("True", "")));
    assert_eq!(condition(&vmi, "Ready"), Some(("True", "")));
    assert_eq!(vmi["status"]["guestOSInfo"]["id"], "ubuntu");
    let first = &vmi["status"]["interfaces"][0];
    assert_eq!(first["name"], "default");
    assert_eq!(first["ipAddress"], "10.244.0.10");
    assert_eq!(vmi["metadata"]["labels"]["kubevirt.io/nodeName"], "node-1");
    let uuid = &vm["spec"]["template"]["spec"]["domain"]["firmware"]["uuid"];
    assert!(uuid.is_string(), "the webhook gave it one");
    assert_eq!(&vmi["spec"]["domain"]["firmware"]["uuid"], uuid);

    world.delete("VirtualMachine", "a").await;
    world
        .until("gone", |world| world.vm("a").is_none().then_some(()))
        .await;
    assert_eq!(world.vmi("a"), None, "the instance goes first");
    assert_eq!(world.platform.vms_left(), Vec::<String>::new());
    assert_eq!(
        world.platform.secrets_left(),
        ["default/a-seed"],
        "nobody deleted it"
    );
    assert_eq!(world.platform.births().len(), 1);
    assert_eq!(world.platform.strangers_touched(), []);
}

#[tokio::test(start_paused = true)]
async fn what_kubevirt_refuses_is_refused_at_the_door() {
    let world = World::start(builder()).await;
    let mut bad = machine("a");
    bad["spec"]["running"] = json!(true);
    let refused = world
        .create("VirtualMachine", bad)
        .await
        .expect_err("is refused");
    assert!(
        refused.contains("virtualmachine-validator.kubevirt.io")
            && refused.contains("mutually exclusive"),
        "{refused}"
    );
}
