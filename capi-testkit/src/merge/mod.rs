//! Field ownership and server-side apply.
//!
//! Every write goes through one of two functions, which keep `metadata.managedFields` as a real API
//! server keeps them: [`update`] for create, update, and patches other than apply; [`apply`] for
//! apply patches. Both are pure: they take the stored object and return the one to store.
//!
//! What the lists and maps of a kind mean for merging comes from its [`Shape`].
//!
//! ```
//! use capi_testkit::merge::{self, Shape, Writer};
//! use serde_json::json;
//!
//! let shape = Shape::BuiltIn { group: "", kind: "ConfigMap" };
//! let writer = |manager| Writer {
//!     manager,
//!     api_version: "v1",
//!     subresource: "",
//!     resets: &[],
//!     now: "2026-01-02T03:04:05Z",
//! };
//! let applied = |data| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
//!
//! let first = merge::apply(shape, None, &applied(json!({"a": "1"})), &writer("one"), false)?;
//! let refused = merge::apply(shape, Some(&first), &applied(json!({"a": "2"})), &writer("two"), false);
//! assert_eq!(
//!     refused.unwrap_err().to_string(),
//!     r#"Apply failed with 1 conflict: conflict with "one": .data.a"#,
//! );
//! # Ok::<(), merge::ApplyError>(())
//! ```

mod apply;
mod builtin;
mod check;
mod combine;
mod compare;
mod element;
mod field_set;
mod owners;
#[cfg(test)]
mod properties;
mod shape;

use std::sync::LazyLock;

use serde_json::{Value, json};

pub use self::shape::Shape;
pub(crate) use self::shape::go_type;
use self::{
    compare::{Changes, compare},
    field_set::FieldSet,
    owners::{Identity, Operation, Owner, Owners},
};

/// Fields that nobody owns: an object's identity, and what the server alone writes.
static UNOWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::from_fields_v1(json!({
        "f:apiVersion": {},
        "f:kind": {},
        "f:metadata": {
            ".": {},
            "f:clusterName": {},
            "f:creationTimestamp": {},
            "f:generation": {},
            "f:managedFields": {},
            "f:name": {},
            "f:namespace": {},
            "f:resourceVersion": {},
            "f:selfLink": {},
            "f:uid": {},
        },
    }))
});

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager: the query parameter, or the user agent up to its first slash.
    pub manager: &'a str,
    /// The `apiVersion` in which the request speaks.
    pub api_version: &'a str,
    /// The subresource written to, such as `status`; empty for the main endpoint.
    pub subresource: &'a str,
    /// Top-level fields that the endpoint takes no change to, and that the writer therefore does not
    /// come to own: `status` on the main endpoint of a kind with a status subresource, see
    /// [`STATUS_RESETS`] for that subresource.
    pub resets: &'a [&'a str],
    /// The time of the write, RFC 3339 in UTC with seconds: `2026-01-02T03:04:05Z`.
    pub now: &'a str,
}

/// What the `status` endpoint takes no change to.
pub const STATUS_RESETS: &[&str] = &["apiVersion", "kind", "metadata", "spec"];

/// The subresource whose writes leave no time: their owners are translated to those of the object.
const SCALE: &str = "scale";

/// One field that an apply would take from another manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as messages name it, such as `"kubectl" using v1`.
    pub manager: String,
    /// The field, such as `.spec.replicas`.
    pub field: String,
    path: Vec<String>,
}

/// Why an apply is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Other managers own fields that the apply would change: 409, reason `Conflict`.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The request is not one to apply: 400, reason `BadRequest`.
    #[error("{0}")]
    BadRequest(String),
    /// The object does not fit its kind: a field that is not in the schema, a wrong type, a repeated
    /// or missing key of a list. Real servers answer this with 500 and no reason.
    #[error("{0}")]
    Untyped(String),
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
            Self::BadRequest(_) | Self::Untyped(_) => Vec::new(),
        }
    }
}

/// The object to store for a create, update or patch that wants `new` in place of `live`.
///
/// `live` is `None` on create. `new` is complete, after defaults and after the endpoint's own rules
/// (status reset on the main endpoint, everything but status reset on `status`). Its
/// `managedFields`, if set and if the request is not for a subresource, replace the stored ones, as
/// the API promises: an empty list forgets all owners. An update that changes nothing leaves owners
/// and times alone.
#[must_use]
pub fn update(
    shape: Shape<'_>,
    live: Option<&Value>,
    mut new: Value,
    writer: &Writer<'_>,
) -> Value {
    let sent = take_managed_fields(&mut new);
    let mut owners = owners_before(live, sent, writer.subresource);
    if owners.is_empty() && live.is_some() {
        // An object whose owners are not known stays so until somebody applies.
        return new;
    }
    let empty = json!({"apiVersion": new["apiVersion"], "kind": new["kind"]});
    // A list whose items have no identity cannot be tracked; the server then forgets all owners.
    let Ok(changes) = compare(shape.root(), live.unwrap_or(&empty), &new) else {
        return new;
    };
    if !changes.is_empty() {
        track(&mut owners, changes, writer);
        owners.cap();
    }
    let entries = owners.encode();
    if !entries.is_null() {
        new["metadata"]["managedFields"] = entries;
    }
    new
}

/// The object to store for an apply patch.
///
/// `applied` is the patch as it came, `live` the stored object, or `None` if there is none. The
/// result is the merged object before defaults and before the endpoint's rules. If it equals `live`,
/// nothing is to be written.
///
/// # Errors
///
/// [`ApplyError::Conflicts`] without `force`; [`ApplyError::BadRequest`] for a wrong version or an
/// object with `managedFields`; [`ApplyError::Untyped`] for one that does not fit its kind.
pub fn apply(
    shape: Shape<'_>,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    apply::apply(shape, live, applied, writer, force)
}

/// The owners that a write starts from.
fn owners_before(live: Option<&Value>, sent: Value, subresource: &str) -> Owners {
    let stored = || {
        let entries = live.map(|live| live["metadata"]["managedFields"].clone());
        Owners::decode(entries.unwrap_or_default()).unwrap_or_default()
    };
    if !subresource.is_empty() {
        return stored();
    }
    if owners::is_reset(&sent) {
        return Owners::default();
    }
    // Clients that do not know the field must not delete it.
    match Owners::decode(sent) {
        Some(owners) if !owners.is_empty() => owners,
        Some(_) | None => stored(),
    }
}

/// Gives the writer what it changed, and takes that, and what it removed, from everybody else.
fn track(owners: &mut Owners, mut changes: Changes, writer: &Writer<'_>) {
    changes.drop_fields(writer.resets);
    owners.take_fields(&changes.removed);
    let written = changes.into_written();
    owners.take_fields(&written);
    let mut fields = stripped(&written);
    if fields.is_empty() {
        return;
    }
    let identity = Identity::of(writer, Operation::Update);
    if let Some(previous) = owners.take(&identity) {
        fields.union(&previous.fields);
    }
    owners.put(Owner {
        identity,
        api_version: writer.api_version.to_owned(),
        time: (writer.subresource != SCALE).then(|| writer.now.to_owned()),
        fields,
    });
}

fn stripped(fields: &FieldSet) -> FieldSet {
    fields.difference(&UNOWNED)
}

fn take_managed_fields(object: &mut Value) -> Value {
    object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|metadata| metadata.remove("managedFields"))
        .unwrap_or_default()
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.manager, only.field
        );
    }
    let mut lines = Vec::new();
    let mut current = None;
    for conflict in conflicts {
        if current != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            current = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}
