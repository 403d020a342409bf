//! Integration tests: one binary, modules mirror `src`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_in_result,
    clippy::needless_pass_by_value,
    reason = "in a test, a panic is the report, and helper functions of tests are tests too"
)]

mod budget;
mod cluster;
mod defects;
mod doctor;
mod drain;
mod machine;
mod network;
mod program;
mod record;
mod shape;
mod site;
#[cfg(feature = "ssh")]
mod ssh;
mod steady;
mod sweep;
mod takeover;
mod templates;
mod tenancy;
mod trouble;
