//! The rules of `metadata`: what the server sets, what a client may not change, what is valid.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use serde_json::{Map, Value, json};

use super::kinds::Resource;
use crate::schema::{FieldError, FieldErrorKind};

/// Limits of apimachinery.
const NAME_LENGTH_MAX: usize = 253;
const LABEL_LENGTH_MAX: usize = 63;
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
    (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
    '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns of this module are valid")
}

static SUBDOMAIN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"));
static LABEL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"));
static NAME_PART: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"));

/// What the server knows of a new object.
#[derive(Debug)]
pub(crate) struct Birth<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) uid: String,
    /// `metav1.Time`.
    pub(crate) now: String,
}

/// The metadata object, made if it is missing or null.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]
        .as_object_mut()
        .expect("metadata was just made an object")
}

/// Sets what the server owns on a create.
pub(crate) fn stamp(object: &mut Value, resource: &Resource, birth: &Birth<'_>) {
    let metadata = of(object);
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata.remove(field);
    }
    metadata.insert("name".to_owned(), birth.name.into());
    if resource.namespaced {
        metadata.insert("namespace".to_owned(), birth.namespace.into());
    } else {
        metadata.remove("namespace");
    }
    metadata.insert("uid".to_owned(), birth.uid.as_str().into());
    metadata.insert("creationTimestamp".to_owned(), birth.now.as_str().into());
    metadata.remove("generation");
    if resource.counts_generation() {
        metadata.insert("generation".to_owned(), 1.into());
    }
    drop_empty(metadata);
}

/// Takes over from the stored object what an update may leave out, and what it may not change.
pub(crate) fn carry(new: &mut Value, old: &Value) {
    let metadata = of(new);
    let old = &old["metadata"];
    for field in ["uid", "creationTimestamp", "deletionTimestamp"] {
        if !metadata
            .get(field)
            .is_some_and(|value| !value.is_null() && value != "")
        {
            match old.get(field) {
                Some(value) => metadata.insert(field.to_owned(), value.clone()),
                None => metadata.remove(field),
            };
        }
    }
    for field in [
        "generation",
        "deletionGracePeriodSeconds",
        "namespace",
        "generateName",
    ] {
        let given = metadata.get(field).is_some_and(|value| !value.is_null());
        if field == "generateName" && given {
            continue;
        }
        match old.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    if old.get("deletionTimestamp").is_some_and(|at| !at.is_null()) {
        metadata.insert(
            "deletionTimestamp".to_owned(),
            old["deletionTimestamp"].clone(),
        );
    }
    metadata.remove("selfLink");
    drop_empty(metadata);
}

/// Go leaves empty maps and lists out when it encodes metadata.
fn drop_empty(metadata: &mut Map<String, Value>) {
    metadata.retain(|name, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !(text.is_empty() && name != "name"),
        Value::Bool(_) | Value::Number(_) => true,
    });
}

/// Type errors of metadata as Go's decoder reports them; `None` if it decodes.
pub(crate) fn undecodable(object: &Value) -> Option<String> {
    let metadata = match object.get("metadata") {
        None | Some(Value::Null) => return None,
        Some(Value::Object(metadata)) => metadata,
        Some(other) => return Some(unmarshal_error(other, "metadata", "v1.ObjectMeta")),
    };
    for (name, value) in metadata {
        let field = format!("ObjectMeta.metadata.{name}");
        let wrong = match (name.as_str(), value) {
            (_, Value::Null)
            | ("finalizers" | "ownerReferences" | "managedFields", Value::Array(_)) => None,
            ("labels" | "annotations", Value::Object(map)) => map
                .values()
                .find(|value| !value.is_string() && !value.is_null())
                .map(|value| unmarshal_error(value, &field, "string")),
            ("labels" | "annotations", other) => {
                Some(unmarshal_error(other, &field, "map[string]string"))
            }
            ("finalizers", other) => Some(unmarshal_error(other, &field, "[]string")),
            ("ownerReferences", other) => {
                Some(unmarshal_error(other, &field, "[]v1.OwnerReference"))
            }
            (
                "name" | "generateName" | "namespace" | "uid" | "resourceVersion",
                other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)),
            ) => Some(unmarshal_error(other, &field, "string")),
            _ => None,
        };
        if wrong.is_some() {
            return wrong;
        }
    }
    None
}

