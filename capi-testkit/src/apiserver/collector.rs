//! What the controller manager does beside a real API server: collecting dependents of deleted
//! owners, emptying deleted namespaces, removing the objects of deleted definitions.
//!
//! Commits leave work behind; one task per server does it. Its writes are not requests, so the audit
//! record does not show them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    ApiServer, Inner,
    definitions::CLEANUP,
    delete::{DeleteOptions, FOREGROUND, ORPHAN, Propagation},
    kinds::Resource,
    metadata,
    store::{Key, Object, Place, Refused, Write},
    strategy,
    write::shape,
};
use crate::merge::{self, Writer};

/// Something to look at. The set of them is bounded by the objects in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// The owner with this uid is gone.
    OwnerGone(String),
    /// The owner with this uid lost a dependent.
    DependentGone(String),
    /// An object whose owners may be gone.
    Owned(Place),
    /// A deleted owner that waits for its dependents.
    Foreground(Place),
    /// A deleted owner that its dependents are to forget.
    Orphan(Place),
    /// A deleted namespace.
    Namespace(String),
    /// A deleted definition.
    Definition(String),
}

/// The queue of a server and the task that works on it.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pending: Mutex<BTreeSet<Work>>,
    wake: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

impl Collector {
    fn push(&self, work: Work) {
        self.pending.lock().insert(work);
        self.wake.notify_one();
    }

    /// Notes what a commit leaves to do.
    pub(crate) fn notice(&self, resource: &Resource, key: &Key, object: &Object, gone: bool) {
        let place = Place {
            collection: resource.collection.clone(),
            key: key.clone(),
        };
        if gone {
            self.push(Work::OwnerGone(object.uid().to_owned()));
            for owner in owners(object) {
                let uid = owner["uid"].as_str().unwrap_or_default();
                self.push(Work::DependentGone(uid.to_owned()));
            }
            if !key.namespace.is_empty() {
                self.push(Work::Namespace(key.namespace.clone()));
            }
            if resource.is_custom() {
                self.push(Work::Definition(resource.collection.to_string()));
            }
            return;
        }
        let builtin = !resource.is_custom();
        if object.is_deleting() {
            for finalizer in object.finalizers() {
                match finalizer {
                    FOREGROUND => self.push(Work::Foreground(place.clone())),
                    ORPHAN => self.push(Work::Orphan(place.clone())),
                    CLEANUP if builtin => self.push(Work::Definition(key.name.clone())),
                    _ => {}
                }
            }
            if builtin && resource.kind == "Namespace" {
                self.push(Work::Namespace(key.name.clone()));
            }
        }
        if owners(object).next().is_some() {
            self.push(Work::Owned(place));
        }
    }
}

