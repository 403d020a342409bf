//! What is in an infra cluster before anybody uses it.

use std::time::Duration;

use capi_testkit::actor::{Kind, Name, Result};
use serde_json::{Value, json};

use super::{Content, World};
use crate::builder::{GIB, GoldenSpec, NodeSpec, StorageSpec};
use crate::word::{
    CLAIM, DATA_SOURCE, HOSTNAME_LABEL, NODE, SCHEDULABLE_LABEL, manager, resource, watched,
};

/// The pause before what the server refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What a node has that nobody has seen ready.
const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";
/// Pods per node, as a kubelet has it by default; KubeVirt lets one VM need one.
const PODS_MAX: u32 = 110;

impl World {
    /// Makes what is missing, as long as it takes.
    pub(super) async fn set_up(&self) {
        while let Err(error) = self.try_set_up().await {
            tracing::info!(
                error = &error as &dyn std::error::Error,
                "cannot set the infra cluster up"
            );
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_set_up(&self) -> Result<()> {
        for (index, node) in self.settings.nodes.iter().enumerate() {
            self.make_node(index, node).await?;
        }
        for storage in &self.settings.storages {
            self.make_storage(storage).await?;
        }
        for golden in &self.settings.goldens {
            self.make_golden(golden).await?;
        }
        Ok(())
    }

    async fn make_node(&self, index: usize, spec: &NodeSpec) -> Result<()> {
        let mut labels = json!({
            HOSTNAME_LABEL: spec.name, SCHEDULABLE_LABEL: "true",
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        });
        for (key, value) in &spec.labels {
            labels[key] = value.as_str().into();
        }
        let taints: Vec<Value> = spec
            .taints
            .iter()
            .map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}))
            .collect();
        let mut node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": spec.name, "labels": labels},
            "spec": {},
        });
        if !taints.is_empty() {
            node["spec"]["taints"] = json!(taints);
        }
        let Some(resource) = watched(&NODE) else {
            return Ok(());
        };
        self.hub.create(&resource, node, manager::KUBELET).await?;
        let Some(node) = self.hub.get(&NODE, &Name::new("", &spec.name)) else {
            return Ok(());
        };
        let room = json!({
            "cpu": spec.cores.to_string(), "memory": format!("{}Ki", spec.memory >> 10),
            "pods": PODS_MAX.to_string(),
        });
        let address = spec.address.map_or_else(
            || format!("192.168.10.{}", 10 + index),
            |address| address.to_string(),
        );
        let status = json!({
            "capacity": room, "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": address},
                {"type": "Hostname", "address": spec.name}],
            "conditions": [self.node_condition(true)],
        });
        self.hub
            .merge_status(&NODE, &node, &status, manager::KUBELET)
            .await?;
        // A real API server taints every new node until somebody finds that it is ready.
        let held = node.at("/spec/taints").and_then(Value::as_array);
        let mut held = held.into_iter().flatten();
        if held.any(|taint| taint["key"] == NOT_READY_TAINT) {
            let patch = json!({"spec": {"taints": taints}});
            let name = node.key();
            self.hub
                .merge(&NODE, &name, patch, manager::KUBELET)
                .await?;
        }
        Ok(())
    }

    /// The condition `Ready` of a node.
    pub(crate) fn node_condition(&self, ready: bool) -> Value {
        let (status, reason) = if ready {
            ("True", "KubeletReady")
        } else {
            ("Unknown", "NodeStatusUnknown")
        };
        let now = self.time();
        json!({
            "type": "Ready", "status": status, "reason": reason,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    }

    async fn make_storage(&self, spec: &StorageSpec) -> Result<()> {
        let mode = if spec.waits_for_consumer {
            "WaitForFirstConsumer"
        } else {
            "Immediate"
        };
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {
                "name": spec.name,
                "annotations": {
                    "storageclass.kubernetes.io/is-default-class": spec.is_default.to_string(),
                },
            },
            "provisioner": "simulated.csi.example.org", "volumeBindingMode": mode,
        });
        let kind = Kind::fixed("storage.k8s.io", "StorageClass");
        let resource = resource(&kind, "v1", "storageclasses");
        self.hub.create(&resource, class, manager::CDI).await?;
        Ok(())
    }

    async fn make_golden(&self, spec: &GoldenSpec) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": spec.namespace},
        });
        let kind = Kind::fixed("", "Namespace");
        let namespaces = resource(&kind, "v1", "namespaces");
        self.hub
            .create(&namespaces, namespace, manager::CDI)
            .await?;
        let (Some(claims), Some(sources)) = (watched(&CLAIM), watched(&DATA_SOURCE)) else {
            return Ok(());
        };
        let metadata = json!({"name": spec.name, "namespace": spec.namespace});
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": {
                "accessModes": ["ReadWriteMany"], "volumeMode": "Block",
                "resources": {"requests": {"storage": (spec.size_gib * GIB).to_string()}},
            },
        });
        self.hub.create(&claims, claim, manager::CDI).await?;
        let name = Name::new(&spec.namespace, &spec.name);
        if let Some(claim) = self.hub.get(&CLAIM, &name) {
            let status = json!({"phase": "Bound"});
            self.hub
                .merge_status(&CLAIM, &claim, &status, manager::CDI)
                .await?;
            let content = Content {
                origin: name.to_string(),
                ..Content::default()
            };
            self.contents
                .lock()
                .entry(claim.uid().to_owned())
                .or_insert(content);
        }
        let source = json!({
            "apiVersion": crate::word::CDI_API, "kind": "DataSource", "metadata": metadata,
            "spec": {"source": {"pvc": {"name": spec.name, "namespace": spec.namespace}}},
        });
        self.hub.create(&sources, source, manager::CDI).await?;
        Ok(())
    }
}
