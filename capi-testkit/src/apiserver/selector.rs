//! Label and field selectors.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{kinds::Resource, metadata, status::StatusError};

/// A parsed label selector; all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// The syntax of `labels.Parse`.
    pub(crate) fn parse(text: &str) -> Result<Self, StatusError> {
        let requirements = Parser::new(text).selector();
        let requirements = requirements.map_err(StatusError::bad_request)?;
        Ok(Self { requirements })
    }

    /// The text of a `metav1.LabelSelector` object.
    pub(crate) fn text_of(selector: &Value) -> String {
        let labels = selector["matchLabels"].as_object().into_iter().flatten();
        let mut parts: Vec<String> = labels
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        for expression in selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let key = expression["key"].as_str().unwrap_or_default();
            let values = expression["values"].as_array().into_iter().flatten();
            let values: Vec<_> = values.filter_map(Value::as_str).collect();
            let values = values.join(",");
            parts.push(match expression["operator"].as_str() {
                Some("In") => format!("{key} in ({values})"),
                Some("NotIn") => format!("{key} notin ({values})"),
                Some("DoesNotExist") => format!("!{key}"),
                _ => key.to_owned(),
            });
        }
        parts.join(",")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// A word of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `=`, `==`, `!=`, `!`, `<`, `>`, `(`, `)` or `,`.
    Sign(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Sign(sign) => sign,
            Self::End => "",
        }
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self, Self::Sign(own) if *own == sign)
    }

    /// Between requirements.
    fn ends_requirement(&self) -> bool {
        *self == Self::End || self.is(",")
    }
}

/// Longer signs come first.
const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = rest[sign.len()..].trim_start();
            continue;
        }
        let ends = |character: char| character.is_whitespace() || "=!<>(),".contains(character);
        let (word, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        tokens.push(Token::Word(word.to_owned()));
        rest = after.trim_start();
    }
    tokens
}

