//! Refusals: one row per edge, with status, reason and message as a real server gives them.

use rstest::rstest;
use serde_json::{Value, json};

use super::{
    raw::{MAPS, Raw, WIDGETS, map},
    server, widget,
};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Sends a request to a server that holds ConfigMap `a` and Widget `w`.
async fn refused(method: &str, uri: &str, media: &str, body: Value) -> (u16, String, String) {
    let server = server();
    let raw = Raw::new(&server);
    assert_eq!(raw.post(MAPS, &map("a")).await.code, 201);
    assert_eq!(raw.post(WIDGETS, &widget("w")).await.code, 201);
    let before = server.revision();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let got = raw.send(method, uri, media, &body).await;
    assert_eq!(
        server.revision(),
        before,
        "a refused request changes nothing"
    );
    assert_eq!(got.body["kind"], "Status");
    assert_eq!(got.body["code"], got.code);
    (got.code, got.reason().to_owned(), got.message().to_owned())
}

#[rstest]
#[case::core_object(
    "/api/v1/namespaces/default/configmaps/b",
    "configmaps \"b\" not found"
)]
#[case::custom_object(
    "/apis/test.io/v1/namespaces/default/widgets/b",
    "widgets.test.io \"b\" not found"
)]
#[case::resource(
    "/api/v1/namespaces/default/things",
    "the server could not find the requested resource"
)]
#[case::subresource(
    "/api/v1/namespaces/default/configmaps/a/status",
    "the server could not find the requested resource"
)]
#[tokio::test(start_paused = true)]
async fn what_is_missing(#[case] uri: &str, #[case] message: &str) {
    let got = refused("GET", uri, "", Value::Null).await;
    assert_eq!(got, (404, "NotFound".to_owned(), message.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn paths_that_no_api_serves_are_answered_as_text() {
    let server = server();
    let got = Raw::new(&server).get("/apis/nobody.io/v1/things").await;
    assert_eq!((got.code, got.body), (404, json!("404 page not found\n")));
}

#[rstest]
#[case::exists(
    MAPS,
    map("a"),
    409,
    "AlreadyExists",
    "configmaps \"a\" already exists"
)]
#[case::no_namespace(
    "/api/v1/namespaces/nowhere/configmaps",
    map("a"),
    404,
    "NotFound",
    "namespaces \"nowhere\" not found"
)]
#[case::no_name(
    MAPS,
    json!({"metadata": {}}),
    422,
    "Invalid",
    "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
)]
#[case::bad_name(
    WIDGETS,
    widget("A_b"),
    422,
    "Invalid",
    "Widget.test.io \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 \
     subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
     end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)]
#[case::other_namespace(
    MAPS,
    json!({"metadata": {"name": "x", "namespace": "other"}}),
    400,
    "BadRequest",
    "the namespace of the provided object does not match the namespace sent on the request"
)]
#[case::versioned(
    MAPS,
    json!({"metadata": {"name": "x", "resourceVersion": "7"}}),
    500,
    "",
    "resourceVersion should not be set on objects to be created"
)]
#[case::other_version(
    WIDGETS,
    json!({"apiVersion": "test.io/v2", "kind": "Widget", "metadata": {"name": "x"}}),
    400,
    "BadRequest",
    "the API version in the data (test.io/v2) does not match the expected API version (test.io/v1)"
)]
#[case::unknown_field(
    "/apis/test.io/v1/namespaces/default/widgets?fieldValidation=Strict",
    json!({
        "apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "x"},
        "spec": {"color": "red"},
    }),
    400,
    "BadRequest",
    "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \
     \"spec.color\""
)]
#[case::unknown_builtin_field(
    "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
    json!({"metadata": {"name": "x"}, "dta": {}}),
    400,
    "BadRequest",
    "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown \
     field \"dta\""
)]
#[case::label_of_wrong_type(
    MAPS,
    json!({"metadata": {"labels": {"a": true}, "name": "x"}}),
    400,
    "BadRequest",
    "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal bool \
     into Go struct field ObjectMeta.metadata.labels of type string"
)]
#[case::two_controllers(
    MAPS,
    json!({"metadata": {"name": "x", "ownerReferences": [
        {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "controller": true},
        {"apiVersion": "v1", "kind": "B", "name": "b", "uid": "2", "controller": true},
    ]}}),
    422,
    "Invalid",
    "ConfigMap \"x\" is invalid: metadata.ownerReferences: Invalid value: \
     [{\"apiVersion\":\"v1\",\"kind\":\"A\",\"name\":\"a\",\"uid\":\"1\",\"controller\":true},\
     {\"apiVersion\":\"v1\",\"kind\":\"B\",\"name\":\"b\",\"uid\":\"2\",\"controller\":true}]: Only \
     one reference can have Controller set to true. Found \"true\" in references for A/a and B/b"
)]
#[tokio::test(start_paused = true)]
async fn creates(
    #[case] uri: &str,
    #[case] body: Value,
    #[case] code: u16,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let got = refused("POST", uri, JSON, body).await;
    assert_eq!(got, (code, reason.to_owned(), message.to_owned()));
}

