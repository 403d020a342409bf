//! Ranges of addresses, and whether those of a cluster can work.
//!
//! The in-cluster IPAM provider reads the same texts and refuses a pool that it cannot read, or
//! hands out the endpoint's own address if it lies in a range. Both show up late and far from the
//! cause; [`check`] says so at once, with the field.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::{IpConfig, ProxmoxClusterSpec};
use crate::pool::Family;

/// Addresses from the first to the last, both included, of one family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// The text is no range of addresses.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("read {text:?}: expected an address, first-last or a CIDR block")]
pub struct RangeError {
    text: String,
}

impl AddressRange {
    /// Reads an address, `first-last` or a CIDR block.
    ///
    /// # Errors
    ///
    /// If it is none of these, mixes families, or the first address is behind the last.
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let ends = match (text.split_once('-'), text.parse::<IpNet>()) {
            (Some((first, last)), _) => first.parse().ok().zip(last.parse().ok()),
            (None, Ok(block)) => Some((block.network(), block.broadcast())),
            (None, Err(_)) => text.parse().ok().map(|address| (address, address)),
        };
        ends.map(|(first, last): (IpAddr, IpAddr)| Self { first, last })
            .filter(|range| Family::of(range.first) == Family::of(range.last))
            .filter(|range| range.first <= range.last)
            .ok_or_else(|| RangeError {
                text: text.to_owned(),
            })
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family() == Family::of(address) && self.first <= address && address <= self.last
    }
}

/// What is wrong with the addresses of a cluster; empty if they can work.
///
/// Each text names the field, what is wrong with it, and what to change. What the schema states is
/// not repeated.
#[must_use]
pub fn check(spec: &ProxmoxClusterSpec) -> Vec<String> {
    let mut problems = Vec::new();
    let own = [
        (Family::V4, &spec.ipv4_config),
        (Family::V6, &spec.ipv6_config),
    ];
    for (family, config) in own {
        check_config("spec", family, config.as_ref(), spec, &mut problems);
    }
    check_name_servers("spec", &spec.dns_servers, &mut problems);
    for zone in &spec.zone_config {
        let path = format!("spec.zoneConfig[zone={}]", zone.zone);
        let own = [
            (Family::V4, &zone.ipv4_config),
            (Family::V6, &zone.ipv6_config),
        ];
        for (family, config) in own {
            check_config(&path, family, config.as_ref(), spec, &mut problems);
        }
        check_name_servers(&path, &zone.dns_servers, &mut problems);
    }
    problems
}

fn check_config(
    path: &str,
    family: Family,
    config: Option<&IpConfig>,
    spec: &ProxmoxClusterSpec,
    problems: &mut Vec<String>,
) {
    let Some(config) = config else { return };
    let field = match family {
        Family::V4 => format!("{path}.ipv4Config"),
        Family::V6 => format!("{path}.ipv6Config"),
    };
    let endpoint = spec
        .endpoint()
        .and_then(|(host, _)| host.parse::<IpAddr>().ok());
    let announced = endpoint.filter(|_| !spec.external_managed_control_plane);
    for (position, text) in config.addresses.iter().enumerate() {
        let place = format!("{field}.addresses[{position}]");
        match AddressRange::parse(text) {
            Ok(range) if range.family() == family => {
                if let Some(host) = announced.filter(|host| range.contains(*host)) {
                    problems.push(format!(
                        "spec.controlPlaneEndpoint.host: {host} lies in {place} ({text}) and would \
                         be given to a machine, too; take it out there or choose another"
                    ));
                }
            }
            Ok(_) | Err(_) => problems.push(format!(
                "{place}: {text:?} is not an {family} address, range (first-last) or CIDR block"
            )),
        }
    }
    let gateway = config.gateway.parse().ok().map(Family::of);
    if gateway != Some(family) {
        let text = &config.gateway;
        problems.push(format!(
            "{field}.gateway: {text:?} is not an {family} address"
        ));
    }
    if u32::try_from(config.metric).is_err() {
        let (metric, max) = (config.metric, u32::MAX);
        problems.push(format!(
            "{field}.metric: {metric} is not between 0 and {max}, as metrics of routes are"
        ));
    }
    if config.prefix > family.prefix_max() {
        let (prefix, max) = (config.prefix, family.prefix_max());
        problems.push(format!(
            "{field}.prefix: {prefix} is more than {max}, as {family} has bits"
        ));
    }
}

