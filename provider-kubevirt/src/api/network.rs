use capi_contract::PoolRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An interface of the virtual machine whose addresses come from IPAM pools.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInterface {
    /// Name of the network and of the interface in virtualMachineTemplate.spec.template.spec.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,

    /// The pools; the interface gets one address of each, in this order.
    #[schemars(
        length(min = 1, max = 8),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub addresses_from_pools: Vec<AddressPool>,

    /// Whether the default routes of the guest lead to the gateways of these pools. True for the first
    /// network of the template when not set, false for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<bool>,

    /// Addresses of name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub nameservers: Vec<String>,

    /// Domains in which short names are looked up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub search_domains: Vec<String>,
}

/// A pool of an IPAM provider, in the namespace of the machine or of the cluster's scope.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct AddressPool {
    /// API group of the pool: ipam.cluster.x-k8s.io when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,

    /// Kind of the pool, such as InClusterIPPool or GlobalInClusterIPPool.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,

    /// Name of the pool.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The group of the pools of the in-cluster IPAM provider.
const IN_CLUSTER_GROUP: &str = "ipam.cluster.x-k8s.io";

impl AddressPool {
    /// As an address claim names it.
    #[must_use]
    pub fn reference(&self) -> PoolRef {
        let group = self.api_group.as_deref().filter(|group| !group.is_empty());
        PoolRef {
            api_group: group.unwrap_or(IN_CLUSTER_GROUP).to_owned(),
            kind: self.kind.clone(),
            name: self.name.clone(),
        }
    }
}
