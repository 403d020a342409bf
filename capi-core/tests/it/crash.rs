//! Engines that die, and views that are old.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, seconds};

#[tokio::test(start_paused = true)]
async fn im_15_an_engine_killed_at_any_moment_is_succeeded_without_a_twin() {
    for cut_ms in (0..9_000).step_by(500) {
        let mut world = World::with_machine(Duration::from_secs(3)).await;
        tokio::time::sleep(Duration::from_millis(cut_ms)).await;
        world.stop();
        seconds(1).await;
        world.start();
        world.until_provisioned("m").await;
        let clones = world.farm.mutations();
        let clones = clones.iter().filter(|c| c.starts_with("clone")).count();
        assert_eq!(clones, 1, "killed after {cut_ms} ms");
        assert_eq!(world.farm.vms().len(), 1, "killed after {cut_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_cut_is_finished_by_the_next_engine() {
    for cut_ms in (0..5_000).step_by(500) {
        let mut world = World::with_machine(Duration::from_secs(2)).await;
        world.until_provisioned("m").await;
        world.delete("FarmMachine", "m").await;
        tokio::time::sleep(Duration::from_millis(cut_ms)).await;
        world.stop();
        world.start();
        world.until_gone("m").await;
        assert!(world.farm.vms().is_empty(), "killed after {cut_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_an_engine_with_an_old_view_changes_nothing() {
    let mut world = World::new(Duration::ZERO).await;
    let pause = |paused: bool| json!({"spec": {"paused": paused}});
    world.patch("Cluster", "c", pause(true)).await;
    world.create_machine("m", json!({})).await;
    let provider = world.provider();
    let client = world.server.client("late");
    let late = tokio::spawn(async move {
        provider.run(client, std::future::pending()).await.unwrap();
    });
    seconds(10).await;
    // From here on the late engine sees nothing, while another one does all the work.
    let hold = world.server.hold_watch("late", "");
    world.start();
    world.patch("Cluster", "c", pause(false)).await;
    world.until_provisioned("m").await;
    world.stop();
    // Now it sees that the pause has ended, and the machine as it was then.
    let writes = |world: &World| {
        let late = world.server.audit().writes("late");
        late.into_iter()
            .filter(capi_testkit::apiserver::AuditRecord::is_success)
            .count()
    };
    let before = writes(&world);
    hold.advance(1);
    seconds(60).await;
    let refused = world
        .server
        .audit()
        .writes("late")
        .into_iter()
        .filter(|r| r.code == 409);
    assert!(refused.count() > 0, "the late engine did not try");
    assert_eq!(writes(&world), before);
    assert_eq!(world.farm.mutations().len(), 3);
    late.abort();
}
