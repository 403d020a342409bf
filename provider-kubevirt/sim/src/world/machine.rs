//! virt-controller's part for VMs: volumes, an instance as the run strategy asks, a status.

use std::time::Duration;

use capi_testkit::actor::{Again, Name, Object, Result, difference};
use serde_json::{Value, json};

use super::printable::{Facts, printable};
use super::run::{self, Decision, Instance};
use super::{World, instancetype};
use crate::admission;
use crate::condition::Conditions;
use crate::hardware;
use crate::word::{
    CLAIM, CONTROLLER_FINALIZER, DATA_VOLUME, GENERATION_ANNOTATION, IMMEDIATE_VOLUMES_ANNOTATION,
    INSTANCE, INSTANCE_FINALIZER, KUBEVIRT_API, MACHINE, manager, watched,
};

/// The longest pause between two tries of a start that fails.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// The pause after the first failure; it grows with the square of their number.
const BACKOFF_UNIT: Duration = Duration::from_secs(10);

/// Why a VM cannot go on, as its condition `Failure` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What a pass found and did, for the status.
#[derive(Debug, Default)]
struct Pass {
    failure: Option<Failure>,
    again: Again,
    /// A restart was asked for, since the last instance failed.
    reruns: bool,
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let Some(machine) = world.hub.get(&MACHINE, name) else {
        return Ok(None);
    };
    let instance = world.instance_of(&machine);
    let pass = if machine.is_deleting() {
        match &instance {
            Some(instance) => {
                stop(world, instance).await?;
                Pass::default()
            }
            None => return release(world, &machine).await,
        }
    } else {
        sync(world, &machine, instance.as_deref()).await?
    };
    // What the pass itself made or deleted belongs into the status.
    let Some(machine) = world.hub.get(&MACHINE, name) else {
        return Ok(None);
    };
    let instance = world.instance_of(&machine);
    publish(world, &machine, instance.as_deref(), &pass).await?;
    if let Some(instance) = &instance
        && Instance::of(Some(instance)) != Instance::Live
        && instance.has_finalizer(CONTROLLER_FINALIZER)
    {
        take_finalizer(world, instance, CONTROLLER_FINALIZER).await?;
    }
    Ok(pass.again)
}

/// The instance is gone, and with it the last reason to hold the VM.
async fn release(world: &World, machine: &Object) -> Result<Again> {
    let left = finalizers_without(machine, CONTROLLER_FINALIZER);
    if machine.has_finalizer(CONTROLLER_FINALIZER) {
        let patch = json!({"metadata": {"finalizers": left}});
        let name = machine.key();
        world
            .hub
            .merge(&MACHINE, &name, patch, manager::CONTROLLER)
            .await?;
    }
    Ok(None)
}

async fn sync(world: &World, machine: &Object, instance: Option<&Object>) -> Result<Pass> {
    hold(world, machine).await?;
    let expanded = match judge(world, machine) {
        Ok(template) => template,
        Err(failure) => {
            return Ok(Pass {
                failure: Some(failure),
                ..Pass::default()
            });
        }
    };
    let strategy = run::strategy(machine);
    let is_immediate = machine.annotation(IMMEDIATE_VOLUMES_ANNOTATION) != Some("false");
    if is_immediate && !volumes_ready(world, machine).await? && strategy != "Halted" {
        return Ok(Pass::default());
    }
    let requests = requests(machine);
    let asked = requests
        .first()
        .and_then(|request| request["action"].as_str());
    let asked = asked.filter(|action| *action != "Stop" || stops(requests, instance));
    let played = machine.text("/status/runStrategy");
    let mut pass = Pass::default();
    match run::decide(strategy, Instance::of(instance), asked, played) {
        Decision::Nothing => {}
        Decision::Start => {
            let count = machine.at("/status/startFailure/consecutiveFailCount");
            let pause = backoff(count.and_then(Value::as_u64).unwrap_or(0));
            if let Some(left) = world.wait(machine.uid(), "backoff", pause) {
                pass.again = Some(left);
            } else if is_immediate || volumes_ready(world, machine).await? {
                start(world, machine, &expanded).await?;
            }
        }
        Decision::Stop => stop_all(world, instance).await?,
        Decision::Rerun => {
            pass.reruns = true;
            stop_all(world, instance).await?;
        }
    }
    if strategy == "Halted" && asked == Some("Start") && instance.is_none() {
        let patch = json!({"spec": {"runStrategy": "Always", "running": null}});
        world.book.lock().excuse(machine.uid());
        let name = machine.key();
        world
            .hub
            .merge(&MACHINE, &name, patch, manager::CONTROLLER)
            .await?;
    }
    if let Some(instance) = instance {
        update_live(world, machine, instance).await?;
    }
    Ok(pass)
}

