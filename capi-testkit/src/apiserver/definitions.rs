//! Custom resource definitions: what they must look like, and the resources they make.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    kinds::{Column, Origin, Resource, Scale, api_version, qualified},
    metadata::{invalid, required},
};
use crate::schema::{FieldError, FieldErrorKind, Schema, SchemaError};

/// Keeps a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Compiled schemas kept per process. All definitions of Cluster API, IPAM and two providers are
/// about 60; a sweep makes thousands of servers over the same ones.
const COMPILED_MAX: usize = 512;

/// By the text of the schema.
type Compiled = HashMap<String, Arc<Schema>>;

static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(Mutex::default);

/// The schema compiled, from the cache if it was seen before.
fn compile(schema: &Value) -> Result<Arc<Schema>, SchemaError> {
    let text = schema.to_string();
    if let Some(known) = COMPILED.lock().get(&text) {
        return Ok(known.clone());
    }
    let compiled = Arc::new(Schema::compile(schema)?);
    let mut cache = COMPILED.lock();
    if cache.len() >= COMPILED_MAX {
        cache.clear();
    }
    cache.insert(text, compiled.clone());
    Ok(compiled)
}

/// Defaults, conditions and the cleanup finalizer of a new definition.
pub(crate) fn prepare_create(definition: &mut Value, now: &str) {
    prepare_update(definition);
    let finalizers = &mut definition["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|one| one == CLEANUP) => {}
        Some(list) => list.push(CLEANUP.into()),
        None => *finalizers = json!([CLEANUP]),
    }
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": "True",
            "lastTransitionTime": now,
            "reason": reason,
            "message": message,
        })
    };
    definition["status"] = json!({
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
        ],
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": [storage_version(definition)],
    });
}

