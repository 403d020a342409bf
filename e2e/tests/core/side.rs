//! A world in which the day is played: with the real Cluster API, or with its simulator.

use std::time::Duration;

use capi_testkit::core::Core;
use capi_testkit::crds;
use capi_testkit::guest::Pace;
use capi_testkit::workload::Workloads;
use e2e::audit;
use e2e::embedded::Embedded;
use e2e::failure::Failure;
use e2e::infrastructure::consoles;
use e2e::ipam::Ipam;
use e2e::management::Ports;
use e2e::provider::Provider;
use e2e::proxmox::Proxmox;
use e2e::site::Site;
use e2e::workload::Machines;
use e2e::world::World;
use pve_sim::Guests;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::record::Record;
use crate::write::{GROUP, Write, lives, parameter};

/// Ports of the two worlds, away from those of other suites.
const REAL: Ports = Ports(27_240);
const PLAYED: Ports = Ports(27_290);
/// The provider's place among the managers.
const PLACE: u16 = 3;
/// How many times faster than life hypervisor, guests and the simulator are; the real controllers are
/// not.
const SPEED: f64 = 10.0;
/// Cluster API's core and its control plane provider.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("capi-system", "capi-manager", "core"),
    (
        "capi-kubeadm-control-plane-system",
        "capi-kubeadm-control-plane-manager",
        "control plane",
    ),
];
/// How long nothing may be written until a step counts as done: longer than between two looks of the
/// control plane provider at machines that come up.
const QUIET: Duration = Duration::from_secs(4);
/// What has not settled by then never does.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// How long a state may take: the real control planes, of which each machine starts programs of its own,
/// are the slowest.
const LIMIT: Duration = Duration::from_secs(420);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Who plays Cluster API.
enum Player {
    Real,
    Simulator {
        record: Record,
        _core: JoinSet<()>,
        // The larger of the two by far.
        _embedded: Box<Embedded>,
    },
}

/// A Machine and its infrastructure.
pub(crate) struct Found {
    pub(crate) machine: Value,
    pub(crate) infra: Value,
}

impl Found {
    /// Whether it belongs to the control plane.
    pub(crate) fn is_plane(&self) -> bool {
        let labels = &self.machine["metadata"]["labels"];
        labels.get("cluster.x-k8s.io/control-plane").is_some()
    }
}

/// One of the two worlds.
pub(crate) struct Side {
    player: Player,
    _provider: Provider,
    pub(crate) proxmox: Proxmox,
    pub(crate) world: World,
}

impl Side {
    /// etcd, kube-apiserver and the managers of Cluster API; the machines make a real workload cluster.
    pub(crate) async fn real() -> Result<Self, Failure> {
        let world = World::builder("core-real", REAL).limit(LIMIT);
        let world = world.start().await?;
        let mut pace = Pace::default();
        // Real API servers take the time they need, whatever the speed of the rest.
        pace.discovery = pace.discovery.mul_f64(SPEED);
        let machines = Machines::new(world.management.site.clone())?;
        Self::of(world, Player::Real, Guests::new(machines).pace(pace)).await
    }

