//! The life of a cluster of a class: made, changed, rebased.

use std::time::Duration;

use e2e::audit;
use e2e::failure::Failure;
use e2e::world::{World, condition};
use kube::api::PatchParams;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::hands::available;
use crate::{Stage, VERSIONS};

/// The class that the provider ships.
const CLASS: &str =
    include_str!("../../../provider-proxmox/templates/clusterclass-proxmox-v1.yaml");
/// The account of Cluster API's core.
const CORE: (&str, &str) = ("capi-system", "capi-manager");
/// How long the topology is watched: it looks again after every change and every 10 minutes.
const QUIET: Duration = Duration::from_secs(15);

/// The cluster, and the deployment's name in it.
pub(crate) const NAME: &str = "demo";
const WORKERS: &str = "workers";
/// Where its API server answers.
pub(crate) const ENDPOINT: &str = "127.40.0.5";

fn class() -> Result<Vec<Value>, Failure> {
    Ok(serde_saphyr::from_multiple(CLASS)?)
}

/// The next class: it tags workers and labels the infrastructure.
fn next_class() -> Result<Vec<Value>, Failure> {
    let text = CLASS.replace("proxmox-v1", "proxmox-v2");
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    for object in &mut objects {
        if object["kind"] == "ProxmoxClusterTemplate" {
            object["spec"]["template"]["metadata"] = json!({"labels": {"class": "second"}});
        }
        if object["kind"] != "ClusterClass" {
            continue;
        }
        let patches = object["spec"]["patches"].as_array_mut();
        let patches = patches.ok_or_else(|| Failure::new("the class has no patches"))?;
        patches.push(json!({
            "name": "tags",
            "definitions": [{
                "selector": {
                    "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2",
                    "kind": "ProxmoxMachineTemplate",
                    "matchResources": {"machineDeploymentClass": {"names": ["proxmox-worker"]}},
                },
                "jsonPatches": [{"op": "add", "path": "/spec/template/spec/tags", "value": ["second"]}],
            }],
        }));
    }
    Ok(objects)
}

fn machine(memory: u32) -> Value {
    json!({
        "templateSelector": {"matchTags": ["ubuntu-24.04", "kube-{version}"]}, "full": true,
        "numSockets": 1, "numCores": 2, "memoryMiB": memory,
        "disks": {"bootVolume": {"disk": "scsi0", "sizeGb": 30}},
        "network": {"networkDevices": [{"name": "net0", "bridge": "vmbr0", "model": "virtio"}]},
    })
}

fn variables(memory: u32, name_server: &str) -> Value {
    json!([
        {"name": "controlPlaneEndpoint", "value": {"host": ENDPOINT, "port": 6443}},
        {"name": "ipv4Config", "value": {
            "addresses": ["127.40.0.10-127.40.0.99"], "prefix": 24, "gateway": "127.40.0.1"}},
        {"name": "dnsServers", "value": [name_server]},
        {"name": "allowedNodes", "value": ["pve1", "pve2", "pve3"]},
        {"name": "cloneSpec", "value": {
            "sshAuthorizedKeys": [],
            "machineSpec": {"controlPlane": machine(4096), "workerNode": machine(memory)}}},
    ])
}

fn cluster() -> Value {
    json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {
            "clusterNetwork": {
                "pods": {"cidrBlocks": ["192.168.0.0/16"]},
                "services": {"cidrBlocks": ["10.96.0.0/12"]},
            },
            "topology": {
                "classRef": {"name": "proxmox-v1"},
                "version": VERSIONS[0],
                "controlPlane": {"replicas": 1},
                "workers": {"machineDeployments": [
                    {"class": "proxmox-worker", "name": WORKERS, "replicas": 2}]},
                "variables": variables(4096, "127.40.0.1"),
            },
        },
    })
}

/// What the cluster refers to as its infrastructure.
async fn infrastructure(world: &World) -> Option<Value> {
    let cluster = world.get("Cluster", NAME).await?;
    let name = cluster["spec"]["infrastructureRef"]["name"].as_str()?;
    world.get("ProxmoxCluster", name).await
}

