//! Server-side apply through the server: creation, conflicts, force, subresources.

use serde_json::{Value, json};

use super::{
    raw::{Got, Raw, WIDGETS},
    server,
};

async fn apply(raw: &Raw, path: &str, manager: &str, object: &Value) -> Got {
    let uri = format!("{WIDGETS}/{path}fieldManager={manager}");
    raw.send(
        "PATCH",
        &uri,
        "application/apply-patch+yaml",
        &object.to_string(),
    )
    .await
}

fn widget(spec: &Value) -> Value {
    json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec})
}

#[tokio::test(start_paused = true)]
async fn an_apply_creates_owns_and_gives_up_fields() {
    let server = server();
    let raw = Raw::new(&server);
    let parts = json!({"parts": [{"name": "a", "size": 1}], "replicas": 2});
    let made = apply(&raw, "w?", "one", &widget(&parts)).await;
    assert_eq!(made.code, 201);
    assert_eq!(
        made.body["spec"]["colour"], "red",
        "defaults apply to what is applied"
    );
    let more = json!({"parts": [{"name": "b", "size": 2}]});
    let merged = apply(&raw, "w?", "two", &widget(&more)).await;
    assert_eq!(merged.code, 200);
    assert_eq!(
        merged.body["spec"]["parts"],
        json!([{"name": "a", "size": 1}, {"name": "b", "size": 2}])
    );
    let before = server.revision();
    assert_eq!(apply(&raw, "w?", "two", &widget(&more)).await.code, 200);
    assert_eq!(
        server.revision(),
        before,
        "applying the same again writes nothing"
    );
    let dropped = apply(&raw, "w?", "one", &widget(&json!({"replicas": 2}))).await;
    assert_eq!(
        dropped.body["spec"]["parts"],
        json!([{"name": "b", "size": 2}])
    );
}

#[tokio::test(start_paused = true)]
async fn a_conflict_names_the_other_manager_and_force_wins() {
    let server = server();
    let raw = Raw::new(&server);
    apply(&raw, "w?", "one", &widget(&json!({"replicas": 2}))).await;
    let refused = apply(&raw, "w?", "two", &widget(&json!({"replicas": 3}))).await;
    assert_eq!((refused.code, refused.reason()), (409, "Conflict"));
    assert_eq!(
        refused.message(),
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldManagerConflict");
    assert_eq!(cause["field"], ".spec.replicas");
    let forced = apply(
        &raw,
        "w?force=true&",
        "two",
        &widget(&json!({"replicas": 3})),
    )
    .await;
    assert_eq!(forced.body["spec"]["replicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn the_status_is_applied_apart_from_the_spec() {
    let server = server();
    let raw = Raw::new(&server);
    apply(&raw, "w?", "one", &widget(&json!({"replicas": 2}))).await;
    let mut status = widget(&json!({"replicas": 9}));
    status["status"] = json!({"phase": "Up"});
    let applied = apply(&raw, "w/status?", "two", &status).await;
    assert_eq!(applied.code, 200, "{}", applied.body);
    assert_eq!(applied.body["status"]["phase"], "Up");
    assert_eq!(applied.body["spec"]["replicas"], 2);
    let managed = applied.body["metadata"]["managedFields"]
        .as_array()
        .unwrap();
    let two = managed
        .iter()
        .find(|entry| entry["manager"] == "two")
        .unwrap();
    assert_eq!(two["subresource"], "status");
    assert_eq!(
        two["fieldsV1"],
        json!({"f:status": {"f:phase": {}}}),
        "{two}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_merge_patch_owns_what_it_changes() {
    let server = server();
    let raw = Raw::new(&server);
    apply(&raw, "w?", "one", &widget(&json!({"replicas": 2}))).await;
    let uri = format!("{WIDGETS}/w?fieldManager=three");
    raw.merge(&uri, &json!({"spec": {"replicas": 5}})).await;
    let refused = apply(&raw, "w?", "one", &widget(&json!({"replicas": 2}))).await;
    assert_eq!(refused.code, 409);
    assert!(
        refused
            .message()
            .contains("conflict with \"three\" using test.io/v1")
    );
}
