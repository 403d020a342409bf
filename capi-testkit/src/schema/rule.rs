//! CEL rules of `x-kubernetes-validations`.

use kube_cel::cel::Program;
use serde_json::Value;

use super::{FieldErrorKind, SchemaError};

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) text: String,
    pub(crate) program: Program,
    pub(crate) message: String,
    pub(crate) message_program: Option<Program>,
    pub(crate) kind: FieldErrorKind,
    /// Path below the node of the rule, such as `.spec.name`.
    pub(crate) field_path: Option<String>,
    /// Whether the rule speaks of `oldSelf`.
    pub(crate) transition: bool,
    pub(crate) optional_old_self: bool,
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
            field_path: rule["fieldPath"].as_str().map(str::to_owned),
            optional_old_self: rule["optionalOldSelf"] == true,
        })
    }
}

fn compile_program(text: &str, path: &str) -> Result<Program, SchemaError> {
    Program::compile(text).map_err(|source| SchemaError::Rule {
        path: path.to_owned(),
        source: Box::new(source),
    })
}
