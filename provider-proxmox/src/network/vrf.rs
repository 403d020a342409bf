//! VRFs: each a routing table for the devices in it.

use super::{GuestRoute, GuestRule, NetworkError, Vrf, guest_name, number, route};
use crate::api::VrfDevice;

/// Path of a VRF in the spec.
pub(super) fn path(vrf: &VrfDevice) -> String {
    format!("vrfs[name={}]", vrf.name)
}

/// Its table as a kernel counts.
pub(super) fn table(vrf: &VrfDevice, path: &str) -> Result<u32, NetworkError> {
    let table = number(Some(vrf.table), &format!("{path}.table"), 1)?;
    Ok(table.unwrap_or_default())
}

/// A VRF for the guest. Its routes and rules are about its table and no other: a guest refuses
/// others, and takes the table for granted where none is named.
pub(super) fn vrf(wanted: &VrfDevice) -> Result<Vrf, NetworkError> {
    let path = path(wanted);
    let own = table(wanted, &path)?;
    let same = |table: Option<u32>, field: &str| match table {
        Some(table) if table != own => Err(NetworkError::OtherTable {
            field: field.to_owned(),
            table,
            own,
        }),
        Some(_) | None => Ok(Some(own)),
    };
    let routes = wanted.routes.iter().enumerate().map(|(position, wanted)| {
        let field = format!("{path}.routes[{position}]");
        let made = route::route(wanted, &field)?;
        let table = same(made.table, &field)?;
        Ok(GuestRoute { table, ..made })
    });
    let rules = wanted.routing_policy.iter().enumerate();
    let rules = rules.map(|(position, wanted)| {
        let field = format!("{path}.routingPolicy[{position}]");
        let made = route::rule(wanted, &field)?;
        let table = same(made.table, &field)?;
        Ok(GuestRule { table, ..made })
    });
    Ok(Vrf {
        name: wanted.name.clone(),
        table: own,
        interfaces: wanted
            .interfaces
            .iter()
            .map(|name| guest_name(name))
            .collect(),
        routes: routes.collect::<Result<_, NetworkError>>()?,
        rules: rules.collect::<Result<_, NetworkError>>()?,
    })
}
