//! Where the small examples play: a management cluster in memory with Cluster API core, and a
//! directory whose files are machines (`hello_provider`).
//!
//! Nothing of it is needed in a real program: there the client comes from a kubeconfig, by
//! `capi_core::client`.

use std::path::Path;
use std::time::Duration;

use capi_testkit::apiserver::ApiServer;
use capi_testkit::core::Core;
use capi_testkit::crds;
use capi_testkit::workload::Workloads;
use hello_provider::{HelloCluster, HelloClusterTemplate, HelloMachine, HelloMachineTemplate};
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, CustomResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// An error of an example, for `main` to show.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long an example waits for one thing. All of them take less than a second each.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

/// The stage. Dropping it ends everything on it.
#[derive(Debug)]
pub struct Stage {
    server: ApiServer,
    directory: TempDir,
    _core: JoinSet<()>,
}

impl Stage {
    /// A cluster named `demo` without machines; core runs.
    ///
    /// # Errors
    ///
    /// Whatever setting it up meets.
    pub async fn new() -> Result<Self, Error> {
        let server = ApiServer::new();
        server.install_crds(crds::cluster_api())?;
        server.install_crds(crds::ipam_in_cluster())?;
        server.install_crds(&[
            HelloMachine::crd(),
            HelloMachineTemplate::crd(),
            HelloCluster::crd(),
            HelloClusterTemplate::crd(),
        ])?;
        let core = Core::builder(server.client("core"), Workloads::new()).build();
        let mut running = JoinSet::new();
        running.spawn(async move { match core.run().await {} });
        let stage = Self {
            server,
            directory: TempDir::new()?,
            _core: running,
        };
        let infra = json!({"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "HelloCluster",
            "name": "demo"});
        for object in [
            json!({"apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "HelloCluster",
                "metadata": {"name": "demo"},
                "spec": {"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}}}),
            json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
                "metadata": {"name": "demo"}, "spec": {"infrastructureRef": infra}}),
            json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "bootstrap"}, "stringData": {"value": "#cloud-config"}}),
        ] {
            stage.create(object).await?;
        }
        Ok(stage)
    }

    /// A client that is known to the server under this name.
    #[must_use]
    pub fn client(&self, actor: &str) -> Client {
        self.server.client(actor)
    }

    /// Where machines are files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How many machines there are: files.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn files(&self) -> Result<usize, Error> {
        Ok(std::fs::read_dir(self.directory.path())?.count())
    }

    /// Asks for a machine, as a user of Cluster API does.
    ///
    /// # Errors
    ///
    /// The server refuses it.
    pub async fn ask_for_machine(&self, name: &str) -> Result<(), Error> {
        let infra = json!({"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "HelloMachine",
            "name": name});
        self.create(json!({
            "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "HelloMachine",
            "metadata": {"name": name}, "spec": {},
        }))
        .await?;
        self.create(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "metadata": {"name": name},
            "spec": {"clusterName": "demo", "infrastructureRef": infra,
                "bootstrap": {"dataSecretName": "bootstrap"}},
        }))
        .await
    }

    /// Deletes a Machine; core deletes its infra machine.
    ///
    /// # Errors
    ///
    /// The server refuses it.
    pub async fn delete_machine(&self, name: &str) -> Result<(), Error> {
        let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
        let api = self.api(&kind);
        api.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// An object as it is stored; `Null` if it does not exist.
    #[must_use]
    pub fn object(&self, resource: &str, name: &str) -> Value {
        let found = self.server.object(resource, "default", name);
        found.unwrap_or(Value::Null)
    }

    /// The infra machine of this name.
    #[must_use]
    pub fn hello_machine(&self, name: &str) -> Value {
        self.object("hellomachines.infrastructure.cluster.x-k8s.io", name)
    }

    /// Waits until something is so.
    ///
    /// # Errors
    ///
    /// It was not for half a minute.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + WAIT_MAX;
        while !is_so() {
            if Instant::now() >= deadline {
                return Err(format!("waited {} s in vain: {what}", WAIT_MAX.as_secs()).into());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn api(&self, kind: &GroupVersionKind) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(kind);
        Api::namespaced_with(self.server.client("user"), "default", &resource)
    }

    async fn create(&self, object: Value) -> Result<(), Error> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().ok_or("an object without a kind")?;
        let api = self.api(&GroupVersionKind::try_from(&types)?);
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }
}
