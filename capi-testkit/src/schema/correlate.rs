//! Which stored value a new one took the place of.

use serde_json::Value;

use super::node::{ListType, Node};

/// The stored items of a list, to be found by the items of the new list.
///
/// Only items of a list-type map have an identity. Items of other lists correlate with nothing.
pub(crate) struct Correlated<'a> {
    keys: &'a [String],
    items: &'a [Value],
}

impl<'a> Correlated<'a> {
    pub(crate) fn new(node: &'a Node, old: Option<&'a Value>) -> Self {
        match (&node.list_type, old) {
            (ListType::Map(keys), Some(Value::Array(items))) => Self { keys, items },
            (ListType::Map(_) | ListType::Atomic | ListType::Set, _) => Self {
                keys: &[],
                items: &[],
            },
        }
    }

    pub(crate) fn of(&self, item: &Value) -> Option<&'a Value> {
        self.items
            .iter()
            .find(|old| self.keys.iter().all(|key| old.get(key) == item.get(key)))
    }
}
