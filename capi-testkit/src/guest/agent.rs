//! The guest agent: what the inside of a machine tells the hypervisor.

use std::net::{IpAddr, Ipv6Addr};

use bytes::Bytes;

use crate::guest::boot::{CloudInit, Guest};
use crate::guest::hardware::Mac;
use crate::guest::kubeadm::virtual_addresses;
use crate::guest::network::{Network, kernel_name};
use crate::workload::Role;

/// Why the agent has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// It is not installed, or the system is not up yet.
    #[error("guest agent is not running")]
    NotRunning,
    /// The file does not exist.
    #[error("failed to open file {0:?}: No such file or directory")]
    NoSuchFile(String),
}

/// A command that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Exit code.
    pub code: u8,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length in bits.
    pub prefix: u8,
}

/// A network interface as the guest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name inside the guest.
    pub name: String,
    /// Its MAC; zeros for the loopback.
    pub mac: Mac,
    /// Its addresses: configured, link-local, and those of kube-vip.
    pub addresses: Vec<InterfaceAddress>,
}

/// What `guest-get-osinfo` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OsInfo {
    /// `ID` of `/etc/os-release`.
    pub id: String,
    /// `NAME`.
    pub name: String,
    /// `PRETTY_NAME`.
    pub pretty_name: String,
    /// `VERSION_ID`.
    pub version_id: String,
    /// The kernel's release.
    pub kernel_release: String,
    /// The architecture.
    pub machine: String,
}

/// The agent of a running guest, from [`Guest::agent`].
#[derive(Debug)]
pub struct Agent<'a> {
    guest: &'a Guest,
}

impl<'a> Agent<'a> {
    pub(super) fn new(guest: &'a Guest) -> Self {
        Self { guest }
    }

    /// The host name.
    pub fn host_name(&self) -> &'a str {
        self.guest.disk().hostname().unwrap_or("localhost")
    }

    /// `guest-get-osinfo`.
    pub fn os_info(&self) -> OsInfo {
        let image = self.guest.image();
        OsInfo {
            id: image.os_id.clone(),
            name: image.os_name.clone(),
            pretty_name: format!("{} {}", image.os_name, image.os_version),
            version_id: image.os_version.clone(),
            kernel_release: image.kernel.clone(),
            machine: "x86_64".to_owned(),
        }
    }

    /// `guest-network-get-interfaces`: the loopback first, then the cards in order.
    pub fn interfaces(&self) -> Vec<Interface> {
        let network = self.guest.network();
        let mut all = vec![Interface {
            name: "lo".to_owned(),
            mac: Mac([0; 6]),
            addresses: vec![
                host(IpAddr::from([127, 0, 0, 1]), 8),
                host(Ipv6Addr::LOCALHOST.into(), 128),
            ],
        }];
        for (index, nic) in self.guest.hardware().nics.iter().enumerate() {
            all.push(card(network, index, nic.mac, nic.link));
        }
        // kube-vip's leader has the address on its first card; the machine that made the cluster
        // stays the leader here.
        if let (Some(first), true) = (all.get_mut(1), self.leads()) {
            let held = virtual_addresses(self.guest.disk());
            first.addresses.extend(
                held.into_iter()
                    .map(|address| host(address, if address.is_ipv4() { 32 } else { 128 })),
            );
        }
        all
    }

    /// `guest-file-read`.
    ///
    /// # Errors
    ///
    /// [`AgentError::NoSuchFile`].
    pub fn read_file(&self, path: &str) -> Result<Bytes, AgentError> {
        self.guest
            .disk()
            .file(path)
            .cloned()
            .ok_or_else(|| AgentError::NoSuchFile(path.to_owned()))
    }

    /// `guest-exec` of one command, to its end: `cloud-init status`, `cat`, `test -f`, `hostname`,
    /// `true`. Anything else is not found.
    pub fn execute(&self, command: &[&str]) -> Executed {
        let name = command
            .first()
            .map(|path| path.rsplit('/').next().unwrap_or(path));
        match (name, command.get(1..).unwrap_or_default()) {
            (Some("cloud-init"), ["status", options @ ..]) if !options.contains(&"--wait") => {
                self.cloud_init_status()
            }
            (Some("cat"), [path]) => match self.read_file(path) {
                Ok(bytes) => done(0, String::from_utf8_lossy(&bytes), ""),
                Err(_) => done(1, "", &format!("cat: {path}: No such file or directory\n")),
            },
            (Some("test"), ["-f" | "-e", path]) => {
                done(u8::from(self.read_file(path).is_err()), "", "")
            }
            (Some("hostname"), []) => done(0, format!("{}\n", self.host_name()), ""),
            (Some("true"), _) => done(0, "", ""),
            (name, _) => done(
                127,
                "",
                &format!("{}: command not found\n", name.unwrap_or_default()),
            ),
        }
    }

    fn cloud_init_status(&self) -> Executed {
        match self.guest.cloud_init() {
            CloudInit::NotInstalled => done(127, "", "cloud-init: command not found\n"),
            CloudInit::Disabled => done(0, "status: disabled\n", ""),
            CloudInit::Running => done(0, "status: running\n", ""),
            CloudInit::Done => done(0, "status: done\n", ""),
            CloudInit::Failed(_) => done(1, "status: error\n", ""),
        }
    }

    fn leads(&self) -> bool {
        self.guest.made_cluster()
            && self
                .guest
                .disk()
                .membership
                .as_ref()
                .is_some_and(|join| join.node.role == Role::ControlPlane)
    }
}

fn card(network: &Network, index: usize, mac: Mac, link: bool) -> Interface {
    let configured = network.interfaces.iter().find(|one| one.mac == mac);
    let mut addresses = Vec::new();
    if link && let Some(configured) = configured {
        addresses.extend(
            configured
                .addresses
                .iter()
                .map(|net| host(net.addr(), net.prefix_len())),
        );
        addresses.push(host(link_local(mac).into(), 64));
    }
    Interface {
        name: configured.map_or_else(|| kernel_name(index), |one| one.name.clone()),
        mac,
        addresses,
    }
}

fn host(address: IpAddr, prefix: u8) -> InterfaceAddress {
    InterfaceAddress { address, prefix }
}

/// The address that a kernel derives from a MAC (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let tail = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let mut octets = [0; 16];
    octets[0] = 0xfe;
    octets[1] = 0x80;
    octets[8..].copy_from_slice(&tail);
    Ipv6Addr::from(octets)
}

fn done(code: u8, out: impl Into<String>, err: &str) -> Executed {
    Executed {
        code,
        out: out.into(),
        err: err.to_owned(),
    }
}
