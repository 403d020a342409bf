//! A VM's configuration: reading, changing, resizing disks.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::reply::Refusal;
use crate::api::schema::{Kind, boolean};
use crate::api::{Answer, Call};
use crate::property::{Drive, Nic, Property, is_drive, is_index, parse_size};
use crate::world::World;
use crate::world::vm::Vm;
use crate::world::work::Work;

type Handled = Result<Answer, Refusal>;

/// Any of these opens the call; each key then needs its own.
pub(crate) const PRIVILEGES: [&str; 8] = [
    "VM.Config.Disk",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.HWType",
    "VM.Config.Options",
    "VM.Config.Cloudinit",
];

/// Longest description, in bytes.
const DESCRIPTION_MAX: usize = 8192;

/// The group of keys that share a privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Disk,
    Cpu,
    Memory,
    Network,
    Hardware,
    Options,
    CloudInit,
    Root,
}

fn group(key: &str) -> Option<Group> {
    let numbered = |prefix: &str, last: u32| {
        key.strip_prefix(prefix)
            .is_some_and(|rest| is_index(rest, last))
    };
    Some(match key {
        "cores" | "cpu" | "cpulimit" | "cpuunits" | "numa" | "sockets" | "vcpus" | "affinity" => {
            Group::Cpu
        }
        "memory" | "balloon" | "shares" => Group::Memory,
        "boot" | "bootdisk" | "vmstatestorage" => Group::Disk,
        "acpi" | "hotplug" | "kvm" | "machine" | "scsihw" | "smbios1" | "tablet" | "vga"
        | "watchdog" | "audio0" | "rng0" | "vmgenid" => Group::Hardware,
        "agent" | "autostart" | "bios" | "description" | "freeze" | "keyboard" | "localtime"
        | "name" | "onboot" | "ostype" | "protection" | "reboot" | "startdate" | "startup"
        | "tags" | "tdf" | "template" => Group::Options,
        "cicustom" | "cipassword" | "citype" | "ciupgrade" | "ciuser" | "nameserver"
        | "searchdomain" | "sshkeys" => Group::CloudInit,
        "args" | "hookscript" | "lock" => Group::Root,
        _ if is_drive(key) || numbered("unused", 255) => Group::Disk,
        _ if numbered("net", 31) => Group::Network,
        _ if numbered("ipconfig", 31) => Group::CloudInit,
        _ if numbered("serial", 3) || numbered("numa", 7) => Group::Hardware,
        _ if numbered("hostpci", 15) || numbered("usb", 13) => Group::Hardware,
        _ => return None,
    })
}

/// Whether a key is one of a VM's configuration, and what is wrong with its value.
pub(crate) fn check_key(key: &str, value: &str) -> Option<Result<(), String>> {
    group(key)?;
    Some(check_value(key, value))
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    match key {
        "cores" | "sockets" => Kind::Integer(1, 1024).check(value),
        "vcpus" => Kind::Integer(1, i64::MAX).check(value),
        "memory" => check_memory(value),
        "balloon" | "shares" => Kind::Integer(0, i64::MAX).check(value),
        "cpulimit" => Kind::Number.check(value),
        "cpuunits" => Kind::Integer(1, 262_144).check(value),
        "acpi" | "autostart" | "kvm" | "localtime" | "numa" | "onboot" | "protection"
        | "reboot" | "tablet" | "template" | "ciupgrade" | "freeze" => Kind::Boolean.check(value),
        "name" => crate::api::schema::DNS_NAME.check(value),
        "description" if value.len() > DESCRIPTION_MAX => Err(format!(
            "value may only be {DESCRIPTION_MAX} characters long"
        )),
        "tags" => tags(value).map(|_| ()),
        "boot" => check_boot(value),
        "smbios1" => check_smbios(value),
        "agent" => check_agent(value),
        "bios" => Kind::OneOf(&["seabios", "ovmf"]).check(value),
        "citype" => Kind::OneOf(&["configdrive2", "nocloud", "opennebula"]).check(value),
        _ if is_drive(key) => check_drive(value),
        _ if key.starts_with("net") => Nic::parse(value)
            .map(|_| ())
            .map_err(|reason| format!("invalid format - format error\n{reason}\n")),
        _ => Ok(()),
    }
}

