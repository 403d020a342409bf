//! Everything that runs: management cluster, Cluster API core, the platform, and the provider.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use capi_testkit::apiserver::{ApiServer, Audit, TlsFace};
use capi_testkit::core::{Branch, Core, CoreHandle};
use capi_testkit::crds;
use capi_testkit::ipam::Ipam;
use capi_testkit::workload::Workloads;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cast::{self, Day, NEWER, Owner};
use crate::manifest::{self, Manifest};
use crate::moments::Moments;
use crate::options::Options;
use crate::platform::{Access, Platform, Profile, Running};
use crate::provider::{self, Brief, Kills};

/// Loopback, any free port.
pub(crate) const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
pub(crate) fn definitions(platform: Platform) -> Vec<Value> {
    let core = crds::cluster_api().iter().chain(crds::ipam_in_cluster());
    let ours = (platform.profile().definitions)();
    core.cloned().chain(ours).collect()
}

/// The resource versions at which the stages of a machine's life changed: exact, however late they are
/// seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turns {
    /// The first that says `provisioned`.
    pub(crate) provisioned: Option<u64>,
    /// The first with a deletion timestamp.
    pub(crate) deleting: Option<u64>,
}

/// A running world.
pub(crate) struct World {
    server: ApiServer,
    face: TlsFace,
    profile: &'static Profile,
    platform: Box<dyn Running>,
    core: CoreHandle,
    client: Client,
    actors: Mutex<JoinSet<&'static str>>,
    turns: Arc<Mutex<BTreeMap<String, Turns>>>,
    kills: Arc<Kills>,
}

impl World {
    /// Starts everything, on loopback sockets.
    pub(crate) async fn start(options: &Options) -> Result<Self, WorldError> {
        let server = ApiServer::new();
        let definitions = definitions(options.provider);
        server
            .install_crds(&definitions)
            .map_err(|cause| start("management cluster", cause))?;
        let face = server.serve_tls(ANY_PORT).await;
        let face = face.map_err(|cause| start("management cluster", cause))?;
        let client = client(&face, "quickstart").await?;

        let workloads = Workloads::new();
        let platform = options.provider.start(options, &workloads).await?;
        let profile = options.provider.profile();

        if let Some(name) = profile.secret {
            store_access(&client, name, platform.access()).await?;
        }

        let mut actors = JoinSet::new();
        let core = Core::builder(self::client(&face, "core").await?, workloads);
        let core = core.speed(options.speed).build();
        let handle = core.handle();
        actors.spawn(async move { match core.run().await {} });
        let ipam = Ipam::builder(self::client(&face, "ipam").await?)
            .speed(options.speed)
            .build();
        actors.spawn(async move { match ipam.run().await {} });
        let kills = Arc::new(Kills::new(options.kill));
        let kubeconfig = face.kubeconfig(profile.provider, &["system:masters"]);
        let brief = Brief {
            kubeconfig: kubeconfig.map_err(|cause| start("management cluster", cause))?,
            platform: options.provider,
            access: platform.access().clone(),
            chaos: options.chaos.then_some(options.seed),
        };
        actors.spawn(provide(brief, Arc::clone(&kills), options.seed));
        let turns = Arc::default();
        let machines = Api::all_with(server.client("observer"), &profile.machine());
        actors.spawn(observe(machines, Arc::clone(&turns)));

        Ok(Self {
            server,
            face,
            profile,
            platform,
            core: handle,
            client,
            actors: Mutex::new(actors),
            turns,
            kills,
        })
    }

    /// Where the management cluster answers.
    pub(crate) fn kubernetes_url(&self) -> String {
        self.face.url()
    }

    /// A kubeconfig with all rights for this user of the management cluster.
    pub(crate) fn kubeconfig(&self, user: &str) -> Result<String, WorldError> {
        let text = self.face.kubeconfig(user, &["system:masters"]);
        text.map_err(|cause| start("management cluster", cause))
    }

    /// The simulated platform.
    pub(crate) fn platform(&self) -> &dyn Running {
        self.platform.as_ref()
    }

    /// What is known of the platform.
    pub(crate) fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// Every request to the management cluster.
    pub(crate) fn audit(&self) -> Audit {
        self.server.audit()
    }

    /// When the stages of each machine's life changed.
    pub(crate) fn turns(&self) -> BTreeMap<String, Turns> {
        self.turns.lock().clone()
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

    /// Sets the number of machines through the scale subresource, as `kubectl scale` does.
    pub(crate) async fn scale(&self, owner: &Owner, replicas: usize) -> Result<(), WorldError> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let api = self.api_of(owner);
        let params = PatchParams::default();
        let scaled = api.patch_scale(&owner.name, &params, &patch).await;
        scaled.map_err(|cause| failed_for("scaling", owner, cause))?;
        Ok(())
    }

