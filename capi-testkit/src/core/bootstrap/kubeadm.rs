//! The documents that kubeadm reads, made of a KubeadmConfig: pure.

use serde_json::{Map, Value, json};

use crate::core::object::Object;

/// The version of kubeadm's configuration API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    /// Up to Kubernetes 1.30: extra arguments are maps.
    V1Beta3,
    /// From 1.31: they are lists, and time-outs have a section of their own.
    V1Beta4,
}

impl Api {
    /// The one that the kubeadm of this Kubernetes version reads best.
    pub(super) fn of(kubernetes_version: &str) -> Self {
        let mut numbers = kubernetes_version.trim_start_matches('v').split('.');
        let major = numbers.next().and_then(|text| text.parse::<u32>().ok());
        let minor = numbers.next().and_then(|text| text.parse::<u32>().ok());
        match (major, minor) {
            (Some(1), Some(minor)) if minor < 31 => Self::V1Beta3,
            _ => Self::V1Beta4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1Beta3 => "kubeadm.k8s.io/v1beta3",
            Self::V1Beta4 => "kubeadm.k8s.io/v1beta4",
        }
    }
}

/// What of a Cluster goes into kubeadm's documents.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) api: Api,
    pub(super) cluster: String,
    pub(super) endpoint: String,
    pub(super) kubernetes_version: String,
    pub(super) networking: Value,
}

impl Setting {
    pub(super) fn new(cluster: &Object, endpoint: &str, kubernetes_version: &str) -> Self {
        let blocks = |field: &str| {
            let list = cluster.at(&format!("/spec/clusterNetwork/{field}/cidrBlocks"));
            let list = list.and_then(Value::as_array).into_iter().flatten();
            let list: Vec<_> = list.filter_map(Value::as_str).collect();
            (!list.is_empty()).then(|| list.join(","))
        };
        let domain = cluster.word("/spec/clusterNetwork/serviceDomain");
        let mut networking = json!({"dnsDomain": domain.unwrap_or("cluster.local")});
        for (field, source) in [("podSubnet", "pods"), ("serviceSubnet", "services")] {
            if let Some(blocks) = blocks(source) {
                networking[field] = json!(blocks);
            }
        }
        Self {
            api: Api::of(kubernetes_version),
            cluster: cluster.name().to_owned(),
            endpoint: endpoint.to_owned(),
            kubernetes_version: kubernetes_version.to_owned(),
            networking,
        }
    }
}

/// `ClusterConfiguration`, with what the Cluster says under what the user says.
pub(super) fn cluster_configuration(spec: &Value, setting: &Setting) -> Value {
    let given = &spec["clusterConfiguration"];
    let mut document = head("ClusterConfiguration", setting.api);
    document.insert("clusterName".to_owned(), json!(setting.cluster));
    document.insert("controlPlaneEndpoint".to_owned(), json!(setting.endpoint));
    let version = &setting.kubernetes_version;
    document.insert("kubernetesVersion".to_owned(), json!(version));
    document.insert("networking".to_owned(), setting.networking.clone());
    for (key, value) in given.as_object().into_iter().flatten() {
        let value = match key.as_str() {
            "apiServer" | "controllerManager" | "scheduler" => component(value, setting.api),
            "etcd" => etcd(value, setting.api),
            "caCertificateValidityPeriodDays" | "certificateValidityPeriodDays" => {
                if setting.api == Api::V1Beta4 {
                    let hours = value.as_u64().unwrap_or(0) * 24;
                    let key = key.trim_end_matches("Days").to_owned();
                    document.insert(key, json!(format!("{hours}h0m0s")));
                }
                continue;
            }
            "encryptionAlgorithm" if setting.api == Api::V1Beta3 => continue,
            _ => value.clone(),
        };
        document.insert(key.clone(), value);
    }
    Value::Object(document)
}

/// `InitConfiguration`.
pub(super) fn init_configuration(spec: &Value, setting: &Setting) -> Value {
    let mut document = head("InitConfiguration", setting.api);
    for (key, value) in spec["initConfiguration"].as_object().into_iter().flatten() {
        let value = match key.as_str() {
            "nodeRegistration" => registration(value, setting.api),
            "bootstrapTokens" => tokens(value),
            "timeouts" => match timeouts(value, setting.api) {
                Some(value) => value,
                None => continue,
            },
            _ => value.clone(),
        };
        document.insert(key.clone(), value);
    }
    Value::Object(document)
}

