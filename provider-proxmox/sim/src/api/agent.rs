//! The guest agent.

use capi_testkit::guest::{Agent, Interface};
use serde_json::{Value, json};

use crate::api::config::vm_here;
use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::world::World;
use crate::world::vm::Power;

type Handled = Result<Answer, Refusal>;

/// Most that `file-read` gives, in bytes.
const FILE_MAX: usize = 16 << 20;

/// Most that `input-data` may be, in bytes.
const INPUT_MAX: usize = 64 << 10;

/// The birth of a VM whose agent answers, or why none does: not switched on, VM off, or nothing
/// listens in the guest.
fn answering(world: &World, call: &Call) -> Result<usize, Refusal> {
    let vm = vm_here(world, call)?;
    if !vm.agent_enabled() {
        return Err(Refusal::domain("No QEMU guest agent configured"));
    }
    let silent =
        || Refusal::domain("QEMU guest agent is not running").after(world.delays.agent_ping);
    match vm.power {
        Power::Stopped => Err(Refusal::domain(format!("VM {} is not running", call.vmid))),
        Power::Paused { .. } => Err(silent()),
        Power::Running { .. } => world
            .guests
            .agent(vm.birth)
            .map(|_| vm.birth)
            .ok_or_else(silent),
    }
}

fn ask(world: &World, call: &Call, what: impl FnOnce(Agent<'_>) -> Value) -> Handled {
    let birth = answering(world, call)?;
    let result = world.guests.agent(birth).map(what).unwrap_or(Value::Null);
    Ok(Answer::Data(json!({ "result": result })))
}

pub(crate) fn ping(world: &mut World, call: &Call) -> Handled {
    ask(world, call, |_| json!({}))
}

pub(crate) fn os_info(world: &mut World, call: &Call) -> Handled {
    ask(world, call, |agent| {
        let info = agent.os_info();
        json!({
            "id": info.id, "name": info.name, "pretty-name": info.pretty_name,
            "version-id": info.version_id, "kernel-release": info.kernel_release,
            "machine": info.machine,
        })
    })
}

pub(crate) fn interfaces(world: &mut World, call: &Call) -> Handled {
    ask(world, call, |agent| {
        agent.interfaces().iter().map(interface).collect()
    })
}

fn interface(interface: &Interface) -> Value {
    let addresses = interface.addresses.iter().map(|held| {
        json!({
            "ip-address": held.address.to_string(),
            "ip-address-type": if held.address.is_ipv4() { "ipv4" } else { "ipv6" },
            "prefix": held.prefix,
        })
    });
    let counters = [
        "rx-bytes",
        "rx-dropped",
        "rx-errs",
        "rx-packets",
        "tx-bytes",
        "tx-dropped",
        "tx-errs",
        "tx-packets",
    ];
    let counters = counters.into_iter().map(|name| (name.to_owned(), json!(0)));
    json!({
        "name": interface.name,
        "hardware-address": interface.mac.to_string(),
        "ip-addresses": addresses.collect::<Vec<_>>(),
        "statistics": counters.collect::<serde_json::Map<_, _>>(),
    })
}

pub(crate) fn exec(world: &mut World, call: &Call) -> Handled {
    if call
        .params
        .get("input-data")
        .is_some_and(|input| input.len() > INPUT_MAX)
    {
        let reason = format!("value may only be {INPUT_MAX} characters long");
        return Err(Refusal::parameter("input-data", reason));
    }
    let birth = answering(world, call)?;
    let command: Vec<_> = call
        .params
        .all("command")
        .iter()
        .map(String::as_str)
        .collect();
    let pid = world.guests.execute(birth, &command);
    Ok(Answer::Data(json!({ "pid": pid })))
}

pub(crate) fn exec_status(world: &mut World, call: &Call) -> Handled {
    let birth = answering(world, call)?;
    let pid = call.params.number("pid").unwrap_or_default();
    let Some(executed) = world.guests.executed(birth, pid) else {
        return Err(Refusal::domain(format!(
            "Agent error: PID {pid} does not exist"
        )));
    };
    let mut data = json!({ "exited": 1, "exitcode": executed.code });
    for (key, text) in [("out-data", executed.out), ("err-data", executed.err)] {
        if !text.is_empty() {
            data[key] = json!(code_points(text.as_bytes()));
        }
    }
    Ok(Answer::Data(data))
}

pub(crate) fn file_read(world: &mut World, call: &Call) -> Handled {
    let birth = answering(world, call)?;
    let path = call.params.get("file").unwrap_or_default();
    let read = world
        .guests
        .agent(birth)
        .and_then(|agent| agent.read_file(path).ok());
    let Some(bytes) = read else {
        return Err(Refusal::domain(format!(
            "Agent error: failed to open file '{path}' (mode: 'r'): No such file or directory"
        )));
    };
    let shown = &bytes[..bytes.len().min(FILE_MAX)];
    let mut data = json!({ "content": code_points(shown), "bytes-read": shown.len() });
    if shown.len() < bytes.len() {
        data["truncated"] = json!(1);
    }
    Ok(Answer::Data(data))
}

/// Bytes as the server sends them: one code point each, whatever they encode.
fn code_points(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
