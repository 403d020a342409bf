use rstest::rstest;

use super::*;

const A: &str = "bc:24:11:00:00:0a";

fn nics() -> Vec<Nic> {
    let mut dhcp = Nic::new("bc:24:11:00:00:0b".parse().expect("a MAC"));
    dhcp.dhcp = Some("192.168.1.50/24".parse().expect("a network"));
    vec![Nic::new(A.parse().expect("a MAC")), dhcp]
}

fn configured(text: &str) -> Result<Network, String> {
    let config: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    configure(&config, &nics())
}

#[test]
fn netplan_is_matched_by_mac() {
    let network = configured(
        "version: 2
ethernets:
  eth0:
    match: {macaddress: 'BC:24:11:00:00:0A'}
    set-name: eth0
    addresses: [10.0.0.5/24, 'fd00::5/64']
    routes: [{to: 0.0.0.0/0, via: 10.0.0.1}]
  second:
    match: {macaddress: 'bc:24:11:00:00:0b'}
    dhcp4: true
",
    )
    .expect("is good");
    assert_eq!(network.interfaces[0].name, "eth0");
    assert_eq!(network.interfaces[1].name, "ens19");
    let own: Vec<String> = network
        .usable(&nics())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(own, ["10.0.0.5/24", "fd00::5/64", "192.168.1.50/24"]);
    assert!(network.reaches(&nics(), "8.8.8.8".parse().expect("an address")));
}

#[test]
fn version_1_is_read_and_a_missing_route_is_noticed() {
    let network = configured(&format!(
            "network:
  version: 1
  config:
  - {{type: physical, name: eth0, mac_address: '{A}', subnets: [{{type: static, address: 10.0.0.5, netmask: 255.255.255.0}}]}}
  - {{type: nameserver, address: [8.8.8.8]}}
"
        ))
        .expect("is good");
    assert!(network.reaches(&nics(), "10.0.0.9".parse().expect("an address")));
    assert!(!network.reaches(&nics(), "10.0.1.9".parse().expect("an address")));
    let mut unplugged = nics();
    unplugged[0].link = false;
    assert!(network.usable(&unplugged).is_empty());
}

/// A worker that reaches the world over eth0, and a second card in a VRF of its own.
const VRF: &str = "version: 2
ethernets:
  eth0:
    match: {macaddress: 'bc:24:11:00:00:0a'}
    set-name: eth0
    addresses: [10.0.0.5/24]
    mtu: 1400
    nameservers: {addresses: [10.0.0.2]}
    routes: [{to: 10.9.0.0/16, via: 10.0.0.1}]
    routing-policy: [{to: 8.8.8.8, table: 1000, priority: 99}]
  eth1:
    match: {macaddress: 'bc:24:11:00:00:0b'}
    set-name: eth1
    addresses: [10.5.0.5/16]
    routes: [{to: 0.0.0.0/0, via: 10.5.0.1, metric: 200}]
vrfs:
  vrf-red:
    table: 500
    interfaces: [eth1]
    routes: [{to: 10.6.0.0/16, via: 10.5.0.2}]
    routing-policy: [{from: 10.5.0.0/16, priority: 1}]
";

#[test]
fn a_vrf_has_a_table_of_its_own() {
    let network = configured(VRF).expect("is good");
    assert_eq!(
        network.lines(&nics()),
        [
            "eth0 bc:24:11:00:00:0a 10.0.0.5/24 mtu 1400 dns 10.0.0.2",
            "eth1 bc:24:11:00:00:0b 10.5.0.5/16 vrf vrf-red",
            "vrf vrf-red table 500",
            "route 10.9.0.0/16 via 10.0.0.1 dev eth0",
            "route 0.0.0.0/0 via 10.5.0.1 dev eth1 metric 200 table 500",
            "route 10.6.0.0/16 via 10.5.0.2 dev vrf-red table 500",
            "rule 99: to 8.8.8.8/32 lookup 1000",
            "rule 1: from 10.5.0.0/16 lookup 500",
        ]
    );
    assert_eq!(network.warnings, [""; 0]);
    let reaches = |address: &str| network.reaches(&nics(), address.parse().expect("an address"));
    assert!(reaches("10.0.0.9") && reaches("10.9.1.1"));
    assert!(!reaches("10.5.0.9"), "it is behind the VRF");
    assert!(
        !reaches("8.8.8.8"),
        "table 1000 is empty, the main one has no default route"
    );
}

