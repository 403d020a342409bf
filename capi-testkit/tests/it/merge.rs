//! Field ownership and apply against answers of the real server.
//!
//! `merge_cases.json` holds sequences of writes to one object together with the object, or the
//! refusal, that the field managers of apimachinery v0.35 (Kubernetes 1.35) give after each. Times
//! are recorded only as present or absent.

use capi_testkit::{
    crds,
    merge::{self, ApplyError, STATUS_RESETS, Shape, Writer},
    schema::Schema,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Table {
    thing: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    shape: Option<String>,
    crd: Option<String>,
    /// Whether the kind has a status subresource.
    status: bool,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    op: String,
    object: Value,
    manager: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    force: bool,
    expect: Value,
}

const NOW: &str = "2026-01-02T03:04:05Z";

fn schema_of(case: &Case, thing: &Value) -> Option<Schema> {
    let schema = match (&case.shape, &case.crd) {
        (Some(_), _) => thing,
        (None, Some(name)) => {
            let crd = crds::named(name).expect("a published definition");
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        }
        (None, None) => return None,
    };
    Some(Schema::compile(schema).unwrap())
}

fn run(
    step: &Step,
    case: &Case,
    shape: Shape<'_>,
    live: Option<&Value>,
) -> Result<Value, ApplyError> {
    let first = case.steps[0].object["apiVersion"].as_str().unwrap();
    let resets = match (case.status, step.subresource.as_str()) {
        (false, _) => &[],
        (true, "status") => STATUS_RESETS,
        (true, _) => &["status"][..],
    };
    let writer = Writer {
        manager: &step.manager,
        api_version: first,
        subresource: &step.subresource,
        resets,
        now: NOW,
    };
    match step.op.as_str() {
        "apply" => merge::apply(shape, live, &step.object, &writer, step.force),
        "update" => Ok(merge::update(shape, live, step.object.clone(), &writer)),
        other => panic!("{}: no such step: {other}", case.name),
    }
}

fn without_times(mut object: Value) -> Value {
    if let Some(entries) = object["metadata"].get_mut("managedFields") {
        for entry in entries.as_array_mut().unwrap() {
            if let Some(time) = entry.get_mut("time") {
                assert_eq!(*time, NOW);
                *time = json!("T");
            }
        }
    }
    object
}

/// The field managers leave null where a container lost its content; the server drops it on reading.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn refusal(error: &ApplyError) -> Value {
    let mut causes: Vec<Value> = error.causes();
    for cause in &mut causes {
        assert_eq!(cause["reason"], "FieldManagerConflict");
        cause.as_object_mut().unwrap().remove("reason");
    }
    causes.sort_by_key(|cause| (cause["message"].to_string(), cause["field"].to_string()));
    let mut refusal = json!({"error": error.to_string()});
    if !causes.is_empty() {
        refusal["causes"] = causes.into();
    }
    refusal
}

#[test]
fn answers_are_those_of_the_real_server() {
    let table: Table = serde_json::from_str(include_str!("merge_cases.json")).unwrap();
    assert!(table.cases.len() > 50, "the table is complete");
    let mut wrong = Vec::new();
    for case in &table.cases {
        let schema = schema_of(case, &table.thing);
        let first = &case.steps[0].object;
        let api_version = first["apiVersion"].as_str().unwrap();
        let shape = match &schema {
            Some(schema) => Shape::Structural(schema),
            None => Shape::BuiltIn {
                group: api_version.split_once('/').map_or("", |(group, _)| group),
                kind: first["kind"].as_str().unwrap(),
            },
        };
        let mut live: Option<Value> = None;
        for (index, step) in case.steps.iter().enumerate() {
            let actual = match run(step, case, shape, live.as_ref()) {
                Ok(mut object) => {
                    object["metadata"]["uid"] = json!("u1");
                    live = Some(object.clone());
                    json!({"object": without_times(object)})
                }
                Err(error) => refusal(&error),
            };
            let mut expected = step.expect.clone();
            without_nulls(&mut expected);
            if actual != expected {
                wrong.push(format!(
                    "{} (step {index})\n real: {}\n ours: {}",
                    case.name,
                    serde_json::to_string(&expected).unwrap(),
                    serde_json::to_string(&actual).unwrap()
                ));
                break;
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
