//! What is told to Kubernetes about a machine. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use capi_contract::condition::{Report, Status};
use capi_contract::{AddressType, Health, MachineAddress, MachineFacts, NodeWish};
use serde::Serialize;

use super::Scope;
use super::claim::MachineClaim;
use super::observe::Seen;
use super::plan;
use crate::api::{CheckStrategy, PROVIDER_ID_SCHEME};
use crate::infra::{ConditionView, InstanceView, NetworkView};
use crate::login::Answer;

/// Condition: the bootstrap of the guest is over. The Go provider's name.
const BOOTSTRAPPED: &str = "BootstrapExecSucceeded";
/// Condition: the VM can be moved to another infra node. The Go provider's name.
const MIGRATABLE: &str = "VMLiveMigratable";
/// The conditions beside the contract's.
pub(super) const CONDITIONS: &[&str] = &[BOOTSTRAPPED, MIGRATABLE];

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
    if let Some(running) = running {
        let boot = boot(scope, running, seen.login.as_ref());
        facts.health = boot.health();
        facts.conditions = [Some(boot.report()), migratable(running)]
            .into_iter()
            .flatten()
            .collect();
    }
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

/// The addresses of an instance's own interfaces, in the order of the spec's networks, each once: those
/// of pools, which the guest was told, and what KubeVirt reports. What only the guest knows (its
/// loopback, bridges of its CNI, of containers) has no name of the spec. So whatever the infra cluster
/// reports for an interface that has one is the machine's, also on a single host where all of them lie
/// inside 127.0.0.0/8.
///
/// None as long as a network that comes with an address has none yet: those of pools are known early.
pub(super) fn addresses(scope: &Scope, instance: &InstanceView) -> Vec<IpAddr> {
    let (mut seen, mut all) = (BTreeSet::new(), Vec::new());
    for network in &instance.spec.networks {
        let given = scope.addresses.iter();
        let given = given.filter(|one| one.device == network.name);
        let own = given
            .map(|one| one.ip)
            .chain(reported_at(instance, network));
        let before = all.len();
        all.extend(own.filter(|ip| seen.insert(*ip)));
        if network.is_of_pod() && all.len() == before {
            return Vec::new();
        }
    }
    all
}

/// What KubeVirt reports, in the order of the spec's networks, to be dialled: what a guest says of itself
/// must not lead this program to its own host.
pub(super) fn reported(instance: &InstanceView) -> Vec<IpAddr> {
    let networks = instance.spec.networks.iter();
    let mut seen = BTreeSet::new();
    let all = networks.flat_map(|network| reported_at(instance, network));
    all.filter(|ip| !ip.is_loopback() && seen.insert(*ip))
        .collect()
}

fn reported_at(instance: &InstanceView, network: &NetworkView) -> Vec<IpAddr> {
    let mut interfaces = instance.status.interfaces.iter();
    let interface = interfaces.find(|one| !one.name.is_empty() && one.name == network.name);
    let texts = interface
        .into_iter()
        .flat_map(|one| one.ip_address.iter().chain(&one.ip_addresses));
    let all = texts.filter_map(|text| text.parse::<IpAddr>().ok());
    all.filter(|ip| !is_of_a_link(ip)).collect()
}

/// Addresses of a link mean nothing beyond it.
fn is_of_a_link(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
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

/// How the bootstrap stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot<'a> {
    /// Nobody looks.
    Unchecked,
    /// It is done.
    Done,
    /// The guest says that it is not done yet.
    Unfinished,
    /// The guest was asked by SSH, and is not done, or did not answer.
    Asked(&'a str),
    /// There is no agent in the guest, or it has not connected yet.
    NoAgent,
    /// The agent is there, and the template does not say what to ask it.
    NoProbe,
}

/// A machine that has become a node has booted; before that the guest is asked, by its agent unless by SSH.
fn boot<'a>(scope: &Scope, instance: &InstanceView, login: Option<&'a Answer>) -> Boot<'a> {
    let check = scope
        .object
        .spec
        .virtual_machine_bootstrap_check
        .check_strategy;
    let holds = |kind: &str| {
        let one = ConditionView::find(&instance.status.conditions, kind);
        one.is_some_and(ConditionView::is_true)
    };
    match check {
        CheckStrategy::None => return Boot::Unchecked,
        CheckStrategy::Ssh if scope.has_node() => return Boot::Done,
        CheckStrategy::Ssh => {}
    }
    match login {
        Some(Answer::Done) => Boot::Done,
        Some(Answer::NotYet(why)) => Boot::Asked(why),
        None if !holds("AgentConnected") => Boot::NoAgent,
        None if instance.spec.readiness_probe.is_none() => Boot::NoProbe,
        None if holds("Ready") => Boot::Done,
        None => Boot::Unfinished,
    }
}