/// The template of the workers as the topology has it now.
async fn template(world: &World) -> Option<Value> {
    let deployments = world.list("MachineDeployment").await.ok()?;
    let label = "topology.cluster.x-k8s.io/deployment-name";
    let mut deployments = deployments
        .iter()
        .filter(|one| one["metadata"]["labels"][label] == WORKERS);
    let reference = &deployments.next()?["spec"]["template"]["spec"]["infrastructureRef"];
    world
        .get("ProxmoxMachineTemplate", reference["name"].as_str()?)
        .await
}

async fn worker_machines(world: &World) -> Option<Vec<Value>> {
    let mut all = world.list("ProxmoxMachine").await.ok()?;
    let label = "topology.cluster.x-k8s.io/deployment-name";
    all.retain(|one| one["metadata"]["labels"][label] == WORKERS);
    Some(all)
}

/// Waits until the topology controller is content with what is there.
pub(crate) async fn reconciled(world: &World) -> Result<(), Failure> {
    world
        .until("the topology is reconciled", async || {
            let cluster = world.get("Cluster", NAME).await?;
            Some(condition(&cluster, "TopologyReconciled") == "True")
        })
        .await?;
    Ok(())
}

pub(crate) async fn is_made(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    world.apply(class()?).await?;
    world
        .until("the class is ready", async || {
            let class = world.get("ClusterClass", "proxmox-v1").await?;
            Some(condition(&class, "VariablesReady") == "True")
        })
        .await?;
    world.apply(vec![cluster()]).await?;
    world
        .until("the infrastructure is provisioned", async || {
            let infrastructure = infrastructure(world).await?;
            Some(infrastructure["status"]["initialization"]["provisioned"] == true)
        })
        .await?;
    let found = infrastructure(world).await.unwrap_or_default();
    // Beside it, for a while, the Secret that owned it before the cluster referred to it (ICT-03).
    let owners = found["metadata"]["ownerReferences"].as_array();
    let mut owners = owners.into_iter().flatten();
    let is_controlled = owners.any(|one| one["kind"] == "Cluster" && one["controller"] == true);
    assert!(is_controlled, "{found:#}");
    let clone = &found["metadata"]["annotations"]["cluster.x-k8s.io/cloned-from-name"];
    assert_eq!(clone, "proxmox-v1");
    available(stage, 1, 2).await?;
    reconciled(world).await
}

pub(crate) async fn set(world: &World, patch: Value) -> Result<(), Failure> {
    let patch = json!({"spec": {"topology": patch}});
    world.patch("Cluster", NAME, patch).await?;
    Ok(())
}

pub(crate) async fn is_changed(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let before = template(world)
        .await
        .ok_or_else(|| Failure::new("no template"))?;
    set(world, json!({"variables": variables(8192, "127.40.0.1")})).await?;
    world
        .until("the workers have another template", async || {
            let now = template(world).await?;
            let is_other = now["metadata"]["name"] != before["metadata"]["name"];
            Some(is_other && now["spec"]["template"]["spec"]["memoryMiB"] == 8192)
        })
        .await?;
    world
        .until("the workers are made from it", async || {
            let workers = worker_machines(world).await?;
            let mut workers = workers.iter();
            Some(workers.all(|one| one["spec"]["memoryMiB"] == 8192))
        })
        .await?;
    available(stage, 1, 2).await?;
    reconciled(world).await
}

pub(crate) async fn is_changed_in_place(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let before = infrastructure(world)
        .await
        .ok_or_else(|| Failure::new("no infrastructure"))?;
    set(world, json!({"variables": variables(8192, "127.40.0.2")})).await?;
    world
        .until("the cluster has another name server", async || {
            let now = infrastructure(world).await?;
            Some(now["spec"]["dnsServers"] == json!(["127.40.0.2"]))
        })
        .await?;
    let now = infrastructure(world).await.unwrap_or_default();
    assert_eq!(now["metadata"]["uid"], before["metadata"]["uid"]);
    reconciled(world).await
}

