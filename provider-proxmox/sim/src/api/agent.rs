//! The guest agent.

use crate::api::config::vm_here;
use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::world::World;

type Handled = Result<Answer, Refusal>;

/// Why no agent answers: not switched on, VM off, or nothing listens in the guest.
fn require_agent(world: &World, call: &Call) -> Result<(), Refusal> {
    let vm = vm_here(world, call)?;
    if !vm.agent_enabled() {
        return Err(Refusal::domain("No QEMU guest agent configured"));
    }
    if !vm.is_running() {
        return Err(Refusal::domain(format!("VM {} is not running", call.vmid)));
    }
    Err(Refusal::domain("QEMU guest agent is not running").after(world.delays.agent_ping))
}

pub(crate) fn ping(world: &mut World, call: &Call) -> Handled {
    require_agent(world, call)?;
    Ok(Answer::Data(serde_json::json!({ "result": {} })))
}

pub(crate) fn os_info(world: &mut World, call: &Call) -> Handled {
    ping(world, call)
}

pub(crate) fn interfaces(world: &mut World, call: &Call) -> Handled {
    ping(world, call)
}

pub(crate) fn exec(world: &mut World, call: &Call) -> Handled {
    ping(world, call)
}

pub(crate) fn exec_status(world: &mut World, call: &Call) -> Handled {
    ping(world, call)
}

pub(crate) fn file_read(world: &mut World, call: &Call) -> Handled {
    ping(world, call)
}
