//! Nodes of workload clusters: provider ids and drains that facts ask for.
//!
//! # Guarantees
//!
//! Passes only say what they wish and never wait for it. Each workload cluster with wishes is served
//! by one future: one client, at most one watch, a bounded number of drains. Without wishes there is
//! no request; a wish that is fulfilled, as `Machine.status.nodeRef` shows after any restart, is none
//! (R12, R13). All of it ends with the engine.

mod drain;
mod identify;
mod reach;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Drained, InfraMachine, MachineScope, NodeWish, ObjectName};
use futures::future::{BoxFuture, FutureExt, join};
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use self::reach::Clients;
use super::store::cluster_of;
use super::world::{Topic, World};
use crate::engine::News;
use crate::events::Recorder;
use crate::options::Options;

/// Annotation of an InfraMachine whose node is, or was, cordoned for it: when that was first asked
/// for. It goes once the node is uncordoned.
pub(crate) const DRAIN_ANNOTATION: &str = "capi-rs.dev/drain";

/// Delays between tries. A control plane takes a minute or two to come up, and one that is gone must
/// not cost more than a request a minute.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long a workload cluster without wishes stays connected: machines that are rolled out come one
/// after another, and each new watch lists all nodes.
const LINGER: Duration = Duration::from_secs(60);
/// How many machines an Event about an unreachable cluster goes to.
const TOLD_MAX: usize = 5;
/// After how many failures in a row an initialised cluster is called unreachable: about a minute.
const TOLD_AFTER: u32 = 5;

/// What is wished of the Node of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    /// Uid of the InfraMachine: another one of that name has another Node.
    uid: Option<String>,
    node: String,
    provider_id: Option<String>,
    drain: Option<Drain>,
    /// Whether the Node may still be cordoned for a drain that is not wished any more.
    uncordon: bool,
}

/// A drain that is wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Drain {
    within: Duration,
    since: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry {
    wish: Wish,
    /// Whether the Node has its provider id, or another that cannot be changed.
    is_identified: bool,
    is_uncordoned: bool,
    drained: Option<Drained>,
}

impl Entry {
    fn wants_id(&self) -> bool {
        self.wish.provider_id.is_some() && !self.is_identified
    }

    fn wants_chore(&self) -> bool {
        let drains = self.wish.drain.is_some() && self.drained.is_none();
        drains || (self.wish.uncordon && !self.is_uncordoned)
    }
}

/// The wishes of one workload cluster.
#[derive(Debug, Default)]
struct Charge {
    is_initialized: bool,
    entries: HashMap<ObjectName, Entry>,
}

impl Charge {
    fn is_idle(&self) -> bool {
        !self
            .entries
            .values()
            .any(|e| e.wants_id() || e.wants_chore())
    }
}

#[derive(Debug, Default)]
struct Book {
    by_cluster: HashMap<ObjectName, Charge>,
    cluster_of: HashMap<ObjectName, ObjectName>,
}

/// What passes wish of nodes.
pub(crate) struct Wishes {
    book: Mutex<Book>,
    changes: watch::Sender<u64>,
}

