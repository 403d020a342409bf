//! Core's Cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::meta::{ObjectRef, slim_meta};
use super::{CORE_GROUP, resource};

/// `Cluster`, as far as providers read it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClusterView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ClusterSpec,
    /// What is.
    pub status: ClusterStatus,
}

resource!(ClusterView, "Cluster", "clusters", CORE_GROUP);

/// `Cluster.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ClusterSpec {
    /// Pauses everything that belongs to the cluster (PA-01).
    pub paused: Option<bool>,
    /// The InfraCluster.
    pub infrastructure_ref: Option<ObjectRef>,
    /// The endpoint, once known; half values are possible.
    pub control_plane_endpoint: Option<EndpointView>,
}

/// A control-plane endpoint that may be half filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointView {
    /// Host name or address; empty if unknown.
    pub host: String,
    /// Port; 0 if unknown.
    pub port: i32,
}

/// `Cluster.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// How far the first provisioning is.
    pub initialization: ClusterInitialization,
}

/// `Cluster.status.initialization`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ClusterInitialization {
    /// The infra cluster is provisioned (IM-11).
    pub infrastructure_provisioned: bool,
    /// The first control-plane machine is up.
    pub control_plane_initialized: bool,
}

impl ClusterView {
    /// Whether `spec.paused` is set.
    pub fn is_paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    /// The endpoint, if both halves are there.
    pub fn endpoint(&self) -> Option<crate::Endpoint> {
        let view = self.spec.control_plane_endpoint.as_ref()?;
        let endpoint = crate::Endpoint {
            host: view.host.clone(),
            port: view.port,
        };
        endpoint.is_valid().then_some(endpoint)
    }
}
