//! What `clusterctl generate cluster` makes of the templates, and what a server says to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use capi_contract::admission::{Admission, Fault, Wish, review};
use capi_testkit::apiserver::ApiServer;
use capi_testkit::crds;
use capi_testkit::schema::Schema;
use capi_testkit::substitute::{self, substitute, variables};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use provider_proxmox::admission::{
    ClusterRules, ClusterTemplateRules, MachineRules, MachineTemplateRules,
};
use provider_proxmox::api;
use rstest::rstest;
use serde_json::{Value, json};

use crate::api::admit;

/// What a user has to give; the rest has a default. `clusterctl` itself gives the first four.
const GIVEN: [(&str, &str); 13] = [
    ("CLUSTER_NAME", "demo"),
    ("KUBERNETES_VERSION", "v1.36.0"),
    ("CONTROL_PLANE_MACHINE_COUNT", "3"),
    ("WORKER_MACHINE_COUNT", "2"),
    ("CONTROL_PLANE_ENDPOINT_IP", "10.20.0.5"),
    ("NODE_IP_RANGES", "[10.20.0.10-10.20.0.99]"),
    ("IP_PREFIX", "24"),
    ("GATEWAY", "10.20.0.1"),
    ("DNS_SERVERS", "[10.20.0.1, 10.20.0.2]"),
    ("BRIDGE", "vmbr0"),
    ("PROXMOX_SOURCENODE", "pve1"),
    ("TEMPLATE_VMID", "9000"),
    (
        "VM_SSH_KEYS",
        "ssh-ed25519 AAAA one@home, ssh-ed25519 BBBB two@home",
    ),
];

/// All that can be given, with values that are not the defaults.
const MORE: [(&str, &str); 9] = [
    ("ALLOWED_NODES", "[pve1,pve2]"),
    ("BOOT_VOLUME_DEVICE", "virtio0"),
    ("BOOT_VOLUME_SIZE", "40"),
    ("NUM_SOCKETS", "1"),
    ("NUM_CORES", "8"),
    ("MEMORY_MIB", "8192"),
    ("VIP_NETWORK_INTERFACE", "eth0"),
    ("POD_CIDR", "10.244.0.0/16"),
    ("SERVICE_CIDR", "10.112.0.0/12"),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("templates")
}

/// The files of the folder, by name.
fn files() -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn templates() -> BTreeMap<String, String> {
    let is_template = |name: &str| name.starts_with("cluster-template");
    files()
        .into_iter()
        .filter(|(name, _)| is_template(name))
        .collect()
}

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// The objects that a template becomes, those of its class included, as clusterctl puts them out.
fn rendered(file: &str, more: &[(&str, &str)]) -> Vec<Value> {
    let files = files();
    let held = values(&[&GIVEN[..], more].concat());
    let text = &files[file];
    let known = variables(file, text).unwrap();
    let used = held.iter().filter(|(name, _)| known.contains_key(*name));
    let used = used
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let done = substitute(file, text, &used, |_| None).unwrap();
    assert_eq!(done.blanks, [], "{file}");
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(&done.text).unwrap();
    for class in classes(&objects) {
        let class = &files[&format!("clusterclass-{class}.yaml")];
        let mut all: Vec<Value> = serde_saphyr::from_multiple(class).unwrap();
        all.append(&mut objects);
        objects = all;
    }
    objects
}

fn classes(objects: &[Value]) -> Vec<String> {
    let path = "/spec/topology/classRef/name";
    let names = objects
        .iter()
        .filter_map(|object| object.pointer(path)?.as_str());
    names.map(str::to_owned).collect()
}

/// The objects of a kind.
fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects
        .iter()
        .filter(|object| object["kind"] == kind)
        .collect()
}

