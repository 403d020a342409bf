//! What a machine costs both API servers, and how soon its VM is reported.

use std::collections::BTreeMap;
use std::time::Duration;

use capi_testkit::apiserver::AuditRecord;
use tokio::time::Instant;

use serde_json::Value;

use crate::site::{Fleet, MACHINES, Site, is_provisioned, machine, on_vlan, ready};

const COUNT: usize = 10;
/// Writes from the first one after the gates opened to the one that sets `provisioned`: claim and
/// intent, VM, proof and intent with the provider id, Secret, status.
const WRITES_MAX: usize = 5;
/// The bootstrap Secret.
const READS_MAX: usize = 1;
/// The fewest writes that any provider can make for a machine: finalizer and provider id in one, VM,
/// bootstrap Secret, status. Ours notes in between that the VM was seen, so that no crash makes a second.
const WRITES_FLOOR: usize = 4;
/// Requests from the deletion to the removal of the finalizer: status, intent, VM, whether its Secret is
/// gone, finalizer. That VM and instance are gone is told by the watches.
const DELETION_MAX: usize = 5;
/// How soon a VM that runs is reported as provisioned.
const SOON: Duration = Duration::from_millis(100);

/// The machine that a request was for: its object, VM, Secrets.
fn machine_of(record: &AuditRecord, names: &[String]) -> Option<String> {
    let of = |name: &&String| {
        let rest = record.name.strip_prefix(name.as_str());
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.iter().find(of).cloned()
}

fn shown(record: &AuditRecord) -> String {
    format!(
        "{} {}/{} {} ({})",
        record.verb, record.resource, record.subresource, record.name, record.code
    )
}

/// Requests by machine; the longest list of any.
pub(crate) fn most(records: &[AuditRecord], names: &[String]) -> Vec<String> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        if let Some(name) = machine_of(record, names) {
            all.entry(name).or_default().push(shown(record));
        }
    }
    let longest = all.into_values().max_by_key(Vec::len);
    longest.unwrap_or_default()
}

pub(crate) fn is_write(record: &AuditRecord) -> bool {
    record.is_write() && !record.is_event()
}

/// What the machine cost that cost most, of those whose gates were open from the beginning. The first
/// visit is told before work begins, and is not part of the making.
pub(crate) fn assert_making(site: &Site, since: (u64, u64), names: &[String], more: usize) {
    let writes = most(&site.requests(since, is_write), names);
    let visits = writes
        .iter()
        .take_while(|line| line.contains("/status"))
        .count();
    let making = &writes[visits..];
    let reads = most(&site.requests(since, AuditRecord::is_read), names);
    let of = |count: usize| f64::from(u32::try_from(count).unwrap());
    let ratio = |own: usize, floor: usize| of(own) / of(floor);
    println!(
        "{visits} for the first visit, then {} writes, {:.2} of the floor, and {} reads, {:.2} of \
         the floor: {making:#?}",
        making.len(),
        ratio(making.len(), WRITES_FLOOR),
        reads.len(),
        ratio(reads.len(), READS_MAX),
    );
    assert!(
        visits <= 1 && making.len() <= WRITES_MAX + more,
        "{writes:#?}"
    );
    assert!(reads.len() <= READS_MAX, "{reads:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_machine_costs_five_writes_and_one_read_and_its_deletion_five_requests() {
    let site = Site::instant().await;
    costs(&site, &machine(), 0).await;
}

/// Each address costs the write of its claim, and the first visit is told after these; the claims go
/// with the machine, by their owner.
#[tokio::test(start_paused = true)]
async fn an_address_costs_one_write_more() {
    let site = Site::instant().await;
    site.start_ipam().await;
    costs(&site, &on_vlan(machine()), 2 + 1).await;
}

/// Plays the lives of machines that cost so many writes more than one that needs nothing else.
async fn costs(site: &Site, infra: &Value, more: usize) {
    let fleet = Fleet::create(site).await;
    site.start();
    // The cluster is ready before the machines come.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let names: Vec<String> = (0..COUNT).map(|n| format!("m-{n}")).collect();
    let since = site.marks();
    for name in &names {
        fleet.add_like(name, infra.clone()).await;
    }
    let provisioned = |site: &Site| {
        let mut machines = names.iter().map(|name| site.machine(name).unwrap());
        machines.all(|machine| is_provisioned(&machine))
    };
    site.until("provisioned", provisioned).await;
    assert_making(site, since, &names, more);

    let since = site.marks();
    for name in &names {
        fleet.join(name).await;
    }
    let used = |site: &Site| {
        let secrets = site.secrets();
        secrets
            .iter()
            .all(|secret| secret["metadata"]["annotations"]["capi-rs.dev/bootstrap"] == "used")
    };
    site.until("used", used).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let joining = most(&site.requests(since, |_| true), &names);
    println!("joining: {joining:#?}");
    let ready = |site: &Site| {
        let mut machines = names.iter().map(|name| site.machine(name).unwrap());
        machines.all(|machine| ready(&machine) == Some("True"))
    };
    assert!(ready(site));

    let since = site.marks();
    for name in &names {
        fleet.delete(name).await;
    }
    let gone = |site: &Site| site.server.objects(MACHINES).is_empty();
    site.until("gone", gone).await;
    let deletion = most(&site.requests(since, |one| !one.is_event()), &names);
    println!("deletion: {deletion:#?}");
    assert!(deletion.len() <= DELETION_MAX, "{deletion:#?}");
    assert!(site.platform.vms_left().is_empty() && site.secrets().is_empty());
}

/// Defect 13: the Go provider polls, and an instant VM costs it 20 s.
#[tokio::test(start_paused = true)]
async fn defect_13_a_vm_that_runs_is_reported_within_100_ms() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    let runs = |site: &Site| {
        let instance = site.instance("m-0");
        instance.is_some_and(|one| {
            one["status"]["phase"] == "Running"
                && one["status"]["interfaces"][0]["ipAddress"].is_string()
        })
    };
    site.until("running", runs).await;
    let since = Instant::now();
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    println!("reported after {:?}", since.elapsed());
    assert!(since.elapsed() <= SOON, "{:?}", since.elapsed());
}
