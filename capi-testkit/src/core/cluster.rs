//! The Cluster controller: infra cluster and control plane in, endpoint, domains and conditions out;
//! deletion in order (S-02, S-03).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::condition::{
    AVAILABLE, CONTROL_PLANE_AVAILABLE, CONTROL_PLANE_INITIALIZED, Conditions, DELETING,
    INFRASTRUCTURE_READY, REMOTE_CONNECTION_PROBE, Report, WORKERS_AVAILABLE, mirror, mirror_of,
    provisioned_fallback,
};
use super::driver::Again;
use super::gate::{self, External, adoption, external};
use super::hub::{Error, Result};
use super::object::{Kind, Name, Object, Reference};
use super::reference::{self, Contract, Resolved};
use super::word::{
    CLUSTER, CLUSTER_FINALIZER, CONTROL_PLANE_LABEL, CORE_API, MACHINE, MACHINE_DEPLOYMENT,
    MACHINE_SET, manager,
};
use super::{World, credentials};
use crate::workload::Endpoint;

/// When a missing infra object or control plane is looked for again.
const MISSING_RETRY: Duration = Duration::from_secs(30);
/// How often a deleting Cluster looks after what it waits for, should an event be lost.
const DELETION_RETRY: Duration = Duration::from_secs(5);

/// The API endpoint of a Cluster, if it is valid: host and port are set.
pub(super) fn endpoint(cluster: &Object) -> Option<Endpoint> {
    let host = cluster.word("/spec/controlPlaneEndpoint/host")?;
    let port = cluster.number("/spec/controlPlaneEndpoint/port")?;
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    Some(Endpoint::new(host, port))
}

/// Whether bootstrap and control plane may start: infrastructure provisioned, endpoint valid.
pub(super) fn is_infrastructure_ready(cluster: &Object) -> bool {
    cluster.flag("/status/initialization/infrastructureProvisioned") && endpoint(cluster).is_some()
}

/// What one pass collects for its status write.
struct Pass {
    spec: Value,
    status: Value,
    conditions: Conditions,
    again: Again,
    fault: Option<Error>,
}

impl Pass {
    fn soon(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |held| held.min(delay)));
    }

    fn fail(&mut self, fault: Error) {
        self.fault.get_or_insert(fault);
    }
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let hub = &world.hub;
    let Some(cluster) = hub.get(&CLUSTER, name) else {
        return Ok(None);
    };
    let cluster = gate::hold(hub, &CLUSTER, cluster, CLUSTER_FINALIZER, manager::CLUSTER).await?;
    if gate::stops(hub, &CLUSTER, &cluster, Some(&cluster), manager::CLUSTER).await? {
        return Ok(None);
    }
    let mut pass = Pass {
        spec: json!({}),
        status: json!({"observedGeneration": cluster.generation()}),
        conditions: Conditions::of(&cluster, hub.now()),
        again: None,
        fault: None,
    };
    infrastructure(world, &cluster, &mut pass).await;
    control_plane(world, &cluster, &mut pass).await;
    if !cluster.is_deleting()
        && let Err(fault) = credentials::kubeconfig_of_core(world, &cluster).await
    {
        pass.fail(fault);
    }
    let is_finished = if cluster.is_deleting() {
        match delete(world, &cluster).await {
            Ok(None) => true,
            Ok(Some(report)) => {
                pass.conditions.set(DELETING, &report);
                pass.soon(hub.scaled(DELETION_RETRY));
                false
            }
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
    publish(world, cluster, pass, is_finished).await
}

async fn publish(
    world: &World,
    cluster: Arc<Object>,
    mut pass: Pass,
    is_finished: bool,
) -> Result<Again> {
    let hub = &world.hub;
    let mut cluster = cluster;
    if pass.spec.as_object().is_some_and(|spec| !spec.is_empty()) {
        let patch = json!({"spec": pass.spec});
        let written = hub
            .merge(&CLUSTER, &cluster.key(), patch, manager::CLUSTER)
            .await?;
        // The status written below was computed for what is now an older version.
        cluster = written;
    }
    summarise(world, &cluster, &mut pass);
    pass.status["phase"] = json!(phase(&cluster, &pass.status));
    pass.status["conditions"] = pass.conditions.into_value();
    let written = hub
        .merge_status(&CLUSTER, &cluster, &pass.status, manager::CLUSTER)
        .await?;
    if let Some(fault) = pass.fault {
        return Err(fault);
    }
    if is_finished {
        let cluster = written.unwrap_or(cluster);
        gate::release(hub, &CLUSTER, &cluster, CLUSTER_FINALIZER, manager::CLUSTER).await?;
        return Ok(None);
    }
    Ok(pass.again)
}

fn phase(cluster: &Object, status: &Value) -> &'static str {
    let is_provisioned = status
        .pointer("/initialization/infrastructureProvisioned")
        .map_or_else(
            || cluster.flag("/status/initialization/infrastructureProvisioned"),
            |value| *value == json!(true),
        );
    if cluster.is_deleting() {
        "Deleting"
    } else if is_provisioned && endpoint(cluster).is_some() {
        "Provisioned"
    } else if cluster.at("/spec/infrastructureRef").is_some()
        || cluster.at("/spec/controlPlaneRef").is_some()
    {
        "Provisioning"
    } else {
        "Pending"
    }
}

