//! Held views: an actor that sees a kind of objects as it was some revisions ago.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Whose view of what is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Holder {
    actor: String,
    /// `plural.group`, or `plural` for core; empty for every resource.
    resource: String,
}

/// All holds of a server.
#[derive(Debug, Clone)]
pub(crate) struct Holds {
    limits: Arc<Mutex<HashMap<Holder, u64>>>,
    changed: watch::Sender<()>,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            limits: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Holds {
    pub(crate) fn hold(&self, actor: &str, resource: &str, revision: u64) -> Hold {
        let holder = Holder {
            actor: actor.to_owned(),
            resource: resource.to_owned(),
        };
        self.limits.lock().insert(holder.clone(), revision);
        Hold {
            holds: self.clone(),
            holder,
        }
    }

    /// Newest revision that `actor` may see of `resource` through a watch or a cached list.
    pub(crate) fn limit(&self, actor: &str, resource: &str) -> Option<u64> {
        let limits = self.limits.lock();
        if limits.is_empty() {
            return None;
        }
        let find = |resource: &str| {
            let holder = Holder {
                actor: actor.to_owned(),
                resource: resource.to_owned(),
            };
            limits.get(&holder).copied()
        };
        match (find(resource), find("")) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Wakes when any hold changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// A held view, from [`ApiServer::hold_watch`](super::ApiServer::hold_watch). Dropping it releases
/// it.
#[must_use = "dropping the hold releases it"]
pub struct Hold {
    holds: Holds,
    holder: Holder,
}

impl Hold {
    /// Lets the actor see `revisions` more revisions (changes to any object count).
    pub fn advance(&self, revisions: u64) {
        if let Some(limit) = self.holds.limits.lock().get_mut(&self.holder) {
            *limit = limit.saturating_add(revisions);
        }
        self.holds.changed.send_replace(());
    }

    /// Lets the actor see everything again.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.limits.lock().remove(&self.holder);
        self.holds.changed.send_replace(());
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}
