//! Elements of field paths, as `fieldsV1` writes them: `f:name`, `k:{"name":"x"}`, `v:"x"`.

use serde_json::{Map, Value};

/// A field of a map or struct.
pub(crate) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// An item of a set.
pub(crate) fn value(item: &Value) -> String {
    format!("v:{item}")
}

/// An item of a list-type map. JSON maps are sorted by key here, as the format demands.
pub(crate) fn keys(keys: Map<String, Value>) -> String {
    format!("k:{}", Value::Object(keys))
}

/// The name, if the element is a field.
pub(crate) fn field_name(element: &str) -> Option<&str> {
    element.strip_prefix("f:")
}

/// A path as conflict messages print it: `.spec.ports[port=80,protocol="TCP"].name`.
pub(crate) fn display_path(path: &[String]) -> String {
    path.iter().map(|element| display(element)).collect()
}

/// One element as error messages print it.
pub(crate) fn display(element: &str) -> String {
    let Some((kind, content)) = element.split_once(':') else {
        return format!("[{element}]");
    };
    let parsed = || serde_json::from_str::<Value>(content).unwrap_or_default();
    match kind {
        "f" => format!(".{content}"),
        "v" => format!("[={}]", parsed()),
        "k" => {
            let keys = match parsed() {
                Value::Object(keys) => keys,
                _ => Map::new(),
            };
            let pairs: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        _ => format!("[{content}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_conflicts_do() {
        let path = ["f:spec", r#"k:{"port":80,"protocol":"TCP"}"#, "f:name"].map(str::to_owned);
        assert_eq!(display_path(&path), r#".spec[port=80,protocol="TCP"].name"#);
        assert_eq!(display(r#"v:"a""#), r#"[="a"]"#);
    }
}
