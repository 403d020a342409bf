//! What happens, in order: come up, grow, heal, move where that is possible, upgrade, go away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capi_testkit::core::{Branch, Line};
use tokio::time::{Instant, sleep};

use crate::cast::{Cast, Day, NEWER, Owner};
use crate::chapter::Chapter;
use crate::manifest::Manifest;
use crate::platform::{Nodes, Place};
use crate::progress::Progress;
use crate::tree;
use crate::world::{World, WorldError};

/// How long one chapter may take, before the story is told as failed. Of a calm run the longest needs
/// three quarters of a minute. Under faults an unanswered create is waited out for a minute or more
/// each time, in real time, and an upgrade makes its machines one after the other.
const CHAPTER_MAX: Duration = Duration::from_secs(1800);

/// Why the story did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    World(#[from] WorldError),
    #[error("{chapter} took more than {} s; it waits here:\n{tree}", CHAPTER_MAX.as_secs())]
    TooLong { chapter: &'static str, tree: String },
    #[error("{0} stopped before the end")]
    ActorEnded(&'static str),
    #[error("no worker's VM was found to be destroyed")]
    NoVictim,
    #[error("there is no node whose VMs can all be moved while they run")]
    NoTenant,
    #[error("VM {0} did not move but was restarted")]
    Restarted(String),
    #[error("draining a node had machines replaced")]
    Replaced,
}

/// What is remembered of a story that ended.
#[derive(Debug, Default)]
pub(crate) struct Chronicle {
    /// How long each machine took, from its first sight to a running node.
    pub(crate) times: BTreeMap<String, Duration>,
    /// How long each chapter took.
    pub(crate) chapters: Vec<(&'static str, Duration)>,
}

/// How much of the story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// The first chapter.
    Up,
    /// The first and the last one: what any manifest can play.
    UpAndDown,
    /// All that the manifest can play.
    WholeDay,
}

/// A story that is being told.
pub(crate) struct Story<'a> {
    world: &'a World,
    manifest: &'a Manifest,
    progress: &'a mut Progress,
    cast: Cast,
    /// How many chapters it will have.
    count: usize,
    seen: BTreeMap<String, Instant>,
    chronicle: Chronicle,
}

impl<'a> Story<'a> {
    /// A story of this manifest.
    pub(crate) fn new(
        world: &'a World,
        manifest: &'a Manifest,
        length: Length,
        progress: &'a mut Progress,
    ) -> Self {
        let mut cast = Cast::of(manifest, world.profile());
        if length != Length::WholeDay {
            cast.day = Err("--whole-day was not given");
        }
        let count = match length {
            Length::Up => 1,
            Length::WholeDay if cast.day.is_ok() => {
                5 + usize::from(cast.day.as_ref().is_ok_and(|day| day.moves))
            }
            Length::UpAndDown | Length::WholeDay => 2,
        };
        Self {
            world,
            manifest,
            progress,
            cast,
            count,
            seen: BTreeMap::new(),
            chronicle: Chronicle::default(),
        }
    }

    /// Tells it to its end.
    pub(crate) async fn tell(mut self) -> Result<Chronicle, Error> {
        self.come_up().await?;
        match self.cast.day.clone() {
            Ok(day) => {
                self.grow(&day).await?;
                self.heal(&day).await?;
                if let Some(nodes) = self.world.platform().nodes().filter(|_| day.moves) {
                    self.drain(nodes).await?;
                }
                self.upgrade(&day).await?;
            }
            Err(why) => {
                self.progress
                    .say("growing, healing and upgrading are left out:");
                self.progress.say(&format!("  {why}"));
            }
        }
        self.go_away().await?;
        Ok(self.chronicle)
    }

    /// Applies the manifest and waits until every machine runs.
    pub(crate) async fn come_up(&mut self) -> Result<(), Error> {
        let begun = self.begin(&Chapter::coming_up(&self.manifest.source));
        self.world.apply(self.manifest).await?;
        let count = self.manifest.objects.len();
        self.progress.say(&format!("applied {count} objects"));
        let wanted = self.cast.machines;
        self.wait("coming up", |now| now.all_run(wanted)).await?;
        self.end(begun, &format!("all {wanted} machines run and are nodes"));
        Ok(())
    }

    async fn grow(&mut self, day: &Day) -> Result<(), Error> {
        let begun = self.begin(&Chapter::growing(day));
        self.world.scale(&day.workers, day.workers()).await?;
        self.world.scale(&day.plane, day.planes()).await?;
        self.wait("growing", |now| now.all_run(day.grown)).await?;
        self.end(begun, &format!("all {} machines run", day.grown));
        Ok(())
    }

