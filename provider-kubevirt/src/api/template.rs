use capi_contract::crd::TemplateMeta;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KubevirtClusterSpec, KubevirtMachineSpec, KubevirtMachineTemplateStatus};

/// Desired state of a KubevirtClusterTemplate.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "KubevirtClusterTemplate",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    doc = "KubevirtClusterTemplate is what a ClusterClass makes KubevirtClusters from.",
    shortname = "kct",
    category = "cluster-api",
    label("cluster.x-k8s.io/v1beta1", "v1alpha1"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    printcolumn(
        name = "Age",
        type_ = "date",
        description = "Time since the creation of this KubevirtClusterTemplate",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct KubevirtClusterTemplateSpec {
    /// What is copied into every KubevirtCluster.
    pub template: KubevirtClusterTemplateResource,
}

/// What is copied from a KubevirtClusterTemplate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct KubevirtClusterTemplateResource {
    /// Labels and annotations of the KubevirtCluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMeta>,

    /// Spec of the KubevirtCluster.
    pub spec: KubevirtClusterSpec,
}

/// Desired state of a KubevirtMachineTemplate.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "KubevirtMachineTemplate",
    namespaced,
    status = "KubevirtMachineTemplateStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "KubevirtMachineTemplate is what KubevirtMachines are made from.",
    category = "cluster-api",
    label("cluster.x-k8s.io/v1beta1", "v1alpha1"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    printcolumn(
        name = "Age",
        type_ = "date",
        description = "Time since the creation of this KubevirtMachineTemplate",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct KubevirtMachineTemplateSpec {
    /// What is copied into every KubevirtMachine.
    pub template: KubevirtMachineTemplateResource,
}

/// What is copied from a KubevirtMachineTemplate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct KubevirtMachineTemplateResource {
    /// Labels and annotations of the KubevirtMachine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMeta>,

    /// Spec of the KubevirtMachine.
    pub spec: KubevirtMachineSpec,
}