impl Wishes {
    pub(crate) fn new() -> Self {
        Self {
            book: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Takes in what a machine's facts ask for, in place of what they asked before.
    pub(crate) fn note<O, C>(
        &self,
        scope: &MachineScope<O, C>,
        wish: Option<&NodeWish>,
        provider_id: Option<&str>,
    ) where
        O: capi_contract::Object,
    {
        let name = scope.name();
        let Some(cluster) = cluster_of(&scope.machine) else {
            return;
        };
        let is_initialized = scope
            .owner_cluster
            .status
            .initialization
            .control_plane_initialized;
        self.put(
            name,
            cluster,
            is_initialized,
            wish_of(scope, wish, provider_id),
        );
    }

    fn put(&self, name: ObjectName, cluster: ObjectName, is_initialized: bool, wish: Option<Wish>) {
        let Some(wish) = wish else {
            self.forget(&name);
            return;
        };
        let mut book = self.book.lock();
        book.cluster_of.insert(name.clone(), cluster.clone());
        let charge = book.by_cluster.entry(cluster).or_default();
        let is_news = charge.is_initialized != is_initialized;
        charge.is_initialized = is_initialized;
        let before = charge.entries.remove(&name);
        let is_same = before.as_ref().is_some_and(|entry| entry.wish == wish);
        let of_same = before
            .as_ref()
            .filter(|entry| entry.wish.uid == wish.uid && entry.wish.node == wish.node);
        let entry = Entry {
            is_identified: of_same
                .is_some_and(|e| e.is_identified && e.wish.provider_id == wish.provider_id),
            is_uncordoned: is_same && before.as_ref().is_some_and(|e| e.is_uncordoned),
            drained: of_same
                .filter(|_| wish.drain.is_some())
                .and_then(|e| e.drained),
            wish,
        };
        charge.entries.insert(name, entry);
        drop(book);
        if !is_same || is_news {
            self.changed();
        }
    }

    /// Drops what was wished for a machine that is going or gone.
    pub(crate) fn forget(&self, name: &ObjectName) {
        let mut book = self.book.lock();
        let Some(cluster) = book.cluster_of.remove(name) else {
            return;
        };
        if let Some(charge) = book.by_cluster.get_mut(&cluster) {
            charge.entries.remove(name);
            if charge.entries.is_empty() {
                book.by_cluster.remove(&cluster);
            }
        }
        drop(book);
        self.changed();
    }

    /// How the drain of a machine's node ended.
    pub(crate) fn drained(&self, name: &ObjectName) -> Option<Drained> {
        self.entry(name, |entry| entry.drained).flatten()
    }

    fn entry<T>(&self, name: &ObjectName, read: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut book = self.book.lock();
        let cluster = book.cluster_of.get(name)?.clone();
        let entry = book.by_cluster.get_mut(&cluster)?.entries.get_mut(name)?;
        Some(read(entry))
    }

    fn wish(&self, name: &ObjectName) -> Option<Wish> {
        self.entry(name, |entry| entry.wish.clone())
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn busy_clusters(&self) -> Vec<ObjectName> {
        let book = self.book.lock();
        let busy = book
            .by_cluster
            .iter()
            .filter(|(_, charge)| !charge.is_idle());
        busy.map(|(cluster, _)| cluster.clone()).collect()
    }

    fn charge<T: Default>(&self, cluster: &ObjectName, read: impl FnOnce(&Charge) -> T) -> T {
        let book = self.book.lock();
        book.by_cluster.get(cluster).map(read).unwrap_or_default()
    }

    fn is_idle(&self, cluster: &ObjectName) -> bool {
        !self.charge(cluster, |charge| !charge.is_idle())
    }

    fn is_initialized(&self, cluster: &ObjectName) -> bool {
        self.charge(cluster, |charge| charge.is_initialized)
    }

    /// Machines that want their provider id written, with their Node and the id.
    fn unidentified(&self, cluster: &ObjectName) -> Vec<(ObjectName, String, String)> {
        self.charge(cluster, |charge| {
            let all = charge.entries.iter().filter(|(_, entry)| entry.wants_id());
            all.filter_map(|(name, entry)| {
                let id = entry.wish.provider_id.clone()?;
                Some((name.clone(), entry.wish.node.clone(), id))
            })
            .collect()
        })
    }

    /// Machines whose Node is to be drained or uncordoned, in order of their names.
    fn chores(&self, cluster: &ObjectName) -> Vec<ObjectName> {
        self.charge(cluster, |charge| {
            let all = charge
                .entries
                .iter()
                .filter(|(_, entry)| entry.wants_chore());
            let mut names: Vec<_> = all.map(|(name, _)| name.clone()).collect();
            names.sort();
            names
        })
    }
}

/// What is to be done at a Node; `None` if that is nothing.
fn wish_of<O: capi_contract::Object, C>(
    scope: &MachineScope<O, C>,
    wish: Option<&NodeWish>,
    provider_id: Option<&str>,
) -> Option<Wish> {
    let object = &scope.object;
    let joined = scope.machine.status.node_ref.as_ref();
    let since = object.annotations().get(DRAIN_ANNOTATION);
    let wanted = wish.filter(|_| !scope.leaving);
    let drain = wanted
        .and_then(|wish| wish.drain_within)
        .map(|within| Drain {
            within,
            // One that cannot be read counts from now, and is written anew.
            since: since.and_then(|text| text.parse().ok()),
        });
    let provider_id = wanted
        .filter(|wish| wish.provider_id && joined.is_none())
        .and(provider_id);
    let uncordon = since.is_some() && drain.is_none() && !scope.leaving;
    if provider_id.is_none() && drain.is_none() && !uncordon {
        return None;
    }
    let node = joined.map(|node| node.name.clone());
    let named = || wish.and_then(|wish| wish.name.clone());
    Some(Wish {
        uid: object.uid(),
        node: node.or_else(named).unwrap_or_else(|| object.name_any()),
        provider_id: provider_id.map(str::to_owned),
        drain,
        uncordon,
    })
}

/// Serves the wishes.
pub(crate) struct Nodes<IM: InfraMachine> {
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) world: Arc<World<<IM as InfraMachine>::Cluster, <IM as InfraMachine>::Kind>>,
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) options: Options,
    clients: Clients,
}

impl<IM: InfraMachine> Nodes<IM> {
    pub(crate) fn new(
        wishes: Arc<Wishes>,
        world: Arc<World<<IM as InfraMachine>::Cluster, <IM as InfraMachine>::Kind>>,
        client: Client,
        recorder: Recorder,
        options: Options,
    ) -> Self {
        let clients = Clients::new(client.clone(), options.dial.clone());
        Self {
            wishes,
            world,
            client,
            recorder,
            options,
            clients,
        }
    }

