//! A simulated operating system for the machines of simulated hypervisors.
//!
//! A [`Guest`] boots from what the provider really attached: it looks for a seed on the media, does
//! with it what cloud-init and kubeadm would, and only then asks to become a node. A wrong seed means
//! no node, and the reason stands in the [console](Guest::console).
//!
//! # Flow
//!
//! ```text
//! power_on ─► kernel ─► seed, network ─► agent answers ─► write_files ─► runcmd ─► kubeadm
//!                                                                                    │
//!                       up ◄── sentinel written ◄── joined(Ok) ◄── Event::Join ◄─────┘
//! ```
//!
//! An image with Ignition instead of cloud-init ([`Image::flatcar`], [`Image::fedora_coreos`]) reads
//! the same medium: its `user-data` is an Ignition document, whose files and units are written before
//! the system starts. Then the network is what systemd-networkd or NetworkManager finds there, and
//! the enabled units run, `kubeadm.service` among them.
//!
//! The guest is a state machine without IO and without a clock. The platform that drives it
//!
//! 1. calls [`Guest::power_on`] with the machine's [`Disk`], and [`Guest::advance`] whenever
//!    [`Guest::wakes_at`] has come; `now` is the time since any fixed point, the same in all calls;
//! 2. passes each [`Event::Join`] to a [`Membership`], such as
//!    [`Workloads`](crate::workload::Workloads), and hands the answer to [`Guest::joined`];
//! 3. asks [`Guest::agent`] when its API is asked for the guest agent;
//! 4. calls [`Guest::power_off`] and keeps the disk, telling [`Membership::machine_stopped`].
//!
//! # Guarantees
//!
//! Whatever bytes are attached, nothing here panics, and what is read is bounded.
//!
//! # Caveats
//!
//! Shell commands are not run. Of `runcmd` and of units, `kubeadm init|join --config`, redirected
//! `echo`, `env` and `envsubst`, `touch`, `cp`, `mv`, `rm` of a file and failing commands (`false`,
//! `exit 1`) have an effect; everything else succeeds at once.

mod agent;
mod boot;
mod cloud_config;
mod disk;
mod hardware;
mod ignition;
mod ini;
mod iso;
mod jinja;
mod kubeadm;
mod membership;
mod network;
mod seed;
mod service;
mod shell;

pub use self::agent::{Agent, AgentError, Executed, Interface, InterfaceAddress, OsInfo};
pub use self::boot::{Event, Guest};
pub use self::disk::Disk;
pub use self::hardware::{BadMac, Hardware, Ignition, Image, Mac, Medium, Nic, Pace};
pub use self::iso::{BadIso, File, read_iso};
pub use self::kubeadm::ca_hash;
pub use self::membership::Membership;

/// Written by the bootstrap script of Cluster API once kubeadm succeeded.
pub const SENTINEL: &str = "/run/cluster-api/bootstrap-success.complete";
