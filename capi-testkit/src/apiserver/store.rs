//! The store: one revision counter over all objects, and a bounded history of changes.
//!
//! A write takes the next revision, which becomes the object's `resourceVersion`. Per resource the
//! last changes are kept in order, so that watches go on from a revision and lists show the past.
//! What is older than the horizon is gone, as after compaction in etcd.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

/// Changes kept per resource. Twice the largest sweep world's objects times its writes per second;
/// a watcher that is further behind is told to list again, as by a real watch cache.
pub(crate) const HISTORY_DEFAULT: usize = 4096;

/// An object at one revision. Encoded at most once, shared by all readers.
#[derive(Debug)]
pub(crate) struct Object {
    value: Value,
    revision: u64,
    encoded: OnceLock<Bytes>,
}

impl Object {
    fn at(mut value: Value, revision: u64) -> Self {
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        Self {
            value,
            revision,
            encoded: OnceLock::new(),
        }
    }

    /// An answer that was never stored (dry runs keep the revision of what they would replace).
    pub(crate) fn unstored(value: Value) -> Self {
        Self {
            value,
            revision: 0,
            encoded: OnceLock::new(),
        }
    }

    /// The same state under another revision.
    pub(crate) fn moved_to(&self, revision: u64) -> Self {
        Self::at(self.value.clone(), revision)
    }

    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The object as JSON in the version it is stored in.
    pub(crate) fn encoded(&self) -> Bytes {
        self.encoded
            .get_or_init(|| Bytes::from(self.value.to_string()))
            .clone()
    }

    /// A string below `metadata`.
    pub(crate) fn meta(&self, field: &str) -> Option<&str> {
        self.value["metadata"][field].as_str()
    }

    pub(crate) fn uid(&self) -> &str {
        self.meta("uid").unwrap_or_default()
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.meta("deletionTimestamp").is_some()
    }

    pub(crate) fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.value["metadata"]["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }
}

/// Where an object lives inside its resource. Cluster-scoped objects have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A place in the whole store: the resource's collection (`machines.cluster.x-k8s.io`) and the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) collection: Arc<str>,
    pub(crate) key: Key,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) change: Change,
    pub(crate) key: Key,
    /// The new state; for a deletion the last state, at the deletion's revision.
    pub(crate) object: Arc<Object>,
    pub(crate) previous: Option<Arc<Object>>,
}

impl Event {
    pub(crate) fn revision(&self) -> u64 {
        self.object.revision
    }
}

/// What to do with an object.
#[derive(Debug)]
pub(crate) enum Write {
    /// Store this state.
    Put(Value),
    /// Remove the object; its last state goes to the watchers.
    Remove(Value),
}

/// Why a write did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It was to be created and exists.
    Exists,
    /// It is no longer at the revision that the write rests on.
    Moved,
}

/// The past asked for is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Oldest revision that still works.
    pub(crate) oldest: u64,
}

/// Objects at one revision, in key order.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) objects: Vec<(Key, Arc<Object>)>,
}

#[derive(Debug)]
struct Collection {
    objects: BTreeMap<Key, Arc<Object>>,
    /// Changes after `horizon`, oldest first.
    events: VecDeque<Arc<Event>>,
    horizon: u64,
    changed: watch::Sender<u64>,
}

impl Collection {
    fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            events: VecDeque::new(),
            horizon: 0,
            changed: watch::Sender::new(0),
        }
    }

    fn record(&mut self, event: Event, history: usize) {
        let revision = event.revision();
        self.events.push_back(Arc::new(event));
        while self.events.len() > history {
            if let Some(dropped) = self.events.pop_front() {
                self.horizon = dropped.revision();
            }
        }
        self.changed.send_replace(revision);
    }

    /// The events after `revision`.
    fn after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self
            .events
            .partition_point(|event| event.revision() <= revision);
        self.events.range(start..)
    }
}