/// The text of `json.UnmarshalTypeError`.
pub(crate) fn unmarshal_error(value: &Value, field: &str, go_type: &str) -> String {
    let found = json_type(value);
    format!("json: cannot unmarshal {found} into Go struct field {field} of type {go_type}")
}

/// What `encoding/json` calls a value.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Everything wrong with the metadata of an object that is to be stored.
pub(crate) fn validate(object: &Value, resource: &Resource) -> Vec<FieldError> {
    let metadata = &object["metadata"];
    let mut errors = Vec::new();
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if let Some(detail) = name_error(name, resource) {
        errors.push(invalid("metadata.name", &metadata["name"], detail));
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        errors.extend(key_errors("metadata.labels", key));
        if let Some(detail) = label_value_error(value.as_str().unwrap_or_default()) {
            errors.push(invalid("metadata.labels", value, detail));
        }
    }
    let mut annotations_bytes = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        errors.extend(key_errors("metadata.annotations", &key.to_lowercase()));
        annotations_bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if annotations_bytes > ANNOTATIONS_BYTES_MAX {
        let detail = format!("may not be more than {ANNOTATIONS_BYTES_MAX} bytes");
        let kind = FieldErrorKind::TooLong;
        errors.push(FieldError::new(
            kind,
            "metadata.annotations",
            Value::Null,
            detail,
        ));
    }
    errors.extend(owner_errors(&metadata["ownerReferences"]));
    for finalizer in metadata["finalizers"].as_array().into_iter().flatten() {
        let text = finalizer.as_str().unwrap_or_default();
        errors.extend(key_errors("metadata.finalizers", text));
        // Only built-in kinds insist on a path; most finalizers of custom ones have none, nor has that
        // of a definition.
        let is_standard =
            STANDARD_FINALIZERS.contains(&text) || resource.group == "apiextensions.k8s.io";
        if !resource.is_custom() && !text.contains('/') && !is_standard {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(invalid("metadata.finalizers", finalizer, detail));
        }
    }
    errors
}

/// What an update may not change.
pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let mut errors = Vec::new();
    if !old["deletionTimestamp"].is_null() {
        let had: Vec<_> = old["finalizers"].as_array().into_iter().flatten().collect();
        let added: Vec<_> = new["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| !had.contains(one))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let list: Vec<_> = added.iter().map(|one| format!("{one:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                list.join(", ")
            );
            let kind = FieldErrorKind::Forbidden;
            errors.push(FieldError::new(
                kind,
                "metadata.finalizers",
                Value::Null,
                detail,
            ));
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
    ] {
        if new[field] != old[field] {
            errors.push(invalid(
                &format!("metadata.{field}"),
                &new[field],
                "field is immutable",
            ));
        }
    }
    errors
}

fn owner_errors(owners: &Value) -> Vec<FieldError> {
    let owners = owners.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut errors = Vec::new();
    let mut controllers: Vec<String> = Vec::new();
    for owner in owners {
        let field = |name: &str| format!("metadata.ownerReferences.{name}");
        for name in ["apiVersion", "kind", "name", "uid"] {
            if owner[name].as_str().is_none_or(str::is_empty) {
                let value = owner.get(name).cloned().unwrap_or_else(|| "".into());
                let detail = match name {
                    "apiVersion" => "version must not be empty",
                    _ => "must not be empty",
                };
                errors.push(invalid(&field(name), &value, detail));
            }
        }
        if owner["controller"] == true {
            let text = |field: &str| owner[field].as_str().unwrap_or_default();
            controllers.push(format!("{}/{}", text("kind"), text("name")));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let shown: Vec<_> = owners.iter().map(owner_text).collect();
        let detail = format!(
            "[{}]: Only one reference can have Controller set to true. Found \"true\" in references \
             for {first} and {second}",
            shown.join(",")
        );
        let kind = FieldErrorKind::Invalid;
        errors.push(FieldError::new(
            kind,
            "metadata.ownerReferences",
            None,
            detail,
        ));
    }
    errors
}

/// An owner as Go prints it: in the order of the struct's fields.
fn owner_text(owner: &Value) -> String {
    let fields = [
        "apiVersion",
        "kind",
        "name",
        "uid",
        "controller",
        "blockOwnerDeletion",
    ];
    let given = fields.iter().filter_map(|name| {
        let value = owner.get(name)?;
        Some(format!("{name:?}:{value}"))
    });
    format!("{{{}}}", given.collect::<Vec<_>>().join(","))
}

/// What a real server says about finalizers that custom objects may have and better had not.
pub(crate) fn finalizer_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let of = |object: &Value| -> BTreeSet<String> {
        let finalizers = object["metadata"]["finalizers"].as_array();
        let texts = finalizers.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let had = old.map(of).unwrap_or_default();
    let added = of(new);
    let unqualified = added.difference(&had).filter(|finalizer| {
        !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str())
    });
    unqualified
        .map(|finalizer| {
            let path = if finalizer.contains('.') {
                " including a path (/)"
            } else {
                ""
            };
            format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{path} \
                 to avoid accidental conflicts with other finalizer writers"
            )
        })
        .collect()
}

