//! The four kinds of patches.

use json_patch::Patch as JsonPatch;
use serde_json::Value;

use super::{
    decode::{self, media_type, screen, undecoded, unpatched},
    serve::Ask,
    status::StatusError,
    store::Object,
    strategic,
    write::{Proposal, presented, shape, writer},
};
use crate::merge::{self, ApplyError};

/// Operations in one JSON patch, as in a real server.
const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// A patch as it came.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(JsonPatch),
    Merge(Value),
    Strategic(Value),
    Apply {
        applied: Value,
        warnings: Vec<String>,
        force: bool,
    },
}

/// Reads the patch of a request.
pub(crate) fn parse(ask: &Ask) -> Result<Patch, StatusError> {
    let media_type = media_type(&ask.content_type);
    if media_type != "application/apply-patch+yaml" && ask.query.maybe_flag("force").is_some() {
        return Err(StatusError::invalid_options(
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for \
             non-apply patch",
        ));
    }
    match media_type {
        "application/json-patch+json" => json_patch(ask),
        "application/merge-patch+json" => merge_patch(ask),
        "application/strategic-merge-patch+json" if !ask.resource.is_custom() => {
            Ok(Patch::Strategic(decode::json(ask)?))
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

fn json_patch(ask: &Ask) -> Result<Patch, StatusError> {
    let patch: JsonPatch = serde_json::from_value(decode::json(ask)?)
        .map_err(|error| StatusError::bad_request(format!("error decoding patch: {error}")))?;
    if patch.0.len() > JSON_PATCH_OPERATIONS_MAX {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
            patch.0.len()
        );
        return Err(StatusError::too_many_operations(message));
    }
    Ok(Patch::Json(patch))
}

fn merge_patch(ask: &Ask) -> Result<Patch, StatusError> {
    let patch = decode::json(ask)?;
    let found = match &patch {
        Value::Object(_) => return Ok(Patch::Merge(patch)),
        // Go decodes null into an empty map, and trips over it later.
        Value::Null => return Err(StatusError::bad_request("Invalid JSON Patch")),
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
    };
    Err(StatusError::bad_request(format!(
        "error decoding patch: json: cannot unmarshal {found} into Go value of type \
         map[string]interface {{}}"
    )))
}

fn apply_patch(ask: &Ask) -> Result<Patch, StatusError> {
    if ask.query.text("fieldManager").is_empty() {
        return Err(StatusError::invalid_options(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ));
    }
    let mut applied = decode::yaml(ask)?;
    let warnings = screen(ask, &mut applied, |_, why| undecoded(&ask.resource, why))?;
    Ok(Patch::Apply {
        applied,
        warnings,
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
                json_patch::patch(&mut object, patch).map_err(|_| StatusError::unprocessable())?;
                patched(ask, object)
            }
            Self::Merge(patch) => {
                let mut object = presented(ask, required()?);
                json_patch::merge(&mut object, patch);
                patched(ask, object)
            }
            Self::Strategic(patch) => {
                let mut object = presented(ask, required()?);
                strategic::merge(&mut object, patch, &ask.resource.kind)?;
                patched(ask, object)
            }
            Self::Apply {
                applied,
                warnings,
                force,
            } => {
                let shown = live.map(|live| presented(ask, live));
                let writer = writer(ask, now);
                let merged = merge::apply(
                    shape(&ask.resource),
                    shown.as_ref(),
                    applied,
                    &writer,
                    *force,
                );
                let object = merged.map_err(|error| refusal(ask, &error))?;
                Ok(Proposal {
                    object,
                    warnings: warnings.clone(),
                    applied: true,
                })
            }
        }
    }
}

/// A patched object goes through the same screen as one that was sent.
fn patched(ask: &Ask, mut object: Value) -> Result<Proposal, StatusError> {
    let warnings = screen(ask, &mut object, unpatched)?;
    Ok(Proposal {
        object,
        warnings,
        applied: false,
    })
}

fn refusal(ask: &Ask, error: &ApplyError) -> StatusError {
    match error {
        ApplyError::BadRequest(message) => StatusError::bad_request(message.as_str()),
        ApplyError::Untyped(message) => StatusError::unexplained(message.as_str()),
        ApplyError::Conflicts(_) => {
            let refused = StatusError::apply_conflict(ask.subject(), error.to_string());
            error.causes().iter().fold(refused, |refused, cause| {
                let text = |field: &str| cause[field].as_str().unwrap_or_default();
                refused.cause(text("reason"), text("message").to_owned(), text("field"))
            })
        }
    }
}
