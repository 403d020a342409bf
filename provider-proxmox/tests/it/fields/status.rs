//! What is written: status, and the fields of spec that are the controller's.

use std::time::Duration;

use pve_sim::Builder;
use serde_json::{Value, json};

use super::fields;
use crate::site::{CLUSTERS, FLEET, Fleet, NAMESPACE, Site, cluster, is_provisioned, machine};

fields! {
    /// Written once the VM runs: the uuid of the VM, and its number.
    "ProxmoxMachine.spec.providerID", "ProxmoxMachine.spec.virtualMachineID" => spec_of_the_controller;
    /// Written: what the contract wants of a machine.
    "ProxmoxMachine.status.addresses[].address",
    "ProxmoxMachine.status.addresses[].type",
    "ProxmoxMachine.status.initialization.provisioned" => contract_of_a_machine;
    /// Written: where and how the VM is.
    "ProxmoxMachine.status.bootstrapDataProvided",
    "ProxmoxMachine.status.ipAddresses[].ipv4[]",
    "ProxmoxMachine.status.ipAddresses[].ipv6[]",
    "ProxmoxMachine.status.ipAddresses[].net",
    "ProxmoxMachine.status.proxmoxNode",
    "ProxmoxMachine.status.vmStatus" => state_of_a_machine;
    /// Written: how it is going.
    "ProxmoxMachine.status.conditions[].lastTransitionTime",
    "ProxmoxMachine.status.conditions[].message",
    "ProxmoxMachine.status.conditions[].observedGeneration",
    "ProxmoxMachine.status.conditions[].reason",
    "ProxmoxMachine.status.conditions[].status",
    "ProxmoxMachine.status.conditions[].type",
    "ProxmoxCluster.status.conditions[].lastTransitionTime",
    "ProxmoxCluster.status.conditions[].message",
    "ProxmoxCluster.status.conditions[].observedGeneration",
    "ProxmoxCluster.status.conditions[].reason",
    "ProxmoxCluster.status.conditions[].status",
    "ProxmoxCluster.status.conditions[].type" => conditions;
    /// Written: the pools of the cluster, by zone.
    "ProxmoxCluster.status.inClusterIPPoolRef[].name",
    "ProxmoxCluster.status.inClusterZoneRef[].inClusterIPPoolRefV4.name",
    "ProxmoxCluster.status.inClusterZoneRef[].inClusterIPPoolRefV6.name",
    "ProxmoxCluster.status.inClusterZoneRef[].zone",
    "ProxmoxCluster.status.initialization.provisioned" => state_of_a_cluster;
    /// Of the Go provider: accepted in stored objects, never written, decides nothing.
    "ProxmoxCluster.status.deprecated.v1beta1.failureMessage",
    "ProxmoxCluster.status.deprecated.v1beta1.failureReason",
    "ProxmoxCluster.status.deprecated.v1beta1.ready",
    "ProxmoxCluster.status.nodeLocations.controlPlane[].machine.name",
    "ProxmoxCluster.status.nodeLocations.controlPlane[].node",
    "ProxmoxCluster.status.nodeLocations.controlPlane[].zone",
    "ProxmoxCluster.status.nodeLocations.workers[].machine.name",
    "ProxmoxCluster.status.nodeLocations.workers[].node",
    "ProxmoxCluster.status.nodeLocations.workers[].zone",
    "ProxmoxMachine.status.deprecated.v1beta1.failureMessage",
    "ProxmoxMachine.status.deprecated.v1beta1.failureReason",
    "ProxmoxMachine.status.deprecated.v1beta1.ready",
    "ProxmoxMachine.status.network[].connected",
    "ProxmoxMachine.status.network[].ipAddrs[]",
    "ProxmoxMachine.status.network[].macAddr",
    "ProxmoxMachine.status.network[].networkName",
    "ProxmoxMachine.status.retryAfter",
    "ProxmoxMachine.status.taskRef" => left_by_the_go_provider;
}

/// A dual-stack cluster with a machine that is provisioned.
async fn provisioned() -> Site {
    let site = Site::new(Builder::new().build());
    let mut infra = cluster();
    infra["spec"]["ipv6Config"] = json!({
        "addresses": ["fd00::10-fd00::20"], "prefix": 64, "gateway": "fd00::1",
    });
    let fleet = Fleet::create_like(&site, infra).await;
    fleet.add("m-0").await;
    site.start();
    site.until("provisioned", is_up).await;
    site
}

fn is_up(site: &Site) -> bool {
    is_provisioned(&site.machine("m-0").unwrap())
}

fn the_cluster(site: &Site) -> Value {
    site.server.object(CLUSTERS, NAMESPACE, FLEET).unwrap()
}

