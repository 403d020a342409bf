//! The TLS face: HTTPS for `kubectl` and other processes.

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ApiServer, User,
    authority::Authority,
    serve::{AnswerBody, BODY_BYTES_MAX, Caller, refusal},
    status::StatusError,
};

/// Connections at the same time. A quick start has three, a conformance run some dozens.
const CONNECTIONS_MAX: usize = 512;
/// Time for a TLS handshake, and for the head of an HTTP/1 request.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Time that open requests get at the stop; watches end at once.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of file descriptors), which would else spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Paths that a real server shows to everyone.
const PUBLIC_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Why the TLS face could not start or make credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the configuration.
    #[error("configure TLS")]
    Configure(#[from] rustls::Error),
    /// The verifier of client certificates could not be built.
    #[error("configure the verification of client certificates")]
    Verify(#[from] rustls::server::VerifierBuilderError),
}

/// A listening TLS face. Dropping it stops it without waiting.
pub struct TlsFace {
    server: ApiServer,
    address: SocketAddr,
    authority: Arc<Authority>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl fmt::Debug for TlsFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFace")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Serves HTTPS (HTTP/1.1 and HTTP/2) on `address`; port 0 takes a free one.
    ///
    /// The certificate authority is made here, and credentials come from the face
    /// ([`TlsFace::kubeconfig`], [`TlsFace::token`]). The audit record names the user.
    ///
    /// # Errors
    ///
    /// An address that is taken, or a failure to make certificates.
    pub async fn serve_tls(&self, address: SocketAddr) -> Result<TlsFace, TlsError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| TlsError::Listen { address, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| TlsError::Listen { address, source })?;
        let authority = Arc::new(Authority::new()?);
        let acceptor = TlsAcceptor::from(Arc::new(configuration(&authority, address.ip())?));
        let stop = CancellationToken::new();
        let face = Listening {
            server: self.clone(),
            authority: authority.clone(),
            acceptor,
            stop: stop.clone(),
            connections: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        let task = tokio::spawn(face.accept(listener));
        Ok(TlsFace {
            server: self.clone(),
            address,
            authority,
            stop,
            task,
        })
    }
}

fn configuration(authority: &Authority, address: IpAddr) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let (certificate, key) = authority.serving(address)?;
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate, authority.der().clone()], key)?;
    configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(configuration)
}

impl TlsFace {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for clients on this machine.
    #[must_use]
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        format!("https://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// The certificate authority, as PEM.
    #[must_use]
    pub fn certificate_authority(&self) -> String {
        self.authority.pem()
    }

    /// A kubeconfig with a new client certificate for `user` in `groups`.
    ///
    /// # Errors
    ///
    /// The certificate could not be made.
    pub fn kubeconfig(&self, user: &str, groups: &[&str]) -> Result<String, TlsError> {
        let credentials = self.authority.admit_certificate(&member(user, groups))?;
        Ok(self.kubeconfig_with(
            user,
            &json!({
                "client-certificate-data": STANDARD.encode(&credentials.certificate),
                "client-key-data": STANDARD.encode(&credentials.key),
            }),
        ))
    }

    /// A kubeconfig with a new bearer token for `user`, as a program in a pod has one.
    #[must_use]
    pub fn token_kubeconfig(&self, user: &User) -> String {
        let token = self.server.inner.tokens.admit(user);
        self.kubeconfig_with(user.name(), &json!({"token": token}))
    }

    fn kubeconfig_with(&self, user: &str, credentials: &Value) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "capi-testkit",
                "cluster": {
                    "server": self.url(),
                    "certificate-authority-data": STANDARD.encode(self.authority.pem()),
                },
            }],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{
                "name": "capi-testkit",
                "context": {"cluster": "capi-testkit", "user": user, "namespace": "default"},
            }],
            "current-context": "capi-testkit",
        });
        // JSON is YAML, and needs no writer that could fail.
        format!("{config:#}\n")
    }

    /// A new bearer token for `user` in `groups`. All faces of the server know it.
    #[must_use]
    pub fn token(&self, user: &str, groups: &[&str]) -> String {
        self.server.inner.tokens.admit(&member(user, groups))
    }

    /// Stops: no new connections, watches end, open requests get 5 seconds.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::warn!(%error, "the TLS face ended badly");
        }
    }
}

fn member(user: &str, groups: &[&str]) -> User {
    let groups = groups.iter().copied();
    groups.fold(User::new(user), User::in_group)
}

impl Drop for TlsFace {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone)]
struct Listening {
    server: ApiServer,
    authority: Arc<Authority>,
    acceptor: TlsAcceptor,
    stop: CancellationToken,
    connections: TaskTracker,
    slots: Arc<Semaphore>,
}

impl Listening {
    async fn accept(self, listener: TcpListener) {
        loop {
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let this = self.clone();
                    self.connections.spawn(async move {
                        this.connection(stream).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        self.connections.close();
        if timeout(DRAIN_MAX, self.connections.wait()).await.is_err() {
            tracing::warn!("connections were still open at the end of the drain");
        }
    }

    async fn connection(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "set TCP_NODELAY");
        }
        let stream = match timeout(HANDSHAKE_MAX, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake");
                return;
            }
            Err(_) => return,
        };
        let peer = self.peer(&stream);
        let this = self.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (this, peer) = (this.clone(), peer.clone());
            async move { Ok::<_, Infallible>(this.answer(peer, request).await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_MAX);
        builder.http2().timer(TokioTimer::new());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection");
        }
    }

    /// Whom the client certificate names.
    fn peer(&self, stream: &TlsStream<TcpStream>) -> Option<Caller> {
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates()?.first()?;
        self.authority.by_certificate(certificate)
    }

    async fn answer(
        &self,
        peer: Option<Caller>,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let (parts, body) = request.into_parts();
        let token = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        // A token that is sent must be right, whatever the certificate says.
        let caller = match token {
            Some(token) => self.server.by_token(token.trim()),
            None => peer,
        };
        let caller = caller.unwrap_or_else(|| Caller {
            actor: "system:anonymous".to_owned(),
            user: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
        });
        let is_anonymous = caller.user == "system:anonymous";
        if is_anonymous && !PUBLIC_PATHS.contains(&parts.uri.path()) {
            let error = StatusError::unauthorized();
            self.server.record_refused(&caller, &parts, &error);
            return refusal(&error);
        }
        let response = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => self.server.serve(caller, parts, body.to_bytes()).await,
            Err(_) => {
                let error = StatusError::too_large(BODY_BYTES_MAX);
                self.server.record_refused(&caller, &parts, &error);
                refusal(&error)
            }
        };
        response.map(|body| body.until(self.stop.clone().cancelled_owned()))
    }
}
