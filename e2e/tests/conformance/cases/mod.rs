//! The table: what is asked of both servers, by class.

#![expect(
    clippy::too_many_lines,
    reason = "a table is as long as it has rows, and reads better in one piece"
)]

mod apply;
mod crud;
mod deletion;
mod discovery;
mod eviction;
mod list;
mod patch;
mod schema;
mod subresource;
mod table;
mod watch;
mod webhook;

use serde_json::{Value, json};

use crate::case::Case;

/// Where objects of the test's own kind lie.
const WIDGETS: &str = "/apis/example.com/v1/namespaces/{ns}/widgets";
/// A kind that Kubernetes itself has.
const CONFIG_MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";

pub(crate) fn all() -> Vec<Case> {
    [
        crud::cases(),
        patch::cases(),
        apply::cases(),
        schema::cases(),
        subresource::cases(),
        deletion::cases(),
        eviction::cases(),
        list::cases(),
        watch::cases(),
        table::cases(),
        discovery::cases(),
        webhook::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A widget with this spec.
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name},
        "spec": spec})
}

/// A ConfigMap with these data.
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// The path of a widget.
fn at(name: &str) -> String {
    format!("{WIDGETS}/{name}")
}

/// The kinds that cases use beside those of Kubernetes.
pub(crate) fn definitions() -> Vec<Value> {
    let part = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"},
        "weight": {"type": "integer", "default": 1},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
    }});
    let spec = json!({"type": "object",
        "properties": {
            "size": {"type": "integer", "minimum": 0, "maximum": 100, "default": 1},
            "colour": {"type": "string", "enum": ["red", "green", "blue"], "default": "red"},
            "fixed": {"type": "string", "maxLength": 10, "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "fixed cannot be changed"}]},
            "pattern": {"type": "string", "pattern": "^[a-z]+$"},
            "replicas": {"type": "integer", "minimum": 0},
            "ratio": {"type": "number"},
            "on": {"type": "boolean"},
            "maybe": {"type": "string", "nullable": true},
            "amount": {"x-kubernetes-int-or-string": true},
            "share": {"x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "when": {"type": "string", "format": "date-time"},
            "parts": {"type": "array", "maxItems": 4, "items": part,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            "tags": {"type": "array", "x-kubernetes-list-type": "set",
                "items": {"type": "string"}},
            "words": {"type": "array", "items": {"type": "string"}},
            "settings": {"type": "object", "additionalProperties": {"type": "string"}},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic",
                "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "nested": {"type": "object", "default": {}, "properties": {
                "must": {"type": "string", "default": "here"},
                "deep": {"type": "object", "properties": {"value": {"type": "integer"}}}}},
        },
        "x-kubernetes-validations": [
            {"rule": "self.size <= 10 || self.colour == 'red'",
             "message": "only red widgets are larger than 10"},
            {"rule": "!has(self.ratio) || self.ratio < 1.0",
             "messageExpression": "'ratio is ' + (self.size > 5 ? 'far ' : '') + 'too large'",
             "fieldPath": ".ratio", "reason": "FieldValueForbidden"},
        ],
    });
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": {
        "type": {"type": "string"}, "status": {"type": "string"}}});
    let status = json!({"type": "object", "properties": {
        "phase": {"type": "string"},
        "replicas": {"type": "integer"},
        "selector": {"type": "string"},
        "conditions": {"type": "array", "items": condition,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    }});
    let widgets = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget",
                "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["toys"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.colour"}],
                "additionalPrinterColumns": [
                    {"name": "Colour", "type": "string", "jsonPath": ".spec.colour"},
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Phase", "type": "string", "jsonPath": ".status.phase",
                     "priority": 1, "description": "How far it is"}],
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A toy.",
                    "properties": {"spec": spec, "status": status}}},
            }],
        },
    });
    let gadgets = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster",
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget",
                "listKind": "GadgetList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    // The provider's own kinds, too: the real server judges their rules and what these cost.
    let ours = provider_proxmox::api::crds().into_iter();
    let ours = ours.filter_map(|definition| serde_json::to_value(definition).ok());
    [widgets, gadgets].into_iter().chain(ours).collect()
}
