//! The Machine controller: bootstrap, infrastructure and node phases (S-07), and the way into
//! deletion (S-08).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::condition::{
    AVAILABLE, BOOTSTRAP_CONFIG_READY, Conditions, DELETING, HEALTH_CHECK_SUCCEEDED,
    INFRASTRUCTURE_READY, NODE_HEALTHY, NODE_READY, READY, Report, mirror, provisioned_fallback,
};
use super::driver::Again;
use super::gate::{self, External, adoption, external};
use super::hub::{Error, Result};
use super::nodes::Roster;
use super::object::{Name, Object, Reference};
use super::word::{
    CLUSTER, CLUSTER_NAME_LABEL, CORE_API, INTERRUPTIBLE_LABEL, KUBEADM_CONTROL_PLANE, MACHINE,
    MACHINE_FINALIZER, MACHINE_SET, manager,
};
use super::{World, cluster, deletion};
use crate::workload::Node;

/// When a missing object is looked for again.
const MISSING_RETRY: Duration = Duration::from_secs(30);
/// When a provisioned machine without provider id is looked at again.
const PROVIDER_ID_RETRY: Duration = Duration::from_secs(5);
/// The taint that core removes once it has found a Machine's node.
pub(super) const UNINITIALIZED_TAINT: &str = "node.cluster.x-k8s.io/uninitialized";

/// What one pass knows and collects.
pub(super) struct Pass {
    pub(super) machine: Arc<Object>,
    pub(super) cluster: Arc<Object>,
    pub(super) infra: Option<External>,
    pub(super) bootstrap: Option<External>,
    spec: Value,
    pub(super) status: Value,
    pub(super) conditions: Conditions,
    again: Again,
    fault: Option<Error>,
}

impl Pass {
    pub(super) fn soon(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |held| held.min(delay)));
    }

    fn fail(&mut self, fault: Error) {
        self.fault.get_or_insert(fault);
    }

    /// A field of spec as it will be after this pass.
    fn spec_text(&self, field: &str) -> Option<&str> {
        self.spec[field]
            .as_str()
            .or_else(|| self.machine.word(&format!("/spec/{field}")))
    }

    fn is_provisioned(&self) -> bool {
        let now = self
            .status
            .pointer("/initialization/infrastructureProvisioned");
        now == Some(&json!(true))
            || self
                .machine
                .flag("/status/initialization/infrastructureProvisioned")
    }

    fn initialized(&mut self, field: &str) {
        if !self.status["initialization"].is_object() {
            self.status["initialization"] = json!({});
        }
        self.status["initialization"][field] = json!(true);
    }
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let hub = &world.hub;
    let Some(machine) = hub.get(&MACHINE, name) else {
        return Ok(None);
    };
    let machine = gate::hold(hub, &MACHINE, machine, MACHINE_FINALIZER, manager::MACHINE).await?;
    let cluster_name = machine.cluster_name().unwrap_or_default().to_owned();
    let Some(cluster) = hub.get(&CLUSTER, &Name::new(&name.namespace, &cluster_name)) else {
        return Err(Error::Inconsistent(format!(
            "Machine {name} belongs to Cluster {cluster_name}, which does not exist"
        )));
    };
    if gate::stops(hub, &MACHINE, &machine, Some(&cluster), manager::MACHINE).await? {
        return Ok(None);
    }
    let machine = owned(world, machine, &cluster).await?;
    let conditions = Conditions::of(&machine, hub.now());
    let mut pass = Pass {
        status: json!({"observedGeneration": machine.generation()}),
        machine,
        cluster,
        infra: None,
        bootstrap: None,
        spec: json!({}),
        conditions,
        again: None,
        fault: None,
    };
    bootstrap(world, &mut pass).await;
    infrastructure(world, &mut pass).await;
    if let Err(fault) = node(world, &mut pass) {
        pass.fail(fault);
    }
    let is_finished = if pass.machine.is_deleting() {
        match deletion::advance(world, &mut pass).await {
            Ok(is_finished) => is_finished,
            Err(fault) => {
                pass.fail(fault);
                false
            }
        }
    } else {
        pass.conditions
            .set(DELETING, &Report::no("NotDeleting", ""));
        false
    };
    publish(world, pass, is_finished).await
}

