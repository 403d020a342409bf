//! What the stories look at again and again.

use e2e::failure::Failure;
use e2e::infrastructure::consoles;
use e2e::process;
use e2e::world::{World, condition};
use serde_json::Value;

use crate::stage::Stage;

/// Whether core sees the cluster's infrastructure as provisioned.
pub(crate) async fn provisioned(world: &World, cluster: &str) -> Option<bool> {
    let cluster = world.get("Cluster", cluster).await?;
    let path = "/status/initialization/infrastructureProvisioned";
    Some(cluster.pointer(path) == Some(&Value::Bool(true)))
}

/// Machines of a cluster: its control plane, or its workers.
pub(crate) async fn machines(
    world: &World,
    cluster: &str,
    of_the_control_plane: bool,
) -> Option<Vec<Value>> {
    let all = world.list("Machine").await.ok()?;
    let wanted = |machine: &Value| {
        let labels = &machine["metadata"]["labels"];
        let role = &labels["cluster.x-k8s.io/control-plane"];
        machine["spec"]["clusterName"] == cluster && role.is_null() != of_the_control_plane
    };
    Some(all.into_iter().filter(wanted).collect())
}

/// Whether exactly so many machines are there, all running and available.
pub(crate) async fn settled(
    world: &World,
    cluster: &str,
    of_the_control_plane: bool,
    count: usize,
) -> Option<bool> {
    let machines = machines(world, cluster, of_the_control_plane).await?;
    let well = |machine: &Value| {
        machine["status"]["phase"] == "Running" && condition(machine, "Available") == "True"
    };
    Some(machines.len() == count && machines.iter().all(well))
}

/// Whether an object has a condition.
pub(crate) async fn holds(world: &World, kind: &str, name: &str, what: &str) -> Option<bool> {
    Some(condition(&world.get(kind, name).await?, what) == "True")
}

impl Stage {
    /// Waits for a state; a failure also tells what the VMs show.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl AsyncFn() -> Option<bool>,
    ) -> Result<(), Failure> {
        match self.world.until(what, holds).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Failure::new(format!(
                "{failure}{}",
                consoles(self.platform.as_ref())
            ))),
        }
    }

    /// What all programs of the run need.
    pub(crate) fn memory(&self) -> String {
        let mut all = process::list(&self.world.management.site);
        if let Some(site) = self.platform.site() {
            all.extend(process::list(site));
        }
        let sum_kib: u64 = all.iter().map(|one| one.memory_kib).sum();
        format!("{} processes, {} MiB", all.len(), sum_kib / 1024)
    }
}
