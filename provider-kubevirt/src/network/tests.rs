use capi_contract::{ObjectName, PoolRef, Token};
use rstest::rstest;

use super::*;
use crate::api::AddressPool;

fn pool(name: &str) -> AddressPool {
    AddressPool {
        api_group: None,
        kind: "InClusterIPPool".into(),
        name: name.into(),
    }
}

fn wish(name: &str, pools: &[&str]) -> NetworkInterface {
    NetworkInterface {
        name: name.into(),
        addresses_from_pools: pools.iter().map(|name| pool(name)).collect(),
        ..NetworkInterface::default()
    }
}

/// A machine on the pod network, on `storage`, which has pools, and on `spare`, which has none.
fn machine() -> KubevirtMachine {
    let mut machine = KubevirtMachine::default();
    machine.metadata.name = Some("m-0".into());
    let spec = json!({"template": {"spec": {
        "domain": {"devices": {"interfaces": [
            {"name": "default", "masquerade": {}},
            {"name": "spare", "bridge": {}},
            {"name": "storage", "bridge": {}, "macAddress": "02-AA-00-00-00-01"},
        ]}},
        "networks": [
            {"name": "default", "pod": {}},
            {"name": "spare", "multus": {"networkName": "spare"}},
            {"name": "storage", "multus": {"networkName": "storage"}},
        ],
    }}});
    machine.spec.virtual_machine_template.spec = spec.as_object().unwrap().clone();
    machine.spec.network_interfaces = vec![wish("storage", &["v4", "v6"])];
    machine.spec.network_interfaces[0].nameservers = vec!["10.7.0.2".into()];
    machine
}

/// A machine on one network of its own, without a pod's.
fn alone() -> KubevirtMachine {
    let mut machine = machine();
    let spec = json!({"template": {"spec": {
        "domain": {"devices": {"interfaces": [{"name": "vlan", "bridge": {}}]}},
        "networks": [{"name": "vlan", "multus": {"networkName": "vlan"}}],
    }}});
    machine.spec.virtual_machine_template.spec = spec.as_object().unwrap().clone();
    machine.spec.network_interfaces = vec![wish("vlan", &["v4"])];
    machine
}

fn mark() -> Mark {
    Mark {
        proof: Proof::Made {
            token: "0102030405060708090a0b0c0d0e0f10".parse().unwrap(),
        },
        ..Mark::made(Token::random(), ObjectName::new("ns", "m-0"))
    }
}

fn given(device: &str, at: usize, ip: &str, prefix: u8, gateway: &str) -> Address {
    Address {
        claim: claim_name("m-0", device, at),
        device: device.into(),
        ip: ip.parse().unwrap(),
        prefix,
        gateway: gateway.parse().ok(),
    }
}

fn read(machine: &KubevirtMachine, addresses: &[Address]) -> Value {
    serde_json::from_str(&data(machine, &mark(), addresses).unwrap()).unwrap()
}

#[test]
fn there_is_a_claim_per_interface_and_pool() {
    let requests = requests(&machine());
    let names: Vec<_> = requests.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["m-0-storage-00", "m-0-storage-01"]);
    let pool = PoolRef {
        api_group: "ipam.cluster.x-k8s.io".into(),
        kind: "InClusterIPPool".into(),
        name: "v6".into(),
    };
    assert_eq!(
        (&requests[1].pool, &*requests[1].device),
        (&pool, "storage")
    );
    assert!(super::requests(&KubevirtMachine::default()).is_empty());
}

#[test]
fn cards_are_those_with_pools_and_that_of_the_pod() {
    let cards = cards(&machine(), &mark());
    let shown: Vec<_> = cards
        .iter()
        .map(|card| (card.name.as_str(), card.mac.as_str(), card.is_static))
        .collect();
    assert_eq!(
        shown,
        [
            ("default", "02:01:02:03:04:05", false),
            ("storage", "02:aa:00:00:00:01", true),
        ]
    );
    let mut plain = machine();
    plain.spec.network_interfaces.clear();
    assert!(super::cards(&plain, &mark()).is_empty());
    assert_eq!(data(&plain, &mark(), &[]), None);
}

#[test]
fn two_interfaces_of_a_machine_and_two_machines_differ() {
    let (one, other) = (
        mark(),
        Mark::made(Token::random(), ObjectName::new("ns", "m-1")),
    );
    assert_ne!(mac(&one, 0), mac(&one, 1));
    assert_ne!(mac(&one, 0), mac(&other, 0));
    assert_eq!(mac(&one, 1), "02:01:02:03:04:04");
}

#[test]
fn a_nocloud_disk_gets_version_2_with_dhcp_on_the_pods_network() {
    let mut machine = machine();
    machine.spec.bootstrap_data_source = Some(BootstrapDataSource::NoCloud);
    machine.spec.network_interfaces[0].search_domains = vec!["storage.example".into()];
    let addresses = [
        given("storage", 0, "10.7.0.5", 24, "10.7.0.1"),
        given("storage", 1, "fd00:7::5", 64, ""),
    ];
    let wanted = json!({"version": 2, "ethernets": {
        "eth0": {
            "match": {"macaddress": "02:01:02:03:04:05"}, "set-name": "eth0",
            "dhcp4": true, "dhcp6": true,
        },
        "eth2": {
            "match": {"macaddress": "02:aa:00:00:00:01"}, "set-name": "eth2",
            "dhcp4": false, "dhcp6": false, "addresses": ["10.7.0.5/24", "fd00:7::5/64"],
            "nameservers": {"addresses": ["10.7.0.2"], "search": ["storage.example"]},
        },
    }});
    assert_eq!(read(&machine, &addresses), wanted);
}

