//! The hello provider goes through the crash sweep.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helper functions of tests are tests too"
)]

mod life;
mod port;
mod sweep;
