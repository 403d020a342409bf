//! Cluster API infrastructure provider for Proxmox VE.
//!
//! The library decides and talks to Proxmox VE; the binary beside it adds the engine of
//! `capi-core`, and nothing else does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`api`] | the custom resources and their definitions |
//! | [`pve`] | the client for the Proxmox VE API |

pub mod api;
pub mod pve;
