//! The phases of a cluster's life.

use std::collections::BTreeMap;
use std::time::Duration;

use capi_testkit::guest::{Disk, Membership as _, ca_hash};
use capi_testkit::workload::{Endpoint, Entry, Join, Node, Refused, Role};
use e2e::failure::Failure;
use e2e::killer::TIMES;
use e2e::world::condition;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::hands::{holds, machines, provisioned, settled};
use crate::stage::{NEWER, Stage};

/// The cluster of most stories, whose state is kept in an etcd outside. Where users give addresses, they
/// are those of the network beside it.
const DEMO: &str = "demo";
const DEMO_NETWORK: u8 = 20;
/// The cluster with an etcd of its own.
const WHOLE: &str = "whole";
const WHOLE_NETWORK: u8 = 21;
/// The cluster whose seed lacks something.
const WRONG: &str = "wrong";
const WRONG_NETWORK: u8 = 22;
/// How long a node may be lost before its machine is replaced.
const LOST_SECONDS: u32 = 5;
/// For how long nothing happens to a paused cluster; passes are every few seconds.
const PAUSE: Duration = Duration::from_secs(12);

/// The example of the quick start, with addresses that real programs can listen on.
pub(crate) async fn comes_up(stage: &mut Stage) -> Result<(), Failure> {
    let objects = stage.platform.cluster(DEMO, DEMO_NETWORK)?;
    let objects = stage.etcd.keeps(DEMO, objects);
    stage.world.apply(impatient(objects)).await?;
    // It comes up while the stories of the other are told.
    stage.world.apply(whole_cluster(stage)?).await?;
    stage.provider.kill_and_start().await?;
    stage.deaths = Some(stage.killer.over_and_over(&stage.provider, TIMES));
    let (world, platform) = (&stage.world, &stage.platform);
    stage
        .until("the cluster's infrastructure is provisioned", async || {
            provisioned(world, DEMO).await
        })
        .await?;
    let host = endpoint(stage, DEMO).await.host;
    assert!(host.starts_with("127."), "{host}");
    stage
        .until("the first VM is being made", async || {
            Some(!platform.vms().is_empty())
        })
        .await?;
    stage
        .until(
            "the first control-plane machine is provisioned",
            async || {
                let machines = machines(world, DEMO, true).await?;
                Some(machines.first()?["spec"]["providerID"].is_string())
            },
        )
        .await?;
    let machine = machines(world, DEMO, true).await.unwrap_or_default();
    let machine = machine.into_iter().next().unwrap_or_default();
    let infra = machine["spec"]["infrastructureRef"]["name"].as_str();
    let kind = stage.kind("Machine");
    let infra = world.get(&kind, infra.unwrap_or_default()).await;
    let infra = infra.unwrap_or_default();
    assert_eq!(machine["spec"]["providerID"], infra["spec"]["providerID"]);
    // The seed holds what the real kubeadm provider wrote; the guest reads it as cloud-init would, and
    // an API server comes up with the certificates in it.
    stage
        .until("the control plane is initialised", async || {
            holds(world, "Cluster", DEMO, "ControlPlaneInitialized").await
        })
        .await?;
    available(stage, DEMO, 1, 2).await
}

/// Lost nodes are replaced after seconds, not minutes.
pub(crate) fn impatient(mut objects: Vec<Value>) -> Vec<Value> {
    for object in &mut objects {
        if object["kind"] == "MachineHealthCheck" {
            let condition = &mut object["spec"]["checks"]["unhealthyNodeConditions"][0];
            condition["timeoutSeconds"] = json!(LOST_SECONDS);
        }
    }
    objects
}

