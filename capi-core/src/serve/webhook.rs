//! Validating webhooks: the rules of a provider, served to the API server (rules WH-*).

use std::fmt;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use capi_contract::admission::{Admission, Fault, Wish, review};
use kube::Resource;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::core::{DynamicObject, Status};
use serde_json::Value;

/// The largest review: two objects of the size that etcd stores at most (1.5 MiB), in JSON, with room.
const BODY_BYTES_MAX: usize = 8 << 20;

/// What a webhook is asked about, for the manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reviewed {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
}

impl Reviewed {
    fn of<K: Resource<DynamicType = ()>>() -> Self {
        Self {
            group: K::group(&()).into_owned(),
            version: K::version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
        }
    }

    /// The path (WH-01).
    pub(crate) fn path(&self) -> String {
        let group = self.group.replace('.', "-");
        let kind = self.kind.to_ascii_lowercase();
        format!("/validate-{group}-{}-{kind}", self.version)
    }
}

type Request = AdmissionRequest<DynamicObject>;
type Judge = Arc<dyn Fn(&Request) -> Result<(), String> + Send + Sync>;

/// The webhooks of a provider.
#[derive(Clone, Default)]
pub struct Webhooks {
    all: Vec<(Reviewed, Judge)>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.all.iter().map(|(reviewed, _)| &reviewed.kind);
        f.debug_list().entries(kinds).finish()
    }
}

impl Webhooks {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the rules of one kind, for creates and updates.
    #[must_use]
    pub fn validate<A: Admission>(mut self, rules: A) -> Self {
        let judge = move |request: &Request| judge(&rules, request);
        self.all.push((Reviewed::of::<A::Kind>(), Arc::new(judge)));
        self
    }

