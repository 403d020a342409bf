//! The day that both play, step by step.

use e2e::failure::Failure;
use e2e::world::{World, condition};
use serde_json::{Value, json};

use crate::side::Side;

/// The example of the quick start; its health check has nothing to look at without nodes.
fn cluster() -> Result<Vec<Value>, Failure> {
    let text = include_str!("../../../examples/quickstart/cluster.yaml");
    Ok(serde_saphyr::from_multiple(text)?)
}

/// Plays it from an empty server to an empty server.
pub(crate) async fn play(side: &Side) -> Result<(), Failure> {
    let world = &side.world;
    world.apply(cluster()?).await?;
    until_plane(world, |plane| condition(plane, "Ready") == "True").await?;
    until_workers(world, 2, is_adopted).await?;
    side.settled().await?;

    scale(world, 3).await?;
    until_workers(world, 3, is_adopted).await?;
    side.settled().await?;

    let deployment = ("MachineDeployment", "demo-workers");
    let label =
        |value: Value| json!({"spec": {"template": {"metadata": {"labels": {"tier": value}}}}});
    world
        .patch(deployment.0, deployment.1, label("blue".into()))
        .await?;
    until_workers(world, 3, |worker| {
        worker["metadata"]["labels"]["tier"] == "blue"
    })
    .await?;
    world
        .patch(deployment.0, deployment.1, label(Value::Null))
        .await?;
    until_workers(world, 3, |worker| {
        worker["metadata"]["labels"]["tier"].is_null()
    })
    .await?;
    side.settled().await?;

    let patch = json!({"spec": {"machineTemplate": {"metadata": {"labels": {"tier": "red"}}}}});
    world
        .patch("KubeadmControlPlane", "demo-control-plane", patch)
        .await?;
    until_plane(world, |plane| plane["metadata"]["labels"]["tier"] == "red").await?;
    side.settled().await?;

    for is_paused in [true, false] {
        let patch = json!({"spec": {"paused": is_paused}});
        world.patch("Cluster", "demo", patch).await?;
        side.settled().await?;
    }

    scale(world, 1).await?;
    until_workers(world, 1, |_| true).await?;
    side.settled().await?;

    world.delete("Cluster", "demo").await?;
    world
        .until("the cluster is gone", async || {
            Some(world.list("Cluster").await.ok()?.is_empty())
        })
        .await?;
    Ok(())
}

async fn scale(world: &World, workers: usize) -> Result<(), Failure> {
    let patch = json!({"spec": {"replicas": workers}});
    world
        .patch("MachineDeployment", "demo-workers", patch)
        .await?;
    Ok(())
}

fn has_label(machine: &Value, label: &str) -> bool {
    machine["metadata"]["labels"].get(label).is_some()
}

/// Whether its Machine has taken it over from its set.
fn is_adopted(machine: &Value) -> bool {
    let owners = machine["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["kind"] == "Machine"))
}

async fn until_workers(
    world: &World,
    count: usize,
    holds: impl Fn(&Value) -> bool,
) -> Result<(), Failure> {
    let what = format!("{count} workers are as they should be");
    world
        .until(&what, async || {
            let mut workers = world.list("ProxmoxMachine").await.ok()?;
            workers.retain(|one| has_label(one, "cluster.x-k8s.io/deployment-name"));
            Some(workers.len() == count && workers.iter().all(&holds))
        })
        .await?;
    Ok(())
}

async fn until_plane(world: &World, holds: impl Fn(&Value) -> bool) -> Result<(), Failure> {
    world
        .until("the control-plane machine is as it should be", async || {
            let all = world.list("ProxmoxMachine").await.ok()?;
            let mut planes = all
                .iter()
                .filter(|one| has_label(one, "cluster.x-k8s.io/control-plane"));
            planes.next().map(&holds)
        })
        .await?;
    Ok(())
}