/// The cluster and its control plane are available, with so many machines, and nodes to match.
pub(crate) async fn available(
    stage: &Stage,
    cluster: &str,
    control_planes: usize,
    workers: usize,
) -> Result<(), Failure> {
    let world = &stage.world;
    let what =
        format!("{cluster} with {control_planes} control planes, {workers} workers is available");
    stage
        .until(&what, async || {
            let name = format!("{cluster}-control-plane");
            let all = settled(world, cluster, true, control_planes).await?
                && settled(world, cluster, false, workers).await?
                && holds(world, "KubeadmControlPlane", &name, "Available").await?
                && holds(world, "Cluster", cluster, "Available").await?;
            Some(all)
        })
        .await?;
    let nodes = nodes(stage, cluster).await?;
    let all = world.list("Machine").await?;
    let own = all
        .iter()
        .filter(|one| one["spec"]["clusterName"] == cluster);
    for machine in own {
        let id = machine["spec"]["providerID"].as_str().unwrap_or_default();
        let name = machine["status"]["nodeRef"]["name"].as_str();
        assert_eq!(nodes.get(id).map(String::as_str), name, "{nodes:?}");
    }
    assert_eq!(nodes.len(), control_planes + workers, "{nodes:?}");
    Ok(())
}

/// Where a workload cluster is reached; nowhere while it has no endpoint.
async fn endpoint(stage: &Stage, cluster: &str) -> Endpoint {
    let cluster = stage.world.get("Cluster", cluster).await;
    let cluster = cluster.unwrap_or_default();
    let endpoint = &cluster["spec"]["controlPlaneEndpoint"];
    let port = endpoint["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    Endpoint::new(
        endpoint["host"].as_str().unwrap_or_default(),
        port.unwrap_or_default(),
    )
}

/// The nodes of a workload cluster: provider ids and names.
async fn nodes(stage: &Stage, cluster: &str) -> Result<BTreeMap<String, String>, Failure> {
    let endpoint = endpoint(stage, cluster).await;
    let client = stage.machines.client(&endpoint);
    let client = client.ok_or_else(|| Failure::new("the workload cluster is not there"))?;
    let all = Api::<v1::Node>::all(client)
        .list(&ListParams::default())
        .await?;
    let named = all.items.into_iter();
    let named = named.filter_map(|node| Some((node.spec?.provider_id?, node.metadata.name?)));
    Ok(named.collect())
}

async fn scale(stage: &Stage, kind: &str, name: &str, replicas: usize) -> Result<(), Failure> {
    let patch = json!({"spec": {"replicas": replicas}});
    stage.world.patch(kind, name, patch).await?;
    Ok(())
}

pub(crate) async fn control_planes(stage: &mut Stage) -> Result<(), Failure> {
    let name = format!("{DEMO}-control-plane");
    for count in [3, 1] {
        scale(stage, "KubeadmControlPlane", &name, count).await?;
        available(stage, DEMO, count, 1).await?;
    }
    Ok(())
}

pub(crate) async fn workers(stage: &mut Stage) -> Result<(), Failure> {
    for count in [5, 1] {
        scale(
            stage,
            "MachineDeployment",
            &format!("{DEMO}-workers"),
            count,
        )
        .await?;
        available(stage, DEMO, 1, count).await?;
    }
    Ok(())
}

/// Somebody destroys a worker's VM by hand; its machine is replaced.
pub(crate) async fn lost_worker(stage: &mut Stage) -> Result<(), Failure> {
    lost(stage, DEMO, false).await?;
    available(stage, DEMO, 1, 1).await
}

