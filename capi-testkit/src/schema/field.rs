//! Errors of one field, in the words of apimachinery.

use std::fmt;

use serde_json::{Value, json};

/// Where in an object something is, written as apimachinery writes paths: `spec.disks[0].name`,
/// `metadata.labels[app]`.
///
/// A path is a chain on the stack of the walk, so that objects without errors cost no allocation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    /// A key of a map whose keys are data, not field names.
    Key(&'a Path<'a>, &'a str),
}

impl Path<'_> {
    /// As [`fmt::Display`], and `<nil>` for the root, which is what the server prints for no path.
    pub(crate) fn or_nil(&self) -> String {
        match self {
            Path::Root => "<nil>".to_owned(),
            Path::Field(..) | Path::Index(..) | Path::Key(..) => self.to_string(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// What is wrong with a field; the same set as apimachinery's `field.ErrorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// A value that must be there is not.
    Required,
    /// A value that must be unique is not.
    Duplicate,
    /// A malformed value.
    Invalid,
    /// A value outside an enumeration.
    NotSupported,
    /// A value that is well-formed but not allowed here.
    Forbidden,
    /// A string over its length.
    TooLong,
    /// A list or map over its size.
    TooMany,
    /// A value of the wrong JSON type.
    TypeInvalid,
    /// The server's own fault, such as a rule that cannot be evaluated.
    Internal,
    /// A referenced value that does not exist.
    NotFound,
}

impl FieldErrorKind {
    /// The `reason` of a cause in a Status, such as `FieldValueInvalid`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
            Self::NotFound => "FieldValueNotFound",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
            Self::NotFound => "Not found",
        }
    }

    /// Kinds whose message never shows the offending value.
    fn hides_value(self) -> bool {
        matches!(
            self,
            Self::Required | Self::Forbidden | Self::TooLong | Self::Internal
        )
    }

    /// CEL rules are not run on an object with such an error: their types would not hold.
    pub(crate) fn blocks_rules(self) -> bool {
        matches!(
            self,
            Self::NotSupported | Self::Required | Self::TooLong | Self::TooMany | Self::TypeInvalid
        )
    }
}

/// One thing wrong with one field.
///
/// [`fmt::Display`] gives the server's text, `spec.replicas: Invalid value: -1: should be greater
/// than or equal to 0`; [`FieldError::body`] the part after the path, which is the message of a
/// cause.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What kind of fault.
    pub kind: FieldErrorKind,
    /// Path of the field, such as `spec.disks[0].name`.
    pub field: String,
    /// The offending value, rendered as JSON; `None` and kinds that hide it show none.
    pub value: Option<Value>,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    /// A fault of `kind` at `field`.
    pub fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        value: impl Into<Option<Value>>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.into(),
            value: value.into(),
            detail: detail.into(),
        }
    }

    /// The text without the path.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_owned();
        if let Some(value) = self.value.as_ref().filter(|_| !self.kind.hides_value()) {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The cause for the `details` of a Status.
    #[must_use]
    pub fn cause(&self) -> Value {
        json!({"reason": self.kind.reason(), "message": self.body(), "field": self.field})
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// The `message` of the 422 Status for an object that has these errors.
///
/// `kind` is the qualified kind, `Machine.cluster.x-k8s.io` (the bare kind in the core group).
///
/// ```
/// # use capi_testkit::schema::{FieldError, FieldErrorKind, invalid_message};
/// let error = FieldError::new(FieldErrorKind::Required, "spec.clusterName", None, "");
/// assert_eq!(
///     invalid_message("Machine.cluster.x-k8s.io", "worker-0", &[error]),
///     "Machine.cluster.x-k8s.io \"worker-0\" is invalid: spec.clusterName: Required value",
/// );
/// ```
#[must_use]
pub fn invalid_message(kind: &str, name: &str, errors: &[FieldError]) -> String {
    format!(
        "{kind} {name:?} is invalid: {}",
        aggregate(errors.iter().map(ToString::to_string))
    )
}

/// Several messages as one: a single one stands alone, more are in brackets, repeats are dropped.
pub(crate) fn aggregate(messages: impl Iterator<Item = String>) -> String {
    let mut distinct: Vec<String> = Vec::new();
    for message in messages {
        if !distinct.contains(&message) {
            distinct.push(message);
        }
    }
    match distinct.len() {
        1 => distinct.swap_remove(0),
        _ => format!("[{}]", distinct.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_apimachinery() {
        let cases = [
            (
                FieldErrorKind::Invalid,
                json!("a\"b"),
                "bad",
                r#"f: Invalid value: "a\"b": bad"#,
            ),
            (
                FieldErrorKind::TypeInvalid,
                json!({"b":1,"a":[]}),
                "x",
                r#"f: Invalid value: {"a":[],"b":1}: x"#,
            ),
            (FieldErrorKind::Required, json!(1), "", "f: Required value"),
            (
                FieldErrorKind::TooLong,
                json!("long"),
                "may not be more than 3 bytes",
                "f: Too long: may not be more than 3 bytes",
            ),
            (
                FieldErrorKind::TooMany,
                json!(4),
                "must have at most 3 items",
                "f: Too many: 4: must have at most 3 items",
            ),
            (
                FieldErrorKind::Duplicate,
                json!({"name":"x"}),
                "",
                r#"f: Duplicate value: {"name":"x"}"#,
            ),
        ];
        for (kind, value, detail, expected) in cases {
            assert_eq!(
                FieldError::new(kind, "f", value, detail).to_string(),
                expected
            );
        }
    }

    #[test]
    fn one_error_stands_alone_and_several_are_listed_without_repeats() {
        let error = |field: &str| FieldError::new(FieldErrorKind::Required, field, None, "");
        assert_eq!(
            invalid_message("K", "n", &[error("a")]),
            r#"K "n" is invalid: a: Required value"#
        );
        assert_eq!(
            invalid_message("K", "n", &[error("a"), error("b"), error("a")]),
            r#"K "n" is invalid: [a: Required value, b: Required value]"#
        );
    }

    #[test]
    fn paths_print_as_apimachinery_prints_them() {
        let spec = Path::Field(&Path::Root, "spec");
        let disks = Path::Field(&spec, "disks");
        let first = Path::Index(&disks, 0);
        assert_eq!(
            Path::Field(&first, "name").to_string(),
            "spec.disks[0].name"
        );
        assert_eq!(Path::Key(&spec, "a/b").to_string(), "spec[a/b]");
        assert_eq!(Path::Root.or_nil(), "<nil>");
    }
}
