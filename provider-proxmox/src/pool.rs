//! Address pools of a cluster and address claims of a machine.
//!
//! A cluster has one `InClusterIPPool` per family and deployment zone, made from its spec; a
//! machine has one `IPAddressClaim` per device and pool. All names follow from those of cluster
//! and machine, in the way of the Go provider, so that objects it made are found and used again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use capi_contract::{AddressRequest, ChildKind, ChildObject, PoolRef};
use serde_json::{Map, Value, json};

use crate::api::{
    DEFAULT_ZONE, IpConfig, NetworkDevice, NetworkSpec, ProxmoxClusterSpec, ZONE_LABEL, ZoneNetwork,
};
use crate::network::NetworkError;

/// The kind of the pools made for a cluster.
pub const POOL: ChildKind = ChildKind {
    group: "ipam.cluster.x-k8s.io",
    version: "v1alpha2",
    kind: "InClusterIPPool",
    plural: "inclusterippools",
};

/// Annotation on a pool: `ipv4` or `ipv6`.
pub const FAMILY_ANNOTATION: &str = "ipam.capmox.cluster.x-k8s.io/ip-family";

/// Annotation on a claim: position of its pool among the pools of the device.
pub const OFFSET_ANNOTATION: &str = "ipam.capmox.cluster.x-k8s.io/pool-ref-counter";

/// Annotation on a pool: metric of the default route through its gateway.
pub const METRIC_ANNOTATION: &str = "ipam.capmox.cluster.x-k8s.io/gateway-metric";

/// Annotation on a claim: the address is of a default pool.
pub const DEFAULT_GATEWAY_ANNOTATION: &str = "ipam.capmox.cluster.x-k8s.io/default-gateway";

/// Seconds that an address rests before it is given to another machine: time for neighbours to
/// forget whose it was. The Go provider's value.
const REUSE_GRACE_SECONDS: u32 = 60;

