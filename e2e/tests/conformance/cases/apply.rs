//! Server-side apply: ownership, conflicts, force, lists with keys, what goes when it is left out.

use serde_json::{Value, json};

use super::{CONFIG_MAPS, WIDGETS, at, config_map, widget};
use crate::case::{APPLY, Case, MERGE, Step, case, get, patch, post};

fn apply(manager: &str, name: &str, spec: Value) -> Step {
    patch(
        APPLY,
        &format!("{}?fieldManager={manager}", at(name)),
        widget(name, spec),
    )
}

fn force(manager: &str, name: &str, spec: Value) -> Step {
    let path = format!("{}?fieldManager={manager}&force=true", at(name));
    patch(APPLY, &path, widget(name, spec))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = owners();
    all.extend(lists());
    all.extend(refusals());
    all
}

fn owners() -> Vec<Case> {
    vec![
        case(
            "apply-creates",
            [
                apply("one", "a", json!({"size": 2})),
                apply("one", "a", json!({"size": 2})),
                apply("one", "a", json!({"size": 3})),
            ],
        ),
        case(
            "apply-conflict",
            [
                apply("one", "a", json!({"size": 2, "colour": "green"})),
                apply("two", "a", json!({"size": 3, "colour": "blue"})),
                force("two", "a", json!({"size": 3, "colour": "blue"})),
                apply("one", "a", json!({"size": 2})),
            ],
        ),
        case(
            "apply-shares",
            [
                apply("one", "a", json!({"size": 2})),
                apply("two", "a", json!({"size": 2, "colour": "green"})),
                apply("one", "a", json!({})),
                apply("two", "a", json!({})),
            ],
        ),
        case(
            "apply-removes-what-is-left-out",
            [
                apply(
                    "one",
                    "a",
                    json!({"settings": {"a": "1", "b": "2"}, "words": ["x"]}),
                ),
                apply("one", "a", json!({"settings": {"a": "1"}})),
                apply("one", "a", json!({})),
            ],
        ),
        case(
            "apply-after-update",
            [
                post(
                    &format!("{WIDGETS}?fieldManager=editor"),
                    widget("a", json!({"size": 2})),
                ),
                apply("one", "a", json!({"size": 3})),
                force("one", "a", json!({"size": 3})),
                patch(
                    MERGE,
                    &format!("{}?fieldManager=editor", at("a")),
                    json!({"spec": {"size": 4}}),
                ),
                apply("one", "a", json!({"size": 3})),
            ],
        ),
        case(
            "apply-metadata",
            [
                // An owner that is there: others would be collected.
                post(CONFIG_MAPS, config_map("n", json!({}))).keep("uid", "/metadata/uid"),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "labels": {"x": "1"}, "annotations": {"y": "2"},
                    "finalizers": ["example.com/f"],
                    "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "n",
                        "uid": "{uid}"}]}}),
                ),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=two", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "labels": {"x": "2"}}}),
                ),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "labels": {"x": "1"}}}),
                ),
            ],
        ),
        case(
            "apply-status",
            [
                apply("one", "a", json!({"size": 2})),
                patch(
                    APPLY,
                    &format!("{}/status?fieldManager=one", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
                "status": {"phase": "Done", "conditions": [{"type": "Ready", "status": "True"}]}}),
                ),
                patch(
                    APPLY,
                    &format!("{}/status?fieldManager=two", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
                "status": {"conditions": [{"type": "Paused", "status": "False"}]}}),
                ),
                patch(
                    APPLY,
                    &format!("{}/status?fieldManager=two", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
                "status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
                ),
                patch(
                    APPLY,
                    &format!("{}/status?fieldManager=two", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
                "status": {}}),
                ),
            ],
        ),
        case(
            "apply-dry-run",
            [
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one&dryRun=All", at("a")),
                    widget("a", json!({"size": 2})),
                ),
                get(&at("a")),
            ],
        ),
        case(
            "apply-builtin",
            [
                patch(
                    APPLY,
                    &format!("{CONFIG_MAPS}/a?fieldManager=one"),
                    config_map("a", json!({"k": "v"})),
                ),
                patch(
                    APPLY,
                    &format!("{CONFIG_MAPS}/a?fieldManager=two"),
                    config_map("a", json!({"k": "w"})),
                ),
                patch(
                    APPLY,
                    &format!("{CONFIG_MAPS}/a?fieldManager=two"),
                    config_map("a", json!({"l": "w"})),
                ),
                patch(
                    APPLY,
                    &format!("{CONFIG_MAPS}/a?fieldManager=one"),
                    config_map("a", json!({})),
                ),
            ],
        ),
    ]
}

