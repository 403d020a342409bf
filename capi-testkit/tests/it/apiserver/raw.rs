//! Raw requests: every edge as a row of status, reason and message.

use capi_testkit::apiserver::ApiServer;
use http::Request;
use serde_json::{Value, json};

use super::{server, widget};

const WIDGETS: &str = "/apis/test.io/v1/namespaces/default/widgets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

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

    fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }
}

impl Raw {
    pub(crate) fn new(server: &ApiServer) -> Self {
        Self {
            client: server.client("raw"),
        }
    }

    pub(crate) async fn send(&self, method: &str, uri: &str, media: &str, body: &str) -> Got {
        use http_body_util::BodyExt;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", media)
            .body(body.as_bytes().to_vec().into())
            .unwrap();
        let response = self.client.send(request).await.unwrap();
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Got {
            code,
            body,
            warnings,
        }
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

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test(start_paused = true)]
async fn refusals_read_as_the_real_servers() {
    let server = server();
    let raw = Raw::new(&server);
    assert_eq!(raw.post(MAPS, &map("a")).await.code, 201);
    assert_eq!(raw.post(WIDGETS, &widget("w")).await.code, 201);
    let json = "application/json";
    let merge = "application/merge-patch+json";
    let strategic = "application/strategic-merge-patch+json";
    let table: Vec<(&str, String, &str, String, u16, &str, &str)> = vec![
        (
            "GET",
            format!("{MAPS}/b"),
            "",
            String::new(),
            404,
            "NotFound",
            "configmaps \"b\" not found",
        ),
        (
            "GET",
            format!("{WIDGETS}/b"),
            "",
            String::new(),
            404,
            "NotFound",
            "widgets.test.io \"b\" not found",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/things".to_owned(),
            "",
            String::new(),
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "POST",
            MAPS.to_owned(),
            json,
            map("a").to_string(),
            409,
            "AlreadyExists",
            "configmaps \"a\" already exists",
        ),
        (
            "POST",
            "/api/v1/namespaces/nowhere/configmaps".to_owned(),
            json,
            map("a").to_string(),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        (
            "PUT",
            format!("{MAPS}/b"),
            json,
            map("a").to_string(),
            400,
            "BadRequest",
            "the name of the object (a) does not match the name on the URL (b)",
        ),
        (
            "PUT",
            format!("{MAPS}/a"),
            json,
            json!({"metadata": {"name": "a", "resourceVersion": "1"}}).to_string(),
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; \
             please apply your changes to the latest version and try again",
        ),
        (
            "PUT",
            format!("{WIDGETS}/w"),
            json,
            widget("w").to_string(),
            422,
            "Invalid",
            "Widget.test.io \"w\" is invalid: metadata.resourceVersion: Invalid value: 0: must be \
             specified for an update",
        ),
        (
            "PATCH",
            format!("{WIDGETS}/w"),
            strategic,
            "{}".to_owned(),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/apply-patch+yaml",
        ),
        (
            "PATCH",
            format!("{WIDGETS}/w"),
            "application/json-patch+json",
            json!([{"op": "test", "path": "/spec/colour", "value": "blue"}]).to_string(),
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        ),
        (
            "PATCH",
            format!("{WIDGETS}/w"),
            merge,
            json!({"spec": {"colour": "blue"}}).to_string(),
            422,
            "Invalid",
            "Widget.test.io \"w\" is invalid: spec: Invalid value: colour is immutable",
        ),
        (
            "PATCH",
            format!("{WIDGETS}/w"),
            merge,
            json!({"spec": {"replicas": -1}}).to_string(),
            422,
            "Invalid",
            "Widget.test.io \"w\" is invalid: spec.replicas: Invalid value: -1: spec.replicas in \
             body should be greater than or equal to 0",
        ),
        (
            "PATCH",
            format!("{WIDGETS}/w"),
            "application/apply-patch+yaml",
            "{}".to_owned(),
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ),
        (
            "POST",
            format!("{WIDGETS}?fieldValidation=Strict"),
            json,
            json!({
                "apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "x"},
                "spec": {"color": "red"},
            })
            .to_string(),
            400,
            "BadRequest",
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: \
             unknown field \"spec.color\"",
        ),
        (
            "POST",
            WIDGETS.to_owned(),
            json,
            json!({
                "apiVersion": "test.io/v2", "kind": "Widget", "metadata": {"name": "x"},
            })
            .to_string(),
            400,
            "BadRequest",
            "the API version in the data (test.io/v2) does not match the expected API version \
             (test.io/v1)",
        ),
        (
            "POST",
            MAPS.to_owned(),
            json,
            json!({"metadata": {"labels": {"a": true}, "name": "x"}}).to_string(),
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal \
             bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default".to_owned(),
            "",
            String::new(),
            403,
            "Forbidden",
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ),
        (
            "GET",
            format!("{MAPS}?fieldSelector=data.a%3D1"),
            "",
            String::new(),
            400,
            "BadRequest",
            "field label not supported: data.a",
        ),
        (
            "GET",
            format!("{MAPS}?resourceVersion=999999"),
            "",
            String::new(),
            504,
            "Timeout",
            "Timeout: Too large resource version: 999999, current: 9",
        ),
        (
            "POST",
            "/api/v1/configmaps".to_owned(),
            json,
            map("x").to_string(),
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
    ];
    for (method, uri, media, body, code, reason, message) in table {
        let got = raw.send(method, &uri, media, &body).await;
        assert_eq!(
            (got.code, got.reason(), got.message()),
            (code, reason, message),
            "{method} {uri}: {}",
            got.body
        );
        assert_eq!(got.body["kind"], "Status", "{method} {uri}");
        assert_eq!(got.body["code"], code, "{method} {uri}");
    }
    let unknown = raw.get("/apis/nobody.io/v1/things").await;
    assert_eq!(
        (unknown.code, unknown.body),
        (404, json!("404 page not found\n"))
    );
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
