//! Columns of the built-in kinds that people look at; the others show name and age.

use serde_json::Value;

use super::{
    kinds::{Column, Resource},
    selector::LabelSelector,
    table::column,
};

/// The columns of a built-in kind: name, type, path or name of a computed cell, priority.
type Row = &'static [(&'static str, &'static str, &'static str, i64)];

const AGE: (&str, &str, &str, i64) = ("Age", "date", ".metadata.creationTimestamp", 0);
const NAME: (&str, &str, &str, i64) = ("Name", "string", ".metadata.name", 0);
const CREATED: (&str, &str, &str, i64) = ("Created At", "string", ".metadata.creationTimestamp", 0);

/// A path that starts with `#` names a cell of [`cell`].
fn row_of(resource: &Resource) -> Row {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => &[NAME, ("Status", "string", ".status.phase", 0), AGE],
        ("", "Secret") => &[
            NAME,
            ("Type", "string", ".type", 0),
            ("Data", "string", "#data", 0),
            AGE,
        ],
        ("", "ConfigMap") => &[NAME, ("Data", "string", "#data", 0), AGE],
        ("", "ServiceAccount") => &[NAME, ("Secrets", "string", "#secrets", 0), AGE],
        ("" | "events.k8s.io", "Event") => &[
            ("Last Seen", "date", "#seen", 0),
            ("Type", "string", ".type", 0),
            ("Reason", "string", ".reason", 0),
            ("Object", "string", "#object", 0),
            ("Message", "string", "#message", 0),
            ("Name", "string", ".metadata.name", 1),
        ],
        ("", "Node") => &[
            NAME,
            ("Status", "string", "#node-status", 0),
            ("Roles", "string", "#roles", 0),
            AGE,
            ("Version", "string", ".status.nodeInfo.kubeletVersion", 0),
        ],
        ("", "Pod") => &[
            NAME,
            ("Ready", "string", "#containers-ready", 0),
            ("Status", "string", ".status.phase", 0),
            ("Restarts", "string", "#restarts", 0),
            AGE,
            ("Node", "string", ".spec.nodeName", 1),
        ],
        ("", "Service") => &[
            NAME,
            ("Type", "string", ".spec.type", 0),
            ("Cluster-IP", "string", "#cluster-ip", 0),
            ("Port(s)", "string", "#ports", 0),
            AGE,
        ],
        ("apps", "Deployment") => &[
            NAME,
            ("Ready", "string", "#ready", 0),
            ("Up-to-date", "integer", "#updated", 0),
            ("Available", "integer", "#available", 0),
            AGE,
            ("Selector", "string", "#selector", 1),
        ],
        ("coordination.k8s.io", "Lease") => {
            &[NAME, ("Holder", "string", ".spec.holderIdentity", 0), AGE]
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition")
        | ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => &[NAME, CREATED],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            &[NAME, ("Role", "string", "#role", 0), AGE]
        }
        ("admissionregistration.k8s.io", _) => {
            &[NAME, ("Webhooks", "integer", "#webhooks", 0), AGE]
        }
        _ => &[],
    }
}

pub(crate) fn columns(resource: &Resource) -> Vec<Column> {
    if resource.is_custom() {
        return Vec::new();
    }
    let row = row_of(resource).iter();
    row.map(|(name, kind, path, priority)| {
        let mut column = column(name, kind, path, *priority);
        if *path == "#data" {
            column.description = data_doc(&resource.kind).to_owned();
        }
        column
    })
    .collect()
}

/// What the API says of the field whose entries are counted.
fn data_doc(kind: &str) -> &'static str {
    if kind == "Secret" {
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' \
         or '.'. The serialized form of the secret data is a base64 encoded string, representing \
         the arbitrary (possibly non-string) data value here. Described in \
         https://tools.ietf.org/html/rfc4648#section-4"
    } else {
        "Data contains the configuration data. Each key must consist of alphanumeric characters, \
         '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The \
         keys stored in Data must not overlap with the keys in the BinaryData field, this is \
         enforced during validation process."
    }
}

