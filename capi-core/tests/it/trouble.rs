//! What goes wrong: lost machines, wrong ledgers, refused calls, bad input.

use std::time::Duration;

use capi_contract::{Class, Mark, ObjectName, Token};
use serde_json::json;
use tokio::time::Instant;

use crate::farm::FarmError;
use crate::world::{World, condition, is_provisioned, seconds};

const LEDGER: &str = "capi-rs.dev/ledger";

#[tokio::test(start_paused = true)]
async fn r9_a_vm_destroyed_by_hand_is_reported_within_10_seconds_and_never_made_again() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    seconds(61).await;
    world.farm.destroy_by_hand(101);
    let begun = Instant::now();
    world.until_ready_says("m", "Lost").await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    seconds(600).await;
    assert!(world.farm.vms().is_empty());
    let machine = world.machine("m").unwrap();
    assert!(is_provisioned(&machine), "provisioned never goes back");
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
}

#[tokio::test(start_paused = true)]
async fn r11_a_missing_ledger_is_recovered_from_the_mark() {
    let mut world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    world.stop();
    let strip = json!({"metadata": {"annotations": {LEDGER: null}}});
    world.patch("FarmMachine", "m", strip).await;
    world.start();
    seconds(30).await;
    let machine = world.machine("m").unwrap();
    assert!(machine["metadata"]["annotations"][LEDGER].is_string());
    assert_eq!(condition(&machine, "Ready")["status"], "True");
    assert_eq!(world.farm.mutations().len(), 3);
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn im_16_a_provider_id_without_ledger_and_vm_is_lost_and_not_created() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    world
        .create_machine("m", json!({"providerID": "farm://elsewhere"}))
        .await;
    world.until_ready_says("m", "Lost").await;
    seconds(300).await;
    assert_eq!(world.farm.mutations(), Vec::<String>::new());
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
}

#[tokio::test(start_paused = true)]
async fn a_ledger_copied_from_another_machine_is_ignored() {
    let mut world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let ledger = world.machine("m").unwrap()["metadata"]["annotations"][LEDGER].clone();
    world.stop();
    world.create_machine("twin", json!({})).await;
    let copy = json!({"metadata": {"annotations": {LEDGER: ledger}}});
    world.patch("FarmMachine", "twin", copy).await;
    world.start();
    world.until_provisioned("twin").await;
    assert_eq!(world.farm.vms().len(), 2);
    world.delete("FarmMachine", "twin").await;
    world.until_gone("twin").await;
    assert!(
        world.farm.vms().contains_key(&101),
        "the other's VM is untouched"
    );
}

