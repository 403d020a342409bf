//! A backend that tells of changes: sessions that wake objects.

use std::time::Duration;

use capi_contract::Class;
use capi_core::Options;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::farm::FarmError;
use crate::world::{ENGINE, World, condition, seconds};

/// A world whose settled machines are looked at once an hour, so that what happens sooner was woken.
async fn settled() -> World {
    let mut world = World::new(Duration::ZERO).await;
    let provider = world.provider().options(Options {
        recheck: Duration::from_secs(3_600),
        ..world.options()
    });
    world.run(provider, world.server.client(ENGINE));
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    seconds(30).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_backend_tells_of_is_seen_at_once() {
    let world = settled().await;
    let id = *world.farm.vms().keys().next().unwrap();
    world.farm.destroy_by_hand(id);
    sleep(Duration::from_secs(60)).await;
    let is_lost = || condition(&world.machine("m").unwrap(), "VMProvisioned")["reason"] == "Lost";
    assert!(!is_lost());
    let told = Instant::now();
    world.farm.tell("m");
    while !is_lost() {
        assert!(
            told.elapsed() < Duration::from_millis(100),
            "still not seen"
        );
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn r13_a_wake_looks_at_the_thing_and_asks_nothing_of_kubernetes() {
    let world = settled().await;
    let (requests, calls) = (world.requests().len(), world.farm.calls().len());
    world.farm.tell("m");
    world.farm.tell("nobody");
    seconds(10).await;
    let calls = world.farm.calls().split_off(calls);
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].starts_with("look"), "{calls:?}");
    assert_eq!(world.requests().len(), requests);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_followed_once_and_as_long_as_it_lives() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    for name in ["a", "b", "c"] {
        world.create_machine(name, json!({})).await;
        world.until_provisioned(name).await;
    }
    assert_eq!(world.farm.listeners(), (1, 1));
    world.stop();
    seconds(1).await;
    assert_eq!(world.farm.listeners(), (0, 1));
    world.start();
    seconds(10).await;
    assert_eq!(world.farm.listeners(), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn id_04_a_session_that_is_replaced_is_followed_no_longer() {
    let mut world = World::new(Duration::ZERO).await;
    world
        .patch("FarmCluster", "c", json!({"spec": {"secret": "login"}}))
        .await;
    world
        .create(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
            "stringData": {"token": "right"},
        }))
        .await;
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    // The cluster's own, which needs no credentials, and the machine's.
    let (now, before) = world.farm.listeners();
    assert_eq!(now, 2);
    world.farm.rotate("new");
    for call in ["list", "look", "list", "look"] {
        world.farm.refuse(
            call,
            FarmError::new(Class::Credentials, "the token is refused"),
        );
    }
    world
        .patch_secret("login", json!({"stringData": {"token": "new"}}))
        .await;
    seconds(120).await;
    assert_eq!(world.farm.listeners(), (2, before + 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_any_more_is_ended() {
    let world = settled().await;
    assert_eq!(world.farm.listeners().0, 1);
    world
        .patch("Cluster", "c", json!({"spec": {"paused": true}}))
        .await;
    seconds(20 * 60).await;
    assert_eq!(world.farm.listeners().0, 0);
    world
        .patch("Cluster", "c", json!({"spec": {"paused": false}}))
        .await;
    seconds(10).await;
    assert_eq!(world.farm.listeners().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_panics_is_followed_again_and_harms_nobody() {
    let world = settled().await;
    world.farm.poison();
    world.farm.tell("m");
    seconds(5).await;
    assert_eq!(world.farm.listeners(), (1, 2));
    let calls = world.farm.calls().len();
    world.farm.tell("m");
    seconds(1).await;
    assert!(world.farm.calls().len() > calls);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_wakes_does_not_starve_other_machines() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    let calls = world.farm.calls().len();
    let farm = world.farm.clone();
    let storm = tokio::spawn(async move {
        loop {
            farm.tell("m");
            sleep(Duration::from_millis(1)).await;
        }
    });
    world.create_machine("other", json!({})).await;
    let begun = Instant::now();
    world.until_provisioned("other").await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    seconds(60).await;
    storm.abort();
    let looks = world.farm.calls().split_off(calls);
    let count = looks.iter().filter(|call| call.ends_with(" 101")).count();
    // 20 at once, then two a second.
    assert!((100..=180).contains(&count), "{count}");
}
