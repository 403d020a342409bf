//! A management cluster that clusterctl installs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::clusterctl::{Clusterctl, Published};
use e2e::failure::Failure;
use e2e::infrastructure::Names;
use e2e::management::Ports;
use e2e::provider::{Program, Provider};
use e2e::world::World;
use serde_json::{Value, json};

use crate::stage::{Credentials, Parts};

/// The provider's place among the managers, after those of Cluster API.
const PLACE: u16 = 3;
/// How long a state may take. The slowest, a deletion, waits in steps of 10 s.
const LIMIT: Duration = Duration::from_secs(120);
/// What a cluster consists of, beside templates and our kinds; `clusterctl move` takes all of it.
const MOVED: [&str; 7] = [
    "Cluster",
    "MachineDeployment",
    "MachineSet",
    "Machine",
    "KubeadmControlPlane",
    "IPAddressClaim",
    "InClusterIPPool",
];

/// A management cluster, what clusterctl is told for it, and the provider in it.
pub(crate) struct Side {
    pub(crate) world: World,
    pub(crate) clusterctl: Clusterctl,
    pub(crate) program: Program,
    pub(crate) provider: Option<Provider>,
    pub(crate) names: Names,
    credentials: Option<Credentials>,
    of_nodes: &'static [&'static str],
}

impl Side {
    /// Kubernetes alone, with a repository beside it.
    pub(crate) async fn bare(
        name: &str,
        ports: Ports,
        names: Names,
        parts: &Parts,
        variables: Vec<(&str, String)>,
    ) -> Result<Self, Failure> {
        // Credentials come by way of clusterctl.
        let program = names.built()?;
        let world = World::builder(name, ports)
            .bare()
            .limit(LIMIT)
            .start()
            .await?;
        let published = Published {
            name: names.provider,
            program: &program,
            place: PLACE,
            releases: &parts.releases,
        };
        let mut clusterctl = Clusterctl::prepare(&world.management, &published).await?;
        for (variable, value) in variables {
            // A certificate comes on one line: clusterctl takes five dashes at the begin of a line
            // for the end of a document.
            clusterctl.set(variable, value.trim().replace('\n', " "));
        }
        Ok(Self {
            world,
            clusterctl,
            program,
            provider: None,
            names,
            credentials: parts.credentials,
            of_nodes: parts.of_nodes,
        })
    }

    /// What clusterctl calls our provider's objects.
    pub(crate) fn label(&self) -> String {
        format!("infrastructure-{}", self.names.provider)
    }

    /// `clusterctl init` with this release of ours.
    pub(crate) fn init(&self, release: &str) -> Result<(), Failure> {
        let infrastructure = format!("{}:{release}", self.names.provider);
        let arguments = ["init", "--ipam", "in-cluster", "--infrastructure"];
        self.clusterctl
            .run(&[&arguments[..], &[&infrastructure]].concat())?;
        Ok(())
    }

    /// Starts what init installed but cannot run: the managers, the IPAM provider, and ours with the
    /// credentials that were given to clusterctl.
    pub(crate) async fn begin(&mut self) -> Result<(), Failure> {
        self.world.start_managers().await?;
        self.world.start_ipam().await?;
        self.restart_provider().await
    }

    /// Starts the provider as its Deployment would be rolled out: with the account and the
    /// credentials that are there now.
    pub(crate) async fn restart_provider(&mut self) -> Result<(), Failure> {
        if let Some(old) = &self.provider {
            old.kill()?;
        }
        let mut program = self.program.clone();
        for (variable, value) in self.credentials().await? {
            program = program.variable(&variable, value);
        }
        let provider = program.installed(&self.world.management, PLACE).await?;
        provider.start().await?;
        self.provider = Some(provider);
        Ok(())
    }

    pub(crate) fn provider(&self) -> &Provider {
        self.provider.as_ref().expect("it was started")
    }

    /// The variables that the Deployment takes from the Secret.
    async fn credentials(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut found = BTreeMap::new();
        let Some(credentials) = self.credentials else {
            return Ok(found);
        };
        let secrets = self.world.api_in(self.names.namespace, "Secret");
        let secret = secrets.get(credentials.secret).await?;
        for (key, value) in secret.data["data"].as_object().into_iter().flatten() {
            let bytes: k8s_openapi::ByteString = serde_json::from_value(value.clone())?;
            let text = String::from_utf8_lossy(&bytes.0).into_owned();
            if !text.is_empty() {
                let name = format!("{}{}", credentials.prefix, key.to_uppercase());
                found.insert(name, text);
            }
        }
        Ok(found)
    }