/// A ClusterResourceSet reaches the clusters that its labels choose, through the endpoint and with the
/// certificates that the provider's machines gave them, and no other.
pub(crate) async fn resources(stage: &mut Stage) -> Result<(), Failure> {
    const RESOURCE: &str = "calico";
    let world = &stage.world;
    let content = "apiVersion: v1\nkind: ConfigMap\n\
                   metadata: {name: calico, namespace: kube-system}\ndata: {is: there}\n";
    world
        .apply(vec![
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": RESOURCE, "namespace": "default"},
                "data": {"calico.yaml": content}}),
            json!({"apiVersion": "addons.cluster.x-k8s.io/v1beta2", "kind": "ClusterResourceSet",
            "metadata": {"name": RESOURCE, "namespace": "default"},
            "spec": {
                "strategy": "ApplyOnce",
                "clusterSelector": {"matchLabels": {"cni": "calico"}},
                "resources": [{"kind": "ConfigMap", "name": RESOURCE}],
            }}),
        ])
        .await?;
    let label = json!({"metadata": {"labels": {"cni": "calico"}}});
    world.patch("Cluster", DEMO, label).await?;
    let endpoint = endpoint(stage, DEMO).await;
    let client = stage.machines.client(&endpoint);
    let client = client.ok_or_else(|| Failure::new("the workload cluster is not there"))?;
    let there = Api::<v1::ConfigMap>::namespaced(client, "kube-system");
    stage
        .until("the labelled cluster has its network", async || {
            let found = there.get_opt(RESOURCE).await.ok()??;
            Some(found.data?.get("is")? == "there")
        })
        .await?;
    let binding = "ClusterResourceSetBinding.v1beta2.addons.cluster.x-k8s.io";
    // Core says so after it was done.
    stage
        .until("the binding says that it was applied", async || {
            let bound = world.get(binding, DEMO).await?;
            Some(bound["spec"]["bindings"][0]["resources"][0]["applied"] == true)
        })
        .await?;
    let other = world.get(binding, WHOLE).await;
    assert!(other.is_none(), "{other:#?}");
    Ok(())
}

/// Destroys the VM of a machine and waits until the machine is gone.
pub(crate) async fn lost(
    stage: &Stage,
    cluster: &str,
    of_the_control_plane: bool,
) -> Result<(), Failure> {
    let world = &stage.world;
    let all = machines(world, cluster, of_the_control_plane).await;
    let machine = all
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    let name = machine["metadata"]["name"].as_str().unwrap_or_default();
    let vm = stage.platform.vm_of(&machine);
    let vm = vm.ok_or_else(|| Failure::new(format!("{name} has no VM")))?;
    stage.platform.destroy(&vm).await?;
    let what = format!("{name}, whose VM {vm} was destroyed, is gone");
    let gone = async || Some(world.api("Machine").get_opt(name).await.ok()?.is_none());
    stage.until(&what, gone).await
}

/// A new version needs new templates, as in life: an image has one Kubernetes in it.
pub(crate) async fn upgrade(stage: &mut Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let version = NEWER;
    let kind = stage.kind("MachineTemplate");
    for role in ["control-plane", "workers"] {
        let old = format!("{DEMO}-{role}");
        let mut newer = world.get(&kind, &old).await.unwrap_or_default();
        newer["metadata"] = json!({"name": format!("{old}-2"), "namespace": "default"});
        (stage.parts.renew)(&mut newer["spec"]["template"]["spec"]);
        world.apply(vec![newer]).await?;
        let template = json!({"infrastructureRef": {"name": format!("{old}-2")}});
        if role == "workers" {
            let spec =
                json!({"infrastructureRef": template["infrastructureRef"], "version": version});
            let patch = json!({"spec": {"template": {"spec": spec}}});
            world.patch("MachineDeployment", &old, patch).await?;
        } else {
            let patch =
                json!({"spec": {"version": version, "machineTemplate": {"spec": template}}});
            world.patch("KubeadmControlPlane", &old, patch).await?;
        }
    }
    stage
        .until("all machines have the new version", async || {
            let mut all = machines(world, DEMO, true).await?;
            all.extend(machines(world, DEMO, false).await?);
            let new = |machine: &Value| {
                machine["spec"]["version"] == version
                    && machine["status"]["nodeInfo"]["kubeletVersion"] == version
                    && condition(machine, "UpToDate") == "True"
            };
            Some(all.len() == 2 && all.iter().all(new))
        })
        .await?;
    available(stage, DEMO, 1, 1).await
}

