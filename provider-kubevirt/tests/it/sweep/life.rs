//! The life of one cluster with one machine, in a world of its own.

use std::time::Duration;

use capi_testkit::sweep::{Backend, Interference, Manifest, PROVIDER, ProviderWorld};
use futures::future::BoxFuture;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::weak::{self, Weakening};
use crate::site::{self, CLUSTERS, MACHINES, NAMESPACE, Site};

/// The name of every object in the sweep's world.
const NAME: &str = "sweep";
/// From the start of the VM to its Node.
const JOINS_AFTER: Duration = Duration::from_secs(8);

/// A world for one run with this machine.
pub(super) async fn world(weakening: Weakening, machine: Value) -> ProviderWorld<Site> {
    let site = Site::usual().await;
    if machine["spec"].get("networkInterfaces").is_some() {
        site.make_pools().await;
    }
    let manifest = Manifest::new(site::cluster(), machine);
    let of_run = site.clone();
    ProviderWorld::new(
        site.server.clone(),
        site,
        manifest,
        move |client, faults| {
            let site = of_run.clone();
            async move {
                let infra = site::tenant_of(&site.infra, NAMESPACE);
                let infra = faults.kubernetes(infra, PROVIDER);
                weak::provide(&site, weakening, client, infra).await;
            }
        },
    )
}

impl Site {
    fn object(&self, collection: &str) -> Option<Value> {
        self.server.object(collection, NAMESPACE, NAME)
    }

    /// The guest joins a while after it was started, as kubeadm would see to.
    async fn joins(&self) {
        let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
        let resource = ApiResource::from_gvk(&kind);
        let client = self.server.client("core");
        let machines = Api::<DynamicObject>::namespaced_with(client, NAMESPACE, &resource);
        loop {
            tokio::time::sleep(JOINS_AFTER).await;
            let vms = self.platform.vms();
            let ours = |vm: &&kubevirt_sim::VmView| vm.mark.is_some();
            if vms
                .iter()
                .filter(ours)
                .any(|vm| vm.phase.as_deref() == Some("Running"))
            {
                let node = Patch::Merge(json!({"status": {"nodeRef": {"name": NAME}}}));
                let params = PatchParams::default();
                machines.patch_status(NAME, &params, &node).await.unwrap();
                return;
            }
        }
    }
}

impl Backend for Site {
    /// VMs; and what goes with them, once no machine waits to be told lost.
    fn things(&self) -> Vec<String> {
        let (has_machine, has_cluster) = (
            self.object(MACHINES).is_some(),
            self.object(CLUSTERS).is_some(),
        );
        let vms = self.platform.vms().into_iter();
        let ours = vms.filter(|vm| vm.mark.is_some());
        let mut things: Vec<String> = ours.map(|vm| format!("VM {}", vm.name)).collect();
        if !has_machine {
            things.extend(self.platform.vms_left());
            things.extend(self.platform.volumes_left());
            things.extend(self.platform.secrets_left());
            things.extend(self.address_objects());
        }
        if !has_cluster {
            things.extend(self.platform.services_left());
        }
        things
    }

    fn violations(&self) -> Vec<String> {
        let touched = self.platform.strangers_touched().into_iter();
        let twins = self.platform.overlaps().into_iter();
        touched
            .map(|touched| format!("a stranger was touched: {touched:?}"))
            .chain(twins.map(|twins| format!("twins: {twins:?}")))
            .collect()
    }

    fn interfere(&self, interference: Interference) -> bool {
        let platform = self.platform.clone();
        match interference {
            // It has the machine's name: names prove nothing.
            Interference::Stranger => {
                if platform.vm(NAMESPACE, NAME).is_some() {
                    return false;
                }
                tokio::spawn(async move {
                    // Taken meanwhile by the machine itself.
                    let _ = platform.hand().stranger(NAMESPACE, NAME).await;
                });
                true
            }
            Interference::Removal => {
                let vms = platform.vms();
                let ours = vms.into_iter().find(|vm| vm.mark.is_some() && !vm.deleting);
                let Some(vm) = ours else { return false };
                tokio::spawn(async move {
                    let hand = platform.hand();
                    hand.delete_vm(&vm.namespace, &vm.name).await.unwrap();
                });
                true
            }
            _ => false,
        }
    }

    fn run(&self) -> BoxFuture<'static, ()> {
        let site = self.clone();
        Box::pin(async move {
            let platform = site.platform.clone();
            tokio::join!(
                async move { match platform.run().await {} },
                site.give_addresses(),
                site.joins()
            );
        })
    }
}
