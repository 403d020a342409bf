//! Static addresses of a machine's networks. Pure.
//!
//! `spec.networkInterfaces` names networks of the VM's template and the IPAM pools that their addresses
//! come from. Per pool there is an address claim ([`requests`]); what it gives is written into the
//! network data of the guest ([`data`]), which finds its cards by their MAC addresses. So those are
//! chosen here ([`cards`]) unless the template gives them.
//!
//! Network data replace what the guest would do by itself, so they speak of the network of the pod, too,
//! which keeps to DHCP. Further networks without pools stay unconfigured, as they were.
//!
//! | the guest finds them | written as |
//! |---|---|
//! | on a NoCloud disk | version 2 of cloud-init's network configuration |
//! | on a config drive | OpenStack's `network_data.json` |

use std::collections::BTreeSet;
use std::net::IpAddr;

use capi_contract::{Address, AddressRequest, Mark, Proof};
use serde_json::{Map, Value, json};

use crate::api::{BootstrapDataSource, KubevirtMachine, NetworkInterface};

/// Where the template describes the instance.
const TEMPLATE: &str = "spec.virtualMachineTemplate.spec.template.spec";

/// A card of the virtual machine that the network data speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Name of its network and interface in the template.
    pub name: String,
    /// Name in the guest: a renderer may know it by its name only, and then has to give it.
    device: String,
    /// Its address, as the VM and the guest have it.
    pub mac: String,
    /// Whether it has the addresses of its pools, and not those of a DHCP server.
    is_static: bool,
}

/// Name of the claim of an interface for its pool number `pool`.
#[must_use]
pub fn claim_name(machine: &str, interface: &str, pool: usize) -> String {
    format!("{machine}-{interface}-{pool:02}")
}

/// The address claims of a machine, in the order of its interfaces and their pools.
#[must_use]
pub fn requests(object: &KubevirtMachine) -> Vec<AddressRequest> {
    let machine = object.metadata.name.as_deref().unwrap_or_default();
    let interfaces = object.spec.network_interfaces.iter();
    let all = interfaces.flat_map(|interface| {
        let pools = interface.addresses_from_pools.iter().enumerate();
        pools.map(move |(at, pool)| {
            let name = claim_name(machine, &interface.name, at);
            AddressRequest::new(name, &interface.name, pool.reference())
        })
    });
    all.collect()
}

/// The instance that the template describes.
fn instance(object: &KubevirtMachine) -> Option<&Map<String, Value>> {
    let spec = &object.spec.virtual_machine_template.spec;
    spec.get("template")?.get("spec")?.as_object()
}

fn networks(object: &KubevirtMachine) -> &[Value] {
    let list = instance(object).and_then(|instance| instance.get("networks")?.as_array());
    list.map_or(&[], Vec::as_slice)
}

fn interfaces(object: &KubevirtMachine) -> &[Value] {
    let list = instance(object).and_then(|instance| {
        let devices = instance.get("domain")?.get("devices")?;
        devices.get("interfaces")?.as_array()
    });
    list.map_or(&[], Vec::as_slice)
}

/// Whether a network is the one that every pod has: it comes with an address.
fn is_of_pod(network: &Value) -> bool {
    network["pod"].is_object() || network["multus"]["default"] == true
}

fn wish<'a>(object: &'a KubevirtMachine, name: &str) -> Option<&'a NetworkInterface> {
    let mut wishes = object.spec.network_interfaces.iter();
    wishes.find(|wish| wish.name == name)
}

