//! What a hundred machines cost the API server, counted from the audit log of a real one.
//!
//! Real: etcd, kube-apiserver, garbage collection, and the Proxmox provider's program with the
//! webhooks and rights of its manifests. Played: Cluster API by the testkit's simulator, over HTTPS
//! like the real controllers; Proxmox VE, whose tasks end at once; its guests; and the IPAM provider, a
//! process with rights of its own. That is how the Go provider's figures were taken, to which the
//! table of this suite compares.
//!
//! The figures are the provider's own and don't depend on how it was compiled; that the binary of a
//! release lives a day under the rights of its manifests is seen with `CAPI_RS_E2E_PROGRAMS`:
//!
//! ```console
//! cargo build --release -p provider-proxmox --bins
//! CAPI_RS_E2E_PROGRAMS=$PWD/target/release cargo test -p e2e --test requests -- --include-ignored
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use capi_testkit::core::Core;
use capi_testkit::workload::Workloads;
use e2e::audit::{self, Request, Tally};
use e2e::failure::Failure;
use e2e::management::{Ports, client};
use e2e::provider::Provider;
use e2e::proxmox::Proxmox;
use e2e::suite;
use e2e::world::{World, condition};
use pve_sim::{Delays, Guests};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::table::{Figures, Row};

/// Ports of this suite, away from those of the others.
const PORTS: Ports = Ports(27_140);
/// The provider's place among the managers.
const PLACE: u16 = 3;
/// How many times faster than life guests boot and the simulated Cluster API waits.
const SPEED: f64 = 20.0;
/// As the figures of the Go provider were taken.
const MACHINES: usize = 100;
/// How many of them may cost more than the goal: a wait of more than two seconds is shown in the
/// status, which is a write, and a machine that is busy with other things waits here and there.
const WAITED_MAX: usize = MACHINES / 10;
/// How long a state may take: seconds on an idle machine, minutes on one that builds something.
const LIMIT: Duration = Duration::from_secs(600);
/// How long no request may come until the provider counts as settled: two rounds of its shared
/// listing, in which the last conditions are written.
const QUIET: Duration = Duration::from_secs(12);
/// What has not settled by then never does.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// How long the settled provider is watched.
const STEADY: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What all stories share.
struct Stage {
    // Before the server that they speak to.
    _core: JoinSet<()>,
    provider: Provider,
    proxmox: Proxmox,
    world: World,
    figures: Figures,
}

fn main() -> ExitCode {
    suite::play(
        |runtime| runtime.block_on(start()),
        &[
            ("a_hundred_machines_are_provisioned", |runtime, stage| {
                runtime.block_on(provisioned(stage))
            }),
            ("a_minute_in_steady_state", |runtime, stage| {
                runtime.block_on(steady(stage))
            }),
            ("they_are_deleted_again", |runtime, stage| {
                runtime.block_on(deleted(stage))
            }),
            ("a_lost_machine_is_replaced", |runtime, stage| {
                runtime.block_on(replaced(stage))
            }),
            (
                "rb_03_a_whole_day_under_the_rights_of_the_manifests",
                rights,
            ),
        ],
    )
}

async fn start() -> Result<Stage, Failure> {
    let world = World::builder("requests", PORTS)
        .without_managers()
        .limit(LIMIT)
        .start()
        .await?;
    let workloads = Workloads::new();
    let guests = Guests::new(workloads.clone());
    let platform = Proxmox::builder().delays(Delays::zero());
    let proxmox = Proxmox::serve(platform.speed(SPEED).guests(guests)).await?;
    let program = proxmox.program()?.seldom_killed();
    println!("the provider is {}", program.file().display());
    let provider = program.install(&world.management, PLACE).await?;
    provider.start().await?;
    let core = Core::builder(client(&world.management.kubeconfig).await?, workloads).speed(SPEED);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { match core.run().await {} });
    Ok(Stage {
        _core: tasks,
        provider,
        proxmox,
        world,
        figures: Figures::default(),
    })
}

