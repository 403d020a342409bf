//! CDI's part: DataVolumes, the claims under them, and what is on those.

use capi_testkit::actor::{Again, Name, Object, Result};
use serde_json::{Value, json};

use super::machine::finalizers_without;
use super::{Content, World};
use crate::builder::StorageSpec;
use crate::condition::Conditions;
use crate::word::{
    BIND_IMMEDIATELY_ANNOTATION, CDI_API, CLAIM, CLAIM_FINALIZER, DATA_SOURCE, DATA_VOLUME,
    manager, watched,
};

/// Where the content of a volume comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A download; the URL.
    Import(String),
    /// Another claim.
    Clone(Name),
    /// A client, which nobody plays.
    Upload,
    Blank,
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let Some(volume) = world.hub.get(&DATA_VOLUME, name) else {
        return Ok(None);
    };
    if volume.is_deleting() {
        return Ok(None);
    }
    let source = match source(world, &volume) {
        Ok(source) => source,
        Err(message) => {
            publish(world, &volume, "Pending", Some(&message)).await?;
            return Ok(None);
        }
    };
    let Some(claim) = world.hub.get(&CLAIM, name) else {
        make_claim(world, &volume).await?;
        return Ok(None);
    };
    let is_clone = matches!(source, Source::Clone(_));
    match volume.text("/status/phase").unwrap_or_default() {
        "" | "Pending" | "WaitForFirstConsumer" | "PendingPopulation" => {
            if waits_for_consumer(world, &volume, &claim) {
                let phase = if is_clone {
                    "PendingPopulation"
                } else {
                    "WaitForFirstConsumer"
                };
                publish(world, &volume, phase, None).await?;
                return Ok(None);
            }
            if let Some(left) = world.wait(volume.uid(), "bind", world.settings.delays.bind) {
                return Ok(Some(left));
            }
            bind(world, &claim).await?;
            let phase = match source {
                Source::Clone(_) => "CloneScheduled",
                Source::Upload => "UploadReady",
                Source::Import(_) | Source::Blank => "ImportScheduled",
            };
            publish(world, &volume, phase, None).await?;
        }
        "ImportScheduled" => publish(world, &volume, "ImportInProgress", None).await?,
        "CloneScheduled" => publish(world, &volume, "CSICloneInProgress", None).await?,
        "ImportInProgress" | "CSICloneInProgress" => {
            return fill(world, &volume, &claim, &source).await;
        }
        "Failed" if !world.script.lock().fails_import(volume.name()) => {
            world.stages.lock().clear(volume.uid(), "fill");
            publish(world, &volume, "ImportScheduled", None).await?;
        }
        _ => {}
    }
    Ok(None)
}

/// Waits for the content, and puts it onto the claim.
async fn fill(world: &World, volume: &Object, claim: &Object, source: &Source) -> Result<Again> {
    if world.script.lock().fails_import(volume.name()) {
        let message = "Unable to process data: no such image";
        publish(world, volume, "Failed", Some(message)).await?;
        return Ok(None);
    }
    let delays = &world.settings.delays;
    let delay = match source {
        Source::Import(_) => delays.import,
        Source::Clone(_) => delays.clone,
        Source::Upload | Source::Blank => delays.bind,
    };
    if let Some(left) = world.wait(volume.uid(), "fill", delay) {
        return Ok(Some(left));
    }
    if world.chance(|rates| rates.import) {
        world.stages.lock().clear(volume.uid(), "fill");
        let count = volume.number("/status/restartCount").unwrap_or(0) + 1;
        let status = json!({"restartCount": count});
        world
            .hub
            .merge_status(&DATA_VOLUME, volume, &status, manager::CDI)
            .await?;
        return Ok(None);
    }
    let content = match source {
        Source::Import(url) => Content {
            origin: url.clone(),
            ..Content::default()
        },
        Source::Clone(name) => Content {
            machine: None,
            ..world.content(name)
        },
        Source::Upload | Source::Blank => Content::default(),
    };
    world
        .contents
        .lock()
        .insert(claim.uid().to_owned(), content);
    publish(world, volume, "Succeeded", None).await?;
    Ok(None)
}