#[rstest]
#[case::other_name(
    "/api/v1/namespaces/default/configmaps/b",
    map("a"),
    400,
    "BadRequest",
    "the name of the object (a) does not match the name on the URL (b)"
)]
#[case::missing(
    "/api/v1/namespaces/default/configmaps/b",
    map("b"),
    404,
    "NotFound",
    "configmaps \"b\" not found"
)]
#[case::stale(
    "/api/v1/namespaces/default/configmaps/a",
    json!({"metadata": {"name": "a", "resourceVersion": "1"}}),
    409,
    "Conflict",
    "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply \
     your changes to the latest version and try again"
)]
#[case::unconditional(
    "/apis/test.io/v1/namespaces/default/widgets/w",
    widget("w"),
    422,
    "Invalid",
    "widgets.test.io \"w\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified \
     for an update"
)]
#[tokio::test(start_paused = true)]
async fn updates(
    #[case] uri: &str,
    #[case] body: Value,
    #[case] code: u16,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let got = refused("PUT", uri, JSON, body).await;
    assert_eq!(got, (code, reason.to_owned(), message.to_owned()));
}

#[rstest]
#[case::strategic_of_custom(
    "",
    STRATEGIC,
    json!({}),
    415,
    "UnsupportedMediaType",
    "the body of the request was in an unknown format - accepted media types include: \
     application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
)]
#[case::failed_test(
    "",
    JSON_PATCH,
    json!([{"op": "test", "path": "/spec/colour", "value": "blue"}]),
    422,
    "Invalid",
    "the server rejected our request due to an error in our request"
)]
#[case::transition_rule(
    "",
    MERGE,
    json!({"spec": {"colour": "blue"}}),
    422,
    "Invalid",
    "Widget.test.io \"w\" is invalid: spec: Invalid value: colour is immutable"
)]
#[case::out_of_range(
    "",
    MERGE,
    json!({"spec": {"replicas": -1}}),
    422,
    "Invalid",
    "Widget.test.io \"w\" is invalid: [spec.replicas: Invalid value: -1: spec.replicas in body \
     should be greater than or equal to 0, .spec.replicas: Invalid value: -1: should be a \
     non-negative integer]"
)]
#[case::wrong_uid(
    "",
    MERGE,
    json!({"metadata": {"uid": "other", "resourceVersion": null}}),
    422,
    "Invalid",
    "Widget.test.io \"w\" is invalid: metadata.uid: Invalid value: \"other\": field is immutable"
)]
#[case::nobodys_apply(
    "",
    APPLY,
    json!({}),
    422,
    "Invalid",
    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply \
     patch"
)]
#[case::forced_merge(
    "?force=true",
    MERGE,
    json!({}),
    422,
    "Invalid",
    "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply \
     patch"
)]
#[tokio::test(start_paused = true)]
async fn patches(
    #[case] query: &str,
    #[case] media: &str,
    #[case] body: Value,
    #[case] code: u16,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let (got_code, got_reason, got_message) =
        refused("PATCH", &format!("{WIDGETS}/w{query}"), media, body).await;
    assert_eq!((got_code, got_reason.as_str()), (code, reason));
    assert_eq!(got_message, message);
}

#[rstest]
#[case::kept_namespace(
    "DELETE",
    "/api/v1/namespaces/default",
    403,
    "Forbidden",
    "namespaces \"default\" is forbidden: this namespace may not be deleted"
)]
#[case::field_label(
    "GET",
    "/api/v1/namespaces/default/configmaps?fieldSelector=data.a%3D1",
    400,
    "BadRequest",
    "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
)]
#[case::future(
    "GET",
    "/api/v1/namespaces/default/configmaps?resourceVersion=999999",
    504,
    "Timeout",
    "Timeout: Too large resource version: 999999, current: 9"
)]
#[case::match_alone(
    "GET",
    "/api/v1/namespaces/default/configmaps?resourceVersionMatch=Exact",
    422,
    "Invalid",
    "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \
     is forbidden unless resourceVersion is provided"
)]
#[case::every_namespace(
    "DELETE",
    "/api/v1/configmaps",
    405,
    "MethodNotAllowed",
    "the server does not allow this method on the requested resource"
)]
#[tokio::test(start_paused = true)]
async fn others(
    #[case] method: &str,
    #[case] uri: &str,
    #[case] code: u16,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let got = refused(method, uri, "", Value::Null).await;
    assert_eq!(got, (code, reason.to_owned(), message.to_owned()));
}
