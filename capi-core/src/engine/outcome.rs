//! How a pass ends.

use std::borrow::Cow;
use std::time::Duration;

use capi_contract::{Class, Classify, Waiting};

/// A wait, with owned words: reasons may be step names out of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: Cow<'static, str>,
    pub(crate) recheck: Duration,
}

impl Notice {
    pub(crate) fn new(
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
        recheck: Duration,
    ) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            recheck,
        }
    }
}

impl From<Waiting> for Notice {
    fn from(waiting: Waiting) -> Self {
        Self::new(waiting.reason, waiting.message, waiting.recheck)
    }
}

/// What a pass found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not ours to touch: nothing is written, an event will come.
    Ignored,
    /// Paused; the message says by what.
    Paused(String),
    /// Something is waited for.
    Waiting(Notice),
    /// It cannot be told how the thing is.
    Unsure(Notice),
    /// All is as it should be.
    Settled,
    /// Nothing has changed since all was as it should be, as far as a shared listing tells.
    Calm,
    /// What was made is gone or damaged for good.
    Lost(Notice),
    /// The teardown waits.
    Deleting(Notice),
    /// The finalizer is gone.
    Released,
}

impl Outcome {
    /// Label of the metric.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Outcome::Ignored => "ignored",
            Outcome::Paused(_) => "paused",
            Outcome::Waiting(_) => "waiting",
            Outcome::Unsure(_) => "unsure",
            Outcome::Settled => "settled",
            Outcome::Calm => "calm",
            Outcome::Lost(_) => "lost",
            Outcome::Deleting(_) => "deleting",
            Outcome::Released => "released",
        }
    }
}

/// An error of the provider, the backend or a hook, in the form that is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The step or call that failed, in CamelCase.
    pub(crate) call: Cow<'static, str>,
    pub(crate) class: Class,
    /// For people; deterministic, without secrets.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(
        call: impl Into<Cow<'static, str>>,
        class: Class,
        message: impl Into<String>,
    ) -> Self {
        Self {
            call: call.into(),
            class,
            message: message.into(),
        }
    }

    pub(crate) fn of<E: Classify>(call: impl Into<Cow<'static, str>>, error: &E) -> Self {
        Self::new(call, error.class(), error.to_string())
    }
}

/// Label of a class, for metrics and logs.
pub(crate) fn class_label(class: &Class) -> &'static str {
    match class {
        Class::Transient => "transient",
        Class::RetryAfter(_) => "retry_after",
        Class::Conflict => "conflict",
        Class::Dependency(_) => "dependency",
        Class::Misconfigured => "misconfigured",
        Class::Elsewhere => "elsewhere",
        Class::Credentials => "credentials",
        Class::Terminal => "terminal",
        // Classes that a later version may add.
        _ => "other",
    }
}

/// Whether an error of this class is an answer: the request was refused and will not take effect
/// later. A transient error says nothing about the request.
pub(crate) fn is_answer(class: &Class) -> bool {
    match class {
        Class::RetryAfter(_)
        | Class::Conflict
        | Class::Dependency(_)
        | Class::Misconfigured
        | Class::Elsewhere
        | Class::Credentials
        | Class::Terminal => true,
        // Classes that a later version may add are not known to be answers.
        _ => false,
    }
}

/// Why a pass ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A conditional write was refused: our view was old.
    Refused,
    /// The object does not exist any more.
    Gone,
    /// Kubernetes did not take a write for another reason.
    Kubernetes(kube::Error),
    /// The write took so long, or leadership was lost, that the mutation was not sent (R2).
    Late,
    /// The provider failed.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<kube::Error> for Stop {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 409 => Stop::Refused,
            kube::Error::Api(status) if status.code == 404 => Stop::Gone,
            _ => Stop::Kubernetes(error),
        }
    }
}