/// Label and owner: a Machine without controller is owned by its Cluster.
async fn owned(world: &World, machine: Arc<Object>, cluster: &Object) -> Result<Arc<Object>> {
    let patch = if machine.controller().is_some() {
        (machine.label(CLUSTER_NAME_LABEL) != Some(cluster.name()))
            .then(|| json!({"metadata": {"labels": {CLUSTER_NAME_LABEL: cluster.name()}}}))
    } else {
        let owner = cluster.owner_reference(CORE_API, &CLUSTER, false);
        adoption(&machine, &owner, &[], cluster.name())?
    };
    match patch {
        Some(patch) => {
            world
                .hub
                .merge(&MACHINE, &machine.key(), patch, manager::MACHINE)
                .await
        }
        None => Ok(machine),
    }
}

/// Adopts an infra machine or bootstrap config: one patch that replaces the creator's reference.
async fn adopted(world: &World, pass: &Pass, reference: &Reference) -> Result<External> {
    let found = external(&world.hub, pass.machine.namespace(), reference)?;
    let External::Found(object, resolved) = found else {
        return Ok(found);
    };
    let owner = pass.machine.owner_reference(CORE_API, &MACHINE, true);
    let replaced = [&MACHINE_SET, &KUBEADM_CONTROL_PLANE];
    let Some(patch) = adoption(&object, &owner, &replaced, pass.cluster.name())? else {
        return Ok(External::Found(object, resolved));
    };
    let name = object.key();
    let object = world
        .hub
        .merge(&reference.kind, &name, patch, manager::MACHINE)
        .await?;
    Ok(External::Found(object, resolved))
}

async fn bootstrap(world: &World, pass: &mut Pass) {
    let has_data = pass.machine.at("/spec/bootstrap/dataSecretName").is_some();
    let Some(reference) = pass.machine.reference("/spec/bootstrap/configRef") else {
        if has_data {
            pass.initialized("bootstrapDataSecretCreated");
            let report = Report::yes("DataSecretProvided");
            pass.conditions.set(BOOTSTRAP_CONFIG_READY, &report);
        }
        return;
    };
    let report = match adopted(world, pass, &reference).await {
        Ok(External::Listing) => return,
        Ok(External::Missing(resolved)) => {
            pass.bootstrap = Some(External::Missing(resolved));
            if !pass.machine.is_deleting() {
                pass.soon(world.hub.scaled(MISSING_RETRY));
            }
            Report::no(
                "ObjectDoesNotExist",
                format!("{} does not exist", reference.kind.kind),
            )
        }
        Ok(External::Found(config, resolved)) => {
            let field = resolved.contract.data_secret_created();
            let is_created = config.flag(field);
            let secret = config.word("/status/dataSecretName");
            if let Some(secret) = secret.filter(|_| is_created && !config.is_deleting()) {
                if pass.machine.text("/spec/bootstrap/dataSecretName") != Some(secret) {
                    pass.spec["bootstrap"] = json!({"dataSecretName": secret});
                }
                pass.initialized("bootstrapDataSecretCreated");
            }
            let report = mirror(
                &config,
                provisioned_fallback(&reference.kind, field, is_created),
            );
            pass.bootstrap = Some(External::Found(config, resolved));
            report
        }
        Err(fault) => {
            let report = Report::unknown("InternalError", fault.in_full());
            pass.fail(fault);
            report
        }
    };
    pass.conditions.set(BOOTSTRAP_CONFIG_READY, &report);
}

async fn infrastructure(world: &World, pass: &mut Pass) {
    let Some(reference) = pass.machine.reference("/spec/infrastructureRef") else {
        return;
    };
    let report = match adopted(world, pass, &reference).await {
        Ok(External::Listing) => return,
        Ok(External::Missing(resolved)) => {
            pass.infra = Some(External::Missing(resolved));
            missing(world, pass, &reference)
        }
        Ok(External::Found(infra, resolved)) => {
            let field = resolved.contract.provisioned();
            let is_provisioned = infra.flag(field);
            if !infra.is_deleting() && (is_provisioned || pass.is_provisioned()) {
                if infra.word("/spec/providerID").is_some() {
                    copy(pass, &infra);
                } else {
                    pass.soon(world.hub.scaled(PROVIDER_ID_RETRY));
                }
            }
            let fallback = provisioned_fallback(&reference.kind, field, is_provisioned);
            let report = mirror(&infra, fallback);
            pass.infra = Some(External::Found(infra, resolved));
            report
        }
        Err(fault) => {
            let report = Report::unknown("InternalError", fault.in_full());
            pass.fail(fault);
            report
        }
    };
    pass.conditions.set(INFRASTRUCTURE_READY, &report);
}

