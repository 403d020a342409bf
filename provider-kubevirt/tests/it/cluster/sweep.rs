//! The crash sweep over the life of a cluster alone: its Service is the one thing that is made.
//!
//! Removals by hand are left out, since what is shared is made again (R9), which has a test of its own.
//! The default run plays every [`STRIDE`]th scenario; all of them with
//! `KUBEVIRT_SWEEP=full cargo test -p provider-kubevirt --test it cluster::sweep -- --nocapture`.

use std::sync::Mutex;

use capi_testkit::faults::Faults;
use capi_testkit::sweep::{Family, Goal, Held, Interference, Sweep, World as Swept};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::MARK;
use super::world::{NS, PROVIDER, World, is_provisioned};
use crate::site::tenant_of;

/// A prime, so that it falls on every way in which a call can go wrong.
const STRIDE: usize = 31;

const FAMILIES: [Family; 7] = [
    Family::Crashes,
    Family::StaleCrashes,
    Family::Answers,
    Family::StaleViews,
    Family::Deletions,
    Family::Strangers,
    Family::Pairs,
];

struct Life {
    world: World,
    /// The Service that somebody else has put under the name, as it was.
    stranger: Mutex<Option<Value>>,
}

impl Life {
    async fn new() -> Self {
        Self {
            world: World::beside(super::world::infra(), 2).await,
            stranger: Mutex::new(None),
        }
    }

    fn ours(&self) -> Vec<Value> {
        let stranger = self.stranger.lock().unwrap();
        let uid = stranger.as_ref().map(|one| one["metadata"]["uid"].clone());
        let mut all = self.world.services();
        all.retain(|one| Some(&one["metadata"]["uid"]) != uid.as_ref());
        all
    }

    fn lacks(&self, goal: Goal) -> Option<String> {
        let cluster = self.world.cluster();
        match (goal, cluster) {
            (Goal::Gone, None) => None,
            (Goal::Gone, Some(_)) => Some("the cluster is still there".into()),
            (Goal::Built | Goal::Lost, None) => Some("there is no cluster".into()),
            (Goal::Built | Goal::Lost, Some(cluster)) => {
                if !is_provisioned(&cluster) {
                    return Some(format!("not provisioned: {}", cluster["status"]));
                }
                let endpoint = &cluster["spec"]["controlPlaneEndpoint"]["host"];
                let ours = self.ours();
                let is_there = ours.iter().any(|one| &one["spec"]["clusterIP"] == endpoint);
                (!is_there).then(|| format!("nothing is at {endpoint}: {ours:?}"))
            }
        }
    }
}

impl Swept for Life {
    fn start(&self, faults: Faults) -> BoxFuture<'static, ()> {
        let management = self.world.management.client_with(PROVIDER, &faults);
        let infra = faults.kubernetes(tenant_of(&self.world.infra, NS), PROVIDER);
        self.world.provide(management, infra).boxed()
    }

    fn create(&self) -> BoxFuture<'_, Result<(), String>> {
        async {
            self.world.create_cluster(json!({})).await;
            Ok(())
        }
        .boxed()
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        self.world.try_delete_cluster().boxed()
    }

    fn missing(&self, goal: Goal) -> BoxFuture<'_, Option<String>> {
        async move { self.lacks(goal) }.boxed()
    }

    fn things(&self) -> Vec<String> {
        let all = self.ours().into_iter();
        all.map(|one| format!("Service {}", one["metadata"]["name"]))
            .collect()
    }

    fn violations(&self) -> Vec<String> {
        let stranger = self.stranger.lock().unwrap().clone();
        let Some(before) = stranger else {
            return Vec::new();
        };
        let all = self.world.services();
        let found = all
            .iter()
            .find(|one| one["metadata"]["uid"] == before["metadata"]["uid"]);
        match found {
            None => vec!["a stranger's Service was deleted".into()],
            Some(now) if now.pointer(MARK).is_some() => {
                vec!["a stranger's Service was marked".into()]
            }
            Some(now) if now["spec"]["selector"] != before["spec"]["selector"] => {
                vec!["a stranger's Service was changed".into()]
            }
            Some(_) => Vec::new(),
        }
    }

    fn interfere(&self, interference: Interference) -> BoxFuture<'_, bool> {
        async move {
            let is_free = self.world.service("c-lb").is_none();
            if interference != Interference::Stranger || !is_free {
                return false;
            }
            let service = json!({"metadata": {"name": "c-lb"},
                "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}});
            let made = self.world.create_service(service).await;
            *self.stranger.lock().unwrap() = Some(made);
            true
        }
        .boxed()
    }

    fn hold(&self) -> Option<Held> {
        let management = self.world.management.hold_watch(PROVIDER, "");
        let infra = self.world.infra.hold_watch(PROVIDER, "");
        Some(Box::new((management, infra)))
    }
}

#[test]
fn whatever_crashes_and_whenever_one_service_is_kept_and_nothing_is_left() {
    let is_full = std::env::var("KUBEVIRT_SWEEP").is_ok_and(|wish| wish == "full");
    let stride = if is_full { 1 } else { STRIDE };
    let sweep = Sweep::new(Life::new)
        .families(FAMILIES)
        .stride(stride)
        .threads(2);
    let report = sweep.run();
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.runs > 100 / stride, "{report}");
}
