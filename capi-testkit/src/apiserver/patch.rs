//! The four kinds of patches.

use json_patch::PatchOperation;
use serde_json::Value;

use super::{
    decode::{self, media_type, screen, undecoded, unpatched},
    metadata::{json_type, undecodable},
    serve::Ask,
    status::StatusError,
    store::Object,
    strategic,
    syntax::Sent,
    write::{Proposal, presented, shape, writer},
};
use crate::{
    merge::{self, ApplyError},
    schema::{FieldError, FieldErrorKind},
};

/// Operations in one JSON patch, as in a real server.
const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// A patch as it came.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(Vec<Value>),
    Merge(Sent),
    Strategic(Sent),
    Apply { applied: Value, force: bool },
}

/// Reads the patch of a request.
pub(crate) fn parse(ask: &Ask) -> Result<Patch, StatusError> {
    let media_type = media_type(&ask.content_type);
    if media_type != "application/apply-patch+yaml" && ask.query.maybe_flag("force").is_some() {
        let detail = "may not be specified for non-apply patch";
        return Err(refused_option(FieldErrorKind::Forbidden, "force", detail));
    }
    match media_type {
        "application/json-patch+json" => Ok(Patch::Json(json_patch(ask)?)),
        "application/merge-patch+json" => merge_patch(ask),
        "application/strategic-merge-patch+json" if !ask.resource.is_custom() => {
            Ok(Patch::Strategic(decode::json_patch(ask)?))
        }
        "application/apply-patch+yaml" => apply_patch(ask),
        _ => Err(StatusError::unsupported_media_type(
            if ask.resource.is_custom() {
                "application/json-patch+json, application/merge-patch+json, \
             application/apply-patch+yaml"
            } else {
                "application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml"
            },
        )),
    }
}

fn refused_option(kind: FieldErrorKind, field: &str, detail: &str) -> StatusError {
    let error = FieldError::new(kind, field, None, detail);
    StatusError::invalid_options("PatchOptions", &[error])
}

/// The operations of a JSON patch, which are looked at when they are carried out.
pub(crate) fn json_patch(ask: &Ask) -> Result<Vec<Value>, StatusError> {
    let operations = match decode::json_patch(ask)?.value {
        Value::Array(operations) => operations,
        Value::Null => Vec::new(),
        other => return Err(no_patch(&other, "[]handlers.jsonPatchOp")),
    };
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
            operations.len()
        );
        return Err(StatusError::too_many_operations(message));
    }
    Ok(operations)
}

/// Carries out the operations of a JSON patch.
pub(crate) fn carry_out(operations: &[Value], object: &mut Value) -> Result<(), StatusError> {
    for operation in operations {
        let mut operation = operation.clone();
        if is_new_member(&operation, object) {
            // Go's implementation does not mind that there is nothing to replace.
            operation["op"] = "add".into();
        }
        let operation: PatchOperation =
            serde_json::from_value(operation).map_err(|_| StatusError::unprocessable())?;
        json_patch::patch(object, &[operation]).map_err(|_| StatusError::unprocessable())?;
    }
    Ok(())
}

/// Whether an operation replaces a member that an object does not have.
fn is_new_member(operation: &Value, object: &Value) -> bool {
    let path = operation["path"].as_str().unwrap_or_default();
    let parent = path.rsplit_once('/').map(|(parent, _)| parent);
    operation["op"] == "replace"
        && object.pointer(path).is_none()
        && parent
            .and_then(|parent| object.pointer(parent))
            .is_some_and(Value::is_object)
}

fn merge_patch(ask: &Ask) -> Result<Patch, StatusError> {
    let sent = decode::json_patch(ask)?;
    match &sent.value {
        Value::Object(_) => Ok(Patch::Merge(sent)),
        // Go decodes null into an empty map, and trips over it later.
        Value::Null => Err(StatusError::bad_request("Invalid JSON Patch")),
        other => Err(no_patch(other, "map[string]interface {}")),
    }
}

