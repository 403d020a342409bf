//! The network of a guest: what was configured, and where packets find a way.
//!
//! | file | what is read there |
//! |---|---|
//! | `netplan` | version 2 of cloud-init's network-config |
//! | `plain` | version 1 of it |
//! | `openstack` | `network_data.json` of a config drive |
//! | `networkd` | units of systemd-networkd |
//! | `keyfile` | connections of NetworkManager |

mod keyfile;
mod netplan;
mod networkd;
pub(super) mod openstack;
mod plain;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

pub(super) use self::keyfile::connections;
pub(super) use self::networkd::units;
use crate::guest::hardware::{Mac, Nic};

/// The table that packets take unless a rule says otherwise.
const MAIN: u32 = 254;
/// Where the kernel looks into the main table.
const MAIN_PRIORITY: u32 = 32_766;
/// Longest name of an interface, `IFNAMSIZ` without the final zero.
const NAME_BYTES_MAX: usize = 15;

/// The network as it was configured at boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) interfaces: Vec<Configured>,
    pub(super) vrfs: Vec<Vrf>,
    pub(super) routes: Vec<Route>,
    pub(super) rules: Vec<Rule>,
    /// What did not work, and was left out.
    pub(super) warnings: Vec<String>,
}

/// One configured card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configured {
    pub(super) name: String,
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpNet>,
    pub(super) mtu: Option<u32>,
    pub(super) name_servers: Vec<IpAddr>,
    /// The VRF that it is in.
    pub(super) vrf: Option<String>,
}

/// A device with a routing table, for the cards in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vrf {
    pub(super) name: String,
    pub(super) table: u32,
}

/// A route that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: IpNet,
    pub(super) via: Option<IpAddr>,
    pub(super) metric: Option<u32>,
    /// `None`: that of the device's VRF, or the main one.
    pub(super) table: Option<u32>,
    /// The card, or the VRF.
    pub(super) device: String,
}

/// A rule that chooses a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) to: Option<IpNet>,
    pub(super) from: Option<IpNet>,
    pub(super) table: u32,
    pub(super) priority: Option<u32>,
}

impl Configured {
    fn new(name: impl Into<String>, mac: Mac, addresses: Vec<IpNet>) -> Self {
        Self {
            name: name.into(),
            mac,
            addresses,
            mtu: None,
            name_servers: Vec::new(),
            vrf: None,
        }
    }

    fn has_link(&self, nics: &[Nic]) -> bool {
        nics.iter().any(|nic| nic.mac == self.mac && nic.link)
    }
}

impl Network {
    /// The addresses on cards with a link, in order.
    pub(super) fn usable(&self, nics: &[Nic]) -> Vec<IpNet> {
        self.interfaces
            .iter()
            .filter(|interface| interface.has_link(nics))
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect()
    }

    /// Whether packets of a program that is in no VRF have a way to this address.
    pub(super) fn reaches(&self, nics: &[Nic], address: IpAddr) -> bool {
        let covers = |net: &Option<IpNet>| net.is_none_or(|net| net.contains(&address));
        // A socket that is bound to nothing has no source address yet, which only a rule without
        // a source matches, or one for all of them.
        let chosen = self.rules.iter().filter(|rule| {
            let unbound = rule.from.is_none_or(|from| from.prefix_len() == 0);
            let same = |net: Option<IpNet>| {
                net.is_none_or(|net| net.addr().is_ipv4() == address.is_ipv4())
            };
            unbound && covers(&rule.to) && same(rule.from)
        });
        let before_main = chosen
            .filter(|rule| {
                rule.priority
                    .is_none_or(|priority| priority < MAIN_PRIORITY)
            })
            .map(|rule| rule.table);
        let mut tables = before_main.chain([MAIN]);
        tables.any(|table| self.leads(nics, table, address))
    }

    /// Whether a table has a way to this address.
    fn leads(&self, nics: &[Nic], table: u32, address: IpAddr) -> bool {
        let is_up = |name: &str| {
            let own = self.interfaces.iter();
            own.filter(|one| one.has_link(nics) && !one.addresses.is_empty())
                .any(|one| one.name == name || one.vrf.as_deref() == Some(name))
        };
        let connected = self.interfaces.iter().any(|one| {
            one.has_link(nics)
                && self.table_of(&one.name) == table
                && one.addresses.iter().any(|net| net.contains(&address))
        });
        connected
            || self.routes.iter().any(|route| {
                route.table == Some(table) && route.to.contains(&address) && is_up(&route.device)
            })
    }