/// Whatever is asked for waits until the cluster is not paused any more.
pub(crate) async fn paused(stage: &mut Stage) -> Result<(), Failure> {
    let (world, platform) = (&stage.world, &stage.platform);
    let pause = |paused: bool| json!({"spec": {"paused": paused}});
    world.patch("Cluster", DEMO, pause(true)).await?;
    let worker = machines(world, DEMO, false).await.unwrap_or_default();
    let worker = worker.into_iter().next().unwrap_or_default();
    let infra = worker["spec"]["infrastructureRef"]["name"].as_str();
    let infra = infra.unwrap_or_default();
    stage
        .until("the provider says that it pauses", async || {
            let cluster = holds(world, &stage.kind("Cluster"), DEMO, "Paused").await?;
            Some(cluster && holds(world, &stage.kind("Machine"), infra, "Paused").await?)
        })
        .await?;
    let births = platform.births();
    let writes = writes(stage)?;
    let changes = platform.changes()?.len();
    // What would be answered at once at other times.
    let vm = platform.vm_of(&worker).unwrap_or_default();
    platform.destroy(&vm).await?;
    scale(stage, "MachineDeployment", &format!("{DEMO}-workers"), 2).await?;
    let vms = platform.vms();
    sleep(PAUSE).await;
    assert_eq!(platform.vms(), vms, "a VM went or came");
    assert_eq!(platform.births(), births, "a VM was made");
    assert_eq!(platform.changes()?.len(), changes, "the platform changed");
    assert_eq!(self::writes(stage)?, writes, "something was written");
    world.patch("Cluster", DEMO, pause(false)).await?;
    available(stage, DEMO, 1, 2).await?;
    println!(
        "nothing was written and no VM touched in {} s of pause",
        PAUSE.as_secs()
    );
    Ok(())
}

/// How often the provider wrote, leases and events left out.
fn writes(stage: &Stage) -> Result<usize, Failure> {
    let requests = stage.provider.requests()?;
    let wrote = requests.iter().filter(|request| {
        let reads = matches!(request.verb.as_str(), "get" | "list" | "watch");
        !reads && !matches!(request.resource.as_str(), "leases" | "events")
    });
    Ok(wrote.count())
}

/// A cluster whose control-plane machines have their own etcd: replaced, too, if they are lost.
fn whole_cluster(stage: &Stage) -> Result<Vec<Value>, Failure> {
    let mut objects = impatient(stage.platform.cluster(WHOLE, WHOLE_NETWORK)?);
    let mut check = Value::Null;
    for object in &mut objects {
        match object["kind"].as_str() {
            Some("MachineDeployment") => object["spec"]["replicas"] = json!(0),
            Some("MachineHealthCheck") => check = object.clone(),
            _ => {}
        }
    }
    check["metadata"]["name"] = json!(format!("{WHOLE}-control-plane"));
    check["spec"]["selector"] = json!({"matchLabels": {"cluster.x-k8s.io/control-plane": ""}});
    objects.push(check);
    Ok(objects)
}

/// A seed that lacks something makes no node, and the console says what is missing.
pub(crate) async fn wrong_seed(stage: &mut Stage) -> Result<(), Failure> {
    let mut objects = stage.platform.cluster(WRONG, WRONG_NETWORK)?;
    for object in &mut objects {
        if object["kind"] == "KubeadmControlPlane" {
            (stage.parts.spoil)(&mut object["spec"]["kubeadmConfigSpec"]);
        }
    }
    let (world, platform) = (&stage.world, &stage.platform);
    world.apply(objects).await?;
    let complaint = stage.parts.complaint;
    stage
        .until("the console tells what is missing", async || {
            let machine = machines(world, WRONG, true).await?.into_iter().next()?;
            let console = platform.console(&platform.vm_of(&machine)?).join("\n");
            Some(console.contains("kubeadm") && console.contains(complaint))
        })
        .await?;
    let endpoint = endpoint(stage, WRONG).await;
    assert!(!stage.machines.endpoints().contains(&endpoint));
    let machine = machines(world, WRONG, true).await.unwrap_or_default();
    assert_eq!(machine[0]["status"]["nodeRef"], Value::Null);
    world.delete("Cluster", WRONG).await?;
    Ok(())
}

