//! Everything that runs: management cluster, Cluster API core, Proxmox VE, and the provider.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use capi_contract::Credentials;
use capi_core::Provider;
use capi_testkit::apiserver::{ApiServer, Audit, TlsFace};
use capi_testkit::budget::Milestones;
use capi_testkit::core::{Branch, Core, CoreHandle};
use capi_testkit::crds;
use capi_testkit::faults::{Faults, Rates};
use capi_testkit::ipam::Ipam;
use capi_testkit::workload::Workloads;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use kube::{Client, Config};
use parking_lot::Mutex;
use provider_proxmox::cluster::Clusters;
use provider_proxmox::connect::{Connector, Settings};
use provider_proxmox::machine::Machines;
use pve_sim::{Builder, Guests, Platform, Server, TemplateSpec};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::manifest::{self, Manifest};
use crate::options::Options;

/// Under which name the provider is known to the management cluster.
pub(crate) const PROVIDER: &str = "provider-proxmox";
/// How long a provider that died stays away, as a Deployment would need at the least.
const RESTART: Duration = Duration::from_millis(500);
/// One call in a thousand kills the provider under faults; a machine's life has some fifty calls.
const KILLED_PER_MILLE: u16 = 1;
/// Loopback, any free port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Why the world could not be set up or spoken to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorldError {
    #[error("starting the {what}")]
    Start {
        what: &'static str,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{attempt} {object}")]
    Kubernetes {
        attempt: &'static str,
        object: String,
        #[source]
        cause: Box<kube::Error>,
    },
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
}

/// All kinds that a manifest may hold, beside those of Kubernetes itself.
pub(crate) fn definitions() -> Vec<Value> {
    let ours = provider_proxmox::api::crds().into_iter();
    let ours = ours.filter_map(|definition| serde_json::to_value(definition).ok());
    let core = crds::cluster_api()
        .iter()
        .chain(crds::ipam_in_cluster())
        .cloned();
    core.chain(ours).collect()
}

/// A running world.
pub(crate) struct World {
    server: ApiServer,
    face: TlsFace,
    platform: Platform,
    proxmox: Server,
    core: CoreHandle,
    client: Client,
    actors: Mutex<JoinSet<&'static str>>,
    milestones: Arc<Mutex<BTreeMap<String, Milestones>>>,
}

impl World {
    /// Starts everything, on loopback sockets.
    pub(crate) async fn start(options: &Options) -> Result<Self, WorldError> {
        let started = Instant::now();
        let server = ApiServer::new();
        let definitions = definitions();
        server
            .install_crds(&definitions)
            .map_err(|cause| start("management cluster", cause))?;
        let face = server.serve_tls(ANY_PORT).await;
        let face = face.map_err(|cause| start("management cluster", cause))?;
        let client = client(&face, "quickstart").await?;

        let workloads = Workloads::new();
        let platform = platform(options, &workloads);
        let proxmox = platform.serve(ANY_PORT).await;
        let proxmox = proxmox.map_err(|cause| start("simulated Proxmox VE", cause))?;

        let mut actors = JoinSet::new();
        let core = Core::builder(self::client(&face, "core").await?, workloads);
        let core = core.speed(options.speed).build();
        let handle = core.handle();
        actors.spawn(async move { match core.run().await {} });
        let ipam = Ipam::builder(self::client(&face, "ipam").await?)
            .speed(options.speed)
            .build();
        actors.spawn(async move { match ipam.run().await {} });
        let connector = connector(&platform, &proxmox)?;
        let own = self::client(&face, PROVIDER).await?;
        actors.spawn(provide(connector, own, faults(options)));
        let milestones = Arc::default();
        let observer = server.client("observer");
        actors.spawn(observe(observer, started, Arc::clone(&milestones)));

        Ok(Self {
            server,
            face,
            platform,
            proxmox,
            core: handle,
            client,
            actors: Mutex::new(actors),
            milestones,
        })
    }

    /// Where the management cluster answers.
    pub(crate) fn kubernetes_url(&self) -> String {
        self.face.url()
    }

    /// Where Proxmox VE answers.
    pub(crate) fn proxmox_url(&self) -> String {
        self.proxmox.url()
    }

    /// A kubeconfig with all rights for this user of the management cluster.
    pub(crate) fn kubeconfig(&self, user: &str) -> Result<String, WorldError> {
        let text = self.face.kubeconfig(user, &["system:masters"]);
        text.map_err(|cause| start("management cluster", cause))
    }

    /// The simulated Proxmox VE.
    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Every request to the management cluster.
    pub(crate) fn audit(&self) -> Audit {
        self.server.audit()
    }

    /// When the stages of each machine's life changed.
    pub(crate) fn milestones(&self) -> BTreeMap<String, Milestones> {
        self.milestones.lock().clone()
    }

    /// All clusters, as core sees them.
    pub(crate) fn clusters(&self) -> Vec<Branch> {
        self.core.snapshot()
    }

