//! What is told to Kubernetes about a machine. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use capi_contract::{AddressType, Health, MachineAddress, MachineFacts, NodeWish};
use serde::Serialize;

use super::Scope;
use super::claim::MachineClaim;
use super::observe::Seen;
use super::plan;
use crate::api::{CheckStrategy, PROVIDER_ID_SCHEME};
use crate::infra::{ConditionView, InstanceView};

/// The status fields of a KubevirtMachine that are not the contract's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MachineStatus {
    /// Whether the VM runs, as the Go provider shows it.
    pub ready: bool,
    /// The infra node that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infra_node: Option<String>,
}

/// What a look says of the machine.
pub(super) fn facts(
    scope: &Scope,
    claim: &MachineClaim,
    seen: &Seen,
) -> MachineFacts<MachineStatus> {
    let instance = seen.instance.as_deref();
    let running = instance.filter(|one| one.status.phase == "Running");
    let stored = scope.object.spec.provider_id.clone();
    let stored = stored.filter(|id| !id.is_empty());
    let mut facts = MachineFacts::default();
    facts.provider_id =
        Some(stored.unwrap_or_else(|| format!("{PROVIDER_ID_SCHEME}{}", claim.name)));
    facts.running = running.is_some();
    facts.addresses = running.map_or_else(Vec::new, |one| with_names(scope, claim, one));
    facts.failure_domain = scope.failure_domain.clone();
    facts.health = running.map_or(Health::Good, |one| health(scope, one));
    facts.own = MachineStatus {
        ready: running.is_some(),
        infra_node: instance.and_then(|one| one.status.node_name.clone()),
    };
    // The host name of a guest is the name of its VM, and a Node is called as its host.
    let node = NodeWish::provider_id().of(&claim.name);
    facts.node = Some(if plan::wants_drain(seen) {
        node.drain(plan::DRAIN_WITHIN)
    } else {
        node
    });
    facts
}

/// The addresses of an instance's own interfaces, in the order of the spec's networks, each once.
/// What only the guest knows (bridges of its CNI, of containers) has no name of the spec.
pub(super) fn addresses(_scope: &Scope, instance: &InstanceView) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let networks = instance.spec.networks.iter();
    let interfaces = networks.filter_map(|network| {
        let mut all = instance.status.interfaces.iter();
        all.find(|one| !one.name.is_empty() && one.name == network.name)
    });
    let texts = interfaces.flat_map(|one| one.ip_address.iter().chain(&one.ip_addresses));
    texts
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .filter(|ip| !is_local(ip))
        .filter(|ip| seen.insert(*ip))
        .collect()
}

/// Addresses of a link or of the guest itself reach nobody.
fn is_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// Host name, addresses, and the host name once more as a DNS name, as the Go provider has it.
fn with_names(scope: &Scope, claim: &MachineClaim, instance: &InstanceView) -> Vec<MachineAddress> {
    let inner = addresses(scope, instance);
    if inner.is_empty() {
        return Vec::new();
    }
    let host = MachineAddress::new(AddressType::Hostname, claim.name.as_str());
    let dns = MachineAddress::new(AddressType::InternalDNS, claim.name.as_str());
    let inner = inner
        .into_iter()
        .map(|ip| MachineAddress::new(AddressType::InternalIP, ip.to_string()));
    [host].into_iter().chain(inner).chain([dns]).collect()
}

/// Whether the bootstrap is known to be unfinished: the guest agent is there and the probe of the
/// template does not succeed yet. A machine that has become a node has booted.
fn health(scope: &Scope, instance: &InstanceView) -> Health {
    let check = scope
        .object
        .spec
        .virtual_machine_bootstrap_check
        .check_strategy;
    if check == CheckStrategy::None || scope.has_node() {
        return Health::Good;
    }
    let holds = |kind: &str| {
        let one = ConditionView::find(&instance.status.conditions, kind);
        one.is_some_and(ConditionView::is_true)
    };
    if instance.spec.readiness_probe.is_none() || !holds("AgentConnected") || holds("Ready") {
        return Health::Good;
    }
    Health::Held {
        reason: "WaitingForBootstrap",
        message: "the guest agent answers, and the readiness probe of the template does not \
                  succeed yet; if it takes long, look at the console of the VM"
            .to_owned(),
    }
}
