//! An instance whose domain runs: its guest, its status, its end.

use std::net::IpAddr;

use capi_testkit::actor::{Name, Object, Result};
use capi_testkit::guest::{Agent, Disk, InterfaceAddress, Membership};
use capi_testkit::workload::{Endpoint, Entry, Join, Refused};
use serde_json::{Value, json};

use super::instance::{Draft, boot_claim};
use super::probe::{self, Answer};
use super::{Order, World};
use crate::guest::GuestHost;
use crate::hardware::{self, Binding, Interface};
use crate::word::{
    BRIDGE_MIGRATION_ANNOTATION, CLAIM, EVACUATION_ANNOTATION, INSTANCE, KUBEVIRT_API, MIGRATION,
    manager, watched,
};

pub(super) fn advance(world: &World, instance: &Object, draft: &mut Draft) {
    let uid = instance.uid();
    let node = instance.text("/status/nodeName").unwrap_or_default();
    if world.down.lock().contains(node) {
        // Nobody is there to say more, or to end it.
        let message = "node is not ready";
        draft
            .conditions
            .set("Ready", false, "NodeNotReady", message);
        return;
    }
    if world.lost.lock().remove(uid) {
        // Its node came back without it.
        return end(world, instance, draft, "Failed");
    }
    match world.orders.lock().remove(uid) {
        Some(Order::ShutDown) => return end(world, instance, draft, "Succeeded"),
        Some(Order::Crash) => return end(world, instance, draft, "Failed"),
        None => {}
    }
    if instance.is_deleting() {
        let grace = hardware::grace(instance.at("/spec").unwrap_or(&Value::Null));
        let shutdown = world.settings.delays.shutdown.min(grace);
        match world.wait(uid, "shutdown", shutdown) {
            Some(left) => draft.come_back(left),
            None => return end(world, instance, draft, "Succeeded"),
        }
    }
    let now = world.elapsed();
    let next = {
        let mut guests = world.guests.lock();
        guests.advance(uid, now, |clusters, join, disk| {
            enter(world, instance, clusters, join, disk)
        })
    };
    if let Some(next) = next {
        draft.come_back(next.saturating_sub(now));
    }
    describe(world, instance, draft);
}

fn end(world: &World, instance: &Object, draft: &mut Draft, phase: &str) {
    world.power_off(instance);
    draft.enter(world, instance, phase);
    draft.conditions.remove("AgentConnected");
    let message = "virt-launcher pod is terminating";
    draft
        .conditions
        .set("Ready", false, "PodTerminating", message);
}

/// What is to be seen of a running domain.
pub(super) fn describe(world: &World, instance: &Object, draft: &mut Draft) {
    let guests = world.guests.lock();
    let is_silent = world.script.lock().is_silent(instance.name());
    let agent = guests.agent(instance.uid()).filter(|_| !is_silent);
    // What the agent says comes a while after it began to answer.
    let agent = match agent {
        Some(agent) => match world.wait(instance.uid(), "agent", world.settings.delays.agent) {
            Some(left) => {
                draft.come_back(left);
                None
            }
            None => Some(agent),
        },
        None => {
            world.stages.lock().clear(instance.uid(), "agent");
            None
        }
    };
    if agent.is_some() {
        draft.conditions.set("AgentConnected", true, "", "");
    } else {
        draft.conditions.remove("AgentConnected");
    }
    draft.set("guestOSInfo", os_info(agent.as_ref()));
    draft.set(
        "interfaces",
        interfaces(world, instance, &guests, agent.as_ref()),
    );
    readiness(world, instance, draft, &guests, agent.as_ref());
    drop(guests);
    let spec = instance.at("/spec").unwrap_or(&Value::Null);
    let cpu = &spec["domain"]["cpu"];
    let count = |key: &str| cpu[key].as_u64().filter(|count| *count > 0).unwrap_or(1);
    draft.set(
        "currentCPUTopology",
        json!({"cores": count("cores"), "sockets": count("sockets"), "threads": count("threads")}),
    );
    if spec["domain"]["memory"]["guest"].is_string() {
        let guest = &spec["domain"]["memory"]["guest"];
        draft.set(
            "memory",
            json!({"guestAtBoot": guest, "guestCurrent": guest, "guestRequested": guest}),
        );
    }
    match obstacle(world, instance) {
        None => {
            draft.conditions.set("LiveMigratable", true, "", "");
            draft.set("migrationMethod", "BlockMigration");
            if boot_claim(instance).is_some() {
                draft.set("migrationMethod", "LiveMigration");
            }
        }
        Some((reason, message)) => {
            draft
                .conditions
                .set("LiveMigratable", false, reason, &message);
            draft.set("migrationMethod", Value::Null);
        }
    }
    if instance.word("/status/evacuationNodeName").is_some() {
        draft.conditions.set(
            "EvictionRequested",
            true,
            "EvictionRequested",
            "Eviction was requested",
        );
    } else {
        draft.conditions.remove("EvictionRequested");
    }
}

