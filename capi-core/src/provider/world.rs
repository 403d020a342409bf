//! All that is known of Kubernetes, and who wants to hear of which change.
//!
//! A pass notes every object that it reads, or misses; a change of any of these wakes it. So no rule
//! has to say which kind wakes which, and what a pass comes to read later is covered too (IM-23).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capi_contract::view::{AddressClaimView, AddressView, ClusterView, MachineView};
use capi_contract::{ChildKind, ObjectName};
use kube::Resource;
use kube::core::DynamicObject;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::store::{Change, Store, cluster_of};
use crate::engine::{Queue, Urgency};

/// Which of a provider's two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    Cluster,
    Machine,
}

/// Names an object that is driven.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) role: Role,
    pub(crate) name: ObjectName,
}

/// Something that a pass read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Cluster(ObjectName),
    Machine(ObjectName),
    InfraCluster(ObjectName),
    /// The infra machines of a Cluster, as a set.
    MachinesOf(ObjectName),
    AddressClaim(ObjectName),
    Address(ObjectName),
    Child(ChildKind, ObjectName),
    /// What was done at the Node of an infra machine.
    Node(ObjectName),
    /// The first list of the address kinds.
    Ipam,
}

#[derive(Default)]
struct Interests {
    by_topic: HashMap<Topic, HashSet<Key>>,
    /// The topics of the last pass, and those of the pass under way.
    by_key: HashMap<Key, (HashSet<Topic>, HashSet<Topic>)>,
}

impl Interests {
    fn note(&mut self, key: &Key, topic: Topic) {
        let readers = self.by_topic.entry(topic.clone()).or_default();
        readers.insert(key.clone());
        self.by_key.entry(key.clone()).or_default().1.insert(topic);
    }

    fn end(&mut self, key: &Key) {
        let Some((last, current)) = self.by_key.get_mut(key) else {
            return;
        };
        let stale: Vec<_> = last.difference(current).cloned().collect();
        *last = std::mem::take(current);
        let is_empty = last.is_empty();
        for topic in stale {
            self.drop_reader(&topic, key);
        }
        if is_empty {
            self.by_key.remove(key);
        }
    }

    fn drop_reader(&mut self, topic: &Topic, key: &Key) {
        if let Some(readers) = self.by_topic.get_mut(topic) {
            readers.remove(key);
            if readers.is_empty() {
                self.by_topic.remove(topic);
            }
        }
    }
}

/// Stores, interests and the queue of one provider.
pub(crate) struct World<IC, IM> {
    pub(crate) clusters: Store<ClusterView>,
    pub(crate) machines: Store<MachineView>,
    pub(crate) infra_clusters: Store<IC>,
    pub(crate) infra_machines: Store<IM>,
    pub(crate) claims: Store<AddressClaimView>,
    pub(crate) addresses: Store<AddressView>,
    pub(crate) children: Vec<(ChildKind, Store<DynamicObject>)>,
    /// The namespaces that are watched; `None` for all.
    pub(crate) namespaces: Vec<Option<String>>,
    ipam_wanted: AtomicBool,
    ipam_begin: Notify,
    interests: Mutex<Interests>,
    queue: Mutex<Queue<Key, ObjectName>>,
    pushed: Notify,
}

