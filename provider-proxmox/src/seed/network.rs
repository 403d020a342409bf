//! Network configuration version 2, which is netplan's dialect.
//!
//! Written without a top-level `network` key, which older releases of cloud-init do not accept in
//! a NoCloud seed. Default routes are spelled `0.0.0.0/0` and `::/0`: every renderer knows these,
//! and not all know `default`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::network::{GuestNetwork, GuestRoute, GuestRule, Interface, Vrf};

/// The file.
#[derive(Serialize)]
pub(super) struct Config<'a> {
    version: u8,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ethernets: BTreeMap<&'a str, Ethernet<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    vrfs: BTreeMap<&'a str, VrfEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Ethernet<'a> {
    r#match: Match<'a>,
    set_name: &'a str,
    dhcp4: bool,
    dhcp6: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<NameServers<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteEntry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routing_policy: Vec<RuleEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct VrfEntry<'a> {
    table: u32,
    interfaces: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteEntry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routing_policy: Vec<RuleEntry<'a>>,
}

#[derive(Serialize)]
struct Match<'a> {
    macaddress: &'a str,
}

#[derive(Serialize)]
struct NameServers<'a> {
    addresses: &'a [String],
}

#[derive(Serialize)]
struct RouteEntry<'a> {
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
}

#[derive(Serialize)]
struct RuleEntry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
}

impl<'a> Config<'a> {
    pub(super) fn new(network: &'a GuestNetwork) -> Self {
        let ethernets = network.interfaces.iter();
        let vrfs = network.vrfs.iter();
        Self {
            version: 2,
            ethernets: ethernets
                .map(|interface| (interface.name.as_str(), ethernet(interface)))
                .collect(),
            vrfs: vrfs.map(|vrf| (vrf.name.as_str(), entry(vrf))).collect(),
        }
    }
}

fn entry(vrf: &Vrf) -> VrfEntry<'_> {
    VrfEntry {
        table: vrf.table,
        interfaces: &vrf.interfaces,
        routes: vrf.routes.iter().map(route).collect(),
        routing_policy: vrf.rules.iter().map(rule).collect(),
    }
}

fn ethernet(interface: &Interface) -> Ethernet<'_> {
    let name_servers = &interface.name_servers;
    let nameservers = (!name_servers.is_empty()).then_some(NameServers {
        addresses: name_servers,
    });
    Ethernet {
        r#match: Match {
            macaddress: &interface.mac,
        },
        set_name: &interface.name,
        dhcp4: false,
        dhcp6: false,
        addresses: interface
            .addresses
            .iter()
            .map(|(ip, prefix)| format!("{ip}/{prefix}"))
            .collect(),
        mtu: interface.mtu,
        nameservers,
        routes: interface.routes.iter().map(route).collect(),
        routing_policy: interface.rules.iter().map(rule).collect(),
    }
}

fn route(route: &GuestRoute) -> RouteEntry<'_> {
    RouteEntry {
        to: &route.to,
        via: route.via.as_deref(),
        metric: route.metric,
        table: route.table,
    }
}

fn rule(rule: &GuestRule) -> RuleEntry<'_> {
    RuleEntry {
        to: rule.to.as_deref(),
        from: rule.from.as_deref(),
        table: rule.table,
        priority: rule.priority,
    }
}
