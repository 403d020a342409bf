//! Long operations of a backend.

use serde::{Deserialize, Serialize};

/// The backend's token for a running operation, such as a task id. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Operation(pub String);

/// The answer of [`External::apply`](crate::External::apply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Done when the call returned.
    Finished,
    /// Accepted; goes on under this token.
    Started(Operation),
}

/// How a long operation stands. It tells when to look, never what is true (R4).
#[derive(Debug)]
pub enum Progress<E> {
    /// Still running.
    Running,
    /// Ended well.
    Finished,
    /// Ended badly; the error has a class like any other.
    Failed(E),
    /// The backend does not know it any more.
    Forgotten,
}
