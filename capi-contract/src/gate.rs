//! Gates: may anything be done with this object now? Pure.
//!
//! # Flow
//!
//! Owner, Cluster, externally managed, paused, infra cluster, cluster infrastructure, bootstrap data
//! (IM-11, PA-05). The first that is shut decides. Deletion asks only whether anything is paused
//! (PA-02): a teardown waits for nothing else of the contract (pitfall: stuck deletion).
//!
//! # Guarantees
//!
//! A gate that answers [`Gate::Stranger`] or [`Gate::External`] means: not one write, not one call
//! (IC-11, IM-12, EX-01).

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::condition::reason;
use crate::plan::Waiting;
use crate::view::{
    CLUSTER_NAME_LABEL, ClusterView, MANAGED_BY_ANNOTATION, MachineView, OwnerKind,
    is_paused_by_annotation, owner_named,
};

/// How long a shut gate is left alone if no event comes. Every gate is reopened by a watch (IM-23);
/// this only bounds the harm of a lost event, so it is as long as Cluster API's own resync.
pub const RECHECK: Duration = Duration::from_secs(600);

/// What a gate answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Core has not adopted the object yet: leave it alone.
    Stranger,
    /// Somebody else fills this infra cluster (EX-01): leave it alone.
    External,
    /// Paused by the Cluster, the object's annotation, or both; the message names which (PA-03).
    Paused(String),
    /// Something of the contract is not there yet.
    Wait(Waiting),
    /// Go on.
    Open,
}

/// What the gate of a machine looks at.
#[derive(Clone, Copy, Debug)]
pub struct MachineInputs<'a> {
    /// Metadata of the InfraMachine.
    pub meta: &'a ObjectMeta,
    /// Its owner, if it is known.
    pub machine: Option<&'a MachineView>,
    /// The Cluster that the owner's label names.
    pub cluster: Option<&'a ClusterView>,
    /// Metadata of the InfraCluster.
    pub infra_cluster: Option<&'a ObjectMeta>,
}

/// Name of the Cluster that an object belongs to, by label (never from the object's own name).
pub fn cluster_name(meta: &ObjectMeta) -> Option<&str> {
    meta.labels
        .as_ref()?
        .get(CLUSTER_NAME_LABEL)
        .map(String::as_str)
}

/// Name of the Machine that owns an InfraMachine; an owner of another kind is no adoption (IM-12).
pub fn owner_machine(meta: &ObjectMeta) -> Option<&str> {
    owner_named(meta, OwnerKind::Machine).map(|owner| owner.name.as_str())
}

/// Name of the Cluster that owns an InfraCluster; a temporary owner Secret is none (ICT-03).
pub fn owner_cluster(meta: &ObjectMeta) -> Option<&str> {
    owner_named(meta, OwnerKind::Cluster).map(|owner| owner.name.as_str())
}

/// Whether an infra cluster is managed by somebody else: the annotation counts with any value.
pub fn is_externally_managed(meta: &ObjectMeta) -> bool {
    meta.annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(MANAGED_BY_ANNOTATION))
}

/// What pauses an object, for the message of the condition; `None` if nothing does.
pub fn paused_by(meta: &ObjectMeta, cluster: Option<&ClusterView>) -> Option<String> {
    let by_cluster = cluster.filter(|c| c.is_paused());
    let name = by_cluster
        .and_then(|c| c.metadata.name.as_deref())
        .unwrap_or_default();
    match (by_cluster.is_some(), is_paused_by_annotation(meta)) {
        (true, true) => Some(format!(
            "Cluster {name} has spec.paused, and the object has the annotation \
             cluster.x-k8s.io/paused"
        )),
        (true, false) => Some(format!("Cluster {name} has spec.paused")),
        (false, true) => Some("the object has the annotation cluster.x-k8s.io/paused".to_owned()),
        (false, false) => None,
    }
}