/// Section "Cluster → infra cluster": adopt, read, copy, mirror.
async fn infrastructure(world: &World, cluster: &Object, pass: &mut Pass) {
    let Some(reference) = cluster.reference("/spec/infrastructureRef") else {
        if !cluster.is_deleting() {
            pass.status["initialization"] = json!({"infrastructureProvisioned": true});
        }
        return;
    };
    let was_provisioned = cluster.flag("/status/initialization/infrastructureProvisioned");
    let report = match adopted(world, cluster, &reference).await {
        Ok(External::Listing) => return,
        Ok(External::Missing(_)) => {
            let (report, fault) = missing(cluster, &reference, was_provisioned);
            match fault {
                Some(fault) => pass.fail(fault),
                None => pass.soon(world.hub.scaled(MISSING_RETRY)),
            }
            report
        }
        Ok(External::Found(infra, resolved)) => {
            let copy = copied(cluster, &infra, resolved.contract, was_provisioned);
            merge_into(&mut pass.spec, copy.spec);
            merge_into(&mut pass.status, copy.status);
            let is_provisioned = infra.flag(resolved.contract.provisioned());
            mirror(
                &infra,
                provisioned_fallback(
                    &reference.kind,
                    resolved.contract.provisioned(),
                    is_provisioned,
                ),
            )
        }
        Err(fault) => {
            let report = Report::unknown("InternalError", fault.in_full());
            pass.fail(fault);
            report
        }
    };
    pass.conditions.set(INFRASTRUCTURE_READY, &report);
}

/// What a missing infra object means; an error once it was provisioned.
fn missing(
    cluster: &Object,
    reference: &Reference,
    was_provisioned: bool,
) -> (Report, Option<Error>) {
    let text = |what: &str| format!("{} {what}", reference.kind.kind);
    match (was_provisioned, cluster.is_deleting()) {
        (true, true) => (Report::no("ObjectDeleted", text("has been deleted")), None),
        (true, false) => (
            Report::no(
                "ObjectDeleted",
                text("has been deleted while the Cluster still exists"),
            ),
            Some(Error::Inconsistent(format!(
                "{} {} of Cluster {} has been deleted after being provisioned",
                reference.kind.kind,
                reference.name,
                cluster.key()
            ))),
        ),
        (false, _) => (
            Report::no("ObjectDoesNotExist", text("does not exist")),
            None,
        ),
    }
}

/// Adopts what the Cluster refers to: plain owner, or controller where a topology made it (IC-17).
async fn adopted(world: &World, cluster: &Object, reference: &Reference) -> Result<External> {
    let found = external(&world.hub, cluster.namespace(), reference)?;
    let External::Found(object, resolved) = found else {
        return Ok(found);
    };
    let controls = cluster.at("/spec/topology").is_some();
    let owner = cluster.owner_reference(CORE_API, &CLUSTER, controls);
    let Some(patch) = adoption(&object, &owner, &[], cluster.name())? else {
        return Ok(External::Found(object, resolved));
    };
    let name = object.key();
    let object = world
        .hub
        .merge(&reference.kind, &name, patch, manager::CLUSTER)
        .await?;
    Ok(External::Found(object, resolved))
}

/// What a pass takes over from an infra cluster.
#[derive(Debug, Default, PartialEq)]
struct Copy {
    spec: Value,
    status: Value,
}