    /// One route per kind: `/validate-<group-with-dashes>-<version>-<kind>` (WH-01).
    pub fn routes(&self) -> Router {
        let mut routes = Router::new();
        for (reviewed, judge) in &self.all {
            let route = post(answer).with_state(Arc::clone(judge));
            routes = routes.route(&reviewed.path(), route);
        }
        routes.layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    pub(crate) fn reviewed(&self) -> Vec<Reviewed> {
        self.all
            .iter()
            .map(|(reviewed, _)| reviewed.clone())
            .collect()
    }
}

async fn answer(
    State(judge): State<Judge>,
    Json(review): Json<AdmissionReview<DynamicObject>>,
) -> Response {
    let request: Request = match review.try_into() {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let mut response = AdmissionResponse::from(&request);
    if let Err(message) = judge(&request) {
        tracing::info!(
            kind = request.kind.kind,
            namespace = request.namespace.as_deref().unwrap_or_default(),
            name = request.name,
            message,
            "a write was refused"
        );
        response.allowed = false;
        response.result = invalid(message);
    }
    Json(response.into_review()).into_response()
}

/// What the API server says of objects that its own validation refuses.
fn invalid(message: String) -> Status {
    Status {
        message,
        reason: "Invalid".to_owned(),
        code: 422,
        ..Status::default()
    }
}

fn judge<A: Admission>(rules: &A, request: &Request) -> Result<(), String> {
    let is_asked = matches!(request.operation, Operation::Create | Operation::Update);
    let (Some(new), true) = (&request.object, is_asked) else {
        return Ok(());
    };
    let old = request.old_object.as_ref().map(typed::<A::Kind>);
    let new = match (typed::<A::Kind>(new), &old) {
        (Ok(new), _) => new,
        // What is stored and was never of our form must not be locked (WH-07).
        (Err(_), Some(Err(_))) => return Ok(()),
        (Err(why), _) => return Err(refusal::<A>(request, &why)),
    };
    let wish = Wish {
        old: old.as_ref().and_then(|old| old.as_ref().ok()),
        new: &new,
        dry_run: request.dry_run,
    };
    let faults = review(rules, &wish);
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(refusal::<A>(request, &one.to_string())),
        many => {
            let all: Vec<_> = many.iter().map(Fault::to_string).collect();
            Err(refusal::<A>(request, &format!("[{}]", all.join(", "))))
        }
    }
}

fn refusal<A: Admission>(request: &Request, why: &str) -> String {
    let (kind, group) = (A::Kind::kind(&()), A::Kind::group(&()));
    let of_group = if group.is_empty() { "" } else { "." };
    format!(
        "{kind}{of_group}{group} {:?} is invalid: {why}",
        request.name
    )
}

fn typed<K: serde::de::DeserializeOwned>(object: &DynamicObject) -> Result<K, String> {
    let value: Value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http;
    use k8s_openapi::api::core::v1::ConfigMap;
    use rstest::rstest;
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;

    struct NoBadNames;

    impl Admission for NoBadNames {
        type Kind = ConfigMap;

        fn check(&self, object: &ConfigMap) -> Vec<Fault> {
            let data = object.data.iter().flatten();
            data.filter(|(_, value)| *value == "bad")
                .map(|(key, _)| Fault::new(format!("data.{key}"), "must not be bad"))
                .collect()
        }
    }

    async fn ask(path: &str, body: &Value) -> (StatusCode, Value) {
        let routes = Webhooks::new().validate(NoBadNames).routes();
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn review_of(operation: &str, old: &Value, new: &Value) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "operation": operation, "name": "o", "namespace": "ns",
                "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
                "resource": {"group": "", "version": "v1", "resource": "configmaps"},
                "userInfo": {}, "object": new, "oldObject": old, "dryRun": false,
            },
        })
    }

    fn object(data: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "o"}, "data": data})
    }

    #[rstest]
    #[case::good("CREATE", Value::Null, object(&json!({"a": "fine"})), None)]
    #[case::one("CREATE", Value::Null, object(&json!({"a": "bad"})),
        Some("ConfigMap \"o\" is invalid: data.a: must not be bad"))]
    #[case::two("CREATE", Value::Null, object(&json!({"a": "bad", "b": "bad"})),
        Some("ConfigMap \"o\" is invalid: [data.a: must not be bad, data.b: must not be bad]"))]
    #[case::ratchet("UPDATE", object(&json!({"a": "bad"})), object(&json!({"a": "bad"})), None)]
    #[case::never_ours("UPDATE", object(&json!(7)), object(&json!(8)), None)]
    #[case::wh_06_delete("DELETE", object(&json!({"a": "bad"})), Value::Null, None)]
    #[tokio::test]
    async fn wh_01_reviews_are_answered(
        #[case] operation: &str,
        #[case] old: Value,
        #[case] new: Value,
        #[case] refusal: Option<&str>,
    ) {
        let path = "/validate--v1-configmap";
        let (status, answer) = ask(path, &review_of(operation, &old, &new)).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        let response = &answer["response"];
        assert_eq!(response["uid"], "u-1");
        assert_eq!(response["allowed"], refusal.is_none());
        if let Some(message) = refusal {
            assert_eq!(response["status"]["message"], message);
            assert_eq!(response["status"]["code"], 422);
        }
    }

    /// The field is optional.
    #[tokio::test]
    async fn defect_15_a_review_that_does_not_say_whether_it_is_a_rehearsal_is_none() {
        for (data, is_allowed) in [("fine", true), ("bad", false)] {
            let mut review = review_of("CREATE", &Value::Null, &object(&json!({"a": data})));
            review["request"].as_object_mut().unwrap().remove("dryRun");
            let (status, answer) = ask("/validate--v1-configmap", &review).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(answer["response"]["allowed"], is_allowed);
        }
    }

    #[tokio::test]
    async fn what_is_no_review_is_refused() {
        let path = "/validate--v1-configmap";
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"});
        assert_eq!(ask(path, &review).await.0, StatusCode::BAD_REQUEST);
        let (status, _) = ask("/validate-elsewhere", &review).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn wh_01_the_path_names_group_version_and_kind() {
        let reviewed = Reviewed {
            group: "infrastructure.cluster.x-k8s.io".into(),
            version: "v1alpha2".into(),
            kind: "RackMachine".into(),
            plural: "rackmachines".into(),
        };
        let path = "/validate-infrastructure-cluster-x-k8s-io-v1alpha2-rackmachine";
        assert_eq!(reviewed.path(), path);
    }
}
