//! Clusters from templates.

use std::collections::BTreeMap;

use capi_testkit::substitute::{substitute, variables};
use e2e::clusterctl::ClusterctlError;
use e2e::failure::Failure;
use e2e::world::condition;
use serde_json::{Value, json};

use crate::stage::Stage;

const VERSION: &str = "v1.36.0";
/// Machines that get their bootstrap data from a person, so that they wait for no control plane.
const GIVEN_MACHINES: usize = 5;

/// The clusters: of the plain flavor, and of the one with a class.
pub(crate) const DEMO: &str = "demo";
pub(crate) const TOPO: &str = "topo";

/// The flavor with a class.
const CLASS: &str = "topology";

impl Stage {
    /// `clusterctl generate cluster` in the source, of this flavor, with these arguments besides.
    fn generated(
        &self,
        cluster: &str,
        workers: &str,
        flavor: Option<&str>,
        more: &[&str],
    ) -> Result<String, ClusterctlError> {
        let provider = self.platform.names().provider;
        let mut all = vec!["generate", "cluster", cluster];
        all.extend(["--infrastructure", provider]);
        all.extend(["--kubernetes-version", VERSION]);
        all.extend(["--target-namespace", "default"]);
        all.extend(["--control-plane-machine-count", "1"]);
        all.extend(["--worker-machine-count", workers]);
        all.extend(flavor.iter().flat_map(|flavor| ["--flavor", flavor]));
        all.extend(more);
        self.source.clusterctl.run(&all)
    }

    /// Of the flavor of the first cluster.
    fn generated_plainly(&self, workers: &str, more: &[&str]) -> Result<String, ClusterctlError> {
        self.generated(DEMO, workers, self.parts.flavor, more)
    }

    fn give(&mut self) {
        for (name, value) in self.parts.given {
            self.source.clusterctl.set(name, *value);
        }
    }
}

