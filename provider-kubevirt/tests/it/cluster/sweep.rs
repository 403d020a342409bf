//! The crash sweep over the life of a cluster alone, whose Service is the one thing that is made, and
//! the proof that it can fail.
//!
//! Removals by hand are left out, since what is shared is made again (R9), which has a test of its own.
//! The default run plays every [`STRIDE`]th scenario; all of them with
//! `KUBEVIRT_SWEEP=full cargo test -p provider-kubevirt --test it cluster::sweep -- --nocapture`.

use std::sync::{Arc, Mutex};

use capi_contract::{Depth, External, Lookup};
use capi_testkit::faults::Faults;
use capi_testkit::sweep::{Family, Goal, Held, Interference, Sweep, World as Swept};
use capi_testkit::weakness::{EmptyAtFirst, GoneOnceSent, Weaken, Weakened};
use futures::FutureExt;
use futures::future::BoxFuture;
use provider_kubevirt::cluster::{ClusterClaim, Clusters};
use provider_kubevirt::infra::{InfraError, ServiceView};
use provider_kubevirt::session::Session;
use rstest::rstest;
use serde_json::{Value, json};

use super::MARK;
use super::world::{NS, PROVIDER, World, is_provisioned};
use crate::site::tenant_of;

/// A prime, so that it falls on every way in which a call can go wrong.
const STRIDE: usize = 31;

/// How many looks find nothing under [`Weakening::EmptyAtFirst`].
const LOOKS_EMPTY: usize = 3;

const FAMILIES: [Family; 7] = [
    Family::Crashes,
    Family::StaleCrashes,
    Family::Answers,
    Family::StaleViews,
    Family::Deletions,
    Family::Strangers,
    Family::Pairs,
];

/// How the provider is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakening {
    /// Not at all.
    None,
    /// Whatever Service has the claimed name is taken for ours.
    NamesAreMarks,
    /// The Service is said to be gone once its deletion was asked for.
    DeletedIsGone,
    /// A new process knows nothing at first, and takes that for absence.
    EmptyAtFirst,
}

struct NamesAreMarks;

impl Weaken<Clusters> for NamesAreMarks {
    async fn observe(
        &self,
        real: &Clusters,
        on: &Session,
        claim: &ClusterClaim,
        depth: Depth,
    ) -> Result<Lookup<Arc<ServiceView>>, InfraError> {
        let seen = real.observe(on, claim, depth).await?;
        let Lookup::Foreign(_) = seen else {
            return Ok(seen);
        };
        let taken = on.infra().get(&claim.namespace, &claim.service).await?;
        Ok(taken.map_or(seen, |service| Lookup::Ours(Arc::new(service))))
    }
}

struct Life {
    world: World,
    weakening: Weakening,
    /// The Service that somebody else has put under the name, as it was.
    stranger: Mutex<Option<Value>>,
}

impl Life {
    async fn new(weakening: Weakening) -> Self {
        Self {
            world: World::beside(super::world::infra(), 2).await,
            weakening,
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
        let world = &self.world;
        match self.weakening {
            Weakening::None => world.provide(management, infra, Clusters).boxed(),
            Weakening::NamesAreMarks => {
                let weak = Weakened::new(Clusters, NamesAreMarks);
                world.provide(management, infra, weak).boxed()
            }
            Weakening::DeletedIsGone => {
                let weak = Weakened::new(Clusters, GoneOnceSent::step("LoadBalancerDelete"));
                world.provide(management, infra, weak).boxed()
            }
            Weakening::EmptyAtFirst => {
                let weak = Weakened::new(Clusters, EmptyAtFirst::looks(LOOKS_EMPTY));
                world.provide(management, infra, weak).boxed()
            }
        }
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
    let sweep = Sweep::new(|| Life::new(Weakening::None))
        .families(FAMILIES)
        .stride(stride)
        .threads(2);
    let report = sweep.run();
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.runs > 100 / stride, "{report}");
}

/// Each weakening is met by the family of scenarios that it cannot survive, in the stretch of the life
/// that it is about: from the beginning on, or from the deletion on.
#[rstest]
#[case(Weakening::NamesAreMarks, Family::Strangers, 0)]
#[case(Weakening::DeletedIsGone, Family::Answers, 9)]
#[case(Weakening::EmptyAtFirst, Family::Crashes, 9)]
fn a_weakened_provider_is_caught(
    #[case] weakening: Weakening,
    #[case] family: Family,
    #[case] from_call: usize,
) {
    let sweep = Sweep::new(|| Life::new(weakening)).families([family]);
    let report = sweep.from_call(from_call).failures_max(1).run();
    println!("{weakening:?}: {report}");
    // The undisturbed life, which is the first run, must not be what fails.
    assert!(!report.is_clean() && report.runs > 1, "{report}");
}
