//! The client for the Proxmox VE API.
//!
//! [`Transport`] is one HTTP exchange and the only place with IO: [`Https`] in production, the
//! in-memory face of a simulator in tests. [`Client`] adds authentication, time limits, the
//! envelope and typed calls. [`Error`] says what was attempted and what the backend meant, decided
//! by one table over texts and status codes ([`Refusal::of`]).

mod client;
mod config;
mod decode;
mod error;
mod listing;
mod tls;
mod transport;
mod upid;

pub use client::{Client, CloneRequest, Image, LIFETIME_OF_A_REQUEST, Quick};
pub use config::Config;
pub use error::{Error, Fault, Refusal};
pub use listing::{Power, Resource, ResourceKind, TaskRow, TaskState, VmStatus};
pub use tls::{Fingerprint, FingerprintError, Trust, TrustError};
pub use transport::{Https, Transport, TransportError};
pub use upid::{Upid, UpidError};
