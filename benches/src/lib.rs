//! What the benches share: the world that the provider is measured in.

pub mod world;
