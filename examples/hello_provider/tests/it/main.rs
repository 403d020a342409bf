//! The hello provider goes through the crash sweep and the conformance kit.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helper functions of tests are tests too"
)]

mod conformance;
mod life;
mod port;
mod sweep;
