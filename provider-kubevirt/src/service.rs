//! The Service in front of a control plane. Pure.
//!
//! Its template passes through as it is: type, ports, classes, families, labels, annotations. What is
//! added is what makes it this cluster's: selector, label, the mark. From what the infra cluster made
//! of it comes the endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use capi_contract::view::CLUSTER_NAME_LABEL;
use capi_contract::{Endpoint, Waiting};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::{ApiEndpoint, KubevirtClusterSpec, MARK_ANNOTATION, ROLE_LABEL, ServiceTemplate};
use crate::infra::ServiceView;

/// Port of the API server in the machines; kubeadm's, and the Go provider's for the Service too.
pub const API_PORT: i32 = 6443;

/// Annotation on the Service: which keys of its labels, annotations and spec came from the template,
/// so that those that leave the template leave the Service.
pub const TEMPLATE_ANNOTATION: &str = "capi-rs.dev/template";

/// When to look again at what a watch tells of.
const WATCHED: Duration = Duration::from_secs(15);

/// When to look again for what a person has to give.
const GIVEN: Duration = Duration::from_secs(60);

/// What makes a Service this cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Name of the Service.
    pub name: &'a str,
    /// Where it is.
    pub namespace: &'a str,
    /// Name of the Cluster.
    pub cluster: &'a str,
    /// The mark.
    pub mark: &'a str,
}

/// What came from the template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct FromTemplate {
    labels: BTreeSet<String>,
    annotations: BTreeSet<String>,
    spec: BTreeSet<String>,
}

/// The types of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl Type {
    fn of(spec: &Map<String, Value>) -> Option<Self> {
        match spec.get("type").and_then(Value::as_str).unwrap_or_default() {
            "" | "ClusterIP" => Some(Self::ClusterIp),
            "NodePort" => Some(Self::NodePort),
            "LoadBalancer" => Some(Self::LoadBalancer),
            _ => None,
        }
    }
}

fn template(spec: &KubevirtClusterSpec) -> ServiceTemplate {
    spec.control_plane_service_template
        .clone()
        .unwrap_or_default()
}

fn given(spec: &KubevirtClusterSpec) -> ApiEndpoint {
    spec.control_plane_endpoint.clone().unwrap_or_default()
}

/// The host that a person gave, or that was written once it was known.
fn given_host(spec: &KubevirtClusterSpec) -> Option<String> {
    given(spec).host.filter(|host| !host.is_empty())
}

fn given_port(spec: &KubevirtClusterSpec) -> Option<i32> {
    given(spec).port.filter(|port| *port > 0)
}

/// What of the template cannot be made into a Service, with what to do about it.
pub fn faults(spec: &KubevirtClusterSpec) -> Vec<String> {
    const AT: &str = "spec.controlPlaneServiceTemplate.spec";
    let wanted = template(spec).spec;
    let mut faults = Vec::new();
    if Type::of(&wanted).is_none() {
        let kind = &wanted["type"];
        faults.push(format!(
            "{AT}.type is {kind}: set it to ClusterIP, NodePort or LoadBalancer"
        ));
    }
    if wanted.get("clusterIP").and_then(Value::as_str) == Some("None") {
        faults.push(format!(
            "{AT}.clusterIP is None, which gives the control plane no address: remove it"
        ));
    }
    if wanted.contains_key("selector") {
        faults.push(format!(
            "{AT}.selector is set by the provider, to the machines of the control plane: remove it"
        ));
    }
    if wanted
        .get("ports")
        .is_some_and(|ports| ports.as_array().is_none_or(Vec::is_empty))
    {
        faults.push(format!(
            "{AT}.ports has no port: name the API server's first, or remove ports"
        ));
    }
    faults
}

/// The Service of a cluster, as it is kept.
pub fn manifest(spec: &KubevirtClusterSpec, wanted: &Wanted<'_>) -> Value {
    let ServiceTemplate {
        metadata,
        spec: own,
    } = template(spec);
    let meta = metadata.unwrap_or_default();
    let from = FromTemplate {
        labels: meta.labels.keys().cloned().collect(),
        annotations: meta.annotations.keys().cloned().collect(),
        spec: own.keys().cloned().collect(),
    };
    let mut labels = meta.labels;
    labels.insert(CLUSTER_NAME_LABEL.to_owned(), wanted.cluster.to_owned());
    let mut annotations = meta.annotations;
    annotations.insert(MARK_ANNOTATION.to_owned(), wanted.mark.to_owned());
    // Three sets of strings, which serialise always.
    let from = serde_json::to_string(&from).unwrap_or_default();
    annotations.insert(TEMPLATE_ANNOTATION.to_owned(), from);
    let kind = Type::of(&own).unwrap_or(Type::ClusterIp);
    let mut body = own;
    body.entry("type").or_insert_with(|| "ClusterIP".into());
    body.entry("ports").or_insert_with(|| ports(spec, kind));
    body.insert("selector".to_owned(), json!(selector(wanted.cluster)));
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": wanted.name, "namespace": wanted.namespace,
            "labels": labels, "annotations": annotations,
        },
        "spec": body,
    })
}

