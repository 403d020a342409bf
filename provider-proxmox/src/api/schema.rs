//! From the derived schemas to the published definitions.
//!
//! The derive says most of it. What it cannot say is added here, in one walk over the
//! generated JSON:
//!
//! * Optional fields are not `nullable`: a `null` in a manifest means "not set" and is dropped by
//!   the server, as with every definition that Go tools generate.
//! * `metav1.Condition` carries its limits and patterns, and is a list map by `type` (rule CO-01).
//! * Rules that hold for an object and not for a template that a ClusterClass completes later.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::{ProxmoxCluster, ProxmoxClusterTemplate, ProxmoxMachine, ProxmoxMachineTemplate};

/// Where the schema of `spec` lies in a definition with one version.
const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";

/// The definitions of all kinds, in alphabetical order.
///
/// # Panics
///
/// Never, unless the derived types of this crate stop being valid definitions, which its tests
/// would show.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        publish(ProxmoxCluster::crd(), SPEC, cluster_rules()),
        publish(ProxmoxClusterTemplate::crd(), SPEC, json!([])),
        publish(ProxmoxMachine::crd(), SPEC, machine_rules()),
        publish(
            ProxmoxMachineTemplate::crd(),
            &format!("{SPEC}/properties/template/properties/spec"),
            machine_template_rules(),
        ),
    ]
}

/// Rules for a cluster, which a template of a ClusterClass need not satisfy.
fn cluster_rules() -> Value {
    json!([{
        "rule": "has(self.ipv4Config) || has(self.ipv6Config)",
        "message": "at least one of ipv4Config and ipv6Config is required"
    }])
}

/// Rules for a machine, which a template of a ClusterClass need not satisfy.
fn machine_rules() -> Value {
    let message = "name the template either by sourceNode and templateID or by templateSelector";
    json!([
        {
            "rule": "[has(self.sourceNode), has(self.templateSelector)].exists_one(c, c)",
            "message": message
        },
        {
            "rule": "[has(self.templateID), has(self.templateSelector)].exists_one(c, c)",
            "message": message
        }
    ])
}

/// Rules for the machine spec inside a template.
fn machine_template_rules() -> Value {
    json!([{
        "rule": "!has(self.providerID)",
        "message": "a template cannot have a providerID: the controller gives one to each machine"
    }])
}

/// Turns a derived definition into the published one; `rules` go to the schema at `path`.
fn publish(
    derived: CustomResourceDefinition,
    path: &str,
    rules: Value,
) -> CustomResourceDefinition {
    let mut definition =
        serde_json::to_value(derived).expect("a definition is plain data and serialises");
    name_list(&mut definition);
    if let Some(schema) = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        tidy(schema);
    }
    let target = definition.pointer_mut(path).and_then(Value::as_object_mut);
    add_rules(target.expect("every kind has a spec"), rules);
    serde_json::from_value(definition).expect("the walk keeps the shape of a definition")
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

/// Appends `rules` to those that the derive wrote.
fn add_rules(schema: &mut Map<String, Value>, rules: Value) {
    let Value::Array(rules) = rules else { return };
    if rules.is_empty() {
        return;
    }
    let present = schema
        .entry("x-kubernetes-validations")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(present) = present {
        present.extend(rules);
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
