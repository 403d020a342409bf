//! One HTTP exchange.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Request, Response, Uri};
use url::Url;

use super::tls::{Trust, TrustError};

/// The largest answer that is read. A listing of 10,000 guests takes about 5 MiB.
const ANSWER_MAX: usize = 32 << 20;

/// How long a TCP and TLS handshake may take. Hosts are on the same network or one hop away.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection is kept without use. pveproxy closes an idle one after 5 s; a request that
/// meets the close fails with an unknown outcome, so ours has to be the first to go.
const IDLE_FOR: Duration = Duration::from_secs(3);

/// How many idle connections are kept. pveproxy serves 800 in all, shared with people's browsers.
const IDLE_MAX: usize = 32;

/// Why an exchange failed. The texts stand in conditions, so they are the same for equal causes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nothing was sent: the address does not answer.
    #[error("no connection to {host}: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// Nothing was sent: the server's certificate is not the one that is trusted.
    #[error("the certificate of {host} is not trusted: {reason}")]
    Certificate {
        /// Host and port.
        host: String,
        /// What the verification said.
        reason: String,
    },
    /// No answer in time; the request may have taken effect.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke; the request may have taken effect.
    #[error("the connection broke off")]
    Broken,
    /// The answer is larger than 32 MiB.
    #[error("the answer is larger than {} MiB", ANSWER_MAX >> 20)]
    TooLarge,
    /// The request could not be put together: a fault in this program.
    #[error("the request is malformed: {0}")]
    Malformed(String),
}

impl TransportError {
    /// Whether the request certainly never reached the server.
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Certificate { .. } | Self::Malformed(_) => true,
            Self::TimedOut(_) | Self::Broken | Self::TooLarge => false,
        }
    }
}

/// One HTTP exchange with a Proxmox VE endpoint.
///
/// The request carries path and query (`/api2/json/...`), all headers and the whole body; the
/// answer carries the status, the whole body, and the reason phrase as a
/// [`hyper::ext::ReasonPhrase`] extension, since the API writes its error texts there.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Carries out one exchange.
    ///
    /// Must not retry: whether a request may be repeated is decided by those who know what it does.
    ///
    /// # Errors
    ///
    /// If there is no complete answer; any status code is an answer.
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError>;
}

/// HTTPS to one endpoint, with connections kept for reuse.
#[derive(Clone)]
pub struct Https {
    endpoint: Url,
    client: reqwest::Client,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https")
            .field("endpoint", &self.endpoint.as_str())
            .finish_non_exhaustive()
    }
}

impl Https {
    /// A transport to `endpoint`, of which scheme, host, port and any path before `/api2` count.
    ///
    /// # Errors
    ///
    /// If the roots of trust cannot be used.
    pub fn new(endpoint: Url, trust: &Trust) -> Result<Self, TrustError> {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .http1_only();
        let client = trust
            .apply(builder)?
            .build()
            .map_err(|error| TrustError::Unusable(chain(&error)))?;
        Ok(Self { endpoint, client })
    }

    fn url(&self, uri: &Uri) -> Url {
        let mut url = self.endpoint.clone();
        let prefix = self.endpoint.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{}", uri.path()));
        url.set_query(uri.query());
        url
    }

    fn host(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        match self.endpoint.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    fn failure(&self, error: &reqwest::Error) -> TransportError {
        if let Some(reason) = certificate_fault(error) {
            let host = self.host();
            return TransportError::Certificate { host, reason };
        }
        if error.is_connect() {
            let (host, reason) = (self.host(), root_cause(error));
            return TransportError::Connect { host, reason };
        }
        if error.is_builder() {
            return TransportError::Malformed(chain(error));
        }
        TransportError::Broken
    }
}

#[async_trait]
impl Transport for Https {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let (head, body) = request.into_parts();
        let mut answer = self
            .client
            .request(head.method, self.url(&head.uri))
            .headers(head.headers)
            .body(body)
            .send()
            .await
            .map_err(|error| self.failure(&error))?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        if let Some(phrase) = answer.extensions().get::<hyper::ext::ReasonPhrase>() {
            response.extensions_mut().insert(phrase.clone());
        }
        let mut whole = BytesMut::new();
        while let Some(part) = answer.chunk().await.map_err(|_| TransportError::Broken)? {
            if whole.len() + part.len() > ANSWER_MAX {
                return Err(TransportError::TooLarge);
            }
            whole.extend_from_slice(&part);
        }
        *response.body_mut() = whole.freeze();
        Ok(response)
    }
}

fn sources<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| <dyn StdError>::source(*error))
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let texts: Vec<_> = sources(error).map(ToString::to_string).collect();
    texts.join(": ")
}

fn root_cause(error: &(dyn StdError + 'static)) -> String {
    sources(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// What the verification of the certificate said, if that is why the exchange failed.
fn certificate_fault(error: &(dyn StdError + 'static)) -> Option<String> {
    sources(error)
        .find_map(rustls_error)
        .map(|error| match error {
            rustls::Error::InvalidCertificate(fault) => describe(fault),
            other => other.to_string(),
        })
}

/// The TLS error in an error, which may be wrapped in IO errors: their inner error is no source.
fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    rustls_error(inner)
}

fn describe(fault: &rustls::CertificateError) -> String {
    use rustls::CertificateError as Fault;
    match fault {
        Fault::UnknownIssuer => "it is signed by an unknown authority".to_owned(),
        Fault::Expired | Fault::ExpiredContext { .. } => "it has expired".to_owned(),
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            "it is for another host name".to_owned()
        }
        Fault::ApplicationVerificationFailure => {
            "it does not have the expected fingerprint".to_owned()
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_before_the_api_is_kept() {
        let url = |endpoint: &str| {
            let https = Https::new(endpoint.parse().unwrap(), &Trust::Insecure).unwrap();
            https
                .url(&"/api2/json/nodes?x=1".parse().unwrap())
                .to_string()
        };
        assert_eq!(
            url("https://pve:8006"),
            "https://pve:8006/api2/json/nodes?x=1"
        );
        assert_eq!(
            url("https://proxy/pve/"),
            "https://proxy/pve/api2/json/nodes?x=1"
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_unsent_and_names_the_host() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let endpoint = format!("https://127.0.0.1:{port}").parse().unwrap();
        let https = Https::new(endpoint, &Trust::Insecure).unwrap();
        let request = Request::get("/api2/json/version")
            .body(Bytes::new())
            .unwrap();
        let error = https.exchange(request).await.unwrap_err();
        assert!(error.is_unsent(), "{error}");
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}