fn copied(cluster: &Object, infra: &Object, contract: Contract, was_provisioned: bool) -> Copy {
    let mut copy = Copy {
        spec: json!({}),
        status: json!({}),
    };
    let is_provisioned = infra.flag(contract.provisioned());
    if infra.is_deleting() || !(is_provisioned || was_provisioned) {
        return copy;
    }
    if endpoint(cluster).is_none()
        && let Some(given) = infra.at("/spec/controlPlaneEndpoint")
    {
        copy.spec["controlPlaneEndpoint"] = given.clone();
    }
    let domains = failure_domains(infra);
    let is_held = cluster.at("/status/failureDomains").is_some();
    if !domains.is_empty() {
        copy.status["failureDomains"] = json!(domains);
    } else if is_held {
        copy.status["failureDomains"] = Value::Null;
    }
    copy.status["initialization"] = json!({"infrastructureProvisioned": true});
    copy
}

/// Failure domains of either contract, sorted by name, `controlPlane` always said.
fn failure_domains(infra: &Object) -> Vec<Value> {
    let domain = |name: &str, from: &Value| {
        let mut domain = json!({
            "name": name,
            "controlPlane": from["controlPlane"].as_bool().unwrap_or(false),
        });
        if let Some(attributes) = from.get("attributes") {
            domain["attributes"] = attributes.clone();
        }
        domain
    };
    let mut domains: Vec<Value> = match infra.at("/status/failureDomains") {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|from| Some(domain(from["name"].as_str()?, from)))
            .collect(),
        Some(Value::Object(map)) => map.iter().map(|(name, from)| domain(name, from)).collect(),
        _ => Vec::new(),
    };
    domains.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
    domains
}

fn merge_into(target: &mut Value, part: Value) {
    if let (Value::Object(target), Value::Object(part)) = (target, part) {
        target.extend(part);
    }
}

async fn control_plane(world: &World, cluster: &Object, pass: &mut Pass) {
    let was_initialized = cluster.flag("/status/initialization/controlPlaneInitialized");
    let found = match cluster.reference("/spec/controlPlaneRef") {
        None => Ok(None),
        Some(reference) => adopted(world, cluster, &reference)
            .await
            .map(|found| Some((reference.kind, found))),
    };
    let external = match found {
        Ok(found) => found,
        Err(fault) => {
            pass.fail(fault);
            None
        }
    };
    let is_initialized = was_initialized
        || world.is_commanded(cluster)
        || match &external {
            Some((_, External::Found(object, Resolved { contract, .. }))) => {
                object.flag(contract.control_plane_initialized())
            }
            Some((_, External::Missing(_))) => {
                // Nothing that it will be created with leads to this Cluster.
                pass.soon(world.hub.scaled(MISSING_RETRY));
                false
            }
            Some((_, External::Listing)) => false,
            None => has_control_plane_node(world, cluster),
        };
    if is_initialized {
        merge_initialization(&mut pass.status, "controlPlaneInitialized");
    }
    pass.conditions.set(
        CONTROL_PLANE_INITIALIZED,
        &if is_initialized {
            Report::yes("Initialized")
        } else {
            Report::no("NotInitialized", "Control plane not yet initialized")
        },
    );
    if let Some((kind, External::Found(object, _))) = external {
        available_control_plane(&kind, &object, pass);
    } else {
        pass.conditions.remove(CONTROL_PLANE_AVAILABLE);
    }
}

fn merge_initialization(status: &mut Value, field: &str) {
    if !status["initialization"].is_object() {
        status["initialization"] = json!({});
    }
    status["initialization"][field] = json!(true);
}

fn available_control_plane(kind: &Kind, object: &Object, pass: &mut Pass) {
    let fallback = Report::unknown(
        "NotYetReported",
        format!("{} has not reported Available yet", kind.kind),
    );
    let report = mirror_of(object, AVAILABLE, fallback);
    pass.conditions.set(CONTROL_PLANE_AVAILABLE, &report);
    let number = |pointer: &str| object.number(pointer);
    let mut counts = json!({});
    for (field, value) in [
        ("desiredReplicas", number("/spec/replicas")),
        ("replicas", number("/status/replicas")),
        ("readyReplicas", number("/status/readyReplicas")),
        ("availableReplicas", number("/status/availableReplicas")),
        ("upToDateReplicas", number("/status/upToDateReplicas")),
    ] {
        if let Some(value) = value {
            counts[field] = json!(value);
        }
    }
    pass.status["controlPlane"] = counts;
}

fn has_control_plane_node(world: &World, cluster: &Object) -> bool {
    let machines = world.hub.clustered(&MACHINE, &cluster.key());
    machines.iter().any(|machine| {
        machine.label(CONTROL_PLANE_LABEL).is_some() && machine.at("/status/nodeRef").is_some()
    })
}

