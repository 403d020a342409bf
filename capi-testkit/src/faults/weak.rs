//! Clients that are weak on purpose, to see that a sweep catches it.
//!
//! None of this may be used for anything but showing that a test can fail.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;
use tower::service_fn;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Answers that [`without_refresh`] keeps; a run of a sweep looks at a handful of objects.
const KEPT_MAX: usize = 1000;

/// A client whose conditional writes are unconditional: `metadata.resourceVersion`, delete
/// preconditions and JSON patch tests are taken out of every request (breaks R2).
pub fn without_preconditions(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let bytes = match serde_json::from_slice::<Value>(&bytes) {
                Ok(value) => Bytes::from(stripped(value).to_string()),
                Err(_) => bytes,
            };
            let request = Request::from_parts(parts, Body::from(bytes));
            Ok::<_, BoxError>(client.send(request).await?)
        }
    });
    Client::new(service, namespace)
}

fn stripped(mut value: Value) -> Value {
    match &mut value {
        Value::Array(operations) => operations.retain(|operation| operation["op"] != "test"),
        Value::Object(object) => {
            object.remove("preconditions");
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("resourceVersion");
            }
        }
        _ => {}
    }
    value
}

/// A client that for ever gives the first answer to each get of a single object (breaks R4).
pub fn without_refresh(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let kept: Arc<Mutex<HashMap<String, Bytes>>> = Arc::default();
    let service = service_fn(move |request: Request<Body>| {
        let (client, kept) = (client.clone(), Arc::clone(&kept));
        async move {
            let uri = request.uri().to_string();
            let is_get = request.method() == Method::GET && !uri.contains('?');
            if let Some(bytes) = is_get.then(|| kept.lock().get(&uri).cloned()).flatten() {
                return Ok(Response::new(Body::from(bytes)));
            }
            let answer = client.send(request).await?;
            if !is_get || !answer.status().is_success() {
                return Ok::<_, BoxError>(answer);
            }
            let (parts, body) = answer.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let mut kept = kept.lock();
            if kept.len() < KEPT_MAX {
                kept.insert(uri, bytes.clone());
            }
            Ok(Response::from_parts(parts, Body::from(bytes)))
        }
    });
    Client::new(service, namespace)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_of_precondition_goes() {
        for (with, without) in [
            (
                json!({"metadata": {"resourceVersion": "1", "name": "a"}}),
                json!({"metadata": {"name": "a"}}),
            ),
            (json!({"preconditions": {"uid": "u"}}), json!({})),
            (
                json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}, {"op": "remove", "path": "/a"}]),
                json!([{"op": "remove", "path": "/a"}]),
            ),
        ] {
            assert_eq!(stripped(with), without);
        }
    }
}
