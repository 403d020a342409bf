//! What is told to Kubernetes about a machine. Pure.

use std::collections::{BTreeMap, BTreeSet};

use capi_contract::{Address, AddressType, Health, MachineAddress, MachineFacts};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Scope;
use super::claim::MachineClaim;
use super::observe::{Phase, Seen};
use super::plan::requests;
use super::zone;
use crate::api::{DeviceAddresses, PROVIDER_ID_SCHEME};
use crate::pool::{self, Family};
use crate::pve::Power;

/// Entry of `ipAddresses` that holds the addresses of the cluster's own pools.
const DEFAULT_NET: &str = "default";

/// The status fields of a ProxmoxMachine that are not the contract's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MachineStatus {
    /// `notfound`, `pending` or `ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_status: Option<&'static str>,
    /// Whether the seed was attached.
    pub bootstrap_data_provided: bool,
    /// Addresses by device.
    #[serde(rename = "ipAddresses", skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<DeviceAddresses>,
    /// The node where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxmox_node: Option<String>,
}

/// What a look says of the machine.
pub(super) fn facts(
    scope: &Scope,
    claim: &MachineClaim,
    seen: &Seen,
) -> MachineFacts<MachineStatus> {
    let running = seen.power == Power::Running && !matches!(seen.phase, None | Some(Phase::Bare));
    let mut facts = MachineFacts::default();
    facts.provider_id = seen
        .uuid()
        .map(|uuid| format!("{PROVIDER_ID_SCHEME}{uuid}"))
        .or_else(|| scope.object.spec.provider_id.clone());
    facts.running = running;
    facts.addresses = addresses(scope);
    facts.failure_domain = zone::failure_domain(scope);
    facts.health = health(scope, seen, running);
    facts.spec = Map::from_iter([("virtualMachineID".to_owned(), Value::from(claim.vmid))]);
    facts.own = MachineStatus {
        vm_status: Some(match (seen.phase, running) {
            (None, _) => "notfound",
            (Some(_), true) => "ready",
            (Some(_), false) => "pending",
        }),
        bootstrap_data_provided: !matches!(seen.phase, None | Some(Phase::Bare)),
        ip_addresses: by_device(scope),
        proxmox_node: seen.phase.map(|_| seen.node.clone()),
    };
    facts
}

/// Names of the claims for addresses of the cluster's or zone's own pools.
fn default_claims(scope: &Scope) -> BTreeSet<String> {
    requests(scope)
        .unwrap_or_default()
        .into_iter()
        .filter(|request| {
            request
                .annotations
                .contains_key(pool::DEFAULT_GATEWAY_ANNOTATION)
        })
        .map(|request| request.name)
        .collect()
}

/// The host name, and the addresses of the default network; where there is none, all of them.
fn addresses(scope: &Scope) -> Vec<MachineAddress> {
    let own = default_claims(scope);
    let defaults: Vec<&Address> = scope
        .addresses
        .iter()
        .filter(|address| own.contains(&address.claim))
        .collect();
    let chosen = if defaults.is_empty() {
        scope.addresses.iter().collect()
    } else {
        defaults
    };
    let host = MachineAddress::new(AddressType::Hostname, scope.name().name);
    let inner = chosen
        .into_iter()
        .map(|address| MachineAddress::new(AddressType::InternalIP, address.ip.to_string()));
    std::iter::once(host).chain(inner).collect()
}

/// `ipAddresses`: the default pools' addresses under `default`, and all under their device.
fn by_device(scope: &Scope) -> Vec<DeviceAddresses> {
    let defaults = default_claims(scope);
    let mut nets: BTreeMap<&str, DeviceAddresses> = BTreeMap::new();
    for address in &scope.addresses {
        let own = defaults.contains(&address.claim).then_some(DEFAULT_NET);
        for net in own.into_iter().chain([address.device.as_str()]) {
            let entry = nets.entry(net).or_insert_with(|| DeviceAddresses {
                net: net.to_owned(),
                ..DeviceAddresses::default()
            });
            match Family::of(address.ip) {
                Family::V4 => entry.ipv4.push(address.ip.to_string()),
                Family::V6 => entry.ipv6.push(address.ip.to_string()),
            }
        }
    }
    nets.into_values().collect()
}

/// A machine that has become a node has booted; before that the guest is asked.
fn health(scope: &Scope, seen: &Seen, running: bool) -> Health {
    if !running {
        return Health::Good;
    }
    match seen.booted {
        Some(false) if !scope.has_node() => Health::Held {
            reason: "WaitingForCloudInit",
            message: "the machine runs, and its bootstrap has not been reported as done; if it \
                      takes long, look at its console and /var/log/cloud-init-output.log"
                .to_owned(),
        },
        Some(_) | None => Health::Good,
    }
}
