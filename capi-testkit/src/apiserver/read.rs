//! Get and list.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    ApiServer,
    request::Verb,
    selector::{FieldSelector, LabelSelector},
    serve::{Answer, Ask},
    status::{StatusError, Subject},
    store::{Key, Object, Snapshot},
    syntax,
};
use crate::schema::{FieldError, FieldErrorKind};

/// How long a request waits for a revision that the server has not reached, as in the watch cache.
const REVISION_WAIT: Duration = Duration::from_secs(3);

/// What a list or watch picks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Selection {
    pub(crate) fn of(ask: &Ask) -> Result<Self, StatusError> {
        let labels = LabelSelector::parse(ask.query.text("labelSelector"))?;
        let fields = FieldSelector::parse(ask.query.text("fieldSelector"), &ask.resource)?;
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn picks(&self, object: &Object) -> bool {
        self.labels.matches(object.value()) && self.fields.matches(object.value())
    }
}

/// Where a list starts: at which revision, behind which key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Start {
    revision: Option<u64>,
    after: Option<Key>,
}

impl Ask {
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            group: &self.resource.group,
            resource: &self.resource.plural,
            name: &self.target.name,
        }
    }

    /// The namespace of a list, `None` for all.
    pub(crate) fn scope(&self) -> Option<&str> {
        let namespace = self.target.namespace.as_str();
        (!namespace.is_empty()).then_some(namespace)
    }

    pub(crate) fn key(&self) -> Key {
        self.resource.key(&self.target.namespace, &self.target.name)
    }

    /// The `resourceVersion` parameter; `None` when unset.
    pub(crate) fn revision(&self) -> Result<Option<u64>, StatusError> {
        match self.query.text("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                let message = format!(
                    "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing \
                     {text:?}: invalid syntax"
                );
                // Lists alone say that it is the client's fault.
                match self.target.verb {
                    Verb::List => {
                        StatusError::bad_request(format!("invalid resource version: {message}"))
                    }
                    _ => StatusError::unexplained(message),
                }
            }),
        }
    }
}

impl ApiServer {
    pub(super) async fn get(&self, ask: &Ask) -> Result<Answer, StatusError> {
        if let Some(revision) = ask.revision()? {
            self.await_revision(&ask.resource.collection, revision)
                .await?;
        }
        let object = self.stored(ask)?;
        Ok(Answer::json(ask.shape.object(&ask.resource, &object)?)
            .of_type(ask.shape.content_type()))
    }

    /// The stored object that the request names.
    pub(super) fn stored(&self, ask: &Ask) -> Result<Arc<Object>, StatusError> {
        let found = self.inner.store.get(&ask.resource.collection, &ask.key());
        found.ok_or_else(|| StatusError::not_found(ask.subject()))
    }

    pub(super) async fn list(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let selection = Selection::of(ask)?;
        let limit = ask.query.number("limit")?.filter(|limit| *limit > 0);
        let start = self.start(ask, limit.is_some()).await?;
        let snapshot = self.snapshot(ask, &start)?;
        let revision = snapshot.revision;
        let mut picked: Vec<_> = snapshot
            .objects
            .into_iter()
            .filter(|(key, _)| start.after.as_ref().is_none_or(|after| key > after))
            .filter(|(_, object)| selection.picks(object))
            .collect();
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        if let Some(limit) = limit.filter(|limit| *limit < picked.len()) {
            let remaining = picked.len() - limit;
            picked.truncate(limit);
            let (last, _) = &picked[limit - 1];
            metadata["continue"] = continue_token(revision, last).into();
            if selection.is_everything() {
                metadata["remainingItemCount"] = remaining.into();
            }
        }
        let objects: Vec<_> = picked.into_iter().map(|(_, object)| object).collect();
        Ok(
            Answer::json(ask.shape.list(&ask.resource, &objects, &metadata)?)
                .of_type(ask.shape.content_type()),
        )
    }

    fn snapshot(&self, ask: &Ask, start: &Start) -> Result<Snapshot, StatusError> {
        let listed = self
            .inner
            .store
            .list(&ask.resource.collection, ask.scope(), start.revision);
        listed.map_err(|_| match &start.after {
            None => StatusError::expired("The resourceVersion for the provided list is too old."),
            Some(after) => StatusError {
                continue_token: Some(inconsistent_token(after)),
                ..StatusError::expired(
                    "The provided continue parameter is too old to display a consistent list \
                     result. You can start a new list without the continue parameter, or use the \
                     continue token in this response to retrieve the remainder of the results. \
                     Continuing with the provided token results in an inconsistent list - objects \
                     that were created, modified, or deleted between the time the first chunk was \
                     returned and now may show up in the list.",
                )
            },
        })
    }

