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

    /// The stored counterpart of an item. Lists rarely change their order, so the place where the
    /// item now stands is looked at first.
    pub(crate) fn of(&self, index: usize, item: &Value) -> Option<&'a Value> {
        let same = |old: &&Value| self.keys.iter().all(|key| old.get(key) == item.get(key));
        self.items
            .get(index)
            .filter(same)
            .or_else(|| self.items.iter().find(same))
    }
}
