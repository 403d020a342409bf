//! The life of a cluster of the KubeVirt provider, with the real Cluster API above it and a real API
//! server below it: the same stories as in `life`.
//!
//! Real, beside what is real there: the infra cluster's etcd, kube-apiserver and garbage collection, the
//! tenant that the provider's own command makes in it, and that tenant's rights.
//! Played: KubeVirt, its image importer and the load balancer, on that API server; guests that boot from
//! the Secrets that the provider attached; kubelets.

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
use e2e::kubevirt::Kubevirt;
use e2e::management::Ports;
use e2e::world::World;
use kubevirt_sim::Guests;
use serde_json::{Value, json};

use crate::stage::{Parts, SPEED, Stage, newer, pace};

/// Ports of this suite, away from those of `up` and the others.
const PORTS: Ports = Ports(27_540);
/// Ports of the infra cluster.
const INFRA: Ports = Ports(27_640);
/// Its pods lie in 127.60.0.0/16.
const NETWORK: u8 = 60;
/// Names of images end in the version of the Kubernetes in them.
const VERSIONS: [&str; 2] = ["v1.36.0", stage::NEWER];
/// The golden image and the container disk with the newer one.
const GOLDEN: &str = "ubuntu-2404-kube-v1.36.1";
const DISK: &str = "quay.io/capk/ubuntu-2404-container-disk:v1.36.1";

fn main() -> ExitCode {
    stage::play(|runtime| runtime.block_on(start()))
}

async fn start() -> Result<Stage, Failure> {
    let world = World::builder("life-kubevirt", PORTS);
    let world = world.without_ipam().start().await?;
    let parts = Parts {
        older: include_str!("older-kubevirt.yaml"),
        renew: |template| {
            let [old, new] = VERSIONS;
            let text = template.to_string().replace(old, new);
            *template = serde_json::from_str(&text).unwrap_or(Value::Null);
        },
        grow: || {
            let machine = json!({"spec": {"domain": {"memory": {"guest": "8Gi"}}}});
            json!({"virtualMachineTemplate": {"spec": {"template": machine}}})
        },
        // The endpoint is a Service here and needs nothing of the seed.
        spoil: |config| {
            config["initConfiguration"]["nodeRegistration"]["name"] = json!("not a name");
        },
        complaint: "nodeRegistration.name: Invalid value",
    };
    Stage::begin(world, parts, async |machines| {
        let guests = Guests::new(machines)
            .pace(pace())
            .image(Kubevirt::golden(GOLDEN), newer())
            .image(DISK, newer());
        let builder = Kubevirt::with_golden(Kubevirt::builder(NETWORK), GOLDEN)
            .speed(SPEED)
            .guests(guests);
        let kubevirt = Kubevirt::start("life-kubevirt-infra", INFRA, builder).await?;
        let platform: Box<dyn Infrastructure> = Box::new(kubevirt);
        Ok(platform)
    })
    .await
}
