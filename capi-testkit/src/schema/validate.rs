//! Validation of values against the types and value validations of a schema.
//!
//! The order of checks, the texts and the choice among failed alternatives are those of the server's
//! OpenAPI validator, because clients print them and people search for them.

use serde_json::{Map, Number, Value};

use super::{
    FieldError, FieldErrorKind,
    correlate::Correlated,
    embedded,
    field::Path,
    list_type,
    node::{Additional, Checks, Kind, Node},
    rule,
};

/// All errors of `new`: schema first, then list types, then CEL rules unless something forbids them.
pub(crate) fn validate(
    root: &Node,
    new: &Value,
    old: Option<&Value>,
    blocked: bool,
) -> Vec<FieldError> {
    let mut errors = check(root, new, old, &Path::Root).errors;
    embedded::check(root, new, &Path::Root, &mut errors);
    let mut repeated = Vec::new();
    list_type::check(root, new, &Path::Root, &mut repeated);
    if !repeated.is_empty() && !old.is_some_and(|old| has_repeated(root, old)) {
        errors.append(&mut repeated);
    }
    if !root.rules_within {
        return errors;
    }
    if blocked || errors.iter().any(|error| error.kind.blocks_rules()) {
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            Path::Root.or_nil(),
            Value::Null,
            "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
        ));
        return errors;
    }
    rule::evaluate(root, new, old, &mut errors);
    errors
}

/// Whether the stored object repeats items already, which forgives any repetition in the new one.
fn has_repeated(root: &Node, old: &Value) -> bool {
    let mut stored = Vec::new();
    list_type::check(root, old, &Path::Root, &mut stored);
    !stored.is_empty()
}

/// The errors of a value, and how many checks it passed, which tells near misses among alternatives.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    matches: u32,
}

impl Outcome {
    fn error(&mut self, kind: FieldErrorKind, path: &Path<'_>, value: Value, detail: String) {
        self.push(FieldError::new(kind, path.or_nil(), value, detail));
    }

    fn push(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Outcome) {
        self.matches += other.matches;
        for error in other.errors {
            self.push(error);
        }
    }
}

/// Checks a value that may stand as it is if it stood so before.
fn check(node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) -> Outcome {
    // An unchanged value would have its errors forgiven, so there is no need to look for them.
    if old == Some(value) {
        return Outcome::default();
    }
    run(node, value, old, path)
}

/// Checks a value without forgiving; what is below it may still be forgiven.
fn run(node: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    check_type(node, value, path, &mut outcome);
    let checks = &node.checks;
    if value.is_null() {
        check_enumeration(checks, value, path, &mut outcome);
        return outcome;
    }
    check_alternatives(checks, value, old, path, &mut outcome);
    match value {
        Value::String(text) => check_string(checks, text, path, &mut outcome),
        Value::Number(number) => {
            if node.kind == Kind::Integer && !is_integer(value) {
                let text =
                    format!("Checked value must be of type integer (default format) in {path}");
                push_composite(&mut outcome, text);
            }
            check_number(checks, number, path, &mut outcome);
        }
        Value::Array(items) => check_array(node, items, old, path, &mut outcome),
        Value::Null | Value::Bool(_) | Value::Object(_) => {}
    }
    check_enumeration(checks, value, path, &mut outcome);
    if let Value::Object(fields) = value {
        check_object(node, fields, old, path, &mut outcome);
    }
    outcome.matches += 1;
    outcome
}

fn check_type(node: &Node, value: &Value, path: &Path<'_>, outcome: &mut Outcome) {
    let (expected, fits) = match node.kind {
        Kind::Any => return,
        Kind::Object => ("object", value.is_object()),
        Kind::Array => ("array", value.is_array()),
        Kind::String => ("string", value.is_string()),
        Kind::Integer => ("integer", is_integer(value)),
        Kind::Number => ("number", value.is_number()),
        Kind::Boolean => ("boolean", value.is_boolean()),
        Kind::IntOrString => ("integer,string", is_integer(value) || value.is_string()),
    };
    if fits || (node.nullable && value.is_null()) {
        outcome.matches += 2;
        return;
    }
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let detail = format!("{path} in body must be of type {expected}: {actual:?}");
    outcome.error(FieldErrorKind::TypeInvalid, path, actual.into(), detail);
}

/// JSON does not tell 1 from 1.0, and neither does the server.
fn is_integer(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
        }
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            false
        }
    }
}

