//! Strategic merge patches: merge patches whose lists of built-in kinds merge by key.

use serde_json::{Map, Value};

use super::status::StatusError;

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy {
    /// The patch's list replaces the old one.
    Replace,
    /// Elements are matched by this field.
    ByKey(&'static str),
    /// A set of plain values.
    Set,
}

/// Lists that do not simply replace: the kinds (empty: all), the path without indices, the strategy.
/// From the `patchStrategy` and `patchMergeKey` tags of the Go types served here.
const STRATEGIES: &[(&[&str], &str, Strategy)] = &[
    (&[], "metadata.ownerReferences", Strategy::ByKey("uid")),
    (&[], "metadata.finalizers", Strategy::Set),
    (
        &["Namespace", "Node", "Pod", "PersistentVolumeClaim"],
        "status.conditions",
        CONDITION,
    ),
    (
        &[
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
            "DaemonSet",
            "Job",
        ],
        "status.conditions",
        CONDITION,
    ),
    (
        &["Service", "PodDisruptionBudget"],
        "status.conditions",
        CONDITION,
    ),
    (&["Node"], "status.addresses", Strategy::ByKey("type")),
    (&["Node"], "spec.podCIDRs", Strategy::Set),
    (&["Service"], "spec.ports", Strategy::ByKey("port")),
    (&["ServiceAccount"], "secrets", Strategy::ByKey("name")),
    (
        &["ServiceAccount"],
        "imagePullSecrets",
        Strategy::ByKey("name"),
    ),
    (
        &["MutatingWebhookConfiguration"],
        "webhooks",
        Strategy::ByKey("name"),
    ),
    (
        &["ValidatingWebhookConfiguration"],
        "webhooks",
        Strategy::ByKey("name"),
    ),
];

const CONDITION: Strategy = Strategy::ByKey("type");

/// Lists inside a pod's spec, by their path below it.
const POD_STRATEGIES: &[(&str, Strategy)] = &[
    ("containers", Strategy::ByKey("name")),
    ("initContainers", Strategy::ByKey("name")),
    ("ephemeralContainers", Strategy::ByKey("name")),
    ("volumes", Strategy::ByKey("name")),
    ("imagePullSecrets", Strategy::ByKey("name")),
    ("hostAliases", Strategy::ByKey("ip")),
    ("topologySpreadConstraints", Strategy::ByKey("topologyKey")),
    ("containers.env", Strategy::ByKey("name")),
    ("containers.ports", Strategy::ByKey("containerPort")),
    ("containers.volumeMounts", Strategy::ByKey("mountPath")),
    ("containers.volumeDevices", Strategy::ByKey("devicePath")),
    ("initContainers.env", Strategy::ByKey("name")),
    ("initContainers.ports", Strategy::ByKey("containerPort")),
    ("initContainers.volumeMounts", Strategy::ByKey("mountPath")),
];

fn strategy(kind: &str, path: &str) -> Strategy {
    let known = STRATEGIES
        .iter()
        .find(|(kinds, at, _)| *at == path && (kinds.is_empty() || kinds.contains(&kind)));
    if let Some((_, _, strategy)) = known {
        return *strategy;
    }
    let pod_spec = match kind {
        "Pod" => "spec.",
        "CronJob" => "spec.jobTemplate.spec.template.spec.",
        _ => "spec.template.spec.",
    };
    let inner = path.strip_prefix(pod_spec);
    let known = inner.and_then(|inner| POD_STRATEGIES.iter().find(|(at, _)| *at == inner));
    known.map_or(Strategy::Replace, |(_, strategy)| *strategy)
}

/// Merges `patch` into `object`.
pub(crate) fn merge(object: &mut Value, patch: &Value, kind: &str) -> Result<(), StatusError> {
    let Value::Object(patch) = patch else {
        return Err(StatusError::bad_request(
            "a strategic merge patch must be a JSON object",
        ));
    };
    merge_map(object, patch, kind, "")
}

fn merge_map(
    object: &mut Value,
    patch: &Map<String, Value>,
    kind: &str,
    path: &str,
) -> Result<(), StatusError> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut replacement = patch.clone();
            replacement.remove("$patch");
            *object = Value::Object(replacement);
            return Ok(());
        }
        Some("delete") => {
            *object = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            let message = format!("Unknown patch type found: {other}");
            return Err(StatusError::bad_request(message));
        }
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let retained = patch.get("$retainKeys").and_then(Value::as_array);
    if let (Some(retained), Some(map)) = (retained, object.as_object_mut()) {
        map.retain(|name, _| retained.iter().any(|kept| kept == name.as_str()));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            delete_from(object.get_mut(list), value);
        } else if !name.starts_with('$') {
            merge_field(object, name, value, kind, &join(path, name))?;
        }
    }
    // The order is that of the merged list, so it comes last.
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$setElementOrder/") {
            order(
                object.get_mut(list),
                value,
                strategy(kind, &join(path, list)),
            );
        }
    }
    Ok(())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn merge_field(
    object: &mut Value,
    name: &str,
    value: &Value,
    kind: &str,
    path: &str,
) -> Result<(), StatusError> {
    match value {
        Value::Null => {
            if let Some(map) = object.as_object_mut() {
                map.remove(name);
            }
            Ok(())
        }
        Value::Object(patch) => merge_map(&mut object[name], patch, kind, path),
        Value::Array(list) => merge_list(&mut object[name], list, kind, path),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            object[name] = value.clone();
            Ok(())
        }
    }
}

