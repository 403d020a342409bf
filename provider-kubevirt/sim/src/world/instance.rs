//! virt-controller's and virt-handler's part for instances, up to the start of the domain and after its
//! end.

use std::sync::Arc;
use std::time::Duration;

use capi_testkit::actor::{Again, Name, Object, Result, difference};
use capi_testkit::guest::{Hardware, Medium, Nic};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::schedule::{Tenant, place};
use super::{Content, Order, Place, World, machine, running};
use crate::condition::Conditions;
use crate::guest::PowerOn;
use crate::hardware::{self, Binding, Interface};
use crate::seed::{self, NoSeed};
use crate::word::{
    CLAIM, CONTROLLER_FINALIZER, DATA_VOLUME, INSTANCE, INSTANCE_FINALIZER, NODE, NODE_NAME_LABEL,
    SECRET, manager,
};

/// The guest's address behind masquerade, where every guest has the same.
const MASQUERADED: &str = "10.0.2.2/24";

/// What a pass wants to be written, and when to come back.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) status: Map<String, Value>,
    pub(super) conditions: Conditions,
    pub(super) labels: Map<String, Value>,
    pub(super) again: Again,
    /// A warning to record.
    pub(super) warning: Option<(&'static str, String)>,
}

impl Draft {
    fn of(world: &World, instance: &Object) -> Self {
        Self {
            status: Map::new(),
            conditions: Conditions::of(instance, world.time()),
            labels: Map::new(),
            again: None,
            warning: None,
        }
    }

    pub(super) fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.status.insert(field.to_owned(), value.into());
    }

    /// Goes to another phase.
    pub(super) fn enter(&mut self, world: &World, instance: &Object, phase: &str) {
        let moments = instance.at("/status/phaseTransitionTimestamps");
        let mut moments = moments
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        moments.push(json!({"phase": phase, "phaseTransitionTimestamp": world.time()}));
        self.set("phase", phase);
        self.set("phaseTransitionTimestamps", moments);
    }

    pub(super) fn come_back(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |sooner| sooner.min(after)));
    }
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let Some(instance) = world.hub.get(&INSTANCE, name) else {
        return Ok(None);
    };
    let mut draft = Draft::of(world, &instance);
    match instance.text("/status/phase").unwrap_or_default() {
        "" => unprocessed(world, &instance, &mut draft),
        "Pending" => pending(world, &instance, &mut draft),
        "Scheduling" => scheduling(world, &instance, &mut draft),
        "Scheduled" => scheduled(world, &instance, &mut draft),
        "Running" => running::advance(world, &instance, &mut draft),
        "Succeeded" | "Failed" => return ended(world, &instance).await,
        _ => return Ok(None),
    }
    let again = draft.again;
    write(world, &instance, draft).await?;
    running::evacuate(world, &instance).await?;
    Ok(again)
}

async fn write(world: &World, instance: &Object, draft: Draft) -> Result<()> {
    let Draft {
        mut status,
        conditions,
        labels,
        warning,
        ..
    } = draft;
    status.insert("conditions".to_owned(), conditions.into_value());
    let mut patch = json!({});
    if let Some(difference) = difference(instance.status(), &Value::Object(status)) {
        patch["status"] = difference;
        // The list of conditions is replaced as a whole.
        patch["metadata"]["resourceVersion"] = json!(instance.metadata.resource_version);
    }
    let current: Map<String, Value> = instance
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    if let Some(difference) = difference(&Value::Object(current), &Value::Object(labels)) {
        patch["metadata"]["labels"] = difference;
    }
    if !instance.is_deleting() && !instance.has_finalizer(INSTANCE_FINALIZER) {
        let mut finalizers = instance.metadata.finalizers.clone().unwrap_or_default();
        finalizers.push(INSTANCE_FINALIZER.to_owned());
        patch["metadata"]["finalizers"] = finalizers.into();
        patch["metadata"]["resourceVersion"] = json!(instance.metadata.resource_version);
    }
    if patch.as_object().is_some_and(|patch| !patch.is_empty()) {
        let name = instance.key();
        world
            .hub
            .merge(&INSTANCE, &name, patch, manager::HANDLER)
            .await?;
    }
    if let Some((reason, message)) = warning {
        world
            .tell(instance, &INSTANCE, ("Warning", reason), &message)
            .await;
    }
    Ok(())
}