#[test]
fn a_config_drive_gets_openstacks_network_data() {
    let addresses = [
        given("storage", 0, "10.7.0.5", 24, "10.7.0.1"),
        given("storage", 1, "fd00:7::5", 64, ""),
    ];
    let wanted = json!({
        "links": [
            {"id": "default", "type": "phy", "ethernet_mac_address": "02:01:02:03:04:05"},
            {"id": "storage", "type": "phy", "ethernet_mac_address": "02:aa:00:00:00:01"},
        ],
        "networks": [
            {"id": "default-ipv4_dhcp", "link": "default", "type": "ipv4_dhcp"},
            {"id": "default-ipv6_dhcp", "link": "default", "type": "ipv6_dhcp"},
            {"id": "storage-0", "link": "storage", "type": "ipv4",
             "ip_address": "10.7.0.5", "netmask": "255.255.255.0"},
            {"id": "storage-1", "link": "storage", "type": "ipv6",
             "ip_address": "fd00:7::5", "netmask": "ffff:ffff:ffff:ffff::"},
        ],
        "services": [{"type": "dns", "address": "10.7.0.2"}],
    });
    assert_eq!(read(&machine(), &addresses), wanted);
}

/// The gateway of the first network is the way out, that of another only if it is asked for.
#[test]
fn the_default_route_leads_through_the_first_network_unless_another_is_named() {
    let addresses = [
        given("vlan", 0, "10.8.0.5", 23, "10.8.0.1"),
        given("vlan", 1, "10.8.0.6", 23, "10.8.0.1"),
    ];
    let drive = read(&alone(), &addresses);
    let route = json!([{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.8.0.1"}]);
    assert_eq!(drive["networks"][0]["routes"], route);
    assert_eq!(drive["networks"][0]["netmask"], "255.255.254.0");
    assert_eq!(drive["networks"][1]["routes"], Value::Null, "one is enough");

    let mut named = machine();
    named.spec.bootstrap_data_source = Some(BootstrapDataSource::NoCloud);
    named.spec.network_interfaces[0].default_route = Some(true);
    let addresses = [
        given("storage", 0, "10.7.0.5", 24, "10.7.0.1"),
        given("storage", 1, "fd00:7::5", 64, "fd00:7::1"),
    ];
    let routes = json!([
        {"to": "0.0.0.0/0", "via": "10.7.0.1"}, {"to": "::/0", "via": "fd00:7::1"},
    ]);
    assert_eq!(
        read(&named, &addresses)["ethernets"]["eth2"]["routes"],
        routes
    );
}

#[rstest]
#[case::unknown(vec![wish("other", &["v4"])], "spec.networkInterfaces[0].name is other, which \
    spec.virtualMachineTemplate.spec.template.spec.networks does not have")]
#[case::twice(vec![wish("storage", &["v4"]), wish("storage", &["v6"])],
    "spec.networkInterfaces[1].name is storage a second time")]
#[case::nameless(vec![wish("storage", &[""])],
    "spec.networkInterfaces[0].addressesFromPools[0].name is empty")]
#[case::server(vec![NetworkInterface {
    nameservers: vec!["dns.example".into()], ..wish("storage", &["v4"])
}], "nameservers has dns.example, which is no address")]
#[case::two_ways_out(vec![
    NetworkInterface { default_route: Some(true), ..wish("storage", &["v4"]) },
    NetworkInterface { default_route: Some(true), ..wish("spare", &["v4"]) },
], "more than one entry with the default route")]
fn what_cannot_be_done_is_told(#[case] wishes: Vec<NetworkInterface>, #[case] told: &str) {
    let mut machine = machine();
    machine.spec.network_interfaces = wishes;
    let faults = faults(&machine).join("; ");
    assert!(faults.contains(told), "{faults}");
}

#[test]
fn what_can_be_done_is_no_fault() {
    assert_eq!(faults(&machine()), Vec::<String>::new());
    assert_eq!(faults(&alone()), Vec::<String>::new());
}

/// Two networks with pools: neither card has an address of the other.
#[rstest]
#[case(BootstrapDataSource::NoCloud)]
#[case(BootstrapDataSource::ConfigDrive)]
fn each_card_has_the_addresses_of_its_own_pools(#[case] source: BootstrapDataSource) {
    let mut machine = machine();
    machine.spec.bootstrap_data_source = Some(source);
    machine.spec.network_interfaces = vec![wish("storage", &["v4"]), wish("spare", &["v4"])];
    let addresses = [
        given("storage", 0, "10.7.0.5", 24, ""),
        given("spare", 0, "10.8.0.5", 24, ""),
    ];
    let data = read(&machine, &addresses);
    let own = match source {
        BootstrapDataSource::NoCloud => json!([
            data["ethernets"]["eth1"]["addresses"],
            data["ethernets"]["eth2"]["addresses"],
        ]),
        BootstrapDataSource::ConfigDrive => {
            let networks = data["networks"].as_array().unwrap().iter();
            let fixed = networks.filter(|one| one["type"] == "ipv4");
            fixed
                .map(|one| json!([one["link"], one["ip_address"]]))
                .collect()
        }
    };
    let expected = match source {
        BootstrapDataSource::NoCloud => json!([["10.8.0.5/24"], ["10.7.0.5/24"]]),
        BootstrapDataSource::ConfigDrive => {
            json!([["spare", "10.8.0.5"], ["storage", "10.7.0.5"]])
        }
    };
    assert_eq!(own, expected);
}
