//! The Secrets of a cluster: certificate authorities, service account key, kubeconfig.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::core::ApiResource;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

use super::bootstrap::File;
use super::hub::{Error, Result};
use super::object::{Name, Object};
use super::word::{CLUSTER, CLUSTER_NAME_LABEL, CORE_API, SECRET, SECRET_TYPE, manager, resource};
use super::{World, cluster};

/// One key pair in PEM. `certificate` is the public key for service accounts.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    key: String,
}

/// What a control plane machine needs on its disk.
#[derive(Clone)]
pub(super) struct Certificates {
    pub(super) ca: Pair,
    etcd: Pair,
    proxy: Pair,
    service_account: Pair,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// The files that kubeadm looks for.
    pub(super) fn files(&self) -> Vec<File> {
        let mut files = Vec::new();
        for (pair, path) in [
            (&self.ca, "ca"),
            (&self.etcd, "etcd/ca"),
            (&self.proxy, "front-proxy-ca"),
        ] {
            files.push(pem(path, "crt", "0640", &pair.certificate));
            files.push(pem(path, "key", "0600", &pair.key));
        }
        let account = &self.service_account;
        files.push(pem("sa", "pub", "0640", &account.certificate));
        files.push(pem("sa", "key", "0600", &account.key));
        files
    }

    /// `sha256:<hex>` of the public key of the authority, as kubeadm pins it.
    pub(super) fn ca_hash(&self) -> Result<String> {
        let bytes = self.ca.certificate.clone().into();
        crate::guest::ca_hash(&bytes).ok_or_else(|| {
            Error::Inconsistent("cannot read the certificate of the cluster's CA".to_owned())
        })
    }
}

fn pem(path: &str, suffix: &str, permissions: &str, content: &str) -> File {
    let path = format!("/etc/kubernetes/pki/{path}.{suffix}");
    File::of_root(&path, permissions, content.to_owned())
}

pub(super) fn secrets() -> ApiResource {
    resource(&SECRET, "v1", "secrets")
}

/// A Secret as Cluster API makes them.
pub(super) fn secret(name: &Name, cluster: &str, owner: &Value, data: &[(&str, &str)]) -> Value {
    let data: BTreeMap<_, _> = data
        .iter()
        .map(|(key, value)| (*key, STANDARD.encode(value)))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
        "metadata": {
            "name": name.name, "namespace": name.namespace,
            "labels": {CLUSTER_NAME_LABEL: cluster}, "ownerReferences": [owner],
        },
        "data": data,
    })
}