fn unprocessed(world: &World, instance: &Object, draft: &mut Draft) {
    if instance.is_deleting() {
        draft.enter(world, instance, "Failed");
        return;
    }
    draft.enter(world, instance, "Pending");
    let message = "virt-launcher pod has not yet been scheduled";
    draft
        .conditions
        .set("Ready", false, "PodNotExists", message);
}

/// Waits for its claims, and for its pod to be made.
fn pending(world: &World, instance: &Object, draft: &mut Draft) {
    if instance.is_deleting() {
        draft.enter(world, instance, "Failed");
        return;
    }
    let spec = instance.at("/spec").unwrap_or(&Value::Null);
    let mut is_filled = true;
    for (_, claim) in hardware::claims(spec) {
        let name = Name::new(instance.namespace(), claim);
        let volume = world.hub.get(&DATA_VOLUME, &name);
        let phase = volume
            .as_ref()
            .and_then(|volume| volume.text("/status/phase"));
        if phase == Some("Failed") {
            draft.enter(world, instance, "Failed");
            return;
        }
        if world.hub.get(&CLAIM, &name).is_none() {
            let message = format!(
                "PVC {}/{claim} does not exist, waiting for it to appear",
                instance.namespace()
            );
            draft
                .conditions
                .set("Synchronized", false, "FailedPvcNotFound", &message);
            draft
                .conditions
                .set("PodScheduled", false, "Unschedulable", &message);
            return;
        }
        is_filled &= volume.is_none() || phase == Some("Succeeded");
    }
    draft.conditions.remove("Synchronized");
    draft.conditions.remove("PodScheduled");
    if !is_filled {
        // A temporary pod is the first consumer that the volumes wait for.
        draft.conditions.set("Provisioning", true, "", "");
        let message = "Not all of the VMI's DVs are ready";
        draft
            .conditions
            .set("DataVolumesReady", false, "NotAllDVsReady", message);
        return;
    }
    if let Some(left) = world.wait(instance.uid(), "pod", world.settings.delays.pod) {
        draft.come_back(left);
        return;
    }
    draft.conditions.remove("Provisioning");
    if hardware::claims(spec).iter().any(|_| true) {
        let message = "All of the VMI's DVs are bound and ready";
        draft
            .conditions
            .set("DataVolumesReady", true, "AllDVsReady", message);
    }
    draft.enter(world, instance, "Scheduling");
    let message = "Guest VM is not reported as running";
    draft
        .conditions
        .set("Ready", false, "GuestNotRunning", message);
}

/// Every instance that has a pod, and where.
pub(super) fn tenants(world: &World) -> Vec<Tenant> {
    let places = world.places.lock();
    let all = world.hub.all(&INSTANCE);
    let live = all
        .into_iter()
        .filter(|one| !matches!(one.text("/status/phase"), Some("Succeeded" | "Failed")));
    live.filter_map(|instance| {
        let known = places.get(instance.uid()).map(|place| place.node.clone());
        let node = known.or_else(|| instance.word("/status/nodeName").map(str::to_owned))?;
        Some(Tenant { node, instance })
    })
    .collect()
}

/// Finds a node, and lets the pod start there.
fn scheduling(world: &World, instance: &Arc<Object>, draft: &mut Draft) {
    if instance.is_deleting() {
        draft.enter(world, instance, "Failed");
        return;
    }
    let place = match bind_to_node(world, instance) {
        Ok(place) => place,
        Err(message) => {
            draft
                .conditions
                .set("PodScheduled", false, "Unschedulable", &message);
            return;
        }
    };
    draft.conditions.remove("PodScheduled");
    draft.set("activePods", json!({place.pod: place.node}));
    if !can_start(world, instance, draft) {
        return;
    }
    draft.conditions.remove("Synchronized");
    if let Some(left) = world.wait(instance.uid(), "launch", world.settings.delays.launch) {
        draft.come_back(left);
        return;
    }
    let node = place.node.as_str();
    draft.set("nodeName", node);
    draft.labels.insert(NODE_NAME_LABEL.to_owned(), node.into());
    draft.set("qosClass", "Burstable");
    draft.set("volumeStatus", volume_status(instance));
    draft.enter(world, instance, "Scheduled");
}

