//! What single built-in resources do beyond the common rules, as their `RESTStrategy` does in Go.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    definitions, hook,
    kinds::{Origin, Resource},
    metadata::{invalid, required},
};
use crate::schema::{FieldError, FieldErrorKind};

/// Longest Secret or ConfigMap, all values together.
const DATA_BYTES_MAX: usize = 1024 * 1024;

/// Defaults and resets of a new object.
pub(crate) fn prepare_create(resource: &Resource, object: &mut Value, now: &str) {
    if resource.is_custom() {
        if resource.status {
            remove(object, "status");
        }
        return;
    }
    match resource.kind.as_str() {
        "Node" => {}
        "Namespace" => {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
        }
        "Pod" => object["status"] = json!({"phase": "Pending"}),
        "CustomResourceDefinition" => {
            remove(object, "status");
            definitions::prepare_create(object, now);
        }
        _ if resource.status => object["status"] = json!({}),
        _ => {}
    }
    fill(resource, object);
}

/// Defaults and resets of a changed object.
pub(crate) fn prepare_update(resource: &Resource, new: &mut Value, old: &Value) {
    if resource.is_custom() {
        return;
    }
    match resource.kind.as_str() {
        "Namespace" if new["spec"]["finalizers"].is_null() => {
            new["spec"] = old["spec"].clone();
        }
        "CustomResourceDefinition" => definitions::prepare_update(new),
        _ => {}
    }
    fill(resource, new);
}

/// Defaults that Go's conversion fills in, as far as someone reads them.
pub(crate) fn fill(resource: &Resource, object: &mut Value) {
    if resource.is_custom() {
        return;
    }
    if matches!(resource.kind.as_str(), "Secret" | "ConfigMap") {
        if resource.kind == "Secret" {
            merge_string_data(object);
        }
        for field in ["data", "binaryData"] {
            // Go's encoder leaves empty maps out.
            if object[field].as_object().is_some_and(Map::is_empty) {
                remove(object, field);
            }
        }
    }
    match resource.kind.as_str() {
        "Secret" => default(object, &["type"], json!("Opaque")),
        "Namespace" if object["metadata"]["name"].is_string() => {
            let name = object["metadata"]["name"].clone();
            default(
                object,
                &["metadata", "labels", "kubernetes.io/metadata.name"],
                name,
            );
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            default(
                object,
                &["roleRef", "apiGroup"],
                json!("rbac.authorization.k8s.io"),
            );
            for subject in elements(object, "/subjects") {
                if subject["kind"] != "ServiceAccount" {
                    default(subject, &["apiGroup"], json!("rbac.authorization.k8s.io"));
                }
            }
        }
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            for webhook in elements(object, "/webhooks") {
                fill_webhook(webhook, resource.kind.starts_with("Mutating"));
            }
        }
        "Deployment" => {
            default(object, &["spec", "replicas"], json!(1));
            default(object, &["spec", "revisionHistoryLimit"], json!(10));
            default(object, &["spec", "progressDeadlineSeconds"], json!(600));
            default(
                object,
                &["spec", "strategy", "type"],
                json!("RollingUpdate"),
            );
            if object["spec"]["strategy"]["type"] == "RollingUpdate" {
                let rolling = ["spec", "strategy", "rollingUpdate"];
                default(
                    object,
                    &[&rolling[..], &["maxSurge"]].concat(),
                    json!("25%"),
                );
                default(
                    object,
                    &[&rolling[..], &["maxUnavailable"]].concat(),
                    json!("25%"),
                );
            }
        }
        "ReplicaSet" | "StatefulSet" => default(object, &["spec", "replicas"], json!(1)),
        "Service" => fill_service(object),
        _ => {}
    }
}

fn fill_service(object: &mut Value) {
    default(object, &["spec", "type"], json!("ClusterIP"));
    default(object, &["spec", "sessionAffinity"], json!("None"));
    default(object, &["spec", "internalTrafficPolicy"], json!("Cluster"));
    default(object, &["status", "loadBalancer"], json!({}));
    for port in elements(object, "/spec/ports") {
        default(port, &["protocol"], json!("TCP"));
        let number = port["port"].clone();
        default(port, &["targetPort"], number);
    }
}

fn fill_webhook(webhook: &mut Value, mutating: bool) {
    default(webhook, &["failurePolicy"], json!("Fail"));
    default(webhook, &["matchPolicy"], json!("Equivalent"));
    default(webhook, &["namespaceSelector"], json!({}));
    default(webhook, &["objectSelector"], json!({}));
    default(webhook, &["timeoutSeconds"], json!(10));
    if mutating {
        default(webhook, &["reinvocationPolicy"], json!("Never"));
    }
    for rule in elements(webhook, "/rules") {
        default(rule, &["scope"], json!("*"));
    }
    if !webhook["clientConfig"]["service"].is_null() {
        default(webhook, &["clientConfig", "service", "port"], json!(443));
    }
}

