//! Infrastructure that somebody else manages: its object is read and never written.

use e2e::failure::Failure;
use e2e::world::{World, condition};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::Stage;

const NAME: &str = "outside";

/// The example of the quick start, renamed, with its infrastructure managed by somebody else, who
/// names the endpoint and makes the pool of addresses; without workers.
fn cluster() -> Result<Vec<Value>, Failure> {
    let text = include_str!("../../../examples/quickstart/cluster.yaml");
    let text = text.replace("demo", NAME).replace("10.20.0.", "127.41.0.");
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    objects.retain(|object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        !name.ends_with("workers")
    });
    for object in &mut objects {
        if object["kind"] == "ProxmoxCluster" {
            object["metadata"]["annotations"] = json!({"cluster.x-k8s.io/managed-by": "somebody"});
        }
    }
    objects.push(json!({
        "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
        "metadata": {
            "name": format!("{NAME}-v4-icip"), "namespace": "default",
            "labels": {"cluster.x-k8s.io/cluster-name": NAME},
        },
        "spec": {"addresses": ["127.41.0.10-127.41.0.99"], "prefix": 24, "gateway": "127.41.0.1"},
    }));
    Ok(objects)
}

async fn infrastructure(world: &World) -> Value {
    world.get("ProxmoxCluster", NAME).await.unwrap_or_default()
}

pub(crate) async fn works(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    world.apply(cluster()?).await?;
    world
        .until("core has adopted the infrastructure", async || {
            let owners = infrastructure(world).await["metadata"]["ownerReferences"].clone();
            Some(owners[0]["kind"] == "Cluster")
        })
        .await?;
    let found = infrastructure(world).await;
    assert_eq!(found.get("status"), None, "nobody has said anything yet");
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-11-21T10:00:00Z",
    });
    let status = json!({"status": {
        "initialization": {"provisioned": true}, "conditions": [ready]}});
    let somebody = PatchParams {
        field_manager: Some("somebody".to_owned()),
        ..PatchParams::default()
    };
    let api = world.api("ProxmoxCluster");
    api.patch_status(NAME, &somebody, &Patch::Merge(status))
        .await?;
    let before = infrastructure(world).await;

    world
        .until("its machine is provisioned, and has booted", async || {
            let all = world.list("ProxmoxMachine").await.ok()?;
            let label = "cluster.x-k8s.io/cluster-name";
            let mut machines = all
                .iter()
                .filter(|one| one["metadata"]["labels"][label] == NAME);
            let machine = machines.next()?;
            let is_provisioned = machine["status"]["initialization"]["provisioned"] == true;
            Some(is_provisioned && condition(machine, "Ready") == "True")
        })
        .await?;
    let cluster = world.get("Cluster", NAME).await.unwrap_or_default();
    assert_eq!(
        cluster["spec"]["controlPlaneEndpoint"]["host"],
        "127.41.0.5"
    );
    // Byte by byte, versions and managed fields included.
    assert_eq!(infrastructure(world).await.to_string(), before.to_string());

    world.delete("Cluster", NAME).await?;
    world
        .until(
            "the cluster is gone, and its infrastructure with it",
            async || {
                let is_gone = world.get("ProxmoxCluster", NAME).await.is_none();
                Some(is_gone && world.get("Cluster", NAME).await.is_none())
            },
        )
        .await?;
    let written = stage.provider.requests()?;
    let written: Vec<_> = written
        .iter()
        .filter(|request| request.resource.starts_with("proxmoxclusters"))
        .filter(|request| request.name == NAME)
        .collect();
    assert!(written.is_empty(), "{written:?}");
    Ok(())
}
