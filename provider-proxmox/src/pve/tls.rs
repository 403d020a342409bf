//! Whom to trust: system roots, an authority, a fingerprint, or anybody.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// How the server's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By the system's roots and these authorities (PEM, may be empty). Proxmox VE signs the
    /// certificates of its nodes with `/etc/pve/pve-root-ca.pem`.
    Roots {
        /// Certificates of additional authorities.
        pem: Vec<u8>,
    },
    /// By its SHA-256 fingerprint alone, as `GET /nodes` and `pvenode cert info` show it. It has to
    /// be changed when the certificate is renewed.
    Pinned(Fingerprint),
    /// Not at all: anybody in between can read the token. Must be asked for.
    Insecure,
}

/// Why a [`Trust`] cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The text holds no PEM certificate, or a broken one.
    #[error("not a PEM certificate")]
    Pem,
    /// The TLS library refuses it.
    #[error("the roots of trust cannot be used: {0}")]
    Unusable(String),
}

impl Trust {
    pub(super) fn apply(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, TrustError> {
        match self {
            Self::Roots { pem } => Ok(builder.tls_certs_merge(authorities(pem)?)),
            Self::Pinned(fingerprint) => {
                Ok(builder.tls_backend_preconfigured(pinned(*fingerprint)?))
            }
            Self::Insecure => Ok(builder.tls_danger_accept_invalid_certs(true)),
        }
    }

    /// Roots of the system and those in `pem`, which may be on one line with spaces for line ends.
    ///
    /// # Errors
    ///
    /// If `pem` holds anything but certificates.
    pub fn roots(pem: impl Into<Vec<u8>>) -> Result<Self, TrustError> {
        let pem = unfolded(pem.into());
        if authorities(&pem)?.is_empty() && !pem.trim_ascii().is_empty() {
            return Err(TrustError::Pem);
        }
        Ok(Self::Roots { pem })
    }
}

/// Gives back the line ends that YAML folds into spaces where a text stands between quotes, as that of
/// a variable does once clusterctl has filled it in.
fn unfolded(pem: Vec<u8>) -> Vec<u8> {
    const DASHES: &str = "-----";
    let Ok(text) = std::str::from_utf8(&pem) else {
        return pem;
    };
    if text.trim().contains('\n') || !text.contains(DASHES) {
        return pem;
    }
    // Labels and what lies between them take turns.
    let parts = text.split(DASHES).enumerate().map(|(number, part)| {
        let lines: Vec<_> = part.split_whitespace().collect();
        match number % 2 {
            0 => format!("\n{}\n", lines.join("\n")),
            _ => format!("{DASHES}{part}{DASHES}"),
        }
    });
    parts.collect::<String>().into_bytes()
}

fn authorities(pem: &[u8]) -> Result<Vec<reqwest::Certificate>, TrustError> {
    CertificateDer::pem_slice_iter(pem)
        .map(|der| {
            let der = der.map_err(|_| TrustError::Pem)?;
            reqwest::Certificate::from_der(&der).map_err(|_| TrustError::Pem)
        })
        .collect()
}

fn pinned(fingerprint: Fingerprint) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Pinned {
        fingerprint,
        provider: provider.clone(),
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustError::Unusable(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// The SHA-256 fingerprint of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// The text is not a SHA-256 fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 fingerprint is 32 pairs of hexadecimal digits, with or without colons")]
pub struct FingerprintError;

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits: String = text.trim().chars().filter(|c| *c != ':').collect();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(FingerprintError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| FingerprintError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| FingerprintError)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Accepts one certificate, whoever signed it and whatever its name. The signatures of the
/// handshake are still checked, so the server must hold the certificate's key.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Fingerprint::of(end_entity) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            let fault = CertificateError::ApplicationVerificationFailure;
            Err(rustls::Error::InvalidCertificate(fault))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_may_have_lost_its_line_ends() {
        let made = || rcgen::generate_simple_self_signed(vec!["pve".to_owned()]).unwrap();
        let pem = made().cert.pem() + &made().cert.pem();
        let folded = pem.split_whitespace().collect::<Vec<_>>().join(" ");
        let count = |text: &str| match Trust::roots(text) {
            Ok(Trust::Roots { pem }) => authorities(&pem).unwrap().len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(count(&pem), 2);
        assert_eq!(count(&folded), 2);
        assert_eq!(
            Trust::roots("-----BEGIN CERTIFICATE----- no"),
            Err(TrustError::Pem)
        );
    }

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons() {
        let print = Fingerprint::of(b"certificate");
        let text = print.to_string();
        assert_eq!(text.len(), 95);
        assert_eq!(text.parse(), Ok(print));
        assert_eq!(text.replace(':', "").to_lowercase().parse(), Ok(print));
        assert_eq!("AA:BB".parse::<Fingerprint>(), Err(FingerprintError));
        assert_eq!(
            "+1".repeat(32).parse::<Fingerprint>(),
            Err(FingerprintError)
        );
    }

    #[test]
    fn something_else_than_pem_is_refused() {
        assert_eq!(Trust::roots("not a certificate"), Err(TrustError::Pem));
        assert!(Trust::roots("").is_ok());
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert_eq!(Trust::roots(broken), Err(TrustError::Pem));
    }
}
