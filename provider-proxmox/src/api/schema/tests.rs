use std::path::{Path, PathBuf};

use serde_json::Value;

use super::crds;
use crate::api::{GROUP, VERSION};

fn golden_file(name: &str) -> PathBuf {
    let plural = name.split('.').next().expect("a name has a first part");
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("crds")
        .join(format!("{plural}.yaml"))
}

/// The files in `crds/` are what this code generates; `UPDATE_GOLDEN=1` writes them anew.
#[test]
fn golden_files_match() {
    for definition in crds() {
        let name = definition
            .metadata
            .name
            .clone()
            .expect("definitions are named");
        let path = golden_file(&name);
        let generated = serde_saphyr::to_string(&definition).expect("a definition serialises");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
            std::fs::write(&path, &generated).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == generated,
            "{} is out of date: run with UPDATE_GOLDEN=1 and review the difference",
            path.display()
        );
    }
}

/// Calls `check` with every schema in `schema`, and the path to it.
fn visit(schema: &Value, path: &str, check: &mut dyn FnMut(&str, &Value)) {
    check(path, schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            visit(property, &format!("{path}.{name}"), check);
        }
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            visit(&schema[key], &format!("{path}[]"), check);
        }
    }
}

/// CRD-10: what Go tools would not generate is not there, and every schema says its type.
#[test]
fn schemas_are_structural_and_never_nullable() {
    for (definition, schema) in published() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        visit(&schema, kind, &mut |path, schema| {
            assert!(schema.get("nullable").is_none(), "{path} is nullable");
            assert!(
                schema.get("anyOf").is_none() || is_int_or_string(schema),
                "{path} has anyOf"
            );
            assert!(schema.get("oneOf").is_none(), "{path} has oneOf");
            assert!(
                schema.get("type").is_some() || is_int_or_string(schema),
                "{path}: no type"
            );
            let format = schema["format"].as_str().unwrap_or_default();
            assert!(!format.starts_with("uint"), "{path} has format {format}");
            assert_ne!(
                schema.get("default"),
                Some(&Value::Null),
                "{path} defaults to null"
            );
            let nulls = schema["enum"]
                .as_array()
                .is_some_and(|v| v.iter().any(Value::is_null));
            assert!(!nulls, "{path} lists null");
        });
    }
}

fn is_int_or_string(schema: &Value) -> bool {
    schema["x-kubernetes-int-or-string"] == Value::Bool(true)
}

/// A definition as JSON, and the schema of its one version.
fn published() -> Vec<(Value, Value)> {
    crds()
        .iter()
        .map(|definition| {
            let value = serde_json::to_value(definition).unwrap();
            let schema = value
                .pointer("/spec/versions/0/schema/openAPIV3Schema")
                .cloned();
            (value, schema.unwrap())
        })
        .collect()
}

/// CRD-01 to CRD-05, CRD-11, CRD-14: how core finds the kinds. RB-01: its own rights cover their group.
#[test]
fn definitions_are_found_by_core() {
    let expected = [
        ("proxmoxclusters", "ProxmoxCluster", None),
        (
            "proxmoxclustertemplates",
            "ProxmoxClusterTemplate",
            Some("pct"),
        ),
        ("proxmoxmachines", "ProxmoxMachine", Some("moxm")),
        (
            "proxmoxmachinetemplates",
            "ProxmoxMachineTemplate",
            Some("pmt"),
        ),
    ];
    for ((definition, _), (plural, kind, short)) in published().iter().zip(expected) {
        assert_eq!(definition["metadata"]["name"], format!("{plural}.{GROUP}"));
        assert_eq!(definition["spec"]["group"], GROUP);
        assert_eq!(definition["spec"]["scope"], "Namespaced");
        let names = &definition["spec"]["names"];
        assert_eq!(names["kind"], kind);
        assert_eq!(names["listKind"], format!("{kind}List"));
        assert_eq!(names["plural"], plural);
        assert_eq!(names["shortNames"].get(0).and_then(Value::as_str), short);
        assert_eq!(names["categories"][0], "cluster-api");
        let labels = &definition["metadata"]["labels"];
        for contract in ["v1beta1", "v1beta2"] {
            assert_eq!(labels[format!("cluster.x-k8s.io/{contract}")], VERSION);
        }
        let version = &definition["spec"]["versions"][0];
        assert_eq!(version["name"], VERSION);
        assert_eq!(
            (&version["served"], &version["storage"]),
            (&true.into(), &true.into())
        );
        let columns = version["additionalPrinterColumns"].as_array().unwrap();
        assert!(
            columns.iter().any(|column| column["name"] == "Age"),
            "{kind}"
        );
    }
    assert_eq!(published().len(), expected.len());
}

