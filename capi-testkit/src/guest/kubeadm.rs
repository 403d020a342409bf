//! What `kubeadm init` and `kubeadm join` make of their configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::guest::disk::Disk;
use crate::guest::hardware::{Hardware, Image};
use crate::guest::network::Network;
use crate::guest::seed::brief;
use crate::workload::{Endpoint, Entry, Join, Node, Role, Taint};

/// Versions of kubeadm's configuration that current releases read.
const CONFIG_VERSIONS: [&str; 2] = ["kubeadm.k8s.io/v1beta3", "kubeadm.k8s.io/v1beta4"];
/// kubeadm's own minimum for control plane machines.
const CONTROL_PLANE_CORES_MIN: u32 = 2;
/// kubeadm's own minimum for control plane machines, in MB.
const CONTROL_PLANE_MEMORY_MB_MIN: u64 = 1700;
/// Where static pods are.
const MANIFESTS: &str = "/etc/kubernetes/manifests/";
/// The cluster's CA, which Cluster API writes before kubeadm runs.
const CA_CERTIFICATE: &str = "/etc/kubernetes/pki/ca.crt";
/// The name that kubeadm's own API server listens on.
const API_SERVER_PORT: u16 = 6443;
/// The taint of control plane machines.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// The machine that kubeadm runs on.
pub(super) struct Machine<'a> {
    pub(super) disk: &'a Disk,
    pub(super) hardware: &'a Hardware,
    pub(super) image: &'a Image,
    pub(super) network: &'a Network,
}

/// Reads the configuration, runs the preflight checks, and says how the machine comes in.
///
/// The error is what kubeadm prints.
pub(super) fn run(machine: &Machine<'_>, init: bool, config: &str) -> Result<Join, String> {
    let text = machine
        .disk
        .file(config)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| {
            format!(
                "unable to read config from {config:?}: open {config}: no such file or directory"
            )
        })?;
    let documents = documents(config, text)?;
    let main = if init {
        documents.get("InitConfiguration")
    } else {
        documents.get("JoinConfiguration")
    };
    let empty = Value::Null;
    let main = match main {
        Some(main) => main,
        None if init => &empty,
        None => {
            return Err(format!(
                "no JoinConfiguration found in config file {config:?}"
            ));
        }
    };
    let role = if init || !main["controlPlane"].is_null() {
        Role::ControlPlane
    } else {
        Role::Worker
    };
    preflight(machine, role, main)?;
    let mut node = node(machine, role, &main["nodeRegistration"])?;
    let mut join = if init {
        let cluster = documents.get("ClusterConfiguration").unwrap_or(&empty);
        node.kubernetes_version = cluster_version(machine, cluster)?;
        initialise(machine, main, cluster, node)?
    } else {
        node.kubernetes_version = machine.image.kubernetes.clone().unwrap_or_default();
        join_existing(machine, main, node)?
    };
    if let Entry::Init { serves, .. } | Entry::Join { serves, .. } = &mut join.entry {
        *serves = if role == Role::ControlPlane {
            served(machine)
        } else {
            Vec::new()
        };
    }
    reachable(machine, &join)?;
    Ok(join)
}

fn documents(config: &str, text: &str) -> Result<BTreeMap<String, Value>, String> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| format!("error unmarshaling {config}: {}", brief(&error)))?;
    let mut documents = BTreeMap::new();
    for document in all.into_iter().filter(|document| !document.is_null()) {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        let version = document["apiVersion"].as_str().unwrap_or_default();
        if kind.is_empty() || version.is_empty() {
            return Err(
                "kind and apiVersion are mandatory information that must be specified".to_owned(),
            );
        }
        // Component configurations (KubeletConfiguration, ...) come along in the same file.
        if version.starts_with("kubeadm.k8s.io/") && !CONFIG_VERSIONS.contains(&version) {
            return Err(format!(
                "your configuration file uses an unsupported API spec: {version:?} (kind: {kind:?})"
            ));
        }
        if documents.insert(kind.clone(), document).is_some() {
            return Err(format!("kind {kind:?} is duplicated in {config}"));
        }
    }
    Ok(documents)
}

