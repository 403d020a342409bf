//! What every actor has in its hands: the store, the writes, the clock.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, Error as ClientError};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::object::{Kind, Name, Object};
use super::reference;
use super::store::{Change, Store};

/// Why a pass ended early. It is tried again with a growing delay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused, or was not reached.
    #[error("cannot {action} {kind} {name}")]
    Api {
        /// What was attempted.
        action: &'static str,
        /// The object's kind.
        kind: Kind,
        /// The object.
        name: Name,
        /// The answer.
        source: Box<ClientError>,
    },
    /// A reference to a kind that nobody serves.
    #[error(transparent)]
    Reference(#[from] reference::Error),
    /// A mistake in the actor: it writes a kind that it never asked to watch.
    #[error("kind {0} is not watched")]
    Unwatched(Kind),
    /// The objects contradict each other; the text says which and how.
    #[error("{0}")]
    Inconsistent(String),
}

impl Error {
    /// Whether another writer was faster, so that a new look is all that is needed.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. }
            if matches!(source.as_ref(), ClientError::Api(status) if status.code == 409))
    }

    /// The text with those of all its causes.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// What a pass comes to.
pub type Result<T> = std::result::Result<T, Error>;

/// How a write is sent.
#[derive(Clone, Copy)]
enum Form {
    Merge,
    Apply,
}

/// Shared by all passes of one actor.
pub struct Hub {
    client: Client,
    store: Mutex<Store>,
    /// Own writes that the driver has still to pass on; as many as writes answered since its last turn.
    changes: Mutex<Vec<Change>>,
    /// Kinds that a pass found to be missing; at most one entry per kind.
    wanted: Mutex<Vec<ApiResource>>,
    bell: Notify,
    speed: f64,
    epoch: Timestamp,
    started: Instant,
}

impl Hub {
    /// An empty store. `speed` divides all delays that go through [`Hub::scaled`]; `epoch` is the
    /// wall-clock time now.
    pub fn new(client: Client, speed: f64, epoch: Timestamp) -> Self {
        Self {
            client,
            store: Mutex::default(),
            changes: Mutex::default(),
            wanted: Mutex::default(),
            bell: Notify::new(),
            speed,
            epoch,
            started: Instant::now(),
        }
    }

