//! Storages and the volumes in them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::builder::StorageSpec;

/// What a disk takes of its size: images are sparse, and an operating system fills little.
const SPARSE_SHARE: u64 = 8;

/// The bytes that a new disk of this size takes.
pub(crate) fn occupied(size: u64) -> u64 {
    size / SPARSE_SHARE
}

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

impl Volume {
    fn occupied(&self) -> u64 {
        if self.content == "images" {
            occupied(self.size)
        } else {
            self.size
        }
    }
}

/// The volumes in one place, and what they take together.
#[derive(Clone, Debug, Default)]
struct Shelf {
    volumes: BTreeMap<String, Volume>,
    used: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) spec: StorageSpec,
    /// By node; where shared, all under the empty name.
    shelves: BTreeMap<String, Shelf>,
    /// Whether the next thing stored finds no space.
    pub(crate) full: bool,
    /// Clones that run onto it now, on all nodes.
    pub(crate) clones: usize,
}

impl Storage {
    pub(crate) fn new(spec: StorageSpec) -> Self {
        Self {
            spec,
            shelves: BTreeMap::new(),
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

    fn shelf(&self, node: &str) -> Option<&Shelf> {
        self.shelves.get(if self.spec.shared { "" } else { node })
    }

    fn shelf_mut(&mut self, node: &str) -> &mut Shelf {
        let place = if self.spec.shared { "" } else { node };
        self.shelves.entry(place.to_owned()).or_default()
    }

    pub(crate) fn volume(&self, node: &str, volid: &str) -> Option<&Volume> {
        self.shelf(node)?.volumes.get(volid)
    }

    pub(crate) fn insert(&mut self, node: &str, volid: &str, volume: Volume) {
        let shelf = self.shelf_mut(node);
        shelf.used += volume.occupied();
        if let Some(old) = shelf.volumes.insert(volid.to_owned(), volume) {
            shelf.used -= old.occupied();
        }
    }

    pub(crate) fn remove(&mut self, node: &str, volid: &str) -> Option<Volume> {
        let shelf = self.shelf_mut(node);
        let volume = shelf.volumes.remove(volid)?;
        shelf.used -= volume.occupied();
        Some(volume)
    }

    pub(crate) fn resize(&mut self, node: &str, volid: &str, size: u64) {
        if let Some(volume) = self.remove(node, volid) {
            self.insert(node, volid, Volume { size, ..volume });
        }
    }

    /// The volumes that a node sees.
    pub(crate) fn on_node(&self, node: &str) -> impl Iterator<Item = (&str, &Volume)> {
        let volumes = self
            .shelf(node)
            .into_iter()
            .flat_map(|shelf| &shelf.volumes);
        volumes.map(|(volid, volume)| (volid.as_str(), volume))
    }

    /// All volumes with the node they lie on, which is empty where shared.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &Volume)> {
        self.shelves.iter().flat_map(|(node, shelf)| {
            let volumes = shelf.volumes.iter();
            volumes.map(|(volid, volume)| (node.as_str(), volid.as_str(), volume))
        })
    }

    pub(crate) fn used(&self, node: &str) -> u64 {
        match self.shelf(node) {
            _ if self.full => self.spec.total,
            Some(shelf) => shelf.used.min(self.spec.total),
            None => 0,
        }
    }

    /// Whether so many bytes more fit.
    pub(crate) fn fits(&self, node: &str, size: u64) -> bool {
        !self.full && self.used(node) + size <= self.spec.total
    }

    /// A name for a new disk of a VM that is not yet in use on that node.
    pub(crate) fn free_disk_name(&self, node: &str, vmid: u32, format: &str) -> String {
        let taken = |volid: &str| self.volume(node, volid).is_some();
        let name = |n: usize| match self.spec.kind {
            "dir" | "nfs" => format!("{}:{vmid}/vm-{vmid}-disk-{n}.{format}", self.spec.id),
            _ => format!("{}:vm-{vmid}-disk-{n}", self.spec.id),
        };
        let most = self.shelf(node).map_or(0, |shelf| shelf.volumes.len());
        (0..=most)
            .map(name)
            .find(|volid| !taken(volid))
            .unwrap_or_else(|| name(most))
    }

    /// The format of a disk here, where none is asked for.
    pub(crate) fn default_format(&self) -> &'static str {
        match self.spec.kind {
            "dir" | "nfs" => "qcow2",
            _ => "raw",
        }
    }
}
