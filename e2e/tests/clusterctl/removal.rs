//! Deleting clusters, and the provider.

use std::time::Duration;

use e2e::audit;
use e2e::failure::Failure;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;

use crate::flavor::{DEMO, TOPO};
use crate::stage::Stage;

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
        platform,
        killer,
        ..
    } = stage;
    let world = &source.world;
    for cluster in [DEMO, TOPO] {
        world.delete("Cluster", cluster).await?;
    }
    let deaths = killer.within(Duration::from_secs(15), 4, &[source.provider()]);
    world
        .until("all clusters are gone", async || {
            Some(world.list("Cluster").await.ok()?.is_empty())
        })
        .await?;
    deaths.over().await?;
    println!("killed {} times in all", killer.count());
    for kind in [
        "Machine",
        platform.names().kind("Machine").as_str(),
        platform.names().kind("Cluster").as_str(),
        "IPAddressClaim",
    ] {
        let left = world.list(kind).await?;
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
    platform.check_clean()
}

/// The definitions stay unless they are asked for, as their objects would go with them.
pub(crate) async fn provider(stage: &mut Stage) -> Result<(), Failure> {
    let (side, names) = (&stage.source, stage.platform.names());
    side.provider().kill()?;
    let delete = ["delete", "--infrastructure", names.provider];
    side.clusterctl.run(&delete)?;
    for kind in CLUSTER_WIDE {
        assert_eq!(ours(stage, kind).await?, [] as [String; 0], "{kind:?}");
    }
    assert_eq!(ours(stage, DEFINITIONS).await?.len(), 4);
    let accounts = side.world.api_in(names.namespace, "ServiceAccount.v1.");
    let left = accounts.get_opt(names.account).await?;
    assert!(left.is_none());
    Ok(())
}

/// Names of the objects of a kind that bear our label.
async fn ours(stage: &Stage, kind: (&str, &str, &str)) -> Result<Vec<String>, Failure> {
    let (group, version, kind) = kind;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let client = stage.source.world.management.client.clone();
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let provider = stage.platform.names().provider;
    let label = format!("cluster.x-k8s.io/provider=infrastructure-{provider}");
    let found = api.list(&ListParams::default().labels(&label)).await?;
    let names = found.items.into_iter().filter_map(|one| one.metadata.name);
    Ok(names.collect())
}

/// On both sides, and at a platform that is an API server itself, by the servers' own logs.
pub(crate) fn rights_sufficed(stage: &mut Stage) -> Result<(), Failure> {
    let mut all = vec![
        ("the source", stage.source.provider().requests()?),
        ("the target", stage.target.provider().requests()?),
    ];
    all.extend(stage.platform.requests()?.map(|all| ("the platform", all)));
    for (whom, requests) in all {
        assert!(requests.len() > 50, "only {} requests", requests.len());
        let watches = requests.iter().filter(|one| one.verb == "watch").count();
        assert!(watches > 0, "the log of {whom} lacks watches");
        let wrong = audit::wrong(&requests);
        assert!(wrong.is_empty(), "{whom}: {wrong:?}");
        let count = requests.len();
        println!("{count} requests of the provider to {whom}, none refused");
    }
    Ok(())
}
