//! Rules for the kinds that their schemas cannot state, for the webhooks (rules WH-*).
//!
//! Pure, and each on the one object that is written: what needs a second object (whether a zone of the
//! cluster exists, whether the platform has a template) is said by a condition instead.

use std::net::IpAddr;

use capi_contract::admission::{Admission, Fault, managed_by_kept, template_metadata};
use capi_contract::crd::TemplateMeta;
use ipnet::IpNet;

use crate::api::{
    NetworkDevice, NetworkSpec, ProxmoxCluster, ProxmoxClusterTemplate, ProxmoxMachine,
    ProxmoxMachineSpec, ProxmoxMachineTemplate, Route, RoutingPolicy,
};
use crate::range;

/// The longest DNS name, in bytes.
const HOST_MAX: usize = 253;

/// Words that stand for all addresses of a family, and do not say which.
const ALL_ADDRESSES: [&str; 2] = ["default", "all"];

/// Rules for ProxmoxCluster.
#[derive(Clone, Copy, Debug)]
pub struct ClusterRules;

/// Rules for ProxmoxClusterTemplate.
#[derive(Clone, Copy, Debug)]
pub struct ClusterTemplateRules;

/// Rules for ProxmoxMachine.
#[derive(Clone, Copy, Debug)]
pub struct MachineRules;

/// Rules for ProxmoxMachineTemplate.
#[derive(Clone, Copy, Debug)]
pub struct MachineTemplateRules;

impl Admission for ClusterRules {
    type Kind = ProxmoxCluster;

    fn check(&self, object: &ProxmoxCluster) -> Vec<Fault> {
        let spec = &object.spec;
        let mut faults: Vec<_> = range::check(spec).iter().map(|text| split(text)).collect();
        let endpoint = spec.control_plane_endpoint.as_ref();
        let host = endpoint.and_then(|endpoint| endpoint.host.as_deref());
        if let Some(host) = host.filter(|_| !spec.external_managed_control_plane)
            && !is_host(host)
        {
            let message = format!("{host:?} is neither an IP address nor a DNS name");
            faults.push(Fault::new("spec.controlPlaneEndpoint.host", message));
        }
        faults
    }

    fn change(&self, old: &ProxmoxCluster, new: &ProxmoxCluster) -> Vec<Fault> {
        managed_by_kept(old, new).into_iter().collect()
    }
}

impl Admission for ClusterTemplateRules {
    type Kind = ProxmoxClusterTemplate;

    /// A ClusterClass may complete the spec later, so only the metadata can be judged.
    fn check(&self, object: &ProxmoxClusterTemplate) -> Vec<Fault> {
        metadata(object.spec.template.metadata.as_ref())
    }

    fn frozen(&self, old: &ProxmoxClusterTemplate, new: &ProxmoxClusterTemplate) -> Vec<Fault> {
        frozen(old.spec.template.spec == new.spec.template.spec)
    }
}

impl Admission for MachineRules {
    type Kind = ProxmoxMachine;

    fn check(&self, object: &ProxmoxMachine) -> Vec<Fault> {
        machine("spec", &object.spec)
    }

    fn change(&self, old: &ProxmoxMachine, new: &ProxmoxMachine) -> Vec<Fault> {
        if old.spec.tags == new.spec.tags {
            return Vec::new();
        }
        let message =
            "tags are given to the virtual machine when it is made; they cannot be changed";
        vec![Fault::new("spec.tags", message)]
    }
}

impl Admission for MachineTemplateRules {
    type Kind = ProxmoxMachineTemplate;

    fn check(&self, object: &ProxmoxMachineTemplate) -> Vec<Fault> {
        let template = &object.spec.template;
        let mut faults = metadata(template.metadata.as_ref());
        faults.extend(machine("spec.template.spec", &template.spec));
        faults
    }

    fn frozen(&self, old: &ProxmoxMachineTemplate, new: &ProxmoxMachineTemplate) -> Vec<Fault> {
        frozen(old.spec.template.spec == new.spec.template.spec)
    }
}

/// WH-02.
fn frozen(is_same: bool) -> Vec<Fault> {
    if is_same {
        return Vec::new();
    }
    let message = "cannot be changed: machines and clusters were made from it; make a new template \
                   and refer to that";
    vec![Fault::new("spec.template.spec", message)]
}

fn metadata(metadata: Option<&TemplateMeta>) -> Vec<Fault> {
    metadata.map_or_else(Vec::new, |it| {
        template_metadata("spec.template.metadata", &it.labels, &it.annotations)
    })
}

/// The checks of ranges begin with the field.
fn split(text: &str) -> Fault {
    match text.split_once(": ") {
        Some((field, message)) => Fault::new(field, message),
        None => Fault::new("spec", text),
    }
}

