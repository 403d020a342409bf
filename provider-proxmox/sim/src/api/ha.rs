//! High availability: which VMs the HA manager looks after.

use serde_json::{Value, json};

use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::world::work::Work;
use crate::world::{HaResource, World};

type Handled = Result<Answer, Refusal>;

/// The VMID of a resource id, `vm:100` or `100`.
fn vmid_of(sid: &str) -> Result<u32, Refusal> {
    let digits = sid.strip_prefix("vm:").unwrap_or(sid);
    digits
        .parse()
        .map_err(|_| Refusal::parameter("sid", "invalid format - unable to parse resource id"))
}

fn shown(vmid: u32, resource: &HaResource) -> Value {
    json!({
        "sid": format!("vm:{vmid}"), "type": "vm", "state": resource.state,
        "comment": resource.comment, "digest": "0000000000000000000000000000000000000000",
    })
}

pub(crate) fn list(world: &mut World, _: &Call) -> Handled {
    Ok(Answer::Data(
        world
            .ha
            .iter()
            .map(|(vmid, resource)| shown(*vmid, resource))
            .collect(),
    ))
}

pub(crate) fn read(world: &mut World, call: &Call) -> Handled {
    let vmid = vmid_of(&call.subject)?;
    let resource = world.ha.get(&vmid);
    let resource =
        resource.ok_or_else(|| Refusal::domain(format!("no such resource 'vm:{vmid}'")))?;
    Ok(Answer::Data(shown(vmid, resource)))
}

pub(crate) fn create(world: &mut World, call: &Call) -> Handled {
    let vmid = vmid_of(call.params.get("sid").unwrap_or_default())?;
    let Some(vm) = world.vms.get(&vmid) else {
        return Err(Refusal::domain(format!(
            "unable to add HA resource 'vm:{vmid}': no such VM"
        )));
    };
    let (node, running) = (vm.node.clone(), vm.is_running());
    if world.ha.contains_key(&vmid) {
        return Err(Refusal::domain(format!(
            "resource ID 'vm:{vmid}' already defined"
        )));
    }
    let state = call.params.get("state").unwrap_or("started").to_owned();
    let starts = matches!(state.as_str(), "started" | "enabled") && !running;
    world.ha.insert(
        vmid,
        HaResource {
            state,
            comment: call.params.owned("comment"),
        },
    );
    if starts {
        world.fork(&node, "root@pam", Work::Start { vmid });
    }
    Ok(Answer::null())
}

pub(crate) fn delete(world: &mut World, call: &Call) -> Handled {
    let vmid = vmid_of(&call.subject)?;
    match world.ha.remove(&vmid) {
        Some(_) => Ok(Answer::null()),
        None => Err(Refusal::domain(format!(
            "cannot delete service 'vm:{vmid}', not HA managed!"
        ))),
    }
}
