//! Proxmox VE: three nodes whose VMs are cloned from templates.

use std::time::Duration;

use capi_contract::Credentials;
use capi_core::Provider;
use capi_testkit::guest::Image;
use capi_testkit::workload::Workloads;
use futures::future::{BoxFuture, FutureExt, ready};
use provider_proxmox::cluster::Clusters;
use provider_proxmox::connect::{Connector, Settings};
use provider_proxmox::machine::Machines;
use pve_sim::{Builder, Guests, Server, TemplateSpec};
use serde_json::{Value, json};

use super::{Access, Profile, Remains, Running, Vm};
use crate::cast::{NEWER, OLDER};
use crate::options::Options;
use crate::provider::{self, connecting};
use crate::summary::{sorted, spread};
use crate::world::{ANY_PORT, WorldError, start};

/// The template of each Kubernetes version.
const TEMPLATES: [(u32, &str); 2] = [(9000, OLDER), (NEWEST, NEWER)];
/// The template that machines are upgraded to.
const NEWEST: u32 = 9001;
/// VMIDs of templates begin here.
const TEMPLATES_FROM: u32 = 9000;
/// The window in which shared polls are counted.
const POLL_WINDOW: Duration = Duration::from_secs(5);

pub(super) const PROFILE: Profile = Profile {
    name: "Proxmox VE",
    provider: "provider-proxmox",
    example: "examples/quickstart/cluster.yaml",
    text: include_str!("../cluster.yaml"),
    prefix: "Proxmox",
    version: provider_proxmox::api::VERSION,
    secret: None,
    writes: 8,
    next: NEXT,
    definitions: || {
        let ours = provider_proxmox::api::crds().into_iter();
        ours.filter_map(|definition| serde_json::to_value(definition).ok())
            .collect()
    },
    // They describe everything.
    refine: |_| {},
    renew,
    moves: |_| false,
    destroy: |Vm(vmid)| format!("qm stop {vmid} && qm destroy {vmid}     # on a Proxmox VE node"),
};

const NEXT: &str = "
Try next:
  cargo run --example quickstart -- --chaos --seed 7    the same under random faults
  cargo run --example quickstart -- --kill 5            the provider killed (kill -9) on the way
  cargo run --example quickstart -- --serve             stay up, for kubectl in another terminal
  cargo run --example quickstart -- -f FILE             your own manifest; begin with a copy of
                                                        examples/quickstart/cluster.yaml
  cargo run --example quickstart -- --provider kubevirt the same story on KubeVirt
  cargo run -p pve-sim                                  the simulated Proxmox VE alone, for curl
  cargo test --workspace                                everything that judges the provider";

fn renew(machine: &mut Value) -> Result<(), &'static str> {
    let template = machine.get_mut("templateID");
    *template.ok_or("its machine templates name no templateID to upgrade")? = json!(NEWEST);
    Ok(())
}

/// The provider, with these credentials for objects that name none.
pub(super) fn provider(
    access: &Access,
) -> Result<Provider<Connector, Clusters, Machines>, provider::Error> {
    let entries = access.iter();
    let entries = entries.map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let settings = Settings::of_secret("the quick start's settings", &Credentials::new(entries));
    let connector = Connector::new().with_own(settings.map_err(connecting)?);
    Ok(Provider::new(connector).cluster(Clusters).machine(Machines))
}

/// A simulated Proxmox VE that answers over HTTPS.
pub(super) struct Proxmox {
    platform: pve_sim::Platform,
    server: Server,
    access: Access,
}

impl Proxmox {
    /// Three nodes, and a template for each of two Kubernetes versions, whose disks all nodes reach.
    pub(super) async fn start(
        options: &Options,
        workloads: &Workloads,
    ) -> Result<Self, WorldError> {
        let mut installed = Image::default();
        // The older template has whatever version a manifest asks for; this one has just its own, so
        // that an upgrade which forgets the templates shows.
        installed.kubernetes = Some(NEWER.to_owned());
        let guests = Guests::new(workloads.clone()).image(NEWEST, installed);
        let mut builder = Builder::new()
            .speed(options.speed)
            .seed(options.seed)
            .guests(guests);
        for (vmid, version) in TEMPLATES {
            let name = format!("ubuntu-2404-kube-{version}");
            let template = TemplateSpec::new(vmid, "pve1", name)
                .storage("shared")
                .tags(&format!("kube-{version};template;ubuntu-2404"));
            builder = builder.template(template);
        }
        if options.chaos {
            builder = builder.chaos(pve_sim::Rates::rough());
        }
        let platform = builder.build();
        let server = platform.serve(ANY_PORT).await;
        let server = server.map_err(|cause| start("simulated Proxmox VE", cause))?;
        let (token, secret) = platform.token();
        let access = [
            ("url", server.url()),
            ("token", token),
            ("secret", secret),
            ("root_ca", server.ca_pem().to_owned()),
        ];
        Ok(Self {
            access: access.map(|(key, value)| (key.to_owned(), value)).into(),
            platform,
            server,
        })
    }
}

impl Running for Proxmox {
    fn greeting(&self) -> String {
        let url = self.server.url();
        format!("Proxmox VE, nodes pve1 pve2 pve3, at {url}, over HTTPS")
    }

    fn access(&self) -> &Access {
        &self.access
    }

    fn kubeconfig(&self, _: &str) -> Option<Result<String, WorldError>> {
        None
    }

    fn vm_of(&self, machine: &str) -> Option<Vm> {
        let vms = self.platform.vms();
        let vm = vms.iter().find(|vm| vm.name() == Some(machine))?;
        Some(Vm(vm.vmid.to_string()))
    }

    fn destroy<'a>(&'a self, vm: &'a Vm) -> BoxFuture<'a, Result<(), WorldError>> {
        if let Ok(vmid) = vm.0.parse() {
            self.platform.destroy_behind_back(vmid);
        }
        ready(Ok(())).boxed()
    }

    fn costs(&self) -> Vec<String> {
        let report = self.platform.audit();
        let records = report.records().iter();
        for record in records.filter(|record| record.vmid.is_some()) {
            tracing::debug!(vmid = record.vmid, at = ?record.at, "{} {}", record.method, record.path);
        }
        let by_vm = report.calls_per_vm().iter();
        let of_machines = by_vm.filter(|(vmid, _)| **vmid < TEMPLATES_FROM);
        let calls = sorted(of_machines.map(|(_, calls)| *calls));
        let polls = report.shared_polls(POLL_WINDOW).into_values().max();
        vec![
            format!(
                "hypervisor calls that name a machine  {} (goal 30)",
                spread(&calls)
            ),
            format!(
                "shared polls of one list in 5 s       at most {}",
                polls.unwrap_or_default()
            ),
        ]
    }

    fn remains(&self) -> Remains {
        let platform = &self.platform;
        let vms = platform.vms_left();
        let isos = platform.isos_left().into_iter().map(|iso| iso.volid);
        let disks = platform.disks_left().into_iter().map(|disk| disk.volid);
        Remains {
            vms: vms.iter().map(|vm| vm.vmid.to_string()).collect(),
            others: isos.chain(disks).collect(),
            twins: platform.twins().len(),
            strangers: platform.strangers_touched().len(),
        }
    }
}