pub(crate) async fn is_rebased(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let before = template(world)
        .await
        .ok_or_else(|| Failure::new("no template"))?;
    let cluster = infrastructure(world)
        .await
        .ok_or_else(|| Failure::new("no infrastructure"))?;
    world.apply(next_class()?).await?;
    world
        .until("the next class is ready", async || {
            let class = world.get("ClusterClass", "proxmox-v2").await?;
            Some(condition(&class, "VariablesReady") == "True")
        })
        .await?;
    set(world, json!({"classRef": {"name": "proxmox-v2"}})).await?;
    world
        .until(
            "the workers have a template of the next class",
            async || {
                let now = template(world).await?;
                let is_other = now["metadata"]["name"] != before["metadata"]["name"];
                Some(is_other && now["spec"]["template"]["spec"]["tags"] == json!(["second"]))
            },
        )
        .await?;
    world
        .until(
            "the cluster has the next class's label, in place",
            async || {
                let now = infrastructure(world).await?;
                assert_eq!(now["metadata"]["uid"], cluster["metadata"]["uid"]);
                Some(now["metadata"]["labels"]["class"] == "second")
            },
        )
        .await?;
    world
        .until("the workers are made of the next class", async || {
            let workers = worker_machines(world).await?;
            let mut workers = workers.iter();
            Some(workers.all(|one| one["spec"]["tags"] == json!(["second"])))
        })
        .await?;
    available(stage, 1, 2).await?;
    reconciled(world).await
}

/// The topology controller's requests for objects of the provider: rehearsals or not, and the codes.
fn requests(world: &World) -> Result<Vec<(bool, audit::Request)>, Failure> {
    let user = audit::account(CORE.0, CORE.1);
    let all = audit::requests(&world.management.site, &user)?;
    let ours = all.into_iter().filter(|request| {
        request.group == "infrastructure.cluster.x-k8s.io"
            && request.query.contains("fieldManager=capi-topology")
    });
    Ok(ours
        .map(|request| (request.query.contains("dryRun=All"), request))
        .collect())
}

/// The controller rehearses changes of templates that nobody may make, so as to find out what it
/// would change.
pub(crate) async fn is_rehearsed(world: &World) -> Result<(), Failure> {
    let all = requests(world)?;
    let (rehearsed, made): (Vec<_>, Vec<_>) = all.into_iter().partition(|(is, _)| *is);
    let refused: Vec<_> = rehearsed
        .iter()
        .chain(&made)
        .filter(|(_, request)| request.code >= 400)
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    let of_templates = rehearsed
        .iter()
        .filter(|(_, request)| request.resource == "proxmoxmachinetemplates");
    let count = of_templates.count();
    println!(
        "{} rehearsals of the topology ({count} of machine templates) and {} writes, none refused",
        rehearsed.len(),
        made.len()
    );
    assert!(count >= 4, "only {count}");

    // Everybody else's attempt is refused, rehearsed or not.
    let template = template(world)
        .await
        .ok_or_else(|| Failure::new("no template"))?;
    let name = template["metadata"]["name"].as_str().unwrap_or_default();
    let rehearsal = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let patch = |annotations: Value| {
        json!({"metadata": {"annotations": annotations},
            "spec": {"template": {"spec": {"memoryMiB": 1024}}}})
    };
    let kind = "ProxmoxMachineTemplate";
    let mark = json!({"topology.cluster.x-k8s.io/dry-run": ""});
    for (params, annotations, is_let_through) in [
        (PatchParams::default(), json!({}), false),
        (PatchParams::default(), mark.clone(), false),
        (rehearsal.clone(), json!({}), false),
        (rehearsal, mark, true),
    ] {
        let answer = world
            .patch_with(kind, name, patch(annotations.clone()), &params)
            .await;
        assert_eq!(answer.is_ok(), is_let_through, "{annotations} {answer:?}");
    }
    Ok(())
}

/// Nothing of ours reads differently from what the topology wrote, or it would write it for ever.
pub(crate) async fn is_settled(world: &World) -> Result<(), Failure> {
    sleep(QUIET).await;
    let count = |all: &[(bool, audit::Request)]| all.iter().filter(|(is, _)| !is).count();
    let before = count(&requests(world)?);
    // It looks again at any change.
    let patch = json!({"metadata": {"annotations": {"somebody": "looked"}}});
    world.patch("Cluster", NAME, patch).await?;
    sleep(QUIET).await;
    let all = requests(world)?;
    assert_eq!(count(&all), before, "{:#?}", all.last());
    reconciled(world).await
}
