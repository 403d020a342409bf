//! Workload clusters: what the kubelets and kubeadms of simulated machines make together.
//!
//! A [`Workloads`] is the registry of all of them by control plane endpoint. Simulated platforms
//! pass the [`Join`] of a booted guest to it and tell it when a machine stops or goes; the simulator
//! of Cluster API core reads nodes from it, labels, drains and removes them (S-07 to S-09), and
//! waits on [`Workloads::changes`].
//!
//! It is deliberately not a second API server: nodes are values, a join is a decision.
//!
//! # Assumptions
//!
//! A network plugin is there from the start, so a node is ready as soon as it has joined. The
//! control plane answers while one of its nodes is ready; etcd's quorum is not played.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The port of a control plane endpoint that names none, as kubeadm has it.
const ENDPOINT_PORT_DEFAULT: u16 = 6443;

/// Where the API server of a workload cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// An address or a host name, lower case, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Makes an endpoint of its parts.
    pub fn new(host: impl AsRef<str>, port: u16) -> Self {
        let host = host.as_ref().trim_matches(['[', ']']).to_ascii_lowercase();
        // One spelling per address, since IPv6 has many.
        let host = host
            .parse::<IpAddr>()
            .map_or(host, |address| address.to_string());
        Self { host, port }
    }

    /// The host as an address, unless it is a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl Display for Endpoint {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// The text is not `host`, `host:port` or `[address]:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {0:?} as host:port")]
pub struct BadEndpoint(String);

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let bare = text.strip_prefix("https://").unwrap_or(text);
        if bare.parse::<IpAddr>().is_ok() {
            return Ok(Self::new(bare, ENDPOINT_PORT_DEFAULT));
        }
        let (host, port) = match bare.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (bare, ENDPOINT_PORT_DEFAULT),
        };
        if host.is_empty() || host.contains(['/', ' ']) || port == 0 {
            return Err(bad());
        }
        Ok(Self::new(host, port))
    }
}

/// What a node does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs the API server and etcd.
    ControlPlane,
    /// Runs workloads only.
    Worker,
}

/// The effect of a taint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value, often empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A Node of a workload cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// The machine that runs the kubelet: its SMBIOS UUID, lower case. Also `nodeInfo.systemUUID`.
    pub machine: String,
    /// `spec.providerID`, if the kubelet was given one.
    pub provider_id: Option<String>,
    /// Control plane or worker.
    pub role: Role,
    /// `nodeInfo.kubeletVersion`, with `v`.
    pub kubernetes_version: String,
    /// Internal addresses, in the order of the NICs.
    pub addresses: Vec<IpAddr>,
    /// The condition `Ready`.
    pub ready: bool,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
}

impl Node {
    /// A ready node without labels, annotations or taints.
    pub fn new(name: impl Into<String>, machine: impl Into<String>, role: Role) -> Self {
        Self {
            name: name.into(),
            machine: machine.into().to_ascii_lowercase(),
            provider_id: None,
            role,
            kubernetes_version: String::new(),
            addresses: Vec::new(),
            ready: true,
            unschedulable: false,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
        }
    }
}

/// How a machine comes into a cluster.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// `kubeadm init`: the first control plane machine.
    Init {
        /// `sha256:<hex>` of the public key of the cluster's CA.
        ca_hash: String,
        /// Bootstrap tokens of the `InitConfiguration`; Cluster API adds its own later with
        /// [`Workloads::allow_token`].
        tokens: Vec<String>,
        /// Addresses that this machine answers on for the cluster: its own and that of a kube-vip
        /// static pod. The endpoint is answered only if it is one of these, or was declared by
        /// [`Workloads::declare_load_balancer`].
        serves: Vec<IpAddr>,
    },
    /// `kubeadm join`, of a worker or another control plane machine.
    Join {
        /// The bootstrap token.
        token: String,
        /// The accepted CA hashes; empty accepts any (`unsafeSkipCAVerification`).
        ca_hashes: Vec<String>,
        /// What this machine serves, as for init; empty for workers.
        serves: Vec<IpAddr>,
    },
    /// The machine was a member before, and its kubelet came up again.
    Return,
}

