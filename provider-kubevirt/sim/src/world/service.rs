//! Services: the load balancer's part, and what they lead to.

use std::net::IpAddr;

use capi_testkit::actor::{Again, Name, Object, Result};
use capi_testkit::workload::Endpoint;
use serde_json::{Value, json};

use super::World;
use crate::builder::Balancer;
use crate::word::{NODE, SERVICE, manager};

/// Where a user asks MetalLB for certain addresses.
const METALLB_ADDRESSES: &str = "metallb.io/loadBalancerIPs";

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let Some(service) = world.hub.get(&SERVICE, name) else {
        return Ok(None);
    };
    let is_balanced = service.text("/spec/type") == Some("LoadBalancer") && !service.is_deleting();
    if !is_balanced {
        if service.at("/status/loadBalancer/ingress").is_some() {
            world.addresses.lock().release_balancer(&name.to_string());
            let status = json!({"loadBalancer": {"ingress": null}});
            world
                .hub
                .merge_status(&SERVICE, &service, &status, manager::CLOUD)
                .await?;
        }
        return Ok(None);
    }
    if let Some(left) = world.wait(
        service.uid(),
        "balance",
        world.settings.delays.load_balancer,
    ) {
        return Ok(Some(left));
    }
    let Some(ingress) = ingress(world, &service) else {
        return Ok(None);
    };
    let status = json!({"loadBalancer": {"ingress": [ingress]}});
    world
        .hub
        .merge_status(&SERVICE, &service, &status, manager::CLOUD)
        .await?;
    Ok(None)
}

fn ingress(world: &World, service: &Object) -> Option<Value> {
    match &world.settings.balancer {
        Balancer::Absent => None,
        Balancer::Hostname(domain) => {
            let name = format!("{}.{}.{domain}", service.name(), service.namespace());
            Some(json!({"hostname": name}))
        }
        Balancer::Address(_) => {
            let asked = service.annotation(METALLB_ADDRESSES);
            let asked = asked.or(service.word("/spec/loadBalancerIP"));
            let wanted = asked.and_then(|text| text.split(',').next()?.trim().parse().ok());
            let address = world
                .addresses
                .lock()
                .balancer(&service.key().to_string(), wanted)?;
            Some(json!({"ip": address.to_string(), "ipMode": "VIP"}))
        }
    }
}

impl World {
    /// Whether a Service leads from this endpoint to an instance.
    ///
    /// An instance that is not ready gets no traffic unless the Service publishes it. That counts for
    /// the machine that makes the cluster, which has nobody else to talk to; later ones become ready in
    /// time.
    pub(super) fn leads(&self, instance: &Object, endpoint: &Endpoint, is_first: bool) -> bool {
        self.hub.all(&SERVICE).iter().any(|service| {
            let publishes = service.flag("/spec/publishNotReadyAddresses");
            service.namespace() == instance.namespace()
                && self.answers(service, endpoint)
                && picks(service, instance)
                && (!is_first || publishes || instance.is_true("Ready"))
        })
    }

    /// Whether a Service is what answers at this endpoint.
    fn answers(&self, service: &Object, endpoint: &Endpoint) -> bool {
        let kind = service.text("/spec/type").unwrap_or("ClusterIP");
        let ports = service.at("/spec/ports").and_then(Value::as_array);
        let has_port = |field: &str| {
            let mut ports = ports.into_iter().flatten();
            ports.any(|port| port[field].as_u64() == Some(u64::from(endpoint.port)))
        };
        let inside = format!("{}.{}.svc", service.name(), service.namespace());
        let is_cluster = service.text("/spec/clusterIP") == Some(endpoint.host.as_str())
            || endpoint.host == inside
            || endpoint
                .host
                .strip_prefix(&inside)
                .is_some_and(|rest| rest.starts_with('.'));
        let ingress = service
            .at("/status/loadBalancer/ingress")
            .and_then(Value::as_array);
        let is_external = kind == "LoadBalancer"
            && ingress.into_iter().flatten().any(|one| {
                [&one["ip"], &one["hostname"]]
                    .iter()
                    .any(|host| host.as_str() == Some(endpoint.host.as_str()))
            });
        if (is_cluster || is_external) && has_port("port") {
            return true;
        }
        matches!(kind, "NodePort" | "LoadBalancer")
            && has_port("nodePort")
            && endpoint
                .address()
                .is_some_and(|address| self.is_node(address))
    }

    fn is_node(&self, address: IpAddr) -> bool {
        self.hub.all(&NODE).iter().any(|node| {
            let addresses = node.at("/status/addresses").and_then(Value::as_array);
            addresses.into_iter().flatten().any(|one| {
                one["address"].as_str().and_then(|text| text.parse().ok()) == Some(address)
            })
        })
    }
}

/// Whether a Service's selector picks an instance: its pod bears its labels.
fn picks(service: &Object, instance: &Object) -> bool {
    let Some(selector) = service.at("/spec/selector").and_then(Value::as_object) else {
        return false;
    };
    !selector.is_empty()
        && selector
            .iter()
            .all(|(key, value)| instance.label(key) == value.as_str())
}
