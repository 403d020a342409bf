//! Network devices: what the spec asks for, on the hypervisor and in the guest.
//!
//! On the hypervisor a device is a line of the configuration ([`device`]); what the spec leaves
//! out stays as the template has it, above all the MAC address. In the guest it is an interface
//! with addresses, routes and name servers ([`guest`]), matched by that MAC address, from which
//! [`seed`](crate::seed) renders the network configuration.
//!
//! | file | what it holds |
//! |---|---|
//! | `check` | what the schema cannot say |
//! | `route` | routes and rules of devices |
//! | `vrf` | VRFs with their routes and rules |

mod check;
mod route;
mod vrf;

use std::collections::BTreeMap;
use std::net::IpAddr;

use capi_contract::{Address, AddressRequest};

pub use check::check;

use crate::api::{NetworkDevice, NetworkSpec, ProxmoxClusterSpec, VrfDevice, ZoneNetwork};
use crate::pool::{self, Family};
use crate::property::NetDevice;

/// Distance between the metrics of default routes, so that no two of a family are equal.
const METRIC_STEP: u32 = 100;

/// MTU value that means "as the bridge has it", and therefore nothing to the guest.
const MTU_INHERIT: i64 = 1;

/// The smallest MTU of a link with IPv6 (RFC 8200, section 5).
const MTU_MIN_V6: u32 = 1280;

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
    /// A number that the guest's kernel does not take.
    #[error("configure the network: {field} is {value}; it must be between {first} and {last}")]
    OutOfRange {
        /// Path of the field.
        field: String,
        /// Its value.
        value: i64,
        /// The smallest possible value.
        first: u32,
        /// The largest possible value.
        last: u32,
    },
    /// A field that has an effect on virtio devices only.
    #[error(
        "configure the network: {field} has an effect on virtio devices only, and this one is \
         {model}; set model to virtio, or leave the field out"
    )]
    VirtioOnly {
        /// Path of the field.
        field: String,
        /// The model of the device.
        model: &'static str,
    },
    /// The guest would send larger packets than the device takes.
    #[error(
        "configure the network: {field} is {link}, more than the device's mtu of {device}; lower \
         it, or raise mtu"
    )]
    LinkAboveDevice {
        /// Path of `linkMtu`.
        field: String,
        /// Its value.
        link: i64,
        /// The value of `mtu`.
        device: i64,
    },
    /// A kernel has no IPv6 on a link with so small packets (RFC 8200, section 5).
    #[error(
        "configure the network: {device} gets an IPv6 address, and its MTU is {mtu}; IPv6 needs \
         1280 at least"
    )]
    TooSmallForV6 {
        /// Name of the device.
        device: String,
        /// Its MTU.
        mtu: u32,
    },
    /// A default pool that the zone does not have.
    #[error(
        "configure the network: networkDevices[name={device}].{field} asks for an address, and \
         zone {zone} of the cluster has no {config}; add it there, or leave the field out"
    )]
    NoPool {
        /// Name of the device.
        device: String,
        /// `defaultIPv4` or `defaultIPv6`.
        field: &'static str,
        /// `ipv4Config` or `ipv6Config`.
        config: &'static str,
        /// The zone.
        zone: String,
    },
    /// A route or rule between families.
    #[error("configure the network: {field} mixes IPv4 and IPv6; make its addresses and is6 agree")]
    MixedFamilies {
        /// Path of the route or rule.
        field: String,
    },
    /// A rule that matches everything and nothing.
    #[error("configure the network: {field} has neither to nor from; set one of them")]
    MatchesNothing {
        /// Path of the rule.
        field: String,
    },
    /// A rule that does not say which table it chooses.
    #[error("configure the network: {field} names no table; set the one that the rule chooses")]
    NoTable {
        /// Path of the rule.
        field: String,
    },
    /// A route or rule of a VRF that leads elsewhere.
    #[error(
        "configure the network: {field} names table {table}, and the VRF has table {own}; leave \
         it out, or name the VRF's"
    )]
    OtherTable {
        /// Path of the route or rule.
        field: String,
        /// Its table.
        table: u32,
        /// The table of the VRF.
        own: u32,
    },
    /// A name that the guest's kernel does not take, or that is taken.
    #[error("configure the network: vrfs[name={name}].name {problem}")]
    VrfName {
        /// The name.
        name: String,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// Two VRFs with one table.
    #[error(
        "configure the network: vrfs[name={second}].table is that of {first}, too; each VRF needs \
         a table of its own"
    )]
    SharedTable {
        /// Name of a VRF.
        first: String,
        /// Name of another.
        second: String,
    },
    /// A VRF names a device that is not there.
    #[error(
        "configure the network: vrfs[name={vrf}].interfaces names {device}, which is not among \
         networkDevices"
    )]
    NoSuchDevice {
        /// Name of the VRF.
        vrf: String,
        /// What it names.
        device: String,
    },
    /// Routes of a VRF that no device leads to.
    #[error(
        "configure the network: vrfs[name={vrf}] has routes and no interfaces; name the network \
         devices that belong to it"
    )]
    EmptyVrf {
        /// Name of the VRF.
        vrf: String,
    },
    /// A device in two VRFs.
    #[error(
        "configure the network: {device} is in vrfs[name={first}].interfaces and in \
         vrfs[name={second}].interfaces; a device is in one VRF at most"
    )]
    InTwoVrfs {
        /// Name of the device.
        device: String,
        /// Name of a VRF.
        first: String,
        /// Name of another, or the same again.
        second: String,
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

/// All that the guest sets up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuestNetwork {
    /// Its interfaces, in the order of the spec.
    pub interfaces: Vec<Interface>,
    /// Its VRFs, in the order of the spec.
    pub vrfs: Vec<Vrf>,
    /// The addresses of the default pools, with the length of their prefix: those that the Node
    /// is known by.
    pub node_addresses: Vec<(IpAddr, u8)>,
}