fn readiness(
    world: &World,
    instance: &Object,
    draft: &mut Draft,
    guests: &GuestHost,
    agent: Option<&Agent<'_>>,
) {
    let probe = instance.at("/spec/readinessProbe").unwrap_or(&Value::Null);
    let (first, period) = probe::times(probe);
    let uid = instance.uid();
    if probe.is_object()
        && let Some(left) = world
            .stages
            .lock()
            .wait(uid, "probe", || world.scaled(first))
    {
        let message = "containers with unready status: [compute]";
        draft
            .conditions
            .set("Ready", false, "ContainersNotReady", message);
        draft.come_back(left);
        return;
    }
    match probe::answer(probe, agent, guests.is_member(uid)) {
        Answer::Ready => draft.conditions.set("Ready", true, "", ""),
        Answer::NotReady(why) => {
            let message = format!("containers with unready status: [compute]: {why}");
            draft
                .conditions
                .set("Ready", false, "ContainersNotReady", &message);
            let mut stages = world.stages.lock();
            stages.clear(uid, "probe");
            if let Some(left) = stages.wait(uid, "probe", || world.scaled(period)) {
                draft.come_back(left);
            }
        }
    }
}

fn os_info(agent: Option<&Agent<'_>>) -> Value {
    let Some(agent) = agent else {
        return Value::Null;
    };
    let info = agent.os_info();
    json!({
        "id": info.id, "name": info.name, "prettyName": info.pretty_name,
        "version": info.version_id, "versionId": info.version_id,
        "kernelRelease": info.kernel_release, "machine": info.machine,
    })
}

/// The interfaces of the spec in their order, then those that only the guest knows.
fn interfaces(
    world: &World,
    instance: &Object,
    guests: &GuestHost,
    agent: Option<&Agent<'_>>,
) -> Value {
    let reported = agent.map(Agent::interfaces).unwrap_or_default();
    let pod = world.pod_address(instance).map(|net| net.addr());
    let mut list = Vec::new();
    for (index, interface) in hardware::interfaces(instance).iter().enumerate() {
        let known = reported.iter().find(|one| one.mac == interface.mac);
        let seen = known
            .map(|one| one.addresses.as_slice())
            .unwrap_or_default();
        let addresses = shown(interface, pod, seen);
        let pod_name = match &interface.multus {
            Some(_) => format!("pod{index}"),
            None => "eth0".to_owned(),
        };
        let source = if known.is_some() {
            "domain, guest-agent"
        } else {
            "domain"
        };
        let mut status = json!({
            "name": interface.name, "mac": interface.mac.to_string(), "infoSource": source,
            "linkState": "up", "podInterfaceName": pod_name, "queueCount": 1,
        });
        if let Some(known) = known {
            status["interfaceName"] = known.name.as_str().into();
        }
        if let Some(first) = addresses.first() {
            status["ipAddress"] = first.as_str().into();
            status["ipAddresses"] = json!(addresses);
        }
        list.push(status);
    }
    if agent.is_some() && guests.is_member(instance.uid()) {
        // The bridge of the network plug-in inside, which every node of the cluster has.
        list.push(json!({
            "interfaceName": "cni0", "ipAddress": "10.42.0.1", "ipAddresses": ["10.42.0.1"],
            "mac": "0a:58:0a:2a:00:01", "infoSource": "guest-agent",
        }));
    }
    list.into()
}

