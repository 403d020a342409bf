//! What a machine costs: writes and reads of Kubernetes, calls of the hypervisor.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use capi_testkit::apiserver::AuditRecord;
use capi_testkit::sweep::PROVIDER;
use pve_sim::{Builder, Delays};

use crate::site::{Fleet, MACHINES, Site, is_provisioned};

const COUNT: usize = 10;
/// Where VMIDs begin in the simulated datacenter.
const FIRST_VMID: u32 = 100;
/// The template's VMID, above all machines'.
const TEMPLATE: u32 = 9000;
/// Writes from the first one after the gates opened to the one that sets `provisioned`.
const WRITES_MAX: usize = 12;
/// Writes from the deletion to the removal of the finalizer.
const DELETION_WRITES_MAX: usize = 5;
/// Calls that name one machine's VM, over its whole life.
const CALLS_MAX: u64 = 30;
/// Calls of one path that all machines share, in any 5 s.
const POLLS_MAX: usize = 2;

/// The machine that a request was for: its object, its claims, its bootstrap data, its events.
fn machine_of(record: &AuditRecord, names: &[String]) -> Option<String> {
    let of = |name: &&String| {
        let rest = record.name.strip_prefix(name.as_str());
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.iter().find(of).cloned()
}

fn shown(record: &AuditRecord) -> String {
    let AuditRecord {
        verb,
        resource,
        subresource,
        name,
        ..
    } = record;
    format!("{verb} {resource}/{subresource} {name}")
}

/// The provider's requests since `mark` that pass `wanted`, by machine.
fn by_machine(
    site: &Site,
    mark: u64,
    names: &[String],
    wanted: impl Fn(&AuditRecord) -> bool,
) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let records = site.server.audit().since(mark);
    let records = records.iter().filter(|record| record.actor == PROVIDER);
    for record in records.filter(|record| !record.is_lease() && wanted(record)) {
        if let Some(name) = machine_of(record, names) {
            all.entry(name).or_insert_with(Vec::new).push(shown(record));
        }
    }
    all
}

fn most(all: &BTreeMap<String, Vec<String>>) -> &[String] {
    let longest = all.values().max_by_key(|requests| requests.len());
    longest.map(Vec::as_slice).unwrap_or_default()
}

/// What ten machines cost; of lists of requests, the longest of any machine.
#[derive(Debug)]
struct Costs {
    /// Until provisioned.
    writes: Vec<String>,
    /// Until it joined and was rid of its seed.
    writes_joined: usize,
    /// Once it was being deleted.
    deletion: Vec<String>,
    events: usize,
    reads: Vec<String>,
    /// Of each VM, over its whole life.
    calls: Vec<u64>,
    /// The calls of one VM.
    example: Vec<String>,
    /// The most in any 5 s, by path.
    polls: BTreeMap<String, usize>,
}

impl Display for Costs {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{COUNT} machines: at most {} writes to provisioned, {} by the time it joined, {} for \
             the deletion; {} events; {} reads; {} hypervisor calls; polls per 5 s {:?}",
            self.writes.len(),
            self.writes_joined,
            self.deletion.len(),
            self.events,
            self.reads.len(),
            self.calls.iter().max().copied().unwrap_or_default(),
            self.polls,
        )
    }
}

impl Costs {
    fn check(&self) {
        assert!(self.writes.len() <= WRITES_MAX, "{:#?}", self.writes);
        let deletion = &self.deletion;
        assert!(deletion.len() <= DELETION_WRITES_MAX, "{deletion:#?}");
        assert_eq!(self.reads.len(), 1, "{:#?}", self.reads);
        assert_eq!(self.calls.len(), COUNT);
        let is_over = |calls: &u64| *calls > CALLS_MAX;
        assert!(
            !self.calls.iter().any(is_over),
            "{:?}, such as {:#?}",
            self.calls,
            self.example
        );
        let polls = &self.polls;
        assert!(polls.values().all(|most| *most <= POLLS_MAX), "{polls:?}");
    }
}

/// Plays ten lives at once, and counts.
async fn lives(delays: Delays) -> Costs {
    let site = Site::new(Builder::new().delays(delays).build());
    let fleet = Fleet::create(&site).await;
    site.start();
    // The cluster is ready before the machines come.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let names: Vec<String> = (0..COUNT).map(|n| format!("m-{n}")).collect();
    let mark = site.server.audit().mark();
    for name in &names {
        fleet.add(name).await;
    }
    let provisioned = |site: &Site| {
        let mut machines = names.iter().map(|name| site.machine(name).unwrap());
        machines.all(|machine| is_provisioned(&machine))
    };
    site.until("provisioned", provisioned).await;
    let is_write = |record: &AuditRecord| record.is_write() && !record.is_event();
    let writes = by_machine(&site, mark, &names, is_write);
    for name in &names {
        fleet.join(name).await;
    }
    let no_seed = |site: &Site| site.platform.isos_left().is_empty();
    site.until("rid of the seeds", no_seed).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let reads = by_machine(&site, mark, &names, AuditRecord::is_read);
    let joined = by_machine(&site, mark, &names, is_write);
    let events = by_machine(&site, mark, &names, AuditRecord::is_event);

    let mark = site.server.audit().mark();
    for name in &names {
        fleet.delete(name).await;
    }
    let is_empty = |site: &Site| site.server.objects(MACHINES).is_empty();
    site.until("gone", is_empty).await;
    let deletion = by_machine(&site, mark, &names, is_write);
    assert_eq!(site.platform.vms_left(), []);
    assert_eq!(site.address_objects(), Vec::<String>::new());

    let audit = site.platform.audit();
    let of_machines = audit.calls_per_vm().iter();
    let of_machines = of_machines.filter(|(vmid, _)| **vmid < TEMPLATE);
    let polls = audit.shared_polls(Duration::from_secs(5)).into_iter();
    let of_one = audit.records().iter();
    let of_one = of_one.filter(|record| record.vmid == Some(FIRST_VMID));
    Costs {
        writes: most(&writes).to_vec(),
        writes_joined: most(&joined).len(),
        deletion: most(&deletion).to_vec(),
        events: most(&events).len(),
        reads: most(&reads).to_vec(),
        calls: of_machines.map(|(_, count)| *count).collect(),
        example: of_one
            .map(|record| format!("{:?} {} {}", record.at, record.method, record.path))
            .collect(),
        polls: polls
            .filter(|(path, _)| path.starts_with("/cluster"))
            .map(|(path, most)| (path.to_owned(), most))
            .collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn ten_machines_cost_little_where_nothing_takes_time() {
    let costs = lives(Delays::zero()).await;
    println!("no delays, {costs}");
    costs.check();
}

#[tokio::test(start_paused = true)]
async fn ten_machines_cost_little_where_tasks_take_time() {
    let costs = lives(Delays::realistic()).await;
    println!("usual delays, {costs}");
    costs.check();
}
