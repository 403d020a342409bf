//! Connections of NetworkManager, which ignores a file that it cannot read and says so.
//!
//! Source: nm-settings-keyfile(5).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Configured, MAIN, Network, Route, Rule, Vrf, bad_name, kernel_name, lease, network_of,
};
use crate::guest::hardware::{Mac, Nic};
use crate::guest::ini::{Section, sections};

/// Permissions with which others could read a file that may hold secrets.
const INSECURE: u32 = 0o077;

/// Applies the connections, by file name, to the cards. A card without one asks for DHCP.
pub(in crate::guest) fn connections(
    files: &BTreeMap<&str, (&str, u32)>,
    nics: &[Nic],
) -> Result<Network, String> {
    let mut network = Network::default();
    let mut cards = Vec::new();
    for (file, (text, permissions)) in files {
        if permissions & INSECURE != 0 {
            let why = format!("{file}: file permissions (0{permissions:o}) are insecure, ignoring");
            network.warnings.push(why);
            continue;
        }
        match connection(&sections(text), nics) {
            Ok(Connection::Vrf(vrf, own)) => {
                network.vrfs.push(vrf);
                network.routes.extend(own.routes);
                network.rules.extend(own.rules);
            }
            Ok(Connection::Card(card, own)) => {
                cards.push(card);
                network.routes.extend(own.routes);
                network.rules.extend(own.rules);
            }
            Err(why) => network.warnings.push(format!("{file}: {why}, ignoring")),
        }
    }
    for card in cards {
        let vrf = card.vrf.as_deref();
        if let Some(vrf) = vrf.filter(|vrf| network.vrfs.iter().all(|one| one.name != **vrf)) {
            return Err(format!("{}: controller {vrf} is not there", card.name));
        }
        network.push(card)?;
    }
    for (index, nic) in nics.iter().enumerate() {
        if network.interfaces.iter().all(|card| card.mac != nic.mac) {
            let name = kernel_name(index);
            lease(&mut network, &name, nic);
            let addresses = nic.dhcp.into_iter().collect();
            network.push(Configured::new(name, nic.mac, addresses))?;
        }
    }
    network.settled(nics)
}

enum Connection {
    Card(Configured, Paths),
    Vrf(Vrf, Paths),
}

/// Routes and rules of a connection.
#[derive(Default)]
struct Paths {
    routes: Vec<Route>,
    rules: Vec<Rule>,
}

