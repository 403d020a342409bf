//! Virtual machines.

use std::collections::BTreeMap;

use capi_contract::Mark;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::property::{Drive, Nic, is_drive};

/// Configuration keys whose change waits for the next start while the VM runs: without hotplug
/// of CPU and memory, and for what the firmware hands to the guest.
const COLD: [&str; 14] = [
    "acpi", "agent", "balloon", "bios", "boot", "cores", "cpu", "machine", "memory", "numa",
    "scsihw", "smbios1", "sockets", "vga",
];

/// Power state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    Stopped,
    Running { since: Instant, pid: u32 },
    Paused { since: Instant, pid: u32 },
}

/// What `/cluster/resources` says of a VM for some seconds longer than it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broadcast {
    pub(crate) name: Option<String>,
    pub(crate) running: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub(crate) vmid: u32,
    /// Which of all VMs ever made this is; VMIDs are used again.
    pub(crate) birth: usize,
    pub(crate) node: String,
    /// VMID of the template that its disk comes from, or its own.
    pub(crate) origin: u32,
    pub(crate) pool: Option<String>,
    pub(crate) config: BTreeMap<String, String>,
    /// Changes that wait for the next start; `None` deletes.
    pub(crate) pending: BTreeMap<String, Option<String>>,
    pub(crate) power: Power,
    /// What was last broadcast, and when what it says changed.
    pub(crate) before: Option<(Instant, Option<Broadcast>)>,
    /// The configuration at the time of each snapshot, by name.
    pub(crate) snapshots: BTreeMap<String, BTreeMap<String, String>>,
    /// UPID of the task that holds the lock file.
    pub(crate) held_by: Option<String>,
    /// How many clones read it now.
    pub(crate) readers: usize,
}

impl Vm {
    pub(crate) fn new(vmid: u32, birth: usize, node: &str) -> Self {
        Self {
            vmid,
            birth,
            node: node.to_owned(),
            origin: vmid,
            pool: None,
            config: BTreeMap::new(),
            pending: BTreeMap::new(),
            power: Power::Stopped,
            before: None,
            snapshots: BTreeMap::new(),
            held_by: None,
            readers: 0,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }

    pub(crate) fn lock(&self) -> Option<&str> {
        self.get("lock")
    }

    pub(crate) fn is_running(&self) -> bool {
        !matches!(self.power, Power::Stopped)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "on" | "yes" | "true"))
    }

    pub(crate) fn is_template(&self) -> bool {
        self.flag("template")
    }

    pub(crate) fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    }

    /// Memory in bytes; a VM that doesn't say has 512 MiB.
    pub(crate) fn memory(&self) -> u64 {
        self.number("memory", 512) << 20
    }

    pub(crate) fn cpus(&self) -> u64 {
        self.number("sockets", 1) * self.number("cores", 1)
    }

    /// Whether the guest agent is switched on: `1`, `enabled=1`, `1,fstrim_cloned_disks=1`.
    pub(crate) fn agent_enabled(&self) -> bool {
        self.get("agent").is_some_and(|text| {
            let first = text.split(',').next().unwrap_or_default();
            let named = text
                .split(',')
                .find_map(|part| part.strip_prefix("enabled="));
            matches!(named.unwrap_or(first), "1" | "on" | "yes" | "true")
        })
    }

    pub(crate) fn uuid(&self) -> Option<&str> {
        self.get("smbios1")?
            .split(',')
            .find_map(|part| part.strip_prefix("uuid="))
    }

    pub(crate) fn mark(&self) -> Option<Mark> {
        self.get("description").and_then(Mark::find_in)
    }

    /// The configuration as it will be at the next start.
    pub(crate) fn with_pending(&self) -> BTreeMap<String, String> {
        let mut config = self.config.clone();
        for (key, value) in &self.pending {
            match value {
                Some(value) => config.insert(key.clone(), value.clone()),
                None => config.remove(key),
            };
        }
        config
    }

    /// A fingerprint of the configuration file, 40 hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in &self.config {
            hash.update(format!("{key}: {value}\n"));
        }
        for (key, value) in &self.pending {
            hash.update(format!("[PENDING] {key}: {value:?}\n"));
        }
        let mut hex: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        hex.truncate(40);
        hex
    }

    /// Sets or deletes a key, now or, where a running VM can't take it, at the next start.
    pub(crate) fn change(&mut self, key: &str, value: Option<String>) {
        let waits = self.is_running() && self.is_cold(key, value.as_deref());
        if waits {
            if self.config.get(key) == value.as_ref() {
                self.pending.remove(key);
            } else {
                self.pending.insert(key.to_owned(), value);
            }
            return;
        }
        self.pending.remove(key);
        match value {
            Some(value) => self.config.insert(key.to_owned(), value),
            None => self.config.remove(key),
        };
    }

    /// IDE and SATA drives can't be plugged while the machine runs; a medium can be changed.
    fn is_cold(&self, key: &str, value: Option<&str>) -> bool {
        if COLD.contains(&key) {
            return true;
        }
        if !is_drive(key) || key.starts_with("scsi") || key.starts_with("virtio") {
            return false;
        }
        let cdrom = |text: &str| Drive::parse(text).is_ok_and(|drive| drive.is_cdrom());
        let medium_changes = self.get(key).is_some_and(cdrom) && value.is_some_and(cdrom);
        !medium_changes
    }

    /// What waited for a start takes effect.
    pub(crate) fn apply_pending(&mut self) {
        self.config = self.with_pending();
        self.pending.clear();
    }

    pub(crate) fn drives(&self) -> impl Iterator<Item = (&str, Drive)> {
        self.config
            .iter()
            .filter(|(key, _)| is_drive(key))
            .filter_map(|(key, value)| Some((key.as_str(), Drive::parse(value).ok()?)))
    }

    pub(crate) fn nics(&self) -> impl Iterator<Item = (u32, Nic)> {
        let mut nics: Vec<_> = self
            .config
            .iter()
            .filter_map(|(key, value)| {
                let index = key.strip_prefix("net")?.parse::<u32>().ok()?;
                Some((index, Nic::parse(value).ok()?))
            })
            .collect();
        nics.sort_by_key(|(index, _)| *index);
        nics.into_iter()
    }

    /// The size of the disk that it boots from, in bytes.
    pub(crate) fn disk_size(&self) -> u64 {
        let first = self
            .get("boot")
            .and_then(|boot| boot.strip_prefix("order="));
        let first = first.and_then(|order| order.split(';').next());
        let mut disks = self.drives().filter(|(_, drive)| !drive.is_cdrom());
        let named = self.drives().find(|(key, _)| Some(*key) == first);
        named
            .or_else(|| disks.next())
            .and_then(|(_, drive)| drive.size())
            .unwrap_or(0)
    }

    /// Volume ids of its disks, unused ones too, CD-ROMs not.
    pub(crate) fn disks(&self) -> Vec<String> {
        let unused = self
            .config
            .iter()
            .filter(|(key, _)| key.starts_with("unused"));
        self.drives()
            .filter(|(_, drive)| !drive.is_cdrom() || drive.is_cloudinit())
            .map(|(_, drive)| drive.file)
            .chain(unused.map(|(_, value)| value.clone()))
            .collect()
    }

    /// Puts a volume that left the configuration under the next `unusedN` key.
    pub(crate) fn keep_unused(&mut self, volid: &str) {
        // `unused0` to `unused255` is what the configuration can hold.
        let free = (0..256)
            .map(|n| format!("unused{n}"))
            .find(|key| self.get(key).is_none());
        if let Some(key) = free {
            self.config.insert(key, volid.to_owned());
        }
    }
}
