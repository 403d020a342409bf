//! A Cluster API world in one process: a Kubernetes API server, Cluster API's own controllers,
//! guests that boot, and faults at every call.
//!
//! * [`apiserver`]: an in-process Kubernetes API server, in memory or over TLS.

pub mod apiserver;
