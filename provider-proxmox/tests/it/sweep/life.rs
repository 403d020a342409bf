//! The life of one cluster with one machine, in a world of its own.

use std::time::Duration;

use capi_contract::ledger::LEDGER_ANNOTATION;
use capi_testkit::sweep::{Backend, Interference, Manifest, ProviderWorld};
use futures::future::BoxFuture;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use pve_sim::{Builder, Delays};
use serde_json::{Value, json};

use super::weak::{self, Weakening};
use crate::site::{self, CLUSTERS, Line, MACHINES, NAMESPACE, Site};

/// The name of every object in the sweep's world.
const NAME: &str = "sweep";
/// From the start of the VM to its Node.
const JOINS_AFTER: Duration = Duration::from_secs(8);
/// Longer than a create that was not answered is waited for.
const SLOW_CLONE: Duration = Duration::from_secs(300);
/// Where VMIDs begin in the simulated datacenter.
const FIRST_VMID: u32 = 100;

/// A world for one run: tasks take the time of a small cluster on SSDs. The weakening that only
/// slow storage punishes gets slow storage.
pub(super) fn world(weakening: Weakening) -> ProviderWorld<Site> {
    let mut delays = Delays::realistic();
    if weakening == Weakening::UnsettledIsAbsent {
        delays.clone = SLOW_CLONE;
    }
    let site = Site::new(Builder::new().delays(delays).build());
    let manifest = Manifest::new(site::cluster(), site::machine());
    let of_run = site.clone();
    ProviderWorld::new(
        site.server.clone(),
        site,
        manifest,
        move |client, faults| {
            let site = of_run.clone();
            async move {
                let line = Line::new(&site.platform, faults);
                weak::provide(&site, weakening, client, line).await;
            }
        },
    )
}

impl Site {
    fn object(&self, collection: &str) -> Option<Value> {
        self.server.object(collection, NAMESPACE, NAME)
    }

    /// The VMID that is claimed, else the next one that may be.
    fn wanted_vmid(&self) -> u32 {
        let claimed = self.object(MACHINES).and_then(|machine| {
            let ledger = machine["metadata"]["annotations"][LEDGER_ANNOTATION].as_str()?;
            let ledger: Value = serde_json::from_str(ledger).ok()?;
            u32::try_from(ledger["claim"]["vmid"].as_u64()?).ok()
        });
        claimed.unwrap_or_else(|| {
            let is_free = |vmid: &u32| self.platform.vm(*vmid).is_none();
            (FIRST_VMID..).find(is_free).unwrap()
        })
    }

    /// The guest joins a while after it was started, as kubeadm would see to.
    async fn join(&self) {
        let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
        let resource = ApiResource::from_gvk(&kind);
        let client = self.server.client("core");
        let machines = Api::<DynamicObject>::namespaced_with(client, NAMESPACE, &resource);
        loop {
            tokio::time::sleep(JOINS_AFTER).await;
            if self.platform.vms_left().iter().any(|vm| vm.running) {
                let node = Patch::Merge(json!({"status": {"nodeRef": {"name": NAME}}}));
                let params = PatchParams::default();
                machines.patch_status(NAME, &params, &node).await.unwrap();
                return;
            }
        }
    }
}

impl Backend for Site {
    /// VMs, and what is left beside them: seed images once no VM of an object waits to be told lost,
    /// address claims and pools once their owner is gone.
    fn things(&self) -> Vec<String> {
        let vms = self.platform.vms_left();
        let (has_machine, has_cluster) = (
            self.object(MACHINES).is_some(),
            self.object(CLUSTERS).is_some(),
        );
        let mut things: Vec<String> = vms.iter().map(|vm| format!("VM {}", vm.vmid)).collect();
        if !vms.is_empty() || !has_machine {
            let images = self.platform.isos_left().into_iter();
            things.extend(images.map(|image| image.volid));
        }
        if !has_machine {
            let disks = self.platform.disks_left().into_iter();
            things.extend(disks.map(|disk| disk.volid));
            things.extend(self.address_objects());
        }
        if !has_cluster {
            let pools = self
                .server
                .objects("inclusterippools.ipam.cluster.x-k8s.io");
            things.extend(
                pools
                    .iter()
                    .map(|pool| pool["metadata"]["name"].to_string()),
            );
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
        match interference {
            // It bears the machine's name, too: names prove nothing.
            Interference::Stranger => self.platform.stranger(self.wanted_vmid(), "pve2", NAME),
            Interference::Removal => {
                let ours = self.platform.vms_left();
                let ours = ours.first();
                ours.is_some_and(|vm| self.platform.destroy_behind_back(vm.vmid))
            }
            _ => false,
        }
    }

    fn run(&self) -> BoxFuture<'static, ()> {
        let site = self.clone();
        Box::pin(async move {
            tokio::join!(site.give_addresses(), site.join());
        })
    }
}
