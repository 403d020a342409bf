//! What KubeVirt's admission webhooks refuse and fill in.
//!
//! [`causes`] is the judgement over a VM's spec, pure. In an embedded API server it is asked before a
//! VM is stored, as in life; elsewhere the controller asks it and says so in the VM's conditions.

mod review;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(crate) use self::review::{configure, serve_in};

/// User data in line may have so many bytes; more needs a Secret.
const USER_DATA_BYTES_MAX: usize = 2048;
/// The same for network data.
const NETWORK_DATA_BYTES_MAX: usize = 2048;

/// One reason to refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) field: String,
    pub(crate) message: String,
}

/// The reasons of one look, with the field that it is at.
#[derive(Debug, Default)]
struct Causes {
    list: Vec<Cause>,
}

impl Causes {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.list.push(Cause {
            field: field.into(),
            message: message.into(),
        });
    }
}

/// Why KubeVirt refuses a VM of this spec; empty if it doesn't.
pub(crate) fn causes(spec: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    run_strategy(spec, &mut causes);
    let template = &spec["template"]["spec"];
    if !template.is_object() {
        causes.add("spec.template", "missing virtual machine template.");
        return causes.list;
    }
    volumes(template, &mut causes);
    networks(template, &mut causes);
    domain(spec, template, &mut causes);
    data_volume_templates(spec, template, &mut causes);
    causes.list
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn run_strategy(spec: &Value, causes: &mut Causes) {
    let (running, strategy) = (&spec["running"], &spec["runStrategy"]);
    match (running.is_null(), strategy.is_null()) {
        (false, false) => causes.add(
            "spec.running",
            "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead",
        ),
        (true, true) => causes.add("spec.running", "RunStrategy must be specified"),
        (false, true) => {}
        (true, false) => {
            let strategy = strategy.as_str().unwrap_or_default();
            let known = ["Always", "Halted", "Manual", "Once", "RerunOnFailure"];
            if !known.contains(&strategy) {
                let message = format!("Invalid RunStrategy ({strategy})");
                causes.add("spec.runStrategy", message);
            }
        }
    }
}

fn volumes(template: &Value, causes: &mut Causes) {
    let path = "spec.template.spec.volumes";
    let volumes = list(template, "volumes");
    for (index, volume) in volumes.iter().enumerate() {
        let field = format!("{path}[{index}]");
        let twin = volumes[..index]
            .iter()
            .position(|one| name(one) == name(volume));
        if let Some(twin) = twin {
            let message = format!("{path}[{twin}] and {field} must not have the same Name.");
            causes.add(format!("{field}.name"), message);
        }
        if name(volume).is_empty() {
            causes.add(format!("{field}.name"), format!("{field} must have a name"));
        }
        let sources = volume.as_object().into_iter().flatten();
        let sources = sources.filter(|(key, source)| *key != "name" && !source.is_null());
        if sources.count() != 1 {
            causes.add(
                &*field,
                format!("{field} must have exactly one source type set"),
            );
        }
        for kind in ["cloudInitNoCloud", "cloudInitConfigDrive"] {
            if volume[kind].is_object() {
                cloud_init(&format!("{field}.{kind}"), &volume[kind], causes);
            }
        }
    }
    let disks = list(&template["domain"]["devices"], "disks");
    for (index, disk) in disks.iter().enumerate() {
        let field = format!("spec.template.spec.domain.devices.disks[{index}]");
        let twin = disks[..index]
            .iter()
            .position(|one| name(one) == name(disk));
        if let Some(twin) = twin {
            let message = format!(
                "spec.template.spec.domain.devices.disks[{twin}] and {field} must not have the same Name."
            );
            causes.add(format!("{field}.name"), message);
        }
        if !volumes.iter().any(|volume| name(volume) == name(disk)) {
            let message = format!("{field}.Name '{}' not found.", name(disk));
            causes.add(format!("{field}.name"), message);
        }
    }
}

fn cloud_init(field: &str, source: &Value, causes: &mut Causes) {
    let length = |plain: &str, encoded: &str| {
        let text = source[plain].as_str().map(str::len);
        let decoded = source[encoded]
            .as_str()
            .and_then(|text| STANDARD.decode(text).ok());
        text.or(decoded.map(|bytes| bytes.len()))
    };
    let count = |keys: [&str; 3]| {
        let is_set = |key: &&str| match &source[*key] {
            Value::String(text) => !text.is_empty(),
            other => !other.is_null(),
        };
        keys.iter().filter(|key| is_set(key)).count()
    };
    let user = count(["secretRef", "userData", "userDataBase64"]);
    let network = count(["networkDataSecretRef", "networkData", "networkDataBase64"]);
    if user > 1 {
        causes.add(
            field,
            format!("{field} must have only one userdatasource set."),
        );
    }
    if network > 1 {
        causes.add(
            field,
            format!("{field} must have only one networkdata source set."),
        );
    }
    if user + network == 0 {
        let message =
            format!("{field} must have at least one userdatasource or one networkdatasource set.");
        causes.add(field, message);
    }
    for key in ["userDataBase64", "networkDataBase64"] {
        let is_bad = source[key]
            .as_str()
            .is_some_and(|text| STANDARD.decode(text).is_err());
        if is_bad {
            let message = format!("{field}.{key} is not a valid base64 value.");
            causes.add(format!("{field}.{key}"), message);
        }
    }
    if length("userData", "userDataBase64").is_some_and(|length| length > USER_DATA_BYTES_MAX) {
        let message = format!(
            "{field} userdata exceeds {USER_DATA_BYTES_MAX} byte limit. Should use UserDataSecretRef for larger data."
        );
        causes.add(field, message);
    }
    let network = length("networkData", "networkDataBase64");
    if network.is_some_and(|length| length > NETWORK_DATA_BYTES_MAX) {
        let message = format!(
            "{field} networkdata exceeds {NETWORK_DATA_BYTES_MAX} byte limit. Should use NetworkDataSecretRef for larger data."
        );
        causes.add(field, message);
    }
}

fn networks(template: &Value, causes: &mut Causes) {
    let networks = list(template, "networks");
    let interfaces = list(&template["domain"]["devices"], "interfaces");
    let path = "spec.template.spec.domain.devices.interfaces";
    let mut seen = BTreeSet::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let field = format!("{path}[{index}].name");
        if !networks
            .iter()
            .any(|network| name(network) == name(interface))
        {
            causes.add(&*field, format!("{field} '{}' not found.", name(interface)));
        }
        if !seen.insert(name(interface)) {
            let message = "Only one interface can be connected to one specific network";
            causes.add(&*field, message);
        }
    }
    let mut pods = 0;
    for (index, network) in networks.iter().enumerate() {
        let field = format!("spec.template.spec.networks[{index}]");
        if !interfaces
            .iter()
            .any(|interface| name(interface) == name(network))
        {
            causes.add(
                format!("{field}.name"),
                format!("{field}.name '{}' not found.", name(network)),
            );
        }
        let multus = &network["multus"];
        let sources = [&network["pod"], multus, &network["resourceClaim"]];
        if sources.iter().filter(|source| !source.is_null()).count() != 1 {
            causes.add(&*field, "should have only one network type");
        }
        if multus.is_object() && multus["networkName"].as_str().is_none_or(str::is_empty) {
            causes.add(&*field, "CNI delegating plugin must have a networkName");
        }
        pods += usize::from(!network["pod"].is_null());
    }
    if pods > 1 {
        let message = "more than one interface is connected to a pod network in spec.template.spec.interfaces";
        causes.add("spec.template.spec.networks", message);
    }
}

