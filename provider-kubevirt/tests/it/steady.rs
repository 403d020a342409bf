//! What settled machines cost, and how soon their loss is told.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use kube::api::DeleteParams;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use tokio::time::Instant;

use crate::budget::assert_making;
use crate::site::{Fleet, Site, is_provisioned, machine, objects_of, ready};

/// As many as show what one more costs; `KUBEVIRT_MACHINES=500` asks for others.
const MANY: usize = 30;

fn many() -> usize {
    let wish = std::env::var("KUBEVIRT_MACHINES").ok();
    wish.and_then(|wish| wish.parse().ok()).unwrap_or(MANY)
}

/// How soon a VM that runs is reported as provisioned.
const SOON: Duration = Duration::from_millis(100);

/// The moment when each object of a kind was first seen to be so.
type Moments = Arc<Mutex<BTreeMap<String, Instant>>>;

fn moments(client: &Client, kind: &Value, is_so: fn(&Value) -> bool) -> Moments {
    let moments = Moments::default();
    let (all, noted) = (objects_of(client, kind), Arc::clone(&moments));
    tokio::spawn(async move {
        let mut events = pin!(watcher(all, watcher::Config::default()).applied_objects());
        while let Some(Ok(object)) = events.next().await {
            let name = object.metadata.name.clone().unwrap();
            if is_so(&serde_json::to_value(object).unwrap()) {
                noted
                    .lock()
                    .unwrap()
                    .entry(name)
                    .or_insert_with(Instant::now);
            }
        }
    });
    moments
}

async fn settled(count: usize) -> (Site, Fleet, Vec<String>) {
    let site = Site::instant_for(count).await;
    let fleet = Fleet::create(&site).await;
    site.start();
    // The cluster is ready before the machines come.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let instance = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"});
    let runs = moments(&site.infra.client("script"), &instance, |one| {
        one["status"]["phase"] == "Running"
            && one["status"]["interfaces"][0]["ipAddress"].is_string()
    });
    let built = moments(&fleet.script, &machine(), is_provisioned);
    let since = site.marks();
    let names: Vec<String> = (0..count).map(|n| format!("m-{n}")).collect();
    for name in &names {
        fleet.add(name).await;
    }
    let provisioned = |site: &Site| {
        let mut machines = names.iter().map(|name| site.machine(name).unwrap());
        machines.all(|machine| is_provisioned(&machine))
    };
    site.until("provisioned", provisioned).await;
    assert_making(&site, since, &names, 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (runs, built) = (runs.lock().unwrap().clone(), built.lock().unwrap().clone());
    let late = names.iter().map(|name| built[name] - runs[name]).max();
    println!("{count} machines, provisioned at most {late:?} after their VMs ran");
    assert!(late <= Some(SOON), "{late:?}");
    let since = site.marks();
    for name in &names {
        fleet.join(name).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    // The data are taken out of the bootstrap Secrets, which nobody has to read for that.
    let reads = site.requests(since, |record| record.verb == "get");
    assert!(reads.is_empty(), "{reads:#?}");
    (site, fleet, names)
}

/// R13: 0 requests per minute to both servers, watches and Leases aside.
#[tokio::test(start_paused = true)]
async fn r13_settled_machines_cost_nothing() {
    let (site, ..) = settled(many()).await;
    let since = site.marks();
    tokio::time::sleep(Duration::from_secs(180)).await;
    let requests = site.requests(since, |_| true);
    assert!(requests.is_empty(), "{requests:#?}");
}

/// A restart costs one list per kind. The closer looks, where each bootstrap Secret is read once, since
/// Secrets are not watched, are spread over ten minutes; then there is silence again.
#[tokio::test(start_paused = true)]
async fn a_restart_does_not_ask_for_each_machine() {
    let site = Site::instant().await;
    let fleet = Fleet::create(&site).await;
    site.play();
    let provider = site.start_provider();
    let names: Vec<String> = (0..50).map(|n| format!("m-{n}")).collect();
    for name in &names {
        fleet.add(name).await;
    }
    let provisioned = |site: &Site| {
        let mut machines = names.iter().map(|name| site.machine(name).unwrap());
        machines.all(|machine| is_provisioned(&machine))
    };
    site.until("provisioned", provisioned).await;
    for name in &names {
        fleet.join(name).await;
    }
    // By now no create can take effect any more, so nothing has to be looked at for that.
    tokio::time::sleep(Duration::from_secs(120)).await;
    provider.abort();
    let since = site.marks();
    let _again = site.start_provider();
    let asked = |since, seconds| {
        let site = site.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            site.requests(since, |record| record.verb == "get" || record.is_write())
        }
    };
    let at_once = asked(since, 1).await;
    assert!(at_once.is_empty(), "{at_once:#?}");
    let in_a_minute = asked(since, 59).await;
    println!(
        "{} requests in the first minute with {} machines",
        in_a_minute.len(),
        names.len()
    );
    // A tenth of all, and what chance adds to it.
    assert!(in_a_minute.len() <= names.len() / 5, "{in_a_minute:#?}");
    let later = asked(since, 600).await;
    let mut secrets: Vec<_> = later.iter().map(|one| one.name.clone()).collect();
    secrets.sort();
    secrets.dedup();
    assert!(
        later
            .iter()
            .all(|one| one.verb == "get" && one.resource == "secrets")
            && later.len() == names.len()
            && secrets.len() == names.len(),
        "{later:#?}"
    );
    let silence = asked(site.marks(), 120).await;
    assert!(silence.is_empty(), "{silence:#?}");
}

/// R13: a bootstrap Secret that somebody has removed is not emptied again and again.
#[tokio::test(start_paused = true)]
async fn r13_a_bootstrap_secret_that_was_removed_costs_nothing() {
    let site = Site::instant().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    site.until("provisioned", |site| {
        site.machine("m-0").is_some_and(|one| is_provisioned(&one))
    })
    .await;
    let secret = site.secrets().remove(0);
    let secrets = objects_of(
        &site.infra.client("hand"),
        &json!({"apiVersion": "v1", "kind": "Secret"}),
    );
    let name = secret["metadata"]["name"].as_str().unwrap();
    secrets
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    fleet.join("m-0").await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let since = site.marks();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let requests = site.requests(since, |_| true);
    assert!(requests.is_empty(), "{requests:#?}");
    assert!(site.secrets().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_vm_deleted_by_hand_is_reported_at_once_and_not_made_again() {
    let (site, ..) = settled(3).await;
    assert!(
        site.platform
            .hand()
            .delete_vm("default", "m-1")
            .await
            .unwrap()
    );
    let deleted = Instant::now();
    site.until("reported", |site| {
        ready(&site.machine("m-1").unwrap()) == Some("False")
    })
    .await;
    println!("reported after {:?}", deleted.elapsed());
    assert!(
        deleted.elapsed() < Duration::from_secs(1),
        "{:?}",
        deleted.elapsed()
    );
    // R9: nothing is made in its place.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(site.vm("m-1").is_none());
    assert_eq!(ready(&site.machine("m-0").unwrap()), Some("True"));
}
