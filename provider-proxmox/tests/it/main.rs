//! Integration tests: one binary, modules mirror `src`.

mod api;
mod bad_input;
mod machine;
mod seed;
mod world;
