//! Connections of NetworkManager.
//!
//! Routes and rules of a VRF stand with an interface in it: NetworkManager gives no routes to a
//! device without addresses.
//!
//! Source: nm-settings-keyfile(5).

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::network::{GuestNetwork, GuestRoute, GuestRule, Interface, Vrf};

/// Where rules without a priority begin, which NetworkManager does not take: before the kernel's
/// own rules at 32766, as if the kernel had chosen.
const PRIORITY: usize = 30_000;

/// Names and contents of all connections.
pub(super) fn connections(guest: &GuestNetwork) -> Vec<(String, String)> {
    let vrfs = guest.vrfs.iter().map(|vrf| (file(&vrf.name), of_vrf(vrf)));
    let interfaces = guest.interfaces.iter().map(|interface| {
        let (routes, rules) = paths(guest, interface);
        (
            file(&interface.name),
            of_interface(interface, &routes, &rules),
        )
    });
    vrfs.chain(interfaces).collect()
}

fn file(name: &str) -> String {
    format!("{name}.nmconnection")
}

fn of_vrf(vrf: &Vrf) -> String {
    let Vrf { name, table, .. } = vrf;
    format!(
        "[connection]\nid={name}\ntype=vrf\ninterface-name={name}\n\n[vrf]\ntable={table}\n\n\
         [ipv4]\nmethod=disabled\n\n[ipv6]\nmethod=disabled\n"
    )
}

/// Routes and rules of an interface, with those of its VRF that fall to it.
fn paths(guest: &GuestNetwork, interface: &Interface) -> (Vec<GuestRoute>, Vec<GuestRule>) {
    let (mut routes, mut rules) = (interface.routes.clone(), interface.rules.clone());
    let own = guest
        .vrfs
        .iter()
        .filter(|vrf| vrf.interfaces.contains(&interface.name));
    for vrf in own {
        let members = || {
            let all = guest.interfaces.iter();
            all.filter(|member| vrf.interfaces.contains(&member.name))
        };
        let is_first = members()
            .next()
            .is_some_and(|first| first.name == interface.name);
        let falls_here = |route: &&GuestRoute| {
            let neighbour = members().find(|member| is_neighbour(member, route));
            neighbour.map_or(is_first, |member| member.name == interface.name)
        };
        routes.extend(vrf.routes.iter().filter(falls_here).cloned());
        if is_first {
            rules.extend(vrf.rules.iter().cloned());
        }
    }
    (routes, rules)
}

/// Whether the gateway of a route is in a network of an interface.
fn is_neighbour(interface: &Interface, route: &GuestRoute) -> bool {
    let via: Option<IpAddr> = route.via.as_deref().and_then(|via| via.parse().ok());
    via.is_some_and(|via| {
        let networks = interface.addresses.iter();
        let mut networks = networks.filter_map(|(ip, prefix)| IpNet::new(*ip, *prefix).ok());
        networks.any(|network| network.contains(&via))
    })
}

fn of_interface(interface: &Interface, routes: &[GuestRoute], rules: &[GuestRule]) -> String {
    let mut text = format!("[connection]\nid={}\ntype=ethernet\n", interface.name);
    if let Some(vrf) = &interface.vrf {
        let _ = writeln!(text, "master={vrf}\nslave-type=vrf");
    }
    let _ = write!(text, "\n[ethernet]\nmac-address={}\n", interface.mac);
    if let Some(mtu) = interface.mtu {
        let _ = writeln!(text, "mtu={mtu}");
    }
    for is6 in [false, true] {
        family(&mut text, is6, interface, routes, rules);
    }
    text
}

fn family(
    text: &mut String,
    is6: bool,
    interface: &Interface,
    routes: &[GuestRoute],
    rules: &[GuestRule],
) {
    let of_family = |text: &str| text.contains(':') == is6;
    let addresses: Vec<_> = interface
        .addresses
        .iter()
        .filter(|(ip, _)| ip.is_ipv6() == is6)
        .collect();
    let routes: Vec<_> = routes.iter().filter(|route| of_family(&route.to)).collect();
    let rules: Vec<_> = rules
        .iter()
        .filter(|rule| rule.to.iter().chain(&rule.from).any(|side| of_family(side)))
        .collect();
    let is_used = !routes.is_empty() || !rules.is_empty();
    // Without addresses a family that has routes needs link-local ones; so does IPv6 at all.
    let method = match (addresses.is_empty(), is_used || is6) {
        (false, _) => "manual",
        (true, true) => "link-local",
        (true, false) => "disabled",
    };
    let name = if is6 { "ipv6" } else { "ipv4" };
    let _ = write!(text, "\n[{name}]\nmethod={method}\n");
    for (number, (ip, prefix)) in (1..).zip(&addresses) {
        let _ = writeln!(text, "address{number}={ip}/{prefix}");
    }
    let servers = interface.name_servers.iter();
    let servers: Vec<_> = servers
        .filter(|server| of_family(server))
        .cloned()
        .collect();
    if !servers.is_empty() && !addresses.is_empty() {
        let _ = writeln!(text, "dns={};", servers.join(";"));
    }
    for (number, route) in (1..).zip(routes) {
        let nowhere = if is6 { "::" } else { "0.0.0.0" };
        let via = route.via.as_deref().unwrap_or(nowhere);
        let _ = write!(text, "route{number}={},{via}", route.to);
        if let Some(metric) = route.metric {
            let _ = write!(text, ",{metric}");
        }
        text.push('\n');
        if let Some(table) = route.table {
            let _ = writeln!(text, "route{number}_options=table={table}");
        }
    }
    for (number, rule) in (1..).zip(rules) {
        let priority = rule
            .priority
            .map_or(PRIORITY + number, |priority| priority as usize);
        let _ = write!(text, "routing-rule{number}=priority {priority}");
        for (key, side) in [("from", &rule.from), ("to", &rule.to)] {
            if let Some(side) = side {
                let _ = write!(text, " {key} {side}");
            }
        }
        if let Some(table) = rule.table {
            let _ = write!(text, " table {table}");
        }
        text.push('\n');
    }
}