fn check_memory(value: &str) -> Result<(), String> {
    let plain = value.strip_prefix("current=").unwrap_or(value);
    Kind::Integer(16, 4_178_944).check(plain)
}

fn check_drive(value: &str) -> Result<(), String> {
    let invalid = |reason| format!("invalid format - format error\n{reason}\n");
    let drive = Drive::parse(value).map_err(invalid)?;
    if drive.file.contains(":iso/") && !drive.is_cdrom() {
        return Err("explicit 'media=cdrom' is required for iso images".into());
    }
    if drive.rest.get("import-from").is_some() && drive.new_disk_gib() != Some(0.0) {
        return Err(
            "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>"
                .into(),
        );
    }
    Ok(())
}

/// Tags as they are stored: lower case, sorted, each once, joined by semicolons.
fn tags(value: &str) -> Result<String, String> {
    let split = |c: char| matches!(c, ';' | ',' | ' ' | '\0');
    let mut tags: Vec<_> = value.split(split).map(str::to_lowercase).collect();
    tags.retain(|tag| !tag.is_empty());
    tags.sort();
    tags.dedup();
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fits =
        |tag: &String| tag.starts_with(first) && tag.chars().all(|c| first(c) || "-+.".contains(c));
    if tags.iter().all(fits) {
        Ok(tags.join(";"))
    } else {
        Err("invalid format - invalid characters in tag\n".into())
    }
}

fn boot_devices(value: &str) -> Option<Vec<&str>> {
    let order = value.strip_prefix("order=")?;
    Some(
        order
            .split([';', ' '])
            .filter(|device| !device.is_empty())
            .collect(),
    )
}

fn check_boot(value: &str) -> Result<(), String> {
    let legacy = value.strip_prefix("legacy=").unwrap_or(value);
    let short = (1..=4).contains(&legacy.len()) && legacy.chars().all(|c| "acdn".contains(c));
    let bootable = |device: &&str| {
        is_drive(device)
            || device
                .strip_prefix("net")
                .is_some_and(|rest| is_index(rest, 31))
            || device.starts_with("usb")
            || device.starts_with("hostpci")
    };
    let order = boot_devices(value).is_some_and(|devices| devices.iter().all(bootable));
    if short || order {
        Ok(())
    } else {
        Err("invalid format - format error\norder: invalid format - invalid boot device\n".into())
    }
}

fn check_smbios(value: &str) -> Result<(), String> {
    const KEYS: [&str; 8] = [
        "base64",
        "family",
        "manufacturer",
        "product",
        "serial",
        "sku",
        "uuid",
        "version",
    ];
    let property = Property::parse(value)?;
    for (key, value) in &property.pairs {
        if !KEYS.contains(&key.as_str()) {
            return Err(format!(
                "invalid format - format error\n{key}: property is not defined in schema and the schema does not allow additional properties\n"
            ));
        }
        if key == "uuid" && uuid::Uuid::try_parse(value).is_err() {
            return Err(
                "invalid format - format error\nuuid: value does not match the regex pattern\n"
                    .into(),
            );
        }
    }
    Ok(())
}

fn check_agent(value: &str) -> Result<(), String> {
    const KEYS: [&str; 5] = [
        "enabled",
        "freeze-fs",
        "freeze-fs-on-backup",
        "fstrim_cloned_disks",
        "type",
    ];
    let property = Property::parse(value)?;
    let known = property
        .pairs
        .iter()
        .all(|(key, _)| KEYS.contains(&key.as_str()));
    let enabled = property.bare.as_deref().or_else(|| property.get("enabled"));
    if known && enabled.and_then(boolean).is_some() {
        Ok(())
    } else {
        Err(
            "invalid format - format error\nenabled: property is missing and it is not optional\n"
                .into(),
        )
    }
}