    /// The embedded API server and the simulator of Cluster API; the workload cluster is played, too.
    pub(crate) async fn played() -> Result<Self, Failure> {
        let embedded = Embedded::start(Site::named("core-played"), PLAYED).await?;
        let mut world = World::around(embedded.management.clone());
        world.apply(crds::cluster_api().to_vec()).await?;
        let ipam = Ipam::install(&world.management).await?;
        ipam.start()?;
        world.ipam = Some(ipam);
        let record = Record::default();
        let client = record.around(embedded.server.client("core"));
        let workloads = Workloads::new();
        let core = Core::builder(client, workloads.clone()).speed(SPEED);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match core.run().await {} });
        let player = Player::Simulator {
            record,
            _core: tasks,
            _embedded: Box::new(embedded),
        };
        Self::of(world, player, Guests::new(workloads)).await
    }

    async fn of(world: World, player: Player, guests: Guests) -> Result<Self, Failure> {
        let proxmox = Proxmox::start(guests, SPEED).await?;
        let provider = proxmox.program()?.install(&world.management, PLACE).await?;
        provider.start().await?;
        Ok(Self {
            player,
            _provider: provider,
            proxmox,
            world,
        })
    }

    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) -> Result<(), Failure> {
        self.world.patch(kind, name, patch).await?;
        Ok(())
    }

    pub(crate) async fn scale(&self, workers: usize) -> Result<(), Failure> {
        let patch = json!({"spec": {"replicas": workers}});
        self.patch("MachineDeployment", "demo-workers", patch).await
    }

    /// Waits for a state; a failure also tells what the VMs show.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl AsyncFn() -> Option<bool>,
    ) -> Result<(), Failure> {
        match self.world.until(what, holds).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Failure::new(format!(
                "{failure}{}",
                consoles(&self.proxmox)
            ))),
        }
    }

    /// Waits until exactly so many machines are there, all with nodes and like this, and until nothing
    /// more is written.
    pub(crate) async fn machines(
        &self,
        control_planes: usize,
        workers: usize,
        holds: impl Fn(&Found) -> bool,
    ) -> Result<(), Failure> {
        let what = format!("{control_planes} control planes and {workers} workers are as wanted");
        self.until(&what, async || {
            let all = self.found().await?;
            let planes = all.iter().filter(|one| one.is_plane()).count();
            let counts = (planes, all.len() - planes);
            let well = |one: &Found| one.machine["status"]["phase"] == "Running" && holds(one);
            Some(counts == (control_planes, workers) && all.iter().all(well))
        })
        .await?;
        self.settled().await
    }

    /// All machines; none while one has no infrastructure.
    pub(crate) async fn found(&self) -> Option<Vec<Found>> {
        let mut infra = self.world.list("ProxmoxMachine").await.ok()?;
        let machines = self.world.list("Machine").await.ok()?;
        let machines = machines.into_iter().map(|machine| {
            let name = &machine["spec"]["infrastructureRef"]["name"];
            let place = infra
                .iter()
                .position(|one| one["metadata"]["name"] == *name)?;
            let infra = infra.swap_remove(place);
            Some(Found { machine, infra })
        });
        machines.collect()
    }

    /// What Cluster API has written to objects of the provider.
    pub(crate) fn writes(&self) -> Result<Vec<Write>, Failure> {
        if let Player::Simulator { record, .. } = &self.player {
            return Ok(record.writes());
        }
        let mut writes = Vec::new();
        for (namespace, account, program) in PROGRAMS {
            let user = audit::account(namespace, account);
            let requests = audit::requests(&self.world.management.site, &user)?;
            let ours = requests.into_iter().filter(|request| {
                let is_write = matches!(&*request.verb, "create" | "update" | "patch" | "delete");
                let is_real = parameter(&request.query, "dryRun").is_none();
                is_write && is_real && request.group == GROUP && request.code < 300
            });
            writes.extend(ours.map(|request| {
                let write = Write {
                    actor: parameter(&request.query, "fieldManager")
                        .unwrap_or(program)
                        .to_owned(),
                    verb: request.verb,
                    resource: request.resource,
                    name: request.name,
                    body: request.body,
                };
                (request.at, write)
            }));
        }
        writes.sort_by_key(|(at, _)| *at);
        Ok(writes.into_iter().map(|(_, write)| write).collect())
    }

    /// Waits until nothing new is written: what was looked at again does not count.
    pub(crate) async fn settled(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last = (lives(&self.writes()?), begun);
        while last.1.elapsed() < QUIET {
            if begun.elapsed() > SETTLED_WITHIN {
                return Err(Failure::new("Cluster API does not settle"));
            }
            sleep(LOOK).await;
            let now = lives(&self.writes()?);
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        Ok(())
    }
}