#[tokio::test(start_paused = true)]
async fn r5_a_number_that_a_stranger_has_taken_is_given_up_for_another() {
    let mut world = World::new(Duration::ZERO).await;
    let stranger = Mark::made(Token::random(), ObjectName::new("default", "m")).to_string();
    world.farm.plant(101, &stranger);
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    assert_eq!(world.farm.vms()[&101].mark, stranger);
    assert!(world.farm.mutations().contains(&"clone 102".to_owned()));
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    assert_eq!(world.farm.vms().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_refused_as_elsewhere_is_given_up_for_another() {
    let mut world = World::new(Duration::from_secs(2)).await;
    world.farm.refuse(
        "clone",
        FarmError::new(Class::Elsewhere, "no space on node a"),
    );
    world.farm.refuse(
        "task",
        FarmError::new(Class::Elsewhere, "no space on node b"),
    );
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    let clones: Vec<_> = world
        .farm
        .mutations()
        .into_iter()
        .filter(|call| call.starts_with("clone"))
        .collect();
    assert_eq!(clones, ["clone 101", "clone 102", "clone 103"]);
    assert_eq!(world.farm.vms().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn r5_a_create_whose_answer_was_lost_is_waited_for_and_not_repeated() {
    let mut world = World::new(Duration::from_secs(20)).await;
    world.farm.lose_answer("clone");
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    assert_eq!(
        world.farm.mutations(),
        ["clone 101", "configure 101", "start 101"]
    );
}

#[tokio::test(start_paused = true)]
async fn r5_a_create_whose_answer_was_lost_holds_the_finalizer() {
    let mut world = World::new(Duration::from_secs(20)).await;
    world.farm.lose_answer("clone");
    world.start();
    world.create_machine("m", json!({})).await;
    while world.farm.mutations().is_empty() {
        seconds(1).await;
    }
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    seconds(120).await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_misconfigured_machine_says_so_at_once_and_heals() {
    let mut world = World::new(Duration::ZERO).await;
    let error = FarmError::new(
        Class::Misconfigured,
        "template 9000 does not exist; set spec.x",
    );
    world.farm.refuse("clone", error);
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_ready_says("m", "Misconfigured").await;
    let machine = world.machine("m").unwrap();
    let message = condition(&machine, "Ready")["message"].clone();
    assert_eq!(message, "template 9000 does not exist; set spec.x");
    world.until_provisioned("m").await;
    let events: Vec<_> = world.server.objects("events");
    let reasons: Vec<_> = events.iter().map(|e| e["reason"].clone()).collect();
    for reason in ["Misconfigured", "Clone", "Provisioned"] {
        assert!(reasons.contains(&json!(reason)), "{reasons:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_field_without_behaviour_keeps_the_machine_from_being_built() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    world.create_machine("m", json!({"gpu": "a100"})).await;
    world.until_ready_says("m", "UnsupportedField").await;
    assert_eq!(world.farm.mutations(), Vec::<String>::new());
    world
        .patch("FarmMachine", "m", json!({"spec": {"gpu": null}}))
        .await;
    world.until_provisioned("m").await;
}

#[tokio::test(start_paused = true)]
async fn id_04_credentials_are_read_again_only_after_a_refusal_and_heal_without_restart() {
    let mut world = World::new(Duration::ZERO).await;
    world
        .patch("FarmCluster", "c", json!({"spec": {"secret": "login"}}))
        .await;
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_ready_says("m", "CredentialsRefused").await;
    let machine = world.machine("m").unwrap();
    let message = condition(&machine, "Ready")["message"].clone();
    assert_eq!(
        message,
        "Secret default/login with the credentials does not exist; create it"
    );
    let reads = || {
        let all = world.requests();
        all.into_iter()
            .filter(|r| r.verb == "get" && r.name == "login")
            .count()
    };
    seconds(600).await;
    assert!(reads() <= 20, "{} reads in ten minutes", reads());
    world
        .create(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
            "stringData": {"token": "wrong"}}),
        )
        .await;
    seconds(130).await;
    let machine = world.machine("m").unwrap();
    let message = condition(&machine, "Ready")["message"].clone();
    assert_eq!(message, "Secret default/login: the token is refused");
    world
        .patch_secret("login", json!({"stringData": {"token": "right"}}))
        .await;
    world.until_provisioned("m").await;

    let before = reads();
    seconds(600).await;
    assert_eq!(reads(), before);
    world.farm.rotate("second");
    world
        .farm
        .refuse("list", FarmError::new(Class::Credentials, "401"));
    world
        .patch_secret("login", json!({"stringData": {"token": "second"}}))
        .await;
    seconds(120).await;
    assert_eq!(reads(), before + 1);
    assert_eq!(
        condition(&world.machine("m").unwrap(), "Ready")["status"],
        "True"
    );
}

#[tokio::test(start_paused = true)]
async fn im_13_malformed_bootstrap_data_names_the_secret_and_the_key() {
    let mut world = World::new(Duration::ZERO).await;
    world.create_machine("m", json!({})).await;
    world
        .patch_secret("m-bootstrap", json!({"data": {"value": null}}))
        .await;
    world.start();
    world.until_ready_says("m", "Misconfigured").await;
    let machine = world.machine("m").unwrap();
    let message = condition(&machine, "Ready")["message"].clone();
    assert_eq!(
        message,
        "the bootstrap Secret m-bootstrap has no data under the key value"
    );
    world
        .patch_secret("m-bootstrap", json!({"stringData": {"value": "x"}}))
        .await;
    world.until_provisioned("m").await;
    assert_eq!(world.farm.vms()[&101].data, b"x");
}

#[tokio::test(start_paused = true)]
async fn co_10_a_short_outage_is_not_shown_and_a_long_one_is_unknown() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let blip = || FarmError::new(Class::Transient, "connection refused");
    for _ in 0..3 {
        world.farm.refuse("list", blip());
        world.farm.refuse("look", blip());
    }
    let before = world.requests().len();
    seconds(40).await;
    assert_eq!(world.requests().len(), before);
    for _ in 0..9 {
        world.farm.refuse("list", blip());
        world.farm.refuse("look", blip());
    }
    world.until_ready_says("m", "BackendUnreachable").await;
    let machine = world.machine("m").unwrap();
    assert_eq!(condition(&machine, "Ready")["status"], "Unknown");
    assert_eq!(condition(&machine, "VMProvisioned")["status"], "True");
    world.until_ready_says("m", "Ready").await;
}

/// A short outage is no reason to give anything up, whatever was said before.
#[tokio::test(start_paused = true)]
async fn a_word_given_in_advance_does_not_turn_an_outage_into_a_leak() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let word = json!({"metadata": {"annotations": {"capi-rs.dev/abandon": "m: in advance"}}});
    world.patch("FarmMachine", "m", word).await;
    for _ in 0..3 {
        let gone = || FarmError::new(Class::Transient, "no route to host");
        world.farm.refuse("list", gone());
        world.farm.refuse("look", gone());
    }
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    assert!(world.farm.vms().is_empty(), "leaked");
}

/// A backend that refuses for long is not one that is gone: a single look that fails then is an outage
/// of a moment.
#[tokio::test(start_paused = true)]
async fn a_long_refusal_and_a_blind_look_do_not_make_a_lost_backend() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    let word = json!({"metadata": {"annotations": {"capi-rs.dev/abandon": "m: in advance"}}});
    world.patch("FarmMachine", "m", word).await;
    for _ in 0..200 {
        let locked = FarmError::new(Class::Transient, "the VM is locked");
        world.farm.refuse("destroy", locked);
    }
    world.delete("FarmMachine", "m").await;
    seconds(300).await;
    let looks = |farm: &crate::farm::Farm| {
        let calls = farm.calls();
        calls.iter().filter(|call| call.starts_with("look")).count()
    };
    let before = looks(&world.farm);
    let gone = FarmError::new(Class::Transient, "no route to host");
    world.farm.refuse("look", gone);
    // The longest pause after a failure is two minutes, and a quarter.
    seconds(151).await;
    assert!(looks(&world.farm) > before, "nobody has looked");
    assert!(world.machine("m").is_some(), "given up");
    assert_eq!(world.farm.vms().len(), 1);
}

/// A backend that is gone for good is given up by a person's word, never by itself.
#[tokio::test(start_paused = true)]
async fn a_machine_of_a_lost_backend_is_given_up_only_by_annotation() {
    let world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    for _ in 0..200 {
        let gone = || FarmError::new(Class::Transient, "no route to host");
        world.farm.refuse("list", gone());
        world.farm.refuse("look", gone());
    }
    world.delete("FarmMachine", "m").await;
    seconds(600).await;
    assert!(world.machine("m").is_some(), "given up by itself");
    let word = |text: &str| json!({"metadata": {"annotations": {"capi-rs.dev/abandon": text}}});
    // As a template spreads it.
    world
        .patch("FarmMachine", "m", word("the site burned down"))
        .await;
    seconds(600).await;
    assert!(world.machine("m").is_some(), "given up without its name");
    world
        .patch("FarmMachine", "m", word("m: the site burned down"))
        .await;
    world.until_gone("m").await;
    let events = world.server.objects("events");
    let warned = events.iter().any(|event| {
        event["reason"] == "Abandoned"
            && event["message"]
                .as_str()
                .unwrap()
                .contains("the site burned down")
    });
    assert!(warned, "{events:#?}");
}