impl Boot<'_> {
    fn health(self) -> Health {
        match self {
            Self::Unfinished => Health::Held {
                reason: "WaitingForBootstrap",
                message: UNFINISHED.to_owned(),
            },
            Self::Asked(why) => Health::Held {
                reason: "WaitingForBootstrap",
                message: why.to_owned(),
            },
            Self::Unchecked | Self::Done | Self::NoAgent | Self::NoProbe => Health::Good,
        }
    }

    fn report(self) -> Report {
        let (status, reason, message) = match self {
            Self::Unchecked => (Status::True, "BootstrapNotChecked", "checkStrategy is none"),
            Self::Done => (Status::True, "BootstrapSucceeded", ""),
            Self::Unfinished => (Status::False, "WaitingForBootstrap", UNFINISHED),
            Self::Asked(why) => (Status::False, "WaitingForBootstrap", why),
            Self::NoAgent => (
                Status::Unknown,
                "BootstrapCheckingNotSupported",
                "no guest agent is connected; install qemu-guest-agent in the image, or set \
                 checkStrategy to none",
            ),
            Self::NoProbe => (
                Status::Unknown,
                "BootstrapCheckingNotSupported",
                "the template has no readinessProbe; add one that runs test -f \
                 /run/cluster-api/bootstrap-success.complete, or set checkStrategy to none",
            ),
        };
        Report::new(BOOTSTRAPPED, status, reason, message)
    }
}

const UNFINISHED: &str = "the guest agent answers, and the readinessProbe of the template does not \
     succeed yet; if it takes long, look at the console of the VM";

