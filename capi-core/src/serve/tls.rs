//! TLS for webhooks and diagnostics: certificates that are exchanged while they are in use.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Names of the files of a `kubernetes.io/tls` Secret, as cert-manager fills it.
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";

/// How often the files are looked at. The kubelet brings a rotated Secret within a minute or two, and
/// cert-manager renews long before the end.
const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Connections at the same time; kube-apiservers and a scraper have some dozens.
const CONNECTIONS_MAX: usize = 256;

/// Time for a handshake, and for the head of a request.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Time that open requests get at the stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Pause after a failed accept (out of file descriptors), which would spin otherwise.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not PEM of what it should hold.
    #[error("read {path} as PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key cannot be used, or not together.
    #[error("use the certificate and key in {directory}")]
    Pair {
        /// Where they are.
        directory: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A self-signed certificate could not be made.
    #[error("make a self-signed certificate")]
    SelfSigned(#[source] rcgen::Error),
    /// A self-signed certificate was made and not accepted.
    #[error("use the self-signed certificate")]
    SelfSignedPair(#[source] rustls::Error),
}

/// A certificate with its key that may be exchanged; each handshake gets the newest.
#[derive(Clone)]
pub struct Certificate {
    current: Arc<ArcSwap<CertifiedKey>>,
    directory: Option<Arc<Path>>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificate {
    /// A new one for these names, signed by nobody. Good enough to keep tokens from being read on the
    /// wire by those who only listen; clients cannot verify it.
    ///
    /// # Errors
    ///
    /// If the TLS library refuses to make one.
    pub fn self_signed(names: &[&str]) -> Result<Self, TlsError> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).map_err(TlsError::SelfSigned)?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|why| TlsError::SelfSignedPair(rustls::Error::General(why.to_owned())))?;
        let pair = pair(vec![made.cert.der().clone()], key).map_err(TlsError::SelfSignedPair)?;
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(pair)),
            directory: None,
        })
    }

    /// The one in `tls.crt` and `tls.key` of a directory, as a mounted Secret has them.
    ///
    /// # Errors
    ///
    /// If the files are missing, are not PEM, or do not belong together.
    pub fn of_directory(directory: impl AsRef<Path>) -> Result<Self, TlsError> {
        let directory: Arc<Path> = directory.as_ref().into();
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(load(&directory)?)),
            directory: Some(directory),
        })
    }

    /// Takes in rotated files, for ever. Files that cannot be used are reported and looked at again;
    /// the certificate before them goes on being shown.
    pub async fn reload(&self) -> Infallible {
        self.reload_every(RELOAD_EVERY).await
    }

    async fn reload_every(&self, pause: Duration) -> Infallible {
        let Some(directory) = &self.directory else {
            return std::future::pending().await;
        };
        let mut is_first_failure = true;
        loop {
            sleep(pause).await;
            // Two small files each few seconds: not worth a thread.
            match load(directory) {
                Ok(pair) if pair.cert != self.current.load().cert => {
                    self.current.store(Arc::new(pair));
                    tracing::info!(directory = %directory.display(), "the certificate was exchanged");
                    is_first_failure = true;
                }
                Ok(_) => is_first_failure = true,
                // Between the two files of a rotation without rename this is normal for a moment.
                Err(error) if is_first_failure => {
                    is_first_failure = false;
                    tracing::warn!(error = %crate::cause::chain(&error),
                        "the certificate cannot be exchanged; the one before is kept");
                }
                Err(_) => {}
            }
        }
    }

    fn config(&self) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn load(directory: &Path) -> Result<CertifiedKey, TlsError> {
    let read = |name: &str| {
        let path = directory.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(source) => Err(TlsError::Read { path, source }),
        }
    };
    let (path, bytes) = read(CERTIFICATE_FILE)?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| TlsError::Pem { path, source })?;
    let (path, bytes) = read(KEY_FILE)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes);
    let key = key.map_err(|source| TlsError::Pem { path, source })?;
    pair(chain, key).map_err(|source| TlsError::Pair {
        directory: directory.to_owned(),
        source,
    })
}

