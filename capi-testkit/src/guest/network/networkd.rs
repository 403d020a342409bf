//! Units of systemd-networkd, which warns of what it cannot read and goes on without it.
//!
//! Source: systemd.network(5), systemd.netdev(5).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Configured, MAIN, Network, Route, Rule, Vrf, any_of, bad_name, kernel_name, lease, network_of,
};
use crate::guest::hardware::{Mac, Nic};
use crate::guest::ini::{Section, sections};

/// Applies the units, by file name, to the cards. The first `.network` that matches a card counts;
/// a card that none matches asks for DHCP, as the distribution's own unit says.
pub(in crate::guest) fn units(
    files: &BTreeMap<&str, &str>,
    nics: &[Nic],
) -> Result<Network, String> {
    let mut network = Network::default();
    let of_kind = |kind: &'static str| {
        let named = files.iter().filter(move |(name, _)| name.ends_with(kind));
        named.map(|(name, text)| (*name, sections(text)))
    };
    for (name, unit) in of_kind(".netdev") {
        netdev(&mut network, name, &unit);
    }
    let units: Vec<_> = of_kind(".network").collect();
    for (index, nic) in nics.iter().enumerate() {
        let card = kernel_name(index);
        let found = units
            .iter()
            .find(|(_, unit)| matches(unit, &card, Some(nic.mac)));
        match found {
            Some((name, unit)) => apply(&mut network, name, unit, &card, Some(nic))?,
            None => {
                lease(&mut network, &card, nic);
                let addresses = nic.dhcp.into_iter().collect();
                network.push(Configured::new(card, nic.mac, addresses))?;
            }
        }
    }
    for vrf in network.vrfs.clone() {
        let found = units
            .iter()
            .find(|(_, unit)| matches(unit, &vrf.name, None));
        if let Some((name, unit)) = found {
            apply(&mut network, name, unit, &vrf.name, None)?;
        }
    }
    network.settled(nics)
}

