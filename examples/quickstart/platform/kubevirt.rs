//! KubeVirt: an infra cluster of six nodes in three zones, whose VMs boot from container disks or from
//! clones of golden images.

use std::collections::BTreeMap;

use capi_core::Provider;
use capi_testkit::apiserver::{ApiServer, AuditRecord, TlsFace};
use capi_testkit::crds;
use capi_testkit::faults::Faults;
use capi_testkit::guest::Image;
use capi_testkit::workload::Workloads;
use futures::future::{BoxFuture, FutureExt};
use kubevirt_sim::{Builder, GoldenSpec, Guests, NodeSpec, StorageSpec};
use provider_kubevirt::cluster::Clusters;
use provider_kubevirt::connect::Connector;
use provider_kubevirt::machine::Machines;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Access, Nodes, Place, Profile, Remains, Running, Vm};
use crate::cast::{NEWER, OLDER};
use crate::options::Options;
use crate::provider::{self, Brief};
use crate::summary::{sorted, spread};
use crate::world::{ANY_PORT, WorldError, start};

/// The zones, with two nodes each: one can be drained without a VM leaving its zone.
const ZONES: [(&str, [&str; 2]); 3] = [
    ("zone-1", ["infra-1", "infra-4"]),
    ("zone-2", ["infra-2", "infra-5"]),
    ("zone-3", ["infra-3", "infra-6"]),
];
/// Where the golden images are.
const IMAGES: &str = "images";
/// The key of the kubeconfig, in [`Access`] as in the Secret.
const KUBECONFIG: &str = "kubeconfig";
/// The namespace that the kubeconfig of the infra cluster leads to.
const NAMESPACE: &str = "default";
/// Somebody else's VM.
const STRANGER: &str = "database";

pub(super) const PROFILE: Profile = Profile {
    name: "KubeVirt",
    provider: "provider-kubevirt",
    example: "examples/quickstart/kubevirt.yaml",
    text: include_str!("../kubevirt.yaml"),
    prefix: "Kubevirt",
    version: provider_kubevirt::api::VERSION,
    secret: Some("infra"),
    writes: 3,
    next: NEXT,
    definitions: || {
        let ours = provider_kubevirt::api::crds().into_iter();
        ours.filter_map(|definition| serde_json::to_value(definition).ok())
            .collect()
    },
    refine,
    renew,
    moves: |machine| {
        let instance = machine.pointer("/virtualMachineTemplate/spec/template/spec");
        instance.is_some_and(|spec| spec["evictionStrategy"] == "LiveMigrate")
    },
    destroy: |vm| {
        let (namespace, name) = place(vm);
        format!("kubectl delete vm -n {namespace} {name}     # in the infra cluster")
    },
};

const NEXT: &str = "
Try next:
  cargo run --example quickstart -- --provider kubevirt --chaos --seed 7    under random faults
  cargo run --example quickstart -- --provider kubevirt --kill 5            the provider killed
  cargo run --example quickstart -- --provider kubevirt --serve             stay up, for kubectl
  cargo run --example quickstart -- --provider kubevirt -f FILE             your own manifest; begin
                                       with a copy of examples/quickstart/kubevirt.yaml
  cargo run -p kubevirt-sim            the simulated KubeVirt alone, for kubectl
  cargo run --example quickstart       the same story on Proxmox VE
  cargo test --workspace               everything that judges the providers";

fn golden(version: &str) -> String {
    format!("ubuntu-2404-kube-{version}")
}

fn container_disk(version: &str) -> String {
    format!("quay.io/capk/ubuntu-2404-container-disk:{version}")
}

/// Namespace and name of a VM.
fn place(vm: &Vm) -> (&str, &str) {
    vm.0.split_once('/').unwrap_or((NAMESPACE, &vm.0))
}

/// Describes the VMs in machines by KubeVirt's own definition.
fn refine(definitions: &mut [Value]) {
    const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let of_vms = crds::named("virtualmachines.kubevirt.io");
    let Some(of_vms) = of_vms.and_then(|definition| definition.pointer(SCHEMA)) else {
        return;
    };
    for definition in definitions {
        for path in [
            "/properties/virtualMachineTemplate/properties/spec",
            "/properties/template/properties/spec/properties/virtualMachineTemplate/properties/spec",
        ] {
            if let Some(schema) = definition.pointer_mut(&format!("{SCHEMA}{path}")) {
                schema.clone_from(of_vms);
            }
        }
    }
}

