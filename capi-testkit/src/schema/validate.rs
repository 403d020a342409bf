//! Validation of values against a schema.

use serde_json::Value;

use super::{FieldError, FieldErrorKind, field::Path, node::Node};

pub(crate) fn validate(root: &Node, new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    required(root, new, &Path::Root, &mut errors);
    errors
}

fn required(node: &Node, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Value::Object(fields) = value else { return };
    for name in &node.checks.required {
        if !fields.contains_key(name) {
            let at = Path::Field(path, name).to_string();
            errors.push(FieldError::new(
                FieldErrorKind::Required,
                at,
                Value::Null,
                "",
            ));
        }
    }
    for (key, value) in fields {
        if let Some(child) = node.child(key) {
            required(child, value, &Path::Field(path, key), errors);
        }
    }
}
