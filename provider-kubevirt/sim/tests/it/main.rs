//! The simulated KubeVirt in an embedded API server, on a paused clock.

mod determinism;
mod fault;
mod guest;
mod life;
mod placement;
mod program;
mod service;
mod stranger;
mod update;
mod volume;
mod world;
