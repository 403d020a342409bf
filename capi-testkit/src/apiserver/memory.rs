//! The in-memory face: a `kube::Client` over a tower service, without sockets.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use tower::service_fn;

use super::{ApiServer, status::StatusError};

/// A client that records its requests under `actor`.
pub(super) fn client(server: &ApiServer, actor: &str) -> kube::Client {
    let server = server.clone();
    let actor = actor.to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (server, actor) = (server.clone(), actor.clone());
        async move { Ok::<_, Infallible>(answer(&server, &actor, request).await) }
    });
    kube::Client::new(service, "default")
}

async fn answer(server: &ApiServer, actor: &str, request: Request<Body>) -> Response<Full<Bytes>> {
    let _ = (server, actor, request);
    let error = StatusError::not_implemented("requests");
    let body = error.to_value().to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = http::StatusCode::NOT_IMPLEMENTED;
    response
}
