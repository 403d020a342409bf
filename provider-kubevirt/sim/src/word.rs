//! Names that KubeVirt and CDI write and read: kinds, finalizers, labels, annotations.

use capi_testkit::actor::Kind;
use kube::core::ApiResource;

pub(crate) const KUBEVIRT_API: &str = "kubevirt.io/v1";
pub(crate) const CDI_API: &str = "cdi.kubevirt.io/v1beta1";

pub(crate) static MACHINE: Kind = Kind::fixed("kubevirt.io", "VirtualMachine");
pub(crate) static INSTANCE: Kind = Kind::fixed("kubevirt.io", "VirtualMachineInstance");
pub(crate) static MIGRATION: Kind = Kind::fixed("kubevirt.io", "VirtualMachineInstanceMigration");
pub(crate) static INSTANCETYPE: Kind =
    Kind::fixed("instancetype.kubevirt.io", "VirtualMachineInstancetype");
pub(crate) static CLUSTER_INSTANCETYPE: Kind = Kind::fixed(
    "instancetype.kubevirt.io",
    "VirtualMachineClusterInstancetype",
);
pub(crate) static PREFERENCE: Kind =
    Kind::fixed("instancetype.kubevirt.io", "VirtualMachinePreference");
pub(crate) static CLUSTER_PREFERENCE: Kind = Kind::fixed(
    "instancetype.kubevirt.io",
    "VirtualMachineClusterPreference",
);
pub(crate) static DATA_VOLUME: Kind = Kind::fixed("cdi.kubevirt.io", "DataVolume");
pub(crate) static DATA_SOURCE: Kind = Kind::fixed("cdi.kubevirt.io", "DataSource");
pub(crate) static CLAIM: Kind = Kind::fixed("", "PersistentVolumeClaim");
pub(crate) static SECRET: Kind = Kind::fixed("", "Secret");
pub(crate) static SERVICE: Kind = Kind::fixed("", "Service");
pub(crate) static NODE: Kind = Kind::fixed("", "Node");

/// Every kind that the simulator watches, with version and plural.
pub(crate) static WATCHED: [(&Kind, &str, &str); 13] = [
    (&MACHINE, "v1", "virtualmachines"),
    (&INSTANCE, "v1", "virtualmachineinstances"),
    (&MIGRATION, "v1", "virtualmachineinstancemigrations"),
    (&INSTANCETYPE, "v1beta1", "virtualmachineinstancetypes"),
    (
        &CLUSTER_INSTANCETYPE,
        "v1beta1",
        "virtualmachineclusterinstancetypes",
    ),
    (&PREFERENCE, "v1beta1", "virtualmachinepreferences"),
    (
        &CLUSTER_PREFERENCE,
        "v1beta1",
        "virtualmachineclusterpreferences",
    ),
    (&DATA_VOLUME, "v1beta1", "datavolumes"),
    (&DATA_SOURCE, "v1beta1", "datasources"),
    (&CLAIM, "v1", "persistentvolumeclaims"),
    (&SECRET, "v1", "secrets"),
    (&SERVICE, "v1", "services"),
    (&NODE, "v1", "nodes"),
];

/// Held on a VM until its instance is gone, and on an instance until the VM has seen its end.
pub(crate) const CONTROLLER_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
/// Held on an instance until its pod is gone.
pub(crate) const INSTANCE_FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Held on a migration until its target pod is gone.
pub(crate) const MIGRATION_FINALIZER: &str = "kubevirt.io/migrationJobFinalize";
/// Held on a claim while a pod uses it; by Kubernetes, not by CDI.
pub(crate) const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";

pub(crate) const CREATED_BY_LABEL: &str = "kubevirt.io/created-by";
pub(crate) const NODE_NAME_LABEL: &str = "kubevirt.io/nodeName";
pub(crate) const MIGRATION_SELECTOR_LABEL: &str = "kubevirt.io/vmi-name";
pub(crate) const SCHEDULABLE_LABEL: &str = "kubevirt.io/schedulable";
pub(crate) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
pub(crate) const REGION_LABEL: &str = "topology.kubernetes.io/region";
pub(crate) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

pub(crate) const GENERATION_ANNOTATION: &str = "kubevirt.io/vm-generation";
pub(crate) const EVACUATION_ANNOTATION: &str = "kubevirt.io/evacuationMigration";
pub(crate) const BRIDGE_MIGRATION_ANNOTATION: &str =
    "kubevirt.io/allow-pod-bridge-network-live-migration";
pub(crate) const IMMEDIATE_VOLUMES_ANNOTATION: &str = "kubevirt.io/immediate-data-volume-creation";
pub(crate) const BIND_IMMEDIATELY_ANNOTATION: &str =
    "cdi.kubevirt.io/storage.bind.immediate.requested";

/// Field managers, one per program that is played.
pub(crate) mod manager {
    pub(crate) const CONTROLLER: &str = "virt-controller";
    pub(crate) const HANDLER: &str = "virt-handler";
    pub(crate) const CDI: &str = "cdi-controller";
    pub(crate) const CLOUD: &str = "load-balancer";
    pub(crate) const KUBELET: &str = "kubelet";
}

/// The API resource of a watched kind.
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

/// The API resource of one of the watched kinds.
pub(crate) fn watched(wanted: &Kind) -> Option<ApiResource> {
    WATCHED
        .iter()
        .find(|(kind, ..)| *kind == wanted)
        .map(|(kind, version, plural)| resource(kind, version, plural))
}
