//! `spec.network`: devices, addresses, routes, rules, VRFs. The guest is the judge.

use pve_sim::NodeSpec;
use serde_json::json;

use super::fields;
use super::outcome::{Setting, effect, effect_on};

fields! {
    /// Which device of the VM it is, and its interface in the guest: eth0 for net0 and so on.
    "ProxmoxMachine.spec.network.networkDevices[].name" => name;
    /// The device of the VM is attached to this bridge.
    "ProxmoxMachine.spec.network.networkDevices[].bridge" => bridge;
    /// The device of the VM is of this model.
    "ProxmoxMachine.spec.network.networkDevices[].model" => model;
    /// The device of the VM has this MTU.
    "ProxmoxMachine.spec.network.networkDevices[].mtu" => mtu;
    /// The device of the VM has this VLAN tag.
    "ProxmoxMachine.spec.network.networkDevices[].vlan" => vlan;
    /// The device of the VM has so many queues.
    "ProxmoxMachine.spec.network.networkDevices[].queues" => queues;
    /// The device gets an address from the IPv4 pool of the cluster or zone.
    "ProxmoxMachine.spec.network.networkDevices[].defaultIPv4" => default_ipv4;
    /// The device gets an address from the IPv6 pool of the cluster or zone.
    "ProxmoxMachine.spec.network.networkDevices[].defaultIPv6" => default_ipv6;
    /// The device gets an address from this pool; its gateway comes behind that of the default pool.
    "ProxmoxMachine.spec.network.networkDevices[].ipPoolRef[].name" => pool_name;
    /// The pool is one of the namespace or one of the whole cluster.
    "ProxmoxMachine.spec.network.networkDevices[].ipPoolRef[].kind" => pool_kind;
    /// The pool's group; no other than that of IPAM is accepted.
    "ProxmoxMachine.spec.network.networkDevices[].ipPoolRef[].apiGroup" => pool_group;
    /// The guest asks these name servers, instead of the cluster's or zone's.
    "ProxmoxMachine.spec.network.networkDevices[].dnsServers[]" => dns_servers;
    /// The guest's interface has this MTU.
    "ProxmoxMachine.spec.network.networkDevices[].linkMtu" => link_mtu;
    /// The guest has a route to there.
    "ProxmoxMachine.spec.network.networkDevices[].routes[].to" => route_to;
    /// The route leads through this gateway.
    "ProxmoxMachine.spec.network.networkDevices[].routes[].via" => route_via;
    /// The route has this metric.
    "ProxmoxMachine.spec.network.networkDevices[].routes[].metric" => route_metric;
    /// The route is in this table.
    "ProxmoxMachine.spec.network.networkDevices[].routes[].table" => route_table;
    /// The family of a route that says it in no other way.
    "ProxmoxMachine.spec.network.networkDevices[].routes[].is6" => route_is6;
    /// The rule matches packets that go there.
    "ProxmoxMachine.spec.network.networkDevices[].routingPolicy[].to" => rule_to;
    /// The rule matches packets that come from there.
    "ProxmoxMachine.spec.network.networkDevices[].routingPolicy[].from" => rule_from;
    /// The rule chooses this table; one without is refused.
    "ProxmoxMachine.spec.network.networkDevices[].routingPolicy[].table" => rule_table;
    /// The rule has this place among the rules.
    "ProxmoxMachine.spec.network.networkDevices[].routingPolicy[].priority" => rule_priority;
    /// The family of a rule that says it in no other way.
    "ProxmoxMachine.spec.network.networkDevices[].routingPolicy[].is6" => rule_is6;
    /// The guest has a VRF of this name.
    "ProxmoxMachine.spec.network.vrfs[].name" => vrf_name;
    /// The VRF has this table, and so have its routes and rules.
    "ProxmoxMachine.spec.network.vrfs[].table" => vrf_table;
    /// The guest's interface is in the VRF, with its default route.
    "ProxmoxMachine.spec.network.vrfs[].interfaces[]" => vrf_interfaces;
    /// The table of the VRF has a route to there.
    "ProxmoxMachine.spec.network.vrfs[].routes[].to" => vrf_route_to;
    /// The route leads through this gateway.
    "ProxmoxMachine.spec.network.vrfs[].routes[].via" => vrf_route_via;
    /// The route has this metric.
    "ProxmoxMachine.spec.network.vrfs[].routes[].metric" => vrf_route_metric;
    /// The table of the VRF; another is refused.
    "ProxmoxMachine.spec.network.vrfs[].routes[].table" => vrf_route_table;
    /// The family of a route that says it in no other way.
    "ProxmoxMachine.spec.network.vrfs[].routes[].is6" => vrf_route_is6;
    /// The rule matches packets that go there.
    "ProxmoxMachine.spec.network.vrfs[].routingPolicy[].to" => vrf_rule_to;
    /// The rule matches packets that come from there.
    "ProxmoxMachine.spec.network.vrfs[].routingPolicy[].from" => vrf_rule_from;
    /// The table of the VRF; another is refused.
    "ProxmoxMachine.spec.network.vrfs[].routingPolicy[].table" => vrf_rule_table;
    /// The rule has this place among the rules.
    "ProxmoxMachine.spec.network.vrfs[].routingPolicy[].priority" => vrf_rule_priority;
    /// The family of a rule that says it in no other way.
    "ProxmoxMachine.spec.network.vrfs[].routingPolicy[].is6" => vrf_rule_is6;
}

