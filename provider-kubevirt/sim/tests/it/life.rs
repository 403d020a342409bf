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
    assert_eq!(world.vmi("a"), None);
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

/// Waits until the instance is another one than before.
async fn another(world: &World, name: &str, old: &str) -> String {
    let look = |world: &World| {
        let vm = world.platform.vm("default", name)?;
        let new = vm.instance.filter(|uid| uid != old)?;
        (vm.status == "Running").then_some(new)
    };
    world.until("another instance", look).await
}

async fn running(world: &World, name: &str) -> String {
    world
        .create("Secret", secret(name, IDLE))
        .await
        .expect("is created");
    world
        .create("VirtualMachine", machine(name))
        .await
        .expect("is let in");
    world.status(name, "Running").await;
    let vm = world.platform.vm("default", name).expect("a VM");
    vm.instance.expect("an instance")
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_always_to_run_comes_back_with_another_address() {
    let world = World::start(builder()).await;
    let first = running(&world, "a").await;
    let address =
        world.vmi("a").expect("an instance")["status"]["interfaces"][0]["ipAddress"].clone();
    assert!(
        world
            .platform
            .hand()
            .delete_vmi("default", "a")
            .await
            .expect("is deleted")
    );
    let second = another(&world, "a", &first).await;
    let now = world.vmi("a").expect("an instance")["status"]["interfaces"][0]["ipAddress"].clone();
    assert_ne!(now, address, "pods do not keep their addresses");
    assert!(world.platform.hand().shut_down("default", "a"));
    let third = another(&world, "a", &second).await;
    assert!(
        world
            .platform
            .hand()
            .restart("default", "a")
            .await
            .expect("is asked")
    );
    another(&world, "a", &third).await;
    assert!(world.vm("a").expect("a VM")["status"]["stateChangeRequests"].is_null());
}

#[tokio::test(start_paused = true)]
async fn strategies_decide_what_an_end_means() {
    let world = World::start(builder()).await;
    for (name, strategy) in [("once", "Once"), ("rerun", "RerunOnFailure")] {
        world
            .create("Secret", secret(name, IDLE))
            .await
            .expect("is created");
        let mut machine = machine(name);
        machine["spec"]["runStrategy"] = json!(strategy);
        world
            .create("VirtualMachine", machine)
            .await
            .expect("is let in");
        world.status(name, "Running").await;
    }
    let uid = |name: &str| {
        world
            .platform
            .vm("default", name)
            .expect("a VM")
            .instance
            .expect("one")
    };
    let rerun = uid("rerun");
    world.platform.hand().crash("default", "rerun");
    another(&world, "rerun", &rerun).await;
    world.platform.hand().shut_down("default", "rerun");
    world.status("rerun", "Stopped").await;
    assert_eq!(
        world.vmi("rerun"),
        None,
        "a guest that ended well is not made again"
    );
    world.platform.hand().crash("default", "once");
    world.settle().await;
    let vmi = world.vmi("once").expect("it stays as it ended");
    assert_eq!(vmi["status"]["phase"], "Failed");
    assert_eq!(
        world.platform.vm("default", "once").expect("a VM").status,
        "Stopped"
    );
    world
        .platform
        .hand()
        .halt("default", "once")
        .await
        .expect("is patched");
    world
        .until("gone", |world| world.vmi("once").is_none().then_some(()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_takes_the_time_that_its_guest_needs() {
    let mut delays = kubevirt_sim::Delays::zero();
    delays.shutdown = std::time::Duration::from_secs(20);
    delays.pod_removal = std::time::Duration::from_secs(5);
    let world = World::start(builder().delays(delays).speed(2.0)).await;
    running(&world, "a").await;
    let begun = tokio::time::Instant::now();
    world.delete("VirtualMachine", "a").await;
    world.status("a", "Terminating").await;
    assert_eq!(
        world.vmi("a").expect("is there")["status"]["phase"],
        "Running"
    );
    world
        .until("gone", |world| world.vm("a").is_none().then_some(()))
        .await;
    assert_eq!(world.vmi("a"), None, "the instance goes first");
    let took = begun.elapsed().as_millis();
    assert!(
        (12_500..13_000).contains(&took),
        "{took} ms at twice the speed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_deleted_before_it_ran_goes_as_well() {
    let world = World::start(builder()).await;
    world
        .create("VirtualMachine", machine("a"))
        .await
        .expect("is let in");
    world.status("a", "Starting").await;
    world.delete("VirtualMachine", "a").await;
    world
        .until("gone", |world| world.vm("a").is_none().then_some(()))
        .await;
    assert_eq!(world.vmi("a"), None);
}
