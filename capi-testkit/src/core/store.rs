//! What the actors know: one table per watched kind, fed by its watch and by the answers to own
//! writes, so that an actor sees its own write at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kube::core::ApiResource;

use super::object::{Kind, Name, Object};

/// Deleted objects that each table remembers, so that a late answer to a write cannot bring one
/// back. Answers are late by one request, and far fewer requests than this run at a time.
const TOMBS_MAX: usize = 1024;

/// One change of one object. At least one side is present.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its kind.
    pub kind: Kind,
    /// As it was; `None` for one that is new.
    pub before: Option<Arc<Object>>,
    /// As it is; `None` for one that is gone.
    pub after: Option<Arc<Object>>,
}

impl Change {
    /// The object as it is, or as it was last.
    pub fn object(&self) -> Option<&Arc<Object>> {
        self.after.as_ref().or(self.before.as_ref())
    }
}

/// All tables.
#[derive(Debug, Default)]
pub(crate) struct Store {
    tables: HashMap<Kind, Table>,
}

#[derive(Debug)]
struct Table {
    resource: ApiResource,
    is_synced: bool,
    is_announced: bool,
    /// Counts relists; an object that the last relist did not show is gone.
    relist: u64,
    objects: BTreeMap<Name, (u64, Arc<Object>)>,
    by_owner: HashMap<String, BTreeSet<Name>>,
    by_cluster: HashMap<Name, BTreeSet<Name>>,
    /// Uids of deleted objects.
    tombs: HashSet<String>,
    /// The same, oldest first.
    tombs_by_age: VecDeque<String>,
}

impl Table {
    fn new(resource: ApiResource) -> Self {
        Self {
            resource,
            is_synced: false,
            is_announced: false,
            relist: 0,
            objects: BTreeMap::new(),
            by_owner: HashMap::new(),
            by_cluster: HashMap::new(),
            tombs: HashSet::new(),
            tombs_by_age: VecDeque::new(),
        }
    }

    fn put(&mut self, object: Object) -> Option<(Option<Arc<Object>>, Arc<Object>)> {
        let name = object.key();
        if self.tombs.contains(object.uid()) {
            return None;
        }
        let before = match self.objects.get_mut(&name) {
            Some((seen, held)) => {
                *seen = self.relist;
                let is_newer = held.uid() != object.uid() || held.version() < object.version();
                if !is_newer {
                    return None;
                }
                Some(Arc::clone(held))
            }
            None => None,
        };
        if let Some(before) = &before {
            self.unindex(before);
        }
        let after = Arc::new(object);
        for owner in after.owners() {
            let owned = self.by_owner.entry(owner.uid.clone()).or_default();
            owned.insert(name.clone());
        }
        if let Some(cluster) = after.cluster_name() {
            let cluster = Name::new(after.namespace(), cluster);
            self.by_cluster
                .entry(cluster)
                .or_default()
                .insert(name.clone());
        }
        self.objects.insert(name, (self.relist, Arc::clone(&after)));
        Some((before, after))
    }

    fn unindex(&mut self, object: &Object) {
        let name = object.key();
        for owner in object.owners() {
            if let Some(owned) = self.by_owner.get_mut(&owner.uid) {
                owned.remove(&name);
                if owned.is_empty() {
                    self.by_owner.remove(&owner.uid);
                }
            }
        }
        if let Some(cluster) = object.cluster_name() {
            let cluster = Name::new(object.namespace(), cluster);
            if let Some(members) = self.by_cluster.get_mut(&cluster) {
                members.remove(&name);
                if members.is_empty() {
                    self.by_cluster.remove(&cluster);
                }
            }
        }
    }

    fn take(&mut self, name: &Name, uid: &str) -> Option<Arc<Object>> {
        if self.tombs.insert(uid.to_owned()) {
            self.tombs_by_age.push_back(uid.to_owned());
            if self.tombs_by_age.len() > TOMBS_MAX
                && let Some(oldest) = self.tombs_by_age.pop_front()
            {
                self.tombs.remove(&oldest);
            }
        }
        // Another object may bear the name by now.
        if self.objects.get(name)?.1.uid() != uid {
            return None;
        }
        let (_, object) = self.objects.remove(name)?;
        self.unindex(&object);
        Some(object)
    }
}

impl Store {
    /// Adds the table of a kind. False if it is there already.
    pub(crate) fn add(&mut self, resource: &ApiResource) -> bool {
        let kind = Kind::of(resource);
        if self.tables.contains_key(&kind) {
            return false;
        }
        self.tables.insert(kind, Table::new(resource.clone()));
        true
    }

    pub(crate) fn resource(&self, kind: &Kind) -> Option<ApiResource> {
        self.tables.get(kind).map(|table| table.resource.clone())
    }

    pub(crate) fn is_synced(&self, kind: &Kind) -> bool {
        self.tables.get(kind).is_some_and(|table| table.is_synced)
    }

    /// True once, when the first list of a kind is complete.
    pub(crate) fn announce(&mut self, kind: &Kind) -> bool {
        let Some(table) = self.tables.get_mut(kind) else {
            return false;
        };
        let is_first = table.is_synced && !table.is_announced;
        table.is_announced |= is_first;
        is_first
    }

    pub(crate) fn is_all_synced(&self) -> bool {
        self.tables.values().all(|table| table.is_synced)
    }

