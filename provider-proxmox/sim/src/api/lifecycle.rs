//! VMs: making, powering, moving, destroying.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::cluster::uptime;
use crate::api::config::{check_bridge, check_rights, unlocked_here, vm_here};
use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::property::Drive;
use crate::world::World;
use crate::world::make::CloneWork;
use crate::world::vm::{Power, Vm};
use crate::world::work::{Work, removable};

type Handled = Result<Answer, Refusal>;

fn fork(world: &mut World, call: &Call, work: Work) -> Handled {
    Ok(Answer::text(world.fork(&call.node, &call.token, work)))
}

pub(crate) fn list(world: &mut World, call: &Call) -> Handled {
    let visible = |vm: &&Vm| {
        vm.node == call.node && world.allows(&call.token, &format!("/vms/{}", vm.vmid), "VM.Audit")
    };
    let list = world
        .vms
        .values()
        .filter(visible)
        .map(|vm| status_of(world, vm));
    Ok(Answer::Data(list.collect()))
}

pub(crate) fn current(world: &mut World, call: &Call) -> Handled {
    let vm = vm_here(world, call)?;
    let Value::Object(mut data) = status_of(world, vm) else {
        return Ok(Answer::null());
    };
    let ha = match world.ha.get(&vm.vmid) {
        Some(resource) => json!({ "managed": 1, "state": resource.state }),
        None => json!({ "managed": 0 }),
    };
    data.insert("ha".into(), ha);
    if vm.agent_enabled() {
        data.insert("agent".into(), json!(1));
    }
    let running = match vm.power {
        Power::Stopped => "stopped",
        Power::Running { .. } => "running",
        Power::Paused { .. } => "paused",
    };
    data.insert("qmpstatus".into(), json!(running));
    if vm.is_running() {
        data.insert("running-machine".into(), json!("pc-i440fx-10.1+pve0"));
        data.insert("running-qemu".into(), json!("10.1.2"));
    }
    Ok(Answer::Data(Value::Object(data)))
}

fn status_of(world: &World, vm: &Vm) -> Value {
    let mut data = Map::new();
    data.insert("vmid".into(), json!(vm.vmid));
    let name = vm
        .get("name")
        .map_or_else(|| format!("VM {}", vm.vmid), str::to_owned);
    data.insert("name".into(), json!(name));
    data.insert(
        "status".into(),
        json!(if vm.is_running() {
            "running"
        } else {
            "stopped"
        }),
    );
    data.insert("cpus".into(), json!(vm.cpus()));
    data.insert(
        "cpu".into(),
        json!(if vm.is_running() { 0.02 } else { 0.0 }),
    );
    data.insert("maxmem".into(), json!(vm.memory()));
    data.insert(
        "mem".into(),
        json!(if vm.is_running() { vm.memory() / 2 } else { 0 }),
    );
    data.insert("maxdisk".into(), json!(vm.disk_size()));
    data.insert("uptime".into(), json!(uptime(world, vm)));
    for key in ["disk", "diskread", "diskwrite", "netin", "netout"] {
        data.insert(key.into(), json!(0));
    }
    for (key, value) in [("lock", vm.lock()), ("tags", vm.get("tags"))] {
        if let Some(value) = value {
            data.insert(key.into(), json!(value));
        }
    }
    if vm.is_template() {
        data.insert("template".into(), json!(1));
    }
    if let Power::Running { pid, .. } | Power::Paused { pid, .. } = vm.power {
        data.insert("pid".into(), json!(pid));
    }
    Value::Object(data)
}

pub(crate) fn snapshots(world: &mut World, call: &Call) -> Handled {
    let vm = vm_here(world, call)?;
    let mut list: Vec<_> = vm
        .snapshots
        .keys()
        .map(|name| json!({ "name": name }))
        .collect();
    list.push(json!({
        "name": "current", "description": "You are here!", "digest": vm.digest(),
        "running": u8::from(vm.is_running()),
    }));
    Ok(Answer::Data(Value::Array(list)))
}

