//! A Cluster API world in one process: a Kubernetes API server, Cluster API's own controllers,
//! guests that boot, and faults at every call.
//!
//! * [`actor`]: what simulated controllers are made of.
//! * [`apiserver`]: an in-process Kubernetes API server, in memory or over TLS.
//! * [`conformance`]: does a provider keep the contract, rule by rule.
//! * [`core`]: Cluster API core with kubeadm bootstrap and control plane, simulated.
//! * [`crds`]: the published definitions of Cluster API, the in-cluster IPAM provider, KubeVirt
//!   and CDI.
//! * [`faults`]: drops, delays, refusals and deaths at every call of every port.
//! * [`guest`]: an operating system that boots from the seed it was really given.
//! * [`ipam`]: the in-cluster IPAM provider, simulated.
//! * [`merge`]: field ownership and server-side apply.
//! * [`schema`]: pruning, defaults and validation of custom resources.
//! * [`substitute`]: variables of templates, filled in as clusterctl does.
//! * [`sweep`]: one life, with every single thing that can go wrong.
//! * [`weakness`]: providers that are weak on purpose, to see that a test can fail.
//! * [`workload`]: the workload clusters that booted machines make together.

pub mod actor;
pub mod apiserver;
pub mod budget;
pub mod conformance;
pub mod core;
pub mod crds;
pub mod faults;
pub mod guest;
pub mod ipam;
pub mod merge;
pub mod schema;
pub mod substitute;
pub mod sweep;
pub mod weakness;
pub mod workload;
