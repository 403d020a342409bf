//! What the engine asks of the kind of object that it drives.

use std::future::Future;
use std::sync::Arc;

use capi_contract::condition::Report;
use capi_contract::{External, Health, Identity, Token};
use serde_json::{Map, Value};

use super::outcome::{Failure, Notice};

/// Whether a thing may be built now.
pub(crate) enum Admission<S> {
    /// Not ours to touch.
    Ignore,
    /// Paused, by what the message says.
    Paused(String),
    /// Something is missing.
    Wait(Notice),
    /// Go on with this scope.
    Open(Box<S>),
}

/// Whether a thing may be unmade now.
pub(crate) enum Leave {
    /// Not ours to touch.
    Ignore,
    /// Paused, by what the message says.
    Paused(String),
    /// Others must go first.
    Wait(Notice),
    /// Go on.
    Open,
}

/// The object of a pass, as it was last seen or written.
pub(crate) struct Subject<O> {
    pub(crate) object: Arc<O>,
    /// Its serialised form, in which fields of the contract are found.
    pub(crate) raw: Value,
}

impl<O> Subject<O> {
    /// `status`, empty if there is none.
    pub(crate) fn status(&self) -> Map<String, Value> {
        match self.raw.get("status") {
            Some(Value::Object(status)) => status.clone(),
            _ => Map::new(),
        }
    }
}

/// What one look said, in the words of the contract.
pub(crate) struct Told {
    /// The status fields of the contract and of the author, without conditions and `initialization`.
    pub(crate) status: Map<String, Value>,
    /// Fields of spec to write first.
    pub(crate) spec: Option<Map<String, Value>>,
    /// Whether it is time for them; until then they only go along with another write.
    pub(crate) is_due: bool,
    /// Whether all is known that `provisioned` needs, once `spec` is written.
    pub(crate) complete: bool,
    /// What is missing, where `complete` is false.
    pub(crate) missing: &'static str,
    /// What may hold back `Ready`.
    pub(crate) health: Health,
    /// Further conditions, of the types in [`Kind::conditions`].
    pub(crate) conditions: Vec<Report>,
}

/// The object of an [`External`].
pub(crate) type ObjectOf<K> = <<K as Kind>::External as External>::Object;
/// The scope of an [`External`].
pub(crate) type ScopeOf<K> = <<K as Kind>::External as External>::Scope;
/// The claim of an [`External`].
pub(crate) type ClaimOf<K> = <<K as Kind>::External as External>::Claim;
/// The session of an [`External`].
pub(crate) type SessionOf<K> = <<K as Kind>::External as External>::Session;
/// The facts of an [`External`].
pub(crate) type FactsOf<K> = <<K as Kind>::External as External>::Facts;

/// A kind of object: what stands between the engine and the contract.
pub(crate) trait Kind: Send + Sync + 'static {
    /// What is made.
    type External: External;

    /// Metric label.
    const LABEL: &'static str;
    /// Whether a thing that vanished is made again (R9).
    const REMADE: bool;

    fn external(&self) -> &Self::External;
    fn finalizer(&self) -> &'static str;
    fn condition(&self) -> &'static str;

    /// Types of further conditions that looks report.
    fn conditions(&self) -> &'static [&'static str] {
        &[]
    }

    /// The newest version of an object that is known.
    fn load(&self, name: &capi_contract::ObjectName) -> Option<Arc<ObjectOf<Self>>>;
    /// Takes in what an own write returned.
    fn stored(&self, object: ObjectOf<Self>) -> Arc<ObjectOf<Self>>;

    /// The gates, and the scope behind them. Creates the Kubernetes objects that the thing needs.
    fn admit(
        &self,
        subject: &Subject<ObjectOf<Self>>,
        proven: bool,
    ) -> impl Future<Output = Result<Admission<ScopeOf<Self>>, Failure>> + Send;

    /// The gate of the teardown.
    fn leave(&self, subject: &Subject<ObjectOf<Self>>) -> Leave;

    /// The credentials, as far as they can be told now.
    fn identity(&self, subject: &Subject<ObjectOf<Self>>) -> Option<Identity>;

    /// Takes note that there is a session with these credentials.
    fn connected(
        &self,
        _subject: &Subject<ObjectOf<Self>>,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }

    /// The owner token of the infra cluster, if it is known.
    fn owner(&self, subject: &Subject<ObjectOf<Self>>) -> Option<Token>;

    /// Annotations that the first write carries beside the ledger.
    fn annotations(&self, scope: &ScopeOf<Self>) -> Vec<(&'static str, String)>;

    /// Name of the bootstrap Secret; `None` where there is no bootstrap data.
    fn bootstrap_secret<'a>(&self, scope: &'a ScopeOf<Self>) -> Option<&'a str>;

    /// Whether `spec` already says that the thing was made (IM-16).
    fn is_made(&self, subject: &Subject<ObjectOf<Self>>) -> bool;

    /// Whether something was begun for the object, beside the thing itself, that only a look at the
    /// thing brings to its end.
    fn is_unfinished(&self, _subject: &Subject<ObjectOf<Self>>) -> bool {
        false
    }

    /// Puts facts into the words of the contract.
    fn tell(
        &self,
        subject: &Subject<ObjectOf<Self>>,
        scope: &ScopeOf<Self>,
        facts: &FactsOf<Self>,
    ) -> Told;

    /// Lets go of what other objects hold for this one, right before the finalizer goes.
    fn release(
        &self,
        subject: &Subject<ObjectOf<Self>>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Says that something happened to an object.
    fn announce(&self, object: &ObjectOf<Self>, news: News<'_>);
}

/// Something worth an Event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News<'a> {
    pub(crate) warning: bool,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}
