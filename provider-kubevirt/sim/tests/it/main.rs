//! The simulated KubeVirt in an embedded API server, on a paused clock.

mod life;
mod world;