impl ApiServer {
    /// Starts the collector on the current runtime, unless it runs.
    pub(super) fn start_collector(&self) {
        let mut task = self.inner.collector.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let inner = Arc::downgrade(&self.inner);
            *task = Some(tokio::spawn(collect(inner)));
        }
    }

    fn collect_one(&self, work: Work) {
        match work {
            Work::OwnerGone(uid) => {
                for (place, _) in self.inner.store.dependents(&uid) {
                    self.collect_owned(&place);
                }
            }
            Work::DependentGone(uid) => {
                if let Some((place, _)) = self.inner.store.find_uid(&uid) {
                    self.collect_foreground(&place);
                }
            }
            Work::Owned(place) => self.collect_owned(&place),
            Work::Foreground(place) => self.collect_foreground(&place),
            Work::Orphan(place) => self.collect_orphans(&place),
            Work::Namespace(name) => self.collect_namespace(&name),
            Work::Definition(name) => self.collect_definition(&name),
        }
    }

    /// Deletes the object if none of its owners is left, else drops the references to gone ones.
    fn collect_owned(&self, place: &Place) {
        let Some((resource, object)) = self.at(place) else {
            return;
        };
        let (mut solid, mut absent, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in owners(&object) {
            let uid = owner["uid"].as_str().unwrap_or_default().to_owned();
            match self.owner_state(&place.key.namespace, owner) {
                OwnerState::Solid => solid += 1,
                OwnerState::Absent => absent.push(uid),
                OwnerState::Waiting(owner_place) => waiting.push((uid, owner_place)),
            }
        }
        // A change of the dependent may be what a waiting owner waits for.
        for (_, owner_place) in &waiting {
            self.inner
                .collector
                .push(Work::Foreground(owner_place.clone()));
        }
        if solid > 0 {
            let dropped: Vec<_> = absent
                .into_iter()
                .chain(waiting.into_iter().map(|(uid, _)| uid))
                .collect();
            if !dropped.is_empty() {
                self.forget_owners(&resource, place, &object, &dropped);
            }
            return;
        }
        if object.is_deleting() || (absent.is_empty() && waiting.is_empty()) {
            return;
        }
        let has_dependents = !self.inner.store.dependents(object.uid()).is_empty();
        let propagation = if !waiting.is_empty() && has_dependents {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        self.end_quietly(&resource, place, &object, propagation);
    }

    fn owner_state(&self, namespace: &str, owner: &Value) -> OwnerState {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let (group, _) = text("apiVersion").split_once('/').unwrap_or(("", ""));
        if self.inner.registry.of_kind(group, text("kind")).is_none() {
            // An unknown kind may be served later: the real collector waits for it too.
            return OwnerState::Solid;
        }
        let Some((place, object)) = self.inner.store.find_uid(text("uid")) else {
            return OwnerState::Absent;
        };
        let same = place.key.name == text("name")
            && object.value()["kind"] == text("kind")
            && (place.key.namespace.is_empty() || place.key.namespace == namespace);
        if !same {
            OwnerState::Absent
        } else if object.is_deleting() && object.finalizers().any(|one| one == FOREGROUND) {
            OwnerState::Waiting(place)
        } else {
            OwnerState::Solid
        }
    }

    fn collect_foreground(&self, place: &Place) {
        let Some((resource, object)) = self.at(place) else {
            return;
        };
        if !object.is_deleting() || !object.finalizers().any(|one| one == FOREGROUND) {
            return;
        }
        let mut blocked = false;
        for (dependent, state) in self.inner.store.dependents(object.uid()) {
            let blocks = owners(&state)
                .any(|owner| owner["uid"] == object.uid() && owner["blockOwnerDeletion"] == true);
            if !state.is_deleting() {
                self.collect_owned(&dependent);
            }
            blocked |= blocks && self.at(&dependent).is_some();
        }
        if !blocked {
            self.remove_finalizer(&resource, place, FOREGROUND);
        }
    }

    fn collect_orphans(&self, place: &Place) {
        let Some((resource, object)) = self.at(place) else {
            return;
        };
        if !object.is_deleting() || !object.finalizers().any(|one| one == ORPHAN) {
            return;
        }
        for (dependent, state) in self.inner.store.dependents(object.uid()) {
            if let Some((of, _)) = self.at(&dependent) {
                self.forget_owners(&of, &dependent, &state, &[object.uid().to_owned()]);
            }
        }
        self.remove_finalizer(&resource, place, ORPHAN);
    }

    fn collect_namespace(&self, name: &str) {
        let key = Key {
            namespace: String::new(),
            name: name.to_owned(),
        };
        let Some(namespace) = self.inner.store.get("namespaces", &key) else {
            return;
        };
        if !namespace.is_deleting() {
            return;
        }
        for (place, object) in self.inner.store.in_namespace(name) {
            if object.is_deleting() {
                continue;
            }
            if let Some(resource) = self.inner.registry.of_collection(&place.collection) {
                self.end_quietly(&resource, &place, &object, Propagation::Background);
            }
        }
        if !self.inner.store.in_namespace(name).is_empty() {
            return;
        }
        let Some(resource) = self.inner.registry.of_collection("namespaces") else {
            return;
        };
        let mut empty = namespace.value().clone();
        empty["spec"] = json!({});
        self.store_quietly(&resource, &key, &namespace, empty);
    }

    fn collect_definition(&self, name: &str) {
        let key = Key {
            namespace: String::new(),
            name: name.to_owned(),
        };
        let definitions = "customresourcedefinitions.apiextensions.k8s.io";
        let Some(definition) = self.inner.store.get(definitions, &key) else {
            return;
        };
        if !definition.is_deleting() {
            return;
        }
        let listed = self.inner.store.list(name, None, None);
        let objects = listed.map(|snapshot| snapshot.objects).unwrap_or_default();
        let resource = self.inner.registry.of_collection(name);
        for (key, object) in &objects {
            let place = Place {
                collection: name.into(),
                key: key.clone(),
            };
            if let Some(resource) = resource.as_ref().filter(|_| !object.is_deleting()) {
                self.end_quietly(resource, &place, object, Propagation::Background);
            }
        }
        let left = self.inner.store.list(name, None, None);
        if left.is_ok_and(|snapshot| snapshot.objects.is_empty()) {
            let place = Place {
                collection: definitions.into(),
                key,
            };
            if let Some((resource, _)) = self.at(&place) {
                self.remove_finalizer(&resource, &place, CLEANUP);
            }
        }
    }

    fn at(&self, place: &Place) -> Option<(Arc<Resource>, Arc<Object>)> {
        let object = self.inner.store.get(&place.collection, &place.key)?;
        Some((
            self.inner.registry.of_collection(&place.collection)?,
            object,
        ))
    }

    /// Deletes the object as it was seen; if it changed since, its change left new work behind.
    fn end_quietly(
        &self,
        resource: &Resource,
        place: &Place,
        object: &Object,
        propagation: Propagation,
    ) {
        let held = |finalizer: &str| object.finalizers().any(|one| one == finalizer);
        let propagation = if held(ORPHAN) {
            Propagation::Orphan
        } else if held(FOREGROUND) {
            Propagation::Foreground
        } else {
            propagation
        };
        let options = DeleteOptions::with(propagation).of_uid(object.uid());
        if let Err(error) = self.end(resource, &place.key, &options) {
            tracing::debug!(?place, %error, "collector found the object changed");
        }
    }

    fn forget_owners(&self, resource: &Resource, place: &Place, object: &Object, uids: &[String]) {
        let mut value = object.value().clone();
        let list = value.pointer_mut("/metadata/ownerReferences");
        if let Some(list) = list.and_then(Value::as_array_mut) {
            list.retain(|owner| !uids.iter().any(|uid| owner["uid"] == uid.as_str()));
            if list.is_empty() {
                metadata::of(&mut value).remove("ownerReferences");
            }
        }
        let value = self.written(resource, object, value);
        self.store_quietly(resource, &place.key, object, value);
    }

    /// The value with its owners of fields settled, as after a request of the controller manager.
    fn written(&self, resource: &Resource, object: &Object, value: Value) -> Value {
        let now = self.inner.clock.time();
        let writer = Writer {
            manager: "kube-controller-manager",
            api_version: &resource.stored_as,
            subresource: "",
            resets: &[],
            now: &now,
        };
        merge::update(shape(resource), Some(object.value()), value, &writer)
    }

    fn remove_finalizer(&self, resource: &Resource, place: &Place, finalizer: &str) {
        let Some(object) = self.inner.store.get(&place.collection, &place.key) else {
            return;
        };
        let mut value = object.value().clone();
        let list = value.pointer_mut("/metadata/finalizers");
        if let Some(list) = list.and_then(Value::as_array_mut) {
            list.retain(|one| one != finalizer);
            if list.is_empty() {
                metadata::of(&mut value).remove("finalizers");
            }
        }
        let value = self.written(resource, &object, value);
        self.store_quietly(resource, &place.key, &object, value);
    }

    /// Stores a state, or removes the object with it if nothing holds it any more.
    fn store_quietly(&self, resource: &Resource, key: &Key, object: &Object, value: Value) {
        let write = if strategy::is_finished(resource, &value) {
            Write::Remove(value)
        } else {
            Write::Put(value)
        };
        match self.commit(resource, key, Some(object.revision()), write) {
            Ok(_) => {}
            Err(Refused::Moved | Refused::Exists) => {
                tracing::debug!(?key, "collector found the object changed");
            }
        }
    }
}

#[derive(Debug)]
enum OwnerState {
    Solid,
    Absent,
    /// It waits for its dependents, at this place.
    Waiting(Place),
}

fn owners(object: &Object) -> impl Iterator<Item = &Value> {
    object.value()["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
}

/// Works as long as the server lives.
async fn collect(inner: Weak<Inner>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let server = ApiServer { inner };
        loop {
            let work = server.inner.collector.pending.lock().pop_first();
            let Some(work) = work else { break };
            server.collect_one(work);
        }
        let woken = server.inner.collector.wake.clone();
        drop(server);
        woken.notified().await;
    }
}