/// A VRF of the guest: a routing table for the interfaces in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vrf {
    /// Name in the guest.
    pub name: String,
    /// Its routing table.
    pub table: u32,
    /// Names of its interfaces in the guest.
    pub interfaces: Vec<String>,
    /// Routes in its table.
    pub routes: Vec<GuestRoute>,
    /// Rules that choose its table.
    pub rules: Vec<GuestRule>,
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
    /// The VRF that it is in.
    pub vrf: Option<String>,
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

/// What the guest is to set up.
///
/// `requests` are the machine's [`pool::requests`] and `addresses` what was given for them; `macs`
/// maps device names to the MAC addresses of the virtual machine. Each address with a gateway
/// brings a default route: that of the cluster's or zone's own pool with the metric that the
/// pool's configuration names, those of further pools behind it. Routes of a device in a VRF are
/// in the VRF's table, unless they name another.
///
/// # Errors
///
/// If the zone is unknown, a device is not on the virtual machine, or something does not say what
/// it means ([`check`] finds the latter before there is a virtual machine).
pub fn guest(
    network: &NetworkSpec,
    cluster: &ProxmoxClusterSpec,
    requests: &[AddressRequest],
    addresses: &[Address],
    macs: &BTreeMap<String, String>,
) -> Result<GuestNetwork, NetworkError> {
    let zone = zone(network, cluster)?;
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
        let vrf = vrf_of(network, &wanted.name);
        let table = vrf
            .map(|vrf| vrf::table(vrf, &vrf::path(vrf)))
            .transpose()?;
        let mut routes = default_routes(&here, table, &mut metrics);
        routes.extend(route::of_device(wanted, table)?);
        interfaces.push(Interface {
            name: guest_name(&wanted.name),
            mac: mac.to_ascii_lowercase(),
            addresses: here
                .iter()
                .map(|address| (address.ip, address.prefix))
                .collect(),
            mtu: mtu(wanted, &here)?,
            name_servers: name_servers(wanted, &zone)?,
            vrf: vrf.map(|vrf| vrf.name.clone()),
            routes,
            rules: route::rules_of_device(wanted)?,
        });
    }
    let vrfs = network
        .vrfs
        .iter()
        .map(vrf::vrf)
        .collect::<Result<_, _>>()?;
    let defaults = addresses
        .iter()
        .filter(|address| metrics.is_of_default_pool(address));
    let node_addresses = defaults
        .map(|address| (address.ip, address.prefix))
        .collect();
    Ok(GuestNetwork {
        interfaces,
        vrfs,
        node_addresses,
    })
}

