//! An unmodified `clusterctl` and the KubeVirt provider: the same stories as in `clusterctl`.
//!
//! Real, beside what is real there: the infra cluster's etcd, kube-apiserver and garbage collection, the
//! tenant that the provider's own command makes in it, and that tenant's rights. Its credentials are a
//! Secret, which `clusterctl move` takes along. Played: KubeVirt and the load balancer, on that API server.
//!
//! Left out: that the source's last change comes before the target's first. Both come in with the
//! credentials that moved along, so the infra cluster cannot tell them apart; what it can tell is that
//! no VM is made twice.

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
use e2e::kubevirt::Kubevirt;
use e2e::management::Ports;
use kubevirt_sim::{Delays, Guests};

use crate::flavor::ByClass;
use crate::stage::{Parts, Stage};

/// Ports of this suite, away from those of `up` and the others.
const PORTS: [Ports; 2] = [Ports(27_740), Ports(27_840)];
/// Ports of the infra cluster.
const INFRA: Ports = Ports(27_940);
/// Its pods lie in 127.62.0.0/16.
const NETWORK: u8 = 62;
/// How long a pod takes to start: longer than it takes clusterctl to look around before it moves. The
/// rest goes as in life.
const LAUNCH: Duration = Duration::from_secs(15);
const PARTS: Parts = Parts {
    // The first stands for CAPK's last series, whose place ours takes: its components are ours, its
    // number is theirs.
    releases: ["v0.11.0", "v1.0.0", "v1.1.0"],
    given: &[
        (
            "NODE_VM_IMAGE_TEMPLATE",
            "quay.io/capk/ubuntu-2404-container-disk:v1.36.0",
        ),
        ("INFRA_CLUSTER_SECRET", "infra"),
        ("CONTROL_PLANE_MEMORY", "3Gi"),
    ],
    given_for_the_class: &[("EXTERNAL_INFRA_SECRET", "infra")],
    flavor: Some("ext-infra"),
    text: include_str!("../../../provider-kubevirt/templates/cluster-template-ext-infra.yaml"),
    needed: &["NODE_VM_IMAGE_TEMPLATE"],
    credentials: None,
    target_account: None,
    of_nodes: &["BootstrapExecSucceeded"],
    compare,
};

fn main() -> ExitCode {
    stage::play(|runtime| runtime.block_on(start()))
}

async fn start() -> Result<Stage, Failure> {
    let mut delays = Delays::realistic();
    delays.launch = LAUNCH;
    let builder = Kubevirt::builder(NETWORK)
        .delays(delays)
        .guests(Guests::new(Workloads::new()));
    let kubevirt = Kubevirt::start("clusterctl-kubevirt-infra", INFRA, builder).await?;
    let variables = [Vec::new(), Vec::new()];
    let name = "clusterctl-kubevirt";
    Stage::begin(name, PORTS, PARTS, Box::new(kubevirt), variables).await
}

/// What the class made is the flavor for another infra cluster, but for the endpoint.
fn compare(made: &mut ByClass) -> Result<(), Failure> {
    let [cluster, plain] = &mut made.cluster;
    let hosts = [&mut *cluster, plain].map(|one| one["controlPlaneEndpoint"].take());
    assert!(
        hosts[0]["host"].is_string() && hosts[0] != hosts[1],
        "{hosts:?}"
    );
    assert_eq!(cluster, plain);
    Ok(())
}
