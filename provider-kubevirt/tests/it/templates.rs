//! What `clusterctl generate cluster` makes of the templates, and what the servers say to it: the
//! management cluster to the objects, the infra cluster to the VMs and Services that come of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use capi_contract::admission::{Admission, Fault, Wish, review};
use capi_testkit::apiserver::ApiServer;
use capi_testkit::crds;
use capi_testkit::schema::Schema;
use capi_testkit::substitute::{substitute, variables};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use provider_kubevirt::admission::{
    ClusterRules, ClusterTemplateRules, MachineRules, MachineTemplateRules,
};
use provider_kubevirt::api::{self, KubevirtCluster, KubevirtMachine};
use provider_kubevirt::{service, vm};
use serde_json::{Value, json};

/// What a user has to give; `clusterctl` itself gives the first five.
const GIVEN: [(&str, &str); 7] = [
    ("CLUSTER_NAME", "demo"),
    ("NAMESPACE", "default"),
    ("KUBERNETES_VERSION", "v1.36.0"),
    ("CONTROL_PLANE_MACHINE_COUNT", "3"),
    ("WORKER_MACHINE_COUNT", "2"),
    (
        "NODE_VM_IMAGE_TEMPLATE",
        "quay.io/capk/ubuntu-2404-container-disk:v1.36.0",
    ),
    ("ROOT_VOLUME_STORAGE_CLASS", "fast"),
];

/// The kind of a hosted control plane, whose definition is its provider's.
const FOREIGN: &str = "KamajiControlPlane";

fn files() -> BTreeMap<String, String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("templates");
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn flavors() -> BTreeMap<String, String> {
    let all = files().into_iter();
    all.filter(|(name, _)| name.starts_with("cluster-template"))
        .collect()
}

/// The objects that a file becomes.
fn rendered(file: &str, text: &str) -> Vec<Value> {
    let known = variables(file, text).unwrap();
    let given = GIVEN.iter().filter(|(name, _)| known.contains_key(*name));
    let given = given.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let done = substitute(file, text, &given.collect(), |_| None).unwrap();
    assert_eq!(done.blanks, [], "{file}");
    serde_saphyr::from_multiple(&done.text).unwrap()
}

fn faults(object: &Value) -> Vec<Fault> {
    fn ask<A: Admission>(rules: &A, object: &Value) -> Vec<Fault> {
        let new: A::Kind = serde_json::from_value(object.clone()).unwrap();
        let wish = Wish {
            old: None,
            new: &new,
            dry_run: false,
        };
        review(rules, &wish)
    }
    match object["kind"].as_str().unwrap() {
        "KubevirtCluster" => ask(&ClusterRules, object),
        "KubevirtClusterTemplate" => ask(&ClusterTemplateRules, object),
        "KubevirtMachine" => ask(&MachineRules, object),
        "KubevirtMachineTemplate" => ask(&MachineTemplateRules, object),
        _ => Vec::new(),
    }
}

/// A server takes an object, and strictly: a field that no schema declares is refused.
async fn takes(server: &ApiServer, file: &str, object: &Value) {
    let strict = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("kubectl")
    };
    let version = object["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
    let resource = ApiResource::from_gvk(&kind);
    let client = server.client("kubectl");
    let api: Api<DynamicObject> = Api::namespaced_with(client, "default", &resource);
    let name = object["metadata"]["name"].as_str().unwrap();
    let applied = api.patch(name, &strict, &Patch::Apply(object)).await;
    applied.unwrap_or_else(|error| panic!("{file}: {} {name}: {error}", kind.kind));
}

#[tokio::test(start_paused = true)]
async fn ctl_08_a_server_takes_what_every_flavor_becomes() {
    for (file, text) in files() {
        let server = ApiServer::new();
        server
            .install_crds(crds::cluster_api().iter().cloned())
            .unwrap();
        server.install_crds(api::crds()).unwrap();
        for object in rendered(&file, &text) {
            let found = faults(&object);
            assert!(found.is_empty(), "{file}: {found:?}");
            if object["kind"] != FOREIGN {
                takes(&server, &file, &object).await;
            }
        }
    }
}

/// What comes of each flavor in the infra cluster decodes by KubeVirt's published types.
#[tokio::test(start_paused = true)]
async fn the_infra_cluster_takes_the_machines_and_the_service_of_every_flavor() {
    let infra = ApiServer::new();
    infra
        .install_crds(crds::kubevirt().iter().cloned())
        .unwrap();
    let mut machines = 0;
    for (file, text) in files() {
        for object in rendered(&file, &text) {
            let name = object["metadata"]["name"].clone();
            match object["kind"].as_str().unwrap() {
                "KubevirtMachineTemplate" => {
                    let machine: KubevirtMachine = serde_json::from_value(json!({
                        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1",
                        "kind": "KubevirtMachine", "metadata": {"name": name, "namespace": "default"},
                        "spec": object["spec"]["template"]["spec"],
                    }))
                    .unwrap();
                    let wanted = vm::Wanted {
                        name: name.as_str().unwrap(),
                        namespace: "default",
                        cluster: "demo",
                        control_plane: true,
                        mark: "mark",
                        secret: Some("secret"),
                        node_labels: BTreeMap::new(),
                        cards: Vec::new(),
                    };
                    takes(&infra, &file, &vm::manifest(&machine, &wanted)).await;
                    machines += 1;
                }
                "KubevirtCluster" => {
                    let cluster: KubevirtCluster = serde_json::from_value(object).unwrap();
                    let wanted = service::Wanted {
                        name: "demo-lb",
                        namespace: "default",
                        cluster: "demo",
                        mark: "mark",
                    };
                    takes(&infra, &file, &service::manifest(&cluster.spec, &wanted)).await;
                }
                _ => {}
            }
        }
    }
    assert!(machines > 15, "{machines}");
}

