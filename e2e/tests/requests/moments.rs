//! When objects were first seen to be so.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use kube::Api;
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;
use tokio::task::AbortHandle;

/// By the names of objects, as a watch tells it: milliseconds after it was so.
pub(crate) struct Moments {
    known: Arc<Mutex<BTreeMap<String, Timestamp>>>,
    watching: AbortHandle,
}

impl Drop for Moments {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Moments {
    /// Watches from now on when something first holds of each object.
    pub(crate) fn watch(of: Api<DynamicObject>, holds: fn(&Value) -> bool) -> Self {
        let known: Arc<Mutex<BTreeMap<String, Timestamp>>> = Arc::default();
        let noted = Arc::clone(&known);
        let watching = tokio::spawn(async move {
            let events = watcher(of, watcher::Config::default()).default_backoff();
            let mut objects = pin!(events.applied_objects());
            while let Some(event) = objects.next().await {
                let Ok(object) = event else { continue };
                let name = object.metadata.name.clone().unwrap_or_default();
                if serde_json::to_value(object).is_ok_and(|object| holds(&object)) {
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    noted.entry(name).or_insert_with(Timestamp::now);
                }
            }
        });
        Self {
            known,
            watching: watching.abort_handle(),
        }
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> BTreeMap<String, Timestamp> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }
}
