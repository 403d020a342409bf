//! The kubeadm control plane: machines made, rolled, remediated and deleted one at a time (S-06).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::clone::{Draft, Metadata, Template, make, short_hash, suffix, sync_metadata};
use super::condition::{AVAILABLE, Conditions, DELETING, HEALTH_CHECK_SUCCEEDED, Report};
use super::driver::Again;
use super::gate;
use super::hub::{Error, Hub, Result};
use super::machine_set::{counts, is_to_be_remediated, kind_of, parts, replicas};
use super::object::{Name, Object, Reference};
use super::word::{
    BOOTSTRAP_API, CLUSTER, CLUSTER_NAME_LABEL, CONFIGURATION_HASH, CONTROL_PLANE_API,
    CONTROL_PLANE_CLEANUP_HOOK, CONTROL_PLANE_FINALIZER, CONTROL_PLANE_LABEL,
    CONTROL_PLANE_NAME_LABEL, CORE_API, DELETE_MACHINE, KUBEADM_CONFIG, KUBEADM_CONTROL_PLANE,
    MACHINE, manager,
};
use super::{World, cluster, credentials};

/// One machine, as the plan sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Member {
    name: String,
    /// For ties: older first.
    age: i64,
    is_up_to_date: bool,
    is_deleting: bool,
    has_node: bool,
    is_healthy: bool,
    is_to_be_remediated: bool,
    is_marked: bool,
}

/// The next thing to do; always one machine at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Init,
    Join,
    Delete(String),
    Wait(&'static str),
    Nothing,
}

fn plan(wanted: usize, surge: usize, is_initialized: bool, members: &[Member]) -> Action {
    if members.is_empty() {
        return if wanted == 0 {
            Action::Nothing
        } else {
            Action::Init
        };
    }
    if members.iter().any(|member| member.is_deleting) {
        return Action::Wait("a Machine is being deleted");
    }
    if let Some(member) = members.iter().find(|member| member.is_to_be_remediated) {
        // The only member of an initialised control plane holds its state.
        return if members.len() == 1 && is_initialized {
            Action::Wait("remediation would remove the last control plane Machine")
        } else if keeps_quorum_without(member, members) {
            Action::Delete(member.name.clone())
        } else {
            Action::Wait("remediation would cost etcd its quorum")
        };
    }
    if !is_initialized {
        return Action::Wait("the first Machine is not initialised yet");
    }
    let outdated = members
        .iter()
        .filter(|member| !member.is_up_to_date)
        .count();
    let goal = wanted + if outdated > 0 { surge } else { 0 };
    let is_stable = members
        .iter()
        .all(|member| member.has_node && member.is_healthy);
    if members.len() < goal {
        return if is_stable {
            Action::Join
        } else {
            Action::Wait("a Machine has no healthy Node yet")
        };
    }
    if members.len() > wanted || outdated > 0 {
        if !is_stable {
            return Action::Wait("a Machine has no healthy Node yet");
        }
        return first_to_go(members).map_or(Action::Nothing, Action::Delete);
    }
    Action::Nothing
}

/// Whether most etcd members are well once this one is out; each machine counts as a member.
fn keeps_quorum_without(member: &Member, members: &[Member]) -> bool {
    let others = members.iter().filter(|other| *other != member);
    let well = others.filter(|other| other.has_node && other.is_healthy);
    let left = members.len() - 1;
    left == 0 || well.count() > left / 2
}