/// Where a volume's content comes from, or why that is not known yet.
fn source(world: &World, volume: &Object) -> std::result::Result<Source, String> {
    if let Some(name) = volume.text("/spec/sourceRef/name") {
        let namespace = volume.word("/spec/sourceRef/namespace");
        let name = Name::new(namespace.unwrap_or(volume.namespace()), name);
        let found = world.hub.get(&DATA_SOURCE, &name);
        let found = found.ok_or_else(|| format!("DataSource {name} not found"))?;
        let source = found.at("/spec/source").cloned().unwrap_or(Value::Null);
        return of(world, &source, name.namespace.as_str());
    }
    let source = volume.at("/spec/source").cloned().unwrap_or(Value::Null);
    of(world, &source, volume.namespace())
}

fn of(world: &World, source: &Value, namespace: &str) -> std::result::Result<Source, String> {
    if source["pvc"].is_object() {
        let text = |key: &str| source["pvc"][key].as_str().filter(|text| !text.is_empty());
        let name = Name::new(
            text("namespace").unwrap_or(namespace),
            text("name").unwrap_or_default(),
        );
        return match world.hub.get(&CLAIM, &name) {
            Some(_) => Ok(Source::Clone(name)),
            None => Err(format!("Source pvc {name} not found")),
        };
    }
    if source["upload"].is_object() {
        return Ok(Source::Upload);
    }
    for kind in ["http", "registry", "s3", "gcs", "imageio", "vddk"] {
        let url = source[kind]["url"]
            .as_str()
            .or(source[kind]["imageStream"].as_str());
        if let Some(url) = url {
            return Ok(Source::Import(url.to_owned()));
        }
    }
    if source["snapshot"].is_object() {
        return Err("clones of snapshots are not played; clone the claim".to_owned());
    }
    Ok(Source::Blank)
}

/// Whether its storage waits for the first instance that wants it, and none does.
fn waits_for_consumer(world: &World, volume: &Object, claim: &Object) -> bool {
    let class = class_of(world, claim);
    class.is_some_and(|class| class.waits_for_consumer)
        && volume.annotation(BIND_IMMEDIATELY_ANNOTATION).is_none()
        && world.users_of(&volume.key()).is_empty()
}

fn class_of<'a>(world: &'a World, claim: &Object) -> Option<&'a StorageSpec> {
    let storages = &world.settings.storages;
    match claim.word("/spec/storageClassName") {
        Some(name) => storages.iter().find(|storage| storage.name == name),
        None => storages.iter().find(|storage| storage.is_default),
    }
}

async fn make_claim(world: &World, volume: &Object) -> Result<()> {
    let asked = volume
        .at("/spec/storage")
        .or_else(|| volume.at("/spec/pvc"));
    let asked = asked.cloned().unwrap_or(Value::Null);
    let class = asked["storageClassName"].as_str();
    let storages = &world.settings.storages;
    let storage = match class {
        Some(name) => storages.iter().find(|storage| storage.name == name),
        None => storages.iter().find(|storage| storage.is_default),
    };
    let Some(storage) = storage else {
        let message = match class {
            Some(name) => format!("storageclass.storage.k8s.io {name:?} not found"),
            None => "PVC spec is missing storageClassName and no default storage class exists"
                .to_owned(),
        };
        return publish(world, volume, "Pending", Some(&message)).await;
    };
    // A storage profile knows what the class can do, for volumes that do not say.
    let mode = if storage.is_shared {
        "ReadWriteMany"
    } else {
        "ReadWriteOnce"
    };
    let modes = match &asked["accessModes"] {
        Value::Array(modes) if !modes.is_empty() => json!(modes),
        _ => json!([mode]),
    };
    let mut spec = json!({
        "accessModes": modes, "resources": asked["resources"], "storageClassName": storage.name,
    });
    if spec["resources"].is_null() {
        spec["resources"] = json!({"requests": {"storage": "10Gi"}});
    }
    if let Some(mode) = asked["volumeMode"].as_str() {
        spec["volumeMode"] = mode.into();
    }
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": volume.name(), "namespace": volume.namespace(),
            "labels": volume.metadata.labels, "finalizers": [CLAIM_FINALIZER],
            "ownerReferences": [volume.owner_reference(CDI_API, &DATA_VOLUME, true)],
        },
        "spec": spec,
    });
    if let Some(resource) = watched(&CLAIM) {
        world.hub.create(&resource, claim, manager::CDI).await?;
    }
    Ok(())
}

