//! What a story of the conformance kit can do and see.

use std::time::Duration;

use serde_json::{Value, json};

use crate::sweep::{Backend, Goal, Interference, ProviderWorld, World};

/// How long nothing may happen before it counts as nothing: longer than a usual recheck.
const QUIET: Duration = Duration::from_secs(60);
/// How long something may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked at.
const LOOKED_EVERY: Duration = Duration::from_millis(500);

/// Why a story ended early.
pub(super) enum Stop {
    Broken(String),
    Skipped(String),
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Broken(what)
    }
}

pub(super) type Told = Result<(), Stop>;

/// The two kinds of a provider.
#[derive(Clone, Copy)]
pub(super) enum Infra {
    Cluster,
    Machine,
}

/// One world, and what is done in it.
pub(super) struct Story<B> {
    pub(super) world: ProviderWorld<B>,
}

impl<B: Backend> Story<B> {
    /// Creates all objects, each edited first.
    pub(super) async fn create(&self, edit: impl Fn(&mut Value)) -> Told {
        Ok(self.world.create_edited(edit).await?)
    }

    pub(super) async fn delete(&self) -> Told {
        Ok(self.world.delete().await?)
    }

    pub(super) fn seen(&self, infra: Infra) -> Option<Value> {
        self.world.stored(self.manifest(infra))
    }

    fn manifest(&self, infra: Infra) -> &Value {
        match infra {
            Infra::Cluster => &self.world.manifest().cluster,
            Infra::Machine => &self.world.manifest().machine,
        }
    }

    /// Merges a patch into an object, or into its status.
    pub(super) async fn patch(&self, infra: Infra, patch: Value, status: bool) -> Told {
        Ok(self
            .world
            .patch(self.manifest(infra), patch, status)
            .await?)
    }

    /// The same for the objects of Cluster API.
    pub(super) async fn patch_core(&self, kind: &str, patch: Value, status: bool) -> Told {
        let object = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": kind});
        Ok(self.world.patch(&object, patch, status).await?)
    }

    pub(super) async fn remove_core(&self, kind: &str) -> Told {
        let object = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": kind});
        Ok(self.world.remove(&object).await?)
    }

    pub(super) fn interfere(&self, interference: Interference) -> Told {
        if self.world.backend().interfere(interference) {
            Ok(())
        } else {
            Err(Stop::Skipped(format!(
                "the platform has no {interference:?}"
            )))
        }
    }

    pub(super) async fn quiet(&self) {
        tokio::time::sleep(QUIET).await;
    }

    pub(super) async fn built(&self) -> Told {
        self.reach(Goal::Built).await
    }

    pub(super) async fn gone(&self) -> Told {
        self.reach(Goal::Gone).await?;
        self.without_things()
    }

    async fn reach(&self, goal: Goal) -> Told {
        let what = format!("{goal:?}");
        let mut missing = None;
        for _ in 0..looks() {
            missing = self.world.missing(goal).await;
            if missing.is_none() {
                return Ok(());
            }
            tokio::time::sleep(LOOKED_EVERY).await;
        }
        Err(Stop::Broken(format!(
            "{what} not reached: {}",
            missing.unwrap_or_default()
        )))
    }

    /// Waits until a condition has this status (and reason, unless empty).
    pub(super) async fn condition(
        &self,
        infra: Infra,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Told {
        let mut found = Value::Null;
        for _ in 0..looks() {
            found = condition(self.seen(infra).as_ref(), kind);
            if found["status"] == status && (reason.is_empty() || found["reason"] == reason) {
                return Ok(());
            }
            tokio::time::sleep(LOOKED_EVERY).await;
        }
        Err(Stop::Broken(format!(
            "condition {kind} is {found}, wanted {status} {reason}"
        )))
    }

    pub(super) fn without_things(&self) -> Told {
        let things = self.world.things();
        if things.is_empty() {
            return Ok(());
        }
        Err(Stop::Broken(format!(
            "the platform holds {}",
            things.join(", ")
        )))
    }

    /// Nothing was written to the object since this version of it.
    pub(super) fn unwritten(&self, infra: Infra, before: &Value) -> Told {
        let now = self.seen(infra).unwrap_or_default();
        if now == *before {
            return Ok(());
        }
        Err(Stop::Broken(format!(
            "was written: {} and status {}",
            now["metadata"], now["status"]
        )))
    }
}

fn looks() -> u128 {
    PATIENCE.as_millis() / LOOKED_EVERY.as_millis()
}

/// A condition of an object; null if it has none of that type.
pub(super) fn condition(object: Option<&Value>, kind: &str) -> Value {
    let conditions = object.and_then(|object| object["status"]["conditions"].as_array());
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    found.cloned().unwrap_or_default()
}
