//! Schemas against answers of the real server.
//!
//! `schema_cases.json` holds objects together with what apiextensions-apiserver v0.35 (Kubernetes
//! 1.35) makes of them: the pruned and defaulted object, the unknown fields, and every error as
//! `reason|text`. Errors are sorted, since the server walks maps in random order. That a fraction is no
//! integer is said twice, as Kubernetes 1.36 does.

use capi_testkit::{
    crds,
    schema::{FieldError, Schema},
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Case {
    name: String,
    schema: Option<Value>,
    crd: Option<String>,
    new: Value,
    old: Option<Value>,
    expect: Expectation,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Expectation {
    unknown: Vec<String>,
    object: Value,
    errors: Vec<String>,
}

fn compiled(case: &Case) -> Schema {
    let schema = match (&case.schema, &case.crd) {
        (Some(schema), _) => schema,
        (None, Some(name)) => {
            let crd = crds::named(name).expect("a published definition");
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        }
        (None, None) => panic!("{}: no schema", case.name),
    };
    Schema::compile(schema).unwrap()
}

fn line(error: &FieldError) -> String {
    format!("{}|{error}", error.kind.reason())
}

#[test]
fn answers_are_those_of_the_real_server() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("schema_cases.json")).unwrap();
    assert!(cases.len() > 60, "the table is complete");
    let mut wrong = Vec::new();
    for case in cases {
        let schema = compiled(&case);
        let mut object = case.new.clone();
        let unknown = schema.prune(&mut object);
        schema.fill_defaults(&mut object);
        let old = case.old.clone().map(|mut old| {
            schema.prune(&mut old);
            schema.fill_defaults(&mut old);
            old
        });
        let mut errors: Vec<String> = schema
            .validate(&object, old.as_ref())
            .iter()
            .map(line)
            .collect();
        errors.sort();
        let actual = Expectation {
            unknown,
            object,
            errors,
        };
        if actual != case.expect {
            wrong.push(format!(
                "{}\n real: {:#?}\n ours: {actual:#?}",
                case.name, case.expect
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_published_definition_compiles() {
    for crd in crds::all() {
        for version in crd["spec"]["versions"].as_array().unwrap() {
            Schema::compile(&version["schema"]["openAPIV3Schema"])
                .unwrap_or_else(|error| panic!("{}: {error}", crd["metadata"]["name"]));
        }
    }
}
