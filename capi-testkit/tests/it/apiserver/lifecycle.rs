//! Deletion, finalizers, owners, namespaces and definitions.

use std::time::Duration;

use serde_json::{Value, json};

use super::{raw::Raw, server, widget};

const WIDGETS: &str = "/apis/test.io/v1/namespaces/default/widgets";

/// Lets the collector work: the clock stands still until it is done.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn owned(name: &str, owner: &Value, blocks: bool) -> Value {
    let mut object = widget(name);
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": blocks,
    }]);
    object
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let server = server();
    let raw = Raw::new(&server);
    let mut object = widget("w");
    object["metadata"]["finalizers"] = json!(["test.io/keep"]);
    raw.post(WIDGETS, &object).await;
    let uri = format!("{WIDGETS}/w");
    let marked = raw.delete(&uri, &json!({})).await;
    assert_eq!(marked.code, 200);
    assert!(marked.body["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked.body["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(
        marked.body["metadata"]["generation"], 2,
        "the mark counts as a new generation"
    );
    let again = raw.delete(&uri, &json!({})).await;
    assert_eq!(
        again.body["metadata"]["resourceVersion"], marked.body["metadata"]["resourceVersion"],
        "a second delete changes nothing"
    );
    let refused = raw
        .merge(
            &uri,
            &json!({"metadata": {"finalizers": ["test.io/keep", "test.io/b"]}}),
        )
        .await;
    assert_eq!(
        refused.message(),
        "Widget.test.io \"w\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be \
         added if the object is being deleted, found new finalizers []string{\"test.io/b\"}"
    );
    let last = raw
        .merge(&uri, &json!({"metadata": {"finalizers": null}}))
        .await;
    assert_eq!(last.code, 200);
    assert_eq!(raw.get(&uri).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn preconditions_guard_a_delete() {
    let server = server();
    let raw = Raw::new(&server);
    let made = raw.post(WIDGETS, &widget("w")).await.body;
    let uri = format!("{WIDGETS}/w");
    let refused = raw
        .delete(&uri, &json!({"preconditions": {"uid": "other"}}))
        .await;
    assert_eq!(refused.code, 409);
    assert!(
        refused
            .message()
            .contains("the UID in the precondition (other) does not match")
    );
    let refused = raw
        .delete(&uri, &json!({"preconditions": {"resourceVersion": "1"}}))
        .await;
    assert_eq!(refused.code, 409);
    let uid = &made["metadata"]["uid"];
    let gone = raw
        .delete(&uri, &json!({"preconditions": {"uid": uid}}))
        .await;
    assert_eq!((gone.code, &gone.body["details"]["uid"]), (200, uid));
}

#[tokio::test(start_paused = true)]
async fn dependents_go_with_their_owner_in_the_background() {
    let server = server();
    let raw = Raw::new(&server);
    let owner = raw.post(WIDGETS, &widget("owner")).await.body;
    let other = raw.post(WIDGETS, &widget("other")).await.body;
    raw.post(WIDGETS, &owned("one", &owner, false)).await;
    let mut shared = owned("shared", &owner, false);
    let second = owned("x", &other, false)["metadata"]["ownerReferences"][0].clone();
    shared["metadata"]["ownerReferences"]
        .as_array_mut()
        .unwrap()
        .push(second);
    raw.post(WIDGETS, &shared).await;
    raw.delete(&format!("{WIDGETS}/owner"), &json!({})).await;
    settle().await;
    assert_eq!(raw.get(&format!("{WIDGETS}/one")).await.code, 404);
    let shared = raw.get(&format!("{WIDGETS}/shared")).await.body;
    let owners = shared["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!(
        owners.len(),
        1,
        "the reference to the gone owner is dropped"
    );
    assert_eq!(owners[0]["name"], "other");
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_another_life_does_not_count() {
    let server = server();
    let raw = Raw::new(&server);
    let first = raw.post(WIDGETS, &widget("owner")).await.body;
    raw.delete(&format!("{WIDGETS}/owner"), &json!({})).await;
    raw.post(WIDGETS, &widget("owner")).await;
    raw.post(WIDGETS, &owned("late", &first, false)).await;
    settle().await;
    assert_eq!(
        raw.get(&format!("{WIDGETS}/late")).await.code,
        404,
        "the uid decides, not the name"
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreground_delete_waits_for_blocking_dependents() {
    let server = server();
    let raw = Raw::new(&server);
    let owner = raw.post(WIDGETS, &widget("owner")).await.body;
    let mut held = owned("held", &owner, true);
    held["metadata"]["finalizers"] = json!(["test.io/keep"]);
    raw.post(WIDGETS, &held).await;
    raw.post(WIDGETS, &owned("free", &owner, false)).await;
    let marked = raw
        .delete(
            &format!("{WIDGETS}/owner"),
            &json!({"propagationPolicy": "Foreground"}),
        )
        .await;
    assert_eq!(
        marked.body["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    settle().await;
    assert_eq!(raw.get(&format!("{WIDGETS}/free")).await.code, 404);
    assert!(
        raw.get(&format!("{WIDGETS}/held")).await.body["metadata"]["deletionTimestamp"].is_string()
    );
    assert_eq!(raw.get(&format!("{WIDGETS}/owner")).await.code, 200);
    raw.merge(
        &format!("{WIDGETS}/held"),
        &json!({"metadata": {"finalizers": null}}),
    )
    .await;
    settle().await;
    assert_eq!(raw.get(&format!("{WIDGETS}/owner")).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn an_orphaning_delete_leaves_dependents_without_owner() {
    let server = server();
    let raw = Raw::new(&server);
    let owner = raw.post(WIDGETS, &widget("owner")).await.body;
    raw.post(WIDGETS, &owned("one", &owner, true)).await;
    raw.delete(
        &format!("{WIDGETS}/owner"),
        &json!({"propagationPolicy": "Orphan"}),
    )
    .await;
    settle().await;
    assert_eq!(raw.get(&format!("{WIDGETS}/owner")).await.code, 404);
    let one = raw.get(&format!("{WIDGETS}/one")).await.body;
    assert!(one["metadata"]["ownerReferences"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_when_it_is_empty() {
    let server = server();
    let raw = Raw::new(&server);
    let namespace = json!({"metadata": {"name": "team"}});
    assert_eq!(raw.post("/api/v1/namespaces", &namespace).await.code, 201);
    let widgets = "/apis/test.io/v1/namespaces/team/widgets";
    let mut object = widget("w");
    object["metadata"]["namespace"] = json!("team");
    object["metadata"]["finalizers"] = json!(["test.io/keep"]);
    assert_eq!(raw.post(widgets, &object).await.code, 201);
    let marked = raw.delete("/api/v1/namespaces/team", &json!({})).await;
    assert_eq!(marked.body["status"]["phase"], "Terminating");
    settle().await;
    let mut late = widget("late");
    late["metadata"]["namespace"] = json!("team");
    let refused = raw.post(widgets, &late).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    assert_eq!(raw.get("/api/v1/namespaces/team").await.code, 200);
    raw.merge(
        &format!("{widgets}/w"),
        &json!({"metadata": {"finalizers": null}}),
    )
    .await;
    settle().await;
    assert_eq!(raw.get("/api/v1/namespaces/team").await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn a_definition_goes_with_its_objects() {
    let server = server();
    let raw = Raw::new(&server);
    raw.post(WIDGETS, &widget("w")).await;
    let watch = http::Request::get(format!("{WIDGETS}?watch=1&resourceVersion=1"));
    let watch = watch.body(Vec::new().into()).unwrap();
    let watch = server.client("watcher").send(watch).await.unwrap();
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.io";
    let conditions = raw.get(definition).await.body["status"]["conditions"].clone();
    assert_eq!(conditions[1]["type"], "Established");
    raw.delete(definition, &json!({})).await;
    settle().await;
    assert_eq!(raw.get(definition).await.code, 404);
    assert_eq!(raw.get(WIDGETS).await.code, 404);
    assert!(server.objects("widgets.test.io").is_empty());
    let lines = watch.into_body().collect_bytes().await.unwrap();
    let lines: Vec<_> = lines.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 3, "the watch ends behind ADDED and DELETED");
}
