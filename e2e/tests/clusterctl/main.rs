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

mod crash;
mod flavor;
mod moving;
mod removal;
mod setup;
mod side;

use std::process::ExitCode;
use std::time::Duration;

use capi_testkit::workload::Workloads;
use e2e::failure::Failure;
use e2e::management::Ports;
use e2e::proxmox::Proxmox;
use e2e::suite;
use pve_sim::{Delays, Guests, TokenSpec};
use tokio::runtime::Runtime;

use crate::crash::Crashes;
use crate::side::Side;

/// Ports of this suite, away from those of `up` and the others.
const SOURCE: Ports = Ports(26_940);
const TARGET: Ports = Ports(27_040);
/// How long a clone takes: longer than it takes clusterctl to look around before it moves. The rest goes
/// as in life.
const CLONE: Duration = Duration::from_secs(10);
/// The token of the provider in the target, and its secret.
const TARGET_TOKEN: (&str, &str) = ("capi@pve!target", "7b0c2f6e-7d8a-4f5e-9a54-0c1d2e3f4a5b");

/// What all stories share.
struct Stage {
    source: Side,
    target: Side,
    proxmox: Proxmox,
    crashes: Crashes,
}

fn main() -> ExitCode {
    suite::play(
        start,
        &[
            (
                "ctl_01_init_installs_from_a_local_repository",
                |on, stage| on.block_on(setup::init(stage)),
            ),
            (
                "ctl_02_our_release_takes_the_place_of_capmox",
                |on, stage| on.block_on(setup::take_over(stage)),
            ),
            ("ctl_06_generate_fills_in_every_flavor", |_, stage| {
                flavor::generate(stage)
            }),
            ("ctl_06_generate_names_what_is_missing", |_, stage| {
                flavor::missing(stage)
            }),
            ("ctl_08_clusters_of_every_flavor_come_up", |on, stage| {
                on.block_on(flavor::come_up(stage))
            }),
            (
                "describe_and_get_kubeconfig_show_the_cluster",
                |_, stage| flavor::shown(stage),
            ),
            ("mv_02_a_move_in_the_middle_of_provisioning", |on, stage| {
                on.block_on(moving::midway(stage))
            }),
            ("mv_03_a_move_back_creates_nothing", |on, stage| {
                on.block_on(moving::back(stage))
            }),
            ("ctl_02_upgrade_between_our_releases", |on, stage| {
                on.block_on(setup::upgrade(stage))
            }),
            ("deleting_clusters_leaves_nothing", |on, stage| {
                on.block_on(removal::clusters(stage))
            }),
            (
                "ctl_09_deleting_the_provider_leaves_nothing",
                |on, stage| on.block_on(removal::provider(stage)),
            ),
            ("rb_03_the_rights_of_the_components_suffice", |_, stage| {
                removal::rights_sufficed(stage)
            }),
        ],
    )
}

fn start(runtime: &Runtime) -> Result<Stage, Failure> {
    runtime.block_on(async {
        let guests = Guests::new(Workloads::new());
        let mut delays = Delays::realistic();
        delays.clone = CLONE;
        let proxmox = Proxmox::serve(Proxmox::builder().delays(delays).guests(guests)).await?;
        let (token, secret) = TARGET_TOKEN;
        proxmox
            .platform
            .add_token(TokenSpec::provider(token, secret));
        let own = proxmox.platform.token();
        let side = async |name, ports, (token, secret): (&str, &str)| {
            // Credentials come by way of clusterctl.
            let program = e2e::provider::Program::built(
                e2e::proxmox::PROGRAM,
                e2e::proxmox::NAMESPACE,
                e2e::proxmox::ACCOUNT,
            )?;
            Side::bare(name, ports, program, proxmox.variables(token, secret)).await
        };
        let source = side("clusterctl-source", SOURCE, (&own.0, &own.1)).await?;
        let target = side("clusterctl-target", TARGET, TARGET_TOKEN).await?;
        Ok(Stage {
            source,
            target,
            proxmox,
            crashes: Crashes::new(),
        })
    })
}
