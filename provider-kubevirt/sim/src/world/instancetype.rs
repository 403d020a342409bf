//! Instance types and preferences: what they make of a VM's template.

use capi_testkit::actor::{Kind, Name, Object};
use serde_json::{Value, json};

use super::World;
use super::machine::Failure;
use crate::word::{CLUSTER_INSTANCETYPE, CLUSTER_PREFERENCE, INSTANCETYPE, PREFERENCE};

/// The template of a VM with its instance type and preference applied.
///
/// Of an instance type CPU, memory, GPUs, host devices and placement count, of a preference the
/// machine type and the preferred bus of disks.
pub(super) fn expand(world: &World, machine: &Object) -> Result<Value, Failure> {
    let mut template = machine
        .at("/spec/template")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if let Some(found) = find(
        world,
        machine,
        "instancetype",
        [&INSTANCETYPE, &CLUSTER_INSTANCETYPE],
    )? {
        apply_instancetype(
            &mut template["spec"],
            found.at("/spec").unwrap_or(&Value::Null),
        )?;
    }
    if let Some(found) = find(
        world,
        machine,
        "preference",
        [&PREFERENCE, &CLUSTER_PREFERENCE],
    )? {
        apply_preference(
            &mut template["spec"],
            found.at("/spec").unwrap_or(&Value::Null),
        );
    }
    Ok(template)
}

/// What a matcher of the VM names; by default the kind of the whole cluster.
fn find(
    world: &World,
    machine: &Object,
    field: &str,
    [namespaced, cluster]: [&'static Kind; 2],
) -> Result<Option<std::sync::Arc<Object>>, Failure> {
    let Some(name) = machine.word(&format!("/spec/{field}/name")) else {
        return Ok(None);
    };
    let asked = machine.word(&format!("/spec/{field}/kind"));
    let asked = asked.map(str::to_ascii_lowercase);
    let is_namespaced = asked.is_some_and(|kind| !kind.starts_with("virtualmachinecluster"));
    let (kind, name) = if is_namespaced {
        (namespaced, Name::new(machine.namespace(), name))
    } else {
        (cluster, Name::new("", name))
    };
    match world.hub.get(kind, &name) {
        Some(found) => Ok(Some(found)),
        None => Err(Failure {
            reason: if field == "instancetype" {
                "FailedFindInstancetype"
            } else {
                "FailedFindPreference"
            },
            message: format!("{} {:?} not found", kind.kind, name.name),
        }),
    }
}

fn apply_instancetype(spec: &mut Value, kind: &Value) -> Result<(), Failure> {
    let domain = &mut spec["domain"];
    let given = ["cpu", "memory"].into_iter().find(|part| {
        let fields: &[&str] = if *part == "cpu" {
            &["cores", "sockets", "threads"]
        } else {
            &["guest"]
        };
        fields.iter().any(|field| !domain[*part][*field].is_null())
    });
    if let Some(part) = given {
        return Err(Failure {
            reason: "FailedCreate",
            message: format!(
                "VM field(s) spec.template.spec.domain.{part} conflicts with selected instance type"
            ),
        });
    }
    domain["cpu"]["sockets"] = kind["cpu"]["guest"].clone();
    domain["cpu"]["cores"] = 1.into();
    domain["cpu"]["threads"] = 1.into();
    domain["memory"]["guest"] = kind["memory"]["guest"].clone();
    for part in ["gpus", "hostDevices"] {
        if !kind[part].is_null() {
            domain["devices"][part] = kind[part].clone();
        }
    }
    for part in ["nodeSelector", "schedulerName"] {
        if !kind[part].is_null() {
            spec[part] = kind[part].clone();
        }
    }
    Ok(())
}

fn apply_preference(spec: &mut Value, preference: &Value) {
    let machine = &preference["machine"]["preferredMachineType"];
    if spec["domain"]["machine"]["type"].is_null() && !machine.is_null() {
        spec["domain"]["machine"]["type"] = machine.clone();
    }
    let bus = &preference["devices"]["preferredDiskBus"];
    let disks = spec["domain"]["devices"]["disks"].as_array_mut();
    for disk in disks.into_iter().flatten() {
        if disk["disk"].is_object() && disk["disk"]["bus"].is_null() && !bus.is_null() {
            disk["disk"]["bus"] = bus.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_type_sets_cpu_and_memory_and_refuses_a_second_word() {
        let kind = json!({"cpu": {"guest": 4}, "memory": {"guest": "8Gi"}});
        let mut spec = json!({"domain": {"devices": {}}});
        apply_instancetype(&mut spec, &kind).expect("fits");
        assert_eq!(crate::hardware::cores(&spec), 4);
        assert_eq!(crate::hardware::memory(&spec), 8 << 30);
        let mut given = json!({"domain": {"cpu": {"cores": 2}}});
        let refused = apply_instancetype(&mut given, &kind).expect_err("is refused");
        assert!(
            refused.message.contains("domain.cpu conflicts"),
            "{refused:?}"
        );
    }
}
