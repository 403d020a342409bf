//! Calling webhooks: HTTPS with the configuration's own authority, or a service of this process.

use std::{collections::HashMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use url::Url;

use super::ApiServer;

/// Longest answer of a webhook, as long as the longest request body.
const ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;

type Handler = dyn Fn(Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> + Send + Sync;

/// What answers behind a Service, which in a real cluster is some pod.
#[derive(Clone)]
pub struct ServiceBackend {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Listening(SocketAddr),
    Handler(Arc<Handler>),
}

impl fmt::Debug for ServiceBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target: &dyn fmt::Debug = match &self.target {
            Target::Listening(address) => address,
            Target::Handler(_) => &"a handler",
        };
        f.debug_tuple("ServiceBackend").field(target).finish()
    }
}

impl ServiceBackend {
    /// Something that listens with TLS, whose certificate names `{service}.{namespace}.svc`.
    #[must_use]
    pub fn listening(address: SocketAddr) -> Self {
        Self {
            target: Target::Listening(address),
        }
    }

    /// A function in this process, without TLS and without sockets, for worlds with a paused clock.
    /// The request has the method, path, query and body that a webhook gets.
    #[must_use]
    pub fn handler<F, A>(handler: F) -> Self
    where
        F: Fn(Request<Bytes>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let handler = move |request| handler(request).boxed();
        Self {
            target: Target::Handler(Arc::new(handler)),
        }
    }
}

/// The services that something answers behind, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Services {
    backends: RwLock<HashMap<(String, String), ServiceBackend>>,
}

/// Why a webhook gave no answer, in the words of a real server.
#[derive(Debug, thiserror::Error)]
#[error("failed to call webhook: Post {url:?}: {cause}")]
pub(crate) struct CallError {
    url: String,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("service \"{0}\" not found")]
    NoService(String),
    #[error("context deadline exceeded")]
    Deadline,
    #[error("dial tcp {0}: connect: connection refused")]
    Refused(String),
    #[error("dial tcp {0}: {1}")]
    Dial(String, io::Error),
    #[error("tls: failed to verify certificate: x509: certificate signed by unknown authority")]
    UnknownAuthority,
    #[error("tls: {0}")]
    Tls(io::Error),
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    Authority,
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("read the answer: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
    #[error("the server could not find the requested resource")]
    NotFound,
    #[error("an error on the server ({0:?}) has prevented the request from succeeding")]
    Status(String),
    #[error("{0}")]
    Json(serde_json::Error),
}

impl ApiServer {
    /// Lets `backend` answer behind the Service `namespace/name`, in place of an earlier one.
    ///
    /// Webhooks whose `clientConfig` names the Service are called there. The Service object itself
    /// need not exist. A webhook whose service has no backend fails, as one without pods does.
    pub fn serve_service(&self, namespace: &str, name: &str, backend: ServiceBackend) {
        let key = (namespace.to_owned(), name.to_owned());
        self.inner.services.backends.write().insert(key, backend);
    }

    /// Posts a review to a webhook.
    pub(super) async fn post(&self, webhook: &Value, review: &Value) -> Result<Value, CallError> {
        let client = &webhook["clientConfig"];
        let seconds = webhook["timeoutSeconds"].as_u64().unwrap_or(1);
        let (mut url, service) = address(client);
        url.set_query(Some(&format!("timeout={seconds}s")));
        let body = Bytes::from(review.to_string());
        let answer = self.exchange(&url, service, client, body);
        let answer = match timeout(Duration::from_secs(seconds), answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Cause::Deadline),
        };
        answer.map_err(|cause| {
            let mut url = url.to_string();
            // A service's port is always said, the default one too.
            if client["url"].is_null() && !url.contains(".svc:") {
                url = url.replacen(".svc/", ".svc:443/", 1);
            }
            CallError { url, cause }
        })
    }

    async fn exchange(
        &self,
        url: &Url,
        service: Option<(String, String)>,
        client: &Value,
        body: Bytes,
    ) -> Result<Value, Cause> {
        let target = match &service {
            None => None,
            Some(key) => {
                let backend = self.inner.services.backends.read().get(key).cloned();
                Some(
                    backend
                        .ok_or_else(|| Cause::NoService(key.1.clone()))?
                        .target,
                )
            }
        };
        let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let request = Request::post(path)
            .header(header::HOST, url.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(body)
            .expect("a parsed URL makes a valid request");
        let response = match target {
            Some(Target::Handler(handler)) => handler(request).await,
            Some(Target::Listening(address)) => {
                over_tls(url, &address.to_string(), client, request).await?
            }
            None => {
                let host = url.host_str().unwrap_or_default();
                let port = url.port_or_known_default().unwrap_or(443);
                over_tls(url, &format!("{host}:{port}"), client, request).await?
            }
        };
        match response.status().as_u16() {
            200..300 => serde_json::from_slice(response.body()).map_err(Cause::Json),
            404 => Err(Cause::NotFound),
            _ => Err(Cause::Status(
                String::from_utf8_lossy(response.body()).into_owned(),
            )),
        }
    }
}

/// Where a validated `clientConfig` leads, and the service it names.
fn address(client: &Value) -> (Url, Option<(String, String)>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(url) = client["url"].as_str() {
        let url = Url::parse(url).expect("only valid URLs are stored");
        return (url, None);
    }
    let service = &client["service"];
    let (namespace, name) = (text(&service["namespace"]), text(&service["name"]));
    let port = service["port"].as_u64().unwrap_or(443);
    let path = text(&service["path"]);
    let url = format!(
        "https://{name}.{namespace}.svc:{port}/{}",
        path.trim_start_matches('/')
    );
    let url = Url::parse(&url).expect("names of services are host names");
    (url, Some((namespace, name)))
}

async fn over_tls(
    url: &Url,
    address: &str,
    client: &Value,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Cause> {
    let configuration = trust(client)?;
    let host = url.host_str().unwrap_or_default();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(host).map_err(|error| {
        Cause::Dial(
            address.to_owned(),
            io::Error::new(io::ErrorKind::InvalidInput, error),
        )
    })?;
    let stream = TcpStream::connect(address).await.map_err(|error| {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            Cause::Refused(address.to_owned())
        } else {
            Cause::Dial(address.to_owned(), error)
        }
    })?;
    let connector = TlsConnector::from(Arc::new(configuration));
    let stream = connector.connect(name, stream).await.map_err(|error| {
        if is_unknown_issuer(&error) {
            Cause::UnknownAuthority
        } else {
            Cause::Tls(error)
        }
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // One connection per call; it ends with the answer.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request.map(Full::new)).await?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let body = body.map_err(Cause::Answer)?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

fn is_unknown_issuer(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(
            // An authority of the same name with another key is a stranger too.
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature
        ))
    )
}

/// Trusts the configuration's own authority, and nobody else.
fn trust(client: &Value) -> Result<ClientConfig, Cause> {
    let bundle = client["caBundle"].as_str().unwrap_or_default();
    let bundle = STANDARD.decode(bundle).map_err(|_| Cause::Authority)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        let certificate = certificate.map_err(|_| Cause::Authority)?;
        roots.add(certificate).map_err(|_| Cause::Authority)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Cause::Tls(io::Error::other(error)))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
