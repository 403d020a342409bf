//! Integration tests: one binary. A simulated platform, the in-memory API server and a paused clock.

mod budget;
mod crash;
mod farm;
mod life;
mod trouble;
mod world;
