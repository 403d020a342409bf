//! What Cluster API writes to the objects of an infrastructure provider, in a form that two servers can
//! be compared by. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// The group whose objects are compared.
pub(crate) const GROUP: &str = "infrastructure.cluster.x-k8s.io";

/// One write that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    /// The field manager that it named, or the program where it named none.
    pub(crate) actor: String,
    /// `create`, `update`, `patch` or `delete`.
    pub(crate) verb: String,
    /// Plural of the kind, with the subresource.
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) body: Value,
}

/// A parameter of a query.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

impl Write {
    /// Server-side apply sends a whole object, a merge patch only what changes.
    fn operation(&self) -> &str {
        match (self.verb.as_str(), &self.body) {
            ("patch", body) if body["apiVersion"].is_string() => "apply",
            ("patch", Value::Array(_)) => "JSON patch",
            ("patch", _) => "merge",
            (verb, _) => verb,
        }
    }

    /// The fields that it sets or removes, with what is made up taken out.
    fn fields(&self) -> BTreeSet<String> {
        let mut fields = BTreeSet::new();
        flatten("", &self.body, &mut fields);
        if self.verb == "delete" {
            // The log shows the options as the server reads them.
            fields.retain(|field| !field.starts_with("apiVersion ") && !field.starts_with("kind "));
        }
        fields
    }
}

static UID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap()
});

fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

fn flatten(path: &str, value: &Value, fields: &mut BTreeSet<String>) {
    let mut add = |text: String| {
        fields.insert(format!("{} {text}", UID.replace_all(path, "<uid>")));
    };
    match value {
        // A request without content.
        Value::Null | Value::Object(_) if path.is_empty() && is_empty(value) => {}
        Value::Null => add("removed".to_owned()),
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = if key.contains(['.', '/']) {
                    format!("[{key}]")
                } else {
                    format!(".{key}")
                };
                let path = format!("{path}{key}");
                flatten(path.trim_start_matches('.'), value, fields);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (number, value) in list.iter().enumerate() {
                flatten(&format!("{path}[{number}]"), value, fields);
            }
        }
        Value::String(text) => add(format!("= {}", normal(path, text))),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) | Value::Array(_) => {
            add(format!("= {value}"));
        }
    }
}

/// A text without what differs from run to run.
fn normal(path: &str, text: &str) -> String {
    // Names are made of those of their owners and letters of the alphabet for generated names.
    static MADE_UP: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new("^(demo-[a-z]+(?:-plane)?)(?:-[bcdfghjklmnpqrstvwxz0-9]{5,10})+$").unwrap()
    });
    static TIME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d").unwrap());
    if path.ends_with("resourceVersion") {
        "<version>".to_owned()
    } else if path.ends_with("template-hash]") || path.ends_with("template-hash") {
        "<hash>".to_owned()
    } else if TIME.is_match(text) {
        "<time>".to_owned()
    } else {
        let text = UID.replace_all(text, "<uid>");
        MADE_UP.replace(&text, "$1-<made up>").into_owned()
    }
}

/// What an object is in the day that is played; machines by what makes them.
fn role(write: &Write) -> Option<String> {
    let resource = write.resource.split('/').next().unwrap_or_default();
    if resource != "proxmoxmachines" {
        return Some(format!("{resource} {}", write.name));
    }
    let labels = write.body["metadata"]["labels"].as_object()?;
    let is_plane = labels.contains_key("cluster.x-k8s.io/control-plane");
    let is_worker = labels.contains_key("cluster.x-k8s.io/deployment-name");
    match (is_plane, is_worker) {
        (true, _) => Some("proxmoxmachines of the control plane".to_owned()),
        (_, true) => Some("proxmoxmachines of the deployment".to_owned()),
        _ => None,
    }
}

/// The writes to one object, line by line: those of each actor in their order, since two actors do not
/// wait for each other; one that is repeated as it was is a look at what had not changed.
fn lines(writes: &[&Write]) -> Vec<String> {
    let mut by_actor: BTreeMap<&str, Vec<(&str, BTreeSet<String>)>> = BTreeMap::new();
    for write in writes {
        let one = (write.operation(), write.fields());
        let all = by_actor.entry(&write.actor).or_default();
        if all.last() != Some(&one) {
            all.push(one);
        }
    }
    let mut lines = Vec::new();
    for (actor, all) in by_actor {
        for (number, (operation, fields)) in all.into_iter().enumerate() {
            let head = format!("{actor} #{} {operation}", number + 1);
            lines.push(head.clone());
            lines.extend(fields.iter().map(|field| format!("{head}: {field}")));
        }
    }
    lines
}

/// Per role, what happens to its objects, and to how many. Objects of a role that live unlike each other
/// are variants, the shortest life first.
pub(crate) fn lives(writes: &[Write]) -> BTreeMap<String, Vec<String>> {
    let mut by_object: BTreeMap<(&str, &str), Vec<&Write>> = BTreeMap::new();
    for write in writes {
        let resource = write.resource.split('/').next().unwrap_or_default();
        let object = (resource, write.name.as_str());
        by_object.entry(object).or_default().push(write);
    }
    let mut by_role: BTreeMap<String, BTreeMap<(usize, Vec<String>), usize>> = BTreeMap::new();
    for writes in by_object.values() {
        let role = writes.iter().find_map(|write| role(write));
        let role = role.unwrap_or_else(|| "objects of nobody".to_owned());
        let lines = lines(writes);
        let variants = by_role.entry(role).or_default();
        *variants.entry((lines.len(), lines)).or_default() += 1;
    }
    let mut lives = BTreeMap::new();
    for (role, variants) in by_role {
        for (number, ((_, mut lines), count)) in variants.into_iter().enumerate() {
            lines.push(format!("{count} live like this"));
            let role = match number {
                0 => role.clone(),
                number => format!("{role}, variant {}", number + 1),
            };
            lives.insert(role, lines);
        }
    }
    lives
}
