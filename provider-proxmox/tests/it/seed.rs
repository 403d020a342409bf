//! From a machine's spec to a guest that booted with the network it was meant to have.

use std::collections::BTreeMap;
use std::time::Duration;

use capi_contract::{Address, Bootstrap, Format};
use capi_testkit::guest::{Disk, Event, Guest, Hardware, Image, Mac, Medium, Nic, Pace};
use provider_proxmox::api::{ProxmoxCluster, ProxmoxMachine};
use provider_proxmox::seed::{MetaData, Seed};
use provider_proxmox::{network, pool};
use serde_json::json;

const UUID: &str = "6c3fa683-bef9-4425-b413-eaa45a9d6191";

/// All digits below 60: a number of base 60 to YAML 1.1, unless it is quoted.
const MACS: [&str; 2] = ["52:54:00:12:34:56", "BC:24:11:00:00:01"];

fn cluster() -> ProxmoxCluster {
    serde_json::from_value(json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2",
        "kind": "ProxmoxCluster",
        "metadata": {"name": "demo"},
        "spec": {
            "ipv4Config": {"addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24, "gateway": "10.0.0.1"},
            "ipv6Config": {"addresses": ["fd00::/120"], "prefix": 64, "gateway": "fd00::1"},
            "dnsServers": ["10.0.0.2"]
        }
    }))
    .unwrap()
}

fn machine() -> ProxmoxMachine {
    serde_json::from_value(json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2",
        "kind": "ProxmoxMachine",
        "metadata": {"name": "demo-1"},
        "spec": {
            "sourceNode": "pve1",
            "templateID": 9000,
            "network": {"networkDevices": [
                {"name": "net0", "bridge": "vmbr0", "defaultIPv4": true, "defaultIPv6": true},
                {"name": "net1", "bridge": "vmbr1", "ipPoolRef": [{
                    "apiGroup": "ipam.cluster.x-k8s.io", "kind": "GlobalInClusterIPPool", "name": "shared"
                }]}
            ]}
        }
    }))
    .unwrap()
}

/// The image for a guest, as the provider attaches it.
fn image() -> Vec<u8> {
    let (cluster, machine) = (cluster(), machine());
    let wanted = &machine.spec.network;
    let requests = pool::requests("demo-1", wanted, "demo", &cluster.spec).unwrap();
    let given = [("10.0.0.10", 24), ("fd00::10", 64), ("192.168.7.5", 16)];
    let addresses: Vec<Address> = requests
        .iter()
        .zip(given)
        .map(|(request, (ip, prefix))| Address {
            claim: request.name.clone(),
            device: request.device.clone(),
            ip: ip.parse().unwrap(),
            prefix,
            gateway: (prefix == 24).then(|| "10.0.0.1".parse().unwrap()),
        })
        .collect();
    assert_eq!(addresses.len(), given.len());
    let macs: BTreeMap<String, String> = (0..)
        .zip(MACS)
        .map(|(number, mac)| (format!("net{number}"), mac.to_owned()))
        .collect();
    let guest = network::guest(wanted, &cluster.spec, &requests, &addresses, &macs).unwrap();
    let meta_data = MetaData {
        instance_id: UUID.to_owned(),
        hostname: "demo-1".to_owned(),
        provider_id: None,
        kubernetes_version: None,
    };
    let user_data = "## template: jinja\n#cloud-config\nwrite_files:\n- path: /etc/identity\n  \
                     content: 'proxmox://{{ ds.meta_data.instance_id }}'\n";
    let bootstrap = Bootstrap::new(Format::CloudConfig, user_data);
    Seed::new(&bootstrap, &meta_data, &guest)
        .unwrap()
        .image()
        .unwrap()
}

#[test]
fn a_guest_boots_from_the_seed_with_its_addresses() {
    let nics = MACS
        .map(|mac| Nic::new(mac.parse::<Mac>().unwrap()))
        .to_vec();
    let media = vec![Medium::Cdrom(image().into())];
    let hardware = Hardware::new(UUID, nics);
    let (disk, system, pace) = (Disk::default(), Image::default(), Pace::instant());
    let mut guest = Guest::power_on(disk, system, hardware, media, pace, Duration::ZERO);
    let events = guest.advance(Duration::ZERO);
    let console: Vec<&str> = guest.console().collect();
    assert_eq!(events, [Event::Booted], "{console:#?}");

    assert_eq!(guest.disk().instance_id(), Some(UUID));
    let agent = guest.agent().unwrap();
    assert_eq!(agent.host_name(), "demo-1");
    let identity = agent.read_file("/etc/identity").unwrap();
    assert_eq!(identity, format!("proxmox://{UUID}").as_bytes());
    let shown: Vec<(String, Vec<String>)> = agent
        .interfaces()
        .into_iter()
        .filter(|interface| interface.name.starts_with("eth"))
        .map(|interface| {
            let addresses = interface
                .addresses
                .iter()
                .map(|one| one.address.to_string());
            (
                interface.name,
                addresses.filter(|text| !text.starts_with("fe80")).collect(),
            )
        })
        .collect();
    let texts = |all: &[&str]| {
        all.iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        shown,
        [
            ("eth0".to_owned(), texts(&["10.0.0.10", "fd00::10"])),
            ("eth1".to_owned(), texts(&["192.168.7.5"]))
        ]
    );
}
