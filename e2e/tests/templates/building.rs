//! Machines of every flavor of the KubeVirt provider, where KubeVirt is in the management cluster itself.
//!
//! Everything real runs: the managers of Cluster API, and the provider under the rights of its manifests. KubeVirt
//! and a load balancer are played. Guests stay empty, so each cluster gets the first machine of its control
//! plane and waits.

use std::path::Path;

use e2e::audit;
use e2e::clusterctl::Clusterctl;
use e2e::failure::Failure;
use e2e::kubevirt::NAMES;
use e2e::management::Ports;
use e2e::template::filled;
use e2e::world::World;
use kubevirt_sim::{Builder, Delays, Platform, install};
use serde_json::Value;

use crate::of;

const PORTS: Ports = Ports(28_140);
/// The provider's place among the managers, after those of Cluster API.
const PLACE: u16 = 3;
/// Not built: machines of another infra cluster, and those that wait for another project's control plane.
const ELSEWHERE: [&str; 2] = ["ext-infra", "hosted-control-plane"];

/// What a flavor is called, if it is one whose machines are built here.
fn flavor(template: &Path) -> Option<String> {
    let stem = template.file_stem()?.to_str()?;
    let rest = stem.strip_prefix("cluster-template")?;
    let flavor = rest.strip_prefix('-').unwrap_or("default");
    (!ELSEWHERE.contains(&flavor)).then(|| flavor.to_owned())
}

/// From the template to the VM and back: nothing of it is left, and no right was missing.
pub(crate) async fn every_flavor() -> Result<(), Failure> {
    let world = World::builder("templates-built", PORTS).without_ipam();
    let world = world.start().await?;
    let management = &world.management;
    install(&management.client).await?;
    let platform = Builder::new()
        .delays(Delays::zero())
        .build(&management.client);
    let played = platform.clone();
    let playing = tokio::spawn(async move { played.run().await }).abort_handle();
    let program = NAMES.built()?.of_manifests("--platform-namespace=");
    let provider = program.install(management, PLACE).await?;
    provider.start().await?;

    let mut clusterctl = Clusterctl::alone(management)?;
    clusterctl.set("ROOT_VOLUME_STORAGE_CLASS", "shared");
    let mut clusters = Vec::new();
    for template in of("provider-kubevirt")? {
        let Some(flavor) = flavor(&template) else {
            continue;
        };
        let (_, objects) = filled(&clusterctl, &template, &flavor, "default")?;
        world.apply(objects).await?;
        clusters.push(flavor);
    }
    assert!(clusters.len() > 6, "{clusters:?}");
    world
        .until("each cluster has a machine that runs", async || {
            let machines = world.list("KubevirtMachine").await.ok()?;
            Some(clusters.iter().all(|name| has_machine(name, &machines)))
        })
        .await?;
    assert!(platform.overlaps().is_empty());

    for name in &clusters {
        world.delete("Cluster", name).await?;
    }
    world
        .until("all of it is gone", async || {
            Some(world.list("Cluster").await.ok()?.is_empty() && left(&platform).is_empty())
        })
        .await
        .map_err(|failure| Failure::new(format!("{failure}\n{:?}", left(&platform))))?;
    let requests = provider.requests()?;
    let wrong = audit::wrong(&requests);
    assert!(wrong.is_empty(), "{wrong:?}");
    playing.abort();
    Ok(())
}

fn has_machine(cluster: &str, machines: &[Value]) -> bool {
    let label = "/metadata/labels/cluster.x-k8s.io~1cluster-name";
    machines.iter().any(|machine| {
        let is_its = machine.pointer(label).is_some_and(|name| name == cluster);
        is_its && machine["status"]["initialization"]["provisioned"] == true
    })
}

/// What of the machines is still there.
fn left(platform: &Platform) -> Vec<String> {
    [
        platform.vms_left(),
        platform.volumes_left(),
        platform.services_left(),
    ]
    .concat()
}