/// What sets one thing of the first device.
fn first(key: &'static str, value: serde_json::Value) -> impl FnOnce(&mut Setting) {
    move |setting| setting.device(0)[key] = value
}

/// The effect of one thing of the first device.
async fn effect_of(key: &'static str, value: serde_json::Value) -> Vec<String> {
    effect(first(key, value)).await
}

/// A cluster with both families.
fn dual(setting: &mut Setting) {
    setting.cluster["spec"]["ipv6Config"] =
        json!({"addresses": ["fd00::10-fd00::20"], "prefix": 64, "gateway": "fd00::1"});
}

/// A second device on the red network.
fn second(setting: &mut Setting) {
    setting.device(1)["ipPoolRef"] = pool("InClusterIPPool", "red");
    setting.device(0)["defaultIPv4"] = json!(true);
}

fn pool(kind: &str, name: &str) -> serde_json::Value {
    json!([{"apiGroup": "ipam.cluster.x-k8s.io", "kind": kind, "name": name}])
}

async fn name() {
    let rename = |setting: &mut Setting| {
        let devices = setting.spec()["network"]["networkDevices"].as_array_mut();
        let devices = devices.unwrap();
        devices[0]["name"] = json!("net1");
        devices[1]["name"] = json!("net0");
    };
    let effect = effect_on(second, rename).await;
    assert_eq!(
        effect,
        [
            "- claim m-0-net0-00-inet: InClusterIPPool c-v4-icip, zone default",
            "- claim m-0-net1-00-inet: InClusterIPPool red, zone default",
            "- guest: eth0 MAC-net0 10.0.0.10/24 dns 10.0.0.2",
            "- guest: eth1 MAC-net1 10.5.0.10/16 dns 10.0.0.2",
            "- guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
            "- guest: route 0.0.0.0/0 via 10.5.0.1 dev eth1 metric 200",
            "- node m-0 with 10.0.0.10 10.5.0.10, provider id proxmox://UUID",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"net\":\"net0\"},{\"ipv4\":[\"10.5.0.10\"],\"net\":\"net1\"}]",
            "+ claim m-0-net0-00-inet: InClusterIPPool red, zone default",
            "+ claim m-0-net1-00-inet: InClusterIPPool c-v4-icip, zone default",
            "+ guest: eth0 MAC-net0 10.5.0.10/16 dns 10.0.0.2",
            "+ guest: eth1 MAC-net1 10.0.0.10/24 dns 10.0.0.2",
            "+ guest: route 0.0.0.0/0 via 10.0.0.1 dev eth1 metric 100",
            "+ guest: route 0.0.0.0/0 via 10.5.0.1 dev eth0 metric 200",
            "+ node m-0 with 10.5.0.10 10.0.0.10, provider id proxmox://UUID",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"net\":\"default\"},{\"ipv4\":[\"10.5.0.10\"],\"net\":\"net0\"},{\"ipv4\":[\"10.0.0.10\"],\"net\":\"net1\"}]"
        ]
    );
}

async fn bridge() {
    let effect = effect(|setting| {
        let node = NodeSpec::new("pve1").bridge("vmbr1");
        setting.platform = setting.platform.clone().node(node);
        setting.device(0)["bridge"] = json!("vmbr1");
    })
    .await;
    assert_eq!(
        effect,
        [
            "- net0: virtio=MAC-net0,bridge=vmbr0",
            "+ net0: virtio=MAC-net0,bridge=vmbr1"
        ]
    );
}