/// Sees to it that the VM does not go before its instance.
async fn hold(world: &World, machine: &Object) -> Result<()> {
    if machine.has_finalizer(CONTROLLER_FINALIZER) {
        return Ok(());
    }
    let mut finalizers = machine.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(CONTROLLER_FINALIZER.to_owned());
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": machine.metadata.resource_version,
    }});
    let name = machine.key();
    world
        .hub
        .merge(&MACHINE, &name, patch, manager::CONTROLLER)
        .await?;
    Ok(())
}

/// The template that an instance is made of, or why none can be.
fn judge(world: &World, machine: &Object) -> std::result::Result<Value, Failure> {
    let spec = machine.at("/spec").unwrap_or(&Value::Null);
    if !world.is_admitting
        && let Some(cause) = admission::causes(spec).first()
    {
        return Err(Failure {
            reason: "FailedCreate",
            message: cause.message.clone(),
        });
    }
    instancetype::expand(world, machine)
}

async fn stop_all(world: &World, instance: Option<&Object>) -> Result<()> {
    match instance {
        Some(instance) => stop(world, instance).await,
        None => Ok(()),
    }
}

async fn stop(world: &World, instance: &Object) -> Result<()> {
    world.book.lock().excuse(instance.uid());
    world.hub.delete(&INSTANCE, instance).await
}

/// The open requests of `start`, `stop` and `restart`, in their order.
fn requests(machine: &Object) -> &[Value] {
    let requests = machine.at("/status/stateChangeRequests");
    let requests = requests.and_then(Value::as_array);
    requests.map_or(&[], Vec::as_slice)
}

/// Whether the first request stops this instance, and not one before it.
fn stops(requests: &[Value], instance: Option<&Object>) -> bool {
    let uid = requests.first().and_then(|request| request["uid"].as_str());
    instance.is_some_and(|instance| Some(instance.uid()) == uid)
}

/// The pause before the next start, if so many failed.
fn backoff(count: u64) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    BACKOFF_UNIT
        .saturating_mul(count.saturating_mul(count))
        .min(BACKOFF_MAX)
}

/// Creates the DataVolumes of the templates; whether an instance can be made with them.
async fn volumes_ready(world: &World, machine: &Object) -> Result<bool> {
    let templates = machine
        .at("/spec/dataVolumeTemplates")
        .and_then(Value::as_array);
    let mut ready = true;
    for template in templates.into_iter().flatten() {
        let name = template["metadata"]["name"].as_str().unwrap_or_default();
        let name = Name::new(machine.namespace(), name);
        let Some(volume) = world.hub.get(&DATA_VOLUME, &name) else {
            ready = false;
            let made = data_volume(machine, template, &name);
            if let Some(resource) = watched(&DATA_VOLUME) {
                world
                    .hub
                    .create(&resource, made, manager::CONTROLLER)
                    .await?;
            }
            continue;
        };
        ready &= matches!(
            volume.text("/status/phase"),
            Some("Succeeded" | "WaitForFirstConsumer" | "PendingPopulation")
        );
    }
    Ok(ready)
}

fn data_volume(machine: &Object, template: &Value, name: &Name) -> Value {
    let mut volume = template.clone();
    volume["apiVersion"] = crate::word::CDI_API.into();
    volume["kind"] = "DataVolume".into();
    volume["metadata"]["name"] = name.name.as_str().into();
    volume["metadata"]["namespace"] = name.namespace.as_str().into();
    volume["metadata"]["labels"][crate::word::CREATED_BY_LABEL] = machine.uid().into();
    volume["metadata"]["ownerReferences"] =
        json!([machine.owner_reference(KUBEVIRT_API, &MACHINE, true)]);
    if let Some(volume) = volume.as_object_mut() {
        volume.remove("status");
    }
    volume
}

async fn start(world: &World, machine: &Object, template: &Value) -> Result<()> {
    let mut spec = template["spec"].clone();
    hardware::attach_pod_network(&mut spec);
    hardware::attach_volumes(&mut spec);
    let uuid = &mut spec["domain"]["firmware"]["uuid"];
    if uuid.as_str().is_none_or(str::is_empty) {
        *uuid = hardware::derived_uuid(machine.uid()).into();
    }
    let mut annotations = template["metadata"]["annotations"].clone();
    annotations[GENERATION_ANNOTATION] = machine.generation().to_string().into();
    let mut labels = template["metadata"]["labels"].clone();
    labels[crate::word::MIGRATION_SELECTOR_LABEL] = machine.name().into();
    let instance = json!({
        "apiVersion": KUBEVIRT_API, "kind": "VirtualMachineInstance",
        "metadata": {
            "name": machine.name(), "namespace": machine.namespace(),
            "labels": labels, "annotations": annotations,
            "finalizers": [CONTROLLER_FINALIZER, INSTANCE_FINALIZER],
            "ownerReferences": [machine.owner_reference(KUBEVIRT_API, &MACHINE, true)],
        },
        "spec": spec,
    });
    let Some(resource) = watched(&INSTANCE) else {
        return Ok(());
    };
    let made = world
        .hub
        .create(&resource, instance, manager::CONTROLLER)
        .await?;
    if made.is_some() {
        world.stages.lock().clear(machine.uid(), "backoff");
        let template = machine.at("/spec/template").cloned();
        let mut templates = world.templates.lock();
        templates.insert(machine.uid().to_owned(), template.unwrap_or_default());
    }
    Ok(())
}

