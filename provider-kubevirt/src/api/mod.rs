//! The custom resources of the provider: `infrastructure.cluster.x-k8s.io/v1alpha1`.
//!
//! Four kinds, drop-in compatible with the objects that users of the Go provider for KubeVirt
//! (CAPK) have in their repositories and clusters: the same group, version, names, fields and
//! defaults. What is ours comes on top and is optional.
//!
//! | Kind | short | what it describes |
//! |---|---|---|
//! | [`KubevirtCluster`] | | where the VMs run, how the control plane is reached |
//! | [`KubevirtClusterTemplate`] | `kct` | the same, for a ClusterClass |
//! | [`KubevirtMachine`] | | one virtual machine |
//! | [`KubevirtMachineTemplate`] | | the same, as MachineDeployments and control planes use it |
//!
//! # What passes through
//!
//! `virtualMachineTemplate.spec` is KubeVirt's own `VirtualMachineSpec` and
//! `controlPlaneServiceTemplate.spec` a `ServiceSpec`. Neither is described here: whatever the
//! KubeVirt and Kubernetes of the infra cluster understand can be written, and what they refuse
//! comes back as the message of a condition. Of both we read only the few fields that we act upon.
//!
//! # Definitions
//!
//! [`crds`] returns the CustomResourceDefinitions. They are compared with the files in `crds/`
//! by a test; `UPDATE_GOLDEN=1 cargo test -p provider-kubevirt golden` writes the files anew.

mod cluster;
mod machine;
mod network;
mod reference;
mod schema;
mod status;
mod template;

pub use cluster::{
    ApiEndpoint, KubevirtCluster, KubevirtClusterSpec, ServiceTemplate, SshKeys, Zone,
};
pub use machine::{
    BootstrapCheck, BootstrapDataSource, CheckStrategy, KubevirtMachine, KubevirtMachineSpec,
    VirtualMachineTemplate,
};
pub use network::{AddressPool, NetworkInterface};
pub use reference::{ObjectReference, TemplateMetadata};
pub use schema::crds;
pub use status::{KubevirtClusterStatus, KubevirtMachineStatus, KubevirtMachineTemplateStatus};
pub use template::{
    KubevirtClusterTemplate, KubevirtClusterTemplateResource, KubevirtClusterTemplateSpec,
    KubevirtMachineTemplate, KubevirtMachineTemplateResource, KubevirtMachineTemplateSpec,
};

/// API group of all kinds (rule CRD-11).
pub const GROUP: &str = "infrastructure.cluster.x-k8s.io";

/// The only version served here.
pub const VERSION: &str = "v1alpha1";

/// Finalizer of a [`KubevirtCluster`]; the Go provider's name, so that either can take over.
pub const CLUSTER_FINALIZER: &str = "kubevirtcluster.infrastructure.cluster.x-k8s.io";

/// Finalizer of a [`KubevirtMachine`]; the Go provider's name, so that either can take over.
pub const MACHINE_FINALIZER: &str = "kubevirtmachine.infrastructure.cluster.x-k8s.io";

/// What a provider id starts with; the name of the VirtualMachine follows, and nothing else: the
/// cloud controller manager for KubeVirt writes the same into the Node.
pub const PROVIDER_ID_SCHEME: &str = "kubevirt://";

/// Label on everything made for a machine, in the infra cluster: name of the KubevirtMachine.
pub const MACHINE_NAME_LABEL: &str = "capk.cluster.x-k8s.io/kubevirt-machine-name";

/// Label on everything made for a machine, in the infra cluster: namespace of the KubevirtMachine.
pub const MACHINE_NAMESPACE_LABEL: &str = "capk.cluster.x-k8s.io/kubevirt-machine-namespace";

/// Label on VMs: name of the VM. The Go provider sets it, and Services of users select by it.
pub const VM_LABEL: &str = "kubevirt.io/vm";

/// Label on VMs and what is selected by it: `control-plane` or `worker`.
pub const ROLE_LABEL: &str = "cluster.x-k8s.io/role";

/// Label on a VM or VMI by which a person or a program declares it failed for good; the value is the
/// reason.
pub const TERMINAL_LABEL: &str = "capk.cluster.x-k8s.io/vm-is-terminal";

/// Annotation on everything that we make in the infra cluster: the mark (R5).
pub const MARK_ANNOTATION: &str = "capi-rs.dev/mark";

/// Label of infra nodes by which failure domains are told apart unless a zone names labels.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
