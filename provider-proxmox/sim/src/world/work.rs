//! What tasks do: at their beginning, at their end, and to undo themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::delays::Delays;
use crate::world::make::CloneWork;
use crate::world::storage::Volume;
use crate::world::vm::{Power, Vm};
use crate::world::{Health, World};

/// What a worker was forked to do.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Clone(Box<CloneWork>),
    Create {
        vmid: u32,
        node: String,
        pool: Option<String>,
        start: bool,
        config: Vec<(String, String)>,
    },
    Config {
        vmid: u32,
        changes: Vec<(String, Option<String>)>,
    },
    Resize {
        vmid: u32,
        disk: String,
        size: u64,
    },
    Start {
        vmid: u32,
    },
    Stop {
        vmid: u32,
    },
    Shutdown {
        vmid: u32,
    },
    Reboot {
        vmid: u32,
    },
    Resume {
        vmid: u32,
    },
    Suspend {
        vmid: u32,
    },
    Destroy {
        vmid: u32,
        purge: bool,
    },
    MakeTemplate {
        vmid: u32,
    },
    Migrate {
        vmid: u32,
        target: String,
    },
    HaStart {
        vmid: u32,
    },
    HaStop {
        vmid: u32,
    },
    Upload {
        node: String,
        storage: String,
        volid: String,
        content: &'static str,
        bytes: Bytes,
    },
    DeleteVolume {
        node: String,
        storage: String,
        volid: String,
    },
}

impl Work {
    /// The type in the UPID.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Clone(_) => "qmclone",
            Self::Create { .. } => "qmcreate",
            Self::Config { .. } => "qmconfig",
            Self::Resize { .. } => "resize",
            Self::Start { .. } => "qmstart",
            Self::Stop { .. } => "qmstop",
            Self::Shutdown { .. } => "qmshutdown",
            Self::Reboot { .. } => "qmreboot",
            Self::Resume { .. } => "qmresume",
            Self::Suspend { .. } => "qmpause",
            Self::Destroy { .. } => "qmdestroy",
            Self::MakeTemplate { .. } => "qmtemplate",
            Self::Migrate { .. } => "qmigrate",
            Self::HaStart { .. } => "hastart",
            Self::HaStop { .. } => "hastop",
            Self::Upload { .. } => "imgcopy",
            Self::DeleteVolume { .. } => "imgdel",
        }
    }

    /// The id in the UPID: of a clone the source, of an upload nothing.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Upload { .. } => String::new(),
            Self::DeleteVolume { storage, .. } => storage.clone(),
            Self::Clone(clone) => clone.source.to_string(),
            _ => self.vmid().map(|vmid| vmid.to_string()).unwrap_or_default(),
        }
    }

    /// The VM that it changes or makes.
    pub(crate) fn vmid(&self) -> Option<u32> {
        match self {
            Self::Clone(clone) => Some(clone.newid),
            Self::Create { vmid, .. }
            | Self::Config { vmid, .. }
            | Self::Resize { vmid, .. }
            | Self::Start { vmid }
            | Self::Stop { vmid }
            | Self::Shutdown { vmid }
            | Self::Reboot { vmid }
            | Self::Resume { vmid }
            | Self::Suspend { vmid }
            | Self::Destroy { vmid, .. }
            | Self::MakeTemplate { vmid }
            | Self::Migrate { vmid, .. }
            | Self::HaStart { vmid }
            | Self::HaStop { vmid } => Some(*vmid),
            Self::Upload { .. } | Self::DeleteVolume { .. } => None,
        }
    }

    /// Whether it needs space on a storage.
    pub(crate) fn stores(&self) -> bool {
        matches!(
            self,
            Self::Clone(_) | Self::Create { .. } | Self::Resize { .. } | Self::Upload { .. }
        )
    }

    pub(crate) fn duration(&self, delays: &Delays) -> Duration {
        match self {
            Self::Clone(_) => delays.clone,
            Self::Create { .. } => delays.create,
            Self::Config { .. } | Self::MakeTemplate { .. } => delays.config,
            Self::Resize { .. } => delays.resize,
            Self::Start { .. } | Self::Resume { .. } => delays.start,
            Self::Stop { .. } | Self::Suspend { .. } => delays.stop,
            Self::Shutdown { .. } => delays.shutdown,
            Self::Reboot { .. } => delays.shutdown + delays.start,
            Self::Destroy { .. } => delays.destroy,
            Self::Migrate { .. } => delays.migrate,
            Self::HaStart { .. } | Self::HaStop { .. } => delays.ha_request,
            Self::Upload { .. } => delays.upload,
            Self::DeleteVolume { .. } => delays.delete_volume,
        }
    }

    pub(crate) fn lock_timeout(&self, delays: &Delays) -> Duration {
        match self {
            Self::Clone(_) => delays.clone_lock_timeout,
            _ => delays.lock_timeout,
        }
    }

    /// The VM whose lock file it takes for itself alone.
    fn locks(&self) -> Option<u32> {
        match self {
            Self::Clone(_)
            | Self::HaStart { .. }
            | Self::HaStop { .. }
            | Self::Upload { .. }
            | Self::DeleteVolume { .. } => None,
            Self::Create { .. }
            | Self::Config { .. }
            | Self::Resize { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Shutdown { .. }
            | Self::Reboot { .. }
            | Self::Resume { .. }
            | Self::Suspend { .. }
            | Self::Destroy { .. }
            | Self::MakeTemplate { .. }
            | Self::Migrate { .. } => self.vmid(),
        }
    }

    /// What a worker says that didn't get its lock.
    pub(crate) fn lock_message(&self) -> String {
        let vmid = match self {
            Self::Clone(clone) => clone.source,
            _ => self.vmid().unwrap_or_default(),
        };
        format!("can't lock file '{}' - got timeout", lock_file(vmid))
    }
}

