//! Merge, JSON and strategic patches.

use http::Method;
use serde_json::json;

use super::{CONFIG_MAPS, WIDGETS, at, config_map, widget};
use crate::case::{APPLY, Case, JSON, JSON_PATCH, MERGE, STRATEGIC, case, get, patch, post, raw};

pub(crate) fn cases() -> Vec<Case> {
    let mut all = merge();
    all.extend(json_patch());
    all.extend(strategic());
    all
}

fn merge() -> Vec<Case> {
    vec![
        case(
            "merge-patch",
            [
                post(
                    WIDGETS,
                    widget(
                        "a",
                        json!({"size": 2, "words": ["x", "y"],
                "settings": {"a": "1", "b": "2"}}),
                    ),
                ),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"spec": {"words": ["z"], "settings": {"a": null, "c": "3"}}}),
                ),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"labels": {"l": "1"}, "annotations": {"n": "1"}}}),
                ),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"labels": {"l": null}}}),
                ),
            ],
        ),
        case(
            "merge-patch-null-goes-back-to-the-default",
            [
                post(WIDGETS, widget("a", json!({"size": 7}))),
                patch(MERGE, &at("a"), json!({"spec": {"size": null}})),
            ],
        ),
        case(
            "merge-patch-version",
            [
                post(WIDGETS, widget("a", json!({}))).keep("rv", "/metadata/resourceVersion"),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"resourceVersion": "{rv}"}, "spec": {"size": 2}}),
                ),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"resourceVersion": "{rv}"}, "spec": {"size": 3}}),
                ),
                patch(MERGE, &at("a"), json!({"metadata": {"uid": "other"}})),
                patch(MERGE, &at("a"), json!({"metadata": {"name": "b"}})),
            ],
        ),
        case(
            "merge-patch-missing",
            [
                patch(MERGE, &at("none"), json!({"spec": {}})),
                patch(MERGE, &format!("{CONFIG_MAPS}/none"), json!({"data": {}})),
            ],
        ),
        case(
            "merge-patch-invalid",
            [
                post(WIDGETS, widget("a", json!({}))),
                patch(MERGE, &at("a"), json!({"spec": {"size": "large"}})),
                patch(MERGE, &at("a"), json!({"spec": {"size": 1000}})),
                patch(MERGE, &at("a"), json!([1])),
                raw(Method::PATCH, &at("a"), MERGE, "{not json"),
                raw(Method::PATCH, &at("a"), JSON, "{}"),
            ],
        ),
        case(
            "merge-patch-changes-nothing",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                patch(MERGE, &at("a"), json!({"spec": {"size": 2}})),
                patch(MERGE, &at("a"), json!({})),
            ],
        ),
        case(
            "merge-patch-status-is-not-spec",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                patch(MERGE, &at("a"), json!({"status": {"phase": "Done"}})),
                patch(
                    MERGE,
                    &format!("{}/status", at("a")),
                    json!({"spec": {"size": 9}, "status": {"phase": "Done"}}),
                ),
            ],
        ),
        case(
            "merge-patch-unknown-field",
            [
                post(WIDGETS, widget("a", json!({}))),
                patch(
                    MERGE,
                    &format!("{}?fieldValidation=Strict", at("a")),
                    json!({"spec": {"sizzle": 1}}),
                ),
                patch(
                    MERGE,
                    &format!("{}?fieldValidation=Warn", at("a")),
                    json!({"spec": {"sizzle": 1}}),
                ),
            ],
        ),
        case(
            "merge-patch-builtin",
            [
                post(CONFIG_MAPS, config_map("a", json!({"k": "v", "l": "w"}))),
                patch(
                    MERGE,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"data": {"k": null, "m": "x"}}),
                ),
                patch(
                    MERGE,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"data": {"m": 7}}),
                ),
            ],
        ),
    ]
}

fn json_patch() -> Vec<Case> {
    vec![
        case(
            "json-patch",
            [
                post(
                    WIDGETS,
                    widget("a", json!({"size": 2, "words": ["x", "y"]})),
                ),
                patch(
                    JSON_PATCH,
                    &at("a"),
                    json!([
                {"op": "test", "path": "/spec/size", "value": 2},
                {"op": "replace", "path": "/spec/size", "value": 3},
                {"op": "add", "path": "/spec/words/-", "value": "z"},
                {"op": "remove", "path": "/spec/words/0"},
                {"op": "copy", "from": "/spec/words/0", "path": "/spec/pattern"},
                {"op": "add", "path": "/metadata/labels", "value": {"a~b": "c"}}]),
                ),
                get(&at("a")),
            ],
        ),
        case(
            "json-patch-fails",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                patch(
                    JSON_PATCH,
                    &at("a"),
                    json!([{"op": "test", "path": "/spec/size", "value": 9}]),
                ),
                patch(
                    JSON_PATCH,
                    &at("a"),
                    json!([{"op": "remove", "path": "/spec/none"}]),
                ),
                patch(
                    JSON_PATCH,
                    &at("a"),
                    json!([{"op": "replace", "path": "/spec/none", "value": 1}]),
                ),
                patch(
                    JSON_PATCH,
                    &at("a"),
                    json!([{"op": "spin", "path": "/spec/size"}]),
                ),
                patch(JSON_PATCH, &at("a"), json!({"op": "test"})),
            ],
        ),
    ]
}

fn strategic() -> Vec<Case> {
    vec![
        case(
            "strategic-patch-of-a-custom-kind",
            [
                post(WIDGETS, widget("a", json!({}))),
                patch(STRATEGIC, &at("a"), json!({"spec": {"size": 2}})),
            ],
        ),
        case(
            "strategic-patch",
            [
                // An owner that is there: others would be collected.
                post(CONFIG_MAPS, config_map("x", json!({}))).keep("uid", "/metadata/uid"),
                post(CONFIG_MAPS, config_map("a", json!({"k": "v", "l": "w"}))),
                patch(
                    STRATEGIC,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"data": {"k": null, "m": "x"}}),
                ),
                patch(
                    STRATEGIC,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"data": {"$patch": "replace", "only": "me"}}),
                ),
                patch(
                    STRATEGIC,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"metadata": {"finalizers": ["example.com/a"]}}),
                ),
                patch(
                    STRATEGIC,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"metadata": {"finalizers": ["example.com/b"]}}),
                ),
                patch(
                    STRATEGIC,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}),
                ),
                patch(
                    STRATEGIC,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"metadata": {"ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "{uid}"}]}}),
                ),
                patch(
                    STRATEGIC,
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"metadata": {"ownerReferences": [
                {"$patch": "delete", "uid": "{uid}"}]}}),
                ),
            ],
        ),
        case(
            "unknown-patch-type",
            [
                post(WIDGETS, widget("a", json!({}))),
                raw(
                    Method::PATCH,
                    &at("a"),
                    "application/fancy-patch+json",
                    "{}",
                ),
                raw(Method::PATCH, &at("a"), APPLY, "{}"),
            ],
        ),
    ]
}
