//! Custom kinds: pruning, defaulting, validation, CEL.

use serde_json::json;

use super::{WIDGETS, at, widget};
use crate::case::{Case, MERGE, case, patch, post};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "defaults",
            [
                post(WIDGETS, widget("a", json!({}))),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "b"}}),
                ),
                post(
                    WIDGETS,
                    widget(
                        "c",
                        json!({"parts": [{"name": "x"}], "nested": {"deep": {}}}),
                    ),
                ),
                post(
                    WIDGETS,
                    widget("d", json!({"size": null, "maybe": null, "colour": null})),
                ),
            ],
        ),
        case(
            "pruning",
            [
                post(
                    WIDGETS,
                    widget(
                        "a",
                        json!({"unknown": 1, "nested": {"other": 1, "deep": {"x": 1}},
                "parts": [{"name": "x", "colour": "red"}], "free": {"any": {"thing": [1, 2]}}}),
                    ),
                ),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "b", "unknown": 1}, "extra": true}),
                ),
            ],
        ),
        case(
            "types",
            [
                post(WIDGETS, widget("a", json!({"size": "2"}))),
                post(WIDGETS, widget("a", json!({"size": 1.5}))),
                post(WIDGETS, widget("a", json!({"on": "true"}))),
                post(WIDGETS, widget("a", json!({"words": "x"}))),
                post(WIDGETS, widget("a", json!({"words": [1, {"a": 2}]}))),
                post(WIDGETS, widget("a", json!({"settings": {"a": 1}}))),
                post(WIDGETS, widget("a", json!("text"))),
                post(WIDGETS, widget("a", json!({"amount": true}))),
                post(WIDGETS, widget("a", json!({"when": "yesterday"}))),
                post(WIDGETS, widget("a", json!({"replicas": 1.5}))),
                post(
                    WIDGETS,
                    widget("a", json!({"nested": {"deep": {"value": 1.5}}})),
                ),
                post(WIDGETS, widget("a", json!({"amount": 1.5}))),
                post(WIDGETS, widget("a", json!({"share": 1.5}))),
            ],
        ),
        case(
            "int-or-string",
            [
                post(WIDGETS, widget("a", json!({"amount": 5}))),
                post(WIDGETS, widget("b", json!({"amount": "5"}))),
                post(
                    WIDGETS,
                    widget("c", json!({"when": "2026-01-01T00:00:00Z", "ratio": 0.5})),
                ),
            ],
        ),
        case(
            "bounds",
            [
                post(WIDGETS, widget("a", json!({"size": -1}))),
                post(WIDGETS, widget("a", json!({"size": 101}))),
                post(WIDGETS, widget("a", json!({"fixed": "longer than ten"}))),
                post(WIDGETS, widget("a", json!({"pattern": "UPPER"}))),
                post(WIDGETS, widget("a", json!({"colour": "pink"}))),
                post(
                    WIDGETS,
                    widget(
                        "a",
                        json!({"parts": [{"name": "a"}, {"name": "b"}, {"name": "c"},
                {"name": "d"}, {"name": "e"}]}),
                    ),
                ),
                post(WIDGETS, widget("a", json!({"parts": [{"weight": 1}]}))),
                post(
                    WIDGETS,
                    widget("a", json!({"parts": [{"name": "x"}, {"name": "x"}]})),
                ),
                post(WIDGETS, widget("a", json!({"tags": ["x", "x"]}))),
                post(
                    WIDGETS,
                    widget(
                        "a",
                        json!({"size": 101, "colour": "pink", "pattern": "UPPER"}),
                    ),
                ),
            ],
        ),
        case(
            "rules",
            [
                post(WIDGETS, widget("a", json!({"size": 11, "colour": "green"}))),
                post(WIDGETS, widget("a", json!({"ratio": 1.5}))),
                post(WIDGETS, widget("a", json!({"size": 11, "fixed": "x"}))),
                patch(MERGE, &at("a"), json!({"spec": {"fixed": "y"}})),
                patch(MERGE, &at("a"), json!({"spec": {"fixed": null}})),
                patch(MERGE, &at("a"), json!({"spec": {"fixed": "y"}})),
            ],
        ),
        case(
            "generation",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                patch(MERGE, &at("a"), json!({"metadata": {"labels": {"x": "y"}}})),
                patch(MERGE, &at("a"), json!({"spec": {"size": 3}})),
                patch(
                    MERGE,
                    &format!("{}/status", at("a")),
                    json!({"status": {"phase": "x"}}),
                ),
            ],
        ),
    ]
}
