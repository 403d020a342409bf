//! Network devices: what the spec asks for, on the hypervisor and in the guest.
//!
//! On the hypervisor a device is a line of the configuration ([`device`]); what the spec leaves
//! out stays as the template has it, above all the MAC address. In the guest it is an interface
//! with addresses, routes and name servers ([`interfaces`]), matched by that MAC address, from
//! which [`seed`](crate::seed) renders the network configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;

use capi_contract::{Address, AddressRequest};
use ipnet::IpNet;

use crate::api::{
    NetworkDevice, NetworkSpec, ProxmoxClusterSpec, ProxmoxMachineSpec, Route, RoutingPolicy,
    ZoneNetwork,
};
use crate::pool::{self, Family};
use crate::property::NetDevice;

/// Distance between the metrics of default routes, so that no two of a family are equal.
const METRIC_STEP: u32 = 100;

/// MTU value that means "as the bridge has it", and therefore nothing to the guest.
const MTU_INHERIT: i64 = 1;

/// Why the network of a machine cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The zone has no configuration.
    #[error(
        "configure the network: zone {zone} of network.zone is not in the cluster's zoneConfig; \
         add it there or correct network.zone"
    )]
    UnknownZone {
        /// Value of `network.zone`.
        zone: String,
    },
    /// Devices are not numbered from net0 without gaps.
    #[error(
        "configure the network: networkDevices must be net0, net1 and so on without gaps, but \
         {expected} is missing"
    )]
    Gap {
        /// The name that should be there.
        expected: String,
    },
    /// More than one device asks for the default pool of a family.
    #[error("configure the network: only one device may set {field}, but {first} and {second} do")]
    TwoDefaults {
        /// `defaultIPv4` or `defaultIPv6`.
        field: &'static str,
        /// A device that sets it.
        first: String,
        /// Another device that sets it.
        second: String,
    },
    /// A device of the spec is not on the virtual machine.
    #[error("configure the network: {device} has no MAC address in the VM's configuration")]
    NoMac {
        /// Name of the device.
        device: String,
    },
    /// A value that should be an address or a network.
    #[error("configure the network: {field} is {value:?}, which is neither address nor network")]
    NotAnAddress {
        /// Path of the field.
        field: String,
        /// Its value.
        value: String,
    },
    /// A route or rule whose family nobody can tell.
    #[error(
        "configure the network: {field} names neither an address nor a network; set is6, or a \
         gateway or network of the family that is meant"
    )]
    NoFamily {
        /// Path of the route or rule.
        field: String,
    },
}

/// One interface of the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Name in the guest: eth0 for net0 and so on.
    pub name: String,
    /// MAC address in lower case, by which the guest finds it.
    pub mac: String,
    /// Addresses with the length of their prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// MTU, unless the default is right.
    pub mtu: Option<u32>,
    /// Name servers.
    pub name_servers: Vec<String>,
    /// Routes, default routes first.
    pub routes: Vec<GuestRoute>,
    /// Rules that choose a routing table.
    pub rules: Vec<GuestRule>,
}

/// A route of the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestRoute {
    /// Destination; `0.0.0.0/0` or `::/0` for a default route.
    pub to: String,
    /// Gateway.
    pub via: Option<String>,
    /// Metric.
    pub metric: Option<u32>,
    /// Routing table, unless the main one.
    pub table: Option<u32>,
}

/// A rule of the guest that chooses a routing table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestRule {
    /// Destination that it matches.
    pub to: Option<String>,
    /// Source that it matches.
    pub from: Option<String>,
    /// Routing table.
    pub table: Option<u32>,
    /// Position among the rules.
    pub priority: Option<u32>,
}

/// The line for a device: what the spec says, over what the virtual machine has.
///
/// The MAC address is kept. What the spec leaves out (bridge, VLAN, MTU, queues) and what it
/// cannot say (firewall, rate limit, trunks) stays as it is.
#[must_use]
pub fn device(wanted: &NetworkDevice, present: Option<&NetDevice>) -> NetDevice {
    let mut device = present
        .cloned()
        .unwrap_or_else(|| NetDevice::new(wanted.model));
    device.set_model(wanted.model);
    if let Some(bridge) = &wanted.bridge {
        device.set("bridge", bridge);
    }
    let numbers = [
        ("tag", wanted.vlan),
        ("mtu", wanted.mtu),
        ("queues", wanted.queues),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            device.set(key, value);
        }
    }
    device
}

/// Paths of fields whose behaviour comes in a later release, for a condition that says so.
///
/// The machine is made without them; it is for the caller to decide whether that is good enough.
#[must_use]
pub fn unsupported(spec: &ProxmoxMachineSpec) -> Vec<String> {
    let vrfs = spec.network.vrfs.iter();
    vrfs.map(|vrf| format!("spec.network.vrfs[name={}]", vrf.name))
        .collect()
}

