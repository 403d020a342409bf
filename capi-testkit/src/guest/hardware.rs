//! What a machine is made of, and what is plugged into it.

use std::fmt::{Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;

use crate::guest::iso::File;

/// The address of a network card.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mac(pub [u8; 6]);

/// The text is not six hexadecimal octets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {0:?} as a MAC address")]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(bad)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        match parts.next() {
            Some(_) => Err(bad()),
            None => Ok(Self(octets)),
        }
    }
}

impl Display for Mac {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its address.
    pub mac: Mac,
    /// Whether a cable is plugged in: the bridge exists and the link is not down.
    pub link: bool,
    /// What a DHCP server on the link would give out. `None`: there is no DHCP server.
    pub dhcp: Option<IpNet>,
}

impl Nic {
    /// A connected card on a network without DHCP.
    pub fn new(mac: Mac) -> Self {
        Self {
            mac,
            link: true,
            dhcp: None,
        }
    }
}

/// The machine as its firmware describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hardware {
    /// SMBIOS UUID, lower case with hyphens.
    pub uuid: String,
    /// Network cards, in PCI order.
    pub nics: Vec<Nic>,
    /// Processor cores, all sockets together.
    pub cores: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the boot disk in GiB.
    pub disk_gib: u64,
    /// The host name that DHCP servers give out, where there are any. A system that is told none
    /// otherwise takes it.
    pub dhcp_hostname: Option<String>,
}

impl Hardware {
    /// A machine that fulfils what kubeadm asks for: 2 cores, 2 GiB.
    pub fn new(uuid: impl AsRef<str>, nics: Vec<Nic>) -> Self {
        Self {
            uuid: uuid.as_ref().to_ascii_lowercase(),
            nics,
            cores: 2,
            memory_mib: 2048,
            disk_gib: 20,
            dhcp_hostname: None,
        }
    }
}

/// Something attached that the guest can read at boot.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Medium {
    /// A CD-ROM with these bytes in it.
    Cdrom(Bytes),
    /// A drive with a file system that the platform made itself, as KubeVirt does of a Secret: there
    /// is nothing to judge in its bytes.
    Drive {
        /// The volume label.
        label: String,
        /// What is on it.
        files: Vec<File>,
    },
}

// Media hold bootstrap data, so only their size is shown.
impl std::fmt::Debug for Medium {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cdrom(bytes) => write!(out, "Cdrom({} bytes)", bytes.len()),
            Self::Drive { label, files } => write!(out, "Drive({label:?}, {files:?})"),
        }
    }
}

/// What the template that the disk was cloned from has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// `ID` of `/etc/os-release`.
    pub os_id: String,
    /// `NAME`.
    pub os_name: String,
    /// `VERSION_ID`.
    pub os_version: String,
    /// The kernel's release.
    pub kernel: String,
    /// Whether the guest agent is installed.
    pub agent: bool,
    /// Whether cloud-init is installed.
    pub cloud_init: bool,
    /// What Ignition is installed, if it is.
    pub ignition: Option<Ignition>,
    /// The version of kubelet and kubeadm, with `v`. `None`: whatever the cluster asks for, as if
    /// there were a template of each version.
    pub kubernetes: Option<String>,
}

impl Default for Image {
    /// What image-builder makes: Ubuntu with agent, cloud-init and a fitting Kubernetes.
    fn default() -> Self {
        Self {
            os_id: "ubuntu".to_owned(),
            os_name: "Ubuntu".to_owned(),
            os_version: "24.04".to_owned(),
            kernel: "6.8.0-87-generic".to_owned(),
            agent: true,
            cloud_init: true,
            ignition: None,
            kubernetes: None,
        }
    }
}

/// An Ignition as a distribution ships it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ignition {
    /// Whether it reads documents of version 2.
    pub reads_2: bool,
    /// The newest version 3 that it reads: 4 for 3.4.0.
    pub newest_3: u32,
    /// Whether the network is NetworkManager's, and not that of systemd-networkd.
    pub network_manager: bool,
}

impl Image {
    /// Flatcar Container Linux with Kubernetes: Ignition with versions 2 and 3, systemd-networkd.
    pub fn flatcar() -> Self {
        Self {
            os_id: "flatcar".to_owned(),
            os_name: "Flatcar Container Linux by Kinvolk".to_owned(),
            os_version: "4230.2.3".to_owned(),
            kernel: "6.6.100-flatcar".to_owned(),
            cloud_init: false,
            ignition: Some(Ignition {
                reads_2: true,
                newest_3: 4,
                network_manager: false,
            }),
            ..Self::default()
        }
    }

    /// Fedora CoreOS with Kubernetes: Ignition with version 3 alone, NetworkManager.
    pub fn fedora_coreos() -> Self {
        Self {
            os_id: "fedora".to_owned(),
            os_name: "Fedora Linux".to_owned(),
            os_version: "42".to_owned(),
            kernel: "6.15.10-200.fc42.x86_64".to_owned(),
            cloud_init: false,
            ignition: Some(Ignition {
                reads_2: false,
                newest_3: 5,
                network_manager: true,
            }),
            ..Self::default()
        }
    }
}

/// How long the stages of a boot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// Power on to a running kernel with the network set up; the guest agent answers from here on.
    pub kernel: Duration,
    /// From there to the start of `runcmd`.
    pub cloud_init: Duration,
    /// `kubeadm init` or `kubeadm join` until the node would be there.
    pub kubeadm: Duration,
    /// Between two tries of kubeadm's discovery.
    pub retry: Duration,
    /// How long kubeadm's discovery goes on.
    pub discovery: Duration,
}

impl Default for Pace {
    /// About what a small VM on an idle host takes; the discovery timeout is kubeadm's own 5 min.
    fn default() -> Self {
        Self {
            kernel: Duration::from_secs(8),
            cloud_init: Duration::from_secs(12),
            kubeadm: Duration::from_secs(20),
            retry: Duration::from_secs(5),
            discovery: Duration::from_secs(300),
        }
    }
}

impl Pace {
    /// Every stage takes no time, for sweeps; discovery is tried once a second.
    pub fn instant() -> Self {
        Self {
            kernel: Duration::ZERO,
            cloud_init: Duration::ZERO,
            kubeadm: Duration::ZERO,
            retry: Duration::from_secs(1),
            discovery: Duration::from_secs(300),
        }
    }

    /// Every stage `speed` times as fast.
    pub fn faster(self, speed: f64) -> Self {
        // A speed of zero or less would stop time; it counts as real time.
        let factor = if speed > 0.0 { 1.0 / speed } else { 1.0 };
        Self {
            kernel: self.kernel.mul_f64(factor),
            cloud_init: self.cloud_init.mul_f64(factor),
            kubeadm: self.kubeadm.mul_f64(factor),
            retry: self.retry.mul_f64(factor),
            discovery: self.discovery.mul_f64(factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_read_in_both_spellings_and_refused_when_wrong() {
        let mac = Mac([0xbc, 0x24, 0x11, 0, 0xa, 0xff]);
        assert_eq!("BC:24:11:00:0A:FF".parse(), Ok(mac));
        assert_eq!("bc-24-11-00-0a-ff".parse(), Ok(mac));
        assert_eq!(mac.to_string(), "bc:24:11:00:0a:ff");
        for bad in [
            "",
            "bc:24:11:00:0a",
            "bc:24:11:00:0a:ff:00",
            "bc:24:11:0:0a:ff",
            "xx:24:11:00:0a:ff",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }
}