#[derive(Debug)]
struct State {
    revision: u64,
    history: usize,
    collections: BTreeMap<Arc<str>, Collection>,
    /// Which objects name this uid as owner.
    dependents: HashMap<String, BTreeSet<Place>>,
    /// Where the object with this uid is.
    uids: HashMap<String, Place>,
}

/// All objects of a server.
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
}

impl Store {
    pub(crate) fn new(history: usize) -> Self {
        let state = State {
            revision: 1,
            history: history.max(1),
            collections: BTreeMap::new(),
            dependents: HashMap::new(),
            uids: HashMap::new(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().revision
    }

    pub(crate) fn get(&self, collection: &str, key: &Key) -> Option<Arc<Object>> {
        self.state
            .lock()
            .collections
            .get(collection)?
            .objects
            .get(key)
            .cloned()
    }

    /// Where the object with this uid is, if it exists.
    pub(crate) fn find_uid(&self, uid: &str) -> Option<(Place, Arc<Object>)> {
        let state = self.state.lock();
        let place = state.uids.get(uid)?;
        let object = state
            .collections
            .get(&place.collection)?
            .objects
            .get(&place.key)?;
        Some((place.clone(), object.clone()))
    }

    /// Objects that name `uid` among their owners.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<(Place, Arc<Object>)> {
        let state = self.state.lock();
        let places = state.dependents.get(uid).into_iter().flatten();
        places
            .filter_map(|place| {
                let object = state
                    .collections
                    .get(&place.collection)?
                    .objects
                    .get(&place.key)?;
                Some((place.clone(), object.clone()))
            })
            .collect()
    }

    /// All objects in `namespace`, of every resource.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<(Place, Arc<Object>)> {
        let state = self.state.lock();
        let mut found = Vec::new();
        for (name, collection) in &state.collections {
            for (key, object) in namespace_range(&collection.objects, Some(namespace)) {
                let place = Place {
                    collection: name.clone(),
                    key: key.clone(),
                };
                found.push((place, object.clone()));
            }
        }
        found
    }

