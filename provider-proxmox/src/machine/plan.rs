//! What to do next. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use capi_contract::condition::reason;
use capi_contract::{AddressRequest, Mark, Plan, Teardown, Waiting};
use sha2::{Digest, Sha256};

use super::Scope;
use super::claim::{MachineClaim, PhaseTags, SeedPlace};
use super::error::MachineError;
use super::observe::{Phase, Seen, attached_at, is_drive};
use super::steps::{Change, Guard, MachineStep, must_stop};
use super::zone;
use crate::api::{DiskFormat, PROVIDER_ID_SCHEME};
use crate::network;
use crate::pool;
use crate::property::{Drive, NetDevice, Size, Smbios, Tags};
use crate::pve::{CloneRequest, Config, Power};
use crate::seed::MetaData;

/// When to look again at what waits for a person.
const BY_HAND: Duration = Duration::from_secs(60);

/// When to look again at what ends by itself: a lock of a backup, a migration, a snapshot.
const BY_ITSELF: Duration = Duration::from_secs(10);

/// Drives for the seed, in the order of preference. `ide0` is what the Go provider takes; q35
/// machines have only one drive per IDE channel; ARM hosts have no IDE at all.
const SEED_DRIVES: [&str; 8] = [
    "ide0", "ide2", "sata0", "sata1", "sata2", "sata5", "scsi29", "scsi30",
];

type Next = Plan<MachineStep>;

/// The next step towards the machine of the scope.
pub(super) fn plan(scope: &Scope, claim: &MachineClaim, seen: Option<&Seen>) -> Next {
    let Some(seen) = seen else {
        return clone(scope, claim);
    };
    let Some(phase) = seen.phase else {
        return Plan::Lost(Waiting::new(
            reason::LOST,
            format!("VM {} is gone; only its seed image is left", claim.vmid),
            BY_HAND,
        ));
    };
    let Some(config) = &seen.config else {
        return at_a_glance(scope, phase);
    };
    let next = match claim.mark.token() {
        Some(_) => next(scope, claim, seen, phase, config),
        None => keep(seen),
    };
    match (&next, &seen.lock) {
        (Plan::Apply(_), Some(lock)) => Plan::Wait(locked(claim, seen, lock)),
        _ => next,
    }
}

fn locked(claim: &MachineClaim, seen: &Seen, lock: &str) -> Waiting {
    let message = format!("VM {} on {} is locked: {lock}", claim.vmid, seen.node);
    Waiting::new("VirtualMachineLocked", message, BY_ITSELF)
}

/// What the shared listing lets one say of a running machine.
fn at_a_glance(scope: &Scope, phase: Phase) -> Next {
    let settled = match phase {
        Phase::Sealed => true,
        Phase::Seeded => !scope.has_node(),
        Phase::Bare | Phase::Detached => false,
    };
    if settled && scope.object.spec.provider_id.is_some() {
        Plan::Settled
    } else {
        Plan::Apply(MachineStep::LookCloser)
    }
}

/// A machine that was there before us is kept as it is.
fn keep(seen: &Seen) -> Next {
    match seen.power {
        Power::Running => Plan::Settled,
        Power::Stopped | Power::Paused => stopped(seen),
    }
}

fn stopped(seen: &Seen) -> Next {
    Plan::Wait(Waiting::new(
        "VirtualMachineStopped",
        format!(
            "the VM on {} does not run any more; start it there, or let a MachineHealthCheck \
             replace the machine",
            seen.node
        ),
        BY_HAND,
    ))
}

fn next(scope: &Scope, claim: &MachineClaim, seen: &Seen, phase: Phase, config: &Config) -> Next {
    match (phase, seen.power) {
        (Phase::Bare, Power::Stopped) => {
            prepare(scope, claim, seen, config).unwrap_or_else(|error| blocked(&error))
        }
        (Phase::Bare, Power::Running | Power::Paused) => Plan::Wait(Waiting::new(
            "VirtualMachineRunning",
            format!(
                "VM {} on {} was started before it was configured; stop it",
                claim.vmid, seen.node
            ),
            BY_HAND,
        )),
        (Phase::Seeded, Power::Stopped | Power::Paused) => Plan::Apply(MachineStep::Start {
            node: seen.node.clone(),
            paused: seen.power == Power::Paused,
            seen_at: seen.at,
        }),
        (Phase::Seeded, Power::Running) if scope.has_node() => detach(claim, seen, config),
        (Phase::Detached, _) => match &claim.seed {
            Some(place) if seen.stored => Plan::Apply(MachineStep::RemoveSeed {
                place: place.clone(),
            }),
            _ => seal(claim, seen, config),
        },
        (Phase::Seeded | Phase::Sealed, Power::Running) => Plan::Settled,
        (Phase::Sealed, Power::Stopped | Power::Paused) => stopped(seen),
    }
}

