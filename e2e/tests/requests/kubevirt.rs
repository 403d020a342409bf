//! What a hundred machines of the KubeVirt provider cost the API servers of the management cluster and
//! of the infra cluster, counted from the audit logs of real ones; and how soon a VM that runs is a
//! machine that is provisioned. `CAPI_RS_E2E_MACHINES=500` asks for more.
//!
//! Real: two etcds, kube-apiservers and garbage collectors, and the provider's program with the webhooks
//! and rights of its manifests, and the tenant that its own command made. Played: Cluster API, over HTTPS;
//! KubeVirt, which takes no time, and its guests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod moments;
mod stage;
mod table;

use std::process::ExitCode;

use capi_testkit::workload::Workloads;
use e2e::failure::Failure;
use e2e::kubevirt::{Kubevirt, TENANT};
use e2e::management::Ports;
use e2e::world::World;
use kubevirt_sim::{Delays, Guests, NodeSpec};
use serde_json::{Value, json};

use crate::moments::Moments;
use crate::stage::{LIMIT, Parts, SPEED, Stage};
use crate::table::{Peer, Row};

/// Ports of this suite, away from those of the others.
const PORTS: Ports = Ports(28_040);
/// Ports of the infra cluster.
const INFRA: Ports = Ports(28_140);
/// Its pods lie in 127.64.0.0/16.
const NETWORK: u8 = 64;
/// Of each of the three nodes: hundreds of small VMs find room.
const CORES: u32 = 512;
const MEMORY_GIB: u64 = 1_024;

const CAPK: Peer = Peer {
    name: "CAPK",
    figures: &[
        (Row::Writes, "8"),
        (Row::Reads, "13, and 4 of workload"),
        // It looks every 20 s.
        (Row::Delay, "up to 20000"),
        // 8.2 per machine.
        (Row::Steady, "820"),
        (Row::Deletion, "8"),
    ],
    goals: &[
        (Row::Making, 5.0),
        (Row::Reads, 1.0),
        (Row::Delay, 100.0),
        (Row::Steady, 0.0),
        (Row::Deletion, 5.0),
    ],
};

fn main() -> ExitCode {
    stage::play(|runtime| runtime.block_on(start()))
}

async fn start() -> Result<Stage, Failure> {
    let world = World::builder("requests-kubevirt", PORTS).without_managers();
    let world = world.without_ipam().limit(LIMIT).start().await?;
    let workloads = Workloads::new();
    let guests = Guests::new(workloads.clone());
    let large = |n: u8| {
        let node = NodeSpec::new(format!("node-{n}")).zone(&format!("zone-{n}"));
        node.cores(CORES).memory_gib(MEMORY_GIB)
    };
    let builder = Kubevirt::builder(NETWORK).delays(Delays::zero());
    let builder = builder.node(large(1)).node(large(2)).node(large(3));
    let builder = builder.speed(SPEED).guests(guests);
    let kubevirt = Kubevirt::start("requests-kubevirt-infra", INFRA, builder).await?;
    let instances = "VirtualMachineInstance.v1.kubevirt.io";
    let runs = Moments::watch(kubevirt.infra.api_in(TENANT, instances), |one| {
        one["status"]["phase"] == "Running"
            && one["status"]["interfaces"][0]["ipAddress"].is_string()
    });
    let parts = Parts {
        peer: CAPK,
        widen,
        runs: Some(runs),
    };
    Stage::begin(world, workloads, kubevirt, parts).await
}

/// Small workers.
fn widen(object: &mut Value) {
    if object["kind"] == "KubevirtMachineTemplate" && object["metadata"]["name"] == "demo-workers" {
        let machine = "/spec/template/spec/virtualMachineTemplate/spec/template/spec/domain";
        if let Some(domain) = object.pointer_mut(machine) {
            domain["memory"]["guest"] = json!("512Mi");
            domain["cpu"]["cores"] = json!(1);
        }
    }
}
