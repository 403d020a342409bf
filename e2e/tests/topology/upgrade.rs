//! One change of the topology's version upgrades the cluster: the class chooses the images.

use std::collections::BTreeMap;

use capi_testkit::workload::Endpoint;
use e2e::failure::Failure;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::class::{ENDPOINT, NAME, reconciled, set};
use crate::hands::{available, machines};
use crate::{Stage, VERSIONS};

/// The control plane is rolled first, then the workers; every node ends with the new version, and of
/// the old machines nothing is left.
pub(crate) async fn rolls_out(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let [older, newer] = VERSIONS;
    let before = kubelets(stage).await?;
    assert_eq!(
        before.values().collect::<Vec<_>>(),
        vec![older; 3],
        "{before:?}"
    );
    set(world, json!({"version": newer})).await?;
    world
        .until("the control plane has the newer version", async || {
            let planes = machines(stage, true).await?;
            let mut planes = planes.iter();
            Some(planes.all(|machine| machine["spec"]["version"] == newer))
        })
        .await?;
    world
        .until("the workers have the newer version", async || {
            let workers = machines(stage, false).await?;
            let mut workers = workers.iter();
            Some(workers.all(|machine| machine["spec"]["version"] == newer))
        })
        .await?;
    available(stage, 1, 2).await?;
    reconciled(world).await?;

    let planes = machines(stage, true).await.unwrap_or_default();
    let workers = machines(stage, false).await.unwrap_or_default();
    let first_worker = workers.iter().filter_map(created).min();
    let last_plane = planes.iter().filter_map(node_ready).max();
    assert!(last_plane.is_some(), "{planes:#?}");
    assert!(
        last_plane <= first_worker,
        "a worker of the newer version at {first_worker:?}, the control plane's node at {last_plane:?}"
    );
    let after = kubelets(stage).await?;
    assert_eq!(
        after.values().collect::<Vec<_>>(),
        vec![newer; 3],
        "{after:?}"
    );
    assert!(before.keys().all(|id| !after.contains_key(id)), "{after:?}");
    let all = planes.iter().chain(&workers);
    for machine in all {
        let id = machine["spec"]["providerID"].as_str().unwrap_or_default();
        assert!(after.contains_key(id), "{id} is none of {after:?}");
    }
    left_clean(stage, &after)
}

/// The VMs are those of the nodes, one for each.
fn left_clean(stage: &Stage, nodes: &BTreeMap<String, String>) -> Result<(), Failure> {
    let platform = &stage.proxmox.platform;
    let vms = platform.vms_left();
    let mut ids: Vec<_> = vms
        .iter()
        .map(|vm| format!("proxmox://{}", vm.uuid().unwrap_or_default()))
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, nodes.keys().cloned().collect::<Vec<_>>(), "{vms:#?}");
    let twins = platform.overlaps();
    assert!(twins.is_empty(), "{twins:?}");
    let disks = platform.disks_left();
    assert!(disks.is_empty(), "{disks:?}");
    Ok(())
}

/// The nodes of the cluster: provider ids, and the versions of their kubelets.
async fn kubelets(stage: &Stage) -> Result<BTreeMap<String, String>, Failure> {
    let client = stage.machines.client(&Endpoint::new(ENDPOINT, 6443));
    let client = client.ok_or_else(|| Failure::new(format!("{NAME} does not answer")))?;
    let all = Api::<Node>::all(client)
        .list(&ListParams::default())
        .await?;
    let kubelets = all.items.into_iter().filter_map(|node| {
        let version = node.status?.node_info?.kubelet_version;
        Some((node.spec?.provider_id?, version))
    });
    Ok(kubelets.collect())
}

fn created(machine: &Value) -> Option<Timestamp> {
    let text = machine["metadata"]["creationTimestamp"].as_str()?;
    text.parse().ok()
}

/// Since when core has seen the machine's node ready.
fn node_ready(machine: &Value) -> Option<Timestamp> {
    let conditions = machine["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|one| one["type"] == "NodeReady")?;
    ready["lastTransitionTime"].as_str()?.parse().ok()
}
