//! KubeVirt, played on an API server of its own, and the program of its provider.
//!
//! The infra cluster is a second etcd, kube-apiserver and garbage collector. The simulator plays what
//! else an infra cluster has: KubeVirt, its image importer, a load balancer, nodes. The provider comes in
//! as the tenant that its own command makes: with the rights of that and no others, which the server
//! enforces and notes down.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::{IpNet, Ipv4Net};
use kubevirt_sim::{Builder, GoldenSpec, Platform, install};
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::audit::{self, Request};
use crate::failure::Failure;
use crate::infrastructure::{Change, Infrastructure, Names, example, nothing, shown};
use crate::management::{Management, Ports};
use crate::provider::{Program, ProviderError};
use crate::site::Site;
use crate::world::World;

/// How the provider is called.
pub const NAMES: Names = Names {
    provider: "kubevirt",
    kinds: "Kubevirt",
    program: "provider-kubevirt",
    namespace: "capk-system",
    account: "capk-manager",
    deployment: "capk-controller-manager",
};
/// Where the provider's VMs are in the infra cluster.
pub const TENANT: &str = "tenant";
/// Under whose account it works there.
const TENANT_ACCOUNT: &str = "cluster-api-provider-kubevirt";
/// The Secret that the example's clusters name.
const SECRET: &str = "infra";
/// Where golden images are.
const IMAGES: &str = "images";
/// The golden image that the example clones.
const GOLDEN: &str = "ubuntu-2404-kube-v1.36.0";
/// How long a VM may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A simulated KubeVirt on a real API server. Its processes end when it is dropped.
#[derive(Debug)]
pub struct Kubevirt {
    /// What is in it, and what was done to it.
    pub platform: Platform,
    /// The API server that it plays on.
    pub infra: World,
    program: Program,
    credentials: Value,
    playing: AbortHandle,
}

impl Drop for Kubevirt {
    fn drop(&mut self) {
        self.playing.abort();
    }
}

impl Kubevirt {
    /// An infra cluster with the golden image of the example. Pods have addresses of
    /// 127.`network`.0.0/16 and load balancers of the next network, so that real programs can listen
    /// on them. A VM that is restarted keeps its address, as some networks have it and etcd needs it.
    ///
    /// # Panics
    ///
    /// On a network of 255.
    #[must_use]
    pub fn builder(network: u8) -> Builder {
        let range = |second: u8, prefix| {
            IpNet::V4(Ipv4Net::new_assert(
                Ipv4Addr::new(127, second, 0, 0),
                prefix,
            ))
        };
        let next = network.checked_add(1).expect("a network below 255");
        Builder::new()
            .pods(range(network, 16))
            .load_balancer_addresses(range(next, 24))
            .sticky_addresses()
            .golden(GoldenSpec::new(IMAGES, GOLDEN))
    }

    /// The name by which its disk's content goes, of a golden image.
    #[must_use]
    pub fn golden(name: &str) -> String {
        format!("{IMAGES}/{name}")
    }

    /// Adds a golden image beside the example's.
    #[must_use]
    pub fn with_golden(builder: Builder, name: &str) -> Builder {
        builder.golden(GoldenSpec::new(IMAGES, name))
    }

    /// Starts the API server at a site of this name, plays on it, and makes a tenant.
    ///
    /// # Errors
    ///
    /// As [`Management::start`]; a program that cannot be built, or makes no tenant.
    pub async fn start(name: &str, ports: Ports, builder: Builder) -> Result<Self, Failure> {
        let infra = World::around(Management::start(Site::named(name), ports).await?);
        let client = &infra.management.client;
        install(client).await?;
        let platform = builder.build(client);
        let played = platform.clone();
        let playing = tokio::spawn(async move { played.run().await }).abort_handle();
        let program = NAMES.built()?;
        let credentials = tenant(&program, &infra.management)?;
        Ok(Self {
            platform,
            infra,
            program,
            credentials,
            playing,
        })
    }

    /// The name of a VM in the tenant's namespace.
    fn own(vm: &str) -> &str {
        vm.split_once('/').map_or(vm, |(_, name)| name)
    }
}

/// Lets the provider's command make the tenant; the Secret that it prints.
fn tenant(program: &Program, infra: &Management) -> Result<Value, Failure> {
    let kubeconfig = format!("--kubeconfig={}", infra.kubeconfig.display());
    let printed = program.says(&["tenant", TENANT, "--secret", SECRET, &kubeconfig])?;
    let mut secret: Value = serde_saphyr::from_str(&printed)?;
    secret["metadata"]["namespace"] = json!("default");
    Ok(secret)
}