/// Defaults of names and conversion; what is served follows the spec at once.
pub(crate) fn prepare_update(definition: &mut Value) {
    let spec = &mut definition["spec"];
    let kind = spec["names"]["kind"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if spec["names"]["singular"].is_null() {
        spec["names"]["singular"] = kind.to_lowercase().into();
    }
    if spec["names"]["listKind"].is_null() {
        spec["names"]["listKind"] = format!("{kind}List").into();
    }
    if spec["conversion"].is_null() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    if definition["status"]["storedVersions"].is_array() {
        let storage = storage_version(definition);
        definition["status"]["acceptedNames"] = definition["spec"]["names"].clone();
        if let Some(stored) = definition["status"]["storedVersions"].as_array_mut()
            && !stored.contains(&storage)
        {
            stored.push(storage);
        }
    }
}

pub(crate) fn mark_deleting(definition: &mut Value, now: &str) {
    let condition = json!({
        "type": "Terminating",
        "status": "True",
        "lastTransitionTime": now,
        "reason": "InstanceDeletionInProgress",
        "message": "CustomResource deletion is in progress",
    });
    let conditions = definition.pointer_mut("/status/conditions");
    if let Some(conditions) = conditions.and_then(Value::as_array_mut) {
        conditions.push(condition);
    }
}

fn storage_version(definition: &Value) -> Value {
    let versions = definition["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut storage = versions.filter(|version| version["storage"] == true);
    storage
        .next()
        .map(|version| version["name"].clone())
        .unwrap_or_default()
}

/// What is wrong with a definition.
pub(crate) fn validate(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let mut errors = Vec::new();
    for (field, value) in [
        ("spec.group", &spec["group"]),
        ("spec.names.plural", &spec["names"]["plural"]),
        ("spec.names.kind", &spec["names"]["kind"]),
        ("spec.scope", &spec["scope"]),
    ] {
        if value.as_str().is_none_or(str::is_empty) {
            errors.push(required(field, ""));
        }
    }
    let expected = format!("{plural}.{group}");
    let name = &definition["metadata"]["name"];
    if errors.is_empty() && *name != expected.as_str() {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(invalid("metadata.name", name, detail));
    }
    if !matches!(text(&spec["scope"]).as_str(), "" | "Namespaced" | "Cluster") {
        let detail = "supported values: \"Cluster\", \"Namespaced\"";
        let kind = FieldErrorKind::NotSupported;
        errors.push(FieldError::new(
            kind,
            "spec.scope",
            spec["scope"].clone(),
            detail,
        ));
    }
    if spec["conversion"]["strategy"] == "Webhook" && served_versions(spec).count() > 1 {
        let detail = "the test API server does not implement conversion webhooks: serve one \
            version, or use the strategy None";
        errors.push(invalid(
            "spec.conversion.strategy",
            &json!("Webhook"),
            detail,
        ));
    }
    errors.extend(validate_versions(spec));
    if let Some(old) = old {
        for (field, path) in [("spec.group", "/spec/group"), ("spec.scope", "/spec/scope")] {
            if definition.pointer(path) != old.pointer(path) {
                let value = definition.pointer(path).unwrap_or(&Value::Null);
                errors.push(invalid(field, value, "field is immutable"));
            }
        }
    }
    errors
}

fn validate_versions(spec: &Value) -> Vec<FieldError> {
    let versions = spec["versions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut errors = Vec::new();
    let storing = versions
        .iter()
        .filter(|version| version["storage"] == true)
        .count();
    if storing != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(invalid("spec.versions", &spec["versions"], detail));
    }
    for (index, version) in versions.iter().enumerate() {
        let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_null() {
            errors.push(required(&field, "schemas are required"));
            continue;
        }
        if let Err(error) = compile(schema) {
            errors.push(invalid(
                &field,
                &Value::from("schema"),
                with_sources(&error),
            ));
        }
    }
    errors
}

/// The message with those of its sources.
fn with_sources(error: &SchemaError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

fn served_versions(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["served"] == true)
}

/// The resources that a valid definition makes, one per served version.
pub(crate) fn resources(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(text).collect()
    };
    let group = text(&spec["group"]);
    let stored_as = api_version(
        &group,
        storage_version(definition).as_str().unwrap_or_default(),
    );
    served_versions(spec)
        .filter_map(|version| {
            let open_api = &version["schema"]["openAPIV3Schema"];
            let schema = compile(open_api).ok()?;
            let name = text(&version["name"]);
            let subresources = &version["subresources"];
            Some(Resource {
                deprecation: deprecation(version, &group, &names["kind"]),
                version: name,
                kind: text(&names["kind"]),
                list_kind: text(&names["listKind"]),
                plural: text(&names["plural"]),
                singular: text(&names["singular"]),
                short_names: texts(&names["shortNames"]),
                categories: texts(&names["categories"]),
                namespaced: spec["scope"] == "Namespaced",
                collection: qualified(&text(&names["plural"]), &group).into(),
                stored_as: stored_as.clone(),
                status: subresources["status"].is_object(),
                scale: scale(&subresources["scale"]),
                selectable: selectable(version),
                columns: columns(version),
                schema: Some(schema),
                open_api: Arc::new(open_api.clone()),
                origin: Origin::Custom,
                group: group.clone(),
            })
        })
        .collect()
}

fn deprecation(version: &Value, group: &str, kind: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    let given = version["deprecationWarning"].as_str().map(str::to_owned);
    Some(given.unwrap_or_else(|| {
        format!(
            "{group}/{} {} is deprecated",
            version["name"].as_str().unwrap_or_default(),
            kind.as_str().unwrap_or_default()
        )
    }))
}

fn scale(scale: &Value) -> Option<Scale> {
    Some(Scale {
        spec_replicas: scale["specReplicasPath"].as_str()?.to_owned(),
        status_replicas: scale["statusReplicasPath"].as_str()?.to_owned(),
        label_selector: scale["labelSelectorPath"].as_str().map(str::to_owned),
    })
}

fn selectable(version: &Value) -> Vec<String> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    let paths = fields.filter_map(|field| field["jsonPath"].as_str());
    paths
        .map(|path| path.trim_start_matches('.').to_owned())
        .collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let columns = version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten();
    columns
        .map(|column| Column {
            name: text(&column["name"]),
            kind: text(&column["type"]),
            format: text(&column["format"]),
            description: match text(&column["description"]) {
                none if none.is_empty() => format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    text(&column["jsonPath"])
                ),
                given => given,
            },
            priority: column["priority"].as_i64().unwrap_or(0),
            path: text(&column["jsonPath"]),
        })
        .collect()
}
