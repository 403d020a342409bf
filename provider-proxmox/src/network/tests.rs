use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::{DeviceModel, IpConfig, PoolRef, Route, RoutingPolicy};

fn cluster() -> ProxmoxClusterSpec {
    let config = |gateway: &str, metric| IpConfig {
        addresses: vec!["10.0.0.10-10.0.0.20".into()],
        prefix: 24,
        gateway: gateway.into(),
        metric,
    };
    ProxmoxClusterSpec {
        ipv4_config: Some(config("10.0.0.1", 50)),
        ipv6_config: Some(config("fd00::1", 60)),
        dns_servers: vec!["10.0.0.2".into()],
        ..ProxmoxClusterSpec::default()
    }
}

fn net(name: &str) -> NetworkDevice {
    NetworkDevice {
        name: name.into(),
        ..NetworkDevice::default()
    }
}

fn network(devices: Vec<NetworkDevice>) -> NetworkSpec {
    NetworkSpec {
        network_devices: devices,
        ..NetworkSpec::default()
    }
}

fn given(device: &str, offset: u8, ip: &str, gateway: Option<&str>) -> Address {
    Address {
        claim: format!("m-{device}-0{offset}-inet"),
        device: device.into(),
        ip: ip.parse().unwrap(),
        prefix: 24,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
    }
}

fn macs() -> BTreeMap<String, String> {
    let mac = |number| (format!("net{number}"), format!("BC:24:11:00:00:0{number}"));
    (0..2).map(mac).collect()
}

#[test]
fn a_device_changes_only_what_the_spec_says() {
    let present =
        NetDevice::parse("e1000=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1,tag=7").unwrap();
    let mut wanted = net("net0");
    assert_eq!(
        device(&wanted, Some(&present)).to_string(),
        "virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1,tag=7"
    );
    wanted.bridge = Some("vmbr1".into());
    wanted.vlan = Some(100);
    wanted.queues = Some(4);
    wanted.mtu = Some(1);
    assert_eq!(
        device(&wanted, Some(&present)).to_string(),
        "virtio=BC:24:11:AA:BB:CC,bridge=vmbr1,firewall=1,tag=100,mtu=1,queues=4"
    );
    wanted.model = DeviceModel::Vmxnet3;
    let expected = "vmxnet3,bridge=vmbr1,tag=100,mtu=1,queues=4";
    assert_eq!(device(&wanted, None).to_string(), expected);
}

#[rstest]
#[case::right(&["net0", "net1"], Ok(()))]
#[case::in_any_order(&["net1", "net0"], Ok(()))]
#[case::none(&[], Ok(()))]
#[case::gap(&["net0", "net2"], Err("net1 is missing"))]
#[case::not_from_zero(&["net1"], Err("net0 is missing"))]
fn devices_are_numbered_without_gaps(#[case] names: &[&str], #[case] expected: Result<(), &str>) {
    let checked = check(
        &network(names.iter().map(|name| net(name)).collect()),
        &cluster(),
    );
    match (checked, expected) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (checked, expected) => panic!("{checked:?} instead of {expected:?}"),
    }
}

#[test]
fn only_one_device_takes_a_default_pool() {
    let default6 = |name| NetworkDevice {
        default_ipv6: Some(true),
        ..net(name)
    };
    let error = check(
        &network(vec![default6("net0"), default6("net1")]),
        &cluster(),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("defaultIPv6, but net0 and net1 do"),
        "{error}"
    );
}