fn renew(machine: &mut Value) -> Result<(), &'static str> {
    const TEMPLATES: &str = "/virtualMachineTemplate/spec/dataVolumeTemplates";
    const VOLUMES: &str = "/virtualMachineTemplate/spec/template/spec/volumes";
    let mut count = 0;
    for template in items(machine, TEMPLATES) {
        let has_image = |spec: &Value| {
            let source = spec.get("source");
            spec.get("sourceRef").is_some() || source.is_some_and(|it| it.get("blank").is_none())
        };
        let spec = template.get_mut("spec").filter(|spec| has_image(spec));
        if let Some(spec) = spec.and_then(Value::as_object_mut) {
            spec.remove("source");
            let newer = json!({"kind": "DataSource", "namespace": IMAGES, "name": golden(NEWER)});
            spec.insert("sourceRef".to_owned(), newer);
            count += 1;
        }
    }
    for volume in items(machine, VOLUMES) {
        if let Some(disk) = volume.get_mut("containerDisk") {
            disk["image"] = json!(container_disk(NEWER));
            count += 1;
        }
    }
    if count == 0 {
        return Err("its machine templates have no containerDisk and no image to clone or import");
    }
    Ok(())
}

fn items<'a>(machine: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    let list = machine.pointer_mut(path).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// The provider, whose own infra cluster is this one: for clusters that name no Secret.
pub(super) async fn provider(
    brief: &Brief,
    faults: &Faults,
) -> Result<Provider<Connector, Clusters, Machines>, provider::Error> {
    let kubeconfig = brief.access.get(KUBECONFIG).map_or("", String::as_str);
    let own = provider::client(kubeconfig).await?;
    let own = faults.kubernetes(own, PROFILE.provider);
    let mut connector = Connector::new().with_own(own.clone());
    if brief.chaos.is_some() {
        // The Secret leads to the same cluster; its faults come with the client.
        connector = connector.through(move |_| own.clone());
    }
    Ok(Provider::new(connector).cluster(Clusters).machine(Machines))
}

/// A simulated infra cluster with KubeVirt, behind an API server over TLS.
pub(super) struct Kubevirt {
    server: ApiServer,
    face: TlsFace,
    platform: kubevirt_sim::Platform,
    access: Access,
    _playing: JoinSet<()>,
}

impl Kubevirt {
    /// Six nodes, storage that all of them reach, golden images of two Kubernetes versions, and a VM of
    /// somebody else.
    pub(super) async fn start(
        options: &Options,
        workloads: &Workloads,
    ) -> Result<Self, WorldError> {
        const WHAT: &str = "simulated infra cluster";
        let server = ApiServer::new();
        let platform = builder(options, workloads).build_in(&server).await;
        let platform = platform.map_err(|cause| start(WHAT, cause))?;
        let face = server.serve_tls(ANY_PORT).await;
        let face = face.map_err(|cause| start(WHAT, cause))?;
        let kubeconfig = face.kubeconfig(PROFILE.provider, &["system:masters"]);
        let kubeconfig = kubeconfig.map_err(|cause| start(WHAT, cause))?;
        let mut playing = JoinSet::new();
        let player = platform.clone();
        playing.spawn(async move { match player.run().await {} });
        let stranger = platform.hand().stranger(NAMESPACE, STRANGER).await;
        stranger.map_err(|cause| start(WHAT, cause))?;
        Ok(Self {
            server,
            face,
            platform,
            access: [(KUBECONFIG.to_owned(), kubeconfig)].into(),
            _playing: playing,
        })
    }

    /// Whether an instance is moved, not ended, when it has to leave its node.
    fn moves(&self, namespace: &str, name: &str) -> bool {
        let kind = "virtualmachineinstances.kubevirt.io";
        let Some(instance) = self.server.object(kind, namespace, name) else {
            return false;
        };
        let conditions = instance.pointer("/status/conditions");
        let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
        let is_migratable =
            conditions.any(|it| it["type"] == "LiveMigratable" && it["status"] == "True");
        is_migratable && instance["spec"]["evictionStrategy"] == "LiveMigrate"
    }