/// The addresses of one interface, the best known first.
fn shown(interface: &Interface, pod: Option<IpAddr>, seen: &[InterfaceAddress]) -> Vec<String> {
    let own = |one: &&InterfaceAddress| !is_link_local(one.address);
    let is_pod_network = interface.multus.is_none();
    if is_pod_network && (interface.binding == Binding::Masquerade || seen.is_empty()) {
        return pod.into_iter().map(|address| address.to_string()).collect();
    }
    // As guests list them: IPv4 before IPv6, link-local ones last.
    let mut addresses: Vec<IpAddr> = seen.iter().filter(own).map(|one| one.address).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    let local = seen.iter().filter(|one| is_link_local(one.address));
    addresses.extend(local.map(|one| one.address));
    addresses.iter().map(ToString::to_string).collect()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Why an instance cannot migrate.
fn obstacle(world: &World, instance: &Object) -> Option<(&'static str, String)> {
    let allows_bridge = instance.annotation(BRIDGE_MIGRATION_ANNOTATION).is_some();
    let is_bound = hardware::interfaces(instance).iter().any(|interface| {
        interface.multus.is_none() && interface.binding == Binding::Bridge && !allows_bridge
    });
    if is_bound {
        let message = format!(
            "cannot migrate VMI which does not use masquerade, bridge with {BRIDGE_MIGRATION_ANNOTATION} \
             VM annotation or a migratable plugin to connect to the pod network"
        );
        return Some(("InterfaceNotLiveMigratable", message));
    }
    let spec = instance.at("/spec").unwrap_or(&Value::Null);
    for (_, claim) in hardware::claims(spec) {
        let name = Name::new(instance.namespace(), claim);
        let found = world.hub.get(&CLAIM, &name);
        let is_shared = found.is_some_and(|found| {
            let modes = found.at("/spec/accessModes").and_then(Value::as_array);
            modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteMany"))
        });
        if !is_shared {
            let message = format!(
                "cannot migrate VMI: PVC {claim} is not shared, live migration requires that all PVCs \
                 must be shared (using ReadWriteMany access mode)"
            );
            return Some(("DisksNotLiveMigratable", message));
        }
    }
    if !spec["domain"]["devices"]["hostDevices"].is_null()
        || !spec["domain"]["devices"]["gpus"].is_null()
    {
        let message = "VMI uses a PCI host device".to_owned();
        return Some(("HostDeviceNotLiveMigratable", message));
    }
    None
}

/// A guest asks to come into a cluster. What it says of itself is put as others see it, and what the
/// infra cluster's Services lead to it is added to what it serves.
fn enter(
    world: &World,
    instance: &Object,
    clusters: &dyn Membership,
    mut join: Join,
    disk: &Disk,
) -> std::result::Result<(), Refused> {
    let is_masqueraded = hardware::interfaces(instance)
        .iter()
        .any(|one| one.multus.is_none() && one.binding == Binding::Masquerade);
    let pod = world.pod_address(instance).map(|net| net.addr());
    if let Some(pod) = pod.filter(|_| is_masqueraded) {
        let hidden = IpAddr::from([10, 0, 2, 2]);
        let seen = |address: &mut IpAddr| {
            if *address == hidden {
                *address = pod;
            }
        };
        join.node.addresses.iter_mut().for_each(seen);
        if let Entry::Init { serves, .. } | Entry::Join { serves, .. } = &mut join.entry {
            serves.iter_mut().for_each(seen);
        }
    }
    let endpoint = join.endpoint.clone();
    let (is_init, serves) = match &mut join.entry {
        Entry::Init { serves, .. } => (true, serves),
        Entry::Join { serves, .. } => (false, serves),
        _ => return clusters.join(&join, disk),
    };
    let is_served = !serves.is_empty() && world.leads(instance, &endpoint, is_init);
    if is_served {
        serve(clusters, &endpoint, serves);
    }
    clusters.join(&join, disk)
}

fn serve(clusters: &dyn Membership, endpoint: &Endpoint, serves: &mut Vec<IpAddr>) {
    match endpoint.address() {
        Some(address) => serves.push(address),
        // A name is resolved outside, so nothing but the Service says where it leads.
        None => clusters.declare_load_balancer(endpoint),
    }
}

/// The evacuation controller: an instance that is to leave its node, and may migrate, is migrated.
pub(super) async fn evacuate(world: &World, instance: &Object) -> Result<()> {
    let Some(instance) = world.hub.get(&INSTANCE, &instance.key()) else {
        return Ok(());
    };
    let migrates = matches!(
        instance.text("/spec/evictionStrategy"),
        Some("LiveMigrate" | "LiveMigrateIfPossible")
    );
    let Some(node) = instance.word("/status/evacuationNodeName") else {
        return Ok(());
    };
    let is_there = instance.text("/status/nodeName") == Some(node);
    if !migrates || !is_there || !instance.is_true("LiveMigratable") || instance.is_deleting() {
        return Ok(());
    }
    let migrations = world.hub.all(&MIGRATION);
    let is_under_way = migrations.iter().any(|migration| {
        migration.namespace() == instance.namespace()
            && migration.text("/spec/vmiName") == Some(instance.name())
            && !matches!(
                migration.text("/status/phase"),
                Some("Succeeded" | "Failed")
            )
    });
    if is_under_way {
        return Ok(());
    }
    let suffix = world.rng.lock().suffix();
    let migration = json!({
        "apiVersion": KUBEVIRT_API, "kind": "VirtualMachineInstanceMigration",
        "metadata": {
            "name": format!("kubevirt-evacuation-{suffix}"), "namespace": instance.namespace(),
            "annotations": {EVACUATION_ANNOTATION: node},
        },
        "spec": {"vmiName": instance.name()},
    });
    if let Some(resource) = watched(&MIGRATION) {
        world
            .hub
            .create(&resource, migration, manager::CONTROLLER)
            .await?;
    }
    Ok(())
}
