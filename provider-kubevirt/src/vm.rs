//! The VirtualMachine that a machine asks for. Pure.
//!
//! The template passes through as it is; what is added here is what makes it this machine's: names,
//! labels, the mark, the disk with the bootstrap data, the failure domain.

use std::collections::BTreeMap;

use capi_contract::ObjectName;
use serde_json::{Map, Value, json};

use crate::api::{
    BootstrapDataSource, KubevirtMachine, MACHINE_NAME_LABEL, MACHINE_NAMESPACE_LABEL,
    MARK_ANNOTATION, ROLE_LABEL, VM_LABEL,
};
use crate::network::{self, Card};

/// Name of the volume and disk with the bootstrap data; the Go provider's.
pub const BOOTSTRAP_VOLUME: &str = "cloudinitvolume";

/// Label with the name of the VM, which the Go provider sets beside [`VM_LABEL`].
const NAME_LABEL: &str = "name";

/// Longest name of a VM, and so of a machine: it is the value of labels and the host name.
pub const NAME_MAX: usize = 63;

/// What makes a VM this machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Name of the VM.
    pub name: &'a str,
    /// Where it is.
    pub namespace: &'a str,
    /// Name of the workload cluster.
    pub cluster: &'a str,
    /// Whether it is a machine of the control plane.
    pub control_plane: bool,
    /// The mark.
    pub mark: &'a str,
    /// The Secret with the bootstrap data; none for a machine without.
    pub secret: Option<&'a str>,
    /// Labels of the infra nodes that it may run on.
    pub node_labels: BTreeMap<String, String>,
    /// The cards that the network data speak of; none without network data.
    pub cards: Vec<Card>,
}

/// Names of the volumes that are made with the VM, as they will be called in the infra cluster.
pub fn volumes(object: &KubevirtMachine, vm: &str) -> Vec<String> {
    let spec = &object.spec.virtual_machine_template.spec;
    let templates = spec.get("dataVolumeTemplates").and_then(Value::as_array);
    let names = templates.into_iter().flatten().filter_map(volume_name);
    names.map(|name| prefixed(vm, name)).collect()
}

fn volume_name(template: &Value) -> Option<&str> {
    template.pointer("/metadata/name")?.as_str()
}

/// What the Go provider makes of the name of a volume template, so that machines do not share it.
fn prefixed(vm: &str, volume: &str) -> String {
    format!("{vm}-{volume}")
}

/// What of the template cannot be made into a VM, with what to do about it.
pub fn faults(object: &KubevirtMachine) -> Vec<String> {
    const AT: &str = "spec.virtualMachineTemplate.spec";
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let spec = &object.spec.virtual_machine_template.spec;
    let mut faults = Vec::new();
    if name.len() > NAME_MAX {
        faults.push(format!(
            "metadata.name is longer than the {NAME_MAX} characters that the label of a VM may \
             have: choose a shorter name for the MachineDeployment or control plane"
        ));
    }
    let instance = spec
        .get("template")
        .and_then(|template| template.get("spec"));
    let Some(instance) = instance.and_then(Value::as_object) else {
        faults.push(format!(
            "{AT}.template.spec is missing: describe the VM there"
        ));
        return faults;
    };
    let named = |key: &str| {
        let all = instance.get(key).and_then(Value::as_array);
        let mut all = all.into_iter().flatten();
        all.any(|one| one["name"] == BOOTSTRAP_VOLUME)
    };
    if named("volumes") {
        faults.push(format!(
            "{AT}.template.spec.volumes has {BOOTSTRAP_VOLUME}, which the provider adds: give it \
             another name"
        ));
    }
    let both = spec.contains_key("runStrategy") && spec.contains_key("running");
    if both {
        faults.push(format!(
            "{AT}.running and {AT}.runStrategy exclude each other: remove running"
        ));
    }
    for template in volumes(object, name) {
        if template.len() > NAME_MAX {
            faults.push(format!(
                "{AT}.dataVolumeTemplates: {template} is longer than {NAME_MAX} characters: shorten \
                 the name of the volume or the machine"
            ));
        }
    }
    faults.extend(network::faults(object));
    faults
}