/// The refusal of a body of the wrong type.
fn no_patch(body: &Value, wanted: &str) -> StatusError {
    let found = json_type(body);
    StatusError::bad_request(format!(
        "error decoding patch: json: cannot unmarshal {found} into Go value of type {wanted}"
    ))
}

fn apply_patch(ask: &Ask) -> Result<Patch, StatusError> {
    if ask.query.text("fieldManager").is_empty() {
        let detail = "is required for apply patch";
        let kind = FieldErrorKind::Required;
        return Err(refused_option(kind, "fieldManager", detail));
    }
    let applied = decode::yaml(ask)?;
    let resource = &ask.resource;
    let text = |field: &str| applied[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvk = format!("{group}/{version}, Kind={kind}");
    if api_version != resource.api_version() || kind != resource.kind {
        return Err(StatusError::bad_request(format!(
            "invalid object type: {gvk}"
        )));
    }
    if let Some(wrong) = undecodable(&applied) {
        return Err(undecoded(resource, &wrong));
    }
    // The fields of custom kinds are checked by their shape, along with the keys of their lists.
    let schema = resource.schema.as_ref().filter(|_| !resource.is_custom());
    let unknown = schema.map(|schema| schema.unknown_fields(&applied));
    if let Some([first, ..]) = unknown.as_deref() {
        let text = |field: &str| applied["metadata"][field].as_str().unwrap_or_default();
        return Err(StatusError::unexplained(format!(
            "failed to create typed patch object ({}/{}; {gvk}): .{first}: field not declared in schema",
            text("namespace"),
            text("name"),
        )));
    }
    Ok(Patch::Apply {
        applied,
        force: ask.query.flag("force"),
    })
}

impl Patch {
    /// What the patch makes of `live`.
    pub(crate) fn propose(
        &self,
        ask: &Ask,
        live: Option<&Object>,
        now: &str,
    ) -> Result<Proposal, StatusError> {
        let required = || live.ok_or_else(|| StatusError::not_found(ask.subject()));
        match self {
            Self::Json(patch) => {
                let mut object = presented(ask, required()?);
                carry_out(patch, &mut object)?;
                patched(ask, object, &[])
            }
            Self::Merge(patch) => {
                let mut object = presented(ask, required()?);
                json_patch::merge(&mut object, &patch.value);
                patched(ask, object, &patch.duplicates)
            }
            Self::Strategic(patch) => {
                let mut object = presented(ask, required()?);
                strategic::merge(&mut object, &patch.value, &ask.resource.kind)?;
                patched(ask, object, &patch.duplicates)
            }
            Self::Apply { applied, force } => {
                if !ask.target.subresource.is_empty() {
                    required()?;
                }
                let shown = live.map(|live| presented(ask, live));
                let writer = writer(ask, now);
                let merged = merge::apply(
                    shape(&ask.resource),
                    shown.as_ref(),
                    applied,
                    &writer,
                    *force,
                );
                let object = merged.map_err(|error| refusal(&error))?;
                Ok(Proposal {
                    object,
                    warnings: Vec::new(),
                    applied: true,
                })
            }
        }
    }
}

/// A patched object goes through the same screen as one that was sent.
fn patched(ask: &Ask, object: Value, duplicates: &[String]) -> Result<Proposal, StatusError> {
    let mut sent = Sent {
        value: object,
        duplicates: duplicates.to_vec(),
    };
    let warnings = screen(ask, &mut sent, unpatched)?;
    Ok(Proposal {
        object: sent.value,
        warnings,
        applied: false,
    })
}

fn refusal(error: &ApplyError) -> StatusError {
    match error {
        ApplyError::BadRequest(message) => StatusError::bad_request(message.as_str()),
        ApplyError::Untyped(message) => StatusError::unexplained(message.as_str()),
        ApplyError::Conflicts(_) => {
            let refused = StatusError::apply_conflict(error.to_string());
            error.causes().iter().fold(refused, |refused, cause| {
                let text = |field: &str| cause[field].as_str().unwrap_or_default();
                refused.cause(text("reason"), text("message").to_owned(), text("field"))
            })
        }
    }
}
