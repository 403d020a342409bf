use std::collections::BTreeMap;

use capi_contract::FailureDomain;
use capi_contract::crd::{AddressStatus, Initialization};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Observed state of a KubevirtCluster.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubevirtClusterStatus {
    /// Whether the infrastructure is there; initialization.provisioned is what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,

    /// Progress of the first provisioning. Part of the Cluster API contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,

    /// Failure domains that machines of this cluster can use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub failure_domains: Vec<FailureDomain>,

    /// Current state: Ready, LoadBalancerAvailable and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Observed state of a KubevirtMachine.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubevirtMachineStatus {
    /// Whether the virtual machine runs; initialization.provisioned is what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,

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

    /// Node of the infra cluster on which the machine runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infra_node: Option<String>,

    /// Current state: Ready, VMProvisioned and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// Written by the Go provider. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer_configured: Option<bool>,

    /// Written by the Go provider. Not used.
    #[serde(rename = "nodeupdated", skip_serializing_if = "Option::is_none")]
    pub node_updated: Option<bool>,

    /// Written by the Go provider. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,

    /// Written by the Go provider. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_message: Option<String>,
}

/// Observed state of a KubevirtMachineTemplate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct KubevirtMachineTemplateStatus {
    /// Size of a machine made from the template, for scaling from zero.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, Quantity>,
}
