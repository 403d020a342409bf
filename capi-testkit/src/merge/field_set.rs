//! Sets of fields, in the form in which `managedFields` carries them.
//!
//! A set is a tree of path elements: `{"f:spec": {".": {}, "f:replicas": {}}}` holds `spec` and
//! `spec.replicas`. A node is a member of the set if it is empty or has the key `.`. All operations
//! work on this JSON as it is, so that an entry nobody touches is never decoded.

use serde_json::{Map, Value, map::Entry};

use super::element;

type Tree = Map<String, Value>;

/// The key that marks a node with children as a member.
const MEMBER: &str = ".";

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FieldSet(Tree);

impl FieldSet {
    /// Takes the value of `fieldsV1`; what is not a set is empty.
    pub(crate) fn from_fields_v1(fields: Value) -> Self {
        match fields {
            Value::Object(tree) => Self(tree),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Self::default(),
        }
    }

    pub(crate) fn into_fields_v1(self) -> Value {
        Value::Object(self.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the field at `path`; the fields around it are not added.
    pub(crate) fn insert(&mut self, path: &[String]) {
        let Some((last, parents)) = path.split_last() else {
            return;
        };
        let tree = descend(&mut self.0, parents);
        match tree.entry(last.as_str()) {
            Entry::Vacant(place) => {
                place.insert(Value::Object(Tree::new()));
            }
            Entry::Occupied(mut place) => {
                if let Value::Object(node) = place.get_mut()
                    && !node.is_empty()
                {
                    node.insert(MEMBER.to_owned(), Value::Object(Tree::new()));
                }
            }
        }
    }

    /// Adds `below` under `path`, and the field at `path` itself if `member`.
    pub(crate) fn insert_below(&mut self, path: &[String], member: bool, below: &Self) {
        if member {
            self.insert(path);
        }
        if !below.is_empty() {
            union(descend(&mut self.0, path), &below.0);
        }
    }

    /// Adds a child; used to build a set from its leaves up.
    pub(crate) fn push(&mut self, element: String, member: bool, below: Self) {
        push(&mut self.0, element, member, below.0);
    }

    pub(crate) fn union(&mut self, other: &Self) {
        union(&mut self.0, &other.0);
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        Self(combined(
            &self.0,
            &other.0,
            &|ours, theirs| ours && !theirs,
            true,
        ))
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        Self(combined(
            &self.0,
            &other.0,
            &|ours, theirs| ours && theirs,
            false,
        ))
    }

    /// Whether the sets have a field in common.
    pub(crate) fn intersects(&self, other: &Self) -> bool {
        intersects(&self.0, &other.0)
    }

    /// Drops top-level fields with all that is below them.
    pub(crate) fn drop_fields(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(&element::field(name));
        }
    }

    /// The child under an element, and whether it is a member.
    pub(crate) fn child(&self, element: &str) -> Option<Child<'_>> {
        self.0.get(element).and_then(Value::as_object).map(Child)
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&str, Child<'_>)> {
        children(&self.0)
    }

    /// All members, each field before what is below it, siblings first.
    pub(crate) fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        collect(&self.0, &mut Vec::new(), &mut paths);
        paths
    }
}

/// A node of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Child<'a>(&'a Tree);

impl<'a> Child<'a> {
    pub(crate) fn is_member(self) -> bool {
        is_member(self.0)
    }

    pub(crate) fn has_children(self) -> bool {
        self.children().next().is_some()
    }

    pub(crate) fn child(self, element: &str) -> Option<Child<'a>> {
        self.0.get(element).and_then(Value::as_object).map(Child)
    }

    pub(crate) fn children(self) -> impl Iterator<Item = (&'a str, Child<'a>)> {
        children(self.0)
    }
}

fn is_member(node: &Tree) -> bool {
    node.is_empty() || node.contains_key(MEMBER)
}

fn children(tree: &Tree) -> impl Iterator<Item = (&str, Child<'_>)> {
    tree.iter()
        .filter(|(key, _)| *key != MEMBER)
        .filter_map(|(key, node)| node.as_object().map(|node| (key.as_str(), Child(node))))
}