/// What a device is called in the guest.
fn guest_name(device: &str) -> String {
    device.replacen("net", "eth", 1)
}

fn zone<'a>(
    network: &NetworkSpec,
    cluster: &'a ProxmoxClusterSpec,
) -> Result<ZoneNetwork<'a>, NetworkError> {
    let unknown = || NetworkError::UnknownZone {
        zone: network.zone().to_owned(),
    };
    cluster.zone(network.zone()).ok_or_else(unknown)
}

/// The VRF that a device is in.
fn vrf_of<'a>(network: &'a NetworkSpec, device: &str) -> Option<&'a VrfDevice> {
    let has = |vrf: &&VrfDevice| vrf.interfaces.iter().any(|name| name == device);
    network.vrfs.iter().find(has)
}

/// The MTU that the guest sets, if any.
fn mtu(wanted: &NetworkDevice, addresses: &[&Address]) -> Result<Option<u32>, NetworkError> {
    let field = format!("networkDevices[name={}].linkMtu", wanted.name);
    let of = |mtu: Option<i64>| number(mtu.filter(|mtu| *mtu != MTU_INHERIT), &field, 1);
    let link = of(wanted.link_mtu)?;
    let effective = link.or(of(wanted.mtu)?);
    let has_v6 = addresses.iter().any(|address| address.ip.is_ipv6());
    match effective {
        Some(mtu) if has_v6 && mtu < MTU_MIN_V6 => Err(NetworkError::TooSmallForV6 {
            device: wanted.name.clone(),
            mtu,
        }),
        Some(_) | None => Ok(link),
    }
}

/// The name servers of a device; a name among them would make the guest refuse everything.
fn name_servers(
    wanted: &NetworkDevice,
    zone: &ZoneNetwork<'_>,
) -> Result<Vec<String>, NetworkError> {
    for (position, server) in wanted.dns_servers.iter().enumerate() {
        let device = &wanted.name;
        let field = format!("networkDevices[name={device}].dnsServers[{position}]");
        route::address(server, &field)?;
    }
    let servers = if wanted.dns_servers.is_empty() {
        zone.dns_servers
    } else {
        &wanted.dns_servers
    };
    Ok(servers.to_vec())
}

/// A number of the spec as the guest's kernel counts: 32 bits without sign.
fn number(value: Option<i64>, field: &str, first: u32) -> Result<Option<u32>, NetworkError> {
    let narrow = |value: i64| {
        let narrow = u32::try_from(value).ok().filter(|narrow| *narrow >= first);
        narrow.ok_or_else(|| NetworkError::OutOfRange {
            field: field.to_owned(),
            value,
            first,
            last: u32::MAX,
        })
    };
    value.map(narrow).transpose()
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
            // What does not fit is refused with the cluster, before it has machines.
            let metric = u32::try_from(config.metric).unwrap_or(METRIC_STEP);
            Some((family, metric))
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

/// A default route through the gateway of each address, once per gateway.
fn default_routes(
    addresses: &[&Address],
    table: Option<u32>,
    metrics: &mut Metrics<'_>,
) -> Vec<GuestRoute> {
    let mut routes: Vec<GuestRoute> = Vec::new();
    for address in addresses {
        let Some(gateway) = address.gateway else {
            continue;
        };
        let via = Some(gateway.to_string());
        if routes.iter().any(|route| route.via == via) {
            continue;
        }
        routes.push(GuestRoute {
            to: route::any_of(gateway.is_ipv6()).to_owned(),
            via,
            metric: Some(metrics.next(address)),
            table,
        });
    }
    routes
}

#[cfg(test)]
mod tests;
