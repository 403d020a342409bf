//! Integration tests: one binary, modules mirror `src`.

mod apiserver;
mod guest;
mod merge;
mod schema;
mod sweep;