    /// What the provider asked of the infra cluster about one VM and what belongs to it.
    fn requests(&self, name: &str) -> Vec<AuditRecord> {
        let is_of = |record: &AuditRecord| {
            let rest = record.name.strip_prefix(name);
            let is_named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            record.actor == PROFILE.provider && is_named && !record.is_watch()
        };
        self.server.audit().select(is_of)
    }
}

fn builder(options: &Options, workloads: &Workloads) -> Builder {
    let mut installed = Image::default();
    // The older images have whatever version a manifest asks for; the newer ones have just their own,
    // so that an upgrade which forgets the templates shows.
    installed.kubernetes = Some(NEWER.to_owned());
    let guests = Guests::new(workloads.clone())
        .image(container_disk(NEWER), installed.clone())
        .image(format!("{IMAGES}/{}", golden(NEWER)), installed);
    let mut builder = Builder::empty()
        .storage(StorageSpec::shared("shared").as_default())
        // As with kube-ovn, so that a guest which moved is reached as before.
        .sticky_addresses()
        .speed(options.speed)
        .seed(options.seed)
        .guests(guests);
    for (zone, nodes) in ZONES {
        for node in nodes {
            builder = builder.node(NodeSpec::new(node).zone(zone));
        }
    }
    for version in [OLDER, NEWER] {
        builder = builder.golden(GoldenSpec::new(IMAGES, golden(version)));
    }
    if options.chaos {
        builder = builder.chaos(kubevirt_sim::Rates::rough());
    }
    builder
}

impl Running for Kubevirt {
    fn greeting(&self) -> String {
        let url = self.face.url();
        format!("infra cluster with KubeVirt, 6 nodes in 3 zones, at {url}, over TLS")
    }

    fn access(&self) -> &Access {
        &self.access
    }

    fn kubeconfig(&self, user: &str) -> Option<Result<String, WorldError>> {
        let text = self.face.kubeconfig(user, &["system:masters"]);
        Some(text.map_err(|cause| start("simulated infra cluster", cause)))
    }

    fn vm_of(&self, machine: &str) -> Option<Vm> {
        let vms = self.platform.vms();
        let vm = vms.iter().find(|vm| vm.name == machine && !vm.deleting)?;
        Some(Vm(format!("{}/{}", vm.namespace, vm.name)))
    }

    fn destroy<'a>(&'a self, vm: &'a Vm) -> BoxFuture<'a, Result<(), WorldError>> {
        async move {
            let (namespace, name) = place(vm);
            let deleted = self.platform.hand().delete_vm(namespace, name).await;
            deleted.map_err(|cause| failed("deleting", format!("VirtualMachine {vm}"), cause))?;
            Ok(())
        }
        .boxed()
    }

    fn nodes(&self) -> Option<&dyn Nodes> {
        Some(self)
    }

    fn costs(&self) -> Vec<String> {
        let births = self.platform.births();
        let ours = births.iter().filter(|birth| birth.object.is_some());
        let names = ours.filter_map(|birth| birth.name.split('/').next_back());
        let requests: Vec<_> = names.map(|name| self.requests(name)).collect();
        for record in requests.iter().flatten() {
            let (verb, resource, name) = (record.verb, &record.resource, &record.name);
            tracing::debug!(at = ?record.at, code = record.code, "{verb} {resource} {name}");
        }
        let halves: Vec<_> = requests.iter().map(|records| halves(records)).collect();
        let count = |pick: fn(&Halves<'_>) -> usize| spread(&sorted(halves.iter().map(pick)));
        vec![
            format!(
                "infra cluster: writes before deletion {}",
                count(|(life, _)| writes(life))
            ),
            format!(
                "infra cluster: reads before deletion  {} (goal 1)",
                count(|(life, _)| reads(life))
            ),
            format!(
                "infra cluster: writes of deletion     {}",
                count(|(_, end)| writes(end))
            ),
            format!(
                "infra cluster: reads of deletion      {}",
                count(|(_, end)| reads(end))
            ),
        ]
    }

    fn remains(&self) -> Remains {
        let platform = &self.platform;
        let of = |kind: &'static str, names: Vec<String>| {
            let names = names.into_iter();
            names.map(move |name| format!("{kind} {name}"))
        };
        let volumes = of("volume", platform.volumes_left());
        let secrets = of("Secret", platform.secrets_left());
        let services = of("Service", platform.services_left());
        Remains {
            vms: platform.vms_left(),
            others: volumes.chain(secrets).chain(services).collect(),
            // Those that have parted count as well.
            twins: platform.overlaps().len(),
            strangers: platform.strangers_touched().len(),
        }
    }
}

