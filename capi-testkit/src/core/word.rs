//! Names that Cluster API's controllers write and read: kinds, labels, annotations, finalizers,
//! field managers.

use kube::core::ApiResource;

use super::object::Kind;

pub(crate) const CORE_GROUP: &str = "cluster.x-k8s.io";
pub(crate) const CORE_API: &str = "cluster.x-k8s.io/v1beta2";
pub(crate) const BOOTSTRAP_API: &str = "bootstrap.cluster.x-k8s.io/v1beta2";
pub(crate) const CONTROL_PLANE_API: &str = "controlplane.cluster.x-k8s.io/v1beta2";
pub(crate) const IPAM_API: &str = "ipam.cluster.x-k8s.io/v1beta2";

pub(crate) static CLUSTER: Kind = Kind::fixed(CORE_GROUP, "Cluster");
pub(crate) static MACHINE: Kind = Kind::fixed(CORE_GROUP, "Machine");
pub(crate) static MACHINE_SET: Kind = Kind::fixed(CORE_GROUP, "MachineSet");
pub(crate) static MACHINE_DEPLOYMENT: Kind = Kind::fixed(CORE_GROUP, "MachineDeployment");
pub(crate) static MACHINE_HEALTH_CHECK: Kind = Kind::fixed(CORE_GROUP, "MachineHealthCheck");
pub(crate) static KUBEADM_CONFIG: Kind = Kind::fixed("bootstrap.cluster.x-k8s.io", "KubeadmConfig");
pub(crate) static KUBEADM_CONTROL_PLANE: Kind =
    Kind::fixed("controlplane.cluster.x-k8s.io", "KubeadmControlPlane");
pub(crate) static IP_ADDRESS_CLAIM: Kind = Kind::fixed("ipam.cluster.x-k8s.io", "IPAddressClaim");
pub(crate) static IP_ADDRESS: Kind = Kind::fixed("ipam.cluster.x-k8s.io", "IPAddress");
pub(crate) static IN_CLUSTER_POOL: Kind = Kind::fixed("ipam.cluster.x-k8s.io", "InClusterIPPool");
pub(crate) static GLOBAL_POOL: Kind = Kind::fixed("ipam.cluster.x-k8s.io", "GlobalInClusterIPPool");
pub(crate) static CRD: Kind = Kind::fixed("apiextensions.k8s.io", "CustomResourceDefinition");
pub(crate) static SECRET: Kind = Kind::fixed("", "Secret");

pub(crate) const CLUSTER_NAME_LABEL: &str = "cluster.x-k8s.io/cluster-name";
pub(crate) const DEPLOYMENT_NAME_LABEL: &str = "cluster.x-k8s.io/deployment-name";
pub(crate) const SET_NAME_LABEL: &str = "cluster.x-k8s.io/set-name";
pub(crate) const TEMPLATE_HASH_LABEL: &str = "machine-template-hash";
pub(crate) const CONTROL_PLANE_LABEL: &str = "cluster.x-k8s.io/control-plane";
pub(crate) const CONTROL_PLANE_NAME_LABEL: &str = "cluster.x-k8s.io/control-plane-name";
pub(crate) const INTERRUPTIBLE_LABEL: &str = "cluster.x-k8s.io/interruptible";

pub(crate) const PAUSED_ANNOTATION: &str = "cluster.x-k8s.io/paused";
pub(crate) const CLONED_FROM_NAME: &str = "cluster.x-k8s.io/cloned-from-name";
pub(crate) const CLONED_FROM_GROUPKIND: &str = "cluster.x-k8s.io/cloned-from-groupkind";
pub(crate) const DELETE_MACHINE: &str = "cluster.x-k8s.io/delete-machine";
pub(crate) const SKIP_REMEDIATION: &str = "cluster.x-k8s.io/skip-remediation";
pub(crate) const REMEDIATE_MACHINE: &str = "cluster.x-k8s.io/remediate-machine";
pub(crate) const PRE_DRAIN_HOOK: &str = "pre-drain.delete.hook.machine.cluster.x-k8s.io";
pub(crate) const PRE_TERMINATE_HOOK: &str = "pre-terminate.delete.hook.machine.cluster.x-k8s.io";
pub(crate) const CONTROL_PLANE_CLEANUP_HOOK: &str =
    "pre-terminate.delete.hook.machine.cluster.x-k8s.io/kcp-cleanup";
pub(crate) const EXCLUDE_DRAINING: &str = "machine.cluster.x-k8s.io/exclude-node-draining";
pub(crate) const EXCLUDE_VOLUME_DETACH: &str =
    "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach";
/// The Go provider compares whole kubeadm configurations; a hash says the same in one annotation.
pub(crate) const CONFIGURATION_HASH: &str = "controlplane.cluster.x-k8s.io/configuration-hash";
pub(crate) const REVISION: &str = "machinedeployment.clusters.x-k8s.io/revision";

pub(crate) const CLUSTER_FINALIZER: &str = "cluster.cluster.x-k8s.io";
pub(crate) const MACHINE_FINALIZER: &str = "machine.cluster.x-k8s.io";
pub(crate) const MACHINE_SET_FINALIZER: &str = "cluster.x-k8s.io/machineset";
pub(crate) const MACHINE_DEPLOYMENT_FINALIZER: &str = "cluster.x-k8s.io/machinedeployment";
pub(crate) const CONTROL_PLANE_FINALIZER: &str = "kubeadm.controlplane.cluster.x-k8s.io";

/// The type of the Secrets that Cluster API makes.
pub(crate) const SECRET_TYPE: &str = "cluster.x-k8s.io/secret";

/// Field managers, one per actor, so that the owner of a field can be told.
pub(crate) mod manager {
    pub(crate) const CLUSTER: &str = "capi-cluster";
    pub(crate) const MACHINE: &str = "capi-machine";
    pub(crate) const MACHINE_SET: &str = "capi-machineset";
    pub(crate) const MACHINE_SET_METADATA: &str = "capi-machineset-metadata";
    pub(crate) const MACHINE_DEPLOYMENT: &str = "capi-machinedeployment";
    pub(crate) const MACHINE_HEALTH_CHECK: &str = "capi-machinehealthcheck";
    pub(crate) const CONTROL_PLANE: &str = "capi-kubeadmcontrolplane";
    pub(crate) const CONTROL_PLANE_METADATA: &str = "capi-kubeadmcontrolplane-metadata";
    pub(crate) const BOOTSTRAP: &str = "capi-kubeadmbootstrap";
    pub(crate) const IPAM: &str = "ipam-in-cluster";
}

/// The API resource of a kind whose version and plural are known.
pub(crate) fn resource(kind: &Kind, version: &str, plural: &str) -> ApiResource {
    let api_version = if kind.group.is_empty() {
        version.to_owned()
    } else {
        format!("{}/{version}", kind.group)
    };
    ApiResource {
        group: kind.group.to_string(),
        version: version.to_owned(),
        api_version,
        kind: kind.kind.to_string(),
        plural: plural.to_owned(),
    }
}
