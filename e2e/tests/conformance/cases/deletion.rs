//! Finalizers, preconditions, propagation, owner collection.

use serde_json::{Value, json};

use super::{CONFIG_MAPS, WIDGETS, at, config_map, widget};
use crate::case::{Case, JSON_PATCH, MERGE, Step, case, delete, delete_with, get, patch, post};

/// Until an object is gone.
fn gone(path: &str) -> Step {
    get(path).until(|status, _| status == 404)
}

fn owned(name: &str, block: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name,
        "ownerReferences": [{"apiVersion": "example.com/v1", "kind": "Widget", "name": "owner",
            "uid": "{uid}", "controller": true, "blockOwnerDeletion": block}]}})
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = objects();
    all.extend(owners());
    all
}

fn objects() -> Vec<Case> {
    vec![
        case(
            "delete",
            [
                post(WIDGETS, widget("a", json!({}))),
                delete(&at("a")),
                delete(&at("a")),
                post(CONFIG_MAPS, config_map("a", json!({}))),
                delete(&format!("{CONFIG_MAPS}/a")),
                delete(&format!("{CONFIG_MAPS}/a")),
            ],
        ),
        case(
            "delete-preconditions",
            [
                post(WIDGETS, widget("a", json!({}))),
                delete_with(
                    &at("a"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "preconditions": {"uid": "other"}}),
                ),
                delete_with(
                    &at("a"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "preconditions": {"resourceVersion": "1"}}),
                ),
                delete_with(
                    &at("a"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "propagationPolicy": "Sideways"}),
                ),
                delete_with(
                    &at("a"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "orphanDependents": true, "propagationPolicy": "Background"}),
                ),
            ],
        ),
        case(
            "finalizers",
            [
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "finalizers": ["example.com/x", "example.com/y"]}}),
                ),
                delete(&at("a")),
                delete(&at("a")),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"finalizers": ["example.com/x", "example.com/y", "example.com/z"]}}),
                ),
                patch(MERGE, &at("a"), json!({"spec": {"size": 3}})),
                patch(
                    JSON_PATCH,
                    &at("a"),
                    json!([{"op": "remove", "path": "/metadata/finalizers/0"}]),
                ),
                patch(MERGE, &at("a"), json!({"metadata": {"finalizers": null}})),
                get(&at("a")),
            ],
        ),
        case(
            "finalizers-grace",
            [
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "finalizers": ["example.com/x"]}}),
                ),
                delete_with(
                    &at("a"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "gracePeriodSeconds": 30}),
                ),
                patch(MERGE, &at("a"), json!({"metadata": {"finalizers": []}})),
            ],
        ),
        case(
            "delete-collection",
            [
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "labels": {"g": "1"}}}),
                ),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "b", "labels": {"g": "2"}}}),
                ),
                delete(&format!("{WIDGETS}?labelSelector=g%3D1")),
                get(&at("a")),
                get(&at("b")),
                delete(WIDGETS),
                get(&at("b")),
            ],
        ),
    ]
}

fn owners() -> Vec<Case> {
    let child = |name: &str| format!("{CONFIG_MAPS}/{name}");
    vec![
        case(
            "owner-background",
            [
                post(WIDGETS, widget("owner", json!({}))).keep("uid", "/metadata/uid"),
                post(CONFIG_MAPS, owned("child", true)),
                delete_with(
                    &at("owner"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "propagationPolicy": "Background"}),
                ),
                get(&at("owner")),
                gone(&child("child")),
            ],
        ),
        case(
            "owner-orphan",
            [
                post(WIDGETS, widget("owner", json!({}))).keep("uid", "/metadata/uid"),
                post(CONFIG_MAPS, owned("child", true)),
                delete_with(
                    &at("owner"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "propagationPolicy": "Orphan"}),
                ),
                gone(&at("owner")),
                get(&child("child")),
            ],
        ),
        case(
            "owner-foreground",
            [
                post(WIDGETS, widget("owner", json!({}))).keep("uid", "/metadata/uid"),
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "child", "finalizers": ["example.com/x"],
                "ownerReferences": [{"apiVersion": "example.com/v1", "kind": "Widget",
                    "name": "owner", "uid": "{uid}", "controller": true,
                    "blockOwnerDeletion": true}]}}),
                ),
                delete_with(
                    &at("owner"),
                    json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "propagationPolicy": "Foreground"}),
                ),
                get(&child("child")).until(|_, body| body.contains("deletionTimestamp")),
                get(&at("owner")),
                patch(
                    MERGE,
                    &child("child"),
                    json!({"metadata": {"finalizers": null}}),
                ),
                gone(&child("child")),
                gone(&at("owner")),
            ],
        ),
        case(
            "owner-missing",
            [
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "child", "ownerReferences": [{"apiVersion": "example.com/v1",
                    "kind": "Widget", "name": "never", "uid": "never-was"}]}}),
                ),
                gone(&child("child")),
            ],
        ),
        case(
            "two-controllers",
            [
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "child", "ownerReferences": [
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "1", "controller": true},
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "uid": "2", "controller": true}]}}),
                ),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "child", "ownerReferences": [
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "a"}]}}),
                ),
            ],
        ),
    ]
}