    /// Writes if the object is still at revision `expected` (`None`: if it does not exist).
    pub(crate) fn commit(
        &self,
        collection: &str,
        key: &Key,
        expected: Option<u64>,
        write: Write,
    ) -> Result<Arc<Object>, Refused> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let previous = state
            .collections
            .get(collection)
            .and_then(|held| held.objects.get(key));
        let previous = previous.cloned();
        match (&previous, expected) {
            (Some(_), None) => return Err(Refused::Exists),
            (Some(object), Some(revision)) if object.revision != revision => {
                return Err(Refused::Moved);
            }
            (None, Some(_)) => return Err(Refused::Moved),
            (Some(_), Some(_)) | (None, None) => {}
        }
        state.revision += 1;
        let (change, value) = match (write, &previous) {
            (Write::Put(value), None) => (Change::Added, value),
            (Write::Put(value), Some(_)) => (Change::Modified, value),
            (Write::Remove(value), _) => (Change::Deleted, value),
        };
        let object = Arc::new(Object::at(value, state.revision));
        // Watchers see an object that is gone as it was before the write that let it go.
        let shown = match (change, &previous) {
            (Change::Deleted, Some(previous)) => Arc::new(previous.moved_to(state.revision)),
            (Change::Deleted, None) | (Change::Added | Change::Modified, _) => object.clone(),
        };
        let name = state.name(collection);
        state.index(
            &name,
            key,
            previous.as_deref(),
            (change != Change::Deleted).then_some(&object),
        );
        let history = state.history;
        let held = state
            .collections
            .entry(name)
            .or_insert_with(Collection::new);
        match change {
            Change::Added | Change::Modified => {
                held.objects.insert(key.clone(), object.clone());
            }
            Change::Deleted => {
                held.objects.remove(key);
            }
        }
        let event = Event {
            change,
            key: key.clone(),
            object: shown,
            previous,
        };
        held.record(event, history);
        Ok(object)
    }

    /// How many objects a collection has.
    pub(crate) fn count(&self, collection: &str) -> usize {
        let state = self.state.lock();
        let held = state.collections.get(collection);
        held.map_or(0, |held| held.objects.len())
    }

    /// The objects at `revision`, or now. `namespace: None` means all.
    pub(crate) fn list(
        &self,
        collection: &str,
        namespace: Option<&str>,
        revision: Option<u64>,
    ) -> Result<Snapshot, Compacted> {
        let state = self.state.lock();
        let revision = revision.unwrap_or(state.revision);
        let Some(held) = state.collections.get(collection) else {
            return Ok(Snapshot {
                revision,
                objects: Vec::new(),
            });
        };
        if revision < held.horizon {
            return Err(Compacted {
                oldest: held.horizon,
            });
        }
        let now = namespace_range(&held.objects, namespace);
        let mut changed = BTreeMap::new();
        for event in held.after(revision).rev() {
            changed.insert(&event.key, event.previous.as_ref());
        }
        let mut objects: Vec<_> = now
            .filter(|(key, _)| !changed.contains_key(key))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        if !changed.is_empty() {
            let inside = |key: &Key| namespace.is_none_or(|namespace| key.namespace == namespace);
            let past = changed.into_iter().filter(|(key, _)| inside(key));
            objects.extend(past.filter_map(|(key, was)| Some((key.clone(), was?.clone()))));
            objects.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        Ok(Snapshot { revision, objects })
    }

    /// At most `batch` changes after `revision` and not after `limit`, oldest first, with the
    /// revision up to which the caller now knows everything.
    pub(crate) fn changes(
        &self,
        collection: &str,
        revision: u64,
        limit: Option<u64>,
        batch: usize,
    ) -> Result<(Vec<Arc<Event>>, u64), Compacted> {
        let state = self.state.lock();
        let until = limit.map_or(state.revision, |limit| limit.min(state.revision));
        let Some(held) = state.collections.get(collection) else {
            return Ok((Vec::new(), until.max(revision)));
        };
        if revision < held.horizon {
            return Err(Compacted {
                oldest: held.horizon,
            });
        }
        let within = held
            .after(revision)
            .take_while(|event| event.revision() <= until);
        let events: Vec<_> = within.take(batch).cloned().collect();
        let known = match events.last() {
            Some(last) if events.len() == batch => last.revision(),
            Some(_) | None => until.max(revision),
        };
        Ok((events, known))
    }

    /// Wakes when the collection changes; the value is the revision of its last change.
    pub(crate) fn subscribe(&self, collection: &str) -> watch::Receiver<u64> {
        let mut guard = self.state.lock();
        let name = guard.name(collection);
        guard
            .collections
            .entry(name)
            .or_insert_with(Collection::new)
            .changed
            .subscribe()
    }

    /// Wakes the watchers of a collection, whose resource came or went.
    pub(crate) fn wake(&self, collection: &str) {
        if let Some(held) = self.state.lock().collections.get(collection) {
            held.changed.send_modify(|_| {});
        }
    }

    /// Forgets all history: watches and lists from before now are told `Expired`.
    pub(crate) fn compact(&self) {
        let mut guard = self.state.lock();
        let revision = guard.revision;
        for held in guard.collections.values_mut() {
            held.events.clear();
            held.horizon = revision;
            held.changed.send_replace(revision);
        }
    }
}

impl State {
    /// The shared spelling of a collection's name.
    fn name(&self, collection: &str) -> Arc<str> {
        let known = self.collections.get_key_value(collection);
        known.map_or_else(|| Arc::from(collection), |(name, _)| name.clone())
    }

    fn index(
        &mut self,
        collection: &Arc<str>,
        key: &Key,
        previous: Option<&Object>,
        next: Option<&Arc<Object>>,
    ) {
        let place = Place {
            collection: collection.clone(),
            key: key.clone(),
        };
        if let Some(previous) = previous {
            self.uids.remove(previous.uid());
            for uid in owner_uids(previous) {
                if let Some(places) = self.dependents.get_mut(uid) {
                    places.remove(&place);
                    if places.is_empty() {
                        self.dependents.remove(uid);
                    }
                }
            }
        }
        if let Some(next) = next {
            self.uids.insert(next.uid().to_owned(), place.clone());
            for uid in owner_uids(next) {
                self.dependents
                    .entry(uid.to_owned())
                    .or_default()
                    .insert(place.clone());
            }
        }
    }
}