fn connection(file: &[Section<'_>], nics: &[Nic]) -> Result<Connection, String> {
    let empty = Section::default();
    let section = |name: &str| file.iter().find(|one| one.name == name).unwrap_or(&empty);
    let own = section("connection");
    match own.get("type") {
        Some("ethernet") => {
            let text = section("ethernet").get("mac-address").unwrap_or_default();
            let mac: Mac = text
                .parse()
                .map_err(|error| format!("ethernet.mac-address: {error}"))?;
            let found = nics.iter().position(|nic| nic.mac == mac);
            let index = found.ok_or_else(|| format!("no device has the address {mac}"))?;
            let mut card = Configured::new(kernel_name(index), mac, Vec::new());
            if let Some(text) = section("ethernet").get("mtu") {
                let mtu = text
                    .parse()
                    .map_err(|_| format!("ethernet.mtu: {text:?}"))?;
                card.mtu = Some(mtu);
            }
            if own.get("slave-type").or(own.get("port-type")) == Some("vrf") {
                let vrf = own.get("master").or(own.get("controller"));
                card.vrf = vrf.map(str::to_owned);
            }
            let paths = families(&mut card, section("ipv4"), section("ipv6"))?;
            Ok(Connection::Card(card, paths))
        }
        Some("vrf") => {
            let name = own.get("interface-name").unwrap_or_default();
            if let Some(why) = bad_name(name) {
                return Err(format!("connection.interface-name {why}"));
            }
            let table = section("vrf")
                .get("table")
                .and_then(|text| text.parse().ok());
            let table = table.ok_or_else(|| "vrf.table: property is missing".to_owned())?;
            let mut device = Configured::new(name, Mac([0; 6]), Vec::new());
            let paths = families(&mut device, section("ipv4"), section("ipv6"))?;
            let name = name.to_owned();
            Ok(Connection::Vrf(Vrf { name, table }, paths))
        }
        other => Err(format!(
            "the simulated guest does not know connections of type {}",
            other.unwrap_or_default()
        )),
    }
}

fn families(card: &mut Configured, v4: &Section<'_>, v6: &Section<'_>) -> Result<Paths, String> {
    let mut paths = Paths::default();
    for (section, is6) in [(v4, false), (v6, true)] {
        let method = section.get("method").unwrap_or("auto");
        let known = ["manual", "disabled", "ignore", "link-local"];
        if !known.contains(&method) {
            return Err(format!(
                "the simulated guest does not know {}.method={method}",
                section.name
            ));
        }
        let mut numbered: BTreeMap<String, Route> = BTreeMap::new();
        for (key, text) in &section.lines {
            let wrong = || format!("{}.{key}: {text:?} is not valid", section.name);
            let right = |is_v6: bool| is_v6 == is6;
            let letters = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
            match letters {
                "address" => {
                    let address: IpNet = text.parse().map_err(|_| wrong())?;
                    if !right(address.addr().is_ipv6()) {
                        return Err(wrong());
                    }
                    card.addresses.push(address);
                }
                "dns" => {
                    for server in text.split(';').filter(|server| !server.is_empty()) {
                        let server: IpAddr = server.parse().map_err(|_| wrong())?;
                        card.name_servers.push(server);
                    }
                }
                "route" => {
                    let route =
                        route(text, &card.name).filter(|route| right(route.to.addr().is_ipv6()));
                    numbered.insert((*key).to_owned(), route.ok_or_else(wrong)?);
                }
                "routing-rule" => {
                    let rule = rule(text).filter(|rule| {
                        let mut sides = [rule.to, rule.from].into_iter().flatten();
                        sides.all(|side| right(side.addr().is_ipv6()))
                    });
                    paths.rules.push(rule.ok_or_else(wrong)?);
                }
                _ => {}
            }
            if let Some(route) = key.strip_suffix("_options")
                && let (Some(route), Some(table)) =
                    (numbered.get_mut(route), text.strip_prefix("table="))
            {
                route.table = Some(table.parse().map_err(|_| wrong())?);
            }
        }
        if method == "manual" && card.addresses.iter().all(|one| one.addr().is_ipv6() != is6) {
            return Err(format!(
                "{}.addresses: this property cannot be empty",
                section.name
            ));
        }
        paths.routes.extend(numbered.into_values());
    }
    Ok(paths)
}

/// `to[,via[,metric]]`; `0.0.0.0` and `::` stand for no gateway.
fn route(text: &str, device: &str) -> Option<Route> {
    let mut parts = text.split(',');
    let to = network_of(parts.next()?)?;
    let via = match parts.next().filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse::<IpAddr>().ok()?).filter(|via| !via.is_unspecified()),
        None => None,
    };
    let metric = match parts.next() {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    Some(Route {
        to,
        via,
        metric,
        table: None,
        device: device.to_owned(),
    })
}

/// `priority N [from NET] [to NET] [table N]`; the priority is needed.
fn rule(text: &str) -> Option<Rule> {
    let mut rule = Rule {
        to: None,
        from: None,
        table: MAIN,
        priority: None,
    };
    let mut words = text.split_whitespace();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "priority" => rule.priority = Some(value.parse().ok()?),
            "from" => rule.from = Some(network_of(value)?),
            "to" => rule.to = Some(network_of(value)?),
            "table" => rule.table = value.parse().ok()?,
            _ => return None,
        }
    }
    rule.priority.is_some().then_some(rule)
}