/// The real API server knows neither the token nor bears another key than its own.
pub(crate) async fn strangers(stage: &mut Stage) -> Result<(), Failure> {
    let before = nodes(stage, DEMO).await?;
    let own = stage.world.get("Secret", &format!("{DEMO}-ca")).await;
    let own: ByteString =
        serde_json::from_value(own.unwrap_or_default()["data"]["tls.crt"].take())?;
    let own = ca_hash(&own.0.into()).unwrap_or_default();
    let endpoint = endpoint(stage, DEMO).await;
    let refused = async |token: &str, pin: &str| {
        let mut node = Node::new("stranger", "stranger", Role::Worker);
        node.addresses = vec![[127, 20, 0, 250].into()];
        let join = Join {
            endpoint: endpoint.clone(),
            entry: Entry::Join {
                token: token.to_owned(),
                ca_hashes: vec![pin.to_owned()],
                serves: Vec::new(),
            },
            node,
        };
        loop {
            match stage.machines.join(&join, &Disk::default()) {
                Err(Refused::Pending) => sleep(Duration::from_millis(50)).await,
                answer => return answer,
            }
        }
    };
    let token = "abcdef.0123456789abcdef";
    assert_eq!(refused(token, &own).await, Err(Refused::UnknownToken));
    let other = refused(token, "sha256:00").await;
    assert_eq!(other, Err(Refused::OtherCa { found: own }));
    stage.machines.machine_destroyed("stranger");
    assert_eq!(nodes(stage, DEMO).await?, before);
    Ok(())
}

/// It is grown, loses a machine, and is shrunk.
pub(crate) async fn whole(stage: &mut Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let control_plane = format!("{WHOLE}-control-plane");
    available(stage, WHOLE, 1, 0).await?;
    scale(stage, "KubeadmControlPlane", &control_plane, 3).await?;
    available(stage, WHOLE, 3, 0).await?;
    println!("{}", stage.memory());
    lost(stage, WHOLE, true).await?;
    available(stage, WHOLE, 3, 0).await?;
    scale(stage, "KubeadmControlPlane", &control_plane, 1).await?;
    available(stage, WHOLE, 1, 0).await?;
    // The control plane provider asked the member itself, through the port of its pod.
    let what = "etcd is healthy, says the control plane provider";
    let kind = "KubeadmControlPlane";
    let healthy = async || holds(world, kind, &control_plane, "EtcdClusterHealthy").await;
    stage.until(what, healthy).await
}

pub(crate) async fn goes_away(stage: &mut Stage) -> Result<(), Failure> {
    let world = &stage.world;
    for cluster in world.list("Cluster").await? {
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        world.delete("Cluster", name).await?;
    }
    stage
        .until("all clusters are gone", async || {
            Some(world.list("Cluster").await.ok()?.is_empty())
        })
        .await?;
    let own = [stage.kind("Machine"), stage.kind("Cluster")];
    let others = ["Machine", "IPAddressClaim"].map(str::to_owned);
    for kind in own.into_iter().chain(others) {
        let left = world.list(&kind).await?;
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
    assert_eq!(stage.machines.endpoints(), [], "workload clusters left");
    let files = world.management.site.path("machines");
    assert_eq!(
        std::fs::read_dir(files)?.count(),
        0,
        "files of machines left"
    );
    if let Some(deaths) = stage.deaths.take() {
        deaths.over().await?;
        let times = stage.killer.count();
        println!("the provider was killed {times} times at random moments");
    }
    stage.platform.check_clean()
}
