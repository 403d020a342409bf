//! What comes of an object, as lines that two worlds can be compared by.
//!
//! A [`Setting`] is a cluster, a machine, and the hypervisor and the template they meet. Its
//! [outcome](Setting::outcome) is all that can be seen from outside afterwards: the claims for
//! addresses, the VM's place and configuration, the meta-data of its seed, what the guest said on
//! its console, the Node that it became, and the status of the object. What is random is
//! replaced by its name. [`effect`] is what one change of the setting takes away and adds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use capi_contract::{Address, AddressRequest, Bootstrap, Format, InfraCluster, InfraMachine};
use capi_testkit::guest::{Image, Pace, read_iso};
use capi_testkit::workload::{Endpoint, Entry, Join, Node, Role, Workloads};
use provider_proxmox::api::{ProxmoxCluster, ProxmoxMachine};
use provider_proxmox::cluster::Clusters;
use provider_proxmox::machine::Machines;
use provider_proxmox::pool::{self, ZonePool};
use pve_sim::{Builder, Delays, Guests, Platform};
use serde_json::{Value, json};

use crate::world::{self, Halt, Life, session};

const TOKEN: &str = "abcdef.0123456789abcdef";
const CA_HASH: &str = "sha256:aa";

/// More than any guest takes to boot and to join.
const BOOT: Duration = Duration::from_secs(60);

/// Pools that machines of the tests refer to: name, first address, prefix length, gateway.
const POOLS: &[(&str, &str, u8, Option<&str>)] = &[
    ("red", "10.5.0.10", 16, Some("10.5.0.1")),
    ("green", "10.6.0.10", 24, Some("10.6.0.1")),
    ("six", "fd05::10", 64, Some("fd05::1")),
    ("bare", "10.7.0.10", 24, None),
];

/// A world before anything has happened in it.
pub(crate) struct Setting {
    /// The ProxmoxCluster.
    pub(crate) cluster: Value,
    /// The ProxmoxMachine.
    pub(crate) machine: Value,
    /// The hypervisors.
    pub(crate) platform: Builder,
    /// What the template 9000 has installed.
    pub(crate) image: Image,
    /// What the bootstrap provider made.
    pub(crate) bootstrap: Bootstrap,
}

impl Setting {
    /// A worker with one network device on the usual platform, whose guest joins the cluster.
    pub(crate) fn new() -> Self {
        let mut machine = serde_json::to_value(world::machine("m-0")).unwrap();
        machine["spec"]["checks"] = json!({});
        Self {
            cluster: serde_json::to_value(world::cluster()).unwrap(),
            machine,
            platform: Builder::new().delays(Delays::zero()),
            image: Image::default(),
            bootstrap: Bootstrap::new(Format::CloudConfig, join_data()),
        }
    }

    /// The spec of the machine.
    pub(crate) fn spec(&mut self) -> &mut Value {
        &mut self.machine["spec"]
    }

    /// A network device of the machine, made if it is not there.
    pub(crate) fn device(&mut self, number: usize) -> &mut Value {
        let devices = self.machine["spec"]["network"]["networkDevices"]
            .as_array_mut()
            .unwrap();
        while devices.len() <= number {
            let name = format!("net{}", devices.len());
            devices.push(json!({"name": name, "bridge": "vmbr0"}));
        }
        &mut devices[number]
    }

    /// Lets it happen.
    pub(crate) async fn outcome(self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        let workloads = workloads();
        let guests = Guests::new(workloads.clone())
            .pace(Pace::instant())
            .image(9000, self.image);
        let platform = self.platform.guests(guests).build();
        let (machine, cluster) = (
            crate::api::admit(&self.machine),
            crate::api::admit(&self.cluster),
        );
        let object: ProxmoxMachine = serde_json::from_value(machine).unwrap();
        let cluster: ProxmoxCluster = serde_json::from_value(cluster).unwrap();
        let of_cluster = Clusters.unsupported(&cluster);
        let of_machine = Machines.unsupported(&object, &cluster);
        let refusals = of_cluster.into_iter().chain(of_machine);
        lines.extend(refusals.map(|refusal| format!("refused: {refusal}")));
        if !lines.is_empty() {
            return lines;
        }
        lines.extend(pool::pools("c", &cluster.spec).iter().map(zone_pool));
        let mut life = Life::with(session(&platform), object);
        life.scope.cluster = cluster;
        life.bootstrap = self.bootstrap;
        life.strict = true;
        if let Ok(requests) = requests(&life) {
            lines.extend(requests.iter().map(claim));
            life.scope.addresses = give(&life, &requests);
        }
        let halt = life.run().await;
        match halt {
            Halt::Settled => {}
            Halt::Waiting(waiting) => {
                lines.insert(format!("waits: {}: {}", waiting.reason, waiting.message));
            }
            Halt::Error(error) => {
                lines.insert(format!("error: {error}"));
            }
            other => panic!("neither made nor refused: {other:?}"),
        }
        if life.claim.is_some() {
            tokio::time::sleep(BOOT).await;
            lines.extend(vm(&platform, &life));
        }
        lines.extend(nodes(&workloads));
        if life.seen.is_some() {
            lines.extend(status(&life));
        }
        let names = random_names(&platform, &life);
        lines.iter().map(|line| named(line, &names)).collect()
    }
}