/// The conditions over all of a Cluster.
fn summarise(world: &World, cluster: &Object, pass: &mut Pass) {
    let deployments = world.hub.clustered(&MACHINE_DEPLOYMENT, &cluster.key());
    let waiting: Vec<_> = deployments
        .iter()
        .filter(|it| !it.is_true(AVAILABLE))
        .map(|it| it.name().to_owned())
        .collect();
    let workers = if deployments.is_empty() {
        Report::yes("NoWorkers")
    } else if waiting.is_empty() {
        Report::yes("Available")
    } else {
        let text = format!("* MachineDeployments not available: {}", waiting.join(", "));
        Report::no("NotAvailable", text)
    };
    pass.conditions.set(WORKERS_AVAILABLE, &workers);
    let answers = endpoint(cluster).is_some_and(|at| world.workloads.answers(&at));
    let is_initialized = pass.conditions.status(CONTROL_PLANE_INITIALIZED) == Some("True");
    let probe = match (answers, is_initialized) {
        (true, _) => Report::yes("ProbeSucceeded"),
        (false, true) => Report::no("ProbeFailed", "Remote connection probe failed"),
        (false, false) => Report::no("ProbeFailed", "Remote connection not established yet"),
    };
    pass.conditions.set(REMOTE_CONNECTION_PROBE, &probe);
    let mut parts = vec![REMOTE_CONNECTION_PROBE, INFRASTRUCTURE_READY];
    if cluster.at("/spec/controlPlaneRef").is_some() {
        parts.push(CONTROL_PLANE_AVAILABLE);
    }
    parts.push(WORKERS_AVAILABLE);
    let summary = pass
        .conditions
        .summary("Available", "NotAvailable", "AvailableUnknown", &parts);
    pass.conditions.set(AVAILABLE, &summary);
}

/// One step of deletion: workers, control plane, infra cluster, each awaited. Nothing if all are gone.
async fn delete(world: &World, cluster: &Object) -> Result<Option<Report>> {
    let hub = &world.hub;
    let name = cluster.key();
    let has_control_plane = cluster.at("/spec/controlPlaneRef").is_some();
    let is_worker =
        |machine: &Object| !has_control_plane || machine.label(CONTROL_PLANE_LABEL).is_none();
    let is_free = |object: &Object| object.controller().is_none();
    let mut left = Vec::new();
    for (kind, all) in [
        (
            &MACHINE_DEPLOYMENT,
            hub.clustered(&MACHINE_DEPLOYMENT, &name),
        ),
        (&MACHINE_SET, hub.clustered(&MACHINE_SET, &name)),
        (&MACHINE, hub.clustered(&MACHINE, &name)),
    ] {
        let mine = |it: &&Arc<Object>| kind != &MACHINE || is_worker(it);
        for object in all.iter().filter(mine) {
            // What another object controls is deleted by that one.
            if kind == &MACHINE_DEPLOYMENT || is_free(object) {
                hub.delete(kind, object).await?;
            }
            left.push((&kind.kind, object.name().to_owned()));
        }
    }
    if !left.is_empty() {
        return Ok(Some(waiting("WaitingForWorkersDeletion", &left)));
    }
    for (pointer, reason) in [
        ("/spec/controlPlaneRef", "WaitingForControlPlaneDeletion"),
        (
            "/spec/infrastructureRef",
            "WaitingForInfrastructureDeletion",
        ),
    ] {
        let Some(reference) = cluster.reference(pointer) else {
            continue;
        };
        let found = match external(hub, cluster.namespace(), &reference) {
            Ok(found) => found,
            // Kinds whose definition is gone have no objects.
            Err(Error::Reference(reference::Error::NoDefinition { .. })) => continue,
            Err(fault) => return Err(fault),
        };
        match found {
            External::Missing(_) => {}
            External::Listing => return Ok(Some(waiting(reason, &[]))),
            External::Found(object, _) => {
                hub.delete(&reference.kind, &object).await?;
                let left = (&reference.kind.kind, object.name().to_owned());
                return Ok(Some(waiting(reason, &[left])));
            }
        }
    }
    Ok(None)
}

/// Names of objects that a message lists; the rest is counted, since messages are for reading.
const LISTED_MAX: usize = 5;

fn waiting(reason: &str, left: &[(&std::borrow::Cow<'static, str>, String)]) -> Report {
    let mut lines: Vec<_> = left
        .iter()
        .take(LISTED_MAX)
        .map(|(kind, name)| format!("* {kind}: {name}"))
        .collect();
    if left.len() > LISTED_MAX {
        lines.push("* and more".to_owned());
    }
    Report::new("True", reason, lines.join("\n"))
}

#[cfg(test)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "literals read better without borrows"
)]
mod tests {
    use super::*;

