//! The part of jinja that seeds use: expressions with dotted names and a few filters.

use serde_json::Value;

/// Expressions in one document.
const EXPRESSIONS_MAX: usize = 10_000;

/// The first line that turns rendering on.
const HEADER: &str = "## template: jinja";

/// Whether cloud-init would render this text.
pub(super) fn is_template(text: &str) -> bool {
    text.lines()
        .next()
        .is_some_and(|line| line.trim_end().eq_ignore_ascii_case(HEADER))
}

/// Renders a template, header line removed.
///
/// An unknown name becomes `CI_MISSING_JINJA_VAR/<name>`, as in cloud-init. Statements and unknown
/// filters are refused, since leaving them out would render something else.
pub(super) fn render(text: &str, data: &Value) -> Result<String, String> {
    let mut rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    let mut out = String::with_capacity(rest.len());
    for _ in 0..EXPRESSIONS_MAX {
        let Some(at) = rest
            .find("{{")
            .into_iter()
            .chain(rest.find("{%"))
            .chain(rest.find("{#"))
            .min()
        else {
            out.push_str(rest);
            return Ok(out);
        };
        out.push_str(&rest[..at]);
        let (open, inside) = rest[at..].split_at(2);
        match open {
            "{{" => {
                let (expression, after) = until(inside, "}}")?;
                out.push_str(&evaluate(expression, data)?);
                rest = after;
            }
            "{#" => rest = until(inside, "#}")?.1,
            _ => {
                let (statement, after) = until(inside, "%}")?;
                if statement.trim_matches(['-', ' ']) != "raw" {
                    return Err(format!(
                        "the simulated guest does not run the jinja statement {:?}",
                        statement.trim()
                    ));
                }
                let (raw, after) = until(after, "{% endraw %}")?;
                out.push_str(raw);
                rest = after;
            }
        }
    }
    Err(format!("more than {EXPRESSIONS_MAX} jinja expressions"))
}

fn until<'a>(text: &'a str, end: &str) -> Result<(&'a str, &'a str), String> {
    text.split_once(end)
        .ok_or_else(|| format!("unexpected end of template, expected {end:?}"))
}

fn evaluate(expression: &str, data: &Value) -> Result<String, String> {
    let mut parts = expression.trim_matches(['-', ' ', '\t', '\n']).split('|');
    let name = parts.next().unwrap_or_default().trim();
    let mut value = lookup(name, data)?;
    for filter in parts {
        let filter = filter.trim();
        value = match filter {
            "lower" => value.map(|text| text.to_lowercase()),
            "upper" => value.map(|text| text.to_uppercase()),
            "trim" => value.map(|text| text.trim().to_owned()),
            _ => {
                let fallback = filter
                    .strip_prefix("default(")
                    .and_then(|rest| rest.strip_suffix(')'))
                    .and_then(literal)
                    .ok_or_else(|| {
                        format!("the simulated guest does not know the jinja filter {filter:?}")
                    })?;
                value.or(Some(fallback))
            }
        };
    }
    Ok(value.unwrap_or_else(|| format!("CI_MISSING_JINJA_VAR/{name}")))
}

fn literal(text: &str) -> Option<String> {
    let text = text.trim();
    ['\'', '"'].iter().find_map(|quote| {
        let inner = text.strip_prefix(*quote)?.strip_suffix(*quote)?;
        Some(inner.to_owned())
    })
}

fn lookup(name: &str, data: &Value) -> Result<Option<String>, String> {
    if let Some(text) = literal(name) {
        return Ok(Some(text));
    }
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    if !name.split('.').all(plain) {
        return Err(format!(
            "the simulated guest does not know the jinja expression {name:?}"
        ));
    }
    let mut value = data;
    for part in name.split('.') {
        match value.get(part) {
            Some(inner) => value = inner,
            None => return Ok(None),
        }
    }
    Ok(match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("id={{ ds.meta_data.instance_id }}", Ok("id=i-1"))]
    #[case("{{v1.local_hostname}}.{{ v1.local_hostname|upper }}", Ok("a.A"))]
    #[case(
        "{{ ds.meta_data.gone }}",
        Ok("CI_MISSING_JINJA_VAR/ds.meta_data.gone")
    )]
    #[case("{{ ds.meta_data.gone | default('x') }}", Ok("x"))]
    #[case("{# note #}a{% raw %}{{ b }}{% endraw %}", Ok("a{{ b }}"))]
    #[case("{% if a %}b{% endif %}", Err("jinja statement"))]
    #[case("{{ a | map }}", Err("jinja filter"))]
    #[case("{{ a + b }}", Err("jinja expression"))]
    #[case("{{ a", Err("unexpected end"))]
    fn renders(#[case] body: &str, #[case] wanted: Result<&str, &str>) {
        let data = serde_json::json!({
            "ds": {"meta_data": {"instance_id": "i-1"}},
            "v1": {"local_hostname": "a"},
        });
        let text = format!("## template: jinja\n{body}");
        assert!(is_template(&text));
        match (render(&text, &data), wanted) {
            (Ok(rendered), Ok(wanted)) => assert_eq!(rendered, wanted),
            (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{error}"),
            (rendered, wanted) => panic!("{rendered:?}, wanted {wanted:?}"),
        }
    }
}
