//! CEL rules of `x-kubernetes-validations`: compilation and evaluation.

use std::sync::{Arc, LazyLock};

use kube_cel::{
    KubeCelExt,
    cel::{Context, ExecutionError, Program, Value as CelValue, objects::OptionalValue},
};
use serde_json::Value;

use super::{
    FieldError, FieldErrorKind, SchemaError, cel_value,
    correlate::Correlated,
    field::Path,
    node::{Additional, Kind, Node},
};

/// Longest message that a `messageExpression` may give, in bytes; the server's limit.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// The functions of Kubernetes CEL. Each evaluation gets a scope of its own on top, since filling a
/// context costs far more than running a rule.
static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    text: String,
    program: Program,
    message: String,
    message_program: Option<Program>,
    kind: FieldErrorKind,
    /// Path below the node of the rule, without the leading dot.
    field_path: Option<String>,
    /// Whether the rule speaks of `oldSelf`.
    transition: bool,
    optional_old_self: bool,
}

impl Rule {
    pub(crate) fn compile_all(rules: &Value, path: &str) -> Result<Vec<Self>, SchemaError> {
        let rules = rules.as_array().map_or(&[][..], Vec::as_slice);
        let rule = |(index, rule)| {
            Self::compile(rule, &format!("{path}.x-kubernetes-validations[{index}]"))
        };
        rules.iter().enumerate().map(rule).collect()
    }

    fn compile(rule: &Value, path: &str) -> Result<Self, SchemaError> {
        let text = rule["rule"].as_str().unwrap_or_default().trim();
        if text.is_empty() {
            return Err(SchemaError::required(
                &format!("{path}.rule"),
                "rule is not specified",
            ));
        }
        let program = compile_program(text, &format!("{path}.rule"))?;
        let message_program = match rule["messageExpression"].as_str() {
            Some(expression) => Some(compile_program(
                expression,
                &format!("{path}.messageExpression"),
            )?),
            None => None,
        };
        let kind = match rule["reason"].as_str() {
            None | Some("FieldValueInvalid") => FieldErrorKind::Invalid,
            Some("FieldValueForbidden") => FieldErrorKind::Forbidden,
            Some("FieldValueRequired") => FieldErrorKind::Required,
            Some("FieldValueDuplicate") => FieldErrorKind::Duplicate,
            Some(other) => {
                return Err(SchemaError::invalid(
                    &format!("{path}.reason"),
                    &format!("{other:?} is not a reason for a rule"),
                ));
            }
        };
        Ok(Self {
            text: text.to_owned(),
            transition: program.references().has_variable("oldSelf"),
            program,
            message: rule["message"]
                .as_str()
                .unwrap_or_default()
                .trim()
                .to_owned(),
            message_program,
            kind,
            field_path: rule["fieldPath"].as_str().map(normalised),
            optional_old_self: rule["optionalOldSelf"] == true,
        })
    }

    /// The rule as errors name it.
    fn name(&self) -> &str {
        if self.message.is_empty() {
            &self.text
        } else {
            &self.message
        }
    }

    fn evaluate(&self, bound: &Bound<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
        let scope = bound.scope(self);
        let kind_name = type_name(bound.node.kind);
        match self.program.execute(&scope) {
            Ok(CelValue::Bool(true)) => {}
            Ok(CelValue::Bool(false)) => errors.push(self.failure(bound, &scope, path)),
            Ok(_) => errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                path.or_nil(),
                Value::from(kind_name),
                format!("rule did not evaluate to a boolean: {}", self.name()),
            )),
            Err(error) => errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                path.or_nil(),
                Value::from(kind_name),
                execution_detail(&error, self.name()),
            )),
        }
    }

    fn failure(&self, bound: &Bound<'_>, scope: &Context<'_>, path: &Path<'_>) -> FieldError {
        let detail = self.expressed_message(scope).unwrap_or_else(|| {
            if self.message.is_empty() {
                format!("failed rule: {}", self.text)
            } else {
                self.message.clone()
            }
        });
        let value = match bound.node.kind {
            Kind::Object | Kind::Array => None,
            Kind::Any
            | Kind::String
            | Kind::Integer
            | Kind::Number
            | Kind::Boolean
            | Kind::IntOrString => Some(bound.value.clone()),
        };
        let field = match &self.field_path {
            Some(below) => Path::Field(path, below).to_string(),
            None => path.or_nil(),
        };
        // The server drops the message of a duplicate.
        let detail = if self.kind == FieldErrorKind::Duplicate {
            String::new()
        } else {
            detail
        };
        FieldError::new(self.kind, field, value, detail)
    }

    /// What the message expression says, if it gives one usable line.
    fn expressed_message(&self, scope: &Context<'_>) -> Option<String> {
        let program = self.message_program.as_ref()?;
        let Ok(CelValue::String(text)) = program.execute(scope) else {
            return None;
        };
        let text = text.trim();
        let usable = !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
        usable.then(|| text.to_owned())
    }
}

