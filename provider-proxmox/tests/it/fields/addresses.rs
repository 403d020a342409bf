//! Addresses of a cluster and of its zones: pools in Kubernetes, and what the guest makes of them.

use serde_json::{Value, json};

use super::fields;
use super::outcome::{Setting, effect, effect_on};

fields! {
    /// The cluster's IPv4 pool has these addresses; what is no IPv4 address or range is refused.
    "ProxmoxCluster.spec.ipv4Config.addresses[]" => v4_addresses;
    /// Addresses of the IPv4 pool have this prefix in the guest.
    "ProxmoxCluster.spec.ipv4Config.prefix" => v4_prefix;
    /// The guest's IPv4 default route leads through this gateway.
    "ProxmoxCluster.spec.ipv4Config.gateway" => v4_gateway;
    /// The guest's IPv4 default route has this metric.
    "ProxmoxCluster.spec.ipv4Config.metric" => v4_metric;
    /// The cluster's IPv6 pool has these addresses; what is no IPv6 address or range is refused.
    "ProxmoxCluster.spec.ipv6Config.addresses[]" => v6_addresses;
    /// Addresses of the IPv6 pool have this prefix in the guest.
    "ProxmoxCluster.spec.ipv6Config.prefix" => v6_prefix;
    /// The guest's IPv6 default route leads through this gateway.
    "ProxmoxCluster.spec.ipv6Config.gateway" => v6_gateway;
    /// The guest's IPv6 default route has this metric.
    "ProxmoxCluster.spec.ipv6Config.metric" => v6_metric;
    /// The guest asks these name servers, unless its device names others.
    "ProxmoxCluster.spec.dnsServers[]" => dns_servers;
    /// Machines of this zone get addresses from pools of its own.
    "ProxmoxCluster.spec.zoneConfig[].zone" => zone;
    /// The zone whose pools and name servers the machine has; one that the cluster lacks is refused.
    "ProxmoxMachine.spec.network.zone" => zone_of_the_machine;
    /// The guests of the zone ask these name servers.
    "ProxmoxCluster.spec.zoneConfig[].dnsServers[]" => dns_servers_of_a_zone;
    /// The zone's IPv4 pool has these addresses.
    "ProxmoxCluster.spec.zoneConfig[].ipv4Config.addresses[]" => v4_addresses_of_a_zone;
    /// Addresses of the zone's IPv4 pool have this prefix in the guest.
    "ProxmoxCluster.spec.zoneConfig[].ipv4Config.prefix" => v4_prefix_of_a_zone;
    /// The default route of the zone's guests leads through this gateway.
    "ProxmoxCluster.spec.zoneConfig[].ipv4Config.gateway" => v4_gateway_of_a_zone;
    /// The default route of the zone's guests has this metric.
    "ProxmoxCluster.spec.zoneConfig[].ipv4Config.metric" => v4_metric_of_a_zone;
    /// The zone's IPv6 pool has these addresses.
    "ProxmoxCluster.spec.zoneConfig[].ipv6Config.addresses[]" => v6_addresses_of_a_zone;
    /// Addresses of the zone's IPv6 pool have this prefix in the guest.
    "ProxmoxCluster.spec.zoneConfig[].ipv6Config.prefix" => v6_prefix_of_a_zone;
    /// The IPv6 default route of the zone's guests leads through this gateway.
    "ProxmoxCluster.spec.zoneConfig[].ipv6Config.gateway" => v6_gateway_of_a_zone;
    /// The IPv6 default route of the zone's guests has this metric.
    "ProxmoxCluster.spec.zoneConfig[].ipv6Config.metric" => v6_metric_of_a_zone;
}

/// Both families in the cluster, and in a zone in which the machine is.
fn west(setting: &mut Setting) {
    dual(setting);
    setting.cluster["spec"]["zoneConfig"] = json!([{
        "zone": "west",
        "ipv4Config": {"addresses": ["10.0.0.40-10.0.0.50"], "prefix": 24, "gateway": "10.0.0.1"},
        "ipv6Config": {"addresses": ["fd00::40-fd00::50"], "prefix": 64, "gateway": "fd00::1"},
        "dnsServers": ["10.0.0.4"],
    }]);
    setting.spec()["network"]["zone"] = json!("west");
}

fn dual(setting: &mut Setting) {
    setting.cluster["spec"]["ipv6Config"] =
        json!({"addresses": ["fd00::10-fd00::20"], "prefix": 64, "gateway": "fd00::1"});
}

/// The cluster with both families, with one thing changed.
async fn cluster(path: &'static str, value: Value) -> Vec<String> {
    effect_on(dual, |setting| {
        put(&mut setting.cluster["spec"], path, value);
    })
    .await
}

