//! `/nodes` and their state.

use serde_json::{Map, Value, json};

use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::builder::GIB;
use crate::world::vm::Vm;
use crate::world::{Health, Node, World};

/// A host's own disk.
const ROOT_DISK: u64 = 94 * GIB;

pub(crate) fn list(world: &mut World, call: &Call) -> Result<Answer, Refusal> {
    let world = &*world;
    let list = world.nodes.values().map(|node| {
        let mut entry = node_entry(world, node, &call.token);
        if let Value::Object(entry) = &mut entry {
            entry.insert(
                "ssl_fingerprint".into(),
                json!(world.fingerprint(&node.spec.name)),
            );
        }
        entry
    });
    Ok(Answer::Data(list.collect()))
}

/// A node in a list; without `Sys.Audit` on it only whether it is online.
pub(crate) fn node_entry(world: &World, node: &Node, token: &str) -> Value {
    let name = &node.spec.name;
    let online = node.health != Health::Offline;
    let mut entry = Map::new();
    entry.insert("id".into(), json!(format!("node/{name}")));
    entry.insert("type".into(), json!("node"));
    entry.insert("node".into(), json!(name));
    entry.insert(
        "status".into(),
        json!(if online { "online" } else { "offline" }),
    );
    if online && world.allows(token, &format!("/nodes/{name}"), "Sys.Audit") {
        entry.insert("level".into(), json!(""));
        entry.insert("maxcpu".into(), json!(node.spec.cpus));
        entry.insert("cpu".into(), json!(load(world, node)));
        entry.insert("maxmem".into(), json!(node.spec.memory));
        entry.insert("mem".into(), json!(world.memory_used(name)));
        entry.insert("maxdisk".into(), json!(ROOT_DISK));
        entry.insert("disk".into(), json!(ROOT_DISK / 10));
        entry.insert("uptime".into(), json!(world.elapsed().as_secs()));
    }
    Value::Object(entry)
}

/// The share of its CPUs that a node's VMs use, at a fiftieth of a CPU each.
fn load(world: &World, node: &Node) -> f64 {
    let here = |vm: &&Vm| vm.node == node.spec.name && vm.is_running();
    let running = u32::try_from(world.vms.values().filter(here).count()).unwrap_or(u32::MAX);
    (f64::from(running) / 50.0 / f64::from(node.spec.cpus.max(1))).min(1.0)
}

pub(crate) fn status(world: &mut World, call: &Call) -> Result<Answer, Refusal> {
    let Some(node) = world.nodes.get(&call.node) else {
        return Err(Refusal::domain(format!(
            "no such cluster node '{}'",
            call.node
        )));
    };
    let (total, used) = (node.spec.memory, world.memory_used(&call.node));
    let free = total - used;
    let load = format!("{:.2}", load(world, node) * f64::from(node.spec.cpus));
    Ok(Answer::Data(json!({
        "cpu": self::load(world, node),
        "cpuinfo": {
            "cpus": node.spec.cpus, "cores": node.spec.cpus / 2, "sockets": 1,
            "model": "Simulated CPU @ 3.00GHz", "mhz": "3000.000", "hvm": "1", "user_hz": 100,
            "flags": "fpu vme",
        },
        "memory": { "total": total, "used": used, "free": free, "available": free },
        "swap": { "total": 0, "used": 0, "free": 0 },
        "rootfs": {
            "total": ROOT_DISK, "used": ROOT_DISK / 10, "free": ROOT_DISK / 10 * 9,
            "avail": ROOT_DISK / 10 * 9,
        },
        "loadavg": [load, load, load],
        "uptime": world.elapsed().as_secs(),
        "wait": 0, "idle": 0,
        "pveversion": "pve-manager/9.1.1/42db4a6cf33dac83",
        "kversion": "Linux 6.17.2-1-pve #1 SMP PREEMPT_DYNAMIC",
        "current-kernel": {
            "sysname": "Linux", "release": "6.17.2-1-pve", "machine": "x86_64",
            "version": "#1 SMP PREEMPT_DYNAMIC",
        },
        "boot-info": { "mode": "efi", "secureboot": 0 },
    })))
}