    async fn heal(&mut self, day: &Day) -> Result<(), Error> {
        let clusters = self.world.clusters();
        let now = Now::of(&clusters);
        let victim = now
            .machines_of(&day.workers)
            .into_iter()
            .find_map(|machine| {
                let vm = self.world.platform().vm_of(&infra_of(machine)?.name)?;
                Some((machine.name.clone(), vm))
            });
        let (machine, vm) = victim.ok_or(Error::NoVictim)?;
        let begun = self.begin(&Chapter::healing((self.world.profile().destroy)(&vm)));
        self.world.platform().destroy(&vm).await?;
        // One that is called as its machine is not named twice.
        let of = if vm.0.ends_with(&machine) {
            String::new()
        } else {
            format!(" of Machine/{machine}")
        };
        self.progress
            .say(&format!("VM {vm}{of} is destroyed, with its disks"));
        self.wait("reporting a lost VM", |now| {
            now.machine(&machine)
                .is_none_or(|it| complaint(it).is_some() || it.is_deleting)
        })
        .await?;
        self.tell_of(&machine, "the provider reports it", complaint);
        self.wait("health checking", |now| {
            now.machine(&machine)
                .is_none_or(|it| verdict(it).is_some() || it.is_deleting)
        })
        .await?;
        self.tell_of(
            &machine,
            &format!("MachineHealthCheck/{} says so, too", day.check),
            verdict,
        );
        self.wait("replacing a lost machine", |now| {
            now.machine(&machine).is_none() && now.all_run(day.grown)
        })
        .await?;
        self.end(
            begun,
            &format!("{machine} is replaced; all {} machines run", day.grown),
        );
        Ok(())
    }

    /// Drains the node with the most VMs.
    async fn drain(&mut self, nodes: &dyn Nodes) -> Result<(), Error> {
        let before = nodes.places();
        let node = busiest(&before).ok_or(Error::NoTenant)?;
        let begun = self.begin(&Chapter::draining(nodes.drain_command(&node)));
        let machines = self.machines();
        nodes.drain(&node).await?;
        let has_left = |vm: &String| nodes.places().get(vm).is_some_and(|it| it.node != node);
        self.wait("draining a node", |_| before.keys().all(has_left))
            .await?;
        let after = nodes.places();
        let mut moved = 0;
        for (vm, place) in before.iter().filter(|(_, place)| place.node == node) {
            let now = after.get(vm).filter(|now| now.run == place.run);
            let now = now.ok_or_else(|| Error::Restarted(vm.clone()))?;
            self.progress
                .say(&format!("VM {vm}: {node} -> {}", now.node));
            moved += 1;
        }
        if self.machines() != machines {
            return Err(Error::Replaced);
        }
        let moved = format!("{node} is empty: {moved} VMs moved, all machines are the same");
        self.end(begun, &moved);
        Ok(())
    }

    /// The names of all machines.
    fn machines(&self) -> BTreeSet<String> {
        let clusters = self.world.clusters();
        let now = Now::of(&clusters);
        now.machines.iter().map(|it| it.name.clone()).collect()
    }

    async fn upgrade(&mut self, day: &Day) -> Result<(), Error> {
        let begun = self.begin(&Chapter::upgrading(day));
        for (owner, others) in [(&day.plane, day.workers()), (&day.workers, 0)] {
            self.world.copy_template(self.manifest, owner).await?;
            self.world.upgrade(owner).await?;
            // The workers still run the old version while the control plane is replaced.
            self.wait("upgrading", |now| {
                now.all_run(day.grown) && now.count_of(NEWER) + others == day.grown
            })
            .await?;
            self.progress
                .say(&format!("{} {} runs {NEWER}", owner.kind, owner.name));
        }
        self.end(begun, &format!("all {} machines run {NEWER}", day.grown));
        Ok(())
    }

    async fn go_away(&mut self) -> Result<(), Error> {
        let world = self.world;
        // A story that is shorter than the provider's troubles waits for them.
        self.wait("waiting for the provider to be killed", |_| {
            world.kills().are_nearly_done()
        })
        .await?;
        let begun = self.begin(&Chapter::going_away(&self.cast.clusters));
        world.kills().call_the_last();
        world.delete_clusters(self.manifest).await?;
        let all_killed = || world.kills().done() >= world.kills().planned();
        self.wait("going away", |now| now.clusters.is_empty() && all_killed())
            .await?;
        self.progress.clear();
        self.progress.say("the cluster is gone");
        self.note(begun);
        Ok(())
    }

    fn begin(&mut self, chapter: &Chapter) -> (&'static str, Instant) {
        let number = self.chronicle.chapters.len() + 1;
        for line in chapter.heading(number, self.count) {
            self.progress.line(&line);
        }
        (chapter.title, Instant::now())
    }

