//! What a kubelet and `kubeadm init` write into a cluster. Objects are made by pure functions.

use std::time::Duration;

use capi_testkit::workload::{Node, Refused, Role};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::workload::cluster::Admin;
use crate::workload::failed;

/// Where a kubelet listens.
pub(super) const KUBELET_PORT: u16 = 10_250;
/// How often, and in which steps, a cluster is told of a lost node while it does not answer: as
/// long as a control plane may take to find itself again.
pub(super) const TELL_TRIES: u32 = 120;
/// Between two tries.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(1);
/// How long a fresh API server may take to have its own namespaces and roles.
const TRIES: u32 = 60;
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(500);

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/kube-system/pods";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces";

/// Registers a node, and the static pods of a control-plane machine.
pub(super) async fn register(
    admin: &Admin,
    node: &Node,
    version: &str,
    pods: &[&str],
) -> Result<(), Refused> {
    let path = format!("{NODES}/{}", node.name);
    let there = admin
        .get(&path)
        .await
        .map_err(failed("register the node"))?;
    if there.is_some_and(|there| is_ready(&there)) {
        return Err(Refused::NameTaken {
            name: node.name.clone(),
        });
    }
    let write = async {
        admin.create(NODES, &object(node)).await?;
        admin.patch(&path, &object(node)).await?;
        let now = Timestamp::now();
        let status = json!({"status": status(node, version, now)});
        admin.patch(&format!("{path}/status"), &status).await?;
        for component in pods {
            let pod = pod(node, component);
            let name = format!("{component}-{}", node.name);
            admin.create(PODS, &pod).await?;
            let status = json!({"status": pod_status(node, now)});
            admin
                .patch(&format!("{PODS}/{name}/status"), &status)
                .await?;
        }
        Ok(())
    };
    write.await.map_err(failed("register the node"))
}

/// The node is there again after its machine was switched on.
pub(super) async fn came_back(admin: &Admin, node: &Node) -> Result<(), Refused> {
    let path = format!("{NODES}/{}/status", node.name);
    let patch =
        json!({"status": {"conditions": [ready("True", "KubeletReady", Timestamp::now())]}});
    match admin.patch(&path, &patch).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refused::NodeGone {
            name: node.name.clone(),
        }),
        Err(failure) => Err(failed("update the node")(failure)),
    }
}

/// Nobody hears of the node any more.
pub(super) async fn lost(admin: &Admin, node: &str) -> Result<(), Failure> {
    let path = format!("{NODES}/{node}/status");
    let condition = ready("Unknown", "NodeStatusUnknown", Timestamp::now());
    let patch = json!({"status": {"conditions": [condition]}});
    // A node that is deleted needs no telling.
    admin.patch(&path, &patch).await.map(|_| ())
}

/// What `kubeadm init` leaves for the machines that come later.
pub(super) async fn upload(
    admin: &Admin,
    cluster: &Value,
    cluster_info: &str,
) -> Result<(), Refused> {
    let mut tries = 0;
    loop {
        let Err(failure) = try_upload(admin, cluster, cluster_info).await else {
            return Ok(());
        };
        tries += 1;
        if tries == TRIES {
            return Err(failed("upload the configuration")(failure));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn try_upload(admin: &Admin, cluster: &Value, cluster_info: &str) -> Result<(), Failure> {
    let map = |namespace: &str, name: &str, key: &str, value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace}, "data": {key: value}})
    };
    let maps = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let anybody = [json!({"kind": "User", "name": "system:anonymous",
        "apiGroup": "rbac.authorization.k8s.io"})];
    let newcomers = [
        "system:bootstrappers:kubeadm:default-node-token",
        "system:nodes",
    ]
    .map(|name| json!({"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"}));
    let info = map("kube-public", "cluster-info", "kubeconfig", cluster_info);
    admin.create(&maps("kube-public"), &info).await?;
    let role = "kubeadm:bootstrap-signer-clusterinfo";
    may_read(admin, "kube-public", role, "cluster-info", &anybody).await?;
    let role = "kubeadm:nodes-kubeadm-config";
    may_read(admin, "kube-system", role, "kubeadm-config", &newcomers).await?;
    // Cluster API takes a cluster for initialised by this one, so it comes last.
    let text = serde_json::to_string(cluster)?;
    let config = map(
        "kube-system",
        "kubeadm-config",
        "ClusterConfiguration",
        &text,
    );
    admin.create(&maps("kube-system"), &config).await
}

async fn may_read(
    admin: &Admin,
    namespace: &str,
    role: &str,
    config_map: &str,
    subjects: &[Value],
) -> Result<(), Failure> {
    let metadata = json!({"name": role, "namespace": namespace});
    let version = "rbac.authorization.k8s.io/v1";
    let rule = json!({"apiVersion": version, "kind": "Role", "metadata": metadata,
        "rules": [{"apiGroups": [""], "resources": ["configmaps"],
            "resourceNames": [config_map], "verbs": ["get"]}]});
    admin
        .create(&format!("{ROLES}/{namespace}/roles"), &rule)
        .await?;
    let binding = json!({"apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": subjects});
    let path = format!("{ROLES}/{namespace}/rolebindings");
    admin.create(&path, &binding).await
}

