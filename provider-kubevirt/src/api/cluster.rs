#![expect(
    clippy::duplicated_attributes,
    reason = "every print column has a name and a type"
)]

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::reference::passed_through;
use super::{KubevirtClusterStatus, ObjectReference, TemplateMetadata, ZONE_LABEL};

/// Desired state of a KubevirtCluster.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "KubevirtCluster",
    namespaced,
    status = "KubevirtClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "KubevirtCluster is the infrastructure of one workload cluster on KubeVirt.",
    category = "cluster-api",
    label("cluster.x-k8s.io/v1beta1", "v1alpha1"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        description = "Cluster to which this KubevirtCluster belongs",
        json_path = r".metadata.labels['cluster\.x-k8s\.io/cluster-name']"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "The infrastructure of the cluster is provisioned",
        json_path = ".status.initialization.provisioned"
    ),
    printcolumn(
        name = "Endpoint",
        type_ = "string",
        description = "Host of the API endpoint",
        json_path = ".spec.controlPlaneEndpoint.host"
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
        description = "Time since the creation of this KubevirtCluster",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct KubevirtClusterSpec {
    /// Address at which the API server of the workload cluster is reached. What is not set is filled
    /// in from the control-plane Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_endpoint: Option<ApiEndpoint>,

    /// The Service in front of the control-plane machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_service_template: Option<ServiceTemplate>,

    /// Key pair with which guests are asked over SSH, by a provider that runs with
    /// --ssh-bootstrap-check; `NAME-ssh-keys`, after the cluster, when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_keys: Option<SshKeys>,

    /// Secret with the kubeconfig of the infra cluster under the key kubeconfig, and optionally the
    /// namespace for what is made there under the key namespace. Without it the infra cluster is the
    /// one where this object is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infra_cluster_secret_ref: Option<ObjectReference>,

    /// Failure domains: parts of the infra cluster, told apart by labels of its nodes, or other infra
    /// clusters. They are listed in the status, and machines whose failureDomain names one are placed
    /// there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub failure_domains: Vec<Zone>,
}

/// Host and port of an API server.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ApiEndpoint {
    /// Host name or IP address; that of the control-plane Service when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub host: Option<String>,

    /// TCP port; that of the control-plane Service when 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<i32>,
}

/// What the control-plane Service looks like.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ServiceTemplate {
    /// Namespace, labels and annotations of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,

    /// Spec of the Service: type (ClusterIP when not set, NodePort, LoadBalancer) and any other
    /// field, such as loadBalancerClass or ipFamilyPolicy. The selector is set by the provider.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "passed_through")]
    pub spec: Map<String, Value>,
}

/// Key pair with which guests are asked over SSH.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SshKeys {
    /// Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_ref: Option<ObjectReference>,

    /// Name of the Secret with the key pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_secret_name: Option<String>,
}

/// A failure domain.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    /// Its name, as in failureDomain of a Machine.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,

    /// Whether machines of the control plane may be there; true when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<bool>,

    /// Labels of the infra nodes that belong to it; topology.kubernetes.io/zone with its name when
    /// not set and no other infra cluster is named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,

    /// Another infra cluster: a Secret like that of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infra_cluster_secret_ref: Option<ObjectReference>,
}

impl Zone {
    /// Labels of the infra nodes on which its machines may run; empty where any will do.
    #[must_use]
    pub fn node_labels(&self) -> BTreeMap<String, String> {
        if self.node_labels.is_empty() && self.infra_cluster_secret_ref.is_none() {
            return [(ZONE_LABEL.to_owned(), self.name.clone())].into();
        }
        self.node_labels.clone()
    }
}

impl KubevirtClusterSpec {
    /// The failure domain of a name.
    #[must_use]
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.failure_domains.iter().find(|zone| zone.name == name)
    }
}
