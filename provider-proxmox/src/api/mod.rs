//! The custom resources of the provider: `infrastructure.cluster.x-k8s.io/v1alpha2`.
//!
//! Four kinds, drop-in compatible with the objects that users of the Go provider for Proxmox VE
//! (CAPMOX) have in their repositories and clusters: the same group, version, names, fields,
//! defaults and refusals. What is ours comes on top and is optional.
//!
//! | Kind | short | what it describes |
//! |---|---|---|
//! | [`ProxmoxCluster`] | | nodes to schedule on, address ranges, name servers, credentials |
//! | [`ProxmoxClusterTemplate`] | `pct` | the same, for a ClusterClass |
//! | [`ProxmoxMachine`] | `moxm` | one virtual machine: template, size, disk, network |
//! | [`ProxmoxMachineTemplate`] | `pmt` | the same, as MachineDeployments and control planes use it |
//!
//! # Reading objects
//!
//! Objects may come from a server that applied the defaults of the schema, or from a file, where
//! nobody did. Every default is therefore applied while decoding, too, and read through a field
//! or an accessor that always has a value. Unknown fields are ignored; a field that is not set is
//! left out when an object is written, never `null` (rule CRD-10).
//!
//! # Definitions
//!
//! [`crds`] returns the CustomResourceDefinitions. They are compared with the files in `crds/`
//! by a test; `UPDATE_GOLDEN=1 cargo test -p provider-proxmox golden` writes the files anew.

mod cluster;
mod machine;
mod network;
mod schema;
mod status;
mod template;

pub use cluster::{
    ApiEndpoint, CloneSpec, IpConfig, MachineClass, ProxmoxCluster, ProxmoxClusterSpec,
    SchedulerHints, SecretRef, ZoneConfig, ZoneNetwork,
};
pub use machine::{
    Checks, DiskFormat, DiskSize, Disks, MatchPolicy, MetadataSettings, ProxmoxMachine,
    ProxmoxMachineSpec, TemplateSelector, TemplateSource, VmIdRange,
};
pub use network::{
    DeviceModel, NetworkDevice, NetworkSpec, PoolRef, Route, RoutingPolicy, VrfDevice,
};
pub use schema::crds;
pub use status::{
    DeviceAddresses, DeviceStatus, InClusterZoneRef, LocalRef, NodeLocation, NodeLocations,
    ProxmoxClusterStatus, ProxmoxMachineStatus,
};
pub use template::{
    ProxmoxClusterTemplate, ProxmoxClusterTemplateResource, ProxmoxClusterTemplateSpec,
    ProxmoxMachineTemplate, ProxmoxMachineTemplateResource, ProxmoxMachineTemplateSpec,
};

/// API group of all kinds (rule CRD-11).
pub const GROUP: &str = "infrastructure.cluster.x-k8s.io";

/// The only version served here.
pub const VERSION: &str = "v1alpha2";

/// Finalizer of a [`ProxmoxCluster`]; the Go provider's name, so that either can take over.
pub const CLUSTER_FINALIZER: &str = "proxmoxcluster.infrastructure.cluster.x-k8s.io";

/// Finalizer of a [`ProxmoxMachine`]; the Go provider's name, so that either can take over.
pub const MACHINE_FINALIZER: &str = "proxmoxmachine.infrastructure.cluster.x-k8s.io";

/// Finalizer on the credentials Secret while clusters of its namespace use it; the Go provider's
/// name, so that either can take over.
pub const CREDENTIALS_FINALIZER: &str = "proxmoxcluster.infrastructure.cluster.x-k8s.io/secret";

/// Label on pools, address claims and machines that says to which deployment zone they belong.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/proxmox-zone";

/// The zone of machines that name none: addresses come from the cluster's own ranges.
pub const DEFAULT_ZONE: &str = "default";

/// The first network device, and the name of a device that has none.
pub const DEFAULT_DEVICE: &str = "net0";

/// What a provider id starts with; the SMBIOS UUID of the virtual machine follows.
pub const PROVIDER_ID_SCHEME: &str = "proxmox://";

/// Serde default of fields that are true unless said otherwise.
fn enabled() -> bool {
    true
}
