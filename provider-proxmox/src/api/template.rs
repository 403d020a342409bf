use capi_contract::crd::TemplateMeta;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProxmoxClusterSpec, ProxmoxMachineSpec};

/// Desired state of a ProxmoxClusterTemplate.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "ProxmoxClusterTemplate",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    doc = "ProxmoxClusterTemplate is what a ClusterClass makes ProxmoxClusters from.",
    shortname = "pct",
    category = "cluster-api",
    label("cluster.x-k8s.io/v1beta1", "v1alpha2"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha2"),
    printcolumn(
        name = "Age",
        type_ = "date",
        description = "Time since the creation of this ProxmoxClusterTemplate",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct ProxmoxClusterTemplateSpec {
    /// What is copied into every ProxmoxCluster.
    pub template: ProxmoxClusterTemplateResource,
}

/// What is copied from a ProxmoxClusterTemplate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ProxmoxClusterTemplateResource {
    /// Labels and annotations of the ProxmoxCluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMeta>,

    /// Spec of the ProxmoxCluster.
    pub spec: ProxmoxClusterSpec,
}

/// Desired state of a ProxmoxMachineTemplate.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "ProxmoxMachineTemplate",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    doc = "ProxmoxMachineTemplate is what ProxmoxMachines are made from.",
    shortname = "pmt",
    category = "cluster-api",
    label("cluster.x-k8s.io/v1beta1", "v1alpha2"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha2"),
    printcolumn(
        name = "Age",
        type_ = "date",
        description = "Time since the creation of this ProxmoxMachineTemplate",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct ProxmoxMachineTemplateSpec {
    /// What is copied into every ProxmoxMachine.
    pub template: ProxmoxMachineTemplateResource,
}

/// What is copied from a ProxmoxMachineTemplate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ProxmoxMachineTemplateResource {
    /// Labels and annotations of the ProxmoxMachine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMeta>,

    /// Spec of the ProxmoxMachine.
    pub spec: ProxmoxMachineSpec,
}