/// Of a device: the line of the VM's configuration with and without.
fn line(more: &str) -> [String; 2] {
    [
        "- net0: virtio=MAC-net0,bridge=vmbr0".to_owned(),
        format!("+ net0: virtio=MAC-net0,bridge=vmbr0,{more}"),
    ]
}

async fn model() {
    let effect = effect_of("model", json!("vmxnet3")).await;
    assert_eq!(
        effect,
        [
            "- net0: virtio=MAC-net0,bridge=vmbr0",
            "+ net0: vmxnet3=MAC-net0,bridge=vmbr0"
        ]
    );
}

async fn mtu() {
    assert_eq!(effect_of("mtu", json!(1400)).await, line("mtu=1400"));
}

async fn vlan() {
    assert_eq!(effect_of("vlan", json!(7)).await, line("tag=7"));
}

async fn queues() {
    assert_eq!(effect_of("queues", json!(4)).await, line("queues=4"));
}

async fn default_ipv4() {
    let two = |setting: &mut Setting| {
        setting.device(0)["defaultIPv4"] = json!(true);
        setting.device(1);
    };
    let effect = effect_on(two, |setting| {
        setting.device(0)["defaultIPv4"] = json!(false);
        setting.device(1)["defaultIPv4"] = json!(true);
    })
    .await;
    assert_eq!(
        effect,
        [
            "- claim m-0-net0-00-inet: InClusterIPPool c-v4-icip, zone default",
            "- guest: eth0 MAC-net0 10.0.0.10/24 dns 10.0.0.2",
            "- guest: eth1 MAC-net1 no address dns 10.0.0.2",
            "- guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"net\":\"net0\"}]",
            "+ claim m-0-net1-00-inet: InClusterIPPool c-v4-icip, zone default",
            "+ guest: eth0 MAC-net0 no address dns 10.0.0.2",
            "+ guest: eth1 MAC-net1 10.0.0.10/24 dns 10.0.0.2",
            "+ guest: route 0.0.0.0/0 via 10.0.0.1 dev eth1 metric 100",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"net\":\"net1\"}]"
        ]
    );
    assert_eq!(effect_of("defaultIPv4", json!(true)).await, [""; 0]);
}

async fn default_ipv6() {
    let v4 = |setting: &mut Setting| {
        dual(setting);
        setting.device(0)["defaultIPv4"] = json!(true);
    };
    assert_eq!(
        effect_on(v4, first("defaultIPv6", json!(true))).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 dns 10.0.0.2",
            "- node m-0 with 10.0.0.10, provider id proxmox://UUID",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"net\":\"net0\"}]",
            "+ claim m-0-net0-01-inet: InClusterIPPool c-v6-icip, zone default",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.2",
            "+ guest: route ::/0 via fd00::1 dev eth0 metric 100",
            "+ node m-0 with 10.0.0.10 fd00::10, provider id proxmox://UUID",
            "+ status.addresses: InternalIP fd00::10",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"net0\"}]"
        ]
    );
    assert_eq!(
        effect_of("defaultIPv6", json!(true)).await,
        [
            "+ refused: configure the network: networkDevices[name=net0].defaultIPv6 asks for an address, and zone default of the cluster has no ipv6Config; add it there, or leave the field out"
        ]
    );
}

async fn pool_name() {
    let effect = effect_of("ipPoolRef", pool("InClusterIPPool", "red")).await;
    assert_eq!(
        effect,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 dns 10.0.0.2",
            "- node m-0 with 10.0.0.10, provider id proxmox://UUID",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"net\":\"net0\"}]",
            "+ claim m-0-net0-01-inet: InClusterIPPool red, zone default",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 10.5.0.10/16 dns 10.0.0.2",
            "+ guest: route 0.0.0.0/0 via 10.5.0.1 dev eth0 metric 200",
            "+ node m-0 with 10.0.0.10 10.5.0.10, provider id proxmox://UUID",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\",\"10.5.0.10\"],\"net\":\"net0\"}]"
        ]
    );
}

async fn pool_kind() {
    let red = first("ipPoolRef", pool("GlobalInClusterIPPool", "red"));
    let effect = effect_on(
        |setting| setting.device(0)["ipPoolRef"] = pool("InClusterIPPool", "red"),
        red,
    )
    .await;
    assert_eq!(
        effect,
        [
            "- claim m-0-net0-01-inet: InClusterIPPool red, zone default",
            "+ claim m-0-net0-01-inet: GlobalInClusterIPPool red, zone default"
        ]
    );
}

