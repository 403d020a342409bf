//! How VMs come to be: clones and new ones.

use std::collections::BTreeMap;

use crate::property::Drive;
use crate::world::World;
use crate::world::birth::Maker;
use crate::world::storage::occupied;
use crate::world::vm::Vm;
use crate::world::work::missing;

/// A clone: from where, to where, how.
#[derive(Clone, Debug)]
pub(crate) struct CloneWork {
    pub(crate) source: u32,
    /// The snapshot that is cloned instead of what is there now.
    pub(crate) snapshot: Option<String>,
    /// Whether disks are copied, not linked.
    pub(crate) full: bool,
    pub(crate) newid: u32,
    pub(crate) node: String,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) storage: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) target: Option<String>,
}

impl CloneWork {
    /// Storages that new disks go to.
    pub(super) fn storages(&self, world: &World) -> Vec<String> {
        if let Some(storage) = &self.storage {
            return vec![storage.clone()];
        }
        let Some(source) = world.vms.get(&self.source) else {
            return Vec::new();
        };
        let disks = source.drives().filter(|(_, drive)| !drive.is_cdrom());
        let mut storages: Vec<_> = disks
            .filter_map(|(_, drive)| drive.storage().map(str::to_owned))
            .collect();
        storages.dedup();
        storages
    }
}

impl World {
    pub(super) fn begin_clone(&mut self, clone: &CloneWork, user: &str) -> Result<(), String> {
        let Some(source) = self.vms.get(&clone.source) else {
            return Err(missing(&clone.node, clone.source));
        };
        if let Some(lock) = source.lock() {
            return Err(format!("VM is locked ({lock})"));
        }
        if self.vms.contains_key(&clone.newid) {
            let file = format!(
                "/etc/pve/nodes/{}/qemu-server/{}.conf",
                clone.node, clone.newid
            );
            return Err(format!(
                "clone failed: unable to create VM {}: unable to open file '{file}' - File exists",
                clone.newid
            ));
        }
        self.make_vm(clone.newid, &clone.node, user, "clone");
        Ok(())
    }

    pub(super) fn begin_create(&mut self, vmid: u32, node: &str, user: &str) -> Result<(), String> {
        if self.vms.contains_key(&vmid) {
            return Err(format!(
                "unable to create VM {vmid}: config file already exists"
            ));
        }
        self.make_vm(vmid, node, user, "create");
        Ok(())
    }

    pub(super) fn make_vm(&mut self, vmid: u32, node: &str, user: &str, lock: &str) {
        let maker = Maker::Token(user.to_owned());
        let birth = self.births.add(vmid, node, self.elapsed(), maker, false);
        let mut vm = Vm::new(vmid, birth, node);
        vm.config.insert("lock".into(), lock.to_owned());
        vm.before = Some((self.now, None));
        self.vms.insert(vmid, vm);
    }

    pub(super) fn finish_clone(&mut self, clone: &CloneWork) -> Result<(), String> {
        let Some(mut source) = self.vms.get(&clone.source).cloned() else {
            return Err(format!(
                "clone failed: {}",
                missing(&clone.node, clone.source)
            ));
        };
        if let Some(snapshot) = &clone.snapshot {
            let Some(config) = source.snapshots.remove(snapshot) else {
                return Err(format!(
                    "clone failed: snapshot '{snapshot}' does not exist"
                ));
            };
            source.config = config;
            source.pending.clear();
        }
        if !self.vms.contains_key(&clone.newid) {
            return Err(format!(
                "clone failed: {}",
                missing(&clone.node, clone.newid)
            ));
        }
        let mut config = BTreeMap::new();
        for (key, value) in source.with_pending() {
            let dropped = key.starts_with("unused") || matches!(key.as_str(), "template" | "lock");
            if !dropped {
                config.insert(key, value);
            }
        }
        for (key, drive) in source.drives() {
            let copied = self.copy_disk(clone, &source.node, &drive)?;
            config.insert(key.to_owned(), copied.print());
        }
        for (index, mut nic) in source.nics() {
            nic.mac = Some(self.rng.mac());
            config.insert(format!("net{index}"), nic.print());
        }
        self.identify(&mut config, true);
        let default = || format!("Copy-of-VM-{}", source.get("name").unwrap_or("template"));
        config.insert("name".into(), clone.name.clone().unwrap_or_else(default));
        if let Some(description) = &clone.description {
            config.insert("description".into(), description.clone());
        }
        self.remember_broadcast(clone.newid);
        if let Some(vm) = self.vms.get_mut(&clone.newid) {
            vm.config = config;
            vm.origin = source.origin;
            if let Some(target) = &clone.target {
                vm.node.clone_from(target);
            }
            vm.pool.clone_from(&clone.pool);
        }
        self.note_mark(clone.newid);
        Ok(())
    }

