//! An admission webhook that both servers call.

use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use e2e::certificate::Authority;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Where the webhook is reached, and by which authority it is known.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub(crate) url: String,
    /// PEM, in base64.
    pub(crate) authority: String,
}

impl Webhook {
    /// Serves the webhook as long as the runtime runs.
    pub(crate) async fn serve() -> Result<Self, Box<dyn Error>> {
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let authority = Authority::new("webhooks")?;
        let pair = authority.serving("webhook", &[], &[address])?;
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((address, 0)).await?;
        let url = format!("https://{}", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let connection = http1::Builder::new();
                        let io = TokioIo::new(stream);
                        // A server that hangs up is done.
                        let _ended = connection.serve_connection(io, service_fn(answer)).await;
                    }
                });
            }
        });
        Ok(Self {
            url,
            authority: STANDARD.encode(authority.certificate()),
        })
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut response = judge(&path, &review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": response});
    Ok(Response::new(Full::from(review.to_string())))
}

/// `/mutate` paints widgets blue; anything else refuses some sizes, and to delete what is kept.
fn judge(path: &str, request: &Value) -> Value {
    if path == "/mutate" {
        let operations = json!([{"op": "add", "path": "/spec/colour", "value": "blue"}]);
        return json!({"allowed": true, "patchType": "JSONPatch",
            "patch": STANDARD.encode(operations.to_string())});
    }
    let kept = &request["oldObject"]["metadata"]["labels"]["keep"];
    match request["object"]["spec"]["size"].as_i64() {
        Some(13) => json!({"allowed": false, "status": {
            "code": 422, "reason": "Invalid", "message": "thirteen is unlucky"}}),
        Some(14) => json!({"allowed": false}),
        Some(15) => json!({"allowed": false, "status": {"message": "no code"}}),
        Some(16) => json!({"allowed": true, "warnings": ["sixteen is large"]}),
        None if request["operation"] == "DELETE" && !kept.is_null() => {
            json!({"allowed": false, "status": {"code": 403, "message": "it is kept"}})
        }
        _ => json!({"allowed": true}),
    }
}