/// What the webhooks say to a new object.
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
        "ProxmoxCluster" => ask(&ClusterRules, object),
        "ProxmoxClusterTemplate" => ask(&ClusterTemplateRules, object),
        "ProxmoxMachine" => ask(&MachineRules, object),
        "ProxmoxMachineTemplate" => ask(&MachineTemplateRules, object),
        _ => Vec::new(),
    }
}

/// A server takes every object of every template, with the smallest and the largest set of values, and
/// strictly: a field that no schema declares is refused.
#[rstest]
#[case::default("cluster-template.yaml", &[])]
#[case::default_in_full("cluster-template.yaml", &MORE)]
#[case::topology("cluster-template-topology.yaml", &[])]
#[case::topology_in_full("cluster-template-topology.yaml", &MORE)]
#[tokio::test(start_paused = true)]
async fn ctl_08_a_server_takes_what_the_templates_become(
    #[case] file: &str,
    #[case] more: &[(&str, &str)],
) {
    let server = ApiServer::new();
    server
        .install_crds(crds::cluster_api().iter().cloned())
        .unwrap();
    server.install_crds(api::crds()).unwrap();
    let strict = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("kubectl")
    };
    for object in rendered(file, more) {
        let found = faults(&object);
        assert!(found.is_empty(), "{object}: {found:?}");
        let (group, version) = object["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .unwrap();
        let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(server.client("kubectl"), "default", &resource);
        let name = object["metadata"]["name"].as_str().unwrap();
        let applied = api.patch(name, &strict, &Patch::Apply(&object)).await;
        applied.unwrap_or_else(|error| panic!("{file}: {} {name}: {error}", kind.kind));
    }
}

/// CTL-01: what lies in the folder is what is shipped, and clusterctl finds each file by its name.
#[test]
fn ctl_01_every_file_of_the_folder_is_shipped_as_it_is() {
    let repository = tempfile::TempDir::new().unwrap();
    let directory = repository.path().to_str().unwrap();
    crate::program::output("manifests", &["-o", directory, "--release", "v1.2.0"]);
    let shipped = repository.path().join("infrastructure-proxmox/v1.2.0");
    for (name, text) in files() {
        let is_same = std::fs::read_to_string(shipped.join(&name)).unwrap() == text;
        assert!(
            is_same,
            "{name} is shipped otherwise than it lies in the folder"
        );
    }
    let names = std::fs::read_dir(shipped).unwrap();
    let names: BTreeSet<_> = names
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut wanted: BTreeSet<_> = files().into_keys().collect();
    wanted.extend(["metadata.yaml", "infrastructure-components.yaml"].map(str::to_owned));
    assert_eq!(names, wanted);
}

/// CTL-08: one namespace, which is clusterctl's to choose, and the variables that it always gives.
#[test]
fn ctl_08_templates_leave_namespaces_to_clusterctl() {
    for (file, text) in files() {
        let all: Vec<Value> = serde_saphyr::from_multiple(&plain(&text)).unwrap();
        for object in &all {
            assert_eq!(object["metadata"].get("namespace"), None, "{file}");
        }
    }
    for (file, text) in templates() {
        let known = variables(&file, &text).unwrap();
        for (name, _) in &GIVEN[..4] {
            assert!(known.contains_key(*name), "{file}: {name}");
        }
    }
}

/// Without variables, so that it can be read as YAML.
fn plain(text: &str) -> String {
    let held = values(&[&GIVEN[..], &MORE[..]].concat());
    let known = variables("", text).unwrap();
    let used = held
        .into_iter()
        .filter(|(name, _)| known.contains_key(name));
    substitute("", text, &used.collect(), |_| None)
        .unwrap()
        .text
}