fn blocked(error: &MachineError) -> Next {
    Plan::Wait(Waiting::new(
        reason::MISCONFIGURED,
        error.to_string(),
        BY_HAND,
    ))
}

/// Notes of the user, with the mark behind them.
fn notes(scope: &Scope, mark: &Mark) -> String {
    match scope.object.spec.description.as_deref().map(str::trim) {
        Some(notes) if !notes.is_empty() => format!("{notes}\n\n{mark}"),
        _ => mark.to_string(),
    }
}

fn clone(scope: &Scope, claim: &MachineClaim) -> Next {
    let Some(template) = &claim.template else {
        return Plan::Lost(Waiting::new(
            reason::LOST,
            "the VM that was taken over is gone",
            BY_HAND,
        ));
    };
    let spec = &scope.object.spec;
    let format = spec.format.map(|format| match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Vmdk => "vmdk",
    });
    let full = |value: Option<String>| value.filter(|_| spec.full);
    Plan::Apply(MachineStep::Clone {
        template: template.clone(),
        request: CloneRequest {
            newid: claim.vmid,
            name: claim.mark.object.name.clone(),
            description: notes(scope, &claim.mark),
            target: (claim.node != template.node).then(|| claim.node.clone()),
            full: spec.full,
            storage: full(spec.storage.clone()),
            format: full(format.map(str::to_owned)),
            snapname: spec.snap_name.clone(),
            pool: spec.pool.clone(),
        },
    })
}

/// Steps between clone and first start. The seed comes before the configuration, so that one
/// change of the configuration does everything: what has been configured is complete.
fn prepare(
    scope: &Scope,
    claim: &MachineClaim,
    seen: &Seen,
    config: &Config,
) -> Result<Next, MachineError> {
    network::check(&scope.object.spec.network, &scope.cluster.spec)?;
    if let Some(step) = resize(scope, seen, config) {
        return Ok(step);
    }
    let devices = devices(scope, claim, config);
    let Some(place) = &claim.seed else {
        return Err(MachineError::NoSeedStorage {
            node: seen.node.clone(),
        });
    };
    if !seen.stored {
        return upload(scope, place, seen, &devices);
    }
    let Some(guard) = guard(seen) else {
        return Ok(Plan::Apply(MachineStep::LookCloser));
    };
    let (set, delete) = configuration(scope, claim, config, &devices, place);
    Ok(Plan::Apply(MachineStep::Configure(Change {
        guard,
        set,
        delete,
    })))
}

fn guard(seen: &Seen) -> Option<Guard> {
    let digest = seen.config.as_ref()?.digest()?.to_owned();
    Some(Guard {
        node: seen.node.clone(),
        digest,
    })
}

fn resize(scope: &Scope, seen: &Seen, config: &Config) -> Option<Next> {
    let wanted = scope.object.spec.disks.as_ref()?.boot_volume.as_ref()?;
    let size = u32::try_from(wanted.size_gb).ok()?;
    let Some(line) = config.get(&wanted.disk) else {
        return Some(Plan::Wait(Waiting::new(
            reason::MISCONFIGURED,
            format!(
                "the template has no disk {}; correct spec.disks.bootVolume.disk",
                wanted.disk
            ),
            BY_HAND,
        )));
    };
    let present = Drive::parse(line).ok()?.size().ok()??;
    if present >= Size::gib(u64::from(size)) {
        return None;
    }
    let step = MachineStep::Resize {
        disk: wanted.disk.clone(),
        size,
        guard: guard(seen)?,
    };
    Some(Plan::Apply(step))
}