fn preflight(machine: &Machine<'_>, role: Role, main: &Value) -> Result<(), String> {
    let ignored: Vec<String> = main["nodeRegistration"]["ignorePreflightErrors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_ascii_lowercase()))
        .collect();
    let mut failed = Vec::new();
    let mut check = |name: &str, bad: bool, text: String| {
        let is_ignored = ignored
            .iter()
            .any(|one| one == "all" || *one == name.to_ascii_lowercase());
        if bad && !is_ignored {
            failed.push(format!("[ERROR {name}]: {text}"));
        }
    };
    let (cores, memory) = (machine.hardware.cores, machine.hardware.memory_mib);
    if role == Role::ControlPlane {
        check(
            "NumCPU",
            cores < CONTROL_PLANE_CORES_MIN,
            format!(
                "the number of available CPUs {cores} is less than the required {CONTROL_PLANE_CORES_MIN}"
            ),
        );
        check(
            "Mem",
            // MiB as the hypervisor counts, MB as kubeadm does.
            memory * 1_048_576 / 1_000_000 < CONTROL_PLANE_MEMORY_MB_MIN,
            format!(
                "the system RAM ({memory} MiB) is less than the minimum {CONTROL_PLANE_MEMORY_MB_MIN} MB"
            ),
        );
    }
    check(
        "FileAvailable--etc-kubernetes-kubelet.conf",
        machine.disk.membership.is_some(),
        "/etc/kubernetes/kubelet.conf already exists".to_owned(),
    );
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "[preflight] Some fatal errors occurred: {}",
            failed.join(" ")
        ))
    }
}

fn node(machine: &Machine<'_>, role: Role, registration: &Value) -> Result<Node, String> {
    let name = registration["name"]
        .as_str()
        .filter(|name| !name.is_empty())
        .or(machine.disk.hostname())
        .unwrap_or("localhost")
        .trim()
        .to_ascii_lowercase();
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    if name.len() > 253 || !name.chars().all(fits) {
        return Err(format!(
            "nodeRegistration.name: Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        ));
    }
    let arguments = kubelet_arguments(&registration["kubeletExtraArgs"])?;
    let mut node = Node::new(&name, &machine.hardware.uuid, role);
    node.provider_id = arguments
        .get("provider-id")
        .filter(|id| !id.is_empty())
        .cloned();
    node.addresses = machine
        .network
        .usable(&machine.hardware.nics)
        .iter()
        .map(ipnet::IpNet::addr)
        .collect();
    node.labels
        .insert("kubernetes.io/hostname".to_owned(), name);
    if let Some(labels) = arguments.get("node-labels") {
        for (key, value) in labels.split(',').filter_map(|pair| pair.split_once('=')) {
            node.labels.insert(key.to_owned(), value.to_owned());
        }
    }
    if role == Role::ControlPlane {
        node.labels.insert(CONTROL_PLANE.to_owned(), String::new());
    }
    node.taints = taints(role, &registration["taints"]);
    if arguments
        .get("cloud-provider")
        .is_some_and(|value| value == "external")
    {
        node.taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
            value: "true".to_owned(),
            effect: "NoSchedule".to_owned(),
        });
    }
    Ok(node)
}

/// The arguments in the map form of v1beta3 or the list form of v1beta4.
fn kubelet_arguments(arguments: &Value) -> Result<BTreeMap<String, String>, String> {
    let text = |value: &Value| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        // kubeadm puts them into an environment file, and systemd takes the quotes off.
        text.replace(['\'', '"'], "")
    };
    match arguments {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(map) => Ok(map
            .iter()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect()),
        Value::Array(list) => Ok(list
            .iter()
            .filter_map(|entry| Some((entry["name"].as_str()?.to_owned(), text(&entry["value"]))))
            .collect()),
        _ => Err(
            "nodeRegistration.kubeletExtraArgs: expected a map or a list of name and value"
                .to_owned(),
        ),
    }
}