    pub(crate) fn get(&self, kind: &Kind, name: &Name) -> Option<Arc<Object>> {
        let (_, object) = self.tables.get(kind)?.objects.get(name)?;
        Some(Arc::clone(object))
    }

    pub(crate) fn all(&self, kind: &Kind) -> Vec<Arc<Object>> {
        let objects = self.tables.get(kind).map(|table| table.objects.values());
        objects
            .into_iter()
            .flatten()
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// The objects of a kind with an owner of this uid, by name.
    pub(crate) fn owned(&self, kind: &Kind, uid: &str) -> Vec<Arc<Object>> {
        let Some(table) = self.tables.get(kind) else {
            return Vec::new();
        };
        let names = table.by_owner.get(uid).into_iter().flatten();
        names
            .filter_map(|name| table.objects.get(name))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// The objects of a kind that belong to this Cluster, by name.
    pub(crate) fn clustered(&self, kind: &Kind, cluster: &Name) -> Vec<Arc<Object>> {
        let Some(table) = self.tables.get(kind) else {
            return Vec::new();
        };
        let names = table.by_cluster.get(cluster).into_iter().flatten();
        names
            .filter_map(|name| table.objects.get(name))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Takes in an object that a watch showed or a write returned. None if nothing is new.
    pub(crate) fn put(&mut self, kind: &Kind, object: Object) -> Option<Change> {
        let (before, after) = self.tables.get_mut(kind)?.put(object)?;
        Some(Change {
            kind: kind.clone(),
            before,
            after: Some(after),
        })
    }

    /// Takes an object out, since it is deleted.
    pub(crate) fn take(&mut self, kind: &Kind, name: &Name, uid: &str) -> Option<Change> {
        let before = self.tables.get_mut(kind)?.take(name, uid)?;
        Some(Change {
            kind: kind.clone(),
            before: Some(before),
            after: None,
        })
    }

    /// A relist begins.
    pub(crate) fn relist(&mut self, kind: &Kind) {
        if let Some(table) = self.tables.get_mut(kind) {
            table.relist += 1;
        }
    }

    /// A relist is complete: what it did not show, and nobody wrote since, is gone.
    pub(crate) fn relisted(&mut self, kind: &Kind) -> Vec<Change> {
        let Some(table) = self.tables.get_mut(kind) else {
            return Vec::new();
        };
        table.is_synced = true;
        let current = table.relist;
        let gone: Vec<_> = table
            .objects
            .iter()
            .filter(|(_, (seen, _))| *seen != current)
            .map(|(name, (_, object))| (name.clone(), object.uid().to_owned()))
            .collect();
        gone.iter()
            .filter_map(|(name, uid)| self.take(kind, name, uid))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::word::{MACHINE, resource};
    use super::*;

    fn store() -> Store {
        let mut store = Store::default();
        assert!(store.add(&resource(&MACHINE, "v1beta2", "machines")));
        store
    }

    fn machine(name: &str, uid: &str, version: u64, owner: &str) -> Object {
        Object::from_value(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
            "metadata": {"name": name, "namespace": "d", "uid": uid,
                "resourceVersion": version.to_string(),
                "ownerReferences": [{"apiVersion": "v1", "kind": "O", "name": "o", "uid": owner}]},
            "spec": {"clusterName": "c"},
        }))
    }

    #[test]
    fn the_newer_object_stays_whatever_comes_later() {
        let mut store = store();
        assert!(store.put(&MACHINE, machine("a", "1", 5, "o1")).is_some());
        assert!(store.put(&MACHINE, machine("a", "1", 4, "o2")).is_none());
        assert_eq!(store.owned(&MACHINE, "o1").len(), 1);
        assert!(store.put(&MACHINE, machine("a", "1", 6, "o2")).is_some());
        assert_eq!(store.owned(&MACHINE, "o1").len(), 0, "the index follows");
        assert_eq!(store.clustered(&MACHINE, &Name::new("d", "c")).len(), 1);
    }

    #[test]
    fn a_deleted_object_does_not_come_back_with_a_late_answer() {
        let mut store = store();
        store.put(&MACHINE, machine("a", "1", 5, "o"));
        assert!(store.take(&MACHINE, &Name::new("d", "a"), "1").is_some());
        assert!(store.put(&MACHINE, machine("a", "1", 6, "o")).is_none());
        assert!(store.put(&MACHINE, machine("a", "2", 7, "o")).is_some());
        assert!(store.take(&MACHINE, &Name::new("d", "a"), "1").is_none());
        assert_eq!(store.all(&MACHINE).len(), 1);
    }

    #[test]
    fn a_relist_removes_what_it_does_not_show_but_not_what_was_just_written() {
        let mut store = store();
        store.put(&MACHINE, machine("old", "1", 1, "o"));
        store.put(&MACHINE, machine("kept", "2", 2, "o"));
        store.relist(&MACHINE);
        store.put(&MACHINE, machine("kept", "2", 2, "o"));
        store.put(&MACHINE, machine("written", "3", 9, "o"));
        assert!(!store.is_synced(&MACHINE));
        let gone = store.relisted(&MACHINE);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].object().expect("an object").name(), "old");
        assert!(store.is_synced(&MACHINE));
        assert_eq!(store.all(&MACHINE).len(), 2);
    }
}
