//! The day that both play, step by step.

use e2e::failure::Failure;
use e2e::infrastructure::Infrastructure as _;
use e2e::world::condition;
use serde_json::{Value, json};

use crate::side::Side;

/// Where its machines have their addresses, which real programs can listen on: 127.42.0.0/24.
const NETWORK: u8 = 42;
const CONTROL_PLANE: &str = "demo-control-plane";
const WORKERS: &str = "demo-workers";
/// How long a node may be lost before its machine is replaced.
const LOST_SECONDS: u32 = 5;

/// The example of the quick start. Lost nodes are replaced after seconds, not minutes.
fn cluster(side: &Side) -> Result<Vec<Value>, Failure> {
    let mut objects = side.proxmox.cluster("demo", NETWORK)?;
    for object in &mut objects {
        if object["kind"] == "MachineHealthCheck" {
            let condition = &mut object["spec"]["checks"]["unhealthyNodeConditions"][0];
            condition["timeoutSeconds"] = json!(LOST_SECONDS);
        }
    }
    Ok(objects)
}

/// Plays it from an empty server to an empty server.
pub(crate) async fn play(side: &Side) -> Result<(), Failure> {
    side.world.apply(cluster(side)?).await?;
    side.machines(1, 2, |_| true).await?;
    side.scale(3).await?;
    side.machines(1, 3, |_| true).await?;
    is_labelled(side).await?;
    is_paused(side).await?;
    is_remediated(side).await?;
    is_rolled_out(side).await?;
    side.scale(1).await?;
    side.machines(1, 1, |_| true).await?;
    side.world.delete("Cluster", "demo").await?;
    side.until("the cluster is gone", async || {
        Some(side.world.list("Cluster").await.ok()?.is_empty())
    })
    .await
}

/// Labels of the templates reach the objects in place, and leave them.
async fn is_labelled(side: &Side) -> Result<(), Failure> {
    let label =
        |value: Value| json!({"spec": {"template": {"metadata": {"labels": {"tier": value}}}}});
    for value in [json!("blue"), Value::Null] {
        let patch = label(value.clone());
        side.patch("MachineDeployment", WORKERS, patch).await?;
        side.machines(1, 3, |one| {
            one.is_plane() || one.infra["metadata"]["labels"]["tier"] == value
        })
        .await?;
    }
    let patch = json!({"spec": {"machineTemplate": {"metadata": {"labels": {"tier": "red"}}}}});
    side.patch("KubeadmControlPlane", CONTROL_PLANE, patch)
        .await?;
    side.machines(1, 3, |one| {
        !one.is_plane() || one.infra["metadata"]["labels"]["tier"] == "red"
    })
    .await
}

/// What is asked of a paused cluster waits until it is not paused any more.
async fn is_paused(side: &Side) -> Result<(), Failure> {
    let pause = |value: bool| json!({"spec": {"paused": value}});
    side.patch("Cluster", "demo", pause(true)).await?;
    side.until("the deployment says that it pauses", async || {
        let deployment = side.world.get("MachineDeployment", WORKERS).await?;
        Some(condition(&deployment, "Paused") == "True")
    })
    .await?;
    let before = side.writes()?.len();
    side.scale(4).await?;
    let patch = json!({"spec": {"machineTemplate": {"metadata": {"labels": {"tier": "green"}}}}});
    side.patch("KubeadmControlPlane", CONTROL_PLANE, patch)
        .await?;
    side.settled().await?;
    let after = side.writes()?;
    assert_eq!(
        after.len(),
        before,
        "written while paused: {:?}",
        after.last()
    );
    side.patch("Cluster", "demo", pause(false)).await?;
    side.machines(1, 4, |one| {
        !one.is_plane() || one.infra["metadata"]["labels"]["tier"] == "green"
    })
    .await
}

/// A worker's VM is destroyed by hand; the health check has its machine replaced.
async fn is_remediated(side: &Side) -> Result<(), Failure> {
    let mut all = side.found().await.unwrap_or_default();
    // The first ones have all lived alike so far.
    all.sort_by_key(|one| one.infra["metadata"]["creationTimestamp"].to_string());
    let victim = all.iter().find(|one| !one.is_plane());
    let victim = victim.ok_or_else(|| Failure::new("there is no worker"))?;
    let vmid = victim.infra["spec"]["virtualMachineID"].as_u64();
    let vmid = u32::try_from(vmid.unwrap_or_default())?;
    let is_destroyed = side.proxmox.platform.destroy_behind_back(vmid);
    assert!(is_destroyed, "VM {vmid} is not there");
    let name = victim.machine["metadata"]["name"]
        .as_str()
        .unwrap_or_default();
    side.until("the lost machine is gone", async || {
        Some(
            side.world
                .api("Machine")
                .get_opt(name)
                .await
                .ok()?
                .is_none(),
        )
    })
    .await?;
    side.machines(1, 4, |_| true).await
}

/// New templates replace all machines, those of the control plane first.
async fn is_rolled_out(side: &Side) -> Result<(), Failure> {
    for name in [CONTROL_PLANE, WORKERS] {
        let newer = format!("{name}-2");
        let found = side.world.get("ProxmoxMachineTemplate", name).await;
        let mut template = found.ok_or_else(|| Failure::new(format!("no template {name}")))?;
        template["metadata"] = json!({"name": newer, "namespace": "default"});
        template["spec"]["template"]["spec"]["numCores"] = json!(4);
        side.world.apply(vec![template]).await?;
        let spec = json!({"infrastructureRef": {"name": newer}});
        let (kind, patch) = if name == CONTROL_PLANE {
            (
                "KubeadmControlPlane",
                json!({"spec": {"machineTemplate": {"spec": spec}}}),
            )
        } else {
            (
                "MachineDeployment",
                json!({"spec": {"template": {"spec": spec}}}),
            )
        };
        side.patch(kind, name, patch).await?;
        side.machines(1, 4, |one| {
            let is_other = one.is_plane() != (name == CONTROL_PLANE);
            is_other || one.infra["spec"]["numCores"] == 4
        })
        .await?;
    }
    Ok(())
}