/// The gate of a machine that is not being deleted (IM-11, in its order).
pub fn machine(inputs: MachineInputs<'_>) -> Gate {
    let Some(owner) = owner_machine(inputs.meta) else {
        return Gate::Stranger;
    };
    let Some(machine) = inputs.machine else {
        return wait(
            reason::WAITING_FOR_OBJECT,
            format!("waiting for Machine {owner}"),
        );
    };
    let Some(cluster) = inputs.cluster else {
        let name = cluster_name(&machine.metadata);
        let message = match name {
            Some(name) => format!("waiting for Cluster {name}"),
            None => format!("Machine {owner} has no label {CLUSTER_NAME_LABEL}"),
        };
        return wait(reason::WAITING_FOR_OBJECT, message);
    };
    if let Some(message) = paused_by(inputs.meta, Some(cluster)) {
        return Gate::Paused(message);
    }
    if inputs.infra_cluster.is_none() {
        let message = match &cluster.spec.infrastructure_ref {
            Some(infra) => format!("waiting for {} {}", infra.kind, infra.name),
            None => "the Cluster has no spec.infrastructureRef".to_owned(),
        };
        return wait(reason::WAITING_FOR_CLUSTER_INFRASTRUCTURE_READY, message);
    }
    if !cluster.status.initialization.infrastructure_provisioned {
        let message = "waiting for the cluster's infrastructure to be provisioned";
        return wait(reason::WAITING_FOR_CLUSTER_INFRASTRUCTURE_READY, message);
    }
    if machine.spec.bootstrap.data_secret_name.is_none() {
        return bootstrap_wait(machine, cluster);
    }
    Gate::Open
}

/// Bootstrap data of workers and joining control planes waits for the first control-plane machine,
/// so that reason is the one that helps.
fn bootstrap_wait(machine: &MachineView, cluster: &ClusterView) -> Gate {
    if !machine.is_control_plane() && !cluster.status.initialization.control_plane_initialized {
        let message = "waiting for the first control-plane machine";
        return wait(reason::WAITING_FOR_CONTROL_PLANE_INITIALIZED, message);
    }
    wait(
        reason::WAITING_FOR_BOOTSTRAP_DATA,
        "waiting for the bootstrap provider's data",
    )
}

/// The gate of an infra cluster that is not being deleted (IC-11, EX-01, PA-05).
pub fn cluster(meta: &ObjectMeta, cluster: Option<&ClusterView>) -> Gate {
    if is_externally_managed(meta) {
        return Gate::External;
    }
    let Some(owner) = owner_cluster(meta) else {
        return Gate::Stranger;
    };
    let Some(cluster) = cluster else {
        return wait(
            reason::WAITING_FOR_OBJECT,
            format!("waiting for Cluster {owner}"),
        );
    };
    match paused_by(meta, Some(cluster)) {
        Some(message) => Gate::Paused(message),
        None => Gate::Open,
    }
}

/// The gate of a deletion, of machines and clusters alike (PA-02, EX-01). The Cluster may be gone.
pub fn teardown(meta: &ObjectMeta, cluster: Option<&ClusterView>) -> Gate {
    if is_externally_managed(meta) {
        return Gate::External;
    }
    match paused_by(meta, cluster) {
        Some(message) => Gate::Paused(message),
        None => Gate::Open,
    }
}

