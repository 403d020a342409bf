//! Core's Machine.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::meta::{ObjectRef, slim_meta};
use super::{CONTROL_PLANE_LABEL, CORE_GROUP, resource};

/// `Machine`, as far as providers read it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MachineView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: MachineSpec,
    /// What is.
    pub status: MachineStatus,
}

resource!(MachineView, "Machine", "machines", CORE_GROUP);

/// `Machine.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct MachineSpec {
    /// The Cluster's name.
    pub cluster_name: String,
    /// Kubernetes version with a leading `v`; empty if none.
    pub version: String,
    /// Where the machine must be (IM-06).
    pub failure_domain: Option<String>,
    /// The InfraMachine.
    pub infrastructure_ref: ObjectRef,
    /// Where the bootstrap data is.
    pub bootstrap: MachineBootstrap,
}

/// `Machine.spec.bootstrap`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct MachineBootstrap {
    /// Name of the Secret; absent until the data exists, empty where there is none (IM-14).
    pub data_secret_name: Option<String>,
}

/// `Machine.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct MachineStatus {
    /// The Node, once it has joined.
    pub node_ref: Option<NodeRef>,
    /// How far the first provisioning is.
    pub initialization: MachineInitialization,
}

/// `Machine.status.nodeRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NodeRef {
    /// Name of the Node.
    pub name: String,
}

/// `Machine.status.initialization`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct MachineInitialization {
    /// Core has seen `provisioned` and the provider id.
    pub infrastructure_provisioned: bool,
    /// Core has copied the name of the bootstrap Secret.
    pub bootstrap_data_secret_created: bool,
}

impl MachineView {
    /// Whether this is a control-plane machine: the label counts, with any value (IM-18).
    pub fn is_control_plane(&self) -> bool {
        self.metadata
            .labels
            .as_ref()
            .is_some_and(|all| all.contains_key(CONTROL_PLANE_LABEL))
    }
}
