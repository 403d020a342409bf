//! What kubeadm's documents say. Pure.

use capi_testkit::guest::Disk;
use capi_testkit::workload::Refused;
use serde_json::Value;

/// kubeadm's own default.
const SERVICES: &str = "10.96.0.0/12";
/// The port of an API server unless the document names another.
pub(super) const API_PORT: u16 = 6443;

/// The documents of one configuration file.
#[derive(Debug)]
pub(super) struct Documents(Vec<Value>);

impl Documents {
    /// Those that kubeadm was run with on this machine.
    pub(super) fn read(disk: &Disk) -> Result<Self, Refused> {
        let config = disk.kubeadm_config().unwrap_or_default();
        let text = disk
            .file(config)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default();
        // What a YAML error quotes may be secret.
        let all = serde_saphyr::from_multiple(text)
            .map_err(|_| Refused::Failed(format!("error unmarshaling {config}")))?;
        Ok(Self(all))
    }

    /// The document of this kind; null if there is none.
    pub(super) fn get(&self, kind: &str) -> &Value {
        let found = self.0.iter().find(|document| document["kind"] == kind);
        found.unwrap_or(&Value::Null)
    }

    /// The port of this machine's API server.
    pub(super) fn port(&self) -> u16 {
        let endpoints = [
            self.get("InitConfiguration").pointer("/localAPIEndpoint"),
            self.get("JoinConfiguration")
                .pointer("/controlPlane/localAPIEndpoint"),
        ];
        let given = endpoints.into_iter().flatten();
        let mut ports = given.filter_map(|one| u16::try_from(one["bindPort"].as_u64()?).ok());
        ports.find(|port| *port > 0).unwrap_or(API_PORT)
    }
}

/// Where a cluster keeps its state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// A member on each control-plane machine.
    Members,
    /// Elsewhere; paths are those of the machine.
    External {
        endpoints: Vec<String>,
        authority: String,
        certificate: String,
        key: String,
    },
}

/// What `ClusterConfiguration` says of the store.
pub(super) fn store(cluster: &Value) -> Store {
    let external = &cluster["etcd"]["external"];
    let text = |key: &str| external[key].as_str().unwrap_or_default().to_owned();
    let endpoints = external["endpoints"].as_array().into_iter().flatten();
    let endpoints: Vec<_> = endpoints
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect();
    if endpoints.is_empty() {
        return Store::Members;
    }
    Store::External {
        endpoints,
        authority: text("caFile"),
        certificate: text("certFile"),
        key: text("keyFile"),
    }
}

/// The addresses of the cluster's Services.
pub(super) fn services(cluster: &Value) -> &str {
    let given = cluster["networking"]["serviceSubnet"].as_str();
    given.filter(|text| !text.is_empty()).unwrap_or(SERVICES)
}

/// The first of them, under which Pods find the API server.
pub(super) fn first_service(services: &str) -> Option<std::net::IpAddr> {
    let first = services.split(',').next()?.split('/').next()?;
    let address: std::net::Ipv4Addr = first.trim().parse().ok()?;
    Some(std::net::Ipv4Addr::from(u32::from(address).checked_add(1)?).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_store_is_on_the_machines_unless_said_otherwise() {
        assert_eq!(store(&json!({})), Store::Members);
        assert_eq!(store(&json!({"etcd": {"local": {}}})), Store::Members);
        let external = json!({"etcd": {"external": {"endpoints": ["https://127.0.0.1:1"],
            "caFile": "/a", "certFile": "/b", "keyFile": "/c"}}});
        let expected = Store::External {
            endpoints: vec!["https://127.0.0.1:1".to_owned()],
            authority: "/a".to_owned(),
            certificate: "/b".to_owned(),
            key: "/c".to_owned(),
        };
        assert_eq!(store(&external), expected);
    }

    #[test]
    fn ports_and_services_have_kubeadms_defaults() {
        let port = |document: Value| Documents(vec![document]).port();
        assert_eq!(port(json!({"kind": "InitConfiguration"})), 6443);
        let join = json!({"kind": "JoinConfiguration",
            "controlPlane": {"localAPIEndpoint": {"bindPort": 7443}}});
        assert_eq!(port(join), 7443);
        assert_eq!(services(&json!({})), SERVICES);
        let given = json!({"networking": {"serviceSubnet": "10.128.0.0/12"}});
        assert_eq!(services(&given), "10.128.0.0/12");
        let first = first_service("10.128.0.0/12").expect("an address");
        assert_eq!(first.to_string(), "10.128.0.1");
        assert_eq!(first_service("fd00::/108"), None);
    }
}