/// A cell that is no plain field; `None` for those that are.
pub(crate) fn cell(resource: &Resource, path: &str, object: &Value) -> Option<Value> {
    if resource.is_custom() {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let computed = path.strip_prefix('#')?;
    if let Some(cell) = workload_cell(computed, object) {
        return Some(cell);
    }
    let cell = match computed {
        "data" => (count(&object["data"]) + count(&object["binaryData"])).into(),
        "secrets" => count(&object["secrets"]).into(),
        "webhooks" => count(&object["webhooks"]).into(),
        "seen" => seen(object),
        "object" => {
            let of = if object["regarding"].is_null() {
                "involvedObject"
            } else {
                "regarding"
            };
            let of = &object[of];
            format!("{}/{}", text(&of["kind"]).to_lowercase(), text(&of["name"])).into()
        }
        "message" => {
            let message = if object["note"].is_null() {
                &object["message"]
            } else {
                &object["note"]
            };
            text(message).trim().into()
        }
        "node-status" => node_status(object).into(),
        "roles" => roles(object).into(),
        "cluster-ip" => {
            let address = text(&object["spec"]["clusterIP"]);
            if address.is_empty() {
                "<none>".into()
            } else {
                address.into()
            }
        }
        "ports" => ports(object).into(),
        "role" => {
            let role = &object["roleRef"];
            format!("{}/{}", text(&role["kind"]), text(&role["name"])).into()
        }
        _ => return None,
    };
    Some(cell)
}

fn count(field: &Value) -> usize {
    match field {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The cells of pods and of what makes them.
fn workload_cell(computed: &str, object: &Value) -> Option<Value> {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let cell = match computed {
        "containers-ready" => {
            let states = object["status"]["containerStatuses"].as_array();
            let ready = states
                .into_iter()
                .flatten()
                .filter(|one| one["ready"] == true)
                .count();
            format!("{ready}/{}", count(&object["spec"]["containers"])).into()
        }
        "restarts" => {
            let states = object["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten();
            states
                .map(|one| number(&one["restartCount"]))
                .sum::<i64>()
                .to_string()
                .into()
        }
        "ready" => {
            let ready = number(&object["status"]["readyReplicas"]);
            format!("{ready}/{}", number(&object["spec"]["replicas"])).into()
        }
        "updated" => number(&object["status"]["updatedReplicas"]).into(),
        "available" => number(&object["status"]["availableReplicas"]).into(),
        "selector" => LabelSelector::text_of(&object["spec"]["selector"]).into(),
        _ => return None,
    };
    Some(cell)
}

/// When an event was last seen: of the several fields, the first that is set.
fn seen(object: &Value) -> Value {
    let times = [
        &object["series"]["lastObservedTime"],
        &object["lastTimestamp"],
        &object["deprecatedLastTimestamp"],
        &object["eventTime"],
        &object["metadata"]["creationTimestamp"],
    ];
    times
        .into_iter()
        .find(|time| time.is_string())
        .cloned()
        .unwrap_or(Value::Null)
}

fn node_status(object: &Value) -> String {
    let conditions = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let ready = conditions
        .into_iter()
        .find(|condition| condition["type"] == "Ready");
    let status = match ready.and_then(|condition| condition["status"].as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if object["spec"]["unschedulable"] == true {
        format!("{status},SchedulingDisabled")
    } else {
        status.to_owned()
    }
}

fn roles(object: &Value) -> String {
    let labels = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    roles.sort_unstable();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

fn ports(object: &Value) -> String {
    let ports = object["spec"]["ports"].as_array().into_iter().flatten();
    let ports: Vec<_> = ports
        .map(|port| {
            format!(
                "{}/{}",
                port["port"],
                port["protocol"].as_str().unwrap_or("TCP")
            )
        })
        .collect();
    if ports.is_empty() {
        "<none>".to_owned()
    } else {
        ports.join(",")
    }
}
