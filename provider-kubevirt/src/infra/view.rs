//! KubeVirt's and CDI's kinds, as far as we read them: every field is optional, unknown ones are kept
//! out of the way, `managedFields` are dropped while parsing.

use capi_contract::view::slim_meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Implements `kube::Resource` for a view.
macro_rules! resource {
    ($view:ty, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl kube::Resource for $view {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(
    VmView,
    "kubevirt.io",
    "v1",
    "VirtualMachine",
    "virtualmachines"
);
resource!(
    InstanceView,
    "kubevirt.io",
    "v1",
    "VirtualMachineInstance",
    "virtualmachineinstances"
);
resource!(
    MigrationView,
    "kubevirt.io",
    "v1",
    "VirtualMachineInstanceMigration",
    "virtualmachineinstancemigrations"
);
resource!(
    DataVolumeView,
    "cdi.kubevirt.io",
    "v1beta1",
    "DataVolume",
    "datavolumes"
);

resource!(ServiceView, "", "v1", "Service", "services");

/// A condition of any of the kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConditionView {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why.
    pub reason: String,
    /// The same for people.
    pub message: String,
}

impl ConditionView {
    /// The condition of a type.
    pub fn find<'a>(all: &'a [Self], kind: &str) -> Option<&'a Self> {
        all.iter().find(|one| one.kind == kind)
    }

    /// Whether it holds.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// `VirtualMachine`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VmView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: VmSpec,
    /// What is.
    pub status: VmStatus,
}

/// `VirtualMachine.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmSpec {
    /// When the VM runs: Always, RerunOnFailure, Once, Manual, Halted.
    pub run_strategy: Option<String>,
    /// The deprecated form of it.
    pub running: Option<bool>,
    /// What its instances look like.
    pub template: VmTemplate,
    /// Volumes that are made with the VM.
    pub data_volume_templates: Vec<DataVolumeTemplateView>,
}

/// `VirtualMachine.spec.template`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VmTemplate {
    /// The instance's spec.
    pub spec: InstanceSpec,
}

/// An entry of `VirtualMachine.spec.dataVolumeTemplates`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DataVolumeTemplateView {
    /// Its metadata.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
}

/// `VirtualMachine.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmStatus {
    /// A summary for people.
    pub printable_status: String,
    /// Conditions of the VM, its instance and its pod.
    pub conditions: Vec<ConditionView>,
}

/// `VirtualMachineInstance`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct InstanceView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: InstanceSpec,
    /// What is.
    pub status: InstanceStatus,
}

/// `VirtualMachineInstance.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceSpec {
    /// What a drain of the infra node does: None, LiveMigrate, LiveMigrateIfPossible, External.
    pub eviction_strategy: Option<String>,
    /// Networks of the instance, in the order of its interfaces.
    pub networks: Vec<NetworkView>,
    /// Volumes of the instance.
    pub volumes: Vec<VolumeView>,
    /// Whether the guest tells when it is ready; what the probe does is not read.
    pub readiness_probe: Option<ProbeView>,
}

/// A probe.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ProbeView {}

/// A network of an instance.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NetworkView {
    /// Its name, which is also the interface's.
    pub name: String,
    /// It is the network of the pod; what is said of it is not read.
    pub pod: Option<PodNetworkView>,
    /// It is one of Multus.
    pub multus: Option<MultusView>,
}

/// The network of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PodNetworkView {}

/// A network of Multus.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MultusView {
    /// Whether it takes the place of the pod's own network.
    pub default: bool,
}

impl NetworkView {
    /// Whether it is the network that the pod has, which comes with an address.
    pub fn is_of_pod(&self) -> bool {
        self.pod.is_some() || self.multus.as_ref().is_some_and(|one| one.default)
    }
}

