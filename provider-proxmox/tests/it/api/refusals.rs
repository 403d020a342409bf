//! One refused object for every rule of the schema, with the message that the user reads.

use rstest::rstest;
use serde_json::{Value, json};

use super::{documents, schema_of};

fn cluster() -> Value {
    documents(include_str!("manifests/dual-stack.yaml")).remove(0)
}

fn machine() -> Value {
    documents(include_str!("manifests/vrf.yaml")).remove(0)
}

fn machine_template() -> Value {
    documents(include_str!("manifests/default.yaml")).remove(1)
}

/// What the server says about an object, all in one text.
fn verdict(object: &Value, old: Option<&Value>) -> String {
    let schema = schema_of(object);
    let settle = |object: &Value| {
        let mut object = object.clone();
        schema.prune(&mut object);
        schema.fill_defaults(&mut object);
        object
    };
    let errors = schema.validate(&settle(object), old.map(settle).as_ref());
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Sets the value at a JSON pointer, or takes it away if the value is null.
fn change(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = object
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("nothing at {parent}"));
    if value.is_null() {
        parent.as_object_mut().unwrap().remove(key);
    } else {
        parent[key] = value;
    }
}

fn assert_refused(mut object: Value, changes: &[(&str, Value)], expected: &str) {
    assert_eq!(
        verdict(&object, None),
        "",
        "the object is right before the change"
    );
    for (pointer, value) in changes {
        change(&mut object, pointer, value.clone());
    }
    let verdict = verdict(&object, None);
    assert!(
        verdict.contains(expected),
        "expected {expected:?} in:\n{verdict}"
    );
}

#[rstest]
#[case::no_addresses_at_all(
    &[("/spec/ipv4Config", Value::Null), ("/spec/ipv6Config", Value::Null)],
    "at least one of ipv4Config and ipv6Config is required"
)]
#[case::empty_addresses(
    &[("/spec/ipv4Config/addresses", json!([]))],
    "at least one address, range or CIDR block is required"
)]
#[case::repeated_addresses(
    &[("/spec/ipv4Config/addresses", json!(["10.0.0.1", "10.0.0.1"]))],
    "spec.ipv4Config.addresses[1]: Duplicate value"
)]
#[case::prefix(&[("/spec/ipv6Config/prefix", json!(129))], "spec.ipv6Config.prefix")]
#[case::no_gateway(&[("/spec/ipv4Config/gateway", Value::Null)], "spec.ipv4Config.gateway: Required")]
#[case::empty_gateway(&[("/spec/ipv4Config/gateway", json!(""))], "spec.ipv4Config.gateway")]
#[case::metric(&[("/spec/ipv4Config/metric", json!(-1))], "spec.ipv4Config.metric")]
#[case::no_name_servers(&[("/spec/dnsServers", json!([]))], "spec.dnsServers")]
#[case::missing_name_servers(&[("/spec/dnsServers", Value::Null)], "spec.dnsServers: Required")]
#[case::port_zero(&[("/spec/controlPlaneEndpoint/port", json!(0))], "spec.controlPlaneEndpoint.port")]
#[case::port_beyond(
    &[("/spec/controlPlaneEndpoint/port", json!(65536))],
    "spec.controlPlaneEndpoint.port"
)]
#[case::empty_host(&[("/spec/controlPlaneEndpoint/host", json!(""))], "spec.controlPlaneEndpoint.host")]
#[case::empty_endpoint(&[("/spec/controlPlaneEndpoint", json!({}))], "spec.controlPlaneEndpoint")]
#[case::adjustment(
    &[("/spec/schedulerHints", json!({"memoryAdjustment": -1}))],
    "spec.schedulerHints.memoryAdjustment"
)]
#[case::repeated_node(&[("/spec/allowedNodes", json!(["a", "a"]))], "spec.allowedNodes[1]: Duplicate")]
#[case::zone_twice(
    &[("/spec/zoneConfig", json!([
        {"zone": "a", "dnsServers": ["10.0.0.2"]},
        {"zone": "a", "dnsServers": ["10.0.0.2"]}
    ]))],
    "spec.zoneConfig[1]: Duplicate"
)]
#[case::zone_name(
    &[("/spec/zoneConfig", json!([{"zone": "-a", "dnsServers": ["10.0.0.2"]}]))],
    "spec.zoneConfig[0].zone"
)]
#[case::zone_without_addresses(
    &[("/spec/zoneConfig", json!([{
        "zone": "a",
        "dnsServers": ["10.0.0.2"],
        "ipv4Config": {"addresses": [], "prefix": 24, "gateway": "10.0.0.1"}
    }]))],
    "at least one address, range or CIDR block is required"
)]
#[case::wrong_type(&[("/spec/ipv4Config/prefix", json!("24"))], "must be of type integer")]
fn clusters(#[case] changes: &[(&str, Value)], #[case] expected: &str) {
    assert_refused(cluster(), changes, expected);
}

