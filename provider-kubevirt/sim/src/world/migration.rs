//! Live migrations.

use std::time::Duration;

use capi_testkit::actor::{Again, Name, Object, Result};
use serde_json::{Value, json};

use super::instance::tenants;
use super::machine::finalizers_without;
use super::schedule::place;
use super::{Place, World};
use crate::hardware::{self, Binding};
use crate::word::{INSTANCE, MIGRATION, MIGRATION_FINALIZER, NODE, NODE_NAME_LABEL, manager};

/// How long a target pod may wait for a node.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let Some(migration) = world.hub.get(&MIGRATION, name) else {
        return Ok(None);
    };
    let phase = migration.text("/status/phase").unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return release(world, &migration).await;
    }
    let target = migration.text("/spec/vmiName").unwrap_or_default();
    let instance = world
        .hub
        .get(&INSTANCE, &Name::new(migration.namespace(), target));
    let Some(instance) = instance.filter(|instance| {
        instance.text("/status/phase") == Some("Running") && !instance.is_deleting()
    }) else {
        // It cannot be moved any more, whatever happened to it.
        return enter(world, &migration, "Failed").await;
    };
    let stage = world.settings.delays.migration_stage;
    let wait = |name, delay| world.wait(migration.uid(), name, delay);
    match phase {
        "" => {
            hold(world, &migration).await?;
            if migration.is_deleting() || is_busy(world, &migration, &instance) {
                return enter(world, &migration, "Failed").await;
            }
            enter(world, &migration, "Pending").await
        }
        _ if migration.is_deleting() => {
            finish(world, &migration, &instance, None).await?;
            enter(world, &migration, "Failed").await
        }
        "Pending" => match instance.condition("LiveMigratable") {
            Some(held) if held.status == "False" => enter(world, &migration, "Failed").await,
            Some(_) => enter(world, &migration, "Scheduling").await,
            // Unknown yet: its own change brings the next look.
            None => Ok(None),
        },
        "Scheduling" => schedule(world, &migration, &instance).await,
        "Scheduled" => match wait("scheduled", stage) {
            Some(left) => Ok(Some(left)),
            None => enter(world, &migration, "PreparingTarget").await,
        },
        "PreparingTarget" => match wait("preparing", stage) {
            Some(left) => Ok(Some(left)),
            None => enter(world, &migration, "TargetReady").await,
        },
        "TargetReady" => match wait("ready", stage) {
            Some(left) => Ok(Some(left)),
            None => enter(world, &migration, "Running").await,
        },
        "Running" => match wait("copy", world.settings.delays.migration) {
            Some(left) => Ok(Some(left)),
            None => {
                let fails =
                    world.script.lock().take_migration() || world.chance(|rates| rates.migration);
                let node = migration.text("/status/migrationState/targetNode");
                let node = node.filter(|_| !fails).map(str::to_owned);
                finish(world, &migration, &instance, node.as_deref()).await?;
                let phase = if fails { "Failed" } else { "Succeeded" };
                enter(world, &migration, phase).await
            }
        },
        _ => Ok(None),
    }
}

/// Whether another migration of the instance is under way.
fn is_busy(world: &World, migration: &Object, instance: &Object) -> bool {
    let others = world.hub.all(&MIGRATION);
    others.iter().any(|other| {
        other.uid() != migration.uid()
            && other.namespace() == migration.namespace()
            && other.text("/spec/vmiName") == Some(instance.name())
            && !matches!(
                other.text("/status/phase"),
                None | Some("Succeeded" | "Failed")
            )
    })
}

async fn hold(world: &World, migration: &Object) -> Result<()> {
    if migration.is_deleting() || migration.has_finalizer(MIGRATION_FINALIZER) {
        return Ok(());
    }
    let mut finalizers = migration.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(MIGRATION_FINALIZER.to_owned());
    let patch = json!({"metadata": {"finalizers": finalizers}});
    let name = migration.key();
    world
        .hub
        .merge(&MIGRATION, &name, patch, manager::CONTROLLER)
        .await?;
    Ok(())
}

async fn release(world: &World, migration: &Object) -> Result<Again> {
    if migration.has_finalizer(MIGRATION_FINALIZER) {
        let left = finalizers_without(migration, MIGRATION_FINALIZER);
        let patch = json!({"metadata": {"finalizers": left}});
        let name = migration.key();
        world
            .hub
            .merge(&MIGRATION, &name, patch, manager::CONTROLLER)
            .await?;
    }
    Ok(None)
}

