//! Kubernetes Events, recorded beside the passes and limited in rate.
//!
//! # Guarantees
//!
//! A pass never waits for an Event. The same news of one object is recorded once in ten minutes; what
//! exceeds the queue is dropped and counted. Events are for people: nothing depends on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::engine::{Clock, News};
use crate::telemetry::Telemetry;

/// How many Events may wait: a few for each of a hundred machines that start together.
const WAITING_MAX: usize = 512;
/// The same news is not repeated for this long, as kube's own recorder does it.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// How many news are remembered to recognise repetition; with hashes only, some 200 KB.
const REMEMBERED_MAX: usize = 8_192;
/// The least time between two Events, over all objects: they must not crowd out work on the server.
const INTERVAL: Duration = Duration::from_millis(20);
/// The longest message that the API takes is 1,024 characters.
const MESSAGE_MAX: usize = 1_000;

struct Pending {
    namespace: String,
    event: Event,
}

/// Takes news and queues them.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Pending>,
    seen: Arc<Mutex<HashMap<u64, Duration>>>,
    clock: Clock,
    telemetry: Telemetry,
    manager: String,
}

/// Writes the queued news.
pub(crate) struct Writer {
    receiver: mpsc::Receiver<Pending>,
    client: Client,
    telemetry: Telemetry,
}

/// A recorder and its writer.
pub(crate) fn recorder(
    client: Client,
    clock: Clock,
    telemetry: Telemetry,
    manager: String,
) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let recorder = Recorder {
        sender,
        seen: Arc::default(),
        clock,
        telemetry: telemetry.clone(),
        manager,
    };
    let writer = Writer {
        receiver,
        client,
        telemetry,
    };
    (recorder, writer)
}

impl Recorder {
    /// Queues an Event about an object.
    pub(crate) fn record<K: Resource<DynamicType = ()>>(&self, object: &K, news: News<'_>) {
        let uid = object.uid().unwrap_or_default();
        let id = hash(&(&uid, news.reason, news.message));
        if !self.is_new(id) {
            return;
        }
        let namespace = object.namespace().unwrap_or_default();
        let now = self.clock.wall();
        let about = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: Some(object.name_any()),
            namespace: Some(namespace.clone()),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let event = event(about, news, id, now, &self.manager);
        if self.sender.try_send(Pending { namespace, event }).is_err() {
            self.telemetry.event_dropped();
        }
    }

    fn is_new(&self, id: u64) -> bool {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        if seen.get(&id).is_some_and(|at| now < *at + REPEAT_AFTER) {
            return false;
        }
        if seen.len() >= REMEMBERED_MAX {
            seen.retain(|_, at| now < *at + REPEAT_AFTER);
        }
        if seen.len() >= REMEMBERED_MAX {
            self.telemetry.event_dropped();
            return false;
        }
        seen.insert(id, now);
        true
    }
}

impl Writer {
    /// Writes for ever.
    pub(crate) async fn run(mut self) {
        while let Some(pending) = self.receiver.recv().await {
            let api: Api<Event> = Api::namespaced(self.client.clone(), &pending.namespace);
            if let Err(error) = api.create(&PostParams::default(), &pending.event).await {
                // A namespace that is going away takes no Events; there is nobody to tell.
                tracing::debug!(%error, "event not recorded");
                self.telemetry.event_dropped();
            }
            tokio::time::sleep(INTERVAL).await;
        }
        std::future::pending::<()>().await;
    }
}

fn event(about: ObjectReference, news: News<'_>, id: u64, now: Timestamp, manager: &str) -> Event {
    let name = about.name.clone().unwrap_or_default();
    let namespace = about.namespace.clone();
    let mut message: String = news.message.chars().take(MESSAGE_MAX).collect();
    if message.is_empty() {
        message = news.reason.to_owned();
    }
    Event {
        metadata: ObjectMeta {
            // Names are at most 253 long, and one object has many Events.
            name: Some(format!(
                "{}.{:x}",
                name.chars().take(200).collect::<String>(),
                id ^ u64::try_from(now.as_millisecond()).unwrap_or(0)
            )),
            namespace,
            ..ObjectMeta::default()
        },
        involved_object: about,
        type_: Some(if news.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(news.reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(manager.to_owned()),
            ..EventSource::default()
        }),
        ..Event::default()
    }
}

fn hash(of: &impl std::hash::Hash) -> u64 {
    ahash::RandomState::with_seeds(9, 10, 11, 12).hash_one(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> ObjectReference {
        ObjectReference {
            name: Some("m".repeat(253)),
            namespace: Some("ns".into()),
            ..ObjectReference::default()
        }
    }

    #[test]
    fn an_event_fits_into_the_limits_of_the_api() {
        let message = "x".repeat(5_000);
        let news = News {
            warning: true,
            reason: "CloneFailed",
            message: &message,
        };
        let event = event(about(), news, 7, Timestamp::UNIX_EPOCH, "capi-rs");
        assert!(event.metadata.name.unwrap().len() <= 253);
        assert!(event.message.unwrap().len() <= 1_024);
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
