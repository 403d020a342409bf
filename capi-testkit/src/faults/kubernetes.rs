//! The Kubernetes port: a client whose every request may meet a fault.

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kube::Client;
use kube::client::Body;
use tower::service_fn;

use crate::faults::{Call, Faults, Injected};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AnswerBody = StreamBody<BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;

/// The longest line of a watch: an object has at most 1.5 MiB in etcd.
const LINE_BYTES_MAX: usize = 4 << 20;

impl Faults {
    /// A client that makes its requests through these faults, as port `kubernetes`.
    ///
    /// Injected conflicts, throttling and server errors come as a `Status` like real ones; a lost
    /// connection is an error of the transport. Watches may break and lag.
    pub fn kubernetes(&self, client: Client, actor: impl Into<String>) -> Client {
        let faults = self.clone();
        let actor = actor.into();
        let namespace = client.default_namespace().to_owned();
        let service = service_fn(move |request: Request<Body>| {
            let (faults, client, actor) = (faults.clone(), client.clone(), actor.clone());
            async move { send(&faults, &client, actor, request).await }
        });
        Client::new(service, namespace)
    }
}

async fn send(
    faults: &Faults,
    client: &Client,
    actor: String,
    request: Request<Body>,
) -> Result<Response<AnswerBody>, BoxError> {
    let call = call(&actor, &request);
    let is_watch = call.verb == "watch";
    let sent = {
        let client = client.clone();
        async move { client.send(request).await }
    };
    match faults.around(call.clone(), sent).await {
        Ok(answer) => {
            let (parts, body) = answer?.into_parts();
            let is_events = is_watch && parts.status.is_success();
            let frames: BoxStream<'static, _> = if is_events {
                watched(faults, call, body).boxed()
            } else {
                body.into_data_stream()
                    .map(|part| Ok(Frame::data(part?)))
                    .boxed()
            };
            Ok(Response::from_parts(parts, StreamBody::new(frames)))
        }
        Err(injected) => refusal(&injected),
    }
}

/// The events of a watch, one line each, through the faults.
fn watched(
    faults: &Faults,
    call: Call,
    body: Body,
) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + use<> {
    faults.watch(call, lines(body)).map(|event| match event {
        Ok(Ok(line)) => Ok(Frame::data(line)),
        Ok(Err(error)) => Err(error),
        Err(injected) => Err(lost(&injected)),
    })
}

fn lines(body: Body) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let parts = body.into_data_stream();
    stream::unfold(
        (parts, Vec::new(), false),
        |(mut parts, mut buffer, ended)| async move {
            if ended {
                return None;
            }
            loop {
                if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let rest = buffer.split_off(end + 1);
                    return Some((Ok(Bytes::from(buffer)), (parts, rest, false)));
                }
                match parts.next().await {
                    Some(Ok(part)) if buffer.len() + part.len() <= LINE_BYTES_MAX => {
                        buffer.extend_from_slice(&part);
                    }
                    Some(Ok(_)) => {
                        let error: BoxError = "a watch event is longer than any object".into();
                        return Some((Err(error), (parts, buffer, true)));
                    }
                    Some(Err(error)) => return Some((Err(error.into()), (parts, buffer, true))),
                    None => return None,
                }
            }
        },
    )
}

/// The verb and target of a request, from its path: `/api/v1/...` or `/apis/<group>/<version>/...`.
fn call(actor: &str, request: &Request<Body>) -> Call {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let is_set = |name: &str| {
        query.split('&').any(|pair| {
            pair.split_once('=')
                .is_some_and(|(key, value)| key == name && value != "false" && !value.is_empty())
        })
    };
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let resource = match segments.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    // `namespaces/<namespace>/` goes before namespaced resources; a Namespace itself has no more.
    let resource = match resource {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        resource => resource,
    };
    let verb = match *request.method() {
        Method::GET if is_set("watch") => "watch",
        Method::GET if resource.len() <= 1 => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if resource.len() <= 1 => "deletecollection",
        Method::DELETE => "delete",
        _ => "other",
    };
    // Reviews are creates that store nothing.
    let is_review = resource
        .first()
        .is_some_and(|name| name.ends_with("reviews"));
    let target = path
        .trim_start_matches("/apis/")
        .trim_start_matches("/api/v1/");
    let mutates =
        !matches!(verb, "get" | "list" | "watch" | "other") && !is_review && !is_set("dryRun");
    Call {
        mutates,
        ..Call::read("kubernetes", actor, verb, target)
    }
}

fn refusal(injected: &Injected) -> Result<Response<AnswerBody>, BoxError> {
    let Some(status) = injected.status() else {
        return Err(lost(injected));
    };
    let reason = match status {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": injected.to_string(),
        "reason": reason,
        "code": status,
    });
    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(body.to_string())));
    let frames = stream::iter([frame]).map(|frame| frame.map_err(|never| match never {}));
    let mut response = Response::new(StreamBody::new(frames.boxed()));
    *response.status_mut() = StatusCode::from_u16(status)?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/json".parse()?);
    if let Injected::Throttled { retry_after } = injected {
        headers.insert(header::RETRY_AFTER, retry_after.as_secs().into());
    }
    Ok(response)
}

fn lost(injected: &Injected) -> BoxError {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, injected.to_string()).into()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "GET",
        "/api/v1/namespaces/a/secrets/b",
        "get",
        false,
        "namespaces/a/secrets/b"
    )]
    #[case("GET", "/api/v1/namespaces", "list", false, "namespaces")]
    #[case("GET", "/api/v1/namespaces/a", "get", false, "namespaces/a")]
    #[case(
        "GET",
        "/apis/g/v1/machines?watch=true",
        "watch",
        false,
        "g/v1/machines"
    )]
    #[case(
        "GET",
        "/apis/g/v1/machines?watch=false&limit=5",
        "list",
        false,
        "g/v1/machines"
    )]
    #[case(
        "PATCH",
        "/apis/g/v1/namespaces/a/machines/b/status",
        "patch",
        true,
        "g/v1/namespaces/a/machines/b/status"
    )]
    #[case(
        "PATCH",
        "/apis/g/v1/namespaces/a/machines/b?dryRun=All",
        "patch",
        false,
        "g/v1/namespaces/a/machines/b"
    )]
    #[case(
        "POST",
        "/apis/g/v1/namespaces/a/machines",
        "create",
        true,
        "g/v1/namespaces/a/machines"
    )]
    #[case(
        "DELETE",
        "/apis/g/v1/namespaces/a/machines",
        "deletecollection",
        true,
        "g/v1/namespaces/a/machines"
    )]
    #[case(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "create",
        false,
        "authorization.k8s.io/v1/selfsubjectaccessreviews"
    )]
    fn requests_are_named(
        #[case] method: &str,
        #[case] uri: &str,
        #[case] verb: &str,
        #[case] mutates: bool,
        #[case] target: &str,
    ) {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Body::empty())
            .expect("a request");
        let call = call("me", &request);
        assert_eq!(
            (call.verb.as_str(), call.mutates, call.target.as_str()),
            (verb, mutates, target)
        );
    }
}