fn is_host(host: &str) -> bool {
    let outer = |b: u8| b.is_ascii_alphanumeric();
    let word = |word: &str| {
        let bytes = word.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(a, z)| outer(*a) && outer(*z))
            && bytes.iter().all(|b| outer(*b) || *b == b'-')
    };
    host.parse::<IpAddr>().is_ok() || host.len() <= HOST_MAX && host.split('.').all(word)
}

fn machine(place: &str, spec: &ProxmoxMachineSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    let network = &spec.network;
    let place = format!("{place}.network");
    devices(&place, network, &mut faults);
    for device in &network.network_devices {
        let place = format!("{place}.networkDevices[name={}]", device.name);
        for (number, route) in device.routes.iter().enumerate() {
            route_family(&format!("{place}.routes[{number}]"), route, &mut faults);
        }
        for (number, policy) in device.routing_policy.iter().enumerate() {
            let place = format!("{place}.routingPolicy[{number}]");
            if policy.table.is_none() {
                let message = "set the routing table that the rule chooses";
                faults.push(Fault::new(format!("{place}.table"), message));
            }
            policy_family(&place, policy, &mut faults);
        }
    }
    for vrf in &network.vrfs {
        let place = format!("{place}.vrfs[name={}]", vrf.name);
        for (number, route) in vrf.routes.iter().enumerate() {
            route_family(&format!("{place}.routes[{number}]"), route, &mut faults);
        }
        for (number, policy) in vrf.routing_policy.iter().enumerate() {
            let place = format!("{place}.routingPolicy[{number}]");
            if policy.table.is_some_and(|table| table != vrf.table) {
                let message = format!("must be the table of the VRF, {}, or left out", vrf.table);
                faults.push(Fault::new(format!("{place}.table"), message));
            }
            policy_family(&place, policy, &mut faults);
        }
    }
    faults
}

/// Names without gaps, and one device at most for each default pool.
fn devices(place: &str, network: &NetworkSpec, faults: &mut Vec<Fault>) {
    let all = &network.network_devices;
    let missing = (0..all.len())
        .map(|number| format!("net{number}"))
        .find(|name| all.iter().all(|device| device.name != *name));
    if let Some(missing) = missing {
        let message =
            format!("devices are net0, net1 and so on without gaps: {missing} is missing");
        faults.push(Fault::new(format!("{place}.networkDevices"), message));
    }
    type Chosen = fn(&NetworkDevice) -> Option<bool>;
    let families: [(&str, Chosen); 2] = [
        ("defaultIPv4", |device| device.default_ipv4),
        ("defaultIPv6", |device| device.default_ipv6),
    ];
    for (field, chosen) in families {
        let mut takers = all.iter().filter(|device| chosen(device) == Some(true));
        if let (Some(first), Some(second)) = (takers.next(), takers.next()) {
            let place = format!("{place}.networkDevices[name={}].{field}", second.name);
            let message = format!("only one device may set it, and {} does", first.name);
            faults.push(Fault::new(place, message));
        }
    }
}

fn route_family(place: &str, route: &Route, faults: &mut Vec<Fault>) {
    let peers = [route.to.as_deref(), route.via.as_deref()];
    family(place, peers, route.is6, "via", faults);
}

fn policy_family(place: &str, policy: &RoutingPolicy, faults: &mut Vec<Fault>) {
    let peers = [policy.to.as_deref(), policy.from.as_deref()];
    family(place, peers, policy.is6, "from", faults);
}

/// `default` and `all` are of no family; something else has to say which is meant.
fn family(
    place: &str,
    peers: [Option<&str>; 2],
    is6: Option<bool>,
    other: &str,
    faults: &mut Vec<Fault>,
) {
    let is_vague = |text: &str| ALL_ADDRESSES.contains(&text);
    let is_exact = |text: &str| text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok();
    let mut given = peers.into_iter().flatten();
    let vague = given.clone().find(|text| is_vague(text));
    if let Some(vague) = vague
        && is6.is_none()
        && !given.any(is_exact)
    {
        let message = format!(
            "{vague} is of no family: set is6, or a {other} that is an address or a network"
        );
        faults.push(Fault::new(place, message));
    }
}

#[cfg(test)]
mod tests {
    use capi_contract::admission::{Wish, review};
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn fields(faults: &[Fault]) -> Vec<&str> {
        faults.iter().map(|fault| fault.field.as_str()).collect()
    }

    /// Puts a value at a path into an object that is right.
    fn with(mut object: Value, pointer: &str, value: Value) -> Value {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match object.pointer_mut(pointer) {
            Some(there) => *there = value,
            None => object.pointer_mut(parent).unwrap()[key] = value,
        }
        object
    }

