//! A simulated Proxmox VE cluster that speaks the real API.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod api;
mod audit;
mod builder;
mod delays;
mod fault;
mod guest;
mod hand;
mod platform;
mod property;
mod rng;
mod server;
mod tls;
mod world;

pub use crate::audit::{Record, Report, Touched};
pub use crate::builder::{Builder, NodeSpec, StorageSpec, TemplateSpec, TokenSpec};
pub use crate::delays::Delays;
pub use crate::fault::{CallFault, Faults, Rates, TaskFault};
pub use crate::guest::Guests;
pub use crate::platform::{Platform, VmView, VolumeView};
pub use crate::server::{ServeError, Server};
pub use crate::world::birth::{Birth, Maker, Twins};
