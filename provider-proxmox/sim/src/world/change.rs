//! How configurations change: keys, new disks, sizes.

use crate::builder::GIB;
use crate::property::{Drive, Nic, is_drive, print_size};
use crate::world::World;
use crate::world::storage::{Volume, occupied};
use crate::world::work::missing;

impl World {
    /// Allocates a disk and returns its volume id.
    pub(crate) fn allocate(
        &mut self,
        node: &str,
        storage: &str,
        vmid: u32,
        size: u64,
        format: Option<String>,
    ) -> Result<String, String> {
        let ctime = self.time();
        let known = self.storages.get_mut(storage);
        let known = known.ok_or_else(|| format!("storage '{storage}' does not exist"))?;
        let format = format.unwrap_or_else(|| known.default_format().to_owned());
        let volid = known.free_disk_name(node, vmid, &format);
        let volume = Volume {
            content: "images",
            format,
            size,
            vmid: Some(vmid),
            ctime,
            bytes: None,
            given: false,
        };
        known.insert(node, &volid, volume);
        Ok(volid)
    }

    /// Changes a configuration, allocating disks and addresses that it asks for.
    pub(crate) fn change_config(
        &mut self,
        vmid: u32,
        changes: &[(String, Option<String>)],
    ) -> Result<(), String> {
        self.unlocked(vmid)?;
        self.apply_changes(vmid, changes)
    }

    pub(super) fn apply_changes(
        &mut self,
        vmid: u32,
        changes: &[(String, Option<String>)],
    ) -> Result<(), String> {
        self.remember_broadcast(vmid);
        for (key, value) in changes {
            let value = match value {
                Some(value) => Some(self.settle_value(vmid, key, value)?),
                None => None,
            };
            let Some(vm) = self.vms.get_mut(&vmid) else {
                return Err(missing("localhost", vmid));
            };
            if value.is_none() && key.starts_with("unused") {
                let (node, volid) = (vm.node.clone(), vm.config.remove(key));
                volid.and_then(|volid| self.remove_volume(&node, &volid));
                continue;
            }
            let left = vm
                .drives()
                .find(|(known, _)| known == key)
                .map(|(_, drive)| drive);
            vm.change(key, value.clone());
            let stays = |drive: &Drive| {
                value
                    .as_deref()
                    .and_then(|v| Drive::parse(v).ok())
                    .is_some_and(|new| new.file == drive.file)
            };
            if let Some(drive) = left
                && !drive.is_cdrom()
                && !stays(&drive)
            {
                vm.keep_unused(&drive.file);
            }
        }
        self.note_mark(vmid);
        Ok(())
    }

    /// What a value becomes when it is written: a MAC address is drawn, a disk allocated.
    pub(super) fn settle_value(
        &mut self,
        vmid: u32,
        key: &str,
        value: &str,
    ) -> Result<String, String> {
        if key.starts_with("net")
            && let Ok(mut nic) = Nic::parse(value)
        {
            if nic.mac.is_none() {
                nic.mac = Some(self.rng.mac());
            }
            return Ok(nic.print());
        }
        let Some(mut drive) = is_drive(key).then(|| Drive::parse(value).ok()).flatten() else {
            return Ok(value.to_owned());
        };
        let Some(node) = self.vms.get(&vmid).map(|vm| vm.node.clone()) else {
            return Err(missing("localhost", vmid));
        };
        let storage = drive.storage().unwrap_or_default().to_owned();
        if let Some(gib) = drive.new_disk_gib() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a disk size in GiB is far below 2^53 bytes"
            )]
            let mut size = (gib * GIB as f64) as u64;
            if let Some(import) = drive.rest.get("import-from").map(str::to_owned) {
                let volume = self.volume(&node, &import);
                size = volume
                    .ok_or_else(|| format!("no such volume '{import}'"))?
                    .size;
                drive.rest.remove("import-from");
            }
            self.room(&node, &storage, occupied(size))?;
            let format = drive.rest.get("format").map(str::to_owned);
            drive.rest.remove("format");
            drive.file = self.allocate(&node, &storage, vmid, size, format)?;
            drive.rest.set("size", print_size(size));
        } else if drive.is_cdrom() && drive.file != "none" && drive.file != "cdrom" {
            let size = self.volume(&node, &drive.file).map(|volume| volume.size);
            let size = size.ok_or_else(|| format!("volume '{}' does not exist", drive.file))?;
            drive.rest.set("size", print_size(size));
        }
        Ok(drive.print())
    }

    pub(super) fn finish_resize(&mut self, vmid: u32, disk: &str, size: u64) -> Result<(), String> {
        let vm = self.unlocked(vmid)?;
        let node = vm.node.clone();
        let drive = vm.get(disk).and_then(|text| Drive::parse(text).ok());
        let mut drive = drive.ok_or_else(|| format!("disk '{disk}' does not exist"))?;
        let old = drive.size().unwrap_or_default();
        let storage = drive.storage().unwrap_or_default().to_owned();
        self.room(&node, &storage, occupied(size.saturating_sub(old)))?;
        if let Some(storage) = self.storages.get_mut(&storage) {
            storage.resize(&node, &drive.file, size);
        }
        drive.rest.set("size", print_size(size));
        if let Some(vm) = self.vms.get_mut(&vmid) {
            vm.config.insert(disk.to_owned(), drive.print());
        }
        Ok(())
    }
}