    /// The table that routes of a card, or of a VRF, are in by default.
    fn table_of(&self, device: &str) -> u32 {
        let card = self.interfaces.iter().find(|one| one.name == device);
        let vrf = card.map_or(Some(device), |card| card.vrf.as_deref());
        let vrf = self.vrfs.iter().find(|one| Some(one.name.as_str()) == vrf);
        vrf.map_or(MAIN, |vrf| vrf.table)
    }

    /// What `ip` would show, a line each.
    pub(super) fn lines(&self, nics: &[Nic]) -> Vec<String> {
        let mut lines = Vec::new();
        for one in &self.interfaces {
            let mut line = format!("{} {}", one.name, one.mac);
            if one.addresses.is_empty() {
                line.push_str(" no address");
            }
            for address in &one.addresses {
                let _ = write!(line, " {address}");
            }
            if let Some(mtu) = one.mtu {
                let _ = write!(line, " mtu {mtu}");
            }
            for server in &one.name_servers {
                let _ = write!(line, " dns {server}");
            }
            if let Some(vrf) = &one.vrf {
                let _ = write!(line, " vrf {vrf}");
            }
            if !one.has_link(nics) {
                line.push_str(" NO-CARRIER");
            }
            lines.push(line);
        }
        lines.extend(
            self.vrfs
                .iter()
                .map(|vrf| format!("vrf {} table {}", vrf.name, vrf.table)),
        );
        lines.extend(self.routes.iter().map(Route::line));
        lines.extend(self.rules.iter().map(Rule::line));
        lines
    }

    /// Fills in what follows from the rest, and leaves out what a kernel would not take.
    ///
    /// Interfaces come in the order of the cards. The error is what the console shows.
    fn settled(mut self, nics: &[Nic]) -> Result<Self, String> {
        let place = |one: &Configured| nics.iter().position(|nic| nic.mac == one.mac);
        self.interfaces.sort_by_key(place);
        let mut seen = BTreeSet::new();
        for address in self.interfaces.iter().flat_map(|one| &one.addresses) {
            if !seen.insert(address.addr()) {
                return Err(format!("duplicate address {}", address.addr()));
            }
        }
        for route in std::mem::take(&mut self.routes) {
            let table = route.table.unwrap_or_else(|| self.table_of(&route.device));
            if self.is_on_link(&route) {
                self.routes.push(Route {
                    table: Some(table),
                    ..route
                });
            } else {
                self.warnings.push(format!(
                    "{}: could not set route: Nexthop has invalid gateway: {}",
                    route.device,
                    route.line()
                ));
            }
        }
        self.conflicts();
        Ok(self)
    }

    /// A gateway has to be a neighbour: on the route's own card, or on one in its VRF.
    fn is_on_link(&self, route: &Route) -> bool {
        let Some(via) = route.via else { return true };
        let link_local = matches!(via, IpAddr::V6(via) if via.is_unicast_link_local());
        let mut there = self.interfaces.iter().filter(|one| {
            one.name == route.device || one.vrf.as_deref() == Some(route.device.as_str())
        });
        link_local || there.any(|one| one.addresses.iter().any(|net| net.contains(&via)))
    }

    /// Two default routes of a family in one table with one metric.
    fn conflicts(&mut self) {
        let defaults: Vec<&Route> = self
            .routes
            .iter()
            .filter(|route| route.to.prefix_len() == 0)
            .collect();
        for (position, one) in defaults.iter().enumerate() {
            let twin = defaults[..position].iter().find(|other| {
                (other.to, other.table, other.metric) == (one.to, one.table, one.metric)
            });
            if let Some(twin) = twin {
                self.warnings.push(format!(
                    "conflicting default routes, first declared in {} but also in {}: {}",
                    twin.device,
                    one.device,
                    one.line()
                ));
            }
        }
    }

    fn push(&mut self, interface: Configured) -> Result<(), String> {
        let twice = |what: &str| format!("duplicate {what} in network-config");
        if self
            .interfaces
            .iter()
            .any(|other| other.mac == interface.mac)
        {
            return Err(twice(&format!("mac found: {}", interface.mac)));
        }
        if self
            .interfaces
            .iter()
            .any(|other| other.name == interface.name)
        {
            return Err(twice(&format!("interface name {:?}", interface.name)));
        }
        self.interfaces.push(interface);
        Ok(())
    }
}

impl Route {
    fn line(&self) -> String {
        let mut line = format!("route {}", self.to);
        if let Some(via) = self.via {
            let _ = write!(line, " via {via}");
        }
        let _ = write!(line, " dev {}", self.device);
        if let Some(metric) = self.metric {
            let _ = write!(line, " metric {metric}");
        }
        if let Some(table) = self.table.filter(|table| *table != MAIN) {
            let _ = write!(line, " table {table}");
        }
        line
    }
}