async fn pool_group() {
    let mut machine = Setting::new();
    machine.device(0)["ipPoolRef"] = pool("InClusterIPPool", "red");
    assert_eq!(crate::api::refusals(&machine.machine), [""; 0]);
    machine.device(0)["ipPoolRef"][0]["apiGroup"] = json!("example.com");
    let refusals = crate::api::refusals(&machine.machine);
    assert!(
        refusals[0].contains("apiGroup must be ipam.cluster.x-k8s.io"),
        "{refusals:?}"
    );
}

async fn dns_servers() {
    assert_eq!(
        effect_of("dnsServers", json!(["10.0.0.3"])).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 dns 10.0.0.2",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 dns 10.0.0.3"
        ]
    );
    assert_eq!(
        effect_of("dnsServers", json!(["resolver"])).await,
        [
            "+ refused: configure the network: networkDevices[name=net0].dnsServers[0] is \"resolver\", which is neither address nor network"
        ]
    );
}

async fn link_mtu() {
    assert_eq!(
        effect_of("linkMtu", json!(1400)).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 dns 10.0.0.2",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 mtu 1400 dns 10.0.0.2"
        ]
    );
    assert_eq!(effect_of("linkMtu", json!(1)).await, [""; 0]);
}

/// A route of the first device, with one thing changed.
async fn route(key: &'static str, value: serde_json::Value) -> Vec<String> {
    let base = |setting: &mut Setting| {
        setting.device(0)["routes"] = json!([{"to": "10.9.0.0/16", "via": "10.0.0.3"}]);
    };
    effect_on(base, |setting| setting.device(0)["routes"][0][key] = value).await
}

async fn route_to() {
    assert_eq!(
        route("to", json!("10.8.0.0/16")).await,
        [
            "- guest: route 10.9.0.0/16 via 10.0.0.3 dev eth0",
            "+ guest: route 10.8.0.0/16 via 10.0.0.3 dev eth0"
        ]
    );
    assert_eq!(
        route("to", json!("default")).await,
        [
            "- guest: route 10.9.0.0/16 via 10.0.0.3 dev eth0",
            "+ guest: route 0.0.0.0/0 via 10.0.0.3 dev eth0"
        ]
    );
}

async fn route_via() {
    assert_eq!(
        route("via", json!("10.0.0.4")).await,
        [
            "- guest: route 10.9.0.0/16 via 10.0.0.3 dev eth0",
            "+ guest: route 10.9.0.0/16 via 10.0.0.4 dev eth0"
        ]
    );
}

async fn route_metric() {
    assert_eq!(
        route("metric", json!(7)).await,
        [
            "- guest: route 10.9.0.0/16 via 10.0.0.3 dev eth0",
            "+ guest: route 10.9.0.0/16 via 10.0.0.3 dev eth0 metric 7"
        ]
    );
}

async fn route_table() {
    assert_eq!(
        route("table", json!(1000)).await,
        [
            "- guest: route 10.9.0.0/16 via 10.0.0.3 dev eth0",
            "+ guest: route 10.9.0.0/16 via 10.0.0.3 dev eth0 table 1000"
        ]
    );
    assert_eq!(
        route("table", json!(-1)).await,
        [
            "+ refused: configure the network: networkDevices[name=net0].routes[0].table is -1; it must be between 1 and 4294967295"
        ]
    );
}

async fn route_is6() {
    assert_eq!(
        route("is6", json!(true)).await,
        [
            "+ refused: configure the network: networkDevices[name=net0].routes[0] mixes IPv4 and IPv6; make its addresses and is6 agree"
        ]
    );
    let all = |setting: &mut Setting| {
        dual(setting);
        setting.device(0)["routes"] = json!([{"to": "default", "is6": false, "metric": 5}]);
    };
    let six = |setting: &mut Setting| setting.device(0)["routes"][0]["is6"] = json!(true);
    assert_eq!(
        effect_on(all, six).await,
        [
            "- guest: route 0.0.0.0/0 dev eth0 metric 5",
            "+ guest: route ::/0 dev eth0 metric 5"
        ]
    );
}

/// A rule of the first device, with one thing changed.
async fn rule(key: &'static str, value: serde_json::Value) -> Vec<String> {
    let base = |setting: &mut Setting| {
        setting.device(0)["routingPolicy"] = json!([{"from": "10.0.0.0/24", "table": 1000}]);
    };
    let change = |setting: &mut Setting| setting.device(0)["routingPolicy"][0][key] = value;
    effect_on(base, change).await
}