#[test]
fn default_routes_have_the_metric_of_their_pool_and_no_two_are_equal() {
    let mut second = net("net1");
    second.ip_pool_ref = vec![PoolRef::default()];
    second.dns_servers = vec!["10.1.0.2".into()];
    second.link_mtu = Some(1400);
    let addresses = [
        given("net0", 0, "10.0.0.10", Some("10.0.0.1")),
        given("net0", 1, "fd00::10", Some("fd00::1")),
        given("net1", 0, "10.1.0.10", Some("10.1.0.1")),
    ];
    let network = network(vec![net("net0"), second]);
    let requests = pool::requests("m", &network, "c", &cluster()).unwrap();
    let made = guest(&network, &cluster(), &requests, &addresses, &macs())
        .unwrap()
        .interfaces;
    let routes = |interface: &Interface| -> Vec<(String, Option<u32>)> {
        interface
            .routes
            .iter()
            .map(|route| (route.to.clone(), route.metric))
            .collect()
    };
    assert_eq!(made[0].name, "eth0");
    assert_eq!(made[0].mac, "bc:24:11:00:00:00");
    assert_eq!(
        routes(&made[0]),
        [("0.0.0.0/0".into(), Some(50)), ("::/0".into(), Some(60))]
    );
    assert_eq!(made[0].name_servers, ["10.0.0.2"]);
    assert_eq!(made[0].mtu, None);
    assert_eq!(routes(&made[1]), [("0.0.0.0/0".into(), Some(150))]);
    assert_eq!(made[1].name_servers, ["10.1.0.2"]);
    assert_eq!(made[1].mtu, Some(1400));
}

#[test]
fn routes_and_rules_say_their_family() {
    let mut wanted = net("net0");
    let route = |to: Option<&str>, via: Option<&str>, is6| Route {
        to: to.map(str::to_owned),
        via: via.map(str::to_owned),
        is6,
        ..Route::default()
    };
    wanted.routes = vec![
        route(Some("10.2.0.0/16"), Some("10.0.0.3"), None),
        route(Some("default"), Some("fd00::3"), None),
        route(Some("10.3.0.1"), None, None),
        route(None, None, Some(true)),
    ];
    wanted.routing_policy = vec![RoutingPolicy {
        from: Some("fd00::/64".into()),
        to: Some("all".into()),
        table: Some(1000),
        priority: Some(99),
        is6: None,
    }];
    let made = guest(&network(vec![wanted]), &cluster(), &[], &[], &macs())
        .unwrap()
        .interfaces;
    let to: Vec<&str> = made[0]
        .routes
        .iter()
        .map(|route| route.to.as_str())
        .collect();
    assert_eq!(to, ["10.2.0.0/16", "::/0", "10.3.0.1/32", "::/0"]);
    let rule = &made[0].rules[0];
    assert_eq!(
        (rule.to.as_deref(), rule.from.as_deref()),
        (Some("::/0"), Some("fd00::/64"))
    );
    assert_eq!((rule.table, rule.priority), (Some(1000), Some(99)));
}

