//! The MachineSet controller: as many machines as asked for, made in the contract's order (S-05).

use std::sync::Arc;

use serde_json::{Value, json};

use super::clone::{Draft, Metadata, Template, make, suffix, sync_metadata};
use super::condition::{
    AVAILABLE, Conditions, DELETING, HEALTH_CHECK_SUCCEEDED, OWNER_REMEDIATED, READY, Report,
};
use super::driver::Again;
use super::gate::{self, adoption};
use super::hub::{Error, Result};
use super::object::{Name, Object, Reference};
use super::word::{
    CLUSTER, CLUSTER_NAME_LABEL, CORE_API, DELETE_MACHINE, DEPLOYMENT_NAME_LABEL, MACHINE,
    MACHINE_SET, MACHINE_SET_FINALIZER, SET_NAME_LABEL, manager,
};
use super::{World, gate::resolved};

/// Machines that one pass makes before it looks again, so that a template corrected meanwhile is seen.
const CREATES_MAX: usize = 100;

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let hub = &world.hub;
    let Some(set) = hub.get(&MACHINE_SET, name) else {
        return Ok(None);
    };
    let cluster_name = set.cluster_name().unwrap_or_default().to_owned();
    let Some(cluster) = hub.get(&CLUSTER, &Name::new(&name.namespace, &cluster_name)) else {
        return Err(Error::Inconsistent(format!(
            "MachineSet {name} belongs to Cluster {cluster_name}, which does not exist"
        )));
    };
    let set = gate::hold(
        hub,
        &MACHINE_SET,
        set,
        MACHINE_SET_FINALIZER,
        manager::MACHINE_SET,
    )
    .await?;
    if gate::stops(
        hub,
        &MACHINE_SET,
        &set,
        Some(&cluster),
        manager::MACHINE_SET,
    )
    .await?
    {
        return Ok(None);
    }
    let machines = hub.owned(&MACHINE, set.uid());
    if set.is_deleting() {
        return delete(world, &set, &machines).await;
    }
    let set = owned(world, set, &cluster).await?;
    let outcome = work(world, &set, &cluster, &machines).await;
    // Every exit publishes what is known.
    let machines = hub.owned(&MACHINE, set.uid());
    publish(world, &set, &machines, outcome.as_ref().err()).await?;
    outcome
}

async fn owned(world: &World, set: Arc<Object>, cluster: &Object) -> Result<Arc<Object>> {
    if set.controller().is_some() {
        return Ok(set);
    }
    let owner = cluster.owner_reference(CORE_API, &CLUSTER, false);
    match adoption(&set, &owner, &[], cluster.name())? {
        Some(patch) => {
            let name = set.key();
            world
                .hub
                .merge(&MACHINE_SET, &name, patch, manager::MACHINE_SET)
                .await
        }
        None => Ok(set),
    }
}

async fn delete(world: &World, set: &Object, machines: &[Arc<Object>]) -> Result<Again> {
    let hub = &world.hub;
    for machine in machines {
        hub.delete(&MACHINE, machine).await?;
    }
    if hub.owned(&MACHINE, set.uid()).is_empty() {
        let finalizer = MACHINE_SET_FINALIZER;
        gate::release(hub, &MACHINE_SET, set, finalizer, manager::MACHINE_SET).await?;
        return Ok(None);
    }
    let mut conditions = Conditions::of(set, hub.now());
    let report = Report::new("True", "Deleting", "Waiting for Machines to be deleted");
    conditions.set(DELETING, &report);
    let status = json!({"conditions": conditions.into_value(), "replicas": machines.len()});
    hub.merge_status(&MACHINE_SET, set, &status, manager::MACHINE_SET)
        .await?;
    Ok(None)
}