fn domain(spec: &Value, template: &Value, causes: &mut Causes) {
    let domain = &template["domain"];
    let path = "spec.template.spec.domain";
    let resources = &domain["resources"];
    let asked = [
        &domain["memory"]["guest"],
        &domain["memory"]["hugepages"],
        &resources["requests"]["memory"],
        &resources["limits"]["memory"],
    ];
    if spec["instancetype"].is_null() && asked.iter().all(|memory| memory.is_null()) {
        let message = format!(
            "no memory requested, at least one of '{path}.memory.guest', '{path}.memory.hugepages.size' or '{path}.resources.requests.memory' must be set"
        );
        causes.add(format!("{path}.memory"), message);
    }
    let cpu = &domain["cpu"];
    let count = |key: &str| cpu[key].as_u64().unwrap_or(0);
    if count("maxSockets") != 0 && count("sockets") > count("maxSockets") {
        let message =
            "Number of sockets in CPU topology is greater than the maximum sockets allowed";
        causes.add(format!("{path}.cpu.sockets"), message);
    }
    if let Some(strategy) = template["evictionStrategy"].as_str() {
        let known = ["None", "LiveMigrate", "LiveMigrateIfPossible", "External"];
        if !known.contains(&strategy) {
            let field = "spec.template.spec.evictionStrategy";
            causes.add(
                field,
                format!("{field} is set with an unrecognized option: {strategy}"),
            );
        }
    }
    for probe in ["readinessProbe", "livenessProbe"] {
        let held = &template[probe];
        let handlers = ["exec", "guestAgentPing", "httpGet", "tcpSocket"];
        let set = handlers.iter().filter(|key| !held[**key].is_null()).count();
        if held.is_object() && set != 1 {
            let field = format!("spec.template.spec.{probe}");
            let message = format!("{field} must have exactly one probe type set");
            causes.add(field, message);
        }
    }
}