/// The variables of the rules of one node, converted when the first rule wants them.
struct Bound<'a> {
    node: &'a Node,
    value: &'a Value,
    old: Option<&'a Value>,
    root: bool,
}

impl Bound<'_> {
    fn scope(&self, rule: &Rule) -> Context<'static> {
        let mut scope = FUNCTIONS.new_inner_scope();
        scope.add_variable_from_value("self", cel_value::of(self.value, self.node, self.root));
        if rule.transition {
            let old = self.old.map(|old| cel_value::of(old, self.node, self.root));
            match (rule.optional_old_self, old) {
                (false, Some(old)) => scope.add_variable_from_value("oldSelf", old),
                // A rule that needs the old value is not evaluated without one.
                (false, None) => {}
                (true, old) => {
                    let optional = old.map_or_else(OptionalValue::none, OptionalValue::of);
                    scope.add_variable_from_value("oldSelf", CelValue::Opaque(Arc::new(optional)));
                }
            }
        }
        scope
    }
}

/// What an evaluation may be forgiven by: the nearest value around it that has a stored counterpart.
#[derive(Clone, Copy)]
struct Standing {
    /// Whether this value, or one around it, is as it was stored.
    unchanged: bool,
}

/// Runs all rules on `new`.
pub(crate) fn evaluate(
    root: &Node,
    new: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let standing = Standing {
        unchanged: old == Some(new),
    };
    evaluate_node(root, new, old, standing, &Path::Root, errors);
}

fn evaluate_node(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    standing: Standing,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if !node.rules_within || value.is_null() {
        return;
    }
    evaluate_rules(node, node, value, old, standing, path, errors);
    for branch in &node.checks.all_of {
        evaluate_rules(branch, node, value, old, standing, path, errors);
    }
    let below = |old: Option<&Value>, value: &Value| Standing {
        unchanged: standing.unchanged || old == Some(value),
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let old = old.and_then(|old| old.get(key));
                let (child, path) = match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => (child, Path::Field(path, key)),
                    (None, Additional::Of(child)) => (child.as_ref(), Path::Key(path, key)),
                    (None, Additional::None | Additional::Any) => continue,
                };
                if child.rules_within {
                    evaluate_node(child, value, old, below(old, value), &path, errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = node.items.as_deref().filter(|child| child.rules_within) else {
                return;
            };
            let correlated = Correlated::new(node, old);
            for (index, item) in items.iter().enumerate() {
                let old = correlated.of(index, item);
                let path = Path::Index(path, index);
                evaluate_node(child, item, old, below(old, item), &path, errors);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Runs the rules that stand at `stated` on a value described by `node`.
fn evaluate_rules(
    stated: &Node,
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    standing: Standing,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let old = old.filter(|old| !old.is_null());
    let bound = Bound {
        node,
        value,
        old,
        root: matches!(path, Path::Root),
    };
    for rule in &stated.rules {
        let applies = if rule.transition {
            old.is_some() || rule.optional_old_self
        } else {
            // What was stored so before is forgiven, so there is no need to ask.
            !standing.unchanged
        };
        if applies {
            rule.evaluate(&bound, path, errors);
        }
    }
}

fn execution_detail(error: &ExecutionError, rule: &str) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key} evaluating rule: {rule}"),
        ExecutionError::NoSuchOverload => format!(
            "'no such overload': call arguments did not match a supported operator, function or macro signature for rule: {rule}"
        ),
        ExecutionError::DivisionByZero(_) => format!("division by zero evaluating rule: {rule}"),
        // cel's enum is open; what is not named above prints its own words.
        other => format!("{other} evaluating rule: {rule}"),
    }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Any | Kind::IntOrString => "",
        Kind::Object => "object",
        Kind::Array => "array",
        Kind::String => "string",
        Kind::Integer => "integer",
        Kind::Number => "number",
        Kind::Boolean => "boolean",
    }
}

/// `.spec['a'].b` as the server prints it: `spec.a.b`.
fn normalised(field_path: &str) -> String {
    field_path
        .replace("['", ".")
        .replace("']", "")
        .trim_start_matches('.')
        .to_owned()
}

fn compile_program(text: &str, path: &str) -> Result<Program, SchemaError> {
    Program::compile(text).map_err(|source| SchemaError::Rule {
        path: path.to_owned(),
        source: Box::new(source),
    })
}
