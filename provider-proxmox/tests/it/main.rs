//! Integration tests: one binary, modules mirror `src`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "in a test, a panic is the report"
)]

mod api;
mod bad_input;
mod budget;
mod defects;
mod fields;
mod ignition;
mod machine;
mod program;
mod seed;
mod site;
mod steady;
mod sweep;
mod templates;
mod tenancy;
mod world;