/// The node of an instance's pod, which it keeps from here on.
fn bind_to_node(world: &World, instance: &Arc<Object>) -> std::result::Result<Place, String> {
    if let Some(known) = world.places.lock().get(instance.uid()) {
        return Ok(known.clone());
    }
    let (nodes, tenants) = (world.hub.all(&NODE), tenants(world));
    let node = place(instance, &nodes, &tenants, None, &Value::Null)?;
    let pod = world.rng.lock().uuid();
    let place = Place { node, pod };
    let uid = instance.uid().to_owned();
    world.places.lock().insert(uid, place.clone());
    Ok(place)
}

/// Whether its pod has everything that it needs: images, networks, Secrets.
fn can_start(world: &World, instance: &Object, draft: &mut Draft) -> bool {
    if let Some(wait) = image_missing(world, instance, draft) {
        draft.come_back(wait);
        return false;
    }
    let mut networks = hardware::interfaces(instance)
        .into_iter()
        .filter_map(|interface| interface.multus);
    if let Some(network) = networks.find(|name| !world.settings.networks.contains_key(name)) {
        let message = format!("cannot find a network-attachment-definition ({network})");
        draft
            .conditions
            .set("Synchronized", false, "FailedCreate", &message);
        return false;
    }
    match media(world, instance) {
        Ok(_) => true,
        Err(waiting @ NoSeed::NoSecret { .. }) => {
            // Told once, as a kubelet's event is counted up and not repeated.
            let mut stages = world.stages.lock();
            if !stages.has(instance.uid(), "mount") {
                stages.wait(instance.uid(), "mount", || Duration::ZERO);
                draft.warning = Some(("FailedMount", waiting.to_string()));
            }
            false
        }
        Err(broken @ NoSeed::Broken(_)) => {
            let message = broken.to_string();
            draft
                .conditions
                .set("Synchronized", false, "FailedCreate", &message);
            false
        }
    }
}

/// Says that an image cannot be pulled, first as an error and later as waiting.
fn image_missing(world: &World, instance: &Object, draft: &mut Draft) -> Option<Duration> {
    let volumes = instance.at("/spec/volumes").and_then(Value::as_array);
    let mut images = volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["containerDisk"]["image"].as_str());
    let script = world.script.lock();
    let image = images.find(|image| script.lacks_image(image))?;
    let pulling = world.scaled(Duration::from_secs(10));
    let left = world.stages.lock().wait(instance.uid(), "pull", || pulling);
    let (reason, message) = match left {
        Some(_) => (
            "ErrImagePull",
            format!("failed to pull and unpack image {image:?}: not found"),
        ),
        None => (
            "ImagePullBackOff",
            format!("Back-off pulling image {image:?}"),
        ),
    };
    draft
        .conditions
        .set("Synchronized", false, reason, &message);
    Some(left.unwrap_or(Duration::from_secs(300)))
}

fn volume_status(instance: &Object) -> Value {
    let volumes = instance.at("/spec/volumes").and_then(Value::as_array);
    let status = volumes
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, volume)| {
            let letter = char::from(b'a' + u8::try_from(index.min(25)).unwrap_or(25));
            let mut status = json!({"name": volume["name"], "target": format!("vd{letter}")});
            let claim = [
                &volume["dataVolume"]["name"],
                &volume["persistentVolumeClaim"]["claimName"],
            ];
            if let Some(claim) = claim.into_iter().find(|claim| claim.is_string()) {
                status["persistentVolumeClaimInfo"] = json!({"claimName": claim});
            }
            status
        });
    status.collect()
}