    /// Wall-clock time, moved on by the tokio clock.
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed());
        elapsed
            .ok()
            .and_then(|elapsed| self.epoch.checked_add(elapsed).ok())
            .unwrap_or(Timestamp::MAX)
    }

    /// A delay of the real controllers, as short as the speed makes it.
    pub fn scaled(&self, delay: Duration) -> Duration {
        delay.div_f64(self.speed)
    }

    /// A span on the clock, in the simulated controllers' own time.
    pub(crate) fn unscaled(&self, span: Duration) -> Duration {
        span.mul_f64(self.speed)
    }

    /// How long ago a moment was, in the simulated controllers' own time.
    pub(crate) fn since(&self, moment: Timestamp) -> Duration {
        let real = Duration::try_from(self.now().duration_since(moment)).unwrap_or_default();
        self.unscaled(real)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        read(&self.store.lock())
    }

    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut Store) -> T) -> T {
        write(&mut self.store.lock())
    }

    /// An object as the actor knows it.
    pub fn get(&self, kind: &Kind, name: &Name) -> Option<Arc<Object>> {
        self.read(|store| store.get(kind, name))
    }

    /// The objects of a kind that an owner of this uid has.
    pub fn owned(&self, kind: &Kind, uid: &str) -> Vec<Arc<Object>> {
        self.read(|store| store.owned(kind, uid))
    }

    /// All objects of a watched kind, by name.
    pub fn all(&self, kind: &Kind) -> Vec<Arc<Object>> {
        self.read(|store| store.all(kind))
    }

    pub(crate) fn clustered(&self, kind: &Kind, cluster: &Name) -> Vec<Arc<Object>> {
        self.read(|store| store.clustered(kind, cluster))
    }

    /// Starts to watch a kind. False if it is watched already.
    pub fn want(&self, resource: &ApiResource) -> bool {
        let is_new = self.write(|store| store.add(resource));
        if is_new {
            self.wanted.lock().push(resource.clone());
            self.bell.notify_one();
        }
        is_new
    }

    /// Wakes the driver, since there is a wish for it.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    pub(crate) fn take_wanted(&self) -> Vec<ApiResource> {
        std::mem::take(&mut *self.wanted.lock())
    }

    pub(crate) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock())
    }

    /// Rings when a pass wrote something or wants a kind.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// The API of a resource in a namespace; of all, or of cluster-scoped kinds, if that is empty.
    pub fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, resource)
        }
    }

    fn watched(&self, kind: &Kind) -> Result<ApiResource> {
        self.read(|store| store.resource(kind))
            .ok_or_else(|| Error::Unwatched(kind.clone()))
    }

    /// Reads one object from the server: for kinds that are read too seldom to be watched.
    pub(crate) async fn fetch(
        &self,
        resource: &ApiResource,
        name: &Name,
    ) -> Result<Option<Object>> {
        let api = self.api(resource, &name.namespace);
        let found = api.get_opt(&name.name).await;
        let found = found.map_err(failed("read", &Kind::of(resource), name))?;
        Ok(found.map(Object::new))
    }

    /// Merge patch without lock.
    ///
    /// # Errors
    ///
    /// The server's refusal, or that the kind is not watched.
    pub async fn merge(
        &self,
        kind: &Kind,
        name: &Name,
        patch: Value,
        manager: &str,
    ) -> Result<Arc<Object>> {
        let resource = self.watched(kind)?;
        let object = self
            .send(&resource, name, patch, Form::Merge, manager)
            .await?;
        Ok(self.absorb(kind, object))
    }

    /// As [`Hub::merge`], of a kind that is not watched.
    pub(crate) async fn merge_unwatched(
        &self,
        resource: &ApiResource,
        name: &Name,
        patch: Value,
        manager: &str,
    ) -> Result<Object> {
        self.send(resource, name, patch, Form::Merge, manager)
            .await
            .map(Object::new)
    }

    /// Server-side apply, forced. The answer still has its managed fields.
    pub(crate) async fn apply(
        &self,
        kind: &Kind,
        name: &Name,
        value: Value,
        manager: &str,
    ) -> Result<(Arc<Object>, DynamicObject)> {
        let resource = self.watched(kind)?;
        let object = self
            .send(&resource, name, value, Form::Apply, manager)
            .await?;
        Ok((self.absorb(kind, object.clone()), object))
    }

    async fn send(
        &self,
        resource: &ApiResource,
        name: &Name,
        value: Value,
        form: Form,
        manager: &str,
    ) -> Result<DynamicObject> {
        let api = self.api(resource, &name.namespace);
        let mut params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let patch = match form {
            Form::Merge => Patch::Merge(value),
            Form::Apply => {
                params.force = true;
                Patch::Apply(value)
            }
        };
        let answer = api.patch(&name.name, &params, &patch).await;
        answer.map_err(failed("patch", &Kind::of(resource), name))
    }

    /// Writes what differs between the status of `object` and `status`; fields that `status` does not
    /// name stay. A change of conditions carries the resource version, since several actors write
    /// conditions and a merge patch replaces the whole list. Writes nothing if nothing differs.
    ///
    /// # Errors
    ///
    /// The server's refusal, or that the kind is not watched.
    pub async fn merge_status(
        &self,
        kind: &Kind,
        object: &Object,
        status: &Value,
        manager: &str,
    ) -> Result<Option<Arc<Object>>> {
        let Some(difference) = difference(object.status(), status) else {
            return Ok(None);
        };
        let mut patch = json!({});
        if difference.get("conditions").is_some() {
            patch["metadata"] = json!({"resourceVersion": object.version().to_string()});
        }
        patch["status"] = difference;
        let resource = self.watched(kind)?;
        let name = object.key();
        let params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let answer = self
            .api(&resource, &name.namespace)
            .patch_status(&name.name, &params, &Patch::Merge(patch))
            .await;
        let answer = answer.map_err(failed("write the status of", kind, &name))?;
        Ok(Some(self.absorb(kind, answer)))
    }

    /// Creates an object. `Ok(None)` if one of this name is there already.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn create(
        &self,
        resource: &ApiResource,
        value: Value,
        manager: &str,
    ) -> Result<Option<Arc<Object>>> {
        let kind = Kind::of(resource);
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let name = Name::new(
            text("/metadata/namespace").unwrap_or_default(),
            text("/metadata/name").unwrap_or_default(),
        );
        let object: DynamicObject = serde_json::from_value(value)
            .map_err(|fault| Error::Inconsistent(format!("cannot build {kind} {name}: {fault}")))?;
        let params = PostParams {
            field_manager: Some(manager.to_owned()),
            ..PostParams::default()
        };
        let api = self.api(resource, &name.namespace);
        match api.create(&params, &object).await {
            Ok(object) => Ok(Some(self.absorb(&kind, object))),
            Err(ClientError::Api(status)) if status.code == 409 => Ok(None),
            Err(fault) => Err(failed("create", &kind, &name)(fault)),
        }
    }

    /// Asks for the deletion of an object by its name alone, as the real controllers do. One that is
    /// gone is fine.
    ///
    /// # Errors
    ///
    /// The server's refusal, or that the kind is not watched.
    pub async fn delete(&self, kind: &Kind, object: &Object) -> Result<()> {
        if object.is_deleting() {
            return Ok(());
        }
        let resource = self.watched(kind)?;
        let name = object.key();
        let api = self.api(&resource, &name.namespace);
        let answer = api.delete(&name.name, &DeleteParams::default()).await;
        // The answer is the object as long as finalizers hold it.
        match answer {
            Ok(answer) => {
                match answer.left() {
                    Some(object) => {
                        self.absorb(kind, object);
                    }
                    None => self.forget(kind, &name, object.uid()),
                }
                Ok(())
            }
            Err(ClientError::Api(status)) if status.code == 404 => Ok(()),
            Err(fault) => Err(failed("delete", kind, &name)(fault)),
        }
    }

    /// Takes the answer to a write into the store.
    fn absorb(&self, kind: &Kind, object: DynamicObject) -> Arc<Object> {
        let object = Object::new(object);
        let is_last = object.is_deleting() && object.finalizers_left() == 0;
        let copy = Arc::new(object.clone());
        let change = self.write(|store| {
            if is_last {
                store.take(kind, &object.key(), object.uid())
            } else {
                store.put(kind, object)
            }
        });
        self.pass_on(change);
        copy
    }

    fn forget(&self, kind: &Kind, name: &Name, uid: &str) {
        let change = self.write(|store| store.take(kind, name, uid));
        self.pass_on(change);
    }

    fn pass_on(&self, change: Option<Change>) {
        if let Some(change) = change {
            self.changes.lock().push(change);
            self.bell.notify_one();
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Hub").finish_non_exhaustive()
    }
}

