//! What a settled machine costs, and how soon its loss is told.

use std::time::Duration;

use capi_testkit::sweep::PROVIDER;
use pve_sim::Builder;
use tokio::time::Instant;

use crate::site::{Fleet, Site, is_provisioned, ready};

const NAMES: [&str; 3] = ["m-0", "m-1", "m-2"];

/// Three machines that joined and need nothing more.
async fn settled() -> Site {
    let site = Site::new(Builder::new().build());
    let fleet = Fleet::create(&site).await;
    for name in NAMES {
        fleet.add(name).await;
    }
    site.start();
    let all_provisioned = |site: &Site| {
        let machines = NAMES.map(|name| site.machine(name).unwrap());
        machines.iter().all(is_provisioned)
    };
    site.until("provisioned", all_provisioned).await;
    for name in NAMES {
        fleet.join(name).await;
    }
    let no_seed = |site: &Site| site.platform.isos_left().is_empty();
    site.until("rid of the seeds", no_seed).await;
    // What a moment ago was switched and sealed is asked after more closely.
    tokio::time::sleep(Duration::from_secs(60)).await;
    site
}

/// R13: over 10 minutes 0 writes and 0 reads, watches and Leases aside.
#[tokio::test(start_paused = true)]
async fn r13_im_08_settled_machines_cost_kubernetes_nothing() {
    let site = settled().await;
    let (mark, calls) = (site.server.audit().mark(), site.platform.audit().total());
    tokio::time::sleep(Duration::from_secs(600)).await;
    let requests = site.server.audit().since(mark);
    let costly: Vec<_> = requests
        .iter()
        .filter(|record| record.actor == PROVIDER && !record.is_lease() && !record.is_watch())
        .collect();
    assert!(costly.is_empty(), "{costly:#?}");
    let calls = site.platform.audit().total() - calls;
    let audit = site.platform.audit();
    let latest = audit.records().iter().rev();
    let latest = latest.take(usize::try_from(calls).unwrap());
    let named = latest.filter(|record| record.vmid.is_some()).count();
    println!(
        "10 min of 3 settled machines: {calls} hypervisor calls, {named} of them name a machine"
    );
    // The listing confirms; once in a while the thing itself is asked.
    assert!(named <= NAMES.len(), "{named}");
    // Somebody looked.
    assert!((100..=240).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_vm_destroyed_by_hand_is_reported_within_10_s() {
    let site = settled().await;
    let is_ready = |name: &str| {
        let machine = site.machine(name).unwrap();
        ready(&machine) == Some("True")
    };
    assert!(NAMES.into_iter().all(is_ready));
    let vms = site.platform.vms_left();
    let named = |name: &str| {
        let vm = vms.iter().find(|vm| vm.name() == Some(name));
        vm.unwrap().vmid
    };
    assert!(site.platform.destroy_behind_back(named("m-1")));
    let destroyed = Instant::now();
    site.until("reported", |_| !is_ready("m-1")).await;
    let took = destroyed.elapsed();
    println!("a VM destroyed by hand is reported after {took:?}");
    assert!(took <= Duration::from_secs(10), "{took:?}");
    assert!(is_ready("m-0") && is_ready("m-2"));
    // R9: nothing is made in its place.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(site.platform.vms_left().len(), 2);
}