    fn end(&mut self, begun: (&'static str, Instant), text: &str) {
        self.progress.keep(&self.world.clusters());
        self.progress.say(text);
        self.note(begun);
    }

    fn note(&mut self, (title, at): (&'static str, Instant)) {
        self.chronicle.chapters.push((title, at.elapsed()));
    }

    fn tell_of(&self, machine: &str, who: &str, what: impl Fn(&Branch) -> Option<&Line>) {
        let clusters = self.world.clusters();
        // Gone already, if it was quick.
        if let Some(line) = Now::of(&clusters).machine(machine).and_then(what) {
            self.progress
                .say(&format!("{who}: {}: {}", line.reason, line.message));
        }
    }

    async fn wait(
        &mut self,
        chapter: &'static str,
        mut is_over: impl FnMut(&Now<'_>) -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + CHAPTER_MAX;
        loop {
            for news in self.world.kills().take_news() {
                self.progress.say(&news);
            }
            let clusters = self.world.clusters();
            self.progress.show(&clusters);
            let now = Now::of(&clusters);
            self.note_arrivals(&now);
            if is_over(&now) {
                return Ok(());
            }
            if let Some(ended) = self.world.ended() {
                return Err(Error::ActorEnded(ended));
            }
            if Instant::now() >= deadline {
                let rows = tree::rows(&clusters);
                let rows: Vec<_> = rows.iter().map(|row| row.text(0)).collect();
                let tree = rows.join("\n");
                return Err(Error::TooLong { chapter, tree });
            }
            sleep(self.progress.frame()).await;
        }
    }

    fn note_arrivals(&mut self, now: &Now<'_>) {
        let moment = Instant::now();
        for machine in &now.machines {
            let name = &machine.name;
            let since = *self.seen.entry(name.clone()).or_insert(moment);
            if runs(machine) {
                let times = &mut self.chronicle.times;
                times.entry(name.clone()).or_insert(moment - since);
            }
        }
    }
}

/// How the clusters stand at one moment.
struct Now<'a> {
    clusters: &'a [Branch],
    machines: Vec<&'a Branch>,
}

impl<'a> Now<'a> {
    fn of(clusters: &'a [Branch]) -> Self {
        let all = clusters.iter().flat_map(Branch::walk);
        Self {
            clusters,
            machines: all.filter(|branch| branch.kind == "Machine").collect(),
        }
    }

    /// Whether there are so many machines, no more, and all run.
    fn all_run(&self, wanted: usize) -> bool {
        self.machines.len() == wanted && self.machines.iter().all(|machine| runs(machine))
    }

    /// How many nodes run this version.
    fn count_of(&self, version: &str) -> usize {
        let is_of = |machine: &&&Branch| machine.version.as_deref() == Some(version);
        self.machines.iter().filter(is_of).count()
    }

    fn machine(&self, name: &str) -> Option<&'a Branch> {
        self.machines.iter().find(|it| it.name == name).copied()
    }

    fn machines_of(&self, owner: &Owner) -> Vec<&'a Branch> {
        let all = self.clusters.iter().flat_map(Branch::walk);
        let is_owner = |branch: &&Branch| branch.kind == owner.kind && branch.name == owner.name;
        let owned: BTreeSet<_> = all
            .filter(is_owner)
            .flat_map(Branch::walk)
            .map(|branch| branch.name.as_str())
            .collect();
        let machines = self.machines.iter().copied();
        machines
            .filter(|it| owned.contains(it.name.as_str()))
            .collect()
    }
}

/// The node with the most VMs; among equals the first. All of its VMs can be moved.
fn busiest(places: &BTreeMap<String, Place>) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for place in places.values() {
        *counts.entry(&place.node).or_default() += 1;
    }
    let stays = |node: &str| places.values().any(|it| it.node == node && !it.moves);
    counts.retain(|node, _| !stays(node));
    let most = counts.values().copied().max()?;
    let node = counts.into_iter().find(|(_, count)| *count == most);
    node.map(|(node, _)| node.to_owned())
}

fn runs(machine: &Branch) -> bool {
    machine.phase.as_deref() == Some("Running") && !machine.is_deleting
}

fn infra_of(machine: &Branch) -> Option<&Branch> {
    let mut children = machine.children.iter();
    children.find(|child| !child.kind.ends_with("Config"))
}

/// What the infra machine's `Ready` says, if it is not well.
fn complaint(machine: &Branch) -> Option<&Line> {
    let ready = infra_of(machine)?.condition("Ready")?;
    (ready.status == "False").then_some(ready)
}

/// What the health check says, if it is not well.
fn verdict(machine: &Branch) -> Option<&Line> {
    let health = machine.condition("HealthCheckSucceeded")?;
    (health.status == "False").then_some(health)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_to_drain_has_the_most_vms_and_none_that_would_end() {
        let places = |all: &[(&str, &str, bool)]| {
            let all = all.iter().map(|(vm, node, moves)| {
                let place = Place {
                    node: (*node).to_owned(),
                    run: String::new(),
                    moves: *moves,
                };
                ((*vm).to_owned(), place)
            });
            busiest(&all.collect())
        };
        assert_eq!(places(&[]), None);
        assert_eq!(places(&[("a", "n1", false)]), None);
        let all = [
            ("a", "n1", true),
            ("b", "n2", true),
            ("c", "n2", true),
            ("d", "n3", true),
            ("e", "n3", true),
            ("f", "n3", false),
        ];
        assert_eq!(places(&all).as_deref(), Some("n2"));
        assert_eq!(places(&all[..2]).as_deref(), Some("n1"), "the first");
    }
}