/// Never made again: a vanished infra machine is an error, remediation replaces the Machine.
fn missing(world: &World, pass: &mut Pass, reference: &Reference) -> Report {
    let kind = &reference.kind.kind;
    if !pass.is_provisioned() {
        if !pass.machine.is_deleting() {
            pass.soon(world.hub.scaled(MISSING_RETRY));
        }
        return Report::no("ObjectDoesNotExist", format!("{kind} does not exist"));
    }
    if pass.machine.is_deleting() {
        return Report::no("ObjectDeleted", format!("{kind} has been deleted"));
    }
    pass.fail(Error::Inconsistent(format!(
        "{kind} {} of Machine {} has been deleted after being provisioned",
        reference.name,
        pass.machine.key()
    )));
    Report::no(
        "ObjectDeleted",
        format!("{kind} has been deleted while the Machine still exists"),
    )
}

/// Copies what an infra machine reports.
fn copy(pass: &mut Pass, infra: &Object) {
    for (field, pointer) in [
        ("providerID", "/spec/providerID"),
        ("failureDomain", "/spec/failureDomain"),
    ] {
        let wanted = infra.word(pointer);
        if wanted.is_some() && pass.machine.word(pointer) != wanted {
            pass.spec[field] = json!(wanted);
        }
    }
    if let Some(addresses) = infra.at("/status/addresses") {
        pass.status["addresses"] = addresses.clone();
    }
    if let Some(domain) = infra.word("/status/failureDomain") {
        pass.status["failureDomain"] = json!(domain);
    }
    pass.initialized("infrastructureProvisioned");
}

/// Finds the node and keeps its labels, annotations and taints.
fn node(world: &World, pass: &mut Pass) -> Result<()> {
    let Some(endpoint) = cluster::endpoint(&pass.cluster) else {
        waits_for_node(pass, "Waiting for the Cluster's control plane endpoint");
        return Ok(());
    };
    let Some(roster) = world.roster(&endpoint).filter(|roster| roster.answers) else {
        let report = Report::unknown("ConnectionDown", "Remote connection not established");
        pass.conditions.set(NODE_HEALTHY, &report);
        pass.conditions.set(NODE_READY, &report);
        return Ok(());
    };
    let Some(provider_id) = pass.spec_text("providerID").map(str::to_owned) else {
        waits_for_node(
            pass,
            "Waiting for the infra machine to report spec.providerID",
        );
        return Ok(());
    };
    let had_node = pass.machine.word("/status/nodeRef/name").map(str::to_owned);
    let node = match find(&roster, &provider_id, pass) {
        Ok(Some(node)) => node,
        Ok(None) if had_node.is_some() && !pass.machine.is_deleting() => {
            let name = had_node.unwrap_or_default();
            let report = Report::no("NodeDeleted", format!("Node {name} has been deleted"));
            pass.conditions.set(NODE_HEALTHY, &report);
            pass.conditions.set(NODE_READY, &report);
            return Err(Error::Inconsistent(format!(
                "Node {name} of Machine {} has been deleted",
                pass.machine.key()
            )));
        }
        Ok(None) => {
            waits_for_node(
                pass,
                &format!("Waiting for a Node with spec.providerID {provider_id} to exist"),
            );
            return Ok(());
        }
        Err(fault) => {
            let report = Report::unknown("InternalError", fault.to_string());
            pass.conditions.set(NODE_HEALTHY, &report);
            pass.conditions.set(NODE_READY, &report);
            return Err(fault);
        }
    };
    pass.status["nodeRef"] = json!({"name": node.name});
    pass.status["nodeInfo"] = node_info(&node);
    let infra = match &pass.infra {
        Some(External::Found(infra, _)) => Some(infra),
        Some(External::Missing(_) | External::Listing) | None => None,
    };
    let wanted = Wanted::of(&pass.machine, infra.map(Arc::as_ref));
    if !pass.machine.is_deleting() && !wanted.is_met(&node) {
        world
            .workloads
            .update_node(&endpoint, &node.name, |node| wanted.put(node));
    }
    let (health, ready) = if node.ready {
        (Report::yes("NodeHealthy"), Report::yes("NodeReady"))
    } else {
        (
            Report::no(
                "NodeNotHealthy",
                "* Node.Ready: the kubelet does not report",
            ),
            Report::no("NodeNotReady", "* Node.Ready: the kubelet does not report"),
        )
    };
    pass.conditions.set(NODE_HEALTHY, &health);
    pass.conditions.set(NODE_READY, &ready);
    Ok(())
}

