//! Clusters from templates.

use std::collections::BTreeMap;

use capi_testkit::substitute::{substitute, variables};
use e2e::clusterctl::ClusterctlError;
use e2e::failure::Failure;
use e2e::world::{World, condition};
use serde_json::{Value, json};

use crate::Stage;
use crate::side::{RELEASES, Side};

/// What a user gives beside the arguments.
const GIVEN: [(&str, &str); 13] = [
    ("CONTROL_PLANE_ENDPOINT_IP", "10.20.0.5"),
    ("NODE_IP_RANGES", "[10.20.0.10-10.20.0.39]"),
    ("IP_PREFIX", "16"),
    ("GATEWAY", "10.20.0.1"),
    ("DNS_SERVERS", "[10.20.0.1]"),
    ("BRIDGE", "vmbr0"),
    ("PROXMOX_SOURCENODE", "pve1"),
    ("TEMPLATE_VMID", "9000"),
    (
        "VM_SSH_KEYS",
        "ssh-ed25519 AAAA one@home, ssh-ed25519 BBBB two@home",
    ),
    ("ALLOWED_NODES", "[pve1, pve2, pve3]"),
    ("NUM_CORES", "2"),
    ("MEMORY_MIB", "2048"),
    ("BOOT_VOLUME_SIZE", "40"),
];
const VERSION: &str = "v1.36.0";
/// The default flavor's text, as it is shipped.
const DEFAULT: &str = include_str!("../../../provider-proxmox/templates/cluster-template.yaml");
/// Machines that get their bootstrap data from a person, so that they wait for no control plane.
const GIVEN_MACHINES: usize = 5;

/// The clusters: the default flavor, and the one with a class.
pub(crate) const DEMO: &str = "demo";
pub(crate) const TOPO: &str = "topo";

fn arguments<'a>(cluster: &'a str, workers: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec![
        "generate",
        "cluster",
        cluster,
        "--infrastructure",
        "proxmox",
    ];
    all.extend([
        "--kubernetes-version",
        VERSION,
        "--target-namespace",
        "default",
    ]);
    all.extend([
        "--control-plane-machine-count",
        "1",
        "--worker-machine-count",
        workers,
    ]);
    all.extend(more);
    all
}

fn give(side: &mut Side) {
    for (name, value) in GIVEN {
        side.clusterctl.set(name, value);
    }
}

