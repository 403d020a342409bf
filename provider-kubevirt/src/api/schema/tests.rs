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

/// CRD-01 to CRD-05, CRD-11, CRD-14: how core finds the kinds.
#[test]
fn definitions_are_found_by_core() {
    let expected = [
        ("kubevirtclusters", "KubevirtCluster", None),
        (
            "kubevirtclustertemplates",
            "KubevirtClusterTemplate",
            Some("kct"),
        ),
        ("kubevirtmachines", "KubevirtMachine", None),
        ("kubevirtmachinetemplates", "KubevirtMachineTemplate", None),
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
    }
    assert_eq!(published().len(), expected.len());
}

/// CRD-08, CRD-10, CO-01, CO-03, IC-06, IM-07: status as core reads it.
#[test]
fn status_has_the_shape_of_the_contract() {
    let all = published();
    for (definition, schema) in [&all[0], &all[2]] {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let subresource = definition.pointer("/spec/versions/0/subresources/status");
        assert!(subresource.is_some(), "{kind}");
        let fields = &schema["properties"]["status"]["properties"];
        assert!(fields.get("v1beta2").is_none(), "{kind}");
        assert_eq!(fields["initialization"]["minProperties"], 1, "{kind}");
        let conditions = &fields["conditions"];
        assert_eq!(conditions["maxItems"], 32, "{kind}");
        assert_eq!(
            conditions["x-kubernetes-list-map-keys"][0], "type",
            "{kind}"
        );
    }
    let domains = &all[0].1["properties"]["status"]["properties"]["failureDomains"];
    assert_eq!(domains["x-kubernetes-list-map-keys"][0], "name");
    let machine = &all[2].1["properties"];
    assert!(machine["spec"]["properties"].get("failureDomain").is_none());
    assert!(
        machine["status"]["properties"]
            .get("failureDomain")
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
            fields.remove("description");
            fields.remove("default");
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

/// The VM and the Service are KubeVirt's and Kubernetes' own: nothing of them is pruned.
#[test]
fn what_passes_through_keeps_every_field() {
    let all = published();
    for (at, path) in [
        (
            0,
            "/properties/spec/properties/controlPlaneServiceTemplate/properties/spec",
        ),
        (
            2,
            "/properties/spec/properties/virtualMachineTemplate/properties/spec",
        ),
    ] {
        let schema = all[at].1.pointer(path).unwrap();
        assert_eq!(
            schema["x-kubernetes-preserve-unknown-fields"], true,
            "{path}"
        );
    }
}
