//! The audit record: who asked for what, and what the answer was.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

/// Records kept; older ones are dropped and counted. 1,000 machines at 40 requests each fit 5 times.
const RECORDS_MAX: usize = 200_000;

/// One request and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRecord {
    /// Who asked: the name given to [`ApiServer::client`](super::ApiServer::client), or the
    /// authenticated user of the TLS face.
    pub actor: String,
    /// `User-Agent` as sent; empty when there was none.
    pub user_agent: String,
    /// Kubernetes verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`; the lower-case HTTP method for paths that are no resource.
    pub verb: &'static str,
    /// API group; empty for core.
    pub group: String,
    /// Plural name of the resource; the path for non-resource requests.
    pub resource: String,
    /// `status`, `scale`, ...; empty for the object itself.
    pub subresource: String,
    /// Namespace; empty for cluster-scoped objects and lists over all namespaces.
    pub namespace: String,
    /// Object name; empty for collections and for creates with `generateName` that failed.
    pub name: String,
    /// `fieldManager` as asked for; empty when none was given.
    pub field_manager: String,
    /// Whether nothing was to be stored.
    pub dry_run: bool,
    /// HTTP status of the answer.
    pub code: u16,
    /// When the request arrived, since the server's start, on the tokio clock.
    pub at: Duration,
    /// The newest resource version when it arrived: a write came after every version of its object up
    /// to this one.
    pub revision: u64,
}

impl AuditRecord {
    /// Whether the request asked for a change (dry runs excluded).
    #[must_use]
    pub fn is_write(&self) -> bool {
        !self.dry_run
            && matches!(
                self.verb,
                "create" | "update" | "patch" | "delete" | "deletecollection"
            )
            && !self.is_review()
    }

    /// Whether the request read objects once (`get` or `list`; a watch is neither read nor write).
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.verb, "get" | "list")
    }

    /// Whether the request opened a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.verb == "watch"
    }

    /// Whether the request is leader election's.
    #[must_use]
    pub fn is_lease(&self) -> bool {
        self.group == "coordination.k8s.io" && self.resource == "leases"
    }

    /// Whether the request is an event as `kubectl get events` shows it.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.resource == "events"
    }

    /// Whether the answer was a success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Access and token reviews are creates that store nothing.
    fn is_review(&self) -> bool {
        matches!(
            self.group.as_str(),
            "authorization.k8s.io" | "authentication.k8s.io"
        )
    }
}

/// The record of all requests, shared with the server.
///
/// Cloning is cheap and gives another handle on the same record.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    records: Arc<Mutex<Records>>,
}

#[derive(Debug, Default)]
struct Records {
    kept: Vec<AuditRecord>,
    dropped: u64,
}

impl Audit {
    pub(crate) fn push(&self, record: AuditRecord) {
        let mut records = self.records.lock();
        if records.kept.len() >= RECORDS_MAX {
            let half = RECORDS_MAX / 2;
            records.kept.drain(..half);
            records.dropped += half as u64;
        }
        records.kept.push(record);
    }

    /// All records, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<AuditRecord> {
        self.records.lock().kept.clone()
    }

    /// Those records that `wanted` picks, oldest first.
    pub fn select(&self, wanted: impl Fn(&AuditRecord) -> bool) -> Vec<AuditRecord> {
        self.records
            .lock()
            .kept
            .iter()
            .filter(|record| wanted(record))
            .cloned()
            .collect()
    }

    /// How many records `wanted` picks.
    pub fn count(&self, wanted: impl Fn(&AuditRecord) -> bool) -> usize {
        self.records
            .lock()
            .kept
            .iter()
            .filter(|record| wanted(record))
            .count()
    }

    /// Writes of `actor`, Leases and dry runs aside; refused ones count too.
    #[must_use]
    pub fn writes(&self, actor: &str) -> Vec<AuditRecord> {
        self.select(|record| record.actor == actor && record.is_write() && !record.is_lease())
    }

    /// Gets and lists of `actor`, Leases and watches aside.
    #[must_use]
    pub fn reads(&self, actor: &str) -> Vec<AuditRecord> {
        self.select(|record| record.actor == actor && record.is_read() && !record.is_lease())
    }

    /// Number of records so far, dropped ones included: a mark for [`Audit::since`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        let records = self.records.lock();
        records.dropped + records.kept.len() as u64
    }

    /// Records written after `mark`.
    #[must_use]
    pub fn since(&self, mark: u64) -> Vec<AuditRecord> {
        let records = self.records.lock();
        let skip = usize::try_from(mark.saturating_sub(records.dropped)).unwrap_or(usize::MAX);
        records.kept.iter().skip(skip).cloned().collect()
    }

    /// Records that no longer fit; counts over the whole life are exact only while this is 0.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.records.lock().dropped
    }

    /// Forgets all records.
    pub fn clear(&self) {
        *self.records.lock() = Records::default();
    }
}