fn check_alternatives(
    checks: &Checks,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    outcome: &mut Outcome,
) {
    let try_branch = |branch: &Node| run(branch, value, old, path);
    if !checks.any_of.is_empty() {
        let best = best_of(checks.any_of.iter().map(try_branch));
        if best.valid == 0 {
            push_composite(
                outcome,
                format!("{} must validate at least one schema (anyOf)", quoted(path)),
            );
        }
        outcome.merge(best.outcome);
    }
    if !checks.one_of.is_empty() {
        let best = best_of(checks.one_of.iter().map(try_branch));
        if best.valid != 1 {
            let found = match best.valid {
                0 => "Found none valid".to_owned(),
                count => format!("Found {count} valid alternatives"),
            };
            let text = format!(
                "{} must validate one and only one schema (oneOf). {found}",
                quoted(path)
            );
            push_composite(outcome, text);
        }
        outcome.merge(best.outcome);
    }
    if !checks.all_of.is_empty() {
        let mut valid = 0;
        for branch in &checks.all_of {
            let result = try_branch(branch);
            valid += usize::from(result.errors.is_empty());
            outcome.merge(result);
        }
        if valid != checks.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            push_composite(
                outcome,
                format!(
                    "{} must validate all the schemas (allOf){none}",
                    quoted(path)
                ),
            );
        }
    }
    if let Some(not) = &checks.not
        && try_branch(not).errors.is_empty()
    {
        push_composite(
            outcome,
            format!("{} must not validate the schema (not)", quoted(path)),
        );
    }
    outcome.matches += 2;
}

/// The first valid alternative, or the failed one that passed most checks.
struct Best {
    valid: usize,
    outcome: Outcome,
}

fn best_of(branches: impl Iterator<Item = Outcome>) -> Best {
    let mut best = Best {
        valid: 0,
        outcome: Outcome::default(),
    };
    let mut first = true;
    for outcome in branches {
        let valid = outcome.errors.is_empty();
        let better = match (valid, best.valid) {
            (true, 0) => true,
            (false, 0) => first || outcome.matches > best.outcome.matches,
            (true | false, _) => false,
        };
        best.valid += usize::from(valid);
        if better {
            best.outcome = outcome;
        }
        first = false;
    }
    best
}

fn quoted(path: &Path<'_>) -> String {
    format!("{:?}", path.to_string())
}

/// The server reports a failed combination at no field at all.
fn push_composite(outcome: &mut Outcome, text: String) {
    outcome.error(FieldErrorKind::Invalid, &Path::Root, "".into(), text);
}

fn check_string(checks: &Checks, text: &str, path: &Path<'_>, outcome: &mut Outcome) {
    let length = || text.chars().count() as u64;
    if let Some(max) = checks.length_max.filter(|max| length() > *max) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max} {unit}");
        outcome.error(FieldErrorKind::TooLong, path, text.into(), detail);
    } else if let Some(min) = checks.length_min.filter(|min| length() < *min) {
        let detail = format!("{path} in body should be at least {min} chars long");
        outcome.error(FieldErrorKind::Invalid, path, text.into(), detail);
    } else if let Some((pattern, regex)) = &checks.pattern
        && !regex.is_match(text)
    {
        let detail = format!("{path} in body should match '{pattern}'");
        outcome.error(FieldErrorKind::Invalid, path, text.into(), detail);
    }
    outcome.matches += 1;
    if let Some((name, format)) = &checks.format {
        if !format.admits(text) {
            let detail = format!("{path} in body must be of type {name}: {text:?}");
            outcome.error(FieldErrorKind::TypeInvalid, path, text.into(), detail);
        }
        outcome.matches += 1;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "limits of integers are compared as integers"
)]
fn check_number(checks: &Checks, number: &Number, path: &Path<'_>, outcome: &mut Outcome) {
    let integer = number.as_i64();
    let float = number.as_f64().unwrap_or_default();
    let shown = |limit: f64| match integer {
        Some(_) => (limit as i64).to_string(),
        None => limit.to_string(),
    };
    let exceeds = |limit: f64, exclusive: bool, sign: f64| match integer {
        Some(integer) => {
            let distance = i128::from(integer) - i128::from(limit as i64);
            let distance = if sign < 0.0 { -distance } else { distance };
            distance > 0 || (exclusive && distance == 0)
        }
        None => {
            let distance = (float - limit) * sign;
            distance > 0.0 || (exclusive && distance == 0.0)
        }
    };
    let fail = |outcome: &mut Outcome, text: String| {
        let detail = format!("{path} in body should be {text}");
        outcome.error(
            FieldErrorKind::Invalid,
            path,
            Value::Number(number.clone()),
            detail,
        );
    };
    if let Some(factor) = checks.multiple_of {
        if integer.is_some() && factor < 1.0 {
            // The server cuts the factor to an integer for an integer value, and then refuses it.
            let detail = format!("factor MultipleOf declared for {path} must be positive: 0");
            outcome.error(FieldErrorKind::Invalid, path, 0.into(), detail);
        } else if (float / factor).fract() != 0.0 {
            fail(outcome, format!("a multiple of {}", shown(factor)));
        }
    }
    if let Some(min) = checks
        .minimum
        .filter(|min| exceeds(*min, checks.minimum_exclusive, -1.0))
    {
        let or_equal = if checks.minimum_exclusive {
            ""
        } else {
            " or equal to"
        };
        fail(outcome, format!("greater than{or_equal} {}", shown(min)));
    }
    if let Some(max) = checks
        .maximum
        .filter(|max| exceeds(*max, checks.maximum_exclusive, 1.0))
    {
        let or_equal = if checks.maximum_exclusive {
            ""
        } else {
            " or equal to"
        };
        fail(outcome, format!("less than{or_equal} {}", shown(max)));
    }
    outcome.matches += 2;
}