/// The zone, with one thing changed.
async fn in_west(path: &'static str, value: Value) -> Vec<String> {
    effect_on(west, |setting| {
        put(&mut setting.cluster["spec"]["zoneConfig"][0], path, value);
    })
    .await
}

fn put(spec: &mut Value, path: &str, value: Value) {
    let (parent, key) = path.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[key] = value;
}

async fn v4_addresses() {
    assert_eq!(
        cluster(
            "/ipv4Config/addresses",
            json!(["10.0.0.30", "10.0.0.32/28"])
        )
        .await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.2",
            "- node m-0 with 10.0.0.10 fd00::10, provider id proxmox://UUID",
            "- pool c-v4-icip: [\"10.0.0.10-10.0.0.20\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone default",
            "- status.addresses: InternalIP 10.0.0.10",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"net0\"}]",
            "+ guest: eth0 MAC-net0 10.0.0.30/24 fd00::10/64 dns 10.0.0.2",
            "+ node m-0 with 10.0.0.30 fd00::10, provider id proxmox://UUID",
            "+ pool c-v4-icip: [\"10.0.0.30\",\"10.0.0.32/28\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone default",
            "+ status.addresses: InternalIP 10.0.0.30",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.30\"],\"ipv6\":[\"fd00::10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.30\"],\"ipv6\":[\"fd00::10\"],\"net\":\"net0\"}]"
        ]
    );
    assert_eq!(
        cluster("/ipv4Config/addresses", json!(["fd00::1"])).await,
        [
            "+ refused: spec.ipv4Config.addresses[0]: \"fd00::1\" is not an IPv4 address, range (first-last) or CIDR block"
        ]
    );
}

async fn v4_prefix() {
    assert_eq!(
        cluster("/ipv4Config/prefix", json!(16)).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.2",
            "- pool c-v4-icip: [\"10.0.0.10-10.0.0.20\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone default",
            "+ guest: eth0 MAC-net0 10.0.0.10/16 fd00::10/64 dns 10.0.0.2",
            "+ pool c-v4-icip: [\"10.0.0.10-10.0.0.20\"], prefix 16, gateway \"10.0.0.1\", metric 100, zone default"
        ]
    );
    assert_eq!(
        cluster("/ipv4Config/prefix", json!(33)).await,
        ["+ refused: spec.ipv4Config.prefix: 33 is more than 32, as IPv4 has bits"]
    );
}

async fn v4_gateway() {
    assert_eq!(
        cluster("/ipv4Config/gateway", json!("10.0.0.254")).await,
        [
            "- guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
            "- pool c-v4-icip: [\"10.0.0.10-10.0.0.20\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone default",
            "+ guest: route 0.0.0.0/0 via 10.0.0.254 dev eth0 metric 100",
            "+ pool c-v4-icip: [\"10.0.0.10-10.0.0.20\"], prefix 24, gateway \"10.0.0.254\", metric 100, zone default"
        ]
    );
    assert_eq!(
        cluster("/ipv4Config/gateway", json!("router")).await,
        ["+ refused: spec.ipv4Config.gateway: \"router\" is not an IPv4 address"]
    );
}

async fn v4_metric() {
    assert_eq!(
        cluster("/ipv4Config/metric", json!(7)).await,
        [
            "- guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
            "- pool c-v4-icip: [\"10.0.0.10-10.0.0.20\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone default",
            "+ guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 7",
            "+ pool c-v4-icip: [\"10.0.0.10-10.0.0.20\"], prefix 24, gateway \"10.0.0.1\", metric 7, zone default"
        ]
    );
    assert_eq!(
        cluster("/ipv4Config/metric", json!(4_294_967_296_i64)).await,
        [
            "+ refused: spec.ipv4Config.metric: 4294967296 is not between 0 and 4294967295, as metrics of routes are"
        ]
    );
}

async fn v6_addresses() {
    assert_eq!(
        cluster("/ipv6Config/addresses", json!(["fd00::30"])).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.2",
            "- node m-0 with 10.0.0.10 fd00::10, provider id proxmox://UUID",
            "- pool c-v6-icip: [\"fd00::10-fd00::20\"], prefix 64, gateway \"fd00::1\", metric 100, zone default",
            "- status.addresses: InternalIP fd00::10",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"net0\"}]",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 fd00::30/64 dns 10.0.0.2",
            "+ node m-0 with 10.0.0.10 fd00::30, provider id proxmox://UUID",
            "+ pool c-v6-icip: [\"fd00::30\"], prefix 64, gateway \"fd00::1\", metric 100, zone default",
            "+ status.addresses: InternalIP fd00::30",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::30\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::30\"],\"net\":\"net0\"}]"
        ]
    );
}

