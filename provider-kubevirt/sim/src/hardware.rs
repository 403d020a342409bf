//! What an instance's spec says of its machine.

use std::time::Duration;

use capi_testkit::actor::Object;
use capi_testkit::guest::Mac;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::quantity;

/// How long a guest may take to shut down, unless its spec says otherwise.
const GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// A pod asks for this part of a virtual CPU, unless KubeVirt is configured otherwise.
const CPU_OVERCOMMIT: u64 = 10;

/// How an interface is bound to its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// The guest has the pod's address.
    Bridge,
    /// The guest has 10.0.2.2 and hides behind the pod's address.
    Masquerade,
    /// passt and plug-ins, which give the guest the pod's address too.
    Other,
}

/// One interface with its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) binding: Binding,
    /// `namespace/name` of a Multus attachment; none for the pod network.
    pub(crate) multus: Option<String>,
    pub(crate) mac: Mac,
}

/// Cores of all sockets.
pub(crate) fn cores(spec: &Value) -> u32 {
    let cpu = &spec["domain"]["cpu"];
    let one = |key: &str| cpu[key].as_u64().filter(|count| *count > 0);
    let resources = &spec["domain"]["resources"];
    let topology = ["sockets", "cores", "threads"].map(one);
    let count = if topology.iter().any(Option::is_some) {
        topology.iter().map(|count| count.unwrap_or(1)).product()
    } else {
        let asked = ["requests", "limits"].map(|key| quantity::thousandths(&resources[key]["cpu"]));
        let asked = asked.into_iter().flatten().next();
        asked.map_or(1, |thousandths| thousandths.div_ceil(1_000).max(1))
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The guest's memory in bytes.
pub(crate) fn memory(spec: &Value) -> u64 {
    let domain = &spec["domain"];
    let asked = [
        &domain["memory"]["guest"],
        &domain["resources"]["requests"]["memory"],
        &domain["resources"]["limits"]["memory"],
    ];
    asked.into_iter().find_map(quantity::bytes).unwrap_or(0)
}

/// What its pod asks for: thousandths of a CPU, bytes of memory.
pub(crate) fn requests(spec: &Value) -> (u64, u64) {
    let asked = quantity::thousandths(&spec["domain"]["resources"]["requests"]["cpu"]);
    let dedicated = spec["domain"]["cpu"]["dedicatedCpuPlacement"] == true;
    let whole = u64::from(cores(spec)) * 1_000;
    let shared = asked.unwrap_or(whole / CPU_OVERCOMMIT);
    (if dedicated { whole } else { shared }, memory(spec))
}

/// How long its guest may take to shut down.
pub(crate) fn grace(spec: &Value) -> Duration {
    let seconds = spec["terminationGracePeriodSeconds"].as_u64();
    seconds.map_or(GRACE_DEFAULT, Duration::from_secs)
}

/// The interfaces in the order of the spec. Addresses that the spec doesn't give follow from the uid,
/// so that they stay over migrations.
pub(crate) fn interfaces(instance: &Object) -> Vec<Interface> {
    let list = |pointer: &str| {
        let list = instance.at(pointer).and_then(Value::as_array);
        list.map_or(&[][..], Vec::as_slice)
    };
    let networks = list("/spec/networks");
    let devices = list("/spec/domain/devices/interfaces");
    let read = |(index, device): (usize, &Value)| {
        let name = device["name"].as_str()?;
        let network = networks.iter().find(|network| network["name"] == name)?;
        let multus = network["multus"]["networkName"].as_str();
        let binding = if device["masquerade"].is_object() {
            Binding::Masquerade
        } else if device["bridge"].is_object() {
            Binding::Bridge
        } else {
            Binding::Other
        };
        let mac = device["macAddress"]
            .as_str()
            .and_then(|text| text.parse().ok());
        Some(Interface {
            name: name.to_owned(),
            binding,
            multus: multus.map(|multus| qualified(multus, instance.namespace())),
            mac: mac.unwrap_or_else(|| derived_mac(instance.uid(), index)),
        })
    };
    devices.iter().enumerate().filter_map(read).collect()
}

fn qualified(multus: &str, namespace: &str) -> String {
    if multus.contains('/') {
        multus.to_owned()
    } else {
        format!("{namespace}/{multus}")
    }
}

/// A locally administered address.
fn derived_mac(uid: &str, index: usize) -> Mac {
    let digest = Sha256::digest(format!("{uid}/{index}"));
    Mac([2, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// The uuid that the firmware shows, where the spec gives none: it follows from the VM, so that it
/// stays over restarts.
pub(crate) fn derived_uuid(uid: &str) -> String {
    let digest = Sha256::digest(format!("firmware of {uid}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Gives a spec without any interface one on the pod network, as KubeVirt does by default.
pub(crate) fn attach_pod_network(spec: &mut Value) {
    let devices = &spec["domain"]["devices"];
    let has_interfaces = devices["interfaces"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    if has_interfaces || devices["autoattachPodInterface"] == false {
        return;
    }
    let has_networks = spec["networks"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    if has_networks {
        return;
    }
    spec["domain"]["devices"]["interfaces"] = json!([{"name": "default", "bridge": {}}]);
    spec["networks"] = json!([{"name": "default", "pod": {}}]);
}

/// Gives volumes without a disk one, as KubeVirt does.
pub(crate) fn attach_volumes(spec: &mut Value) {
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    let devices = &mut spec["domain"]["devices"];
    let mut disks = devices["disks"].as_array().cloned().unwrap_or_default();
    for volume in volumes {
        let is_attached = ["disks", "filesystems"].iter().any(|kind| {
            let list = devices[*kind].as_array().into_iter().flatten();
            list.into_iter().any(|disk| disk["name"] == volume["name"])
        });
        if !is_attached && volume["memoryDump"].is_null() {
            disks.push(json!({"name": volume["name"], "disk": {"bus": "virtio"}}));
        }
    }
    if !disks.is_empty() {
        devices["disks"] = disks.into();
    }
}

/// The claims that a spec's volumes use, by volume.
pub(crate) fn claims(spec: &Value) -> Vec<(&str, &str)> {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    volumes
        .filter_map(|volume| {
            let claim = volume["dataVolume"]["name"]
                .as_str()
                .or(volume["persistentVolumeClaim"]["claimName"].as_str())?;
            Some((volume["name"].as_str()?, claim))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(json!({"domain": {"cpu": {"cores": 2, "sockets": 2}}}), 4)]
    #[case(json!({"domain": {"resources": {"requests": {"cpu": "1500m"}}}}), 2)]
    #[case(json!({"domain": {}}), 1)]
    fn cores_come_from_topology_or_requests(#[case] spec: Value, #[case] wanted: u32) {
        assert_eq!(cores(&spec), wanted);
    }

    #[test]
    fn a_spec_without_interfaces_gets_the_pod_network_by_a_bridge() {
        let mut spec = json!({"domain": {"devices": {}}});
        attach_pod_network(&mut spec);
        assert_eq!(spec["networks"], json!([{"name": "default", "pod": {}}]));
        let mut off = json!({"domain": {"devices": {"autoattachPodInterface": false}}});
        attach_pod_network(&mut off);
        assert_eq!(off["networks"], Value::Null);
    }

    #[test]
    fn volumes_get_their_disks() {
        let mut spec = json!({
            "domain": {"devices": {"disks": [{"name": "a", "cdrom": {}}]}},
            "volumes": [{"name": "a", "dataVolume": {"name": "dv"}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "pvc"}}],
        });
        attach_volumes(&mut spec);
        let disks = spec["domain"]["devices"]["disks"]
            .as_array()
            .expect("disks");
        assert_eq!(disks.len(), 2);
        assert_eq!(claims(&spec), [("a", "dv"), ("b", "pvc")]);
    }
}
