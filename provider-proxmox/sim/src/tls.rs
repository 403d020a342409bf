//! The cluster's certificate authority and its nodes' certificates.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

/// A node's certificate and its key.
#[derive(Debug)]
pub(crate) struct NodeCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) fingerprint: String,
}

/// The authority of one cluster with all that it signed.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) nodes: BTreeMap<String, NodeCertificate>,
}

impl Authority {
    /// Makes an authority and a certificate for each node, valid for its name, `localhost` and
    /// the loopback addresses.
    pub(crate) fn new(cluster: &str, nodes: &[String]) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Proxmox Virtual Environment", cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let pem = certificate.pem();
        let issuer = Issuer::new(params, key);
        let sign = |node: &String| Ok((node.clone(), sign(node, &issuer)?));
        let nodes = nodes
            .iter()
            .map(sign)
            .collect::<Result<_, rcgen::Error>>()?;
        Ok(Self { pem, nodes })
    }
}

fn name(organization: &str, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    name.push(DnType::CommonName, common);
    name
}

fn sign(node: &str, issuer: &Issuer<'_, KeyPair>) -> Result<NodeCertificate, rcgen::Error> {
    let key = KeyPair::generate()?;
    let names = vec![
        node.to_owned(),
        format!("{node}.localdomain"),
        "localhost".to_owned(),
    ];
    let mut params = CertificateParams::new(names)?;
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    params
        .subject_alt_names
        .extend(loopback.map(SanType::IpAddress));
    params.distinguished_name = name("PVE Cluster Node", node);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, issuer)?;
    let der = certificate.der().clone();
    let fingerprint = fingerprint(&der);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(NodeCertificate {
        chain: vec![der],
        key,
        fingerprint,
    })
}

/// The SHA-256 of a certificate, as Proxmox VE prints it: pairs of upper-case digits with colons.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    let pairs: Vec<_> = Sha256::digest(der)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    pairs.join(":")
}