    /// Serves every workload cluster that has wishes, for ever.
    pub(crate) async fn serve(&self) {
        let mut changes = self.wishes.changes.subscribe();
        let mut served: HashSet<ObjectName> = HashSet::new();
        let mut running: FuturesUnordered<BoxFuture<'_, ObjectName>> = FuturesUnordered::new();
        loop {
            changes.borrow_and_update();
            for cluster in self.wishes.busy_clusters() {
                if served.insert(cluster.clone()) {
                    running.push(self.serve_one(cluster).boxed());
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                Some(cluster) = running.next(), if !running.is_empty() => {
                    served.remove(&cluster);
                    let world = &self.world;
                    self.clients.retain(|cluster| world.clusters.get(cluster).is_some());
                }
            }
        }
    }

    async fn serve_one(&self, cluster: ObjectName) -> ObjectName {
        tokio::select! {
            _ = join(self.identify(&cluster), self.do_chores(&cluster)) => {}
            () = self.until_quiet(&cluster) => {}
        }
        cluster
    }

    /// Waits until there were no wishes for a while.
    async fn until_quiet(&self, cluster: &ObjectName) {
        let mut changes = self.wishes.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let is_idle = self.wishes.is_idle(cluster);
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(LINGER), if is_idle => return,
            }
        }
    }

    /// Whether this process may act.
    fn leads(&self) -> bool {
        self.options.leadership.holds()
    }

    /// Says that a workload cluster does not answer, once that is worth knowing.
    fn report(&self, cluster: &ObjectName, error: &reach::Unreached, failures: u32) {
        let why = crate::cause::chain(error);
        tracing::debug!(%cluster, why, failures, "workload cluster could not be served");
        self.options
            .telemetry
            .error("node", "Workload", error.label());
        if failures < TOLD_AFTER || !self.wishes.is_initialized(cluster) {
            return;
        }
        let wishing = self
            .wishes
            .unidentified(cluster)
            .into_iter()
            .map(|(name, ..)| name);
        let names: Vec<_> = wishing
            .chain(self.wishes.chores(cluster))
            .take(TOLD_MAX)
            .collect();
        let message = format!("the workload cluster {cluster} does not do what is asked: {why}");
        for name in names {
            self.announce(&name, "WorkloadClusterUnreachable", &message);
        }
    }

    fn announce(&self, machine: &ObjectName, reason: &str, message: &str) {
        if let Some(object) = self.world.infra_machines.get(machine) {
            let news = News {
                warning: true,
                reason,
                message,
            };
            self.recorder.record(object.as_ref(), news);
        }
    }

    fn wake(&self, machine: &ObjectName) {
        self.world.wake(&Topic::Node(machine.clone()));
    }
}
