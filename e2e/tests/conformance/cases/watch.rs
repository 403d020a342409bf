//! Watches: from now, from a version, with selectors, bookmarks, initial events, too old.

use serde_json::json;

use super::{WIDGETS, at, widget};
use crate::case::{Case, MERGE, Step, case, delete, get, patch, post, watch};

/// An object that is made, changed and deleted; its first version is kept as `rv`.
fn life() -> Vec<Step> {
    vec![
        get(WIDGETS).keep("rv", "/metadata/resourceVersion"),
        post(WIDGETS, widget("a", json!({}))),
        patch(MERGE, &at("a"), json!({"metadata": {"labels": {"l": "1"}}})),
        patch(MERGE, &at("a"), json!({"spec": {"size": 2}})),
        patch(MERGE, &at("a"), json!({"metadata": {"labels": {"l": "2"}}})),
        delete(&at("a")),
    ]
}

fn then(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    life().into_iter().chain(steps).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "watch-from-version",
            then([watch(&format!("{WIDGETS}?resourceVersion={{rv}}"))]),
        ),
        case(
            "watch-label-selector",
            then([
                watch(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&labelSelector=l%3D1"
                )),
                watch(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&labelSelector=!l"
                )),
            ]),
        ),
        case(
            "watch-field-selector",
            then([
                watch(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&fieldSelector=metadata.name%3Da"
                )),
                watch(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&fieldSelector=metadata.name%3Db"
                )),
            ]),
        ),
        case(
            "watch-from-now",
            [
                post(WIDGETS, widget("a", json!({}))),
                watch(&format!("{WIDGETS}?resourceVersion=0")),
                watch(&format!("{WIDGETS}?x=y")),
            ],
        ),
        case(
            "watch-initial-events",
            [
                post(WIDGETS, widget("a", json!({}))),
                watch(&format!(
                    "{WIDGETS}?sendInitialEvents=true&allowWatchBookmarks=true\
                &resourceVersionMatch=NotOlderThan"
                )),
                watch(&format!(
                    "{WIDGETS}?sendInitialEvents=true&allowWatchBookmarks=true"
                )),
                watch(&format!(
                    "{WIDGETS}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
                )),
            ],
        ),
        case(
            "watch-bad-versions",
            [
                watch(&format!("{WIDGETS}?resourceVersion=x")),
                watch(&format!(
                    "{WIDGETS}?resourceVersion=1&resourceVersionMatch=Exact"
                )),
            ],
        ),
        case(
            "watch-status-and-finalizers",
            [
                get(WIDGETS).keep("rv", "/metadata/resourceVersion"),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "finalizers": ["example.com/x"]}}),
                ),
                patch(
                    MERGE,
                    &format!("{}/status", at("a")),
                    json!({"status": {"phase": "x"}}),
                ),
                delete(&at("a")),
                patch(MERGE, &at("a"), json!({"metadata": {"finalizers": null}})),
                watch(&format!("{WIDGETS}?resourceVersion={{rv}}")),
            ],
        ),
        case(
            "watch-one",
            [
                post(WIDGETS, widget("a", json!({}))).keep("rv", "/metadata/resourceVersion"),
                patch(MERGE, &at("a"), json!({"spec": {"size": 2}})),
                watch(&format!("{}?resourceVersion={{rv}}", at("a"))),
            ],
        ),
    ]
}