async fn work(
    world: &World,
    set: &Object,
    cluster: &Object,
    machines: &[Arc<Object>],
) -> Result<Again> {
    let hub = &world.hub;
    let labels = metadata(set);
    for machine in machines {
        sync(world, &labels, machine).await?;
        if is_to_be_remediated(machine) {
            hub.delete(&MACHINE, machine).await?;
        }
    }
    let wanted = usize::try_from(replicas(set)).unwrap_or(0);
    if machines.len() < wanted {
        orphans(world, set, machines).await?;
        let count = (wanted - machines.len()).min(CREATES_MAX);
        let is_all = machines.len() + count == wanted;
        create(world, set, cluster, count).await?;
        return Ok((!is_all).then_some(std::time::Duration::ZERO));
    }
    let order = set.word("/spec/deletion/order").unwrap_or("Random");
    for machine in surplus(machines, machines.len() - wanted, order) {
        hub.delete(&MACHINE, machine).await?;
    }
    orphans(world, set, machines).await?;
    Ok(None)
}

/// Default 1, as the webhook sets it.
pub(super) fn replicas(object: &Object) -> i64 {
    object.number("/spec/replicas").unwrap_or(1)
}

/// Unhealthy, and its owner was asked to replace it.
pub(super) fn is_to_be_remediated(machine: &Object) -> bool {
    let is_false = |kind| {
        machine
            .condition(kind)
            .is_some_and(|held| held.status == "False")
    };
    is_false(OWNER_REMEDIATED) && is_false(HEALTH_CHECK_SUCCEEDED)
}

/// Which machines go first: those that go already, marked ones, unhealthy ones, then by order.
fn surplus<'a>(machines: &'a [Arc<Object>], count: usize, order: &str) -> Vec<&'a Arc<Object>> {
    let rank = |machine: &Object| {
        if machine.is_deleting() {
            0
        } else if machine.annotation(DELETE_MACHINE).is_some() {
            1
        } else if is_to_be_remediated(machine) || machine.at("/status/nodeRef").is_none() {
            2
        } else {
            3
        }
    };
    let mut all: Vec<_> = machines.iter().collect();
    // Random is an arbitrary order that is the same in each run.
    all.sort_by_key(|machine| super::clone::digest(&[machine.uid()]));
    match order {
        "Newest" => all.sort_by_key(|machine| std::cmp::Reverse(machine.created())),
        "Oldest" => all.sort_by_key(|machine| machine.created()),
        _ => {}
    }
    all.sort_by_key(|machine| rank(machine));
    all.truncate(count);
    all
}

/// Labels and annotations of the machines of a set.
fn metadata(set: &Object) -> Metadata {
    let cluster = set.cluster_name().unwrap_or_default();
    let mut labels = vec![(CLUSTER_NAME_LABEL, cluster), (SET_NAME_LABEL, set.name())];
    if let Some(deployment) = set.label(DEPLOYMENT_NAME_LABEL) {
        labels.push((DEPLOYMENT_NAME_LABEL, deployment));
    }
    Metadata::read(set.at("/spec/template/metadata")).with_labels(&labels)
}

/// The three objects of a machine, as references of its spec.
pub(super) fn parts(machine: &Object) -> Vec<Reference> {
    ["/spec/bootstrap/configRef", "/spec/infrastructureRef"]
        .into_iter()
        .filter_map(|pointer| machine.reference(pointer))
        .collect()
}

async fn sync(world: &World, wanted: &Metadata, machine: &Object) -> Result<()> {
    if machine.is_deleting() {
        return Ok(());
    }
    let hub = &world.hub;
    let manager = manager::MACHINE_SET_METADATA;
    sync_metadata(hub, &world.applied, &MACHINE, machine, wanted, manager).await?;
    for part in parts(machine) {
        let name = Name::new(machine.namespace(), &part.name);
        if let Some(object) = hub.get(&part.kind, &name)
            && !object.is_deleting()
        {
            sync_metadata(hub, &world.applied, &part.kind, &object, wanted, manager).await?;
        }
    }
    Ok(())
}

/// What one pass needs to make machines.
struct Mould {
    infra: Template,
    bootstrap: Option<Template>,
}

