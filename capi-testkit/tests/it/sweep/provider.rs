//! A tiny infrastructure provider on the in-process API server goes through the sweep.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use capi_testkit::apiserver::ApiServer;
use capi_testkit::crds;
use capi_testkit::faults::{Call, Faults, without_preconditions};
use capi_testkit::sweep::{Backend, Family, Interference, Manifest, ProviderWorld, Report, Sweep};
use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};

const GROUP: &str = "infrastructure.cluster.x-k8s.io";
const FINALIZER: &str = "tiny.infrastructure.cluster.x-k8s.io";
/// The claim: `<id> <token>`.
const CLAIM: &str = "tiny.infrastructure.cluster.x-k8s.io/claim";

static DEFINITIONS: LazyLock<Vec<Value>> =
    LazyLock::new(|| vec![definition("TinyCluster"), definition("TinyMachine")]);

fn definition(kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            "labels": {"cluster.x-k8s.io/v1beta2": "v1"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}},
            }],
        },
    })
}

/// VMs by number, each with the token of its claim; `None` is a stranger's.
#[derive(Clone, Default)]
pub(crate) struct Farm {
    machines: Arc<Mutex<BTreeMap<u64, Option<String>>>>,
    violations: Arc<Mutex<Vec<String>>>,
    claims: Arc<AtomicUsize>,
}

impl Farm {
    async fn look(&self, faults: &Faults, id: u64) -> Option<Option<Option<String>>> {
        let machines = Arc::clone(&self.machines);
        let call = Call::read("farm", "tiny", "get", id.to_string());
        let seen = faults.around(call, async move { machines.lock().get(&id).cloned() });
        seen.await.ok()
    }

    async fn create(&self, faults: &Faults, id: u64, token: &str) {
        let (machines, token) = (Arc::clone(&self.machines), token.to_owned());
        let call = Call::mutation("farm", "tiny", "create", id.to_string());
        let made = faults.around(call, async move {
            machines.lock().entry(id).or_insert(Some(token));
        });
        // Whether it took effect shows at the next look.
        drop(made.await);
    }

    async fn destroy(&self, faults: &Faults, id: u64) {
        let farm = self.clone();
        let call = Call::mutation("farm", "tiny", "destroy", id.to_string());
        let gone = faults.around(call, async move {
            if let Some(None) = farm.machines.lock().remove(&id) {
                farm.violations
                    .lock()
                    .push(format!("stranger {id} destroyed"));
            }
        });
        drop(gone.await);
    }

    fn new_claim(&self) -> (u64, String) {
        let machines = self.machines.lock();
        let free = (100..).find(|id| !machines.contains_key(id));
        let claims = self.claims.fetch_add(1, Ordering::SeqCst);
        (free.expect("numbers do not end"), format!("claim-{claims}"))
    }
}

impl Backend for Farm {
    fn things(&self) -> Vec<String> {
        let machines = self.machines.lock();
        let ours = machines.iter().filter(|(_, token)| token.is_some());
        ours.map(|(id, token)| format!("{id} {token:?}")).collect()
    }

    fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    fn interfere(&self, interference: Interference) -> bool {
        let mut machines = self.machines.lock();
        match interference {
            Interference::Stranger => machines.insert(100, None).is_none_or(|old| {
                // The place is taken: nobody can push a running machine out of it.
                machines.insert(100, old);
                false
            }),
            Interference::Removal => machines.remove(&100).is_some(),
            _ => false,
        }
    }
}

struct Controller {
    client: Client,
    faults: Faults,
    farm: Farm,
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind));
    Api::namespaced_with(client.clone(), "default", &resource)
}

impl Controller {
    async fn run(self) {
        let machines = api(&self.client, "TinyMachine");
        let clusters = api(&self.client, "TinyCluster");
        let config = watcher::Config::default().any_semantic();
        let mut machine_events = watcher::watcher(machines, config.clone()).boxed();
        let mut cluster_events = watcher::watcher(clusters, config).boxed();
        let (mut machine, mut cluster) = (None, None);
        let mut every = tokio::time::interval(Duration::from_secs(2));
        loop {
            tokio::select! {
                event = machine_events.next() => keep(&mut machine, event).await,
                event = cluster_events.next() => keep(&mut cluster, event).await,
                _ = every.tick() => {}
            }
            if let Some(cluster) = &cluster {
                self.cluster(cluster).await;
            }
            if let Some(machine) = &machine {
                self.machine(machine).await;
            }
        }
    }