impl Rule {
    fn line(&self) -> String {
        let mut line = "rule".to_owned();
        if let Some(priority) = self.priority {
            let _ = write!(line, " {priority}:");
        }
        if let Some(from) = self.from {
            let _ = write!(line, " from {from}");
        }
        if let Some(to) = self.to {
            let _ = write!(line, " to {to}");
        }
        let _ = write!(line, " lookup {}", self.table);
        line
    }
}

/// The name that the kernel gives to a card: Proxmox's virtio slots start at 18.
pub(super) fn kernel_name(index: usize) -> String {
    format!("ens{}", 18 + index)
}

/// Without a configuration the system asks for DHCP on the first card with a link.
pub(super) fn fallback(nics: &[Nic]) -> Network {
    let mut network = Network::default();
    if let Some((index, nic)) = nics.iter().enumerate().find(|(_, nic)| nic.link) {
        let name = kernel_name(index);
        lease(&mut network, &name, nic);
        let addresses = nic.dhcp.into_iter().collect();
        network
            .interfaces
            .push(Configured::new(name, nic.mac, addresses));
    }
    network
}

/// The default route that comes with a lease.
fn lease(network: &mut Network, device: &str, nic: &Nic) {
    if let Some(lease) = nic.dhcp {
        network.routes.push(Route {
            to: any_of(lease.addr().is_ipv6()),
            via: None,
            metric: None,
            table: Some(MAIN),
            device: device.to_owned(),
        });
    }
}

/// Applies a network-config to the cards.
///
/// The error is what the console shows; then no card is configured, since neither cloud-init nor
/// netplan applies half a configuration.
pub(super) fn configure(config: &Value, nics: &[Nic]) -> Result<Network, String> {
    let config = config.get("network").unwrap_or(config);
    let network = match config.get("version").and_then(Value::as_u64) {
        Some(2) => netplan::read(config, nics)?,
        Some(1) => plain::read(config, nics)?,
        _ => return Err("network-config has no version 1 or 2".to_owned()),
    };
    network
        .settled(nics)
        .map_err(|why| format!("{why} in network-config"))
}

/// All addresses of a family.
fn any_of(is6: bool) -> IpNet {
    let any: IpAddr = if is6 {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    };
    IpNet::new_assert(any, 0)
}

/// A network, or an address as the network of itself.
fn network_of(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}

/// Why a name cannot be that of an interface.
fn bad_name(name: &str) -> Option<&'static str> {
    let bad = |letter: char| letter.is_whitespace() || "/:%".contains(letter);
    if name.is_empty() || name == "." || name == ".." {
        Some("is not a name")
    } else if name.len() > NAME_BYTES_MAX {
        Some("is longer than 15 letters")
    } else if name.chars().any(bad) {
        Some("has letters that no interface can have")
    } else if name.chars().all(|letter| letter.is_ascii_digit()) {
        Some("is a number")
    } else {
        None
    }
}

fn by_mac<'a>(text: &str, nics: &'a [Nic]) -> Result<(usize, &'a Nic), String> {
    let mac: Mac = text
        .parse()
        .map_err(|error| format!("network-config: {error}"))?;
    nics.iter()
        .enumerate()
        .find(|(_, nic)| nic.mac == mac)
        .ok_or_else(|| format!("Not all expected physical devices present: {{'{mac}'}}"))
}

/// A card by the kernel's name, its old-style name (`eth0`), or a trailing wildcard.
fn by_name<'a>(wanted: &str, nics: &'a [Nic]) -> Result<(usize, &'a Nic), String> {
    let fits = |name: String| match wanted.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == wanted,
    };
    nics.iter()
        .enumerate()
        .find(|(index, _)| fits(kernel_name(*index)) || fits(format!("eth{index}")))
        .ok_or_else(|| format!("Not all expected physical devices present: {{'{wanted}'}}"))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or(false) || value == "yes" || value == "on"
}

fn address_of(value: &Value) -> Result<IpNet, String> {
    // An address may be a mapping from itself to options.
    let text = value
        .as_str()
        .or_else(|| value.as_object()?.keys().next().map(String::as_str))
        .unwrap_or_default();
    if !text.contains('/') {
        return Err(format!(
            "Error in network definition: address '{text}' is missing /prefixlength"
        ));
    }
    text.parse().map_err(|_| {
        format!("Error in network definition: malformed address '{text}', must be X.X.X.X/NN or X:X:X:X:X:X:X:X/NN")
    })
}

#[cfg(test)]
mod tests;