fn check_array(
    node: &Node,
    items: &[Value],
    old: Option<&Value>,
    path: &Path<'_>,
    outcome: &mut Outcome,
) {
    let checks = &node.checks;
    if let Some(child) = node.items.as_deref() {
        let correlated = Correlated::new(node, old);
        for (index, item) in items.iter().enumerate() {
            outcome.merge(check(
                child,
                item,
                correlated.of(index, item),
                &Path::Index(path, index),
            ));
        }
    }
    let size = items.len() as u64;
    if let Some(min) = checks.items_min.filter(|min| size < *min) {
        let detail = format!("{path} in body should have at least {min} items");
        outcome.error(FieldErrorKind::Invalid, path, size.into(), detail);
    }
    if let Some(max) = checks.items_max.filter(|max| size > *max) {
        outcome.error(FieldErrorKind::TooMany, path, size.into(), at_most(max));
    }
    if checks.items_unique
        && items
            .iter()
            .enumerate()
            .any(|(i, item)| items[..i].contains(item))
    {
        let detail = format!("{path} in body shouldn't contain duplicates");
        outcome.error(FieldErrorKind::Invalid, path, "".into(), detail);
    }
    outcome.matches += 2;
}

fn at_most(max: u64) -> String {
    format!(
        "must have at most {max} {}",
        if max == 1 { "item" } else { "items" }
    )
}

fn check_enumeration(checks: &Checks, value: &Value, path: &Path<'_>, outcome: &mut Outcome) {
    if checks.enumeration.is_empty() || checks.enumeration.iter().any(|one| same(one, value)) {
        outcome.matches += 1;
        return;
    }
    let supported: Vec<String> = checks
        .enumeration
        .iter()
        .map(|one| match one {
            Value::String(text) => format!("{text:?}"),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                format!("{:?}", one.to_string())
            }
        })
        .collect();
    let detail = format!("supported values: {}", supported.join(", "));
    outcome.error(FieldErrorKind::NotSupported, path, value.clone(), detail);
}

/// Equality as JSON has it, where 1 is 1.0.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

fn check_object(
    node: &Node,
    fields: &Map<String, Value>,
    old: Option<&Value>,
    path: &Path<'_>,
    outcome: &mut Outcome,
) {
    let checks = &node.checks;
    let size = fields.len() as u64;
    if let Some(min) = checks.properties_min.filter(|min| size < *min) {
        let detail = format!("{path} in body should have at least {min} properties");
        outcome.error(FieldErrorKind::Invalid, path, size.into(), detail);
    }
    if let Some(max) = checks.properties_max.filter(|max| size > *max) {
        outcome.error(FieldErrorKind::TooMany, path, size.into(), at_most(max));
    }
    for (key, value) in fields {
        // A key of a map is printed as a field here; only rules and list types print it in brackets.
        let child = match (node.properties.get(key), &node.additional) {
            (Some(child), _) => child,
            (None, Additional::Of(child)) => child,
            (None, Additional::None | Additional::Any) => continue,
        };
        let old = old.and_then(|old| old.get(key));
        outcome.merge(check(child, value, old, &Path::Field(path, key)));
    }
    for name in &checks.required {
        if !fields.contains_key(name) {
            outcome.push(FieldError::new(
                FieldErrorKind::Required,
                Path::Field(path, name).to_string(),
                None,
                "",
            ));
        }
    }
    outcome.matches += 1;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::schema::Schema;

    #[test]
    fn an_integer_may_be_written_with_a_fraction_of_zero() {
        let schema = Schema::compile(&json!({"type": "integer"})).unwrap();
        assert_eq!(schema.validate(&json!(1.0), None), []);
        // The check of the type says so, and that of the number.
        assert_eq!(schema.validate(&json!(1.5), None).len(), 2);
    }

    #[test]
    fn an_unchanged_object_is_not_looked_at() {
        let schema = Schema::compile(&json!({"type": "string", "maxLength": 1})).unwrap();
        assert_eq!(schema.validate(&json!("long"), Some(&json!("long"))), []);
        assert_eq!(
            schema.validate(&json!("long"), Some(&json!("also"))).len(),
            1
        );
    }
}
