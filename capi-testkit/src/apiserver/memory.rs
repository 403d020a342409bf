//! The in-memory face: a `kube::Client` over a tower service, without sockets.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use tower::service_fn;

use super::{
    ApiServer,
    request::{Query, Route, Target, Verb, route},
    serve::{AnswerBody, BODY_BYTES_MAX, Caller},
    status::StatusError,
};
use crate::faults::{Call, Faults, Injected};

/// The port name of these calls in a trace.
const PORT: &str = "kubernetes";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Body of an answer, whole or a stream of watch lines. It may break when faults say so.
pub(super) type AnswerStream = UnsyncBoxBody<Bytes, BoxError>;

/// A client that records its requests under `actor` and meets `faults`.
pub(super) fn client(server: &ApiServer, actor: &str, faults: Option<Faults>) -> kube::Client {
    let server = server.clone();
    let actor = actor.to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (server, faults, actor) = (server.clone(), faults.clone(), actor.clone());
        async move { answer(server, actor, faults, request).await }
    });
    kube::Client::new(service, "default")
}

async fn answer(
    server: ApiServer,
    actor: String,
    faults: Option<Faults>,
    request: Request<Body>,
) -> Result<Response<AnswerStream>, BoxError> {
    let Some(faults) = faults else {
        return Ok(answer_surely(server, actor, request)
            .await
            .map(|body| stream_of(body, None)));
    };
    let call = call_of(&actor, &request);
    let watch = (call.verb == Verb::Watch.as_str()).then(|| (faults.clone(), call.clone()));
    match faults
        .around(call, answer_surely(server, actor, request))
        .await
    {
        Ok(response) => Ok(response.map(|body| stream_of(body, watch))),
        Err(injected) => refused(injected),
    }
}

async fn answer_surely(
    server: ApiServer,
    actor: String,
    request: Request<Body>,
) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let caller = Caller {
        user: actor.clone(),
        groups: vec![
            "system:masters".to_owned(),
            "system:authenticated".to_owned(),
        ],
        actor,
    };
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => server.serve(caller, parts, body.to_bytes()).await,
        Err(_) => server.refuse(&caller, &parts, &StatusError::too_large(BODY_BYTES_MAX)),
    }
}

/// How the request shows in the trace of the faults.
fn call_of(actor: &str, request: &Request<Body>) -> Call {
    let (parts, ()) = {
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        copy.into_parts()
    };
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    match route(&parts, &query) {
        Ok(Route::Resource(target)) => {
            let verb = target.verb.as_str();
            let reads = matches!(target.verb, Verb::Get | Verb::List | Verb::Watch);
            let place = place(&target);
            if reads || query.get("dryRun").is_some() {
                Call::read(PORT, actor, verb, place)
            } else {
                Call::mutation(PORT, actor, verb, place)
            }
        }
        Ok(Route::Discovery(_) | Route::Other) | Err(_) => {
            Call::read(PORT, actor, parts.method.as_str(), parts.uri.path())
        }
    }
}

fn place(target: &Target) -> String {
    [
        &target.plural,
        &target.namespace,
        &target.name,
        &target.subresource,
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .map(String::as_str)
    .collect::<Vec<_>>()
    .join("/")
}

/// What a client sees of an injected fault.
fn refused(injected: Injected) -> Result<Response<AnswerStream>, BoxError> {
    let error = match injected.clone() {
        Injected::Conflict => StatusError::injected(409, "Conflict", &injected),
        Injected::Throttled { retry_after } => {
            let seconds = u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX);
            StatusError::injected(429, "TooManyRequests", &injected).retry_after(seconds)
        }
        Injected::Failed(code @ (503 | 504)) => {
            let reason = if code == 503 {
                "ServiceUnavailable"
            } else {
                "Timeout"
            };
            StatusError::injected(code, reason, &injected)
        }
        Injected::Failed(code) => StatusError::injected(code, "InternalError", &injected),
        _ => return Err(Box::new(injected)),
    };
    let response = super::serve::refusal(&error);
    Ok(response.map(|body| stream_of(body, None)))
}

/// The body as a client reads it; watches may break and lag.
pub(super) fn stream_of(body: AnswerBody, watch: Option<(Faults, Call)>) -> AnswerStream {
    let frame = |line: Bytes| Ok::<_, BoxError>(Frame::data(line));
    match (body, watch) {
        (AnswerBody::Whole(bytes), _) => {
            StreamBody::new(stream::once(async move { frame(bytes) })).boxed_unsync()
        }
        (AnswerBody::Stream(lines), None) => StreamBody::new(lines.map(frame)).boxed_unsync(),
        (AnswerBody::Stream(lines), Some((faults, call))) => {
            let lines = faults.watch(call, lines);
            let frames = lines.map(move |line| line.map(Frame::data).map_err(BoxError::from));
            StreamBody::new(frames).boxed_unsync()
        }
    }
}