fn merge_list(old: &mut Value, patch: &[Value], kind: &str, path: &str) -> Result<(), StatusError> {
    let replaces = patch.iter().any(|element| element["$patch"] == "replace");
    let strategy = strategy(kind, path);
    if replaces || strategy == Strategy::Replace || !old.is_array() {
        let kept = patch
            .iter()
            .filter(|element| element["$patch"].is_null())
            .cloned();
        *old = Value::Array(kept.collect());
        return Ok(());
    }
    let Some(list) = old.as_array_mut() else {
        return Ok(());
    };
    let before = list.clone();
    let key = match strategy {
        Strategy::Replace => return Ok(()),
        Strategy::Set => {
            for element in patch {
                if !list.contains(element) {
                    list.push(element.clone());
                }
            }
            interleave(list, &before, patch, |one, other| one == other);
            return Ok(());
        }
        Strategy::ByKey(key) => key,
    };
    for element in patch {
        let Some(id) = element.get(key) else {
            let message = format!("map: {element} does not contain declared merge key: {key}");
            return Err(StatusError::bad_request(message));
        };
        let at = list.iter().position(|one| one.get(key) == Some(id));
        match (at, element["$patch"] == "delete") {
            (Some(at), true) => {
                list.remove(at);
            }
            (None, true) => {}
            (Some(at), false) => {
                let empty = Map::new();
                let inner = element.as_object().unwrap_or(&empty);
                merge_map(&mut list[at], inner, kind, path)?;
            }
            (None, false) => list.push(element.clone()),
        }
    }
    interleave(list, &before, patch, |one, other| {
        one.get(key) == other.get(key)
    });
    Ok(())
}

/// Orders a merged list: the patch's elements in its order, and each other one as late as possible but
/// before the first of them that it was in front of.
fn interleave(
    list: &mut Vec<Value>,
    before: &[Value],
    patch: &[Value],
    same: impl Fn(&Value, &Value) -> bool,
) {
    let place = |element: &Value, of: &[Value]| of.iter().position(|one| same(one, element));
    let (mut named, others): (Vec<_>, Vec<_>) = std::mem::take(list)
        .into_iter()
        .partition(|element| place(element, patch).is_some());
    named.sort_by_key(|element| place(element, patch));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(next), Some(other)) = (named.peek(), others.peek()) {
        let was_in_front = match (place(other, before), place(next, before)) {
            (Some(other), Some(next)) => other < next,
            _ => false,
        };
        list.extend(if was_in_front {
            others.next()
        } else {
            named.next()
        });
    }
    list.extend(named);
    list.extend(others);
}

fn delete_from(list: Option<&mut Value>, values: &Value) {
    let gone = values.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(list) = list.and_then(Value::as_array_mut) {
        list.retain(|one| !gone.contains(one));
    }
}

/// Puts the elements that the patch names into its order; the others keep their places.
fn order(list: Option<&mut Value>, wanted: &Value, strategy: Strategy) {
    let (Some(list), Some(wanted)) = (list.and_then(Value::as_array_mut), wanted.as_array()) else {
        return;
    };
    let rank = |element: &Value| match strategy {
        Strategy::ByKey(key) => wanted
            .iter()
            .position(|one| one.get(key) == element.get(key)),
        Strategy::Set | Strategy::Replace => wanted.iter().position(|one| one == element),
    };
    let mut named: Vec<Value> = list
        .iter()
        .filter(|one| rank(one).is_some())
        .cloned()
        .collect();
    named.sort_by_key(|element| rank(element));
    let mut next = named.into_iter();
    for element in list.iter_mut() {
        if rank(element).is_some()
            && let Some(placed) = next.next()
        {
            *element = placed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(kind: &str, mut object: Value, patch: &Value) -> Value {
        merge(&mut object, patch, kind).unwrap();
        object
    }

    #[test]
    fn lists_merge_by_their_key() {
        let node = json!({"status": {"conditions": [
            {"type": "Ready", "status": "False", "reason": "a"}, {"type": "Disk", "status": "True"},
        ]}});
        let patch = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "Disk", "$patch": "delete"},
            {"type": "Net", "status": "True"},
        ]}});
        assert_eq!(
            merged("Node", node, &patch),
            json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "a"},
                {"type": "Net", "status": "True"},
            ]}})
        );
    }

    #[test]
    fn pod_templates_are_known_at_their_depth() {
        let path = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"},
        ]}}}});
        let patch = json!({"spec": {"template": {"spec": {
            "containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}],
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        }}}});
        assert_eq!(
            merged("Deployment", path, &patch),
            json!({"spec": {"template": {"spec": {"containers": [
                {"name": "b"},
                {"name": "a", "image": "1", "env": [
                    {"name": "Y", "value": "2"}, {"name": "X", "value": "1"},
                ]},
            ]}}}})
        );
    }

    #[test]
    fn directives_delete_replace_and_retain() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}, "data": {"x": "1", "y": "2"}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
            "data": {"$retainKeys": ["y", "z"], "z": "3"},
        });
        assert_eq!(
            merged("ConfigMap", object, &patch),
            json!({"metadata": {"finalizers": ["c", "b"]}, "data": {"y": "2", "z": "3"}})
        );
        let replaced = merged(
            "ConfigMap",
            json!({"data": {"a": "1"}}),
            &json!({
                "data": {"$patch": "replace", "b": "2"},
            }),
        );
        assert_eq!(replaced, json!({"data": {"b": "2"}}));
        let mut service = json!({"spec": {"ports": [{"port": 1}]}});
        let keyless = json!({"spec": {"ports": [{"name": "a"}]}});
        assert_eq!(
            merge(&mut service, &keyless, "Service").unwrap_err().code,
            400
        );
    }
}