/// Fields of a template's spec that a running instance can follow.
const LIVE: [&str; 3] = ["nodeSelector", "affinity", "tolerations"];

/// Passes on what changed and can change while the instance runs.
async fn update_live(world: &World, machine: &Object, instance: &Object) -> Result<()> {
    let known = world.templates.lock().get(machine.uid()).cloned();
    let Some(known) = known else { return Ok(()) };
    let (Some(wanted), Some(spec)) = (machine.at("/spec/template"), instance.at("/spec")) else {
        return Ok(());
    };
    if known == *wanted || needs_restart(&known["spec"], &wanted["spec"]) || instance.is_deleting()
    {
        return Ok(());
    }
    let mut changed = json!({});
    for field in LIVE {
        changed[field] = wanted["spec"][field].clone();
    }
    let domain = &wanted["spec"]["domain"];
    for (part, field) in [("cpu", "sockets"), ("memory", "guest")] {
        let value = &domain[part][field];
        if !value.is_null() {
            changed["domain"][part][field] = value.clone();
        }
    }
    if let Some(patch) = difference(spec, &changed) {
        let name = instance.key();
        let patch = json!({"spec": patch});
        world
            .hub
            .merge(&INSTANCE, &name, patch, manager::CONTROLLER)
            .await?;
    }
    Ok(())
}

/// Whether a template differs from the one that an instance was made of in more than can follow.
fn needs_restart(known: &Value, wanted: &Value) -> bool {
    let rest = |spec: &Value| {
        let mut spec = spec.clone();
        for field in LIVE {
            spec[field] = Value::Null;
        }
        for (part, field) in [("cpu", "sockets"), ("memory", "guest")] {
            if spec["domain"][part].is_object() {
                spec["domain"][part][field] = Value::Null;
            }
        }
        spec
    };
    rest(known) != rest(wanted)
}

async fn publish(
    world: &World,
    machine: &Object,
    instance: Option<&Object>,
    pass: &Pass,
) -> Result<()> {
    let strategy = run::strategy(machine);
    let played = machine.word("/status/runStrategy");
    let mut status = json!({
        "created": instance.is_some().then_some(true),
        "ready": instance.is_some_and(|one| one.is_true("Ready")).then_some(true),
        "observedGeneration": machine.generation(),
        "desiredGeneration": machine.generation(),
        "stateChangeRequests": open_requests(machine, instance, pass),
    });
    if played.is_some() || instance.is_some() {
        status["runStrategy"] = strategy.into();
    }
    status["startFailure"] = start_failure(world, machine, instance);
    status["conditions"] = conditions(world, machine, instance, pass);
    let facts = Facts {
        machine,
        instance,
        has_volume_error: any_volume(world, machine, &["Failed"]),
        is_provisioning: any_volume(
            world,
            machine,
            &[
                "Pending",
                "ImportScheduled",
                "ImportInProgress",
                "CloneScheduled",
                "CloneInProgress",
            ],
        ),
        is_binding: strategy != "Halted" && has_unbound_claim(world, machine),
        is_crashing: !status["startFailure"].is_null(),
    };
    status["printableStatus"] = printable(&facts).into();
    world
        .hub
        .merge_status(&MACHINE, machine, &status, manager::CONTROLLER)
        .await?;
    Ok(())
}

/// The requests without the first one if that is fulfilled.
fn open_requests(machine: &Object, instance: Option<&Object>, pass: &Pass) -> Value {
    let mut open = requests(machine).to_vec();
    if let Some(first) = open.first() {
        let is_done = match first["action"].as_str() {
            Some("Stop") => !stops(&open, instance),
            Some("Start") => instance.is_some_and(|one| !one.is_deleting()),
            _ => true,
        };
        if is_done {
            open.remove(0);
        }
    }
    if pass.reruns && open.is_empty() {
        open.push(json!({"action": "Start"}));
    }
    if open.is_empty() {
        Value::Null
    } else {
        open.into()
    }
}