async fn rule_to() {
    assert_eq!(
        rule("to", json!("10.9.0.0/16")).await,
        [
            "- guest: rule from 10.0.0.0/24 lookup 1000",
            "+ guest: rule from 10.0.0.0/24 to 10.9.0.0/16 lookup 1000"
        ]
    );
}

async fn rule_from() {
    assert_eq!(
        rule("from", json!("10.0.0.7")).await,
        [
            "- guest: rule from 10.0.0.0/24 lookup 1000",
            "+ guest: rule from 10.0.0.7/32 lookup 1000"
        ]
    );
}

async fn rule_table() {
    assert_eq!(
        rule("table", json!(2000)).await,
        [
            "- guest: rule from 10.0.0.0/24 lookup 1000",
            "+ guest: rule from 10.0.0.0/24 lookup 2000"
        ]
    );
    assert_eq!(
        rule("table", json!(null)).await,
        [
            "+ refused: configure the network: networkDevices[name=net0].routingPolicy[0] names no table; set the one that the rule chooses"
        ]
    );
}

async fn rule_priority() {
    assert_eq!(
        rule("priority", json!(99)).await,
        [
            "- guest: rule from 10.0.0.0/24 lookup 1000",
            "+ guest: rule 99: from 10.0.0.0/24 lookup 1000"
        ]
    );
}

async fn rule_is6() {
    let all = |setting: &mut Setting| {
        setting.device(0)["routingPolicy"] = json!([{"from": "all", "table": 1000}]);
    };
    let six = |setting: &mut Setting| setting.device(0)["routingPolicy"][0]["is6"] = json!(true);
    assert_eq!(
        effect_on(all, six).await,
        [
            "- refused: configure the network: networkDevices[name=net0].routingPolicy[0] names neither an address nor a network; set is6, or a gateway or network of the family that is meant"
        ]
    );
}

/// A second device in a VRF with a route and a rule.
fn red(setting: &mut Setting) {
    second(setting);
    setting.spec()["network"]["vrfs"] = json!([{
        "name": "vrf-red", "table": 500, "interfaces": ["net1"],
        "routes": [{"to": "10.9.0.0/16", "via": "10.5.0.3"}],
        "routingPolicy": [{"from": "10.5.0.0/16"}],
    }]);
}

/// The VRF, with one thing changed.
async fn vrf(path: &'static str, value: serde_json::Value) -> Vec<String> {
    effect_on(red, |setting| {
        let vrf = &mut setting.spec()["network"]["vrfs"][0];
        let (parent, key) = path.rsplit_once('/').unwrap();
        vrf.pointer_mut(parent).unwrap()[key] = value;
    })
    .await
}

async fn vrf_name() {
    assert_eq!(
        vrf("/name", json!("vrf-blue")).await,
        [
            "- guest: eth1 MAC-net1 10.5.0.10/16 dns 10.0.0.2 vrf vrf-red",
            "- guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-red table 500",
            "- guest: vrf vrf-red table 500",
            "+ guest: eth1 MAC-net1 10.5.0.10/16 dns 10.0.0.2 vrf vrf-blue",
            "+ guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-blue table 500",
            "+ guest: vrf vrf-blue table 500"
        ]
    );
    assert_eq!(
        vrf("/name", json!("vrf-of-the-red-net")).await,
        [
            "+ refused: configure the network: vrfs[name=vrf-of-the-red-net].name is longer than the 15 letters that Linux allows for an interface; choose a shorter one"
        ]
    );
}

async fn vrf_table() {
    assert_eq!(
        vrf("/table", json!(600)).await,
        [
            "- guest: route 0.0.0.0/0 via 10.5.0.1 dev eth1 metric 200 table 500",
            "- guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-red table 500",
            "- guest: rule from 10.5.0.0/16 lookup 500",
            "- guest: vrf vrf-red table 500",
            "+ guest: route 0.0.0.0/0 via 10.5.0.1 dev eth1 metric 200 table 600",
            "+ guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-red table 600",
            "+ guest: rule from 10.5.0.0/16 lookup 600",
            "+ guest: vrf vrf-red table 600"
        ]
    );
}

