//! What the definitions of a provider have to look like.

use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::Value;

use crate::conformance::{Report, Verdict};

/// The label by which Cluster API finds the versions that keep its contract.
const CONTRACT_LABEL: &str = "cluster.x-k8s.io/v1beta2";
/// The group that Cluster API's manager has rights in.
const GROUP: &str = "infrastructure.cluster.x-k8s.io";

/// Examines the definitions of infra clusters, infra machines and their templates.
pub fn shape(definitions: &[Value]) -> Report {
    let mut report = Report::default();
    for definition in definitions {
        let kind = text(definition, "/spec/names/kind");
        let mut check = |rules, what: &str, wrong: Option<String>| {
            let verdict = wrong.map_or(Verdict::Kept, Verdict::Broken);
            report.add(rules, format!("{kind}: {what}"), verdict);
        };
        check("CRD-01", "is namespaced", scope(definition));
        check(
            "CRD-02",
            "has the list kind that core asks for",
            list_kind(definition),
        );
        check(
            "CRD-03",
            "has the name that core computes",
            name(definition),
        );
        check(
            "CRD-04 CRD-05",
            "labels its versions, and serves them",
            label(definition),
        );
        check(
            "CRD-11",
            "is in the group that core may use",
            group(definition),
        );
        if kind.ends_with("Template") {
            check(
                "CRD-09 IMT-01",
                "keeps template metadata and spec",
                template(definition),
            );
            continue;
        }
        check("CRD-08", "has a status subresource", status(definition));
        check(
            "CRD-10 IM-05 IC-08",
            "has status.initialization.provisioned",
            provisioned(definition),
        );
        check(
            "CO-01",
            "has conditions as a list-map",
            conditions(definition),
        );
        check(
            "CO-03",
            "has no status.v1beta2",
            absent(definition, "status", "v1beta2"),
        );
        if kind.ends_with("Machine") {
            let id = string_bounds(definition, "/spec/properties/providerID");
            check("IM-02", "has spec.providerID of 1 to 512", id);
            check(
                "IM-07",
                "has no spec.failureDomain",
                absent(definition, "spec", "failureDomain"),
            );
        }
        if kind.ends_with("Cluster") {
            check("IC-02", "has a bounded endpoint", endpoint(definition));
        }
    }
    report
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn unless(holds: bool, wrong: impl FnOnce() -> String) -> Option<String> {
    (!holds).then(wrong)
}

fn served(definition: &Value) -> impl Iterator<Item = &Value> {
    let versions = definition
        .pointer("/spec/versions")
        .and_then(Value::as_array);
    versions
        .into_iter()
        .flatten()
        .filter(|version| version["served"] == true)
}

/// The first complaint about a served version.
fn each_version(
    definition: &Value,
    complaint: impl Fn(&Value) -> Option<String>,
) -> Option<String> {
    served(definition).find_map(|version| {
        let wrong = complaint(version)?;
        Some(format!("version {}: {wrong}", text(version, "/name")))
    })
}

/// A field of the schema, by its path below `spec` or `status`.
fn field<'a>(version: &'a Value, path: &str) -> Option<&'a Value> {
    version.pointer(&format!("/schema/openAPIV3Schema/properties{path}"))
}

fn scope(definition: &Value) -> Option<String> {
    let scope = text(definition, "/spec/scope");
    unless(scope == "Namespaced", || format!("scope is {scope:?}"))
}

fn list_kind(definition: &Value) -> Option<String> {
    let wanted = format!("{}List", text(definition, "/spec/names/kind"));
    let found = text(definition, "/spec/names/listKind");
    // The server fills it in where it is left out.
    unless(found.is_empty() || found == wanted, || {
        format!("{found:?} where {wanted:?} is wanted")
    })
}

fn name(definition: &Value) -> Option<String> {
    let kind = text(definition, "/spec/names/kind");
    let group = text(definition, "/spec/group");
    let plural = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind)).plural;
    let wanted = format!("{plural}.{group}");
    let found = text(definition, "/metadata/name");
    unless(found == wanted, || {
        format!("{found:?} where {wanted:?} is wanted")
    })
}

fn label(definition: &Value) -> Option<String> {
    let labels = &definition["metadata"]["labels"];
    let Some(listed) = labels[CONTRACT_LABEL]
        .as_str()
        .filter(|value| !value.is_empty())
    else {
        return Some(format!("label {CONTRACT_LABEL} is missing or empty"));
    };
    let names: Vec<&str> = served(definition)
        .map(|version| text(version, "/name"))
        .collect();
    let unserved = listed.split('_').find(|version| !names.contains(version))?;
    Some(format!(
        "label {CONTRACT_LABEL} lists {unserved:?}, which is not served"
    ))
}

fn group(definition: &Value) -> Option<String> {
    let group = text(definition, "/spec/group");
    unless(group == GROUP, || format!("group is {group:?}"))
}

