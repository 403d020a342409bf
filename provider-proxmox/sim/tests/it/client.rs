//! A small client of the in-memory face, as strict as the tests need it.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::ext::ReasonPhrase;
use pve_sim::Platform;
use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) reason: Option<String>,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn data(&self) -> &Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        &self.body["data"]
    }

    pub(crate) fn text(&self) -> String {
        self.data().as_str().unwrap().to_owned()
    }

    /// Status and message without its line end.
    pub(crate) fn error(&self) -> (u16, &str) {
        let message = self.body["message"]
            .as_str()
            .or(self.reason.as_deref())
            .unwrap_or_default();
        (self.status.as_u16(), message.trim_end())
    }
}

/// Calls with the first token; parameters in the query or as a form.
pub(crate) async fn call(
    platform: &Platform,
    method: &str,
    path: &str,
    parameters: &[(&str, &str)],
) -> Reply {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish();
    let query = matches!(method, "GET" | "DELETE");
    let (uri, body) = match (query, form.is_empty()) {
        (true, false) => (format!("/api2/json{path}?{form}"), String::new()),
        (true, true) => (format!("/api2/json{path}"), String::new()),
        (false, _) => (format!("/api2/json{path}"), form),
    };
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(uri)
        .header("authorization", platform.authorization());
    if !query {
        request = request.header("content-type", "application/x-www-form-urlencoded");
    }
    send(platform, request.body(Bytes::from(body)).unwrap()).await
}

pub(crate) async fn send(platform: &Platform, request: Request<Bytes>) -> Reply {
    let response = platform.handle(request).await;
    let reason = response.extensions().get::<ReasonPhrase>();
    let reason = reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
    let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    Reply {
        status: response.status(),
        reason,
        body,
    }
}

/// An upload of an ISO image.
pub(crate) async fn upload(platform: &Platform, node: &str, name: &str, bytes: &[u8]) -> Reply {
    let mut body = Vec::new();
    body.extend_from_slice(
        b"--bOuNd\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso\r\n",
    );
    body.extend_from_slice(
        format!(
            "--bOuNd\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .as_bytes(),
    );
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"\r\n--bOuNd--\r\n");
    let request = Request::post(format!("/api2/json/nodes/{node}/storage/local/upload"))
        .header("authorization", platform.authorization())
        .header("content-type", "multipart/form-data; boundary=bOuNd");
    send(platform, request.body(Bytes::from(body)).unwrap()).await
}

/// Waits for a task and returns its exit status.
pub(crate) async fn finish(platform: &Platform, upid: &str) -> String {
    let node = upid.split(':').nth(1).unwrap();
    loop {
        let path = format!("/nodes/{node}/tasks/{upid}/status");
        let reply = call(platform, "GET", &path, &[]).await;
        if reply.data()["status"] == "stopped" {
            return reply.data()["exitstatus"].as_str().unwrap().to_owned();
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
