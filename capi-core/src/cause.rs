//! Why something failed, in one line.

use std::error::Error;

/// An error with its sources, each said once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let more = next.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read the file")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("read the file: no such file")]
    struct Repeating(#[source] io::Error);

    #[test]
    fn sources_are_said_once() {
        let inner = || io::Error::other("no such file");
        let expected = "read the file: no such file";
        assert_eq!(chain(&Outer(inner())), expected);
        assert_eq!(chain(&Repeating(inner())), expected);
    }
}