fn waits_for_node(pass: &mut Pass, message: &str) {
    let report = Report::unknown("InspectionFailed", message);
    pass.conditions.set(NODE_HEALTHY, &report);
    pass.conditions.set(NODE_READY, &report);
}

fn find(roster: &Roster, provider_id: &str, pass: &Pass) -> Result<Option<Arc<Node>>> {
    match roster.by_provider_id(provider_id) {
        [] => Ok(None),
        [one] => Ok(Some(Arc::clone(one))),
        several => Err(Error::Inconsistent(format!(
            "{} Nodes have the spec.providerID {provider_id} of Machine {}",
            several.len(),
            pass.machine.key()
        ))),
    }
}

/// `status.nodeInfo`; what a simulated node does not have says so.
fn node_info(node: &Node) -> Value {
    const UNSAID: &str = "simulated";
    json!({
        "architecture": "amd64",
        "bootID": UNSAID,
        "containerRuntimeVersion": UNSAID,
        "kernelVersion": UNSAID,
        "kubeProxyVersion": "",
        "kubeletVersion": node.kubernetes_version,
        "machineID": node.machine,
        "operatingSystem": "linux",
        "osImage": UNSAID,
        "systemUUID": node.machine,
    })
}

/// What core keeps on a node.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Wanted {
    fn of(machine: &Object, infra: Option<&Object>) -> Self {
        let all = machine.metadata.labels.iter().flatten();
        let mut labels: BTreeMap<_, _> = all
            .filter(|(key, _)| is_synced_label(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if infra.is_some_and(|infra| infra.flag("/status/interruptible")) {
            labels.insert(INTERRUPTIBLE_LABEL.to_owned(), String::new());
        }
        let mut annotations = BTreeMap::from([
            (
                CLUSTER_NAME_LABEL.to_owned(),
                machine.cluster_name().unwrap_or_default().to_owned(),
            ),
            (
                "cluster.x-k8s.io/cluster-namespace".to_owned(),
                machine.namespace().to_owned(),
            ),
            (
                "cluster.x-k8s.io/machine".to_owned(),
                machine.name().to_owned(),
            ),
        ]);
        if let Some(owner) = machine.controller() {
            annotations.insert("cluster.x-k8s.io/owner-kind".to_owned(), owner.kind.clone());
            annotations.insert("cluster.x-k8s.io/owner-name".to_owned(), owner.name.clone());
        }
        Self {
            labels,
            annotations,
        }
    }

    fn is_met(&self, node: &Node) -> bool {
        let holds = |all: &BTreeMap<String, String>, part: &BTreeMap<String, String>| {
            part.iter().all(|(key, value)| all.get(key) == Some(value))
        };
        holds(&node.labels, &self.labels)
            && holds(&node.annotations, &self.annotations)
            && node
                .taints
                .iter()
                .all(|taint| taint.key != UNINITIALIZED_TAINT)
    }

    fn put(&self, node: &mut Node) {
        node.labels.extend(self.labels.clone());
        node.annotations.extend(self.annotations.clone());
        node.taints.retain(|taint| taint.key != UNINITIALIZED_TAINT);
    }
}

/// Labels of a Machine that core hands down to its node.
fn is_synced_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is_below = |parent: &str| {
        domain == parent
            || domain
                .strip_suffix(parent)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    domain == "node-role.kubernetes.io"
        || is_below("node-restriction.kubernetes.io")
        || is_below("node.cluster.x-k8s.io")
}

async fn publish(world: &World, mut pass: Pass, is_finished: bool) -> Result<Again> {
    let hub = &world.hub;
    let name = pass.machine.key();
    if pass.spec.as_object().is_some_and(|spec| !spec.is_empty()) {
        let patch = json!({"spec": pass.spec});
        pass.machine = hub.merge(&MACHINE, &name, patch, manager::MACHINE).await?;
    }
    let mut parts = vec![BOOTSTRAP_CONFIG_READY, INFRASTRUCTURE_READY, NODE_HEALTHY];
    if pass.conditions.status(HEALTH_CHECK_SUCCEEDED).is_some() {
        parts.push(HEALTH_CHECK_SUCCEEDED);
    }
    let ready = pass
        .conditions
        .summary("Ready", "NotReady", "ReadyUnknown", &parts);
    pass.conditions.set(READY, &ready);
    let available = if ready.status == "True" {
        Report::yes("Available")
    } else {
        Report::no("NotReady", "")
    };
    pass.conditions.set(AVAILABLE, &available);
    pass.status["phase"] = json!(phase(&pass));
    pass.status["conditions"] = pass.conditions.into_value();
    let written = hub
        .merge_status(&MACHINE, &pass.machine, &pass.status, manager::MACHINE)
        .await?;
    if let Some(fault) = pass.fault {
        return Err(fault);
    }
    if is_finished {
        let machine = written.unwrap_or(pass.machine);
        gate::release(hub, &MACHINE, &machine, MACHINE_FINALIZER, manager::MACHINE).await?;
        return Ok(None);
    }
    Ok(pass.again)
}

fn phase(pass: &Pass) -> &'static str {
    let has_node =
        pass.status.get("nodeRef").is_some() || pass.machine.at("/status/nodeRef").is_some();
    let is_bootstrapped = pass
        .status
        .pointer("/initialization/bootstrapDataSecretCreated")
        .is_some()
        || pass
            .machine
            .flag("/status/initialization/bootstrapDataSecretCreated");
    if pass.machine.is_deleting() {
        "Deleting"
    } else if has_node && pass.is_provisioned() {
        "Running"
    } else if pass.spec_text("providerID").is_some() {
        "Provisioned"
    } else if is_bootstrapped {
        "Provisioning"
    } else {
        "Pending"
    }
}