fn wait(reason: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Gate {
    Gate::Wait(Waiting::new(reason, message, RECHECK))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    fn owned_by(api_version: &str, kind: &str) -> ObjectMeta {
        meta(json!({"name": "m", "ownerReferences": [
            {"apiVersion": api_version, "kind": kind, "name": "m", "uid": "1"}]}))
    }

    fn adopted() -> ObjectMeta {
        owned_by("cluster.x-k8s.io/v1beta2", "Machine")
    }

    fn a_machine() -> MachineView {
        serde_json::from_value(json!({
            "metadata": {"name": "m", "labels": {"cluster.x-k8s.io/cluster-name": "c"}},
            "spec": {"bootstrap": {"dataSecretName": "data"}},
        }))
        .unwrap()
    }

    fn a_cluster() -> ClusterView {
        serde_json::from_value(json!({
            "metadata": {"name": "c"},
            "spec": {"infrastructureRef": {"apiGroup": "g", "kind": "InfraCluster", "name": "c"}},
            "status": {"initialization": {
                "infrastructureProvisioned": true, "controlPlaneInitialized": true}},
        }))
        .unwrap()
    }

    fn reason_of(gate: Gate) -> &'static str {
        match gate {
            Gate::Stranger => "Stranger",
            Gate::External => "External",
            Gate::Paused(_) => "Paused",
            Gate::Wait(waiting) => waiting.reason,
            Gate::Open => "Open",
        }
    }

    #[test]
    fn im_11_each_missing_input_shuts_the_gate_in_order() {
        let (own, mut m, mut c, infra) = (adopted(), a_machine(), a_cluster(), adopted());
        let ask = |meta: &ObjectMeta, m: Option<&MachineView>, c: Option<&ClusterView>, infra| {
            reason_of(machine(MachineInputs {
                meta,
                machine: m,
                cluster: c,
                infra_cluster: infra,
            }))
        };
        assert_eq!(ask(&own, Some(&m), Some(&c), Some(&infra)), "Open");
        assert_eq!(ask(&own, None, Some(&c), Some(&infra)), "WaitingForObject");
        assert_eq!(ask(&own, Some(&m), None, Some(&infra)), "WaitingForObject");
        let waiting = "WaitingForClusterInfrastructureReady";
        assert_eq!(ask(&own, Some(&m), Some(&c), None), waiting);
        m.spec.bootstrap.data_secret_name = None;
        assert_eq!(
            ask(&own, Some(&m), Some(&c), Some(&infra)),
            "WaitingForBootstrapData"
        );
        c.status.initialization.control_plane_initialized = false;
        let waiting_cp = "WaitingForControlPlaneInitialized";
        assert_eq!(ask(&own, Some(&m), Some(&c), Some(&infra)), waiting_cp);
        c.status.initialization.infrastructure_provisioned = false;
        assert_eq!(ask(&own, Some(&m), Some(&c), Some(&infra)), waiting);
        c.spec.paused = Some(true);
        assert_eq!(ask(&own, Some(&m), Some(&c), Some(&infra)), "Paused");
    }

    #[test]
    fn im_12_an_owner_of_another_kind_is_no_adoption() {
        for kind in ["MachineSet", "KubeadmControlPlane", "Cluster"] {
            let own = owned_by("cluster.x-k8s.io/v1beta2", kind);
            let inputs = MachineInputs {
                meta: &own,
                machine: None,
                cluster: None,
                infra_cluster: None,
            };
            assert_eq!(machine(inputs), Gate::Stranger, "{kind}");
        }
    }

    #[test]
    fn im_14_an_empty_secret_name_means_not_applicable() {
        let (own, mut m, c) = (adopted(), a_machine(), a_cluster());
        m.spec.bootstrap.data_secret_name = Some(String::new());
        let inputs = MachineInputs {
            meta: &own,
            machine: Some(&m),
            cluster: Some(&c),
            infra_cluster: Some(&own),
        };
        assert_eq!(machine(inputs), Gate::Open);
    }

    #[test]
    fn ex_01_and_ict_03_leave_the_cluster_alone() {
        let external = meta(json!({"annotations": {"cluster.x-k8s.io/managed-by": ""}}));
        assert_eq!(cluster(&external, Some(&a_cluster())), Gate::External);
        assert_eq!(teardown(&external, None), Gate::External);
        assert_eq!(cluster(&owned_by("v1", "Secret"), None), Gate::Stranger);
        let own = owned_by("cluster.x-k8s.io/v1beta1", "Cluster");
        assert_eq!(cluster(&own, Some(&a_cluster())), Gate::Open);
    }

    #[test]
    fn pa_02_and_pa_03_pause_holds_a_deletion_and_names_its_cause() {
        let annotated = meta(json!({"annotations": {"cluster.x-k8s.io/paused": "false"}}));
        let mut c = a_cluster();
        assert!(matches!(teardown(&annotated, None), Gate::Paused(m) if m.contains("annotation")));
        c.spec.paused = Some(true);
        let by_cluster = teardown(&ObjectMeta::default(), Some(&c));
        assert!(matches!(by_cluster, Gate::Paused(m) if m == "Cluster c has spec.paused"));
        let both = teardown(&annotated, Some(&c));
        assert!(matches!(both, Gate::Paused(m) if m.contains("Cluster c") && m.contains("annot")));
        c.spec.paused = Some(false);
        assert_eq!(teardown(&ObjectMeta::default(), Some(&c)), Gate::Open);
    }
}
