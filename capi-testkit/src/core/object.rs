//! Kubernetes objects of any kind, as the actors read them.

use std::borrow::Cow;
use std::fmt::{Display, Formatter};
use std::ops::Deref;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Map, Value, json};

use super::word::{CLUSTER_NAME_LABEL, PAUSED_ANNOTATION};

/// A kind without its version: how Cluster API's references name it (CRD-12).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// The group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The kind, in CamelCase.
    pub kind: Cow<'static, str>,
}

impl Kind {
    /// A kind known at compile time.
    pub const fn fixed(group: &'static str, kind: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            kind: Cow::Borrowed(kind),
        }
    }

    pub(crate) fn new(group: &str, kind: &str) -> Self {
        Self {
            group: Cow::Owned(group.to_owned()),
            kind: Cow::Owned(kind.to_owned()),
        }
    }

    /// The kind of an API resource.
    pub fn of(resource: &ApiResource) -> Self {
        Self::new(&resource.group, &resource.kind)
    }

    /// Whether an owner reference names this kind, in any version.
    pub fn is_of(&self, owner: &OwnerReference) -> bool {
        owner.kind == self.kind && group_of(&owner.api_version) == self.group
    }
}

impl Display for Kind {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.kind, self.group)
    }
}

/// The group of an `apiVersion`; empty for the core group.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Name {
    /// Names an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl Display for Name {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            out.write_str(&self.name)
        } else {
            write!(out, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A reference as Cluster API writes it: group, kind and name in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

impl Reference {
    /// Reads `{apiGroup, kind, name}`, or `{apiVersion, kind, name}` where Cluster API has that form.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let group = match text("apiGroup") {
            Some(group) => group,
            None => group_of(text("apiVersion")?),
        };
        Some(Self {
            kind: Kind::new(group, text("kind")?),
            name: text("name")?.to_owned(),
        })
    }

    pub(crate) fn value(&self) -> Value {
        json!({"apiGroup": self.kind.group, "kind": self.kind.kind, "name": self.name})
    }
}

/// One condition of an object, as far as it is well formed (CO-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionRef<'a> {
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// In CamelCase; empty if absent.
    pub reason: &'a str,
    /// For people; empty if absent.
    pub message: &'a str,
    /// When the status became what it is.
    pub since: Option<Timestamp>,
}

/// An object of any kind. `managedFields` is dropped on the way in: nothing here reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(DynamicObject);

impl Object {
    /// Takes an object in.
    pub fn new(mut object: DynamicObject) -> Self {
        object.metadata.managed_fields = None;
        Self(object)
    }

    #[cfg(test)]
    pub(crate) fn from_value(value: Value) -> Self {
        Self::new(serde_json::from_value(value).expect("an object"))
    }

    /// Namespace and name.
    pub fn key(&self) -> Name {
        Name::new(self.namespace(), self.name())
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.0.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.0.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The resource version as a number, which the API server's contract lets clients compare.
    pub fn version(&self) -> u64 {
        let text = self.0.metadata.resource_version.as_deref();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// `metadata.generation`; 0 if absent.
    pub fn generation(&self) -> i64 {
        self.0.metadata.generation.unwrap_or(0)
    }

    /// `metadata.creationTimestamp`.
    pub fn created(&self) -> Option<Timestamp> {
        self.0.metadata.creation_timestamp.as_ref().map(|at| at.0)
    }

    /// Whether it has a deletion timestamp.
    pub fn is_deleting(&self) -> bool {
        self.0.metadata.deletion_timestamp.is_some()
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.0.metadata.labels.as_ref()?;
        labels.get(key).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        let annotations = self.0.metadata.annotations.as_ref()?;
        annotations.get(key).map(String::as_str)
    }

    /// Annotations whose key is `prefix` or `prefix/…`: how deletion hooks are written.
    pub(crate) fn hooks(&self, prefix: &str) -> Vec<&str> {
        let annotations = self.0.metadata.annotations.iter().flatten();
        annotations
            .map(|(key, _)| key.as_str())
            .filter(|key| {
                key.strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .collect()
    }

    /// Whether it bears this finalizer.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        let finalizers = self.0.metadata.finalizers.iter().flatten();
        finalizers.into_iter().any(|held| held == finalizer)
    }

    pub(crate) fn finalizers_left(&self) -> usize {
        self.0.metadata.finalizers.as_ref().map_or(0, Vec::len)
    }

    /// `metadata.ownerReferences`.
    pub fn owners(&self) -> &[OwnerReference] {
        self.0
            .metadata
            .owner_references
            .as_deref()
            .unwrap_or_default()
    }

    /// The owner that controls it.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners()
            .iter()
            .find(|owner| owner.controller == Some(true))
    }

    /// Whether an object of this uid is among its owners.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.owners().iter().any(|owner| owner.uid == uid)
    }

    /// The name of the Cluster: `spec.clusterName` where the kind has it, else the label.
    pub(crate) fn cluster_name(&self) -> Option<&str> {
        self.text("/spec/clusterName")
            .or_else(|| self.label(CLUSTER_NAME_LABEL))
    }

    /// Paused by its own annotation, with any value (PA-01).
    pub(crate) fn is_annotated_paused(&self) -> bool {
        self.annotation(PAUSED_ANNOTATION).is_some()
    }

    /// The value at a JSON pointer below the object; `Null` counts as absent.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0
            .data
            .pointer(pointer)
            .filter(|value| !value.is_null())
    }