async fn v6_prefix() {
    assert_eq!(
        cluster("/ipv6Config/prefix", json!(56)).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.2",
            "- pool c-v6-icip: [\"fd00::10-fd00::20\"], prefix 64, gateway \"fd00::1\", metric 100, zone default",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/56 dns 10.0.0.2",
            "+ pool c-v6-icip: [\"fd00::10-fd00::20\"], prefix 56, gateway \"fd00::1\", metric 100, zone default"
        ]
    );
}

async fn v6_gateway() {
    assert_eq!(
        cluster("/ipv6Config/gateway", json!("fe80::1")).await,
        [
            "- guest: route ::/0 via fd00::1 dev eth0 metric 100",
            "- pool c-v6-icip: [\"fd00::10-fd00::20\"], prefix 64, gateway \"fd00::1\", metric 100, zone default",
            "+ guest: route ::/0 via fe80::1 dev eth0 metric 100",
            "+ pool c-v6-icip: [\"fd00::10-fd00::20\"], prefix 64, gateway \"fe80::1\", metric 100, zone default"
        ]
    );
}

async fn v6_metric() {
    assert_eq!(
        cluster("/ipv6Config/metric", json!(7)).await,
        [
            "- guest: route ::/0 via fd00::1 dev eth0 metric 100",
            "- pool c-v6-icip: [\"fd00::10-fd00::20\"], prefix 64, gateway \"fd00::1\", metric 100, zone default",
            "+ guest: route ::/0 via fd00::1 dev eth0 metric 7",
            "+ pool c-v6-icip: [\"fd00::10-fd00::20\"], prefix 64, gateway \"fd00::1\", metric 7, zone default"
        ]
    );
}

async fn dns_servers() {
    assert_eq!(
        cluster("/dnsServers", json!(["10.0.0.3", "fd00::3"])).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.2",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.3 dns fd00::3"
        ]
    );
    assert_eq!(
        cluster("/dnsServers", json!(["resolver"])).await,
        [
            "+ refused: spec.dnsServers[0]: \"resolver\" is not an IP address; name servers are given by address"
        ]
    );
}

async fn zone() {
    let rename = |setting: &mut Setting| {
        setting.cluster["spec"]["zoneConfig"][0]["zone"] = json!("east");
        setting.spec()["network"]["zone"] = json!("east");
    };
    assert_eq!(
        effect_on(west, rename).await,
        [
            "- claim m-0-net0-00-inet: InClusterIPPool c-west-v4-icip, zone west",
            "- claim m-0-net0-01-inet: InClusterIPPool c-west-v6-icip, zone west",
            "- pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone west",
            "- pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fd00::1\", metric 100, zone west",
            "+ claim m-0-net0-00-inet: InClusterIPPool c-east-v4-icip, zone east",
            "+ claim m-0-net0-01-inet: InClusterIPPool c-east-v6-icip, zone east",
            "+ pool c-east-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone east",
            "+ pool c-east-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fd00::1\", metric 100, zone east"
        ]
    );
}

async fn zone_of_the_machine() {
    let default = |setting: &mut Setting| setting.spec()["network"]["zone"] = json!("default");
    assert_eq!(
        effect_on(west, default).await,
        [
            "- claim m-0-net0-00-inet: InClusterIPPool c-west-v4-icip, zone west",
            "- claim m-0-net0-01-inet: InClusterIPPool c-west-v6-icip, zone west",
            "- guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/64 dns 10.0.0.4",
            "- node m-0 with 10.0.0.40 fd00::40, provider id proxmox://UUID",
            "- status.addresses: InternalIP 10.0.0.40",
            "- status.addresses: InternalIP fd00::40",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::40\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::40\"],\"net\":\"net0\"}]",
            "+ claim m-0-net0-00-inet: InClusterIPPool c-v4-icip, zone default",
            "+ claim m-0-net0-01-inet: InClusterIPPool c-v6-icip, zone default",
            "+ guest: eth0 MAC-net0 10.0.0.10/24 fd00::10/64 dns 10.0.0.2",
            "+ node m-0 with 10.0.0.10 fd00::10, provider id proxmox://UUID",
            "+ status.addresses: InternalIP 10.0.0.10",
            "+ status.addresses: InternalIP fd00::10",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.10\"],\"ipv6\":[\"fd00::10\"],\"net\":\"net0\"}]"
        ]
    );
    let unknown = |setting: &mut Setting| setting.spec()["network"]["zone"] = json!("north");
    assert_eq!(
        effect(unknown).await,
        [
            "+ refused: configure the network: zone north of network.zone is not in the cluster's zoneConfig; add it there or correct network.zone"
        ]
    );
}

async fn dns_servers_of_a_zone() {
    assert_eq!(
        in_west("/dnsServers", json!(["10.0.0.3"])).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/64 dns 10.0.0.4",
            "+ guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/64 dns 10.0.0.3"
        ]
    );
}