/// A family of addresses.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which a device asks for addresses.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// What a zone says about this family.
    #[must_use]
    pub fn config<'a>(self, zone: &ZoneNetwork<'a>) -> Option<&'a IpConfig> {
        match self {
            Self::V4 => zone.ipv4,
            Self::V6 => zone.ipv6,
        }
    }

    /// As part of a name.
    fn short(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// As the value of an annotation.
    fn long(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// A pool that a cluster needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ZonePool {
    /// Deployment zone.
    pub zone: String,
    /// Family.
    pub family: Family,
    /// The object.
    pub object: ChildObject,
}

/// Name of the pool of a zone and family. `cluster` is the name of the ProxmoxCluster.
#[must_use]
pub fn pool_name(cluster: &str, zone: &str, family: Family) -> String {
    let family = family.short();
    if zone == DEFAULT_ZONE {
        format!("{cluster}-{family}-icip")
    } else {
        format!("{cluster}-{zone}-{family}-icip")
    }
}

/// Name of the claim of a device for its pool number `offset`.
#[must_use]
pub fn claim_name(machine: &str, device: &str, offset: usize) -> String {
    format!("{machine}-{device}-{offset:02}-inet")
}

/// The pools of a cluster: the default zone first, IPv4 before IPv6.
#[must_use]
pub fn pools(cluster: &str, spec: &ProxmoxClusterSpec) -> Vec<ZonePool> {
    let mut pools = Vec::new();
    for zone in spec.zones() {
        let Some(network) = spec.zone(zone) else {
            continue;
        };
        for family in Family::ALL {
            if let Some(config) = family.config(&network) {
                let object = pool(cluster, zone, family, config);
                pools.push(ZonePool {
                    zone: zone.to_owned(),
                    family,
                    object,
                });
            }
        }
    }
    pools
}

fn pool(cluster: &str, zone: &str, family: Family, config: &IpConfig) -> ChildObject {
    let spec = json!({
        "addresses": config.addresses,
        "prefix": config.prefix,
        "gateway": config.gateway,
        "addressReuseGracePeriodSeconds": REUSE_GRACE_SECONDS,
    });
    let body: Map<String, Value> = Map::from_iter([("spec".to_owned(), spec)]);
    let mut object = ChildObject::new(POOL, pool_name(cluster, zone, family), body);
    object.labels.insert(ZONE_LABEL.to_owned(), zone.to_owned());
    object.annotations = BTreeMap::from([
        (FAMILY_ANNOTATION.to_owned(), family.long().to_owned()),
        (METRIC_ANNOTATION.to_owned(), config.metric.to_string()),
    ]);
    object
}

/// The address claims of a machine, in the order of its devices.
///
/// A device that sets `defaultIPv4` or `defaultIPv6` gets an address from the zone's pool of that
/// family, if the zone has one; if no device sets either, the first one gets both. The pools of
/// `ipPoolRef` follow. `cluster` is the name of the ProxmoxCluster.
///
/// # Errors
///
/// If the zone has no configuration.
pub fn requests(
    machine: &str,
    network: &NetworkSpec,
    cluster: &str,
    spec: &ProxmoxClusterSpec,
) -> Result<Vec<AddressRequest>, NetworkError> {
    let zone = network.zone();
    let config = spec.zone(zone).ok_or_else(|| NetworkError::UnknownZone {
        zone: zone.to_owned(),
    })?;
    let mut requests = Vec::new();
    for device in &network.network_devices {
        let defaults = Family::ALL.into_iter().filter(|family| {
            family.config(&config).is_some() && takes_default(network, &device.name, *family)
        });
        let defaults = defaults.map(|family| (default_pool(cluster, zone, family), true));
        let further = device.ip_pool_ref.iter().map(|pool| {
            let api_group = pool
                .api_group
                .clone()
                .unwrap_or_else(|| POOL.group.to_owned());
            let pool = PoolRef {
                api_group,
                kind: pool.kind.clone(),
                name: pool.name.clone(),
            };
            (pool, false)
        });
        for (offset, (pool, is_default)) in defaults.chain(further).enumerate() {
            let name = claim_name(machine, &device.name, offset);
            let mut request = AddressRequest::new(name, &device.name, pool);
            request
                .labels
                .insert(ZONE_LABEL.to_owned(), zone.to_owned());
            request
                .annotations
                .insert(OFFSET_ANNOTATION.to_owned(), offset.to_string());
            if is_default {
                let annotation = DEFAULT_GATEWAY_ANNOTATION.to_owned();
                request.annotations.insert(annotation, "true".to_owned());
            }
            requests.push(request);
        }
    }
    Ok(requests)
}

fn default_pool(cluster: &str, zone: &str, family: Family) -> PoolRef {
    PoolRef {
        api_group: POOL.group.to_owned(),
        kind: POOL.kind.to_owned(),
        name: pool_name(cluster, zone, family),
    }
}

/// Whether a device takes an address from the zone's pool of a family.
fn takes_default(network: &NetworkSpec, device: &str, family: Family) -> bool {
    let devices = &network.network_devices;
    let asks = |device: &NetworkDevice| match family {
        Family::V4 => device.default_ipv4 == Some(true),
        Family::V6 => device.default_ipv6 == Some(true),
    };
    let marked =
        |device: &NetworkDevice| device.default_ipv4.is_some() || device.default_ipv6.is_some();
    if devices.iter().any(marked) {
        devices
            .iter()
            .any(|candidate| candidate.name == device && asks(candidate))
    } else {
        devices.first().is_some_and(|first| first.name == device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{self, ZoneConfig};

    fn config(first: &str, prefix: i64, metric: i64) -> IpConfig {
        IpConfig {
            addresses: vec![format!("{first}-{first}9")],
            prefix,
            gateway: format!("{first}1"),
            metric,
        }
    }

    fn cluster() -> ProxmoxClusterSpec {
        ProxmoxClusterSpec {
            ipv4_config: Some(config("10.0.0.1", 24, 100)),
            ipv6_config: Some(config("fd00::1", 64, 200)),
            dns_servers: vec!["10.0.0.2".into()],
            zone_config: vec![ZoneConfig {
                zone: "west".into(),
                ipv4_config: Some(config("10.1.0.1", 16, 100)),
                ..ZoneConfig::default()
            }],
            ..ProxmoxClusterSpec::default()
        }
    }

    fn net(name: &str) -> NetworkDevice {
        NetworkDevice {
            name: name.into(),
            ..NetworkDevice::default()
        }
    }

    fn asked(devices: Vec<NetworkDevice>, zone: Option<&str>) -> Vec<(String, String)> {
        let zone = zone.map(str::to_owned);
        let network = NetworkSpec {
            network_devices: devices,
            zone,
            ..NetworkSpec::default()
        };
        let requests = requests("m", &network, "c", &cluster()).unwrap();
        requests
            .into_iter()
            .map(|request| (request.name, request.pool.name))
            .collect()
    }

    fn pair(claim: &str, pool: &str) -> (String, String) {
        (claim.to_owned(), pool.to_owned())
    }

    #[test]
    fn a_cluster_has_a_pool_per_family_and_zone() {
        let pools = pools("c", &cluster());
        let names: Vec<&str> = pools.iter().map(|pool| pool.object.name.as_str()).collect();
        assert_eq!(names, ["c-v4-icip", "c-v6-icip", "c-west-v4-icip"]);
        let second = &pools[1].object;
        assert_eq!(second.labels[ZONE_LABEL], "default");
        assert_eq!(second.annotations[FAMILY_ANNOTATION], "ipv6");
        assert_eq!(second.annotations[METRIC_ANNOTATION], "200");
        assert_eq!(
            Value::Object(second.body.clone()),
            json!({"spec": {
                "addresses": ["fd00::1-fd00::19"],
                "prefix": 64,
                "gateway": "fd00::11",
                "addressReuseGracePeriodSeconds": 60
            }})
        );
        assert_eq!(pools[2].object.labels[ZONE_LABEL], "west");
    }

    #[test]
    fn the_first_device_takes_the_default_pools_unless_another_says_so() {
        assert_eq!(
            asked(vec![net("net0"), net("net1")], None),
            [
                pair("m-net0-00-inet", "c-v4-icip"),
                pair("m-net0-01-inet", "c-v6-icip")
            ]
        );
        let second = NetworkDevice {
            default_ipv4: Some(true),
            ..net("net1")
        };
        assert_eq!(
            asked(vec![net("net0"), second], None),
            [pair("m-net1-00-inet", "c-v4-icip")]
        );
        let none = NetworkDevice {
            default_ipv4: Some(false),
            ..net("net0")
        };
        assert_eq!(asked(vec![none], None), []);
    }

    #[test]
    fn further_pools_come_after_the_default_ones() {
        let mut first = net("net0");
        let kind = "GlobalInClusterIPPool".to_owned();
        first.ip_pool_ref = vec![api::PoolRef {
            api_group: None,
            kind,
            name: "shared".to_owned(),
        }];
        assert_eq!(
            asked(vec![first.clone()], Some("west")),
            [
                pair("m-net0-00-inet", "c-west-v4-icip"),
                pair("m-net0-01-inet", "shared")
            ]
        );
        let network = NetworkSpec {
            network_devices: vec![first],
            ..NetworkSpec::default()
        };
        let requests = requests("m", &network, "c", &cluster()).unwrap();
        assert_eq!(requests[2].pool.api_group, "ipam.cluster.x-k8s.io");
        assert_eq!(requests[2].annotations[OFFSET_ANNOTATION], "2");
        assert_eq!(
            requests[2].annotations.get(DEFAULT_GATEWAY_ANNOTATION),
            None
        );
        assert_eq!(requests[0].annotations[DEFAULT_GATEWAY_ANNOTATION], "true");
        assert_eq!(requests[0].labels[ZONE_LABEL], "default");
    }

    #[test]
    fn an_unknown_zone_is_an_error() {
        let network = NetworkSpec {
            zone: Some("east".into()),
            ..NetworkSpec::default()
        };
        let error = requests("m", &network, "c", &cluster()).unwrap_err();
        assert_eq!(
            error,
            NetworkError::UnknownZone {
                zone: "east".into()
            }
        );
    }
}
