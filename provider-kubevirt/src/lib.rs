//! Cluster API infrastructure provider for KubeVirt.
//!
//! The library decides and talks to the infra cluster, the Kubernetes cluster where KubeVirt runs; the
//! binary beside it adds the engine of `capi-core`, and nothing else does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`admission`] | rules for webhooks |
//! | [`api`] | the custom resources and their definitions |
//! | [`doctor`] | whether an infra cluster can be used |
//! | [`infra`] | the client for the infra cluster, views of KubeVirt's kinds, the watch cache |
//! | [`session`] | a connected client, and what its users share |
//! | [`connect`] | from credentials to a session |
//! | [`vm`] | the VirtualMachine that a machine asks for, pure |
//! | [`rights`], [`tenant`] | what is done in a namespace, and who may do it |
//! | [`login`] | asking guests over SSH, if that is asked for: who may ask what, and when |
//! | `ssh` | what speaks SSH, with the feature `ssh` |
//! | [`network`] | static addresses of a machine's networks, pure |
//! | [`service`] | the Service in front of a control plane, pure |
//! | [`cluster`] | KubevirtCluster on the seam |
//! | [`machine`] | KubevirtMachine on the seam |

pub mod admission;
pub mod api;
pub mod cluster;
pub mod connect;
pub mod doctor;
pub mod infra;
pub mod login;
pub mod machine;
pub mod network;
pub mod rights;
pub mod service;
pub mod session;
#[cfg(feature = "ssh")]
pub mod ssh;
pub mod tenant;
pub mod vm;