impl Infrastructure for Kubevirt {
    fn names(&self) -> Names {
        NAMES
    }

    fn program(&self) -> Result<Program, ProviderError> {
        Ok(self.program.clone())
    }

    fn prerequisites(&self) -> Vec<Value> {
        vec![self.credentials.clone()]
    }

    fn cluster(&self, name: &str, _network: u8) -> Result<Vec<Value>, Failure> {
        cluster(name)
    }

    fn vms(&self) -> Vec<String> {
        let all = self.platform.vms().into_iter();
        all.map(|vm| format!("{}/{}", vm.namespace, vm.name))
            .collect()
    }

    fn vm_of(&self, machine: &Value) -> Option<String> {
        let id = machine["spec"]["providerID"].as_str()?;
        let name = id.strip_prefix("kubevirt://")?;
        let vm = self.platform.vm(TENANT, name)?;
        Some(format!("{}/{}", vm.namespace, vm.name))
    }

    fn births(&self) -> usize {
        self.platform.births().len()
    }

    fn twins(&self) -> Vec<String> {
        shown(&self.platform.overlaps())
    }

    /// A VM on a container disk needs its Secret at every start, so none is without use while its VM is
    /// there; [`Infrastructure::check_clean`] counts those that stay behind.
    fn seeds(&self) -> Vec<String> {
        Vec::new()
    }

    /// VMs are made by controllers, whose work is seen in the VMs.
    fn is_idle(&self) -> bool {
        let all = self.platform.vms();
        all.iter().all(|vm| vm.status == "Running" && !vm.deleting)
    }

    fn destroy<'a>(&'a self, vm: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let name = Self::own(vm);
            if !self.platform.hand().delete_vm(TENANT, name).await? {
                return Err(Failure::new(format!("VM {vm} is not there")));
            }
            let begun = Instant::now();
            while self.platform.vm(TENANT, name).is_some() {
                if begun.elapsed() > GONE_WITHIN {
                    return Err(Failure::new(format!("VM {vm} is still there")));
                }
                sleep(LOOK).await;
            }
            Ok(())
        })
    }

    fn console(&self, vm: &str) -> Vec<String> {
        self.platform.console(TENANT, Self::own(vm))
    }

    /// Both ends of a move come in as the same tenant, since its credentials move along.
    fn changes(&self) -> Result<Vec<Change>, Failure> {
        let all = self.requests()?.unwrap_or_default();
        let changes = all
            .into_iter()
            .filter(|one| !matches!(one.verb.as_str(), "get" | "list" | "watch"));
        let changes = changes.map(|one| Change {
            by: TENANT_ACCOUNT.to_owned(),
            what: format!("{} {} {}: {}", one.verb, one.resource, one.name, one.code),
        });
        Ok(changes.collect())
    }

    fn check_clean(&self) -> Result<(), Failure> {
        let platform = &self.platform;
        nothing(&[
            ("VMs left", platform.vms_left()),
            ("volumes left", platform.volumes_left()),
            ("Secrets left", platform.secrets_left()),
            ("Services left", platform.services_left()),
            ("twins", self.twins()),
            ("strangers touched", shown(&platform.strangers_touched())),
        ])
    }

    fn requests(&self) -> Result<Option<Vec<Request>>, Failure> {
        let user = audit::account(TENANT, TENANT_ACCOUNT);
        audit::requests(&self.infra.management.site, &user).map(Some)
    }

    fn site(&self) -> Option<&Site> {
        Some(&self.infra.management.site)
    }
}

fn cluster(name: &str) -> Result<Vec<Value>, Failure> {
    let text = include_str!("../../examples/quickstart/kubevirt.yaml");
    example(text, |text| text.replace("demo", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_names_what_is_there() {
        let objects = cluster("blue").expect("the example is sound");
        let infra = objects.iter().find(|one| one["kind"] == "KubevirtCluster");
        let infra = infra.expect("a cluster");
        assert_eq!(infra["metadata"]["name"], "blue");
        assert_eq!(infra["spec"]["infraClusterSecretRef"]["name"], SECRET);
        let text = serde_json::to_string(&objects).expect("values");
        assert!(text.contains(GOLDEN) && text.contains(IMAGES), "{text}");
        assert!(!text.contains("demo"), "{text}");
    }
}
