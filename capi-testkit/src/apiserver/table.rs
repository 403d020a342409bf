//! Tables: what `kubectl get` prints.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    kinds::{Column, Resource},
    output::{RowObject, in_version, partial},
    store::Object,
};

/// A `meta.k8s.io/v1` table of `objects`; `with_columns` is false behind the first event of a watch.
pub(crate) fn table(
    resource: &Resource,
    objects: &[Arc<Object>],
    include: RowObject,
    with_columns: bool,
) -> Value {
    let columns = columns(resource);
    let rows: Vec<_> = objects
        .iter()
        .map(|object| row(resource, &columns, object, include))
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

fn columns(resource: &Resource) -> Vec<Column> {
    let name = Column {
        name: "Name".to_owned(),
        kind: "string".to_owned(),
        format: "name".to_owned(),
        description: "Name must be unique within a namespace.".to_owned(),
        priority: 0,
        path: ".metadata.name".to_owned(),
    };
    let mut columns = vec![name];
    if resource.columns.is_empty() {
        columns.push(Column {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: "CreationTimestamp is a timestamp representing the server time when this \
                object was created."
                .to_owned(),
            priority: 0,
            path: ".metadata.creationTimestamp".to_owned(),
        });
    } else {
        columns.extend(resource.columns.iter().cloned());
    }
    columns
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn row(resource: &Resource, columns: &[Column], object: &Arc<Object>, include: RowObject) -> Value {
    let shown = in_version(resource, object.value());
    let cells: Vec<_> = columns.iter().map(|column| cell(column, &shown)).collect();
    let mut row = json!({"cells": cells});
    match include {
        RowObject::None => {}
        RowObject::Metadata => row["object"] = partial(&shown),
        RowObject::Object => row["object"] = shown.into_owned(),
    }
    row
}

fn cell(column: &Column, object: &Value) -> Value {
    column
        .path
        .split('.')
        .filter(|part| !part.is_empty())
        .try_fold(object, |at, part| at.get(part))
        .cloned()
        .unwrap_or(Value::Null)
}
