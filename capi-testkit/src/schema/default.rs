//! Filling in of defaults.

use serde_json::Value;

use super::node::{Additional, Node};

/// Sets what is absent, and null where null is not allowed, to its default; then goes on inside.
///
/// A default is only set where its parent exists: the server makes no objects to hold defaults.
pub(crate) fn fill(value: &mut Value, node: &Node) {
    if !node.defaults_below {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, child) in &node.properties {
                let Some(default) = &child.default else {
                    continue;
                };
                match fields.get(name) {
                    Some(Value::Null) if !child.nullable => {}
                    Some(_) => continue,
                    None => {}
                }
                fields.insert(name.clone(), default.clone());
            }
            for (key, value) in fields.iter_mut() {
                match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => fill(value, child),
                    (None, Additional::Of(child)) => fill_entry(value, child),
                    (None, Additional::None | Additional::Any) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = &node.items else { return };
            for item in items {
                fill_entry(item, child);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Entries of maps and lists exist already; only a null among them takes the default.
fn fill_entry(value: &mut Value, node: &Node) {
    if value.is_null()
        && !node.nullable
        && let Some(default) = &node.default
    {
        *value = default.clone();
    }
    fill(value, node);
}