impl Stage {
    /// How many requests the provider has made.
    fn mark(&self) -> Result<usize, Failure> {
        Ok(self.provider.requests()?.len())
    }

    /// What it has asked for since.
    fn since(&self, mark: usize) -> Result<Tally, Failure> {
        Ok(Tally::of(&self.provider.requests()?[mark..]))
    }

    /// Waits until the provider asks for nothing more.
    async fn settled(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last = (Tally::default(), begun);
        while last.1.elapsed() < QUIET {
            if begun.elapsed() > SETTLED_WITHIN {
                return Err(Failure::new("the provider does not settle"));
            }
            let now = self.since(0)?;
            if now != last.0 {
                last = (now, Instant::now());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn scale(&self, workers: usize) -> Result<(), Failure> {
        let patch = json!({"spec": {"replicas": workers}});
        self.world
            .patch("MachineDeployment", "demo-workers", patch)
            .await?;
        Ok(())
    }

    /// Waits until so many machines are there, and ready.
    async fn machines(&self, count: usize) -> Result<Duration, Failure> {
        let world = &self.world;
        let what = format!("{count} machines are ready");
        world
            .until(&what, async || {
                let all = world.list("ProxmoxMachine").await.ok()?;
                let ready = all.iter().filter(|one| condition(one, "Ready") == "True");
                Some(all.len() == count && ready.count() == count)
            })
            .await
    }
}

/// The example of the quick start with one control-plane machine and no worker yet, and with
/// addresses for a hundred.
fn cluster() -> Result<Vec<Value>, Failure> {
    let text = include_str!("../../../examples/quickstart/cluster.yaml");
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
    for object in &mut objects {
        let spec = &mut object["spec"];
        if spec["ipv4Config"].is_object() {
            spec["ipv4Config"]["addresses"] = json!(["10.20.0.10-10.20.1.99"]);
            spec["ipv4Config"]["prefix"] = json!(16);
        }
        if object["kind"] == "MachineDeployment" {
            object["spec"]["replicas"] = json!(0);
        } else if object["metadata"]["name"] == "demo-workers"
            && object["kind"] == "ProxmoxMachineTemplate"
        {
            // The three nodes hold a hundred of them.
            object["spec"]["template"]["spec"]["memoryMiB"] = json!(512);
        }
    }
    Ok(objects)
}

async fn provisioned(stage: &mut Stage) -> Result<(), Failure> {
    stage.world.apply(cluster()?).await?;
    stage.machines(1).await?;
    stage.settled().await?;
    let mark = stage.mark()?;
    stage.scale(MACHINES).await?;
    stage.machines(MACHINES + 1).await?;
    stage.settled().await?;
    let tally = stage.since(mark)?;
    stage.figures.provision(&tally, MACHINES);
    stage.figures.print();
    let requests = stage.provider.requests()?;
    let writes = writes_per_machine(&requests[mark..]);
    let goal = Row::Writes.goal();
    let beyond = writes.iter().filter(|count| **count as f64 > goal).count();
    let median = writes[writes.len() / 2];
    println!("writes of a machine: {median} in the median, more than {goal} of {beyond} machines");
    assert_eq!(writes.iter().sum::<usize>(), tally.writes(), "{tally:?}");
    assert!(
        median as f64 <= goal && beyond <= WAITED_MAX,
        "{writes:?} {tally:?}"
    );
    let per_machine = |count: usize| count as f64 / MACHINES as f64;
    assert!(per_machine(tally.reads()) <= Row::Reads.goal(), "{tally:?}");
    assert_eq!(tally.lists.len(), 0, "a machine costs no list: {tally:?}");
    Ok(())
}

/// How many writes each machine cost, fewest first: those of its object, and those of its address
/// claims, whose names begin with its own. What belongs to no machine counts as one of its own.
fn writes_per_machine(requests: &[Request]) -> Vec<usize> {
    let reads = ["get", "list", "watch"];
    let is_counted = |request: &&Request| {
        let resource = request.resource.as_str();
        let is_left_out = matches!(resource, "leases" | "events") || resource.ends_with("reviews");
        !is_left_out && !reads.contains(&request.verb.as_str())
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let (of_machines, of_others): (Vec<_>, Vec<_>) = requests
        .iter()
        .filter(is_counted)
        .partition(|request| request.resource.starts_with("proxmoxmachines"));
    for request in of_machines {
        *counts.entry(&request.name).or_default() += 1;
    }
    for request in of_others {
        let name = request.name.as_str();
        let is_of = |machine: &&&str| {
            let rest = name.strip_prefix(**machine);
            rest.is_some_and(|rest| rest.starts_with('-'))
        };
        let machine = counts.keys().find(is_of).copied().unwrap_or(name);
        *counts.entry(machine).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

async fn steady(stage: &mut Stage) -> Result<(), Failure> {
    let mark = stage.mark()?;
    sleep(STEADY).await;
    let tally = stage.since(mark)?;
    stage.figures.steady(&tally);
    stage.figures.print();
    assert_eq!(tally.all(), 0, "{tally:?}");
    Ok(())
}

async fn deleted(stage: &mut Stage) -> Result<(), Failure> {
    let mark = stage.mark()?;
    stage.scale(0).await?;
    stage.machines(1).await?;
    stage.settled().await?;
    let tally = stage.since(mark)?;
    stage.figures.delete(&tally, MACHINES);
    stage.figures.print();
    let per_machine = tally.all() as f64 / MACHINES as f64;
    assert!(per_machine <= Row::Deletion.goal(), "{tally:?}");
    Ok(())
}

/// A VM is destroyed behind the provider's back; the health check has its machine replaced.
async fn replaced(stage: &mut Stage) -> Result<(), Failure> {
    stage.scale(2).await?;
    stage.machines(3).await?;
    let world = &stage.world;
    let machines = world.list("ProxmoxMachine").await?;
    let is_worker = |object: &&Value| {
        object["metadata"]["labels"]["cluster.x-k8s.io/deployment-name"] == "demo-workers"
    };
    let victim = machines.iter().find(is_worker).ok_or_else(|| {
        let report = format!("no worker among {machines:?}");
        Failure::new(report)
    })?;
    let vmid = victim["spec"]["virtualMachineID"]
        .as_u64()
        .unwrap_or_default();
    let is_destroyed = stage
        .proxmox
        .platform
        .destroy_behind_back(u32::try_from(vmid)?);
    assert!(is_destroyed, "VM {vmid} of {victim:?}");
    let name = victim["metadata"]["name"].as_str().unwrap_or_default();
    world
        .until("the lost machine is gone", async || {
            Some(world.get("ProxmoxMachine", name).await.is_none())
        })
        .await?;
    stage.machines(3).await?;
    Ok(())
}

/// The cluster goes, and the server's own log says what was asked for all day long.
fn rights(runtime: &Runtime, stage: &mut Stage) -> Result<(), Failure> {
    let world = &stage.world;
    runtime.block_on(async {
        world.delete("Cluster", "demo").await?;
        world
            .until("the cluster is gone", async || {
                Some(world.get("Cluster", "demo").await.is_none())
            })
            .await
    })?;
    for kind in ["ProxmoxMachine", "ProxmoxCluster", "IPAddressClaim"] {
        let left = runtime.block_on(world.list(kind))?;
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
    stage.proxmox.check_clean()?;
    let requests = stage.provider.requests()?;
    assert!(
        requests.len() > MACHINES,
        "only {} requests",
        requests.len()
    );
    let wrong = audit::wrong(&requests);
    assert!(wrong.is_empty(), "{wrong:?}");
    let ipam = world
        .ipam
        .as_ref()
        .map_or(Ok(Vec::new()), e2e::ipam::Ipam::requests)?;
    assert!(ipam.len() > MACHINES, "only {} requests", ipam.len());
    let wrong = audit::wrong(&ipam);
    assert!(wrong.is_empty(), "{wrong:?}");
    println!(
        "{} requests of the provider and {} of the IPAM provider: none forbidden, no Secret listed \
         or watched",
        requests.len(),
        ipam.len()
    );
    Ok(())
}