async fn spec_of_the_controller() {
    let site = provisioned().await;
    let spec = site.machine("m-0").unwrap()["spec"].clone();
    let vm = &site.platform.vms_left()[0];
    assert_eq!(spec["virtualMachineID"], vm.vmid);
    let uuid = vm.uuid().unwrap().to_lowercase();
    assert_eq!(spec["providerID"], format!("proxmox://{uuid}"));
}

async fn contract_of_a_machine() {
    let site = provisioned().await;
    let status = site.machine("m-0").unwrap()["status"].clone();
    assert_eq!(status["initialization"]["provisioned"], true);
    let addresses = json!([
        {"type": "Hostname", "address": "m-0"},
        {"type": "InternalIP", "address": "10.0.0.10"},
        {"type": "InternalIP", "address": "fd00::10"},
    ]);
    assert_eq!(status["addresses"], addresses);
}

async fn state_of_a_machine() {
    let site = provisioned().await;
    let status = site.machine("m-0").unwrap()["status"].clone();
    assert_eq!(status["vmStatus"], "ready");
    assert_eq!(status["bootstrapDataProvided"], true);
    assert_eq!(status["proxmoxNode"], site.platform.vms_left()[0].node);
    let both = |net: &str| json!({"net": net, "ipv4": ["10.0.0.10"], "ipv6": ["fd00::10"]});
    assert_eq!(
        status["ipAddresses"],
        json!([both("default"), both("net0")])
    );
}

/// CO-01, CO-02.
async fn conditions() {
    let site = provisioned().await;
    for (object, made) in [
        (site.machine("m-0").unwrap(), "VirtualMachineProvisioned"),
        (the_cluster(&site), "ProxmoxAvailable"),
    ] {
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let one = |kind: &str| {
            let found = conditions
                .iter()
                .find(|condition| condition["type"] == kind);
            found.unwrap_or_else(|| panic!("no {kind}: {conditions:#?}"))
        };
        for (kind, status, reason) in [
            (made, "True", "Provisioned"),
            ("Ready", "True", "Ready"),
            ("Paused", "False", "NotPaused"),
            ("Deleting", "False", "NotDeleting"),
        ] {
            let condition = one(kind);
            assert_eq!(condition["status"], status, "{kind}");
            assert_eq!(condition["reason"], reason, "{kind}");
            assert_eq!(condition["message"], "", "{kind}");
            let seen = condition["observedGeneration"].as_i64().unwrap();
            let now = object["metadata"]["generation"].as_i64().unwrap();
            assert!((1..=now).contains(&seen), "{kind}");
            let time = condition["lastTransitionTime"].as_str().unwrap();
            assert!(time.starts_with("2026-01-01T00:"), "{kind}: {time}");
        }
    }
}

async fn state_of_a_cluster() {
    let site = provisioned().await;
    let status = the_cluster(&site)["status"].clone();
    assert_eq!(status["initialization"]["provisioned"], true);
    let names = ["fleet-v4-icip", "fleet-v6-icip"].map(|name| json!({"name": name}));
    assert_eq!(status["inClusterIPPoolRef"], json!(names));
    let zone = json!([{
        "zone": "default", "inClusterIPPoolRefV4": names[0], "inClusterIPPoolRefV6": names[1],
    }]);
    assert_eq!(status["inClusterZoneRef"], zone);
}

async fn left_by_the_go_provider() {
    let site = Site::new(Builder::new().build());
    let fleet = Fleet::create(&site).await;
    fleet.add_like("m-0", machine()).await;
    let old = json!({"v1beta1": {
        "ready": false, "failureReason": "CreateError", "failureMessage": "no memory",
    }});
    let location = |name: &str| json!([{"machine": {"name": name}, "node": "pve9", "zone": "z"}]);
    let of_cluster = json!({
        "deprecated": old,
        "nodeLocations": {"controlPlane": location("m-0"), "workers": location("m-9")},
    });
    let of_machine = json!({
        "deprecated": old,
        "network": [{
            "connected": true, "ipAddrs": ["10.9.9.9"], "macAddr": "BC:24:11:00:00:09",
            "networkName": "vmbr9",
        }],
        "retryAfter": "2030-01-01T00:00:00Z",
        "taskRef": "UPID:pve9:0000C3AF:0A1B2C3D:6920AA00:qmclone:9000:u@pve!t:",
    });
    fleet
        .patch_status("ProxmoxCluster", FLEET, of_cluster.clone())
        .await;
    fleet
        .patch_status("ProxmoxMachine", "m-0", of_machine.clone())
        .await;
    site.start();
    // In spite of the failure, the task and the time of the next attempt.
    site.until("provisioned", is_up).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    for (object, before) in [
        (site.machine("m-0").unwrap(), of_machine),
        (the_cluster(&site), of_cluster),
    ] {
        for (field, value) in before.as_object().unwrap() {
            assert_eq!(&object["status"][field], value, "{field}");
        }
    }
    assert_eq!(
        site.machine("m-0").unwrap()["status"]["proxmoxNode"],
        "pve1"
    );
}
