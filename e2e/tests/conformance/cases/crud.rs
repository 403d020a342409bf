//! Create, read, replace: names, versions, conflicts, dry runs, what a body may be.

use http::Method;
use serde_json::json;

use super::{CONFIG_MAPS, WIDGETS, at, config_map, widget};
use crate::case::{Case, JSON, MERGE, case, delete, get, patch, post, put, raw};

pub(crate) fn cases() -> Vec<Case> {
    let mut all = names();
    all.extend(bodies());
    all.extend(versions());
    all
}

fn names() -> Vec<Case> {
    vec![
        case(
            "create",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                get(&at("a")),
                post(WIDGETS, widget("a", json!({}))),
            ],
        ),
        case(
            "create-builtin",
            [
                post(CONFIG_MAPS, config_map("a", json!({"k": "v"}))),
                get(&format!("{CONFIG_MAPS}/a")),
                post(CONFIG_MAPS, config_map("a", json!({}))),
            ],
        ),
        case(
            "create-without-name",
            [
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget"}),
                ),
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v1", "kind": "ConfigMap"}),
                ),
            ],
        ),
        case(
            "create-bad-name",
            [
                post(WIDGETS, widget("Not_A_Name", json!({}))),
                post(CONFIG_MAPS, config_map("Not_A_Name", json!({}))),
            ],
        ),
        case(
            "create-in-missing-namespace",
            [
                post(
                    "/apis/example.com/v1/namespaces/nowhere/widgets",
                    widget("a", json!({})),
                ),
                post(
                    "/api/v1/namespaces/nowhere/configmaps",
                    config_map("a", json!({})),
                ),
            ],
        ),
        case(
            "create-namespace-differs",
            [post(
                WIDGETS,
                json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "namespace": "elsewhere"}}),
            )],
        ),
        case(
            "create-cluster-scoped",
            [
                post(
                    "/apis/example.com/v1/gadgets",
                    json!({"apiVersion": "example.com/v1",
                "kind": "Gadget", "metadata": {"name": "one"}, "anything": {"goes": 1}}),
                ),
                get("/apis/example.com/v1/gadgets/one"),
                delete("/apis/example.com/v1/gadgets/one"),
            ],
        ),
        case(
            "get-missing",
            [
                get(&at("none")),
                get(&format!("{CONFIG_MAPS}/none")),
                get("/apis/example.com/v1/namespaces/{ns}/gizmos"),
                get("/apis/example.org/v1/namespaces/{ns}/widgets"),
                get("/nothing/here"),
            ],
        ),
        case(
            "generate-name",
            [
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"generateName": "made-"}}),
                )
                .keep("made", "/metadata/name"),
                get(&at("{made}")),
            ],
        )
        .without_value("made"),
    ]
}

fn bodies() -> Vec<Case> {
    vec![
        case(
            "body-not-json",
            [raw(Method::POST, WIDGETS, JSON, "{not json")],
        ),
        case("body-empty", [raw(Method::POST, WIDGETS, JSON, "")]),
        case(
            "body-wrong-kind",
            [
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Gizmo",
                "metadata": {"name": "a"}}),
                ),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v2", "kind": "Widget",
                "metadata": {"name": "a"}}),
                ),
                post(WIDGETS, json!({"metadata": {"name": "a"}})),
            ],
        ),
        case(
            "body-not-an-object",
            [
                raw(Method::POST, WIDGETS, JSON, "[1]"),
                raw(Method::POST, WIDGETS, JSON, "hello"),
                raw(Method::POST, WIDGETS, JSON, "{\"apiVersion\": 1 2}"),
            ],
        ),
        case(
            "body-of-another-builtin-kind",
            [
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}),
                ),
                post(CONFIG_MAPS, json!({"metadata": {"name": "a"}})),
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
                "data": {"a": 1}}),
                ),
            ],
        ),
        case(
            "duplicate-fields",
            [
                raw(
                    Method::POST,
                    WIDGETS,
                    JSON,
                    "{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\
                 \"metadata\":{\"name\":\"e\"},\"spec\":{\"size\":1,\"size\":2,\"sizzle\":1}}",
                ),
                raw(
                    Method::PATCH,
                    &at("e"),
                    MERGE,
                    "{\"spec\":{\"size\":1,\"size\":3}}",
                ),
            ],
        ),
        case(
            "long-manager",
            [post(
                &format!("{WIDGETS}?fieldManager={}", "m".repeat(129)),
                widget("a", json!({})),
            )],
        ),
        case(
            "bad-finalizers",
            [
                post(WIDGETS, widget("a", json!({}))),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"finalizers": ["not a finalizer", "unqualified"]}}),
                ),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"finalizers": ["unqualified"]}}),
                ),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"finalizers": null, "labels": {"x": "not a value"}}}),
                ),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"metadata": {"finalizers": null, "annotations": {"a/b/c": "x", "d e": "x"}}}),
                ),
            ],
        ),
        case(
            "body-wrong-content-type",
            [raw(Method::POST, WIDGETS, "text/plain", "hello")],
        ),
        case(
            "body-yaml",
            [raw(
                Method::POST,
                WIDGETS,
                "application/yaml",
                "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\n",
            )],
        ),
        case("accept-unknown", [get(WIDGETS).accept("text/html")]),
        case(
            "method-not-allowed",
            [
                raw(Method::PUT, WIDGETS, JSON, "{}"),
                raw(Method::POST, &at("a"), JSON, "{}"),
            ],
        ),
        case(
            "server-sets-metadata",
            [post(
                WIDGETS,
                json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z",
                    "generation": 7, "deletionTimestamp": "2001-01-01T00:00:00Z",
                    "labels": {"x": "y"}, "annotations": {"x": "y"}},
                "status": {"phase": "Mine"}}),
            )],
        ),
        case(
            "create-with-version",
            [post(
                WIDGETS,
                json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "7"}}),
            )],
        ),
        case(
            "bad-labels",
            [
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "labels": {"bad key!": "x", "ok": "bad value!"}}}),
                ),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "finalizers": ["unqualified", "a.example.com", "example.com/a"]}}),
                ),
            ],
        ),
    ]
}

