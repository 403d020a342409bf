//! What of an answer is compared.

use std::sync::LazyLock;

use http::Response;
use regex::Regex;
use serde_json::{Map, Value, json};

/// Renders an answer with everything taken out that may differ between two servers: names that were
/// made up, uids, versions, times, tokens to continue with.
pub(crate) fn render(answer: &Response<String>, is_watch: bool) -> String {
    let mut lines = vec![format!("status {}", answer.status().as_u16())];
    for name in ["content-type", "warning"] {
        for value in answer.headers().get_all(name) {
            let value = value.to_str().unwrap_or("not text");
            lines.push(format!("{name}: {value}"));
        }
    }
    if is_watch {
        let events = answer.body().lines();
        lines.extend(events.filter(|line| is_compared(line)).map(body));
    } else {
        lines.push(body(answer.body()));
    }
    lines.join("\n") + "\n"
}

/// Bookmarks come when a server likes; only the one that ends the initial events is promised.
fn is_compared(event: &str) -> bool {
    let is_bookmark = event.contains(r#""type":"BOOKMARK""#);
    !event.is_empty() && (!is_bookmark || event.contains("k8s.io/initial-events-end"))
}

fn body(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            normalise(&mut value);
            serde_json::to_string_pretty(&value).unwrap()
        }
        Err(_) => text.to_owned(),
    }
}

fn normalise(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::Object(fields) => {
            let named = std::mem::take(fields).into_iter();
            *fields = named.map(|(name, value)| (key(&name), value)).collect();
            fields
                .iter_mut()
                .for_each(|(name, value)| field(name, value));
            managers(fields);
            causes(fields);
            resources(fields);
        }
        Value::String(text) => *text = sorted_errors(&without_values(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn field(name: &str, value: &mut Value) {
    let is_text = value.as_str().is_some_and(|text| !text.is_empty());
    match name {
        "uid" | "resourceVersion" | "creationTimestamp" | "deletionTimestamp" | "time"
        | "continue"
            if is_text =>
        {
            *value = json!(format!("({name})"));
        }
        _ => normalise(value),
    }
}

/// Elements of lists are named after their keys in `fieldsV1`, owners after uids.
fn key(name: &str) -> String {
    match name.strip_prefix("k:{\"uid\":\"") {
        Some(uid) if uid.len() > 10 => "k:{\"uid\":\"(uid)\"}".to_owned(),
        _ => name.to_owned(),
    }
}

/// Two servers may list the managers of equal age in any order.
fn managers(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(managers)) = fields.get_mut("managedFields") {
        managers.sort_by_key(|manager| {
            let part = |name: &str| manager[name].as_str().unwrap_or_default().to_owned();
            (part("manager"), part("operation"), part("subresource"))
        });
    }
}

/// Discovery lists custom kinds in any order.
fn resources(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(resources)) = fields.get_mut("resources") {
        resources.sort_by_key(|resource| resource["name"].as_str().unwrap_or_default().to_owned());
    }
}

/// Errors of the keys of a map come in the order in which Go walks it: any.
fn causes(status: &mut Map<String, Value>) {
    let causes = status
        .get_mut("details")
        .and_then(|it| it.get_mut("causes"));
    let Some(Value::Array(causes)) = causes.map(Value::take) else {
        return;
    };
    let text = |cause: &Value| {
        let part = |name: &str| cause[name].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", part("field"), part("message"))
    };
    let mut causes = causes;
    causes.sort_by_key(text);
    let known: Vec<_> = causes.iter().map(text).collect();
    if let Some(Value::String(message)) = status.get_mut("message") {
        *message = in_order(message, &known);
    }
    status["details"]["causes"] = Value::Array(causes);
}

/// A message with the errors that it lists in brackets in order.
fn in_order(message: &str, known: &[String]) -> String {
    let Some((head, list)) = message.split_once(" is invalid: [") else {
        return message.to_owned();
    };
    let mut rest = list.strip_suffix(']').unwrap_or(list);
    let mut parts = Vec::new();
    while let Some(part) = known.iter().find(|part| rest.starts_with(part.as_str())) {
        parts.push(part.as_str());
        rest = &rest[part.len()..];
        rest = rest.strip_prefix(", ").unwrap_or(rest);
    }
    parts.sort_unstable();
    format!("{head} is invalid: [{}]{rest}", parts.join(", "))
}

/// An apply's errors come in the order in which Go walks a map, too.
fn sorted_errors(message: &str) -> String {
    const LIST: &str = "errors:\n";
    let Some((head, list)) = message.split_once(LIST) else {
        return message.to_owned();
    };
    let mut errors: Vec<_> = list.lines().collect();
    errors.sort_unstable();
    format!("{head}{LIST}{}", errors.join("\n"))
}

/// Takes uids, times and versions out of messages.
fn without_values(text: &str) -> String {
    static UID: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap()
    });
    static TIME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap());
    static VERSION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#"(resourceVersion\\?":|ResourceVersion: |ResourceVersion in record \()\\?"?\d+\\?"?"#,
        )
        .unwrap()
    });
    static TOO_OLD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(too old resource version: \d+) \(\d+\)").unwrap());
    let text = UID.replace_all(text, "(uid)");
    let text = TOO_OLD.replace_all(&text, "$1 (version)");
    let text = TIME.replace_all(&text, "(time)");
    VERSION.replace_all(&text, "$1(version)").into_owned()
}
