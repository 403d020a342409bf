//! Why a story of a suite did not end well, with all causes in one text.

use std::error::Error;
use std::fmt::{Display, Formatter};

/// Any error with its causes, or a sentence. Deliberately not an [`Error`], so that everything that
/// is one turns into it with `?`.
pub struct Failure(String);

impl Failure {
    /// A failure that is explained by this sentence.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Display for Failure {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let said = inner.to_string();
            // Some libraries repeat their source in their own message.
            if !text.ends_with(&said) {
                text = format!("{text}: {said}");
            }
            cause = inner.source();
        }
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read the seed")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_names_its_causes() {
        let failure: Failure = Outer(std::io::Error::other("no medium")).into();
        assert_eq!(failure.to_string(), "read the seed: no medium");
    }
}