/// The network devices of the spec over those of the template, each with a MAC address, since the
/// seed finds them by it.
fn devices(scope: &Scope, claim: &MachineClaim, config: &Config) -> BTreeMap<String, NetDevice> {
    let wanted = &scope.object.spec.network.network_devices;
    wanted
        .iter()
        .map(|device| {
            let present = config
                .get(&device.name)
                .and_then(|line| NetDevice::parse(line).ok());
            let line = network::device(device, present.as_ref());
            (
                device.name.clone(),
                with_mac(line, &claim.mark, &device.name),
            )
        })
        .collect()
}

/// A device that the template lacks has no address yet.
fn with_mac(device: NetDevice, mark: &Mark, name: &str) -> NetDevice {
    if device.mac().is_some() {
        return device;
    }
    let line = format!("{device},macaddr={}", mac(mark, name));
    NetDevice::parse(&line).unwrap_or(device)
}

/// A locally administered address that follows from mark and device, so that it is the same in
/// every attempt and in no two machines.
fn mac(mark: &Mark, device: &str) -> String {
    let hash = Sha256::digest(format!("{mark} {device}"));
    let rest: Vec<String> = hash[..5].iter().map(|byte| format!("{byte:02X}")).collect();
    format!("02:{}", rest.join(":"))
}

fn upload(
    scope: &Scope,
    place: &SeedPlace,
    seen: &Seen,
    devices: &BTreeMap<String, NetDevice>,
) -> Result<Next, MachineError> {
    let Some(uuid) = seen.uuid() else {
        return Ok(Plan::Wait(Waiting::new(
            "WaitingForVirtualMachine",
            "the VM has no SMBIOS uuid; set smbios1 in its options",
            BY_HAND,
        )));
    };
    let macs = devices
        .iter()
        .filter_map(|(name, device)| Some((name.clone(), device.mac()?.to_owned())))
        .collect();
    let wanted = zone::network_of(scope)?;
    let network = network::guest(
        &wanted,
        &scope.cluster.spec,
        &requests(scope)?,
        &scope.addresses,
        &macs,
    )?;
    let version = scope.machine.spec.version.clone();
    let meta_data = MetaData {
        hostname: scope.name().name,
        provider_id: scope
            .object
            .spec
            .injects_provider_id()
            .then(|| format!("{PROVIDER_ID_SCHEME}{uuid}")),
        instance_id: uuid,
        kubernetes_version: Some(version).filter(|version| !version.is_empty()),
    };
    let place = place.clone();
    Ok(Plan::Apply(MachineStep::UploadSeed {
        place,
        meta_data,
        network,
    }))
}

/// What the machine asked of the pools.
pub(super) fn requests(scope: &Scope) -> Result<Vec<AddressRequest>, MachineError> {
    let cluster = scope.cluster.metadata.name.as_deref().unwrap_or_default();
    let network = zone::network_of(scope)?;
    let name = scope.name().name;
    let requests = pool::requests(&name, &network, cluster, &scope.cluster.spec)?;
    Ok(requests)
}

/// Everything that a new VM gets, as far as it differs.
fn configuration(
    scope: &Scope,
    claim: &MachineClaim,
    config: &Config,
    devices: &BTreeMap<String, NetDevice>,
    place: &SeedPlace,
) -> (Vec<(String, String)>, Vec<String>) {
    let spec = &scope.object.spec;
    let mut set = Vec::new();
    let mut differs = |key: &str, value: String| {
        if config.get(key) != Some(value.as_str()) {
            set.push((key.to_owned(), value));
        }
    };
    let memory = spec.memory_mib.filter(|mib| *mib > 0);
    for (key, value) in [
        ("sockets", spec.num_sockets),
        ("cores", spec.num_cores),
        ("memory", memory),
    ] {
        if let Some(value) = value {
            differs(key, value.to_string());
        }
    }
    for (name, device) in devices {
        let present = config
            .get(name)
            .and_then(|line| NetDevice::parse(line).ok());
        if present.as_ref() != Some(device) {
            differs(name, device.to_string());
        }
    }
    let mut smbios = config
        .get("smbios1")
        .and_then(|line| Smbios::parse(line).ok());
    if let Some(smbios) = &mut smbios {
        smbios.set_serial(&claim.mark.to_string());
        differs("smbios1", smbios.to_string());
    }
    differs("tags", tags(scope, claim, config));
    differs("protection", "1".to_owned());
    // The drive that Proxmox VE makes would be read instead of the seed.
    let rivals: Vec<String> = config
        .iter()
        .filter(|(key, line)| {
            is_drive(key) && Drive::parse(line).is_ok_and(|drive| drive.is_cloud_init())
        })
        .map(|(key, _)| key.to_owned())
        .collect();
    differs(
        seed_drive(config, &rivals),
        Drive::cdrom(place.volume()).to_string(),
    );
    let delete = rivals
        .into_iter()
        .filter(|key| set.iter().all(|(name, _)| name != key))
        .collect();
    (set, delete)
}