async fn create(world: &World, set: &Object, cluster: &Object, count: usize) -> Result<()> {
    let hub = &world.hub;
    let read = |pointer: &str| set.reference(&format!("/spec/template/spec{pointer}"));
    let infra = read("/infrastructureRef").ok_or_else(|| {
        Error::Inconsistent(format!("MachineSet {} has no infrastructureRef", set.key()))
    })?;
    let infra = Template::fetch(hub, set.namespace(), &infra).await?;
    let bootstrap = match read("/bootstrap/configRef") {
        Some(reference) => Some(Template::fetch(hub, set.namespace(), &reference).await?),
        None => None,
    };
    let owner = cluster.owner_reference(CORE_API, &CLUSTER, false);
    for template in [Some(&infra), bootstrap.as_ref()].into_iter().flatten() {
        template.adopt(hub, &owner, manager::MACHINE_SET).await?;
    }
    let mould = Mould { infra, bootstrap };
    for _ in 0..count {
        create_one(world, set, &mould).await?;
    }
    Ok(())
}

/// Bootstrap config, infra machine, Machine, in this order and under one name. What was made before a
/// failure is deleted again.
async fn create_one(world: &World, set: &Object, mould: &Mould) -> Result<()> {
    let hub = &world.hub;
    let name = format!("{}-{}", set.name(), suffix(&[set.uid(), &world.serial()]));
    let draft = Draft {
        name: Name::new(set.namespace(), &name),
        metadata: metadata(set),
        owner: set.owner_reference(CORE_API, &MACHINE_SET, false),
    };
    let mut made: Vec<Arc<Object>> = Vec::new();
    let mut spec = set.at("/spec/template/spec").cloned().unwrap_or_default();
    let templates = [
        (mould.bootstrap.as_ref(), "/bootstrap/configRef"),
        (Some(&mould.infra), "/infrastructureRef"),
    ];
    let outcome = async {
        for (template, pointer) in templates {
            let Some(template) = template else { continue };
            let clone = draft.clone_of(&template.object, &template.resolved);
            made.push(make(hub, clone, manager::MACHINE_SET).await?);
            let reference = Reference {
                kind: template.clone_kind(),
                name: name.clone(),
            };
            if let Some(field) = spec.pointer_mut(pointer) {
                *field = reference.value();
            }
        }
        let draft = Draft {
            owner: set.owner_reference(CORE_API, &MACHINE_SET, true),
            ..draft.clone()
        };
        make(
            hub,
            draft.object(CORE_API, "Machine", &spec),
            manager::MACHINE_SET,
        )
        .await
    }
    .await;
    if let Err(fault) = outcome {
        for object in made {
            let kind = kind_of(&object);
            hub.delete(&kind, &object).await?;
        }
        return Err(fault);
    }
    Ok(())
}

pub(super) fn kind_of(object: &Object) -> super::object::Kind {
    let types = object.types.clone().unwrap_or_default();
    super::object::Kind::new(super::object::group_of(&types.api_version), &types.kind)
}

/// Infra machines and bootstrap configs of this set without a Machine of their name.
async fn orphans(world: &World, set: &Object, machines: &[Arc<Object>]) -> Result<()> {
    let hub = &world.hub;
    for pointer in ["/bootstrap/configRef", "/infrastructureRef"] {
        let Some(reference) = set.reference(&format!("/spec/template/spec{pointer}")) else {
            continue;
        };
        let kind = reference.kind.kind.strip_suffix("Template");
        let kind =
            super::object::Kind::new(&reference.kind.group, kind.unwrap_or(&reference.kind.kind));
        if let Ok(resolved) = resolved(hub, &kind) {
            hub.want(&resolved.resource);
        }
        for object in hub.owned(&kind, set.uid()) {
            if machines
                .iter()
                .all(|machine| machine.name() != object.name())
            {
                hub.delete(&kind, &object).await?;
            }
        }
    }
    Ok(())
}