    /// A fresh uuid, and a fresh generation id where there is one.
    pub(super) fn identify(&mut self, config: &mut BTreeMap<String, String>, keep_rest: bool) {
        let old = config
            .get("smbios1")
            .filter(|_| keep_rest)
            .cloned()
            .unwrap_or_default();
        let rest = old
            .split(',')
            .filter(|part| !part.is_empty() && !part.starts_with("uuid="));
        let uuid = format!("uuid={}", self.rng.uuid());
        let smbios: Vec<_> = std::iter::once(uuid.as_str()).chain(rest).collect();
        config.insert("smbios1".into(), smbios.join(","));
        if let Some(id) = config.get_mut("vmgenid") {
            *id = self.rng.uuid();
        }
    }

    pub(super) fn copy_disk(
        &mut self,
        clone: &CloneWork,
        from: &str,
        drive: &Drive,
    ) -> Result<Drive, String> {
        if drive.is_cdrom() && !drive.is_cloudinit() {
            return Ok(drive.clone());
        }
        let storage = match &clone.storage {
            Some(storage) => storage.as_str(),
            None => drive.storage().unwrap_or_default(),
        };
        let size = drive.size().unwrap_or(4 << 20);
        let to = clone.target.as_deref().unwrap_or(&clone.node).to_owned();
        let source = self.volume(from, &drive.file).is_some();
        if !source && !drive.is_cloudinit() {
            return Err(format!("clone failed: no such volume '{}'", drive.file));
        }
        if !clone.full && !drive.is_cloudinit() {
            return self.link_disk(clone, &to, drive, size);
        }
        self.room(&to, storage, occupied(size))
            .map_err(|reason| format!("clone failed: {reason}"))?;
        let format = clone.format.clone();
        let volid = self.allocate(&to, storage, clone.newid, size, format)?;
        Ok(Drive {
            file: volid,
            rest: drive.rest.clone(),
        })
    }

    /// A linked clone's disk lies where the original lies. File storages name the original in the
    /// volume id.
    fn link_disk(
        &mut self,
        clone: &CloneWork,
        to: &str,
        drive: &Drive,
        size: u64,
    ) -> Result<Drive, String> {
        let storage = drive.storage().unwrap_or_default();
        let made = self.allocate(to, storage, clone.newid, size, None)?;
        let original = drive.file.split_once(':').map(|(_, volume)| volume);
        let linked = match (original, made.split_once(':')) {
            (Some(original), Some((_, own))) if own.contains('/') => {
                format!("{storage}:{original}/{own}")
            }
            _ => made.clone(),
        };
        if linked != made
            && let Some(kept) = self.storages.get_mut(storage)
            && let Some(volume) = kept.remove(to, &made)
        {
            kept.insert(to, &linked, volume);
        }
        Ok(Drive {
            file: linked,
            rest: drive.rest.clone(),
        })
    }

    pub(super) fn finish_create(
        &mut self,
        vmid: u32,
        config: &[(String, String)],
        pool: Option<&str>,
        start: bool,
    ) -> Result<(), String> {
        let changes: Vec<_> = config
            .iter()
            .map(|(key, value)| (key.clone(), Some(value.clone())))
            .collect();
        self.apply_changes(vmid, &changes)?;
        let mut fresh = match self.vms.get(&vmid) {
            Some(vm) => vm.config.clone(),
            None => return Err(missing("localhost", vmid)),
        };
        if !fresh.contains_key("smbios1") {
            self.identify(&mut fresh, false);
        }
        fresh.remove("lock");
        self.remember_broadcast(vmid);
        if let Some(vm) = self.vms.get_mut(&vmid) {
            vm.config = fresh;
            vm.pool = pool.map(str::to_owned);
        }
        self.note_mark(vmid);
        if start {
            self.finish_start(vmid)
        } else {
            Ok(())
        }
    }

    /// Removes a VM that never got finished, with every disk made for it.
    pub(super) fn discard(&mut self, vmid: u32, by: &str) {
        let unfinished = |vm: &Vm| matches!(vm.lock(), Some("clone" | "create"));
        if !self.vms.get(&vmid).is_some_and(unfinished) {
            return;
        }
        let mut debris = Vec::new();
        for storage in self.storages.values() {
            let ours = storage
                .all()
                .filter(|(_, _, volume)| volume.vmid == Some(vmid));
            debris.extend(ours.map(|(node, volid, _)| (node.to_owned(), volid.to_owned())));
        }
        for (node, volid) in debris {
            self.remove_volume(&node, &volid);
        }
        self.remove_vm(vmid, by);
    }
}
