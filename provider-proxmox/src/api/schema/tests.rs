use std::path::{Path, PathBuf};

use serde_json::Value;

use super::crds;

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

fn schemas() -> Vec<(String, Value)> {
    crds()
        .into_iter()
        .map(|definition| {
            let value = serde_json::to_value(&definition).unwrap();
            let kind = value["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            (
                kind,
                value
                    .pointer("/spec/versions/0/schema/openAPIV3Schema")
                    .unwrap()
                    .clone(),
            )
        })
        .collect()
}

/// CRD-10: what Go tools would not generate is not there, and every schema says its type.
#[test]
fn schemas_are_structural_and_never_nullable() {
    for (kind, schema) in schemas() {
        visit(&schema, &kind, &mut |path, schema| {
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
