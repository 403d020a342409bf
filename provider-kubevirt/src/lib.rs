//! Cluster API infrastructure provider for KubeVirt.
//!
//! The library decides and talks to the infra cluster, the Kubernetes cluster where KubeVirt runs; the
//! binary beside it adds the engine of `capi-core`, and nothing else does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`api`] | the custom resources and their definitions |
//! | [`infra`] | the client for the infra cluster, views of KubeVirt's kinds, the watch cache |
//! | [`session`] | a connected client, and what its users share |
//! | [`connect`] | from credentials to a session |
//! | [`vm`] | the VirtualMachine that a machine asks for, pure |
//! | [`service`] | the Service in front of a control plane, pure |
//! | [`cluster`] | KubevirtCluster on the seam |
//! | [`machine`] | KubevirtMachine on the seam |

pub mod api;
pub mod cluster;
pub mod connect;
pub mod infra;
pub mod machine;
pub mod service;
pub mod session;
pub mod vm;
