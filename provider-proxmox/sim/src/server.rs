//! The HTTPS face.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::api::Refusal;
use crate::platform::Platform;
use crate::tls::Authority;

/// Largest upload, in bytes; seeds are below one MiB, and a test image fits too.
const UPLOAD_MAX: usize = 256 << 20;

/// How many connections the real proxy holds at most.
const CONNECTIONS_MAX: usize = 800;

/// How long a client may take for its handshake and for the head of its request; the real proxy
/// gives 5 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long open requests may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Why the HTTPS face did not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
    /// The certificate was not accepted by TLS.
    #[error("set up TLS for node {node}")]
    Tls {
        /// The node.
        node: String,
        /// The reason.
        source: rustls::Error,
    },
    /// The cluster has no such node, or none at all.
    #[error("serve as node {0:?}: the cluster has no such node")]
    NoNode(String),
}

/// A running HTTPS face. Dropping it stops it at once, [`Server::stop`] with grace.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    node: String,
    authority: Arc<Authority>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://address:port`; the API begins at `/api2/json` below it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of the cluster's authority, which signs those of the nodes.
    pub fn ca_pem(&self) -> &str {
        &self.authority.pem
    }

    /// The SHA-256 fingerprint of the certificate that this server shows: pairs of upper-case
    /// hexadecimal digits with colons.
    pub fn fingerprint(&self) -> &str {
        self.authority
            .nodes
            .get(&self.node)
            .map_or("", |node| &node.fingerprint)
    }

    /// Takes no more connections, lets open requests end for at most 5 s, and returns then.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // The task only ends; that it was cancelled or panicked changes nothing here.
        let _ended = (&mut self.task).await;
    }
}

impl Platform {
    /// Serves the API over HTTPS (HTTP/1.1) at this address, as the node of [`Platform::at`] or
    /// the first one. Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`ServeError`].
    pub async fn serve(&self, address: SocketAddr) -> Result<Server, ServeError> {
        let node = self.entry_name();
        let authority = self.with_world(|world| Arc::clone(world.authority()));
        let config = tls_config(&authority, &node)?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (stop, stopping) = watch::channel(false);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(accept(self.clone(), listener, acceptor, stopping));
        Ok(Server {
            address,
            node,
            authority,
            stop,
            task,
        })
    }
}

fn tls_config(authority: &Authority, node: &str) -> Result<ServerConfig, ServeError> {
    let own = authority
        .nodes
        .get(node)
        .ok_or_else(|| ServeError::NoNode(node.to_owned()))?;
    let tls = |source| ServeError::Tls {
        node: node.to_owned(),
        source,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(own.chain.clone(), own.key.clone_key())
        .map_err(tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn accept(
    platform: Platform,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    mut stopping: watch::Receiver<bool>,
) {
    let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&open).acquire_owned() => permit,
            _ = stopping.changed() => break,
        };
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => break,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                // Out of file descriptors, most likely; others have to close theirs first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = serve_connection(
            platform.clone(),
            stream,
            acceptor.clone(),
            graceful.watcher(),
        );
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    if timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("stopped with requests still open");
    }
}

async fn serve_connection(
    platform: Platform,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Answers are small and each is waited for.
    let _best_effort = stream.set_nodelay(true);
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let platform = platform.clone();
        async move { Ok::<_, Infallible>(answer(&platform, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended early");
    }
}

async fn answer(platform: &Platform, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let response = match read(&head.headers, body).await {
        Ok(bytes) => platform.handle(Request::from_parts(head, bytes)).await,
        Err(refusal) => refusal.response(),
    };
    response.map(Full::new)
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Refusal> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::bare(
            501,
            "chunked transfer encoding not supported",
        ));
    }
    match Limited::new(body, UPLOAD_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(Refusal::bare(501, "for data too large")),
    }
}