/// Requests before the provider deleted a VM, and from then on.
type Halves<'a> = (&'a [AuditRecord], &'a [AuditRecord]);

fn halves(records: &[AuditRecord]) -> Halves<'_> {
    let is_end = |it: &AuditRecord| it.verb == "delete" && it.resource == "virtualmachines";
    let end = records.iter().position(is_end);
    records.split_at(end.unwrap_or(records.len()))
}

fn writes(records: &[AuditRecord]) -> usize {
    records.iter().filter(|it| it.is_write()).count()
}

fn reads(records: &[AuditRecord]) -> usize {
    records.iter().filter(|it| it.is_read()).count()
}

impl Nodes for Kubevirt {
    fn places(&self) -> BTreeMap<String, Place> {
        let vms = self.platform.vms().into_iter();
        let ours = vms.filter(|vm| vm.mark.is_some());
        let placed = ours.filter_map(|vm| {
            let place = Place {
                node: vm.node?,
                run: vm.instance?,
                moves: self.moves(&vm.namespace, &vm.name),
            };
            Some((vm.name, place))
        });
        placed.collect()
    }

    fn drain_command(&self, node: &str) -> String {
        format!("kubectl drain {node} --ignore-daemonsets     # in the infra cluster")
    }

    fn drain<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), WorldError>> {
        async move {
            let drained = self.platform.hand().drain(node).await;
            drained.map_err(|cause| failed("draining", format!("Node {node}"), cause))?;
            Ok(())
        }
        .boxed()
    }
}

fn failed(attempt: &'static str, object: String, cause: kube::Error) -> WorldError {
    WorldError::Kubernetes {
        attempt,
        object,
        cause: Box::new(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::platform::Platform;
    use crate::world::definitions;

    #[test]
    fn a_typo_in_a_vm_is_named_though_the_vm_passes_through() {
        let text = PROFILE.text.replacen("cores: 2", "core: 2", 1);
        let manifest = Manifest::parse("m".to_owned(), &text).unwrap();
        let mut definitions = definitions(Platform::Kubevirt);
        manifest.check(&definitions).unwrap();
        refine(&mut definitions);
        let found = manifest.check(&definitions).unwrap_err().to_string();
        assert!(
            found.contains("domain.cpu.core\"; did you mean \"cores\"?"),
            "{found}"
        );
    }

    #[test]
    fn an_upgrade_leaves_disks_alone_that_have_no_image() {
        let mut machine = json!({"virtualMachineTemplate": {"spec": {
            "dataVolumeTemplates": [
                {"spec": {"source": {"registry": {"url": "docker://old"}}}},
                {"spec": {"source": {"blank": {}}}},
            ],
        }}});
        renew(&mut machine).unwrap();
        let volumes = &machine["virtualMachineTemplate"]["spec"]["dataVolumeTemplates"];
        assert_eq!(volumes[0]["spec"]["sourceRef"]["name"], golden(NEWER));
        assert!(volumes[0]["spec"].get("source").is_none());
        assert_eq!(volumes[1]["spec"], json!({"source": {"blank": {}}}));
        let mut machine = json!({"virtualMachineTemplate": {"spec": {
            "dataVolumeTemplates": [volumes[1]],
        }}});
        let before = machine.clone();
        assert!(renew(&mut machine).is_err(), "nothing to upgrade");
        assert_eq!(machine, before);
    }
}