fn versions() -> Vec<Case> {
    vec![
        case(
            "replace",
            [
                post(WIDGETS, widget("a", json!({"size": 2})))
                    .keep("rv", "/metadata/resourceVersion"),
                put(
                    &at("a"),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "{rv}"}, "spec": {"size": 3}}),
                ),
                put(
                    &at("a"),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "{rv}"}, "spec": {"size": 4}}),
                ),
                put(&at("a"), widget("a", json!({"size": 5}))),
            ],
        ),
        case(
            "replace-builtin",
            [
                post(CONFIG_MAPS, config_map("a", json!({"k": "v"})))
                    .keep("rv", "/metadata/resourceVersion"),
                put(
                    &format!("{CONFIG_MAPS}/a"),
                    config_map("a", json!({"k": "w"})),
                ),
                put(
                    &format!("{CONFIG_MAPS}/a"),
                    json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "a", "resourceVersion": "{rv}"}}),
                ),
            ],
        ),
        case(
            "replace-missing",
            [
                put(&at("none"), widget("none", json!({}))),
                put(
                    &format!("{CONFIG_MAPS}/none"),
                    config_map("none", json!({})),
                ),
            ],
        ),
        case(
            "replace-other-name",
            [
                post(WIDGETS, widget("a", json!({}))),
                put(&at("a"), widget("b", json!({}))),
            ],
        ),
        case(
            "replace-other-uid",
            [
                post(WIDGETS, widget("a", json!({}))).keep("rv", "/metadata/resourceVersion"),
                put(
                    &at("a"),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "{rv}", "uid": "other"}}),
                ),
            ],
        ),
        case(
            "replace-same-changes-nothing",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                get(&at("a")).keep("first", "/metadata/resourceVersion"),
                put(
                    &at("a"),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "{first}"},
                "spec": {"size": 2, "colour": "red", "nested": {"must": "here"}}}),
                ),
                put(
                    &at("a"),
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                "metadata": {"name": "a", "resourceVersion": "{first}"},
                "spec": {"size": 2, "colour": "red", "nested": {"must": "here"}}}),
                ),
            ],
        ),
        case(
            "dry-run",
            [
                post(
                    &format!("{WIDGETS}?dryRun=All"),
                    widget("a", json!({"size": 2})),
                ),
                get(&at("a")),
                post(WIDGETS, widget("a", json!({}))),
                put(
                    &format!("{}?dryRun=All", at("a")),
                    widget("a", json!({"size": 9})),
                ),
                delete(&format!("{}?dryRun=All", at("a"))),
                get(&at("a")),
                post(&format!("{WIDGETS}?dryRun=Some"), widget("b", json!({}))),
            ],
        ),
        case(
            "field-validation",
            [
                post(
                    &format!("{WIDGETS}?fieldValidation=Strict"),
                    widget("a", json!({"sizzle": 2})),
                ),
                post(
                    &format!("{WIDGETS}?fieldValidation=Warn"),
                    widget("b", json!({"sizzle": 2})),
                ),
                post(
                    &format!("{WIDGETS}?fieldValidation=Ignore"),
                    widget("c", json!({"sizzle": 2})),
                ),
                post(
                    &format!("{WIDGETS}?fieldValidation=Sometimes"),
                    widget("d", json!({})),
                ),
                raw(
                    Method::POST,
                    &format!("{WIDGETS}?fieldValidation=Strict"),
                    JSON,
                    "{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\
                 \"metadata\":{\"name\":\"e\"},\"spec\":{\"size\":1,\"size\":2}}",
                ),
                post(
                    &format!("{CONFIG_MAPS}?fieldValidation=Strict"),
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
                    "date": {}}),
                ),
            ],
        ),
        case(
            "secret-string-data",
            [
                post(
                    "/api/v1/namespaces/{ns}/secrets",
                    json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "s"}, "stringData": {"a": "b"}}),
                ),
                post(
                    "/api/v1/namespaces/{ns}/secrets",
                    json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "t"}, "data": {"a": "not base64!"}}),
                ),
            ],
        ),
        case(
            "immutable-config-map",
            [
                post(
                    CONFIG_MAPS,
                    json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "a"}, "data": {"k": "v"}, "immutable": true}),
                ),
                put(
                    &format!("{CONFIG_MAPS}/a"),
                    config_map("a", json!({"k": "w"})),
                ),
            ],
        ),
    ]
}