/// The client addresses of the members of etcd, as their static pods tell them.
pub(super) async fn members(admin: &Admin) -> Result<Vec<String>, Failure> {
    let path = format!("{PODS}?labelSelector=component%3Detcd");
    let all = admin.get(&path).await?.unwrap_or_default();
    let pods = all["items"].as_array().into_iter().flatten();
    let urls = pods.filter_map(|pod| {
        let annotations = &pod["metadata"]["annotations"];
        annotations[ADVERTISED].as_str().map(str::to_owned)
    });
    Ok(urls.collect())
}

/// kubeadm's annotation on the static pod of a member of etcd.
const ADVERTISED: &str = "kubeadm.kubernetes.io/etcd.advertise-client-urls";

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn object(node: &Node) -> Value {
    let taints = node.taints.iter().map(|taint| {
        let mut shown = json!({"key": taint.key, "effect": taint.effect});
        if !taint.value.is_empty() {
            shown["value"] = json!(taint.value);
        }
        shown
    });
    let mut object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": node.labels, "annotations": node.annotations},
        "spec": {"taints": taints.collect::<Vec<_>>()},
    });
    object["metadata"]["labels"]["kubernetes.io/os"] = json!("linux");
    if let Some(id) = &node.provider_id {
        object["spec"]["providerID"] = json!(id);
    }
    object
}

fn ready(status: &str, reason: &str, now: Timestamp) -> Value {
    json!({"type": "Ready", "status": status, "reason": reason, "message": "",
        "lastHeartbeatTime": now, "lastTransitionTime": now})
}

fn status(node: &Node, version: &str, now: Timestamp) -> Value {
    let healthy = ["MemoryPressure", "DiskPressure", "PIDPressure"].map(|kind| {
        json!({"type": kind, "status": "False", "reason": "KubeletHasSufficient",
            "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now})
    });
    let mut conditions = vec![ready("True", "KubeletReady", now)];
    conditions.extend(healthy);
    let addresses = node.addresses.iter();
    let mut addresses: Vec<_> = addresses
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": node.name}));
    let mut status = json!({
        "conditions": conditions,
        "addresses": addresses,
        "nodeInfo": {
            "machineID": node.machine, "systemUUID": node.machine, "bootID": node.machine,
            "kernelVersion": "6.8.0", "osImage": "Ubuntu 24.04", "operatingSystem": "linux",
            "architecture": "amd64", "containerRuntimeVersion": "containerd://2.1.0",
            "kubeletVersion": version, "kubeProxyVersion": "",
        },
    });
    if node.role == Role::ControlPlane {
        status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": KUBELET_PORT}});
    }
    status
}

/// A static pod's mirror, which no admission asks for an account and no drain evicts.
fn pod(node: &Node, component: &str) -> Value {
    let mut annotations = json!({"kubernetes.io/config.mirror": node.machine,
        "kubernetes.io/config.hash": node.machine, "kubernetes.io/config.source": "file"});
    if component == "etcd"
        && let Some(address) = node.addresses.first()
    {
        annotations[ADVERTISED] = json!(format!("https://{address}:2379"));
    }
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{component}-{}", node.name), "namespace": "kube-system",
            "labels": {"component": component, "tier": "control-plane"},
            "annotations": annotations},
        "spec": {"nodeName": node.name, "hostNetwork": true,
            "priorityClassName": "system-node-critical",
            "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
            "containers": [{"name": component,
                "image": format!("registry.k8s.io/{component}:v0")}]}})
}

fn pod_status(node: &Node, now: Timestamp) -> Value {
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": now}));
    json!({"phase": "Running", "conditions": conditions, "startTime": now,
        "hostIP": node.addresses.first(), "podIP": node.addresses.first()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: Role) -> Node {
        let mut node = Node::new("n-0", "UUID", role);
        node.addresses = vec![[127, 0, 1, 2].into()];
        node.provider_id = Some("proxmox://uuid".to_owned());
        node
    }

    #[test]
    fn a_node_bears_what_its_seed_says() {
        let object = object(&node(Role::Worker));
        assert_eq!(object["spec"]["providerID"], "proxmox://uuid");
        let now = Timestamp::UNIX_EPOCH;
        let worker = status(&node(Role::Worker), "v1.36.0", now);
        assert_eq!(worker["nodeInfo"]["kubeletVersion"], "v1.36.0");
        assert_eq!(worker["daemonEndpoints"], Value::Null);
        assert!(is_ready(&json!({"status": worker})));
        let lost = ready("Unknown", "NodeStatusUnknown", now);
        assert!(!is_ready(&json!({"status": {"conditions": [lost]}})));
        let control_plane = status(&node(Role::ControlPlane), "v1.36.0", now);
        let port = &control_plane["daemonEndpoints"]["kubeletEndpoint"]["Port"];
        assert_eq!(*port, KUBELET_PORT);
    }

    #[test]
    fn the_pod_of_a_member_tells_where_it_answers() {
        let etcd = pod(&node(Role::ControlPlane), "etcd");
        let url = &etcd["metadata"]["annotations"][ADVERTISED];
        assert_eq!(*url, "https://127.0.1.2:2379");
        let other = pod(&node(Role::ControlPlane), "kube-apiserver");
        assert_eq!(other["metadata"]["annotations"][ADVERTISED], Value::Null);
    }
}