fn tags(scope: &Scope, claim: &MachineClaim, config: &Config) -> String {
    let mut tags = Tags::parse(config.get("tags").unwrap_or_default());
    for tag in &scope.object.spec.tags {
        tags.insert(tag);
    }
    if let Some(phase) = PhaseTags::of(&claim.mark) {
        tags.insert(&phase.seeded);
    }
    tags.to_string()
}

/// The first drive for the seed that is free, holds an empty optical drive, or a rival.
fn seed_drive(config: &Config, rivals: &[String]) -> &'static str {
    let arm = config.get("arch") == Some("aarch64");
    let free = |key: &&&str| match config.get(key) {
        None => true,
        Some(line) => {
            rivals.iter().any(|rival| rival == **key)
                || Drive::parse(line)
                    .is_ok_and(|drive| drive.is_cdrom() && drive.volume() == "none")
        }
    };
    let fits = |key: &&&str| !arm || key.starts_with("scsi");
    SEED_DRIVES
        .iter()
        .filter(fits)
        .find(free)
        .copied()
        .unwrap_or("scsi30")
}

fn detach(claim: &MachineClaim, seen: &Seen, config: &Config) -> Next {
    let drive = claim
        .seed
        .as_ref()
        .and_then(|seed| attached_at(config, &seed.volume()));
    match (drive, guard(seen)) {
        (Some(drive), Some(guard)) => Plan::Apply(MachineStep::DetachSeed(Change {
            guard,
            set: vec![(drive.to_owned(), "none,media=cdrom".to_owned())],
            delete: Vec::new(),
        })),
        _ => Plan::Apply(MachineStep::LookCloser),
    }
}

fn seal(claim: &MachineClaim, seen: &Seen, config: &Config) -> Next {
    let (Some(phase), Some(guard)) = (PhaseTags::of(&claim.mark), guard(seen)) else {
        return Plan::Settled;
    };
    let mut tags = Tags::parse(config.get("tags").unwrap_or_default());
    tags.remove(&phase.seeded);
    tags.insert(&phase.sealed);
    let set = vec![("tags".to_owned(), tags.to_string())];
    Plan::Apply(MachineStep::Seal(Change {
        guard,
        set,
        delete: Vec::new(),
    }))
}

/// The next step of the teardown. The image goes last: its name tells whose it is.
pub(super) fn plan_teardown(claim: &MachineClaim, seen: &Seen) -> Teardown<MachineStep> {
    if seen.phase.is_none() {
        return match &claim.seed {
            Some(place) => Teardown::Apply(MachineStep::RemoveSeed {
                place: place.clone(),
            }),
            None => Teardown::Apply(MachineStep::LookCloser),
        };
    }
    let Some(config) = &seen.config else {
        return Teardown::Apply(MachineStep::LookCloser);
    };
    if let Some(lock) = &seen.lock {
        return Teardown::Wait(locked(claim, seen, lock));
    }
    let (node, seen_at) = (seen.node.clone(), seen.at);
    if config.is_set("protection") {
        return Teardown::Apply(match guard(seen) {
            Some(guard) => MachineStep::Unprotect(Change {
                guard,
                set: vec![("protection".to_owned(), "0".to_owned())],
                delete: Vec::new(),
            }),
            None => MachineStep::LookCloser,
        });
    }
    Teardown::Apply(if must_stop(seen.power) {
        MachineStep::Stop { node, seen_at }
    } else {
        MachineStep::Destroy { node, seen_at }
    })
}

#[cfg(test)]
mod tests {
    use capi_contract::Step;

    use super::super::fixture::{adopted, claim, cloned, configured, joined, scope, seeded, seen};
    use super::*;

