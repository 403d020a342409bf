//! What a hundred machines cost the API servers, told once for all platforms, and what is shared by the
//! stories.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use capi_testkit::core::Core;
use capi_testkit::workload::Workloads;
use e2e::audit::{self, Request, Tally};
use e2e::failure::Failure;
use e2e::infrastructure::Infrastructure;
use e2e::management::client;
use e2e::provider::Provider;
use e2e::suite;
use e2e::world::{World, condition};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::moments::Moments;
use crate::table::{Figures, Peer, Row};

/// The provider's place among the managers.
const PLACE: u16 = 3;
/// How many times faster than life guests boot and the simulated Cluster API waits.
pub(crate) const SPEED: f64 = 20.0;
/// As the figures of the Go providers were taken.
const MACHINES: usize = 100;
/// Asks for another number of machines.
const MACHINES_VARIABLE: &str = "CAPI_RS_E2E_MACHINES";
/// One of so many machines may cost more than the goal: a wait of more than two seconds is shown in
/// the status, which is a write, and a machine that is busy with other things waits here and there.
const ONE_WAITS_OF: usize = 10;
/// How long a state may take: seconds on an idle machine, minutes on one that builds something.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);
/// How long no request may come until the provider counts as settled: two rounds of a shared listing,
/// in which the last conditions are written.
const QUIET: Duration = Duration::from_secs(12);
/// What has not settled by then never does.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// How long the settled provider is watched.
const STEADY: Duration = Duration::from_secs(60);
/// The control plane's place in 127.0.0.0/8, where addresses are given by users.
const NETWORK: u8 = 43;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What differs between platforms in these stories, beside the platform.
pub(crate) struct Parts {
    /// The Go provider, whose figures stand beside ours.
    pub(crate) peer: Peer,
    /// Makes room for many machines in an object of the example.
    pub(crate) widen: fn(&mut Value),
    /// When VMs ran, where the platform tells it.
    pub(crate) runs: Option<Moments>,
}

/// What all stories share.
pub(crate) struct Stage {
    // Before the server that they speak to.
    _core: JoinSet<()>,
    provider: Provider,
    platform: Box<dyn Infrastructure>,
    world: World,
    parts: Parts,
    machines: usize,
    /// When machines were provisioned.
    built: Moments,
    figures: Figures,
}

