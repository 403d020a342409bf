//! The life of a cluster of the Proxmox provider, with the real Cluster API above it.
//!
//! Real: etcd, kube-apiserver, garbage collection, Cluster API core, the kubeadm bootstrap and
//! control plane providers with their webhooks and conversion, the API servers and etcds of the workload
//! clusters, and the provider: its program in a process of its own, which is killed at ten random
//! moments, with the webhooks and the rights of its manifests.
//! Played: Proxmox VE (over HTTPS), guests that boot from the seed they are given, kubelets, kube-vip
//! and the IPAM provider.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod hands;
mod phases;
mod stage;

use std::process::ExitCode;

use e2e::failure::Failure;
use e2e::infrastructure::Infrastructure;
use e2e::management::Ports;
use e2e::proxmox::Proxmox;
use e2e::world::World;
use pve_sim::{Guests, TemplateSpec};
use serde_json::json;

use crate::stage::{Parts, SPEED, Stage, newer, pace};

/// Ports of this suite, away from those of `up` and the others.
const PORTS: Ports = Ports(26_740);
/// The template with the newer Kubernetes.
const NEWER: u32 = 9001;

fn main() -> ExitCode {
    stage::play(|runtime| runtime.block_on(start()))
}

async fn start() -> Result<Stage, Failure> {
    let world = World::builder("life", PORTS).start().await?;
    let parts = Parts {
        older: include_str!("older.yaml"),
        renew: |template| template["templateID"] = json!(NEWER),
        grow: || json!({"memoryMiB": 8192}),
        spoil: |config| {
            // kube-vip, without which nobody answers on the endpoint.
            config["files"] = json!([{"path": "/etc/motd", "content": "no kube-vip here"}]);
        },
        complaint: "needs a kube-vip static pod",
    };
    Stage::begin(world, parts, async |machines| {
        let guests = Guests::new(machines).pace(pace()).image(NEWER, newer());
        let template = TemplateSpec::new(NEWER, "pve1", "ubuntu-2404-kube-v1.36.1");
        let platform = Proxmox::builder()
            .template(template.storage("shared"))
            .speed(SPEED)
            .guests(guests);
        let platform: Box<dyn Infrastructure> = Box::new(Proxmox::serve(platform).await?);
        Ok(platform)
    })
    .await
}
