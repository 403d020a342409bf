//! Admission webhooks, answered in memory or over TLS.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use capi_testkit::apiserver::{ApiServer, ServiceBackend};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{
    raw::{MAPS, Raw, WIDGETS, map},
    server, widget,
};

const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// The reviews that a webhook got.
type Reviews = Arc<Mutex<Vec<Value>>>;

/// What a webhook answers to a review's request, `uid` left out.
type Judge = fn(&Value) -> Value;

fn answer(review: &[u8], reviews: &Reviews, judge: Judge) -> Response<Bytes> {
    let review: Value = serde_json::from_slice(review).expect("reviews are JSON");
    let mut response = judge(&review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    reviews.lock().push(review);
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
    });
    Response::new(Bytes::from(review.to_string()))
}

/// Lets `judge` answer behind the service `system/{name}`.
fn serve(server: &ApiServer, name: &str, judge: Judge) -> Reviews {
    let reviews = Reviews::default();
    let seen = reviews.clone();
    let handler = move |request: Request<Bytes>| {
        let answer = answer(request.body(), &seen, judge);
        async move { answer }
    };
    server.serve_service("system", name, ServiceBackend::handler(handler));
    reviews
}

/// A webhook at the service `system/{service}` for widgets.
fn hook(service: &str) -> Value {
    json!({
        "name": format!("{service}.test.io"),
        "clientConfig": {"service": {"namespace": "system", "name": service, "path": "/judge"}},
        "rules": [{
            "operations": ["*"], "apiGroups": ["test.io"], "apiVersions": ["*"],
            "resources": ["widgets"],
        }],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    })
}

async fn configure(raw: &Raw, kind: &str, hooks: &[Value]) {
    let configuration = json!({"metadata": {"name": "test"}, "webhooks": hooks});
    let got = raw.post(kind, &configuration).await;
    assert_eq!(got.code, 201, "{}", got.message());
}

fn patch(operations: &Value) -> Value {
    json!({
        "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string()),
    })
}

#[tokio::test(start_paused = true)]
async fn a_validating_webhook_sees_the_whole_request_and_may_refuse_it() {
    let server = server();
    let raw = Raw::new(&server);
    let reviews = serve(&server, "judge", |request| {
        if request["object"]["spec"]["replicas"] == 13 {
            json!({
                "allowed": false,
                "status": {"code": 422, "reason": "Invalid", "message": "not thirteen"},
            })
        } else {
            json!({"allowed": true, "warnings": ["a word of advice"]})
        }
    });
    configure(&raw, VALIDATING, &[hook("judge")]).await;
    let made = raw.post(WIDGETS, &widget("w")).await;
    assert_eq!(made.code, 201);
    assert_eq!(made.warnings, ["299 - \"a word of advice\""]);

    let one = format!("{WIDGETS}/w?fieldManager=me&dryRun=All");
    let refused = raw.merge(&one, &json!({"spec": {"replicas": 13}})).await;
    assert_eq!((refused.code, refused.reason()), (422, "Invalid"));
    assert_eq!(
        refused.message(),
        "admission webhook \"judge.test.io\" denied the request: not thirteen"
    );
    let asked = reviews.lock().pop().expect("the webhook was called")["request"].clone();
    assert_eq!(asked["operation"], "UPDATE");
    assert_eq!(
        asked["kind"],
        json!({"group": "test.io", "version": "v1", "kind": "Widget"})
    );
    assert_eq!(
        asked["resource"],
        json!({"group": "test.io", "version": "v1", "resource": "widgets"})
    );
    assert_eq!(
        (&asked["name"], &asked["namespace"]),
        (&json!("w"), &json!("default"))
    );
    assert_eq!(asked["oldObject"]["spec"], json!({"colour": "red"}));
    assert_eq!(
        asked["object"]["spec"],
        json!({"colour": "red", "replicas": 13})
    );
    assert_eq!(asked["userInfo"]["username"], "raw");
    assert_eq!(asked["dryRun"], true);
    assert_eq!(asked["options"]["fieldManager"], "me");

    let elsewhere = reviews.lock().len();
    assert_eq!(raw.post(MAPS, &map("a")).await.code, 201);
    assert_eq!(
        reviews.lock().len(),
        elsewhere,
        "its rules do not pick ConfigMaps"
    );
    let deleted = raw.delete(&format!("{WIDGETS}/w"), &json!({})).await;
    assert_eq!((deleted.code, deleted.warnings.len()), (200, 1));
    let asked = reviews.lock().pop().expect("the webhook was called")["request"].clone();
    assert_eq!(
        (&asked["operation"], &asked["object"]),
        (&json!("DELETE"), &Value::Null)
    );
}

