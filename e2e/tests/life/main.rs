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

use std::process::ExitCode;

use capi_testkit::guest::{Image, Pace};
use e2e::audit;
use e2e::failure::Failure;
use e2e::killer::Killer;
use e2e::management::Ports;
use e2e::provider::Provider;
use e2e::proxmox::Proxmox;
use e2e::suite;
use e2e::tool::KUBECTL;
use e2e::workload::{ExternalEtcd, Machines};
use e2e::world::World;
use kube::api::PatchParams;
use pve_sim::{Guests, TemplateSpec};
use serde_json::json;

use crate::hands::provisioned;

/// Ports of this suite, away from those of `up` and the others.
const PORTS: Ports = Ports(26_740);
/// Two ports for the etcd of clusters that have none of their own.
const EXTERNAL_ETCD: u16 = PORTS.0 + 40;
/// How many times faster than life the simulated hypervisor is; the controllers are not.
const SPEED: f64 = 10.0;
/// The provider's place among the managers, after those of Cluster API.
const PLACE: u16 = 3;
/// The template with the newer Kubernetes, and its version.
const NEWER: (u32, &str) = (9001, "v1.36.1");

/// What all stories share.
struct Stage {
    world: World,
    proxmox: Proxmox,
    machines: Machines,
    etcd: ExternalEtcd,
    provider: Provider,
    /// At work from the first cluster on.
    killer: Option<Killer>,
}

fn main() -> ExitCode {
    suite::play(
        |runtime| runtime.block_on(start()),
        &[
            ("the_manifests_apply_with_kubectl", |_, stage| {
                manifests_apply(stage)
            }),
            (
                "core_takes_our_kinds_as_infrastructure",
                |runtime, stage| runtime.block_on(phases::comes_up(stage)),
            ),
            (
                "a_seed_that_lacks_something_makes_no_node",
                |runtime, stage| runtime.block_on(phases::wrong_seed(stage)),
            ),
            ("a_wrong_token_or_pin_stays_out", |runtime, stage| {
                runtime.block_on(phases::strangers(stage))
            }),
            (
                "wh_02_and_wh_03_the_server_asks_our_webhooks",
                |runtime, stage| runtime.block_on(webhooks(&stage.world)),
            ),
            ("an_older_manifest_is_converted", |runtime, stage| {
                runtime.block_on(older(&stage.world))
            }),
            ("workers_go_from_2_to_5_to_1", |runtime, stage| {
                runtime.block_on(phases::workers(stage))
            }),
            ("a_lost_worker_is_replaced", |runtime, stage| {
                runtime.block_on(phases::lost_worker(stage))
            }),
            (
                "a_resource_set_reaches_the_clusters_it_chooses",
                |runtime, stage| runtime.block_on(phases::resources(stage)),
            ),
            ("control_planes_go_from_1_to_3_to_1", |runtime, stage| {
                runtime.block_on(phases::control_planes(stage))
            }),
            ("a_newer_version_rolls_out", |runtime, stage| {
                runtime.block_on(phases::upgrade(stage))
            }),
            ("nothing_is_touched_while_paused", |runtime, stage| {
                runtime.block_on(phases::paused(stage))
            }),
            (
                "a_control_plane_with_etcd_goes_from_1_to_3_to_1_and_loses_a_machine",
                |runtime, stage| runtime.block_on(phases::whole(stage)),
            ),
            ("nothing_is_left_after_deletion", |runtime, stage| {
                runtime.block_on(phases::goes_away(stage))
            }),
            ("rb_03_the_rights_of_the_manifests_suffice", |_, stage| {
                rights_suffice(stage)
            }),
        ],
    )
}

async fn start() -> Result<Stage, Failure> {
    let world = World::builder("life", PORTS).start().await?;
    let site = &world.management.site;
    let machines = Machines::new(site.clone())?;
    let etcd = ExternalEtcd::start(site, EXTERNAL_ETCD).await?;
    let mut pace = Pace::default();
    // Real API servers take the time they need, whatever the speed of the rest.
    pace.discovery = pace.discovery.mul_f64(SPEED);
    let mut image = Image::default();
    image.kubernetes = Some(NEWER.1.to_owned());
    let guests = Guests::new(machines.clone())
        .pace(pace)
        .image(NEWER.0, image);
    let newer = TemplateSpec::new(NEWER.0, "pve1", "ubuntu-2404-kube-v1.36.1");
    let platform = Proxmox::builder()
        .template(newer.storage("shared"))
        .speed(SPEED)
        .guests(guests);
    let proxmox = Proxmox::serve(platform).await?;
    let provider = proxmox.program()?.install(&world.management, PLACE).await?;
    provider.start().await?;
    Ok(Stage {
        world,
        proxmox,
        machines,
        etcd,
        killer: None,
        provider,
    })
}

/// What `kubectl apply -f` makes of the manifests, as a person would use them.
fn manifests_apply(stage: &Stage) -> Result<(), Failure> {
    let management = &stage.world.management;
    let text = stage.proxmox.program()?.manifests(&["--without-webhooks"]);
    let path = management.site.write("manifests.yaml", &text?)?;
    let output = std::process::Command::new(KUBECTL.build()?)
        .arg("--kubeconfig")
        .arg(&management.kubeconfig)
        .args(["apply", "--dry-run=server", "-f"])
        .arg(path)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{complaint}");
    assert!(
        said.contains("deployment.apps/capmox-controller-manager created"),
        "{said}"
    );
    Ok(())
}

/// The real server asks the provider's webhooks over TLS.
async fn webhooks(world: &World) -> Result<(), Failure> {
    let (kind, name) = ("ProxmoxMachineTemplate", "demo-workers");
    let rehearsal = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let more_memory = |of_the_topology: bool| {
        let annotations = if of_the_topology {
            json!({"topology.cluster.x-k8s.io/dry-run": ""})
        } else {
            json!({})
        };
        json!({"metadata": {"annotations": annotations},
            "spec": {"template": {"spec": {"memoryMiB": 8192}}}})
    };
    let refused = world.patch(kind, name, more_memory(false)).await;
    let said = refused.expect_err("a template is frozen").to_string();
    assert!(said.contains("spec.template.spec"), "{said}");
    let refused = world.patch_with(kind, name, more_memory(false), &rehearsal);
    let refused = refused.await;
    refused.expect_err("a rehearsal of somebody else is none of the topology");
    world
        .patch_with(kind, name, more_memory(true), &rehearsal)
        .await?;
    let labels = json!({"metadata": {"labels": {"team": "blue"}}});
    world.patch(kind, name, labels).await?;
    Ok(())
}

/// The server's own log says what the provider asked for.
fn rights_suffice(stage: &Stage) -> Result<(), Failure> {
    let requests = stage.provider.requests()?;
    assert!(requests.len() > 50, "only {} requests", requests.len());
    let wrong = audit::wrong(&requests);
    assert!(wrong.is_empty(), "{wrong:?}");
    println!("{} requests of the provider, none refused", requests.len());
    Ok(())
}

/// A cluster written for Cluster API v1beta1; the real server converts it.
async fn older(world: &World) -> Result<(), Failure> {
    let text = include_str!("older.yaml");
    world.apply(serde_saphyr::from_multiple(text)?).await?;
    world
        .until(
            "the older cluster's infrastructure is provisioned",
            async || provisioned(world, "older").await,
        )
        .await?;
    Ok(())
}