fn failed(action: &'static str, kind: &Kind, name: &Name) -> impl FnOnce(ClientError) -> Error {
    let (kind, name) = (kind.clone(), name.clone());
    move |source| Error::Api {
        action,
        kind,
        name,
        source: Box::new(source),
    }
}

/// The merge patch that makes `current` say everything that `desired` says. `null` in `desired`
/// removes. Nothing if it does already.
pub fn difference(current: &Value, desired: &Value) -> Option<Value> {
    let Value::Object(desired) = desired else {
        return (current != desired).then(|| desired.clone());
    };
    let empty = serde_json::Map::new();
    let current = current.as_object().unwrap_or(&empty);
    let mut patch = serde_json::Map::new();
    for (key, wanted) in desired {
        let held = current.get(key).unwrap_or(&Value::Null);
        if let Some(part) = difference(held, wanted) {
            patch.insert(key.clone(), part);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wr_02_a_patch_holds_what_differs_and_nothing_else() {
        let current = json!({"a": 1, "b": {"c": 2, "d": 3}, "list": [1]});
        for (desired, patch) in [
            (json!({}), None),
            (json!({"a": 1, "b": {"c": 2}}), None),
            (json!({"a": 2}), Some(json!({"a": 2}))),
            (json!({"b": {"c": 9, "d": 3}}), Some(json!({"b": {"c": 9}}))),
            (json!({"list": [1, 2]}), Some(json!({"list": [1, 2]}))),
            (json!({"a": null, "x": null}), Some(json!({"a": null}))),
            (json!({"n": {"m": true}}), Some(json!({"n": {"m": true}}))),
        ] {
            assert_eq!(difference(&current, &desired), patch, "{desired}");
        }
    }
}