    /// Which revision the list shows, by `resourceVersion`, `resourceVersionMatch` and `continue`.
    async fn start(&self, ask: &Ask, limited: bool) -> Result<Start, StatusError> {
        let matching = check_match(ask)?;
        if let Some(token) = ask.query.get("continue").filter(|token| !token.is_empty()) {
            if !matches!(ask.query.text("resourceVersion"), "" | "0") {
                let message = "specifying resource version is not allowed when using continue";
                return Err(StatusError::bad_request(message));
            }
            return read_token(token);
        }
        let after = None;
        let revision = match (ask.revision()?, matching) {
            (None, _) => None,
            // Any state will do, so that a held view shows its own.
            (Some(0), _) => {
                let actor = &ask.caller.actor;
                self.inner.holds.limit(actor, &ask.resource.collection)
            }
            (Some(revision), Matching::Exact) => {
                self.await_revision(&ask.resource.collection, revision)
                    .await?;
                Some(revision)
            }
            (Some(revision), Matching::Unset) if limited => {
                self.await_revision(&ask.resource.collection, revision)
                    .await?;
                Some(revision)
            }
            (Some(revision), Matching::Unset | Matching::NotOlderThan) => {
                self.await_revision(&ask.resource.collection, revision)
                    .await?;
                None
            }
        };
        Ok(Start { revision, after })
    }

    /// Waits for a revision that clients may have seen elsewhere, and says so when it never comes.
    pub(super) async fn await_revision(
        &self,
        collection: &str,
        revision: u64,
    ) -> Result<(), StatusError> {
        let store = &self.inner.store;
        let mut changed = store.subscribe(collection);
        let reached = async {
            while store.revision() < revision {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        timeout(REVISION_WAIT, reached)
            .await
            .map_err(|_| StatusError::revision_ahead(revision, store.revision()))
    }
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matching {
    Unset,
    Exact,
    NotOlderThan,
}

fn check_match(ask: &Ask) -> Result<Matching, StatusError> {
    let given = ask.query.text("resourceVersionMatch");
    let (matching, known) = match given {
        "" => return Ok(Matching::Unset),
        "Exact" => (Matching::Exact, true),
        "NotOlderThan" => (Matching::NotOlderThan, true),
        _ => (Matching::Unset, false),
    };
    let mut errors = Vec::new();
    let mut forbid =
        |detail: &str| errors.push(match_error(FieldErrorKind::Forbidden, given, detail));
    let revision = ask.query.text("resourceVersion");
    if revision.is_empty() {
        forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !ask.query.text("continue").is_empty() {
        forbid("resourceVersionMatch is forbidden when continue is provided");
    }
    if matching == Matching::Exact && revision == "0" {
        forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
    if !known {
        let detail = "supported values: \"Exact\", \"NotOlderThan\", \"\"";
        errors.push(match_error(FieldErrorKind::NotSupported, given, detail));
    }
    if errors.is_empty() {
        Ok(matching)
    } else {
        Err(StatusError::invalid_options("ListOptions", &errors))
    }
}

/// Something wrong with `resourceVersionMatch`.
pub(crate) fn match_error(kind: FieldErrorKind, given: &str, detail: &str) -> FieldError {
    FieldError::new(kind, "resourceVersionMatch", Value::from(given), detail)
}

/// The token names the revision and the last key; opaque to clients.
fn continue_token(revision: u64, last: &Key) -> String {
    encode_token(&json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start_key(last)}))
}

fn inconsistent_token(last: &Key) -> String {
    encode_token(&json!({"v": "meta.k8s.io/v1", "rv": -1, "start": start_key(last)}))
}

fn start_key(key: &Key) -> Value {
    json!([key.namespace, key.name])
}

fn encode_token(token: &Value) -> String {
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str) -> Result<Start, StatusError> {
    let refuse = |why: &str| {
        let message = format!("invalid continue token: continue key is not valid: {why}");
        StatusError::bad_request(message)
    };
    let bytes = URL_SAFE_NO_PAD.decode(token);
    let bytes = bytes.map_err(|error| refuse(&error.to_string()))?;
    let token = syntax::read(&bytes).map_err(|why| refuse(&why))?.value;
    let read = || -> Option<Start> {
        let namespace = token["start"][0].as_str()?.to_owned();
        let name = token["start"][1].as_str()?.to_owned();
        let revision = match token["rv"].as_i64()? {
            -1 => None,
            revision => Some(u64::try_from(revision).ok()?),
        };
        Some(Start {
            revision,
            after: Some(Key { namespace, name }),
        })
    };
    read().ok_or_else(|| refuse("it was not given out by this server"))
}
