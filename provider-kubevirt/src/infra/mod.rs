//! The infra cluster: the Kubernetes cluster where KubeVirt runs the VMs.
//!
//! | file | what it holds |
//! |---|---|
//! | `client` | single requests: get, create, change, delete |
//! | `view` | KubeVirt's and CDI's kinds, as far as we read them |
//! | `cache` | what the watches brought, and what our own requests answered |
//! | `watch` | keeping a cache up to date |
//! | `error` | what can go wrong, with its class |

mod cache;
mod client;
mod error;
mod view;
mod watch;

pub use cache::{Cache, Watched};
pub use client::{Deletion, Infra, Namespaced, Version};
pub use error::InfraError;
pub use view::{
    ConditionView, DataVolumeStatus, DataVolumeView, IngressView, InstanceSpec, InstanceStatus,
    InstanceView, InterfaceView, LoadBalancerView, MigrationSpec, MigrationStatus, MigrationView,
    NetworkView, SecretRefView, ServiceStatus, ServiceView, VmSpec, VmStatus, VmView, VolumeView,
};
pub(crate) use watch::{OF_CLUSTERS, OF_MACHINES, cluster_of, follow, machine_of, mark_in};