    /// What stopped though it should not have.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        let ended = self.actors.lock().try_join_next()?;
        Some(ended.unwrap_or("a part of the world"))
    }

    /// Asks the server about every object without storing it, so that nothing is created if one of
    /// them is refused.
    pub(crate) async fn dry_run(&self, manifest: &Manifest) -> Result<(), WorldError> {
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let mut findings = Vec::new();
        for object in &manifest.objects {
            match self.api(object).create(&params, object).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) => {
                    findings
                        .push(manifest.finding(manifest::name_of(object), status.message.clone()));
                }
                Err(cause) => return Err(failed("checking", object, cause)),
            }
        }
        if findings.is_empty() {
            Ok(())
        } else {
            Err(manifest::Error::Findings(findings).into())
        }
    }

    /// Creates every object, in the manifest's order.
    pub(crate) async fn apply(&self, manifest: &Manifest) -> Result<(), WorldError> {
        for object in &manifest.objects {
            let created = self
                .api(object)
                .create(&PostParams::default(), object)
                .await;
            created.map_err(|cause| failed("creating", object, cause))?;
        }
        Ok(())
    }

    /// Deletes the manifest's clusters; core takes down what belongs to them.
    pub(crate) async fn delete_clusters(&self, manifest: &Manifest) -> Result<(), WorldError> {
        for object in manifest.of_kind("Cluster") {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let deleted = self
                .api(object)
                .delete(name, &DeleteParams::default())
                .await;
            deleted.map_err(|cause| failed("deleting", object, cause))?;
        }
        Ok(())
    }

    fn api(&self, object: &DynamicObject) -> Api<DynamicObject> {
        // The manifest's objects have been read with their kinds.
        let kind = manifest::kind_of(object).unwrap_or_else(|| GroupVersionKind::gvk("", "", ""));
        let resource = ApiResource::from_gvk(&kind);
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }
}

fn start(
    what: &'static str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> WorldError {
    WorldError::Start {
        what,
        cause: cause.into(),
    }
}

fn failed(attempt: &'static str, object: &DynamicObject, cause: kube::Error) -> WorldError {
    WorldError::Kubernetes {
        attempt,
        object: manifest::name_of(object),
        cause: Box::new(cause),
    }
}

/// A client over TLS, with a user of its own.
async fn client(face: &TlsFace, user: &str) -> Result<Client, WorldError> {
    let text = face.kubeconfig(user, &["system:masters"]);
    let text = text.map_err(|cause| start("management cluster", cause))?;
    let parsed =
        Kubeconfig::from_yaml(&text).map_err(|cause| start("management cluster", cause))?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    let config = config.map_err(|cause| start("management cluster", cause))?;
    capi_core::client(config).map_err(|cause| start("management cluster", cause))
}

/// Three nodes, and a template whose disks all of them reach.
fn platform(options: &Options, workloads: &Workloads) -> Platform {
    let template = TemplateSpec::new(9000, "pve1", "ubuntu-2404-kube-v1.36.0")
        .storage("shared")
        .tags("kube-v1.36.0;template;ubuntu-2404");
    let builder = Builder::new()
        .template(template)
        .speed(options.speed)
        .seed(options.seed)
        .guests(Guests::new(workloads.clone()));
    let builder = if options.chaos {
        builder.chaos(pve_sim::Rates::rough())
    } else {
        builder
    };
    builder.build()
}

/// The provider's own credentials: the simulator's token, its certificate authority trusted.
fn connector(platform: &Platform, proxmox: &Server) -> Result<Connector, WorldError> {
    let (token, secret) = platform.token();
    let data = [
        ("url", proxmox.url()),
        ("token", token),
        ("secret", secret),
        ("root_ca", proxmox.ca_pem().to_owned()),
    ];
    let data = data.map(|(key, value)| (key.to_owned(), value.into_bytes()));
    let settings = Settings::of_secret("the quick start's settings", &Credentials::new(data));
    let settings = settings.map_err(|cause| start("provider", cause))?;
    Ok(Connector::new().with_own(settings))
}

fn faults(options: &Options) -> Faults {
    if !options.chaos {
        return Faults::none();
    }
    let rates = Rates {
        killed: KILLED_PER_MILLE,
        ..Rates::default()
    };
    Faults::chaos(options.seed, rates)
}

/// Runs the provider; whenever a fault kills it, a new one is started.
async fn provide(connector: Connector, client: Client, mut faults: Faults) -> &'static str {
    loop {
        let provider = Provider::new(connector.clone())
            .cluster(Clusters)
            .machine(Machines);
        let client = faults.kubernetes(client.clone(), PROVIDER);
        tokio::select! {
            _ended = provider.run(client, pending()) => return "the provider",
            () = faults.killed() => {}
        }
        tokio::time::sleep(RESTART).await;
        faults = faults.revive();
    }
}

/// Notes when machines are provisioned and when they begin to go.
async fn observe(
    client: Client,
    started: Instant,
    milestones: Arc<Mutex<BTreeMap<String, Milestones>>>,
) -> &'static str {
    let machines: Api<provider_proxmox::api::ProxmoxMachine> = Api::all(client);
    let mut changes = watcher(machines, watcher::Config::default()).boxed();
    while let Ok(Some(change)) = changes.try_next().await {
        let (watcher::Event::Apply(machine) | watcher::Event::InitApply(machine)) = change else {
            continue;
        };
        let now = started.elapsed();
        let name = machine.metadata.name.clone().unwrap_or_default();
        let mut all = milestones.lock();
        let of_machine = all.entry(name).or_default();
        let initialization = machine
            .status
            .as_ref()
            .and_then(|status| status.initialization.as_ref());
        if initialization.and_then(|it| it.provisioned) == Some(true) {
            of_machine.provisioned.get_or_insert(now);
        }
        if machine.metadata.deletion_timestamp.is_some() {
            of_machine.deleting.get_or_insert(now);
        }
    }
    "the observer"
}