/// clusterctl and the testkit's substitution make the same of the default flavor; every variable is
/// listed; the class comes along with the flavor that names it.
pub(crate) fn generate(stage: &mut Stage) -> Result<(), Failure> {
    let side = &mut stage.source;
    give(side);
    let text = side.clusterctl.run(&arguments(DEMO, "2", &[]))?;
    let made: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let mut held: BTreeMap<_, _> = GIVEN.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    for (name, value) in [
        ("CLUSTER_NAME", DEMO),
        ("KUBERNETES_VERSION", VERSION),
        ("CONTROL_PLANE_MACHINE_COUNT", "1"),
        ("WORKER_MACHINE_COUNT", "2"),
    ] {
        held.insert(name.to_owned(), value.to_owned());
    }
    let expected = substitute("template", DEFAULT, &held, |_| None)?.text;
    let mut expected: Vec<Value> = serde_saphyr::from_multiple(&expected)?;
    for object in &mut expected {
        object["metadata"]["namespace"] = json!("default");
    }
    let by_name = |all: Vec<Value>| -> BTreeMap<String, Value> {
        let all = all.into_iter();
        all.map(|one| (format!("{} {}", one["kind"], one["metadata"]["name"]), one))
            .collect()
    };
    assert_eq!(by_name(made), by_name(expected));

    let listed = side
        .clusterctl
        .run(&arguments(DEMO, "2", &["--list-variables"]))?;
    for (name, default) in variables("template", DEFAULT)? {
        let line = listed
            .lines()
            .find(|line| line.contains(&format!("- {name}")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{listed}"));
        if let Some(default) = default {
            assert!(line.contains(&default), "{line}: {default}");
        }
    }

    let text = side
        .clusterctl
        .run(&arguments(TOPO, "1", &["--flavor", "topology"]))?;
    let made: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let kinds: Vec<_> = made.iter().filter_map(|one| one["kind"].as_str()).collect();
    for kind in [
        "ClusterClass",
        "ProxmoxClusterTemplate",
        "KubeadmControlPlaneTemplate",
        "Cluster",
    ] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    Ok(())
}

/// Nothing is put out without a value, and a flavor that is not there is named.
pub(crate) fn missing(stage: &mut Stage) -> Result<(), Failure> {
    let side = &mut stage.source;
    for flavor in [&[][..], &["--flavor", "topology"]] {
        side.clusterctl.unset("GATEWAY");
        side.clusterctl.unset("BRIDGE");
        let refused = side.clusterctl.run(&arguments(DEMO, "2", flavor));
        give(side);
        let said = complaint(refused);
        assert!(said.contains("BRIDGE, GATEWAY"), "{said}");
        assert!(!said.contains("kind:"), "{said}");
    }
    let refused = side
        .clusterctl
        .run(&arguments(DEMO, "2", &["--flavor", "nonsense"]));
    let said = complaint(refused);
    assert!(said.contains("cluster-template-nonsense.yaml"), "{said}");
    Ok(())
}

fn complaint(refused: Result<String, ClusterctlError>) -> String {
    match refused {
        Ok(text) => panic!("it was not refused:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// Applied as they are put out. What the class made is what the default flavor says.
pub(crate) async fn come_up(stage: &mut Stage) -> Result<(), Failure> {
    let side = &mut stage.source;
    let text = side.clusterctl.run(&arguments(DEMO, "0", &[]))?;
    side.world
        .apply(serde_saphyr::from_multiple(&text)?)
        .await?;
    side.clusterctl
        .set("CONTROL_PLANE_ENDPOINT_IP", "10.20.1.5");
    side.clusterctl
        .set("NODE_IP_RANGES", "[10.20.1.10-10.20.1.39]");
    let text = side
        .clusterctl
        .run(&arguments(TOPO, "1", &["--flavor", "topology"]))?;
    side.world
        .apply(serde_saphyr::from_multiple(&text)?)
        .await?;
    let world = &side.world;
    for cluster in [DEMO, TOPO] {
        world
            .until(
                &format!("{cluster}'s infrastructure is provisioned"),
                async || {
                    let cluster = world.get("Cluster", cluster).await?;
                    let path = "/status/initialization/infrastructureProvisioned";
                    Some(cluster.pointer(path) == Some(&Value::Bool(true)))
                },
            )
            .await?;
    }
    world
        .until("the topology is reconciled", async || {
            Some(condition(&world.get("Cluster", TOPO).await?, "TopologyReconciled") == "True")
        })
        .await?;
    same_by_class(world).await?;
    // Provisioning goes on in the next story.
    world.apply(given_machines()).await?;
    Ok(())
}

/// The objects that core made from class and variables, compared with those of the default flavor.
async fn same_by_class(world: &World) -> Result<(), Failure> {
    let topo = world.get("Cluster", TOPO).await.unwrap_or_default();
    let reference = |path: &str| {
        let name = topo.pointer(path).and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    let name = reference("/spec/infrastructureRef/name");
    let cluster = world.get("ProxmoxCluster", &name).await.unwrap_or_default();
    let plain = world.get("ProxmoxCluster", DEMO).await.unwrap_or_default();
    assert_eq!(cluster["spec"]["controlPlaneEndpoint"]["host"], "10.20.1.5");
    assert_eq!(
        cluster["spec"]["ipv4Config"]["addresses"],
        json!(["10.20.1.10-10.20.1.39"])
    );
    for field in ["dnsServers", "allowedNodes"] {
        assert_eq!(cluster["spec"][field], plain["spec"][field]);
    }
    let name = reference("/spec/controlPlaneRef/name");
    let control_plane = world
        .get("KubeadmControlPlane", &name)
        .await
        .unwrap_or_default();
    let plain = world
        .get("KubeadmControlPlane", "demo-control-plane")
        .await
        .unwrap_or_default();
    let of = |object: &Value| object["spec"]["kubeadmConfigSpec"].clone();
    let (mut config, mut plain) = (of(&control_plane), of(&plain));
    let pod = |config: &mut Value| -> Result<Value, Failure> {
        let content = config["files"][0]["content"].take();
        Ok(serde_saphyr::from_str(
            content.as_str().unwrap_or_default(),
        )?)
    };
    let (mut ours, theirs) = (pod(&mut config)?, pod(&mut plain)?);
    let address = "/spec/containers/0/env/2/value";
    assert_eq!(ours.pointer(address), Some(&json!("10.20.1.5")));
    *ours.pointer_mut(address).unwrap() = json!("10.20.0.5");
    assert_eq!(ours, theirs);
    assert_eq!(config, plain);
    let template = &control_plane["spec"]["machineTemplate"]["spec"]["infrastructureRef"]["name"];
    let template = template.as_str().unwrap_or_default();
    let made = world
        .get("ProxmoxMachineTemplate", template)
        .await
        .unwrap_or_default();
    let plain = world
        .get("ProxmoxMachineTemplate", "demo-control-plane")
        .await;
    let plain = plain.unwrap_or_default();
    assert_eq!(
        made["spec"]["template"]["spec"],
        plain["spec"]["template"]["spec"]
    );
    Ok(())
}

/// Machines of the default flavor's cluster whose bootstrap data a person wrote.
fn given_machines() -> Vec<Value> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
        "metadata": {"name": "given", "namespace": "default",
            "labels": {"clusterctl.cluster.x-k8s.io/move": ""}},
        "stringData": {"value": "#cloud-config\nruncmd: [echo hello]\n", "format": "cloud-config"},
    });
    let machines = json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment",
        "metadata": {"name": "given", "namespace": "default"},
        "spec": {
            "clusterName": DEMO, "replicas": GIVEN_MACHINES,
            "selector": {"matchLabels": {}},
            "template": {"spec": {
                "clusterName": DEMO, "version": VERSION,
                "bootstrap": {"dataSecretName": "given"},
                "infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io",
                    "kind": "ProxmoxMachineTemplate", "name": "demo-worker"},
            }},
        },
    });
    vec![secret, machines]
}

/// What people look at.
pub(crate) fn shown(stage: &mut Stage) -> Result<(), Failure> {
    let clusterctl = &stage.source.clusterctl;
    let text = clusterctl.run(&["describe", "cluster", DEMO, "--grouping=false"])?;
    for part in [
        "Cluster default/demo",
        "ProxmoxCluster default/demo",
        "KubeadmControlPlane default/demo",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = clusterctl.run(&["describe", "cluster", DEMO, "--show-conditions", "all"])?;
    assert!(text.contains("InfrastructureReady"), "{text}");
    let text = clusterctl.run(&["get", "kubeconfig", DEMO])?;
    let kubeconfig: Value = serde_saphyr::from_str(&text)?;
    let server = &kubeconfig["clusters"][0]["cluster"]["server"];
    assert_eq!(*server, "https://10.20.0.5:6443");
    let text = clusterctl.run(&[
        "generate",
        "provider",
        "--infrastructure",
        "proxmox",
        "--describe",
    ])?;
    assert!(
        text.contains(RELEASES[2]) && text.contains("PROXMOX_URL"),
        "{text}"
    );
    Ok(())
}
