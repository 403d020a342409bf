//! Integration tests: one binary, modules mirror `src`.
mod guest;

mod schema;
mod sweep;