/// A name instead of an address would make the guest refuse its whole network configuration.
fn check_name_servers(path: &str, servers: &[String], problems: &mut Vec<String>) {
    for (position, server) in servers.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            problems.push(format!(
                "{path}.dnsServers[{position}]: {server:?} is not an IP address; name servers are \
                 given by address"
            ));
        }
    }
}

impl Family {
    /// The longest prefix, in bits.
    fn prefix_max(self) -> i64 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::{ApiEndpoint, ZoneConfig};

    #[rstest]
    #[case::address("10.0.0.5", "10.0.0.5", "10.0.0.6")]
    #[case::range("10.0.0.5-10.0.1.7", "10.0.0.255", "10.0.1.8")]
    #[case::block("10.0.0.64/26", "10.0.0.127", "10.0.0.128")]
    #[case::block_of_a_host("10.0.0.70/26", "10.0.0.64", "10.0.0.63")]
    #[case::six("fd00::10-fd00::1f", "fd00::1f", "fd00::20")]
    #[case::family("0.0.0.0/0", "10.0.0.1", "::1")]
    fn ranges_contain_their_addresses(
        #[case] text: &str,
        #[case] inside: &str,
        #[case] outside: &str,
    ) {
        let range = AddressRange::parse(text).unwrap();
        assert!(range.contains(inside.parse().unwrap()), "{inside}");
        assert!(!range.contains(outside.parse().unwrap()), "{outside}");
    }

    #[rstest]
    #[case("")]
    #[case("10.0.0.0/33")]
    #[case("10.0.0.9-10.0.0.8")]
    #[case("10.0.0.9-fd00::1")]
    #[case("10.0.0.1 - 10.0.0.2")]
    #[case("node-1")]
    fn other_texts_are_refused(#[case] text: &str) {
        assert_eq!(
            AddressRange::parse(text),
            Err(RangeError {
                text: text.to_owned()
            })
        );
    }

    fn config(addresses: &[&str], gateway: &str, prefix: i64) -> IpConfig {
        IpConfig {
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            gateway: gateway.to_owned(),
            prefix,
            metric: 100,
        }
    }

    fn cluster(host: &str) -> ProxmoxClusterSpec {
        ProxmoxClusterSpec {
            control_plane_endpoint: Some(ApiEndpoint {
                host: Some(host.to_owned()),
                port: Some(6443),
            }),
            ipv4_config: Some(config(
                &["10.0.0.1", "10.0.0.10-10.0.0.20"],
                "10.0.0.254",
                24,
            )),
            ipv6_config: Some(config(&["fd00::/120"], "fd00::1", 64)),
            dns_servers: vec!["10.0.0.2".to_owned()],
            ..ProxmoxClusterSpec::default()
        }
    }

    #[rstest]
    #[case("10.0.0.9")]
    #[case("fd00::1:0")]
    #[case("api.example.com")]
    fn addresses_that_can_work_have_no_problems(#[case] host: &str) {
        assert_eq!(check(&cluster(host)), [""; 0]);
    }

    #[test]
    fn the_endpoint_must_not_be_given_to_a_machine() {
        let mut spec = cluster("10.0.0.15");
        assert_eq!(
            check(&spec),
            [
                "spec.controlPlaneEndpoint.host: 10.0.0.15 lies in spec.ipv4Config.addresses[1] \
              (10.0.0.10-10.0.0.20) and would be given to a machine, too; take it out there or \
              choose another"
            ]
        );
        spec.external_managed_control_plane = true;
        assert_eq!(check(&spec), [""; 0]);
    }

    #[test]
    fn every_problem_names_its_field() {
        let mut spec = cluster("api.example.com");
        spec.ipv4_config = Some(config(&["fd00::5", "10.0.0.x"], "gateway", 33));
        spec.dns_servers.push("dns.example.com".to_owned());
        spec.zone_config = vec![ZoneConfig {
            zone: "west".to_owned(),
            ipv6_config: Some(config(&["fd00:1::/120"], "10.0.0.1", 64)),
            dns_servers: vec!["resolver".to_owned()],
            ..ZoneConfig::default()
        }];
        let fields: Vec<String> = check(&spec)
            .iter()
            .filter_map(|problem| problem.split_once(": "))
            .map(|(field, _)| field.to_owned())
            .collect();
        assert_eq!(
            fields,
            [
                "spec.ipv4Config.addresses[0]",
                "spec.ipv4Config.addresses[1]",
                "spec.ipv4Config.gateway",
                "spec.ipv4Config.prefix",
                "spec.dnsServers[1]",
                "spec.zoneConfig[zone=west].ipv6Config.gateway",
                "spec.zoneConfig[zone=west].dnsServers[0]",
            ]
        );
    }
}
