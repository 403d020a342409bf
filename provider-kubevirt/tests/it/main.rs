//! Integration tests: one binary, modules mirror `src`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "in a test, a panic is the report"
)]

mod budget;
mod defects;
mod machine;
mod site;
mod steady;
