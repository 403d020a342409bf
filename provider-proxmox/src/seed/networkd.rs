//! Units of systemd-networkd.
//!
//! Interfaces are found by MAC address, and keep the names that the system gives them.
//!
//! Source: systemd.network(5), systemd.netdev(5).

use std::fmt::Write as _;

use crate::network::{GuestNetwork, GuestRoute, GuestRule, Interface, Vrf};

/// Names and contents of all units. Their names come before those of the system's own units,
/// which ask for DHCP on every interface.
pub(super) fn units(guest: &GuestNetwork) -> Vec<(String, String)> {
    let vrfs = guest.vrfs.iter().flat_map(|vrf| {
        let device = (format!("00-{}.netdev", vrf.name), netdev(vrf));
        [device, (format!("00-{}.network", vrf.name), of_vrf(vrf))]
    });
    let interfaces = guest.interfaces.iter();
    vrfs.chain(interfaces.map(|interface| {
        (
            format!("00-{}.network", interface.name),
            of_interface(interface),
        )
    }))
    .collect()
}

fn netdev(vrf: &Vrf) -> String {
    let Vrf { name, table, .. } = vrf;
    format!("[NetDev]\nName={name}\nKind=vrf\n\n[VRF]\nTable={table}\n")
}

fn of_vrf(vrf: &Vrf) -> String {
    let mut text = format!("[Match]\nName={}\n", vrf.name);
    paths(&mut text, &vrf.routes, &vrf.rules);
    text
}

fn of_interface(interface: &Interface) -> String {
    let mut text = format!("[Match]\nMACAddress={}\n", interface.mac);
    if let Some(mtu) = interface.mtu {
        let _ = write!(text, "\n[Link]\nMTUBytes={mtu}\n");
    }
    text.push_str("\n[Network]\n");
    if let Some(vrf) = &interface.vrf {
        let _ = writeln!(text, "VRF={vrf}");
    }
    for server in &interface.name_servers {
        let _ = writeln!(text, "DNS={server}");
    }
    for (ip, prefix) in &interface.addresses {
        let _ = write!(text, "\n[Address]\nAddress={ip}/{prefix}\n");
    }
    paths(&mut text, &interface.routes, &interface.rules);
    text
}

fn paths(text: &mut String, routes: &[GuestRoute], rules: &[GuestRule]) {
    fn line(text: &mut String, key: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            let _ = writeln!(text, "{key}={value}");
        }
    }
    for route in routes {
        text.push_str("\n[Route]\n");
        line(text, "Destination", Some(&route.to));
        line(text, "Gateway", route.via.as_ref());
        line(text, "Metric", route.metric);
        line(text, "Table", route.table);
    }
    for rule in rules {
        text.push_str("\n[RoutingPolicyRule]\n");
        line(text, "From", rule.from.as_ref());
        line(text, "To", rule.to.as_ref());
        line(text, "Table", rule.table);
        line(text, "Priority", rule.priority);
    }
}