/// A drive's key as parameter.
pub(crate) fn drive_key(value: &str) -> Result<(), String> {
    if is_drive(value) {
        Ok(())
    } else {
        Err(format!(
            "value '{value}' does not have a value in the enumeration 'ide0, ide1, ide2, ide3, scsi0, ..., virtio15, efidisk0, tpmstate0'"
        ))
    }
}

/// A size, or what to add to one: `+?N[.N][KMGT]`.
pub(crate) fn size_change(value: &str) -> Result<(), String> {
    match parse_size(value.strip_prefix('+').unwrap_or(value)) {
        Some(_) => Ok(()),
        None => Err("value does not match the regex pattern".into()),
    }
}

/// The VM that a call is about, if it is on the call's node.
pub(crate) fn vm_here<'a>(world: &'a World, call: &Call) -> Result<&'a Vm, Refusal> {
    world
        .vms
        .get(&call.vmid)
        .filter(|vm| vm.node == call.node)
        .ok_or_else(|| {
            Refusal::domain(format!(
                "Configuration file 'nodes/{}/qemu-server/{}.conf' does not exist",
                call.node, call.vmid
            ))
        })
}

/// The same, if no lock is on it.
pub(crate) fn unlocked_here<'a>(world: &'a World, call: &Call) -> Result<&'a Vm, Refusal> {
    let vm = vm_here(world, call)?;
    match vm.lock() {
        Some(lock) => Err(Refusal::domain(format!("VM is locked ({lock})"))),
        None => Ok(vm),
    }
}

/// A value in an answer: numbers where the schema says integer or boolean, else strings; memory
/// is a string since it became a property string.
fn shown(key: &str, value: &str) -> Value {
    const NUMBERS: [&str; 17] = [
        "acpi",
        "autostart",
        "balloon",
        "ciupgrade",
        "cores",
        "cpulimit",
        "cpuunits",
        "kvm",
        "numa",
        "onboot",
        "protection",
        "reboot",
        "shares",
        "sockets",
        "tablet",
        "template",
        "vcpus",
    ];
    match value.parse::<i64>() {
        Ok(number) if NUMBERS.contains(&key) => json!(number),
        _ => json!(value),
    }
}

pub(crate) fn read(world: &mut World, call: &Call) -> Handled {
    let vm = vm_here(world, call)?;
    if let Some(snapshot) = call.params.get("snapshot")
        && !vm.snapshots.contains_key(snapshot)
    {
        return Err(Refusal::domain(format!(
            "snapshot '{snapshot}' does not exist"
        )));
    }
    let config: BTreeMap<_, _> = if call.params.flag("current") {
        vm.config.clone()
    } else {
        vm.with_pending()
    };
    let mut data: Map<String, Value> = config
        .iter()
        .map(|(key, value)| (key.clone(), shown(key, value)))
        .collect();
    data.insert("digest".into(), json!(vm.digest()));
    Ok(Answer::Data(Value::Object(data)))
}

pub(crate) fn pending(world: &mut World, call: &Call) -> Handled {
    let vm = vm_here(world, call)?;
    let mut keys: Vec<_> = vm.config.keys().chain(vm.pending.keys()).collect();
    keys.sort();
    keys.dedup();
    let list = keys.into_iter().map(|key| {
        let mut entry = Map::new();
        entry.insert("key".into(), json!(key));
        if let Some(value) = vm.get(key) {
            entry.insert("value".into(), shown(key, value));
        }
        match vm.pending.get(key) {
            Some(Some(value)) => entry.insert("pending".into(), shown(key, value)),
            Some(None) => entry.insert("delete".into(), json!(1)),
            None => None,
        };
        Value::Object(entry)
    });
    Ok(Answer::Data(list.collect()))
}

