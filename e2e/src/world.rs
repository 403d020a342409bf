//! A management cluster with Cluster API, and a person's hands in it: get, list, apply, patch, delete,
//! wait.

use std::time::Duration;

use capi_testkit::crds;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::apply::{Applier, ApplyError};
use crate::failure::Failure;
use crate::ipam::Ipam;
use crate::management::{Management, Ports};
use crate::manager;
use crate::site::Site;

/// How long a state may take unless told otherwise. The slowest, a deletion, waits in steps of 10 s.
const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Group and version of the kinds that suites ask for by their bare name; the first that begins alike
/// is taken, so longer names stand first. Others are named as kubectl does, `Kind.version.group`.
const KINDS: [(&str, &str, &str); 14] = [
    (
        "KubeadmControlPlane",
        "controlplane.cluster.x-k8s.io",
        "v1beta2",
    ),
    ("KubeadmConfig", "bootstrap.cluster.x-k8s.io", "v1beta2"),
    ("IPAddress", "ipam.cluster.x-k8s.io", "v1beta2"),
    ("InClusterIPPool", "ipam.cluster.x-k8s.io", "v1alpha2"),
    ("GlobalInClusterIPPool", "ipam.cluster.x-k8s.io", "v1alpha2"),
    ("ClusterResourceSet", "addons.cluster.x-k8s.io", "v1beta2"),
    ("Proxmox", "infrastructure.cluster.x-k8s.io", "v1alpha2"),
    ("Kubevirt", "infrastructure.cluster.x-k8s.io", "v1alpha1"),
    ("Secret", "", "v1"),
    ("ConfigMap", "", "v1"),
    ("Node", "", "v1"),
    ("Pod", "", "v1"),
    ("Machine", "cluster.x-k8s.io", "v1beta2"),
    ("Cluster", "cluster.x-k8s.io", "v1beta2"),
];

/// What a failed wait tells of, as far as the kinds are there.
const REPORTED: [&str; 8] = [
    "Cluster",
    "ProxmoxCluster",
    "KubevirtCluster",
    "KubeadmControlPlane",
    "MachineDeployment",
    "Machine",
    "ProxmoxMachine",
    "KubevirtMachine",
];

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Builder {
    site: Site,
    ports: Ports,
    managers: bool,
    cluster_api: bool,
    ipam: bool,
    limit: Duration,
}

impl Builder {
    /// Leaves out the managers of Cluster API: its kinds are there, for a simulator to play it.
    #[must_use]
    pub fn without_managers(mut self) -> Self {
        self.managers = false;
        self
    }

    /// Leaves out Cluster API and the IPAM provider, for those who install them by clusterctl:
    /// [`World::start_managers`] and [`World::start_ipam`] follow then.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.cluster_api = false;
        self.ipam = false;
        self
    }

    /// Leaves out the IPAM provider: address claims stay unanswered.
    #[must_use]
    pub fn without_ipam(mut self) -> Self {
        self.ipam = false;
        self
    }

    /// Sets how long a state may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As [`Management::start`] and [`manager::start_all`]; what was started is ended then.
    pub async fn start(self) -> Result<World, Failure> {
        let management = Management::start(self.site.clone(), self.ports).await?;
        // From here on, dropping the world ends the processes.
        let mut world = World {
            management,
            limit: self.limit,
            ipam: None,
        };
        if self.cluster_api && self.managers {
            manager::start_all(&world.management).await?;
        } else if self.cluster_api {
            world.apply(crds::cluster_api().to_vec()).await?;
        }
        if self.ipam {
            let ipam = Ipam::install(&world.management).await?;
            ipam.start()?;
            world.ipam = Some(ipam);
        }
        Ok(world)
    }
}

/// A management cluster with Cluster API. Its processes end when it is dropped.
#[derive(Debug)]
pub struct World {
    /// The programs of Kubernetes.
    pub management: Management,
    limit: Duration,
    /// What answers address claims, a process of its own.
    pub ipam: Option<Ipam>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.management.stop() {
            eprintln!("error: {error}");
        }
    }
}

impl World {
    /// A world of this name: its files lie in `target/e2e/NAME`, so two worlds that are there at the
    /// same time have different names, and ports that lie 50 apart.
    #[must_use]
    pub fn builder(name: &str, ports: Ports) -> Builder {
        Builder {
            site: Site::named(name),
            ports,
            managers: true,
            cluster_api: true,
            ipam: true,
            limit: LIMIT,
        }
    }

    /// A world around an API server that runs. What runs at its site ends when the world is dropped.
    #[must_use]
    pub fn around(management: Management) -> Self {
        Self {
            management,
            limit: LIMIT,
            ipam: None,
        }
    }

    /// Starts the managers of Cluster API, whose objects are installed already.
    ///
    /// # Errors
    ///
    /// As [`manager::Manager::start`].
    pub async fn start_managers(&self) -> Result<(), Failure> {
        for manager in manager::MANAGERS {
            manager.start(&self.management).await?;
        }
        Ok(())
    }

    /// Starts the IPAM provider, whose manifests are installed already.
    ///
    /// # Errors
    ///
    /// As [`Ipam::installed`] and [`Ipam::start`].
    pub async fn start_ipam(&mut self) -> Result<(), Failure> {
        let ipam = Ipam::installed(&self.management).await?;
        ipam.start()?;
        self.ipam = Some(ipam);
        Ok(())
    }

    /// Applies objects, one after the other.
    ///
    /// # Errors
    ///
    /// What the server refuses.
    pub async fn apply(&self, objects: Vec<Value>) -> Result<(), ApplyError> {
        let mut applier = Applier::new(self.management.client.clone());
        for object in objects {
            applier.apply(object).await?;
        }
        Ok(())
    }