fn media(world: &World, instance: &Object) -> std::result::Result<Vec<Medium>, NoSeed> {
    let uuid = instance
        .text("/spec/domain/firmware/uuid")
        .unwrap_or_default();
    seed::media(instance, uuid, |name| {
        let secret = world
            .hub
            .get(&SECRET, &Name::new(instance.namespace(), name))?;
        Some(secret.data.clone())
    })
}

/// virt-handler starts the domain.
fn scheduled(world: &World, instance: &Object, draft: &mut Draft) {
    let place = world.places.lock().get(instance.uid()).cloned();
    if instance.is_deleting() {
        draft.enter(world, instance, "Failed");
        return;
    }
    if let Some(left) = world.wait(instance.uid(), "start", world.settings.delays.start) {
        draft.come_back(left);
        return;
    }
    let media = match media(world, instance) {
        Ok(media) => media,
        Err(broken) => {
            draft.conditions.set(
                "Synchronized",
                false,
                "Synchronizing with the Domain failed.",
                &broken.to_string(),
            );
            return;
        }
    };
    if world.script.lock().take_start() || world.chance(|rates| rates.start) {
        draft.warning = Some((
            "SyncFailed",
            "server error. command SyncVMI failed".to_owned(),
        ));
        draft.enter(world, instance, "Failed");
        return;
    }
    let pod = place.map_or_else(|| instance.uid().to_owned(), |place| place.pod);
    let nics = nics(world, instance, &pod);
    let (content, is_bootable) = boot_disk(world, instance);
    if is_bootable {
        let spec = instance.at("/spec").unwrap_or(&Value::Null);
        let uuid = spec["domain"]["firmware"]["uuid"]
            .as_str()
            .unwrap_or_default();
        let mut hardware = Hardware::new(uuid, nics);
        hardware.cores = hardware::cores(spec);
        hardware.memory_mib = hardware::memory(spec) >> 20;
        hardware.dhcp_hostname = Some(seed::hostname(instance).to_owned());
        let Content { origin, disk, .. } = content;
        let parts = PowerOn {
            disk,
            origin,
            hardware,
            media,
        };
        world
            .guests
            .lock()
            .power_on(instance.uid(), parts, world.elapsed());
    }
    draft.conditions.remove("Synchronized");
    draft.enter(world, instance, "Running");
    running::describe(world, instance, draft);
}

/// The cards that the guest sees.
fn nics(world: &World, instance: &Object, pod: &str) -> Vec<Nic> {
    let interfaces = hardware::interfaces(instance);
    let name = instance.key().to_string();
    let mut addresses = world.addresses.lock();
    let nics = interfaces.iter().map(|interface| {
        let mut nic = Nic::new(interface.mac);
        nic.dhcp = match &interface.multus {
            Some(network) => addresses.lease(network, &lease_holder(instance, interface)),
            None => {
                let address = addresses.pod(pod, &name);
                match interface.binding {
                    Binding::Masquerade => MASQUERADED.parse().ok(),
                    Binding::Bridge | Binding::Other => address,
                }
            }
        };
        nic
    });
    nics.collect()
}

/// A lease belongs to a card, so that it stays over restarts.
fn lease_holder(instance: &Object, interface: &Interface) -> String {
    format!("{}/{}", instance.key(), interface.mac)
}