/// CTL-08: one namespace, which is clusterctl's to choose, and the variables that it always gives.
#[test]
fn ctl_08_flavors_leave_namespaces_to_clusterctl() {
    for (file, text) in files() {
        for object in rendered(&file, &text) {
            assert_eq!(object["metadata"].get("namespace"), None, "{file}");
        }
    }
    for (file, text) in flavors() {
        let known = variables(&file, &text).unwrap();
        for name in ["CLUSTER_NAME", "KUBERNETES_VERSION", "WORKER_MACHINE_COUNT"] {
            assert!(known.contains_key(name), "{file}: {name}");
        }
    }
}

/// The flavors differ in what their names say.
#[test]
fn a_flavor_is_what_it_is_called() {
    let all: BTreeMap<_, _> = files()
        .iter()
        .map(|(file, text)| (file.clone(), rendered(file, text)))
        .collect();
    let of = |flavor: &str, kind: &str, path: &str| -> Value {
        let objects = &all[&format!("cluster-template{flavor}.yaml")];
        let found = objects.iter().find(|object| object["kind"] == kind);
        found
            .and_then(|object| object.pointer(path))
            .cloned()
            .unwrap_or_default()
    };
    let service = "/spec/controlPlaneServiceTemplate/spec/type";
    assert_eq!(of("", "KubevirtCluster", service), Value::Null);
    for flavor in ["-lb", "-lb-flatcar", "-ext-infra", "-kccm"] {
        assert_eq!(
            of(flavor, "KubevirtCluster", service),
            "LoadBalancer",
            "{flavor}"
        );
    }
    for flavor in ["-ignition", "-lb-flatcar"] {
        let format = of(
            flavor,
            "KubeadmControlPlane",
            "/spec/kubeadmConfigSpec/format",
        );
        assert_eq!(format, "ignition", "{flavor}");
        let format = of(
            flavor,
            "KubeadmConfigTemplate",
            "/spec/template/spec/format",
        );
        assert_eq!(format, "ignition", "{flavor}");
    }
    let secret = of(
        "-ext-infra",
        "KubevirtCluster",
        "/spec/infraClusterSecretRef/name",
    );
    assert_eq!(secret, "infra-kubeconfig");
    let volumes = "/spec/template/spec/virtualMachineTemplate/spec/dataVolumeTemplates";
    assert!(of("-persistent-storage", "KubevirtMachineTemplate", volumes).is_array());
    let managed = "/metadata/annotations/cluster.x-k8s.io~1managed-by";
    assert_eq!(
        of("-hosted-control-plane", "KubevirtCluster", managed),
        "kamaji"
    );
    let kind = "/metadata/labels/capk.cluster.x-k8s.io~1template-kind";
    for kept in [
        "Deployment",
        "ConfigMap",
        "ServiceAccount",
        "Role",
        "RoleBinding",
    ] {
        assert_eq!(of("-kccm", kept, kind), "extra-resource", "{kept}");
    }
}

/// The class is found by its name, and takes the variables of its flavor.
#[test]
fn ict_01_the_variables_of_the_flavor_are_those_of_the_class() {
    let files = files();
    let topology = rendered("", &files["cluster-template-topology.yaml"]);
    let cluster = &topology[0]["spec"]["topology"];
    let class = cluster["classRef"]["name"].as_str().unwrap();
    let file = format!("clusterclass-{class}.yaml");
    assert!(variables(&file, &files[&file]).unwrap().is_empty());
    let objects = rendered(&file, &files[&file]);
    let declared = objects[0]["spec"]["variables"].as_array().unwrap();
    let given = cluster["variables"].as_array().unwrap();
    assert_eq!(declared.len(), given.len());
    for one in given {
        let found = declared
            .iter()
            .find(|it| it["name"] == one["name"])
            .unwrap();
        let schema = Schema::compile(&found["schema"]["openAPIV3Schema"]).unwrap();
        let errors = schema.validate(&one["value"], None);
        assert!(errors.is_empty(), "{}: {errors:?}", one["name"]);
    }
    // What the patches change is there.
    for patch in objects[0]["spec"]["patches"].as_array().unwrap() {
        for definition in patch["definitions"].as_array().unwrap() {
            let kind = &definition["selector"]["kind"];
            let mut templates = objects.iter().filter(|object| object["kind"] == *kind);
            let template = templates.next().unwrap();
            for change in definition["jsonPatches"].as_array().unwrap() {
                let path = change["path"].as_str().unwrap();
                // What is added needs a place only.
                let place = match change["op"].as_str().unwrap() {
                    "add" => path.rsplit_once('/').unwrap().0,
                    _ => path,
                };
                assert!(template.pointer(place).is_some(), "{kind} {path}");
                // Cluster API refuses a class that replaces inside of a list.
                let is_index = |part: &str| part.parse::<usize>().is_ok();
                assert!(!path.split('/').any(is_index), "{kind} {path}");
            }
        }
    }
}

/// Every variable of a flavor stands in the table of docs/kubevirt.md with its default, and no other.
#[test]
fn ctl_06_every_variable_is_documented() {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/kubevirt.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let (_, section) = docs
        .split_once("\n### Variables of the templates\n")
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let documented: BTreeMap<_, _> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.strip_suffix('`')?.to_owned();
            Some((name, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect();
    let mut used = BTreeMap::new();
    for (file, text) in flavors() {
        for (name, default) in variables(&file, &text).unwrap() {
            let default = default.unwrap_or_else(|| "needed".to_owned());
            let earlier = used.insert(name.clone(), default.clone());
            assert!(
                earlier.is_none_or(|it| it == default),
                "{file}: {name} has two defaults"
            );
        }
    }
    assert_eq!(documented, used);
}
