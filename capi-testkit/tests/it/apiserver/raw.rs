//! Raw requests: lists, subresources, dry runs, unknown fields.

use capi_testkit::apiserver::ApiServer;
use http::Request;
use serde_json::{Value, json};

use super::{server, widget};

pub(crate) const WIDGETS: &str = "/apis/test.io/v1/namespaces/default/widgets";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A client that shows status code and body.
pub(crate) struct Raw {
    client: kube::Client,
}

/// What a request gives.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

impl Got {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub(crate) fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }
}

impl From<kube::Client> for Raw {
    fn from(client: kube::Client) -> Self {
        Self { client }
    }
}

impl Raw {
    pub(crate) fn new(server: &ApiServer) -> Self {
        Self::from(server.client("raw"))
    }

    pub(crate) async fn send(&self, method: &str, uri: &str, media: &str, body: &str) -> Got {
        use http_body_util::BodyExt;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", media)
            .body(body.as_bytes().to_vec().into())
            .expect("the tests make valid requests");
        let response = self
            .client
            .send(request)
            .await
            .expect("no faults are planned");
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings
            .map(|value| value.to_str().expect("warnings are ASCII").to_owned())
            .collect();
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("the body is whole")
            .to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Got {
            code,
            body,
            warnings,
        }
    }

    /// The `Table` form of a list.
    pub(crate) async fn table(&self, uri: &str) -> Value {
        let request = Request::get(uri)
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .expect("the tests make valid requests");
        self.client
            .request(request)
            .await
            .expect("no faults are planned")
    }

    pub(crate) async fn get(&self, uri: &str) -> Got {
        self.send("GET", uri, "", "").await
    }

    pub(crate) async fn post(&self, uri: &str, body: &Value) -> Got {
        self.send("POST", uri, "application/json", &body.to_string())
            .await
    }

    pub(crate) async fn put(&self, uri: &str, body: &Value) -> Got {
        self.send("PUT", uri, "application/json", &body.to_string())
            .await
    }

    pub(crate) async fn merge(&self, uri: &str, body: &Value) -> Got {
        self.send(
            "PATCH",
            uri,
            "application/merge-patch+json",
            &body.to_string(),
        )
        .await
    }

    pub(crate) async fn delete(&self, uri: &str, body: &Value) -> Got {
        self.send("DELETE", uri, "application/json", &body.to_string())
            .await
    }
}

pub(crate) fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test(start_paused = true)]
async fn lists_page_at_one_revision_and_expire() {
    let server = server();
    let raw = Raw::new(&server);
    for name in ["a", "b", "c", "d"] {
        raw.post(MAPS, &map(name)).await;
    }
    let first = raw.get(&format!("{MAPS}?limit=2")).await.body;
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let revision = &first["metadata"]["resourceVersion"];
    raw.post(MAPS, &map("bb")).await;
    raw.delete(&format!("{MAPS}/c"), &json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = raw
        .get(&format!("{MAPS}?limit=2&continue={token}"))
        .await
        .body;
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&second),
        ["c", "d"],
        "the page shows the first page's revision"
    );
    assert_eq!(&second["metadata"]["resourceVersion"], revision);
    assert!(second["metadata"]["continue"].is_null());

    let uri = format!(
        "{MAPS}?resourceVersionMatch=Exact&resourceVersion={}",
        revision.as_str().unwrap()
    );
    assert_eq!(names(&raw.get(&uri).await.body), ["a", "b", "c", "d"]);

    server.compact();
    let expired = raw.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, expired.reason()), (410, "Expired"));
    let token = expired.body["metadata"]["continue"].as_str().unwrap();
    let rest = raw
        .get(&format!("{MAPS}?limit=5&continue={token}"))
        .await
        .body;
    assert_eq!(
        names(&rest),
        ["bb", "d"],
        "the new token goes on from the newest state"
    );
    assert_eq!(raw.get(&uri).await.code, 410);
}

#[tokio::test(start_paused = true)]
async fn unknown_fields_are_dropped_with_a_warning() {
    let server = server();
    let raw = Raw::new(&server);
    let mut odd = widget("w");
    odd["spec"]["color"] = json!("red");
    let got = raw.post(WIDGETS, &odd).await;
    assert_eq!(got.code, 201);
    assert_eq!(got.warnings, ["299 - \"unknown field \\\"spec.color\\\"\""]);
    assert_eq!(got.body["spec"], json!({"colour": "red"}));
    let quiet = raw
        .merge(
            &format!("{WIDGETS}/w?fieldValidation=Ignore"),
            &json!({"spec": {"x": 1}}),
        )
        .await;
    assert!(quiet.warnings.is_empty());
    assert_eq!(
        quiet.body["metadata"]["resourceVersion"],
        got.body["metadata"]["resourceVersion"]
    );
}

