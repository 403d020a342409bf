//! Lists: selectors, limit and continue, versions.

use serde_json::json;

use super::{CONFIG_MAPS, WIDGETS, at, widget};
use crate::case::{Case, MERGE, Step, case, compact, get, patch, post, watch};

fn labelled(name: &str, group: &str, colour: &str) -> Step {
    post(
        WIDGETS,
        json!({"apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "labels": {"group": group}}, "spec": {"colour": colour}}),
    )
}

fn filled() -> [Step; 4] {
    [
        labelled("a", "one", "red"),
        labelled("b", "two", "green"),
        labelled("c", "two", "red"),
        post(WIDGETS, widget("d", json!({}))),
    ]
}

fn with(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    filled().into_iter().chain(steps).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let selector = |text: &str| get(&format!("{WIDGETS}?labelSelector={text}"));
    let field = |text: &str| get(&format!("{WIDGETS}?fieldSelector={text}"));
    vec![
        case("list-empty", [get(WIDGETS)]),
        case(
            "label-selectors-refused",
            [
                "a in b",
                "a in (b c)",
                "a in ()",
                "a=b=c",
                "=x",
                "a=b,",
                "a>x",
                "a=b!",
                "Bad!Key",
                "bad/key/name=x",
                "a in (b,,c)",
                "a notin (",
                "!a=b",
                "a=-",
                ",a",
            ]
            .map(|text| {
                let encode = |byte: u8| format!("%{byte:02X}");
                let text: String = text.bytes().map(encode).collect();
                get(&format!("{WIDGETS}?labelSelector={text}"))
            }),
        ),
        case(
            "get-versions",
            [
                post(WIDGETS, widget("a", json!({}))),
                get(&format!("{}?resourceVersion=x", at("a"))),
                get(&format!("{}?resourceVersion=0", at("a"))),
            ],
        ),
        case("list", with([get(WIDGETS)])),
        case(
            "label-selectors",
            with([
                selector("group%3Dtwo"),
                selector("group%3D%3Done"),
                selector("group!%3Dtwo"),
                selector("group"),
                selector("!group"),
                selector("group%20in%20(one,three)"),
                selector("group%20notin%20(one)"),
                selector("group%3Dtwo,nothing"),
                selector("group%20in%20("),
                selector("bad%20key%20!%3D%20x"),
            ]),
        ),
        case(
            "field-selectors",
            with([
                field("metadata.name%3Db"),
                field("metadata.name!%3Db"),
                field("metadata.namespace%3D{ns}"),
                field("spec.colour%3Dred"),
                field("spec.colour!%3Dred,metadata.name!%3Dd"),
                field("spec.size%3D1"),
                field("nonsense"),
            ]),
        ),
        case(
            "field-selector-builtin",
            [
                get(&format!("{CONFIG_MAPS}?fieldSelector=data.k%3Dv")),
                get("/api/v1/namespaces/{ns}/secrets?fieldSelector=type%3DOpaque"),
            ],
        ),
        case(
            "limit-and-continue",
            with([
                get(&format!("{WIDGETS}?limit=2")).keep("next", "/metadata/continue"),
                patch(MERGE, &at("d"), json!({"spec": {"size": 9}})),
                get(&format!("{WIDGETS}?limit=2&continue={{next}}")),
                get(&format!("{WIDGETS}?limit=2&continue=nonsense")),
                get(&format!("{WIDGETS}?limit=100")),
                get(&format!("{WIDGETS}?limit=x")),
            ]),
        ),
        case(
            "compaction",
            with([
                get(&format!("{WIDGETS}?limit=2"))
                    .keep("next", "/metadata/continue")
                    .keep("rv", "/metadata/resourceVersion"),
                patch(MERGE, &at("d"), json!({"spec": {"size": 9}})),
                compact(),
                // A real server's caches learn of it within 15 s.
                get(&format!("{WIDGETS}?limit=2&continue={{next}}"))
                    .until(|status, _| status == 410)
                    .keep("again", "/metadata/continue"),
                get(&format!("{WIDGETS}?limit=2&continue={{again}}")),
                get(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&resourceVersionMatch=Exact"
                )),
                get(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&resourceVersionMatch=NotOlderThan"
                )),
                watch(&format!("{WIDGETS}?resourceVersion=1")),
            ]),
        )
        .alone(),
        case(
            "list-versions",
            with([
                get(&at("d")).keep("rv", "/metadata/resourceVersion"),
                get(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&resourceVersionMatch=NotOlderThan&labelSelector=group%3Done"
                )),
                get(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&resourceVersionMatch=Exact&labelSelector=group%3Done"
                )),
                get(&format!("{WIDGETS}?resourceVersionMatch=Exact")),
                get(&format!(
                    "{WIDGETS}?resourceVersion=0&resourceVersionMatch=Exact"
                )),
                get(&format!("{WIDGETS}?resourceVersion=x")),
                get(&format!(
                    "{WIDGETS}?resourceVersion={{rv}}&resourceVersionMatch=Sometimes"
                )),
            ]),
        ),
        case(
            "list-all-namespaces",
            with([get(
                "/apis/example.com/v1/widgets?fieldSelector=metadata.namespace%3D{ns}&labelSelector=group",
            )]),
        ),
    ]
}
