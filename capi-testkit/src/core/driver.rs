//! The loop that every actor runs in: watches fill the store, changes fill the queue, passes run a
//! few at a time. All of it is one future; dropping that stops everything.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, SelectAll};
use futures::{Stream, StreamExt};
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::hub::{Hub, Result};
use super::object::{Kind, Object};
use super::queue::{Outcome, Queue};
use super::store::{Change, Store};
use super::word::CRD;

/// Passes at a time. Controller-runtime's managers run ten per kind; an actor here has about seven
/// kinds, and beyond some dozens the server is the limit.
const PASSES_MAX: usize = 64;

/// What one pass answers: nothing more to do until a change, or a look this much later.
pub type Again = Option<Duration>;

/// A set of controllers that share a store.
pub trait Actor: Sync {
    /// Names one thing to reconcile.
    type Key: Clone + Eq + Hash + Debug + Send + Sync;

    /// Its store, writes and clock.
    fn hub(&self) -> &Hub;
    /// What has to be looked at after a change.
    fn affected(&self, change: &Change) -> Vec<Self::Key>;
    /// What has to be looked at when the first list of a kind is complete.
    fn synced(&self, kind: &Kind) -> Vec<Self::Key>;
    /// The least distance between two passes over one thing. Aggregates have one, so that a set of a
    /// thousand is not counted anew for each of its thousand changes.
    fn pace(&self, key: &Self::Key) -> Duration;
    /// What passes found to need a look themselves; takes them.
    fn wishes(&self) -> Vec<Self::Key>;
    /// One pass over one thing; at most one runs per key.
    fn reconcile<'a>(&'a self, key: &'a Self::Key) -> BoxFuture<'a, Result<Again>>;
}

type Events = BoxStream<
    'static,
    (
        Kind,
        std::result::Result<Event<DynamicObject>, watcher::Error>,
    ),
>;

/// Runs an actor until the future is dropped. `outside` brings wishes that no watch knows of.
pub async fn drive<A: Actor>(
    actor: &A,
    outside: impl Stream<Item = A::Key> + Send,
) -> std::convert::Infallible {
    let hub = actor.hub();
    let mut outside = std::pin::pin!(outside.chain(stream::pending()));
    let mut watches: SelectAll<Events> = SelectAll::new();
    let mut queue = Queue::new();
    let mut running = FuturesUnordered::new();
    let mut is_started = false;
    loop {
        for resource in hub.take_wanted() {
            watches.push(events(hub.api(&resource, ""), &resource));
        }
        let now = Instant::now();
        for change in hub.take_changes() {
            enqueue(actor, &mut queue, &change, now);
        }
        for key in actor.wishes() {
            queue.add(key, now);
        }
        is_started = is_started || hub.read(Store::is_all_synced);
        if is_started {
            while running.len() < PASSES_MAX
                && let Some(key) = queue.take(now)
            {
                running.push(pass(actor, key));
            }
        }
        let can_wait = is_started && running.len() < PASSES_MAX;
        let due = queue.due().filter(|_| can_wait);
        tokio::select! {
            biased;
            Some((kind, event)) = watches.next(), if !watches.is_empty() => {
                let now = Instant::now();
                for change in take_in(hub, &kind, event) {
                    enqueue(actor, &mut queue, &change, now);
                }
                if hub.read(|store| store.is_synced(&kind)) {
                    for key in newly_synced(actor, &kind) {
                        queue.add(key, now);
                    }
                }
            }
            Some((key, outcome)) = running.next(), if !running.is_empty() => {
                let pace = actor.pace(&key);
                queue.done(key, Instant::now(), outcome, pace);
            }
            Some(key) = outside.next() => queue.add(key, Instant::now()),
            () = hub.rung() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// Asked after every event of a kind, but answers once, right after the kind's first list.
fn newly_synced<A: Actor>(actor: &A, kind: &Kind) -> Vec<A::Key> {
    if actor.hub().write(|store| store.announce(kind)) {
        actor.synced(kind)
    } else {
        Vec::new()
    }
}

fn enqueue<A: Actor>(actor: &A, queue: &mut Queue<A::Key>, change: &Change, now: Instant) {
    for key in actor.affected(change) {
        queue.add(key, now);
    }
}

async fn pass<A: Actor>(actor: &A, key: A::Key) -> (A::Key, Outcome) {
    let outcome = match actor.reconcile(&key).await {
        Ok(again) => Outcome::Settled(again),
        Err(fault) => {
            if fault.is_conflict() {
                tracing::debug!(object = ?key, error = %fault.in_full(), "looks again");
            } else {
                tracing::info!(object = ?key, error = %fault.in_full(), "cannot reconcile");
            }
            Outcome::Failed
        }
    };
    (key, outcome)
}

fn take_in(
    hub: &Hub,
    kind: &Kind,
    event: std::result::Result<Event<DynamicObject>, watcher::Error>,
) -> Vec<Change> {
    let put = |object: DynamicObject| {
        let object = Object::new(slim(kind, object));
        hub.write(|store| store.put(kind, object))
    };
    match event {
        Ok(Event::Apply(object) | Event::InitApply(object)) => put(object).into_iter().collect(),
        Ok(Event::Delete(object)) => {
            let object = Object::new(object);
            hub.write(|store| store.take(kind, &object.key(), object.uid()))
                .into_iter()
                .collect()
        }
        Ok(Event::Init) => {
            hub.write(|store| store.relist(kind));
            Vec::new()
        }
        Ok(Event::InitDone) => hub.write(|store| store.relisted(kind)),
        Err(fault) => {
            tracing::debug!(%kind, error = %fault, "watch interrupted");
            if is_not_served(&fault) {
                // A kind that is not installed has no objects; actors need not wait for it.
                return hub.write(|store| store.relisted(kind));
            }
            Vec::new()
        }
    }
}

/// Of definitions only names and labels are read; schemas are most of their size.
fn slim(kind: &Kind, mut object: DynamicObject) -> DynamicObject {
    if *kind == CRD
        && let Some(spec) = object.data.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("versions");
    }
    object
}

fn is_not_served(fault: &watcher::Error) -> bool {
    matches!(fault, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// A watch refused with 410 goes on from the same stale version for ever in kube's watcher; only a new
/// one lists again.
fn is_stuck(fault: &watcher::Error) -> bool {
    matches!(fault, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn events(api: Api<DynamicObject>, resource: &ApiResource) -> Events {
    let kind = Kind::of(resource);
    let open = move || {
        watcher::watcher(api.clone(), watcher::Config::default().any_semantic())
            .default_backoff()
            .boxed()
    };
    let first = open();
    stream::unfold((first, open), |(mut inner, open)| async move {
        let event = inner.next().await?;
        if event.as_ref().is_err_and(is_stuck) {
            inner = open();
        }
        Some((event, (inner, open)))
    })
    .map(move |event| (kind.clone(), event))
    .boxed()
}
