//! How much time the engine adds to what cannot be avoided.
//!
//! ```console
//! cargo bench -p benches --bench floor
//! cargo bench -p benches --bench floor --profile dev
//! ```
//!
//! 100 Proxmox machines are built twice, from the same prepared objects: by the provider as it is
//! run in production, and by a program that knows beforehand which requests are needed and does
//! nothing but send them. The second one's time is the floor.
//!
//! The floor's requests are not written down here: they are recorded from one calm life in a world
//! of its own, and sent again for each machine, one after the other, 64 machines at once. Left out
//! are the requests that serve all machines together (listings, watches), and the floor neither
//! decodes an answer nor decides anything. Both wait for the same IPAM provider, both are followed
//! by the same watch, tasks of the hypervisor end at once, and both ports are in memory.
//!
//! `cargo test --benches` runs it too, with a handful of machines, to see that it works.

#![expect(
    clippy::print_stdout,
    reason = "a bench's figures go to whoever called it"
)]

mod record;
mod replay;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::record::{Call, Record};
use crate::replay::{Identity, Script};
use benches::world::{Failure, PROVIDER, VMID_FIRST, World, name, told};

/// Machines that are built at once, the default of the provider's options.
const CONCURRENCY: usize = 64;
/// The provider may take this many times the floor's time.
const GOAL: f64 = 2.0;

/// What is measured.
#[derive(Clone, Copy)]
struct Size {
    machines: usize,
    /// How often; the middle one counts.
    runs: usize,
}

/// One way to build all machines.
struct Run {
    took: Duration,
    writes: usize,
    calls: u64,
    /// Requests of each sort.
    requests: BTreeMap<String, u64>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // Cargo says so to benches, but not to tests.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let size = if is_bench {
        Size {
            machines: 100,
            runs: 3,
        }
    } else {
        Size {
            machines: 5,
            runs: 1,
        }
    };
    let (calls, recorded) = calm_life().await?;
    let (mut ours, mut alone, mut spread) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.runs {
        // In turn, so that whatever else the computer does falls on all of them.
        ours.push(provider(size).await?);
        alone.push(floor(size, &calls, &recorded, false).await?);
        spread.push(floor(size, &calls, &recorded, true).await?);
    }
    println!(
        "{} Proxmox machines, {CONCURRENCY} at once, until all are provisioned; median of {}",
        size.machines, size.runs
    );
    let ours = show("provider", &mut ours);
    let alone = show("floor, one task", &mut alone);
    let spread = show("floor, a task for each machine", &mut spread);
    println!("  requests of one run where they differ: provider, floor");
    let (of_provider, of_floor) = (&ours.requests, &alone.requests);
    for (sort, count) in of_provider {
        let floor = of_floor.get(sort).copied().unwrap_or_default();
        if *count != floor {
            println!("    {sort:<60}{count:>6}{floor:>6}");
        }
    }
    let (ours, alone, spread) = (ours.took, alone.took, spread.took);
    let ratio = |floor: Duration| ours.as_secs_f64() / floor.as_secs_f64();
    println!(
        "provider : floor = {:.2} (goal: at most {GOAL}); to the floor on all cores {:.2}",
        ratio(alone),
        ratio(spread)
    );
    Ok(())
}

/// Prints the figures of one way; its middle run.
fn show<'a>(what: &str, runs: &'a mut [Run]) -> &'a Run {
    runs.sort_by_key(|run| run.took);
    let middle = &runs[runs.len() / 2];
    let all: Vec<_> = runs
        .iter()
        .map(|run| format!("{:.0}", run.took.as_secs_f64() * 1e3))
        .collect();
    println!(
        "  {what:<31}{:>7.0} ms   (runs: {})   {} Kubernetes writes, {} hypervisor calls",
        middle.took.as_secs_f64() * 1e3,
        all.join(", "),
        middle.writes,
        middle.calls
    );
    middle
}

/// What was asked of both ports, by sort.
fn requests(world: &World) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (method, route, count) in world.platform.audit().routes() {
        all.insert(format!("{method} {route}"), count);
    }
    let audit = world.server.audit();
    for record in audit.select(|record| record.actor == PROVIDER) {
        let sort = format!(
            "{} {} {} {}",
            record.verb, record.resource, record.subresource, record.code
        );
        *all.entry(sort).or_default() += 1;
    }
    all
}

/// The requests of one machine that nothing disturbs, and who it is.
async fn calm_life() -> Result<(Vec<Call>, Identity), Failure> {
    let mut world = World::new(1).await?;
    let mut provisioned = world.provisioned().await?;
    let record = Record::default();
    let client = record.kubernetes(world.server.client(PROVIDER));
    let transport = record.hypervisor(world.platform.clone());
    let provider = tokio::spawn(world.provide(client, Some(transport))?);
    told(&mut provisioned, 1).await?;
    provider.abort();
    let mut recorded = Identity::new(0, &world.uids[0]);
    let vms = world.platform.vms_left();
    let vm = vms.first().ok_or("the recorded machine has no VM")?;
    recorded.vmid = vm.vmid.to_string();
    let mut calls = record.calls();
    calls.retain(|call| call.is_about(&name(0), &recorded.vmid));
    Ok((calls, recorded))
}

async fn provider(size: Size) -> Result<Run, Failure> {
    let mut world = World::new(size.machines).await?;
    let mut provisioned = world.provisioned().await?;
    let provider = world.provide(world.server.client(PROVIDER), None)?;
    let began = Instant::now();
    let provider = tokio::spawn(provider);
    told(&mut provisioned, size.machines).await?;
    let took = began.elapsed();
    provider.abort();
    finish(&world, size, took)
}

async fn floor(
    size: Size,
    calls: &[Call],
    recorded: &Identity,
    spread: bool,
) -> Result<Run, Failure> {
    let mut world = World::new(size.machines).await?;
    let mut provisioned = world.provisioned().await?;
    let addresses = world.addresses().await?;
    let client = world.server.client(PROVIDER);
    let scripts: Vec<_> = (0..)
        .zip(&world.uids)
        .map(|(number, uid)| Script::new(calls, recorded, &Identity::new(number, uid)))
        .collect();
    let platform = world.platform.clone();
    let began = Instant::now();
    let program = tokio::spawn(async move {
        let machines = stream::iter(scripts).map(|script| {
            let life = script.play(client.clone(), platform.clone(), addresses.clone());
            async move {
                if spread {
                    tokio::spawn(life).await?
                } else {
                    life.await
                }
            }
        });
        machines
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<()>>()
            .await
    });
    program.await??;
    told(&mut provisioned, size.machines).await?;
    finish(&world, size, began.elapsed())
}

/// Counts what was done, and sees to it that it was all of it.
fn finish(world: &World, size: Size, took: Duration) -> Result<Run, Failure> {
    let vms = world.platform.vms_left();
    let running = vms.iter().filter(|vm| vm.running && vm.vmid >= VMID_FIRST);
    let running = running.count();
    if running != size.machines || !world.platform.twins().is_empty() {
        return Err(format!("{running} of {} VMs run", size.machines).into());
    }
    Ok(Run {
        took,
        requests: requests(world),
        writes: world.server.audit().writes(PROVIDER).len(),
        calls: world.platform.audit().total(),
    })
}