fn netdev(network: &mut Network, name: &str, unit: &[Section<'_>]) {
    let get = |section: &str, key: &str| {
        let found = unit.iter().find(|one| one.name == section)?;
        found.get(key)
    };
    let device = get("NetDev", "Name").unwrap_or_default();
    let table = get("VRF", "Table").and_then(|text| text.parse().ok());
    let why = match (get("NetDev", "Kind"), bad_name(device), table) {
        (Some("vrf"), None, Some(table)) => {
            network.vrfs.push(Vrf {
                name: device.to_owned(),
                table,
            });
            return;
        }
        (Some("vrf"), Some(why), _) => format!("Name= {why}"),
        (Some("vrf"), None, None) => "VRF without Table=".to_owned(),
        (kind, _, _) => format!(
            "the simulated guest does not know Kind={}",
            kind.unwrap_or_default()
        ),
    };
    network.warnings.push(format!("{name}: {why}, ignoring"));
}

fn matches(unit: &[Section<'_>], device: &str, mac: Option<Mac>) -> bool {
    let Some(section) = unit.iter().find(|section| section.name == "Match") else {
        return false;
    };
    let by_mac = section.get("MACAddress").map(|text| {
        let mut wanted = text.split_whitespace();
        wanted.any(|text| text.parse().ok() == mac)
    });
    let by_name = section.get("Name").map(|text| {
        let mut wanted = text.split_whitespace();
        wanted.any(|text| match text.strip_suffix('*') {
            Some(start) => device.starts_with(start),
            None => device == text,
        })
    });
    let all = [by_mac, by_name];
    all.iter().any(Option::is_some) && all.into_iter().flatten().all(|fits| fits)
}

/// Reads the sections of a `.network` for a card, or for a VRF.
fn apply(
    network: &mut Network,
    file: &str,
    unit: &[Section<'_>],
    device: &str,
    nic: Option<&Nic>,
) -> Result<(), String> {
    let mut reader = Reader {
        file,
        warnings: Vec::new(),
    };
    let mac = nic.map_or(Mac([0; 6]), |nic| nic.mac);
    let mut card = Configured::new(device, mac, Vec::new());
    for section in unit {
        match section.name {
            "Match" => {}
            "Link" => reader.link(section, &mut card),
            "Network" => {
                if reader.network(section, &mut card, network)
                    && let Some(nic) = nic
                {
                    card.addresses.extend(nic.dhcp);
                    lease(network, device, nic);
                }
            }
            "Address" => {
                let address = reader.value(section, "Address", parse::<IpNet>);
                card.addresses.extend(address);
            }
            "Route" => network.routes.extend(reader.route(section, device)),
            "RoutingPolicyRule" => network.rules.extend(reader.rule(section)),
            other => reader.warn(&format!("Unknown section '{other}'")),
        }
    }
    network.warnings.append(&mut reader.warnings);
    let known = |vrf: &String| network.vrfs.iter().any(|one| one.name == *vrf);
    if let Some(vrf) = card.vrf.take_if(|vrf| !known(vrf)) {
        network
            .warnings
            .push(format!("{file}: VRF {vrf} is not there, ignoring"));
    }
    match nic {
        Some(_) => network.push(card),
        None => Ok(()),
    }
}

/// Reads sections, and collects what is wrong with them.
struct Reader<'a> {
    file: &'a str,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn warn(&mut self, why: &str) {
        self.warnings
            .push(format!("{}: {why}, ignoring", self.file));
    }

    fn unknown(&mut self, section: &Section<'_>, keys: &[&str]) {
        for (key, _) in &section.lines {
            if !keys.contains(key) {
                self.warn(&format!(
                    "Unknown key '{key}' in section [{}]",
                    section.name
                ));
            }
        }
    }

    fn value<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = section.get(key)?;
        let value = read(text);
        if value.is_none() {
            self.warn(&format!("Failed to parse {key}={text}"));
        }
        value
    }

    fn link(&mut self, section: &Section<'_>, card: &mut Configured) {
        self.unknown(section, &["MTUBytes", "RequiredForOnline"]);
        card.mtu = self.value(section, "MTUBytes", parse);
    }

    /// Whether DHCP is asked for.
    fn network(
        &mut self,
        section: &Section<'_>,
        card: &mut Configured,
        network: &mut Network,
    ) -> bool {
        let mut dhcp = false;
        for (key, text) in &section.lines {
            match *key {
                "Address" => card.addresses.extend(self.parsed::<IpNet>(key, text)),
                "DNS" => card.name_servers.extend(self.parsed::<IpAddr>(key, text)),
                "VRF" => card.vrf = Some((*text).to_owned()),
                "DHCP" => dhcp = matches!(*text, "yes" | "true" | "ipv4" | "ipv6"),
                "Gateway" => network
                    .routes
                    .extend(self.parsed::<IpAddr>(key, text).map(|via| Route {
                        to: any_of(via.is_ipv6()),
                        via: Some(via),
                        metric: None,
                        table: None,
                        device: card.name.clone(),
                    })),
                "LinkLocalAddressing" | "IPv6AcceptRA" => {}
                other => self.warn(&format!("Unknown key '{other}' in section [Network]")),
            }
        }
        dhcp
    }

    fn parsed<T: std::str::FromStr>(&mut self, key: &str, text: &str) -> Option<T> {
        let value = text.parse().ok();
        if value.is_none() {
            self.warn(&format!("Failed to parse {key}={text}"));
        }
        value
    }

    fn route(&mut self, section: &Section<'_>, device: &str) -> Option<Route> {
        self.unknown(section, &["Destination", "Gateway", "Metric", "Table"]);
        let via: Option<IpAddr> = self.value(section, "Gateway", parse);
        let to = self.value(section, "Destination", network_of);
        if section.get("Gateway").is_some() != via.is_some()
            || section.get("Destination").is_some() != to.is_some()
        {
            return None;
        }
        let to = match (to, via) {
            (Some(to), Some(via)) if to.addr().is_ipv6() != via.is_ipv6() => {
                self.warn("Gateway= and Destination= of different families");
                return None;
            }
            (Some(to), _) => to,
            (None, Some(via)) => any_of(via.is_ipv6()),
            (None, None) => {
                self.warn("[Route] without Destination= and Gateway=");
                return None;
            }
        };
        Some(Route {
            to,
            via,
            metric: self.value(section, "Metric", parse),
            table: self.value(section, "Table", parse),
            device: device.to_owned(),
        })
    }

    fn rule(&mut self, section: &Section<'_>) -> Option<Rule> {
        self.unknown(section, &["To", "From", "Table", "Priority"]);
        let to = self.value(section, "To", network_of);
        let from = self.value(section, "From", network_of);
        if to.is_none() && from.is_none() {
            self.warn("[RoutingPolicyRule] without To= and From=");
            return None;
        }
        Some(Rule {
            to,
            from,
            table: self.value(section, "Table", parse).unwrap_or(MAIN),
            priority: self.value(section, "Priority", parse),
        })
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