#[cfg(test)]
mod tests {
    use crate::workload::{Role, Taint};

    use super::*;

    #[test]
    fn s_07_only_labels_of_three_domains_go_down_to_the_node() {
        for (key, wanted) in [
            ("node-role.kubernetes.io/worker", true),
            ("node-restriction.kubernetes.io/x", true),
            ("zone.node-restriction.kubernetes.io/x", true),
            ("node.cluster.x-k8s.io/pool", true),
            ("my.node.cluster.x-k8s.io/pool", true),
            ("other-node.cluster.x-k8s.io/pool", false),
            ("cluster.x-k8s.io/cluster-name", false),
            ("plain", false),
        ] {
            assert_eq!(is_synced_label(key), wanted, "{key}");
        }
    }

    #[test]
    fn im_17_an_interruptible_infra_machine_labels_its_node() {
        let machine = Object::from_value(json!({
            "apiVersion": CORE_API, "kind": "Machine",
            "metadata": {"name": "m", "namespace": "d"}, "spec": {"clusterName": "c"},
        }));
        let infra = Object::from_value(json!({
            "apiVersion": "infra.x/v1", "kind": "Thing", "metadata": {"name": "m"},
            "status": {"interruptible": true},
        }));
        let mut node = Node::new("n", "u", Role::Worker);
        node.taints.push(Taint {
            key: UNINITIALIZED_TAINT.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        });
        let wanted = Wanted::of(&machine, Some(&infra));
        assert!(!wanted.is_met(&node));
        wanted.put(&mut node);
        assert!(wanted.is_met(&node));
        assert!(node.labels.contains_key(INTERRUPTIBLE_LABEL));
        assert!(node.taints.is_empty());
        assert_eq!(node.annotations["cluster.x-k8s.io/machine"], "m");
        assert!(Wanted::of(&machine, None).labels.is_empty());
    }
}