#[tokio::test(start_paused = true)]
async fn mutating_webhooks_change_objects_one_after_the_other() {
    let server = server();
    let raw = Raw::new(&server);
    // Sets the size to the colour's length; the second one changes the colour.
    let first = serve(&server, "a-first", |request| {
        let colour = request["object"]["spec"]["colour"]
            .as_str()
            .unwrap_or_default();
        patch(&json!([
            {"op": "add", "path": "/spec/replicas", "value": colour.len()},
            {"op": "add", "path": "/spec/unknown", "value": 1},
        ]))
    });
    let second = serve(&server, "b-second", |_| {
        patch(&json!([{"op": "replace", "path": "/spec/colour", "value": "yellow"}]))
    });
    let mut again = hook("a-first");
    again["reinvocationPolicy"] = "IfNeeded".into();
    configure(&raw, MUTATING, &[again, hook("b-second")]).await;
    let made = raw.post(WIDGETS, &widget("w")).await;
    assert_eq!(made.code, 201, "{}", made.message());
    assert_eq!(
        made.body["spec"],
        json!({"colour": "yellow", "replicas": 6}),
        "called again since the colour changed; unknown fields are pruned"
    );
    assert_eq!((first.lock().len(), second.lock().len()), (2, 1));
    let asked = first.lock()[0]["request"].clone();
    assert_eq!(
        asked["object"]["metadata"]["uid"],
        Value::Null,
        "nothing is stamped yet"
    );

    // What a webhook makes of it is validated like anything else.
    serve(&server, "b-second", |_| {
        patch(&json!([{"op": "replace", "path": "/spec/colour", "value": 7}]))
    });
    let wrong = raw.post(WIDGETS, &widget("x")).await;
    assert_eq!(wrong.code, 422, "{}", wrong.message());
}