    fn step(next: Next) -> MachineStep {
        match next {
            Plan::Apply(step) => step,
            other => panic!("no step: {other:?}"),
        }
    }

    fn waits(next: Next) -> Waiting {
        match next {
            Plan::Wait(waiting) => waiting,
            other => panic!("no wait: {other:?}"),
        }
    }

    fn change(step: MachineStep) -> (BTreeMap<String, String>, Vec<String>) {
        match step {
            MachineStep::Configure(change)
            | MachineStep::DetachSeed(change)
            | MachineStep::Seal(change)
            | MachineStep::Unprotect(change) => {
                assert_eq!(
                    (change.guard.node.as_str(), change.guard.digest.as_str()),
                    ("b", "d1")
                );
                (change.set.into_iter().collect(), change.delete)
            }
            other => panic!("no change: {other:?}"),
        }
    }

    fn stored(phase: Phase, power: Power, config: Config) -> Seen {
        Seen {
            stored: true,
            ..seen(phase, power, config)
        }
    }

    #[test]
    fn r5_a_clone_bears_the_mark_behind_the_users_notes() {
        let mut scope = scope();
        scope.object.spec.description = Some("call Ada\n".into());
        let MachineStep::Clone { template, request } = step(plan(&scope, &claim(), None)) else {
            panic!("not cloned");
        };
        assert_eq!((template.node.as_str(), template.vmid), ("a", 9000));
        assert_eq!((request.newid, request.name.as_str()), (104, "m-0"));
        assert_eq!(request.target.as_deref(), Some("b"));
        assert_eq!(request.description, format!("call Ada\n\n{}", claim().mark));
        assert!(request.full && request.storage.is_none());
    }

    #[test]
    fn a_linked_clone_names_neither_storage_nor_format() {
        let mut scope = scope();
        scope.object.spec.full = false;
        scope.object.spec.storage = Some("fast".into());
        scope.object.spec.format = Some(DiskFormat::Qcow2);
        let MachineStep::Clone { request, .. } = step(plan(&scope, &claim(), None)) else {
            panic!("not cloned");
        };
        assert_eq!(
            (request.full, request.storage, request.format),
            (false, None, None)
        );
    }

    #[test]
    fn steps_follow_from_what_is_seen() {
        let (scope, claim) = (scope(), claim());
        let next = |seen: &Seen| step(plan(&scope, &claim, Some(seen))).name();
        let small = seen(Phase::Bare, Power::Stopped, cloned(&[]));
        assert_eq!(next(&small), "WaitingForDiskReconciliation");
        let grown = cloned(&[("scsi0", "local-lvm:vm-104-disk-0,size=20G")]);
        let bare = seen(Phase::Bare, Power::Stopped, grown.clone());
        assert_eq!(next(&bare), "WaitingForBootstrapDataReconciliation");
        assert_eq!(
            next(&stored(Phase::Bare, Power::Stopped, grown)),
            "Configuring"
        );
        assert_eq!(
            next(&seen(Phase::Seeded, Power::Stopped, seeded())),
            "PoweringOn"
        );
        let running = seen(Phase::Seeded, Power::Running, seeded());
        assert_eq!(plan(&scope, &claim, Some(&running)), Plan::Settled);
    }

    #[test]
    fn defect_848_a_vm_that_already_matches_goes_on_to_boot() {
        let (mut scope, claim) = (scope(), claim());
        scope.object.spec.num_cores = Some(2);
        scope.object.spec.memory_mib = Some(2048);
        scope.object.spec.disks = None;
        scope.object.spec.network.network_devices[0].bridge = Some("vmbr0".into());
        scope.object.spec.network.network_devices[0].vlan = None;
        let seen = stored(Phase::Bare, Power::Stopped, cloned(&[]));
        let (set, _) = change(step(plan(&scope, &claim, Some(&seen))));
        assert_eq!(
            set.keys().collect::<Vec<_>>(),
            ["ide0", "protection", "smbios1", "tags"]
        );
    }

