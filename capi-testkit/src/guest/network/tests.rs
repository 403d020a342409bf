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

const ETH0_UNIT: &str = "# eth0
[Match]
MACAddress=bc:24:11:00:00:0a

[Link]
MTUBytes=1400

[Network]
DNS=10.0.0.2
VRF=vrf-red

[Address]
Address=10.0.0.5/24

[Route]
Destination=0.0.0.0/0
Gateway=10.0.0.1
Metric=100

[RoutingPolicyRule]
From=10.0.0.0/24
Table=500
Priority=99
";
const RED_DEVICE: &str = "[NetDev]\nName=vrf-red\nKind=vrf\n[VRF]\nTable=500\n";

fn from_units(eth0: &str, device: &str) -> Network {
    let files = [("00-eth0.network", eth0), ("00-red.netdev", device)];
    units(&files.into_iter().collect(), &nics()).expect("networkd goes on")
}

/// The card that no unit matches asks for DHCP, as the distribution's own unit says.
#[test]
fn networkd_reads_its_units() {
    let network = from_units(ETH0_UNIT, RED_DEVICE);
    assert_eq!(
        network.lines(&nics()),
        [
            "ens18 bc:24:11:00:00:0a 10.0.0.5/24 mtu 1400 dns 10.0.0.2 vrf vrf-red",
            "ens19 bc:24:11:00:00:0b 192.168.1.50/24",
            "vrf vrf-red table 500",
            "route 0.0.0.0/0 via 10.0.0.1 dev ens18 metric 100 table 500",
            "route 0.0.0.0/0 dev ens19",
            "rule 99: from 10.0.0.0/24 lookup 500",
        ]
    );
    assert_eq!(network.warnings, [""; 0]);
}

#[rstest]
#[case("MTUBytes", "MTU", "Unknown key 'MTU' in section [Link]")]
#[case("[Route]", "[Routes]", "Unknown section 'Routes'")]
#[case(
    "10.0.0.5/24",
    "10.0.0.500/24",
    "Failed to parse Address=10.0.0.500/24"
)]
#[case("DNS=10.0.0.2", "DNS=resolver", "Failed to parse DNS=resolver")]
#[case("Gateway=10.0.0.1", "Gateway=fd00::1", "of different families")]
#[case("From=10.0.0.0/24\n", "", "without To= and From=")]
#[case("VRF=vrf-red", "VRF=vrf-blue", "VRF vrf-blue is not there")]
#[case("Gateway=10.0.0.1", "Gateway=10.9.0.1", "Nexthop has invalid gateway")]
fn networkd_warns_and_goes_on(#[case] good: &str, #[case] bad: &str, #[case] wanted: &str) {
    let text = ETH0_UNIT.replace(good, bad);
    assert_ne!(text, ETH0_UNIT);
    let warnings = from_units(&text, RED_DEVICE).warnings;
    assert!(
        warnings.iter().any(|line| line.contains(wanted)),
        "{warnings:?}"
    );
}

#[rstest]
#[case("Kind=vrf", "Kind=bond", "does not know Kind=bond")]
#[case("Table=500", "", "VRF without Table=")]
#[case("vrf-red", "vrf-of-the-red-net", "longer than 15 letters")]
fn networkd_makes_no_wrong_device(#[case] good: &str, #[case] bad: &str, #[case] wanted: &str) {
    let network = from_units(ETH0_UNIT, &RED_DEVICE.replace(good, bad));
    assert!(
        network.warnings[0].contains(wanted),
        "{:?}",
        network.warnings
    );
    assert_eq!(network.vrfs, []);
}

const ETH0_FILE: &str = "[connection]
id=eth0
type=ethernet
master=vrf-red
slave-type=vrf

[ethernet]
mac-address=bc:24:11:00:00:0a
mtu=1400

[ipv4]
method=manual
address1=10.0.0.5/24
dns=10.0.0.2;
route1=0.0.0.0/0,10.0.0.1,100
route1_options=table=500
routing-rule1=priority 99 from 10.0.0.0/24 table 500

[ipv6]
method=link-local
";
const RED_FILE: &str = "[connection]\ntype=vrf\ninterface-name=vrf-red\n[vrf]\ntable=500\n[ipv4]\nmethod=disabled\n[ipv6]\nmethod=disabled\n";

fn from_connections(eth0: &str, red: &str, permissions: u32) -> Result<Network, String> {
    let files = [
        ("eth0.nmconnection", (eth0, permissions)),
        ("red.nmconnection", (red, 0o600)),
    ];
    connections(&files.into_iter().collect(), &nics())
}

#[test]
fn network_manager_makes_the_same_of_its_connections() {
    let network = from_connections(ETH0_FILE, RED_FILE, 0o600).expect("is good");
    let lines = from_units(ETH0_UNIT, RED_DEVICE).lines(&nics());
    assert_eq!(network.lines(&nics()), lines);
    assert_eq!(network.warnings, [""; 0]);
}

#[rstest]
#[case("type=ethernet", "type=wifi", "does not know connections of type wifi")]
#[case("00:00:0a", "00:00:0f", "no device has the address")]
#[case("mtu=1400", "mtu=large", "ethernet.mtu")]
#[case("address1=10.0.0.5/24", "address1=fd00::5/64", "ipv4.address1")]
#[case("address1=10.0.0.5/24\n", "", "this property cannot be empty")]
#[case("dns=10.0.0.2;", "dns=resolver;", "ipv4.dns")]
#[case("priority 99 from", "from", "ipv4.routing-rule1")]
#[case("0.0.0.0/0,10.0.0.1,100", "0.0.0.0/0,gateway", "ipv4.route1")]
#[case("method=manual", "method=shared", "does not know ipv4.method=shared")]
fn network_manager_ignores_what_it_cannot_read(
    #[case] good: &str,
    #[case] bad: &str,
    #[case] wanted: &str,
) {
    let text = ETH0_FILE.replace(good, bad);
    assert_ne!(text, ETH0_FILE);
    let network = from_connections(&text, RED_FILE, 0o600).expect("it goes on");
    assert!(
        network.warnings[0].contains(wanted),
        "{:?}",
        network.warnings
    );
    assert!(network.interfaces[0].addresses.is_empty());
}

/// A connection may hold secrets, so one that others can read is not looked at.
#[test]
fn network_manager_ignores_connections_that_others_can_read() {
    let network = from_connections(ETH0_FILE, RED_FILE, 0o644).expect("it goes on");
    assert!(
        network.warnings[0].contains("(0644) are insecure"),
        "{:?}",
        network.warnings
    );
    let without = RED_FILE.replace("table=500", "");
    let error = from_connections(ETH0_FILE, &without, 0o600).expect_err("no controller");
    assert!(error.contains("controller vrf-red is not there"), "{error}");
}