    fn cluster() -> Value {
        json!({
            "metadata": {"name": "c"},
            "spec": {
                "controlPlaneEndpoint": {"host": "10.0.0.4", "port": 6443},
                "ipv4Config": {"addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24,
                    "gateway": "10.0.0.1"},
                "dnsServers": ["10.0.0.2"],
            },
        })
    }

    fn machine_spec() -> Value {
        json!({
            "sourceNode": "pve1", "templateID": 9000, "tags": ["a"],
            "network": {
                "networkDevices": [{"name": "net0"}, {"name": "net1"}],
                "vrfs": [{"name": "vrf-blue", "table": 500, "interfaces": ["net1"]}],
            },
        })
    }

    fn machine() -> Value {
        json!({"metadata": {"name": "m"}, "spec": machine_spec()})
    }

    fn template() -> Value {
        json!({"metadata": {"name": "t"}, "spec": {"template": {"spec": machine_spec()}}})
    }

    fn ask<A: Admission>(rules: &A, old: Option<Value>, new: Value) -> Vec<Fault> {
        let read = |value: Value| -> A::Kind { serde_json::from_value(value).unwrap() };
        let (old, new) = (old.map(read), read(new));
        let wish = Wish {
            old: old.as_ref(),
            new: &new,
            dry_run: false,
        };
        review(rules, &wish)
    }

    #[test]
    fn what_is_right_is_let_in() {
        assert!(ask(&ClusterRules, None, cluster()).is_empty());
        assert!(ask(&MachineRules, None, machine()).is_empty());
        assert!(ask(&MachineTemplateRules, None, template()).is_empty());
    }