fn lists() -> Vec<Case> {
    vec![
        case(
            "apply-list-with-keys",
            [
                apply(
                    "one",
                    "a",
                    json!({"parts": [{"name": "x", "weight": 2}, {"name": "y"}]}),
                ),
                apply("two", "a", json!({"parts": [{"name": "z", "weight": 5}]})),
                apply("one", "a", json!({"parts": [{"name": "x", "weight": 3}]})),
                apply("two", "a", json!({"parts": [{"name": "x", "weight": 9}]})),
                apply("one", "a", json!({"parts": []})),
            ],
        ),
        case(
            "apply-set",
            [
                apply("one", "a", json!({"tags": ["b", "a"]})),
                apply("two", "a", json!({"tags": ["c", "a"]})),
                apply("one", "a", json!({"tags": ["b"]})),
                apply("two", "a", json!({"tags": []})),
            ],
        ),
        case(
            "apply-atomic",
            [
                apply(
                    "one",
                    "a",
                    json!({"words": ["b", "a"], "whole": {"k": "v"}}),
                ),
                apply("two", "a", json!({"words": ["c"]})),
                apply("two", "a", json!({"whole": {"l": "w"}})),
                force("two", "a", json!({"words": ["c"], "whole": {"l": "w"}})),
            ],
        ),
        case(
            "apply-duplicate-keys",
            [
                apply("one", "a", json!({"parts": [{"name": "x"}, {"name": "x"}]})),
                apply("one", "a", json!({"tags": ["a", "a"]})),
            ],
        ),
    ]
}

fn refusals() -> Vec<Case> {
    vec![
        case(
            "apply-without-manager",
            [patch(APPLY, &at("a"), widget("a", json!({})))],
        ),
        case(
            "apply-without-kind",
            [patch(
                APPLY,
                &format!("{}?fieldManager=one", at("a")),
                json!({"metadata": {"name": "a"}}),
            )],
        ),
        case(
            "apply-other-name",
            [patch(
                APPLY,
                &format!("{}?fieldManager=one", at("a")),
                widget("b", json!({})),
            )],
        ),
        case(
            "apply-managed-fields",
            [patch(
                APPLY,
                &format!("{}?fieldManager=one", at("a")),
                json!({
                "apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "managedFields": [{"manager": "one"}]}}),
            )],
        ),
        case(
            "apply-unknown-field",
            [
                apply("one", "a", json!({"sizzle": 1})),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one&fieldValidation=Strict", at("a")),
                    widget("a", json!({"sizzle": 1})),
                ),
            ],
        ),
        case(
            "apply-undeclared",
            [
                apply(
                    "one",
                    "a",
                    json!({"nested": {"other": 1}, "parts": [{"name": "x", "colour": 1}]}),
                ),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("a")),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "labelz": {}}}),
                ),
                patch(
                    APPLY,
                    &format!("{}/status?fieldManager=one", at("none")),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "none"}, "status": {}}),
                ),
                apply("one", "a", json!({})),
                patch(
                    APPLY,
                    &format!("{}/status?fieldManager=one", at("a")),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a"}, "status": {"conditions": [{"type": "T", "status": "True", "why": "x"}]}}),
                ),
                patch(
                    APPLY,
                    &format!("{CONFIG_MAPS}/a?fieldManager=one"),
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
                "date": {}}),
                ),
            ],
        ),
        case(
            "apply-null",
            [
                apply(
                    "one",
                    "a",
                    json!({"size": null, "maybe": null, "pattern": null}),
                ),
                apply("one", "a", json!({"size": 2, "pattern": "x"})),
                apply("two", "a", json!({"settings": null, "pattern": null})),
            ],
        ),
        case(
            "apply-wrong-kind",
            [
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("a")),
                    json!({"apiVersion": "example.com/v1", "kind": "Gizmo", "metadata": {"name": "a"}}),
                ),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("a")),
                    json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "a"}}),
                ),
            ],
        ),
        case(
            "apply-uid",
            [
                apply("one", "a", json!({"size": 2})),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("a")),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "uid": "7"}, "spec": {"size": 2}}),
                ),
            ],
        ),
        case(
            "apply-invalid",
            [
                apply("one", "a", json!({"size": "large"})),
                apply("one", "a", json!({"size": 1000})),
                apply("one", "a", json!({"size": 20, "colour": "blue"})),
            ],
        ),
        case(
            "apply-version",
            [
                apply("one", "a", json!({"size": 2})).keep("rv", "/metadata/resourceVersion"),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("a")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"size": 3}}),
                ),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one", at("none")),
                    json!({
                "apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "none", "uid": "7"}}),
                ),
            ],
        ),
    ]
}