fn owner_uids(object: &Object) -> impl Iterator<Item = &str> {
    let owners = object.value["metadata"]["ownerReferences"].as_array();
    owners
        .into_iter()
        .flatten()
        .filter_map(|owner| owner["uid"].as_str())
}

fn namespace_range<'a>(
    objects: &'a BTreeMap<Key, Arc<Object>>,
    namespace: Option<&'a str>,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
    let start = namespace.map_or(Bound::Unbounded, |namespace| {
        Bound::Included(Key {
            namespace: namespace.to_owned(),
            name: String::new(),
        })
    });
    let range = objects.range((start, Bound::Unbounded));
    range.take_while(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(name: &str) -> Key {
        Key {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    fn put(store: &Store, name: &str, value: &str) -> Arc<Object> {
        let expected = store
            .get("configmaps", &key(name))
            .map(|object| object.revision());
        let value = json!({"metadata": {"name": name, "uid": name}, "data": {"value": value}});
        store
            .commit("configmaps", &key(name), expected, Write::Put(value))
            .expect("must commit")
    }

    fn shown(snapshot: &Snapshot) -> Vec<String> {
        let show = |(key, object): &(Key, Arc<Object>)| {
            format!(
                "{}={}",
                key.name,
                object.value()["data"]["value"].as_str().unwrap()
            )
        };
        snapshot.objects.iter().map(show).collect()
    }

    #[test]
    fn list_shows_any_kept_revision() {
        let store = Store::new(100);
        put(&store, "b", "1");
        let first = put(&store, "a", "1").revision();
        let second = put(&store, "a", "2").revision();
        let removed = store.get("configmaps", &key("b")).unwrap();
        let last = removed.value().clone();
        store
            .commit(
                "configmaps",
                &key("b"),
                Some(removed.revision()),
                Write::Remove(last),
            )
            .unwrap();
        put(&store, "c", "1");

        let at = |revision| shown(&store.list("configmaps", None, revision).unwrap());
        assert_eq!(at(Some(first)), ["a=1", "b=1"]);
        assert_eq!(at(Some(second)), ["a=2", "b=1"]);
        assert_eq!(at(None), ["a=2", "c=1"]);
        assert!(
            store
                .list("configmaps", Some("other"), Some(first))
                .unwrap()
                .objects
                .is_empty()
        );
    }

    #[test]
    fn writes_rest_on_the_revision_they_read() {
        let store = Store::new(100);
        let first = put(&store, "a", "1");
        put(&store, "a", "2");
        let stale = Write::Put(json!({"metadata": {}}));
        let refused = store.commit("configmaps", &key("a"), Some(first.revision()), stale);
        assert_eq!(refused.unwrap_err(), Refused::Moved);
        let again = Write::Put(json!({"metadata": {}}));
        let refused = store.commit("configmaps", &key("a"), None, again);
        assert_eq!(refused.unwrap_err(), Refused::Exists);
    }

    #[test]
    fn history_is_bounded_and_says_so() {
        let store = Store::new(2);
        let first = put(&store, "a", "1").revision();
        for value in ["2", "3", "4"] {
            put(&store, "a", value);
        }
        let oldest = store
            .changes("configmaps", first, None, 10)
            .unwrap_err()
            .oldest;
        let (events, known) = store.changes("configmaps", oldest, None, 10).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(known, store.revision());
        let (held, known) = store
            .changes("configmaps", oldest, Some(oldest + 1), 10)
            .unwrap();
        assert_eq!((held.len(), known), (1, oldest + 1));
        store.compact();
        assert!(store.list("configmaps", None, Some(oldest)).is_err());
    }
}
