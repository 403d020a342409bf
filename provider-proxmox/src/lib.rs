//! Cluster API infrastructure provider for Proxmox VE.
//!
//! The library decides and talks to Proxmox VE; the binary beside it adds the engine of
//! `capi-core`, and nothing else does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`api`] | the custom resources and their definitions |
//! | [`network`] | network devices on the hypervisor and interfaces in the guest |
//! | [`placement`] | which template, which node, which number |
//! | [`pool`] | address pools of a cluster, address claims of a machine |
//! | [`property`] | lines of a VM's configuration, read and written |
//! | [`range`] | ranges of addresses, and whether those of a cluster can work |
//! | [`seed`] | what the first boot reads: user data, meta-data, network, as an image |
//! | [`pve`] | the client for the Proxmox VE API |
//! | [`session`] | a connected client, and what its users share |
//! | [`connect`] | from credentials to a session |
//! | [`cluster`] | ProxmoxCluster on the seam |
//! | [`machine`] | ProxmoxMachine on the seam |
//! | [`admission`] | rules that schemas cannot state, for webhooks |
//! | [`doctor`] | whether a Proxmox VE cluster can be used, and what to change |

pub mod admission;
pub mod api;
pub mod cluster;
pub mod connect;
pub mod doctor;
pub mod machine;
pub mod network;
pub mod placement;
pub mod pool;
pub mod property;
pub mod pve;
pub mod range;
pub mod seed;
pub mod session;
