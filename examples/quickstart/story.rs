//! What happens, in order: apply, come up, delete, gone.

use std::collections::BTreeMap;
use std::time::Duration;

use capi_testkit::core::Branch;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::tree;
use crate::world::{World, WorldError};

/// How long coming up or going away may take, before the story is told as failed. A calm run needs
/// half a minute. Under faults an unanswered create is waited out for a minute or more each time, in
/// real time; the slowest of twenty seeds took four minutes.
const CHAPTER_MAX: Duration = Duration::from_secs(900);

/// Why the story did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    World(#[from] WorldError),
    #[error("{chapter} took more than {} s; it waits here:\n{tree}", CHAPTER_MAX.as_secs())]
    TooLong { chapter: &'static str, tree: String },
    #[error("{0} stopped before the end")]
    ActorEnded(&'static str),
}

/// How long each machine took, from its first sight to a running node.
pub(crate) type Times = BTreeMap<String, Duration>;

/// Applies the manifest and waits until every machine runs.
pub(crate) async fn come_up(
    world: &World,
    manifest: &Manifest,
    progress: &mut Progress,
) -> Result<Times, Error> {
    world.apply(manifest).await?;
    let count = manifest.objects.len();
    progress.say(&format!("applied {count} objects of {}", manifest.source));

    let wanted = machines_wanted(manifest);
    let mut arrivals = Arrivals::default();
    wait(world, progress, "coming up", |clusters| {
        arrivals.note(clusters);
        arrivals.running == wanted && arrivals.present == wanted
    })
    .await?;
    progress.keep(&world.clusters());
    progress.say(&format!("all {wanted} machines run and are nodes"));
    Ok(arrivals.took)
}

/// Brings the manifest up, then deletes its clusters and waits until they are gone.
pub(crate) async fn tell(
    world: &World,
    manifest: &Manifest,
    progress: &mut Progress,
) -> Result<Times, Error> {
    let times = come_up(world, manifest, progress).await?;
    progress.say("deleting the cluster");
    world.delete_clusters(manifest).await?;
    wait(world, progress, "going away", <[Branch]>::is_empty).await?;
    progress.clear();
    progress.say("the cluster is gone");
    Ok(times)
}

async fn wait(
    world: &World,
    progress: &mut Progress,
    chapter: &'static str,
    mut is_over: impl FnMut(&[Branch]) -> bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + CHAPTER_MAX;
    loop {
        let clusters = world.clusters();
        progress.show(&clusters);
        if is_over(&clusters) {
            return Ok(());
        }
        if let Some(ended) = world.ended() {
            return Err(Error::ActorEnded(ended));
        }
        if Instant::now() >= deadline {
            let rows = tree::rows(&clusters);
            let tree = rows
                .iter()
                .map(|row| row.text(0))
                .collect::<Vec<_>>()
                .join("\n");
            return Err(Error::TooLong { chapter, tree });
        }
        sleep(progress.frame()).await;
    }
}

/// When machines were first seen, and when they ran.
#[derive(Debug, Default)]
struct Arrivals {
    seen: BTreeMap<String, Instant>,
    took: Times,
    present: usize,
    running: usize,
}

impl Arrivals {
    fn note(&mut self, clusters: &[Branch]) {
        let now = Instant::now();
        let machines = clusters
            .iter()
            .flat_map(Branch::walk)
            .filter(|b| b.kind == "Machine");
        (self.present, self.running) = (0, 0);
        for machine in machines {
            let since = *self.seen.entry(machine.name.clone()).or_insert(now);
            self.present += 1;
            if machine.phase.as_deref() == Some("Running") {
                self.running += 1;
                self.took.entry(machine.name.clone()).or_insert(now - since);
            }
        }
    }
}

/// How many machines the manifest asks for.
fn machines_wanted(manifest: &Manifest) -> usize {
    let of = |object: &kube::api::DynamicObject| {
        let kind = object
            .types
            .as_ref()
            .map(|types| types.kind.as_str())
            .unwrap_or_default();
        match kind {
            "Machine" => 1,
            "KubeadmControlPlane" | "MachineDeployment" | "MachineSet" => {
                let replicas = object
                    .data
                    .pointer("/spec/replicas")
                    .and_then(Value::as_u64);
                replicas
                    .and_then(|count| usize::try_from(count).ok())
                    .unwrap_or(1)
            }
            _ => 0,
        }
    };
    manifest.objects.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_asks_for_three_machines() {
        let text = include_str!("cluster.yaml");
        let manifest = Manifest::parse("cluster.yaml".to_owned(), text).unwrap();
        assert_eq!(machines_wanted(&manifest), 3);
    }
}
