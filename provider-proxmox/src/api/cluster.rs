#![expect(
    clippy::duplicated_attributes,
    reason = "every print column has a name and a type"
)]

use std::collections::BTreeMap;

use capi_contract::FailureDomain;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_ZONE, ProxmoxClusterStatus, ProxmoxMachineSpec};

/// Percent of a node's memory that may be promised when `schedulerHints` says nothing.
const DEFAULT_MEMORY_ADJUSTMENT: i64 = 100;

/// Metric of a default route when the address range says nothing.
const DEFAULT_METRIC: i64 = 100;

/// Desired state of a ProxmoxCluster.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha2",
    kind = "ProxmoxCluster",
    namespaced,
    status = "ProxmoxClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ProxmoxCluster is the infrastructure of one workload cluster on Proxmox VE.",
    category = "cluster-api",
    label("cluster.x-k8s.io/v1beta1", "v1alpha2"),
    label("cluster.x-k8s.io/v1beta2", "v1alpha2"),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        description = "Cluster to which this ProxmoxCluster belongs",
        json_path = r".metadata.labels['cluster\.x-k8s\.io/cluster-name']"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "The infrastructure of the cluster is provisioned",
        json_path = ".status.initialization.provisioned"
    ),
    printcolumn(
        name = "Endpoint",
        type_ = "string",
        description = "Host of the API endpoint",
        json_path = ".spec.controlPlaneEndpoint.host"
    ),
    printcolumn(
        name = "Paused",
        type_ = "string",
        description = "Reconciliation is paused",
        json_path = r#".status.conditions[?(@.type=="Paused")].status"#,
        priority = 10
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        description = "Time since the creation of this ProxmoxCluster",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct ProxmoxClusterSpec {
    /// Address at which the API server of the workload cluster is reached. May be left out and
    /// filled in by the control plane provider when externalManagedControlPlane is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_endpoint: Option<ApiEndpoint>,

    /// The control plane runs elsewhere, and its provider writes controlPlaneEndpoint later.
    #[serde(default)]
    pub external_managed_control_plane: bool,

    /// Proxmox VE nodes on which machines may be placed. When empty, a machine stays on the node
    /// that holds its template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub allowed_nodes: Vec<String>,

    /// Influences on which of the allowed nodes a machine is placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_hints: Option<SchedulerHints>,

    /// IPv4 addresses for the machines of this cluster. At least one of ipv4Config and ipv6Config
    /// is required; both together give dual stack.
    #[serde(rename = "ipv4Config", skip_serializing_if = "Option::is_none")]
    pub ipv4_config: Option<IpConfig>,

    /// IPv6 addresses for the machines of this cluster. At least one of ipv4Config and ipv6Config
    /// is required; both together give dual stack.
    #[serde(rename = "ipv6Config", skip_serializing_if = "Option::is_none")]
    pub ipv6_config: Option<IpConfig>,

    /// Name servers of the machines.
    #[schemars(length(min = 1), extend("x-kubernetes-list-type" = "set"))]
    pub dns_servers: Vec<String>,

    /// Addresses and name servers of further deployment zones. A machine picks one with
    /// network.zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["zone"])
    )]
    pub zone_config: Vec<ZoneConfig>,

    /// Values that ClusterClass patches read. The controller itself does not use them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clone_spec: Option<CloneSpec>,

    /// Secret with the credentials for Proxmox VE: keys url, token and secret, optionally insecure
    /// and root_ca. Without it the controller's own credentials are used; without a namespace, the
    /// namespace of this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<SecretRef>,
}

/// Host and port of an API server.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("minProperties" = 1))]
pub struct ApiEndpoint {
    /// Host name or IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub host: Option<String>,

    /// TCP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
}

/// Influences on the choice of a node.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerHints {
    /// Percent of a node's memory that may be promised to virtual machines; 100 when not set,
    /// more overcommits, 0 turns the check off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub memory_adjustment: Option<i64>,

    /// Percent of a node's CPU threads that may be promised to virtual machines; 400 promises each
    /// thread four times. Not checked when not set or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub cpu_adjustment: Option<i64>,
}

/// Addresses of one family.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct IpConfig {
    /// Single addresses, ranges (first-last) or CIDR blocks from which machines get addresses.
    #[schemars(extend(
        "x-kubernetes-list-type" = "set",
        "x-kubernetes-validations" = [{
            "rule": "self.size() > 0",
            "message": "at least one address, range or CIDR block is required"
        }]
    ))]
    pub addresses: Vec<String>,

    /// Length of the network prefix, for example 24.
    #[schemars(range(min = 1, max = 128))]
    pub prefix: i64,

    /// Default gateway of the network.
    #[schemars(length(min = 1))]
    pub gateway: String,

    /// Metric of the default route.
    #[serde(default = "default_metric")]
    #[schemars(range(min = 0))]
    pub metric: i64,
}

