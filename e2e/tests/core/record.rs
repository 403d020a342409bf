//! A client that notes down what is written through it.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tower::service_fn;

use crate::write::{GROUP, Write, parameter};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Field managers of the simulator whose merge patches are those of Cluster API's core; the real
/// controllers name none then, and the server takes the program's name.
const CORE: [&str; 5] = [
    "capi-cluster",
    "capi-machine",
    "capi-machineset",
    "capi-machinedeployment",
    "capi-machinehealthcheck",
];
/// The same for the control plane provider.
const CONTROL_PLANE: &str = "capi-kubeadmcontrolplane";

/// What was written to objects of the provider, in the order of the answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Write>>>);

impl Record {
    pub(crate) fn writes(&self) -> Vec<Write> {
        let writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writes.clone()
    }

    fn add(&self, write: Write) {
        let mut writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writes.push(write);
    }

    /// A client like this one.
    pub(crate) fn around(&self, client: Client) -> Client {
        let record = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (client, record) = (client.clone(), record.clone());
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await?.to_bytes();
                let content = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let write = write(&parts, content);
                let request = Request::from_parts(parts, Body::from(bytes));
                let answer = client.send(request).await?;
                if answer.status().is_success()
                    && let Some(write) = write
                {
                    record.add(write);
                }
                Ok::<_, BoxError>(answer)
            }
        });
        Client::new(service, "default")
    }
}

fn write(parts: &http::request::Parts, body: Value) -> Option<Write> {
    let path: Vec<_> = parts.uri.path().split('/').skip(1).collect();
    let [
        "apis",
        GROUP,
        _,
        "namespaces",
        _,
        resource,
        name,
        below @ ..,
    ] = path.as_slice()
    else {
        return None;
    };
    let verb = match parts.method {
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return None,
    };
    let query = parts.uri.query().unwrap_or_default();
    let is_apply = body["apiVersion"].is_string();
    let actor = match parameter(query, "fieldManager") {
        Some(manager) if is_apply => manager,
        Some(CONTROL_PLANE) => "control plane",
        Some(manager) if CORE.contains(&manager) => "core",
        Some(manager) => manager,
        None => "core",
    };
    let resource = [&[*resource], below].concat().join("/");
    Some(Write {
        actor: actor.to_owned(),
        verb: verb.to_owned(),
        resource,
        name: (*name).to_owned(),
        body,
    })
}