    /// Creates the newer copy of an owner's machine template.
    pub(crate) async fn copy_template(
        &self,
        manifest: &Manifest,
        owner: &Owner,
    ) -> Result<(), WorldError> {
        // The cast was read from the same manifest, so it has the template.
        let Ok(template) = cast::newer_template(manifest, self.profile, owner) else {
            return Ok(());
        };
        let api = self.api(&template);
        let created = api.create(&PostParams::default(), &template).await;
        created.map_err(|cause| failed("creating", &template, cause))?;
        Ok(())
    }

    /// Gives an owner's machines the newer version, and the newer copy of their template.
    pub(crate) async fn upgrade(&self, owner: &Owner) -> Result<(), WorldError> {
        let machine = json!({"infrastructureRef": {"name": Day::newer(owner)}});
        let spec = if owner.kind == "MachineDeployment" {
            let mut machine = machine;
            machine["version"] = json!(NEWER);
            json!({"template": {"spec": machine}})
        } else {
            json!({"version": NEWER, "machineTemplate": {"spec": machine}})
        };
        let patch = Patch::Merge(json!({"spec": spec}));
        let api = self.api_of(owner);
        let params = PatchParams::default();
        let patched = api.patch(&owner.name, &params, &patch).await;
        patched.map_err(|cause| failed_for("upgrading", owner, cause))?;
        Ok(())
    }

    /// How the provider's deaths go.
    pub(crate) fn kills(&self) -> &Kills {
        &self.kills
    }

    fn api_of(&self, owner: &Owner) -> Api<DynamicObject> {
        let group = match owner.kind {
            "KubeadmControlPlane" => "controlplane.cluster.x-k8s.io",
            _ => "cluster.x-k8s.io",
        };
        let kind = GroupVersionKind::gvk(group, "v1beta2", owner.kind);
        let resource = ApiResource::from_gvk(&kind);
        Api::namespaced_with(self.client.clone(), &owner.namespace, &resource)
    }

    fn api(&self, object: &DynamicObject) -> Api<DynamicObject> {
        // The manifest's objects have been read with their kinds.
        let kind = manifest::kind_of(object).unwrap_or_else(|| GroupVersionKind::gvk("", "", ""));
        let resource = ApiResource::from_gvk(&kind);
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }
}

pub(crate) fn start(
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

fn failed_for(attempt: &'static str, owner: &Owner, cause: kube::Error) -> WorldError {
    WorldError::Kubernetes {
        attempt,
        object: format!("{} {}", owner.kind, owner.name),
        cause: Box::new(cause),
    }
}

/// Creates the Secret that the example's manifest refers to.
async fn store_access(client: &Client, name: &str, access: &Access) -> Result<(), WorldError> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        string_data: Some(access.clone()),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let created = secrets.create(&PostParams::default(), &secret).await;
    created.map_err(|cause| WorldError::Kubernetes {
        attempt: "creating",
        object: format!("Secret {name}"),
        cause: Box::new(cause),
    })?;
    Ok(())
}

/// A client over TLS, with a user of its own.
async fn client(face: &TlsFace, user: &str) -> Result<Client, WorldError> {
    let text = face.kubeconfig(user, &["system:masters"]);
    let text = text.map_err(|cause| start("management cluster", cause))?;
    let made = provider::client(&text).await;
    made.map_err(|cause| start("management cluster", cause))
}

async fn provide(brief: Brief, kills: Arc<Kills>, seed: u64) -> &'static str {
    let ended = if kills.planned() == 0 {
        provider::work_here(brief, kills).await
    } else {
        let moments = Moments::new(seed, kills.planned());
        provider::work_apart(brief, kills, moments).await
    };
    if let Err(error) = ended {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the provider ended"
        );
    }
    "the provider"
}

/// Notes when machines are provisioned and when they begin to go.
async fn observe(
    machines: Api<DynamicObject>,
    turns: Arc<Mutex<BTreeMap<String, Turns>>>,
) -> &'static str {
    let mut changes = watcher(machines, watcher::Config::default()).boxed();
    while let Ok(Some(change)) = changes.try_next().await {
        let (watcher::Event::Apply(machine) | watcher::Event::InitApply(machine)) = change else {
            continue;
        };
        let version = machine.metadata.resource_version.as_deref();
        let Some(version) = version.and_then(|text| text.parse::<u64>().ok()) else {
            continue;
        };
        let name = machine.metadata.name.clone().unwrap_or_default();
        let mut all = turns.lock();
        let of_machine = all.entry(name).or_default();
        let provisioned = machine.data.pointer("/status/initialization/provisioned");
        if provisioned == Some(&Value::Bool(true)) {
            of_machine.provisioned.get_or_insert(version);
        }
        if machine.metadata.deletion_timestamp.is_some() {
            of_machine.deleting.get_or_insert(version);
        }
    }
    "the observer"
}