impl<IC: Resource, IM: Resource> World<IC, IM> {
    pub(crate) fn new(namespaces: &[String], child_kinds: &[ChildKind]) -> Self {
        let namespaces = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.iter().cloned().map(Some).collect()
        };
        Self {
            clusters: Store::new(),
            machines: Store::new(),
            infra_clusters: Store::new(),
            infra_machines: Store::new(),
            claims: Store::new(),
            addresses: Store::new(),
            children: child_kinds
                .iter()
                .map(|kind| (kind.clone(), Store::new()))
                .collect(),
            namespaces,
            ipam_wanted: AtomicBool::new(false),
            ipam_begin: Notify::new(),
            interests: Mutex::new(Interests::default()),
            queue: Mutex::new(Queue::new()),
            pushed: Notify::new(),
        }
    }

    /// Whether everything that gates look at is known.
    pub(crate) fn is_synced(&self) -> bool {
        self.clusters.is_synced(&self.namespaces)
            && self.machines.is_synced(&self.namespaces)
            && self.infra_clusters.is_synced(&self.namespaces)
            && self.infra_machines.is_synced(&self.namespaces)
    }

    /// Whether addresses are known. The first question starts their watches, so that a provider that
    /// uses none needs neither the kinds nor the rights.
    pub(crate) fn is_ipam_synced(&self, key: &Key) -> bool {
        self.interests.lock().note(key, Topic::Ipam);
        if !self.ipam_wanted.swap(true, Ordering::AcqRel) {
            self.ipam_begin.notify_one();
        }
        self.claims.is_synced(&self.namespaces) && self.addresses.is_synced(&self.namespaces)
    }

    /// Waits until somebody asks for addresses.
    pub(crate) async fn ipam_wanted(&self) {
        self.ipam_begin.notified().await;
    }

    pub(crate) fn cluster(&self, key: &Key, name: &ObjectName) -> Option<Arc<ClusterView>> {
        self.note(key, Topic::Cluster(name.clone()));
        self.clusters.get(name)
    }

    pub(crate) fn machine(&self, key: &Key, name: &ObjectName) -> Option<Arc<MachineView>> {
        self.note(key, Topic::Machine(name.clone()));
        self.machines.get(name)
    }

    pub(crate) fn infra_cluster(&self, key: &Key, name: &ObjectName) -> Option<Arc<IC>> {
        self.note(key, Topic::InfraCluster(name.clone()));
        self.infra_clusters.get(name)
    }

    pub(crate) fn machines_of(&self, key: &Key, cluster: &ObjectName) -> Vec<String> {
        self.note(key, Topic::MachinesOf(cluster.clone()));
        self.infra_machines.of_cluster(cluster)
    }

    pub(crate) fn claim(&self, key: &Key, name: &ObjectName) -> Option<Arc<AddressClaimView>> {
        self.note(key, Topic::AddressClaim(name.clone()));
        self.claims.get(name)
    }

    pub(crate) fn address(&self, key: &Key, name: &ObjectName) -> Option<Arc<AddressView>> {
        self.note(key, Topic::Address(name.clone()));
        self.addresses.get(name)
    }

    pub(crate) fn child_store(&self, kind: &ChildKind) -> Option<&Store<DynamicObject>> {
        let found = self.children.iter().find(|(one, _)| one == kind);
        found.map(|(_, store)| store)
    }

    pub(crate) fn note(&self, key: &Key, topic: Topic) {
        self.interests.lock().note(key, topic);
    }

    /// Wakes all who read this.
    pub(crate) fn wake(&self, topic: &Topic) {
        let interests = self.interests.lock();
        let Some(readers) = interests.by_topic.get(topic) else {
            return;
        };
        let mut queue = self.queue.lock();
        for key in readers {
            queue.wake(key, Urgency::Edit);
        }
        self.pushed.notify_one();
    }

    /// Takes in a change of a driven object that did not come from our own write.
    pub(crate) fn driven<K: Resource>(&self, role: Role, change: &Change<K>) {
        let key = Key {
            role,
            name: change.name.clone(),
        };
        let newest = change.after.as_ref().or(change.before.as_ref());
        let Some(newest) = newest else {
            return;
        };
        let urgency = if newest.meta().deletion_timestamp.is_some() {
            Urgency::Deletion
        } else if change.listed {
            Urgency::Resync
        } else {
            Urgency::Edit
        };
        let cluster = cluster_of(newest.as_ref());
        let group = cluster.clone().unwrap_or_else(|| change.name.clone());
        self.queue.lock().push(key, group, urgency);
        self.pushed.notify_one();
        match role {
            Role::Machine => {
                if let Some(cluster) = cluster {
                    self.wake(&Topic::MachinesOf(cluster));
                }
            }
            Role::Cluster => self.wake(&Topic::InfraCluster(change.name.clone())),
        }
    }

    /// Whether an object is driven.
    pub(crate) fn is_known(&self, key: &Key) -> bool {
        match key.role {
            Role::Cluster => self.infra_clusters.get(&key.name).is_some(),
            Role::Machine => self.infra_machines.get(&key.name).is_some(),
        }
    }

    /// Wakes an object because something outside Kubernetes has changed.
    pub(crate) fn nudge(&self, key: &Key, now: Duration) {
        if self.queue.lock().nudge(key, now) {
            self.pushed.notify_one();
        }
    }

    pub(crate) fn next(&self, now: Duration) -> Option<Key> {
        self.queue.lock().next(now).map(|(key, _)| key)
    }

    pub(crate) fn due(&self) -> Option<Duration> {
        self.queue.lock().due()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.lock().waiting()
    }

    /// A store has its first list, which may be empty and then brings no change.
    pub(crate) fn synced(&self) {
        self.pushed.notify_one();
    }

    /// Ends a pass.
    pub(crate) fn finished(&self, key: &Key, again: Option<Duration>) {
        self.interests.lock().end(key);
        self.queue.lock().finished(key, again);
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        let mut interests = self.interests.lock();
        interests.end(key);
        interests.end(key);
        self.queue.lock().retire(key);
    }

    /// Waits until something is pushed.
    pub(crate) async fn pushed(&self) {
        self.pushed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    type Small = World<ConfigMap, ConfigMap>;

    fn key(name: &str) -> Key {
        Key {
            role: Role::Machine,
            name: ObjectName::new("ns", name),
        }
    }

    fn take(world: &Small) -> Option<Key> {
        world.next(Duration::ZERO)
    }

    fn appear(world: &Small, name: &str) {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("ns".into());
        if let Some(change) = world.infra_machines.applied(object) {
            world.driven(Role::Machine, &change);
        }
    }

    #[test]
    fn im_23_a_change_wakes_those_who_read_or_missed_it_in_their_last_pass() {
        let world = Small::new(&[], &[]);
        appear(&world, "m");
        let m = take(&world).unwrap();
        assert_eq!(m, key("m"));
        let cluster = ObjectName::new("ns", "c");
        assert!(world.cluster(&m, &cluster).is_none());
        world.finished(&m, None);
        world.wake(&Topic::Cluster(cluster.clone()));
        assert_eq!(take(&world), Some(key("m")));
        // This pass does not read the Cluster any more.
        world.finished(&m, None);
        world.wake(&Topic::Cluster(cluster));
        assert_eq!(take(&world), None);
    }

    #[test]
    fn a_change_during_the_pass_that_reads_it_is_not_lost() {
        let world = Small::new(&[], &[]);
        appear(&world, "m");
        let m = take(&world).unwrap();
        let machine = ObjectName::new("ns", "m");
        world.machine(&m, &machine);
        world.wake(&Topic::Machine(machine));
        assert_eq!(take(&world), None);
        world.finished(&m, None);
        assert_eq!(take(&world), Some(m));
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let world = Small::new(&[], &[]);
        appear(&world, "m");
        let m = take(&world).unwrap();
        world.note(&m, Topic::Ipam);
        world.forget(&m);
        let interests = world.interests.lock();
        assert!(interests.by_key.is_empty() && interests.by_topic.is_empty());
    }
}