    async fn patch(
        &self,
        seen: &DynamicObject,
        kind: &str,
        metadata: Value,
        spec: Value,
    ) -> Option<DynamicObject> {
        let mut patch = json!({"metadata": metadata, "spec": spec});
        patch["metadata"]["resourceVersion"] = json!(seen.metadata.resource_version);
        let written = api(&self.client, kind)
            .patch(
                &seen.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await;
        written.ok()
    }

    async fn status(&self, seen: &DynamicObject, kind: &str, ready: bool) {
        let wanted = json!({
            "initialization": {"provisioned": true},
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        });
        if seen.data["status"] != wanted {
            let patch = Patch::Merge(json!({"status": wanted}));
            let written = api(&self.client, kind)
                .patch_status(&seen.name_any(), &PatchParams::default(), &patch)
                .await;
            drop(written);
        }
    }

    async fn cluster(&self, seen: &DynamicObject) {
        if seen.metadata.deletion_timestamp.is_none() {
            self.status(seen, "TinyCluster", true).await;
        }
    }

    async fn machine(&self, seen: &DynamicObject) {
        let deleting = seen.metadata.deletion_timestamp.is_some();
        let Some((id, token)) = claim(seen) else {
            if deleting {
                self.release(seen).await;
            } else {
                let (id, token) = self.farm.new_claim();
                let metadata = json!({
                    "finalizers": [FINALIZER],
                    "annotations": {CLAIM: format!("{id} {token}")},
                });
                let written = self.patch(seen, "TinyMachine", metadata, json!({})).await;
                if let Some(written) = written {
                    self.build(&written, id, &token).await;
                }
            }
            return;
        };
        let Some(found) = self.farm.look(&self.faults, id).await else {
            return;
        };
        let ours = found
            .as_ref()
            .map(|owner| owner.as_deref() == Some(token.as_str()));
        let proven = seen.data["spec"]["providerID"].is_string();
        match (ours, deleting) {
            (Some(true), true) => self.farm.destroy(&self.faults, id).await,
            (Some(true), false) if proven => self.status(seen, "TinyMachine", true).await,
            (Some(true), false) => {
                let spec = json!({"providerID": format!("tiny://{id}/{token}")});
                if let Some(written) = self.patch(seen, "TinyMachine", json!({}), spec).await {
                    self.status(&written, "TinyMachine", true).await;
                }
            }
            (Some(false) | None, true) => self.settle_and_release(seen, id).await,
            (None, false) if proven => self.status(seen, "TinyMachine", false).await,
            (None, false) => self.build(seen, id, &token).await,
            (Some(false), false) => {
                let metadata = json!({"annotations": {CLAIM: null}});
                self.patch(seen, "TinyMachine", metadata, json!({})).await;
            }
        }
    }

    /// The write that precedes the create says that it was tried.
    async fn build(&self, seen: &DynamicObject, id: u64, token: &str) {
        let metadata = json!({"annotations": {"tried": "yes"}});
        let written = self.patch(seen, "TinyMachine", metadata, json!({})).await;
        if written.is_some() {
            self.farm.create(&self.faults, id, token).await;
        }
    }

    /// A create may still land: wait, look once more.
    async fn settle_and_release(&self, seen: &DynamicObject, id: u64) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let token = claim(seen).map(|(_, token)| token);
        match self.farm.look(&self.faults, id).await {
            Some(found) if found.clone().flatten() != token => self.release(seen).await,
            _ => {}
        }
    }

    async fn release(&self, seen: &DynamicObject) {
        self.patch(seen, "TinyMachine", json!({"finalizers": null}), json!({}))
            .await;
    }
}

fn claim(object: &DynamicObject) -> Option<(u64, String)> {
    let text = object.annotations().get(CLAIM)?;
    let (id, token) = text.split_once(' ')?;
    Some((id.parse().ok()?, token.to_owned()))
}

async fn keep(
    kept: &mut Option<DynamicObject>,
    event: Option<Result<Event<DynamicObject>, watcher::Error>>,
) {
    match event {
        Some(Ok(Event::Apply(object) | Event::InitApply(object))) => *kept = Some(object),
        Some(Ok(Event::Delete(_) | Event::Init)) => *kept = None,
        Some(Ok(Event::InitDone)) => {}
        Some(Err(_)) | None => tokio::time::sleep(Duration::from_millis(500)).await,
    }
}

/// Enough to show that worlds and controllers are taken apart and made anew; all families are played
/// against real providers.
const FAMILIES: [Family; 4] = [
    Family::Crashes,
    Family::StaleCrashes,
    Family::Removals,
    Family::Pairs,
];

/// A world with one tiny provider in it.
pub(crate) fn world(weaken: fn(Client) -> Client) -> ProviderWorld<Farm> {
    let server = ApiServer::builder().seed(1).build();
    let needed = ["clusters.cluster.x-k8s.io", "machines.cluster.x-k8s.io"];
    let core = needed.iter().filter_map(|name| crds::named(name));
    server
        .install_crds(core.chain(DEFINITIONS.iter()))
        .expect("definitions are valid");
    let farm = Farm::default();
    let kind = |kind: &str| json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "spec": {}});
    let manifest = Manifest::new(kind("TinyCluster"), kind("TinyMachine"));
    let machines = farm.clone();
    ProviderWorld::new(server, farm, manifest, move |client, faults| {
        let controller = Controller {
            client: weaken(client),
            faults,
            farm: machines.clone(),
        };
        controller.run()
    })
}

fn swept(weaken: fn(Client) -> Client, families: &[Family]) -> Report {
    Sweep::new(move || async move { world(weaken) })
        .families(families.iter().copied())
        .pairs(20)
        .failures_max(1)
        .run()
}

#[test]
fn a_right_provider_passes() {
    let report = swept(|client| client, &FAMILIES);
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.runs > 80, "{report}");
}

#[test]
fn unconditional_writes_are_caught() {
    let report = swept(
        without_preconditions,
        &[Family::StaleViews, Family::StaleCrashes],
    );
    let failure = report.failures.first().map(ToString::to_string);
    let failure = failure.unwrap_or_else(|| report.to_string());
    println!("{failure}");
    assert!(
        failure.contains("leaked") || failure.contains("things where 1"),
        "{failure}"
    );
}
