use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_DEVICE, DEFAULT_ZONE};

/// Network devices of a machine and their configuration in the guest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// Deployment zone of this machine: which zoneConfig of the cluster its addresses come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        extend("pattern" = "^[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$")
    )]
    pub zone: Option<String>,

    /// Network devices; net0, net1 and so on, without gaps. Proxmox VE has net0 to net31.
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub network_devices: Vec<NetworkDevice>,

    /// Virtual routing and forwarding devices in the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub vrfs: Vec<VrfDevice>,
}

/// One network device.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkDevice {
    /// Name of the device: net0, net1 and so on.
    #[serde(default = "default_device")]
    #[schemars(regex(pattern = "^net[0-9]+$"))]
    pub name: String,

    /// Bridge or virtual network to attach to; the template's when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub bridge: Option<String>,

    /// Model of the emulated card.
    #[serde(default)]
    pub model: DeviceModel,

    /// MTU of the device; 1 makes a virtio device inherit the bridge's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == 1 || (self >= 576 && self <= 65520)",
        "message": "the MTU must be 1 (inherit the bridge's) or between 576 and 65520"
    }]))]
    pub mtu: Option<i64>,

    /// VLAN tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<i64>,

    /// Number of packet queues. Proxmox VE itself takes at most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub queues: Option<i64>,

    /// Takes an address from the IPv4 pool of the cluster or zone. If no device says so, the first
    /// one does.
    #[serde(rename = "defaultIPv4", skip_serializing_if = "Option::is_none")]
    pub default_ipv4: Option<bool>,

    /// Takes an address from the IPv6 pool of the cluster or zone. If no device says so, the first
    /// one does.
    #[serde(rename = "defaultIPv6", skip_serializing_if = "Option::is_none")]
    pub default_ipv6: Option<bool>,

    /// Further pools; the device gets one address from each.
    #[serde(default, rename = "ipPoolRef", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub ip_pool_ref: Vec<PoolRef>,

    /// Name servers of this device; the cluster's or zone's when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), extend("x-kubernetes-list-type" = "set"))]
    pub dns_servers: Vec<String>,

    /// Routes through this device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub routes: Vec<Route>,

    /// Rules that choose a routing table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub routing_policy: Vec<RoutingPolicy>,

    /// MTU that the guest sets on its interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == 1 || (self >= 576 && self <= 65520)",
        "message": "the MTU must be 1 (inherit the bridge's) or between 576 and 65520"
    }]))]
    pub link_mtu: Option<i64>,
}

fn default_device() -> String {
    DEFAULT_DEVICE.to_owned()
}

impl Default for NetworkDevice {
    fn default() -> Self {
        Self {
            name: default_device(),
            bridge: None,
            model: DeviceModel::default(),
            mtu: None,
            vlan: None,
            queues: None,
            default_ipv4: None,
            default_ipv6: None,
            ip_pool_ref: Vec::new(),
            dns_servers: Vec::new(),
            routes: Vec::new(),
            routing_policy: Vec::new(),
            link_mtu: None,
        }
    }
}

/// Model of an emulated network card.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceModel {
    /// Intel 82540EM.
    E1000,
    /// Paravirtual card of KVM.
    #[default]
    Virtio,
    /// Realtek 8139.
    Rtl8139,
    /// Paravirtual card of VMware.
    Vmxnet3,
}

impl DeviceModel {
    /// The name that Proxmox VE uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::E1000 => "e1000",
            Self::Virtio => "virtio",
            Self::Rtl8139 => "rtl8139",
            Self::Vmxnet3 => "vmxnet3",
        }
    }
}

/// Reference to an address pool.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [
        {
            "rule": "has(self.apiGroup) && self.apiGroup == 'ipam.cluster.x-k8s.io'",
            "message": "apiGroup must be ipam.cluster.x-k8s.io"
        },
        {
            "rule": "self.kind == 'InClusterIPPool' || self.kind == 'GlobalInClusterIPPool'",
            "message": "kind must be InClusterIPPool or GlobalInClusterIPPool"
        }
    ]
))]
pub struct PoolRef {
    /// API group of the pool: ipam.cluster.x-k8s.io.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,

    /// InClusterIPPool or GlobalInClusterIPPool.
    pub kind: String,

    /// Name of the pool.
    pub name: String,
}

/// A route.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Route {
    /// Destination: a network, an address or default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,

    /// Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,

    /// Metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub metric: Option<i64>,

    /// Routing table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<i64>,

    /// The route is an IPv6 route; needed where neither to nor via tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is6: Option<bool>,
}

/// A rule that chooses a routing table.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct RoutingPolicy {
    /// Destination network that the rule matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,

    /// Source network that the rule matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,

    /// Routing table that the rule chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<i64>,

    /// Position among the rules; 32765 and 32766 belong to the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        range(max = 4_294_967_295_i64),
        extend("x-kubernetes-validations" = [{
            "rule": "(self > 0 && self < 32765) || self > 32766",
            "message": "priorities 0, 32765 and 32766 belong to the rules of the kernel"
        }])
    )]
    pub priority: Option<i64>,

    /// The rule is an IPv6 rule; needed where neither to nor from tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is6: Option<bool>,
}

/// A virtual routing and forwarding device.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VrfDevice {
    /// Name of the device in the guest.
    #[schemars(length(min = 3))]
    pub name: String,

    /// Routing table of the device; 254 and 255 belong to the kernel.
    #[schemars(
        range(min = 1, max = 4_294_967_295_i64),
        extend("x-kubernetes-validations" = [{
            "rule": "self < 254 || self > 255",
            "message": "tables 254 and 255 belong to the kernel"
        }])
    )]
    pub table: i64,

    /// Network devices (net0, net1 and so on) that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        inner(regex(pattern = "^net[0-9]+$")),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub interfaces: Vec<String>,

    /// Routes in its table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub routes: Vec<Route>,

    /// Rules that choose its table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub routing_policy: Vec<RoutingPolicy>,
}

impl NetworkSpec {
    /// The zone of the machine.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.zone.as_deref().unwrap_or(DEFAULT_ZONE)
    }
}