// A bootstrap token is a credential.
impl std::fmt::Debug for Entry {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Init {
                ca_hash, serves, ..
            } => out
                .debug_struct("Init")
                .field("ca_hash", ca_hash)
                .field("serves", serves)
                .finish_non_exhaustive(),
            Self::Join {
                ca_hashes, serves, ..
            } => out
                .debug_struct("Join")
                .field("ca_hashes", ca_hashes)
                .field("serves", serves)
                .finish_non_exhaustive(),
            Self::Return => out.write_str("Return"),
        }
    }
}

/// A machine that asks to become, or to be again, a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The control plane endpoint that it was given.
    pub endpoint: Endpoint,
    /// How it comes in.
    pub entry: Entry,
    /// The node that it will be. An empty version means the version of the cluster.
    pub node: Node,
}

/// Why a machine does not become a node. The words are those that kubeadm would print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Nobody answers on the endpoint (yet).
    #[error("dial tcp {endpoint}: connect: no route to host: {why}")]
    Unanswered {
        /// The endpoint.
        endpoint: Endpoint,
        /// What would have to serve it.
        why: &'static str,
    },
    /// `kubeadm init` on an endpoint that has a cluster already.
    #[error("cannot initialise a second cluster on {endpoint}: it has one, made by machine {by}")]
    AlreadyInitialised {
        /// The endpoint.
        endpoint: Endpoint,
        /// The machine that made the cluster.
        by: String,
    },
    /// The machine is being made a node; ask again.
    #[error("[wait-control-plane] Waiting for the kubelet and the control plane")]
    Pending,
    /// Something else went wrong, in these words.
    #[error("{0}")]
    Failed(String),
    /// The token is unknown to the cluster.
    #[error(
        "couldn't validate the identity of the API server: could not find a JWS signature in the cluster-info ConfigMap for the given token"
    )]
    UnknownToken,
    /// The CA of the cluster is another one than the machine was told.
    #[error(
        "couldn't validate the identity of the API server: cluster CA found in cluster-info ConfigMap is invalid: none of the public keys {found:?} are pinned"
    )]
    OtherCa {
        /// The hash of the cluster's CA.
        found: String,
    },
    /// Another ready machine bears the name.
    #[error("a Node with name {name:?} and status \"Ready\" already exists in the cluster")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another ready machine has the address.
    #[error("address {address} is already in use by machine {by}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The machine that has it.
        by: String,
    },
    /// The Node object of a returning machine was deleted; the kubelet does not make it anew, since
    /// the machine's identity went with it.
    #[error("node {name:?} not found")]
    NodeGone {
        /// The name.
        name: String,
    },
}

impl Refused {
    /// Whether trying again later can help, as kubeadm's discovery does for some minutes.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unanswered { .. } | Self::Pending | Self::UnknownToken => true,
            Self::AlreadyInitialised { .. }
            | Self::Failed(_)
            | Self::OtherCa { .. }
            | Self::NameTaken { .. }
            | Self::AddressTaken { .. }
            | Self::NodeGone { .. } => false,
        }
    }
}

/// One workload cluster, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// Where it is reached.
    pub endpoint: Endpoint,
    /// `sha256:<hex>` of the public key of its CA.
    pub ca_hash: String,
    /// The version that it was initialised with.
    pub kubernetes_version: String,
    /// The machine that initialised it.
    pub initialised_by: String,
    /// Whether its API server answers.
    pub answers: bool,
    /// Its nodes, in the order they came. Names and provider ids may be there twice.
    pub nodes: Vec<Node>,
}

impl Workload {
    /// The nodes that bear this provider id: one, none, or more if something went wrong.
    pub fn by_provider_id(&self, provider_id: &str) -> Vec<&Node> {
        self.nodes
            .iter()
            .filter(|node| node.provider_id.as_deref() == Some(provider_id))
            .collect()
    }

    /// The nodes that bear this name.
    pub fn by_name(&self, name: &str) -> Vec<&Node> {
        self.nodes.iter().filter(|node| node.name == name).collect()
    }
}

/// All workload clusters of one simulation. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Workloads {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    clusters: BTreeMap<Endpoint, Cluster>,
    load_balancers: BTreeSet<Endpoint>,
    /// Tokens by endpoint; they may come before the cluster does.
    tokens: BTreeMap<Endpoint, BTreeSet<String>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("State")
            .field("clusters", &self.clusters)
            .field("load_balancers", &self.load_balancers)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Cluster {
    ca_hash: String,
    kubernetes_version: String,
    initialised_by: String,
    nodes: Vec<Node>,
    /// Control plane machines that exist, and what each serves. A machine that is destroyed goes
    /// from here, though its Node object stays.
    members: BTreeMap<String, Vec<IpAddr>>,
}