    /// Everything that a move takes along, by kind and name, without what a move changes: uids,
    /// versions, times, and who wrote which field.
    pub(crate) async fn belongings(&self) -> Result<BTreeMap<String, Value>, Failure> {
        let mut all = BTreeMap::new();
        let own = ["Cluster", "Machine"].map(|kind| self.names.kind(kind));
        for kind in MOVED.map(str::to_owned).into_iter().chain(own) {
            for object in self.world.list(&kind).await? {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                all.insert(format!("{kind} {name}"), self.lasting(&object));
            }
        }
        Ok(all)
    }

    /// Waits until our objects are as they were; the failure tells in which fields they differ.
    pub(crate) async fn as_before(
        &self,
        what: &str,
        before: &BTreeMap<String, Value>,
    ) -> Result<(), Failure> {
        let differences = async || Some(self.differences(before, &self.belongings().await.ok()?));
        let waited = self
            .world
            .until(what, async || Some(differences().await?.is_empty()))
            .await;
        match waited {
            Ok(_) => Ok(()),
            Err(failure) => Err(Failure::new(format!(
                "{failure}\n{:#?}",
                differences().await
            ))),
        }
    }

    /// The uids of our objects.
    pub(crate) async fn uids(&self) -> Result<BTreeSet<String>, Failure> {
        let mut all = BTreeSet::new();
        for kind in ["Cluster", "Machine", "MachineTemplate"] {
            for object in self.world.list(&self.names.kind(kind)).await? {
                all.insert(object["metadata"]["uid"].to_string());
            }
        }
        Ok(all)
    }

    /// Of an object of ours: metadata that people and controllers rely on, spec, and status without times
    /// and without what follows from a Node.
    /// Of one of Cluster API: the metadata only, since its controllers do their own work meanwhile.
    fn lasting(&self, object: &Value) -> Value {
        let metadata = &object["metadata"];
        let mut kept = json!({
            "labels": metadata["labels"],
            "finalizers": metadata["finalizers"],
            "owners": owners(metadata),
        });
        let is_ours = object["kind"]
            .as_str()
            .is_some_and(|kind| kind.starts_with(self.names.kinds));
        if is_ours {
            kept["annotations"] = metadata["annotations"].clone();
            kept["spec"] = object["spec"].clone();
            kept["status"] = object["status"].clone();
            if let Some(conditions) = kept["status"]["conditions"].as_array_mut() {
                let is_of_a_node =
                    |one: &Value| self.of_nodes.iter().any(|kind| one["type"] == *kind);
                conditions.retain(|one| !is_of_a_node(one));
                for condition in conditions {
                    condition["lastTransitionTime"] = Value::Null;
                    condition["observedGeneration"] = Value::Null;
                }
            }
        }
        kept
    }

    /// The fields of our objects that differ, with both values.
    pub(crate) fn differences(
        &self,
        before: &BTreeMap<String, Value>,
        now: &BTreeMap<String, Value>,
    ) -> Vec<String> {
        let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
        let ours = names
            .into_iter()
            .filter(|name| name.starts_with(self.names.kinds));
        let mut found = Vec::new();
        for name in ours {
            let nothing = Value::Null;
            let of =
                |all: &BTreeMap<String, Value>| all.get(name).cloned().unwrap_or(nothing.clone());
            differ(name, &of(before), &of(now), &mut found);
        }
        found
    }
}

fn owners(metadata: &Value) -> BTreeSet<String> {
    let all = metadata["ownerReferences"].as_array();
    let all = all.into_iter().flatten();
    all.map(|owner| {
        let word = |key: &str| owner[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", word("kind"), word("name"), owner["controller"])
    })
    .collect()
}

fn differ(place: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for key in keys {
                differ(&format!("{place} {key}"), &before[key], &now[key], found);
            }
        }
        (old, new) if old == new => {}
        (old, new) => found.push(format!("{place}: {old}, now {new}")),
    }
}