async fn enter(world: &World, migration: &Object, phase: &str) -> Result<Again> {
    let Some(migration) = world.hub.get(&MIGRATION, &migration.key()) else {
        return Ok(None);
    };
    let moments = migration.at("/status/phaseTransitionTimestamps");
    let mut moments = moments
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    moments.push(json!({"phase": phase, "phaseTransitionTimestamp": world.time()}));
    let status = json!({"phase": phase, "phaseTransitionTimestamps": moments});
    world
        .hub
        .merge_status(&MIGRATION, &migration, &status, manager::CONTROLLER)
        .await?;
    Ok(None)
}

async fn schedule(world: &World, migration: &Object, instance: &Object) -> Result<Again> {
    let source = instance
        .text("/status/nodeName")
        .unwrap_or_default()
        .to_owned();
    let selector = migration
        .at("/spec/addedNodeSelector")
        .unwrap_or(&Value::Null);
    let found = place(
        instance,
        &world.hub.all(&NODE),
        &tenants(world),
        Some(&source),
        selector,
    );
    let Ok(target) = found else {
        return match world.wait(migration.uid(), "unschedulable", UNSCHEDULABLE_MAX) {
            // Nodes and tenants change without a word to migrations, so it looks again by itself.
            Some(left) => Ok(Some(left.min(world.scaled(Duration::from_secs(5))))),
            None => enter(world, migration, "Failed").await,
        };
    };
    let state = json!({
        "migrationUid": migration.uid(), "sourceNode": source, "targetNode": target,
        "startTimestamp": world.time(), "endTimestamp": null, "completed": null, "failed": null,
    });
    let status = json!({"migrationState": state});
    let written = world
        .hub
        .merge_status(&MIGRATION, migration, &status, manager::CONTROLLER)
        .await?;
    let patch = json!({"status": {"migrationState": state}});
    let name = instance.key();
    world
        .hub
        .merge(&INSTANCE, &name, patch, manager::HANDLER)
        .await?;
    match written {
        Some(migration) => enter(world, &migration, "Scheduled").await,
        None => enter(world, migration, "Scheduled").await,
    }
}

/// The end of a migration: on another node, or as if nothing had been.
async fn finish(
    world: &World,
    migration: &Object,
    instance: &Object,
    target: Option<&str>,
) -> Result<()> {
    let end = json!({
        "endTimestamp": world.time(), "completed": true, "failed": target.is_none().then_some(true),
    });
    let mut patch = json!({"status": {"migrationState": end}});
    if let Some(target) = target {
        move_pod(world, instance, target);
        let pod = world.pod_of(instance);
        patch["metadata"]["labels"][NODE_NAME_LABEL] = target.into();
        patch["status"]["nodeName"] = target.into();
        patch["status"]["evacuationNodeName"] = Value::Null;
        let old = instance.at("/status/activePods").and_then(Value::as_object);
        let mut pods: serde_json::Map<String, Value> = old
            .into_iter()
            .flatten()
            .map(|(pod, _)| (pod.clone(), Value::Null))
            .collect();
        pods.insert(pod, target.into());
        patch["status"]["activePods"] = pods.into();
    }
    let name = instance.key();
    world
        .hub
        .merge(&INSTANCE, &name, patch, manager::HANDLER)
        .await?;
    let status = json!({"migrationState": end});
    let current = world.hub.get(&MIGRATION, &migration.key());
    if let Some(current) = current {
        world
            .hub
            .merge_status(&MIGRATION, &current, &status, manager::CONTROLLER)
            .await?;
    }
    Ok(())
}

/// The instance is in another pod from here on, with another address unless its guest has that itself.
fn move_pod(world: &World, instance: &Object, node: &str) {
    let old = world.pod_of(instance);
    let is_hidden = hardware::interfaces(instance)
        .iter()
        .any(|one| one.multus.is_none() && one.binding == Binding::Masquerade);
    let pod = if is_hidden {
        world.addresses.lock().release_pod(&old);
        world.rng.lock().uuid()
    } else {
        old
    };
    let node = node.to_owned();
    world
        .places
        .lock()
        .insert(instance.uid().to_owned(), Place { node, pod });
}
