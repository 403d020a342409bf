//! What belongs to others is seen to be touched.

use serde_json::json;

use crate::world::{World, builder, machine};

#[tokio::test(start_paused = true)]
async fn others_machines_are_not_to_be_touched_except_by_their_people() {
    let world = World::start(builder()).await;
    let hand = world.platform.hand();
    for name in ["database", "mail", "web"] {
        hand.stranger("default", name).await.expect("is created");
        world.status(name, "Running").await;
    }
    world
        .create("VirtualMachine", machine("ours"))
        .await
        .expect("is let in");
    world.settle().await;
    assert_eq!(
        world.platform.vms_left(),
        ["default/ours", "default/ours"],
        "VM and instance"
    );
    hand.halt("default", "mail").await.expect("is halted");
    hand.delete_vm("default", "web").await.expect("is deleted");
    world
        .until("gone", |world| world.vm("web").is_none().then_some(()))
        .await;
    world
        .patch(
            "VirtualMachine",
            "ours",
            json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await;
    world.settle().await;
    assert_eq!(world.platform.strangers_touched(), []);

    world
        .patch(
            "VirtualMachine",
            "database",
            json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await;
    world.delete("VirtualMachineInstance", "database").await;
    world.settle().await;
    let touched = world.platform.strangers_touched();
    let shown: Vec<_> = touched
        .iter()
        .map(|one| (one.kind.as_str(), one.name.as_str(), one.how))
        .collect();
    assert_eq!(
        shown,
        [
            ("VirtualMachine", "default/database", "changed"),
            ("VirtualMachineInstance", "default/database", "deleted"),
        ]
    );
}