async fn bind(world: &World, claim: &Object) -> Result<()> {
    let status = json!({
        "phase": "Bound", "accessModes": claim.at("/spec/accessModes"),
        "capacity": {"storage": claim.at("/spec/resources/requests/storage")},
    });
    world
        .hub
        .merge_status(&CLAIM, claim, &status, manager::CDI)
        .await?;
    Ok(())
}

async fn publish(world: &World, volume: &Object, phase: &str, why: Option<&str>) -> Result<()> {
    let mut conditions = Conditions::of(volume, world.time());
    let is_bound = !matches!(
        phase,
        "Pending" | "WaitForFirstConsumer" | "PendingPopulation"
    );
    let is_ready = phase == "Succeeded";
    let is_running = matches!(phase, "ImportInProgress" | "CSICloneInProgress");
    let message = why.unwrap_or_default();
    let reason = if phase == "Failed" { "Error" } else { "" };
    conditions.set(
        "Bound",
        is_bound,
        if is_bound { "Bound" } else { "Pending" },
        "",
    );
    conditions.set(
        "Running",
        is_running,
        if is_ready { "Completed" } else { reason },
        message,
    );
    conditions.set("Ready", is_ready, "", message);
    let progress = if is_ready { "100.0%" } else { "N/A" };
    let status = json!({
        "phase": phase, "progress": progress, "claimName": volume.name(),
        "conditions": conditions.into_value(),
    });
    world
        .hub
        .merge_status(&DATA_VOLUME, volume, &status, manager::CDI)
        .await?;
    Ok(())
}

/// Binds claims that no DataVolume made, and lets go of those that nobody uses.
pub(super) async fn reconcile_claim(world: &World, name: &Name) -> Result<Again> {
    let Some(claim) = world.hub.get(&CLAIM, name) else {
        return Ok(None);
    };
    if claim.is_deleting() {
        let users = world.users_of(name);
        let is_used = users
            .iter()
            .any(|user| !matches!(user.text("/status/phase"), Some("Succeeded" | "Failed")));
        if !is_used && claim.has_finalizer(CLAIM_FINALIZER) {
            let left = finalizers_without(&claim, CLAIM_FINALIZER);
            let patch = json!({"metadata": {"finalizers": left}});
            world.hub.merge(&CLAIM, name, patch, manager::CDI).await?;
        }
        return Ok(None);
    }
    let is_own = claim
        .controller()
        .is_some_and(|owner| DATA_VOLUME.is_of(owner));
    if is_own || claim.text("/status/phase") == Some("Bound") {
        return Ok(None);
    }
    let class = class_of(world, &claim);
    let waits = class.is_some_and(|class| class.waits_for_consumer);
    if class.is_none() || (waits && world.users_of(name).is_empty()) {
        return Ok(None);
    }
    if let Some(left) = world.wait(claim.uid(), "bind", world.settings.delays.bind) {
        return Ok(Some(left));
    }
    bind(world, &claim).await?;
    Ok(None)
}

impl World {
    /// What is on a claim. After a restart of the simulator only the origin is known, from the
    /// DataVolume of the same name.
    pub(super) fn content(&self, claim: &Name) -> Content {
        let Some(found) = self.hub.get(&CLAIM, claim) else {
            return Content::default();
        };
        if let Some(content) = self.contents.lock().get(found.uid()) {
            return content.clone();
        }
        let volume = self.hub.get(&DATA_VOLUME, claim);
        let origin = match volume.map(|volume| source(self, &volume)) {
            Some(Ok(Source::Import(url))) => url,
            Some(Ok(Source::Clone(name))) if name != *claim => self.content(&name).origin,
            Some(_) => String::new(),
            None => claim.to_string(),
        };
        Content {
            origin,
            ..Content::default()
        }
    }

    /// A claim is gone, and the machine that was on it.
    pub(super) fn forget_claim(&self, claim: &Object) {
        let content = self.contents.lock().remove(claim.uid());
        if let Some(uuid) = content.and_then(|content| content.machine) {
            self.guests.lock().destroyed(&uuid);
        }
    }
}