impl Workloads {
    /// A registry without clusters.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that changes with every change of any cluster.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Says that something outside the machines, like a load balancer or a DNS name, leads from this
    /// endpoint to the control plane machines.
    pub fn declare_load_balancer(&self, endpoint: &Endpoint) {
        self.change(|state| state.load_balancers.insert(endpoint.clone()));
    }

    /// Adds a bootstrap token, as Cluster API's kubeadm provider does through the workload API.
    pub fn allow_token(&self, endpoint: &Endpoint, token: impl Into<String>) {
        self.change(|state| {
            state
                .tokens
                .entry(endpoint.clone())
                .or_default()
                .insert(token.into())
        });
    }

    /// Lets a machine in, or says why not.
    ///
    /// # Errors
    ///
    /// [`Refused`], in the words of kubeadm.
    pub fn join(&self, join: &Join) -> Result<(), Refused> {
        let done = {
            let mut state = self.shared.state.lock();
            match &join.entry {
                Entry::Init {
                    ca_hash,
                    tokens,
                    serves,
                } => state.init(join, ca_hash, tokens, serves),
                Entry::Join {
                    token,
                    ca_hashes,
                    serves,
                } => state.join(join, token, ca_hashes, serves),
                Entry::Return => state.come_back(join),
            }
        };
        if done.is_ok() {
            self.notify();
        }
        done
    }

    /// The machine no longer runs: its nodes are not ready. True if there were any.
    pub fn machine_stopped(&self, machine: &str) -> bool {
        let machine = machine.to_ascii_lowercase();
        self.change(|state| state.stop(&machine))
    }

    /// The machine is gone with its disk. Its Node objects stay, not ready, until somebody removes
    /// them; a cluster whose last control plane machine goes is lost with it.
    pub fn machine_destroyed(&self, machine: &str) -> bool {
        let machine = machine.to_ascii_lowercase();
        self.change(|state| {
            let stopped = state.stop(&machine);
            state.clusters.retain(|_, cluster| {
                let was_member = cluster.members.remove(&machine).is_some();
                !(was_member && cluster.members.is_empty())
            });
            stopped
        })
    }

    /// The cluster at this endpoint.
    pub fn get(&self, endpoint: &Endpoint) -> Option<Workload> {
        let state = self.shared.state.lock();
        let cluster = state.clusters.get(endpoint)?;
        Some(cluster.shown(endpoint, state.answers(endpoint)))
    }

    /// Every cluster.
    pub fn all(&self) -> Vec<Workload> {
        let state = self.shared.state.lock();
        state
            .clusters
            .iter()
            .map(|(endpoint, cluster)| cluster.shown(endpoint, state.answers(endpoint)))
            .collect()
    }

    /// Whether an API server answers at this endpoint.
    pub fn answers(&self, endpoint: &Endpoint) -> bool {
        self.shared.state.lock().answers(endpoint)
    }

    /// Changes every node of this name, as a client of the workload API would. True if there is one.
    pub fn update_node(
        &self,
        endpoint: &Endpoint,
        name: &str,
        mut update: impl FnMut(&mut Node),
    ) -> bool {
        self.change(|state| {
            let Some(cluster) = state.clusters.get_mut(endpoint) else {
                return false;
            };
            let mut found = false;
            for node in cluster.nodes.iter_mut().filter(|node| node.name == name) {
                update(node);
                found = true;
            }
            found
        })
    }

    /// Sets whether the node is ready, as a kubelet in trouble would.
    pub fn set_ready(&self, endpoint: &Endpoint, name: &str, ready: bool) -> bool {
        self.update_node(endpoint, name, |node| node.ready = ready)
    }

    /// Deletes the Node objects of this name. True if there was one.
    pub fn remove_node(&self, endpoint: &Endpoint, name: &str) -> bool {
        self.change(|state| {
            let Some(cluster) = state.clusters.get_mut(endpoint) else {
                return false;
            };
            let before = cluster.nodes.len();
            cluster.nodes.retain(|node| node.name != name);
            before != cluster.nodes.len()
        })
    }

