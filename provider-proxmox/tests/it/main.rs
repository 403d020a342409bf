//! Integration tests: one binary, modules mirror `src`.

mod api;
mod machine;
mod seed;
mod world;