#[rstest]
#[case::no_source(
    &[("/spec/sourceNode", Value::Null), ("/spec/templateID", Value::Null)],
    "name the template either by sourceNode and templateID or by templateSelector"
)]
#[case::half_a_source(
    &[("/spec/sourceNode", Value::Null)],
    "name the template either by sourceNode and templateID or by templateSelector"
)]
#[case::two_sources(
    &[("/spec/templateSelector", json!({"matchTags": ["a"]}))],
    "name the template either by sourceNode and templateID or by templateSelector"
)]
#[case::selector_without_tags(
    &[
        ("/spec/sourceNode", Value::Null),
        ("/spec/templateID", Value::Null),
        ("/spec/templateSelector", json!({"matchTags": []}))
    ],
    "spec.templateSelector.matchTags"
)]
#[case::selector_tag(
    &[
        ("/spec/sourceNode", Value::Null),
        ("/spec/templateID", Value::Null),
        ("/spec/templateSelector", json!({"matchTags": ["a b"]}))
    ],
    "spec.templateSelector.matchTags[0]"
)]
#[case::selector_policy(
    &[
        ("/spec/sourceNode", Value::Null),
        ("/spec/templateID", Value::Null),
        ("/spec/templateSelector", json!({"matchTags": ["a"], "matchPolicy": "subset"}))
    ],
    "supported values: \"exact\", \"uniqueSubset\", \"bestSubset\""
)]
#[case::format_of_a_linked_clone(
    &[("/spec/full", json!(false)), ("/spec/format", json!("raw"))],
    "format can only be chosen for a full clone: set full to true"
)]
#[case::storage_of_a_linked_clone(
    &[("/spec/full", json!(false)), ("/spec/storage", json!("local"))],
    "storage can only be chosen for a full clone: set full to true"
)]
#[case::format(
    &[("/spec/format", json!("vdi"))],
    "supported values: \"raw\", \"qcow2\", \"vmdk\""
)]
#[case::provider_id(&[("/spec/providerID", json!("proxmox://104"))], "spec.providerID")]
#[case::sockets(&[("/spec/numSockets", json!(0))], "spec.numSockets")]
#[case::cores(&[("/spec/numCores", json!(0))], "spec.numCores")]
#[case::memory(&[("/spec/memoryMiB", json!(1001))], "spec.memoryMiB")]
#[case::disk_size(
    &[("/spec/disks", json!({"bootVolume": {"disk": "scsi0", "sizeGb": 4}}))],
    "spec.disks.bootVolume.sizeGb"
)]
#[case::disk_name(
    &[("/spec/disks", json!({"bootVolume": {"disk": "", "sizeGb": 10}}))],
    "spec.disks.bootVolume.disk"
)]
#[case::range_backwards(
    &[("/spec/vmIDRange", json!({"start": 200, "end": 100}))],
    "end must not be smaller than start"
)]
#[case::range_too_low(&[("/spec/vmIDRange", json!({"start": 99, "end": 100}))], "spec.vmIDRange.start")]
#[case::empty_tags(&[("/spec/tags", json!([]))], "spec.tags")]
#[case::tag(&[("/spec/tags", json!(["a;b"]))], "spec.tags[0]")]
#[case::no_network(&[("/spec/network", Value::Null)], "spec.network: Required")]
#[case::no_devices(
    &[("/spec/network/networkDevices", Value::Null)],
    "spec.network.networkDevices: Required"
)]
#[case::device_name(
    &[("/spec/network/networkDevices/0/name", json!("eth0"))],
    "spec.network.networkDevices[0].name"
)]
#[case::device_twice(
    &[("/spec/network/networkDevices/1/name", json!("net0"))],
    "spec.network.networkDevices[1]: Duplicate"
)]
#[case::model(
    &[("/spec/network/networkDevices/0/model", json!("ne2k"))],
    "supported values: \"e1000\", \"virtio\", \"rtl8139\", \"vmxnet3\""
)]
#[case::bridge(&[("/spec/network/networkDevices/0/bridge", json!(""))], "networkDevices[0].bridge")]
#[case::mtu(
    &[("/spec/network/networkDevices/0/mtu", json!(575))],
    "the MTU must be 1 (inherit the bridge's) or between 576 and 65520"
)]
#[case::link_mtu(
    &[("/spec/network/networkDevices/0/linkMtu", json!(65521))],
    "the MTU must be 1 (inherit the bridge's) or between 576 and 65520"
)]
#[case::vlan(&[("/spec/network/networkDevices/0/vlan", json!(4095))], "networkDevices[0].vlan")]
#[case::queues(&[("/spec/network/networkDevices/0/queues", json!(0))], "networkDevices[0].queues")]
#[case::pool_group(
    &[("/spec/network/networkDevices/1/ipPoolRef/0/apiGroup", json!("example.com"))],
    "apiGroup must be ipam.cluster.x-k8s.io"
)]
#[case::pool_without_group(
    &[("/spec/network/networkDevices/1/ipPoolRef/0/apiGroup", Value::Null)],
    "apiGroup must be ipam.cluster.x-k8s.io"
)]
#[case::pool_kind(
    &[("/spec/network/networkDevices/1/ipPoolRef/0/kind", json!("IPPool"))],
    "kind must be InClusterIPPool or GlobalInClusterIPPool"
)]
#[case::rule_of_the_kernel(
    &[("/spec/network/networkDevices/1/routingPolicy/0/priority", json!(32766))],
    "priorities 0, 32765 and 32766 belong to the rules of the kernel"
)]
#[case::empty_routes(&[("/spec/network/networkDevices/1/routes", json!([]))], "routes")]
#[case::zone(&[("/spec/network/zone", json!("a zone"))], "spec.network.zone")]
#[case::vrf_name(&[("/spec/network/vrfs/0/name", json!("ab"))], "spec.network.vrfs[0].name")]
#[case::table_of_the_kernel(
    &[("/spec/network/vrfs/0/table", json!(254))],
    "tables 254 and 255 belong to the kernel"
)]
#[case::table_beyond(&[("/spec/network/vrfs/0/table", json!(4_294_967_296_i64))], "vrfs[0].table")]
fn machines(#[case] changes: &[(&str, Value)], #[case] expected: &str) {
    assert_refused(machine(), changes, expected);
}