    #[test]
    fn one_change_configures_everything_and_keeps_the_mac_address() {
        let seen = stored(
            Phase::Bare,
            Power::Stopped,
            cloned(&[("scsi0", "x:y,size=20G"), ("tags", "tpl")]),
        );
        let (set, delete) = change(step(plan(&scope(), &claim(), Some(&seen))));
        assert_eq!(
            (set["cores"].as_str(), set["memory"].as_str()),
            ("4", "4096")
        );
        let net = NetDevice::parse(&set["net0"]).unwrap();
        assert_eq!(net.mac(), Some("BC:24:11:00:00:01"));
        assert_eq!(
            (net.get("bridge"), net.get("tag")),
            (Some("vmbr1"), Some("7"))
        );
        assert_eq!(set["tags"], "capi-seeded-fedcba987654;prod;tpl");
        let smbios = Smbios::parse(&set["smbios1"]).unwrap();
        assert_eq!(smbios.serial(), Some(claim().mark.to_string()));
        assert_eq!(smbios.uuid(), seen.uuid());
        assert_eq!(set["protection"], "1");
        let volume = claim().seed.unwrap().volume();
        assert_eq!(Drive::parse(&set["ide0"]).unwrap().volume(), volume);
        assert_eq!(delete, Vec::<String>::new());
    }

    #[test]
    fn a_device_that_the_template_lacks_gets_the_same_mac_address_every_time() {
        let mut scope = scope();
        let second = serde_json::json!({"name": "net1", "bridge": "vmbr2"});
        let second = serde_json::from_value(second).unwrap();
        scope.object.spec.network.network_devices.push(second);
        let config = cloned(&[("scsi0", "x:y,size=20G")]);
        let bare = seen(Phase::Bare, Power::Stopped, config.clone());
        let MachineStep::UploadSeed { network, .. } = step(plan(&scope, &claim(), Some(&bare)))
        else {
            panic!("no upload");
        };
        let seen = stored(Phase::Bare, Power::Stopped, config);
        let (set, _) = change(step(plan(&scope, &claim(), Some(&seen))));
        let mac = NetDevice::parse(&set["net1"])
            .unwrap()
            .mac()
            .unwrap()
            .to_lowercase();
        assert!(mac.starts_with("02:"), "{mac}");
        assert_eq!(network.interfaces[1].mac, mac);
        assert_eq!(network.interfaces[0].mac, "bc:24:11:00:00:01");
    }

    #[test]
    fn defect_221_the_templates_own_cloud_init_drive_makes_way() {
        let config = cloned(&[
            ("scsi0", "x:y,size=20G"),
            ("ide2", "fast:cloudinit,media=cdrom"),
        ]);
        let seen = stored(Phase::Bare, Power::Stopped, config);
        let (set, delete) = change(step(plan(&scope(), &claim(), Some(&seen))));
        assert!(set.contains_key("ide0"));
        assert_eq!(delete, ["ide2"]);
    }

    #[test]
    fn defect_548_the_seed_takes_a_drive_that_is_free_and_that_the_machine_has() {
        let drive = |more: &[(&str, &str)]| seed_drive(&cloned(more), &[]);
        assert_eq!(drive(&[]), "ide0");
        assert_eq!(
            drive(&[("ide0", "local:iso/tools.iso,media=cdrom")]),
            "ide2"
        );
        assert_eq!(drive(&[("ide0", "none,media=cdrom")]), "ide0");
        assert_eq!(drive(&[("arch", "aarch64")]), "scsi29");
    }

    #[test]
    fn the_seed_goes_once_the_machine_is_a_node() {
        let (scope, claim) = (joined(), claim());
        let running = seen(Phase::Seeded, Power::Running, seeded());
        let next = step(plan(&scope, &claim, Some(&running)));
        assert_eq!(next.name(), "DetachingSeed");
        assert_eq!(change(next).0["ide0"], "none,media=cdrom");
        let tags = [("tags", "capi-seeded-fedcba987654;prod")];
        let detached = configured(&claim, &tags);
        let left = stored(Phase::Detached, Power::Running, detached.clone());
        assert_eq!(
            step(plan(&scope, &claim, Some(&left))).name(),
            "RemovingSeed"
        );
        let gone = seen(Phase::Detached, Power::Running, detached.clone());
        let (set, _) = change(step(plan(&scope, &claim, Some(&gone))));
        assert_eq!(set["tags"], "capi-fedcba987654;prod");
        let sealed = seen(Phase::Sealed, Power::Running, detached);
        assert_eq!(plan(&scope, &claim, Some(&sealed)), Plan::Settled);
    }

