//! `spec.metadataSettings`: what the seed says of the machine.

use serde_json::json;

use super::fields;
use super::outcome::effect;

fields! {
    /// The meta-data of the seed holds the provider id.
    "ProxmoxMachine.spec.metadataSettings.providerIDInjection" => provider_id_injection;
}

async fn provider_id_injection() {
    let set = |value: bool| {
        move |setting: &mut super::outcome::Setting| {
            setting.spec()["metadataSettings"] = json!({"providerIDInjection": value});
        }
    };
    assert_eq!(
        effect(set(true)).await,
        ["+ meta-data: provider-id: proxmox://UUID"]
    );
    assert_eq!(effect(set(false)).await, [""; 0]);
}
