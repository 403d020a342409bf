//! The smallest complete provider: a machine is a file in a directory.
//!
//! The file's name is the mark, its contents are the bootstrap data. Because a second file of one name
//! is refused, creation is [`Exclusive`](Creation::Exclusive). Everything else (finalizers,
//! conditions, crashes at any line, pausing, `clusterctl move`) is the engine's work.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use capi_contract::crd::{InfraClusterStatus, InfraMachineStatus};
use capi_contract::{
    AddressType, Bootstrap, Classify, Creation, Endpoint, Endpointed, Instance, InstanceState,
    Instances, MachineAddress, MachineFacts, Mark, Order,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a user says of a machine.
#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "HelloMachine"
)]
#[kube(namespaced, status = "InfraMachineStatus", category = "cluster-api")]
#[kube(label("cluster.x-k8s.io/v1beta2", "v1alpha1"))]
#[serde(rename_all = "camelCase")]
pub struct HelloMachineSpec {
    /// Set by the controller (IM-02).
    #[serde(
        rename = "providerID",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 512))]
    pub provider_id: Option<String>,
}

/// What a user says of a cluster.
#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "HelloCluster"
)]
#[kube(namespaced, status = "InfraClusterStatus", category = "cluster-api")]
#[kube(label("cluster.x-k8s.io/v1beta2", "v1alpha1"))]
#[serde(rename_all = "camelCase")]
pub struct HelloClusterSpec {
    /// Where the control plane answers (IC-02).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane_endpoint: Option<Endpoint>,
}

capi_contract::template! {
    /// Template of [`HelloMachine`].
    HelloMachineTemplate(HelloMachineTemplateSpec, HelloMachineTemplateResource)
    of HelloMachineSpec,
    group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1", kind = "HelloMachineTemplate"
}

capi_contract::template! {
    /// Template of [`HelloCluster`].
    HelloClusterTemplate(HelloClusterTemplateSpec, HelloClusterTemplateResource)
    of HelloClusterSpec,
    group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1", kind = "HelloClusterTemplate"
}

impl Endpointed for HelloCluster {
    const FINALIZER: &'static str = "hellocluster.infrastructure.cluster.x-k8s.io";

    fn endpoint(&self) -> Option<Endpoint> {
        self.spec.control_plane_endpoint.clone()
    }
}

/// The backend: a directory.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// A machine: a file.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    mark: Mark,
}

/// What can go wrong with a file. Disks fill up and come back, so every error is transient.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {path}")]
pub struct Error {
    attempt: &'static str,
    path: String,
    #[source]
    cause: io::Error,
}

impl Classify for Error {}

impl Error {
    fn at(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self {
            attempt,
            path: path.display().to_string(),
            cause,
        }
    }
}

impl Instance for File {
    fn mark(&self) -> &Mark {
        &self.mark
    }

    fn state(&self) -> InstanceState {
        InstanceState::Running
    }
}

impl Directory {
    /// Uses an existing directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl Instances for Directory {
    const CREATION: Creation = Creation::Exclusive;
    const FINALIZER: &'static str = "hellomachine.infrastructure.cluster.x-k8s.io";
    type Kind = HelloMachine;
    type Cluster = HelloCluster;
    type Session = ();
    type Instance = File;
    type Error = Error;

    async fn find(&self, _: &(), mark: &Mark) -> Result<Vec<File>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(Error::at("listing", &self.0))? {
            let path = entry.map_err(Error::at("listing", &self.0))?.path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().replace('+', "/"));
            let ours = name
                .and_then(|name| name.parse().ok())
                .filter(|m: &Mark| m.same_object(mark));
            found.extend(ours.map(|mark| File { path, mark }));
        }
        Ok(found)
    }

    async fn create(&self, _: &(), order: Order<'_, HelloMachine>) -> Result<(), Error> {
        let path = self.0.join(order.mark.to_string().replace('/', "+"));
        let data = order.bootstrap.map(Bootstrap::bytes).unwrap_or_default();
        let mut file = fs::File::create_new(&path).map_err(Error::at("creating", &path))?;
        file.write_all(data).map_err(Error::at("writing", &path))
    }

    async fn destroy(&self, _: &(), file: &File) -> Result<(), Error> {
        match fs::remove_file(&file.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::at("removing", &file.path)(error))
            }
            _ => Ok(()),
        }
    }

    fn facts(&self, object: &HelloMachine, file: &File) -> MachineFacts<()> {
        facts(object, &file.mark)
    }
}

/// Its id is the claim token, its address its name.
pub fn facts(object: &HelloMachine, mark: &Mark) -> MachineFacts<()> {
    let mut facts = MachineFacts::default();
    facts.provider_id = mark.token().map(|token| format!("hello://{token}"));
    let host = object.metadata.name.clone().unwrap_or_default();
    facts.addresses = vec![MachineAddress::new(AddressType::Hostname, host)];
    facts
}