/// Marked machines, then outdated ones, then the oldest.
fn first_to_go(members: &[Member]) -> Option<String> {
    members
        .iter()
        .min_by_key(|member| {
            (
                !member.is_marked,
                member.is_up_to_date,
                member.age,
                member.name.clone(),
            )
        })
        .map(|member| member.name.clone())
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let hub = &world.hub;
    let Some(plane) = hub.get(&KUBEADM_CONTROL_PLANE, name) else {
        return Ok(None);
    };
    let owner = plane.owners().iter().find(|owner| CLUSTER.is_of(owner));
    // Nothing happens before the Cluster adopts it; that wakes this pass.
    let Some(cluster) =
        owner.and_then(|it| hub.get(&CLUSTER, &Name::new(&name.namespace, &it.name)))
    else {
        return Ok(None);
    };
    let manager = manager::CONTROL_PLANE;
    let kind = &KUBEADM_CONTROL_PLANE;
    let plane = gate::hold(hub, kind, plane, CONTROL_PLANE_FINALIZER, manager).await?;
    if gate::stops(hub, kind, &plane, Some(&cluster), manager).await? {
        return Ok(None);
    }
    let machines = hub.owned(&MACHINE, plane.uid());
    for machine in &machines {
        sync(world, &plane, machine).await?;
        release_hook(hub, &plane, machine).await?;
    }
    if plane.is_deleting() {
        return delete(world, &plane, &cluster, &machines).await;
    }
    let outcome = work(world, &plane, &cluster, &machines).await;
    let machines = hub.owned(&MACHINE, plane.uid());
    publish(world, &plane, &cluster, &machines, &outcome).await?;
    outcome.map(|_| None)
}