/// Whether the VM can be moved to another infra node, in KubeVirt's words.
fn migratable(instance: &InstanceView) -> Option<Report> {
    let one = ConditionView::find(&instance.status.conditions, "LiveMigratable")?;
    let status = match one.status.as_str() {
        "True" => Status::True,
        "False" => Status::False,
        _ => Status::Unknown,
    };
    let reason = match one.reason.as_str() {
        "" if one.is_true() => "LiveMigratable",
        "" => "NotLiveMigratable",
        reason => reason,
    };
    Some(Report::new(MIGRATABLE, status, reason, &one.message))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::fixture::{claim, joined, scope, seen};
    use super::*;

    fn told(instance: Value) -> MachineFacts<MachineStatus> {
        facts(&scope(), &claim(), &seen(json!({}), Some(instance)))
    }

    /// Defect 6: what only the guest knows is not published, nothing twice, nothing as external.
    #[test]
    fn defect_6_addresses_are_those_of_the_interfaces_of_the_spec() {
        let facts = told(json!({
            "spec": {"networks": [{"name": "default"}, {"name": "storage"}]},
            "status": {"interfaces": [
                {"ipAddress": "10.0.42.1", "ipAddresses": ["10.0.42.1"], "interfaceName": "cni0"},
                {"name": "other", "ipAddress": "172.17.0.1"},
                {"name": "storage", "ipAddress": "192.168.7.4", "ipAddresses": ["192.168.7.4"]},
                {"name": "default", "ipAddress": "10.0.0.7",
                 "ipAddresses": ["10.0.0.7", "fd00::7", "fe80::1", "10.0.0.7"]},
            ]},
        }));
        let shown: Vec<_> = facts
            .addresses
            .iter()
            .map(|one| (one.kind, &*one.address))
            .collect();
        assert_eq!(
            shown,
            [
                (AddressType::Hostname, "m"),
                (AddressType::InternalIP, "10.0.0.7"),
                (AddressType::InternalIP, "fd00::7"),
                (AddressType::InternalIP, "192.168.7.4"),
                (AddressType::InternalDNS, "m"),
            ]
        );
    }

    /// An interface counts by its name: the guest's loopback has none of the spec, and an infra cluster
    /// on one host gives its machines addresses inside 127.0.0.0/8.
    #[test]
    fn defect_6_loopback_is_told_by_name_and_not_by_address() {
        let facts = told(json!({"status": {"interfaces": [
            {"interfaceName": "lo", "ipAddress": "127.0.0.1", "ipAddresses": ["127.0.0.1", "::1"],
             "infoSource": "guest-agent"},
            {"name": "default", "ipAddress": "127.60.0.10",
             "ipAddresses": ["127.60.0.10", "169.254.0.1", "fe80::1"],
             "infoSource": "domain, guest-agent"},
        ]}}));
        let inner: Vec<_> = facts
            .addresses
            .iter()
            .filter(|one| one.kind == AddressType::InternalIP)
            .map(|one| &*one.address)
            .collect();
        assert_eq!(inner, ["127.60.0.10"]);
    }

    /// A guest that names its own loopback must not lead this program to its own host.
    #[test]
    fn what_is_dialled_is_reported_by_name_and_beyond_a_host_and_a_link() {
        let look = json!({
            "spec": {"networks": [{"name": "default"}, {"name": "storage"}, {"name": ""}]},
            "status": {"interfaces": [
                {"interfaceName": "cni0", "ipAddress": "10.0.42.1"},
                {"name": "other", "ipAddress": "172.17.0.1"},
                {"name": "storage", "ipAddress": "10.0.0.7", "ipAddresses": ["169.254.0.1", "192.168.7.4"]},
                {"name": "default", "ipAddress": "10.0.0.7",
                 "ipAddresses": ["127.0.0.1", "127.60.0.10", "::1", "fe80::1", "fd00::7"]},
            ]},
        });
        let look = seen(json!({}), Some(look));
        let all = reported(look.instance.as_deref().unwrap());
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.7", "fd00::7", "192.168.7.4"]);
    }

    #[rstest]
    #[case("True", "", Status::True, "LiveMigratable")]
    #[case("False", "", Status::False, "NotLiveMigratable")]
    #[case(
        "False",
        "DisksNotLiveMigratable",
        Status::False,
        "DisksNotLiveMigratable"
    )]
    #[case("Unknown", "", Status::Unknown, "NotLiveMigratable")]
    fn whether_a_vm_can_move_is_told_in_kubevirts_words(
        #[case] status: &str,
        #[case] reason: &str,
        #[case] told_as: Status,
        #[case] why: &str,
    ) {
        let condition = json!({
            "type": "LiveMigratable", "status": status, "reason": reason, "message": "of a disk",
        });
        let facts = told(json!({"status": {"conditions": [condition]}}));
        let report = facts.conditions.iter().find(|one| one.kind == MIGRATABLE);
        let report = report.unwrap();
        assert_eq!((report.status, report.reason.as_str()), (told_as, why));
        assert_eq!(report.message, "of a disk");
    }

    /// IM-05, IM-07: before it runs, a machine has its id and its place.
    #[test]
    fn im_05_a_vm_that_does_not_run_has_no_addresses() {
        let mut scope = scope();
        scope.failure_domain = Some("west".into());
        scope.object.spec.provider_id = Some(String::new());
        let told = |phase: &str| {
            let status = json!({"phase": phase, "nodeName": "node-1"});
            let look = seen(json!({}), Some(json!({"status": status})));
            facts(&scope, &claim(), &look)
        };
        for (phase, running) in [("Scheduled", false), ("Running", true), ("Failed", false)] {
            let facts = told(phase);
            assert_eq!(facts.running, running, "{phase}");
            assert_eq!(!facts.addresses.is_empty(), running, "{phase}");
            assert_eq!(!facts.conditions.is_empty(), running, "{phase}");
            let status = MachineStatus {
                ready: running,
                infra_node: Some("node-1".into()),
            };
            assert_eq!(facts.own, status);
            assert_eq!(facts.provider_id.as_deref(), Some("kubevirt://m"));
            assert_eq!(facts.failure_domain.as_deref(), Some("west"));
            assert_eq!(facts.node, Some(NodeWish::provider_id().of("m")));
        }
    }

    /// Defect 7: nothing is dialled at an address, so IPv6 alone is enough.
    #[test]
    fn defect_7_a_machine_with_ipv6_alone_is_a_machine() {
        let facts = told(json!({"status": {"interfaces": [
            {"name": "default", "ipAddress": "fd00::7", "ipAddresses": ["fd00::7"]},
        ]}}));
        assert!(facts.running && facts.addresses.iter().any(|one| one.address == "fd00::7"));
    }

    /// KubeVirt does not report what a guest without agent has on a secondary network.
    #[test]
    fn im_08_addresses_of_pools_are_told_once_the_pods_own_is_known() {
        let mut scope = scope();
        let given = |device: &str, ip: &str| capi_contract::Address {
            claim: format!("m-{device}-00"),
            device: device.into(),
            ip: ip.parse().unwrap(),
            prefix: 24,
            gateway: None,
        };
        scope.addresses = vec![given("storage", "10.7.0.5")];
        let told = |interfaces: Value, networks: Value| {
            let look = json!({
                "spec": {"networks": networks}, "status": {"interfaces": interfaces},
            });
            let facts = facts(&scope, &claim(), &seen(json!({}), Some(look)));
            let ips = facts.addresses.into_iter();
            let ips = ips.filter(|one| one.kind == AddressType::InternalIP);
            ips.map(|one| one.address).collect::<Vec<_>>()
        };
        let both = json!([{"name": "default", "pod": {}}, {"name": "storage", "multus": {}}]);
        let pod = json!([{"name": "default", "ipAddress": "10.0.0.7"}, {"name": "storage"}]);
        assert_eq!(told(pod, both.clone()), ["10.0.0.7", "10.7.0.5"]);
        assert!(told(json!([{"name": "storage"}]), both.clone()).is_empty());
        let reported = json!([{"name": "storage", "ipAddresses": ["10.7.0.5", "fd00::5"]}]);
        let alone = json!([{"name": "storage", "multus": {"networkName": "s"}}]);
        assert_eq!(told(reported, alone), ["10.7.0.5", "fd00::5"]);
        scope.addresses.clear();
        let told = |interfaces: Value| {
            let look = json!({
                "spec": {"networks": both}, "status": {"interfaces": interfaces},
            });
            facts(&scope, &claim(), &seen(json!({}), Some(look))).addresses
        };
        let pod = told(json!([{"name": "default", "ipAddress": "10.0.0.7"}]));
        assert_eq!(pod.len(), 3, "a network without pools holds nothing back");
        assert_eq!(told(json!([])), [], "no names without an address");
    }

    #[test]
    fn im_04_a_provider_id_that_is_there_stays() {
        let look = seen(json!({}), Some(json!({})));
        let id = |scope: &Scope| facts(scope, &claim(), &look).provider_id.unwrap();
        let mut other = scope();
        assert_eq!(id(&other), "kubevirt://m");
        other.object.spec.provider_id = Some("kubevirt://tenant/m".into());
        assert_eq!(id(&other), "kubevirt://tenant/m");
    }

    /// Defect 14, pull request 30: the agent is asked, and a wait is no failure.
    #[rstest]
    #[case::no_agent(&[], true, Status::Unknown, "BootstrapCheckingNotSupported", true)]
    #[case::no_probe(&["AgentConnected"], false, Status::Unknown, "BootstrapCheckingNotSupported", true)]
    #[case::unfinished(&["AgentConnected"], true, Status::False, "WaitingForBootstrap", false)]
    #[case::done(&["AgentConnected", "Ready"], true, Status::True, "BootstrapSucceeded", true)]
    fn defect_14_the_bootstrap_is_checked_by_the_guest_agent(
        #[case] conditions: &[&str],
        #[case] probe: bool,
        #[case] status: Status,
        #[case] reason: &str,
        #[case] good: bool,
    ) {
        let conditions = conditions
            .iter()
            .map(|kind| json!({"type": kind, "status": "True"}));
        let mut instance = json!({"status": {"conditions": conditions.collect::<Vec<_>>()}});
        if probe {
            instance["spec"] = json!({"readinessProbe": {"exec": {"command": ["true"]}}});
        }
        let facts = told(instance.clone());
        let report = facts
            .conditions
            .iter()
            .find(|one| one.kind == BOOTSTRAPPED)
            .unwrap();
        assert_eq!((report.status, report.reason.as_str()), (status, reason));
        assert_eq!(facts.health == Health::Good, good);
        // Once the Node is there, nobody asks any more.
        let after = super::facts(&joined(), &claim(), &seen(json!({}), Some(instance)));
        assert_eq!(after.health, Health::Good);
    }

    #[test]
    fn a_node_is_emptied_only_while_its_vm_cannot_move() {
        let leaving = |migratable: &str| {
            let condition = json!([{"type": "LiveMigratable", "status": migratable}]);
            seen(
                json!({}),
                Some(json!({
                    "spec": {"evictionStrategy": "External"},
                    "status": {"evacuationNodeName": "node-1", "conditions": condition},
                })),
            )
        };
        let wish = |seen: &Seen| facts(&scope(), &claim(), seen).node.unwrap();
        assert_eq!(wish(&leaving("True")).drain_within, None);
        assert_eq!(
            wish(&leaving("False")).drain_within,
            Some(plan::DRAIN_WITHIN)
        );
        let calm = seen(json!({}), Some(json!({})));
        assert_eq!(wish(&calm).drain_within, None);
        assert!(wish(&calm).provider_id);
    }
}
