//! The platforms that the story can be told on. Each has a file here, all of the same shape.

mod kubevirt;
mod proxmox;

use std::collections::BTreeMap;
use std::fmt;

use capi_core::Options as Engine;
use capi_testkit::faults::Faults;
use capi_testkit::workload::Workloads;
use clap::ValueEnum;
use futures::future::BoxFuture;
use kube::Client;
use kube::api::ApiResource;
use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::Manifest;
use crate::options::Options;
use crate::provider::{self, Brief};
use crate::world::WorldError;

/// The word of a platform on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Platform {
    /// Proxmox VE, three nodes
    Proxmox,
    /// KubeVirt on an infra cluster of six nodes
    Kubevirt,
}

/// What is known of a platform before it runs.
#[derive(Debug)]
pub(crate) struct Profile {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Under which name its provider is known to the management cluster.
    pub(crate) provider: &'static str,
    /// Where the manifest lies that is applied unless another is named.
    pub(crate) example: &'static str,
    /// The text of that manifest.
    pub(crate) text: &'static str,
    /// How its kinds begin.
    pub(crate) prefix: &'static str,
    /// The version of its kinds.
    version: &'static str,
    /// The Secret with the platform's credentials that the manifest refers to, if it does.
    pub(crate) secret: Option<&'static str>,
    /// How many writes to the management cluster a machine may take from its gates to `provisioned`.
    pub(crate) writes: usize,
    /// What to try next.
    pub(crate) next: &'static str,
    /// The definitions of its kinds.
    pub(crate) definitions: fn() -> Vec<Value>,
    /// Adds to its definitions what they let through and the platform would refuse later, so that a
    /// manifest's mistakes are found before anything is created.
    pub(crate) refine: fn(&mut [Value]),
    /// Changes the spec of a machine in a template to the newer image. An error says what it lacks.
    pub(crate) renew: fn(&mut Value) -> Result<(), &'static str>,
    /// Whether VMs of such a machine are moved while they run when their node is drained.
    pub(crate) moves: fn(&Value) -> bool,
    /// What a person types to destroy a VM.
    pub(crate) destroy: fn(&Vm) -> String,
}

/// What the provider needs to reach the platform: what a credentials Secret would hold.
pub(crate) type Access = BTreeMap<String, String>;

/// A VM of a machine, by what people call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vm(pub(crate) String);

impl fmt::Display for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What there should not be in the end.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) vms: Vec<String>,
    /// Disks, images, Secrets and whatever else was made for VMs.
    pub(crate) others: Vec<String>,
    /// Pairs of VMs for one machine.
    pub(crate) twins: usize,
    /// How often another's VM was changed.
    pub(crate) strangers: usize,
}

/// A simulated platform that runs. Dropping it ends it.
pub(crate) trait Running: Send + Sync {
    /// What it is and where it answers.
    fn greeting(&self) -> String;

    /// How the provider reaches it.
    fn access(&self) -> &Access;

    /// A kubeconfig for people, where the platform is a Kubernetes cluster itself.
    fn kubeconfig(&self, user: &str) -> Option<Result<String, WorldError>>;

    /// The VM of an infra machine.
    fn vm_of(&self, machine: &str) -> Option<Vm>;

    /// Destroys a VM as an administrator would by mistake: past the provider.
    fn destroy<'a>(&'a self, vm: &'a Vm) -> BoxFuture<'a, Result<(), WorldError>>;

    /// Its nodes, where VMs can leave one without ending.
    fn nodes(&self) -> Option<&dyn Nodes> {
        None
    }

    /// What the machines' calls cost, a line each.
    fn costs(&self) -> Vec<String>;

    /// What is left.
    fn remains(&self) -> Remains;
}

/// Where a VM runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: String,
    /// Which run of the VM it is: another one after every restart.
    pub(crate) run: String,
    /// Whether it can go to another node while it runs.
    pub(crate) moves: bool,
}

/// Nodes that can be drained while VMs run on them.
pub(crate) trait Nodes: Send + Sync {
    /// Where each VM of a machine runs, by its name.
    fn places(&self) -> BTreeMap<String, Place>;

    /// What a person types to drain a node.
    fn drain_command(&self, node: &str) -> String;

    /// Drains a node, as its administrator does.
    fn drain<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), WorldError>>;
}

