//! Label and field selectors.

use std::collections::BTreeSet;

use serde_json::Value;

use super::status::StatusError;

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
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let requirement = parse_requirement(part).ok_or_else(|| {
                StatusError::bad_request(format!("unable to parse requirement: {part:?}"))
            })?;
            requirements.push(requirement);
        }
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

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let bound = |value: &str| value.trim().parse::<i64>().ok();
    if let Some(key) = part.strip_prefix('!') {
        return requirement(key, Operator::DoesNotExist);
    }
    if let Some((key, value)) = part.split_once("!=") {
        return valued(value).then(|| requirement(key, Operator::NotIn(one(value))))?;
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return valued(value).then(|| requirement(key, Operator::In(one(value))))?;
    }
    if let Some((key, value)) = part.split_once('>') {
        return requirement(key, Operator::GreaterThan(bound(value)?));
    }
    if let Some((key, value)) = part.split_once('<') {
        return requirement(key, Operator::LessThan(bound(value)?));
    }
    if let Some((head, values)) = part.split_once('(') {
        let values = values.trim_end().strip_suffix(')')?;
        let values: BTreeSet<_> = values
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => requirement(key, Operator::In(values)),
            "notin" => requirement(key, Operator::NotIn(values)),
            _ => None,
        };
    }
    requirement(part, Operator::Exists)
}

fn requirement(key: &str, operator: Operator) -> Option<Requirement> {
    let key = key.trim();
    let known = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    let valid = !key.is_empty() && key.chars().all(known);
    valid.then(|| Requirement {
        key: key.to_owned(),
        operator,
    })
}

/// Label values hold letters, digits, `-`, `_` and `.`.
fn valued(value: &str) -> bool {
    let known = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    value.trim().chars().all(known)
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
    /// Parses `text`; `supported` says which paths this resource can be selected by.
    pub(crate) fn parse(text: &str, supported: impl Fn(&str) -> bool) -> Result<Self, StatusError> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (path, value, true)
            } else {
                let message = format!("invalid selector: {part:?}; can't understand {part:?}");
                return Err(StatusError::bad_request(message));
            };
            if !supported(path) {
                let message = format!("field label not supported: {path}");
                return Err(StatusError::bad_request(message));
            }
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
        for broken in ["a in b", "a=b=c", "a b", "=x", "tier>x"] {
            assert_eq!(
                LabelSelector::parse(broken).unwrap_err().code,
                400,
                "{broken}"
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
        let parse = |text: &str| FieldSelector::parse(text, |path| path != "spec.secret");
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