fn status(definition: &Value) -> Option<String> {
    each_version(definition, |version| {
        unless(version["subresources"]["status"].is_object(), || {
            "none".to_owned()
        })
    })
}

fn provisioned(definition: &Value) -> Option<String> {
    let path = "/status/properties/initialization/properties/provisioned";
    each_version(definition, |version| match field(version, path) {
        Some(field) => unless(field["type"] == "boolean", || format!("is {field}")),
        None => Some("missing".to_owned()),
    })
}

fn conditions(definition: &Value) -> Option<String> {
    each_version(definition, |version| {
        let Some(field) = field(version, "/status/properties/conditions") else {
            return Some("missing".to_owned());
        };
        let is_map = field["x-kubernetes-list-type"] == "map"
            && field["x-kubernetes-list-map-keys"] == serde_json::json!(["type"]);
        unless(is_map, || "not a list-map by type".to_owned())
    })
}

fn absent(definition: &Value, part: &str, name: &str) -> Option<String> {
    each_version(definition, |version| {
        field(version, &format!("/{part}/properties/{name}")).map(|_| "is in the schema".to_owned())
    })
}

fn string_bounds(definition: &Value, path: &str) -> Option<String> {
    each_version(definition, |version| match field(version, path) {
        Some(field) => unless(
            field["type"] == "string" && field["minLength"] == 1 && field["maxLength"] == 512,
            || format!("is {field}"),
        ),
        None => Some("missing".to_owned()),
    })
}

fn endpoint(definition: &Value) -> Option<String> {
    let at = "/spec/properties/controlPlaneEndpoint";
    let host = string_bounds(definition, &format!("{at}/properties/host"));
    let port = each_version(definition, |version| {
        let port = field(version, &format!("{at}/properties/port"));
        match port {
            // Numbers are compared as such, since some generators write 1.0.
            Some(port) => unless(
                port["minimum"].as_f64() == Some(1.0) && port["maximum"].as_f64() == Some(65535.0),
                || format!("port is {port}"),
            ),
            None => Some("port is missing".to_owned()),
        }
    });
    host.map(|host| format!("host: {host}")).or(port)
}

fn template(definition: &Value) -> Option<String> {
    each_version(definition, |version| {
        let at = "/spec/properties/template/properties";
        ["labels", "annotations"]
            .into_iter()
            .find_map(|map| {
                let path = format!("{at}/metadata/properties/{map}");
                let values =
                    field(version, &path).map(|field| &field["additionalProperties"]["type"]);
                unless(values.is_some_and(|kind| kind == "string"), || {
                    format!("spec.template.metadata.{map} is not a map of strings")
                })
            })
            .or_else(|| {
                unless(field(version, &format!("{at}/spec")).is_some(), || {
                    "spec.template.spec is missing".to_owned()
                })
            })
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn machine() -> Value {
        let conditions = json!({
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        });
        json!({
            "metadata": {
                "name": format!("tinymachines.{GROUP}"),
                "labels": {CONTRACT_LABEL: "v1"},
            },
            "spec": {
                "group": GROUP, "scope": "Namespaced",
                "names": {"kind": "TinyMachine", "listKind": "TinyMachineList"},
                "versions": [{
                    "name": "v1", "served": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"properties": {
                        "spec": {"properties": {"providerID": {"type": "string", "minLength": 1, "maxLength": 512}}},
                        "status": {"properties": {
                            "initialization": {"properties": {"provisioned": {"type": "boolean"}}},
                            "conditions": conditions,
                        }},
                    }}},
                }],
            },
        })
    }

    #[test]
    fn a_good_machine_keeps_every_rule() {
        let report = shape(&[machine()]);
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.findings.len(), 11);
    }

    #[rstest]
    #[case("/spec/scope", json!("Cluster"), "CRD-01")]
    #[case("/spec/names/listKind", json!("TinyMachines"), "CRD-02")]
    #[case("/metadata/name", json!("tinymachine.infrastructure.cluster.x-k8s.io"), "CRD-03")]
    #[case("/metadata/labels", json!({}), "CRD-04 CRD-05")]
    #[case("/metadata/labels", json!({CONTRACT_LABEL: "v1_v2"}), "CRD-04 CRD-05")]
    #[case("/spec/versions/0/subresources", json!({}), "CRD-08")]
    #[case("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/v1beta2", json!({}), "CO-03")]
    #[case("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions", json!({"type": "array"}), "CO-01")]
    #[case("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/failureDomain", json!({}), "IM-07")]
    #[case("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/providerID", json!({"type": "string"}), "IM-02")]
    fn each_fault_breaks_its_rule(#[case] at: &str, #[case] value: Value, #[case] rules: &str) {
        let mut bad = machine();
        let (parent, name) = at.rsplit_once('/').expect("a pointer");
        bad.pointer_mut(parent).expect("the parent is there")[name] = value;
        let report = shape(&[bad]);
        let broken: Vec<&str> = report.broken().map(|finding| finding.rules).collect();
        assert_eq!(broken, [rules], "{report}");
    }
}
