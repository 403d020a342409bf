//! Integration tests: one binary, modules mirror `src`.

mod apiserver;
mod conformance;
mod guest;
mod merge;
mod schema;
mod sweep;
