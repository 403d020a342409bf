use capi_contract::FailureDomain;
use capi_contract::crd::{AddressStatus, Initialization};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DEFAULT_ZONE;

/// Observed state of a ProxmoxCluster.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxmoxClusterStatus {
    /// Current state: Ready, ProxmoxAvailable and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// Progress of the first provisioning. Part of the Cluster API contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,

    /// Failure domains that machines of this cluster can use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub failure_domains: Vec<FailureDomain>,

    /// Address pools made for this cluster.
    #[serde(
        default,
        rename = "inClusterIPPoolRef",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub in_cluster_ip_pool_ref: Vec<LocalRef>,

    /// Address pools by deployment zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["zone"]
    ))]
    pub in_cluster_zone_ref: Vec<InClusterZoneRef>,

    /// Where the machines of this cluster run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_locations: Option<NodeLocations>,

    /// Fields of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecated>,
}

/// Observed state of a ProxmoxMachine.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxmoxMachineStatus {
    /// Current state: Ready, VirtualMachineProvisioned and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// Progress of the first provisioning. Part of the Cluster API contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,

    /// Host name and addresses of the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<AddressStatus>,

    /// Failure domain in which the machine runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub failure_domain: Option<String>,

    /// notfound, pending or ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_status: Option<String>,

    /// The bootstrap data has been attached to the virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_data_provided: Option<bool>,

    /// Addresses by network device.
    #[serde(default, rename = "ipAddresses", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["net"]
    ))]
    pub ip_addresses: Vec<DeviceAddresses>,

    /// Network devices as the hypervisor reports them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub network: Vec<DeviceStatus>,

    /// Proxmox VE node on which the machine runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxmox_node: Option<String>,

    /// Task of Proxmox VE that is running for this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_ref: Option<String>,

    /// Time of the next attempt after a failed task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Time>,

    /// Fields of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecated>,
}

/// Name of an object in the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LocalRef {
    /// Name of the object.
    #[serde(default)]
    pub name: String,
}

/// Address pools of one deployment zone.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InClusterZoneRef {
    /// The zone.
    #[serde(default = "default_zone")]
    pub zone: String,

    /// Pool of IPv4 addresses.
    #[serde(
        rename = "inClusterIPPoolRefV4",
        skip_serializing_if = "Option::is_none"
    )]
    pub in_cluster_ip_pool_ref_v4: Option<LocalRef>,

    /// Pool of IPv6 addresses.
    #[serde(
        rename = "inClusterIPPoolRefV6",
        skip_serializing_if = "Option::is_none"
    )]
    pub in_cluster_ip_pool_ref_v6: Option<LocalRef>,
}

fn default_zone() -> String {
    DEFAULT_ZONE.to_owned()
}

/// Where the machines of a cluster run.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeLocations {
    /// Machines of the control plane.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub control_plane: Vec<NodeLocation>,

    /// All other machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub workers: Vec<NodeLocation>,
}

/// Where one machine runs.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct NodeLocation {
    /// The ProxmoxMachine.
    pub machine: LocalRef,

    /// Proxmox VE node.
    #[schemars(length(min = 1))]
    pub node: String,

    /// Deployment zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// Addresses of one network device.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct DeviceAddresses {
    /// The device, net0 and so on, or default for the addresses of the cluster's own pools.
    #[schemars(length(min = 1), regex(pattern = "^(net[0-9]+|default)$"))]
    pub net: String,

    /// IPv4 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ipv4: Vec<String>,

    /// IPv6 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ipv6: Vec<String>,
}

/// One network device as the hypervisor reports it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// The link is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,

    /// Addresses that the guest reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ip_addrs: Vec<String>,

    /// MAC address.
    pub mac_addr: String,

    /// Name of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_name: Option<String>,
}

/// Fields of earlier versions, kept so that stored objects stay valid. Never written.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Deprecated {
    /// Fields of the v1beta1 contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v1beta1: Option<DeprecatedV1Beta1>,
}

/// Fields of the v1beta1 contract, kept so that stored objects stay valid. Never written.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeprecatedV1Beta1 {
    /// Replaced by initialization.provisioned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,

    /// Not used any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,

    /// Not used any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_message: Option<String>,
}