/// Reads requirements, and complains as apimachinery does.
struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Parser {
    fn new(text: &str) -> Self {
        Self {
            tokens: tokens(text).into_iter().peekable(),
        }
    }

    fn look(&mut self) -> Token {
        self.tokens.peek().cloned().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token::End)
    }

    fn selector(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        match self.look() {
            Token::End => return Ok(requirements),
            Token::Word(_) => {}
            sign if sign.is("!") => {}
            other => return Err(found(&other, "!, identifier, or 'end of string'")),
        }
        loop {
            let requirement = self.requirement();
            let requirement =
                requirement.map_err(|why| format!("unable to parse requirement: {why}"))?;
            requirements.push(requirement);
            match self.take() {
                Token::End => return Ok(requirements),
                comma if comma.is(",") => {}
                other => return Err(found(&other, "',' or 'end of string'")),
            }
            match self.look() {
                Token::Word(_) => {}
                sign if sign.is("!") => {}
                other => return Err(found(&other, "identifier after ','")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut first = self.take();
        let is_absent = first.is("!");
        if is_absent {
            first = self.take();
        }
        let Token::Word(key) = first else {
            return Err(found(&first, "identifier"));
        };
        if let Some(error) = metadata::key_errors("<nil>", &key).first() {
            return Err(error.to_string());
        }
        let operator = if is_absent {
            Operator::DoesNotExist
        } else if self.look().ends_requirement() {
            Operator::Exists
        } else {
            self.operator(&key)?
        };
        Ok(Requirement { key, operator })
    }

    fn operator(&mut self, key: &str) -> Result<Operator, String> {
        let operator = self.take();
        match operator.text() {
            "in" => Ok(Operator::In(self.values(key)?)),
            "notin" => Ok(Operator::NotIn(self.values(key)?)),
            "=" | "==" => Ok(Operator::In(self.value(key)?)),
            "!=" => Ok(Operator::NotIn(self.value(key)?)),
            ">" => Ok(Operator::GreaterThan(self.bound(key)?)),
            "<" => Ok(Operator::LessThan(self.bound(key)?)),
            _ => Err(found(&operator, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// One value, which may be empty.
    fn value(&mut self, key: &str) -> Result<BTreeSet<String>, String> {
        if self.look().ends_requirement() {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.take() {
            Token::Word(value) => checked(key, [value].into()),
            other => Err(found(&other, "identifier")),
        }
    }

    fn bound(&mut self, key: &str) -> Result<i64, String> {
        let values = self.value(key)?;
        let value = values.first().map(String::as_str).unwrap_or_default();
        value.parse().map_err(|_| {
            let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
            metadata::invalid("values[0]", &value.into(), detail).to_string()
        })
    }

    /// Values in parentheses.
    fn values(&mut self, key: &str) -> Result<BTreeSet<String>, String> {
        let open = self.take();
        if !open.is("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        match self.look() {
            Token::Word(_) => {}
            sign if sign.is(",") || sign.is(")") => {}
            other => return Err(found(&other, "',', ')' or identifier")),
        }
        let mut values = BTreeSet::new();
        // A comma with nothing before it, or nothing behind it, stands for an empty value.
        let mut is_value_due = true;
        loop {
            match self.take() {
                Token::Word(value) if is_value_due => {
                    values.insert(value);
                    is_value_due = false;
                }
                sign if sign.is(",") => {
                    if is_value_due {
                        values.insert(String::new());
                    }
                    is_value_due = true;
                    if self.look().is(")") {
                        values.insert(String::new());
                    }
                }
                sign if sign.is(")") => break,
                other if is_value_due => return Err(found(&other, "',', or identifier")),
                other => return Err(found(&other, "',' or ')'")),
            }
        }
        checked(key, values)
    }
}

fn found(token: &Token, expected: &str) -> String {
    format!("found '{}', expected: {expected}", token.text())
}

/// The values, if labels can have them.
fn checked(key: &str, values: BTreeSet<String>) -> Result<BTreeSet<String>, String> {
    for (index, value) in values.iter().enumerate() {
        if let Some(detail) = metadata::label_value_error(value) {
            let field = format!("values[{index}][{key}]");
            return Err(metadata::invalid(&field, &value.as_str().into(), detail).to_string());
        }
    }
    Ok(values)
}

/// A parsed field selector: paths that must (not) have a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Parses `text`, which may name the paths that this resource can be selected by.
    pub(crate) fn parse(text: &str, resource: &Resource) -> Result<Self, StatusError> {
        Self::parse_for(text, |path| {
            if resource.selects_by(path) {
                Ok(())
            } else if resource.is_custom() || !resource.selectable.is_empty() {
                Err(format!("field label not supported: {path}"))
            } else {
                Err(format!(
                    "{path:?} is not a known field selector: only \"metadata.name\", \
                     \"metadata.namespace\""
                ))
            }
        })
    }

    /// As [`FieldSelector::parse`]; `check` refuses paths.
    pub(crate) fn parse_for(
        text: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Self, StatusError> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (path, value, true)
            } else {
                let message = format!("invalid selector: '{text}'; can't understand '{part}'");
                return Err(StatusError::bad_request(message));
            };
            check(path).map_err(StatusError::bad_request)?;
            terms.push(FieldTerm {
                path: path.to_owned(),
                value: value.to_owned(),
                equal,
            });
        }
        Ok(Self { terms })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `path` must have, if the selector says so.
    pub(crate) fn only(&self, path: &str) -> Option<&str> {
        let term = self
            .terms
            .iter()
            .find(|term| term.equal && term.path == path)?;
        Some(&term.value)
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|term| (field_text(object, &term.path) == term.value) == term.equal)
    }
}

/// The value at a dotted path as text; empty when missing.
fn field_text(object: &Value, path: &str) -> String {
    match path
        .split('.')
        .try_fold(object, |at, segment| at.get(segment))
    {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_match_as_documented() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "3", "a/b": ""}}});
        let table = [
            ("", true),
            ("app=web", true),
            ("app==web,tier=3", true),
            ("app!=web", false),
            ("missing!=web", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("missing notin (x)", true),
            ("a/b", true),
            ("!app", false),
            ("!missing", true),
            ("tier>2,tier<4", true),
            ("tier>3", false),
            ("a/b=", true),
        ];
        for (text, expected) in table {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(&object), expected, "{text}");
        }
        let broken = [
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            (
                "a in (",
                "unable to parse requirement: found '', expected: ',', ')' or identifier",
            ),
            (
                "a in (b c)",
                "unable to parse requirement: found 'c', expected: ',' or ')'",
            ),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "=x",
                "found '=', expected: !, identifier, or 'end of string'",
            ),
            ("a=b,", "found '', expected: identifier after ','"),
            (
                "tier>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' \
                 operators, the value must be an integer",
            ),
        ];
        for (text, why) in broken {
            let refused = LabelSelector::parse(text).unwrap_err();
            assert_eq!(
                (refused.code, refused.message.as_str()),
                (400, why),
                "{text}"
            );
        }
    }

    #[test]
    fn object_selectors_become_text() {
        let selector = json!({
            "matchLabels": {"a": "b"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["d", "e"]},
                {"key": "f", "operator": "DoesNotExist"},
            ],
        });
        assert_eq!(LabelSelector::text_of(&selector), "a=b,c in (d,e),!f");
    }

    #[test]
    fn field_selectors_know_their_paths() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"unschedulable": true}});
        let parse = |text: &str| {
            FieldSelector::parse_for(text, |path| match path {
                "spec.secret" => Err(format!("field label not supported: {path}")),
                _ => Ok(()),
            })
        };
        assert!(
            parse("metadata.name=a,spec.unschedulable=true")
                .unwrap()
                .matches(&object)
        );
        assert!(!parse("metadata.name!=a").unwrap().matches(&object));
        assert!(parse("spec.missing=").unwrap().matches(&object));
        let refused = parse("spec.secret=a").unwrap_err();
        assert_eq!(refused.message, "field label not supported: spec.secret");
    }
}