pub(crate) fn update(world: &mut World, call: &Call) -> Handled {
    let changes = plan(world, call)?;
    let work = Work::Config {
        vmid: call.vmid,
        changes,
    };
    let upid = world.fork(&call.node, &call.token, work);
    let seconds = call.params.number("background_delay").unwrap_or(0);
    let failure = format!("failed to update VM {}: ", call.vmid);
    Ok(Answer::Task {
        upid,
        at_most: Duration::from_secs(seconds).div_f64(world.speed),
        failure,
    })
}

pub(crate) fn update_now(world: &mut World, call: &Call) -> Handled {
    let changes = plan(world, call)?;
    let work = Work::Config {
        vmid: call.vmid,
        changes,
    };
    if !world.is_lockable(&work) {
        let timeout = world.delays.lock_timeout;
        return Err(Refusal::domain(work.lock_message()).after(timeout));
    }
    if let Work::Config { vmid, changes } = &work {
        world
            .change_config(*vmid, changes)
            .map_err(Refusal::domain)?;
    }
    Ok(Answer::After(world.delays.config, Value::Null))
}

/// Checks a change of configuration, and says what it sets and deletes.
fn plan(world: &World, call: &Call) -> Result<Vec<(String, Option<String>)>, Refusal> {
    const OPTIONS: [&str; 7] = [
        "digest",
        "skiplock",
        "delete",
        "revert",
        "force",
        "background_delay",
        "import-working-storage",
    ];
    if call.params.flag("skiplock") {
        return Err(Refusal::parameter(
            "skiplock",
            "Only root may use this option.",
        ));
    }
    let vm = vm_here(world, call)?;
    let split = |name: &str| -> Vec<String> {
        let values = call.params.all(name).iter();
        let parts = values.flat_map(|value| value.split([',', ';', ' ']));
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (deleted, reverted) = (split("delete"), split("revert"));
    let mut changes = Vec::new();
    for key in &deleted {
        if group(key).is_none() {
            return Err(Refusal::parameter(
                "delete",
                format!("unknown option '{key}'"),
            ));
        }
        if call.params.contains(key) {
            let reason = format!("you can't use '-{key}' and -delete {key}' at the same time");
            return Err(Refusal::parameter("delete", reason));
        }
        changes.push((key.clone(), None));
    }
    for key in &reverted {
        changes.push((key.clone(), vm.get(key).map(str::to_owned)));
    }
    let set = call.params.iter().filter(|(key, _)| !OPTIONS.contains(key));
    changes.extend(set.map(|(key, value)| (key.to_owned(), Some(stored(key, value)))));
    check_rights(world, call, vm, &changes)?;
    if let Some(digest) = call.params.get("digest")
        && digest != vm.digest()
    {
        return Err(Refusal::domain(
            "checksum mismatch (file change by other user?)",
        ));
    }
    let vm = unlocked_here(world, call)?;
    check_devices(vm, &changes)?;
    Ok(changes)
}

/// A value as it is written into the file.
fn stored(key: &str, value: &str) -> String {
    match key {
        "tags" => tags(value).unwrap_or_else(|_| value.to_owned()),
        "description" => value.trim_end().to_owned(),
        "memory" => value.strip_prefix("current=").unwrap_or(value).to_owned(),
        "onboot" | "protection" | "template" | "numa" | "acpi" | "kvm" | "tablet" | "ciupgrade" => {
            u8::from(boolean(value).unwrap_or_default()).to_string()
        }
        _ => value.to_owned(),
    }
}

/// A boot order names only what is there.
fn check_devices(vm: &Vm, changes: &[(String, Option<String>)]) -> Result<(), Refusal> {
    let boot = changes
        .iter()
        .find(|(key, _)| key == "boot")
        .and_then(|(_, value)| value.as_deref());
    for device in boot.and_then(boot_devices).unwrap_or_default() {
        let changed = changes
            .iter()
            .rfind(|(key, _)| key == device)
            .map(|(_, value)| value.is_some());
        let known = vm.with_pending().contains_key(device);
        if !changed.unwrap_or(known) {
            return Err(Refusal::domain(format!(
                "invalid bootorder: device '{device}' does not exist'"
            )));
        }
    }
    Ok(())
}

/// Demands the privileges that each changed key needs.
pub(crate) fn check_rights(
    world: &World,
    call: &Call,
    vm: &Vm,
    changes: &[(String, Option<String>)],
) -> Result<(), Refusal> {
    let path = format!("/vms/{}", vm.vmid);
    for (key, value) in changes {
        let value = value.as_deref();
        let Some(group) = group(key) else { continue };
        match group {
            Group::Disk => check_disk_rights(world, call, vm, key, value)?,
            Group::Cpu => world.demand(&call.token, &path, "VM.Config.CPU")?,
            Group::Memory => world.demand(&call.token, &path, "VM.Config.Memory")?,
            Group::Network => {
                world.demand(&call.token, &path, "VM.Config.Network")?;
                if let Some(nic) = value.and_then(|value| Nic::parse(value).ok()) {
                    check_bridge(world, &call.token, &nic)?;
                }
            }
            Group::Hardware => world.demand(&call.token, &path, "VM.Config.HWType")?,
            Group::Options => world.demand(&call.token, &path, "VM.Config.Options")?,
            Group::CloudInit => world.demand_any(
                &call.token,
                &path,
                &["VM.Config.Cloudinit", "VM.Config.Network"],
            )?,
            Group::Root => {
                return Err(Refusal::new(
                    500,
                    format!("only root can set '{key}' config"),
                ));
            }
        }
    }
    Ok(())
}

fn check_disk_rights(
    world: &World,
    call: &Call,
    vm: &Vm,
    key: &str,
    value: Option<&str>,
) -> Result<(), Refusal> {
    let path = format!("/vms/{}", vm.vmid);
    let text = value.or_else(|| vm.get(key));
    let drive = is_drive(key)
        .then(|| text.and_then(|text| Drive::parse(text).ok()))
        .flatten();
    let Some(drive) = drive else {
        return world.demand(&call.token, &path, "VM.Config.Disk");
    };
    let privilege = if drive.is_cdrom() {
        "VM.Config.CDROM"
    } else {
        "VM.Config.Disk"
    };
    world.demand(&call.token, &path, privilege)?;
    let (Some(_), Some(storage)) = (value, drive.storage()) else {
        return Ok(());
    };
    let place = format!("/storage/{storage}");
    let Some(known) = world.storages.get(storage) else {
        return Err(Refusal::domain(format!(
            "storage '{storage}' does not exist"
        )));
    };
    if drive.is_cdrom() {
        return world.demand_any(
            &call.token,
            &place,
            &[
                "Datastore.AllocateSpace",
                "Datastore.AllocateTemplate",
                "Datastore.Audit",
            ],
        );
    }
    if drive.new_disk_gib().is_some() {
        world.demand(&call.token, &place, "Datastore.AllocateSpace")?;
        if !known.holds("images") {
            let reason = format!("storage '{storage}' does not support vm images");
            return Err(Refusal::parameter("storage", reason));
        }
        return Ok(());
    }
    let owner = world
        .volume(&vm.node, &drive.file)
        .and_then(|volume| volume.vmid);
    if owner == Some(vm.vmid) {
        Ok(())
    } else {
        world.demand(&call.token, &place, "Datastore.Allocate")
    }
}

/// Demands that a token may use a bridge, and the VLAN on it.
pub(crate) fn check_bridge(world: &World, token: &str, nic: &Nic) -> Result<(), Refusal> {
    let Some(bridge) = nic.bridge() else {
        return Ok(());
    };
    let path = match nic.rest.get("tag") {
        Some(tag) => format!("/sdn/zones/localnetwork/{bridge}/{tag}"),
        None => format!("/sdn/zones/localnetwork/{bridge}"),
    };
    world.demand(token, &path, "SDN.Use")
}

pub(crate) fn resize(world: &mut World, call: &Call) -> Handled {
    let vm = vm_here(world, call)?;
    if let Some(digest) = call.params.get("digest")
        && digest != vm.digest()
    {
        return Err(Refusal::domain(
            "checksum mismatch (file change by other user?)",
        ));
    }
    let vm = unlocked_here(world, call)?;
    let disk = call.params.owned("disk").unwrap_or_default();
    let Some(drive) = vm.get(&disk).and_then(|text| Drive::parse(text).ok()) else {
        return Err(Refusal::domain(format!("disk '{disk}' does not exist")));
    };
    if drive.is_cdrom() {
        return Err(Refusal::domain("you can't resize a cdrom"));
    }
    let storage = format!("/storage/{}", drive.storage().unwrap_or_default());
    world.demand(&call.token, &storage, "Datastore.AllocateSpace")?;
    let text = call.params.get("size").unwrap_or_default();
    let old = drive.size().unwrap_or_default();
    let size = match text.strip_prefix('+') {
        Some(more) => old + parse_size(more).unwrap_or_default(),
        None => parse_size(text).unwrap_or_default(),
    };
    if size < old {
        return Err(Refusal::domain("shrinking disks is not supported"));
    }
    let upid = world.fork(
        &call.node,
        &call.token,
        Work::Resize {
            vmid: call.vmid,
            disk,
            size,
        },
    );
    Ok(Answer::text(upid))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("B;a, c b", Ok("a;b;c"))]
    #[case("", Ok(""))]
    #[case("-x", Err(()))]
    #[case("a/b", Err(()))]
    fn tags_are_normalised(#[case] given: &str, #[case] kept: Result<&str, ()>) {
        assert_eq!(tags(given).map_err(drop), kept.map(str::to_owned));
    }

    #[rstest]
    #[case("memory", "8", "value must have a minimum value of 16")]
    #[case("cores", "0", "value must have a minimum value of 1")]
    #[case(
        "net0",
        "bridge=vmbr0",
        "invalid format - format error\nmodel: property is missing"
    )]
    #[case("ide0", "local:iso/a.iso", "explicit 'media=cdrom' is required")]
    #[case(
        "scsi1",
        "local-lvm:8,import-from=x:y",
        "'import-from' requires special syntax"
    )]
    #[case("boot", "order=warp0", "invalid format")]
    #[case("smbios1", "uuid=7", "invalid format")]
    #[case("agent", "maybe", "invalid format")]
    #[case("name", "a_b", "invalid format")]
    #[case("protection", "2", "type check ('boolean') failed")]
    fn wrong_values_are_refused(#[case] key: &str, #[case] value: &str, #[case] reason: &str) {
        let error = check_key(key, value).unwrap().unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }

    #[rstest]
    #[case("boot", "order=scsi0;ide0")]
    #[case("boot", "cdn")]
    #[case("ide0", "local:iso/a.iso,media=cdrom")]
    #[case("ide2", "none,media=cdrom")]
    #[case("ide2", "local-lvm:cloudinit")]
    #[case("scsi1", "local-lvm:8,discard=on")]
    #[case("agent", "1")]
    #[case("agent", "enabled=1,fstrim_cloned_disks=1")]
    #[case("net31", "virtio,bridge=vmbr0")]
    fn right_values_are_taken(#[case] key: &str, #[case] value: &str) {
        assert_eq!(check_key(key, value), Some(Ok(())));
    }

    #[test]
    fn unknown_keys_are_unknown() {
        for key in ["net32", "disk0", "colour", "ide4"] {
            assert_eq!(check_key(key, "1"), None, "{key}");
        }
    }
}
