//! What a hundred machines cost the API server, counted from the audit log of a real one.
//!
//! Real: etcd, kube-apiserver, garbage collection, and the Proxmox provider's program with the
//! webhooks and rights of its manifests. Played: Cluster API by the testkit's simulator, over HTTPS
//! like the real controllers; Proxmox VE, whose tasks end at once; its guests; and the IPAM provider, a
//! process with rights of its own. That is how the Go provider's figures were taken, to which the
//! table of this suite compares.
//!
//! The figures are the provider's own and don't depend on how it was compiled; that the binary of a
//! release lives a day under the rights of its manifests is seen with `CAPI_RS_E2E_PROGRAMS`:
//!
//! ```console
//! cargo build --release -p provider-proxmox --bins
//! CAPI_RS_E2E_PROGRAMS=$PWD/target/release cargo test -p e2e --test requests -- --include-ignored
//! ```

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
use e2e::management::Ports;
use e2e::proxmox::Proxmox;
use e2e::world::World;
use pve_sim::{Delays, Guests};
use serde_json::{Value, json};

use crate::stage::{LIMIT, Parts, SPEED, Stage};
use crate::table::{Peer, Row};

/// Ports of this suite, away from those of the others.
const PORTS: Ports = Ports(27_140);

const CAPMOX: Peer = Peer {
    name: "CAPMOX",
    figures: &[
        (Row::Writes, "20"),
        (Row::Reads, "0 (watches all Secrets)"),
        (Row::Steady, "0"),
        (Row::Deletion, "4"),
    ],
    goals: &[
        // Of these one for the address claim.
        (Row::Making, 8.0),
        (Row::Reads, 1.0),
        (Row::Steady, 0.0),
        (Row::Deletion, 5.0),
    ],
};

fn main() -> ExitCode {
    stage::play(|runtime| runtime.block_on(start()))
}

async fn start() -> Result<Stage, Failure> {
    let world = World::builder("requests", PORTS).without_managers();
    let world = world.limit(LIMIT).start().await?;
    let workloads = Workloads::new();
    let guests = Guests::new(workloads.clone());
    let platform = Proxmox::builder().delays(Delays::zero());
    let proxmox = Proxmox::serve(platform.speed(SPEED).guests(guests)).await?;
    let parts = Parts {
        peer: CAPMOX,
        widen,
        runs: None,
    };
    Stage::begin(world, workloads, proxmox, parts).await
}

/// Addresses for more than a thousand, and workers of which the three nodes hold a hundred.
fn widen(object: &mut Value) {
    let spec = &mut object["spec"];
    if spec["ipv4Config"].is_object() {
        spec["ipv4Config"]["addresses"] = json!(["127.43.0.10-127.43.4.250"]);
        spec["ipv4Config"]["prefix"] = json!(16);
    }
    if object["kind"] == "ProxmoxMachineTemplate" && object["metadata"]["name"] == "demo-workers" {
        object["spec"]["template"]["spec"]["memoryMiB"] = json!(512);
    }
}
