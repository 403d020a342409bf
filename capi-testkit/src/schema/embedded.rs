//! Identity of objects embedded by `x-kubernetes-embedded-resource`.

use serde_json::Value;

use super::{
    FieldError, FieldErrorKind,
    field::Path,
    node::{Additional, Node},
};

/// Adds an error for each embedded object without a usable `apiVersion` or `kind`.
pub(crate) fn check(node: &Node, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !node.embedded_within {
        return;
    }
    match value {
        Value::Object(fields) => {
            if node.embedded_resource {
                for name in ["apiVersion", "kind"] {
                    check_identity(fields.get(name), &Path::Field(path, name), errors);
                }
            }
            for (key, value) in fields {
                match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => check(child, value, &Path::Field(path, key), errors),
                    (None, Additional::Of(child)) => {
                        check(child, value, &Path::Key(path, key), errors);
                    }
                    (None, Additional::None | Additional::Any) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = node.items.as_deref() else {
                return;
            };
            for (index, item) in items.iter().enumerate() {
                check(child, item, &Path::Index(path, index), errors);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn check_identity(value: Option<&Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let error = match value {
        None => FieldError::new(FieldErrorKind::Required, path.to_string(), None, ""),
        Some(Value::String(text)) if text.is_empty() => FieldError::new(
            FieldErrorKind::Invalid,
            path.to_string(),
            Value::from(""),
            "must not be empty",
        ),
        Some(Value::String(_)) => return,
        Some(other) => FieldError::new(
            FieldErrorKind::Invalid,
            path.to_string(),
            other.clone(),
            "must be a string",
        ),
    };
    errors.push(error);
}
