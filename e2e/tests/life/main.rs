//! The life of a cluster of the Proxmox provider, with the real Cluster API above it.
//!
//! Real: etcd, kube-apiserver, garbage collection, Cluster API core, the kubeadm bootstrap and
//! control plane providers with their webhooks and conversion, and the provider: its program in a
//! process of its own, which is killed on the way, with the webhooks and the rights of its manifests.
//! Played: Proxmox VE (over HTTPS) with guests that boot from the seed they are given, and the IPAM
//! provider.
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

mod provider;
mod world;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use e2e::tool::KUBECTL;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::world::World;

/// Why the tests do not run unless they are asked for.
const ON_REQUEST: &str = "builds and runs etcd, kube-apiserver and Cluster API, which takes minutes \
                          the first time; run with --include-ignored";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One management cluster serves all, and one cluster at a time is busy enough.
    arguments.test_threads = Some(1);
    let asked_for = arguments.include_ignored || arguments.ignored;
    let stage = Arc::new(Stage {
        runtime: Runtime::new().expect("a runtime"),
        world: OnceLock::new(),
    });
    let table: [(&str, Story); 6] = [
        ("the_manifests_apply_with_kubectl", |stage| {
            manifests_apply(stage.world()?)
        }),
        ("core_takes_our_kinds_as_infrastructure", |stage| {
            stage.runtime.block_on(comes_up(stage.world()?))
        }),
        ("wh_02_and_wh_03_the_server_asks_our_webhooks", |stage| {
            stage.runtime.block_on(webhooks(stage.world()?))
        }),
        ("an_older_manifest_is_converted", |stage| {
            stage.runtime.block_on(older(stage.world()?))
        }),
        ("nothing_is_left_after_deletion", |stage| {
            stage.runtime.block_on(goes_away(stage.world()?))
        }),
        ("rb_03_the_rights_of_the_manifests_suffice", |stage| {
            rights_suffice(stage.world()?)
        }),
    ];
    let trials = table.map(|(name, story)| {
        let stage = Arc::clone(&stage);
        let runner = move || {
            if !asked_for {
                return Ok(Completion::ignored_with(ON_REQUEST));
            }
            story(&stage).map(|()| Completion::Completed)
        };
        // Without the flag `--ignored` would filter them out.
        Trial::ignorable_test(name, runner).with_ignored_flag(asked_for)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    if let Some(Ok(world)) = stage.world.get() {
        world.stop();
    }
    conclusion.exit_code()
}

type Story = fn(&Stage) -> Result<(), Failed>;

/// What all stories share; started by the first.
struct Stage {
    runtime: Runtime,
    world: OnceLock<Result<World, String>>,
}

impl Stage {
    fn world(&self) -> Result<&World, Failed> {
        let started = self.world.get_or_init(|| {
            self.runtime
                .block_on(World::start())
                .map_err(|error| explain(&*error))
        });
        started.as_ref().map_err(|error| error.as_str().into())
    }
}

/// The example of the quick start, applied as it is.
async fn comes_up(world: &World) -> Result<(), Failed> {
    let text = include_str!("../../../examples/quickstart/cluster.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
    world.apply(objects).await?;
    world.provider.kill_and_start().await?;
    world
        .until("the cluster's infrastructure is provisioned", async || {
            let cluster = world.get("Cluster", "demo").await?;
            let path = "/status/initialization/infrastructureProvisioned";
            Some(cluster.pointer(path) == Some(&Value::Bool(true)))
        })
        .await?;
    let cluster = world.get("Cluster", "demo").await.unwrap_or_default();
    assert_eq!(cluster["spec"]["controlPlaneEndpoint"]["host"], "10.20.0.5");
    world
        .until("the first VM is being made", async || {
            Some(!world.platform.vms_left().is_empty())
        })
        .await?;
    world.provider.kill_and_start().await?;
    world
        .until(
            "the first control-plane machine is provisioned",
            async || {
                let machines = world.list("Machine").await;
                let machine = machines.first()?;
                Some(machine["status"]["phase"] == "Provisioned")
            },
        )
        .await?;
    let machine = world.list("Machine").await.remove(0);
    let infra = world.list("ProxmoxMachine").await.remove(0);
    assert_eq!(machine["spec"]["providerID"], infra["spec"]["providerID"]);
    // The seed holds what the real kubeadm provider wrote; the guest reads it as cloud-init would, and
    // the provider asks its agent how that ended.
    world
        .until(
            "the guest has booted from its seed, and core sees it",
            async || {
                let machine = world.list("Machine").await.into_iter().next()?;
                Some(world::condition(&machine, "InfrastructureReady")["status"] == "True")
            },
        )
        .await?;
    Ok(())
}

/// What `kubectl apply -f` makes of the manifests, as a person would use them.
fn manifests_apply(world: &World) -> Result<(), Failed> {
    let program = provider::build().map_err(|error| explain(&*error))?;
    let text = provider::manifests(&program, &["--without-webhooks"]);
    let path = world
        .management
        .site
        .write("manifests.yaml", &text.map_err(|error| explain(&*error))?)?;
    let output = std::process::Command::new(KUBECTL.build()?)
        .arg("--kubeconfig")
        .arg(&world.management.kubeconfig)
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
async fn webhooks(world: &World) -> Result<(), Failed> {
    let (kind, name) = ("ProxmoxMachineTemplate", "demo-workers");
    let more_memory = |rehearsal: bool| {
        let annotations = if rehearsal {
            json!({"topology.cluster.x-k8s.io/dry-run": ""})
        } else {
            json!({})
        };
        json!({"metadata": {"annotations": annotations},
            "spec": {"template": {"spec": {"memoryMiB": 8192}}}})
    };
    let refused = world.patch(kind, name, more_memory(false), false).await;
    let said = refused.expect_err("a template is frozen").to_string();
    assert!(said.contains("spec.template.spec"), "{said}");
    let refused = world.patch(kind, name, more_memory(false), true).await;
    refused.expect_err("a rehearsal of somebody else is none of the topology");
    world.patch(kind, name, more_memory(true), true).await?;
    let labels = json!({"metadata": {"labels": {"team": "blue"}}});
    world.patch(kind, name, labels, false).await?;
    Ok(())
}

/// The server's own log says what the provider asked for.
fn rights_suffice(world: &World) -> Result<(), Failed> {
    let requests = world.requests();
    assert!(requests.len() > 50, "only {} requests", requests.len());
    let refused: Vec<_> = requests
        .iter()
        .filter(|(_, _, code)| *code == 403)
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    let is_secret = |resource: &str| resource == "secrets";
    let listed = requests.iter().filter(|(verb, resource, _)| {
        is_secret(resource) && matches!(verb.as_str(), "list" | "watch")
    });
    assert_eq!(listed.count(), 0, "no Secret is listed or watched");
    println!("{} requests of the provider, none refused", requests.len());
    Ok(())
}

/// A cluster written for Cluster API v1beta1; the real server converts it.
async fn older(world: &World) -> Result<(), Failed> {
    let text = include_str!("older.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
    world.apply(objects).await?;
    world
        .until(
            "the older cluster's infrastructure is provisioned",
            async || {
                let cluster = world.get("Cluster", "older").await?;
                let path = "/status/initialization/infrastructureProvisioned";
                Some(cluster.pointer(path) == Some(&Value::Bool(true)))
            },
        )
        .await?;
    Ok(())
}

async fn goes_away(world: &World) -> Result<(), Failed> {
    for cluster in world.list("Cluster").await {
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        world.delete("Cluster", name).await?;
    }
    world.provider.kill_and_start().await?;
    world
        .until("all clusters are gone", async || {
            Some(world.list("Cluster").await.is_empty())
        })
        .await?;
    for kind in [
        "Machine",
        "ProxmoxMachine",
        "ProxmoxCluster",
        "IPAddressClaim",
    ] {
        let left = world.list(kind).await;
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
    let platform = &world.platform;
    assert_eq!(platform.vms_left().len(), 0, "VMs left");
    assert_eq!(platform.isos_left().len(), 0, "seeds left");
    assert_eq!(platform.disks_left().len(), 0, "disks left");
    assert_eq!(platform.twins().len(), 0, "twins");
    assert_eq!(platform.strangers_touched().len(), 0, "strangers touched");
    Ok(())
}

fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}