    /// Adds a node without any check: the broken worlds that a controller has to see through. True if
    /// the cluster exists.
    pub fn insert_node(&self, endpoint: &Endpoint, node: Node) -> bool {
        self.change(|state| {
            let Some(cluster) = state.clusters.get_mut(endpoint) else {
                return false;
            };
            cluster.nodes.push(node);
            true
        })
    }

    fn change(&self, change: impl FnOnce(&mut State) -> bool) -> bool {
        let changed = change(&mut self.shared.state.lock());
        if changed {
            self.notify();
        }
        changed
    }

    fn notify(&self) {
        self.shared
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl State {
    fn init(
        &mut self,
        join: &Join,
        ca_hash: &str,
        tokens: &[String],
        serves: &[IpAddr],
    ) -> Result<(), Refused> {
        if let Some(cluster) = self.clusters.get(&join.endpoint) {
            return Err(Refused::AlreadyInitialised {
                endpoint: join.endpoint.clone(),
                by: cluster.initialised_by.clone(),
            });
        }
        if !self.is_served(&join.endpoint, serves) {
            return Err(unserved(&join.endpoint));
        }
        self.tokens
            .entry(join.endpoint.clone())
            .or_default()
            .extend(tokens.iter().cloned());
        let machine = join.node.machine.clone();
        self.clusters.insert(
            join.endpoint.clone(),
            Cluster {
                ca_hash: ca_hash.to_owned(),
                kubernetes_version: join.node.kubernetes_version.clone(),
                initialised_by: machine.clone(),
                nodes: vec![join.node.clone()],
                members: BTreeMap::from([(machine, serves.to_vec())]),
            },
        );
        Ok(())
    }

    fn join(
        &mut self,
        join: &Join,
        token: &str,
        ca_hashes: &[String],
        serves: &[IpAddr],
    ) -> Result<(), Refused> {
        if !self.answers(&join.endpoint) {
            return Err(unserved(&join.endpoint));
        }
        let known = self
            .tokens
            .get(&join.endpoint)
            .is_some_and(|tokens| tokens.contains(token));
        let Some(cluster) = self.clusters.get_mut(&join.endpoint) else {
            return Err(unserved(&join.endpoint));
        };
        if !known {
            return Err(Refused::UnknownToken);
        }
        if !ca_hashes.is_empty() && !ca_hashes.contains(&cluster.ca_hash) {
            return Err(Refused::OtherCa {
                found: cluster.ca_hash.clone(),
            });
        }
        cluster.admit(&join.node)?;
        let mut node = join.node.clone();
        if node.kubernetes_version.is_empty() {
            node.kubernetes_version
                .clone_from(&cluster.kubernetes_version);
        }
        if node.role == Role::ControlPlane {
            cluster
                .members
                .insert(node.machine.clone(), serves.to_vec());
        }
        cluster.nodes.retain(|other| other.name != node.name);
        cluster.nodes.push(node);
        Ok(())
    }

    fn come_back(&mut self, join: &Join) -> Result<(), Refused> {
        let gone = || Refused::NodeGone {
            name: join.node.name.clone(),
        };
        let cluster = self.clusters.get_mut(&join.endpoint).ok_or_else(gone)?;
        let node = cluster
            .nodes
            .iter_mut()
            .find(|node| node.name == join.node.name && node.machine == join.node.machine)
            .ok_or_else(gone)?;
        node.ready = true;
        Ok(())
    }

    fn stop(&mut self, machine: &str) -> bool {
        let mut stopped = false;
        for cluster in self.clusters.values_mut() {
            for node in &mut cluster.nodes {
                if node.machine == machine {
                    stopped |= node.ready;
                    node.ready = false;
                }
            }
        }
        stopped
    }

    fn is_served(&self, endpoint: &Endpoint, serves: &[IpAddr]) -> bool {
        self.load_balancers.contains(endpoint)
            || endpoint
                .address()
                .is_some_and(|address| serves.contains(&address))
    }

    /// A ready control plane node has to be there that serves the endpoint.
    fn answers(&self, endpoint: &Endpoint) -> bool {
        let Some(cluster) = self.clusters.get(endpoint) else {
            return false;
        };
        cluster.nodes.iter().any(|node| {
            node.ready
                && cluster
                    .members
                    .get(&node.machine)
                    .is_some_and(|serves| self.is_served(endpoint, serves))
        })
    }
}

impl Cluster {
    fn admit(&self, node: &Node) -> Result<(), Refused> {
        let mut others = self
            .nodes
            .iter()
            .filter(|other| other.ready && other.machine != node.machine);
        if others.clone().any(|other| other.name == node.name) {
            return Err(Refused::NameTaken {
                name: node.name.clone(),
            });
        }
        others
            .find_map(|other| {
                let address = node
                    .addresses
                    .iter()
                    .find(|address| other.addresses.contains(address))?;
                Some(Refused::AddressTaken {
                    address: *address,
                    by: other.machine.clone(),
                })
            })
            .map_or(Ok(()), Err)
    }

    fn shown(&self, endpoint: &Endpoint, answers: bool) -> Workload {
        Workload {
            endpoint: endpoint.clone(),
            ca_hash: self.ca_hash.clone(),
            kubernetes_version: self.kubernetes_version.clone(),
            initialised_by: self.initialised_by.clone(),
            answers,
            nodes: self.nodes.clone(),
        }
    }
}

fn unserved(endpoint: &Endpoint) -> Refused {
    Refused::Unanswered {
        endpoint: endpoint.clone(),
        why: "no running control plane machine serves this address; it needs a kube-vip static pod, \
              the machine's own address, or a load balancer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: &str = "10.0.0.9";

    fn endpoint() -> Endpoint {
        Endpoint::new(VIP, 6443)
    }

    fn node(name: &str, role: Role, address: &str) -> Node {
        let mut node = Node::new(name, format!("uuid-{name}"), role);
        node.addresses = vec![address.parse().expect("an address")];
        node.kubernetes_version = "v1.34.2".to_owned();
        node
    }

    fn init(name: &str, serves: &[&str]) -> Join {
        Join {
            endpoint: endpoint(),
            entry: Entry::Init {
                ca_hash: "sha256:aa".to_owned(),
                tokens: vec!["abcdef.0123456789abcdef".to_owned()],
                serves: serves
                    .iter()
                    .map(|ip| ip.parse().expect("an address"))
                    .collect(),
            },
            node: node(name, Role::ControlPlane, "10.0.0.10"),
        }
    }

    fn worker(name: &str, address: &str, token: &str, ca_hash: &str) -> Join {
        Join {
            endpoint: endpoint(),
            entry: Entry::Join {
                token: token.to_owned(),
                ca_hashes: vec![ca_hash.to_owned()],
                serves: Vec::new(),
            },
            node: Node {
                kubernetes_version: String::new(),
                ..node(name, Role::Worker, address)
            },
        }
    }

    const TOKEN: &str = "abcdef.0123456789abcdef";

    #[test]
    fn endpoints_are_read_in_every_spelling() {
        for (text, wanted) in [
            ("10.0.0.9:6443", Some(("10.0.0.9", 6443))),
            ("10.0.0.9", Some(("10.0.0.9", 6443))),
            ("[fd00::0:1]:443", Some(("fd00::1", 443))),
            ("fd00::1", Some(("fd00::1", 6443))),
            (
                "https://API.example.org:8443",
                Some(("api.example.org", 8443)),
            ),
            ("host:", None),
            (":6443", None),
            ("host:0", None),
            ("a b", None),
        ] {
            let read = text.parse::<Endpoint>().ok();
            let wanted = wanted.map(|(host, port)| Endpoint::new(host, port));
            assert_eq!(read, wanted, "{text}");
            if let Some(endpoint) = read {
                assert_eq!(
                    endpoint.to_string().parse(),
                    Ok(endpoint),
                    "round trip of {text}"
                );
            }
        }
    }

    #[test]
    fn a_join_needs_cluster_token_and_ca() {
        let workloads = Workloads::new();
        let early = workloads.join(&worker("w", "10.0.0.20", TOKEN, "sha256:aa"));
        assert!(
            matches!(early, Err(Refused::Unanswered { .. })),
            "{early:?}"
        );
        workloads.join(&init("cp", &[VIP])).expect("initialises");
        assert_eq!(
            workloads.join(&worker("w", "10.0.0.20", "bad", "sha256:aa")),
            Err(Refused::UnknownToken)
        );
        assert_eq!(
            workloads.join(&worker("w", "10.0.0.20", TOKEN, "sha256:bb")),
            Err(Refused::OtherCa {
                found: "sha256:aa".to_owned()
            })
        );
        workloads
            .join(&worker("w", "10.0.0.20", TOKEN, "sha256:aa"))
            .expect("joins");
        let cluster = workloads.get(&endpoint()).expect("is there");
        assert_eq!(cluster.by_name("w")[0].kubernetes_version, "v1.34.2");
    }

    #[test]
    fn nobody_initialises_twice_or_without_serving_the_endpoint() {
        let workloads = Workloads::new();
        let silent = workloads.join(&init("cp", &["10.0.0.10"]));
        assert!(
            matches!(silent, Err(Refused::Unanswered { .. })),
            "{silent:?}"
        );
        workloads.join(&init("cp", &[VIP])).expect("initialises");
        let second = workloads.join(&init("other", &[VIP]));
        assert!(
            matches!(second, Err(Refused::AlreadyInitialised { .. })),
            "{second:?}"
        );

        let balanced = Workloads::new();
        balanced.declare_load_balancer(&endpoint());
        balanced
            .join(&init("cp", &[]))
            .expect("the load balancer leads to it");
    }

    #[test]
    fn a_stopped_control_plane_is_silent_and_comes_back() {
        let workloads = Workloads::new();
        workloads.join(&init("cp", &[VIP])).expect("initialises");
        let mut changes = workloads.changes();
        changes.mark_unchanged();
        assert!(workloads.machine_stopped("UUID-CP"));
        assert!(changes.has_changed().expect("the registry lives"));
        assert!(!workloads.answers(&endpoint()));
        let mut back = init("cp", &[VIP]);
        back.entry = Entry::Return;
        workloads.join(&back).expect("comes back");
        assert!(workloads.answers(&endpoint()));
        assert!(workloads.remove_node(&endpoint(), "cp"));
        let gone = workloads.join(&back);
        assert!(matches!(gone, Err(Refused::NodeGone { .. })), "{gone:?}");
    }

    #[test]
    fn a_cluster_ends_with_its_last_control_plane_machine_but_nodes_outlive_workers() {
        let workloads = Workloads::new();
        workloads.join(&init("cp", &[VIP])).expect("initialises");
        workloads
            .join(&worker("w", "10.0.0.20", TOKEN, "sha256:aa"))
            .expect("joins");
        workloads.machine_destroyed("uuid-w");
        let cluster = workloads.get(&endpoint()).expect("is there");
        assert!(!cluster.by_name("w")[0].ready);
        workloads.machine_destroyed("uuid-cp");
        assert_eq!(workloads.get(&endpoint()), None);
        workloads
            .join(&init("new", &[VIP]))
            .expect("the endpoint is free again");
    }

    #[test]
    fn names_and_addresses_in_use_are_refused_and_forced_doubles_are_visible() {
        let workloads = Workloads::new();
        workloads.join(&init("cp", &[VIP])).expect("initialises");
        let mut twin = worker("cp", "10.0.0.20", TOKEN, "sha256:aa");
        twin.node.machine = "uuid-twin".to_owned();
        assert_eq!(
            workloads.join(&twin),
            Err(Refused::NameTaken {
                name: "cp".to_owned()
            })
        );
        let squatter = workloads.join(&worker("w", "10.0.0.10", TOKEN, "sha256:aa"));
        assert!(
            matches!(squatter, Err(Refused::AddressTaken { .. })),
            "{squatter:?}"
        );
        let mut double = node("x", Role::Worker, "10.0.0.30");
        double.provider_id = Some("p://1".to_owned());
        assert!(workloads.insert_node(&endpoint(), double.clone()));
        assert!(workloads.insert_node(&endpoint(), double));
        let cluster = workloads.get(&endpoint()).expect("is there");
        assert_eq!(cluster.by_provider_id("p://1").len(), 2);
        assert_eq!(cluster.by_name("x").len(), 2);
    }

    #[test]
    fn a_token_never_shows() {
        let shown = format!("{:?}", worker("w", "10.0.0.20", TOKEN, "sha256:aa"));
        assert!(!shown.contains(TOKEN), "{shown}");
        let workloads = Workloads::new();
        workloads.allow_token(&endpoint(), TOKEN);
        assert!(!format!("{workloads:?}").contains(TOKEN));
    }
}