    /// The objects of a kind in namespace `default`. Kinds of Cluster API and of our providers go by
    /// their name, all others by `Kind.version.group`.
    #[must_use]
    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        self.api_in("default", kind)
    }

    /// The objects of a kind in a namespace.
    #[must_use]
    pub fn api_in(&self, namespace: &str, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&resolve(kind));
        Api::namespaced_with(self.management.client.clone(), namespace, &resource)
    }

    /// An object; `None` while it is not there, or the server does not answer.
    pub async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let object = self.api(kind).get_opt(name).await.ok()??;
        serde_json::to_value(object).ok()
    }

    /// All objects of a kind.
    ///
    /// # Errors
    ///
    /// A server that does not answer, or does not know the kind.
    pub async fn list(&self, kind: &str) -> Result<Vec<Value>, Failure> {
        let all = self.api(kind).list(&ListParams::default()).await?;
        let values = all.items.into_iter().map(serde_json::to_value);
        Ok(values.collect::<Result<_, _>>()?)
    }

    /// Asks for an object's deletion.
    ///
    /// # Errors
    ///
    /// What the server refuses.
    pub async fn delete(&self, kind: &str, name: &str) -> Result<(), kube::Error> {
        let params = DeleteParams::default();
        self.api(kind).delete(name, &params).await.map(|_| ())
    }

    /// Merges a patch into an object; the object as it is then.
    ///
    /// # Errors
    ///
    /// What the server refuses.
    pub async fn patch(&self, kind: &str, name: &str, patch: Value) -> Result<Value, kube::Error> {
        self.patch_with(kind, name, patch, &PatchParams::default())
            .await
    }

    /// Merges a patch into an object, perhaps only as a rehearsal.
    ///
    /// # Errors
    ///
    /// What the server refuses.
    pub async fn patch_with(
        &self,
        kind: &str,
        name: &str,
        patch: Value,
        params: &PatchParams,
    ) -> Result<Value, kube::Error> {
        let api = self.api(kind);
        let patched = api.patch(name, params, &Patch::Merge(patch)).await?;
        serde_json::to_value(patched).map_err(kube::Error::SerdeError)
    }

    /// Waits for a state and returns how long it took; `None` counts as not yet.
    ///
    /// # Errors
    ///
    /// The state does not come within the world's limit; the failure tells the conditions of everything.
    #[expect(
        clippy::print_stdout,
        reason = "a suite prints how long its phases take"
    )]
    pub async fn until(
        &self,
        what: &str,
        holds: impl AsyncFn() -> Option<bool>,
    ) -> Result<Duration, Failure> {
        let begun = Instant::now();
        while holds().await != Some(true) {
            if begun.elapsed() > self.limit {
                let seconds = self.limit.as_secs();
                let report = self.report().await;
                return Err(Failure::new(format!(
                    "after {seconds} s not true: {what}\n{report}"
                )));
            }
            sleep(LOOK).await;
        }
        let took = begun.elapsed();
        println!("{what}, after {:.1} s", took.as_secs_f64());
        Ok(took)
    }

    /// What the objects say of themselves.
    pub async fn report(&self) -> String {
        let mut text = String::new();
        for kind in REPORTED {
            // A kind that is not installed has nothing to say.
            for object in self.list(kind).await.unwrap_or_default() {
                text += &described(kind, &object);
            }
        }
        text
    }
}

fn described(kind: &str, object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let phase = word(&object["status"]["phase"]);
    let mut text = format!("{kind} {} {phase}\n", word(&object["metadata"]["name"]));
    let conditions = object["status"]["conditions"].as_array();
    for one in conditions.into_iter().flatten() {
        text += &format!(
            "  {} {} {} {}\n",
            word(&one["type"]),
            word(&one["status"]),
            word(&one["reason"]),
            word(&one["message"]).replace('\n', " "),
        );
    }
    text
}

fn resolve(kind: &str) -> GroupVersionKind {
    if let Some((name, rest)) = kind.split_once('.') {
        let (version, group) = rest.split_once('.').unwrap_or((rest, ""));
        return GroupVersionKind::gvk(group, version, name);
    }
    let known = KINDS.iter().find(|(name, ..)| kind.starts_with(name));
    let (group, version) = known.map_or(("", "v1"), |(_, group, version)| (*group, *version));
    GroupVersionKind::gvk(group, version, kind)
}

/// The status of a condition of an object; empty if it has none of this type.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found
        .and_then(|one| one["status"].as_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_name() {
        let table = [
            ("Cluster", "cluster.x-k8s.io", "v1beta2"),
            ("ClusterClass", "cluster.x-k8s.io", "v1beta2"),
            ("ClusterResourceSet", "addons.cluster.x-k8s.io", "v1beta2"),
            ("MachineDeployment", "cluster.x-k8s.io", "v1beta2"),
            (
                "KubeadmConfigTemplate",
                "bootstrap.cluster.x-k8s.io",
                "v1beta2",
            ),
            ("IPAddressClaim", "ipam.cluster.x-k8s.io", "v1beta2"),
            (
                "ProxmoxMachine",
                "infrastructure.cluster.x-k8s.io",
                "v1alpha2",
            ),
            ("Secret", "", "v1"),
        ];
        for (kind, group, version) in table {
            let found = resolve(kind);
            assert_eq!((&*found.group, &*found.version), (group, version), "{kind}");
        }
        let full = resolve("VirtualMachine.v1.kubevirt.io");
        assert_eq!(
            (&*full.group, &*full.kind),
            ("kubevirt.io", "VirtualMachine")
        );
    }

    #[test]
    fn a_condition_that_is_missing_has_no_status() {
        let object = serde_json::json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}]}});
        assert_eq!(condition(&object, "Ready"), "True");
        assert_eq!(condition(&object, "Available"), "");
    }
}