/// The figures that every owner of machines reports.
pub(super) fn counts(machines: &[Arc<Object>]) -> Value {
    let count = |is: &dyn Fn(&Object) -> bool| machines.iter().filter(|it| is(it)).count();
    json!({
        "replicas": machines.len(),
        "readyReplicas": count(&|it| it.is_true(READY)),
        "availableReplicas": count(&|it| it.is_true(AVAILABLE)),
        "upToDateReplicas": machines.len(),
    })
}

async fn publish(
    world: &World,
    set: &Object,
    machines: &[Arc<Object>],
    fault: Option<&Error>,
) -> Result<()> {
    let wanted = replicas(set);
    let mut status = counts(machines);
    status["observedGeneration"] = json!(set.generation());
    status["selector"] = json!(format!("{SET_NAME_LABEL}={}", set.name()));
    let mut conditions = Conditions::of(set, world.hub.now());
    let has = i64::try_from(machines.len()).unwrap_or(i64::MAX);
    let up = match fault {
        Some(fault) => Report::new("True", "ScalingUp", fault.in_full()),
        None if has < wanted => Report::new(
            "True",
            "ScalingUp",
            format!("Scaling up from {has} to {wanted} replicas"),
        ),
        None => Report::no("NotScalingUp", ""),
    };
    let down = if has > wanted {
        let text = format!("Scaling down from {has} to {wanted} replicas");
        Report::new("True", "ScalingDown", text)
    } else {
        Report::no("NotScalingDown", "")
    };
    conditions.set("ScalingUp", &up);
    conditions.set("ScalingDown", &down);
    conditions.set(DELETING, &Report::no("NotDeleting", ""));
    status["conditions"] = conditions.into_value();
    let set = world.hub.get(&MACHINE_SET, &set.key());
    if let Some(set) = set {
        let hub = &world.hub;
        hub.merge_status(&MACHINE_SET, &set, &status, manager::MACHINE_SET)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "literals read better without borrows"
)]
mod tests {
    use super::*;

    fn machine(name: &str, created: &str, extra: Value) -> Arc<Object> {
        let mut value = json!({
            "apiVersion": CORE_API, "kind": "Machine",
            "metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "status": {"nodeRef": {"name": name}},
        });
        json_patch::merge(&mut value, &extra);
        Arc::new(Object::from_value(value))
    }

    fn names(machines: &[&Arc<Object>]) -> Vec<String> {
        machines.iter().map(|it| it.name().to_owned()).collect()
    }

    #[test]
    fn s_05_scale_down_prefers_deleting_then_marked_then_unhealthy_machines() {
        let at = "2026-11-21T10:00:00Z";
        let machines = [
            machine("fine", at, json!({})),
            machine("nodeless", at, json!({"status": null})),
            machine(
                "marked",
                at,
                json!({"metadata": {"annotations": {DELETE_MACHINE: "false"}}}),
            ),
            machine("going", at, json!({"metadata": {"deletionTimestamp": at}})),
        ];
        let order = names(&surplus(&machines, 4, "Random"));
        assert_eq!(order, ["going", "marked", "nodeless", "fine"]);
        assert_eq!(names(&surplus(&machines, 1, "Newest")), ["going"]);
        assert!(surplus(&machines, 0, "Random").is_empty());
    }

    #[test]
    fn s_05_newest_and_oldest_go_by_age() {
        let machines = [
            machine("b", "2026-11-21T11:00:00Z", json!({})),
            machine("c", "2026-11-21T12:00:00Z", json!({})),
            machine("a", "2026-11-21T10:00:00Z", json!({})),
        ];
        assert_eq!(names(&surplus(&machines, 2, "Newest")), ["c", "b"]);
        assert_eq!(names(&surplus(&machines, 2, "Oldest")), ["a", "b"]);
        let random = names(&surplus(&machines, 2, "Random"));
        assert_eq!(
            random,
            names(&surplus(&machines, 2, "Random")),
            "repeatable"
        );
    }
}