fn lock_file(vmid: u32) -> String {
    format!("/var/lock/qemu-server/lock-{vmid}.conf")
}

pub(super) fn missing(node: &str, vmid: u32) -> String {
    format!("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
}

impl World {
    /// Whether the lock files that a work needs are free.
    pub(crate) fn is_lockable(&self, work: &Work) -> bool {
        match work {
            Work::Clone(clone) => {
                let Some(source) = self.vms.get(&clone.source) else {
                    return true;
                };
                let busy = source.held_by.is_some() || (source.is_running() && source.readers > 0);
                let free = |id: &String| {
                    self.storages.get(id).is_none_or(|storage| {
                        storage
                            .spec
                            .clones_at_once
                            .is_none_or(|most| storage.clones < most)
                    })
                };
                !busy && clone.storages(self).iter().all(free)
            }
            _ => {
                let Some(vm) = work.locks().and_then(|vmid| self.vms.get(&vmid)) else {
                    return true;
                };
                vm.held_by.is_none() && vm.readers == 0
            }
        }
    }

    /// Takes the lock files that a work needs, or names the one that is taken.
    pub(crate) fn lock_for(&mut self, work: &Work, upid: &str) -> Result<(), String> {
        if !self.is_lockable(work) {
            return Err(match work {
                Work::Clone(clone) => lock_file(clone.source),
                _ => lock_file(work.vmid().unwrap_or_default()),
            });
        }
        if let Work::Clone(clone) = work {
            for storage in clone.storages(self) {
                if let Some(storage) = self.storages.get_mut(&storage) {
                    storage.clones += 1;
                }
            }
            if let Some(source) = self.vms.get_mut(&clone.source) {
                source.readers += 1;
            }
        } else if let Some(vm) = work.locks().and_then(|vmid| self.vms.get_mut(&vmid)) {
            vm.held_by = Some(upid.to_owned());
        }
        Ok(())
    }

    /// Gives back what [`World::lock_for`] took; harmless where it took nothing.
    pub(crate) fn unlock_for(&mut self, work: &Work, upid: &str) {
        if let Work::Clone(clone) = work {
            for storage in clone.storages(self) {
                if let Some(storage) = self.storages.get_mut(&storage) {
                    storage.clones = storage.clones.saturating_sub(1);
                }
            }
            if let Some(source) = self.vms.get_mut(&clone.source) {
                source.readers = source.readers.saturating_sub(1);
            }
        } else if let Some(vm) = work.locks().and_then(|vmid| self.vms.get_mut(&vmid))
            && vm.held_by.as_deref() == Some(upid)
        {
            vm.held_by = None;
        }
    }

    /// The state checks that a worker makes first, and what others can see while it works.
    pub(crate) fn begin_work(&mut self, work: &Work, user: &str) -> Result<(), String> {
        match work {
            Work::Clone(clone) => self.begin_clone(clone, user),
            Work::Create { vmid, node, .. } => self.begin_create(*vmid, node, user),
            Work::Config { vmid, .. } | Work::Resize { vmid, .. } | Work::MakeTemplate { vmid } => {
                self.unlocked(*vmid).map(|_| ())
            }
            Work::Start { vmid } => {
                let vm = self.unlocked(*vmid)?;
                if vm.is_template() {
                    return Err("you can't start a vm if it's a template".into());
                }
                if vm.is_running() {
                    return Err(format!("VM {vmid} already running"));
                }
                Ok(())
            }
            Work::Reboot { vmid } | Work::Resume { vmid } | Work::Suspend { vmid } => {
                let vm = self.unlocked(*vmid)?;
                if vm.is_running() {
                    Ok(())
                } else {
                    Err(format!("VM {vmid} not running"))
                }
            }
            Work::Stop { vmid } | Work::Shutdown { vmid } => self.unlocked(*vmid).map(|_| ()),
            Work::Destroy { vmid, purge } => {
                let ha = self.ha.contains_key(vmid);
                let vm = self.unlocked(*vmid)?;
                removable(vm, ha, *purge)
            }
            Work::Migrate { vmid, target } => {
                let node = self.nodes.get(target);
                let there = node.is_some_and(|node| node.health == Health::Online);
                let vm = self.unlocked_mut(*vmid)?;
                if !there {
                    return Err(format!("no such cluster node '{target}'"));
                }
                vm.config.insert("lock".into(), "migrate".into());
                Ok(())
            }
            Work::HaStart { vmid } | Work::HaStop { vmid } => {
                let managed = self.ha.contains_key(vmid);
                if managed {
                    Ok(())
                } else {
                    Err(format!("no such resource 'vm:{vmid}'"))
                }
            }
            Work::Upload {
                node,
                storage,
                bytes,
                ..
            } => self.room(node, storage, bytes.len() as u64),
            Work::DeleteVolume { .. } => Ok(()),
        }
    }

    pub(super) fn unlocked(&self, vmid: u32) -> Result<&Vm, String> {
        let vm = self
            .vms
            .get(&vmid)
            .ok_or_else(|| missing("localhost", vmid))?;
        match vm.lock() {
            Some(lock) => Err(format!("VM is locked ({lock})")),
            None => Ok(vm),
        }
    }

    pub(super) fn unlocked_mut(&mut self, vmid: u32) -> Result<&mut Vm, String> {
        self.unlocked(vmid)?;
        self.vms
            .get_mut(&vmid)
            .ok_or_else(|| missing("localhost", vmid))
    }

    pub(super) fn room(&self, node: &str, storage: &str, size: u64) -> Result<(), String> {
        let known = self.storages.get(storage);
        let known = known.ok_or_else(|| format!("storage '{storage}' does not exist"))?;
        if known.fits(node, size) {
            Ok(())
        } else {
            Err("No space left on device".into())
        }
    }

    /// What a long work shows halfway.
    pub(crate) fn halve_work(&mut self, work: &Work) {
        if let Work::Destroy { vmid, .. } = work {
            self.remember_broadcast(*vmid);
            let Some(vm) = self.vms.get(vmid) else { return };
            let (node, disks) = (vm.node.clone(), vm.disks());
            for volid in disks {
                self.remove_volume(&node, &volid);
            }
            if let Some(vm) = self.vms.get_mut(vmid) {
                self.guests.destroyed(vm.birth);
                vm.config = BTreeMap::from([("lock".to_owned(), "destroyed".to_owned())]);
                vm.pending.clear();
            }
        }
    }

    /// The effect of a work.
    pub(crate) fn finish_work(&mut self, work: &Work, user: &str) -> Result<(), String> {
        match work {
            Work::Clone(clone) => self.finish_clone(clone),
            Work::Create {
                vmid,
                config,
                pool,
                start,
                ..
            } => self.finish_create(*vmid, config, pool.as_deref(), *start),
            Work::Config { vmid, changes } => self.change_config(*vmid, changes),
            Work::Resize { vmid, disk, size } => self.finish_resize(*vmid, disk, *size),
            Work::Start { vmid } => self.finish_start(*vmid),
            Work::Stop { vmid } | Work::Shutdown { vmid } => {
                self.set_power(*vmid, Power::Stopped);
                Ok(())
            }
            Work::Reboot { vmid } => {
                self.set_power(*vmid, Power::Stopped);
                self.finish_start(*vmid)
            }
            Work::Resume { vmid } => self.pause(*vmid, false),
            Work::Suspend { vmid } => self.pause(*vmid, true),
            Work::Destroy { vmid, purge } => {
                if *purge {
                    self.ha.remove(vmid);
                }
                self.remove_vm(*vmid, user);
                Ok(())
            }
            Work::MakeTemplate { vmid } => {
                let vm = self.unlocked_mut(*vmid)?;
                vm.config.insert("template".into(), "1".into());
                Ok(())
            }
            Work::Migrate { vmid, target } => {
                self.move_vm(*vmid, target);
                if let Some(vm) = self.vms.get_mut(vmid) {
                    vm.config.remove("lock");
                }
                Ok(())
            }
            Work::HaStart { vmid } => self.request(*vmid, "started", |vmid| Work::Start { vmid }),
            Work::HaStop { vmid } => self.request(*vmid, "stopped", |vmid| Work::Stop { vmid }),
            Work::Upload {
                node,
                storage,
                volid,
                content,
                bytes,
            } => self.finish_upload(node, storage, volid, content, bytes),
            Work::DeleteVolume { node, volid, .. } => {
                self.remove_volume(node, volid);
                Ok(())
            }
        }
    }

    fn request(
        &mut self,
        vmid: u32,
        state: &str,
        work: impl FnOnce(u32) -> Work,
    ) -> Result<(), String> {
        let resource = self
            .ha
            .get_mut(&vmid)
            .ok_or_else(|| format!("no such resource 'vm:{vmid}'"))?;
        state.clone_into(&mut resource.state);
        let Some(vm) = self.vms.get(&vmid) else {
            return Err(missing("localhost", vmid));
        };
        if vm.is_running() != (state == "started") {
            let node = vm.node.clone();
            self.fork(&node, "root@pam", work(vmid));
        }
        Ok(())
    }

    fn pause(&mut self, vmid: u32, pause: bool) -> Result<(), String> {
        let vm = self.unlocked_mut(vmid)?;
        vm.power = match vm.power {
            Power::Stopped => return Err(format!("VM {vmid} not running")),
            Power::Running { since, pid } | Power::Paused { since, pid } if pause => {
                Power::Paused { since, pid }
            }
            Power::Running { since, pid } | Power::Paused { since, pid } => {
                Power::Running { since, pid }
            }
        };
        Ok(())
    }

    pub(super) fn finish_start(&mut self, vmid: u32) -> Result<(), String> {
        let vm = self.unlocked(vmid)?;
        let node = vm.node.clone();
        for (_, drive) in vm.drives() {
            let needed = drive.file != "none" && drive.file != "cdrom";
            if needed && self.volume(&node, &drive.file).is_none() {
                return Err(format!("volume '{}' does not exist", drive.file));
            }
        }
        for (_, nic) in vm.nics() {
            let known = |bridge: &str| {
                let node = self.nodes.get(&node);
                node.is_some_and(|node| node.spec.bridges.iter().any(|known| known == bridge))
            };
            if let Some(bridge) = nic.bridge().filter(|bridge| !known(bridge)) {
                return Err(format!("bridge '{bridge}' does not exist"));
            }
        }
        let total = self
            .nodes
            .get(&node)
            .map(|node| node.spec.memory)
            .unwrap_or_default();
        if self.memory_used(&node) + vm.memory() > total {
            return Err("start failed: cannot allocate memory: Cannot allocate memory".into());
        }
        let pid = u32::try_from(self.rng.next() % 4_194_304).unwrap_or_default();
        self.set_power(
            vmid,
            Power::Running {
                since: self.now,
                pid,
            },
        );
        Ok(())
    }

    fn finish_upload(
        &mut self,
        node: &str,
        storage: &str,
        volid: &str,
        content: &'static str,
        bytes: &Bytes,
    ) -> Result<(), String> {
        let size = bytes.len() as u64;
        self.room(node, storage, size)?;
        let ctime = self.time();
        let format = volid.rsplit('.').next().unwrap_or_default().to_owned();
        let volume = Volume {
            content,
            format,
            size,
            vmid: None,
            ctime,
            bytes: Some(bytes.clone()),
            given: false,
        };
        if let Some(storage) = self.storages.get_mut(storage) {
            storage.insert(node, volid, volume);
        }
        Ok(())
    }

    /// Moves a VM and its disks to another node.
    pub(crate) fn move_vm(&mut self, vmid: u32, target: &str) {
        let Some(vm) = self.vms.get(&vmid) else {
            return;
        };
        let (from, disks) = (vm.node.clone(), vm.disks());
        for volid in disks {
            let storage = volid.split_once(':').map(|(storage, _)| storage.to_owned());
            let storage = storage.and_then(|storage| self.storages.get_mut(&storage));
            if let Some(storage) = storage
                && let Some(volume) = storage.remove(&from, &volid)
            {
                storage.insert(target, &volid, volume);
            }
        }
        if let Some(vm) = self.vms.get_mut(&vmid) {
            target.clone_into(&mut vm.node);
        }
    }

    /// Undoes what [`World::begin_work`] made visible.
    pub(crate) fn undo_work(&mut self, work: &Work, user: &str) {
        match work {
            Work::Clone(clone) => self.discard(clone.newid, user),
            Work::Create { vmid, .. } => self.discard(*vmid, user),
            Work::Migrate { vmid, .. } => {
                if let Some(vm) = self.vms.get_mut(vmid) {
                    vm.config.remove("lock");
                }
            }
            Work::Config { .. }
            | Work::Resize { .. }
            | Work::Start { .. }
            | Work::Stop { .. }
            | Work::Shutdown { .. }
            | Work::Reboot { .. }
            | Work::Resume { .. }
            | Work::Suspend { .. }
            | Work::Destroy { .. }
            | Work::MakeTemplate { .. }
            | Work::HaStart { .. }
            | Work::HaStop { .. }
            | Work::Upload { .. }
            | Work::DeleteVolume { .. } => {}
        }
    }
}

/// What forbids that a VM is destroyed.
pub(crate) fn removable(vm: &Vm, ha_managed: bool, purge: bool) -> Result<(), String> {
    let vmid = vm.vmid;
    if vm.flag("protection") {
        return Err(format!("can't remove VM {vmid} - protection mode enabled"));
    }
    if ha_managed && !purge {
        return Err(format!(
            "unable to remove VM {vmid} - used in HA resources and purge parameter not set."
        ));
    }
    if vm.is_running() {
        return Err(format!("VM {vmid} is running - destroy failed"));
    }
    Ok(())
}