/// CTL-08: a class has no variables of clusterctl, is found by its name, and shares no template with
/// another class.
#[test]
fn ctl_08_classes_stand_for_themselves() {
    for (file, text) in files() {
        let Some(class) = file.strip_prefix("clusterclass-") else {
            continue;
        };
        let class = class.strip_suffix(".yaml").unwrap();
        assert!(variables(&file, &text).unwrap().is_empty(), "{file}");
        let all: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(of_kind(&all, "ClusterClass")[0]["metadata"]["name"], class);
        let names = all
            .iter()
            .map(|object| object["metadata"]["name"].as_str().unwrap());
        assert!(
            names.into_iter().all(|name| name.starts_with(class)),
            "{file}"
        );
    }
}

/// CTL-06: without a value that is needed there is nothing, and all that is missing is named.
#[test]
fn ctl_06_what_is_missing_is_named() {
    for (file, text) in templates() {
        for (name, _) in GIVEN {
            let mut held = values(&GIVEN);
            held.remove(name);
            let error = substitute(&file, &text, &held, |_| None).unwrap_err();
            let substitute::Error::Missing(missing) = error else {
                panic!("{file}: {error}");
            };
            let missing: Vec<_> = missing.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(missing, [name], "{file}");
        }
    }
}

/// Values arrive where they belong, and both flavors make the same of them.
#[test]
fn im_27_values_arrive_in_the_objects() {
    let plain = rendered("cluster-template.yaml", &MORE);
    let cluster = of_kind(&plain, "ProxmoxCluster")[0];
    assert_eq!(cluster["spec"]["controlPlaneEndpoint"]["host"], "10.20.0.5");
    assert_eq!(cluster["spec"]["allowedNodes"], json!(["pve1", "pve2"]));
    assert_eq!(
        cluster["spec"]["dnsServers"],
        json!(["10.20.0.1", "10.20.0.2"])
    );
    let control_plane = of_kind(&plain, "KubeadmControlPlane")[0];
    assert_eq!(control_plane["spec"]["replicas"], 3);
    let config = &control_plane["spec"]["kubeadmConfigSpec"];
    assert_eq!(
        config["users"][0]["sshAuthorizedKeys"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for entry in ["initConfiguration", "joinConfiguration"] {
        let argument = &config[entry]["nodeRegistration"]["kubeletExtraArgs"][0];
        assert_eq!(
            argument["value"],
            "proxmox://{{ ds.meta_data.instance_id }}"
        );
    }
    let pod = config["files"][0]["content"].as_str().unwrap();
    let pod: Value = serde_saphyr::from_str(pod).unwrap();
    let environment = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    let value = |name: &str| {
        let found = environment.iter().find(|one| one["name"] == name).unwrap();
        found["value"].clone()
    };
    assert_eq!(value("address"), "10.20.0.5");
    assert_eq!(value("vip_interface"), "eth0");

    let topology = rendered("cluster-template-topology.yaml", &MORE);
    let machines = of_kind(&plain, "ProxmoxMachineTemplate");
    let variable = topology_variable(&topology, "cloneSpec");
    for (number, role) in ["controlPlane", "workerNode"].into_iter().enumerate() {
        assert_eq!(
            machines[number]["spec"]["template"]["spec"],
            variable["machineSpec"][role]
        );
    }
    assert_eq!(
        topology_variable(&topology, "ipv4Config"),
        cluster["spec"]["ipv4Config"]
    );
}

fn topology_variable(objects: &[Value], name: &str) -> Value {
    let cluster = of_kind(objects, "Cluster")[0];
    let all = cluster["spec"]["topology"]["variables"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))["value"].clone()
}

/// The class takes the variables of the flavor, and its patches make templates that our own
/// definitions accept. (The Go templates among the patches are for the real Cluster API to try.)
#[test]
fn ict_01_variables_of_the_class_become_valid_templates() {
    let objects = rendered("cluster-template-topology.yaml", &MORE);
    let class = of_kind(&objects, "ClusterClass")[0];
    for declared in class["spec"]["variables"].as_array().unwrap() {
        let name = declared["name"].as_str().unwrap();
        if name == "ipv6Config" {
            continue;
        }
        let schema = Schema::compile(&declared["schema"]["openAPIV3Schema"]).unwrap();
        let mut value = topology_variable(&objects, name);
        assert_eq!(schema.prune(&mut value), Vec::<String>::new(), "{name}");
        let errors: Vec<_> = schema
            .validate(&value, None)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(errors, Vec::<String>::new(), "{name}");
    }
    let clone = topology_variable(&objects, "cloneSpec");
    for (template, role) in [
        ("proxmox-v1-control-plane", "controlPlane"),
        ("proxmox-v1-worker", "workerNode"),
    ] {
        let mut object = (*named(&objects, "ProxmoxMachineTemplate", template)).clone();
        object["spec"]["template"]["spec"] = clone["machineSpec"][role].clone();
        assert_eq!(faults(&admit(&object)), [], "{template}");
    }
    let mut cluster = named(&objects, "ProxmoxClusterTemplate", "proxmox-v1").clone();
    for name in [
        "controlPlaneEndpoint",
        "dnsServers",
        "allowedNodes",
        "ipv4Config",
    ] {
        cluster["spec"]["template"]["spec"][name] = topology_variable(&objects, name);
    }
    assert_eq!(faults(&admit(&cluster)), []);
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let all = of_kind(objects, kind);
    let found = all
        .into_iter()
        .find(|object| object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// What the class lets a user say is what a machine can be told, by the same name and of the same type.
#[test]
fn the_class_offers_only_fields_that_there_are() {
    let objects = rendered("cluster-template-topology.yaml", &[]);
    let class = of_kind(&objects, "ClusterClass")[0];
    let offered = |variable: &str| {
        let all = class["spec"]["variables"].as_array().unwrap();
        let found = all.iter().find(|one| one["name"] == variable).unwrap();
        found["schema"]["openAPIV3Schema"].clone()
    };
    let schema = |kind: &str| {
        let all = api::crds().into_iter();
        let found = all
            .into_iter()
            .find(|it| it.spec.names.kind == kind)
            .unwrap();
        let found = serde_json::to_value(found).unwrap();
        let root = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        found.pointer(root).unwrap().clone()
    };
    let (machine, cluster) = (schema("ProxmoxMachine"), schema("ProxmoxCluster"));
    let roles = offered("cloneSpec")["properties"]["machineSpec"]["properties"].clone();
    for role in ["controlPlane", "workerNode"] {
        assert_within(&roles[role], &machine, role);
    }
    for name in [
        "controlPlaneEndpoint",
        "ipv4Config",
        "ipv6Config",
        "dnsServers",
        "allowedNodes",
    ] {
        assert_within(&offered(name), &cluster["properties"][name], name);
    }
}

fn assert_within(offered: &Value, known: &Value, place: &str) {
    assert_eq!(offered["type"], known["type"], "{place}");
    for (name, inner) in offered["properties"].as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        let known = known["properties"].get(name);
        assert_within(
            inner,
            known.unwrap_or_else(|| panic!("{place} is no field")),
            &place,
        );
    }
    if let Some(inner) = offered.get("items") {
        assert_within(inner, &known["items"], &format!("{place}[]"));
    }
    let values =
        |schema: &Value| -> Vec<Value> { schema["enum"].as_array().cloned().unwrap_or_default() };
    let known = values(known);
    for value in values(offered) {
        assert!(known.contains(&value), "{place}: {value} is not accepted");
    }
}

/// Every variable of a template stands in the table of docs/proxmox.md with its default, and no other.
#[test]
fn ctl_06_every_variable_is_documented() {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/proxmox.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let (_, section) = docs
        .split_once("\n### Variables of the templates\n")
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        let default = cells.next()?;
        Some((name.to_owned(), default.trim_matches('`').to_owned()))
    });
    let documented: BTreeMap<_, _> = rows.collect();
    let mut used = BTreeMap::new();
    for (file, text) in templates() {
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