/// The elements of a list at a JSON pointer. Indexing would leave a null where there is none.
fn elements<'a>(object: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = object.pointer_mut(pointer).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Sets what is absent or null at `path`.
fn default(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut at = object;
    for parent in parents {
        if !(at[parent].is_object() || at[parent].is_null()) {
            return;
        }
        at = &mut at[*parent];
    }
    if (at.is_object() || at.is_null()) && at[*last].is_null() {
        at[*last] = value;
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// `stringData` is a way to write `data` only.
fn merge_string_data(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let Some(Value::Object(strings)) = map.remove("stringData") else {
        return;
    };
    for (key, value) in strings {
        let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
        object["data"][key] = encoded.into();
    }
}

/// What is wrong with a built-in object beyond its types.
pub(crate) fn validate(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    if resource.is_custom() {
        return Vec::new();
    }
    match resource.kind.as_str() {
        "CustomResourceDefinition" => definitions::validate(new, old),
        "Secret" | "ConfigMap" => validate_data(resource, new, old),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => hook::validate(new),
        "RoleBinding" | "ClusterRoleBinding" => match old {
            Some(old) if old["roleRef"] != new["roleRef"] => {
                vec![invalid("roleRef", &new["roleRef"], "cannot change roleRef")]
            }
            _ => Vec::new(),
        },
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => validate_workload(new, old),
        _ => Vec::new(),
    }
}

fn validate_data(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let data = new["data"].as_object().into_iter().flatten();
    let known = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let mut size = 0;
    for (key, value) in data {
        size += value.as_str().map_or(0, str::len);
        if key.is_empty() || !key.chars().all(known) {
            let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or \
                '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation \
                is '[-._a-zA-Z0-9]+')";
            errors.push(invalid(
                &format!("data[{key}]"),
                &Value::from(key.as_str()),
                detail,
            ));
        }
    }
    if size > DATA_BYTES_MAX {
        let detail = format!("may not be more than {DATA_BYTES_MAX} bytes");
        let kind = FieldErrorKind::TooLong;
        errors.push(FieldError::new(kind, "data", Value::Null, detail));
    }
    let Some(old) = old else { return errors };
    if resource.kind == "Secret" && new["type"] != old["type"] {
        errors.push(invalid("type", &new["type"], "field is immutable"));
    }
    if old["immutable"] == true {
        for field in ["data", "binaryData", "immutable"] {
            if new[field] != old[field] {
                let detail = "field is immutable when `immutable` is set";
                let kind = FieldErrorKind::Forbidden;
                errors.push(FieldError::new(kind, field, Value::Null, detail));
            }
        }
    }
    errors
}

fn validate_workload(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let selector = &new["spec"]["selector"];
    if selector.is_null() {
        errors.push(required("spec.selector", ""));
        return errors;
    }
    let labels = &new["spec"]["template"]["metadata"]["labels"];
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    if wanted.into_iter().any(|(key, value)| labels[key] != *value) {
        let detail = "`selector` does not match template `labels`";
        errors.push(invalid("spec.template.metadata.labels", labels, detail));
    }
    if old.is_some_and(|old| old["spec"]["selector"] != *selector) {
        errors.push(invalid("spec.selector", selector, "field is immutable"));
    }
    errors
}

/// Whether nothing holds a deleted object any more, so that this write is its last.
pub(crate) fn is_finished(resource: &Resource, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let held = metadata["finalizers"]
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty());
    !metadata["deletionTimestamp"].is_null() && !held && !has_own_finalizers(resource, object)
}

/// Namespaces have finalizers in their spec too.
pub(crate) fn has_own_finalizers(resource: &Resource, object: &Value) -> bool {
    let own = object["spec"]["finalizers"].as_array();
    !resource.is_custom()
        && resource.kind == "Namespace"
        && own.is_some_and(|finalizers| !finalizers.is_empty())
}

/// What else changes when an object is marked for deletion.
pub(crate) fn mark_deleting(resource: &Resource, object: &mut Value, now: &str) {
    if resource.is_custom() {
        return;
    }
    match resource.kind.as_str() {
        "Namespace" => object["status"]["phase"] = "Terminating".into(),
        "CustomResourceDefinition" => definitions::mark_deleting(object, now),
        _ => {}
    }
}

/// Whether a delete answers with the object even if it is gone.
pub(crate) fn returns_deleted(resource: &Resource) -> bool {
    match resource.origin {
        Origin::Custom => false,
        Origin::Builtin(builtin) => builtin.returns_deleted,
    }
}
