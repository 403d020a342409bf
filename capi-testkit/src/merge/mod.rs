//! Field ownership and server-side apply.
//!
//! Every write goes through one of two functions, which keep `metadata.managedFields` as a real API
//! server keeps them: [`update`] for create, update, patches other than apply; [`apply`] for apply
//! patches. Both are pure: they take the stored object and return the one to store.
//!
//! What the lists and maps of a kind mean for merging comes from its [`Shape`].

use serde_json::{Value, json};

use crate::schema::Schema;

/// What the lists and maps of a kind mean: which merge by key, which are sets, which are one value.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// A custom resource, by its schema.
    Structural(&'a Schema),
    /// A kind that is compiled into real servers.
    BuiltIn {
        /// API group, empty for core.
        group: &'a str,
        /// Kind, such as `Pod`.
        kind: &'a str,
    },
}

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager: the query parameter, or the user agent up to its first slash.
    pub manager: &'a str,
    /// The `apiVersion` in which the request speaks.
    pub api_version: &'a str,
    /// The subresource written to, such as `status`; empty for the main endpoint.
    pub subresource: &'a str,
    /// The time of the write, RFC 3339 in UTC with seconds: `2026-01-02T03:04:05Z`.
    pub now: &'a str,
}

/// One field that an apply would take from another manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as the message names it: `"kubectl" using v1` with its details.
    pub manager: String,
    /// The field, such as `.spec.replicas`.
    pub field: String,
}

/// Why an apply is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Other managers own fields that the apply would change: 409, reason `Conflict`.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied object is not one that can be applied: 400, reason `BadRequest`.
    #[error("{0}")]
    BadRequest(String),
}

impl ApplyError {
    /// The causes for the `details` of the Status.
    #[must_use]
    pub fn causes(&self) -> Vec<Value> {
        match self {
            Self::Conflicts(conflicts) => conflicts
                .iter()
                .map(|conflict| {
                    json!({
                        "reason": "FieldManagerConflict",
                        "message": format!("conflict with {}", conflict.manager),
                        "field": conflict.field,
                    })
                })
                .collect(),
            Self::BadRequest(_) => Vec::new(),
        }
    }
}

/// The object to store for a create, update or patch that wants `new` in place of `live`.
///
/// `live` is `None` on create. `new` is complete, after defaults and after the endpoint's own rules
/// (status reset on the main endpoint, everything but status reset on `status`), so that what the
/// endpoint ignored is not owned by the writer. Its `managedFields`, if set, replace the stored ones,
/// as the API promises; an update that changes nothing leaves them alone.
#[must_use]
pub fn update(
    _shape: Shape<'_>,
    live: Option<&Value>,
    mut new: Value,
    _writer: &Writer<'_>,
) -> Value {
    if let Some(fields) = live.and_then(|live| live["metadata"].get("managedFields")) {
        new["metadata"]["managedFields"] = fields.clone();
    }
    new
}

/// The object to store for an apply patch.
///
/// `applied` is the patch as it came, pruned. The result is the merged object before defaults and
/// before the endpoint's rules; if it equals `live`, nothing is to be written.
///
/// # Errors
///
/// [`ApplyError::Conflicts`] without `force`; [`ApplyError::BadRequest`] for an object with
/// `managedFields`, or with lists that cannot be merged.
pub fn apply(
    _shape: Shape<'_>,
    live: Option<&Value>,
    applied: &Value,
    _writer: &Writer<'_>,
    _force: bool,
) -> Result<Value, ApplyError> {
    if applied["metadata"]
        .get("managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApplyError::BadRequest(
            "metadata.managedFields must be nil".into(),
        ));
    }
    let mut merged = live.cloned().unwrap_or_else(|| json!({}));
    json_patch::merge(&mut merged, applied);
    Ok(merged)
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    format!("Apply failed with {} conflicts", conflicts.len())
}
