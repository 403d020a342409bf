//! How owners of machines make them: clones of templates, names, labels, and the server-side applies
//! by which they are written (contract section on the creation of Machine objects; IMT-01, IM-25).

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::core::DynamicObject;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::gate::resolved;
use super::hub::{Error, Hub, Result};
use super::object::{Kind, Name, Object, Reference};
use super::reference::Resolved;
use super::word::{CLONED_FROM_GROUPKIND, CLONED_FROM_NAME};

/// The letters of generated names: no vowels, no look-alikes, as Kubernetes has it.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters of a generated suffix.
const SUFFIX_LENGTH: usize = 5;
/// The longest value of a label.
const LABEL_VALUE_MAX: usize = 63;

/// Five letters that depend on the parts.
pub(super) fn suffix(parts: &[&str]) -> String {
    let digest = digest(parts);
    digest
        .iter()
        .take(SUFFIX_LENGTH)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// A short hash in hexadecimal.
pub(super) fn short_hash(parts: &[&str]) -> String {
    hex(&digest(parts)[..5])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A name as a label value: names that are too long appear as `hash_…_z` (IM-25).
pub(super) fn label_value(name: &str) -> String {
    if name.len() <= LABEL_VALUE_MAX {
        name.to_owned()
    } else {
        format!("hash_{}_z", short_hash(&[name]))
    }
}

/// Labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// Reads `{labels, annotations}`.
    pub(super) fn read(value: Option<&Value>) -> Self {
        let map = |field: &str| -> BTreeMap<String, String> {
            let entries = value.and_then(|value| value[field].as_object());
            entries
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        Self {
            labels: map("labels"),
            annotations: map("annotations"),
        }
    }

    pub(super) fn with_labels(mut self, labels: &[(&str, &str)]) -> Self {
        for (key, value) in labels {
            self.labels.insert((*key).to_owned(), label_value(value));
        }
        self
    }

    /// This over `base`.
    pub(super) fn over(&self, base: &Self) -> Self {
        let mut all = base.clone();
        all.labels.extend(self.labels.clone());
        all.annotations.extend(self.annotations.clone());
        all
    }

    /// Whether an object bears all of it.
    pub(super) fn is_on(&self, object: &Object) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| object.label(key) == Some(value))
            && self
                .annotations
                .iter()
                .all(|(key, value)| object.annotation(key) == Some(value))
    }

    fn value(&self) -> Map<String, Value> {
        let mut metadata = Map::new();
        for (field, map) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            if !map.is_empty() {
                metadata.insert(field.to_owned(), json!(map));
            }
        }
        metadata
    }
}

/// An object to be made: what the three kinds of a machine have in common.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) name: Name,
    pub(super) metadata: Metadata,
    pub(super) owner: Value,
}

impl Draft {
    /// An object of this kind with this spec.
    pub(super) fn object(&self, api_version: &str, kind: &str, spec: &Value) -> Value {
        let mut metadata = self.metadata.value();
        metadata.insert("name".to_owned(), json!(self.name.name));
        metadata.insert("namespace".to_owned(), json!(self.name.namespace));
        metadata.insert("ownerReferences".to_owned(), json!([self.owner]));
        json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})
    }

    /// The clone of a template: its kind without `Template`, its version, `spec.template` and no more.
    pub(super) fn clone_of(&self, template: &Object, resolved: &Resolved) -> Value {
        let kind = resolved.resource.kind.as_str();
        let group = &resolved.resource.group;
        let base = Metadata::read(template.at("/spec/template/metadata"));
        let mut draft = Self {
            metadata: self.metadata.over(&base),
            ..self.clone()
        };
        let origin = [
            (CLONED_FROM_NAME, template.name().to_owned()),
            (CLONED_FROM_GROUPKIND, format!("{kind}.{group}")),
        ];
        for (key, value) in origin {
            draft.metadata.annotations.insert(key.to_owned(), value);
        }
        let spec = template.at("/spec/template/spec").cloned();
        draft.object(
            &resolved.resource.api_version,
            kind.strip_suffix("Template").unwrap_or(kind),
            &spec.unwrap_or_else(|| json!({})),
        )
    }
}

