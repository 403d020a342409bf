//! What a watch has brought: the newest known version of each object of one kind.
//!
//! # Guarantees
//!
//! Own writes are taken in at once, and an older version that a watch brings later does not replace
//! them, so that a pass never starts from before its own last write.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use capi_contract::ObjectName;
use capi_contract::gate::cluster_name;
use kube::{Resource, ResourceExt};
use parking_lot::RwLock;

/// What happened to one object.
#[derive(Debug)]
pub(crate) struct Change<K> {
    pub(crate) name: ObjectName,
    pub(crate) before: Option<Arc<K>>,
    pub(crate) after: Option<Arc<K>>,
    /// Whether it came with a list and not as an event.
    pub(crate) listed: bool,
}

/// The objects of one kind.
pub(crate) struct Store<K> {
    inner: RwLock<Inner<K>>,
}

struct Inner<K> {
    objects: HashMap<ObjectName, Arc<K>>,
    /// Names by namespace and cluster.
    by_cluster: HashMap<ObjectName, BTreeSet<String>>,
    /// Lists under way, by namespace.
    lists: HashMap<Option<String>, HashMap<ObjectName, Arc<K>>>,
    synced: HashSet<Option<String>>,
}

impl<K: Resource> Store<K> {
    pub(crate) fn new() -> Self {
        Self {
            inner: RwLock::new(Inner {
                objects: HashMap::new(),
                by_cluster: HashMap::new(),
                lists: HashMap::new(),
                synced: HashSet::new(),
            }),
        }
    }

    pub(crate) fn get(&self, name: &ObjectName) -> Option<Arc<K>> {
        self.inner.read().objects.get(name).cloned()
    }

    /// Whether the first list of every one of these namespaces has come.
    pub(crate) fn is_synced(&self, namespaces: &[Option<String>]) -> bool {
        let inner = self.inner.read();
        namespaces.iter().all(|one| inner.synced.contains(one))
    }

    /// Names of the objects whose label names this cluster.
    pub(crate) fn of_cluster(&self, cluster: &ObjectName) -> Vec<String> {
        let inner = self.inner.read();
        inner
            .by_cluster
            .get(cluster)
            .map(|names| names.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Takes in what an own write returned. An object that has gone meanwhile does not come back.
    pub(crate) fn own(&self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        let name = ObjectName::of(object.as_ref());
        let mut inner = self.inner.write();
        if let Some(there) = inner.objects.get(&name)
            && is_newer(there.as_ref(), object.as_ref())
        {
            inner.insert(name, Arc::clone(&object));
        }
        object
    }

    /// Takes in an object that we created, before its watch event.
    pub(crate) fn created(&self, object: K) {
        let name = ObjectName::of(&object);
        let mut inner = self.inner.write();
        if !inner.objects.contains_key(&name) {
            inner.insert(name, Arc::new(object));
        }
    }

    /// A list begins.
    pub(crate) fn begin(&self, namespace: &Option<String>) {
        let mut inner = self.inner.write();
        inner.lists.insert(namespace.clone(), HashMap::new());
    }

    /// An object of a list.
    pub(crate) fn listed(&self, namespace: &Option<String>, object: K) {
        let mut inner = self.inner.write();
        if let Some(list) = inner.lists.get_mut(namespace) {
            list.insert(ObjectName::of(&object), Arc::new(object));
        }
    }

    /// A list ends: what it does not hold is gone.
    pub(crate) fn done(&self, namespace: &Option<String>) -> Vec<Change<K>> {
        let mut inner = self.inner.write();
        let list = inner.lists.remove(namespace).unwrap_or_default();
        inner.synced.insert(namespace.clone());
        let gone: Vec<_> = inner
            .objects
            .keys()
            .filter(|name| namespace.as_ref().is_none_or(|one| *one == name.namespace))
            .filter(|name| !list.contains_key(*name))
            .cloned()
            .collect();
        let mut changes: Vec<_> = list
            .into_iter()
            .filter_map(|(name, object)| inner.update(name, object, true))
            .collect();
        changes.extend(
            gone.into_iter()
                .filter_map(|name| inner.remove(&name, true)),
        );
        changes
    }

    /// An object was added or changed.
    pub(crate) fn applied(&self, object: K) -> Option<Change<K>> {
        let name = ObjectName::of(&object);
        self.inner.write().update(name, Arc::new(object), false)
    }

    /// An object was deleted.
    pub(crate) fn deleted(&self, object: &K) -> Option<Change<K>> {
        let mut inner = self.inner.write();
        let name = ObjectName::of(object);
        // A late event of an earlier object of the same name.
        if let Some(there) = inner.objects.get(&name)
            && there.uid() != object.uid()
            && is_newer(object, there.as_ref())
        {
            return None;
        }
        inner.remove(&name, false)
    }
}

impl<K: Resource> Inner<K> {
    fn update(&mut self, name: ObjectName, object: Arc<K>, listed: bool) -> Option<Change<K>> {
        let before = self.objects.get(&name).cloned();
        if before
            .as_ref()
            .is_some_and(|before| !is_newer(before.as_ref(), object.as_ref()))
        {
            return None;
        }
        self.insert(name.clone(), Arc::clone(&object));
        Some(Change {
            name,
            before,
            after: Some(object),
            listed,
        })
    }

    fn insert(&mut self, name: ObjectName, object: Arc<K>) {
        self.unindex(&name);
        if let Some(cluster) = cluster_of(object.as_ref()) {
            self.by_cluster
                .entry(cluster)
                .or_default()
                .insert(name.name.clone());
        }
        self.objects.insert(name, object);
    }

    fn remove(&mut self, name: &ObjectName, listed: bool) -> Option<Change<K>> {
        self.unindex(name);
        let before = self.objects.remove(name)?;
        Some(Change {
            name: name.clone(),
            before: Some(before),
            after: None,
            listed,
        })
    }

    fn unindex(&mut self, name: &ObjectName) {
        let Some(cluster) = self.objects.get(name).and_then(|o| cluster_of(o.as_ref())) else {
            return;
        };
        if let Some(names) = self.by_cluster.get_mut(&cluster) {
            names.remove(&name.name);
            if names.is_empty() {
                self.by_cluster.remove(&cluster);
            }
        }
    }
}

/// Namespace and name of the cluster that an object's label names.
pub(crate) fn cluster_of<K: Resource>(object: &K) -> Option<ObjectName> {
    let meta = object.meta();
    let namespace = meta.namespace.clone().unwrap_or_default();
    cluster_name(meta).map(|name| ObjectName::new(namespace, name))
}

/// Whether `b` is a later version than `a`. Versions are numbers on every server since Kubernetes
/// 1.35 says so; should one not be, the watch's order is believed.
fn is_newer<K: Resource>(a: &K, b: &K) -> bool {
    let (a, b) = (a.meta(), b.meta());
    let number = |text: &Option<String>| text.as_ref().and_then(|t| t.parse::<u64>().ok());
    match (number(&a.resource_version), number(&b.resource_version)) {
        (Some(a), Some(b)) => a < b,
        _ => a.resource_version != b.resource_version,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(name: &str, version: u64, cluster: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {
            "namespace": "ns", "name": name, "uid": name, "resourceVersion": version.to_string(),
            "labels": {"cluster.x-k8s.io/cluster-name": cluster},
        }}))
        .unwrap()
    }