fn data_volume_templates(spec: &Value, template: &Value, causes: &mut Causes) {
    let templates = list(spec, "dataVolumeTemplates");
    for (index, entry) in templates.iter().enumerate() {
        let field = format!("spec.dataVolumeTemplate[{index}]");
        let own = name(&entry["metadata"]);
        if own.is_empty() {
            let message =
                format!("'name' field must not be empty for DataVolumeTemplate entry {field}.");
            causes.add(format!("{field}.name"), message);
            continue;
        }
        let twin = templates[..index]
            .iter()
            .position(|one| name(&one["metadata"]) == own);
        if let Some(twin) = twin {
            let message =
                format!("spec.dataVolumeTemplate[{twin}] and {field} must not have the same Name.");
            causes.add(format!("{field}.name"), message);
        }
        let is_used = list(template, "volumes").iter().any(|volume| {
            volume["dataVolume"]["name"] == own
                || volume["persistentVolumeClaim"]["claimName"] == own
        });
        if !is_used {
            let message = format!(
                "DataVolumeTemplate entry {field} must be referenced in the VMI template's 'volumes' list"
            );
            causes.add(field, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "runStrategy": "Always",
            "dataVolumeTemplates": [{"metadata": {"name": "root"}, "spec": {}}],
            "template": {"spec": {
                "domain": {
                    "memory": {"guest": "4Gi"},
                    "devices": {
                        "disks": [{"name": "root", "disk": {"bus": "virtio"}}],
                        "interfaces": [{"name": "default", "bridge": {}}],
                    },
                },
                "networks": [{"name": "default", "pod": {}}],
                "volumes": [
                    {"name": "root", "dataVolume": {"name": "root"}},
                    {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "s"}}},
                ],
            }},
        })
    }

    #[test]
    fn a_good_machine_is_let_in() {
        assert_eq!(causes(&good()), []);
    }

    #[rstest]
    #[case::both("/running", json!(true), "mutually exclusive")]
    #[case::neither("/runStrategy", Value::Null, "RunStrategy must be specified")]
    #[case::unknown("/runStrategy", json!("Sometimes"), "Invalid RunStrategy (Sometimes)")]
    #[case::disk("/template/spec/domain/devices/disks/0/name", json!("x"), "'x' not found.")]
    #[case::interface("/template/spec/domain/devices/interfaces/0/name", json!("x"), "'x' not found.")]
    #[case::source("/template/spec/volumes/0/emptyDisk", json!({}), "exactly one source type set")]
    #[case::twins("/template/spec/volumes/1/name", json!("root"), "must not have the same Name")]
    #[case::large(
        "/template/spec/volumes/1/cloudInitNoCloud",
        json!({"userData": "x".repeat(2049)}),
        "userdata exceeds 2048 byte limit"
    )]
    #[case::no_data("/template/spec/volumes/1/cloudInitNoCloud", json!({}), "at least one userdatasource")]
    #[case::unused("/dataVolumeTemplates/0/metadata/name", json!("other"), "must be referenced")]
    #[case::no_memory("/template/spec/domain/memory", json!({}), "no memory requested")]
    #[case::eviction("/template/spec/evictionStrategy", json!("Later"), "unrecognized option: Later")]
    #[case::probe("/template/spec/readinessProbe", json!({"periodSeconds": 3}), "exactly one probe type")]
    fn what_kubevirt_refuses_is_refused(
        #[case] pointer: &str,
        #[case] value: Value,
        #[case] message: &str,
    ) {
        let mut spec = good();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        spec.pointer_mut(parent).expect("a parent")[key] = value;
        let causes = causes(&spec);
        let found = causes.iter().any(|cause| cause.message.contains(message));
        assert!(found, "{causes:?}");
    }

    #[test]
    fn an_instance_type_brings_the_memory() {
        let mut spec = good();
        spec["template"]["spec"]["domain"]["memory"] = Value::Null;
        spec["instancetype"] = json!({"name": "u1.small"});
        assert_eq!(causes(&spec), []);
    }
}