/// CRD-08, CRD-10, CO-01, CO-03, IC-06, IM-07: status as core reads it; templates report nothing.
#[test]
fn status_has_the_shape_of_the_contract() {
    for (definition, schema) in published() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let status = &schema["properties"]["status"];
        let has_status = status.is_object();
        assert_eq!(has_status, !kind.ends_with("Template"), "{kind}");
        let subresource = definition.pointer("/spec/versions/0/subresources/status");
        assert_eq!(subresource.is_some(), has_status, "{kind}");
        let fields = &status["properties"];
        assert!(fields.get("v1beta2").is_none(), "{kind}");
        if ["ProxmoxCluster", "ProxmoxMachine"].contains(&kind) {
            assert_eq!(fields["initialization"]["minProperties"], 1, "{kind}");
            let conditions = &fields["conditions"];
            assert_eq!(conditions["maxItems"], 32, "{kind}");
            assert_eq!(
                conditions["x-kubernetes-list-map-keys"][0], "type",
                "{kind}"
            );
            assert_eq!(
                conditions["items"]["properties"]["reason"]["minLength"], 1,
                "{kind}"
            );
        }
    }
    let schemas: Vec<Value> = published().into_iter().map(|(_, schema)| schema).collect();
    let domains = &schemas[0]["properties"]["status"]["properties"]["failureDomains"];
    assert_eq!(domains["x-kubernetes-list-map-keys"][0], "name");
    assert_eq!(
        schemas[0]["properties"]["spec"]["properties"]["controlPlaneEndpoint"]["minProperties"],
        1
    );
    let machine = &schemas[2];
    assert!(
        machine
            .pointer("/properties/spec/properties/failureDomain")
            .is_none()
    );
    assert!(
        machine
            .pointer("/properties/status/properties/failureDomain")
            .is_some()
    );
}

/// ICT-01, IMT-01, CRD-09: a template has the spec of the object, and metadata that is not pruned.
#[test]
fn templates_have_the_spec_of_their_objects() {
    let schemas: Vec<Value> = published().into_iter().map(|(_, schema)| schema).collect();
    for (object, template) in [(&schemas[0], &schemas[1]), (&schemas[2], &schemas[3])] {
        let resource = template
            .pointer("/properties/spec/properties/template/properties")
            .unwrap();
        let plain = |spec: &Value| {
            let mut spec = spec.clone();
            let fields = spec.as_object_mut().unwrap();
            // The rules differ on purpose, and so does the text.
            fields.remove("x-kubernetes-validations");
            fields.remove("description");
            spec
        };
        assert_eq!(
            plain(&resource["spec"]),
            plain(&object["properties"]["spec"])
        );
        for field in ["labels", "annotations"] {
            let schema = &resource["metadata"]["properties"][field];
            assert_eq!(schema["additionalProperties"]["type"], "string", "{field}");
        }
    }
}

/// What one evaluation of a rule may cost, in the units of the server: more than any rule here.
const RULE_COST: u64 = 20;

/// What a server allows one rule to cost over all places where it may be evaluated.
///
/// Source: Kubernetes documentation, "Resource use by validation functions".
const RULE_COST_MAX: u64 = 10_000_000;

/// A real server estimates the cost of a rule from the limits of the lists around it, and refuses
/// the whole definition if one of them has none.
#[test]
fn rules_are_cheap_enough_for_a_real_server() {
    fn walk(schema: &Value, path: &str, times: Option<u64>, rules: &mut usize) {
        if let Some(present) = schema["x-kubernetes-validations"].as_array() {
            *rules += present.len();
            let times = times.unwrap_or_else(|| panic!("{path} lies in a list without a limit"));
            assert!(
                times * RULE_COST <= RULE_COST_MAX,
                "{path}: evaluated {times} times"
            );
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), times, rules);
        }
        if schema["items"].is_object() {
            let limit = schema["maxItems"].as_u64();
            let times = times.zip(limit).map(|(times, limit)| times * limit);
            walk(&schema["items"], &format!("{path}[]"), times, rules);
        }
    }
    let mut rules = 0;
    for (_, schema) in published() {
        walk(&schema, "", Some(1), &mut rules);
    }
    assert!(rules > 40, "only {rules} rules were looked at");
}