/// What a change takes away from the outcome of the usual setting (`- `), and what it adds (`+ `).
pub(crate) async fn effect(change: impl FnOnce(&mut Setting)) -> Vec<String> {
    effect_on(|_| {}, change).await
}

/// The same where the usual setting does not do.
pub(crate) async fn effect_on(
    base: impl Fn(&mut Setting),
    change: impl FnOnce(&mut Setting),
) -> Vec<String> {
    let (mut without, mut with) = (Setting::new(), Setting::new());
    base(&mut without);
    base(&mut with);
    change(&mut with);
    let (without, with) = (without.outcome().await, with.outcome().await);
    let gone = without.difference(&with).map(|line| format!("- {line}"));
    let new = with.difference(&without).map(|line| format!("+ {line}"));
    let all: Vec<String> = gone.chain(new).collect();
    // Of what is refused there is nothing else to be seen.
    let is_refusal = |line: &&String| line.contains("refused: ");
    let refusals: Vec<String> = all.iter().filter(is_refusal).cloned().collect();
    if refusals.is_empty() { all } else { refusals }
}

/// A worker's bootstrap data as the kubeadm bootstrap provider writes it.
fn join_data() -> String {
    format!(
        "## template: jinja
#cloud-config
write_files:
- path: /run/kubeadm/kubeadm-join-config.yaml
  content: |
{}
runcmd:
- kubeadm join --config /run/kubeadm/kubeadm-join-config.yaml && echo success > /run/cluster-api/bootstrap-success.complete
",
        indented(&join_configuration("{{ ds.meta_data.instance_id }}"), 4)
    )
}

/// What kubeadm reads on a worker.
pub(crate) fn join_configuration(instance_id: &str) -> String {
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken: {{apiServerEndpoint: '10.0.0.9:6443', token: {TOKEN}, caCertHashes: ['{CA_HASH}']}}
nodeRegistration:
  kubeletExtraArgs:
  - {{name: provider-id, value: \"proxmox://{instance_id}\"}}
"
    )
}

fn indented(text: &str, by: usize) -> String {
    let lines = text.lines().map(|line| format!("{:by$}{line}", ""));
    lines.collect::<Vec<_>>().join("\n")
}

/// A cluster at 10.0.0.9 that workers can join.
fn workloads() -> Workloads {
    let workloads = Workloads::new();
    let endpoint = Endpoint::new("10.0.0.9", 6443);
    workloads.declare_load_balancer(&endpoint);
    let mut node = Node::new("cp", "control-plane", Role::ControlPlane);
    node.kubernetes_version = "v1.36.0".into();
    let entry = Entry::Init {
        ca_hash: CA_HASH.into(),
        tokens: vec![TOKEN.to_owned()],
        serves: Vec::new(),
    };
    let join = Join {
        endpoint,
        entry,
        node,
    };
    workloads.join(&join).unwrap();
    workloads
}

fn requests(life: &Life) -> Result<Vec<AddressRequest>, provider_proxmox::network::NetworkError> {
    let network = &life.scope.object.spec.network;
    pool::requests("m-0", network, "c", &life.scope.cluster.spec)
}

fn zone_pool(pool: &ZonePool) -> String {
    let object = &pool.object;
    let spec = &object.body["spec"];
    format!(
        "pool {}: {}, prefix {}, gateway {}, metric {}, zone {}",
        object.name,
        spec["addresses"],
        spec["prefix"],
        spec["gateway"],
        object.annotations[pool::METRIC_ANNOTATION],
        pool.zone
    )
}

fn claim(request: &AddressRequest) -> String {
    let pool = &request.pool;
    let zone = request.labels.get("topology.kubernetes.io/proxmox-zone");
    format!(
        "claim {}: {} {}, zone {}",
        request.name,
        pool.kind,
        pool.name,
        zone.map(String::as_str).unwrap_or_default()
    )
}

/// Plays IPAM: the first addresses of each pool, in the order of the claims.
fn give(life: &Life, requests: &[AddressRequest]) -> Vec<Address> {
    let mut given: BTreeMap<&str, u8> = BTreeMap::new();
    let addresses = requests.iter().map(|request| {
        let name = request.pool.name.as_str();
        let (first, prefix, gateway) = pool_of(life, name);
        let taken = given.entry(name).or_default();
        let ip = later(first, *taken);
        *taken += 1;
        Address {
            claim: request.name.clone(),
            device: request.device.clone(),
            ip,
            prefix,
            gateway,
        }
    });
    addresses.collect()
}

fn pool_of(life: &Life, name: &str) -> (IpAddr, u8, Option<IpAddr>) {
    for pool in pool::pools("c", &life.scope.cluster.spec) {
        if pool.object.name == name {
            let spec = &pool.object.body["spec"];
            let range = spec["addresses"][0].as_str().unwrap();
            let first = range.split(['-', '/']).next().unwrap();
            let prefix = u8::try_from(spec["prefix"].as_u64().unwrap()).unwrap();
            let gateway = spec["gateway"].as_str().unwrap();
            return (
                first.parse().unwrap(),
                prefix,
                Some(gateway.parse().unwrap()),
            );
        }
    }
    let known = POOLS.iter().find(|(known, ..)| *known == name);
    let (_, first, prefix, gateway) = known.unwrap_or_else(|| panic!("no pool {name}"));
    let gateway = gateway.map(|gateway| gateway.parse().unwrap());
    (first.parse().unwrap(), *prefix, gateway)
}

fn later(first: IpAddr, by: u8) -> IpAddr {
    match first {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + u32::from(by)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + u128::from(by)).into()),
    }
}

