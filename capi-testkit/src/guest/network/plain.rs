//! Version 1 of cloud-init's network-config.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Configured, Network, Route, address_of, any_of, by_mac, by_name, items, lease};
use crate::guest::hardware::Nic;

pub(super) fn read(config: &Value, nics: &[Nic]) -> Result<Network, String> {
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
                    lease(&mut network, name, nic);
                }
                "static" | "static6" => {
                    let address = static_address(subnet)?;
                    addresses.push(address);
                    network.routes.extend(gateway(subnet, address, name)?);
                }
                _ => {}
            }
        }
        network.push(Configured::new(name, nic.mac, addresses))?;
    }
    Ok(network)
}

fn gateway(subnet: &Value, address: IpNet, device: &str) -> Result<Option<Route>, String> {
    let Some(text) = subnet["gateway"].as_str() else {
        return Ok(None);
    };
    let via = text
        .parse()
        .map_err(|_| format!("network-config: cannot read gateway {text:?}"))?;
    Ok(Some(Route {
        to: any_of(address.addr().is_ipv6()),
        via: Some(via),
        metric: None,
        table: None,
        device: device.to_owned(),
    }))
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
