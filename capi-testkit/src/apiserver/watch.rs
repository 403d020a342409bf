//! Watch: a stream of changes from a revision on.
//!
//! A watcher holds no queue. It remembers the revision it has seen and reads the store's history
//! when that grows, so that a slow reader costs nothing and is told `Expired` when it is too far
//! behind.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    ApiServer,
    kinds::Resource,
    output::{Shape, line},
    read::{Selection, match_error},
    serve::{Answer, AnswerBody, Ask, repeats_columns},
    status::StatusError,
    store::{Change, Event, Object},
};
use crate::schema::FieldErrorKind;

/// Length of a watch whose client sets none: `--min-request-timeout` of a real server.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// Time between bookmarks of a quiet watch, as in the watch cache.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Changes read from the store at once; bounds the lines a watcher holds.
const BATCH: usize = 256;

/// How the watch begins, by `resourceVersion` and `sendInitialEvents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// The state as ADDED events, then what follows.
    State { then_bookmark: bool },
    /// What follows a revision.
    After(u64),
}

struct Watcher {
    server: ApiServer,
    resource: Arc<Resource>,
    actor: String,
    namespace: Option<String>,
    selection: Selection,
    shape: Shape,
    bookmarks: bool,
    /// Everything up to here was sent.
    seen: u64,
    lines: VecDeque<Bytes>,
    sent_columns: bool,
    ends_at: Instant,
    bookmark_at: Instant,
    changed: watch::Receiver<u64>,
    holds: watch::Receiver<()>,
    cut: watch::Receiver<u64>,
    ended: bool,
}

impl ApiServer {
    pub(super) async fn watch(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let selection = Selection::of(ask)?;
        let beginning = beginning(ask)?;
        let seconds = ask.query.number("timeoutSeconds")?;
        let timeout = match seconds {
            None | Some(0) => TIMEOUT_DEFAULT,
            Some(seconds) => Duration::from_secs(seconds),
        };
        if let (Beginning::State { .. }, Some(revision)) = (beginning, ask.revision()?) {
            self.await_revision(&ask.resource.collection, revision)
                .await?;
        }
        let now = Instant::now();
        let mut watcher = Watcher {
            changed: self.inner.store.subscribe(&ask.resource.collection),
            holds: self.inner.holds.subscribe(),
            cut: self.inner.watch_cut.subscribe(),
            server: self.clone(),
            resource: ask.resource.clone(),
            actor: ask.caller.actor.clone(),
            namespace: ask.scope().map(str::to_owned),
            selection,
            shape: ask.shape,
            bookmarks: ask.query.flag("allowWatchBookmarks"),
            seen: 0,
            lines: VecDeque::new(),
            sent_columns: false,
            ends_at: now + timeout,
            bookmark_at: now + BOOKMARK_EVERY,
            ended: false,
        };
        match beginning {
            Beginning::After(revision) => watcher.seen = revision,
            Beginning::State { then_bookmark } => watcher.send_state(then_bookmark),
        }
        let lines = stream::unfold(watcher, |mut watcher| async move {
            watcher.next().await.map(|line| (line, watcher))
        });
        Ok(Answer {
            body: AnswerBody::Stream(lines.boxed()),
            ..Answer::json(Bytes::new())
        })
    }
}

fn beginning(ask: &Ask) -> Result<Beginning, StatusError> {
    check_match(ask)?;
    let revision = ask.revision()?;
    match ask.query.maybe_flag("sendInitialEvents") {
        Some(true) => Ok(Beginning::State {
            then_bookmark: ask.query.flag("allowWatchBookmarks"),
        }),
        Some(false) => Ok(match revision {
            None | Some(0) => Beginning::After(u64::MAX),
            Some(revision) => Beginning::After(revision),
        }),
        None => Ok(match revision {
            None | Some(0) => Beginning::State {
                then_bookmark: false,
            },
            Some(revision) => Beginning::After(revision),
        }),
    }
}

