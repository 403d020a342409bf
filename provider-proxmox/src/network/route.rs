//! Routes, and rules that choose a routing table.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{GuestRoute, GuestRule, NetworkError, number};
use crate::api::{NetworkDevice, Route, RoutingPolicy};

/// The routes that the spec gives to a device; `table` is that of its VRF.
pub(super) fn of_device(
    device: &NetworkDevice,
    table: Option<u32>,
) -> Result<Vec<GuestRoute>, NetworkError> {
    let numbered = device.routes.iter().enumerate();
    numbered
        .map(|(position, wanted)| {
            let field = format!("networkDevices[name={}].routes[{position}]", device.name);
            let mut route = route(wanted, &field)?;
            route.table = route.table.or(table);
            Ok(route)
        })
        .collect()
}

/// The rules that the spec gives to a device. Each has to say which table it chooses: nothing
/// else of a device does.
pub(super) fn rules_of_device(device: &NetworkDevice) -> Result<Vec<GuestRule>, NetworkError> {
    let numbered = device.routing_policy.iter().enumerate();
    numbered
        .map(|(position, wanted)| {
            let name = &device.name;
            let field = format!("networkDevices[name={name}].routingPolicy[{position}]");
            let rule = rule(wanted, &field)?;
            match rule.table {
                Some(_) => Ok(rule),
                None => Err(NetworkError::NoTable { field }),
            }
        })
        .collect()
}

pub(super) fn route(wanted: &Route, field: &str) -> Result<GuestRoute, NetworkError> {
    let via = wanted
        .via
        .as_deref()
        .map(|via| address(via, &format!("{field}.via")))
        .transpose()?;
    let hints = [wanted.is6, via.map(|via| via.is_ipv6())];
    let to = destination(wanted.to.as_deref(), hints, field)?;
    Ok(GuestRoute {
        to,
        via: via.map(|via| via.to_string()),
        metric: number(wanted.metric, &format!("{field}.metric"), 0)?,
        table: number(wanted.table, &format!("{field}.table"), 1)?,
    })
}

pub(super) fn rule(wanted: &RoutingPolicy, field: &str) -> Result<GuestRule, NetworkError> {
    if wanted.to.is_none() && wanted.from.is_none() {
        return Err(NetworkError::MatchesNothing {
            field: field.to_owned(),
        });
    }
    let family = |side: &Option<String>| {
        let network = side.as_deref().and_then(network)?;
        Some(network.addr().is_ipv6())
    };
    let hints = |other: &Option<String>| [wanted.is6, family(other)];
    let side = |own: &Option<String>, other: &Option<String>| {
        let own = own.as_deref();
        own.map(|text| destination(Some(text), hints(other), field))
            .transpose()
    };
    Ok(GuestRule {
        to: side(&wanted.to, &wanted.from)?,
        from: side(&wanted.from, &wanted.to)?,
        table: number(wanted.table, &format!("{field}.table"), 1)?,
        priority: number(wanted.priority, &format!("{field}.priority"), 1)?,
    })
}

/// A destination as every renderer understands it: a network without bits of a host, or all of a
/// family. What is said of the family, here and in `hints`, has to agree.
fn destination(
    text: Option<&str>,
    hints: [Option<bool>; 2],
    field: &str,
) -> Result<String, NetworkError> {
    let field = || field.to_owned();
    let own = match text {
        None | Some("default" | "all") => None,
        Some(text) => Some(network(text).ok_or_else(|| NetworkError::NotAnAddress {
            field: field(),
            value: text.to_owned(),
        })?),
    };
    let own_is6 = own.map(|network| network.addr().is_ipv6());
    let mut said = [own_is6, hints[0], hints[1]].into_iter().flatten();
    match (said.next(), own) {
        (None, _) => Err(NetworkError::NoFamily { field: field() }),
        (Some(is6), _) if said.any(|other| other != is6) => {
            Err(NetworkError::MixedFamilies { field: field() })
        }
        (Some(_), Some(network)) => Ok(network.trunc().to_string()),
        (Some(is6), None) => Ok(any_of(is6).to_owned()),
    }
}

/// A network, or an address as the network of itself.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}

pub(super) fn address(text: &str, field: &str) -> Result<IpAddr, NetworkError> {
    text.parse().map_err(|_| NetworkError::NotAnAddress {
        field: field.to_owned(),
        value: text.to_owned(),
    })
}

pub(super) fn any_of(is6: bool) -> &'static str {
    if is6 { "::/0" } else { "0.0.0.0/0" }
}