/// clusterctl and the testkit's substitution make the same of the first cluster's flavor; every variable is
/// listed; the class comes along with the flavor that names it.
pub(crate) fn generate(stage: &mut Stage) -> Result<(), Failure> {
    stage.give();
    let template = stage.parts.text;
    let made: Vec<Value> = serde_saphyr::from_multiple(&stage.generated_plainly("2", &[])?)?;
    let given = stage.parts.given.iter();
    let mut held: BTreeMap<_, _> = given
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for (name, value) in [
        ("CLUSTER_NAME", DEMO),
        ("KUBERNETES_VERSION", VERSION),
        ("CONTROL_PLANE_MACHINE_COUNT", "1"),
        ("WORKER_MACHINE_COUNT", "2"),
    ] {
        held.insert(name.to_owned(), value.to_owned());
    }
    let expected = substitute("template", template, &held, |_| None)?.text;
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

    let listed = stage.generated_plainly("2", &["--list-variables"])?;
    for (name, default) in variables("template", template)? {
        let line = listed
            .lines()
            .find(|line| line.contains(&format!("- {name}")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{listed}"));
        if let Some(default) = default {
            assert!(line.contains(&default), "{line}: {default}");
        }
    }

    let text = stage.generated(TOPO, "1", Some(CLASS), &[])?;
    let made: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let kinds: Vec<_> = made.iter().filter_map(|one| one["kind"].as_str()).collect();
    let own = stage.platform.names().kind("ClusterTemplate");
    for kind in [
        "ClusterClass",
        own.as_str(),
        "KubeadmControlPlaneTemplate",
        "Cluster",
    ] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    Ok(())
}

/// Nothing is put out without a value, and a flavor that is not there is named.
pub(crate) fn missing(stage: &mut Stage) -> Result<(), Failure> {
    for flavor in [stage.parts.flavor, Some(CLASS)] {
        for name in stage.parts.needed {
            stage.source.clusterctl.unset(name);
        }
        let refused = stage.generated(DEMO, "2", flavor, &[]);
        stage.give();
        let said = complaint(refused);
        assert!(said.contains(&stage.parts.needed.join(", ")), "{said}");
        assert!(!said.contains("kind:"), "{said}");
    }
    let refused = stage.generated(DEMO, "2", Some("nonsense"), &[]);
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

/// Applied as they are put out. What the class made is what the plain flavor says.
pub(crate) async fn come_up(stage: &mut Stage) -> Result<(), Failure> {
    let plain = stage.generated_plainly("0", &[])?;
    for (name, value) in stage.parts.given_for_the_class {
        stage.source.clusterctl.set(name, *value);
    }
    let by_class = stage.generated(TOPO, "1", Some(CLASS), &[])?;
    let world = &stage.source.world;
    world.apply(stage.platform.prerequisites()).await?;
    for text in [plain, by_class] {
        world.apply(serde_saphyr::from_multiple(&text)?).await?;
    }
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
    let mut made = ByClass::read(stage).await;
    (stage.parts.compare)(&mut made)?;
    let ([config, plain], [template, other]) = (made.config, made.template);
    assert_eq!(config, plain);
    assert_eq!(template, other);
    assert!(config.is_object() && template.is_object());
    // Provisioning goes on in the next story.
    world.apply(given_machines(stage)).await?;
    Ok(())
}

/// What core made from class and variables, and the same of the plain flavor.
pub(crate) struct ByClass {
    /// Specs of the clusters' infrastructure.
    pub(crate) cluster: [Value; 2],
    /// What kubeadm is told on control-plane machines.
    pub(crate) config: [Value; 2],
    /// Specs of their control-plane machines.
    pub(crate) template: [Value; 2],
}

impl ByClass {
    async fn read(stage: &Stage) -> Self {
        let (world, names) = (&stage.source.world, stage.platform.names());
        let get = async |kind: &str, name: &Value, at: &str| {
            let name = name.as_str().unwrap_or_default();
            let object = world.get(kind, name).await.unwrap_or_default();
            object.pointer(at).cloned().unwrap_or_default()
        };
        let mut all = [TOPO, DEMO].map(|name| (json!(name), Value::Null, Value::Null, Value::Null));
        for (name, cluster, config, template) in &mut all {
            let of_core = get("Cluster", name, "/spec").await;
            let kind = names.kind("Cluster");
            *cluster = get(&kind, &of_core["infrastructureRef"]["name"], "/spec").await;
            let control_plane = &of_core["controlPlaneRef"]["name"];
            let control_plane = get("KubeadmControlPlane", control_plane, "/spec").await;
            *config = control_plane["kubeadmConfigSpec"].clone();
            let of_machines = &control_plane["machineTemplate"]["spec"]["infrastructureRef"];
            let kind = names.kind("MachineTemplate");
            *template = get(&kind, &of_machines["name"], "/spec/template/spec").await;
        }
        let [made, plain] = all;
        Self {
            cluster: [made.1, plain.1],
            config: [made.2, plain.2],
            template: [made.3, plain.3],
        }
    }
}

/// Machines of the first cluster whose bootstrap data a person wrote.
fn given_machines(stage: &Stage) -> Vec<Value> {
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
                    "kind": stage.platform.names().kind("MachineTemplate"),
                    "name": "demo-worker"},
            }},
        },
    });
    vec![secret, machines]
}

/// What people look at.
pub(crate) async fn shown(stage: &mut Stage) -> Result<(), Failure> {
    let (clusterctl, names) = (&stage.source.clusterctl, stage.platform.names());
    let text = clusterctl.run(&["describe", "cluster", DEMO, "--grouping=false"])?;
    for kind in [
        "Cluster",
        names.kind("Cluster").as_str(),
        "KubeadmControlPlane",
    ] {
        let part = format!("{kind} default/demo");
        assert!(text.contains(&part), "{text}");
    }
    let text = clusterctl.run(&["describe", "cluster", DEMO, "--show-conditions", "all"])?;
    assert!(text.contains("InfrastructureReady"), "{text}");
    let text = clusterctl.run(&["get", "kubeconfig", DEMO])?;
    let kubeconfig: Value = serde_saphyr::from_str(&text)?;
    let cluster = stage.source.world.get("Cluster", DEMO).await;
    let host = cluster.unwrap_or_default()["spec"]["controlPlaneEndpoint"]["host"].take();
    let host = host.as_str().unwrap_or_default();
    let server = &kubeconfig["clusters"][0]["cluster"]["server"];
    assert_eq!(*server, format!("https://{host}:6443"));
    let text = clusterctl.run(&[
        "generate",
        "provider",
        "--infrastructure",
        names.provider,
        "--describe",
    ])?;
    assert!(text.contains(stage.parts.releases[2]), "{text}");
    if let Some(credentials) = stage.parts.credentials {
        assert!(text.contains(credentials.shown), "{text}");
    }
    Ok(())
}