/// Demands the right to make a VM: on its id, or on the pool that it goes into.
fn check_allocate(world: &World, call: &Call, vmid: u32) -> Result<(), Refusal> {
    let path = format!("/vms/{vmid}");
    if world.access.allows(&call.token, &path, None, "VM.Allocate") {
        return Ok(());
    }
    match call.params.get("pool") {
        Some(pool) => world.demand(&call.token, &format!("/pool/{pool}"), "VM.Allocate"),
        None => Err(Refusal::forbidden(&path, "VM.Allocate")),
    }
}

fn check_pool(world: &World, call: &Call) -> Result<(), Refusal> {
    match call.params.get("pool") {
        Some(pool) if !world.pools.contains_key(pool) => {
            Err(Refusal::domain(format!("pool '{pool}' does not exist")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks that a storage is there, switched on, and on the node.
fn check_storage(world: &World, storage: &str, node: &str) -> Result<(), Refusal> {
    let Some(known) = world.storages.get(storage) else {
        return Err(Refusal::domain(format!(
            "storage '{storage}' does not exist"
        )));
    };
    if !known.spec.enabled {
        return Err(Refusal::domain(format!("storage '{storage}' is disabled")));
    }
    if !known.is_on(node) {
        return Err(Refusal::domain(format!(
            "storage '{storage}' is not available on node '{node}'"
        )));
    }
    if !known.holds("images") {
        return Err(Refusal::domain(format!(
            "storage '{storage}' does not support vm images"
        )));
    }
    Ok(())
}

pub(crate) fn clone(world: &mut World, call: &Call) -> Handled {
    let newid: u32 = call.params.number("newid").unwrap_or_default();
    check_allocate(world, call, newid)?;
    check_pool(world, call)?;
    let target = call
        .params
        .owned("target")
        .filter(|target| *target != call.node);
    if let Some(target) = &target
        && !world.nodes.contains_key(target)
    {
        return Err(Refusal::domain(format!("no such cluster node '{target}'")));
    }
    let storage = call.params.owned("storage");
    if let Some(storage) = &storage {
        check_storage(world, storage, &call.node)?;
        let shared = world
            .storages
            .get(storage)
            .is_some_and(|known| known.spec.shared);
        if let Some(target) = &target {
            check_storage(world, storage, target)?;
            if !shared {
                let reason = format!("can't clone to non-shared storage '{storage}'");
                return Err(Refusal::domain(reason));
            }
        }
    }
    let vm = unlocked_here(world, call)?;
    if let Some(snapshot) = call.params.get("snapname")
        && !vm.snapshots.contains_key(snapshot)
    {
        return Err(Refusal::domain(format!(
            "snapshot '{snapshot}' does not exist"
        )));
    }
    let full = call
        .params
        .get("full")
        .map_or(!vm.is_template(), |_| call.params.flag("full"));
    check_form(call, vm, full)?;
    check_sources(world, call, vm, storage.as_deref(), target.as_deref())?;
    check_linked(world, vm, full)?;
    if world
        .vms
        .get(&newid)
        .is_some_and(|other| other.node == call.node)
    {
        let reason = format!("unable to create VM {newid}: config file already exists");
        return Err(Refusal::domain(reason));
    }
    let work = CloneWork {
        source: call.vmid,
        snapshot: call.params.owned("snapname"),
        full,
        newid,
        node: call.node.clone(),
        name: call.params.owned("name"),
        description: call
            .params
            .get("description")
            .map(|text| text.trim_end().to_owned()),
        pool: call.params.owned("pool"),
        storage,
        format: call.params.owned("format"),
        target,
    };
    fork(world, call, Work::Clone(Box::new(work)))
}

/// What only one way of cloning can do.
fn check_form(call: &Call, vm: &Vm, full: bool) -> Result<(), Refusal> {
    if full {
        return Ok(());
    }
    for name in ["storage", "format"] {
        if call.params.contains(name) {
            let reason = format!("parameter '{name}' not allowed for linked clones");
            return Err(Refusal::parameter(name, reason));
        }
    }
    if !vm.is_template() && !call.params.contains("snapname") {
        let file = vm
            .drives()
            .find(|(_, drive)| !drive.is_cdrom())
            .map(|(_, drive)| drive.file);
        let reason = format!(
            "Linked clone feature is not supported for drive '{}'",
            file.unwrap_or_default()
        );
        return Err(Refusal::domain(reason));
    }
    Ok(())
}

/// A linked clone needs a storage that can make one.
fn check_linked(world: &World, vm: &Vm, full: bool) -> Result<(), Refusal> {
    let unable = |drive: &Drive| {
        let storage = drive
            .storage()
            .and_then(|storage| world.storages.get(storage));
        // Thick LVM and iSCSI have no copy on write.
        storage.is_some_and(|storage| matches!(storage.spec.kind, "lvm" | "iscsi"))
    };
    for (key, drive) in vm.drives().filter(|(_, drive)| !drive.is_cdrom()) {
        if !full && unable(&drive) {
            let reason = format!("Linked clone feature is not supported for drive '{key}'");
            return Err(Refusal::domain(reason));
        }
    }
    Ok(())
}

/// Rights on the storages and bridges that the clone will use, and whether its disks can be read
/// where it goes.
fn check_sources(
    world: &World,
    call: &Call,
    vm: &Vm,
    storage: Option<&str>,
    target: Option<&str>,
) -> Result<(), Refusal> {
    let mut shared = true;
    for (_, drive) in vm.drives() {
        let Some(own) = drive.storage() else { continue };
        shared &= world
            .storages
            .get(own)
            .is_some_and(|known| known.spec.shared);
        if !drive.is_cdrom() {
            let place = format!("/storage/{}", storage.unwrap_or(own));
            world.demand(&call.token, &place, "Datastore.AllocateSpace")?;
        }
    }
    for (_, nic) in vm.nics() {
        check_bridge(world, &call.token, &nic)?;
    }
    match target {
        Some(target) if !shared => Err(Refusal::domain(format!(
            "can't clone VM to node '{target}' (VM uses local storage)"
        ))),
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn create(world: &mut World, call: &Call) -> Handled {
    const OPTIONS: [&str; 5] = ["vmid", "pool", "start", "storage", "unique"];
    let vmid: u32 = call.params.number("vmid").unwrap_or_default();
    check_allocate(world, call, vmid)?;
    check_pool(world, call)?;
    let set = call.params.iter().filter(|(key, _)| !OPTIONS.contains(key));
    let config: Vec<_> = set
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let changes: Vec<_> = config
        .iter()
        .map(|(key, value)| (key.clone(), Some(value.clone())))
        .collect();
    let mut blank = Vm::new(vmid, usize::MAX, &call.node);
    blank.pool = call.params.owned("pool");
    check_new_rights(world, call, &blank, &changes)?;
    if world.vms.contains_key(&vmid) {
        let reason = format!("unable to create VM {vmid}: config file already exists");
        return Err(Refusal::domain(reason));
    }
    let work = Work::Create {
        vmid,
        node: call.node.clone(),
        pool: call.params.owned("pool"),
        start: call.params.flag("start"),
        config,
    };
    fork(world, call, work)
}

/// For a new VM in a pool the rights on the pool count, and those on the VM can't exist yet.
fn check_new_rights(
    world: &World,
    call: &Call,
    blank: &Vm,
    changes: &[(String, Option<String>)],
) -> Result<(), Refusal> {
    let path = format!("/vms/{}", blank.vmid);
    let whole = world
        .access
        .allows(&call.token, &path, None, "VM.Config.Disk");
    if whole || blank.pool.is_none() {
        return check_rights(world, call, blank, changes);
    }
    let storages = changes
        .iter()
        .filter_map(|(_, value)| Drive::parse(value.as_deref()?).ok());
    for drive in storages.filter(|drive| drive.new_disk_gib().is_some()) {
        let place = format!("/storage/{}", drive.storage().unwrap_or_default());
        world.demand(&call.token, &place, "Datastore.AllocateSpace")?;
    }
    Ok(())
}

pub(crate) fn destroy(world: &mut World, call: &Call) -> Handled {
    let purge = call.params.flag("purge");
    let vm = vm_here(world, call)?;
    let managed = world.ha.contains_key(&call.vmid);
    removable(vm, managed, purge).map_err(Refusal::domain)?;
    fork(
        world,
        call,
        Work::Destroy {
            vmid: call.vmid,
            purge,
        },
    )
}

pub(crate) fn start(world: &mut World, call: &Call) -> Handled {
    let managed = world.ha.contains_key(&call.vmid);
    vm_here(world, call)?;
    let vmid = call.vmid;
    fork(
        world,
        call,
        if managed {
            Work::HaStart { vmid }
        } else {
            Work::Start { vmid }
        },
    )
}

pub(crate) fn stop(world: &mut World, call: &Call) -> Handled {
    let managed = world.ha.contains_key(&call.vmid);
    vm_here(world, call)?;
    let vmid = call.vmid;
    if managed {
        return fork(world, call, Work::HaStop { vmid });
    }
    if call.params.flag("overrule-shutdown") {
        let id = vmid.to_string();
        let running = world.tasks.newest().filter(|task| task.is_running());
        let meant = running.filter(|task| task.upid.kind == "qmshutdown" && task.upid.id == id);
        let upids: Vec<_> = meant.map(|task| task.upid.to_string()).collect();
        for upid in upids {
            world.abort(&upid, "received interrupt");
        }
    }
    fork(world, call, Work::Stop { vmid })
}

pub(crate) fn shutdown(world: &mut World, call: &Call) -> Handled {
    let managed = world.ha.contains_key(&call.vmid);
    let vm = vm_here(world, call)?;
    let paused = matches!(vm.power, Power::Paused { .. });
    let vmid = call.vmid;
    let forced = call.params.flag("forceStop");
    if paused && !forced {
        return Err(Refusal::domain("VM is paused - cannot shutdown"));
    }
    fork(
        world,
        call,
        match (managed, paused) {
            (true, _) => Work::HaStop { vmid },
            (false, true) => Work::Stop { vmid },
            (false, false) => Work::Shutdown { vmid },
        },
    )
}

pub(crate) fn reboot(world: &mut World, call: &Call) -> Handled {
    let vm = vm_here(world, call)?;
    match vm.power {
        Power::Stopped => Err(Refusal::domain(format!("VM {} not running", call.vmid))),
        Power::Paused { .. } => Err(Refusal::domain("VM is paused - cannot reboot")),
        Power::Running { .. } => fork(world, call, Work::Reboot { vmid: call.vmid }),
    }
}

pub(crate) fn resume(world: &mut World, call: &Call) -> Handled {
    require_running(world, call)?;
    fork(world, call, Work::Resume { vmid: call.vmid })
}

pub(crate) fn suspend(world: &mut World, call: &Call) -> Handled {
    require_running(world, call)?;
    fork(world, call, Work::Suspend { vmid: call.vmid })
}

fn require_running(world: &World, call: &Call) -> Result<(), Refusal> {
    let vm = vm_here(world, call)?;
    if vm.is_running() {
        Ok(())
    } else {
        Err(Refusal::domain(format!("VM {} not running", call.vmid)))
    }
}

pub(crate) fn make_template(world: &mut World, call: &Call) -> Handled {
    let vm = unlocked_here(world, call)?;
    if vm.is_running() {
        return Err(Refusal::domain(
            "you can't convert a VM to template if VM is running",
        ));
    }
    fork(world, call, Work::MakeTemplate { vmid: call.vmid })
}

pub(crate) fn migrate(world: &mut World, call: &Call) -> Handled {
    let target = call.params.owned("target").unwrap_or_default();
    if target == call.node {
        return Err(Refusal::parameter("target", "target is local node."));
    }
    if !world.nodes.contains_key(&target) {
        return Err(Refusal::domain(format!("no such cluster node '{target}'")));
    }
    let vm = unlocked_here(world, call)?;
    if vm.is_running() && !call.params.flag("online") {
        return Err(Refusal::domain("can't migrate running VM without --online"));
    }
    for (_, drive) in vm.drives().filter(|(_, drive)| drive.is_cdrom()) {
        let local = drive
            .storage()
            .and_then(|storage| world.storages.get(storage));
        if local.is_some_and(|storage| !storage.spec.shared) {
            return Err(Refusal::domain(
                "can't migrate VM which uses local devices: cdrom",
            ));
        }
    }
    fork(
        world,
        call,
        Work::Migrate {
            vmid: call.vmid,
            target,
        },
    )
}

/// How long a call waits for its task that asks for so many seconds.
pub(crate) fn patience(world: &World, call: &Call, name: &str) -> Duration {
    let seconds = call.params.number(name).unwrap_or(0);
    Duration::from_secs(seconds).div_f64(world.speed)
}
