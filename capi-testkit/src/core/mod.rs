//! Cluster API core, its kubeadm bootstrap provider and its kubeadm control plane, simulated.
//!
//! [`Core`] is a client of a Kubernetes API server like the real controllers: it adopts infra objects,
//! copies what they report, makes and deletes machines, hands out bootstrap data, watches nodes, and
//! takes clusters down in order. Kinds of infrastructure providers are resolved by the name of their
//! definition and its contract label only, so any provider can be played against it.
//!
//! # Flow
//!
//! One watch per kind fills a store; each change wakes the objects that it touches; at most one pass
//! runs per object. Writes are those of the real controllers: merge patches without lock for spec and
//! metadata, server-side apply for clones, `/status` for status, a field manager per controller.
//! Nodes, cordons and drains happen in [`Workloads`].
//!
//! # Assumptions
//!
//! The definitions of Cluster API are installed. There are no admission webhooks: what those would
//! default is assumed where it is read.
//!
//! # Time
//!
//! All delays are on the tokio clock, divided by [`CoreBuilder::speed`]; so are the timeouts that
//! users set (drain, node start-up), since the simulated world is faster by the same factor.

mod bootstrap;
mod clone;
mod cluster;
pub(crate) mod condition;
mod control_plane;
mod credentials;
mod deletion;
mod deployment;
pub(crate) mod driver;
pub(crate) mod gate;
mod health_check;
pub(crate) mod hub;
mod machine;
mod machine_set;
mod nodes;
pub(crate) mod object;
mod queue;
mod reference;
mod snapshot;
pub(crate) mod store;
pub(crate) mod word;
mod world;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;

use crate::workload::Workloads;

use self::world::World;

pub use self::snapshot::{Branch, Line};

/// When the bootstrap provider hands out its data (S-10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootstrapData {
    /// As soon as the cluster's infrastructure allows it.
    #[default]
    Prompt,
    /// This much later, counted from the config's creation.
    After(Duration),
    /// Not at all, until another mode is set.
    Never,
}

/// What the deletion of a Machine waits for on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Pods that no drain evicts, as behind a disruption budget.
    pub pods: usize,
    /// Volumes that stay attached.
    pub volumes: usize,
}

/// Settings of a [`Core`].
#[derive(Clone)]
pub struct CoreBuilder {
    client: Client,
    workloads: Workloads,
    speed: f64,
    epoch: Option<Timestamp>,
    bootstrap: BootstrapData,
}

impl CoreBuilder {
    /// How many times faster than the real controllers all delays and timeouts pass. Default 1;
    /// values that are not above 0 count as 1.
    #[must_use]
    pub fn speed(mut self, factor: f64) -> Self {
        self.speed = if factor > 0.0 { factor } else { 1.0 };
        self
    }

    /// Wall-clock time at the start; the tokio clock moves it on. Default: now. It should be that of
    /// the API server, since timeouts are counted from creation timestamps.
    #[must_use]
    pub fn epoch(mut self, epoch: Timestamp) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// When bootstrap data appears. Default: promptly.
    #[must_use]
    pub fn bootstrap(mut self, mode: BootstrapData) -> Self {
        self.bootstrap = mode;
        self
    }

    /// The simulator, not yet running.
    #[must_use]
    pub fn build(self) -> Core {
        let epoch = self.epoch.unwrap_or_else(Timestamp::now);
        let hub = hub::Hub::new(self.client, self.speed, epoch);
        Core {
            world: Arc::new(World::new(hub, self.workloads, self.bootstrap)),
        }
    }

    /// Builds it and runs it until the future is dropped.
    pub async fn run(self) -> Infallible {
        self.build().run().await
    }
}

impl std::fmt::Debug for CoreBuilder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("CoreBuilder")
            .field("speed", &self.speed)
            .field("epoch", &self.epoch)
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

/// The simulated controllers.
///
/// ```no_run
/// # async fn example(client: kube::Client) {
/// use capi_testkit::{core::Core, workload::Workloads};
///
/// let core = Core::builder(client, Workloads::new()).speed(10.0).build();
/// let handle = core.handle();
/// tokio::select! {
///     _ = core.run() => {}
///     () = tokio::time::sleep(std::time::Duration::from_secs(60)) => {}
/// }
/// for branch in handle.snapshot() {
///     println!("{branch}");
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Core {
    world: Arc<World>,
}

impl Core {
    /// Settings first. `client` needs all rights; `workloads` is where the guests' nodes appear.
    pub fn builder(client: Client, workloads: Workloads) -> CoreBuilder {
        CoreBuilder {
            client,
            workloads,
            speed: 1.0,
            epoch: None,
            bootstrap: BootstrapData::default(),
        }
    }

    /// A handle that observes and steers the simulator while it runs.
    #[must_use]
    pub fn handle(&self) -> CoreHandle {
        CoreHandle {
            world: Arc::clone(&self.world),
        }
    }

    /// Runs until the future is dropped; everything stops then, since no task is detached.
    ///
    /// Failures are logged and tried again; there is none that ends the run.
    pub async fn run(self) -> Infallible {
        driver::drive(self.world.as_ref(), self.world.node_changes()).await
    }
}

/// Observes and steers a running [`Core`].
#[derive(Clone, Debug)]
pub struct CoreHandle {
    world: Arc<World>,
}

impl CoreHandle {
    /// All clusters as `clusterctl describe` would show them, from what the simulator knows: no
    /// request is made.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Branch> {
        self.world.hub.read(snapshot::tree)
    }

    /// Sets when bootstrap data appears from now on.
    pub fn set_bootstrap(&self, mode: BootstrapData) {
        self.world.set_bootstrap(mode);
    }

    /// Says that the control plane of a Cluster is initialised, whatever its machines do (S-02): for
    /// worlds without guests.
    pub fn initialize_control_plane(&self, namespace: &str, cluster: &str) {
        self.world.command(object::Name::new(namespace, cluster));
    }

    /// Sets what is on a node that a deletion waits for: the workload clusters know no pods and no
    /// volumes.
    pub fn set_node_load(&self, node: &str, load: NodeLoad) {
        self.world.set_load(node, load);
    }
}
