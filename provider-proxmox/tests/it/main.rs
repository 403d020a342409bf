//! Integration tests: one binary, modules mirror `src`.

mod api;
mod seed;