/// Checks what the schema cannot say about the devices of a machine.
///
/// # Errors
///
/// If the devices are not numbered from net0 without gaps, or two of them ask for the same default
/// pool.
pub fn check(network: &NetworkSpec) -> Result<(), NetworkError> {
    for (number, _) in network.network_devices.iter().enumerate() {
        let expected = format!("net{number}");
        if !network
            .network_devices
            .iter()
            .any(|device| device.name == expected)
        {
            return Err(NetworkError::Gap { expected });
        }
    }
    let v4 = |device: &&NetworkDevice| device.default_ipv4 == Some(true);
    let v6 = |device: &&NetworkDevice| device.default_ipv6 == Some(true);
    let twice = |field, mut devices: Vec<&NetworkDevice>| match (devices.pop(), devices.pop()) {
        (Some(second), Some(first)) => Err(NetworkError::TwoDefaults {
            field,
            first: first.name.clone(),
            second: second.name.clone(),
        }),
        _ => Ok(()),
    };
    twice(
        "defaultIPv4",
        network.network_devices.iter().filter(v4).collect(),
    )?;
    twice(
        "defaultIPv6",
        network.network_devices.iter().filter(v6).collect(),
    )
}

/// The interfaces of a guest, in the order of the spec.
///
/// `requests` are the machine's [`pool::requests`] and `addresses` what was given for them; `macs` maps device names to
/// the MAC addresses of the virtual machine. Each address with a gateway brings a default route:
/// that of the cluster's or zone's own pool with the metric that the pool's configuration names,
/// those of further pools behind it.
///
/// # Errors
///
/// If the zone is unknown, a device is not on the virtual machine, or a route or rule does not say
/// what it means.
pub fn interfaces(
    network: &NetworkSpec,
    cluster: &ProxmoxClusterSpec,
    requests: &[AddressRequest],
    addresses: &[Address],
    macs: &BTreeMap<String, String>,
) -> Result<Vec<Interface>, NetworkError> {
    let zone = cluster
        .zone(network.zone())
        .ok_or_else(|| NetworkError::UnknownZone {
            zone: network.zone().to_owned(),
        })?;
    let mut metrics = Metrics::new(&zone, requests);
    let mut interfaces = Vec::with_capacity(network.network_devices.len());
    for wanted in &network.network_devices {
        let mac = macs.get(&wanted.name).ok_or_else(|| NetworkError::NoMac {
            device: wanted.name.clone(),
        })?;
        let here: Vec<&Address> = addresses
            .iter()
            .filter(|address| address.device == wanted.name)
            .collect();
        let own = &wanted.dns_servers;
        let name_servers = if own.is_empty() {
            zone.dns_servers
        } else {
            own
        };
        interfaces.push(Interface {
            name: wanted.name.replacen("net", "eth", 1),
            mac: mac.to_ascii_lowercase(),
            addresses: here
                .iter()
                .map(|address| (address.ip, address.prefix))
                .collect(),
            mtu: wanted
                .link_mtu
                .filter(|mtu| *mtu != MTU_INHERIT)
                .and_then(narrow),
            name_servers: name_servers.to_vec(),
            routes: routes(wanted, &here, &mut metrics)?,
            rules: rules(wanted)?,
        });
    }
    Ok(interfaces)
}

/// Numbers of the spec are bounded by the schema; what passed it fits.
fn narrow(value: i64) -> Option<u32> {
    u32::try_from(value).ok()
}

/// Metrics of default routes: those of the default pools, then one step more for each further one.
struct Metrics<'a> {
    requests: &'a [AddressRequest],
    last: BTreeMap<Family, u32>,
}

impl<'a> Metrics<'a> {
    fn new(zone: &ZoneNetwork<'_>, requests: &'a [AddressRequest]) -> Self {
        let metric = |family: Family| {
            let config = family.config(zone)?;
            Some((family, narrow(config.metric).unwrap_or(METRIC_STEP)))
        };
        Self {
            requests,
            last: Family::ALL.into_iter().filter_map(metric).collect(),
        }
    }

    fn next(&mut self, address: &Address) -> u32 {
        let family = Family::of(address.ip);
        let last = self.last.get(&family).copied();
        match last {
            Some(metric) if self.is_of_default_pool(address) => metric,
            Some(_) | None => {
                let metric = last.map_or(METRIC_STEP, |last| last.saturating_add(METRIC_STEP));
                self.last.insert(family, metric);
                metric
            }
        }
    }

    fn is_of_default_pool(&self, address: &Address) -> bool {
        self.requests.iter().any(|request| {
            request.name == address.claim
                && request
                    .annotations
                    .contains_key(pool::DEFAULT_GATEWAY_ANNOTATION)
        })
    }
}