async fn work(
    world: &World,
    plane: &Object,
    cluster: &Object,
    machines: &[Arc<Object>],
) -> Result<Action> {
    if !cluster::is_infrastructure_ready(cluster) {
        return Ok(Action::Wait(
            "the Cluster's infrastructure and endpoint are not ready",
        ));
    }
    let owner = plane.owner_reference(CONTROL_PLANE_API, &KUBEADM_CONTROL_PLANE, true);
    credentials::certificates(world, cluster, &owner, manager::CONTROL_PLANE).await?;
    credentials::kubeconfig(world, cluster, &owner).await?;
    let hash = configuration_hash(plane);
    let members: Vec<_> = machines
        .iter()
        .map(|machine| member(plane, &hash, machine))
        .collect();
    let surge = match plane.at("/spec/rollout/strategy/rollingUpdate/maxSurge") {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let surge = usize::try_from(surge.unwrap_or(1)).unwrap_or(1);
    let wanted = usize::try_from(replicas(plane)).unwrap_or(0);
    let action = plan(
        wanted,
        surge,
        is_initialized(world, plane, cluster),
        &members,
    );
    match &action {
        Action::Init => create(world, plane, cluster, machines, true).await?,
        Action::Join => create(world, plane, cluster, machines, false).await?,
        Action::Delete(name) => {
            if let Some(machine) = machines.iter().find(|machine| machine.name() == name) {
                world.hub.delete(&MACHINE, machine).await?;
            }
        }
        Action::Wait(_) | Action::Nothing => {}
    }
    Ok(action)
}

/// Sticky; true once the API server of the workload cluster answers.
fn is_initialized(world: &World, plane: &Object, cluster: &Object) -> bool {
    plane.flag("/status/initialization/controlPlaneInitialized")
        || world.is_commanded(cluster)
        || cluster::endpoint(cluster).is_some_and(|at| world.workloads.answers(&at))
}

fn configuration_hash(plane: &Object) -> String {
    let config = plane.at("/spec/kubeadmConfigSpec").map(Value::to_string);
    let infra = plane.reference("/spec/machineTemplate/spec/infrastructureRef");
    let version = plane.text("/spec/version").unwrap_or_default();
    let infra = infra.map(|it| it.name).unwrap_or_default();
    short_hash(&[&config.unwrap_or_default(), &infra, version])
}

fn member(plane: &Object, hash: &str, machine: &Object) -> Member {
    let version = machine.text("/spec/version");
    let is_unhealthy = machine
        .condition(HEALTH_CHECK_SUCCEEDED)
        .is_some_and(|held| held.status == "False");
    Member {
        name: machine.name().to_owned(),
        age: machine.created().map_or(0, jiff::Timestamp::as_second),
        is_up_to_date: version == plane.text("/spec/version")
            && machine.annotation(CONFIGURATION_HASH) == Some(hash),
        is_deleting: machine.is_deleting(),
        has_node: machine.at("/status/nodeRef").is_some(),
        is_healthy: !is_unhealthy && machine.is_true(super::condition::NODE_HEALTHY),
        is_to_be_remediated: is_to_be_remediated(machine),
        is_marked: machine.annotation(DELETE_MACHINE).is_some(),
    }
}

/// The domain with the fewest machines among those that take control planes.
fn failure_domain(cluster: &Object, machines: &[Arc<Object>]) -> Option<String> {
    let domains = cluster.at("/status/failureDomains")?.as_array()?;
    let mut counts: BTreeMap<&str, usize> = domains
        .iter()
        .filter(|domain| domain["controlPlane"] == true)
        .filter_map(|domain| Some((domain["name"].as_str()?, 0)))
        .collect();
    for machine in machines {
        if let Some(count) = machine
            .word("/spec/failureDomain")
            .and_then(|name| counts.get_mut(name))
        {
            *count += 1;
        }
    }
    let fewest = counts
        .into_iter()
        .min_by_key(|(name, count)| (*count, *name));
    fewest.map(|(name, _)| name.to_owned())
}

fn metadata(plane: &Object) -> Metadata {
    let cluster = plane.label(CLUSTER_NAME_LABEL).unwrap_or_default();
    Metadata::read(plane.at("/spec/machineTemplate/metadata")).with_labels(&[
        (CLUSTER_NAME_LABEL, cluster),
        (CONTROL_PLANE_LABEL, ""),
        (CONTROL_PLANE_NAME_LABEL, plane.name()),
    ])
}

async fn sync(world: &World, plane: &Object, machine: &Object) -> Result<()> {
    if machine.is_deleting() {
        return Ok(());
    }
    let hub = &world.hub;
    let wanted = metadata(plane);
    let manager = manager::CONTROL_PLANE_METADATA;
    sync_metadata(hub, &world.applied, &MACHINE, machine, &wanted, manager).await?;
    for part in parts(machine) {
        let name = Name::new(machine.namespace(), &part.name);
        if let Some(object) = hub.get(&part.kind, &name)
            && !object.is_deleting()
        {
            sync_metadata(hub, &world.applied, &part.kind, &object, &wanted, manager).await?;
        }
    }
    Ok(())
}

/// The spec of one machine's KubeadmConfig: the first one initialises, others join.
fn kubeadm_spec(plane: &Object, is_first: bool) -> Value {
    let mut spec = plane
        .at("/spec/kubeadmConfigSpec")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let Some(fields) = spec.as_object_mut() else {
        return spec;
    };
    // The definition allows no empty sections, so none is added.
    if is_first {
        fields.remove("joinConfiguration");
    } else {
        fields.remove("initConfiguration");
    }
    spec
}

/// Infra machine, KubeadmConfig, Machine, in this order and under one name. What was made before a
/// failure is deleted again.
async fn create(
    world: &World,
    plane: &Object,
    cluster: &Object,
    machines: &[Arc<Object>],
    is_first: bool,
) -> Result<()> {
    let hub = &world.hub;
    let pointer = "/spec/machineTemplate/spec/infrastructureRef";
    let reference = plane.reference(pointer).ok_or_else(|| {
        Error::Inconsistent(format!(
            "KubeadmControlPlane {} has no infrastructureRef",
            plane.key()
        ))
    })?;
    let template = Template::fetch(hub, plane.namespace(), &reference).await?;
    let owner = cluster.owner_reference(CORE_API, &CLUSTER, false);
    template.adopt(hub, &owner, manager::CONTROL_PLANE).await?;
    let name = format!(
        "{}-{}",
        plane.name(),
        suffix(&[plane.uid(), &world.serial()])
    );
    let draft = Draft {
        name: Name::new(plane.namespace(), &name),
        metadata: metadata(plane),
        owner: plane.owner_reference(CONTROL_PLANE_API, &KUBEADM_CONTROL_PLANE, false),
    };
    let mut made = Vec::new();
    let outcome = async {
        let infra = draft.clone_of(&template.object, &template.resolved);
        made.push(make(hub, infra, manager::CONTROL_PLANE).await?);
        let config = draft.object(
            BOOTSTRAP_API,
            "KubeadmConfig",
            &kubeadm_spec(plane, is_first),
        );
        made.push(make(hub, config, manager::CONTROL_PLANE).await?);
        let spec = machine_spec(plane, cluster, machines, &template, &name);
        make(hub, machine(&draft, plane, &spec), manager::CONTROL_PLANE).await
    }
    .await;
    if let Err(fault) = outcome {
        for object in made {
            hub.delete(&kind_of(&object), &object).await?;
        }
        return Err(fault);
    }
    Ok(())
}

fn machine(draft: &Draft, plane: &Object, spec: &Value) -> Value {
    let mut draft = Draft {
        owner: plane.owner_reference(CONTROL_PLANE_API, &KUBEADM_CONTROL_PLANE, true),
        ..draft.clone()
    };
    let annotations = [
        (CONFIGURATION_HASH, configuration_hash(plane)),
        (CONTROL_PLANE_CLEANUP_HOOK, String::new()),
    ];
    for (key, value) in annotations {
        draft.metadata.annotations.insert(key.to_owned(), value);
    }
    draft.object(CORE_API, "Machine", spec)
}

fn machine_spec(
    plane: &Object,
    cluster: &Object,
    machines: &[Arc<Object>],
    template: &Template,
    name: &str,
) -> Value {
    let reference = |kind: &super::object::Kind| {
        Reference {
            kind: kind.clone(),
            name: name.to_owned(),
        }
        .value()
    };
    let mut spec = json!({
        "clusterName": cluster.name(),
        "version": plane.text("/spec/version"),
        "bootstrap": {"configRef": reference(&KUBEADM_CONFIG)},
        "infrastructureRef": reference(&template.clone_kind()),
    });
    for field in ["deletion", "readinessGates", "taints"] {
        let value = plane.at(&format!("/spec/machineTemplate/spec/{field}"));
        if let Some(value) = value {
            spec[field] = value.clone();
        }
    }
    if let Some(domain) = failure_domain(cluster, machines) {
        spec["failureDomain"] = json!(domain);
    }
    spec
}

/// Lets a deleting machine go once its pre-terminate wait has begun: here the real provider takes the
/// etcd member out.
async fn release_hook(hub: &Hub, plane: &Object, machine: &Object) -> Result<()> {
    let is_waiting = machine
        .condition(DELETING)
        .is_some_and(|held| held.reason == "WaitingForPreTerminateHook");
    let is_due = machine.is_deleting() && (is_waiting || plane.is_deleting());
    if !is_due || machine.annotation(CONTROL_PLANE_CLEANUP_HOOK).is_none() {
        return Ok(());
    }
    let patch = json!({"metadata": {"annotations": {CONTROL_PLANE_CLEANUP_HOOK: null}}});
    hub.merge(&MACHINE, &machine.key(), patch, manager::CONTROL_PLANE)
        .await?;
    Ok(())
}

async fn delete(
    world: &World,
    plane: &Object,
    cluster: &Object,
    machines: &[Arc<Object>],
) -> Result<Again> {
    let hub = &world.hub;
    let all = hub.clustered(&MACHINE, &cluster.key());
    let has_workers = all
        .iter()
        .any(|machine| machine.label(CONTROL_PLANE_LABEL).is_none());
    let report = if has_workers {
        Report::new(
            "True",
            "WaitingForWorkersDeletion",
            "Waiting for workers to be deleted",
        )
    } else {
        for machine in machines {
            hub.delete(&MACHINE, machine).await?;
        }
        if hub.owned(&MACHINE, plane.uid()).is_empty() {
            let (kind, manager) = (&KUBEADM_CONTROL_PLANE, manager::CONTROL_PLANE);
            gate::release(hub, kind, plane, CONTROL_PLANE_FINALIZER, manager).await?;
            return Ok(None);
        }
        Report::new(
            "True",
            "WaitingForMachineDeletion",
            "Waiting for Machines to be deleted",
        )
    };
    let mut conditions = Conditions::of(plane, hub.now());
    conditions.set(DELETING, &report);
    let mut status = counts(machines);
    status["conditions"] = conditions.into_value();
    let manager = manager::CONTROL_PLANE;
    hub.merge_status(&KUBEADM_CONTROL_PLANE, plane, &status, manager)
        .await?;
    Ok(None)
}

async fn publish(
    world: &World,
    plane: &Object,
    cluster: &Object,
    machines: &[Arc<Object>],
    outcome: &Result<Action>,
) -> Result<()> {
    let hash = configuration_hash(plane);
    let up_to_date = machines
        .iter()
        .filter(|machine| member(plane, &hash, machine).is_up_to_date)
        .count();
    let mut status = counts(machines);
    status["upToDateReplicas"] = json!(up_to_date);
    status["observedGeneration"] = json!(plane.generation());
    status["selector"] = json!(format!(
        "{CLUSTER_NAME_LABEL}={},{CONTROL_PLANE_LABEL}",
        cluster.name()
    ));
    let versions = machines.iter().filter_map(|it| it.text("/spec/version"));
    if let Some(lowest) = versions.min_by_key(|version| numbers(version)) {
        status["version"] = json!(lowest);
    }
    let is_initialized = is_initialized(world, plane, cluster) && !machines.is_empty();
    if is_initialized {
        status["initialization"] = json!({"controlPlaneInitialized": true});
    }
    let mut conditions = Conditions::of(plane, world.hub.now());
    let answers = cluster::endpoint(cluster).is_some_and(|at| world.workloads.answers(&at));
    let available = if answers && is_initialized {
        Report::yes("Available")
    } else if is_initialized {
        Report::no("NotAvailable", "the API server does not answer")
    } else {
        Report::no("NotAvailable", "Control plane not yet initialized")
    };
    conditions.set(AVAILABLE, &available);
    let initialized = if is_initialized {
        Report::yes("Initialized")
    } else {
        Report::no("NotInitialized", "Control plane not yet initialized")
    };
    conditions.set("Initialized", &initialized);
    let rolling = if up_to_date < machines.len() {
        let text = format!(
            "Rolling out {} not up-to-date replicas",
            machines.len() - up_to_date
        );
        Report::new("True", "RollingOut", text)
    } else {
        Report::no("NotRollingOut", "")
    };
    conditions.set("RollingOut", &rolling);
    let scaling = match outcome {
        Ok(Action::Nothing) => Report::no("NotScaling", ""),
        Ok(Action::Wait(why)) => Report::new("True", "Waiting", *why),
        Ok(Action::Init | Action::Join) => Report::new("True", "ScalingUp", ""),
        Ok(Action::Delete(_)) => Report::new("True", "ScalingDown", ""),
        Err(fault) => Report::new("True", "Failing", fault.in_full()),
    };
    conditions.set("Scaling", &scaling);
    conditions.set(DELETING, &Report::no("NotDeleting", ""));
    status["conditions"] = conditions.into_value();
    let manager = manager::CONTROL_PLANE;
    world
        .hub
        .merge_status(&KUBEADM_CONTROL_PLANE, plane, &status, manager)
        .await?;
    Ok(())
}

/// The numbers of a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    version
        .trim_start_matches('v')
        .split(['.', '-', '+'])
        .map_while(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, age: i64) -> Member {
        Member {
            name: name.to_owned(),
            age,
            is_up_to_date: true,
            has_node: true,
            is_healthy: true,
            ..Member::default()
        }
    }

    fn old(name: &str, age: i64) -> Member {
        Member {
            is_up_to_date: false,
            ..member(name, age)
        }
    }

    fn new(name: &str) -> Member {
        Member {
            has_node: false,
            is_healthy: false,
            ..member(name, 9)
        }
    }

    fn deletes(name: &str) -> Action {
        Action::Delete(name.to_owned())
    }

    #[test]
    fn s_06_one_machine_at_a_time() {
        let waits = |action: &Action| matches!(action, Action::Wait(_));
        assert_eq!(plan(3, 1, false, &[]), Action::Init);
        assert!(waits(&plan(3, 1, false, &[new("a")])), "not initialised");
        assert_eq!(plan(3, 1, true, &[member("a", 1)]), Action::Join);
        assert!(waits(&plan(3, 1, true, &[member("a", 1), new("b")])));
        let three = [member("a", 1), member("b", 2), member("c", 3)];
        assert_eq!(plan(3, 1, true, &three), Action::Nothing);
        assert_eq!(plan(1, 1, true, &three), deletes("a"));
        let mut going = three.clone();
        going[0].is_deleting = true;
        assert!(waits(&plan(1, 1, true, &going)));
    }

    #[test]
    fn s_06_a_rollout_adds_one_then_removes_the_oldest_outdated_one() {
        let outdated = [old("a", 1), old("b", 2), old("c", 3)];
        assert_eq!(plan(3, 1, true, &outdated), Action::Join);
        let mut four = outdated.to_vec();
        four.push(new("d"));
        assert!(matches!(plan(3, 1, true, &four), Action::Wait(_)));
        four[3] = member("d", 9);
        assert_eq!(plan(3, 1, true, &four), deletes("a"));
        assert_eq!(plan(3, 0, true, &outdated), deletes("a"), "without surge");
        let last = [member("b", 5), member("c", 6), member("d", 7), old("z", 8)];
        assert_eq!(plan(3, 1, true, &last), deletes("z"));
    }

    #[test]
    fn s_06_remediation_comes_first_and_spares_the_last_member() {
        let mut sick = member("b", 2);
        sick.is_to_be_remediated = true;
        sick.is_healthy = false;
        let well = [member("a", 1), sick.clone(), member("c", 3)];
        assert_eq!(plan(3, 1, true, &well), deletes("b"));
        let two_sick = [new("a"), sick.clone(), member("c", 3)];
        assert!(matches!(plan(3, 1, true, &two_sick), Action::Wait(_)));
        assert!(matches!(
            plan(1, 1, true, std::slice::from_ref(&sick)),
            Action::Wait(_)
        ));
        assert_eq!(
            plan(1, 1, false, std::slice::from_ref(&sick)),
            deletes("b"),
            "before it was initialised"
        );
    }

    #[test]
    fn s_06_remediation_keeps_most_members_of_what_is_left() {
        let sick = |name: &str| Member {
            is_to_be_remediated: true,
            is_healthy: false,
            ..member(name, 2)
        };
        let five = |sick_ones: usize| {
            let all = ["a", "b", "c", "d", "e"].into_iter().enumerate();
            all.map(|(index, name)| {
                if index < sick_ones {
                    sick(name)
                } else {
                    member(name, 3)
                }
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(plan(5, 1, true, &five(1)), deletes("a"));
        assert_eq!(
            plan(5, 1, true, &five(2)),
            deletes("a"),
            "three of four are well"
        );
        let waits = plan(5, 1, true, &five(3));
        assert!(matches!(waits, Action::Wait(_)), "two of four are not most");
    }

    #[test]
    fn ic_07_only_control_plane_domains_take_control_planes_and_the_emptiest_first() {
        let cluster = Object::from_value(json!({
            "apiVersion": CORE_API, "kind": "Cluster", "metadata": {"name": "c"},
            "status": {"failureDomains": [
                {"name": "a", "controlPlane": true}, {"name": "b", "controlPlane": true},
                {"name": "0", "controlPlane": false},
            ]},
        }));
        let machine = |domain: &str| {
            Arc::new(Object::from_value(json!({
                "apiVersion": CORE_API, "kind": "Machine", "metadata": {"name": "m"},
                "spec": {"failureDomain": domain},
            })))
        };
        assert_eq!(failure_domain(&cluster, &[]).as_deref(), Some("a"));
        assert_eq!(
            failure_domain(&cluster, &[machine("a")]).as_deref(),
            Some("b")
        );
        let two = [machine("a"), machine("b")];
        assert_eq!(failure_domain(&cluster, &two).as_deref(), Some("a"));
    }
}