async fn v4_addresses_of_a_zone() {
    assert_eq!(
        in_west("/ipv4Config/addresses", json!(["10.0.0.30"])).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/64 dns 10.0.0.4",
            "- node m-0 with 10.0.0.40 fd00::40, provider id proxmox://UUID",
            "- pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone west",
            "- status.addresses: InternalIP 10.0.0.40",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::40\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::40\"],\"net\":\"net0\"}]",
            "+ guest: eth0 MAC-net0 10.0.0.30/24 fd00::40/64 dns 10.0.0.4",
            "+ node m-0 with 10.0.0.30 fd00::40, provider id proxmox://UUID",
            "+ pool c-west-v4-icip: [\"10.0.0.30\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone west",
            "+ status.addresses: InternalIP 10.0.0.30",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.30\"],\"ipv6\":[\"fd00::40\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.30\"],\"ipv6\":[\"fd00::40\"],\"net\":\"net0\"}]"
        ]
    );
}

async fn v4_prefix_of_a_zone() {
    assert_eq!(
        in_west("/ipv4Config/prefix", json!(16)).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/64 dns 10.0.0.4",
            "- pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone west",
            "+ guest: eth0 MAC-net0 10.0.0.40/16 fd00::40/64 dns 10.0.0.4",
            "+ pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 16, gateway \"10.0.0.1\", metric 100, zone west"
        ]
    );
}

async fn v4_gateway_of_a_zone() {
    assert_eq!(
        in_west("/ipv4Config/gateway", json!("10.0.0.254")).await,
        [
            "- guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
            "- pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone west",
            "+ guest: route 0.0.0.0/0 via 10.0.0.254 dev eth0 metric 100",
            "+ pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.254\", metric 100, zone west"
        ]
    );
}

async fn v4_metric_of_a_zone() {
    assert_eq!(
        in_west("/ipv4Config/metric", json!(7)).await,
        [
            "- guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
            "- pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.1\", metric 100, zone west",
            "+ guest: route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 7",
            "+ pool c-west-v4-icip: [\"10.0.0.40-10.0.0.50\"], prefix 24, gateway \"10.0.0.1\", metric 7, zone west"
        ]
    );
}

async fn v6_addresses_of_a_zone() {
    assert_eq!(
        in_west("/ipv6Config/addresses", json!(["fd00::30"])).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/64 dns 10.0.0.4",
            "- node m-0 with 10.0.0.40 fd00::40, provider id proxmox://UUID",
            "- pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fd00::1\", metric 100, zone west",
            "- status.addresses: InternalIP fd00::40",
            "- status.ipAddresses: [{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::40\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::40\"],\"net\":\"net0\"}]",
            "+ guest: eth0 MAC-net0 10.0.0.40/24 fd00::30/64 dns 10.0.0.4",
            "+ node m-0 with 10.0.0.40 fd00::30, provider id proxmox://UUID",
            "+ pool c-west-v6-icip: [\"fd00::30\"], prefix 64, gateway \"fd00::1\", metric 100, zone west",
            "+ status.addresses: InternalIP fd00::30",
            "+ status.ipAddresses: [{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::30\"],\"net\":\"default\"},{\"ipv4\":[\"10.0.0.40\"],\"ipv6\":[\"fd00::30\"],\"net\":\"net0\"}]"
        ]
    );
}

async fn v6_prefix_of_a_zone() {
    assert_eq!(
        in_west("/ipv6Config/prefix", json!(56)).await,
        [
            "- guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/64 dns 10.0.0.4",
            "- pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fd00::1\", metric 100, zone west",
            "+ guest: eth0 MAC-net0 10.0.0.40/24 fd00::40/56 dns 10.0.0.4",
            "+ pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 56, gateway \"fd00::1\", metric 100, zone west"
        ]
    );
}

async fn v6_gateway_of_a_zone() {
    assert_eq!(
        in_west("/ipv6Config/gateway", json!("fe80::1")).await,
        [
            "- guest: route ::/0 via fd00::1 dev eth0 metric 100",
            "- pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fd00::1\", metric 100, zone west",
            "+ guest: route ::/0 via fe80::1 dev eth0 metric 100",
            "+ pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fe80::1\", metric 100, zone west"
        ]
    );
}

async fn v6_metric_of_a_zone() {
    assert_eq!(
        in_west("/ipv6Config/metric", json!(7)).await,
        [
            "- guest: route ::/0 via fd00::1 dev eth0 metric 100",
            "- pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fd00::1\", metric 100, zone west",
            "+ guest: route ::/0 via fd00::1 dev eth0 metric 7",
            "+ pool c-west-v6-icip: [\"fd00::40-fd00::50\"], prefix 64, gateway \"fd00::1\", metric 7, zone west"
        ]
    );
}
