//! The life of one machine, in a world of its own: an API server and a directory.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use capi_contract::{Mark, ObjectName, Token};
use capi_core::{Clock, Options};
use capi_testkit::apiserver::ApiServer;
use capi_testkit::crds;
use capi_testkit::sweep::{Backend, Interference, Manifest, ProviderWorld};
use hello_provider::{HelloCluster, HelloClusterTemplate, HelloMachine, HelloMachineTemplate};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::port::{self, Weakening};

/// Owner token of another management cluster that holds an object of the same name.
const STRANGER: &str = "57a46e457a46e457a46e457a46e457a4";
/// When every world begins; the date does not matter, equal runs do.
const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);

static DEFINITIONS: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(|| {
    let is_needed = |value: &&Value| {
        let kind = value.pointer("/spec/names/kind").and_then(Value::as_str);
        let kinds = ["Cluster", "Machine", "IPAddressClaim", "IPAddress"];
        kind.is_some_and(|kind| kinds.contains(&kind))
    };
    let core = crds::cluster_api().iter().filter(is_needed);
    let core = core.map(|value| serde_json::from_value(value.clone()).unwrap());
    let ours = [
        HelloMachine::crd(),
        HelloMachineTemplate::crd(),
        HelloCluster::crd(),
        HelloClusterTemplate::crd(),
    ];
    core.chain(ours).collect()
});

/// The directory, seen past the provider.
#[derive(Debug)]
pub(crate) struct Files {
    directory: TempDir,
    strangers: AtomicUsize,
}

impl Files {
    fn all(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Files that bear another owner's mark, or not.
    fn of_strangers(&self, wanted: bool) -> impl Iterator<Item = PathBuf> {
        let is_strangers = |path: &PathBuf| path.to_string_lossy().contains(STRANGER);
        self.all()
            .into_iter()
            .filter(move |path| is_strangers(path) == wanted)
    }
}

impl Backend for Files {
    fn things(&self) -> Vec<String> {
        self.of_strangers(false)
            .map(|path| path.display().to_string())
            .collect()
    }

    fn violations(&self) -> Vec<String> {
        if self.of_strangers(true).count() == self.strangers.load(Ordering::Relaxed) {
            Vec::new()
        } else {
            vec!["a stranger's file is gone".to_owned()]
        }
    }

    fn interfere(&self, interference: Interference) -> bool {
        match interference {
            Interference::Stranger => {
                let owner: Token = STRANGER.parse().unwrap();
                let mark = Mark::made(owner, ObjectName::new("default", "sweep"));
                let name = mark.to_string().replace('/', "+");
                std::fs::write(self.directory.path().join(name), "").unwrap();
                self.strangers.fetch_add(1, Ordering::Relaxed);
                true
            }
            Interference::Removal => {
                let ours = self.of_strangers(false).next();
                ours.is_some_and(|path| std::fs::remove_file(path).is_ok())
            }
            _ => false,
        }
    }
}

/// A world for one run.
pub(crate) fn world(weakening: Weakening) -> ProviderWorld<Files> {
    let server = ApiServer::builder().seed(1).epoch(EPOCH).build();
    server.install_crds(DEFINITIONS.iter().cloned()).unwrap();
    let files = Files {
        directory: TempDir::new().unwrap(),
        strangers: AtomicUsize::new(0),
    };
    let path = files.directory.path().to_owned();
    let api_version = "infrastructure.cluster.x-k8s.io/v1alpha1";
    let manifest = Manifest::new(
        json!({"apiVersion": api_version, "kind": "HelloCluster",
               "spec": {"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}}}),
        json!({"apiVersion": api_version, "kind": "HelloMachine", "spec": {}}),
    );
    let clock = Clock::tokio(EPOCH);
    ProviderWorld::new(server, files, manifest, move |client, faults| {
        let options = Options {
            clock: clock.clone(),
            ..Options::default()
        };
        port::run(&path, faults, weakening, weakening.client(client), options)
    })
}