/// The VirtualMachine of a machine.
pub fn manifest(object: &KubevirtMachine, wanted: &Wanted<'_>) -> Value {
    let template = &object.spec.virtual_machine_template;
    let mut spec = template.spec.clone();
    let own = labels(object, wanted);
    let names = rename_volumes(&mut spec, wanted, &own);
    let instance = entry(&mut spec, "template");
    let meta = entry(instance, "metadata");
    add(entry(meta, "labels"), &own);
    let mark = [(MARK_ANNOTATION.to_owned(), wanted.mark.to_owned())].into();
    add(entry(meta, "annotations"), &mark);
    let instance = entry(instance, "spec");
    refer_to(instance, &names, wanted.name);
    if let Some(secret) = wanted.secret {
        let has_network_data = !wanted.cards.is_empty();
        add_bootstrap(
            instance,
            object.spec.bootstrap_data_source,
            secret,
            has_network_data,
        );
    }
    fix_cards(instance, &wanted.cards);
    place(instance, &wanted.node_labels);

    let given = template.metadata.clone().unwrap_or_default();
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(wanted.name));
    metadata.insert("namespace".to_owned(), json!(wanted.namespace));
    add(entry(&mut metadata, "labels"), &given.labels);
    add(entry(&mut metadata, "labels"), &own);
    add(entry(&mut metadata, "annotations"), &given.annotations);
    add(entry(&mut metadata, "annotations"), &mark);
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": metadata,
        "spec": spec,
    })
}

/// The Secret for the bootstrap data, without them. The VM owns it, so it goes with the VM whatever
/// happens to us.
pub fn secret(object: &KubevirtMachine, wanted: &Wanted<'_>, vm_uid: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": wanted.secret,
            "namespace": wanted.namespace,
            "labels": labels(object, wanted),
            "annotations": {MARK_ANNOTATION: wanted.mark},
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "name": wanted.name,
                "uid": vm_uid,
            }],
        },
        "type": "cluster.x-k8s.io/secret",
    })
}

/// The request to move a VM off its infra node.
pub fn migration(
    vm: &str,
    namespace: &str,
    name: &str,
    mark: &str,
    machine: &ObjectName,
    vm_uid: Option<&str>,
) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                MACHINE_NAME_LABEL: machine.name,
                MACHINE_NAMESPACE_LABEL: machine.namespace,
            },
            "annotations": {MARK_ANNOTATION: mark},
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "name": vm,
                "uid": vm_uid,
            }],
        },
        "spec": {"vmiName": vm},
    })
}

/// The labels by which everything of a machine is found, the Go provider's.
fn labels(object: &KubevirtMachine, wanted: &Wanted<'_>) -> BTreeMap<String, String> {
    let role = if wanted.control_plane {
        "control-plane"
    } else {
        "worker"
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let own = [
        (VM_LABEL, wanted.name.to_owned()),
        (NAME_LABEL, wanted.name.to_owned()),
        (ROLE_LABEL, role.to_owned()),
        (
            capi_contract::view::CLUSTER_NAME_LABEL,
            wanted.cluster.to_owned(),
        ),
        (MACHINE_NAME_LABEL, text(&object.metadata.name)),
        (MACHINE_NAMESPACE_LABEL, text(&object.metadata.namespace)),
    ];
    own.map(|(key, value)| (key.to_owned(), value)).into()
}

/// The object under a key, made if it is missing or something else.
fn entry<'a>(of: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = of.entry(key.to_owned()).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object above")
}

/// The list under a key, made if it is missing or something else.
fn list<'a>(of: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = of.entry(key.to_owned()).or_insert(Value::Null);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("it was made a list above")
}

fn add(to: &mut Map<String, Value>, more: &BTreeMap<String, String>) {
    let more = more.iter();
    to.extend(more.map(|(key, value)| (key.clone(), json!(value))));
}

/// Gives the volume templates names of their own; their names before.
fn rename_volumes(
    spec: &mut Map<String, Value>,
    wanted: &Wanted<'_>,
    own: &BTreeMap<String, String>,
) -> Vec<String> {
    if !spec.contains_key("dataVolumeTemplates") {
        return Vec::new();
    }
    let mut names = Vec::new();
    for template in list(spec, "dataVolumeTemplates") {
        let Some(name) = volume_name(template).map(str::to_owned) else {
            continue;
        };
        let Some(template) = template.as_object_mut() else {
            continue;
        };
        let meta = entry(template, "metadata");
        meta.insert("name".to_owned(), json!(prefixed(wanted.name, &name)));
        add(entry(meta, "labels"), own);
        let mark = json!(wanted.mark);
        entry(meta, "annotations").insert(MARK_ANNOTATION.to_owned(), mark);
        place_source(template, wanted.namespace);
        names.push(name);
    }
    names
}