/// What of `spec.networkInterfaces` cannot be done, with what to do about it.
#[must_use]
pub fn faults(object: &KubevirtMachine) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    let named = |all: &[Value], name: &str| all.iter().any(|one| one["name"] == name);
    for (at, wish) in object.spec.network_interfaces.iter().enumerate() {
        let (field, name) = (format!("spec.networkInterfaces[{at}]"), &wish.name);
        for (list, place) in [
            (networks(object), "networks"),
            (interfaces(object), "domain.devices.interfaces"),
        ] {
            if !named(list, name) {
                faults.push(format!(
                    "{field}.name is {name}, which {TEMPLATE}.{place} does not have: add it there, or \
                     correct the name"
                ));
            }
        }
        if !seen.insert(name) {
            faults.push(format!(
                "{field}.name is {name} a second time: put all its pools into one entry"
            ));
        }
        for (pool, reference) in wish.addresses_from_pools.iter().enumerate() {
            for (part, text) in [("kind", &reference.kind), ("name", &reference.name)] {
                if text.is_empty() {
                    faults.push(format!(
                        "{field}.addressesFromPools[{pool}].{part} is empty: name the pool"
                    ));
                }
            }
        }
        for server in &wish.nameservers {
            if server.parse::<IpAddr>().is_err() {
                faults.push(format!(
                    "{field}.nameservers has {server}, which is no address"
                ));
            }
        }
    }
    let defaults = object.spec.network_interfaces.iter();
    if defaults.filter(|wish| is_default(object, wish)).count() > 1 {
        faults.push(
            "spec.networkInterfaces has more than one entry with the default route: set defaultRoute \
             to false in all but one"
                .to_owned(),
        );
    }
    faults
}

/// Whether the guest's default routes lead through this interface.
fn is_default(object: &KubevirtMachine, wish: &NetworkInterface) -> bool {
    let first = networks(object).first();
    let is_first = first.is_some_and(|network| network["name"] == wish.name.as_str());
    wish.default_route.unwrap_or(is_first)
}

/// The cards that the network data speak of, in the order of the template's interfaces; none for a
/// machine whose guest configures its network by itself.
#[must_use]
pub fn cards(object: &KubevirtMachine, mark: &Mark) -> Vec<Card> {
    if object.spec.network_interfaces.is_empty() {
        return Vec::new();
    }
    let all = interfaces(object).iter().enumerate();
    let all = all.filter_map(|(at, interface)| {
        let name = interface["name"].as_str()?;
        let network = networks(object).iter().find(|one| one["name"] == name)?;
        let is_static = wish(object, name).is_some();
        if !is_static && !is_of_pod(network) {
            return None;
        }
        let given = interface["macAddress"].as_str();
        let given = given.map(|mac| mac.replace('-', ":").to_ascii_lowercase());
        Some(Card {
            name: name.to_owned(),
            device: format!("eth{at}"),
            mac: given.unwrap_or_else(|| mac(mark, at)),
            is_static,
        })
    });
    all.collect()
}

/// A locally administered address (IEEE 802, second bit of the first octet) of 40 bits of the claim's
/// token, so that no two machines of a network have the same: with 1,000 machines the odds are one to
/// two millions.
fn mac(mark: &Mark, interface: usize) -> String {
    let digits = match &mark.proof {
        Proof::Made { token } => token.as_str(),
        Proof::Adopted { id } => id.as_str(),
    };
    let octet = |at: usize| {
        let digits = digits.get(2 * at..2 * at + 2).unwrap_or_default();
        u8::from_str_radix(digits, 16).unwrap_or_default()
    };
    // Interfaces of one machine differ in the last octet; there are never 256.
    let last = octet(4) ^ u8::try_from(interface).unwrap_or(u8::MAX);
    format!(
        "02:{:02x}:{:02x}:{:02x}:{:02x}:{last:02x}",
        octet(0),
        octet(1),
        octet(2),
        octet(3)
    )
}

/// The network data of the guest; none for a guest that configures its network by itself.
///
/// `addresses` are those that the [`requests`] gave.
#[must_use]
pub fn data(object: &KubevirtMachine, mark: &Mark, addresses: &[Address]) -> Option<String> {
    let cards = cards(object, mark);
    if cards.is_empty() {
        return None;
    }
    let source = object.spec.bootstrap_data_source.unwrap_or_default();
    let data = match source {
        // JSON is YAML.
        BootstrapDataSource::NoCloud => version_2(object, &cards, addresses),
        BootstrapDataSource::ConfigDrive => openstack(object, &cards, addresses),
    };
    Some(data.to_string())
}

/// The addresses of one card.
fn of<'a>(card: &'a Card, addresses: &'a [Address]) -> impl Iterator<Item = &'a Address> {
    addresses.iter().filter(|one| one.device == card.name)
}

