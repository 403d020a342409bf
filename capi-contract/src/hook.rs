//! Lifecycle hooks: code of the operator's that runs at fixed moments.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::mark::ObjectName;
use crate::plan::Waiting;

/// When a hook runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Moment {
    /// The claim is written, nothing has been made yet.
    Claimed,
    /// Before a step of this name.
    BeforeStep(&'static str),
    /// After a step of this name was accepted.
    AfterStep(&'static str),
    /// `provisioned` was set.
    Provisioned,
    /// Before the first step of the teardown.
    BeforeTeardown,
    /// Absence was observed; the finalizer goes next.
    Gone,
}

/// What a hook is told about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Occasion {
    /// The moment.
    pub moment: Moment,
    /// Kind of the object, such as `HelloMachine`.
    pub kind: String,
    /// The object.
    pub name: ObjectName,
    /// The object as last seen, without managed fields.
    pub object: Value,
}

impl Occasion {
    /// Tells of a moment in an object's life.
    pub fn new(moment: Moment, kind: impl Into<String>, name: ObjectName, object: Value) -> Self {
        Self {
            moment,
            kind: kind.into(),
            name,
            object,
        }
    }
}

/// What a hook answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Proceed,
    /// Wait; the reason and message go into the condition, with the hook's name.
    Hold(Waiting),
}

/// Why a hook could not answer; retried like a transient error.
pub type HookError = Box<dyn std::error::Error + Send + Sync>;

/// Code that runs at fixed moments in the life of a machine or cluster.
///
/// # Guarantees
///
/// A hook runs at least once per moment, before anything that the moment announces. It does not get
/// the session and cannot change the plan: what changes the plan belongs to the provider.
///
/// # What the author owes
///
/// It must be idempotent and answer within its [deadline](Hook::deadline); a later answer counts as
/// an error. For [`Moment::Gone`] the finalizer is delayed no longer than the deadline.
#[async_trait]
pub trait Hook: Send + Sync {
    /// A short name for conditions, logs and metrics.
    fn name(&self) -> &str;

    /// How long one call may take.
    fn deadline(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Asks the hook.
    ///
    /// # Errors
    ///
    /// Any error is retried with backoff, like a transient one.
    async fn on(&self, occasion: &Occasion) -> Result<Verdict, HookError>;
}
