//! Structural schemas: what `openAPIV3Schema` of a CustomResourceDefinition does to an object.
//!
//! A schema is compiled once, from the JSON of the definition, and then asked many times. The order
//! in which a server asks it is that of a real API server:
//!
//! 1. [`Schema::prune`] right after decoding, which also says what a strict client must be told;
//! 2. [`Schema::fill_defaults`];
//! 3. the rules of the endpoint (status, generation) and admission;
//! 4. [`Schema::validate`], with the stored object on an update.
//!
//! Errors are apimachinery's, word for word: [`FieldError`] prints as
//! `spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0`.

mod cel_value;
mod correlate;
mod default;
mod embedded;
mod field;
mod format;
mod list_type;
mod nearest;
mod node;
mod pattern;
mod prune;
mod rule;
mod validate;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use serde_json::Value;

pub(crate) use self::field::Path;
pub use self::field::{FieldError, FieldErrorKind, invalid_message};
pub(crate) use self::node::{Additional, Kind, ListType, Node};

/// A compiled structural schema of one version of a custom resource.
///
/// ```
/// use capi_testkit::schema::Schema;
/// use serde_json::json;
///
/// let schema = Schema::compile(&json!({
///     "type": "object",
///     "properties": {"spec": {
///         "type": "object",
///         "required": ["size"],
///         "properties": {"size": {"type": "integer"}, "kind": {"type": "string", "default": "small"}},
///     }},
/// }))?;
/// let mut object = json!({"spec": {"size": "big", "colour": "red"}});
/// assert_eq!(schema.prune(&mut object), ["spec.colour"]);
/// schema.fill_defaults(&mut object);
/// assert_eq!(object, json!({"spec": {"size": "big", "kind": "small"}}));
/// let errors = schema.validate(&object, None);
/// assert_eq!(
///     errors[0].to_string(),
///     r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
/// );
/// # Ok::<(), capi_testkit::schema::SchemaError>(())
/// ```
///
/// Cloning is cheap: clones share what was compiled.
#[derive(Debug, Clone)]
pub struct Schema {
    root: Arc<Node>,
}

/// Most schemas that are remembered once compiled: the published ones and those of a few providers.
/// Compiling all published ones takes tens of milliseconds, which a process with a server per test
/// would otherwise pay again and again.
const REMEMBERED_MAX: usize = 64;

/// Schemas compiled so far, by their source.
static REMEMBERED: LazyLock<Mutex<HashMap<Value, Schema>>> = LazyLock::new(Mutex::default);

impl Schema {
    /// Compiles `openAPIV3Schema`, patterns and CEL rules included.
    ///
    /// # Errors
    ///
    /// What a real server refuses when the definition is created, as far as it would matter here: a
    /// missing or unknown type, a list-type map without keys, a pattern or rule that does not compile.
    pub fn compile(open_api_v3_schema: &Value) -> Result<Self, SchemaError> {
        if let Some(known) = REMEMBERED.lock().get(open_api_v3_schema) {
            return Ok(known.clone());
        }
        let root = Arc::new(node::compile(open_api_v3_schema, "openAPIV3Schema")?);
        let schema = Self { root };
        let mut remembered = REMEMBERED.lock();
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(open_api_v3_schema.clone(), schema.clone());
        }
        Ok(schema)
    }

    /// Removes fields that the schema does not specify, and nulls that mean "not set".
    ///
    /// Returns the paths of the removed fields as strict decoding names them, for
    /// [`strict_decoding_error`] or for warnings. `apiVersion`, `kind` and known metadata stay.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::prune(&self.root, object)
    }

    /// The paths that [`Schema::prune`] would remove.
    #[must_use]
    pub fn unknown_fields(&self, object: &Value) -> Vec<String> {
        self.prune(&mut object.clone())
    }

    /// Sets defaults where a field is absent, and where it is null and may not be.
    pub fn fill_defaults(&self, object: &mut Value) {
        default::fill(object, &self.root);
    }

    /// Everything wrong with `new`; empty if it may be stored.
    ///
    /// With `old`, the stored object, this is an update: CEL transition rules are run, and values
    /// that did not change are not held against the writer, as in real servers since 1.30.
    /// Both must be pruned and defaulted.
    #[must_use]
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::validate(&self.root, new, old, false)
    }

    /// As [`Schema::validate`], beside checks that found errors already: with `blocked` they are such
    /// that CEL rules are not run.
    pub(crate) fn validate_beside(
        &self,
        new: &Value,
        old: Option<&Value>,
        blocked: bool,
    ) -> Vec<FieldError> {
        validate::validate(&self.root, new, old, blocked)
    }

    /// The known field that an unknown one, named as by [`Schema::prune`], was probably meant to be.
    #[must_use]
    pub fn nearest_field(&self, unknown: &str) -> Option<&str> {
        nearest::sibling(&self.root, unknown)
    }

    pub(crate) fn root(&self) -> &Node {
        &self.root
    }
}

/// The text in which a server reports fields that strict decoding refuses.
///
/// The 400 Status of the real server reads `Machine in version "v1beta2" cannot be handled as a
/// Machine: ` and then this.
///
/// ```
/// # use capi_testkit::schema::strict_decoding_error;
/// assert_eq!(
///     strict_decoding_error(&["spec.foo".into(), "spec.bar".into()]),
///     r#"strict decoding error: unknown field "spec.foo", unknown field "spec.bar""#,
/// );
/// ```
#[must_use]
pub fn strict_decoding_error(unknown_fields: &[String]) -> String {
    let fields: Vec<String> = unknown_fields
        .iter()
        .map(|path| format!("unknown field {path:?}"))
        .collect();
    format!("strict decoding error: {}", fields.join(", "))
}

/// Why a schema cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A keyword has a value that it cannot have.
    #[error("{path}: invalid value: {detail}")]
    Invalid {
        /// Place within the definition.
        path: String,
        /// What would be right.
        detail: String,
    },
    /// A keyword is missing.
    #[error("{path}: required value: {detail}")]
    Required {
        /// Place within the definition.
        path: String,
        /// What would be right.
        detail: String,
    },
    /// Nested deeper than walks are allowed to recurse.
    #[error("{path}: nested deeper than {limit} levels")]
    TooDeep {
        /// Place within the definition.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// A pattern that is not a regular expression.
    #[error("{path}: compile pattern {pattern:?}")]
    Pattern {
        /// Place within the definition.
        path: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: regex::Error,
    },
    /// A CEL rule or message expression that does not parse.
    #[error("{path}: compile CEL expression")]
    Rule {
        /// Place within the definition.
        path: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SchemaError {
    fn invalid(path: &str, detail: &str) -> Self {
        Self::Invalid {
            path: path.to_owned(),
            detail: detail.to_owned(),
        }
    }

    fn required(path: &str, detail: &str) -> Self {
        Self::Required {
            path: path.to_owned(),
            detail: detail.to_owned(),
        }
    }
}