/// Where the default routes lead: to the first gateway of each family.
fn gateways(object: &KubevirtMachine, card: &Card, addresses: &[Address]) -> Vec<IpAddr> {
    if !wish(object, &card.name).is_some_and(|wish| is_default(object, wish)) {
        return Vec::new();
    }
    let mut families = BTreeSet::new();
    let all = of(card, addresses).filter_map(|address| address.gateway);
    all.filter(|gateway| families.insert(gateway.is_ipv4()))
        .collect()
}

/// Version 2 of cloud-init's network configuration.
fn version_2(object: &KubevirtMachine, cards: &[Card], addresses: &[Address]) -> Value {
    let mut ethernets = Map::new();
    for card in cards {
        let mut entry = json!({
            "match": {"macaddress": card.mac},
            "set-name": card.device,
            "dhcp4": !card.is_static,
            "dhcp6": !card.is_static,
        });
        if let Some(wish) = wish(object, &card.name) {
            let own = of(card, addresses).map(|one| format!("{}/{}", one.ip, one.prefix));
            entry["addresses"] = own.collect();
            let routes = gateways(object, card, addresses).into_iter();
            // Every renderer knows these, and not all know "default".
            let routes = routes.map(|via| json!({"to": any(via), "via": via}));
            let routes: Vec<_> = routes.collect();
            if !routes.is_empty() {
                entry["routes"] = routes.into();
            }
            let mut names = Map::new();
            for (key, list) in [
                ("addresses", &wish.nameservers),
                ("search", &wish.search_domains),
            ] {
                if !list.is_empty() {
                    names.insert(key.to_owned(), json!(list));
                }
            }
            if !names.is_empty() {
                entry["nameservers"] = names.into();
            }
        }
        ethernets.insert(card.device.clone(), entry);
    }
    json!({"version": 2, "ethernets": ethernets})
}

/// The network of all addresses of a family.
fn any(of: IpAddr) -> &'static str {
    if of.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
}

/// OpenStack's network metadata.
fn openstack(object: &KubevirtMachine, cards: &[Card], addresses: &[Address]) -> Value {
    let (mut links, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for card in cards {
        let link = &card.name;
        links.push(json!({"id": link, "type": "phy", "ethernet_mac_address": card.mac}));
        let Some(wish) = wish(object, &card.name) else {
            for kind in ["ipv4_dhcp", "ipv6_dhcp"] {
                networks.push(json!({"id": format!("{link}-{kind}"), "link": link, "type": kind}));
            }
            continue;
        };
        let gateways = gateways(object, card, addresses);
        for (at, address) in of(card, addresses).enumerate() {
            let is_v4 = address.ip.is_ipv4();
            let mut network = json!({
                "id": format!("{link}-{at}"), "link": link,
                "type": if is_v4 { "ipv4" } else { "ipv6" },
                "ip_address": address.ip, "netmask": netmask(address),
            });
            let gateway = address.gateway.filter(|one| gateways.contains(one));
            let is_first = |gateway: &IpAddr| {
                let mut same = of(card, addresses).filter(|one| one.gateway == Some(*gateway));
                same.next().is_some_and(|one| one.claim == address.claim)
            };
            if let Some(gateway) = gateway.filter(is_first) {
                let none = if is_v4 { "0.0.0.0" } else { "::" };
                network["routes"] = json!([{"network": none, "netmask": none, "gateway": gateway}]);
            }
            if !wish.search_domains.is_empty() {
                network["dns_search"] = json!(wish.search_domains);
            }
            networks.push(network);
        }
        let servers = wish.nameservers.iter();
        services.extend(servers.map(|address| json!({"type": "dns", "address": address})));
    }
    json!({"links": links, "networks": networks, "services": services})
}

fn netmask(address: &Address) -> IpAddr {
    let prefix = u32::from(address.prefix);
    match address.ip {
        IpAddr::V4(_) => {
            let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
            IpAddr::V4((!host).into())
        }
        IpAddr::V6(_) => {
            let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
            IpAddr::V6((!host).into())
        }
    }
}

#[cfg(test)]
mod tests;
