//! An unmodified `clusterctl` and the Proxmox provider.
//!
//! Real: clusterctl, two management clusters with etcd, kube-apiserver and the managers of Cluster
//! API, and the provider: a process in each of them, killed on the way, with the webhooks and rights
//! that `clusterctl init` installed from the repository which `manifests` wrote. Played: Proxmox VE
//! (over HTTPS, both providers use the same, each with a token of its own), guests that boot from
//! their seed, and the IPAM provider, by a process of its own.
//!
//! There is no workload API. So the control plane is never initialised, and `clusterctl move` would
//! refuse to move such a cluster; [`moving::pretend_nodes`] says what it wants to see.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod flavor;
mod moving;
mod removal;
mod setup;
mod side;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use capi_testkit::workload::Workloads;
use e2e::failure::Failure;
use e2e::management::Ports;
use e2e::proxmox::Proxmox;
use pve_sim::{Delays, Guests, TokenSpec};
use serde_json::{Value, json};

use crate::flavor::ByClass;
use crate::stage::{Credentials, Parts, Stage};

/// Ports of this suite, away from those of `up` and the others.
const PORTS: [Ports; 2] = [Ports(26_940), Ports(27_040)];
/// How long a clone takes: longer than it takes clusterctl to look around before it moves. The rest goes
/// as in life.
const CLONE: Duration = Duration::from_secs(10);
/// The token of the provider in the target, and its secret.
const TARGET_TOKEN: (&str, &str) = ("capi@pve!target", "7b0c2f6e-7d8a-4f5e-9a54-0c1d2e3f4a5b");
/// What a user gives beside the arguments.
const GIVEN: &[(&str, &str)] = &[
    ("CONTROL_PLANE_ENDPOINT_IP", "10.20.0.5"),
    ("NODE_IP_RANGES", "[10.20.0.10-10.20.0.39]"),
    ("IP_PREFIX", "16"),
    ("GATEWAY", "10.20.0.1"),
    ("DNS_SERVERS", "[10.20.0.1]"),
    ("BRIDGE", "vmbr0"),
    ("PROXMOX_SOURCENODE", "pve1"),
    ("TEMPLATE_VMID", "9000"),
    (
        "VM_SSH_KEYS",
        "ssh-ed25519 AAAA one@home, ssh-ed25519 BBBB two@home",
    ),
    ("ALLOWED_NODES", "[pve1, pve2, pve3]"),
    ("NUM_CORES", "2"),
    ("MEMORY_MIB", "2048"),
    ("BOOT_VOLUME_SIZE", "40"),
];
const PARTS: Parts = Parts {
    // The first stands for CAPMOX's last series, whose place ours takes: its components are ours, its
    // number is theirs.
    releases: ["v0.9.0", "v1.0.0", "v1.1.0"],
    given: GIVEN,
    given_for_the_class: &[
        ("CONTROL_PLANE_ENDPOINT_IP", "10.20.1.5"),
        ("NODE_IP_RANGES", "[10.20.1.10-10.20.1.39]"),
    ],
    flavor: None,
    text: include_str!("../../../provider-proxmox/templates/cluster-template.yaml"),
    needed: &["BRIDGE", "GATEWAY"],
    credentials: Some(Credentials {
        secret: "capmox-manager-credentials",
        prefix: "PROXMOX_",
        shown: "PROXMOX_URL",
    }),
    target_account: Some(TARGET_TOKEN.0),
    of_nodes: &[],
    compare,
};

fn main() -> ExitCode {
    stage::play(|runtime| runtime.block_on(start()))
}

async fn start() -> Result<Stage, Failure> {
    let guests = Guests::new(Workloads::new());
    let mut delays = Delays::realistic();
    delays.clone = CLONE;
    let proxmox = Proxmox::serve(Proxmox::builder().delays(delays).guests(guests)).await?;
    let (token, secret) = TARGET_TOKEN;
    proxmox
        .platform
        .add_token(TokenSpec::provider(token, secret));
    let own = proxmox.platform.token();
    let variables = [(own.0.as_str(), own.1.as_str()), TARGET_TOKEN]
        .map(|(token, secret)| Vec::from(proxmox.variables(token, secret)));
    Stage::begin("clusterctl", PORTS, PARTS, Box::new(proxmox), variables).await
}

/// What the class made is the default flavor, at its own addresses.
fn compare(made: &mut ByClass) -> Result<(), Failure> {
    let [cluster, plain] = &made.cluster;
    assert_eq!(cluster["controlPlaneEndpoint"]["host"], "10.20.1.5");
    assert_eq!(
        cluster["ipv4Config"]["addresses"],
        json!(["10.20.1.10-10.20.1.39"])
    );
    for field in ["dnsServers", "allowedNodes"] {
        assert_eq!(cluster[field], plain[field]);
    }
    let [config, plain] = &mut made.config;
    let pod = |config: &mut Value| -> Result<Value, Failure> {
        let content = config["files"][0]["content"].take();
        Ok(serde_saphyr::from_str(
            content.as_str().unwrap_or_default(),
        )?)
    };
    let (mut ours, theirs) = (pod(config)?, pod(plain)?);
    let address = "/spec/containers/0/env/2/value";
    assert_eq!(ours.pointer(address), Some(&json!("10.20.1.5")));
    *ours.pointer_mut(address).unwrap() = json!("10.20.0.5");
    assert_eq!(ours, theirs);
    Ok(())
}
