//! Version 2 of cloud-init's network-config, which is netplan's dialect and is read as strictly.
//!
//! Source: netplan's YAML reference, and the messages of its parser.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    Configured, Network, Route, Rule, Vrf, address_of, any_of, bad_name, by_mac, by_name, is_true,
    items, kernel_name, lease, network_of,
};
use crate::guest::hardware::Nic;

const TOP: &[&str] = &["version", "renderer", "ethernets", "vrfs"];

/// Keys of every device.
const DEVICE: &[&str] = &[
    "accept-ra",
    "activation-mode",
    "addresses",
    "critical",
    "dhcp-identifier",
    "dhcp4",
    "dhcp4-overrides",
    "dhcp6",
    "dhcp6-overrides",
    "gateway4",
    "gateway6",
    "ignore-carrier",
    "ipv6-address-generation",
    "ipv6-mtu",
    "ipv6-privacy",
    "link-local",
    "macaddress",
    "mtu",
    "nameservers",
    "optional",
    "optional-addresses",
    "renderer",
    "routes",
    "routing-policy",
];
const ETHERNET: &[&str] = &["emit-lldp", "match", "set-name", "wakeonlan"];
const VRF: &[&str] = &["interfaces", "table"];
const ROUTE: &[&str] = &[
    "from", "metric", "mtu", "on-link", "scope", "table", "to", "type", "via",
];
const RULE: &[&str] = &["from", "mark", "priority", "table", "to", "type-of-service"];

pub(super) fn read(config: &Value, nics: &[Nic]) -> Result<Network, String> {
    let none = Map::new();
    let top = config.as_object().unwrap_or(&none);
    if let Some(key) = top.keys().find(|key| !TOP.contains(&key.as_str())) {
        return Err(format!(
            "Error in network definition: the simulated guest does not know {key:?}"
        ));
    }
    let mut network = Network::default();
    for (id, ethernet) in entries(config, "ethernets") {
        known(ethernet, id, &[DEVICE, ETHERNET])?;
        ethernet_of(&mut network, id, ethernet, nics)?;
    }
    for (id, vrf) in entries(config, "vrfs") {
        known(vrf, id, &[DEVICE, VRF])?;
        vrf_of(&mut network, id, vrf, config)?;
    }
    Ok(network)
}

fn entries<'a>(config: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    config[key].as_object().into_iter().flatten()
}

fn ethernet_of(
    network: &mut Network,
    id: &str,
    ethernet: &Value,
    nics: &[Nic],
) -> Result<(), String> {
    let matched = &ethernet["match"];
    let wanted = matched["macaddress"].as_str();
    let (index, nic) = match wanted {
        Some(text) => by_mac(text, nics)?,
        None => by_name(matched["name"].as_str().unwrap_or(id), nics)?,
    };
    let name = ethernet["set-name"].as_str().map_or_else(
        || match wanted {
            Some(_) => kernel_name(index),
            None => id.to_owned(),
        },
        str::to_owned,
    );
    let mut card = Configured::new(name, nic.mac, Vec::new());
    for address in items(&ethernet["addresses"]) {
        card.addresses.push(address_of(address)?);
    }
    card.mtu = number(&ethernet["mtu"], id, "mtu")?;
    for server in items(&ethernet["nameservers"]["addresses"]) {
        card.name_servers.push(ip(server, id)?);
    }
    if is_true(&ethernet["dhcp4"]) || is_true(&ethernet["dhcp6"]) {
        card.addresses.extend(nic.dhcp);
        lease(network, &card.name, nic);
    }
    for (key, is6) in [("gateway4", false), ("gateway6", true)] {
        if let Some(via) = ethernet.get(key) {
            let (to, via) = (any_of(is6), Some(ip(via, id)?));
            let device = card.name.clone();
            network.routes.push(Route {
                to,
                via,
                metric: None,
                table: None,
                device,
            });
        }
    }
    let device = card.name.clone();
    network.push(card)?;
    for route in items(&ethernet["routes"]) {
        network.routes.push(route_of(route, id, &device)?);
    }
    for rule in items(&ethernet["routing-policy"]) {
        network.rules.push(rule_of(rule, id, None)?);
    }
    Ok(())
}

