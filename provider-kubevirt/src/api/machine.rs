#![expect(
    clippy::duplicated_attributes,
    reason = "every print column has a name and a type"
)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::reference::passed_through;
use super::{KubevirtMachineStatus, NetworkInterface, ObjectReference, TemplateMetadata};

/// Desired state of a KubevirtMachine.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "KubevirtMachine",
    namespaced,
    status = "KubevirtMachineStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "KubevirtMachine is one virtual machine on KubeVirt.",
    category = "cluster-api",
    label("cluster.x-k8s.io/v1beta1", "v1alpha1"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        description = "Cluster to which this KubevirtMachine belongs",
        json_path = r".metadata.labels['cluster\.x-k8s\.io/cluster-name']"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "The virtual machine is provisioned",
        json_path = ".status.initialization.provisioned"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "What the virtual machine waits for, or why it failed",
        json_path = r#".status.conditions[?(@.type=="VMProvisioned")].reason"#
    ),
    printcolumn(
        name = "Provider_ID",
        type_ = "string",
        description = "Provider ID",
        json_path = ".spec.providerID"
    ),
    printcolumn(
        name = "Machine",
        type_ = "string",
        description = "Machine that owns this KubevirtMachine",
        json_path = r#".metadata.ownerReferences[?(@.kind=="Machine")].name"#
    ),
    printcolumn(
        name = "Paused",
        type_ = "string",
        description = "Reconciliation is paused",
        json_path = r#".status.conditions[?(@.type=="Paused")].status"#,
        priority = 10
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        description = "Time since the creation of this KubevirtMachine",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct KubevirtMachineSpec {
    /// What the virtual machine looks like.
    #[serde(default)]
    pub virtual_machine_template: VirtualMachineTemplate,

    /// kubevirt:// followed by the name of the VirtualMachine. Written by the controller.
    #[serde(rename = "providerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub provider_id: Option<String>,

    /// How the end of the bootstrap is noticed.
    #[serde(default)]
    pub virtual_machine_bootstrap_check: BootstrapCheck,

    /// Secret with the kubeconfig of the infra cluster for this machine; that of its failure domain
    /// or of the KubevirtCluster when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infra_cluster_secret_ref: Option<ObjectReference>,

    /// How the guest finds its bootstrap data: as an OpenStack config drive, which cloud-init and
    /// Ignition read, or as a NoCloud disk, which cloud-init and Talos read. ConfigDrive when not
    /// set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_data_source: Option<BootstrapDataSource>,

    /// Interfaces whose addresses come from IPAM pools. The guest is told of them with its bootstrap
    /// data; the other secondary networks of the template stay unconfigured, and the pod's network
    /// keeps to DHCP. Not with Ignition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub network_interfaces: Vec<NetworkInterface>,
}

/// A VirtualMachine to be made.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct VirtualMachineTemplate {
    /// Namespace, labels and annotations of the VirtualMachine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,

    /// Spec of the VirtualMachine, as KubeVirt's API describes it. Names of dataVolumeTemplates are
    /// prefixed with the name of the machine, a claim or snapshot that they clone is in the namespace of
    /// the VirtualMachine unless they name another, and a disk with the bootstrap data is added.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "passed_through")]
    pub spec: Map<String, Value>,
}

/// How the end of the bootstrap is noticed.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapCheck {
    /// none does not look. ssh, the default and the Go provider's word, asks the guest agent: the
    /// machine is ready once its readiness probe succeeds, where the template has one, or the agent
    /// is connected. A provider that runs with --ssh-bootstrap-check asks the guest over SSH.
    #[serde(default)]
    pub check_strategy: CheckStrategy,
}

/// The ways of noticing the end of the bootstrap.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckStrategy {
    /// Nobody looks.
    None,
    /// The guest agent is asked.
    #[default]
    Ssh,
}

/// How the guest finds its bootstrap data.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum BootstrapDataSource {
    /// An OpenStack config drive.
    #[default]
    ConfigDrive,
    /// A NoCloud disk.
    NoCloud,
}

impl VirtualMachineTemplate {
    /// Namespace that the template asks for.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        let namespace = self.metadata.as_ref()?.namespace.as_deref()?;
        (!namespace.is_empty()).then_some(namespace)
    }
}
