//! `spec.network`: devices, addresses, routes.

use pve_sim::NodeSpec;
use serde_json::json;

use super::fields;
use super::outcome::effect;

fields! {
    /// The device of the VM is attached to this bridge.
    "ProxmoxMachine.spec.network.networkDevices[].bridge" => bridge;
    /// The device of the VM has this VLAN tag.
    "ProxmoxMachine.spec.network.networkDevices[].vlan" => vlan;
}

async fn bridge() {
    let effect = effect(|setting| {
        setting.platform = setting
            .platform
            .clone()
            .node(NodeSpec::new("pve1").bridge("vmbr1"));
        setting.device(0)["bridge"] = json!("vmbr1");
    })
    .await;
    assert_eq!(
        effect,
        [
            "- net0: virtio=MAC-net0,bridge=vmbr0",
            "+ net0: virtio=MAC-net0,bridge=vmbr1"
        ]
    );
}

async fn vlan() {
    let effect = effect(|setting| setting.device(0)["vlan"] = json!(7)).await;
    assert_eq!(
        effect,
        [
            "- net0: virtio=MAC-net0,bridge=vmbr0",
            "+ net0: virtio=MAC-net0,bridge=vmbr0,tag=7"
        ]
    );
}
