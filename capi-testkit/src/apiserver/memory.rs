//! The in-memory face: a `kube::Client` over a tower service, without sockets.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use tower::service_fn;

use super::{
    ApiServer, User,
    access::MASTERS,
    serve::{AnswerBody, BODY_BYTES_MAX, Caller, refusal},
    status::StatusError,
};

/// A client with all rights that records its requests under `actor`.
pub(super) fn client(server: &ApiServer, actor: &str) -> kube::Client {
    client_as(server, User::new(actor).in_group(MASTERS).caller(actor))
}

/// A client whose requests are from `caller`.
pub(super) fn client_as(server: &ApiServer, caller: Caller) -> kube::Client {
    let server = server.clone();
    let service = service_fn(move |request: Request<Body>| {
        let (server, caller) = (server.clone(), caller.clone());
        async move { Ok::<_, Infallible>(answer(&server, caller, request).await) }
    });
    kube::Client::new(service, "default")
}

async fn answer(
    server: &ApiServer,
    caller: Caller,
    request: Request<Body>,
) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => server.serve(caller, parts, body.to_bytes()).await,
        Err(_) => {
            let error = StatusError::too_large(BODY_BYTES_MAX);
            server.record_refused(&caller, &parts, &error);
            refusal(&error)
        }
    }
}
