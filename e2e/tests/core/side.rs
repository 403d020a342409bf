//! A world in which the day is played: with the real Cluster API, or with its simulator.

use std::time::Duration;

use capi_testkit::core::Core;
use capi_testkit::crds;
use capi_testkit::workload::Workloads;
use e2e::audit;
use e2e::embedded::Embedded;
use e2e::failure::Failure;
use e2e::ipam::Ipam;
use e2e::management::Ports;
use e2e::provider::Provider;
use e2e::proxmox::Proxmox;
use e2e::site::Site;
use e2e::world::World;
use pve_sim::Guests;
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

/// One of the two worlds.
pub(crate) struct Side {
    player: Player,
    _provider: Provider,
    _proxmox: Proxmox,
    pub(crate) world: World,
}

impl Side {
    /// etcd, kube-apiserver and the managers of Cluster API.
    pub(crate) async fn real() -> Result<Self, Failure> {
        let world = World::builder("core-real", REAL).start().await?;
        Self::of(world, Player::Real).await
    }

    /// The embedded API server and the simulator of Cluster API.
    pub(crate) async fn played() -> Result<Self, Failure> {
        let embedded = Embedded::start(Site::named("core-played"), PLAYED).await?;
        let mut world = World::around(embedded.management.clone());
        world.apply(crds::cluster_api().to_vec()).await?;
        let ipam = Ipam::install(&world.management).await?;
        ipam.start()?;
        world.ipam = Some(ipam);
        let record = Record::default();
        let client = record.around(embedded.server.client("core"));
        let core = Core::builder(client, Workloads::new()).speed(SPEED);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match core.run().await {} });
        let player = Player::Simulator {
            record,
            _core: tasks,
            _embedded: Box::new(embedded),
        };
        Self::of(world, player).await
    }

    async fn of(world: World, player: Player) -> Result<Self, Failure> {
        // Nodes that nobody looks for: without a workload API the real controllers see none either.
        let proxmox = Proxmox::start(Guests::new(Workloads::new()), SPEED).await?;
        let provider = proxmox.program()?.install(&world.management, PLACE).await?;
        provider.start().await?;
        Ok(Self {
            player,
            _provider: provider,
            _proxmox: proxmox,
            world,
        })
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
        writes.sort_by(|one, other| one.0.cmp(&other.0));
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