/// One entry of a Secret.
pub(super) fn entry(secret: &Object, key: &str) -> Option<String> {
    let text = secret.data.get("data")?.get(key)?.as_str()?;
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// Reads the certificates of a cluster, or makes those that are missing. Users may bring their own.
pub(super) async fn certificates(
    world: &World,
    cluster: &Object,
    owner: &Value,
    manager: &str,
) -> Result<Arc<Certificates>> {
    if let Some(held) = world.certificates.lock().get(cluster.uid()) {
        return Ok(Arc::clone(held));
    }
    let mut pairs = Vec::new();
    for (purpose, make) in [
        ("ca", authority as fn(&str) -> Result<Pair>),
        ("etcd", authority),
        ("proxy", authority),
        ("sa", key_pair),
    ] {
        pairs.push(pair(world, cluster, purpose, make, owner, manager).await?);
    }
    let mut pairs = pairs.into_iter();
    let mut next = || pairs.next().expect("four pairs were just made");
    let made = Arc::new(Certificates {
        ca: next(),
        etcd: next(),
        proxy: next(),
        service_account: next(),
    });
    let uid = cluster.uid().to_owned();
    world.certificates.lock().insert(uid, Arc::clone(&made));
    Ok(made)
}

async fn pair(
    world: &World,
    cluster: &Object,
    purpose: &str,
    make: fn(&str) -> Result<Pair>,
    owner: &Value,
    manager: &str,
) -> Result<Pair> {
    let hub = &world.hub;
    let name = Name::new(
        cluster.namespace(),
        &format!("{}-{purpose}", cluster.name()),
    );
    if let Some(held) = hub.fetch(&secrets(), &name).await? {
        let read = |key| entry(&held, key);
        return match (read("tls.crt"), read("tls.key")) {
            (Some(certificate), Some(key)) => Ok(Pair { certificate, key }),
            _ => Err(Error::Inconsistent(format!(
                "Secret {name} needs the keys tls.crt and tls.key"
            ))),
        };
    }
    let made = make(purpose)?;
    let data = [
        ("tls.crt", made.certificate.as_str()),
        ("tls.key", made.key.as_str()),
    ];
    let value = secret(&name, cluster.name(), owner, &data);
    match hub.create(&secrets(), value, manager).await? {
        Some(_) => Ok(made),
        None => Err(Error::Inconsistent(format!(
            "Secret {name} was made by somebody else just now"
        ))),
    }
}

fn broken(fault: &rcgen::Error) -> Error {
    Error::Inconsistent(format!("cannot make a certificate: {fault}"))
}

fn authority(purpose: &str) -> Result<Pair> {
    let key = KeyPair::generate().map_err(|fault| broken(&fault))?;
    let certificate = authority_params(purpose)?
        .self_signed(&key)
        .map_err(|fault| broken(&fault))?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn authority_params(purpose: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(|fault| broken(&fault))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    let name = if purpose == "ca" {
        "kubernetes"
    } else {
        purpose
    };
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn key_pair(_purpose: &str) -> Result<Pair> {
    let key = KeyPair::generate().map_err(|fault| broken(&fault))?;
    Ok(Pair {
        certificate: key.public_key_pem(),
        key: key.serialize_pem(),
    })
}

/// The kubeconfig of a cluster with a control plane object: that provider's work.
pub(super) async fn kubeconfig(world: &World, cluster: &Object, owner: &Value) -> Result<()> {
    write_kubeconfig(world, cluster, owner, manager::CONTROL_PLANE).await
}

/// Without a control plane object, core makes the kubeconfig from the cluster's CA.
pub(super) async fn kubeconfig_of_core(world: &World, cluster: &Object) -> Result<()> {
    if cluster.at("/spec/controlPlaneRef").is_some() || !cluster::is_infrastructure_ready(cluster) {
        return Ok(());
    }
    let name = Name::new(cluster.namespace(), &format!("{}-ca", cluster.name()));
    let is_made = world.kubeconfigs.lock().contains(cluster.uid());
    if is_made || world.hub.fetch(&secrets(), &name).await?.is_none() {
        return Ok(());
    }
    let owner = cluster.owner_reference(CORE_API, &CLUSTER, false);
    write_kubeconfig(world, cluster, &owner, manager::CLUSTER).await
}

async fn write_kubeconfig(
    world: &World,
    cluster: &Object,
    owner: &Value,
    manager: &str,
) -> Result<()> {
    let Some(endpoint) = cluster::endpoint(cluster) else {
        return Ok(());
    };
    if world.kubeconfigs.lock().contains(cluster.uid()) {
        return Ok(());
    }
    let certificates = certificates(world, cluster, owner, manager).await?;
    let text = kubeconfig_text(
        cluster.name(),
        &format!("https://{endpoint}"),
        &certificates.ca,
    )?;
    let name = Name::new(
        cluster.namespace(),
        &format!("{}-kubeconfig", cluster.name()),
    );
    let value = secret(&name, cluster.name(), owner, &[("value", &text)]);
    // One that is there already is somebody's own, and stays.
    world.hub.create(&secrets(), value, manager).await?;
    let uid = cluster.uid().to_owned();
    world.kubeconfigs.lock().insert(uid);
    Ok(())
}

fn kubeconfig_text(cluster: &str, server: &str, ca: &Pair) -> Result<String> {
    let signer = KeyPair::from_pem(&ca.key).map_err(|fault| broken(&fault))?;
    let issuer = Issuer::new(authority_params("ca")?, signer);
    let key = KeyPair::generate().map_err(|fault| broken(&fault))?;
    let mut params = CertificateParams::new(Vec::new()).map_err(|fault| broken(&fault))?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationName, "system:masters");
    name.push(DnType::CommonName, "kubernetes-admin");
    let client = params
        .signed_by(&key, &issuer)
        .map_err(|fault| broken(&fault))?;
    let user = format!("{cluster}-admin");
    let context = format!("{user}@{cluster}");
    Ok(super::bootstrap::yaml(&json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context, "preferences": {},
        "clusters": [{"name": cluster, "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(&ca.certificate)}}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(client.pem()),
            "client-key-data": STANDARD.encode(key.serialize_pem())}}],
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_has_certificates_of_its_own_and_real_ones() {
        let certificates = || Certificates {
            ca: authority("ca").expect("makes one"),
            etcd: authority("etcd").expect("makes one"),
            proxy: authority("proxy").expect("makes one"),
            service_account: key_pair("sa").expect("makes one"),
        };
        let (one, other) = (certificates(), certificates());
        let hash = one.ca_hash().expect("readable");
        assert!(hash.starts_with("sha256:") && hash.len() == 71, "{hash}");
        assert_ne!(hash, other.ca_hash().expect("readable"));
        let paths: Vec<_> = one.files().into_iter().map(|file| file.path).collect();
        assert!(
            paths.contains(&"/etc/kubernetes/pki/etcd/ca.key".to_owned()),
            "{paths:?}"
        );
        assert!(!format!("{one:?}").contains("PRIVATE"));
        let text = kubeconfig_text("c", "https://10.0.0.9:6443", &one.ca).expect("makes one");
        let config = kube::config::Kubeconfig::from_yaml(&text).expect("kube reads it");
        assert_eq!(config.clusters[0].name, "c");
    }
}