fn vrf_of(network: &mut Network, id: &str, vrf: &Value, config: &Value) -> Result<(), String> {
    let wrong = |why: String| format!("Error in network definition: {id}: {why}");
    if let Some(why) = bad_name(id) {
        return Err(wrong(format!("the name of the interface {why}")));
    }
    let Some(table) = number(&vrf["table"], id, "table")? else {
        return Err(wrong("missing 'table' property".to_owned()));
    };
    let shares = network.vrfs.iter().find(|other| other.table == table);
    if let Some(other) = shares {
        let other = &other.name;
        return Err(wrong(format!("table {table} is that of {other} already")));
    }
    for member in items(&vrf["interfaces"]) {
        let member = member.as_str().unwrap_or_default();
        let ethernet = &config["ethernets"][member];
        if ethernet.is_null() {
            return Err(wrong(format!("interface '{member}' is not defined")));
        }
        let name = ethernet["set-name"].as_str().unwrap_or(member);
        let card = network.interfaces.iter_mut().find(|card| card.name == name);
        let card = card.ok_or_else(|| wrong(format!("interface '{member}' is not there")))?;
        if let Some(other) = card.vrf.replace(id.to_owned()) {
            return Err(wrong(format!(
                "interface '{member}' is already assigned to vrf {other}"
            )));
        }
    }
    network.vrfs.push(Vrf {
        name: id.to_owned(),
        table,
    });
    for route in items(&vrf["routes"]) {
        let route = route_of(route, id, id)?;
        if let Some(other) = route.table.filter(|other| *other != table) {
            return Err(wrong(format!(
                "VRF routes table mismatch ({table} != {other})"
            )));
        }
        network.routes.push(route);
    }
    for rule in items(&vrf["routing-policy"]) {
        let rule = rule_of(rule, id, Some(table))?;
        if rule.table != table {
            let other = rule.table;
            return Err(wrong(format!(
                "VRF routing-policy table mismatch ({table} != {other})"
            )));
        }
        network.rules.push(rule);
    }
    Ok(())
}

fn route_of(route: &Value, id: &str, device: &str) -> Result<Route, String> {
    known(route, id, &[ROUTE])?;
    let wrong = |why: String| format!("Error in network definition: {id}: {why}");
    let via = match &route["via"] {
        Value::Null => None,
        via => Some(ip(via, id)?),
    };
    let text = route["to"]
        .as_str()
        .ok_or_else(|| wrong("unicast route must include a 'to' IP".to_owned()))?;
    let to = match text {
        "default" => any_of(via.is_some_and(|via| via.is_ipv6())),
        text => prefix(text, id)?,
    };
    if via.is_some_and(|via| via.is_ipv6() != to.addr().is_ipv6()) {
        return Err(wrong(format!("invalid IP family in route to '{text}'")));
    }
    Ok(Route {
        to,
        via,
        metric: number(&route["metric"], id, "metric")?,
        table: number(&route["table"], id, "table")?,
        device: device.to_owned(),
    })
}

fn rule_of(rule: &Value, id: &str, own: Option<u32>) -> Result<Rule, String> {
    known(rule, id, &[RULE])?;
    let wrong = |why: &str| format!("Error in network definition: {id}: {why}");
    let side = |key: &str| rule[key].as_str().map(|text| prefix(text, id)).transpose();
    let (to, from) = (side("to")?, side("from")?);
    let families = [to, from]
        .into_iter()
        .flatten()
        .map(|net| net.addr().is_ipv6());
    let families: Vec<bool> = families.collect();
    if families.is_empty() {
        return Err(wrong(
            "IP routing policy must include either a 'from' or 'to' IP",
        ));
    }
    if families.iter().any(|family| *family != families[0]) {
        return Err(wrong("IP routing policy mixes families"));
    }
    let table = number(&rule["table"], id, "table")?.or(own);
    Ok(Rule {
        to,
        from,
        table: table.unwrap_or(super::MAIN),
        priority: number(&rule["priority"], id, "priority")?,
    })
}

fn known(value: &Value, id: &str, keys: &[&[&str]]) -> Result<(), String> {
    let mut own = value.as_object().into_iter().flat_map(Map::keys);
    let unknown = own.find(|key| !keys.iter().any(|keys| keys.contains(&key.as_str())));
    match unknown {
        Some(key) => Err(format!(
            "Error in network definition: {id}: unknown key '{key}'"
        )),
        None => Ok(()),
    }
}

fn number(value: &Value, id: &str, key: &str) -> Result<Option<u32>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.parse().map(Some).map_err(|_| {
        format!("Error in network definition: {id}: invalid unsigned int value '{text}' of {key}")
    })
}

fn ip(value: &Value, id: &str) -> Result<IpAddr, String> {
    let text = value.as_str().unwrap_or_default();
    text.parse().map_err(|_| {
        format!("Error in network definition: {id}: malformed address '{text}', must be X.X.X.X or X:X:X:X:X:X:X:X")
    })
}

fn prefix(text: &str, id: &str) -> Result<IpNet, String> {
    let text = if text == "0/0" { "0.0.0.0/0" } else { text };
    network_of(text).ok_or_else(|| {
        format!("Error in network definition: {id}: malformed address '{text}', must be X.X.X.X/NN or X:X:X:X:X:X:X:X/NN")
    })
}