/// How a joining machine finds the cluster.
#[derive(Clone)]
pub(super) struct Discovery {
    pub(super) token: String,
    pub(super) ca_hash: String,
}

/// `JoinConfiguration`, with token discovery filled in where the user gave none. Workers get the taint
/// that keeps pods away until core has seen their node.
pub(super) fn join_configuration(
    spec: &Value,
    setting: &Setting,
    discovery: &Discovery,
    is_control_plane: bool,
) -> Value {
    let mut document = head("JoinConfiguration", setting.api);
    let given = &spec["joinConfiguration"];
    for (key, value) in given.as_object().into_iter().flatten() {
        let value = match key.as_str() {
            "nodeRegistration" => registration(value, setting.api),
            "timeouts" => match timeouts(value, setting.api) {
                Some(value) => value,
                None => continue,
            },
            _ => value.clone(),
        };
        document.insert(key.clone(), value);
    }
    let mut document = Value::Object(document);
    if given["discovery"].get("file").is_none() {
        let held = &given["discovery"]["bootstrapToken"];
        let mut token = json!({
            "apiServerEndpoint": setting.endpoint,
            "token": discovery.token,
            "caCertHashes": [discovery.ca_hash],
        });
        for (key, value) in held.as_object().into_iter().flatten() {
            token[key] = value.clone();
        }
        document["discovery"]["bootstrapToken"] = token;
    }
    if is_control_plane {
        if document["controlPlane"].is_null() {
            document["controlPlane"] = json!({});
        }
    } else {
        if let Some(fields) = document.as_object_mut() {
            fields.remove("controlPlane");
        }
        uninitialized(&mut document["nodeRegistration"]);
    }
    document
}

fn uninitialized(registration: &mut Value) {
    let key = crate::core::machine::UNINITIALIZED_TAINT;
    if !registration.is_object() {
        *registration = json!({});
    }
    if !registration["taints"].is_array() {
        registration["taints"] = json!([]);
    }
    let taints = registration["taints"].as_array_mut();
    if let Some(taints) = taints.filter(|taints| taints.iter().all(|taint| taint["key"] != key)) {
        taints.push(json!({"key": key, "effect": "NoSchedule"}));
    }
}

fn head(kind: &str, api: Api) -> Map<String, Value> {
    Map::from_iter([
        ("apiVersion".to_owned(), json!(api.name())),
        ("kind".to_owned(), json!(kind)),
    ])
}

/// Extra arguments in the form of the API version. A name given twice keeps its last value in a map.
fn arguments(list: &Value, api: Api) -> Value {
    match (list, api) {
        (Value::Array(list), Api::V1Beta3) => {
            let pairs = list.iter().filter_map(|argument| {
                let value = argument.get("value").cloned().unwrap_or(json!(""));
                Some((argument["name"].as_str()?.to_owned(), value))
            });
            Value::Object(pairs.collect())
        }
        _ => list.clone(),
    }
}

fn component(value: &Value, api: Api) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        if let Some(list) = fields.get_mut("extraArgs") {
            *list = arguments(list, api);
        }
        if api == Api::V1Beta3 {
            fields.remove("extraEnvs");
        }
    }
    value
}

fn etcd(value: &Value, api: Api) -> Value {
    let mut value = value.clone();
    if let Some(local) = value.get_mut("local") {
        *local = component(local, api);
    }
    value
}

fn registration(value: &Value, api: Api) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        if let Some(list) = fields.get_mut("kubeletExtraArgs") {
            *list = arguments(list, api);
        }
        if api == Api::V1Beta3 {
            fields.remove("imagePullSerial");
        }
    }
    value
}

fn tokens(list: &Value) -> Value {
    let mut list = list.clone();
    for token in list.as_array_mut().into_iter().flatten() {
        if let Some(fields) = token.as_object_mut()
            && let Some(seconds) = fields.remove("ttlSeconds").and_then(|it| it.as_u64())
        {
            fields.insert("ttl".to_owned(), json!(format!("{seconds}s")));
        }
    }
    list
}