    /// The text at a JSON pointer.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.at(pointer).and_then(Value::as_str)
    }

    /// A text that is there and not empty.
    pub fn word(&self, pointer: &str) -> Option<&str> {
        self.text(pointer).filter(|text| !text.is_empty())
    }

    /// The boolean at a JSON pointer; false if absent.
    pub fn flag(&self, pointer: &str) -> bool {
        self.at(pointer).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The whole number at a JSON pointer.
    pub fn number(&self, pointer: &str) -> Option<i64> {
        self.at(pointer).and_then(Value::as_i64)
    }

    pub(crate) fn reference(&self, pointer: &str) -> Option<Reference> {
        self.at(pointer).and_then(Reference::read)
    }

    /// `status`; `Null` if absent.
    pub fn status(&self) -> &Value {
        self.0.data.get("status").unwrap_or(&Value::Null)
    }

    /// The raw list `status.conditions`, empty if absent.
    pub fn conditions(&self) -> &[Value] {
        let list = self.at("/status/conditions").and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    /// The condition of this type.
    pub fn condition(&self, kind: &str) -> Option<ConditionRef<'_>> {
        let found = self
            .conditions()
            .iter()
            .find(|condition| condition["type"] == kind)?;
        Some(ConditionRef {
            status: found["status"].as_str()?,
            reason: found["reason"].as_str().unwrap_or_default(),
            message: found["message"].as_str().unwrap_or_default(),
            since: found["lastTransitionTime"]
                .as_str()
                .and_then(|at| at.parse().ok()),
        })
    }

    /// Whether the condition of this type is `True`.
    pub fn is_true(&self, condition: &str) -> bool {
        self.condition(condition)
            .is_some_and(|found| found.status == "True")
    }

    /// A reference to this object for a dependent's `metadata.ownerReferences`.
    pub fn owner_reference(&self, api_version: &str, kind: &Kind, controls: bool) -> Value {
        let mut owner = Map::from_iter([
            ("apiVersion".to_owned(), json!(api_version)),
            ("kind".to_owned(), json!(kind.kind)),
            ("name".to_owned(), json!(self.name())),
            ("uid".to_owned(), json!(self.uid())),
        ]);
        if controls {
            owner.insert("controller".to_owned(), json!(true));
            owner.insert("blockOwnerDeletion".to_owned(), json!(true));
        }
        Value::Object(owner)
    }
}

impl Deref for Object {
    type Target = DynamicObject;

    fn deref(&self) -> &DynamicObject {
        &self.0
    }
}

/// Whether an object or its Cluster says that nothing may be done (PA-01).
pub(crate) fn is_paused(object: &Object, cluster: Option<&Object>) -> bool {
    object.is_annotated_paused() || cluster.is_some_and(|cluster| cluster.flag("/spec/paused"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pa_01_any_value_of_the_annotation_pauses() {
        for (annotations, spec, paused) in [
            (json!({}), json!({}), false),
            (json!({PAUSED_ANNOTATION: "false"}), json!({}), true),
            (json!({PAUSED_ANNOTATION: ""}), json!({}), true),
            (json!({}), json!({"paused": true}), true),
            (json!({}), json!({"paused": false}), false),
        ] {
            let object = Object::from_value(json!({
                "apiVersion": "v1", "kind": "X",
                "metadata": {"name": "x", "annotations": annotations},
            }));
            let cluster = Object::from_value(json!({
                "apiVersion": "v1", "kind": "Cluster", "metadata": {"name": "c"}, "spec": spec,
            }));
            assert_eq!(
                is_paused(&object, Some(&cluster)),
                paused,
                "{object:?} {cluster:?}"
            );
        }
    }

    #[test]
    fn references_are_read_in_both_forms() {
        let wanted = Reference {
            kind: Kind::new("infra.x", "Thing"),
            name: "a".to_owned(),
        };
        for value in [
            json!({"apiGroup": "infra.x", "kind": "Thing", "name": "a"}),
            json!({"apiVersion": "infra.x/v1", "kind": "Thing", "name": "a"}),
        ] {
            assert_eq!(Reference::read(&value), Some(wanted.clone()), "{value}");
        }
        assert_eq!(
            Reference::read(&json!({"kind": "Thing", "name": "a"})),
            None
        );
    }

    #[test]
    fn hooks_are_the_bare_key_or_below_it() {
        let object = Object::from_value(json!({
            "apiVersion": "v1", "kind": "X",
            "metadata": {"name": "x", "annotations": {"a.hook": "", "a.hook/one": "", "a.hooks": ""}},
        }));
        assert_eq!(object.hooks("a.hook"), ["a.hook", "a.hook/one"]);
    }
}
