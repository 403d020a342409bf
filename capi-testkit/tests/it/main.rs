//! Integration tests: one binary, modules mirror `src`.

mod apiserver;
mod conformance;
mod core;
mod guest;
mod ipam;
mod merge;
mod schema;
mod sweep;
