//! Static addresses on a secondary network: from the claim to the guest that has them, and back.

use std::time::Duration;

use capi_testkit::guest::Image;
use capi_testkit::workload::Workloads;
use kubevirt_sim::{Builder, Delays, Guests};
use rstest::rstest;
use serde_json::{Value, json};

use crate::site::{
    Fleet, MACHINES, Site, VLAN, condition, is_provisioned, machine, objects_of, on_vlan,
};

/// A platform with the network, whose machines boot from the data they were given.
async fn site(image: Image) -> Site {
    let guests = Guests::new(Workloads::new());
    let guests = guests.image("quay.io/capk/ubuntu-container-disk:v1.34.0", image);
    let builder = Builder::new().delays(Delays::realistic());
    Site::with(builder.network(VLAN, None).guests(guests)).await
}

/// What KubeVirt reports of an interface.
fn reported(site: &Site, name: &str) -> Value {
    let instance = site.instance("m-0").unwrap_or_default();
    let all = instance["status"]["interfaces"].as_array().cloned();
    let mut all = all.unwrap_or_default().into_iter();
    all.find(|one| one["name"] == name).unwrap_or_default()
}

fn internal_addresses(site: &Site) -> Vec<String> {
    let machine = site.machine("m-0").unwrap();
    let all = machine["status"]["addresses"].as_array().cloned();
    let all = all.unwrap_or_default().into_iter();
    let inner = all.filter(|one| one["type"] == "InternalIP");
    inner
        .map(|one| one["address"].as_str().unwrap().to_owned())
        .collect()
}

/// IPC-01: the guest itself reads the addresses from its drive, and its agent reports them; what
/// was claimed is given back, once the VM is gone.
#[rstest]
#[case::config_drive(Value::Null)]
#[case::nocloud(json!("NoCloud"))]
#[tokio::test(start_paused = true)]
async fn ipc_01_a_guest_has_the_addresses_of_its_claims(#[case] source: Value) {
    let site = site(Image::default()).await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let mut infra = on_vlan(machine());
    infra["spec"]["bootstrapDataSource"] = source;
    fleet.add_like("m-0", infra).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(site.vm("m-0"), None, "no VM without its addresses");
    site.start_ipam().await;
    site.until("provisioned", |site| {
        site.machine("m-0").is_some_and(|one| is_provisioned(&one))
    })
    .await;
    let inner = internal_addresses(&site);
    assert_eq!(inner[1..], ["10.7.0.10", "fd00:7::10"], "{inner:?}");

    // The agent tells what the guest made of its data.
    site.until("told by the guest", |site| {
        reported(site, "vlan")["infoSource"] == "domain, guest-agent"
    })
    .await;
    let vlan = reported(&site, "vlan");
    let own = vlan["ipAddresses"].as_array().unwrap();
    assert_eq!(
        own[..2],
        [json!("10.7.0.10"), json!("fd00:7::10")],
        "{own:?}"
    );
    let pod = reported(&site, "default");
    assert_eq!(pod["infoSource"], "domain, guest-agent", "by DHCP: {pod}");
    assert_eq!(pod["ipAddress"], inner[0]);

    // The data of a restart are the same, though what was used up is not there any more.
    fleet.join("m-0").await;
    let used = |site: &Site| {
        let secret = &site.secrets()[0];
        secret["metadata"]["annotations"]["capi-rs.dev/bootstrap"] == "used"
    };
    site.until("used", used).await;
    assert!(site.secrets()[0]["data"]["networkdata"].is_string());

    fleet.delete("m-0").await;
    site.until("going", |site| {
        site.vm("m-0")
            .is_none_or(|vm| vm["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    while site.vm("m-0").is_some() {
        assert_eq!(
            site.address_objects().len(),
            4,
            "held as long as the VM is there"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    site.until("gone", |site| {
        site.server.objects(MACHINES).is_empty() && site.address_objects().is_empty()
    })
    .await;
    assert!(site.platform.vms_left().is_empty() && site.platform.strangers_touched().is_empty());
}

/// Ignition does not read network data: that is said before anything is made.
#[tokio::test(start_paused = true)]
async fn addresses_for_ignition_are_refused_before_a_vm_is_made() {
    let site = site(Image::default()).await;
    site.start_ipam().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let secret = json!({"apiVersion": "v1", "kind": "Secret"});
    let secrets = objects_of(&fleet.script, &secret);
    let owner = fleet.add_owner("m-0", json!({})).await;
    let patch = json!({"stringData": {"format": "ignition", "value": "{\"ignition\": {}}"}});
    let patch = kube::api::Patch::Merge(patch);
    secrets
        .patch("m-0-bootstrap", &Default::default(), &patch)
        .await
        .unwrap();
    fleet.add_infra("m-0", &owner, on_vlan(machine())).await;
    let told = |site: &Site| {
        let machine = site.machine("m-0").unwrap();
        let one = condition(&machine, "VMProvisioned")
            .cloned()
            .unwrap_or_default();
        let message = one["message"].as_str().unwrap_or_default();
        message.contains("does not read the addresses of spec.networkInterfaces")
    };
    site.until("told", told).await;
    assert_eq!(site.vm("m-0"), None);
}

/// Two machines of one template: their cards differ, and so do their addresses.
#[tokio::test(start_paused = true)]
async fn machines_of_a_template_share_neither_card_nor_address() {
    let site = site(Image::default()).await;
    site.start_ipam().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    for name in ["m-0", "m-1"] {
        fleet.add_like(name, on_vlan(machine())).await;
    }
    site.until("provisioned", |site| {
        let mut both = ["m-0", "m-1"]
            .map(|name| site.machine(name).unwrap())
            .into_iter();
        both.all(|one| is_provisioned(&one))
    })
    .await;
    let macs = |name: &str| {
        let vm = site.vm(name).unwrap();
        let devices = &vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"];
        let macs = devices.as_array().unwrap().iter();
        macs.map(|one| one["macAddress"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut all = [macs("m-0"), macs("m-1")].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "{all:?}");
    let addresses = site.server.objects("ipaddresses.ipam.cluster.x-k8s.io");
    let mut addresses: Vec<_> = addresses
        .iter()
        .map(|one| one["spec"]["address"].to_string())
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "{addresses:?}");
}
