//! From the derived schemas to the published definitions.
//!
//! The derive says most of it. What it cannot say is added here, in one walk over the
//! generated JSON:
//!
//! * Optional fields are not `nullable`: a `null` in a manifest means "not set" and is dropped by
//!   the server, as with every definition that Go tools generate.
//! * `metav1.Condition` carries its limits and patterns, and is a list map by `type` (rule CO-01).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{KubevirtCluster, KubevirtClusterTemplate, KubevirtMachine, KubevirtMachineTemplate};

/// The schema of the version of a definition with one version.
const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";

/// The definitions of all kinds, in alphabetical order.
///
/// # Panics
///
/// Never, unless the derived types of this crate stop being valid definitions, which its tests
/// would show.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        publish(KubevirtCluster::crd()),
        publish(KubevirtClusterTemplate::crd()),
        publish(KubevirtMachine::crd()),
        publish(KubevirtMachineTemplate::crd()),
    ]
}

/// Turns a derived definition into the published one.
fn publish(derived: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut definition =
        serde_json::to_value(derived).expect("a definition is plain data and serialises");
    name_list(&mut definition);
    if let Some(schema) = definition.pointer_mut(SCHEMA) {
        tidy(schema);
        if definition["spec"]["names"]["kind"] == "KubevirtCluster" {
            supply_spec(&mut definition);
        }
    }
    serde_json::from_value(definition).expect("the walk keeps the shape of a definition")
}

/// Nothing of a cluster's spec is needed, so a cluster may come without one: a published template of the
/// Go provider has such a cluster.
fn supply_spec(definition: &mut Value) {
    let spec = format!("{SCHEMA}/properties/spec");
    if let Some(Value::Object(spec)) = definition.pointer_mut(&spec) {
        spec.insert("default".to_owned(), json!({}));
    }
}

/// Spells out the kind of the list, by which core asks for it (rule CRD-02).
fn name_list(definition: &mut Value) {
    if let Some(Value::Object(names)) = definition.pointer_mut("/spec/names") {
        let list = names
            .get("kind")
            .and_then(Value::as_str)
            .map(|kind| format!("{kind}List"));
        names.insert("listKind".to_owned(), json!(list));
    }
}

/// Walks over a schema and all schemas in it.
fn tidy(schema: &mut Value) {
    let Value::Object(schema) = schema else {
        return;
    };
    schema.remove("nullable");
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = unwrap_lines(description);
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties.iter_mut() {
            tidy(property);
            if name == "conditions" {
                limit_conditions(property);
            }
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            tidy(inner);
        }
    }
}

/// Joins the lines of each paragraph: how a source file wraps is no concern of `kubectl explain`.
fn unwrap_lines(text: &str) -> String {
    let paragraphs = text
        .split("\n\n")
        .map(|paragraph| paragraph.replace('\n', " "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// Limits of `metav1.Condition`, as the API conventions state them (rule CO-01).
fn limit_conditions(conditions: &mut Value) {
    let limits = json!({
        "message": { "maxLength": 32768 },
        "observedGeneration": { "minimum": 0 },
        "reason": {
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
        },
        "status": { "enum": ["True", "False", "Unknown"] },
        "type": {
            "maxLength": 316,
            "pattern": concat!(
                r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?",
                r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
            )
        }
    });
    merge(
        conditions,
        json!({
            "maxItems": 32,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": { "properties": limits }
        }),
    );
}

/// Adds what `addition` says to `schema`, object by object.
fn merge(schema: &mut Value, addition: Value) {
    match (schema, addition) {
        (Value::Object(schema), Value::Object(addition)) => {
            for (key, value) in addition {
                merge(schema.entry(key).or_insert(Value::Null), value);
            }
        }
        (schema, addition) => *schema = addition,
    }
}

#[cfg(test)]
mod tests;