fn default_metric() -> i64 {
    DEFAULT_METRIC
}

/// Addresses and name servers of one deployment zone.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneConfig {
    /// Name of the zone; a valid label value.
    #[schemars(
        length(min = 1, max = 63),
        extend("pattern" = "^[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$")
    )]
    pub zone: String,

    /// IPv4 addresses for the machines of this zone.
    #[serde(rename = "ipv4Config", skip_serializing_if = "Option::is_none")]
    pub ipv4_config: Option<IpConfig>,

    /// IPv6 addresses for the machines of this zone.
    #[serde(rename = "ipv6Config", skip_serializing_if = "Option::is_none")]
    pub ipv6_config: Option<IpConfig>,

    /// Name servers of the machines of this zone.
    #[schemars(length(min = 1), extend("x-kubernetes-list-type" = "set"))]
    pub dns_servers: Vec<String>,

    /// Proxmox VE nodes of this zone. A zone with nodes is a failure domain: it is listed in the
    /// status, and machines whose failureDomain names it are placed on these nodes and take their
    /// addresses from this zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub allowed_nodes: Vec<String>,

    /// Whether machines of the control plane may be in this zone, if it is a failure domain; true
    /// when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<bool>,
}

/// Values for ClusterClass patches; stored, and not used by the controller.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CloneSpec {
    /// Machine specs by type of machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["machineType"])
    )]
    pub machine_spec: Vec<MachineClass>,

    /// SSH keys for the machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ssh_authorized_keys: Vec<String>,

    /// Interface that carries the virtual IP of the control plane.
    #[serde(
        rename = "virtualIPNetworkInterface",
        skip_serializing_if = "Option::is_none"
    )]
    pub virtual_ip_network_interface: Option<String>,
}

/// The spec of one type of machine, for ClusterClass patches.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineClass {
    /// Name of the type, for example controlPlane.
    #[schemars(length(min = 1))]
    pub machine_type: String,

    /// What a machine of this type looks like.
    #[serde(flatten)]
    pub spec: ProxmoxMachineSpec,
}

/// Reference to a Secret.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SecretRef {
    /// Name of the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Namespace of the Secret; the namespace of the referring object when not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The part of a [`ProxmoxClusterSpec`] that applies to the machines of one zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneNetwork<'a> {
    /// IPv4 addresses, if the zone has any.
    pub ipv4: Option<&'a IpConfig>,
    /// IPv6 addresses, if the zone has any.
    pub ipv6: Option<&'a IpConfig>,
    /// Name servers.
    pub dns_servers: &'a [String],
}

impl ProxmoxClusterSpec {
    /// Percent of a node's memory that may be promised; 0 means the check is off.
    ///
    /// A negative value, which the schema refuses, reads as 0.
    #[must_use]
    pub fn memory_adjustment(&self) -> u64 {
        let percent = self
            .scheduler_hints
            .as_ref()
            .and_then(|hints| hints.memory_adjustment)
            .unwrap_or(DEFAULT_MEMORY_ADJUSTMENT);
        u64::try_from(percent).unwrap_or(0)
    }

    /// Percent of a node's threads that may be promised; 0 means the check is off.
    ///
    /// A negative value, which the schema refuses, reads as 0.
    #[must_use]
    pub fn cpu_adjustment(&self) -> u64 {
        let hints = self.scheduler_hints.as_ref();
        let percent = hints.and_then(|hints| hints.cpu_adjustment).unwrap_or(0);
        u64::try_from(percent).unwrap_or(0)
    }

    /// Proxmox VE nodes of a zone; none if it has none, or if there is no such zone.
    #[must_use]
    pub fn zone_nodes(&self, zone: &str) -> &[String] {
        let own = self.zone_config.iter().find(|config| config.zone == zone);
        own.map(|config| config.allowed_nodes.as_slice())
            .unwrap_or_default()
    }

    /// The zones that are failure domains: those with nodes of their own, sorted by name.
    #[must_use]
    pub fn failure_domains(&self) -> Vec<FailureDomain> {
        let zones = self.zone_config.iter();
        let mut domains: Vec<FailureDomain> = zones
            .filter(|config| !config.allowed_nodes.is_empty())
            .map(|config| FailureDomain {
                name: config.zone.clone(),
                control_plane: Some(config.control_plane.unwrap_or(true)),
                attributes: BTreeMap::from([("nodes".to_owned(), config.allowed_nodes.join(","))]),
            })
            .collect();
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        domains
    }

