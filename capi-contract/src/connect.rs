//! From credentials to a session.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::class::Classify;
use crate::mark::ObjectName;
use crate::wake::Wakes;

/// Names the credentials with which a backend is reached: a Secret, and a part of it where one
/// Secret holds several (ID-01).
///
/// The engine copies the identity into the ledger, so that teardown can connect when the infra
/// cluster is gone, and keeps one session per identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The Secret.
    pub secret: ObjectName,
    /// Which part of it, for backends with several endpoints in one Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

impl Identity {
    /// The identity that one whole Secret holds.
    pub fn secret(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            secret: ObjectName::new(namespace, name),
            part: None,
        }
    }
}

/// The contents of a credentials Secret. `Debug` shows the keys only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, Vec<u8>>);

impl Credentials {
    /// Wraps the data of a Secret.
    pub fn new(data: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self(data.into_iter().collect())
    }

    /// The bytes under a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// The text under a key, without surrounding white space; `None` if absent or not UTF-8.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .map(str::trim)
    }

    /// The keys, which are no secret.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys()).finish()
    }
}

/// Makes sessions. One per provider; machines and clusters share its sessions.
///
/// The engine caches a session per identity, in bounded number, and makes a new one when an error of
/// class [`Credentials`](crate::Class::Credentials) says that the old one is refused (ID-04).
pub trait Connect: Send + Sync + 'static {
    /// A connected client, cheap to share.
    type Session: Send + Sync + 'static;
    /// What can go wrong.
    type Error: Classify;

    /// Builds a session. `identity` and `credentials` are both there, or neither: then the process's
    /// own configuration is meant.
    ///
    /// *Must* report a missing or malformed key as [`Class::Credentials`](crate::Class::Credentials)
    /// and name it. May make a request to check the credentials.
    fn connect(
        &self,
        identity: Option<&Identity>,
        credentials: Option<&Credentials>,
    ) -> impl Future<Output = Result<Self::Session, Self::Error>> + Send;

    /// Keeps a session up to date and wakes the objects whose things change, for as long as the
    /// session lives. For backends that tell of changes: the place of watches and of the caches that
    /// they fill. The default waits for ever, for backends that are only asked.
    ///
    /// The engine runs one such future per live session, whichever kinds use it, and drops it when
    /// the session is replaced, idle or the engine ends; so nothing needs to be spawned, and nothing
    /// is left running. A future that ends, or panics, is begun again with a growing pause.
    ///
    /// *Must* be ready to be dropped at any await and begun again, must bound what it keeps, and
    /// must retry by itself what can be retried. *Must not* mutate, nor block without awaiting.
    ///
    /// What it has learned is [`Depth::Listing`](crate::Depth::Listing): until the first list is
    /// there, and whenever it cannot vouch for what it knows, `observe` answers
    /// [`Lookup::Unsettled`](crate::Lookup::Unsettled) at that depth, and the engine looks at the
    /// thing itself.
    fn follow(&self, _session: &Self::Session, _wakes: &Wakes) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// For backends that need no session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connected;

impl Connect for Connected {
    type Session = ();
    type Error = std::convert::Infallible;

    async fn connect(
        &self,
        _identity: Option<&Identity>,
        _credentials: Option<&Credentials>,
    ) -> Result<(), Self::Error> {
        Ok(())
    }
}
