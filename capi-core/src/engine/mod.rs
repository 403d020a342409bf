//! The generic engine: knows one thing outside Kubernetes, and nothing of Cluster API.
//!
//! [`decide`] is the table, [`drive`] the pass around it; [`make`] and [`unmake`] are its two halves,
//! [`act`] carries out one look or step, [`write`](mod@write) does all writing.

mod act;
mod backoff;
mod clock;
mod decide;
mod drive;
mod follow;
mod hooks;
mod kind;
mod make;
mod outcome;
mod publish;
mod queue;
mod session;
mod unmake;
mod visit;
mod write;

pub(crate) use backoff::growth;
pub use clock::Clock;
pub(crate) use drive::{Driver, Next};
pub(crate) use kind::{Admission, FactsOf, Kind, Leave, News, ObjectOf, ScopeOf, Subject, Told};
pub(crate) use outcome::{Failure, Notice};
pub(crate) use publish::{Comparison, compare};
pub(crate) use queue::{Queue, Urgency};
pub(crate) use session::Sessions;
