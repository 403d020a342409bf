//! Addresses that run out.

use pve_sim::Builder;
use serde_json::{Value, json};

use crate::site::{Fleet, Site, cluster, is_provisioned, ready};

fn reason(machine: &Value) -> &str {
    let conditions = machine["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    ready
        .and_then(|ready| ready["reason"].as_str())
        .unwrap_or_default()
}

/// IPC-04: the second machine waits for an address, without a VM, and goes on by itself when the
/// first one gives its address back.
#[tokio::test(start_paused = true)]
async fn address_pool_exhausted() {
    let site = Site::new(Builder::new().build());
    let mut infra = cluster();
    let range = infra["spec"]["ipv4Config"]["addresses"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let first = range.split(['-', '/']).next().unwrap();
    infra["spec"]["ipv4Config"]["addresses"] = json!([first]);
    let fleet = Fleet::create_like(&site, infra).await;
    fleet.add("m-0").await;
    site.start();
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;

    fleet.add("m-1").await;
    let waits = |site: &Site| reason(&site.machine("m-1").unwrap()) == "WaitingForIPAddress";
    site.until("waiting", waits).await;
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    assert!(waits(&site));
    assert_eq!(ready(&site.machine("m-1").unwrap()), Some("False"));
    assert_eq!(site.platform.vms_left().len(), 1, "a VM without an address");

    fleet.delete("m-0").await;
    site.until("healed", |site| {
        is_provisioned(&site.machine("m-1").unwrap())
    })
    .await;
}