/// A volume of an instance.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeView {
    /// Its name, which is also the disk's.
    pub name: String,
    /// Bootstrap data as a config drive.
    pub cloud_init_config_drive: Option<CloudInitView>,
    /// Bootstrap data as a NoCloud disk.
    pub cloud_init_no_cloud: Option<CloudInitView>,
}

/// Bootstrap data of an instance.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudInitView {
    /// The Secret with the user data.
    pub secret_ref: Option<SecretRefView>,
}

/// A reference to a Secret beside the referring object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SecretRefView {
    /// Its name.
    pub name: String,
}

/// `VirtualMachineInstance.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceStatus {
    /// Pending, Scheduling, Scheduled, Running, Succeeded, Failed, ...
    pub phase: String,
    /// The infra node that it runs on.
    pub node_name: Option<String>,
    /// The infra node that it must leave.
    pub evacuation_node_name: Option<String>,
    /// Conditions.
    pub conditions: Vec<ConditionView>,
    /// Interfaces, as far as known.
    pub interfaces: Vec<InterfaceView>,
}

/// An interface of a running instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InterfaceView {
    /// Name as in the spec; empty for one that only the guest knows.
    pub name: String,
    /// The first address.
    pub ip_address: Option<String>,
    /// All addresses.
    pub ip_addresses: Vec<String>,
}

/// `VirtualMachineInstanceMigration`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MigrationView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: MigrationSpec,
    /// What is.
    pub status: MigrationStatus,
}

/// `VirtualMachineInstanceMigration.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationSpec {
    /// The instance that moves.
    pub vmi_name: String,
}

/// `VirtualMachineInstanceMigration.status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MigrationStatus {
    /// Pending, Scheduling, ..., Succeeded, Failed.
    pub phase: String,
}

/// `DataVolume`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DataVolumeView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is.
    pub status: DataVolumeStatus,
}

/// `DataVolume.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVolumeStatus {
    /// Pending, ImportInProgress, WaitForFirstConsumer, Succeeded, Failed, ...
    pub phase: String,
    /// How far it is, in percent, or `N/A`.
    pub progress: String,
    /// Conditions.
    pub conditions: Vec<ConditionView>,
}

/// `Service`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is wanted, whole: it is compared with what a user wrote.
    pub spec: Map<String, Value>,
    /// What is.
    pub status: ServiceStatus,
}

/// `Service.status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Where the load balancer is reached.
    pub load_balancer: LoadBalancerView,
}

/// `Service.status.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerView {
    /// Its addresses; empty until it has one.
    pub ingress: Vec<IngressView>,
}

/// An address of a load balancer: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressView {
    /// As an IP address.
    pub ip: String,
    /// As a host name.
    pub hostname: String,
}

impl InstanceSpec {
    /// The Secret that the bootstrap data comes from.
    pub fn bootstrap_secret(&self) -> Option<&str> {
        let of = |volume: &VolumeView| {
            let source = volume.cloud_init_config_drive.clone();
            source.or_else(|| volume.cloud_init_no_cloud.clone())
        };
        let volume = self
            .volumes
            .iter()
            .find(|volume| of(volume).is_some_and(|source| source.secret_ref.is_some()))?;
        let source = volume.cloud_init_config_drive.as_ref();
        let source = source.or(volume.cloud_init_no_cloud.as_ref())?;
        source.secret_ref.as_ref().map(|to| to.name.as_str())
    }
}

impl InstanceView {
    /// Whether it has come to its end and is not restarted by itself.
    pub fn is_final(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it belongs to the VM of this uid.
    pub fn is_of(&self, vm: &VmView) -> bool {
        let owners = self.meta().owner_references.iter().flatten();
        let uid = vm.metadata.uid.as_deref();
        owners
            .into_iter()
            .any(|owner| uid == Some(owner.uid.as_str()))
    }
}

impl MigrationView {
    /// Whether it has come to its end.
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether the VM stayed where it was.
    pub fn has_failed(&self) -> bool {
        self.status.phase == "Failed"
    }
}
