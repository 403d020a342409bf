//! Who may come in over TLS: the server's own certificate authority, and the certificates of its users.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use super::{User, serve::Caller};

/// A certificate authority (EC P-256) and everyone it knows.
pub(super) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    /// By SHA-256 of the client certificate.
    certificates: Mutex<HashMap<[u8; 32], Caller>>,
}

/// A certificate and its key, as PEM.
pub(super) struct Credentials {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("capi-testkit-ca", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key),
            certificates: Mutex::default(),
        })
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    /// A serving certificate for the loopback names and `address`.
    pub(super) fn serving(
        &self,
        address: IpAddr,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let key = KeyPair::generate()?;
        let names = ["localhost", "kubernetes", "kubernetes.default.svc"];
        let mut params = CertificateParams::new(names.map(str::to_owned).to_vec())?;
        let loopback = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            address,
        ];
        params
            .subject_alt_names
            .extend(loopback.map(SanType::IpAddress));
        params.distinguished_name = subject("kube-apiserver", &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((certificate.der().clone(), key))
    }

    /// A new client certificate for a user.
    pub(super) fn admit_certificate(&self, user: &User) -> Result<Credentials, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(user.name(), user.groups());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let digest = Sha256::digest(certificate.der()).into();
        self.certificates
            .lock()
            .insert(digest, user.caller(user.name()));
        Ok(Credentials {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    pub(super) fn by_certificate(&self, certificate: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(certificate).into();
        self.certificates.lock().get(&digest).cloned()
    }
}

/// User names are common names, groups organizations.
fn subject(user: &str, groups: &[String]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for group in groups {
        name.push(DnType::OrganizationName, group.as_str());
    }
    name.push(DnType::CommonName, user);
    name
}
