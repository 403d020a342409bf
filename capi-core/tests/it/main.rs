//! Integration tests: one binary. A simulated platform, the in-memory API server and a paused clock.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_in_result,
    reason = "helper functions of tests are tests too"
)]

mod budget;
mod crash;
mod farm;
mod invariants;
mod lease;
mod life;
mod nodes;
mod rules;
mod trouble;
mod wakes;
mod world;
