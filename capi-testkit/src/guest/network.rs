//! Network configuration: netplan's dialect (version 2) and cloud-init's own (version 1).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::guest::hardware::{Mac, Nic};

/// The network as it was configured at boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) interfaces: Vec<Configured>,
    /// Whether there is a way out of the own subnets.
    pub(super) default_route: bool,
}

/// One configured card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configured {
    pub(super) name: String,
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpNet>,
}

impl Network {
    /// The addresses on cards with a link, in order.
    pub(super) fn usable(&self, nics: &[Nic]) -> Vec<IpNet> {
        self.interfaces
            .iter()
            .filter(|interface| nics.iter().any(|nic| nic.mac == interface.mac && nic.link))
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect()
    }

    /// Whether packets for this address have a way.
    pub(super) fn reaches(&self, nics: &[Nic], address: IpAddr) -> bool {
        let own = self.usable(nics);
        own.iter().any(|net| net.contains(&address)) || (self.default_route && !own.is_empty())
    }
}

/// The name that the kernel gives to a card: Proxmox's virtio slots start at 18.
pub(super) fn kernel_name(index: usize) -> String {
    format!("ens{}", 18 + index)
}

/// Without a configuration cloud-init asks for DHCP on the first card with a link.
pub(super) fn fallback(nics: &[Nic]) -> Network {
    let Some((index, nic)) = nics.iter().enumerate().find(|(_, nic)| nic.link) else {
        return Network::default();
    };
    Network {
        interfaces: vec![Configured {
            name: kernel_name(index),
            mac: nic.mac,
            addresses: nic.dhcp.into_iter().collect(),
        }],
        default_route: nic.dhcp.is_some(),
    }
}

/// Applies a network-config to the cards.
///
/// Interfaces come in the order of the cards. The error is what the console shows; then no card is configured, since neither cloud-init nor
/// netplan applies half a configuration.
pub(super) fn configure(config: &Value, nics: &[Nic]) -> Result<Network, String> {
    let config = config.get("network").unwrap_or(config);
    let mut network = match config.get("version").and_then(Value::as_u64) {
        Some(2) => version_2(config, nics)?,
        Some(1) => version_1(config, nics)?,
        _ => return Err("network-config has no version 1 or 2".to_owned()),
    };
    network
        .interfaces
        .sort_by_key(|interface| nics.iter().position(|nic| nic.mac == interface.mac));
    let mut seen = BTreeSet::new();
    for address in network.interfaces.iter().flat_map(|one| &one.addresses) {
        if !seen.insert(address.addr()) {
            return Err(format!(
                "duplicate address {} in network-config",
                address.addr()
            ));
        }
    }
    Ok(network)
}

fn version_2(config: &Value, nics: &[Nic]) -> Result<Network, String> {
    let mut network = Network::default();
    let Some(ethernets) = config.get("ethernets").and_then(Value::as_object) else {
        return Ok(network);
    };
    for (id, ethernet) in ethernets {
        let matched = &ethernet["match"];
        let wanted = matched["macaddress"].as_str();
        let (index, nic) = match wanted {
            Some(text) => by_mac(text, nics)?,
            None => by_name(matched["name"].as_str().unwrap_or(id), nics)?,
        };
        let name = ethernet["set-name"].as_str().map_or_else(
            || match wanted {
                Some(_) => kernel_name(index),
                None => id.clone(),
            },
            str::to_owned,
        );
        let mut addresses = Vec::new();
        for address in items(&ethernet["addresses"]) {
            addresses.push(address_of(address)?);
        }
        let wants_dhcp = is_true(&ethernet["dhcp4"]) || is_true(&ethernet["dhcp6"]);
        network.default_route |= ethernet.get("gateway4").is_some()
            || ethernet.get("gateway6").is_some()
            || items(&ethernet["routes"]).any(is_default_route);
        if wants_dhcp && let Some(lease) = nic.dhcp {
            addresses.push(lease);
            network.default_route = true;
        }
        push(&mut network, name, nic, addresses)?;
    }
    Ok(network)
}

fn version_1(config: &Value, nics: &[Nic]) -> Result<Network, String> {
    let mut network = Network::default();
    let physical = items(&config["config"]).filter(|entry| entry["type"] == "physical");
    for entry in physical {
        let name = entry["name"].as_str().unwrap_or_default();
        let (_, nic) = match entry["mac_address"].as_str() {
            Some(text) => by_mac(text, nics)?,
            None => by_name(name, nics)?,
        };
        let mut addresses = Vec::new();
        for subnet in items(&entry["subnets"]) {
            match subnet["type"].as_str().unwrap_or_default() {
                "dhcp" | "dhcp4" | "dhcp6" => {
                    addresses.extend(nic.dhcp);
                    network.default_route |= nic.dhcp.is_some();
                }
                "static" | "static6" => {
                    addresses.push(static_address(subnet)?);
                    network.default_route |= subnet.get("gateway").is_some();
                }
                _ => {}
            }
        }
        push(&mut network, name.to_owned(), nic, addresses)?;
    }
    Ok(network)
}

fn push(
    network: &mut Network,
    name: String,
    nic: &Nic,
    addresses: Vec<IpNet>,
) -> Result<(), String> {
    let twice = |what: &str| format!("duplicate {what} in network-config");
    if network.interfaces.iter().any(|other| other.mac == nic.mac) {
        return Err(twice(&format!("mac found: {}", nic.mac)));
    }
    if network.interfaces.iter().any(|other| other.name == name) {
        return Err(twice(&format!("interface name {name:?}")));
    }
    network.interfaces.push(Configured {
        name,
        mac: nic.mac,
        addresses,
    });
    Ok(())
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

fn is_default_route(route: &Value) -> bool {
    matches!(
        route["to"].as_str(),
        Some("default" | "0.0.0.0/0" | "::/0" | "0/0")
    )
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

fn static_address(subnet: &Value) -> Result<IpNet, String> {
    let text = subnet["address"].as_str().unwrap_or_default();
    if text.contains('/') {
        return address_of(&subnet["address"]);
    }
    let bad = || format!("network-config: cannot read address {text:?} with its netmask");
    let address: IpAddr = text.parse().map_err(|_| bad())?;
    let mask: IpAddr = subnet["netmask"]
        .as_str()
        .and_then(|mask| mask.parse().ok())
        .ok_or_else(bad)?;
    IpNet::with_netmask(address, mask).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
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
}
