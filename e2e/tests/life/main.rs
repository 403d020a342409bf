//! The life of a cluster of the Proxmox provider, with the real Cluster API above it.
//!
//! Real: etcd, kube-apiserver, garbage collection, Cluster API core, the kubeadm bootstrap and
//! control plane providers with their webhooks and conversion, and the provider: its program in a
//! process of its own, which is killed on the way, with the webhooks and the rights of its manifests.
//! Played: Proxmox VE (over HTTPS) with guests that boot from the seed they are given, and the IPAM
//! provider, a process with rights of its own.
//!
//! There is no workload API, so the control plane is never initialised and workers are not made: what
//! this suite shows is how far the real controllers come with our kinds, and that all of it goes
//! away again.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

use std::process::ExitCode;

use capi_testkit::workload::Workloads;
use e2e::audit;
use e2e::failure::Failure;
use e2e::management::Ports;
use e2e::provider::Provider;
use e2e::proxmox::Proxmox;
use e2e::suite;
use e2e::tool::KUBECTL;
use e2e::world::{World, condition};
use kube::api::PatchParams;
use pve_sim::Guests;
use serde_json::{Value, json};

/// Ports of this suite, away from those of `up` and the others.
const PORTS: Ports = Ports(26_740);
/// How many times faster than life the simulated hypervisor is; the controllers are not.
const SPEED: f64 = 10.0;
/// The provider's place among the managers, after those of Cluster API.
const PLACE: u16 = 3;

/// What all stories share.
struct Stage {
    world: World,
    proxmox: Proxmox,
    provider: Provider,
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
                |runtime, stage| runtime.block_on(comes_up(stage)),
            ),
            (
                "wh_02_and_wh_03_the_server_asks_our_webhooks",
                |runtime, stage| runtime.block_on(webhooks(&stage.world)),
            ),
            ("an_older_manifest_is_converted", |runtime, stage| {
                runtime.block_on(older(&stage.world))
            }),
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
    let world = World::builder("life", PORTS).start().await?;
    let proxmox = Proxmox::start(Guests::new(Workloads::new()), SPEED).await?;
    let provider = proxmox.program()?.install(&world.management, PLACE).await?;
    provider.start().await?;
    Ok(Stage {
        world,
        proxmox,
        provider,
    })
}

/// The example of the quick start, applied as it is.
async fn comes_up(stage: &Stage) -> Result<(), Failure> {
    let Stage {
        world,
        proxmox,
        provider,
    } = stage;
    let text = include_str!("../../../examples/quickstart/cluster.yaml");
    world.apply(serde_saphyr::from_multiple(text)?).await?;
    provider.kill_and_start().await?;
    world
        .until("the cluster's infrastructure is provisioned", async || {
            provisioned(world, "demo").await
        })
        .await?;
    let cluster = world.get("Cluster", "demo").await.unwrap_or_default();
    assert_eq!(cluster["spec"]["controlPlaneEndpoint"]["host"], "10.20.0.5");
    world
        .until("the first VM is being made", async || {
            Some(!proxmox.platform.vms_left().is_empty())
        })
        .await?;
    provider.kill_and_start().await?;
    world
        .until(
            "the first control-plane machine is provisioned",
            async || {
                let machine = world.list("Machine").await.ok()?.into_iter().next()?;
                Some(machine["status"]["phase"] == "Provisioned")
            },
        )
        .await?;
    let machine = world.list("Machine").await?.remove(0);
    let infra = world.list("ProxmoxMachine").await?.remove(0);
    assert_eq!(machine["spec"]["providerID"], infra["spec"]["providerID"]);
    // The seed holds what the real kubeadm provider wrote; the guest reads it as cloud-init would, and
    // the provider asks its agent how that ended.
    world
        .until(
            "the guest has booted from its seed, and core sees it",
            async || {
                let machine = world.list("Machine").await.ok()?.into_iter().next()?;
                Some(condition(&machine, "InfrastructureReady") == "True")
            },
        )
        .await?;
    Ok(())
}

async fn provisioned(world: &World, cluster: &str) -> Option<bool> {
    let cluster = world.get("Cluster", cluster).await?;
    let path = "/status/initialization/infrastructureProvisioned";
    Some(cluster.pointer(path) == Some(&Value::Bool(true)))
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

async fn goes_away(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    for cluster in world.list("Cluster").await? {
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        world.delete("Cluster", name).await?;
    }
    stage.provider.kill_and_start().await?;
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
    stage.proxmox.check_clean()
}
