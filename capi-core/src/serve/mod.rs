//! Health, readiness, metrics and webhooks over HTTP.
//!
//! The paths are those of the Cluster API managers: `/healthz` and `/readyz` on the health address
//! (by convention `:9440`), `/metrics` on the diagnostics address (`:8443`, over TLS and
//! [guarded]), `/validate-...` on the webhook port (`9443`).

mod guard;
mod tls;
mod webhook;

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

pub use self::guard::guarded;
pub use self::tls::{Certificate, TlsError, serve_tls};
pub(crate) use self::webhook::Reviewed;
pub use self::webhook::Webhooks;
use crate::provider::Status;

/// The content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Routes `/healthz`, which answers as long as the process lives, and `/readyz`, which answers 503
/// until the first lists of all watched kinds have come.
///
/// A replica that waits to lead is ready: it would otherwise hold up a rolling update for ever.
pub fn health(status: Status) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .with_state(status)
}

async fn readyz(State(status): State<Status>) -> Response {
    if status.is_ready() {
        "ok".into_response()
    } else {
        let why = "the first lists of the watched kinds have not come yet";
        (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
    }
}

/// Routes `/metrics`, in the OpenMetrics text format.
pub fn metrics(registry: Arc<Mutex<Registry>>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .with_state(registry)
}

async fn render(State(registry): State<Arc<Mutex<Registry>>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry.lock()) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "metrics not rendered").into_response(),
    }
}

/// Serves routes on a listener until `shutdown` is ready.
///
/// # Errors
///
/// Whatever the listener reports.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, routes)
        .with_graceful_shutdown(shutdown)
        .await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::Telemetry;

    async fn ask(routes: Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        (status, String::from_utf8(bytes.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_only_after_the_first_lists() {
        let status = Status::default();
        let (code, _) = ask(health(status.clone()), "/healthz").await;
        assert_eq!(code, StatusCode::OK);
        let (code, _) = ask(health(status.clone()), "/readyz").await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        status.set_ready(true);
        let (code, _) = ask(health(status), "/readyz").await;
        assert_eq!(code, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_come_with_names_and_labels() {
        let mut registry = Registry::default();
        let telemetry = Telemetry::register(&mut registry);
        telemetry.step("machine", "Clone", "accepted");
        let (code, text) = ask(metrics(Arc::new(Mutex::new(registry))), "/metrics").await;
        assert_eq!(code, StatusCode::OK);
        let line = "capi_steps_total{kind=\"machine\",step=\"Clone\",result=\"accepted\"} 1";
        assert!(text.contains(line), "{text}");
    }
}
