//! The management cluster, Proxmox VE and the provider.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use capi_testkit::crds;
use capi_testkit::ipam::Ipam;
use capi_testkit::workload::Workloads;
use e2e::apply::Applier;
use e2e::management::{Management, Ports, client};
use e2e::manager;
use e2e::site::Site;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use libtest_mimic::Failed;
use pve_sim::{Builder, Guests, Platform, Server, TemplateSpec};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::provider::{self, ACCOUNT, NAMESPACE, Provider};

/// Ports of this suite, away from those of `up` and the others.
const PORTS: Ports = Ports(26_740);
/// How many times faster than life the simulated hypervisor is; the controllers are not.
const SPEED: f64 = 10.0;
/// How long a state may take. The slowest, a deletion, waits in steps of 10 s.
const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Everything that runs.
pub(crate) struct World {
    pub(crate) management: Management,
    pub(crate) provider: Provider,
    pub(crate) platform: Platform,
    _proxmox: Server,
    _actors: JoinSet<()>,
}

impl World {
    pub(crate) async fn start() -> Result<Self, Box<dyn Error>> {
        let management = Management::start(Site::named("life"), PORTS).await?;
        let started = Self::with(management.clone()).await;
        if started.is_err() {
            management.stop()?;
        }
        started
    }

    async fn with(management: Management) -> Result<Self, Box<dyn Error>> {
        manager::start_all(&management).await?;
        let mut applier = Applier::new(management.client.clone());
        for definition in crds::ipam_in_cluster() {
            applier.apply(definition.clone()).await?;
        }
        let template =
            TemplateSpec::new(9000, "pve1", "ubuntu-2404-kube-v1.36.0").storage("shared");
        let guests = Guests::new(Workloads::new());
        let platform = Builder::new()
            .template(template)
            .speed(SPEED)
            .guests(guests)
            .build();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let proxmox = platform.serve(any_port).await?;

        let mut actors = JoinSet::new();
        let ipam = Ipam::builder(client(&management.kubeconfig).await?);
        actors.spawn(async move { match ipam.run().await {} });
        let (token, secret) = platform.token();
        let own = [
            ("PROXMOX_URL", proxmox.url()),
            ("PROXMOX_TOKEN", token),
            ("PROXMOX_SECRET", secret),
            ("PROXMOX_ROOT_CA", proxmox.ca_pem().to_owned()),
        ];
        let provider = Provider::install(&management, &provider::build()?, own).await?;
        provider.start().await?;
        Ok(Self {
            management,
            provider,
            platform,
            _proxmox: proxmox,
            _actors: actors,
        })
    }

    pub(crate) fn stop(&self) {
        if let Err(error) = self.management.stop() {
            eprintln!("error: {error}");
        }
    }

    pub(crate) async fn apply(&self, objects: Vec<Value>) -> Result<(), Failed> {
        let mut applier = Applier::new(self.management.client.clone());
        for object in objects {
            applier
                .apply(object)
                .await
                .map_err(|error| crate::explain(&error))?;
        }
        Ok(())
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "ProxmoxCluster" | "ProxmoxMachine" | "ProxmoxMachineTemplate" => {
                ("infrastructure.cluster.x-k8s.io", "v1alpha2")
            }
            "IPAddressClaim" => ("ipam.cluster.x-k8s.io", "v1beta2"),
            _ => ("cluster.x-k8s.io", "v1beta2"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.management.client.clone(), "default", &resource)
    }

    /// An object; `None` while it is not there, or the server does not answer.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let object = self.api(kind).get_opt(name).await.ok()??;
        serde_json::to_value(object).ok()
    }

    pub(crate) async fn list(&self, kind: &str) -> Vec<Value> {
        let all = self.api(kind).list(&ListParams::default()).await;
        let all = all.expect("the server lists");
        let all = all.items.into_iter();
        all.filter_map(|object| serde_json::to_value(object).ok())
            .collect()
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) -> Result<(), Failed> {
        self.api(kind)
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Applies an object as somebody, perhaps only as a rehearsal; what the server answers to it.
    pub(crate) async fn patch(
        &self,
        kind: &str,
        name: &str,
        patch: Value,
        rehearsal: bool,
    ) -> Result<Value, kube::Error> {
        let params = PatchParams {
            dry_run: rehearsal,
            ..PatchParams::default()
        };
        let patched = self
            .api(kind)
            .patch(name, &params, &Patch::Merge(patch))
            .await?;
        serde_json::to_value(patched).map_err(kube::Error::SerdeError)
    }

    /// Requests of the provider, from the server's own log: verb, resource, code.
    pub(crate) fn requests(&self) -> Vec<(String, String, u64)> {
        let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let text = std::fs::read_to_string(self.management.site.log("audit"));
        let text = text.expect("the server writes an audit log");
        let records = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = records.filter(|record| record["user"]["username"] == user.as_str());
        ours.map(|record| {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (
                word(&record["verb"]),
                word(&record["objectRef"]["resource"]),
                record["responseStatus"]["code"]
                    .as_u64()
                    .unwrap_or_default(),
            )
        })
        .collect()
    }

    /// Waits for a state; fails with the conditions of everything if it does not come.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl AsyncFn() -> Option<bool>,
    ) -> Result<(), Failed> {
        let begun = Instant::now();
        while holds().await != Some(true) {
            if begun.elapsed() > LIMIT {
                return Err(format!(
                    "after {} s not true: {what}\n{}",
                    LIMIT.as_secs(),
                    self.report().await
                )
                .into());
            }
            sleep(LOOK).await;
        }
        println!("{what}, after {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// What the objects say of themselves.
    async fn report(&self) -> String {
        let mut text = String::new();
        for kind in ["Cluster", "ProxmoxCluster", "Machine", "ProxmoxMachine"] {
            for object in self.list(kind).await {
                text += &format!("{kind} {}\n", object["metadata"]["name"]);
                for condition in object["status"]["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                {
                    text += &format!(
                        "  {} {} {} {}\n",
                        condition["type"],
                        condition["status"],
                        condition["reason"],
                        condition["message"]
                    );
                }
            }
        }
        text
    }
}

/// A condition of an object.
pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.cloned().unwrap_or_default()
}
