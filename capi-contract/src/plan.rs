//! What to do next, as a value.

use std::borrow::Cow;
use std::time::Duration;

/// A wait: why, what to change, and when to look again (R6). Not an error.
///
/// The reason becomes the condition's reason and must be CamelCase; the message is shown to the
/// user, must be deterministic (CO-07: no times, request ids, counters) and hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase reason of the condition.
    pub reason: &'static str,
    /// What is waited for and, where a person can help, what to change.
    pub message: Cow<'static, str>,
    /// When to look again at the latest; an event may come earlier.
    pub recheck: Duration,
}

impl Waiting {
    /// A wait with a reason, a message and a time for the next look.
    pub fn new(
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
        recheck: Duration,
    ) -> Self {
        Self {
            reason,
            message: message.into(),
            recheck,
        }
    }
}

/// The answer of [`External::plan`](crate::External::plan).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan<A> {
    /// Carry out this step.
    Apply(A),
    /// Nothing to do until something changes.
    Wait(Waiting),
    /// The thing is as it should be.
    Settled,
    /// The thing cannot become what was asked for, or is damaged for good. Reported; remediation
    /// replaces the machine (R9).
    Lost(Waiting),
}

/// The answer of [`External::plan_teardown`](crate::External::plan_teardown).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Teardown<A> {
    /// Carry out this step.
    Apply(A),
    /// Nothing to do until something changes.
    Wait(Waiting),
    /// Leave the thing be and release the finalizer: the orphan policy.
    Release,
}
