//! A guard before diagnostics: Kubernetes says who asks and whether they may.
//!
//! Metrics name clusters and machines. As with the Go managers, a caller needs a token and the right
//! to `get` the path as a non-resource URL.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Callers that are looked at at once. A scraper comes twice a minute; whoever floods the port must
/// not be able to flood the API server through it.
const REVIEWS_AT_ONCE: usize = 4;

/// How long the two reviews may take together; scrapers give up after 10 s.
const REVIEW_WITHIN: Duration = Duration::from_secs(8);

#[derive(Clone)]
struct Guard {
    client: Client,
    slots: Arc<Semaphore>,
}

/// Lets only those through who bear a token of the cluster and may `get` the path.
///
/// The program needs the right to create `tokenreviews` and `subjectaccessreviews`.
pub fn guarded(routes: Router, client: Client) -> Router {
    let guard = Guard {
        client,
        slots: Arc::new(Semaphore::new(REVIEWS_AT_ONCE)),
    };
    routes.layer(from_fn_with_state(guard, check))
}

async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Some(token) = bearer(request.headers()) else {
        return (StatusCode::UNAUTHORIZED, "a bearer token is needed").into_response();
    };
    let path = request.uri().path().to_owned();
    let method = request.method().as_str().to_ascii_lowercase();
    let reviewed = async {
        // Closed never: the guard keeps it.
        let _slot = guard.slots.acquire().await;
        guard.review(token, path, method).await
    };
    match timeout(REVIEW_WITHIN, reviewed).await {
        Ok(Ok(Answer::Allowed)) => next.run(request).await,
        Ok(Ok(Answer::Unknown)) => {
            (StatusCode::UNAUTHORIZED, "the token is not valid here").into_response()
        }
        Ok(Ok(Answer::Denied)) => {
            let why = "the right to get this path as a nonResourceURL is missing";
            (StatusCode::FORBIDDEN, why).into_response()
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a caller of the diagnostics could not be reviewed");
            (StatusCode::SERVICE_UNAVAILABLE, "the review failed").into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the review took too long").into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

enum Answer {
    Allowed,
    Denied,
    Unknown,
}

impl Guard {
    async fn review(
        &self,
        token: String,
        path: String,
        verb: String,
    ) -> Result<Answer, kube::Error> {
        let Some(user) = self.user(token).await? else {
            return Ok(Answer::Unknown);
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                extra: user.extra,
                groups: user.groups,
                uid: user.uid,
                user: user.username,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path),
                    verb: Some(verb),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let is_allowed = answer.status.is_some_and(|status| status.allowed);
        Ok(if is_allowed {
            Answer::Allowed
        } else {
            Answer::Denied
        })
    }

    async fn user(&self, token: String) -> Result<Option<UserInfo>, kube::Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let status = answer.status.unwrap_or_default();
        let is_known = status.authenticated.unwrap_or(false);
        Ok(status.user.filter(|_| is_known))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use axum::http;
    use axum::routing::get;
    use kube::client::Body as KubeBody;
    use rstest::rstest;
    use serde_json::{Value, json};
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// Kubernetes with one scraper who may, one user who may not, and nobody else.
    fn kubernetes() -> Client {
        let service = service_fn(|request: http::Request<KubeBody>| async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect_bytes().await.unwrap();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            if path.ends_with("tokenreviews") {
                let user = match review["spec"]["token"].as_str().unwrap() {
                    "t-scraper" => json!({"authenticated": true, "user": {"username": "scraper"}}),
                    "t-other" => json!({"authenticated": true, "user": {"username": "other"}}),
                    _ => json!({"authenticated": false, "user": {}}),
                };
                review["status"] = user;
            } else {
                let spec = &review["spec"];
                let asked = &spec["nonResourceAttributes"];
                let is_scrape = asked == &json!({"path": "/metrics", "verb": "get"});
                let allowed = spec["user"] == "scraper" && is_scrape;
                review["status"] = json!({"allowed": allowed});
            }
            let response = http::Response::builder().status(201);
            Ok::<_, Infallible>(response.body(Body::from(review.to_string())).unwrap())
        });
        Client::new(service, "default")
    }

    #[rstest]
    #[case::nobody(None, StatusCode::UNAUTHORIZED)]
    #[case::no_bearer(Some("Basic dDp0"), StatusCode::UNAUTHORIZED)]
    #[case::empty(Some("Bearer  "), StatusCode::UNAUTHORIZED)]
    #[case::stranger(Some("Bearer forged"), StatusCode::UNAUTHORIZED)]
    #[case::without_right(Some("Bearer t-other"), StatusCode::FORBIDDEN)]
    #[case::scraper(Some("bearer t-scraper"), StatusCode::OK)]
    #[tokio::test]
    async fn only_who_may_get_the_path_comes_through(
        #[case] authorization: Option<&str>,
        #[case] expected: StatusCode,
    ) {
        let routes = Router::new().route("/metrics", get(|| async { "numbers" }));
        let mut request = Request::get("/metrics");
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = guarded(routes, kubernetes()).oneshot(request).await;
        assert_eq!(response.unwrap().status(), expected);
    }
}