/// What is on the disk that the firmware boots from, and whether that is anything.
fn boot_disk(world: &World, instance: &Object) -> (Content, bool) {
    let list = |pointer: &str| {
        let list = instance.at(pointer).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let disks = list("/spec/domain/devices/disks");
    let order = |volume: &Value| {
        let disk = disks.iter().find(|disk| disk["name"] == volume["name"]);
        disk.and_then(|disk| disk["bootOrder"].as_u64())
            .unwrap_or(u64::MAX)
    };
    let mut volumes = list("/spec/volumes");
    volumes.retain(|volume| !volume["containerDisk"].is_null() || claim_of(volume).is_some());
    volumes.sort_by_key(order);
    let Some(boot) = volumes.first() else {
        return (Content::default(), false);
    };
    if let Some(image) = boot["containerDisk"]["image"].as_str() {
        let origin = image.to_owned();
        return (
            Content {
                origin,
                ..Content::default()
            },
            true,
        );
    }
    let claim = claim_of(boot).unwrap_or_default();
    let content = world.content(&Name::new(instance.namespace(), claim));
    let is_bootable = !content.origin.is_empty();
    (content, is_bootable)
}

fn claim_of(volume: &Value) -> Option<&str> {
    let claim = volume["dataVolume"]["name"].as_str();
    claim.or(volume["persistentVolumeClaim"]["claimName"].as_str())
}

/// The claim that an instance boots from, if its disk outlives it.
pub(super) fn boot_claim(instance: &Object) -> Option<Name> {
    let volumes = instance.at("/spec/volumes").and_then(Value::as_array)?;
    let boot = volumes
        .iter()
        .find(|volume| !volume["containerDisk"].is_null() || claim_of(volume).is_some())?;
    Some(Name::new(instance.namespace(), claim_of(boot)?))
}

/// The pod goes, and then nothing holds the instance any more.
async fn ended(world: &World, instance: &Object) -> Result<Again> {
    world.power_off(instance);
    world.addresses.lock().release_pod(&world.pod_of(instance));
    if !instance.is_deleting() {
        return Ok(None);
    }
    if let Some(left) = world.wait(instance.uid(), "removal", world.settings.delays.pod_removal) {
        return Ok(Some(left));
    }
    // An instance without VM has nobody else to take the VM's finalizer off.
    if world.machine_of(instance).is_none() && instance.has_finalizer(CONTROLLER_FINALIZER) {
        machine::take_finalizer(world, instance, CONTROLLER_FINALIZER).await?;
        return Ok(Some(Duration::ZERO));
    }
    if !instance.has_finalizer(CONTROLLER_FINALIZER) && instance.has_finalizer(INSTANCE_FINALIZER) {
        machine::take_finalizer(world, instance, INSTANCE_FINALIZER).await?;
    }
    Ok(None)
}

impl World {
    pub(super) fn pod_of(&self, instance: &Object) -> String {
        let places = self.places.lock();
        let place = places.get(instance.uid());
        place.map_or_else(|| instance.uid().to_owned(), |place| place.pod.clone())
    }

    /// The address of an instance's pod, if it has one by now.
    pub(super) fn pod_address(&self, instance: &Object) -> Option<IpNet> {
        let pod = self.pod_of(instance);
        self.addresses.lock().pod(&pod, &instance.key().to_string())
    }

    /// The domain is gone. What is on a container disk goes with it.
    pub(super) fn power_off(&self, instance: &Object) {
        let disk = self.guests.lock().power_off(instance.uid());
        let Some(disk) = disk else { return };
        match boot_claim(instance) {
            Some(claim) => {
                if let Some(claim) = self.hub.get(&CLAIM, &claim) {
                    let mut contents = self.contents.lock();
                    let content = contents.entry(claim.uid().to_owned()).or_default();
                    content.disk = disk;
                    content.machine = instance
                        .word("/spec/domain/firmware/uuid")
                        .map(str::to_owned);
                }
            }
            None => {
                let uuid = instance.text("/spec/domain/firmware/uuid");
                self.guests.lock().destroyed(uuid.unwrap_or_default());
            }
        }
    }

    /// The instance is gone from the API.
    pub(super) fn forget_instance(&self, instance: &Object) {
        self.power_off(instance);
        let pod = self.pod_of(instance);
        self.addresses.lock().release_pod(&pod);
        self.guests.lock().forget(instance.uid());
        self.places.lock().remove(instance.uid());
        self.orders.lock().remove(instance.uid());
        self.lost.lock().remove(instance.uid());
    }

    /// Takes an order for a running instance.
    pub(crate) fn order(&self, instance: &Object, order: Order) {
        self.orders.lock().insert(instance.uid().to_owned(), order);
        self.wish(super::Key::Instance(instance.key()));
    }
}