    fn cluster(spec: Value, status: Value) -> Object {
        Object::from_value(json!({
            "apiVersion": CORE_API, "kind": "Cluster",
            "metadata": {"name": "c", "namespace": "d"}, "spec": spec, "status": status,
        }))
    }

    fn infra(spec: Value, status: Value) -> Object {
        Object::from_value(json!({
            "apiVersion": "infra.x/v1", "kind": "Thing", "metadata": {"name": "c"},
            "spec": spec, "status": status,
        }))
    }

    fn copy(cluster: &Object, infra: &Object, was: bool) -> Copy {
        copied(cluster, infra, Contract::V1Beta2, was)
    }

    #[test]
    fn ic_03_the_endpoint_is_copied_only_if_invalid_and_only_after_provisioned() {
        let given = json!({"controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443}});
        let ready = json!({"initialization": {"provisioned": true}});
        let none = cluster(json!({}), json!({}));
        let before = copy(&none, &infra(given.clone(), json!({})), false);
        assert_eq!(before.spec, json!({}));
        let after = copy(&none, &infra(given.clone(), ready.clone()), false);
        assert_eq!(after.spec, given);
        assert_eq!(
            after.status["initialization"]["infrastructureProvisioned"],
            true
        );
        let own = json!({"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 1}});
        let kept = copy(
            &cluster(own, json!({})),
            &infra(given.clone(), ready.clone()),
            false,
        );
        assert_eq!(kept.spec, json!({}));
        // Half a value is copied as it is, while the Cluster's own is not valid.
        let half = json!({"controlPlaneEndpoint": {"host": "10.0.0.9"}});
        assert_eq!(copy(&none, &infra(half.clone(), ready), false).spec, half);
        let late = copy(&none, &infra(given.clone(), json!({})), true);
        assert_eq!(late.spec, given, "a late endpoint is picked up");
    }

    #[test]
    fn ic_06_and_ic_07_domains_are_sorted_defaulted_and_emptied() {
        let status = |domains: Value| json!({"initialization": {"provisioned": true}, "failureDomains": domains});
        let none = cluster(json!({}), json!({}));
        let list =
            json!([{"name": "b", "controlPlane": true}, {"name": "a", "attributes": {"k": "v"}}]);
        let wanted = json!([
            {"name": "a", "controlPlane": false, "attributes": {"k": "v"}},
            {"name": "b", "controlPlane": true},
        ]);
        let seen = copy(&none, &infra(json!({}), status(list)), false);
        assert_eq!(seen.status["failureDomains"], wanted);
        let map = json!({"b": {"controlPlane": true}, "a": {"attributes": {"k": "v"}}});
        let seen = copy(&none, &infra(json!({}), status(map)), false);
        assert_eq!(seen.status["failureDomains"], wanted, "the v1beta1 form");
        let held = cluster(json!({}), json!({"failureDomains": wanted}));
        let seen = copy(&held, &infra(json!({}), status(json!(null))), true);
        assert_eq!(seen.status["failureDomains"], Value::Null);
    }

    #[test]
    fn ic_08_provisioned_sticks_but_a_deleting_infra_cluster_gives_nothing() {
        let none = cluster(json!({}), json!({}));
        let lost = copy(&none, &infra(json!({}), json!({})), true);
        assert_eq!(
            lost.status["initialization"]["infrastructureProvisioned"],
            true
        );
        let mut gone = serde_json::to_value(&*infra(json!({}), json!({}))).expect("a value");
        gone["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
        let seen = copy(&none, &Object::from_value(gone), true);
        assert_eq!(seen.status, json!({}));
    }

    #[test]
    fn phases_follow_infrastructure_and_endpoint() {
        let with_ref = json!({"infrastructureRef": {"apiGroup": "g", "kind": "K", "name": "n"}});
        let mut whole = with_ref.clone();
        whole["controlPlaneEndpoint"] = json!({"host": "h", "port": 1});
        let done = json!({"initialization": {"infrastructureProvisioned": true}});
        for (spec, status, wanted) in [
            (json!({}), json!({}), "Pending"),
            (with_ref.clone(), json!({}), "Provisioning"),
            (with_ref, done.clone(), "Provisioning"),
            (whole, done, "Provisioned"),
        ] {
            assert_eq!(
                phase(&cluster(spec.clone(), status.clone()), &json!({})),
                wanted,
                "{spec}"
            );
        }
    }
}