/// A rule leads into a table, and what has no way there goes on to the main one.
#[test]
fn a_rule_chooses_the_table() {
    let with_route = VRF.replace(
        "{to: 10.9.0.0/16, via: 10.0.0.1}",
        "{to: 0.0.0.0/0, via: 10.0.0.1, table: 1000}",
    );
    let network = configured(&with_route).expect("is good");
    let reaches = |address: &str| network.reaches(&nics(), address.parse().expect("an address"));
    assert!(reaches("8.8.8.8"));
    assert!(!reaches("9.9.9.9"), "no rule leads into table 1000");
}

#[test]
fn what_a_kernel_would_not_take_is_left_out_with_a_warning() {
    let network = configured(
        "version: 2
ethernets:
  eth0: {addresses: [10.0.0.5/24], routes: [{to: default, via: 10.0.1.1}, {to: default, via: 10.0.0.1}]}
  eth1: {addresses: [10.1.0.5/24], routes: [{to: default, via: 10.1.0.1}]}
",
    )
    .expect("is good");
    assert_eq!(network.routes.len(), 2);
    assert!(
        network.warnings[0].contains("invalid gateway"),
        "{:?}",
        network.warnings
    );
    assert!(
        network.warnings[1].contains("first declared in eth0 but also in eth1"),
        "{:?}",
        network.warnings
    );
}

#[rstest]
#[case("table: 500", "tabel: 500", "unknown key 'tabel'")]
#[case("    table: 500\n", "", "missing 'table' property")]
#[case("interfaces: [eth1]", "interfaces: [eth7]", "'eth7' is not defined")]
#[case(
    "interfaces: [eth1]",
    "interfaces: [eth1, eth1]",
    "already assigned to vrf vrf-red"
)]
#[case("vrf-red", "vrf-of-the-red-net", "longer than 15 letters")]
#[case(
    "via: 10.5.0.2}",
    "via: 10.5.0.2, table: 7}",
    "VRF routes table mismatch (500 != 7)"
)]
#[case(
    "priority: 1}",
    "table: 7}",
    "VRF routing-policy table mismatch (500 != 7)"
)]
#[case(
    "from: 10.5.0.0/16, priority: 1",
    "priority: 1",
    "either a 'from' or 'to' IP"
)]
#[case(
    "{from: 10.5.0.0/16",
    "{from: 10.5.0.0/16, to: '::/0'",
    "mixes families"
)]
#[case(
    "via: 10.5.0.2",
    "via: 'fd00::1'",
    "invalid IP family in route to '10.6.0.0/16'"
)]
#[case("{to: 10.6.0.0/16, ", "{", "must include a 'to' IP")]
#[case("to: 10.6.0.0/16", "to: nowhere", "malformed address 'nowhere'")]
#[case("mtu: 1400", "mtu: large", "invalid unsigned int value 'large' of mtu")]
#[case("[10.0.0.2]", "[resolver]", "malformed address 'resolver'")]
#[case(
    "metric: 200",
    "metric: -1",
    "invalid unsigned int value '-1' of metric"
)]
fn netplan_says_what_is_wrong(#[case] good: &str, #[case] bad: &str, #[case] wanted: &str) {
    let text = VRF.replace(good, bad);
    assert_ne!(text, VRF);
    let error = configured(&text).expect_err("is bad");
    assert!(error.contains(wanted), "{error}");
}

#[rstest]
#[case("version: 3", "no version")]
#[case(
    "version: 2\nethernets: {a: {match: {macaddress: '00:00:00:00:00:01'}}}",
    "Not all expected physical devices present: {'00:00:00:00:00:01'}"
)]
#[case("version: 2\nethernets: {a: {match: {macaddress: 'zz'}}}", "MAC")]
#[case("version: 2\nethernets: {enp1s0: {dhcp4: true}}", "{'enp1s0'}")]
#[case(
    "version: 2\nethernets: {eth0: {addresses: [10.0.0.1]}}",
    "missing /prefixlength"
)]
#[case(
    "version: 2\nethernets: {eth0: {addresses: [10.0.0.300/24]}}",
    "malformed address"
)]
#[case(
    "version: 2\nethernets: {eth0: {addresses: [10.0.0.1/24]}, eth1: {addresses: [10.0.0.1/24]}}",
    "duplicate address 10.0.0.1"
)]
#[case(
    "version: 2\nethernets: {eth0: {dhcp4: true}, ens18: {dhcp4: true}}",
    "duplicate mac"
)]
fn says_what_is_wrong(#[case] text: &str, #[case] wanted: &str) {
    let error = configured(text).expect_err("is bad");
    assert!(error.contains(wanted), "{error}");
}