async fn vrf_interfaces() {
    assert_eq!(
        vrf("/interfaces", json!([])).await,
        [
            "+ refused: configure the network: vrfs[name=vrf-red] has routes and no interfaces; name the network devices that belong to it"
        ]
    );
    let without = |setting: &mut Setting| {
        second(setting);
        setting.spec()["network"]["vrfs"] = json!([{"name": "vrf-red", "table": 500}]);
    };
    let effect = effect_on(without, |setting| {
        setting.spec()["network"]["vrfs"][0]["interfaces"] = json!(["net1"]);
    })
    .await;
    assert_eq!(
        effect,
        [
            "- guest: eth1 MAC-net1 10.5.0.10/16 dns 10.0.0.2",
            "- guest: route 0.0.0.0/0 via 10.5.0.1 dev eth1 metric 200",
            "+ guest: eth1 MAC-net1 10.5.0.10/16 dns 10.0.0.2 vrf vrf-red",
            "+ guest: route 0.0.0.0/0 via 10.5.0.1 dev eth1 metric 200 table 500"
        ]
    );
    assert_eq!(
        vrf("/interfaces", json!(["net1", "net7"])).await,
        [
            "+ refused: configure the network: vrfs[name=vrf-red].interfaces names net7, which is not among networkDevices"
        ]
    );
}

async fn vrf_route_to() {
    assert_eq!(
        vrf("/routes/0/to", json!("10.8.0.0/16")).await,
        [
            "- guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-red table 500",
            "+ guest: route 10.8.0.0/16 via 10.5.0.3 dev vrf-red table 500"
        ]
    );
}

async fn vrf_route_via() {
    assert_eq!(
        vrf("/routes/0/via", json!("10.5.0.4")).await,
        [
            "- guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-red table 500",
            "+ guest: route 10.9.0.0/16 via 10.5.0.4 dev vrf-red table 500"
        ]
    );
}

async fn vrf_route_metric() {
    assert_eq!(
        vrf("/routes/0/metric", json!(7)).await,
        [
            "- guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-red table 500",
            "+ guest: route 10.9.0.0/16 via 10.5.0.3 dev vrf-red metric 7 table 500"
        ]
    );
}

async fn vrf_route_table() {
    assert_eq!(vrf("/routes/0/table", json!(500)).await, [""; 0]);
    assert_eq!(
        vrf("/routes/0/table", json!(600)).await,
        [
            "+ refused: configure the network: vrfs[name=vrf-red].routes[0] names table 600, and the VRF has table 500; leave it out, or name the VRF's"
        ]
    );
}

async fn vrf_route_is6() {
    assert_eq!(
        vrf("/routes/0/is6", json!(true)).await,
        [
            "+ refused: configure the network: vrfs[name=vrf-red].routes[0] mixes IPv4 and IPv6; make its addresses and is6 agree"
        ]
    );
}

async fn vrf_rule_to() {
    assert_eq!(
        vrf("/routingPolicy/0/to", json!("10.9.0.0/16")).await,
        [
            "- guest: rule from 10.5.0.0/16 lookup 500",
            "+ guest: rule from 10.5.0.0/16 to 10.9.0.0/16 lookup 500"
        ]
    );
}

async fn vrf_rule_from() {
    assert_eq!(
        vrf("/routingPolicy/0/from", json!("10.5.0.7")).await,
        [
            "- guest: rule from 10.5.0.0/16 lookup 500",
            "+ guest: rule from 10.5.0.7/32 lookup 500"
        ]
    );
}

async fn vrf_rule_table() {
    assert_eq!(vrf("/routingPolicy/0/table", json!(500)).await, [""; 0]);
    assert_eq!(
        vrf("/routingPolicy/0/table", json!(600)).await,
        [
            "+ refused: configure the network: vrfs[name=vrf-red].routingPolicy[0] names table 600, and the VRF has table 500; leave it out, or name the VRF's"
        ]
    );
}

async fn vrf_rule_priority() {
    assert_eq!(
        vrf("/routingPolicy/0/priority", json!(99)).await,
        [
            "- guest: rule from 10.5.0.0/16 lookup 500",
            "+ guest: rule 99: from 10.5.0.0/16 lookup 500"
        ]
    );
}

async fn vrf_rule_is6() {
    assert_eq!(
        vrf("/routingPolicy/0/is6", json!(true)).await,
        [
            "+ refused: configure the network: vrfs[name=vrf-red].routingPolicy[0] mixes IPv4 and IPv6; make its addresses and is6 agree"
        ]
    );
}