/// A template with its resolved kind.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) object: Object,
    pub(super) resolved: Resolved,
}

impl Template {
    /// Reads the referent from the server, since templates are too seldom read to be watched.
    pub(super) async fn fetch(hub: &Hub, namespace: &str, reference: &Reference) -> Result<Self> {
        let resolved = resolved(hub, &reference.kind)?;
        let name = Name::new(namespace, &reference.name);
        match hub.fetch(&resolved.resource, &name).await? {
            Some(object) => Ok(Self { object, resolved }),
            None => Err(Error::Inconsistent(format!(
                "{} {name} does not exist; create the template or correct the reference",
                reference.kind.kind
            ))),
        }
    }

    /// The kind of its clones.
    pub(super) fn clone_kind(&self) -> Kind {
        let kind = &self.resolved.resource.kind;
        Kind::new(
            &self.resolved.resource.group,
            kind.strip_suffix("Template").unwrap_or(kind),
        )
    }

    /// Makes the Cluster a plain owner of the template, so that it moves with it (IMT-04).
    pub(super) async fn adopt(&self, hub: &Hub, owner: &Value, manager: &str) -> Result<()> {
        let is_owned = self
            .object
            .owners()
            .iter()
            .any(|held| owner["uid"] == held.uid.as_str());
        if is_owned {
            return Ok(());
        }
        let mut owners: Vec<Value> = self
            .object
            .owners()
            .iter()
            .map(|held| json!(held))
            .collect();
        owners.push(owner.clone());
        let patch = json!({"metadata": {"ownerReferences": owners}});
        hub.merge_unwatched(&self.resolved.resource, &self.object.key(), patch, manager)
            .await?;
        Ok(())
    }
}

/// Makes an object by server-side apply, then gives up the ownership of its labels and annotations
/// with a patch that carries the resource version, so that the metadata manager can take it.
pub(super) async fn make(hub: &Hub, value: Value, manager: &str) -> Result<Arc<Object>> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let group = super::object::group_of(text("/apiVersion"));
    let kind = Kind::new(group, text("/kind"));
    let name = Name::new(text("/metadata/namespace"), text("/metadata/name"));
    let definition = resolved_or_known(hub, &kind)?;
    hub.want(&definition);
    let (object, raw) = hub.apply(&kind, &name, value, manager).await?;
    let Some(fields) = without_metadata(&raw, manager) else {
        return Ok(object);
    };
    let patch = json!({"metadata": {
        "managedFields": fields, "resourceVersion": object.version().to_string(),
    }});
    match hub.merge(&kind, &name, patch, manager).await {
        // Somebody was faster with an object that is there by now; that is no reason to undo it.
        Err(error) if error.is_conflict() => Ok(object),
        other => other,
    }
}

fn resolved_or_known(hub: &Hub, kind: &Kind) -> Result<kube::core::ApiResource> {
    if let Some(resource) = hub.read(|store| store.resource(kind)) {
        return Ok(resource);
    }
    Ok(resolved(hub, kind)?.resource)
}

/// The managed fields without this manager's claim on labels and annotations.
fn without_metadata(object: &DynamicObject, manager: &str) -> Option<Value> {
    let mut fields = serde_json::to_value(object.metadata.managed_fields.as_ref()?).ok()?;
    let mut is_changed = false;
    for entry in fields.as_array_mut()? {
        if entry["manager"] != manager {
            continue;
        }
        if let Some(metadata) = entry
            .pointer_mut("/fieldsV1/f:metadata")
            .and_then(Value::as_object_mut)
        {
            is_changed |= metadata.remove("f:labels").is_some();
            is_changed |= metadata.remove("f:annotations").is_some();
        }
    }
    is_changed.then_some(fields)
}

