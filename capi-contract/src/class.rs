//! What the engine should do about an error.

use std::fmt;
use std::time::Duration;

/// A Kubernetes object that something depends on, in the namespace of the object at hand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dependency {
    /// Kind of the object, for the message.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The reaction that an error asks for; chosen by the author, next to the variant.
///
/// | class | next try | condition |
/// |---|---|---|
/// | `Transient` | exponential backoff per object with jitter, capped | after some failures `<Step>Failed` |
/// | `RetryAfter` | after that time, no growth | at once |
/// | `Conflict` | look again at once, bounded | none |
/// | `Dependency` | when that object changes, and slowly | a wait that names the object |
/// | `Misconfigured` | when the spec changes, and slowly | false, the message names the field |
/// | `Elsewhere` | the claim is given up and another is chosen | if it goes on |
/// | `Credentials` | the credentials are read again, with backoff from 1 s to 60 s | false, names the Secret |
/// | `Terminal` | slowly | false; heals when the cause goes (R10) |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// Will probably go by itself: a time-out, a lock, a silent node.
    Transient,
    /// The backend said when to come back.
    RetryAfter(Duration),
    /// Somebody else changed the thing: look again.
    Conflict,
    /// Another Kubernetes object is missing or not ready.
    Dependency(Dependency),
    /// The user must change a field; the message names it.
    Misconfigured,
    /// This identity or placement cannot be had (id taken, no space, hardware lost): choose another.
    Elsewhere,
    /// The credentials were refused, lack a right, or the server's certificate is not trusted.
    Credentials,
    /// Nothing that waits to be retried, such as a cause that only a person can remove.
    Terminal,
}

/// An error that knows its [`Class`].
///
/// The message (`Display`) is shown in conditions and events: lower case, deterministic (CO-07), no
/// secret, and it says what was attempted and what to change.
pub trait Classify: std::error::Error + Send + Sync + 'static {
    /// What the engine should do about it.
    fn class(&self) -> Class {
        Class::Transient
    }
}

impl Classify for std::convert::Infallible {}
