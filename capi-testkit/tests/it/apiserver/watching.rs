//! Watches, through raw streams and through kube's reflector.

use std::{pin::pin, time::Duration};

use capi_testkit::apiserver::ApiServer;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

fn map(name: &str, labels: &Value) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))
        .expect("this is a ConfigMap")
}

/// The lines of a watch as they come within a second.
async fn lines(client: &kube::Client, query: &str, wanted: usize) -> Vec<Value> {
    let uri = format!("/api/v1/namespaces/default/configmaps?watch=true&{query}");
    let request = http::Request::get(uri)
        .body(Vec::new())
        .expect("the query is valid");
    let stream = client
        .request_events::<Value>(request)
        .await
        .expect("a watch starts");
    let mut stream = pin!(stream);
    let mut found = Vec::new();
    while found.len() < wanted {
        match timeout(Duration::from_secs(1), stream.next()).await {
            Ok(Some(event)) => found
                .push(serde_json::to_value(event.expect("a line is JSON")).expect("and stays so")),
            Ok(None) | Err(_) => break,
        }
    }
    found
}

fn summary(line: &Value) -> String {
    let object = &line["object"];
    let name = object["metadata"]["name"]
        .as_str()
        .or(object["reason"].as_str());
    format!(
        "{} {}",
        line["type"].as_str().unwrap_or("?"),
        name.unwrap_or_default()
    )
}

#[tokio::test(start_paused = true)]
async fn a_watch_follows_its_selector() {
    let server = ApiServer::new();
    let client = server.client("test");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let start = server.revision();
    maps.create(&PostParams::default(), &map("a", &json!({"on": "yes"})))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &map("b", &json!({})))
        .await
        .unwrap();
    let patch = |labels: Value| Patch::Merge(json!({"metadata": {"labels": labels}}));
    let params = PatchParams::default();
    maps.patch("b", &params, &patch(json!({"on": "yes"})))
        .await
        .unwrap();
    maps.patch("a", &params, &patch(json!({"on": null})))
        .await
        .unwrap();
    maps.patch("a", &params, &patch(json!({"other": "1"})))
        .await
        .unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();

    let query = format!("labelSelector=on%3Dyes&resourceVersion={start}");
    let seen = lines(&client, &query, 10).await;
    let shown: Vec<_> = seen.iter().map(summary).collect();
    assert_eq!(shown, ["ADDED a", "ADDED b", "DELETED a", "DELETED b"]);
    let left = &seen[2]["object"]["metadata"];
    assert_eq!(left["labels"]["on"], "yes", "the state the client knows");
    let revision: u64 = left["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert_eq!(revision, start + 4, "at the revision of the change");
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_bookmark() {
    let server = ApiServer::new();
    let client = server.client("test");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &map("a", &json!({})))
        .await
        .unwrap();
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let seen = lines(&client, query, 2).await;
    assert_eq!(summary(&seen[0]), "ADDED a");
    assert_eq!(seen[1]["type"], "BOOKMARK");
    let annotations = &seen[1]["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
}

#[tokio::test(start_paused = true)]
async fn a_compacted_start_is_an_error_inside_the_stream() {
    let server = ApiServer::new();
    let client = server.client("test");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &map("a", &json!({})))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &map("b", &json!({})))
        .await
        .unwrap();
    server.compact();
    let seen = lines(&client, "resourceVersion=2", 2).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["type"], "ERROR");
    assert_eq!(seen[0]["object"]["code"], 410);
    assert_eq!(seen[0]["object"]["reason"], "Expired");
}

#[tokio::test(start_paused = true)]
async fn quiet_watches_get_bookmarks_and_end_in_time() {
    let server = ApiServer::new();
    let client = server.client("test");
    let uri = "/api/v1/configmaps?watch=true&resourceVersion=1&allowWatchBookmarks=true&\
               timeoutSeconds=150";
    let request = http::Request::get(uri).body(Vec::new()).unwrap();
    let start = Instant::now();
    let events = client.request_events::<Value>(request).await.unwrap();
    let events: Vec<_> = events.collect().await;
    assert_eq!(events.len(), 2);
    assert_eq!(start.elapsed().as_secs(), 150);
}

#[tokio::test(start_paused = true)]
async fn a_reflector_survives_breaks_and_compaction() {
    for streaming in [false, true] {
        let server = ApiServer::new();
        let client = server.client("test");
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let watched: Api<ConfigMap> = Api::default_namespaced(server.client("reflector"));
        let config = if streaming {
            watcher::Config::default().streaming_lists()
        } else {
            watcher::Config::default()
        };
        let (reader, writer) = reflector::store();
        let stream = watcher(watched, config).default_backoff().reflect(writer);
        let task = tokio::spawn(async move {
            stream.for_each(|_| std::future::ready(())).await;
        });
        let names = || {
            let mut names: Vec<_> = reader.state().iter().map(|map| map.name_any()).collect();
            names.sort();
            names
        };
        let settle = || tokio::time::sleep(Duration::from_secs(60));
        maps.create(&PostParams::default(), &map("a", &json!({})))
            .await
            .unwrap();
        settle().await;
        assert_eq!(names(), ["a"]);
        server.break_watches();
        maps.create(&PostParams::default(), &map("b", &json!({})))
            .await
            .unwrap();
        maps.delete("a", &DeleteParams::default()).await.unwrap();
        settle().await;
        assert_eq!(names(), ["b"]);
        server.break_watches();
        maps.create(&PostParams::default(), &map("c", &json!({})))
            .await
            .unwrap();
        server.compact();
        settle().await;
        assert_eq!(names(), ["b", "c"]);
        let lists = server
            .audit()
            .count(|record| record.actor == "reflector" && record.verb == "list");
        assert_eq!(
            lists,
            if streaming { 0 } else { 2 },
            "relisted once, after the compaction"
        );
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_actor_sees_the_past() {
    let server = ApiServer::new();
    let client = server.client("writer");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let held = server.client("held");
    maps.create(&PostParams::default(), &map("a", &json!({})))
        .await
        .unwrap();
    let hold = server.hold_watch("held", "configmaps");
    let start = server.revision();
    maps.create(&PostParams::default(), &map("b", &json!({})))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &map("c", &json!({})))
        .await
        .unwrap();
    let query = format!("resourceVersion={start}");
    assert!(lines(&held, &query, 1).await.is_empty());
    let view: Api<ConfigMap> = Api::default_namespaced(held.clone());
    let cached = kube::api::ListParams::default().match_any();
    assert_eq!(view.list(&cached).await.unwrap().items.len(), 1);
    assert_eq!(
        view.list(&kube::api::ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        3
    );
    assert!(view.get("c").await.is_ok(), "a get is never stale");
    hold.advance(1);
    assert_eq!(lines(&held, &query, 5).await.len(), 1);
    hold.release();
    assert_eq!(lines(&held, &query, 5).await.len(), 2);
}
