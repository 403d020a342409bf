//! The part of JSONPath that printer columns use: fields, indices, wildcards and equality filters.

use serde_json::Value;

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// `[*]`
    All,
    /// `[?(@.type=="Ready")]`
    Where {
        path: Vec<Step>,
        equals: bool,
        value: Value,
    },
}

/// All values at `path`, which may be written with or without braces; `None` if it is no such path.
pub(crate) fn find<'a>(object: &'a Value, path: &str) -> Option<Vec<&'a Value>> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    Some(walk(object, &parse(path)?))
}

fn walk<'a>(object: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in steps {
        found = found
            .into_iter()
            .flat_map(|value| take(value, step))
            .collect();
    }
    found
}

fn take<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let Some(list) = value.as_array() else {
                return Vec::new();
            };
            let at = if *index < 0 {
                usize::try_from(-index)
                    .ok()
                    .and_then(|back| list.len().checked_sub(back))
            } else {
                usize::try_from(*index).ok()
            };
            at.and_then(|at| list.get(at)).into_iter().collect()
        }
        Step::All => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Where {
            path,
            equals,
            value: wanted,
        } => {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let holds = |one: &&Value| {
                let found = walk(one, path);
                found
                    .first()
                    .is_some_and(|found| (**found == *wanted) == *equals)
            };
            list.iter().filter(holds).collect()
        }
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = closing(inner)?;
            steps.push(bracket(inner[..end].trim())?);
            rest = &inner[end + 1..];
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let (name, after) = field(rest);
            match name.as_str() {
                "" if after.len() == rest.len() => return None,
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        }
    }
    Some(steps)
}

/// A field name up to the next dot or bracket; a backslash takes the next character as it is.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(character),
        }
    }
    (name, "")
}

/// Where the bracket that was opened before `text` closes, quotes respected.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_u32);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (Some(_) | None, _) => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inner
        .strip_prefix("?(")
        .and_then(|text| text.strip_suffix(')'))
    {
        let (path, value, equals) = match filter.split_once("==") {
            Some((path, value)) => (path, value, true),
            None => {
                let (path, value) = filter.split_once("!=")?;
                (path, value, false)
            }
        };
        let path = parse(path.trim().strip_prefix('@')?)?;
        return Some(Step::Where {
            path,
            equals,
            value: literal(value.trim())?,
        });
    }
    match literal(inner)? {
        Value::String(name) => Some(Step::Field(name.replace("\\.", "."))),
        Value::Number(index) => Some(Step::Index(index.as_i64()?)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A string in either kind of quotes, or a plain JSON value.
fn literal(text: &str) -> Option<Value> {
    let quoted = text
        .strip_prefix('\'')
        .and_then(|text| text.strip_suffix('\''));
    match quoted {
        Some(inner) => Some(inner.into()),
        None => match text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
        {
            Some(inner) => Some(inner.into()),
            None => serde_json::from_str(text).ok(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_find_their_values() {
        let object = json!({
            "metadata": {"labels": {"cluster.x-k8s.io/cluster-name": "c"}},
            "status": {
                "conditions": [
                    {"type": "Ready", "status": "True"}, {"type": "Paused", "status": "False"},
                ],
                "addresses": [{"address": "1"}, {"address": "2"}],
            },
        });
        let table = [
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type!='Ready')].status",
                json!(["False"]),
            ),
            (
                ".metadata.labels['cluster\\.x-k8s\\.io/cluster-name']",
                json!(["c"]),
            ),
            (
                ".metadata.labels.cluster\\.x-k8s\\.io/cluster-name",
                json!(["c"]),
            ),
            ("{.status.addresses[*].address}", json!(["1", "2"])),
            (".status.addresses[-1].address", json!(["2"])),
            (".status.addresses[7].address", json!([])),
            (".spec.missing", json!([])),
        ];
        for (path, expected) in table {
            assert_eq!(json!(find(&object, path).unwrap()), expected, "{path}");
        }
        for broken in [".a[", ".a[?(@.b)]", ".a[b]"] {
            assert!(find(&object, broken).is_none(), "{broken}");
        }
    }
}