    fn version(store: &Store<ConfigMap>, name: &str) -> Option<String> {
        store.get(&ObjectName::new("ns", name))?.resource_version()
    }

    #[test]
    fn own_writes_are_not_replaced_by_older_events_and_wake_nobody() {
        let store = Store::new();
        assert!(store.applied(object("a", 1, "c")).is_some());
        store.own(object("a", 3, "c"));
        assert!(store.applied(object("a", 2, "c")).is_none());
        assert!(store.applied(object("a", 3, "c")).is_none());
        assert_eq!(version(&store, "a").as_deref(), Some("3"));
        assert!(store.applied(object("a", 4, "c")).is_some());
    }

    #[test]
    fn an_own_write_does_not_bring_back_what_has_gone() {
        let store = Store::new();
        store.applied(object("a", 1, "c"));
        store.deleted(&object("a", 2, "c"));
        store.own(object("a", 2, "c"));
        assert_eq!(version(&store, "a"), None);
    }

    #[test]
    fn a_list_replaces_what_is_older_and_removes_what_it_lacks() {
        let (store, all) = (Store::new(), None);
        assert!(!store.is_synced(&[None]));
        for old in [
            object("a", 1, "c"),
            object("b", 5, "c"),
            object("c", 1, "c"),
        ] {
            store.applied(old);
        }
        store.begin(&all);
        store.listed(&all, object("a", 2, "c"));
        store.listed(&all, object("b", 4, "c"));
        let changes = store.done(&all);
        let mut names: Vec<_> = changes
            .iter()
            .map(|c| (c.name.name.as_str(), c.after.is_some()))
            .collect();
        names.sort_unstable();
        assert_eq!(names, [("a", true), ("c", false)]);
        assert_eq!(version(&store, "b").as_deref(), Some("5"));
        assert!(store.is_synced(&[None]));
    }

    #[test]
    fn the_index_by_cluster_follows_labels_and_deletions() {
        let store = Store::new();
        let of = |name| store.of_cluster(&ObjectName::new("ns", name));
        store.applied(object("a", 1, "c"));
        store.applied(object("b", 2, "c"));
        assert_eq!(of("c"), ["a", "b"]);
        store.applied(object("a", 3, "d"));
        assert_eq!((of("c"), of("d")), (vec!["b".into()], vec!["a".into()]));
        store.deleted(&object("b", 4, "c"));
        assert!(of("c").is_empty());
    }
}
