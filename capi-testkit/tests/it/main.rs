//! Integration tests: one binary, modules mirror `src`.

mod apiserver;
mod guest;
mod schema;
mod sweep;