#[rstest]
#[case::provider_id(
    &[(
        "/spec/template/spec/providerID",
        json!("proxmox://6c3fa683-bef9-4425-b413-eaa45a9d6191")
    )],
    "a template cannot have a providerID"
)]
#[case::rules_of_machines_hold(
    &[("/spec/template/spec/full", json!(false))],
    "format can only be chosen for a full clone"
)]
fn machine_templates(#[case] changes: &[(&str, Value)], #[case] expected: &str) {
    assert_refused(machine_template(), changes, expected);
}

#[test]
fn the_boot_volume_cannot_change() {
    let mut old = machine();
    change(
        &mut old,
        "/spec/disks",
        json!({"bootVolume": {"disk": "scsi0", "sizeGb": 50}}),
    );
    let mut new = old.clone();
    assert_eq!(verdict(&new, Some(&old)), "");
    change(&mut new, "/spec/disks/bootVolume/sizeGb", json!(60));
    let verdict = verdict(&new, Some(&old));
    assert!(
        verdict.contains("the boot volume cannot be changed"),
        "{verdict}"
    );
}

#[rstest]
#[case::reason(json!({"reason": ""}))]
#[case::reason_with_blanks(json!({"reason": "not camel case"}))]
#[case::status(json!({"status": "true"}))]
#[case::kind(json!({"type": ""}))]
fn malformed_conditions(#[case] wrong: Value) {
    let mut condition = json!({
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "",
        "lastTransitionTime": "2026-11-21T10:00:00Z"
    });
    let mut object = machine();
    object["status"] = json!({"conditions": [condition.clone()]});
    assert_eq!(verdict(&object, None), "");
    for (key, value) in wrong.as_object().unwrap() {
        condition[key] = value.clone();
    }
    object["status"]["conditions"][0] = condition;
    assert!(verdict(&object, None).contains("status.conditions[0]"));
}
