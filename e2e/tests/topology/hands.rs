//! What the stories of the class look at again and again.

use e2e::failure::Failure;
use e2e::infrastructure::consoles;
use e2e::world::condition;
use serde_json::Value;

use crate::Stage;
use crate::class::NAME;

/// Machines of the cluster: its control plane, or its workers.
pub(crate) async fn machines(stage: &Stage, of_the_control_plane: bool) -> Option<Vec<Value>> {
    let all = stage.world.list("Machine").await.ok()?;
    let wanted = |machine: &Value| {
        let role = &machine["metadata"]["labels"]["cluster.x-k8s.io/control-plane"];
        machine["spec"]["clusterName"] == NAME && role.is_null() != of_the_control_plane
    };
    Some(all.into_iter().filter(wanted).collect())
}

/// Waits until the cluster has exactly so many machines, all of them well and as they should be; a
/// failure also tells what the VMs show.
pub(crate) async fn available(
    stage: &Stage,
    control_planes: usize,
    workers: usize,
) -> Result<(), Failure> {
    let world = &stage.world;
    let what = format!("{control_planes} control planes and {workers} workers are available");
    let well = |machine: &Value| {
        machine["status"]["phase"] == "Running"
            && ["Available", "UpToDate"]
                .iter()
                .all(|kind| condition(machine, kind) == "True")
    };
    let waited = world
        .until(&what, async || {
            let cluster = world.get("Cluster", NAME).await?;
            let planes = machines(stage, true).await?;
            let others = machines(stage, false).await?;
            let counts = (planes.len(), others.len());
            let all_well = planes.iter().chain(&others).all(well);
            Some(
                counts == (control_planes, workers)
                    && all_well
                    && condition(&cluster, "Available") == "True",
            )
        })
        .await;
    match waited {
        Ok(_) => Ok(()),
        Err(failure) => Err(Failure::new(format!(
            "{failure}{}",
            consoles(&stage.proxmox)
        ))),
    }
}