/// Place, configuration, seed and console.
fn vm(platform: &Platform, life: &Life) -> Vec<String> {
    let Some(vm) = platform.vm(life.vmid()) else {
        return Vec::new();
    };
    let mut lines = vec![format!("vm {} on {}", vm.vmid, vm.node)];
    lines.extend(vm.pool.iter().map(|pool| format!("vm in pool {pool}")));
    // Bookkeeping of the hypervisor, different every time.
    let noise = ["digest", "meta", "vmgenid", "smbios1"];
    let config = vm
        .config
        .iter()
        .filter(|(key, _)| !noise.contains(&key.as_str()));
    lines.extend(
        config.flat_map(|(key, value)| value.lines().map(move |line| format!("{key}: {line}"))),
    );
    for image in platform.isos_left() {
        let (_, files) = read_iso(&image.bytes.unwrap()).unwrap();
        // Of the network configuration the guest tells; user-data is not ours.
        for file in files.iter().filter(|file| file.path == "meta-data") {
            let text = String::from_utf8_lossy(&file.bytes).into_owned();
            lines.extend(text.lines().map(|line| format!("meta-data: {line}")));
        }
    }
    let console = platform.console(life.vmid());
    lines.extend(console.iter().map(|line| {
        let line = line.split_once("] ").unwrap().1;
        let network = line.strip_prefix("cloud-init: ");
        format!("guest: {}", network.unwrap_or(line))
    }));
    lines
}

fn nodes(workloads: &Workloads) -> Vec<String> {
    let all = workloads.all();
    let nodes = all.iter().flat_map(|workload| &workload.nodes);
    nodes
        .filter(|node| node.role == Role::Worker)
        .map(|node| {
            let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
            let id = node.provider_id.as_deref().unwrap_or("none");
            format!(
                "node {} with {}, provider id {id}",
                node.name,
                addresses.join(" ")
            )
        })
        .collect()
}

/// The facts that go into the status.
fn status(life: &Life) -> Vec<String> {
    let facts = life.facts();
    let mut lines: Vec<String> = facts
        .addresses
        .iter()
        .map(|address| format!("status.addresses: {:?} {}", address.kind, address.address))
        .collect();
    if let Value::Object(own) = serde_json::to_value(&facts.own).unwrap() {
        lines.extend(
            own.iter()
                .map(|(key, value)| format!("status.{key}: {value}")),
        );
    }
    lines.extend(facts.provider_id.map(|id| format!("provider id {id}")));
    lines
}

/// What differs from run to run, and what to call it.
fn random_names(platform: &Platform, life: &Life) -> Vec<(String, String)> {
    let mut names = vec![(life.scope.owner.to_string(), "OWNER".to_owned())];
    let Some(claim) = &life.claim else {
        return names;
    };
    if let Some(token) = claim.mark.token() {
        let token = token.to_string();
        // Tags hold the first letters of it.
        let short = token.chars().take(12).collect::<String>();
        names.extend([(token, "TOKEN".to_owned()), (short, "TOKEN".to_owned())]);
    }
    if let Some(vm) = platform.vm(claim.vmid) {
        names.extend(vm.uuid().map(|uuid| (uuid.to_owned(), "UUID".to_owned())));
        for (key, line) in vm.config.iter().filter(|(key, _)| key.starts_with("net")) {
            let mac = line
                .split([',', '='])
                .find(|part| part.matches(':').count() == 5);
            names.extend(mac.map(|mac| (mac.to_owned(), format!("MAC-{key}"))));
        }
    }
    names
}

fn named(line: &str, names: &[(String, String)]) -> String {
    names.iter().fold(line.to_owned(), |line, (random, name)| {
        line.replace(random, name)
            .replace(&random.to_lowercase(), name)
    })
}

/// What every test of a field stands on: the usual setting makes a Node, and nothing but the
/// change makes a difference.
#[tokio::test(start_paused = true)]
async fn equal_settings_have_equal_outcomes() {
    let outcome = Setting::new().outcome().await;
    let node = "node m-0 with 10.0.0.10, provider id proxmox://UUID";
    assert!(outcome.contains(node), "{outcome:#?}");
    assert_eq!(effect(|_| {}).await, [""; 0]);
}
