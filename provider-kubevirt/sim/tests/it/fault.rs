//! What goes wrong, and how it shows.

use std::time::Duration;

use kubevirt_sim::Rates;

use crate::world::{IDLE, World, builder, condition, machine, secret};

async fn make(world: &World, name: &str) {
    world
        .create("Secret", secret(name, IDLE))
        .await
        .expect("is created");
    world
        .create("VirtualMachine", machine(name))
        .await
        .expect("is let in");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_tried_again() {
    let world = World::start(builder()).await;
    world.platform.faults().lose_image("example.org/ubuntu:v1");
    make(&world, "a").await;
    world.status("a", "ErrImagePull").await;
    world.status("a", "ImagePullBackOff").await;
    let vm = world.vm("a").expect("a VM");
    assert_eq!(
        condition(&vm, "Synchronized"),
        Some(("False", "ImagePullBackOff"))
    );
    world
        .platform
        .faults()
        .restore_image("example.org/ubuntu:v1");
    world.status("a", "Running").await;
    assert_eq!(
        condition(&world.vm("a").expect("a VM"), "Synchronized"),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn starts_that_fail_are_tried_ever_less_often() {
    let world = World::start(builder()).await;
    world.platform.faults().fail_starts(2);
    make(&world, "a").await;
    world.status("a", "CrashLoopBackOff").await;
    let begun = tokio::time::Instant::now();
    let failure = world.vm("a").expect("a VM")["status"]["startFailure"].clone();
    assert_eq!(failure["consecutiveFailCount"], 1);
    world.status("a", "Running").await;
    let took = begun.elapsed();
    // 10 s after the first failure, 40 s after the second.
    assert!(
        (Duration::from_secs(50)..Duration::from_secs(52)).contains(&took),
        "{took:?}"
    );
    assert!(world.vm("a").expect("a VM")["status"]["startFailure"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_not_connected() {
    let world = World::start(builder()).await;
    make(&world, "a").await;
    world.status("a", "Running").await;
    world.settle().await;
    world.platform.faults().silence_agent("a", true);
    world.settle().await;
    assert_eq!(
        condition(&world.vmi("a").expect("an instance"), "AgentConnected"),
        None
    );
    world.platform.faults().silence_agent("a", false);
    world.settle().await;
    let vmi = world.vmi("a").expect("an instance");
    assert_eq!(condition(&vmi, "AgentConnected"), Some(("True", "")));
}

#[tokio::test(start_paused = true)]
async fn on_a_rough_day_all_machines_run_in_the_end() {
    let world = World::start(
        builder()
            .chaos(Rates::rough())
            .delays(kubevirt_sim::Delays::realistic()),
    )
    .await;
    let names: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
    for name in &names {
        make(&world, name).await;
    }
    for name in &names {
        world.status(name, "Running").await;
    }
    for name in &names {
        world.delete("VirtualMachine", name).await;
    }
    world
        .until("gone", |world| {
            world.platform.vms_left().is_empty().then_some(())
        })
        .await;
    assert_eq!(world.platform.twins(), []);
    assert_eq!(world.platform.births().len(), 20);
}