    #[test]
    fn a_machine_that_was_stopped_by_hand_is_reported_and_not_started() {
        let sealed = seen(Phase::Sealed, Power::Stopped, configured(&claim(), &[]));
        let waiting = waits(plan(&joined(), &claim(), Some(&sealed)));
        assert_eq!(waiting.reason, "VirtualMachineStopped");
    }

    #[test]
    fn a_lock_is_waited_for_when_there_is_something_to_do() {
        let config = cloned(&[("lock", "backup")]);
        let locked = seen(Phase::Bare, Power::Stopped, config);
        let waiting = waits(plan(&scope(), &claim(), Some(&locked)));
        assert_eq!(waiting.reason, "VirtualMachineLocked");
        assert!(waiting.message.contains("backup"));
        let mut running = seen(Phase::Seeded, Power::Running, seeded());
        running.lock = Some("backup".into());
        assert_eq!(plan(&scope(), &claim(), Some(&running)), Plan::Settled);
    }

    #[test]
    fn a_disk_that_the_template_lacks_is_named() {
        let mut scope = scope();
        scope.object.spec.disks = serde_json::from_value(
            serde_json::json!({"bootVolume": {"disk": "virtio0", "sizeGb": 9}}),
        )
        .unwrap();
        let bare = seen(Phase::Bare, Power::Stopped, cloned(&[]));
        let waiting = waits(plan(&scope, &claim(), Some(&bare)));
        assert_eq!(waiting.reason, reason::MISCONFIGURED);
        assert!(
            waiting.message.contains("spec.disks.bootVolume.disk"),
            "{}",
            waiting.message
        );
    }

    #[test]
    fn r9_a_vm_of_which_only_the_seed_is_left_is_lost() {
        let left = Seen {
            phase: None,
            config: None,
            ..stored(Phase::Bare, Power::Stopped, cloned(&[]))
        };
        assert!(matches!(
            plan(&scope(), &claim(), Some(&left)),
            Plan::Lost(_)
        ));
        assert!(matches!(
            plan_teardown(&claim(), &left),
            Teardown::Apply(MachineStep::RemoveSeed { .. })
        ));
    }

    #[test]
    fn a_machine_that_was_taken_over_is_kept_as_it_is() {
        let running = seen(Phase::Sealed, Power::Running, cloned(&[]));
        assert_eq!(plan(&joined(), &adopted(), Some(&running)), Plan::Settled);
        assert!(matches!(plan(&scope(), &adopted(), None), Plan::Lost(_)));
    }

    #[test]
    fn a_glance_settles_or_asks_for_more() {
        let glance = |scope: &Scope, phase| {
            let glance = Seen {
                config: None,
                ..seen(phase, Power::Running, cloned(&[]))
            };
            plan(scope, &claim(), Some(&glance))
        };
        assert_eq!(glance(&joined(), Phase::Sealed), Plan::Settled);
        assert_eq!(
            glance(&joined(), Phase::Seeded),
            Plan::Apply(MachineStep::LookCloser)
        );
        assert_eq!(
            glance(&scope(), Phase::Sealed),
            Plan::Apply(MachineStep::LookCloser)
        );
    }

    #[test]
    fn teardown_unprotects_stops_and_destroys() {
        let claim = claim();
        let next = |seen: &Seen| match plan_teardown(&claim, seen) {
            Teardown::Apply(step) => step.name(),
            other => panic!("no step: {other:?}"),
        };
        let protected = seen(Phase::Sealed, Power::Running, configured(&claim, &[]));
        assert_eq!(next(&protected), "Unprotecting");
        let open = configured(&claim, &[("protection", "0")]);
        assert_eq!(
            next(&seen(Phase::Sealed, Power::Running, open.clone())),
            "PoweringOff"
        );
        assert_eq!(
            next(&seen(Phase::Sealed, Power::Paused, open.clone())),
            "PoweringOff"
        );
        assert_eq!(
            next(&seen(Phase::Sealed, Power::Stopped, open)),
            "Destroying"
        );
        let locked = seen(
            Phase::Sealed,
            Power::Stopped,
            cloned(&[("lock", "migrate")]),
        );
        assert!(matches!(plan_teardown(&claim, &locked), Teardown::Wait(_)));
    }
}