/// Keeps labels and annotations as the owner wants them: forced, continuous, and quiet once they are.
/// `applied` remembers what was applied last to each object, so that removed keys go, too.
pub(super) async fn sync_metadata(
    hub: &Hub,
    applied: &parking_lot::Mutex<BTreeMap<String, Metadata>>,
    kind: &Kind,
    object: &Object,
    metadata: &Metadata,
    manager: &str,
) -> Result<()> {
    let is_current = applied.lock().get(object.uid()) == Some(metadata);
    if is_current && metadata.is_on(object) {
        return Ok(());
    }
    let Some(resource) = hub.read(|store| store.resource(kind)) else {
        return Ok(());
    };
    // Both maps are owned also while they are empty.
    let mut fields = Map::new();
    fields.insert("labels".to_owned(), json!(metadata.labels));
    fields.insert("annotations".to_owned(), json!(metadata.annotations));
    fields.insert("name".to_owned(), json!(object.name()));
    fields.insert("namespace".to_owned(), json!(object.namespace()));
    // An apply with a uid fails where the object is gone, rather than making a new one.
    fields.insert("uid".to_owned(), json!(object.uid()));
    let value = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": fields,
    });
    hub.apply(kind, &object.key(), value, manager).await?;
    applied
        .lock()
        .insert(object.uid().to_owned(), metadata.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::reference::Contract;
    use super::super::word::resource;
    use super::*;

    #[test]
    fn imt_01_a_clone_has_the_templates_spec_version_and_metadata_under_the_owners() {
        let template = Object::from_value(json!({
            "apiVersion": "infra.x/v1alpha2", "kind": "ThingTemplate",
            "metadata": {"name": "t", "namespace": "d", "labels": {"not": "copied"}},
            "spec": {"template": {
                "metadata": {"labels": {"a": "template", "b": "template"}, "annotations": {"n": "1"}},
                "spec": {"cores": 2},
            }, "other": 1},
        }));
        let kind = Kind::new("infra.x", "ThingTemplate");
        let resolved = Resolved {
            resource: resource(&kind, "v1alpha2", "thingtemplates"),
            contract: Contract::V1Beta2,
        };
        let draft = Draft {
            name: Name::new("d", "m-1"),
            metadata: Metadata::default().with_labels(&[("a", "owner")]),
            owner: json!({"uid": "1"}),
        };
        let clone = draft.clone_of(&template, &resolved);
        assert_eq!(clone["apiVersion"], "infra.x/v1alpha2");
        assert_eq!(clone["kind"], "Thing");
        assert_eq!(clone["spec"], json!({"cores": 2}));
        let metadata = &clone["metadata"];
        assert_eq!(metadata["labels"], json!({"a": "owner", "b": "template"}));
        assert_eq!(
            metadata["annotations"],
            json!({"n": "1", CLONED_FROM_NAME: "t", CLONED_FROM_GROUPKIND: "ThingTemplate.infra.x"})
        );
        assert_eq!(metadata["ownerReferences"], json!([{"uid": "1"}]));
    }

    #[test]
    fn im_25_long_names_become_hashes() {
        assert_eq!(label_value("short"), "short");
        let long = label_value(&"x".repeat(64));
        assert!(long.starts_with("hash_") && long.ends_with("_z"), "{long}");
        assert!(long.len() <= LABEL_VALUE_MAX);
        assert_ne!(long, label_value(&"x".repeat(65)));
    }

    #[test]
    fn suffixes_are_kubernetes_letters_and_depend_on_every_part() {
        let one = suffix(&["ab", "c"]);
        assert_eq!(one.len(), SUFFIX_LENGTH);
        assert!(one.bytes().all(|letter| ALPHABET.contains(&letter)));
        assert_ne!(one, suffix(&["a", "bc"]));
        assert_eq!(one, suffix(&["ab", "c"]));
    }

    #[test]
    fn only_the_makers_claim_on_labels_and_annotations_goes() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "managedFields": [
                {"manager": "m", "operation": "Apply", "fieldsV1":
                    {"f:metadata": {"f:labels": {}, "f:ownerReferences": {}}, "f:spec": {}}},
                {"manager": "other", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
            ]},
        }))
        .expect("an object");
        let left = without_metadata(&object, "m").expect("changed");
        assert_eq!(
            left[0]["fieldsV1"],
            json!({"f:metadata": {"f:ownerReferences": {}}, "f:spec": {}})
        );
        assert_eq!(left[1]["fieldsV1"], json!({"f:metadata": {"f:labels": {}}}));
        assert_eq!(without_metadata(&object, "nobody"), None);
    }
}
