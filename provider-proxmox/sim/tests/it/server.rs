//! The HTTPS face over a real socket.

use std::net::SocketAddr;
use std::sync::Arc;

use pve_sim::{Builder, Delays, Platform};
use reqwest::{Certificate, Client, ClientBuilder};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn platform() -> Platform {
    Builder::new().delays(Delays::zero()).build()
}

fn client() -> ClientBuilder {
    Client::builder().no_proxy()
}

fn trusting(pem: &str) -> Client {
    let certificate = Certificate::from_pem(pem.as_bytes()).unwrap();
    client().tls_certs_only([certificate]).build().unwrap()
}

#[tokio::test]
async fn a_client_that_knows_the_authority_is_served() {
    let platform = platform();
    let server = platform.serve(loopback()).await.unwrap();
    let client = trusting(server.ca_pem());
    let version = client
        .get(format!("{}/api2/json/version", server.url()))
        .header("authorization", platform.authorization())
        .send()
        .await
        .unwrap();
    assert_eq!(version.version(), reqwest::Version::HTTP_11);
    assert!(
        version
            .text()
            .await
            .unwrap()
            .contains("\"release\":\"9.1\"")
    );
    server.stop().await;
}

#[tokio::test]
async fn an_error_carries_its_reason_and_closes() {
    let platform = platform();
    let server = platform.serve(loopback()).await.unwrap();
    let path = format!("{}/api2/json/nodes/pve1/qemu/7777/config", server.url());
    let reply = trusting(server.ca_pem())
        .get(path)
        .header("authorization", platform.authorization())
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 500);
    assert_eq!(reply.headers()["connection"], "close");
    let reason = reply
        .extensions()
        .get::<hyper::ext::ReasonPhrase>()
        .unwrap();
    let text = "Configuration file 'nodes/pve1/qemu-server/7777.conf' does not exist";
    assert_eq!(reason.as_bytes(), text.as_bytes());
}

#[tokio::test]
async fn strangers_to_the_authority_are_refused() {
    let server = platform().serve(loopback()).await.unwrap();
    let other = platform().serve(loopback()).await.unwrap();
    for client in [client().build().unwrap(), trusting(other.ca_pem())] {
        let error = client
            .get(format!("{}/api2/json/version", server.url()))
            .send()
            .await;
        assert!(error.unwrap_err().is_connect());
    }
}

#[tokio::test]
async fn an_upload_arrives_whole() {
    let platform = platform();
    let server = platform.serve(loopback()).await.unwrap();
    let image: Vec<u8> = (0..600_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let part = reqwest::multipart::Part::bytes(image.clone()).file_name("user-data-100.iso");
    let form = reqwest::multipart::Form::new()
        .text("content", "iso")
        .part("filename", part);
    let reply = trusting(server.ca_pem())
        .post(format!(
            "{}/api2/json/nodes/pve2/storage/local/upload",
            server.url()
        ))
        .header("authorization", platform.authorization())
        .multipart(form)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 200);
    assert!(reply.text().await.unwrap().contains("UPID:pve1:"));
    let left = platform.isos_left();
    assert_eq!(
        (left[0].node.as_str(), left[0].bytes.as_deref()),
        ("pve2", Some(image.as_slice()))
    );
}

#[tokio::test]
async fn an_upload_without_a_length_is_refused() {
    let platform = platform();
    let server = platform.serve(loopback()).await.unwrap();
    let reply = trusting(server.ca_pem())
        .post(format!(
            "{}/api2/json/nodes/pve2/storage/local/upload",
            server.url()
        ))
        .header("authorization", platform.authorization())
        .header("transfer-encoding", "chunked")
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 501);
}

#[tokio::test]
async fn each_node_shows_its_own_certificate() {
    let platform = platform();
    let first = platform.serve(loopback()).await.unwrap();
    let second = platform.at("pve2").serve(loopback()).await.unwrap();
    assert_ne!(first.fingerprint(), second.fingerprint());
    for server in [&first, &second] {
        let pinned = pinning(server.fingerprint());
        let reply = pinned
            .get(format!("{}/api2/json/version", server.url()))
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), 401);
    }
    let mixed = pinning(first.fingerprint());
    assert!(
        mixed
            .get(format!("{}/api2/json/version", second.url()))
            .send()
            .await
            .is_err()
    );
    let nodes = trusting(first.ca_pem())
        .get(format!("{}/api2/json/nodes", first.url()))
        .header("authorization", platform.authorization())
        .send()
        .await
        .unwrap();
    let nodes = nodes.text().await.unwrap();
    assert!(nodes.contains(first.fingerprint()) && nodes.contains(second.fingerprint()));
}

#[tokio::test]
async fn an_unknown_node_cannot_serve() {
    let error = platform().at("pve9").serve(loopback()).await.map(drop);
    assert_eq!(
        error.unwrap_err().to_string(),
        "serve as node \"pve9\": the cluster has no such node"
    );
}

fn pinning(fingerprint: &str) -> Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Pinned {
        fingerprint: fingerprint.to_owned(),
        provider: Arc::clone(&provider),
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client().tls_backend_preconfigured(config).build().unwrap()
}

/// Accepts exactly one certificate.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pairs: Vec<_> = Sha256::digest(end_entity)
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        if pairs.join(":") == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
