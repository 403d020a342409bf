//! The invariants of the engine that no other file here shows, each by its number.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capi_contract::{Class, Ledger, ObjectName};
use capi_core::{Leadership, Options, Provider};
use kube::client::Body;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::farm::{FarmClaim, FarmClusters, FarmError, FarmMachines, is_mutation};
use crate::world::{ENGINE, MACHINES, World, condition, seconds};

const LEDGER: &str = "capi-rs.dev/ledger";
const FINALIZER: &str = "farmmachine.infrastructure.cluster.x-k8s.io";

/// What was written on machine `m` at the moment of a call.
#[derive(Debug)]
struct Written {
    call: String,
    ledger: Option<Ledger<FarmClaim>>,
    finalizers: Vec<String>,
}

/// A world that notes what stands on machine `m` whenever the platform is called.
async fn witnessed(delay: Duration) -> (World, Arc<Mutex<Vec<Written>>>) {
    let mut world = World::new(delay).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (server, notes) = (world.server.clone(), Arc::clone(&seen));
    world.farm.watched_by(move |call| {
        let Some(machine) = server.object(MACHINES, "default", "m") else {
            return;
        };
        let text = machine["metadata"]["annotations"][LEDGER].as_str();
        let name = ObjectName::new("default", "m");
        notes.lock().unwrap().push(Written {
            call: call.to_owned(),
            ledger: text.map(|text| Ledger::parse(text, &name).unwrap()),
            finalizers: serde_json::from_value(machine["metadata"]["finalizers"].clone())
                .unwrap_or_default(),
        });
    });
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    world.delete("FarmMachine", "m").await;
    world.until_gone("m").await;
    (world, seen)
}

#[tokio::test(start_paused = true)]
async fn r1_and_im_19_claim_and_finalizer_stand_on_the_object_before_the_first_mutation() {
    let (_world, seen) = witnessed(Duration::from_secs(2)).await;
    let seen = seen.lock().unwrap();
    let first = seen.iter().find(|at| is_mutation(&at.call)).unwrap();
    assert_eq!(first.call, "clone 101");
    assert_eq!(first.ledger.as_ref().unwrap().claim.id, 101);
    assert_eq!(first.finalizers, [FINALIZER]);
}

