//! Integration tests: one binary, modules mirror `src`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helper functions of tests are tests too"
)]

mod instances;
