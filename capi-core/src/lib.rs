//! The generic reconciler engine for Cluster API infrastructure providers.

mod client;
mod engine;
mod events;
mod options;
mod provider;
mod telemetry;

pub use client::client;
pub use engine::Clock;
pub use options::{Leadership, Options};
pub use provider::{Provider, RunError};
pub use telemetry::Telemetry;
