//! What a machine keeps while it is off.

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};

use bytes::Bytes;

use crate::guest::network::Network;
use crate::workload::Join;

/// Everything written by one guest together. The largest real thing is the user-data itself, and
/// Kubernetes limits a Secret to 1 MiB.
const WRITTEN_BYTES_MAX: usize = 16 << 20;

/// Folders that live in memory and are empty after a boot.
const VOLATILE: [&str; 2] = ["/run/", "/tmp/"];

/// The disk of a guest: what it wrote, and what it became.
///
/// The default is the disk of a fresh clone of a template.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Disk {
    files: BTreeMap<String, Written>,
    pub(super) hostname: Option<String>,
    /// The instance that cloud-init ran for; it runs its modules once per instance.
    pub(super) instance_id: Option<String>,
    /// What cloud-init rendered, used when the seed is gone.
    pub(super) network: Option<Network>,
    /// How the kubelet comes back after a restart.
    pub(super) membership: Option<Join>,
    /// Whether this machine ran `kubeadm init`.
    pub(super) made_cluster: bool,
    /// The file that kubeadm was run with.
    pub(super) kubeadm_config: Option<String>,
    /// How cloud-init ended.
    pub(super) outcome: Option<Result<(), String>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Written {
    bytes: Bytes,
    permissions: u32,
}

/// There is no room for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no space left on device")]
pub(super) struct Full;

impl Disk {
    /// The content of a file.
    pub fn file(&self, path: &str) -> Option<&Bytes> {
        self.files.get(path).map(|written| &written.bytes)
    }

    /// The permission bits of a file.
    pub fn permissions(&self, path: &str) -> Option<u32> {
        self.files.get(path).map(|written| written.permissions)
    }

    /// The paths of all files that were written, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The host name, once one was set.
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// The instance that cloud-init ran for.
    pub fn instance_id(&self) -> Option<&str> {
        self.instance_id.as_deref()
    }

    /// Whether the machine became a member of a cluster.
    pub fn is_member(&self) -> bool {
        self.membership.is_some()
    }

    /// The path of the configuration that kubeadm was last run with.
    pub fn kubeadm_config(&self) -> Option<&str> {
        self.kubeadm_config.as_deref()
    }

    pub(super) fn write(
        &mut self,
        path: impl Into<String>,
        bytes: impl Into<Bytes>,
        permissions: u32,
    ) -> Result<(), Full> {
        let (path, bytes) = (path.into(), bytes.into());
        let others: usize = self
            .files
            .iter()
            .filter(|(other, _)| **other != path)
            .map(|(other, written)| other.len() + written.bytes.len())
            .sum();
        if others + path.len() + bytes.len() > WRITTEN_BYTES_MAX {
            return Err(Full);
        }
        self.files.insert(path, Written { bytes, permissions });
        Ok(())
    }

    pub(super) fn append(&mut self, path: &str, more: &[u8], permissions: u32) -> Result<(), Full> {
        let mut bytes = self.file(path).map(|old| old.to_vec()).unwrap_or_default();
        bytes.extend_from_slice(more);
        self.write(path, bytes, permissions)
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.files.remove(path);
    }

    /// The files below a folder, with their paths.
    pub(super) fn below<'a>(
        &'a self,
        folder: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Bytes)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.starts_with(folder))
            .map(|(path, written)| (path.as_str(), &written.bytes))
    }

    /// The power went: what lives in memory is lost.
    pub(super) fn forget_volatile(&mut self) {
        self.files
            .retain(|path, _| !VOLATILE.iter().any(|folder| path.starts_with(folder)));
    }
}

// Files hold keys and tokens, so only their paths and sizes are shown.
impl Debug for Disk {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let files: BTreeMap<&str, usize> = self
            .files
            .iter()
            .map(|(path, written)| (path.as_str(), written.bytes.len()))
            .collect();
        out.debug_struct("Disk")
            .field("files", &files)
            .field("hostname", &self.hostname)
            .field("instance_id", &self.instance_id)
            .field("network", &self.network)
            .field("membership", &self.membership)
            .field("made_cluster", &self.made_cluster)
            .field("kubeadm_config", &self.kubeadm_config)
            .field("outcome", &self.outcome)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_in_memory_goes_with_the_power_and_content_never_shows() {
        let mut disk = Disk::default();
        disk.write("/run/a", "secret", 0o600).expect("fits");
        disk.write("/etc/b", "secret", 0o640).expect("fits");
        assert!(!format!("{disk:?}").contains("secret"));
        disk.forget_volatile();
        assert_eq!(disk.paths().collect::<Vec<_>>(), ["/etc/b"]);
        assert_eq!(disk.permissions("/etc/b"), Some(0o640));
    }

    #[test]
    fn a_disk_is_full_at_its_limit_and_rewriting_frees_room() {
        let mut disk = Disk::default();
        let large = vec![0; WRITTEN_BYTES_MAX - 10];
        disk.write("/a", large.clone(), 0o600).expect("fits");
        assert_eq!(disk.write("/b", vec![0; 20], 0o600), Err(Full));
        disk.write("/a", large, 0o600).expect("replaces itself");
        disk.append("/a", b"1234", 0o600).expect("fits");
    }
}
