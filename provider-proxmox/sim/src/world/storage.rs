//! Storages and the volumes in them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::builder::StorageSpec;

/// One volume: a disk, an ISO image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) content: &'static str,
    pub(crate) format: String,
    pub(crate) size: u64,
    pub(crate) vmid: Option<u32>,
    pub(crate) ctime: u64,
    /// What was uploaded; disks have none.
    pub(crate) bytes: Option<Bytes>,
    /// Whether it was there from the start.
    pub(crate) given: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) spec: StorageSpec,
    /// By node (empty where shared) and volume id.
    volumes: BTreeMap<(String, String), Volume>,
    /// Whether the next thing stored finds no space.
    pub(crate) full: bool,
    /// Clones that run onto it now, by node.
    pub(crate) clones: usize,
}

impl Storage {
    pub(crate) fn new(spec: StorageSpec) -> Self {
        Self {
            spec,
            volumes: BTreeMap::new(),
            full: false,
            clones: 0,
        }
    }

    pub(crate) fn is_on(&self, node: &str) -> bool {
        self.spec
            .nodes
            .as_ref()
            .is_none_or(|nodes| nodes.iter().any(|known| known == node))
    }

    pub(crate) fn holds(&self, content: &str) -> bool {
        self.spec.content.iter().any(|known| known == content)
    }

    fn place(&self, node: &str) -> String {
        if self.spec.shared {
            String::new()
        } else {
            node.to_owned()
        }
    }

    pub(crate) fn volume(&self, node: &str, volid: &str) -> Option<&Volume> {
        self.volumes.get(&(self.place(node), volid.to_owned()))
    }

    pub(crate) fn volume_mut(&mut self, node: &str, volid: &str) -> Option<&mut Volume> {
        self.volumes.get_mut(&(self.place(node), volid.to_owned()))
    }

    pub(crate) fn insert(&mut self, node: &str, volid: &str, volume: Volume) {
        self.volumes
            .insert((self.place(node), volid.to_owned()), volume);
    }

    pub(crate) fn remove(&mut self, node: &str, volid: &str) -> Option<Volume> {
        self.volumes.remove(&(self.place(node), volid.to_owned()))
    }

    /// The volumes that a node sees.
    pub(crate) fn on_node(&self, node: &str) -> impl Iterator<Item = (&str, &Volume)> {
        let place = self.place(node);
        self.volumes
            .iter()
            .filter(move |((at, _), _)| *at == place)
            .map(|((_, volid), volume)| (volid.as_str(), volume))
    }

    /// All volumes with the node they lie on, which is empty where shared.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &Volume)> {
        self.volumes
            .iter()
            .map(|((node, volid), volume)| (node.as_str(), volid.as_str(), volume))
    }

    pub(crate) fn used(&self, node: &str) -> u64 {
        if self.full {
            return self.spec.total;
        }
        self.on_node(node)
            .map(|(_, volume)| volume.size)
            .sum::<u64>()
            .min(self.spec.total)
    }

    /// Whether so much more fits. A thin pool promises more than it has.
    pub(crate) fn fits(&self, node: &str, size: u64) -> bool {
        !self.full && (self.spec.kind == "lvmthin" || self.used(node) + size <= self.spec.total)
    }

    /// A name for a new disk of a VM that is not yet in use on that node.
    pub(crate) fn free_disk_name(&self, node: &str, vmid: u32, format: &str) -> String {
        let taken = |volid: &str| self.volume(node, volid).is_some();
        let name = |n: usize| match self.spec.kind {
            "dir" | "nfs" => format!("{}:{vmid}/vm-{vmid}-disk-{n}.{format}", self.spec.id),
            _ => format!("{}:vm-{vmid}-disk-{n}", self.spec.id),
        };
        let volumes = self.volumes.len();
        (0..=volumes)
            .map(name)
            .find(|volid| !taken(volid))
            .unwrap_or_else(|| name(volumes))
    }

    /// The format of a disk here, where none is asked for.
    pub(crate) fn default_format(&self) -> &'static str {
        match self.spec.kind {
            "dir" | "nfs" => "qcow2",
            _ => "raw",
        }
    }
}
