//! Integration tests: one binary, modules mirror `src`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::unwrap_in_result,
    reason = "helper functions of tests are tests too"
)]

mod apiserver;
mod conformance;
mod core;
mod guest;
mod ipam;
mod merge;
mod schema;
mod sweep;
mod weakness;
