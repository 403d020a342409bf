//! Removal of what the schema does not specify, and the report of it for strict decoding.

use serde_json::{Map, Value};

use super::node::{Additional, Node};

/// Fields of an object's root, and of embedded resources, that are never pruned.
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Fields of `metav1.ObjectMeta`.
const OBJECT_META: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Fields of `metav1.OwnerReference`.
const OWNER_REFERENCE: [&str; 6] = [
    "apiVersion",
    "blockOwnerDeletion",
    "controller",
    "kind",
    "name",
    "uid",
];

/// Fields of `metav1.ManagedFieldsEntry`.
const MANAGED_FIELDS_ENTRY: [&str; 7] = [
    "apiVersion",
    "fieldsType",
    "fieldsV1",
    "manager",
    "operation",
    "subresource",
    "time",
];

/// Prunes `object`, which is a whole resource, and returns the paths of what went, sorted, first
/// those of the metadata.
pub(crate) fn prune(root: &Node, object: &mut Value) -> Vec<String> {
    let mut gone = Gone {
        paths: Vec::new(),
        parent: String::new(),
    };
    let Value::Object(fields) = object else {
        return gone.paths;
    };
    if let Some(metadata) = fields.get_mut("metadata") {
        gone.within("metadata", |gone| prune_metadata(metadata, gone));
    }
    gone.paths.sort();
    let mut metadata = std::mem::take(&mut gone.paths);
    prune_fields(fields, root, true, &mut gone);
    gone.paths.sort();
    drop_nulls(object, Some(root));
    metadata.append(&mut gone.paths);
    metadata
}

/// The paths pruned so far, and the place of the walk.
struct Gone {
    paths: Vec<String>,
    parent: String,
}

impl Gone {
    fn within<R>(&mut self, key: &str, walk: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.parent.len();
        if length > 0 && !key.starts_with('[') {
            self.parent.push('.');
        }
        self.parent.push_str(key);
        let result = walk(self);
        self.parent.truncate(length);
        result
    }

    fn record(&mut self, key: &str) {
        self.within(key, |gone| gone.paths.push(gone.parent.clone()));
    }

    fn at_root(&self) -> bool {
        self.parent.is_empty()
    }
}

fn prune_value(value: &mut Value, node: Option<&Node>, gone: &mut Gone) {
    match (value, node) {
        (Value::Object(fields), None) => {
            for key in fields.keys() {
                gone.record(key);
            }
            fields.clear();
        }
        (Value::Object(fields), Some(node)) => {
            prune_fields(fields, node, node.embedded_resource, gone);
        }
        (Value::Array(items), node) => {
            let item_node = node.and_then(|node| node.items.as_deref());
            if node.is_some_and(|node| node.preserve_unknown) && item_node.is_none() {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                gone.within(&format!("[{index}]"), |gone| {
                    prune_value(item, item_node, gone);
                });
            }
        }
        (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => {}
    }
}

fn prune_fields(fields: &mut Map<String, Value>, node: &Node, resource: bool, gone: &mut Gone) {
    fields.retain(|key, value| {
        let meta = META_FIELDS.contains(&key.as_str());
        if resource && meta {
            // The root's metadata has been pruned before, as metadata.
            if key == "metadata" && !gone.at_root() {
                gone.within(key, |gone| prune_metadata(value, gone));
            }
            return true;
        }
        match (node.properties.get(key), &node.additional) {
            (Some(child), _) => gone.within(key, |gone| prune_value(value, Some(child), gone)),
            (None, Additional::Of(child)) => {
                gone.within(key, |gone| prune_value(value, Some(child), gone));
            }
            (None, Additional::Any) if !node.preserve_unknown => {
                gone.within(key, |gone| prune_value(value, None, gone));
            }
            (None, Additional::Any | Additional::None) if node.preserve_unknown => {}
            (None, Additional::Any | Additional::None) => {
                gone.record(key);
                return false;
            }
        }
        true
    });
}

fn prune_metadata(metadata: &mut Value, gone: &mut Gone) {
    keep_only(metadata, &OBJECT_META, gone);
    for (list, known) in [
        ("ownerReferences", &OWNER_REFERENCE[..]),
        ("managedFields", &MANAGED_FIELDS_ENTRY[..]),
    ] {
        let Some(Value::Array(entries)) = metadata.get_mut(list) else {
            continue;
        };
        for (index, entry) in entries.iter_mut().enumerate() {
            gone.within(list, |gone| {
                gone.within(&format!("[{index}]"), |gone| keep_only(entry, known, gone));
            });
        }
    }
}

fn keep_only(value: &mut Value, known: &[&str], gone: &mut Gone) {
    let Value::Object(fields) = value else { return };
    fields.retain(|key, _| {
        let keep = known.contains(&key.as_str());
        if !keep {
            gone.record(key);
        }
        keep
    });
}

/// Removes nulls of fields that are not nullable and have no default, which stand for "not set".
fn drop_nulls(value: &mut Value, node: Option<&Node>) {
    match value {
        Value::Object(fields) => fields.retain(|key, value| {
            let child = node.and_then(|node| node.child(key));
            if value.is_null() {
                return !child.is_some_and(Node::drops_null);
            }
            drop_nulls(value, child);
            true
        }),
        Value::Array(items) => {
            let child = node.and_then(|node| node.items.as_deref());
            for item in items {
                drop_nulls(item, child);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
