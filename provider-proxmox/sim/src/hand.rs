//! What administrators, other tools and bad luck do behind a client's back.

use std::time::Duration;

use crate::builder::{GIB, TemplateSpec, TokenSpec};
use crate::platform::Platform;
use crate::world::birth::Maker;
use crate::world::vm::{Power, Vm};
use crate::world::{HaResource, Health, World};

impl Platform {
    /// Destroys a VM by hand, running or not, with its disks. False if it isn't there.
    pub fn destroy_behind_back(&self, vmid: u32) -> bool {
        self.with_world(|world| {
            let there = world.vms.contains_key(&vmid);
            world.set_power(vmid, Power::Stopped);
            world.ha.remove(&vmid);
            world.remove_vm(vmid, "hand");
            there
        })
    }

    /// Stops a VM by hand. False if it didn't run.
    pub fn stop_behind_back(&self, vmid: u32) -> bool {
        self.with_world(|world| {
            let ran = world.vms.get(&vmid).is_some_and(Vm::is_running);
            world.set_power(vmid, Power::Stopped);
            ran
        })
    }

    /// Moves a VM with its disks to another node, running or not. False if either isn't there.
    pub fn migrate_behind_back(&self, vmid: u32, target: &str) -> bool {
        self.with_world(|world| {
            let possible = world.vms.contains_key(&vmid) && world.nodes.contains_key(target);
            if possible {
                world.move_vm(vmid, target);
            }
            possible
        })
    }

    /// Changes a VM's configuration by hand; `None` deletes the key. False if it isn't there.
    pub fn edit_behind_back(&self, vmid: u32, key: &str, value: Option<&str>) -> bool {
        self.with_world(|world| {
            let Some(vm) = world.vms.get_mut(&vmid) else {
                return false;
            };
            match value {
                Some(value) => vm.config.insert(key.to_owned(), value.to_owned()),
                None => vm.config.remove(key),
            };
            world.note_mark(vmid);
            true
        })
    }

    /// Makes somebody else's VM at this id, running. False if the id is taken or the node
    /// isn't there.
    pub fn stranger(&self, vmid: u32, node: &str, name: &str) -> bool {
        self.with_world(|world| {
            if world.vms.contains_key(&vmid) || !world.nodes.contains_key(node) {
                return false;
            }
            let birth = world
                .births
                .add(vmid, node, world.elapsed(), Maker::Hand, true);
            let mut vm = Vm::new(vmid, birth, node);
            vm.config.insert("name".into(), name.to_owned());
            vm.config
                .insert("smbios1".into(), format!("uuid={}", world.rng.uuid()));
            vm.power = Power::Running {
                since: world.now,
                pid: 1,
            };
            world.vms.insert(vmid, vm);
            true
        })
    }

    /// Puts a VM under the HA manager's care.
    pub fn manage_by_ha(&self, vmid: u32) {
        self.with_world(|world| {
            let running = world.vms.get(&vmid).is_some_and(Vm::is_running);
            let state = if running { "started" } else { "stopped" }.to_owned();
            world.ha.insert(
                vmid,
                HaResource {
                    state,
                    comment: None,
                },
            );
        });
    }

    /// Adds a template.
    ///
    /// # Panics
    ///
    /// When its node or storage isn't there.
    pub fn add_template(&self, template: TemplateSpec) {
        self.with_world(|world| world.place_template(template));
    }

    /// Switches a node off: its VMs stop, its tasks end without a status, and calls to it are
    /// answered 595.
    pub fn power_off_node(&self, node: &str) {
        self.with_world(|world| world.power_off(node));
    }

    /// Lets a node fall silent: calls to it are answered 596 after the proxy's time-out, while
    /// its VMs run on.
    pub fn silence_node(&self, node: &str) {
        self.with_world(|world| world.silence(node, None));
    }

    /// The same for a while, in the cluster's time: the platform's speed divides it.
    pub fn silence_node_for(&self, node: &str, how_long: Duration) {
        self.with_world(|world| {
            let how_long = how_long.div_f64(world.speed);
            world.silence(node, Some(how_long));
        });
    }

    /// Brings a node back. Its VMs stay as they are.
    pub fn restore_node(&self, node: &str) {
        self.with_node(node, |node| node.health = Health::Online);
    }

    /// Lets something that is no VM use so much of a node's memory, in GiB.
    pub fn press_memory(&self, node: &str, gib: u64) {
        self.with_node(node, |node| node.pressure = gib * GIB);
    }

    /// Fills a storage up, or makes room on it again.
    pub fn set_storage_full(&self, storage: &str, full: bool) {
        self.with_world(|world| {
            if let Some(storage) = world.storages.get_mut(storage) {
                storage.full = full;
            }
        });
    }

    /// Takes the quorum away, or gives it back: without it nothing can be changed.
    pub fn set_quorate(&self, quorate: bool) {
        self.with_world(|world| world.quorate = quorate);
    }

    /// Adds a token, or replaces the one of that id.
    pub fn add_token(&self, token: TokenSpec) {
        self.with_world(|world| world.access.add(token));
    }

    /// Revokes a token: calls with it are answered 401.
    pub fn revoke_token(&self, id: &str) {
        self.with_world(|world| world.access.revoke(id));
    }

    /// Gives a token another secret.
    pub fn rotate_token(&self, id: &str, secret: &str) {
        self.with_world(|world| world.access.set_secret(id, secret));
    }

    /// Grants roles or privileges to a token on a path.
    pub fn grant(&self, id: &str, path: &str, privileges: &[&str]) {
        let privileges: Vec<_> = privileges.iter().map(ToString::to_string).collect();
        self.with_world(|world| world.access.grant(id, path, &privileges));
    }

    /// Takes one privilege away from a token, on all paths.
    pub fn withdraw(&self, id: &str, privilege: &str) {
        self.with_world(|world| world.access.withdraw(id, privilege));
    }

    /// Rotates the task logs away: UPIDs of ended tasks are no longer known.
    pub fn forget_tasks(&self) {
        self.with_world(|world| world.tasks.forget_ended());
    }

    /// Declares a VM somebody else's, or ours; what the API makes is ours.
    pub fn set_stranger(&self, vmid: u32, stranger: bool) {
        self.with_world(|world| {
            if let Some(birth) = world.vms.get(&vmid).map(|vm| vm.birth) {
                world.births.set_stranger(birth, stranger);
            }
        });
    }

    fn with_node(&self, node: &str, change: impl FnOnce(&mut crate::world::Node)) {
        self.with_world(|world: &mut World| {
            if let Some(node) = world.nodes.get_mut(node) {
                change(node);
            }
        });
    }
}
