//! Tables: what `kubectl get` prints.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    jsonpath,
    kinds::{Column, Resource},
    output::{RowObject, in_version, partial},
    row as builtin_row,
    store::Object,
};

/// A `meta.k8s.io/v1` table of `objects`; `with_columns` is false behind the first event of a watch.
pub(crate) fn table(
    resource: &Resource,
    objects: &[Arc<Object>],
    include: RowObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let builtin = builtin_row::columns(resource);
    let columns = if builtin.is_empty() {
        defined(resource)
    } else {
        builtin
    };
    let rows: Vec<_> = objects
        .iter()
        .map(|object| table_row(resource, &columns, object, include, now))
        .collect();
    let metadata = match objects {
        [only] => json!({"resourceVersion": only.meta("resourceVersion").unwrap_or_default()}),
        _ => json!({}),
    };
    let definitions = if with_columns {
        columns.iter().map(definition).collect()
    } else {
        Value::Null
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// The table of one `Scale`.
pub(crate) fn scale_table(scale: &Value, include: RowObject, now: Timestamp) -> Value {
    let columns = [
        column("Name", "string", ".metadata.name", 0),
        column("Desired", "integer", ".spec.replicas", 0),
        column("Available", "integer", ".status.replicas", 0),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    let cells: Vec<_> = columns
        .iter()
        .map(|column| cell(column, scale, now))
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]},
        "columnDefinitions": columns.iter().map(definition).collect::<Vec<_>>(),
        "rows": [row(&cells, scale, include)],
    })
}

/// What `metav1.ObjectMeta` says of the fields that most tables show.
const NAME_DOC: &str = "Name must be unique within a namespace. Is required when creating resources, \
    although some resources may allow a client to request the generation of an appropriate name \
    automatically. Name is primarily intended for creation idempotence and configuration definition. \
    Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED_DOC: &str = "CreationTimestamp is a timestamp representing the server time when this \
    object was created. It is not guaranteed to be set in happens-before order across separate \
    operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\n\
    Populated by the system. Read-only. Null for lists. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A column of a kind.
pub(crate) fn column(name: &str, kind: &str, path: &str, priority: i64) -> Column {
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: if name == "Name" {
            "name".to_owned()
        } else {
            String::new()
        },
        description: match path {
            ".metadata.name" => NAME_DOC.to_owned(),
            ".metadata.creationTimestamp" => CREATED_DOC.to_owned(),
            _ => String::new(),
        },
        priority,
        path: path.to_owned(),
    }
}

/// Name, and the definition's columns, or the age if it has none.
fn defined(resource: &Resource) -> Vec<Column> {
    let mut columns = vec![column("Name", "string", ".metadata.name", 0)];
    if resource.columns.is_empty() {
        columns.push(column("Age", "date", ".metadata.creationTimestamp", 0));
    } else {
        columns.extend(resource.columns.iter().cloned());
    }
    columns
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": if column.kind == "date" { "string" } else { &column.kind },
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn table_row(
    resource: &Resource,
    columns: &[Column],
    object: &Arc<Object>,
    include: RowObject,
    now: Timestamp,
) -> Value {
    let shown = in_version(resource, object.value());
    let cells: Vec<_> = columns
        .iter()
        .map(
            |column| match builtin_row::cell(resource, &column.path, &shown) {
                Some(Value::String(time)) if column.kind == "date" => age(&time, now).into(),
                Some(computed) => computed,
                None => cell(column, &shown, now),
            },
        )
        .collect();
    row(&cells, &shown, include)
}

fn row(cells: &[Value], shown: &Value, include: RowObject) -> Value {
    let mut row = json!({"cells": cells});
    match include {
        RowObject::None => row["object"] = Value::Null,
        RowObject::Metadata => row["object"] = partial(shown),
        RowObject::Object => row["object"] = shown.clone(),
    }
    row
}

/// What a column shows of an object, as the converter of custom resources does it.
fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let Some(found) = jsonpath::find(object, &column.path) else {
        return Value::Null;
    };
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match (column.kind.as_str(), first) {
        ("integer", Value::Number(number)) => number.as_i64().map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("date", Value::String(text)) => age(text, now).into(),
        ("string", _) => {
            let texts: Vec<_> = found.iter().map(|value| text(value)).collect();
            texts.join(" ").into()
        }
        _ => Value::Null,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Time since a `metav1.Time`, in the words of `kubectl`.
pub(crate) fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => human(now.as_second() - then.as_second()),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// `duration.HumanDuration` of apimachinery: two units at most, fewer the longer it is.
fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |first: i64, unit: &str, second: i64, smaller: &str| {
        if second == 0 {
            format!("{first}{unit}")
        } else {
            format!("{first}{unit}{second}{smaller}")
        }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(seconds / YEAR, "y", seconds % YEAR / DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_shows_them() {
        let table = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (3600, "60m"),
            (4 * 3600 + 60, "4h1m"),
            (8 * 3600, "8h"),
            (49 * 3600, "2d1h"),
            (9 * 86400, "9d"),
            (3 * 365 * 86400, "3y"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human(seconds), expected);
        }
    }
}
