//! Clusters of a class, and clusters whose infrastructure is somebody else's, with the real Cluster
//! API above the Proxmox provider.
//!
//! Real: etcd, kube-apiserver, garbage collection, Cluster API core with its topology controller, the
//! kubeadm providers, the API servers and etcds of the workload clusters, and the provider's program with
//! the webhooks and rights of its manifests; the class is the one that the provider ships for
//! `clusterctl`. Played: Proxmox VE with guests that boot from the seed they are given, kubelets,
//! kube-vip, and the IPAM provider, a process with rights of its own; machines have addresses in
//! 127.0.0.0/8.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod class;
mod external;
mod hands;
mod upgrade;

use std::process::ExitCode;

use capi_testkit::guest::{Image, Pace};
use e2e::audit;
use e2e::failure::Failure;
use e2e::management::Ports;
use e2e::provider::Provider;
use e2e::proxmox::Proxmox;
use e2e::suite;
use e2e::workload::Machines;
use e2e::world::World;
use pve_sim::{Guests, TemplateSpec};

/// Ports of this suite, away from those of the others.
const PORTS: Ports = Ports(27_440);
/// The provider's place among the managers.
const PLACE: u16 = 3;
/// How many times faster than life hypervisor and guests are; the controllers are not.
const SPEED: f64 = 10.0;

/// The version that the cluster of the class begins with, and the one that it is upgraded to.
const VERSIONS: [&str; 2] = ["v1.36.0", "v1.36.1"];
/// The templates with them, tagged with what is in them.
const TEMPLATES: [u32; 2] = [9010, 9011];

/// What all stories share.
struct Stage {
    provider: Provider,
    proxmox: Proxmox,
    machines: Machines,
    world: World,
}

fn main() -> ExitCode {
    suite::play::<Stage>(
        |runtime| runtime.block_on(start()),
        &[
            ("a_cluster_is_made_of_the_class", |runtime, stage| {
                runtime.block_on(class::is_made(stage))
            }),
            (
                "ex_01_ex_02_machines_work_on_infrastructure_of_somebody_else",
                |runtime, stage| runtime.block_on(external::works(stage)),
            ),
            (
                "imt_02_a_variable_rotates_the_template",
                |runtime, stage| runtime.block_on(class::is_changed(stage)),
            ),
            (
                "ic_18_a_variable_changes_the_cluster_in_place",
                |runtime, stage| runtime.block_on(class::is_changed_in_place(stage)),
            ),
            (
                "the_cluster_is_rebased_to_another_class",
                |runtime, stage| runtime.block_on(class::is_rebased(stage)),
            ),
            (
                "a_newer_version_reaches_the_control_plane_first",
                |runtime, stage| runtime.block_on(upgrade::rolls_out(stage)),
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
    let machines = Machines::new(world.management.site.clone())?;
    let mut pace = Pace::default();
    // Real API servers take the time they need, whatever the speed of the rest.
    pace.discovery = pace.discovery.mul_f64(SPEED);
    let mut guests = Guests::new(machines.clone()).pace(pace);
    let mut platform = Proxmox::builder().speed(SPEED);
    for (template, version) in TEMPLATES.into_iter().zip(VERSIONS) {
        let mut image = Image::default();
        image.kubernetes = Some(version.to_owned());
        guests = guests.image(template, image);
        let spec = TemplateSpec::new(template, "pve1", format!("ubuntu-2404-kube-{version}"));
        let tags = format!("kube-{version};ubuntu-24.04");
        platform = platform.template(spec.tags(&tags).storage("shared"));
    }
    let proxmox = Proxmox::serve(platform.guests(guests)).await?;
    let provider = proxmox.program()?.install(&world.management, PLACE).await?;
    provider.start().await?;
    Ok(Stage {
        provider,
        proxmox,
        machines,
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