/// What the machines of a control plane are selected by.
fn selector(cluster: &str) -> BTreeMap<String, String> {
    [
        (ROLE_LABEL.to_owned(), "control-plane".to_owned()),
        (CLUSTER_NAME_LABEL.to_owned(), cluster.to_owned()),
    ]
    .into()
}

/// Whether a Service without a mark is the one that the Go provider made for a cluster.
pub fn is_of_the_go_provider(service: &ServiceView, cluster: &str) -> bool {
    let label = service.labels().get(CLUSTER_NAME_LABEL);
    let selects = service.spec.get("selector") == Some(&json!(selector(cluster)));
    selects && label.is_some_and(|label| label == cluster)
}

/// The port of the API server. Of a NodePort Service the endpoint's port is the one on the nodes.
fn ports(spec: &KubevirtClusterSpec, kind: Type) -> Value {
    let mut port = json!({"port": API_PORT, "targetPort": API_PORT, "protocol": "TCP"});
    match (kind, given_port(spec)) {
        (_, None) => {}
        (Type::NodePort, Some(given)) => port["nodePort"] = given.into(),
        (Type::ClusterIp | Type::LoadBalancer, Some(given)) => port["port"] = given.into(),
    }
    json!([port])
}

/// The Service to create anew: at the address of the endpoint that an earlier one had, so that it
/// comes back where it was (R9).
pub fn placed(spec: &KubevirtClusterSpec, mut manifest: Value) -> Value {
    let host = given_host(spec).and_then(|host| host.parse::<IpAddr>().ok());
    let kind = manifest["spec"].as_object().and_then(Type::of);
    let field = match kind {
        Some(Type::ClusterIp) => "clusterIP",
        Some(Type::LoadBalancer) => "loadBalancerIP",
        Some(Type::NodePort) | None => return manifest,
    };
    let body = &mut manifest["spec"];
    if let Some(host) = host
        && body[field].is_null()
    {
        body[field] = host.to_string().into();
    }
    manifest
}

