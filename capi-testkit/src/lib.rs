//! A Cluster API world in one process: a Kubernetes API server, Cluster API's own controllers,
//! guests that boot, and faults at every call.
//!
//! * [`apiserver`]: an in-process Kubernetes API server, in memory or over TLS.
//! * [`faults`]: drops, delays, refusals and deaths at every call of every port.
//! * [`workload`]: the workload clusters that booted machines make together.

pub mod apiserver;
pub mod faults;
pub mod workload;
