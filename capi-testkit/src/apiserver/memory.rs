//! The in-memory face: a `kube::Client` over a tower service, without sockets.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use tower::service_fn;

use super::{
    ApiServer,
    serve::{AnswerBody, BODY_BYTES_MAX, Caller, refusal},
    status::StatusError,
};

/// A client that records its requests under `actor`.
pub(super) fn client(server: &ApiServer, actor: &str) -> kube::Client {
    let server = server.clone();
    let caller = Caller {
        actor: actor.to_owned(),
        user: actor.to_owned(),
        groups: vec![
            "system:masters".to_owned(),
            "system:authenticated".to_owned(),
        ],
    };
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