#[rstest]
#[case::no_family(Some("default"), None, "routes[0] names neither")]
#[case::no_address(Some("nonsense"), None, "is \"nonsense\", which is neither")]
#[case::no_gateway(Some("10.0.0.0/8"), Some("gw"), "routes[0].via is \"gw\"")]
fn unclear_routes_are_refused(
    #[case] to: Option<&str>,
    #[case] via: Option<&str>,
    #[case] expected: &str,
) {
    let mut wanted = net("net0");
    wanted.routes = vec![Route {
        to: to.map(str::to_owned),
        via: via.map(str::to_owned),
        ..Route::default()
    }];
    let network = network(vec![wanted]);
    let error = guest(&network, &cluster(), &[], &[], &macs())
        .unwrap_err()
        .to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_missing_is_named() {
    let mut network = network(vec![net("net5")]);
    let error = guest(&network, &cluster(), &[], &[], &macs()).unwrap_err();
    assert_eq!(
        error,
        NetworkError::NoMac {
            device: "net5".into()
        }
    );
    network.zone = Some("west".into());
    let error = guest(&network, &cluster(), &[], &[], &macs()).unwrap_err();
    assert_eq!(
        error,
        NetworkError::UnknownZone {
            zone: "west".into()
        }
    );
}

/// A device, a second one in a VRF, and a change of either.
#[rstest]
#[case::right("", json!(null), "")]
#[case::too_many_queues("/networkDevices/0/queues", json!(65), "queues is 65; it must be between 1 and 64")]
#[case::mtu_without_virtio("/networkDevices/0/model", json!("e1000"), "mtu has an effect on virtio devices only, and this one is e1000")]
#[case::link_above_device("/networkDevices/0/linkMtu", json!(1500), "linkMtu is 1500, more than the device's mtu of 1450")]
#[case::inherited_mtu("/networkDevices/0/mtu", json!(1), "")]
#[case::metric("/networkDevices/0/routes/0/metric", json!(4_294_967_296_i64), "routes[0].metric is 4294967296")]
#[case::table("/networkDevices/0/routes/0/table", json!(0), "routes[0].table is 0; it must be between 1")]
#[case::rule_of_nothing("/networkDevices/0/routingPolicy/0/from", json!(null), "routingPolicy[0] has neither to nor from")]
#[case::rule_of_two_families("/networkDevices/0/routingPolicy/0/to", json!("::/0"), "routingPolicy[0] mixes IPv4 and IPv6")]
#[case::no_pool("/networkDevices/0/defaultIPv6", json!(true), "")]
#[case::name_server("/networkDevices/0/dnsServers", json!(["a"]), "dnsServers[0] is \"a\"")]
#[case::vrf_like_interface("/vrfs/0/name", json!("eth0"), "is what a network device is called in the guest")]
#[case::vrf_like_number("/vrfs/0/name", json!("500"), "is a number")]
#[case::vrf_like_path("/vrfs/0/name", json!("a/b"), "letters that an interface cannot have")]
#[case::two_vrfs("/vrfs/1", json!({"name": "blue", "table": 600, "interfaces": ["net1"]}), "net1 is in vrfs[name=red].interfaces and in vrfs[name=blue].interfaces")]
#[case::one_table("/vrfs/1", json!({"name": "blue", "table": 500}), "vrfs[name=blue].table is that of red, too")]
fn what_a_guest_would_refuse_is_named(
    #[case] path: &str,
    #[case] value: Value,
    #[case] expected: &str,
) {
    let mut spec = json!({
        "networkDevices": [
            {
                "name": "net0", "mtu": 1450, "linkMtu": 1400,
                "routes": [{"to": "10.9.0.0/16", "via": "10.0.0.3"}],
                "routingPolicy": [{"from": "10.0.0.0/24", "table": 7}],
            },
            {"name": "net1"},
        ],
        "vrfs": [{"name": "red", "table": 500, "interfaces": ["net1"]}],
    });
    if path == "/vrfs/1" {
        spec["vrfs"].as_array_mut().unwrap().push(value);
    } else if let Some((parent, key)) = path.rsplit_once('/') {
        spec.pointer_mut(parent).unwrap()[key] = value;
    }
    let checked = check(&serde_json::from_value(spec).unwrap(), &cluster());
    match checked {
        Ok(()) => assert_eq!(expected, ""),
        Err(error) => {
            let text = error.to_string();
            assert!(!expected.is_empty() && text.contains(expected), "{text}");
        }
    }
}

#[test]
fn a_default_pool_that_the_zone_lacks_is_named() {
    let mut cluster = cluster();
    cluster.ipv6_config = None;
    let device = NetworkDevice {
        default_ipv6: Some(true),
        ..net("net0")
    };
    let error = check(&network(vec![device]), &cluster)
        .unwrap_err()
        .to_string();
    let expected = "networkDevices[name=net0].defaultIPv6 asks for an address, and zone default \
                    of the cluster has no ipv6Config";
    assert!(error.contains(expected), "{error}");
}

#[rstest]
#[case::link(None, Some(1279), true)]
#[case::device(Some(1279), None, true)]
#[case::enough(Some(1500), Some(1280), false)]
#[case::inherited(Some(1), None, false)]
fn a_link_with_small_packets_has_no_ipv6(
    #[case] mtu: Option<i64>,
    #[case] link_mtu: Option<i64>,
    #[case] refused: bool,
) {
    let device = NetworkDevice {
        mtu,
        link_mtu,
        ..net("net0")
    };
    let made = |ip| {
        let network = network(vec![device.clone()]);
        guest(
            &network,
            &cluster(),
            &[],
            &[given("net0", 0, ip, None)],
            &macs(),
        )
    };
    assert_eq!(made("fd00::10").is_err(), refused);
    assert!(made("10.0.0.10").is_ok());
}
