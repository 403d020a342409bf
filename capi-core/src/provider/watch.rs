//! One watch per kind and namespace, kept up for ever.

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use capi_contract::view::WATCH_FILTER_LABEL;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::store::{Change, Store};
use crate::cause::chain;
use crate::engine::growth;
use crate::telemetry::Telemetry;

/// Delays between tries of a broken watch: a server that restarts is back within seconds, and one that
/// is gone must not be hammered by every kind.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// An object that may not be of the type that it should be. A watch decodes whole lists, and one
/// object that an older or newer release wrote must not stop all others.
#[derive(Clone, Debug)]
pub(crate) enum Lenient<K> {
    Good(K),
    Bad(Box<ObjectMeta>, String),
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(from)?;
        // Four fifths of an object; dropped before the typed form is made.
        if let Some(Value::Object(meta)) = value.get_mut("metadata") {
            meta.remove("managedFields");
        }
        let meta = value.get("metadata").cloned();
        match serde_json::from_value(value) {
            Ok(good) => Ok(Lenient::Good(good)),
            Err(error) => {
                let meta = meta.and_then(|meta| serde_json::from_value(meta).ok());
                Ok(Lenient::Bad(meta.unwrap_or_default(), error.to_string()))
            }
        }
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Lenient::Good(object) => object.meta(),
            Lenient::Bad(meta, _) => meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Lenient::Good(object) => object.meta_mut(),
            Lenient::Bad(meta, _) => meta,
        }
    }
}

/// What a watch is told about its surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// Name of the kind, for metrics and logs.
    pub(crate) kind: &'static str,
    /// The namespace; `None` for all.
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Option<String>,
    pub(crate) telemetry: Telemetry,
}

/// The label selector of a watch filter (CTL-07).
pub(crate) fn filter_selector(filter: Option<&str>) -> Option<String> {
    filter.map(|value| format!("{WATCH_FILTER_LABEL}={value}"))
}

/// Who is told of what a watch brings.
pub(crate) struct On<F, S> {
    /// An object has changed.
    pub(crate) change: F,
    /// A list has come to its end.
    pub(crate) synced: S,
}

/// Keeps a store up to date for ever and tells of each change.
pub(crate) async fn follow<W, K>(
    api: Api<W>,
    watch: Watch,
    store: &Store<K>,
    good: impl Fn(W) -> Option<K>,
    on: On<impl Fn(Change<K>), impl Fn()>,
) where
    W: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    K: Resource,
{
    // Lists come in pages, which bounds memory; kube asks for pages of the newest state only, and
    // every server since 1.34 answers them from its cache.
    let mut config = watcher::Config::default();
    if let Some(selector) = &watch.selector {
        config = config.labels(selector);
    }
    let mut failures = 0;
    loop {
        let mut stream = pin!(watcher(api.clone(), config.clone()));
        while let Some(item) = stream.next().await {
            match item {
                Ok(event) => {
                    // The beginning of a list is not yet an answer.
                    if !matches!(event, Event::Init) {
                        failures = 0;
                    }
                    take(event, &watch.namespace, store, &good, &on);
                }
                Err(error) => {
                    failures += 1;
                    watch.telemetry.watch_failed(watch.kind);
                    let is_first = failures == 1;
                    report(watch.kind, &error, is_first);
                    tokio::time::sleep(growth(RETRY_FIRST, RETRY_MAX, failures)).await;
                    // The stream would ask for the same expired version again and again.
                    if is_expired(&error) {
                        break;
                    }
                }
            }
        }
    }
}

fn report(kind: &'static str, error: &watcher::Error, is_first: bool) {
    if is_first {
        tracing::warn!(kind, error = chain(error), "watch failed; it is retried");
    } else {
        tracing::debug!(kind, error = chain(error), "watch failed again");
    }
}

/// Whether a watch request was answered with 410, which kube's watcher repeats unchanged.
fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

fn take<W, K: Resource>(
    event: Event<W>,
    namespace: &Option<String>,
    store: &Store<K>,
    good: &impl Fn(W) -> Option<K>,
    on: &On<impl Fn(Change<K>), impl Fn()>,
) {
    match event {
        Event::Init => store.begin(namespace),
        Event::InitApply(object) => {
            if let Some(object) = good(object) {
                store.listed(namespace, object);
            }
        }
        Event::InitDone => {
            store.done(namespace).into_iter().for_each(&on.change);
            (on.synced)();
        }
        Event::Apply(object) => {
            let change = good(object).and_then(|object| store.applied(object));
            change.into_iter().for_each(&on.change);
        }
        Event::Delete(object) => {
            let change = good(object).and_then(|object| store.deleted(&object));
            change.into_iter().for_each(&on.change);
        }
    }
}

/// Passes on what could be decoded and says what could not.
pub(crate) fn decoded<K: Resource<DynamicType = ()>>(object: Lenient<K>) -> Option<K> {
    match object {
        Lenient::Good(object) => Some(object),
        Lenient::Bad(meta, error) => {
            tracing::warn!(
                kind = %K::kind(&()),
                namespace = meta.namespace.as_deref().unwrap_or_default(),
                name = meta.name.as_deref().unwrap_or_default(),
                error,
                "object left out: it is not of the form that this program knows"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use capi_contract::view::ClusterView;
    use serde_json::json;

    use super::*;

    #[test]
    fn one_malformed_object_does_not_spoil_a_list() {
        let list = json!([
            {"metadata": {"name": "good", "managedFields": [{"manager": "m"}]}},
            {"metadata": {"name": "bad"}, "spec": {"paused": "yes"}},
        ]);
        let all: Vec<Lenient<ClusterView>> = serde_json::from_value(list).unwrap();
        assert!(matches!(&all[0], Lenient::Good(c) if c.metadata.name.as_deref() == Some("good")));
        assert!(matches!(&all[1], Lenient::Bad(meta, _) if meta.name.as_deref() == Some("bad")));
        let good: Vec<_> = all.into_iter().filter_map(decoded).collect();
        assert_eq!(good.len(), 1);
    }

    #[test]
    fn a_410_on_the_watch_request_is_told_from_other_errors() {
        let status = |code| {
            let status = kube::core::Status {
                code,
                ..kube::core::Status::default()
            };
            watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
        };
        assert!(is_expired(&status(410)));
        assert!(!is_expired(&status(403)));
    }
}