/// The node at `path`, made on the way. A node that was empty, and so a member, stays one.
fn descend<'a>(mut tree: &'a mut Tree, path: &[String]) -> &'a mut Tree {
    for key in path {
        let made = Value::Object(Tree::new());
        let node = match tree.entry(key.as_str()) {
            Entry::Vacant(place) => place.insert(made),
            Entry::Occupied(place) => {
                let node = place.into_mut();
                if !node.is_object() {
                    // Not a set as anybody writes it; it is replaced by one.
                    *node = made;
                } else if node.as_object().is_some_and(Tree::is_empty) {
                    node[MEMBER] = made;
                }
                node
            }
        };
        tree = node
            .as_object_mut()
            .expect("the node was just made an object");
    }
    tree
}

fn push(out: &mut Tree, key: String, member: bool, mut below: Tree) {
    if member && !below.is_empty() {
        below.insert(MEMBER.to_owned(), Value::Object(Tree::new()));
    }
    if member || !below.is_empty() {
        out.insert(key, Value::Object(below));
    }
}

fn union(ours: &mut Tree, theirs: &Tree) {
    for (key, Child(their)) in children(theirs) {
        match ours.entry(key) {
            Entry::Vacant(place) => {
                place.insert(Value::Object(their.clone()));
            }
            Entry::Occupied(mut place) => {
                let Value::Object(our) = place.get_mut() else {
                    continue;
                };
                let member = is_member(our) || is_member(their);
                our.remove(MEMBER);
                union(our, their);
                if member && !our.is_empty() {
                    our.insert(MEMBER.to_owned(), Value::Object(Tree::new()));
                }
            }
        }
    }
}

/// The members of `ours` for which `keep` says so, given membership here and there. What `theirs`
/// lacks is kept whole if `keep_missing`.
fn combined(
    ours: &Tree,
    theirs: &Tree,
    keep: &dyn Fn(bool, bool) -> bool,
    keep_missing: bool,
) -> Tree {
    let mut out = Tree::new();
    for (key, Child(our)) in children(ours) {
        match theirs.get(key).and_then(Value::as_object) {
            Some(their) => {
                let below = combined(our, their, keep, keep_missing);
                push(
                    &mut out,
                    key.to_owned(),
                    keep(is_member(our), is_member(their)),
                    below,
                );
            }
            None if keep_missing => {
                out.insert(key.to_owned(), Value::Object(our.clone()));
            }
            None => {}
        }
    }
    out
}

fn intersects(ours: &Tree, theirs: &Tree) -> bool {
    children(ours).any(|(key, Child(our))| {
        theirs
            .get(key)
            .and_then(Value::as_object)
            .is_some_and(|their| (is_member(our) && is_member(their)) || intersects(our, their))
    })
}

fn collect(tree: &Tree, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    for (key, child) in children(tree) {
        if child.is_member() {
            path.push(key.to_owned());
            paths.push(path.clone());
            path.pop();
        }
    }
    for (key, child) in children(tree) {
        path.push(key.to_owned());
        collect(child.0, path, paths);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> FieldSet {
        FieldSet::from_fields_v1(fields)
    }

    #[test]
    fn a_member_stays_a_member_when_children_come_and_go() {
        let mut a = set(json!({"f:a": {}}));
        a.insert(&["f:a".into(), "f:b".into()]);
        assert_eq!(a, set(json!({"f:a": {".": {}, "f:b": {}}})));
        assert_eq!(
            a.difference(&set(json!({"f:a": {"f:b": {}}}))),
            set(json!({"f:a": {}}))
        );
        assert_eq!(
            a.difference(&set(json!({"f:a": {}}))),
            set(json!({"f:a": {"f:b": {}}}))
        );
    }

    #[test]
    fn what_is_not_a_member_vanishes_with_its_last_child() {
        let a = set(json!({"f:a": {"f:b": {}}}));
        assert!(a.difference(&a).is_empty());
        assert!(a.intersection(&set(json!({"f:a": {}}))).is_empty());
        assert!(!a.intersects(&set(json!({"f:a": {}}))));
        assert!(a.intersects(&a));
    }

    #[test]
    fn a_union_holds_the_members_of_both() {
        let mut a = set(json!({"f:a": {}, "f:c": {"f:d": {}}}));
        a.union(&set(json!({"f:a": {"f:b": {}}, "f:c": {"f:e": {}}})));
        assert_eq!(
            a,
            set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"f:d": {}, "f:e": {}}}))
        );
        assert_eq!(a.paths().len(), 4);
    }
}