/// Says where the claim or snapshot is that a volume is cloned from: beside the VM, unless the template
/// names another namespace. KubeVirt would take it so, but its definition wants the field to be there.
fn place_source(template: &mut Map<String, Value>, namespace: &str) {
    let source = template.get_mut("spec").and_then(|it| it.get_mut("source"));
    let Some(source) = source.and_then(Value::as_object_mut) else {
        return;
    };
    for kind in ["pvc", "snapshot"] {
        let Some(Value::Object(origin)) = source.get_mut(kind) else {
            continue;
        };
        let given = origin.get("namespace").and_then(Value::as_str);
        if given.is_none_or(str::is_empty) {
            origin.insert("namespace".to_owned(), json!(namespace));
        }
    }
}

/// Lets the volumes of the instance refer to the new names.
fn refer_to(instance: &mut Map<String, Value>, names: &[String], vm: &str) {
    if !instance.contains_key("volumes") {
        return;
    }
    for volume in list(instance, "volumes") {
        for (source, field) in [
            ("dataVolume", "name"),
            ("persistentVolumeClaim", "claimName"),
        ] {
            let Some(reference) = volume.get_mut(source).and_then(|v| v.get_mut(field)) else {
                continue;
            };
            let template = names.iter().find(|name| reference == name.as_str());
            if let Some(template) = template {
                *reference = json!(prefixed(vm, template));
            }
        }
    }
}

/// Adds the disk with the bootstrap data.
fn add_bootstrap(
    instance: &mut Map<String, Value>,
    source: Option<BootstrapDataSource>,
    secret: &str,
    has_network_data: bool,
) {
    let kind = match source.unwrap_or_default() {
        BootstrapDataSource::ConfigDrive => "cloudInitConfigDrive",
        BootstrapDataSource::NoCloud => "cloudInitNoCloud",
    };
    let mut drive = json!({"secretRef": {"name": secret}});
    if has_network_data {
        // KubeVirt looks for them only where it is told to, though they are in the same Secret.
        drive["networkDataSecretRef"] = json!({"name": secret});
    }
    list(instance, "volumes").push(json!({"name": BOOTSTRAP_VOLUME, kind: drive}));
    let devices = entry(entry(instance, "domain"), "devices");
    list(devices, "disks").push(json!({
        "name": BOOTSTRAP_VOLUME,
        "disk": {"bus": "virtio"},
    }));
}

/// Gives cards the addresses by which the guest tells them apart.
fn fix_cards(instance: &mut Map<String, Value>, cards: &[Card]) {
    if cards.is_empty() {
        return;
    }
    let devices = entry(entry(instance, "domain"), "devices");
    for interface in list(devices, "interfaces") {
        let card = cards
            .iter()
            .find(|card| interface["name"] == card.name.as_str());
        if let Some(card) = card {
            interface["macAddress"] = json!(card.mac);
        }
    }
}