#[tokio::test(start_paused = true)]
async fn r2_every_mutation_that_cannot_be_repeated_was_announced() {
    let (_world, seen) = witnessed(Duration::from_secs(2)).await;
    let seen = seen.lock().unwrap();
    let announced = |at: &Written| {
        let intent = at.ledger.as_ref().and_then(|l| l.intent.as_ref());
        intent.map(|intent| intent.step.to_lowercase())
    };
    let mutations: Vec<_> = seen.iter().filter(|at| is_mutation(&at.call)).collect();
    assert_eq!(mutations.len(), 5, "{mutations:#?}");
    for at in mutations {
        let step = at.call.split(' ').next().unwrap();
        // Only this step of the platform declares that it may be done twice.
        if step != "stop" {
            assert_eq!(announced(at).as_deref(), Some(step));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r3_between_two_mutations_the_thing_itself_is_looked_at() {
    let (world, _seen) = witnessed(Duration::from_secs(2)).await;
    let calls = world.farm.calls();
    let mut looked = false;
    for call in &calls {
        if is_mutation(call) && !call.starts_with("clone") {
            assert!(looked, "no look before {call}: {calls:#?}");
        }
        looked = call.starts_with("look") || (looked && !is_mutation(call));
    }
}

/// A client that does something after the server has accepted a patch of machine `m`, and before the
/// engine hears of it.
fn after_each_patch<F>(inner: Client, then: impl Fn() -> F + Send + 'static) -> Client
where
    F: Future<Output = ()> + Send + 'static,
{
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let is_patch = request.method() == http::Method::PATCH
            && request.uri().path().ends_with("farmmachines/m");
        let (inner, then) = (inner.clone(), is_patch.then(&then));
        async move {
            let answer = inner.send(request).await;
            if let Some(then) = then {
                then.await;
            }
            answer
        }
    });
    Client::new(service, "default")
}

#[tokio::test(start_paused = true)]
async fn r2_a_mutation_whose_write_took_longer_than_5_seconds_is_not_sent() {
    let mut world = World::new(Duration::ZERO).await;
    let delay_ms = Arc::new(AtomicU64::new(5_100));
    let delay = Arc::clone(&delay_ms);
    let client = after_each_patch(world.server.client(ENGINE), move || {
        tokio::time::sleep(Duration::from_millis(delay.load(Ordering::SeqCst)))
    });
    world.run(world.provider(), client);
    world.create_machine("m", json!({})).await;
    seconds(120).await;
    let machine = world.machine("m").unwrap();
    assert!(machine["metadata"]["annotations"][LEDGER].is_string());
    assert_eq!(world.farm.mutations(), Vec::<String>::new());

    delay_ms.store(0, Ordering::SeqCst);
    world.until_provisioned("m").await;
    assert_eq!(world.farm.vms().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn r2_leadership_that_ends_between_write_and_mutation_stops_the_mutation() {
    let mut world = World::new(Duration::ZERO).await;
    let leads = Arc::new(AtomicBool::new(true));
    let (answer, ends) = (Arc::clone(&leads), Arc::clone(&leads));
    let client = after_each_patch(world.server.client(ENGINE), move || {
        ends.store(false, Ordering::SeqCst);
        std::future::ready(())
    });
    let options = Options {
        leadership: Leadership::when(move || answer.load(Ordering::SeqCst)),
        ..world.options()
    };
    world.run(world.provider().options(options), client);
    world.create_machine("m", json!({})).await;
    seconds(120).await;
    let machine = world.machine("m").unwrap();
    assert!(machine["metadata"]["annotations"][LEDGER].is_string());
    assert_eq!(world.farm.mutations(), Vec::<String>::new());
    // Its successor waits until the announced create must have taken effect, and then makes one.
    world.start();
    world.until_provisioned("m").await;
    assert_eq!(world.farm.vms().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn r4_the_world_decides_when_the_operation_cannot_be_asked() {
    let mut world = World::new(Duration::from_secs(2)).await;
    for _ in 0..1_000 {
        let silent = FarmError::new(Class::Transient, "no answer about tasks");
        world.farm.refuse("poll", silent);
    }
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    assert_eq!(
        world.farm.mutations(),
        ["clone 101", "configure 101", "start 101"]
    );
}

#[tokio::test(start_paused = true)]
async fn r4_status_and_conditions_are_not_believed() {
    let mut world = World::new(Duration::ZERO).await;
    world.create_machine("m", json!({})).await;
    let machine = world.machine("m").unwrap();
    let lie = json!({
        "initialization": {"provisioned": true},
        "addresses": [{"type": "InternalIP", "address": "10.0.0.250"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    world.patch_status(&machine, lie).await;
    world.start();
    world
        .until("running", "m", |m| {
            m.is_some_and(|m| !m["spec"]["providerID"].is_null())
        })
        .await;
    assert_eq!(world.farm.vms().len(), 1);
    seconds(5).await;
    let machine = world.machine("m").unwrap();
    assert_eq!(machine["status"]["addresses"][0]["address"], "10.0.0.101");
}

#[tokio::test(start_paused = true)]
async fn r6_a_wait_has_a_reason_and_a_message_and_counts_as_no_error() {
    let mut world = World::new(Duration::from_secs(20)).await;
    let mut registry = prometheus_client::registry::Registry::default();
    let options = Options {
        telemetry: capi_core::Telemetry::register(&mut registry),
        ..world.options()
    };
    let provider = world.provider().options(options);
    world.run(provider, world.server.client(ENGINE));
    world.create_machine("m", json!({})).await;
    seconds(10).await;
    let ready = condition(&world.machine("m").unwrap(), "Ready");
    assert_eq!(ready["status"], "False");
    assert_eq!(ready["reason"], "Clone");
    assert_eq!(ready["message"], "Clone is under way");
    world.until_provisioned("m").await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("capi_steps_total"), "{text}");
    let errors: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("capi_errors_total"))
        .collect();
    assert_eq!(errors, Vec::<&str>::new());
    let warnings = world.server.objects("events");
    let warnings: Vec<_> = warnings.iter().filter(|e| e["type"] == "Warning").collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[tokio::test(start_paused = true)]
async fn r10_an_error_that_lasts_is_tried_again_at_a_bounded_rate_and_heals() {
    for class in [Class::Transient, Class::Misconfigured, Class::Terminal] {
        let mut world = World::new(Duration::ZERO).await;
        for _ in 0..400 {
            let error = FarmError::new(class.clone(), "no");
            world.farm.refuse("clone", error);
        }
        world.start();
        world.create_machine("m", json!({})).await;
        seconds(3_600).await;
        let tries = world.farm.mutations().len();
        assert!((3..=120).contains(&tries), "{class:?}: {tries} in an hour");
        let writes = world.writes().len();
        assert!(
            writes <= tries + 6,
            "{class:?}: {writes} writes, {tries} tries"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn r14_of_spec_only_the_documented_fields_are_written() {
    let mut world = World::new(Duration::ZERO).await;
    world.start();
    world.create_machine("m", json!({})).await;
    world.until_provisioned("m").await;
    seconds(5).await;
    let machine = world.machine("m").unwrap();
    let spec = machine["spec"].as_object().unwrap();
    assert_eq!(spec.keys().collect::<Vec<_>>(), ["providerID"]);
    let cluster = world.cluster().unwrap();
    let endpoint = json!({"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}});
    assert_eq!(cluster["spec"], endpoint);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn r15_no_secret_is_in_a_log_an_event_a_condition_a_metric_or_an_object() {
    const TOKEN: &str = "hunter2-token";
    const BOOTSTRAP: &str = "hunter2-bootstrap";
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let mut world = World::new(Duration::from_secs(1)).await;
    let mut registry = prometheus_client::registry::Registry::default();
    let options = Options {
        telemetry: capi_core::Telemetry::register(&mut registry),
        ..world.options()
    };
    world.farm.rotate(TOKEN);
    world
        .create(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
            "stringData": {"token": TOKEN}}),
        )
        .await;
    world
        .patch("FarmCluster", "c", json!({"spec": {"secret": "login"}}))
        .await;
    world.create_machine("m", json!({})).await;
    world
        .patch_secret("m-bootstrap", json!({"stringData": {"value": BOOTSTRAP}}))
        .await;
    let provider = world.provider().options(options);
    world.run(provider, world.server.client(ENGINE));
    world.until_provisioned("m").await;
    assert_eq!(world.farm.vms()[&101].data, BOOTSTRAP.as_bytes());
    // Errors are shown to users; they must not drag secrets along either.
    let refusal = FarmError::new(Class::Credentials, "401");
    world.farm.refuse("list", refusal.clone());
    world.farm.refuse("look", refusal);
    seconds(60).await;

    let mut places = vec![
        (
            "log",
            String::from_utf8(log.0.lock().unwrap().clone()).unwrap(),
        ),
        ("machine", world.machine("m").unwrap().to_string()),
        ("cluster", world.cluster().unwrap().to_string()),
        (
            "events",
            Value::from(world.server.objects("events")).to_string(),
        ),
    ];
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    places.push(("metrics", metrics));
    for (place, text) in places {
        assert!(text.len() > 100, "nothing to search in the {place}");
        for secret in [TOKEN, BOOTSTRAP] {
            let encoded = base64_of(secret);
            assert!(!text.contains(secret), "{place} shows {secret}");
            assert!(!text.contains(&encoded), "{place} shows {secret} encoded");
        }
    }
}

fn base64_of(text: &str) -> String {
    let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
    serde_json::to_value(bytes)
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_ledger_of_a_newer_version_stops_everything_and_says_so() {
    let mut world = World::with_machine(Duration::ZERO).await;
    world.until_provisioned("m").await;
    world.stop();
    let old = world.machine("m").unwrap()["metadata"]["annotations"][LEDGER].clone();
    let newer = json!({"version": 99, "claim": {"shape": "unknown"}}).to_string();
    let annotate = |text: Value| json!({"metadata": {"annotations": {LEDGER: text}}});
    world
        .patch("FarmMachine", "m", annotate(json!(newer)))
        .await;
    world.delete("FarmMachine", "m").await;
    world.start();
    seconds(300).await;
    let machine = world.machine("m").unwrap();
    assert_eq!(machine["metadata"]["annotations"][LEDGER], newer);
    let message = condition(&machine, "Ready")["message"].clone();
    assert!(
        message
            .as_str()
            .unwrap()
            .contains("has version 99, this program knows 1"),
        "{message}"
    );
    assert_eq!(world.farm.vms().len(), 1);
    assert_eq!(world.farm.mutations().len(), 3);

    world.patch("FarmMachine", "m", annotate(old)).await;
    world.until_gone("m").await;
    assert!(world.farm.vms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn wr_01_what_others_wrote_is_kept() {
    let world = World::with_machine(Duration::from_secs(5)).await;
    let theirs = json!({"metadata": {
        "labels": {"theirs": "yes"}, "annotations": {"theirs": "yes"},
        "finalizers": ["example.com/theirs"]}});
    world.patch("FarmMachine", "m", theirs).await;
    let foreign = json!({"conditions": [{"type": "Backup", "status": "True", "reason": "Done",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let params = kube::api::PatchParams::apply("someone");
    let body = json!({"apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1",
        "kind": "FarmMachine", "metadata": {"name": "m"}, "status": foreign});
    let api = world.api("infrastructure.cluster.x-k8s.io/v1alpha1", "FarmMachine");
    let patch = kube::api::Patch::Apply(&body);
    api.patch_status("m", &params, &patch).await.unwrap();
    world.until_provisioned("m").await;
    seconds(5).await;
    let machine = api.get("m").await.unwrap();
    assert_eq!(machine.labels()["theirs"], "yes");
    assert_eq!(machine.annotations()["theirs"], "yes");
    assert!(
        machine
            .finalizers()
            .contains(&"example.com/theirs".to_owned())
    );
    assert!(machine.finalizers().contains(&FINALIZER.to_owned()));
    let shown = condition(&world.machine("m").unwrap(), "Backup");
    assert_eq!(shown["reason"], "Done");
}

/// A platform that refuses a second create of one claim need not be asked before the first.
#[tokio::test(start_paused = true)]
async fn r1_a_claim_that_nobody_knows_is_not_looked_for() {
    for (once, looks) in [(false, 1), (true, 0)] {
        let mut world = World::new(Duration::from_secs(1)).await;
        world.farm.plant(101, "a stranger's");
        let provider = Provider::new(world.farm.clone())
            .cluster(FarmClusters::new())
            .machine(FarmMachines { once })
            .options(world.options());
        world.run(provider, world.server.client(ENGINE));
        world.create_machine("m", json!({})).await;
        world.until_provisioned("m").await;
        let calls = world.farm.calls();
        let first = calls
            .iter()
            .position(|call| call.starts_with("clone"))
            .unwrap();
        let before = calls[..first]
            .iter()
            .filter(|call| call.starts_with("look 101"));
        assert_eq!(before.count(), looks, "{calls:?}");
        // The stranger keeps its number, and the machine gets another.
        let vms = world.farm.vms();
        assert_eq!(vms[&101].mark, "a stranger's");
        assert_eq!(vms.len(), 2, "{vms:?}");
    }
}