fn routes(
    wanted: &NetworkDevice,
    addresses: &[&Address],
    metrics: &mut Metrics<'_>,
) -> Result<Vec<GuestRoute>, NetworkError> {
    let mut routes: Vec<GuestRoute> = Vec::new();
    for address in addresses {
        let Some(gateway) = address.gateway else {
            continue;
        };
        let via = Some(gateway.to_string());
        if routes.iter().any(|route| route.via == via) {
            continue;
        }
        let metric = Some(metrics.next(address));
        let to = any_of(gateway.is_ipv6()).to_owned();
        routes.push(GuestRoute {
            to,
            via,
            metric,
            table: None,
        });
    }
    for (position, route) in wanted.routes.iter().enumerate() {
        let field = format!("networkDevices[name={}].routes[{position}]", wanted.name);
        routes.push(guest_route(route, &field)?);
    }
    Ok(routes)
}

fn guest_route(route: &Route, field: &str) -> Result<GuestRoute, NetworkError> {
    let via = route
        .via
        .as_deref()
        .map(|via| read_address(via, &format!("{field}.via")));
    let via = via.transpose()?;
    let hint = route.is6.or(via.map(|via| via.is_ipv6()));
    let to = destination(route.to.as_deref(), hint, field)?;
    Ok(GuestRoute {
        to,
        via: via.map(|via| via.to_string()),
        metric: route.metric.and_then(narrow),
        table: route.table.and_then(narrow),
    })
}

fn rules(wanted: &NetworkDevice) -> Result<Vec<GuestRule>, NetworkError> {
    let numbered = wanted.routing_policy.iter().enumerate();
    numbered
        .map(|(position, rule)| {
            let field = format!(
                "networkDevices[name={}].routingPolicy[{position}]",
                wanted.name
            );
            guest_rule(rule, &field)
        })
        .collect()
}

fn guest_rule(rule: &RoutingPolicy, field: &str) -> Result<GuestRule, NetworkError> {
    let family = |text: Option<&str>| text.and_then(|text| text.parse::<IpNet>().ok());
    let other = family(rule.to.as_deref()).or(family(rule.from.as_deref()));
    let hint = rule.is6.or(other.map(|network| network.addr().is_ipv6()));
    let side = |text: &Option<String>| {
        text.as_deref()
            .map(|text| destination(Some(text), hint, field))
            .transpose()
    };
    Ok(GuestRule {
        to: side(&rule.to)?,
        from: side(&rule.from)?,
        table: rule.table.and_then(narrow),
        priority: rule.priority.and_then(narrow),
    })
}

/// A destination as every renderer of cloud-init understands it: a network, or all of a family.
fn destination(text: Option<&str>, is6: Option<bool>, field: &str) -> Result<String, NetworkError> {
    match text {
        None | Some("default" | "all") => match is6 {
            Some(is6) => Ok(any_of(is6).to_owned()),
            None => Err(NetworkError::NoFamily {
                field: field.to_owned(),
            }),
        },
        Some(text) => match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
            (Ok(network), _) => Ok(network.to_string()),
            (Err(_), Ok(address)) => Ok(IpNet::from(address).to_string()),
            (Err(_), Err(_)) => Err(NetworkError::NotAnAddress {
                field: field.to_owned(),
                value: text.to_owned(),
            }),
        },
    }
}

fn read_address(text: &str, field: &str) -> Result<IpAddr, NetworkError> {
    text.parse().map_err(|_| NetworkError::NotAnAddress {
        field: field.to_owned(),
        value: text.to_owned(),
    })
}

fn any_of(is6: bool) -> &'static str {
    if is6 { "::/0" } else { "0.0.0.0/0" }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::{DeviceModel, IpConfig, PoolRef, VrfDevice};

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
    fn devices_are_numbered_without_gaps(
        #[case] names: &[&str],
        #[case] expected: Result<(), &str>,
    ) {
        let checked = check(&network(names.iter().map(|name| net(name)).collect()));
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
        let error = check(&network(vec![default6("net0"), default6("net1")])).unwrap_err();
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
        let made = interfaces(&network, &cluster(), &requests, &addresses, &macs()).unwrap();
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
        let made = interfaces(&network(vec![wanted]), &cluster(), &[], &[], &macs()).unwrap();
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
        let error = interfaces(&network, &cluster(), &[], &[], &macs())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut network = network(vec![net("net5")]);
        let error = interfaces(&network, &cluster(), &[], &[], &macs()).unwrap_err();
        assert_eq!(
            error,
            NetworkError::NoMac {
                device: "net5".into()
            }
        );
        network.zone = Some("west".into());
        let error = interfaces(&network, &cluster(), &[], &[], &macs()).unwrap_err();
        assert_eq!(
            error,
            NetworkError::UnknownZone {
                zone: "west".into()
            }
        );
        network.vrfs = vec![VrfDevice {
            name: "vrf-red".into(),
            ..VrfDevice::default()
        }];
        let spec = ProxmoxMachineSpec {
            network,
            ..ProxmoxMachineSpec::default()
        };
        assert_eq!(unsupported(&spec), ["spec.network.vrfs[name=vrf-red]"]);
    }
}