/// Absent taints mean kubeadm's own; an empty list means none.
fn taints(role: Role, taints: &Value) -> Vec<Taint> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match taints.as_array() {
        Some(taints) => taints
            .iter()
            .map(|taint| Taint {
                key: text(&taint["key"]),
                value: text(&taint["value"]),
                effect: text(&taint["effect"]),
            })
            .collect(),
        None if role == Role::ControlPlane => vec![Taint {
            key: CONTROL_PLANE.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        }],
        None => Vec::new(),
    }
}

fn cluster_version(machine: &Machine<'_>, cluster: &Value) -> Result<String, String> {
    let asked = cluster["kubernetesVersion"]
        .as_str()
        .filter(|version| !version.is_empty())
        .map(|version| format!("v{}", version.trim_start_matches('v')));
    match (asked, &machine.image.kubernetes) {
        (Some(asked), Some(installed)) if minor(&asked) != minor(installed) => Err(format!(
            "this version of kubeadm ({installed}) does not deploy a control plane of version {asked} with its kubelet; the template needs Kubernetes {asked}"
        )),
        (Some(asked), _) => Ok(asked),
        (None, Some(installed)) => Ok(installed.clone()),
        (None, None) => Err("could not fetch a Kubernetes version from the internet: ClusterConfiguration has no kubernetesVersion".to_owned()),
    }
}

fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn initialise(
    machine: &Machine<'_>,
    main: &Value,
    cluster: &Value,
    node: Node,
) -> Result<Join, String> {
    let endpoint = match cluster["controlPlaneEndpoint"]
        .as_str()
        .filter(|text| !text.is_empty())
    {
        Some(text) => text
            .parse()
            .map_err(|_| format!("controlPlaneEndpoint: Invalid value: {text:?}"))?,
        None => {
            let own = node.addresses.first().ok_or_else(|| {
                "unable to select an IP from default routes: network is unreachable".to_owned()
            })?;
            Endpoint::new(own.to_string(), API_SERVER_PORT)
        }
    };
    let ca_hash = match machine.disk.file(CA_CERTIFICATE) {
        Some(pem) => ca_hash(pem).ok_or_else(|| {
            format!("failure loading ca certificate: couldn't load the certificate file {CA_CERTIFICATE}: data doesn't contain a valid certificate")
        })?,
        // Without one kubeadm makes its own; equal machines get equal ones here.
        None => format!("sha256:{}", hex(&Sha256::digest(&machine.hardware.uuid))),
    };
    let tokens = main["bootstrapTokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| token["token"].as_str().map(str::to_owned))
        .collect();
    Ok(Join {
        endpoint,
        entry: Entry::Init {
            ca_hash,
            tokens,
            serves: Vec::new(),
        },
        node,
    })
}

fn join_existing(machine: &Machine<'_>, main: &Value, node: Node) -> Result<Join, String> {
    let discovery = &main["discovery"]["bootstrapToken"];
    if discovery.is_null() {
        return Err("discovery: Invalid value: \"\": bootstrapToken must be set; the simulated guest does not know discovery.file".to_owned());
    }
    let text = discovery["apiServerEndpoint"].as_str().unwrap_or_default();
    let endpoint = text.parse().map_err(|_| {
        format!("discovery.bootstrapToken.apiServerEndpoint: Invalid value: {text:?}")
    })?;
    let token = discovery["token"].as_str().unwrap_or_default();
    if !is_token(token) {
        return Err("discovery.bootstrapToken.token: Invalid value: the bootstrap token is invalid: not of the form \"\\A([a-z0-9]{6})\\.([a-z0-9]{16})\\z\"".to_owned());
    }
    let ca_hashes: Vec<String> = discovery["caCertHashes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|hash| Some(hash.as_str()?.to_ascii_lowercase()))
        .collect();
    if ca_hashes.is_empty() && discovery["unsafeSkipCAVerification"] != true {
        return Err("discovery.bootstrapToken: Invalid value: \"\": using token-based discovery without caCertHashes can be unsafe. Set unsafeSkipCAVerification as true in your kubeadm config file or pass --discovery-token-unsafe-skip-ca-verification flag to continue".to_owned());
    }
    if node.role == Role::ControlPlane && machine.disk.file(CA_CERTIFICATE).is_none() {
        return Err(format!(
            "failure loading certificate for CA: couldn't load the certificate file {CA_CERTIFICATE}: no such file or directory"
        ));
    }
    Ok(Join {
        endpoint,
        entry: Entry::Join {
            token: token.to_owned(),
            ca_hashes,
            serves: Vec::new(),
        },
        node,
    })
}

fn is_token(token: &str) -> bool {
    let fits = |part: &str, length: usize| {
        part.len() == length
            && part
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
    };
    token
        .split_once('.')
        .is_some_and(|(id, secret)| fits(id, 6) && fits(secret, 16))
}

/// The addresses on which this machine answers for the cluster: its own, and kube-vip's.
fn served(machine: &Machine<'_>) -> Vec<IpAddr> {
    let own = machine.network.usable(&machine.hardware.nics);
    own.iter()
        .map(ipnet::IpNet::addr)
        .chain(virtual_addresses(machine.disk))
        .collect()
}

/// The addresses that kube-vip static pods hold.
pub(super) fn virtual_addresses(disk: &Disk) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (_, manifest) in disk.below(MANIFESTS) {
        let Ok(pod) = serde_saphyr::from_slice::<Value>(manifest) else {
            continue;
        };
        let containers = pod["spec"]["containers"].as_array();
        for container in containers.into_iter().flatten() {
            let is_kube_vip = container["image"]
                .as_str()
                .is_some_and(|image| image.contains("kube-vip"));
            let environment = container["env"].as_array().filter(|_| is_kube_vip);
            addresses.extend(environment.into_iter().flatten().filter_map(|variable| {
                let name = variable["name"].as_str()?;
                // `vip_address` is what older releases call it.
                matches!(name, "address" | "vip_address")
                    .then(|| variable["value"].as_str()?.parse::<IpAddr>().ok())?
            }));
        }
    }
    addresses
}

fn reachable(machine: &Machine<'_>, join: &Join) -> Result<(), String> {
    let nics = &machine.hardware.nics;
    if machine.network.usable(nics).is_empty() {
        return Err(
            "unable to select an IP from default routes: no interface with a link has an address"
                .to_owned(),
        );
    }
    match join.endpoint.address() {
        Some(address)
            if !machine.network.reaches(nics, address) && !served(machine).contains(&address) =>
        {
            Err(format!(
                "dial tcp {}: connect: network is unreachable (no default route, and the address is in no subnet of this machine)",
                join.endpoint
            ))
        }
        _ => Ok(()),
    }
}

/// `sha256:<hex>` of the SubjectPublicKeyInfo of a PEM certificate, as kubeadm pins it.
///
/// `None` if it is no certificate.
pub fn ca_hash(pem: &Bytes) -> Option<String> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let packed: String = body.split_whitespace().collect();
    let der = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .ok()?;
    Some(format!(
        "sha256:{}",
        hex(&Sha256::digest(public_key_info(&der)?))
    ))
}

/// Walks Certificate → TBSCertificate → subjectPublicKeyInfo (RFC 5280, 4.1).
fn public_key_info(der: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    let (tag, _, after) = element(fields)?;
    // The version is optional and tagged [0].
    if tag == 0xa0 {
        fields = after;
    }
    // Serial number, signature, issuer, validity, subject.
    for _ in 0..5 {
        fields = element(fields)?.2;
    }
    let (_, _, after) = element(fields)?;
    fields.get(..fields.len() - after.len())
}

/// Tag, content and what follows of the first DER element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let size = usize::from(first & 0x7f);
        // Four bytes of length are 4 GiB, more than any certificate.
        if size == 0 || size > 4 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(size)?;
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}
