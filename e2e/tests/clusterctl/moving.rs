//! Moves from one management cluster to the other.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::failure::Failure;
use e2e::infrastructure::Change;
use e2e::world::{World, condition};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::flavor::{DEMO, TOPO};
use crate::side::Side;
use crate::stage::Stage;

/// Five machines with given data, and the control plane machines of two clusters.
const MACHINES_WITH_DATA: usize = 7;

/// Says what `clusterctl move` wants to see: control planes that are initialised, and a node of every
/// machine. It would otherwise refuse what this suite is about, machines that are half made; backups
/// that are restored, and later releases of clusterctl, may not be so careful.
pub(crate) async fn pretend_nodes(world: &World) -> Result<(), Failure> {
    let set = async |kind: &str, name: &str, status: Value| {
        let patch = json!({"status": status});
        let params = PatchParams::default();
        let api = world.api(kind);
        api.patch_status(name, &params, &Patch::Merge(patch)).await
    };
    for cluster in world.list("Cluster").await? {
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        let mut conditions: Vec<Value> = cluster["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions.retain(|one| one["type"] != "ControlPlaneInitialized");
        conditions.push(json!({"type": "ControlPlaneInitialized", "status": "True",
            "reason": "Initialized", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}));
        let status = json!({"initialization": {"controlPlaneInitialized": true},
            "conditions": conditions});
        set("Cluster", name, status).await?;
    }
    for machine in world.list("Machine").await? {
        let name = machine["metadata"]["name"].as_str().unwrap_or_default();
        set("Machine", name, json!({"nodeRef": {"name": name}})).await?;
    }
    Ok(())
}

/// `clusterctl move`, tried again while it says that something is not there yet: core writes status
/// meanwhile, and what it wrote last may be older than what was pretended.
async fn move_all(from: &Side, to: &Side) -> Result<(), Failure> {
    let target = to.world.management.kubeconfig.display().to_string();
    let arguments = [
        "move",
        "--namespace",
        "default",
        "--to-kubeconfig",
        &target,
        "-v",
        "2",
    ];
    /// How often it may be too early.
    const TRIES: usize = 10;
    for attempt in 1.. {
        pretend_nodes(&from.world).await?;
        // It blocks for seconds, and what is played here has to go on.
        let done = tokio::task::block_in_place(|| from.clusterctl.run(&arguments));
        match done {
            Err(error)
                if attempt < TRIES && error.to_string().contains("cannot start the move") =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            done => {
                done?;
                break;
            }
        }
    }
    Ok(())
}

/// Machines are being cloned, configured, started; the provider dies on both sides. Every machine is
/// finished by the target, from the very VM that the source began with.
pub(crate) async fn midway(stage: &mut Stage) -> Result<(), Failure> {
    let Stage {
        source,
        target,
        platform,
        killer,
        ..
    } = stage;
    let machine = platform.names().kind("Machine");
    source
        .world
        .until("machines are being made", async || {
            let claimed = source.world.list(&machine).await.ok()?;
            Some(claimed.len() > MACHINES_WITH_DATA && platform.vms().len() >= 2)
        })
        .await?;
    let victims = [source.provider(), target.provider()];
    let deaths = killer.within(Duration::from_secs(12), 4, &victims);
    let finalizers = finalizers(source).await?;
    let done = provisioned(source).await?;
    move_all(source, target).await?;
    println!(
        "moved with {done} machines provisioned, {} VMs begun",
        platform.vms().len()
    );
    assert!(done < MACHINES_WITH_DATA, "all machines were there already");
    for kind in [
        "Cluster",
        "Machine",
        platform.names().kind("Cluster").as_str(),
        machine.as_str(),
        "IPAddressClaim",
    ] {
        assert!(
            source.world.list(kind).await?.is_empty(),
            "{kind} left in the source"
        );
    }
    assert_eq!(
        self::finalizers(target).await?.keys().collect::<Vec<_>>(),
        finalizers.keys().collect::<Vec<_>>()
    );
    deaths.over().await?;
    target
        .world
        .until("the target has finished all machines", async || {
            Some(provisioned(target).await.ok()? == MACHINES_WITH_DATA)
        })
        .await?;
    let left = platform.vms();
    assert_eq!(left.len(), MACHINES_WITH_DATA, "{left:#?}");
    assert_eq!(platform.twins(), [""; 0]);
    one_after_the_other(stage)
}

/// The source's last change at the platform came before the target's first, where they can be told apart.
fn one_after_the_other(stage: &Stage) -> Result<(), Failure> {
    let changes = stage.platform.changes()?;
    let Some(account) = stage.parts.target_account else {
        println!("{} changes by both", changes.len());
        return Ok(());
    };
    let of_target = |change: &Change| change.by == account;
    // On a busy machine the platform may have been done with everything when the move came: then only
    // Kubernetes was left to be told, and nothing can overlap.
    let first = changes.iter().position(of_target).unwrap_or(changes.len());
    let (source, target) = changes.split_at(first);
    println!(
        "{} changes by the source, then {} by the target",
        source.len(),
        target.len()
    );
    assert!(!source.is_empty());
    let late: Vec<_> = target.iter().filter(|one| !of_target(one)).collect();
    assert!(late.is_empty(), "they overlap: {late:#?}");
    Ok(())
}

/// Finalizers of our objects, by kind and name.
async fn finalizers(side: &Side) -> Result<BTreeMap<String, Value>, Failure> {
    let all = side.belongings().await?.into_iter();
    let ours = all.filter(|(name, _)| name.starts_with(side.names.kinds));
    let all: BTreeMap<_, _> = ours
        .map(|(name, kept)| (name, kept["finalizers"].clone()))
        .collect();
    Ok(all)
}

async fn provisioned(side: &Side) -> Result<usize, Failure> {
    let machines = side.world.list(&side.names.kind("Machine")).await?;
    let path = "/status/initialization/provisioned";
    let done = machines
        .iter()
        .filter(|one| one.pointer(path) == Some(&Value::Bool(true)));
    Ok(done.count())
}

/// Everything is settled: the source gets it back as it was, status included, and neither side
/// changes anything at the platform, though the provider dies on the way.
pub(crate) async fn back(stage: &mut Stage) -> Result<(), Failure> {
    let Stage {
        source,
        target,
        platform,
        killer,
        ..
    } = stage;
    let machine = platform.names().kind("Machine");
    // With a node, a machine's seed has done its work and goes.
    pretend_nodes(&target.world).await?;
    target
        .world
        .until("machines have booted and lost their seeds", async || {
            let machines = target.world.list(&machine).await.ok()?;
            let ready = machines
                .iter()
                .filter(|one| condition(one, "Ready") == "True");
            let is_done = ready.count() == MACHINES_WITH_DATA && platform.seeds().is_empty();
            Some(is_done && platform.is_idle() && settled(target).await?)
        })
        .await?;
    let before = target.belongings().await?;
    let births = platform.births();
    let changes = platform.changes()?.len();
    let victims = [source.provider(), target.provider()];
    let deaths = killer.within(Duration::from_secs(8), 2, &victims);
    move_all(target, source).await?;
    deaths.over().await?;
    // Core finds nodes again, from the workload clusters.
    pretend_nodes(&source.world).await?;
    source
        .as_before("the source has everything back as it was", &before)
        .await?;
    assert_eq!(
        source.belongings().await?.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    assert_eq!(platform.births(), births);
    let done = platform.changes()?.split_off(changes);
    assert!(done.is_empty(), "{done:#?}");
    for cluster in [DEMO, TOPO] {
        let cluster = source
            .world
            .get("Cluster", cluster)
            .await
            .unwrap_or_default();
        let paused = cluster.pointer("/spec/paused").and_then(Value::as_bool);
        assert_ne!(paused, Some(true), "the move ended, and the pause with it");
    }
    Ok(())
}

/// Whether nothing of ours changes for a while.
async fn settled(side: &Side) -> Option<bool> {
    /// Longer than a look at a settled machine takes.
    const QUIET: Duration = Duration::from_secs(6);
    let before = side.belongings().await.ok()?;
    tokio::time::sleep(QUIET).await;
    Some(
        side.differences(&before, &side.belongings().await.ok()?)
            .is_empty(),
    )
}
