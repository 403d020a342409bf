//! `/version` and `/cluster`.

use serde_json::{Map, Value, json};

use crate::api::node::node_entry;
use crate::api::reply::Refusal;
use crate::api::storage::storage_entry;
use crate::api::{Answer, Call};
use crate::world::vm::{Power, Vm};
use crate::world::{Health, World};

type Handled = Result<Answer, Refusal>;

pub(crate) fn version(_: &mut World, _: &Call) -> Handled {
    Ok(Answer::Data(
        json!({ "version": "9.1.1", "release": "9.1", "repoid": "42db4a6cf33dac83" }),
    ))
}

pub(crate) fn status(world: &mut World, call: &Call) -> Handled {
    let mut list = vec![json!({
        "id": "cluster", "type": "cluster", "name": world.name, "version": 3,
        "nodes": world.nodes.len(), "quorate": u8::from(world.quorate),
    })];
    for node in world.nodes.values() {
        list.push(json!({
            "id": format!("node/{}", node.spec.name), "type": "node", "name": node.spec.name,
            "nodeid": node.id, "ip": format!("192.0.2.{}", node.id), "level": "",
            "local": u8::from(node.spec.name == call.entry),
            "online": u8::from(node.health != Health::Offline),
        }));
    }
    Ok(Answer::Data(Value::Array(list)))
}

pub(crate) fn next_id(world: &mut World, call: &Call) -> Handled {
    if let Some(vmid) = call.params.get("vmid") {
        let taken = vmid
            .parse()
            .is_ok_and(|vmid: u32| world.vms.contains_key(&vmid));
        if taken {
            return Err(Refusal::parameter(
                "vmid",
                format!("VM {vmid} already exists"),
            ));
        }
        return Ok(Answer::text(vmid));
    }
    match world.free_vmid() {
        Some(vmid) => Ok(Answer::text(vmid.to_string())),
        None => Err(Refusal::domain(format!(
            "unable to get any free VMID in range [{}, {}]",
            world.next_id.0,
            world.next_id.1 - 1
        ))),
    }
}

pub(crate) fn resources(world: &mut World, call: &Call) -> Handled {
    let wanted = call.params.get("type");
    let wants = |kind: &str| wanted.is_none_or(|wanted| wanted == kind);
    let mut list = Vec::new();
    if wanted.is_none() {
        let visible =
            |pool: &&String| world.allows(&call.token, &format!("/pool/{pool}"), "Pool.Audit");
        list.extend(
            world
                .pools
                .keys()
                .filter(visible)
                .map(|pool| json!({ "id": format!("/pool/{pool}"), "type": "pool", "pool": pool })),
        );
    }
    if wants("vm") {
        let visible =
            |vm: &&Vm| world.allows(&call.token, &format!("/vms/{}", vm.vmid), "VM.Audit");
        list.extend(
            world
                .vms
                .values()
                .filter(visible)
                .map(|vm| vm_entry(world, vm)),
        );
    }
    if wants("node") {
        list.extend(
            world
                .nodes
                .values()
                .map(|node| node_entry(world, node, &call.token)),
        );
    }
    if wants("storage") {
        for node in world.nodes.keys() {
            let storages = world
                .storages
                .values()
                .filter(|storage| storage.is_on(node));
            list.extend(
                storages.filter_map(|storage| storage_entry(world, storage, node, &call.token)),
            );
        }
    }
    if wants("sdn") && world.allows(&call.token, "/sdn/zones/localnetwork", "SDN.Audit") {
        list.extend(world.nodes.keys().map(|node| {
            json!({
                "id": format!("sdn/{node}/localnetwork"), "type": "sdn", "sdn": "localnetwork",
                "node": node, "status": "ok",
            })
        }));
    }
    Ok(Answer::Data(Value::Array(list)))
}

/// A VM in the list: where it is, its tags and its lock as they are; the rest as last broadcast.
fn vm_entry(world: &World, vm: &Vm) -> Value {
    let mut entry = Map::new();
    let vmid = vm.vmid;
    entry.insert("id".into(), json!(format!("qemu/{vmid}")));
    entry.insert("type".into(), json!("qemu"));
    entry.insert("vmid".into(), json!(vmid));
    entry.insert("node".into(), json!(vm.node));
    entry.insert("template".into(), json!(u8::from(vm.is_template())));
    for (key, value) in [
        ("tags", vm.get("tags")),
        ("lock", vm.lock()),
        ("pool", vm.pool.as_deref()),
    ] {
        if let Some(value) = value {
            entry.insert(key.into(), json!(value));
        }
    }
    if let Some(resource) = world.ha.get(&vmid) {
        entry.insert("hastate".into(), json!(resource.state));
    }
    let offline = world
        .nodes
        .get(&vm.node)
        .is_none_or(|node| node.health == Health::Offline);
    match world.broadcast(vm).filter(|_| !offline) {
        None => {
            entry.insert("status".into(), json!("unknown"));
        }
        Some(known) => {
            let name = known.name.unwrap_or_else(|| format!("VM {vmid}"));
            entry.insert("name".into(), json!(name));
            entry.insert(
                "status".into(),
                json!(if known.running { "running" } else { "stopped" }),
            );
            entry.insert("maxmem".into(), json!(vm.memory()));
            entry.insert(
                "mem".into(),
                json!(if known.running { vm.memory() / 2 } else { 0 }),
            );
            entry.insert("maxcpu".into(), json!(vm.cpus()));
            entry.insert("cpu".into(), json!(if known.running { 0.02 } else { 0.0 }));
            entry.insert("maxdisk".into(), json!(vm.disk_size()));
            entry.insert("disk".into(), json!(0));
            entry.insert("uptime".into(), json!(uptime(world, vm)));
        }
    }
    Value::Object(entry)
}

/// Seconds since the VM's start.
pub(crate) fn uptime(world: &World, vm: &Vm) -> u64 {
    match vm.power {
        Power::Stopped => 0,
        Power::Running { since, .. } | Power::Paused { since, .. } => {
            world.now.duration_since(since).as_secs()
        }
    }
}
