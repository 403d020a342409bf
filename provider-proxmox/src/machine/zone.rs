//! The zone of a machine: `network.zone`, or the failure domain that its Machine names.

use std::borrow::Cow;

use super::Scope;
use crate::api::{DEFAULT_ZONE, NetworkSpec, ProxmoxCluster};

/// Why a machine has no zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// The failure domain is no zone.
    #[error(
        "use failure domain {domain} of the Machine: the ProxmoxCluster's zoneConfig has no zone \
         of that name; add it, with its allowedNodes, or correct failureDomain"
    )]
    Unknown {
        /// Value of the Machine's `failureDomain`.
        domain: String,
    },
    /// Two zones are named.
    #[error(
        "use failure domain {domain} of the Machine: spec.network.zone names another zone, {zone}; \
         leave network.zone out, and the failure domain's counts"
    )]
    Contradiction {
        /// Value of the Machine's `failureDomain`.
        domain: String,
        /// Value of `network.zone`.
        zone: String,
    },
}

/// The network of a machine, with its zone: where it is not named, that of the failure domain.
pub(super) fn network<'a>(
    spec: &'a NetworkSpec,
    failure_domain: Option<&str>,
    cluster: &ProxmoxCluster,
) -> Result<Cow<'a, NetworkSpec>, ZoneError> {
    let (zone, Some(domain)) = (spec.zone(), failure_domain) else {
        return Ok(Cow::Borrowed(spec));
    };
    if zone != DEFAULT_ZONE && zone != domain {
        return Err(ZoneError::Contradiction {
            domain: domain.to_owned(),
            zone: zone.to_owned(),
        });
    }
    if cluster.spec.zone(domain).is_none() {
        return Err(ZoneError::Unknown {
            domain: domain.to_owned(),
        });
    }
    Ok(Cow::Owned(NetworkSpec {
        zone: Some(domain.to_owned()),
        ..spec.clone()
    }))
}

/// The same, of a scope.
pub(super) fn network_of(scope: &Scope) -> Result<Cow<'_, NetworkSpec>, ZoneError> {
    let domain = scope.failure_domain.as_deref();
    network(&scope.object.spec.network, domain, &scope.cluster)
}

/// The failure domain that a machine is in (IM-07): its zone, if that is one.
pub(super) fn failure_domain(scope: &Scope) -> Option<String> {
    let network = network_of(scope).ok()?;
    let zone = network.zone();
    (!scope.cluster.spec.zone_nodes(zone).is_empty()).then(|| zone.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::scope;
    use super::*;

    fn with_zones(own: Option<&str>, domain: Option<&str>) -> Scope {
        let mut scope = scope();
        scope.cluster.spec.zone_config = serde_json::from_value(json!([
            {"zone": "west", "dnsServers": ["10.0.0.2"], "allowedNodes": ["b"]},
            {"zone": "quiet", "dnsServers": ["10.0.0.2"]},
        ]))
        .unwrap();
        scope.object.spec.network.zone = own.map(str::to_owned);
        scope.failure_domain = domain.map(str::to_owned);
        scope
    }

    #[test]
    fn im_06_the_failure_domain_is_the_zone_where_none_is_named() {
        let zone = |own, domain| {
            let scope = with_zones(own, domain);
            let network = network_of(&scope)?;
            Ok::<_, ZoneError>((network.zone().to_owned(), failure_domain(&scope)))
        };
        let in_west = ("west".to_owned(), Some("west".to_owned()));
        assert_eq!(zone(None, None).unwrap(), ("default".to_owned(), None));
        assert_eq!(zone(None, Some("west")).unwrap(), in_west);
        assert_eq!(zone(Some("default"), Some("west")).unwrap(), in_west);
        assert_eq!(zone(Some("west"), None).unwrap(), in_west);
        // A zone without nodes is a network, and nothing else.
        assert_eq!(
            zone(Some("quiet"), None).unwrap(),
            ("quiet".to_owned(), None)
        );
        let error = zone(None, Some("east")).unwrap_err().to_string();
        assert!(error.contains("no zone of that name"), "{error}");
        let error = zone(Some("quiet"), Some("west")).unwrap_err().to_string();
        assert!(error.contains("leave network.zone out"), "{error}");
    }
}