/// Restricts the instance to infra nodes with these labels, beside what the template says. Terms of
/// an affinity are alternatives, so each of them is restricted.
fn place(instance: &mut Map<String, Value>, node_labels: &BTreeMap<String, String>) {
    if node_labels.is_empty() {
        return;
    }
    let requirements = node_labels
        .iter()
        .map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}));
    let requirements: Vec<Value> = requirements.collect();
    let affinity = entry(entry(instance, "affinity"), "nodeAffinity");
    let required = entry(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
    let terms = list(required, "nodeSelectorTerms");
    if terms.is_empty() {
        terms.push(json!({}));
    }
    for term in terms {
        if let Some(term) = term.as_object_mut() {
            list(term, "matchExpressions").extend(requirements.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn machine(spec: Value) -> KubevirtMachine {
        let mut machine = KubevirtMachine::default();
        machine.metadata.name = Some("m-0".into());
        machine.metadata.namespace = Some("mgmt".into());
        machine.spec.virtual_machine_template = serde_json::from_value(json!({
            "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
            "spec": spec,
        }))
        .unwrap();
        machine
    }

    fn wanted() -> Wanted<'static> {
        Wanted {
            name: "m-0",
            namespace: "tenant",
            cluster: "c",
            control_plane: true,
            mark: "capi:mark",
            secret: Some("m-0-userdata"),
            node_labels: BTreeMap::new(),
            cards: Vec::new(),
        }
    }

    fn persistent() -> Value {
        json!({
            "runStrategy": "Always",
            "fromTheFuture": {"a": 1},
            "dataVolumeTemplates": [{"metadata": {"name": "root", "creationTimestamp": null}, "spec": {}}],
            "template": {"spec": {
                "domain": {"devices": {"disks": [{"name": "d"}]}},
                "volumes": [
                    {"name": "d", "dataVolume": {"name": "root"}},
                    {"name": "e", "persistentVolumeClaim": {"claimName": "root"}},
                    {"name": "f", "dataVolume": {"name": "shared"}},
                ],
            }},
        })
    }

    #[test]
    fn the_template_passes_through_with_what_makes_it_this_machines() {
        let vm = manifest(&machine(persistent()), &wanted());
        assert_eq!(vm["spec"]["fromTheFuture"], json!({"a": 1}));
        assert_eq!(vm["spec"]["runStrategy"], "Always");
        let labels = json!({
            "team": "a", "kubevirt.io/vm": "m-0", "name": "m-0",
            "cluster.x-k8s.io/role": "control-plane", "cluster.x-k8s.io/cluster-name": "c",
            MACHINE_NAME_LABEL: "m-0", MACHINE_NAMESPACE_LABEL: "mgmt",
        });
        assert_eq!(vm["metadata"]["labels"], labels);
        let annotations = json!({"note": "b", MARK_ANNOTATION: "capi:mark"});
        assert_eq!(vm["metadata"]["annotations"], annotations);
        let instance = &vm["spec"]["template"];
        assert_eq!(instance["metadata"]["labels"][MACHINE_NAME_LABEL], "m-0");
        assert_eq!(
            instance["metadata"]["annotations"][MARK_ANNOTATION],
            "capi:mark"
        );
        let volume = json!({
            "name": BOOTSTRAP_VOLUME,
            "cloudInitConfigDrive": {"secretRef": {"name": "m-0-userdata"}},
        });
        assert_eq!(instance["spec"]["volumes"][3], volume);
        assert_eq!(
            instance["spec"]["domain"]["devices"]["disks"][1],
            json!({"name": BOOTSTRAP_VOLUME, "disk": {"bus": "virtio"}})
        );
    }

    #[test]
    fn volumes_get_the_prefix_of_the_go_provider_wherever_they_are_named() {
        let object = machine(persistent());
        let vm = manifest(&object, &wanted());
        assert_eq!(volumes(&object, "m-0"), ["m-0-root"]);
        let template = &vm["spec"]["dataVolumeTemplates"][0]["metadata"];
        assert_eq!(template["name"], "m-0-root");
        assert_eq!(template["annotations"][MARK_ANNOTATION], "capi:mark");
        assert_eq!(template["labels"][MACHINE_NAME_LABEL], "m-0");
        let volumes = &vm["spec"]["template"]["spec"]["volumes"];
        assert_eq!(volumes[0]["dataVolume"]["name"], "m-0-root");
        assert_eq!(volumes[1]["persistentVolumeClaim"]["claimName"], "m-0-root");
        assert_eq!(
            volumes[2]["dataVolume"]["name"], "shared",
            "not a template's"
        );
    }

    #[test]
    fn what_is_cloned_is_beside_the_vm_unless_the_template_says_where() {
        let cloned = |source: Value| {
            let mut spec = persistent();
            spec["dataVolumeTemplates"][0]["spec"] = json!({"source": source});
            let vm = manifest(&machine(spec), &wanted());
            vm["spec"]["dataVolumeTemplates"][0]["spec"]["source"].clone()
        };
        for given in [
            json!({"name": "golden"}),
            json!({"name": "golden", "namespace": ""}),
        ] {
            for kind in ["pvc", "snapshot"] {
                let beside = json!({kind: {"name": "golden", "namespace": "tenant"}});
                assert_eq!(cloned(json!({kind: given})), beside);
            }
        }
        for kept in [
            json!({"pvc": {"name": "golden", "namespace": "images"}}),
            json!({"registry": {"url": "docker://image"}}),
        ] {
            assert_eq!(cloned(kept.clone()), kept);
        }
    }

    #[test]
    fn defect_11_the_data_source_is_the_users_choice() {
        let mut object = machine(persistent());
        object.spec.bootstrap_data_source = Some(BootstrapDataSource::NoCloud);
        let vm = manifest(&object, &wanted());
        let volume = &vm["spec"]["template"]["spec"]["volumes"][3];
        assert_eq!(
            volume["cloudInitNoCloud"]["secretRef"]["name"],
            "m-0-userdata"
        );
        assert!(volume.get("cloudInitConfigDrive").is_none());
    }

    #[test]
    fn a_machine_with_network_data_gets_fixed_cards_and_the_same_secret_twice() {
        let mut object = machine(json!({"template": {"spec": {
            "domain": {"devices": {"interfaces": [
                {"name": "default", "masquerade": {}}, {"name": "vlan", "bridge": {}},
            ]}},
            "networks": [{"name": "default", "pod": {}}, {"name": "vlan", "multus": {}}],
        }}}));
        object.spec.network_interfaces = vec![crate::api::NetworkInterface {
            name: "vlan".into(),
            ..Default::default()
        }];
        let mark = capi_contract::Mark::made(
            capi_contract::Token::random(),
            ObjectName::new("mgmt", "m-0"),
        );
        let fixed = Wanted {
            cards: network::cards(&object, &mark),
            ..wanted()
        };
        let vm = manifest(&object, &fixed);
        let instance = &vm["spec"]["template"]["spec"];
        let drive = &instance["volumes"][0]["cloudInitConfigDrive"];
        assert_eq!(drive["secretRef"]["name"], "m-0-userdata");
        assert_eq!(drive["networkDataSecretRef"]["name"], "m-0-userdata");
        for (at, card) in fixed.cards.iter().enumerate() {
            let interface = &instance["domain"]["devices"]["interfaces"][at];
            assert_eq!(interface["macAddress"], json!(card.mac));
        }
        let plain = manifest(&machine(persistent()), &wanted());
        let drive = &plain["spec"]["template"]["spec"]["volumes"][3]["cloudInitConfigDrive"];
        assert!(drive.get("networkDataSecretRef").is_none());
    }

    #[test]
    fn a_machine_without_bootstrap_data_has_no_disk_for_it() {
        let none = Wanted {
            secret: None,
            ..wanted()
        };
        let vm = manifest(&machine(json!({"template": {"spec": {}}})), &none);
        assert_eq!(vm["spec"]["template"]["spec"], json!({}));
    }

    #[test]
    fn im_06_a_failure_domain_restricts_every_alternative_of_the_template() {
        let zone = Wanted {
            node_labels: [("zone".to_owned(), "z1".to_owned())].into(),
            ..wanted()
        };
        let zoned = json!({"key": "zone", "operator": "In", "values": ["z1"]});
        let at = "/spec/template/spec/affinity/nodeAffinity/\
                  requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        let plain = manifest(&machine(persistent()), &zone);
        assert_eq!(
            plain.pointer(at).unwrap(),
            &json!([{"matchExpressions": [zoned]}])
        );
        let mut spec = persistent();
        let gpu = json!({"key": "gpu", "operator": "Exists"});
        spec["template"]["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [gpu]}, {"matchFields": []},
            ]},
        }});
        let both = manifest(&machine(spec), &zone);
        let terms = json!([
            {"matchExpressions": [gpu, zoned]}, {"matchFields": [], "matchExpressions": [zoned]},
        ]);
        assert_eq!(both.pointer(at).unwrap(), &terms);
    }

    #[test]
    fn templates_that_cannot_work_are_told_before_anything_is_made() {
        assert!(faults(&machine(persistent())).is_empty());
        let told = |object: &KubevirtMachine| faults(object).join("; ");
        assert!(told(&machine(json!({}))).contains("template.spec is missing"));
        let mut taken = persistent();
        taken["template"]["spec"]["volumes"][0]["name"] = json!(BOOTSTRAP_VOLUME);
        assert!(told(&machine(taken)).contains("give it another name"));
        let mut both = persistent();
        both["running"] = json!(true);
        assert!(told(&machine(both)).contains("exclude each other"));
        let mut long = machine(persistent());
        long.metadata.name = Some("m".repeat(60));
        assert!(told(&long).contains("dataVolumeTemplates"));
        long.metadata.name = Some("m".repeat(64));
        assert!(told(&long).contains("metadata.name is longer than the 63"));
    }
}