fn name_error(name: &str, resource: &Resource) -> Option<String> {
    if resource.group == "rbac.authorization.k8s.io" {
        // Path segment names: roles are called `system:node`.
        if matches!(name, "." | "..") {
            return Some(format!("may not be '{name}'"));
        }
        let found = ['/', '%']
            .into_iter()
            .find(|character| name.contains(*character));
        return found.map(|character| format!("may not contain '{character}'"));
    }
    let short =
        !resource.is_custom() && matches!(resource.plural.as_str(), "namespaces" | "services");
    if short {
        if name.len() > LABEL_LENGTH_MAX {
            return Some(format!(
                "must be no more than {LABEL_LENGTH_MAX} characters"
            ));
        }
        return (!LABEL.is_match(name)).then(|| LABEL_TEXT.to_owned());
    }
    if name.len() > NAME_LENGTH_MAX {
        return Some(format!("must be no more than {NAME_LENGTH_MAX} characters"));
    }
    (!SUBDOMAIN.is_match(name)).then(|| SUBDOMAIN_TEXT.to_owned())
}

/// Errors of a qualified name: the key of a label or an annotation, a finalizer.
pub(crate) fn key_errors(field: &str, key: &str) -> Vec<FieldError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let value = Value::from(key);
    let mut errors = Vec::new();
    if name.contains('/') {
        let detail = format!(
            "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. \
             'example.com/MyName')",
            NAME_PART_TEXT.trim_start_matches("name part ")
        );
        return vec![invalid(field, &value, detail)];
    }
    match prefix {
        Some("") => errors.push(invalid(field, &value, "prefix part must be non-empty")),
        Some(prefix) if !SUBDOMAIN.is_match(prefix) => {
            errors.push(invalid(
                field,
                &value,
                format!("prefix part {SUBDOMAIN_TEXT}"),
            ));
        }
        Some(_) | None => {}
    }
    if name.is_empty() {
        errors.push(invalid(field, &value, "name part must be non-empty"));
    } else if name.len() > LABEL_LENGTH_MAX {
        let detail = format!("name part must be no more than {LABEL_LENGTH_MAX} characters");
        errors.push(invalid(field, &value, detail));
    }
    if !NAME_PART.is_match(name) {
        errors.push(invalid(field, &value, NAME_PART_TEXT));
    }
    errors
}

pub(crate) fn label_value_error(value: &str) -> Option<String> {
    if value.len() > LABEL_LENGTH_MAX {
        return Some(format!(
            "must be no more than {LABEL_LENGTH_MAX} characters"
        ));
    }
    let valid = value.is_empty() || NAME_PART.is_match(value);
    (!valid).then(|| LABEL_VALUE_TEXT.to_owned())
}

pub(crate) fn required(field: &str, detail: &str) -> FieldError {
    FieldError::new(FieldErrorKind::Required, field, Value::Null, detail)
}

pub(crate) fn invalid(field: &str, value: &Value, detail: impl Into<String>) -> FieldError {
    FieldError::new(FieldErrorKind::Invalid, field, value.clone(), detail)
}
