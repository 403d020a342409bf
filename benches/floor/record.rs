//! The requests of one machine's life, taken down as the provider makes them.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use provider_proxmox::pve::{Transport, TransportError};
use pve_sim::Platform;
use serde_json::Value;
use tower::service_fn;

use benches::world::Failure;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Kubernetes,
    Hypervisor,
}

/// A request and the status of its answer.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) port: Port,
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) status: StatusCode,
}

impl Call {
    /// Whether one machine alone is the reason for it. What is left out, listings and watches,
    /// serves all machines at once.
    pub(crate) fn is_about(&self, name: &str, vmid: &str) -> bool {
        let holds = |wanted: &str| {
            let mut parts = self.body.windows(wanted.len());
            self.uri.contains(wanted) || parts.any(|part| part == wanted.as_bytes())
        };
        match self.port {
            Port::Kubernetes => holds(name),
            Port::Hypervisor => holds(vmid),
        }
    }

    /// Whether it is a write to Kubernetes.
    pub(crate) fn is_write(&self) -> bool {
        self.port == Port::Kubernetes && self.method != Method::GET
    }
}

/// Calls in the order of their answers.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Call>>>);

impl Record {
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.0.lock().clone()
    }

    /// A client whose requests are recorded.
    pub(crate) fn kubernetes(&self, client: Client) -> Client {
        let record = self.clone();
        let namespace = client.default_namespace().to_owned();
        let service = service_fn(move |request: Request<Body>| {
            let (client, record) = (client.clone(), record.clone());
            async move { record.pass(&client, request).await }
        });
        Client::new(service, namespace)
    }

    /// A transport whose requests are recorded.
    pub(crate) fn hypervisor(&self, platform: Platform) -> Arc<dyn Transport> {
        Arc::new(Recorded {
            record: self.clone(),
            platform,
        })
    }

    async fn pass(
        &self,
        client: &Client,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut call = Call {
            port: Port::Kubernetes,
            method: parts.method.clone(),
            uri: parts.uri.to_string(),
            headers: parts.headers.clone(),
            body: unconditional(&body),
            status: StatusCode::OK,
        };
        let response = client
            .send(Request::from_parts(parts, Body::from(body)))
            .await?;
        call.status = response.status();
        self.0.lock().push(call);
        Ok(response)
    }
}

/// A write without the version that it depends on, which is another one in every world.
fn unconditional(body: &Bytes) -> Bytes {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
        return body.clone();
    };
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.and_then(|metadata| metadata.remove("resourceVersion"));
    Bytes::from(value.to_string())
}

/// The simulator's in-memory face, with a record.
struct Recorded {
    record: Record,
    platform: Platform,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for Recorded {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let mut call = Call {
            port: Port::Hypervisor,
            method: request.method().clone(),
            uri: request.uri().to_string(),
            headers: request.headers().clone(),
            body: request.body().clone(),
            status: StatusCode::OK,
        };
        let response = self.platform.handle(request).await;
        call.status = response.status();
        self.record.0.lock().push(call);
        Ok(response)
    }
}
