//! The generic engine: knows one thing outside Kubernetes, and nothing of Cluster API.

mod clock;

pub use clock::Clock;
