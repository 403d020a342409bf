//! Deleting clusters, and the provider.

use std::time::Duration;

use e2e::audit;
use e2e::failure::Failure;
use e2e::proxmox::NAMESPACE;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;

use crate::Stage;
use crate::flavor::{DEMO, TOPO};

/// Of all kinds that our components have.
const CLUSTER_WIDE: [(&str, &str, &str); 3] = [
    ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
    ),
];
const DEFINITIONS: (&str, &str, &str) = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition");

/// The last four deaths are among the destroying.
pub(crate) async fn clusters(stage: &mut Stage) -> Result<(), Failure> {
    let Stage {
        source,
        proxmox,
        crashes,
        ..
    } = stage;
    let world = &source.world;
    for cluster in [DEMO, TOPO] {
        world.delete("Cluster", cluster).await?;
    }
    let deaths = crashes.during(4, Duration::from_secs(15), &[source.provider()]);
    world
        .until("all clusters are gone", async || {
            Some(world.list("Cluster").await.ok()?.is_empty())
        })
        .await?;
    deaths.over().await?;
    println!("killed {} times in all", crashes.count);
    for kind in [
        "Machine",
        "ProxmoxMachine",
        "ProxmoxCluster",
        "IPAddressClaim",
    ] {
        let left = world.list(kind).await?;
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
    proxmox.check_clean()
}

/// The definitions stay unless they are asked for, as their objects would go with them.
pub(crate) async fn provider(stage: &mut Stage) -> Result<(), Failure> {
    let side = &stage.source;
    side.provider().kill()?;
    let delete = ["delete", "--infrastructure", "proxmox"];
    side.clusterctl.run(&delete)?;
    for kind in CLUSTER_WIDE {
        assert_eq!(ours(stage, kind).await?, [] as [String; 0], "{kind:?}");
    }
    assert_eq!(ours(stage, DEFINITIONS).await?.len(), 4);
    let accounts = side.world.api_in(NAMESPACE, "ServiceAccount.v1.");
    let left = accounts.get_opt(e2e::proxmox::ACCOUNT).await?;
    assert!(left.is_none());
    Ok(())
}

/// Names of the objects of a kind that bear our label.
async fn ours(stage: &Stage, kind: (&str, &str, &str)) -> Result<Vec<String>, Failure> {
    let (group, version, kind) = kind;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let client = stage.source.world.management.client.clone();
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let label = "cluster.x-k8s.io/provider=infrastructure-proxmox";
    let found = api.list(&ListParams::default().labels(label)).await?;
    let names = found.items.into_iter().filter_map(|one| one.metadata.name);
    Ok(names.collect())
}

/// On both sides, by the servers' own logs.
pub(crate) fn rights_sufficed(stage: &mut Stage) -> Result<(), Failure> {
    for side in [&stage.source, &stage.target] {
        let requests = side.provider().requests()?;
        assert!(requests.len() > 50, "only {} requests", requests.len());
        let wrong = audit::wrong(&requests);
        assert!(wrong.is_empty(), "{wrong:?}");
        println!("{} requests of the provider, none refused", requests.len());
    }
    Ok(())
}