/// Checks that certificate and key belong together.
fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
}

/// Serves routes over TLS (HTTP/1.1 and HTTP/2) until `shutdown` is ready; open requests get 5 s then.
///
/// # Errors
///
/// If the TLS library refuses its configuration.
pub async fn serve_tls(
    listener: TcpListener,
    routes: Router,
    certificate: &Certificate,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), rustls::Error> {
    let acceptor = TlsAcceptor::from(Arc::new(certificate.config()?));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let stop = CancellationToken::new();
    // Connections end with this future, also when it is dropped.
    let _stop_on_drop = stop.clone().drop_guard();
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, routes) = (acceptor.clone(), routes.clone());
                let stop = stop.clone();
                connections.spawn(async move {
                    connection(stream, acceptor, routes, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
    stop.cancel();
    connections.close();
    if timeout(DRAIN_MAX, connections.wait()).await.is_err() {
        tracing::debug!("connections were still open at the end of the drain");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    routes: Router,
    stop: CancellationToken,
) {
    let stream = match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_MAX);
    builder.http2().timer(TokioTimer::new());
    let service = TowerToHyperService::new(routes);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tempfile::TempDir;
    use tokio_rustls::TlsConnector;

    use super::*;

    /// Writes a new self-signed pair and returns its certificate.
    fn issue(directory: &Path) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(directory.join(CERTIFICATE_FILE), made.cert.pem()).unwrap();
        std::fs::write(directory.join(KEY_FILE), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }

    /// As the kubelet mounts a Secret: files are links into `..data`, which is exchanged by rename.
    fn mount(root: &Path, version: &str) -> CertificateDer<'static> {
        let content = root.join(version);
        std::fs::create_dir(&content).unwrap();
        let certificate = issue(&content);
        std::os::unix::fs::symlink(version, root.join("..data_tmp")).unwrap();
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        for file in [CERTIFICATE_FILE, KEY_FILE] {
            let link = root.join(file);
            if !link.exists() {
                std::os::unix::fs::symlink(Path::new("..data").join(file), link).unwrap();
            }
        }
        certificate
    }

    /// Whether a client that trusts this certificate alone gets through.
    async fn trusts(port: u16, certificate: &CertificateDer<'static>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn a_certificate_rotated_by_rename_is_shown_without_a_restart() {
        let directory = TempDir::new().unwrap();
        let first = mount(directory.path(), "..v1");
        let certificate = Certificate::of_directory(directory.path()).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Router::new().route("/", get(|| async { "ok" }));
        let world = async {
            assert!(trusts(port, &first).await);
            let second = mount(directory.path(), "..v2");
            let exchanged = async {
                while !trusts(port, &second).await {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(Duration::from_secs(20), exchanged).await.unwrap();
            assert!(!trusts(port, &first).await);
        };
        tokio::select! {
            () = world => {}
            _ = serve_tls(listener, routes, &certificate, std::future::pending()) => {}
            never = certificate.reload_every(Duration::from_millis(20)) => match never {},
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pair_that_does_not_match_is_not_taken() {
        let directory = TempDir::new().unwrap();
        issue(directory.path());
        let certificate = Certificate::of_directory(directory.path()).unwrap();
        let before = certificate.current.load_full();
        let key = std::fs::read(directory.path().join(KEY_FILE)).unwrap();
        issue(directory.path());
        std::fs::write(directory.path().join(KEY_FILE), key).unwrap();
        let reloading = certificate.reload_every(Duration::from_secs(1));
        assert!(timeout(Duration::from_secs(10), reloading).await.is_err());
        assert_eq!(certificate.current.load().cert, before.cert);
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = TempDir::new().unwrap();
        let error = Certificate::of_directory(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("tls.crt"), "{error}");
        std::fs::write(directory.path().join(CERTIFICATE_FILE), "no PEM").unwrap();
        issue(directory.path());
        std::fs::write(directory.path().join(KEY_FILE), "no PEM").unwrap();
        let error = Certificate::of_directory(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("tls.key as PEM"), "{error}");
    }
}
