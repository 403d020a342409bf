#![expect(
    clippy::duplicated_attributes,
    reason = "every print column has a name and a type"
)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NetworkSpec, ProxmoxMachineStatus, enabled};

/// Desired state of a ProxmoxMachine.
///
/// The template is named either by sourceNode and templateID or by templateSelector.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.format) || !has(self.full) || self.full",
        "message": "format can only be chosen for a full clone: set full to true"
    },
    {
        "rule": "!has(self.storage) || !has(self.full) || self.full",
        "message": "storage can only be chosen for a full clone: set full to true"
    }
]))]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "ProxmoxMachine",
    namespaced,
    status = "ProxmoxMachineStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ProxmoxMachine is one virtual machine on Proxmox VE.",
    shortname = "moxm",
    category = "cluster-api",
    category = "proxmox",
    label("cluster.x-k8s.io/v1beta1", "v1alpha2"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha2"),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        description = "Cluster to which this ProxmoxMachine belongs",
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
        json_path = r#".status.conditions[?(@.type=="VirtualMachineProvisioned")].reason"#
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        description = "Proxmox VE node of the virtual machine",
        json_path = ".status.proxmoxNode"
    ),
    printcolumn(
        name = "VMID",
        type_ = "integer",
        description = "Number of the virtual machine",
        json_path = ".spec.virtualMachineID",
        priority = 10
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
        description = "Machine that owns this ProxmoxMachine",
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
        description = "Time since the creation of this ProxmoxMachine",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct ProxmoxMachineSpec {
    /// Proxmox VE node that holds the template; goes with templateID.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub source_node: Option<String>,

    /// VMID of the template; goes with sourceNode.
    #[serde(rename = "templateID", skip_serializing_if = "Option::is_none")]
    pub template_id: Option<i64>,

    /// Finds the template by its tags, instead of sourceNode and templateID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_selector: Option<TemplateSelector>,

    /// Notes of the virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,

    /// Format of the disks of a full clone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,

    /// Copies all disks; a linked clone otherwise.
    #[serde(default = "enabled")]
    pub full: bool,

    /// Resource pool of the virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// Snapshot of the template to clone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snap_name: Option<String>,

    /// Storage for the disks of a full clone; the template's when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,

    /// Proxmox VE node for the virtual machine. When set, allowedNodes is not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub target: Option<String>,

    /// proxmox:// followed by the SMBIOS UUID of the virtual machine. Written by the controller.
    #[serde(rename = "providerID", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "pattern" = "^proxmox://[a-fA-F0-9]{8}-[a-fA-F0-9]{4}-[a-fA-F0-9]{4}-[a-fA-F0-9]{4}-[a-fA-F0-9]{12}$"
    ))]
    pub provider_id: Option<String>,

    /// VMID of the virtual machine. Written by the controller.
    #[serde(rename = "virtualMachineID", skip_serializing_if = "Option::is_none")]
    pub virtual_machine_id: Option<i64>,

    /// Number of CPU sockets; the template's when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub num_sockets: Option<i64>,

    /// Number of cores per socket; the template's when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub num_cores: Option<i64>,

    /// Memory in MiB, a multiple of 8; the template's when not set.
    #[serde(rename = "memoryMiB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("multipleOf" = 8))]
    pub memory_mib: Option<i64>,

    /// Sizes of disks, applied before the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Disks>,

    /// Network devices and their configuration.
    pub network: NetworkSpec,

    /// Range from which the VMID is taken; any free one when not set.
    #[serde(rename = "vmIDRange", skip_serializing_if = "Option::is_none")]
    pub vm_id_range: Option<VmIdRange>,

    /// Checks to leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,

    /// What the meta-data of the machine holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_settings: Option<MetadataSettings>,

    /// Proxmox VE nodes on which this machine may be placed; the cluster's when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub allowed_nodes: Vec<String>,

    /// Tags of the virtual machine. Cannot be changed later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1),
        inner(regex(pattern = r"^[a-zA-Z0-9_][a-zA-Z0-9_\-\+\.]*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub tags: Vec<String>,
}

/// Finds a template by its tags.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateSelector {
    /// Tags of the template. One template must match, or copies of one on different nodes, with
    /// equal tags: then each machine is placed where a copy is, and cloned from it.
    #[schemars(
        length(min = 1),
        inner(regex(pattern = r"^[a-zA-Z0-9_][a-zA-Z0-9_\-\+\.]*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub match_tags: Vec<String>,

    /// How the tags are compared: exact (the template has these tags and no others), uniqueSubset
    /// (these and perhaps others) or bestSubset (these and the fewest others).
    #[serde(default)]
    pub match_policy: MatchPolicy,
}

/// How the tags of a [`TemplateSelector`] are compared with those of a template.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MatchPolicy {
    /// The template has these tags and no others.
    #[default]
    Exact,
    /// The template has these tags and perhaps others; only one template may.
    UniqueSubset,
    /// Of the templates with these tags and perhaps others, the one with the fewest others.
    BestSubset,
}

/// Format of the disks of a full clone.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Raw image, for example a block volume.
    Raw,
    /// QEMU copy-on-write image.
    Qcow2,
    /// VMware image.
    Vmdk,
}

