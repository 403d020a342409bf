//! Metadata, owners and references.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

use super::{CORE_GROUP, PAUSED_ANNOTATION};

/// A reference within a namespace, as Cluster API v1beta2 writes it (CRD-12): matched by group and
/// kind, never by version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// API group.
    pub api_group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

impl ObjectRef {
    /// Whether it points at a kind of this group.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.api_group == group && self.kind == kind
    }
}

/// Kinds of core that own infra objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerKind {
    /// `Cluster`, of InfraClusters (IC-11).
    Cluster,
    /// `Machine`, of InfraMachines (IM-11).
    Machine,
}

impl OwnerKind {
    fn name(self) -> &'static str {
        match self {
            OwnerKind::Cluster => "Cluster",
            OwnerKind::Machine => "Machine",
        }
    }
}

/// The owner of a kind of core, of any version of its group.
pub fn owner_named(meta: &ObjectMeta, kind: OwnerKind) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| {
        owner.kind == kind.name()
            && owner
                .api_version
                .split_once('/')
                .is_some_and(|(group, _)| group == CORE_GROUP)
    })
}

/// Whether the object's own annotation pauses it: any value counts, `"false"` too (PA-01).
pub fn is_paused_by_annotation(meta: &ObjectMeta) -> bool {
    meta.annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(PAUSED_ANNOTATION))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct SlimMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    generate_name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// Deserialises metadata without `managedFields` and `selfLink`, which are skipped while parsing and
/// never enter memory. For `#[serde(deserialize_with = "slim_meta")]` on views.
///
/// # Errors
///
/// Whatever the deserialiser reports for a field of the wrong type.
pub fn slim_meta<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let slim = SlimMeta::deserialize(from)?;
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        generation: slim.generation,
        creation_timestamp: slim.creation_timestamp,
        deletion_timestamp: slim.deletion_timestamp,
        deletion_grace_period_seconds: slim.deletion_grace_period_seconds,
        generate_name: slim.generate_name,
        labels: slim.labels,
        annotations: slim.annotations,
        finalizers: slim.finalizers,
        owner_references: slim.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Thing {
        #[serde(deserialize_with = "slim_meta")]
        metadata: ObjectMeta,
    }

    #[test]
    fn managed_fields_are_dropped_while_parsing() {
        let thing: Thing = serde_json::from_value(serde_json::json!({"metadata": {
            "name": "a", "labels": {"x": "y"},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
        }}))
        .unwrap();
        assert_eq!(thing.metadata.name.as_deref(), Some("a"));
        assert_eq!(thing.metadata.labels.unwrap()["x"], "y");
        assert!(thing.metadata.managed_fields.is_none());
    }

    #[test]
    fn crd_12_a_reference_is_matched_by_group_and_kind_and_says_nothing_of_versions() {
        let reference: ObjectRef = serde_json::from_value(serde_json::json!({
            "apiGroup": "infrastructure.cluster.x-k8s.io", "apiVersion": "ignored/v9",
            "kind": "RackMachine", "name": "m",
        }))
        .unwrap();
        assert!(reference.is("infrastructure.cluster.x-k8s.io", "RackMachine"));
        assert!(!reference.is("infrastructure.cluster.x-k8s.io", "RackCluster"));
        assert!(!reference.is("example.com", "RackMachine"));
    }

    #[test]
    fn ic_11_owner_is_found_by_group_and_kind_of_any_version() {
        let owner = |api_version: &str, kind: &str| ObjectMeta {
            owner_references: Some(vec![OwnerReference {
                api_version: api_version.into(),
                kind: kind.into(),
                name: "c".into(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        };
        let cluster = OwnerKind::Cluster;
        assert!(owner_named(&owner("cluster.x-k8s.io/v1beta2", "Cluster"), cluster).is_some());
        assert!(owner_named(&owner("cluster.x-k8s.io/v1beta1", "Cluster"), cluster).is_some());
        assert!(owner_named(&owner("other.io/v1beta2", "Cluster"), cluster).is_none());
        assert!(owner_named(&owner("v1", "Secret"), cluster).is_none());
        assert!(owner_named(&owner("cluster.x-k8s.io/v1beta2", "Machine"), cluster).is_none());
    }

    #[test]
    fn pa_01_any_value_of_the_annotation_pauses() {
        let with = |value: Option<&str>| ObjectMeta {
            annotations: value.map(|v| [(PAUSED_ANNOTATION.to_owned(), v.to_owned())].into()),
            ..ObjectMeta::default()
        };
        assert!(is_paused_by_annotation(&with(Some(""))));
        assert!(is_paused_by_annotation(&with(Some("false"))));
        assert!(!is_paused_by_annotation(&with(None)));
    }
}
