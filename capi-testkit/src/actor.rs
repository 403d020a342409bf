//! What the simulated controllers are made of: a store that watches fill, a queue, writes, a clock.
//!
//! [`Core`](crate::core::Core) and [`Ipam`](crate::ipam::Ipam) are such actors, and so is any simulated
//! platform whose API is Kubernetes' own.
//!
//! # Flow
//!
//! [`drive`] runs an [`Actor`] as one future: dropping it stops everything. Each kind that the actor
//! [wants](Hub::want) gets a watch. A [`Change`], seen by a watch or made by an own write, says through
//! [`Actor::affected`] which keys to look at; [`Actor::reconcile`] is one pass over one of them.
//!
//! # Guarantees
//!
//! At most one pass runs per key. An own write is in the store when its call returns. A pass that fails
//! is tried again with a growing delay. Only tokio's clock is used.

pub use crate::core::driver::{Actor, Again, drive};
pub use crate::core::hub::{Error, Hub, Result, difference};
pub use crate::core::object::{ConditionRef, Kind, Name, Object};
pub use crate::core::store::Change;