    /// The endpoint as `(host, port)`, once both are set (rule IC-03: half an endpoint is none).
    #[must_use]
    pub fn endpoint(&self) -> Option<(&str, u16)> {
        let endpoint = self.control_plane_endpoint.as_ref()?;
        let host = endpoint.host.as_deref().filter(|host| !host.is_empty())?;
        let port = u16::try_from(endpoint.port?)
            .ok()
            .filter(|port| *port != 0)?;
        Some((host, port))
    }

    /// Addresses and name servers of `zone`; `None` if the cluster has no such zone.
    ///
    /// The default zone is described by the cluster's own fields, unless `zoneConfig` has an
    /// entry of that name.
    #[must_use]
    pub fn zone(&self, zone: &str) -> Option<ZoneNetwork<'_>> {
        let own = self.zone_config.iter().find(|config| config.zone == zone);
        match own {
            Some(config) => Some(ZoneNetwork {
                ipv4: config.ipv4_config.as_ref(),
                ipv6: config.ipv6_config.as_ref(),
                dns_servers: &config.dns_servers,
            }),
            None if zone == DEFAULT_ZONE => Some(ZoneNetwork {
                ipv4: self.ipv4_config.as_ref(),
                ipv6: self.ipv6_config.as_ref(),
                dns_servers: &self.dns_servers,
            }),
            None => None,
        }
    }

    /// Names of all zones, the default one first.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        let further = self.zone_config.iter().map(|config| config.zone.as_str());
        std::iter::once(DEFAULT_ZONE).chain(further.filter(|zone| *zone != DEFAULT_ZONE))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn config(gateway: &str) -> IpConfig {
        IpConfig {
            gateway: gateway.to_owned(),
            ..IpConfig::default()
        }
    }

    #[rstest]
    #[case::whole(Some("10.0.0.4"), Some(6443), Some(("10.0.0.4", 6443)))]
    #[case::no_port(Some("10.0.0.4"), None, None)]
    #[case::no_host(None, Some(6443), None)]
    #[case::empty_host(Some(""), Some(6443), None)]
    #[case::port_zero(Some("10.0.0.4"), Some(0), None)]
    #[case::port_beyond(Some("10.0.0.4"), Some(65536), None)]
    fn half_an_endpoint_is_none(
        #[case] host: Option<&str>,
        #[case] port: Option<i64>,
        #[case] expected: Option<(&str, u16)>,
    ) {
        let endpoint = ApiEndpoint {
            host: host.map(str::to_owned),
            port,
        };
        let spec = ProxmoxClusterSpec {
            control_plane_endpoint: Some(endpoint),
            ..ProxmoxClusterSpec::default()
        };
        assert_eq!(spec.endpoint(), expected);
    }

    #[test]
    fn memory_is_promised_once_unless_the_hints_say_otherwise() {
        let spec = |memory_adjustment| ProxmoxClusterSpec {
            scheduler_hints: Some(SchedulerHints {
                memory_adjustment,
                ..SchedulerHints::default()
            }),
            ..ProxmoxClusterSpec::default()
        };
        assert_eq!(ProxmoxClusterSpec::default().memory_adjustment(), 100);
        assert_eq!(spec(None).memory_adjustment(), 100);
        assert_eq!(spec(Some(0)).memory_adjustment(), 0);
        assert_eq!(spec(Some(150)).memory_adjustment(), 150);
        assert_eq!(spec(Some(-1)).memory_adjustment(), 0);
    }

    #[test]
    fn the_default_zone_is_the_cluster_unless_it_is_described() {
        let zone = |name: &str, gateway| ZoneConfig {
            zone: name.to_owned(),
            ipv4_config: Some(config(gateway)),
            ..ZoneConfig::default()
        };
        let mut spec = ProxmoxClusterSpec {
            ipv4_config: Some(config("10.0.0.1")),
            zone_config: vec![zone("west", "10.1.0.1")],
            ..ProxmoxClusterSpec::default()
        };
        let gateway = |spec: &ProxmoxClusterSpec, name: &str| {
            spec.zone(name)
                .and_then(|zone| Some(zone.ipv4?.gateway.clone()))
        };
        assert_eq!(gateway(&spec, "default").as_deref(), Some("10.0.0.1"));
        assert_eq!(gateway(&spec, "west").as_deref(), Some("10.1.0.1"));
        assert_eq!(gateway(&spec, "east"), None);
        spec.zone_config.push(zone("default", "10.2.0.1"));
        assert_eq!(gateway(&spec, "default").as_deref(), Some("10.2.0.1"));
        assert_eq!(spec.zones().collect::<Vec<_>>(), ["default", "west"]);
    }
}