/// Sizes of disks.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disks {
    /// Disk to grow before the first start. Cannot be changed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf",
        "message": "the boot volume cannot be changed"
    }]))]
    pub boot_volume: Option<DiskSize>,
}

/// Size of one disk.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSize {
    /// Name of the disk device, for example scsi0 or virtio0.
    #[schemars(length(min = 1))]
    pub disk: String,

    /// Size in GB, counted by Proxmox VE in units of 2^30 bytes. Not smaller than in the template:
    /// disks cannot shrink.
    #[schemars(range(min = 5))]
    pub size_gb: i64,
}

/// Range of VMIDs, both ends included.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.end >= self.start",
    "message": "end must not be smaller than start"
}]))]
pub struct VmIdRange {
    /// First VMID.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub start: i64,

    /// Last VMID.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub end: i64,
}

/// Checks to leave out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    /// Does not ask cloud-init for its status; for systems without cloud-init.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_cloud_init_status: Option<bool>,

    /// Does not wait for the guest agent; for systems without it. Implies skipCloudInitStatus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_qemu_guest_agent: Option<bool>,
}

/// What the meta-data of the machine holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct MetadataSettings {
    /// Writes the provider id into the meta-data, as provider-id.
    #[serde(
        rename = "providerIDInjection",
        skip_serializing_if = "Option::is_none"
    )]
    pub provider_id_injection: Option<bool>,
}

/// How a machine names its template.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TemplateSource<'a> {
    /// `sourceNode` and `templateID`.
    Id {
        /// Node that holds the template.
        node: &'a str,
        /// VMID of the template.
        vmid: i64,
    },
    /// `templateSelector`.
    Tags(&'a TemplateSelector),
}

impl ProxmoxMachineSpec {
    /// How the template is named; `None` if neither or both ways are used, or one only by half
    /// (which the schema refuses, except in templates that a ClusterClass completes).
    #[must_use]
    pub fn template(&self) -> Option<TemplateSource<'_>> {
        match (&self.source_node, self.template_id, &self.template_selector) {
            (Some(node), Some(vmid), None) => Some(TemplateSource::Id { node, vmid }),
            (None, None, Some(selector)) => Some(TemplateSource::Tags(selector)),
            (None | Some(_), None | Some(_), None | Some(_)) => None,
        }
    }

    /// Whether the guest agent is expected to answer.
    #[must_use]
    pub fn checks_agent(&self) -> bool {
        !self
            .checks
            .and_then(|checks| checks.skip_qemu_guest_agent)
            .unwrap_or(false)
    }

    /// Whether cloud-init is asked for its status, which needs the guest agent.
    #[must_use]
    pub fn checks_cloud_init(&self) -> bool {
        let skips = self
            .checks
            .and_then(|checks| checks.skip_cloud_init_status)
            .unwrap_or(false);
        self.checks_agent() && !skips
    }

    /// Whether the provider id goes into the meta-data.
    #[must_use]
    pub fn injects_provider_id(&self) -> bool {
        self.metadata_settings
            .and_then(|settings| settings.provider_id_injection)
            .unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_named_in_one_way_and_wholly() {
        let node = || Some("pve1".to_owned());
        let selector = || Some(TemplateSelector::default());
        let spec = |source_node, template_id, template_selector| ProxmoxMachineSpec {
            source_node,
            template_id,
            template_selector,
            ..ProxmoxMachineSpec::default()
        };
        let by_id = spec(node(), Some(9000), None);
        let expected = TemplateSource::Id {
            node: "pve1",
            vmid: 9000,
        };
        assert_eq!(by_id.template(), Some(expected));
        let by_tags = spec(None, None, selector());
        assert!(matches!(by_tags.template(), Some(TemplateSource::Tags(_))));
        for spec in [
            spec(None, None, None),
            spec(node(), None, None),
            spec(None, Some(9000), None),
            spec(node(), Some(9000), selector()),
        ] {
            assert_eq!(spec.template(), None);
        }
    }

    #[test]
    fn without_an_agent_cloud_init_cannot_be_asked() {
        let spec = |skip_cloud_init_status, skip_qemu_guest_agent| ProxmoxMachineSpec {
            checks: Some(Checks {
                skip_cloud_init_status,
                skip_qemu_guest_agent,
            }),
            ..ProxmoxMachineSpec::default()
        };
        let checks = |spec: &ProxmoxMachineSpec| (spec.checks_agent(), spec.checks_cloud_init());
        assert_eq!(checks(&ProxmoxMachineSpec::default()), (true, true));
        assert_eq!(checks(&spec(None, None)), (true, true));
        assert_eq!(checks(&spec(Some(true), None)), (true, false));
        assert_eq!(checks(&spec(Some(false), Some(true))), (false, false));
    }
}
