//! From a body to an object of the resource: format, kind, unknown fields.

use serde_json::Value;

use super::{
    event,
    kinds::Resource,
    metadata::{invalid, undecodable},
    protobuf,
    request::Verb,
    serve::{Ask, BODY_BYTES_MAX},
    status::{StatusError, Subject},
};
use crate::schema::{FieldError, FieldErrorKind, strict_decoding_error};

/// What happens to fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn of(ask: &Ask) -> Result<Self, StatusError> {
        match ask.query.text("fieldValidation") {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(StatusError::invalid_options(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \
                 \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// The media type without parameters.
pub(crate) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The body as a value, JSON or YAML as its type says.
pub(crate) fn body(ask: &Ask) -> Result<Value, StatusError> {
    match media_type(&ask.content_type) {
        "" | "application/json" => json(ask),
        "application/yaml" => yaml(ask),
        protobuf::MEDIA_TYPE => {
            check_length(ask)?;
            let kind = match ask.target.verb {
                Verb::Delete | Verb::DeleteCollection => "DeleteOptions",
                _ => &ask.resource.kind,
            };
            protobuf::decode(kind, &ask.body)
        }
        _ => Err(StatusError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

pub(crate) fn json(ask: &Ask) -> Result<Value, StatusError> {
    check_length(ask)?;
    serde_json::from_slice(&ask.body).map_err(|error| {
        StatusError::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    })
}

pub(crate) fn yaml(ask: &Ask) -> Result<Value, StatusError> {
    check_length(ask)?;
    let text = std::str::from_utf8(&ask.body)
        .map_err(|_| StatusError::bad_request("error decoding YAML: not UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|error| StatusError::bad_request(format!("error decoding YAML: {error}")))
}

fn check_length(ask: &Ask) -> Result<(), StatusError> {
    if ask.body.len() > BODY_BYTES_MAX {
        return Err(StatusError::too_large(BODY_BYTES_MAX));
    }
    Ok(())
}

/// Checks that a decoded object is one of the resource, and removes what its schema does not know.
///
/// Returns the warnings; with strict validation unknown fields are refused through `strict`.
pub(crate) fn screen(
    ask: &Ask,
    object: &mut Value,
    strict: impl FnOnce(&Value, &str) -> StatusError,
) -> Result<Vec<String>, StatusError> {
    let validation = FieldValidation::of(ask)?;
    let resource = &ask.resource;
    check_kind(resource, object, &ask.target.name)?;
    if let Some(wrong) = undecodable(object) {
        return Err(undecoded(resource, &wrong));
    }
    let unknown = resource
        .schema
        .as_ref()
        .map(|schema| schema.prune(object))
        .unwrap_or_default();
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(unknown
            .iter()
            .map(|field| format!("unknown field {field:?}"))
            .collect()),
        FieldValidation::Strict => Err(strict(object, &strict_decoding_error(&unknown))),
    }
}

/// The refusal of a whole object that does not decode.
pub(crate) fn undecoded(resource: &Resource, why: &str) -> StatusError {
    let kind = &resource.kind;
    let message = format!(
        "{kind} in version {:?} cannot be handled as a {kind}: {why}",
        resource.version
    );
    StatusError::bad_request(message)
}

/// The refusal of a patch whose result does not decode.
pub(crate) fn unpatched(result: &Value, why: &str) -> StatusError {
    let shown = Value::from(result.to_string());
    let error = FieldError::new(FieldErrorKind::Invalid, "patch", shown, why);
    StatusError::invalid(
        Subject {
            group: "",
            resource: "",
            name: "",
        },
        &[error],
    )
}

fn check_kind(resource: &Resource, object: &mut Value, name: &str) -> Result<(), StatusError> {
    let Some(map) = object.as_object_mut() else {
        let message = "couldn't get version/kind; json parse error: the body is no JSON object";
        return Err(StatusError::bad_request(message));
    };
    let api_version = resource.api_version();
    for (field, expected) in [
        ("kind", resource.kind.as_str()),
        ("apiVersion", &api_version),
    ] {
        if map
            .get(field)
            .is_none_or(|given| given.is_null() || given == "")
        {
            if resource.is_custom() && field == "kind" {
                let message = "Object 'Kind' is missing in the body of the request";
                return Err(StatusError::bad_request(message));
            }
            map.insert(field.to_owned(), expected.into());
        }
    }
    let (kind, version) = (&map["kind"], &map["apiVersion"]);
    if version != api_version.as_str() {
        let message = format!(
            "the API version in the data ({}) does not match the expected API version \
             ({api_version})",
            version.as_str().unwrap_or_default()
        );
        return Err(StatusError::bad_request(message));
    }
    if kind != resource.kind.as_str() {
        let detail = format!("must be {}", resource.kind);
        let subject = Subject {
            group: &resource.group,
            resource: &resource.kind,
            name,
        };
        return Err(StatusError::invalid(
            subject,
            &[invalid("kind", kind, detail)],
        ));
    }
    Ok(())
}

/// The object as it is stored: in the stored version and its field names.
pub(crate) fn to_stored(resource: &Resource, object: &mut Value) {
    if resource.group == "events.k8s.io" {
        event::to_core_group(object);
    }
    object["apiVersion"] = resource.stored_as.as_str().into();
}