/// `fooSeconds: 5` as `foo: 5s`; the older API has no such section.
fn timeouts(value: &Value, api: Api) -> Option<Value> {
    if api == Api::V1Beta3 {
        return None;
    }
    let fields = value.as_object()?.iter().filter_map(|(key, seconds)| {
        let key = match key.as_str() {
            "controlPlaneComponentHealthCheckSeconds" => "controlPlaneComponentHealthCheck",
            "discoverySeconds" => "discovery",
            "etcdAPICallSeconds" => "etcdAPICall",
            "kubeletHealthCheckSeconds" => "kubeletHealthCheck",
            "kubernetesAPICallSeconds" => "kubernetesAPICall",
            "tlsBootstrapSeconds" => "tlsBootstrap",
            _ => return None,
        };
        Some((key.to_owned(), json!(format!("{}s", seconds.as_u64()?))))
    });
    Some(Value::Object(fields.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(version: &str) -> Setting {
        let cluster = Object::from_value(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": {"name": "c"},
            "spec": {"clusterNetwork": {
                "pods": {"cidrBlocks": ["10.244.0.0/16", "fd01::/64"]},
                "services": {"cidrBlocks": ["10.96.0.0/12"]},
            }},
        }));
        Setting::new(&cluster, "10.0.0.9:6443", version)
    }

    #[test]
    fn s_10_arguments_are_lists_since_1_31_and_maps_before() {
        let spec = json!({
            "clusterConfiguration": {"apiServer": {"extraArgs": [{"name": "a", "value": "1"}]}},
            "initConfiguration": {"nodeRegistration": {"kubeletExtraArgs": [
                {"name": "provider-id", "value": "p://x"}]}},
        });
        for (version, api, arguments, kubelet) in [
            (
                "v1.30.9",
                "kubeadm.k8s.io/v1beta3",
                json!({"a": "1"}),
                json!({"provider-id": "p://x"}),
            ),
            (
                "v1.34.2",
                "kubeadm.k8s.io/v1beta4",
                json!([{"name": "a", "value": "1"}]),
                json!([{"name": "provider-id", "value": "p://x"}]),
            ),
        ] {
            let cluster = cluster_configuration(&spec, &setting(version));
            assert_eq!(cluster["apiVersion"], api);
            assert_eq!(cluster["apiServer"]["extraArgs"], arguments);
            let init = init_configuration(&spec, &setting(version));
            assert_eq!(init["nodeRegistration"]["kubeletExtraArgs"], kubelet);
        }
    }

    #[test]
    fn s_10_the_cluster_fills_in_what_the_user_left_out() {
        let document = cluster_configuration(&json!({}), &setting("v1.34.2"));
        assert_eq!(
            document,
            json!({
                "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration",
                "clusterName": "c", "controlPlaneEndpoint": "10.0.0.9:6443",
                "kubernetesVersion": "v1.34.2",
                "networking": {"dnsDomain": "cluster.local",
                    "podSubnet": "10.244.0.0/16,fd01::/64", "serviceSubnet": "10.96.0.0/12"},
            })
        );
    }

    #[test]
    fn s_10_workers_join_tainted_and_control_planes_do_not() {
        let discovery = Discovery {
            token: "abcdef.0123456789abcdef".to_owned(),
            ca_hash: "sha256:aa".to_owned(),
        };
        let spec = json!({"joinConfiguration": {"nodeRegistration": {"name": "n"}}});
        let worker = join_configuration(&spec, &setting("v1.34.2"), &discovery, false);
        assert_eq!(
            worker["nodeRegistration"],
            json!({"name": "n", "taints": [
                {"key": "node.cluster.x-k8s.io/uninitialized", "effect": "NoSchedule"}]})
        );
        assert_eq!(
            worker["discovery"]["bootstrapToken"],
            json!({"apiServerEndpoint": "10.0.0.9:6443", "token": discovery.token,
                "caCertHashes": ["sha256:aa"]})
        );
        assert!(worker.get("controlPlane").is_none());
        let plane = join_configuration(&spec, &setting("v1.34.2"), &discovery, true);
        assert_eq!(plane["controlPlane"], json!({}));
        assert_eq!(plane["nodeRegistration"], json!({"name": "n"}));
    }

    #[test]
    fn s_10_seconds_become_durations() {
        let spec = json!({"initConfiguration": {
            "timeouts": {"discoverySeconds": 300},
            "bootstrapTokens": [{"token": "t", "ttlSeconds": 60}],
        }});
        let new = init_configuration(&spec, &setting("v1.34.2"));
        assert_eq!(new["timeouts"], json!({"discovery": "300s"}));
        assert_eq!(
            new["bootstrapTokens"],
            json!([{"token": "t", "ttl": "60s"}])
        );
        let old = init_configuration(&spec, &setting("v1.30.0"));
        assert!(old.get("timeouts").is_none());
    }
}
