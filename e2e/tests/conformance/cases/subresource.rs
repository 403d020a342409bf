//! Status and scale.

use serde_json::json;

use super::{CONFIG_MAPS, WIDGETS, at, config_map, widget};
use crate::case::{Case, MERGE, case, get, patch, post, put};

pub(crate) fn cases() -> Vec<Case> {
    let status = |name: &str| format!("{}/status", at(name));
    let scale = |name: &str| format!("{}/scale", at(name));
    vec![
        case(
            "status",
            [
                post(WIDGETS, widget("a", json!({"size": 2})))
                    .keep("rv", "/metadata/resourceVersion"),
                put(
                    &status("a"),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "{rv}", "labels": {"l": "1"}},
                "spec": {"size": 9}, "status": {"phase": "Done"}}),
                ),
                get(&status("a")),
                patch(MERGE, &status("a"), json!({"status": {"phase": 7}})),
                patch(MERGE, &status("a"), json!({"status": {"unknown": 7}})),
                patch(MERGE, &status("none"), json!({"status": {}})),
            ],
        ),
        case(
            "status-metadata",
            [
                post(WIDGETS, widget("a", json!({}))),
                patch(
                    MERGE,
                    &status("a"),
                    json!({"metadata": {"labels": {"l": "1"},
                "annotations": {"n": "1"}, "finalizers": ["example.com/f"]}}),
                ),
                get(&at("a")),
            ],
        ),
        case(
            "no-status-subresource",
            [
                post(CONFIG_MAPS, config_map("a", json!({}))),
                get(&format!("{CONFIG_MAPS}/a/status")),
                patch(MERGE, "/apis/example.com/v1/gadgets/none/status", json!({})),
            ],
        ),
        case(
            "scale",
            [
                post(WIDGETS, widget("a", json!({"replicas": 2}))),
                patch(
                    MERGE,
                    &status("a"),
                    json!({"status": {"replicas": 1, "selector": "x=y"}}),
                ),
                get(&scale("a")).keep("rv", "/metadata/resourceVersion"),
                put(
                    &scale("a"),
                    json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
                "metadata": {"name": "a", "namespace": "{ns}", "resourceVersion": "{rv}"},
                "spec": {"replicas": 5}}),
                ),
                put(
                    &scale("a"),
                    json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
                "metadata": {"name": "a", "namespace": "{ns}", "resourceVersion": "{rv}"},
                "spec": {"replicas": 6}}),
                ),
                patch(MERGE, &scale("a"), json!({"spec": {"replicas": 3}})),
                patch(MERGE, &scale("a"), json!({"spec": {"replicas": -1}})),
                get(&at("a")),
            ],
        ),
        case(
            "scale-refused",
            [
                post(WIDGETS, widget("a", json!({}))),
                patch(MERGE, &scale("a"), json!({"spec": {"replicas": 3}})),
                patch(
                    MERGE,
                    &scale("a"),
                    json!({"spec": {"replicas": 3_000_000_000_i64}}),
                ),
                patch(MERGE, &status("a"), json!({"status": {"replicas": -1}})),
                post(WIDGETS, widget("b", json!({"replicas": -1}))),
                patch(MERGE, &scale("none"), json!({"spec": {"replicas": 3}})),
            ],
        ),
        case(
            "scale-without-replicas",
            [
                post(WIDGETS, widget("a", json!({}))),
                get(&scale("a")),
                get(&scale("none")),
                get(&format!("{CONFIG_MAPS}/a/scale")),
            ],
        ),
    ]
}