/// The merge patch that makes a Service as it should be; `None` if it is.
pub fn drift(wanted: &Value, seen: &ServiceView) -> Option<Value> {
    let annotations = seen.annotations();
    let before: FromTemplate = annotations
        .get(TEMPLATE_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let mut patch = json!({});
    let meta = &wanted["metadata"];
    let labels = strings(&meta["labels"], seen.labels(), &before.labels);
    let annotations = strings(&meta["annotations"], annotations, &before.annotations);
    for (field, changes) in [("labels", labels), ("annotations", annotations)] {
        if !changes.is_empty() {
            patch["metadata"][field] = changes.into();
        }
    }
    let body = spec_changes(&wanted["spec"], &seen.spec, &before.spec);
    if !body.is_empty() {
        patch["spec"] = body.into();
    }
    patch
        .as_object()
        .is_some_and(|all| !all.is_empty())
        .then_some(patch)
}

fn strings(
    wanted: &Value,
    seen: &BTreeMap<String, String>,
    before: &BTreeSet<String>,
) -> Map<String, Value> {
    let wanted = wanted.as_object().cloned().unwrap_or_default();
    let gone = before
        .iter()
        .filter(|key| !wanted.contains_key(*key) && seen.contains_key(*key));
    let mut changes: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in wanted {
        if seen.get(&key).map(String::as_str) != value.as_str() {
            changes.insert(key, value);
        }
    }
    changes
}

fn spec_changes(
    wanted: &Value,
    seen: &Map<String, Value>,
    before: &BTreeSet<String>,
) -> Map<String, Value> {
    let wanted = wanted.as_object().cloned().unwrap_or_default();
    let gone = before
        .iter()
        .filter(|key| !wanted.contains_key(*key) && seen.contains_key(*key));
    let mut changes: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in wanted {
        let there = seen.get(&key).unwrap_or(&Value::Null);
        // Of the selector, more than what is wanted would leave machines out.
        let is_as_wanted = match key.as_str() {
            "selector" => value == *there,
            _ => covers(&value, there),
        };
        if is_as_wanted {
            continue;
        }
        let value = match key.as_str() {
            "ports" => keeping_node_ports(value, there),
            _ => value,
        };
        changes.insert(key, value);
    }
    changes
}

/// Whether what is there says what is wanted; what the server filled in beside it does not matter.
fn covers(wanted: &Value, there: &Value) -> bool {
    match (wanted, there) {
        (Value::Null, there) => there.is_null(),
        (Value::Array(wanted), Value::Null) => wanted.is_empty(),
        (Value::Object(wanted), Value::Null) => wanted.is_empty(),
        (Value::Array(wanted), Value::Array(there)) => {
            let mut pairs = wanted.iter().zip(there);
            wanted.len() == there.len() && pairs.all(|(wanted, there)| covers(wanted, there))
        }
        (Value::Object(wanted), Value::Object(there)) => wanted
            .iter()
            .all(|(key, value)| covers(value, there.get(key).unwrap_or(&Value::Null))),
        (wanted, there) => wanted == there,
    }
}

/// Ports with the node ports that they have: a change of something else must not move them.
fn keeping_node_ports(mut wanted: Value, there: &Value) -> Value {
    let there = there.as_array().cloned().unwrap_or_default();
    for (at, port) in wanted.as_array_mut().into_iter().flatten().enumerate() {
        let allocated = there.get(at).map(|old| old["nodePort"].clone());
        if let Some(allocated) = allocated.filter(|old| !old.is_null())
            && port["nodePort"].is_null()
        {
            port["nodePort"] = allocated;
        }
    }
    wanted
}

/// The hosts at which a Service is reached, the one for the endpoint first.
fn hosts(service: &ServiceView) -> Vec<String> {
    let cluster_ip = service.spec.get("clusterIP").and_then(Value::as_str);
    let cluster_ip = cluster_ip.filter(|ip| !ip.is_empty() && *ip != "None");
    let cluster_ip = cluster_ip.map(str::to_owned);
    let ingress = service.status.load_balancer.ingress.iter();
    let balanced = ingress.map(|one| {
        if one.ip.is_empty() {
            &one.hostname
        } else {
            &one.ip
        }
    });
    let balanced = balanced.filter(|host| !host.is_empty()).cloned();
    match Type::of(&service.spec) {
        Some(Type::LoadBalancer) => balanced.chain(cluster_ip).collect(),
        Some(Type::ClusterIp | Type::NodePort) => cluster_ip.into_iter().collect(),
        None => Vec::new(),
    }
}

fn port(service: &ServiceView) -> Option<i32> {
    let first = service.spec.get("ports")?.as_array()?.first()?;
    let field = match Type::of(&service.spec)? {
        Type::NodePort => "nodePort",
        Type::ClusterIp | Type::LoadBalancer => "port",
    };
    i32::try_from(first.get(field)?.as_i64()?).ok()
}

/// Where the control plane is reached; or what is missing for that.
pub fn endpoint(spec: &KubevirtClusterSpec, service: &ServiceView) -> Result<Endpoint, Waiting> {
    let wait =
        |reason, message: &str, recheck| Err(Waiting::new(reason, message.to_owned(), recheck));
    let kind = Type::of(&service.spec);
    let host = match (given_host(spec), kind) {
        (Some(given), _) => Some(given),
        (None, Some(Type::NodePort)) => {
            let message = "a NodePort Service has no address of its own: set \
                           spec.controlPlaneEndpoint.host to an address at which the nodes of the \
                           infra cluster are reached";
            return wait("ControlPlaneHostMissing", message, GIVEN);
        }
        (None, Some(Type::LoadBalancer)) => {
            let all = service.status.load_balancer.ingress.iter();
            all.map(|one| {
                if one.ip.is_empty() {
                    &one.hostname
                } else {
                    &one.ip
                }
            })
            .find(|host| !host.is_empty())
            .cloned()
        }
        (None, Some(Type::ClusterIp) | None) => hosts(service).into_iter().next(),
    };
    let (Some(host), Some(port)) = (host, given_port(spec).or_else(|| port(service))) else {
        let message = match kind {
            Some(Type::LoadBalancer) => {
                "the infra cluster has given the Service no load balancer address yet: it takes a \
                 load balancer such as MetalLB there"
            }
            _ => "the infra cluster has given the Service no address yet",
        };
        return wait("WaitingForLoadBalancer", message, WATCHED);
    };
    Ok(Endpoint { host, port })
}

/// Why a change of type is not carried out: the address that is the cluster's endpoint would be lost,
/// and an endpoint cannot change (IC-04).
pub fn loses_endpoint(endpoint: &Endpoint, service: &ServiceView, patch: &Value) -> Option<String> {
    let becomes = patch["spec"]["type"].as_str()?;
    let is_balanced = Type::of(&service.spec) == Some(Type::LoadBalancer);
    let (host, name) = (&endpoint.host, service.name_any());
    let cluster_ip = service.spec.get("clusterIP").and_then(Value::as_str);
    let by_balancer = hosts(service).contains(host) && cluster_ip != Some(host);
    (is_balanced && becomes != "LoadBalancer" && by_balancer).then(|| {
        format!(
            "the type of Service {name} is not changed to {becomes}: {host}, which is the endpoint \
             of the cluster, would be lost; set spec.controlPlaneServiceTemplate.spec.type to \
             LoadBalancer"
        )
    })
}

/// Where a Service is, if that is not at the endpoint that it once gave.
pub fn astray(endpoint: &Endpoint, service: &ServiceView) -> Option<String> {
    let (here, host) = (hosts(service), &endpoint.host);
    let is_here = here.is_empty() || here.contains(host);
    (!is_here).then(|| {
        format!(
            "Service {} is at {}, and the endpoint of the cluster is {host}, which cannot change: \
             give the Service that address",
            service.name_any(),
            here.join(", ")
        )
    })
}

/// Whether an endpoint was not taken from this Service.
pub fn is_elsewhere(spec: &KubevirtClusterSpec, service: Option<&ServiceView>) -> bool {
    let is_here = |host: &String| service.is_some_and(|service| hosts(service).contains(host));
    given_host(spec).is_some_and(|host| !is_here(&host))
}

#[cfg(test)]
mod tests;