/// Counts instances that failed before they ran.
fn start_failure(world: &World, machine: &Object, instance: Option<&Object>) -> Value {
    let held = machine.at("/status/startFailure").cloned();
    let held = held.unwrap_or(Value::Null);
    let Some(instance) = instance else {
        return held;
    };
    let moments = instance.at("/status/phaseTransitionTimestamps");
    let moments = moments.and_then(Value::as_array).into_iter().flatten();
    if moments
        .into_iter()
        .any(|moment| moment["phase"] == "Running")
    {
        return Value::Null;
    }
    let is_counted = held["lastFailedVMIUID"] == instance.uid();
    if Instance::of(Some(instance)) == Instance::Live || is_counted {
        return held;
    }
    let count = held["consecutiveFailCount"].as_u64().unwrap_or(0) + 1;
    let retry = world.time_in(world.scaled(backoff(count)));
    json!({
        "consecutiveFailCount": count, "lastFailedVMIUID": instance.uid(), "retryAfterTimestamp": retry,
    })
}

fn conditions(world: &World, machine: &Object, instance: Option<&Object>, pass: &Pass) -> Value {
    let mut conditions = Conditions::of(machine, world.time());
    match instance {
        None => conditions.set("Ready", false, "VMINotExists", "VMI does not exist"),
        Some(instance) => match instance
            .conditions()
            .iter()
            .find(|one| one["type"] == "Ready")
        {
            Some(ready) => conditions.copy(ready),
            None => {
                let message = "VMI is missing the Ready condition";
                conditions.set("Ready", false, "VMIConditionMissing", message);
            }
        },
    }
    match &pass.failure {
        Some(failure) => conditions.set("Failure", true, failure.reason, &failure.message),
        None => conditions.remove("Failure"),
    }
    if let Some(instance) = instance {
        let held = instance.conditions();
        let own = ["Ready", "Failure", "RestartRequired"];
        conditions.retain(|kind| own.contains(&kind) || held.iter().any(|one| one["type"] == kind));
        for condition in held.iter().filter(|one| one["type"] != "Ready") {
            conditions.copy(condition);
        }
        let known = world.templates.lock().get(machine.uid()).cloned();
        let wanted = machine.at("/spec/template/spec").unwrap_or(&Value::Null);
        if known.is_some_and(|known| needs_restart(&known["spec"], wanted)) {
            let message = "a non-live-updatable field was changed in the template spec";
            conditions.set("RestartRequired", true, "", message);
        } else {
            conditions.remove("RestartRequired");
        }
    } else {
        conditions.remove("RestartRequired");
    }
    conditions.into_value()
}

fn claims_of(machine: &Object) -> Vec<Name> {
    let spec = machine.at("/spec/template/spec").unwrap_or(&Value::Null);
    let claims = hardware::claims(spec);
    claims
        .into_iter()
        .map(|(_, claim)| Name::new(machine.namespace(), claim))
        .collect()
}

fn any_volume(world: &World, machine: &Object, phases: &[&str]) -> bool {
    claims_of(machine).iter().any(|name| {
        let volume = world.hub.get(&DATA_VOLUME, name);
        volume.is_some_and(|volume| {
            let phase = volume.text("/status/phase").unwrap_or("Pending");
            phases.contains(&phase)
        })
    })
}

fn has_unbound_claim(world: &World, machine: &Object) -> bool {
    claims_of(machine).iter().any(|name| {
        let claim = world.hub.get(&CLAIM, name);
        claim.is_some_and(|claim| claim.text("/status/phase") != Some("Bound"))
    })
}

/// The finalizers of an object without this one.
pub(super) fn finalizers_without(object: &Object, finalizer: &str) -> Vec<String> {
    let mut left = object.metadata.finalizers.clone().unwrap_or_default();
    left.retain(|held| held != finalizer);
    left
}

/// Takes a finalizer off an instance.
pub(super) async fn take_finalizer(
    world: &World,
    instance: &Object,
    finalizer: &str,
) -> Result<()> {
    let patch = json!({"metadata": {
        "finalizers": finalizers_without(instance, finalizer),
        "resourceVersion": instance.metadata.resource_version,
    }});
    let name = instance.key();
    world
        .hub
        .merge(&INSTANCE, &name, patch, manager::CONTROLLER)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_memory_and_placement_follow_and_all_else_waits_for_a_restart() {
        let known =
            json!({"domain": {"cpu": {"cores": 2, "sockets": 1}, "memory": {"guest": "2Gi"}}});
        let mut live = known.clone();
        live["domain"]["cpu"]["sockets"] = json!(2);
        live["domain"]["memory"]["guest"] = json!("4Gi");
        live["nodeSelector"] = json!({"a": "b"});
        assert!(!needs_restart(&known, &live));
        live["domain"]["cpu"]["cores"] = json!(4);
        assert!(needs_restart(&known, &live));
    }
}