    #[rstest]
    #[case::host("/spec/controlPlaneEndpoint/host", json!("my host"),
        &["spec.controlPlaneEndpoint.host"])]
    #[case::dns_name("/spec/controlPlaneEndpoint/host", json!("api.example.com"), &[])]
    #[case::six("/spec/controlPlaneEndpoint/host", json!("fd00::1"), &[])]
    #[case::in_the_range("/spec/controlPlaneEndpoint/host", json!("10.0.0.12"),
        &["spec.controlPlaneEndpoint.host"])]
    #[case::no_endpoint("/spec/controlPlaneEndpoint", Value::Null, &[])]
    #[case::addresses("/spec/ipv4Config/addresses", json!(["10.0.0.300"]),
        &["spec.ipv4Config.addresses[0]"])]
    #[case::gateway("/spec/ipv4Config/gateway", json!("router"), &["spec.ipv4Config.gateway"])]
    #[case::name_server("/spec/dnsServers", json!(["dns.example.com"]), &["spec.dnsServers[0]"])]
    fn clusters_that_cannot_work_are_refused(
        #[case] pointer: &str,
        #[case] value: Value,
        #[case] expected: &[&str],
    ) {
        let faults = ask(&ClusterRules, None, with(cluster(), pointer, value));
        assert_eq!(fields(&faults), expected);
    }

    #[test]
    fn an_endpoint_that_others_manage_is_theirs_to_choose() {
        let external = with(cluster(), "/spec/externalManagedControlPlane", json!(true));
        let external = with(
            external,
            "/spec/controlPlaneEndpoint/host",
            json!("10.0.0.12"),
        );
        assert!(ask(&ClusterRules, None, external).is_empty());
    }

    #[test]
    fn wh_05_a_cluster_is_not_taken_back_from_another_manager() {
        let managed = json!({"cluster.x-k8s.io/managed-by": "x"});
        let managed = with(cluster(), "/metadata/annotations", managed);
        let faults = ask(&ClusterRules, Some(managed.clone()), cluster());
        let field = "metadata.annotations[cluster.x-k8s.io/managed-by]";
        assert_eq!(fields(&faults), [field]);
        assert!(ask(&ClusterRules, Some(cluster()), managed).is_empty());
    }

    const DEVICE: &str = "/spec/network/networkDevices/1";
    const VRF: &str = "/spec/network/vrfs/0";

    #[rstest]
    #[case::gap(DEVICE, json!({"name": "net2"}), &["spec.network.networkDevices"])]
    #[case::two_defaults("/spec/network/networkDevices",
        json!([{"name": "net0", "defaultIPv4": true}, {"name": "net1", "defaultIPv4": true}]),
        &["spec.network.networkDevices[name=net1].defaultIPv4"])]
    #[case::a_default_each("/spec/network/networkDevices",
        json!([{"name": "net0", "defaultIPv4": true}, {"name": "net1", "defaultIPv6": true}]), &[])]
    #[case::policy_without_table(DEVICE,
        json!({"name": "net1", "routingPolicy": [{"from": "10.1.0.0/24"}]}),
        &["spec.network.networkDevices[name=net1].routingPolicy[0].table"])]
    #[case::policy_for_all(DEVICE,
        json!({"name": "net1", "routingPolicy": [{"to": "all", "table": 7}]}),
        &["spec.network.networkDevices[name=net1].routingPolicy[0]"])]
    #[case::policy_for_all_of_six(DEVICE,
        json!({"name": "net1", "routingPolicy": [{"to": "all", "is6": true, "table": 7}]}), &[])]
    #[case::policy_from_a_network(DEVICE,
        json!({"name": "net1", "routingPolicy": [{"to": "all", "from": "10.0.0.0/8", "table": 7}]}),
        &[])]
    #[case::route_to_nowhere(DEVICE, json!({"name": "net1", "routes": [{"to": "default"}]}),
        &["spec.network.networkDevices[name=net1].routes[0]"])]
    #[case::route_by_gateway(DEVICE,
        json!({"name": "net1", "routes": [{"to": "default", "via": "10.0.0.1"}]}), &[])]
    #[case::route_by_words(DEVICE,
        json!({"name": "net1", "routes": [{"to": "default", "via": "all"}]}),
        &["spec.network.networkDevices[name=net1].routes[0]"])]
    #[case::vrf_own_table(VRF,
        json!({"name": "vrf-blue", "table": 500, "routingPolicy": [{"from": "10.0.0.0/8", "table": 500}]}),
        &[])]
    #[case::vrf_other_table(VRF,
        json!({"name": "vrf-blue", "table": 500, "routingPolicy": [{"from": "10.0.0.0/8", "table": 501}]}),
        &["spec.network.vrfs[name=vrf-blue].routingPolicy[0].table"])]
    #[case::vrf_route(VRF,
        json!({"name": "vrf-blue", "table": 500, "routes": [{"to": "default"}]}),
        &["spec.network.vrfs[name=vrf-blue].routes[0]"])]
    fn machines_that_cannot_work_are_refused(
        #[case] pointer: &str,
        #[case] value: Value,
        #[case] expected: &[&str],
    ) {
        let faults = ask(&MachineRules, None, with(machine(), pointer, value.clone()));
        assert_eq!(fields(&faults), expected);
        // The same in a template, where the path is longer.
        let pointer = pointer.replacen("/spec", "/spec/template/spec", 1);
        let faults = ask(
            &MachineTemplateRules,
            None,
            with(template(), &pointer, value),
        );
        let expected: Vec<_> = expected
            .iter()
            .map(|field| field.replacen("spec", "spec.template.spec", 1))
            .collect();
        assert_eq!(fields(&faults), expected);
    }

    #[rstest]
    #[case::provider_id("/spec/providerID", json!("proxmox://0-1"), true)]
    #[case::number("/spec/virtualMachineID", json!(101), true)]
    #[case::cores("/spec/numCores", json!(8), true)]
    #[case::labels("/metadata/labels", json!({"a": "b"}), true)]
    #[case::tags("/spec/tags", json!(["b"]), false)]
    fn wh_04_im_24_what_controllers_write_passes(
        #[case] pointer: &str,
        #[case] value: Value,
        #[case] is_let_in: bool,
    ) {
        let faults = ask(
            &MachineRules,
            Some(machine()),
            with(machine(), pointer, value),
        );
        assert_eq!(faults.is_empty(), is_let_in, "{faults:?}");
    }

    #[rstest]
    #[case::same("/metadata/labels", json!({"a": "b"}), &[])]
    #[case::metadata("/spec/template/metadata", json!({"labels": {"a": "b"}}), &[])]
    #[case::default_spelled_out("/spec/template/spec/full", json!(true), &[])]
    #[case::memory("/spec/template/spec/memoryMiB", json!(4096), &["spec.template.spec"])]
    #[case::bad_label("/spec/template/metadata", json!({"labels": {"a b": "c"}}),
        &["spec.template.metadata.labels[a b]"])]
    fn wh_02_imt_04_the_spec_of_a_template_is_frozen_and_nothing_else(
        #[case] pointer: &str,
        #[case] value: Value,
        #[case] expected: &[&str],
    ) {
        let changed = with(template(), pointer, value);
        let faults = ask(&MachineTemplateRules, Some(template()), changed);
        assert_eq!(fields(&faults), expected);
    }

    #[test]
    fn wh_02_cluster_templates_are_frozen_too() {
        let of = |prefix: i64| {
            let spec = with(cluster(), "/spec/ipv4Config/prefix", json!(prefix))["spec"].take();
            json!({"metadata": {"name": "t"}, "spec": {"template": {"spec": spec}}})
        };
        assert!(ask(&ClusterTemplateRules, Some(of(24)), of(24)).is_empty());
        let faults = ask(&ClusterTemplateRules, Some(of(24)), of(25));
        assert_eq!(fields(&faults), ["spec.template.spec"]);
    }
}
