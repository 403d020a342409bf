//! Equal seeds and equal requests give equal worlds.

use kubevirt_sim::{Delays, Rates};

use crate::world::{IDLE, World, builder, machine, secret};

/// The requests of one story.
async fn story(seed: u64) -> Vec<String> {
    let rough = builder()
        .seed(seed)
        .chaos(Rates::rough())
        .delays(Delays::realistic());
    let world = World::start(rough).await;
    for name in ["a", "b", "c"] {
        world
            .create("Secret", secret(name, IDLE))
            .await
            .expect("is created");
        world
            .create("VirtualMachine", machine(name))
            .await
            .expect("is let in");
    }
    for name in ["a", "b", "c"] {
        world.status(name, "Running").await;
    }
    world
        .platform
        .hand()
        .drain("node-1")
        .await
        .expect("is drained");
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    let records = world.server.audit().records();
    let uids = world.server.objects("virtualmachines.kubevirt.io");
    let uids = uids
        .iter()
        .map(|vm| vm["spec"]["template"]["spec"]["domain"]["firmware"].to_string());
    let lines = records.iter().map(|record| format!("{record:?}"));
    lines.chain(uids).collect()
}

#[tokio::test(start_paused = true)]
async fn a_seed_decides_everything() {
    let (one, other) = (story(3).await, story(3).await);
    assert!(one.len() > 50, "{}", one.len());
    assert_eq!(one, other);
    assert_ne!(one, story(4).await);
}
