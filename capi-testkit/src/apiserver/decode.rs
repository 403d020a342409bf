//! From a body to an object of the resource: format, kind, unknown fields.

use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{
    event,
    kinds::Resource,
    metadata::{invalid, json_type, undecodable, unmarshal_error},
    protobuf,
    request::Verb,
    serve::{Ask, BODY_BYTES_MAX},
    status::{StatusError, Subject},
    strategy,
    syntax::{self, Sent},
};
use crate::schema::{FieldError, FieldErrorKind};

/// How much of a body that is no object the refusal shows.
const SHOWN_BYTES_MAX: usize = 30;

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
            other => {
                let error = FieldError::new(
                    FieldErrorKind::NotSupported,
                    "fieldValidation",
                    Value::from(other),
                    "supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
                );
                let kind = ask.target.verb.options();
                Err(StatusError::invalid_options(kind, &[error]))
            }
        }
    }
}

/// The media type without parameters.
pub(crate) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The body as a value, JSON or YAML as its type says.
pub(crate) fn body(ask: &Ask) -> Result<Sent, StatusError> {
    match media_type(&ask.content_type) {
        "" | "application/json" => {
            check_length(ask)?;
            syntax::read(&ask.body).map_err(|why| {
                let why = format!("couldn't get version/kind; json parse error: {why}");
                unrecognized(ask, &why)
            })
        }
        "application/yaml" => yaml(ask).map(Sent::from),
        protobuf::MEDIA_TYPE => {
            check_length(ask)?;
            let kind = match ask.target.verb {
                Verb::Delete | Verb::DeleteCollection => "DeleteOptions",
                _ => &ask.resource.kind,
            };
            protobuf::decode(kind, &ask.body).map(Sent::from)
        }
        _ => Err(StatusError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The body of a patch that is JSON.
pub(crate) fn json_patch(ask: &Ask) -> Result<Sent, StatusError> {
    check_length(ask)?;
    syntax::read(&ask.body)
        .map_err(|why| StatusError::bad_request(format!("error decoding patch: {why}")))
}

/// The refusal of a body that is no object of the resource.
fn unrecognized(ask: &Ask, why: &str) -> StatusError {
    let body = &ask.body[..];
    let start = &body[..body.len().min(SHOWN_BYTES_MAX)];
    let rest = if start.len() < body.len() { " ..." } else { "" };
    let shown = match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned() + rest,
        Some(_) => {
            start
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                + rest
        }
    };
    StatusError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({shown})",
        ask.resource.kind
    ))
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
/// Returns the warnings; what does not decode, and with strict validation unknown and repeated fields,
/// is refused through `refuse`, which gets the object as it was sent.
pub(crate) fn screen(
    ask: &Ask,
    sent: &mut Sent,
    refuse: impl FnOnce(&Value, &str) -> StatusError,
) -> Result<Vec<String>, StatusError> {
    let validation = FieldValidation::of(ask)?;
    let resource = &ask.resource;
    let object = &mut sent.value;
    check_kind(ask, object)?;
    if let Some(wrong) = undecodable(object) {
        return Err(undecoded(resource, &wrong));
    }
    if !resource.is_custom()
        && let Some(wrong) = undecodable_data(&resource.kind, object)
    {
        return Err(refuse(object, &wrong));
    }
    // Only a strict refusal shows the object as it came.
    let before = (validation == FieldValidation::Strict).then(|| object.clone());
    let schema = resource.schema.as_ref();
    let unknown = schema.map(|schema| schema.prune(object));
    let repeated = sent.duplicates.iter();
    let faults: Vec<_> = repeated
        .map(|field| format!("duplicate field {field:?}"))
        .chain(
            unknown
                .iter()
                .flatten()
                .map(|field| format!("unknown field {field:?}")),
        )
        .collect();
    match (validation, before) {
        _ if faults.is_empty() => Ok(faults),
        (FieldValidation::Ignore, _) => Ok(Vec::new()),
        (FieldValidation::Strict, Some(before)) => {
            let why = format!("strict decoding error: {}", faults.join(", "));
            Err(refuse(&before, &why))
        }
        (FieldValidation::Warn | FieldValidation::Strict, _) => Ok(faults),
    }
}

/// What Go's decoder says of the data of Secrets and ConfigMaps.
fn undecodable_data(kind: &str, object: &Value) -> Option<String> {
    let values = |field: &str| object[field].as_object().into_iter().flatten();
    let no_text = |field: &str| {
        let wrong = values(field).find(|(_, value)| !value.is_string() && !value.is_null());
        wrong.map(|(_, value)| unmarshal_error(value, &format!("{kind}.{field}"), "string"))
    };
    let no_base64 = |field: &str| {
        let mut texts = values(field).filter_map(|(_, value)| value.as_str());
        let at = texts.find_map(|text| match STANDARD.decode(text) {
            Ok(_) => None,
            Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => {
                Some(at)
            }
            // Go reads on where padding is missing, and fails at the end.
            Err(DecodeError::InvalidLength(_) | DecodeError::InvalidPadding) => {
                Some(text.len() / 4 * 4)
            }
        })?;
        Some(format!("illegal base64 data at input byte {at}"))
    };
    match kind {
        "ConfigMap" => no_text("data").or_else(|| no_base64("binaryData")),
        "Secret" => no_base64("data").or_else(|| no_text("stringData")),
        _ => None,
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

fn check_kind(ask: &Ask, object: &mut Value) -> Result<(), StatusError> {
    let resource = &ask.resource;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = name.to_owned();
    let Some(map) = object.as_object_mut() else {
        let why = format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of \
             type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
             \"json:\\\"kind,omitempty\\\"\" }}",
            json_type(object)
        );
        return Err(unrecognized(ask, &why));
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
                let body = String::from_utf8_lossy(&ask.body);
                let why = format!("Object 'Kind' is missing in '{body}'");
                return Err(unrecognized(ask, &why));
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
    if kind != resource.kind.as_str() && !resource.is_custom() {
        let given = kind.as_str().unwrap_or_default();
        let version = &resource.version;
        let package = match resource.group.split('.').next() {
            None | Some("") => "core",
            Some(package) => package,
        };
        let wanted = &resource.kind;
        return Err(StatusError::bad_request(format!(
            "{given} in version {version:?} cannot be handled as a {wanted}: converting \
             ({version}.{given}) to ({package}.{wanted}): unknown conversion"
        )));
    }
    if kind != resource.kind.as_str() {
        let detail = format!("must be {}", resource.kind);
        let subject = Subject {
            group: &resource.group,
            resource: kind.as_str().unwrap_or_default(),
            name: &name,
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
    strategy::fill(resource, object);
    object["apiVersion"] = resource.stored_as.as_str().into();
}
