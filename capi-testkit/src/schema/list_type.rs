//! Uniqueness in lists of type set and map.

use serde_json::{Map, Value};

use super::{
    FieldError, FieldErrorKind,
    field::Path,
    node::{Additional, ListType, Node},
};

/// Adds an error for each item that repeats an earlier one, once per repeated item.
pub(crate) fn check(node: &Node, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !node.distinct_within {
        return;
    }
    match value {
        Value::Object(fields) => {
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
            match &node.list_type {
                ListType::Atomic => {}
                ListType::Set => {
                    let items: Vec<&Value> = items.iter().collect();
                    for index in repeated(&items) {
                        duplicate(&Path::Index(path, index), items[index].clone(), errors);
                    }
                }
                ListType::Map(keys) => check_map(keys, items, path, errors),
            }
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

fn check_map(keys: &[String], items: &[Value], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(index) = items
        .iter()
        .position(|item| !item.is_object() && !item.is_null())
    {
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            Path::Index(path, index).to_string(),
            items[index].clone(),
            "must be an object for an array of list-type map",
        ));
        return;
    }
    if let [key] = keys {
        // The usual case, without a copy of the keys.
        let values: Vec<&Value> = items.iter().map(|item| &item[key]).collect();
        for index in repeated(&values) {
            duplicate(
                &Path::Index(path, index),
                key_of(keys, &items[index]),
                errors,
            );
        }
        return;
    }
    let tuples: Vec<Value> = items.iter().map(|item| key_of(keys, item)).collect();
    let tuples: Vec<&Value> = tuples.iter().collect();
    for index in repeated(&tuples) {
        duplicate(&Path::Index(path, index), tuples[index].clone(), errors);
    }
}

fn key_of(keys: &[String], item: &Value) -> Value {
    let present = |key: &String| item.get(key).map(|value| (key.clone(), value.clone()));
    Value::Object(keys.iter().filter_map(present).collect::<Map<_, _>>())
}

/// Indices of second appearances; third and later ones are not reported.
fn repeated(items: &[&Value]) -> Vec<usize> {
    let mut indices = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if items[..index]
            .iter()
            .filter(|earlier| *earlier == item)
            .count()
            == 1
        {
            indices.push(index);
        }
    }
    indices
}

fn duplicate(path: &Path<'_>, value: Value, errors: &mut Vec<FieldError>) {
    errors.push(FieldError::new(
        FieldErrorKind::Duplicate,
        path.to_string(),
        value,
        "",
    ));
}