impl Platform {
    /// What is known of it.
    pub(crate) fn profile(self) -> &'static Profile {
        match self {
            Self::Proxmox => &proxmox::PROFILE,
            Self::Kubevirt => &kubevirt::PROFILE,
        }
    }

    /// Starts a simulated one.
    pub(crate) async fn start(
        self,
        options: &Options,
        workloads: &Workloads,
    ) -> Result<Box<dyn Running>, WorldError> {
        Ok(match self {
            Self::Proxmox => Box::new(proxmox::Proxmox::start(options, workloads).await?),
            Self::Kubevirt => Box::new(kubevirt::Kubevirt::start(options, workloads).await?),
        })
    }

    /// Runs its provider until `stopped`.
    pub(crate) async fn provide(
        self,
        brief: &Brief,
        client: Client,
        faults: &Faults,
        engine: Engine,
        stopped: impl Future<Output = ()> + Send,
    ) -> Result<(), provider::Error> {
        let client = faults.kubernetes(client, self.profile().provider);
        let ended = match self {
            Self::Proxmox => {
                let provider = proxmox::provider(&brief.access)?.options(engine);
                provider.run(client, stopped).await
            }
            Self::Kubevirt => {
                let provider = kubevirt::provider(brief, faults).await?.options(engine);
                provider.run(client, stopped).await
            }
        };
        ended.map_err(provider::connecting)
    }

    /// The platform whose kinds a manifest has, if it is another one than this.
    pub(crate) fn other_of(self, manifest: &Manifest) -> Option<Self> {
        let kinds = manifest.objects.iter().filter_map(|object| {
            let types = object.types.as_ref()?;
            let is_infra = types.api_version.starts_with("infrastructure.");
            is_infra.then_some(types.kind.as_str())
        });
        let kinds: Vec<&str> = kinds.collect();
        let has = |platform: &Self| {
            let prefix = platform.profile().prefix;
            kinds.iter().any(|kind| kind.starts_with(prefix))
        };
        let others = Self::value_variants().iter().copied();
        let mut others = others.filter(|other| *other != self && has(other));
        others.next().filter(|_| !has(&self))
    }

    /// The word for the command line.
    pub(crate) fn word(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Profile {
    /// The kind of its infra machines.
    pub(crate) fn machine(&self) -> ApiResource {
        let kind = format!("{}Machine", self.prefix);
        let group = "infrastructure.cluster.x-k8s.io";
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, self.version, &kind))
    }

    /// The kind of its machine templates.
    pub(crate) fn template(&self) -> String {
        format!("{}MachineTemplate", self.prefix)
    }

    /// The manifest that is applied unless another is named.
    pub(crate) fn manifest(&self) -> Result<Manifest, crate::manifest::Error> {
        Manifest::parse(self.example.to_owned(), self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::WIDTH;

    #[test]
    fn a_manifest_of_another_platform_is_known_by_its_kinds() {
        for platform in Platform::value_variants() {
            let manifest = platform.profile().manifest().unwrap();
            assert_eq!(platform.other_of(&manifest), None);
            let others = Platform::value_variants().iter();
            for other in others.filter(|other| *other != platform) {
                assert_eq!(other.other_of(&manifest), Some(*platform));
            }
        }
    }

    #[test]
    fn every_example_is_a_complete_manifest_of_its_platform() {
        for platform in Platform::value_variants() {
            let profile = platform.profile();
            let manifest = profile.manifest().unwrap();
            assert_eq!(
                manifest.objects.len(),
                profile.text.matches("\nkind:").count()
            );
            let mut definitions = crate::world::definitions(*platform);
            (profile.refine)(&mut definitions);
            manifest.check(&definitions).unwrap();
            assert!(manifest.of_kind(&profile.template()).count() >= 2);
            assert!(
                profile
                    .next
                    .lines()
                    .all(|line| line.chars().count() <= WIDTH)
            );
            let kind = profile.machine();
            let is_machine = |one: &&Value| one["spec"]["names"]["kind"] == kind.kind.as_str();
            let machine = definitions.iter().find(is_machine).unwrap();
            assert_eq!(machine["spec"]["names"]["plural"], kind.plural.as_str());
            assert_eq!(
                machine["spec"]["versions"][0]["name"],
                kind.version.as_str()
            );
        }
    }
}
