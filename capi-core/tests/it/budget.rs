//! What a machine costs: writes, reads, time (R13, and the engine's budgets).

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::world::{World, seconds};

#[tokio::test(start_paused = true)]
async fn a_machine_of_a_task_backend_costs_few_writes_and_one_read() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let of_machine = |all: Vec<String>| -> Vec<String> {
        all.into_iter()
            .filter(|w| w.contains("farmmachines"))
            .collect()
    };
    let writes = of_machine(world.writes());
    // First visit, claim and clone, configure, start, provider id, status.
    assert_eq!(writes.len(), 6, "{writes:#?}");
    let reads: Vec<_> = world
        .requests()
        .into_iter()
        .filter(|r| r.verb == "get")
        .collect();
    assert_eq!(reads.len(), 1, "{reads:#?}");
    assert_eq!(reads[0].name, "m-bootstrap");
    assert_eq!(
        world.farm.mutations(),
        ["clone 101", "configure 101", "start 101"]
    );

    let before = world.writes().len();
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    let deletion = of_machine(world.writes().split_off(before));
    // Deleting, destroy, finalizer.
    assert_eq!(deletion.len(), 3, "{deletion:#?}");
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn r13_a_settled_machine_costs_no_request() {
    let world = World::with_machine(Duration::from_secs(3)).await;
    world.until_provisioned("m").await;
    seconds(30).await;
    let before = world.requests().len();
    let looks = world.farm.calls().len();
    seconds(600).await;
    let during = world.requests().split_off(before);
    assert!(during.is_empty(), "{during:#?}");
    let looks = world.farm.calls().split_off(looks);
    assert!(looks.len() >= 100, "looked {} times", looks.len());
    // One shared listing after another; the thing itself is looked at every ten minutes.
    let close = looks.iter().filter(|look| *look != "list 101").count();
    assert!(close <= 2, "{looks:#?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_listing_suffices_for_what_was_left_ready() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    // The platform counts from 101.
    let machines = [("a", 101), ("b", 102), ("c", 103), ("d", 104)];
    for (name, _) in machines {
        world.create_machine(name, json!({})).await;
        world.until_provisioned(name).await;
    }
    seconds(5).await;
    world.stop();
    // Nobody knows whether this one is as it was left.
    let machine = world.machine("d").unwrap();
    let nothing = json!({"conditions": null});
    world.patch_status(&machine, nothing).await;
    let before = world.farm.calls().len();
    world.start();
    seconds(1).await;
    let calls = world.farm.calls().split_off(before);
    for (name, id) in machines {
        let looks = calls.contains(&format!("look {id}"));
        assert_eq!(looks, name == "d", "{name}: {calls:#?}");
    }
    // What is destroyed by hand is missing in the listing, and looked at.
    world.farm.destroy_by_hand(101);
    world.until_ready_says("a", "Lost").await;
    // Each is looked at more closely sooner or later.
    let before = world.farm.calls().len();
    seconds(600).await;
    let calls = world.farm.calls().split_off(before);
    for id in [102, 103] {
        assert!(calls.contains(&format!("look {id}")), "{id}: {calls:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_delays_the_time_is_not_governed_by_polling() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    seconds(5).await;
    for n in 0..20 {
        world.create_machine(&format!("m{n}"), json!({})).await;
    }
    let begun = Instant::now();
    for n in 0..20 {
        world.until_provisioned(&format!("m{n}")).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn ipc_01_an_address_claim_costs_one_write_more() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    world.create_machine("m", json!({"pool": "p"})).await;
    world.until_ready_says("m", "WaitingForIPAddress").await;
    seconds(1).await;
    let claim = world
        .server
        .object("ipaddressclaims.ipam.cluster.x-k8s.io", "default", "m-net0")
        .unwrap();
    assert_eq!(claim["spec"]["poolRef"]["name"], "p");
    assert_eq!(claim["spec"]["clusterName"], "c");
    let owner = &claim["metadata"]["ownerReferences"][0];
    assert_eq!(owner["kind"], "FarmMachine");
    assert_eq!(owner["controller"], true);
    assert_eq!(owner["blockOwnerDeletion"], true);
    assert_eq!(world.farm.mutations(), Vec::<String>::new());

    world
        .create(json!({
            "apiVersion": "ipam.cluster.x-k8s.io/v1beta2", "kind": "IPAddress",
            "metadata": {"name": "m-net0"},
            "spec": {"address": "10.0.0.7", "prefix": 24, "claimRef": {"name": "m-net0"},
                "poolRef": {"apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterIPPool",
                    "name": "p"}},
        }))
        .await;
    world
        .patch_status(&claim, json!({"addressRef": {"name": "m-net0"}}))
        .await;
    world.until_provisioned("m").await;
    let claims: Vec<_> = world
        .writes()
        .into_iter()
        .filter(|w| w.contains("ipaddressclaims"))
        .collect();
    assert_eq!(claims.len(), 1, "{claims:#?}");
}
