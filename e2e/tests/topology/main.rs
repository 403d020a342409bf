//! Clusters of a class, and clusters whose infrastructure is somebody else's, with the real Cluster
//! API above the Proxmox provider.
//!
//! Real: etcd, kube-apiserver, garbage collection, Cluster API core with its topology controller, the
//! kubeadm providers, and the provider's program with the webhooks and rights of its manifests; the
//! class is the one that the provider ships for `clusterctl`. Played: Proxmox VE with its guests, and
//! the IPAM provider, a process with rights of its own; machines have addresses in 127.0.0.0/8.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod class;
mod external;

use std::process::ExitCode;

use capi_testkit::workload::Workloads;
use e2e::audit;
use e2e::failure::Failure;
use e2e::management::Ports;
use e2e::provider::Provider;
use e2e::proxmox::Proxmox;
use e2e::suite;
use e2e::world::World;
use pve_sim::Guests;

/// Ports of this suite, away from those of the others.
const PORTS: Ports = Ports(27_440);
/// The provider's place among the managers.
const PLACE: u16 = 3;
/// How many times faster than life hypervisor and guests are; the controllers are not.
const SPEED: f64 = 10.0;

/// What all stories share.
struct Stage {
    provider: Provider,
    proxmox: Proxmox,
    world: World,
}

fn main() -> ExitCode {
    suite::play::<Stage>(
        |runtime| runtime.block_on(start()),
        &[
            ("a_cluster_is_made_of_the_class", |runtime, stage| {
                runtime.block_on(class::is_made(&stage.world))
            }),
            (
                "ex_01_ex_02_machines_work_on_infrastructure_of_somebody_else",
                |runtime, stage| runtime.block_on(external::works(stage)),
            ),
            (
                "imt_02_a_variable_rotates_the_template",
                |runtime, stage| runtime.block_on(class::is_changed(&stage.world)),
            ),
            (
                "ic_18_a_variable_changes_the_cluster_in_place",
                |runtime, stage| runtime.block_on(class::is_changed_in_place(&stage.world)),
            ),
            (
                "the_cluster_is_rebased_to_another_class",
                |runtime, stage| runtime.block_on(class::is_rebased(&stage.world)),
            ),
            (
                "wh_03_rehearsals_of_the_topology_are_let_through",
                |runtime, stage| runtime.block_on(class::is_rehearsed(&stage.world)),
            ),
            (
                "imt_05_the_topology_finds_nothing_to_do",
                |runtime, stage| runtime.block_on(class::is_settled(&stage.world)),
            ),
            ("nothing_is_left_after_deletion", |runtime, stage| {
                runtime.block_on(goes_away(stage))
            }),
            ("rb_03_the_rights_of_the_manifests_suffice", |_, stage| {
                rights_suffice(stage)
            }),
        ],
    )
}

async fn start() -> Result<Stage, Failure> {
    let world = World::builder("topology", PORTS).start().await?;
    let proxmox = Proxmox::start(Guests::new(Workloads::new()), SPEED).await?;
    let provider = proxmox.program()?.install(&world.management, PLACE).await?;
    provider.start().await?;
    Ok(Stage {
        provider,
        proxmox,
        world,
    })
}

async fn goes_away(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    for cluster in world.list("Cluster").await? {
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        world.delete("Cluster", name).await?;
    }
    world
        .until("all clusters are gone", async || {
            Some(world.list("Cluster").await.ok()?.is_empty())
        })
        .await?;
    for kind in [
        "Machine",
        "ProxmoxMachine",
        "ProxmoxCluster",
        "IPAddressClaim",
    ] {
        let left = world.list(kind).await?;
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
    // Those of the classes stay; those of the clusters go with them.
    let left = async || {
        let templates = world.list("ProxmoxMachineTemplate").await.ok()?;
        let names = templates
            .iter()
            .filter_map(|one| one["metadata"]["name"].as_str());
        let left = names.filter(|name| !name.starts_with("proxmox-v"));
        Some(left.map(str::to_owned).collect::<Vec<_>>())
    };
    let gone = world
        .until("the clusters' own templates are gone", async || {
            Some(left().await?.is_empty())
        })
        .await;
    if let Err(failure) = gone {
        let left = left().await;
        return Err(Failure::new(format!("{failure}\nleft: {left:?}")));
    }
    stage.proxmox.check_clean()
}

/// The server's own log says what the provider and the IPAM provider asked for.
fn rights_suffice(stage: &Stage) -> Result<(), Failure> {
    let requests = stage.provider.requests()?;
    assert!(requests.len() > 50, "only {} requests", requests.len());
    let wrong = audit::wrong(&requests);
    assert!(wrong.is_empty(), "{wrong:?}");
    let ipam = stage
        .world
        .ipam
        .as_ref()
        .ok_or_else(|| Failure::new("no IPAM"))?;
    let requests = ipam.requests()?;
    assert!(requests.len() > 5, "only {} requests", requests.len());
    let wrong = audit::wrong(&requests);
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}