/// Plays the stories on the stage that is set here.
pub(crate) fn play(start: fn(&Runtime) -> Result<Stage, Failure>) -> ExitCode {
    suite::play(
        start,
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

impl Stage {
    /// Starts the provider of this platform, and the simulated Cluster API.
    pub(crate) async fn begin(
        world: World,
        workloads: Workloads,
        platform: impl Infrastructure + 'static,
        parts: Parts,
    ) -> Result<Self, Failure> {
        let platform: Box<dyn Infrastructure> = Box::new(platform);
        let program = platform.program()?.seldom_killed();
        println!("the provider is {}", program.file().display());
        let provider = program.install(&world.management, PLACE).await?;
        provider.start().await?;
        world.apply(platform.prerequisites()).await?;
        let kubeconfig = &world.management.kubeconfig;
        let core = Core::builder(client(kubeconfig).await?, workloads).speed(SPEED);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match core.run().await {} });
        let machines = world.api(&platform.names().kind("Machine"));
        let built = Moments::watch(machines, |machine| {
            machine["status"]["initialization"]["provisioned"] == true
        });
        let wish = std::env::var(MACHINES_VARIABLE).ok();
        Ok(Self {
            _core: tasks,
            provider,
            figures: Figures::beside(parts.peer),
            platform,
            world,
            parts,
            machines: wish.map_or(Ok(MACHINES), |wish| wish.parse())?,
            built,
        })
    }

    fn kind(&self, rest: &str) -> String {
        self.platform.names().kind(rest)
    }

    /// All that the provider has asked API servers for since then, in its order.
    fn since(&self, mark: Timestamp) -> Result<Vec<Request>, Failure> {
        let mut all = self.provider.requests()?;
        all.extend(self.platform.requests()?.unwrap_or_default());
        all.retain(|request| request.at >= mark);
        all.sort_by_key(|request| request.at);
        Ok(all)
    }

    fn tally(&self, mark: Timestamp) -> Result<Tally, Failure> {
        Ok(Tally::of(&self.since(mark)?))
    }

    /// Waits until the provider asks for nothing more.
    async fn settled(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last = (Tally::default(), begun);
        while last.1.elapsed() < QUIET {
            if begun.elapsed() > SETTLED_WITHIN {
                return Err(Failure::new("the provider does not settle"));
            }
            let now = self.tally(Timestamp::MIN)?;
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
        let (world, kind) = (&self.world, self.kind("Machine"));
        let what = format!("{count} machines are ready");
        world
            .until(&what, async || {
                let all = world.list(&kind).await.ok()?;
                let ready = all.iter().filter(|one| condition(one, "Ready") == "True");
                Some(all.len() == count && ready.count() == count)
            })
            .await
    }

    /// The example of the quick start with one control-plane machine and no worker yet, and with room
    /// for many.
    fn cluster(&self) -> Result<Vec<Value>, Failure> {
        let mut objects = self.platform.cluster("demo", NETWORK)?;
        for object in &mut objects {
            if object["kind"] == "MachineDeployment" {
                object["spec"]["replicas"] = json!(0);
            }
            (self.parts.widen)(object);
        }
        Ok(objects)
    }
}

async fn provisioned(stage: &mut Stage) -> Result<(), Failure> {
    stage.world.apply(stage.cluster()?).await?;
    stage.machines(1).await?;
    stage.settled().await?;
    let (mark, count) = (Timestamp::now(), stage.machines);
    stage.scale(count).await?;
    stage.machines(count + 1).await?;
    stage.settled().await?;
    let requests = stage.since(mark)?;
    let tally = Tally::of(&requests);
    let lives = lives(&requests, &stage.kind("Machines").to_lowercase());
    let making = stage.making(&lives)?;
    stage.figures.provision(&tally, &making, count);
    let delays = stage.delays();
    stage.figures.delays(&delays);
    stage.figures.print();
    let peer = stage.parts.peer;
    let of_all: usize = lives.values().map(Vec::len).sum();
    assert_eq!(of_all, tally.writes(), "{tally:?}");
    let goal = peer.goal(Row::Making);
    let beyond = making.iter().filter(|count| **count as f64 > goal).count();
    let median = making[making.len() / 2];
    println!(
        "from open gates to provisioned: {median} in the median, more than {goal} of {beyond}"
    );
    assert!(
        median as f64 <= goal && beyond <= count / ONE_WAITS_OF,
        "{making:?} {tally:?}"
    );
    let reads = tally.reads() as f64 / count as f64;
    assert!(reads <= peer.goal(Row::Reads), "{tally:?}");
    assert_eq!(tally.lists.len(), 0, "a machine costs no list: {tally:?}");
    if let Some(median) = delays.get(delays.len() / 2) {
        assert!(*median <= peer.goal(Row::Delay), "{delays:?}");
    }
    Ok(())
}

impl Stage {
    /// How many writes each machine cost from the first one after its gates opened to the one that
    /// told that it is provisioned, fewest first. What was written of its status before is the first
    /// visit, and waiting.
    fn making(&self, lives: &BTreeMap<&str, Vec<&Request>>) -> Result<Vec<usize>, Failure> {
        let built = self.built.seen();
        let status = format!("{}/status", self.kind("Machines").to_lowercase());
        let mut counts = Vec::new();
        for (machine, writes) in lives {
            let Some(end) = built.get(*machine) else {
                // What belongs to no machine must not be hidden.
                return Err(Failure::new(format!("{machine} is no machine: {writes:?}")));
            };
            let made = writes.iter().skip_while(|one| one.resource == status);
            counts.push(made.filter(|one| one.at <= *end).count());
        }
        counts.sort_unstable();
        Ok(counts)
    }

    /// How many milliseconds after its VM ran each machine was provisioned, fewest first.
    fn delays(&self) -> Vec<f64> {
        let Some(runs) = &self.parts.runs else {
            return Vec::new();
        };
        let (runs, built) = (runs.seen(), self.built.seen());
        let both = built.iter().filter_map(|(name, end)| {
            let begin = runs.get(name)?;
            Some(end.duration_since(*begin).as_secs_f64() * 1000.0)
        });
        let mut delays: Vec<f64> = both.collect();
        delays.sort_by(f64::total_cmp);
        delays
    }
}

/// The writes of each machine in their order: those of its object, and of what bears its name or one
/// that begins with it, such as VMs, Secrets and address claims.
fn lives<'a>(requests: &'a [Request], kind: &str) -> BTreeMap<&'a str, Vec<&'a Request>> {
    let reads = ["get", "list", "watch"];
    let is_counted = |request: &&Request| {
        let resource = request.resource.as_str();
        let is_left_out = matches!(resource, "leases" | "events") || resource.ends_with("reviews");
        !is_left_out && !reads.contains(&request.verb.as_str())
    };
    let is_of = |machine: &str, name: &str| {
        let rest = name.strip_prefix(machine);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let writes: Vec<&Request> = requests.iter().filter(is_counted).collect();
    let mut lives: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in &writes {
        if request.resource.starts_with(kind) {
            lives.entry(&request.name).or_default();
        }
    }
    for request in writes {
        let name = request.name.as_str();
        let machine = lives.keys().copied().find(|machine| is_of(machine, name));
        lives
            .entry(machine.unwrap_or(name))
            .or_default()
            .push(request);
    }
    lives
}

async fn steady(stage: &mut Stage) -> Result<(), Failure> {
    let mark = Timestamp::now();
    sleep(STEADY).await;
    let tally = stage.tally(mark)?;
    stage.figures.steady(&tally);
    stage.figures.print();
    assert_eq!(tally.all(), 0, "{tally:?}");
    Ok(())
}

async fn deleted(stage: &mut Stage) -> Result<(), Failure> {
    let mark = Timestamp::now();
    stage.scale(0).await?;
    stage.machines(1).await?;
    stage.settled().await?;
    let tally = stage.tally(mark)?;
    stage.figures.delete(&tally, stage.machines);
    stage.figures.print();
    let per_machine = tally.all() as f64 / stage.machines as f64;
    assert!(
        per_machine <= stage.parts.peer.goal(Row::Deletion),
        "{tally:?}"
    );
    Ok(())
}

/// A VM is destroyed behind the provider's back; the health check has its machine replaced.
async fn replaced(stage: &mut Stage) -> Result<(), Failure> {
    stage.scale(2).await?;
    stage.machines(3).await?;
    let (world, kind) = (&stage.world, stage.kind("Machine"));
    let machines = world.list(&kind).await?;
    let is_worker = |object: &&Value| {
        object["metadata"]["labels"]["cluster.x-k8s.io/deployment-name"] == "demo-workers"
    };
    let victim = machines.iter().find(is_worker).ok_or_else(|| {
        let report = format!("no worker among {machines:?}");
        Failure::new(report)
    })?;
    let vm = stage.platform.vm_of(victim);
    let vm = vm.ok_or_else(|| Failure::new(format!("no VM of {victim:?}")))?;
    stage.platform.destroy(&vm).await?;
    let name = victim["metadata"]["name"].as_str().unwrap_or_default();
    world
        .until("the lost machine is gone", async || {
            Some(world.get(&kind, name).await.is_none())
        })
        .await?;
    stage.machines(3).await?;
    Ok(())
}

/// The cluster goes, and the servers' own logs say what was asked for all day long.
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
    for kind in [
        &stage.kind("Machine"),
        &stage.kind("Cluster"),
        "IPAddressClaim",
    ] {
        let left = runtime.block_on(world.list(kind))?;
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
    stage.platform.check_clean()?;
    let mut accounts = vec![("the provider", stage.provider.requests()?)];
    if let Some(requests) = stage.platform.requests()? {
        accounts.push(("the provider in the infra cluster", requests));
    }
    if let Some(ipam) = &world.ipam {
        accounts.push(("the IPAM provider", ipam.requests()?));
    }
    for (who, requests) in accounts {
        let count = requests.len();
        assert!(count > stage.machines, "only {count} requests of {who}");
        let wrong = audit::wrong(&requests);
        assert!(wrong.is_empty(), "{who}: {wrong:?}");
        println!("{count} requests of {who}: none forbidden, no Secret listed or watched");
    }
    Ok(())
}
