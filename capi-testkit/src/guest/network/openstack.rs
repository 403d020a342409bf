//! `network_data.json` of a config drive, as cloud-init reads it.
//!
//! Source: OpenStack's network metadata schema. Physical links, static addresses, DHCP, routes and
//! name servers are read; bonds, VLANs and the like are refused.

use serde_json::{Map, Value, json};

/// Kinds of links that are plain cards: cloud-init takes every virtual kind of OpenStack as one.
const CARDS: &[&str] = &[
    "bridge",
    "dvs",
    "ethernet",
    "hw_veb",
    "hyperv",
    "ovs",
    "phy",
    "tap",
    "vhostuser",
    "vif",
];

/// The same in version 2 of network-config.
pub(in crate::guest) fn convert(data: &Value) -> Result<Value, String> {
    let list = |key: &str| data[key].as_array().cloned().unwrap_or_default();
    let mut ethernets = Map::new();
    for link in list("links") {
        let id = word(&link, "id")?;
        let kind = link["type"].as_str().unwrap_or("phy");
        if !CARDS.contains(&kind) {
            return Err(format!(
                "the simulated guest does not know links of type {kind:?}"
            ));
        }
        let mac = word(&link, "ethernet_mac_address")?;
        let mut card = json!({"match": {"macaddress": mac.to_ascii_lowercase()}});
        if let Some(mtu) = link["mtu"].as_u64() {
            card["mtu"] = mtu.into();
        }
        ethernets.insert(id.to_owned(), card);
    }
    for network in list("networks") {
        let link = word(&network, "link")?;
        let card = ethernets
            .get_mut(link)
            .ok_or_else(|| format!("a network names link {link:?}, which is not there"))?;
        attach(card, &network)?;
    }
    let servers: Vec<Value> = list("services")
        .iter()
        .filter(|service| service["type"] == "dns")
        .map(|service| service["address"].clone())
        .collect();
    if !servers.is_empty() {
        for card in ethernets.values_mut() {
            card["nameservers"] = json!({"addresses": servers});
        }
    }
    Ok(json!({"version": 2, "ethernets": ethernets}))
}

fn attach(card: &mut Value, network: &Value) -> Result<(), String> {
    let kind = word(network, "type")?;
    match kind {
        "ipv4_dhcp" => card["dhcp4"] = true.into(),
        "ipv6_dhcp" | "ipv6_dhcpv6-stateful" | "ipv6_dhcpv6-stateless" => {
            card["dhcp6"] = true.into();
        }
        "ipv4" | "ipv6" => {
            let address = static_address(network)?;
            push(card, "addresses", address.into());
        }
        other => {
            return Err(format!(
                "the simulated guest does not know networks of type {other:?}"
            ));
        }
    }
    for route in network["routes"].as_array().into_iter().flatten() {
        let to = with_prefix(word(route, "network")?, route["netmask"].as_str())?;
        push(
            card,
            "routes",
            json!({"to": to, "via": word(route, "gateway")?}),
        );
    }
    if let Some(gateway) = network["gateway"].as_str() {
        let to = if kind.starts_with("ipv6") {
            "::/0"
        } else {
            "0.0.0.0/0"
        };
        push(card, "routes", json!({"to": to, "via": gateway}));
    }
    Ok(())
}

fn static_address(network: &Value) -> Result<String, String> {
    let address = word(network, "ip_address")?;
    if address.contains('/') {
        return Ok(address.to_owned());
    }
    with_prefix(address, network["netmask"].as_str())
}

/// An address with the prefix length that a netmask says; a netmask may be a length itself.
fn with_prefix(address: &str, netmask: Option<&str>) -> Result<String, String> {
    let Some(netmask) = netmask else {
        return Err(format!("{address} has no netmask"));
    };
    if let Ok(length) = netmask.trim_start_matches('/').parse::<u8>() {
        return Ok(format!("{address}/{length}"));
    }
    let mask = netmask
        .parse()
        .map_err(|_| format!("{netmask:?} is no netmask"))?;
    let length =
        ipnet::ip_mask_to_prefix(mask).map_err(|_| format!("{netmask:?} is no netmask"))?;
    Ok(format!("{address}/{length}"))
}

fn word<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key]
        .as_str()
        .ok_or_else(|| format!("an entry has no {key}"))
}

fn push(card: &mut Value, key: &str, entry: Value) {
    match &mut card[key] {
        Value::Array(list) => list.push(entry),
        empty => *empty = json!([entry]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_routes_and_name_servers_are_read_from_every_spelling() {
        let data = json!({
            "links": [{"id": "a", "type": "phy", "ethernet_mac_address": "02:00:00:00:00:0A", "mtu": 1400},
                {"id": "b", "type": "vif", "ethernet_mac_address": "02:00:00:00:00:0b"}],
            "networks": [
                {"id": "n0", "link": "a", "type": "ipv4", "ip_address": "10.0.0.5",
                 "netmask": "255.255.255.0",
                 "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"}]},
                {"id": "n1", "link": "a", "type": "ipv6", "ip_address": "fd00::5/64", "gateway": "fd00::1"},
                {"id": "n2", "link": "b", "type": "ipv4_dhcp"}],
            "services": [{"type": "dns", "address": "10.0.0.2"}],
        });
        let servers = json!({"addresses": ["10.0.0.2"]});
        let wanted = json!({"version": 2, "ethernets": {
            "a": {"match": {"macaddress": "02:00:00:00:00:0a"}, "mtu": 1400,
                "addresses": ["10.0.0.5/24", "fd00::5/64"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.0.0.1"}, {"to": "::/0", "via": "fd00::1"}],
                "nameservers": servers},
            "b": {"match": {"macaddress": "02:00:00:00:00:0b"}, "dhcp4": true, "nameservers": servers},
        }});
        assert_eq!(convert(&data), Ok(wanted));
    }

    #[test]
    fn what_is_not_played_is_refused() {
        for (data, why) in [
            (
                json!({"links": [{"id": "a", "type": "bond"}]}),
                "links of type \"bond\"",
            ),
            (
                json!({"networks": [{"link": "x"}]}),
                "link \"x\", which is not there",
            ),
            (
                json!({"links": [{"id": "a", "ethernet_mac_address": "02:00:00:00:00:01"}],
                    "networks": [{"link": "a", "type": "ipv4", "ip_address": "10.0.0.5"}]}),
                "no netmask",
            ),
        ] {
            let refused = convert(&data).expect_err("is refused");
            assert!(refused.contains(why), "{refused}");
        }
    }
}