#[tokio::test(start_paused = true)]
async fn webhooks_that_fail_do_as_their_policy_says() {
    let server = server();
    let raw = Raw::new(&server);
    configure(&raw, VALIDATING, &[hook("gone")]).await;
    let refused = raw.post(WIDGETS, &widget("w")).await;
    assert_eq!((refused.code, refused.reason()), (500, "InternalError"));
    assert_eq!(
        refused.message(),
        "Internal error occurred: failed calling webhook \"gone.test.io\": failed to call webhook: \
         Post \"https://gone.system.svc:443/judge?timeout=10s\": service \"gone\" not found"
    );
    let slow = |_: Request<Bytes>| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(Bytes::new())
    };
    server.serve_service("system", "gone", ServiceBackend::handler(slow));
    let started = tokio::time::Instant::now();
    let late = raw.post(WIDGETS, &widget("w")).await;
    assert!(
        late.message().ends_with("context deadline exceeded"),
        "{}",
        late.message()
    );
    assert_eq!(started.elapsed().as_secs(), 10);

    let ignoring = json!([{"op": "add", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    let path = format!("{VALIDATING}/test");
    let media = "application/json-patch+json";
    assert_eq!(
        raw.send("PATCH", &path, media, &ignoring.to_string())
            .await
            .code,
        200
    );
    assert_eq!(raw.post(WIDGETS, &widget("w")).await.code, 201);
}

#[tokio::test(start_paused = true)]
async fn selectors_and_subresources_narrow_what_is_asked() {
    let server = server();
    let raw = Raw::new(&server);
    let reviews = serve(&server, "judge", |_| json!({"allowed": true}));
    let mut narrow = hook("judge");
    narrow["namespaceSelector"] =
        json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    narrow["objectSelector"] =
        json!({"matchExpressions": [{"key": "no", "operator": "DoesNotExist"}]});
    narrow["rules"][0]["resources"] = json!(["widgets", "widgets/scale"]);
    configure(&raw, VALIDATING, &[narrow]).await;
    let asked = |expected: usize| {
        let got: Vec<_> = reviews.lock().drain(..).collect();
        assert_eq!(got.len(), expected, "{got:?}");
        got.first().cloned().unwrap_or_default()
    };
    raw.post(WIDGETS, &widget("w")).await;
    asked(1);
    let mut labelled = widget("x");
    labelled["metadata"]["labels"] = json!({"no": "x"});
    raw.post(WIDGETS, &labelled).await;
    asked(0);
    let mut elsewhere = widget("w");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    raw.post(
        "/apis/test.io/v1/namespaces/kube-system/widgets",
        &elsewhere,
    )
    .await;
    asked(0);
    raw.merge(
        &format!("{WIDGETS}/w/status"),
        &json!({"status": {"phase": "a"}}),
    )
    .await;
    asked(0);
    raw.merge(
        &format!("{WIDGETS}/w/scale"),
        &json!({"spec": {"replicas": 3}}),
    )
    .await;
    let request = asked(1)["request"].clone();
    assert_eq!(
        (&request["subResource"], &request["kind"]["kind"]),
        (&json!("scale"), &json!("Scale"))
    );
    assert_eq!(request["object"]["spec"], json!({"replicas": 3}));
    // Both widgets go; one of them is asked about.
    raw.delete(WIDGETS, &json!({})).await;
    asked(1);
}

#[tokio::test(start_paused = true)]
async fn what_a_configuration_may_not_say_is_refused() {
    let server = server();
    let raw = Raw::new(&server);
    let table = [
        (
            "/name",
            json!("judge"),
            "should be a domain with at least three segments",
        ),
        (
            "/sideEffects",
            json!("Some"),
            "supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            "/admissionReviewVersions",
            json!(["v1beta1"]),
            "must include at least one of v1",
        ),
        (
            "/matchConditions",
            json!([{"name": "a", "expression": "true"}]),
            "match conditions",
        ),
        (
            "/clientConfig",
            json!({"url": "http://a"}),
            "'https' is the only allowed URL scheme",
        ),
        (
            "/clientConfig",
            json!({}),
            "exactly one of url or service is required",
        ),
        (
            "/rules/0/operations",
            json!([]),
            "webhooks[0].rules[0].operations: Required value",
        ),
    ];
    for (pointer, value, text) in table {
        let mut wrong = hook("judge");
        if let Some(field) = wrong.pointer_mut(pointer) {
            *field = value;
        } else {
            wrong[pointer.trim_start_matches('/')] = value;
        }
        let object = json!({"metadata": {"name": "test"}, "webhooks": [wrong]});
        let got = raw.post(VALIDATING, &object).await;
        assert_eq!(got.code, 422, "{pointer}");
        assert!(got.message().contains(text), "{pointer}: {}", got.message());
    }
}

/// A webhook that listens with TLS and allows everything; its address and its authority.
async fn listening() -> (SocketAddr, String) {
    let key = KeyPair::generate().expect("a key can be made");
    let names = vec!["localhost".to_owned(), "judge.system.svc".to_owned()];
    let params = CertificateParams::new(names).expect("the names are host names");
    let certificate = params.self_signed(&key).expect("it signs itself");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let configuration = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .expect("key and certificate fit");
    let acceptor = TlsAcceptor::from(Arc::new(configuration));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it listens");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = service_fn(|request: Request<Incoming>| async {
                let body = request.into_body().collect().await?.to_bytes();
                let allowed = answer(&body, &Reviews::default(), |_| json!({"allowed": true}));
                Ok::<_, hyper::Error>(allowed.map(Full::new))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, certificate.pem())
}

#[tokio::test]
async fn over_tls_the_configured_authority_is_trusted_and_no_other() {
    let server = server();
    let raw = Raw::new(&server);
    let (address, authority) = listening().await;
    let mut by_url = hook("judge");
    let url = format!("https://localhost:{}/judge", address.port());
    by_url["clientConfig"] = json!({"url": url, "caBundle": STANDARD.encode(&authority)});
    let mut by_service = hook("judge");
    by_service["clientConfig"]["caBundle"] = STANDARD.encode(&authority).into();
    server.serve_service("system", "judge", ServiceBackend::listening(address));
    configure(&raw, VALIDATING, &[by_url, by_service]).await;
    let made = raw.post(WIDGETS, &widget("w")).await;
    assert_eq!(made.code, 201, "{}", made.message());

    let (_, other) = listening().await;
    let bundle = json!([{
        "op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": STANDARD.encode(other),
    }]);
    let (path, media) = (format!("{VALIDATING}/test"), "application/json-patch+json");
    assert_eq!(
        raw.send("PATCH", &path, media, &bundle.to_string())
            .await
            .code,
        200
    );
    let refused = raw.post(WIDGETS, &widget("x")).await;
    assert!(
        refused
            .message()
            .ends_with("x509: certificate signed by unknown authority"),
        "{}",
        refused.message()
    );

    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let nobody = closed.local_addr().expect("it listens");
    drop(closed);
    let url = format!("https://localhost:{}/judge", nobody.port());
    let moved = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": url}]);
    assert_eq!(
        raw.send("PATCH", &path, media, &moved.to_string())
            .await
            .code,
        200
    );
    let refused = raw.post(WIDGETS, &widget("x")).await;
    assert!(
        refused.message().ends_with("connect: connection refused"),
        "{}",
        refused.message()
    );
}