/// What `resourceVersionMatch` may be beside `sendInitialEvents`.
fn check_match(ask: &Ask) -> Result<(), StatusError> {
    let given = ask.query.text("resourceVersionMatch");
    let initial = ask.query.maybe_flag("sendInitialEvents").is_some();
    let mut errors = Vec::new();
    let mut forbid =
        |detail: &str| errors.push(match_error(FieldErrorKind::Forbidden, given, detail));
    if initial && given != "NotOlderThan" {
        forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !initial && !given.is_empty() {
        forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    if !given.is_empty() && !ask.query.text("continue").is_empty() {
        forbid("resourceVersionMatch is forbidden when continue is provided");
    }
    if !given.is_empty() && given != "NotOlderThan" {
        let detail = "supported values: \"NotOlderThan\"";
        errors.push(match_error(FieldErrorKind::NotSupported, given, detail));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(StatusError::invalid_options("ListOptions", &errors))
    }
}

impl Watcher {
    fn limit(&self) -> Option<u64> {
        self.server
            .inner
            .holds
            .limit(&self.actor, &self.resource.collection)
    }

    /// The state so far as ADDED events.
    fn send_state(&mut self, then_bookmark: bool) {
        let store = &self.server.inner.store;
        let collection = &self.resource.collection;
        let namespace = self.namespace.as_deref();
        // A hold that is older than the history cannot be shown; the present is, then.
        let listed = store.list(collection, namespace, self.limit());
        let Ok(snapshot) = listed.or_else(|_| store.list(collection, namespace, None)) else {
            return;
        };
        for (_, object) in &snapshot.objects {
            if self.selection.picks(object) {
                self.push("ADDED", object);
            }
        }
        self.seen = snapshot.revision;
        if then_bookmark {
            self.lines
                .push_back(self.shape.bookmark(&self.resource, self.seen, true));
        }
    }

    /// The next line; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            // Marked as seen before reading, so that no change between is missed.
            self.changed.borrow_and_update();
            self.holds.borrow_and_update();
            self.read_changes();
            if self.lines.is_empty() && !self.ended {
                if self.is_served() {
                    self.wait().await;
                } else {
                    self.ended = true;
                }
            }
        }
    }

    /// A definition that goes, or a version that is no longer served, ends its watches.
    fn is_served(&self) -> bool {
        let resource = &self.resource;
        let registry = &self.server.inner.registry;
        registry
            .find(&resource.group, &resource.version, &resource.plural)
            .is_some()
    }

    fn read_changes(&mut self) {
        if self.seen == u64::MAX {
            self.seen = self.server.inner.store.revision();
        }
        let collection = &self.resource.collection;
        let read = self
            .server
            .inner
            .store
            .changes(collection, self.seen, self.limit(), BATCH);
        match read {
            Ok((events, known)) => {
                for event in &events {
                    self.push_event(event);
                }
                self.seen = known;
            }
            Err(compacted) => {
                let error = StatusError::too_old(self.seen, compacted.oldest);
                let status = Bytes::from(error.to_value().to_string());
                self.lines.push_back(line("ERROR", &status));
                self.ended = true;
            }
        }
    }

    /// What the change looks like through the selectors.
    fn push_event(&mut self, event: &Event) {
        if self
            .namespace
            .as_ref()
            .is_some_and(|namespace| event.key.namespace != *namespace)
        {
            return;
        }
        let picked_before = event
            .previous
            .as_ref()
            .is_some_and(|was| self.selection.picks(was));
        let picked_now = event.change != Change::Deleted && self.selection.picks(&event.object);
        match (picked_before, picked_now) {
            (false, true) => self.push("ADDED", &event.object),
            (true, true) => self.push("MODIFIED", &event.object),
            (true, false) if event.change == Change::Deleted => {
                self.push("DELETED", &event.object);
            }
            (true, false) => {
                // It left the selection: the client gets the state it knows, at the new revision.
                if let Some(previous) = &event.previous {
                    let gone = Arc::new(previous.moved_to(event.revision()));
                    self.push("DELETED", &gone);
                }
            }
            (false, false) => {}
        }
    }

    fn push(&mut self, kind: &str, object: &Arc<Object>) {
        let first = !self.sent_columns || repeats_columns(self.shape);
        self.sent_columns = true;
        // Tables show ages, which go on while the watch does.
        self.shape.now = self.server.inner.clock.now();
        self.lines
            .push_back(self.shape.watch_line(&self.resource, kind, object, first));
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.cut.changed() => self.ended = true,
            () = sleep_until(self.ends_at) => self.ended = true,
            _ = self.changed.changed() => {}
            _ = self.holds.changed() => {}
            () = sleep_until(self.bookmark_at) => {
                self.bookmark_at += BOOKMARK_EVERY;
                if self.bookmarks {
                    // `seen` covers other resources' revisions too, as etcd's progress does.
                    self.read_changes();
                    if self.lines.is_empty() && !self.ended {
                        let line = self.shape.bookmark(&self.resource, self.seen, false);
                        self.lines.push_back(line);
                    }
                }
            }
        }
    }
}
