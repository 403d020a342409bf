//! A workload cluster: its endpoint, and an administrator's hands in it.

use capi_testkit::workload::{Endpoint, Refused};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use crate::certificate::Pair;
use crate::failure::Failure;
use crate::management::kubeconfig;
use crate::workload::balancer::Balancer;
use crate::workload::failed;

/// A cluster whose endpoint is answered.
#[derive(Debug)]
pub(super) struct Cluster {
    /// `sha256:<hex>` of its authority's public key; no two clusters have the same.
    pub(super) ca_hash: String,
    /// The machine that made it.
    pub(super) made_by: String,
    pub(super) admin: Admin,
    pub(super) balancer: Balancer,
}

/// An administrator of a workload cluster.
#[derive(Clone)]
pub(super) struct Admin(Client);

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    pub(super) async fn new(
        endpoint: &Endpoint,
        authority: &str,
        pair: &Pair,
    ) -> Result<Self, Refused> {
        let text = kubeconfig(&format!("https://{endpoint}"), authority, pair);
        let read = async {
            let file = Kubeconfig::from_yaml(&text)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await?;
            Ok::<_, Failure>(Client::try_from(config)?)
        };
        read.await
            .map(Self)
            .map_err(failed("connect to the API server"))
    }

    pub(super) fn client(&self) -> Client {
        self.0.clone()
    }

    /// Whether the API server says that it is ready.
    pub(super) async fn is_ready(&self) -> bool {
        let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
            return false;
        };
        self.0.request_text(request).await.is_ok()
    }

    /// An object; `None` if there is none.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        let request = http::Request::get(path).body(Vec::new())?;
        match self.0.request(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates an object in a collection; one that is there stays as it is.
    pub(super) async fn create(&self, path: &str, object: &Value) -> Result<(), Failure> {
        let request = http::Request::post(path)
            .header("Content-Type", "application/json")
            .body(serde_json::to_vec(object)?)?;
        match self.0.request::<Value>(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Merges a patch by the strategy of the kind; false if there is no such object.
    pub(super) async fn patch(&self, path: &str, patch: &Value) -> Result<bool, Failure> {
        let request = http::Request::patch(path)
            .header("Content-Type", "application/strategic-merge-patch+json")
            .body(serde_json::to_vec(patch)?)?;
        match self.0.request::<Value>(request).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