#[tokio::test(start_paused = true)]
async fn status_and_spec_are_written_apart() {
    let server = server();
    let raw = Raw::new(&server);
    let mut object = widget("w");
    object["status"] = json!({"phase": "Lost"});
    let made = raw.post(WIDGETS, &object).await.body;
    assert!(made["status"].is_null(), "a create drops the status");
    assert_eq!(made["metadata"]["generation"], 1);

    let uri = format!("{WIDGETS}/w");
    let patch = json!({"spec": {"replicas": 2}, "status": {"phase": "Up"}});
    let through_status = raw.merge(&format!("{uri}/status"), &patch).await.body;
    assert_eq!(through_status["status"]["phase"], "Up");
    assert!(through_status["spec"]["replicas"].is_null());
    assert_eq!(through_status["metadata"]["generation"], 1);

    let main = raw
        .merge(
            &uri,
            &json!({"spec": {"replicas": 2}, "status": {"phase": "Down"}}),
        )
        .await;
    assert_eq!(main.body["status"]["phase"], "Up");
    assert_eq!(main.body["metadata"]["generation"], 2);
    assert_eq!(
        raw.get("/api/v1/namespaces/default/configmaps/a/status")
            .await
            .code,
        404
    );
}

#[tokio::test(start_paused = true)]
async fn scale_is_read_and_written_through_the_paths_of_the_definition() {
    let server = server();
    let raw = Raw::new(&server);
    raw.post(WIDGETS, &widget("w")).await;
    let uri = format!("{WIDGETS}/w");
    raw.merge(
        &format!("{uri}/status"),
        &json!({"status": {"replicas": 1, "selector": "a=b"}}),
    )
    .await;
    let scaled = raw
        .merge(&format!("{uri}/scale"), &json!({"spec": {"replicas": 3}}))
        .await;
    assert_eq!(scaled.code, 200);
    assert_eq!(scaled.body["kind"], "Scale");
    assert_eq!(
        scaled.body["status"],
        json!({"replicas": 1, "selector": "a=b"})
    );
    assert_eq!(raw.get(&uri).await.body["spec"]["replicas"], 3);
    let mut scale = raw.get(&format!("{uri}/scale")).await.body;
    scale["spec"]["replicas"] = json!(4);
    assert_eq!(raw.put(&format!("{uri}/scale"), &scale).await.code, 200);
    assert_eq!(raw.put(&format!("{uri}/scale"), &scale).await.code, 409);
    assert_eq!(raw.get(&uri).await.body["spec"]["replicas"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_changes_nothing_is_no_write() {
    let server = server();
    let raw = Raw::new(&server);
    let made = raw.post(WIDGETS, &widget("w")).await.body;
    let uri = format!("{WIDGETS}/w");
    let before = server.revision();
    assert_eq!(raw.put(&uri, &made).await.code, 200);
    assert_eq!(
        raw.merge(&uri, &json!({"spec": {"colour": "red"}}))
            .await
            .code,
        200
    );
    assert_eq!(server.revision(), before);
    let dry = raw
        .merge(
            &format!("{uri}?dryRun=All"),
            &json!({"spec": {"replicas": 7}}),
        )
        .await;
    assert_eq!((dry.code, &dry.body["spec"]["replicas"]), (200, &json!(7)));
    assert_eq!(
        raw.post(&format!("{WIDGETS}?dryRun=All"), &widget("x"))
            .await
            .code,
        201
    );
    assert_eq!(
        raw.delete(&format!("{uri}?dryRun=All"), &json!({}))
            .await
            .code,
        200
    );
    assert_eq!(server.revision(), before);
}

#[tokio::test(start_paused = true)]
async fn both_groups_show_the_same_events() {
    let server = server();
    let raw = Raw::new(&server);
    let event = json!({
        "metadata": {"name": "e"},
        "regarding": {"kind": "Widget", "name": "w", "namespace": "default"},
        "note": "cloned",
        "reason": "Cloned",
        "reportingController": "test",
    });
    let made = raw
        .post("/apis/events.k8s.io/v1/namespaces/default/events", &event)
        .await;
    assert_eq!((made.code, &made.body["note"]), (201, &json!("cloned")));
    let selected = "fieldSelector=involvedObject.name%3Dw";
    let listed = raw
        .get(&format!("/api/v1/namespaces/default/events?{selected}"))
        .await
        .body;
    let core = &listed["items"][0];
    assert_eq!(core["apiVersion"], "v1");
    assert_eq!(core["message"], "cloned");
    assert_eq!(core["reportingComponent"], "test");
    assert!(core["note"].is_null());
}

#[tokio::test(start_paused = true)]
async fn tables_show_the_columns_of_the_kind() {
    let server = server();
    let raw = Raw::new(&server);
    raw.post(WIDGETS, &widget("w")).await;
    tokio::time::advance(std::time::Duration::from_secs(200)).await;
    let table = raw.table(WIDGETS).await;
    let names: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Colour", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["w", "red", "3m20s"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let namespaces = raw.table("/api/v1/namespaces").await;
    assert_eq!(
        namespaces["rows"][0]["cells"],
        json!(["default", "Active", "3m20s"])
    );
}
