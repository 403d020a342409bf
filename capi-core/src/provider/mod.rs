//! A provider: a connector, an InfraCluster and an InfraMachine, run together.

mod children;
mod cluster;
mod extras;
mod keeper;
mod machine;
mod node;
mod run;
mod store;
mod watch;
mod world;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use capi_contract::{ChildKind, Connect, External, Hook, InfraCluster, InfraMachine};
use kube::Client;
use parking_lot::Mutex;

use self::children::Nursery;
use self::cluster::Clusters;
use self::keeper::Keeper;
use self::machine::Machines;
use self::node::{Nodes, Wishes};
use self::run::Engine;
use self::world::World;
use crate::engine::{Driver, Sessions};
use crate::events;
use crate::options::Options;

/// A provider that is being put together, then [run](Provider::run).
///
/// The type parameters are the connector and, once named, the cluster and the machine; `run` is there
/// when both are.
#[derive(Clone)]
#[must_use]
pub struct Provider<C, IC = (), IM = ()> {
    connector: C,
    clusters: IC,
    machines: IM,
    hooks: Vec<Arc<dyn Hook>>,
    options: Options,
    status: Status,
}

/// Whether a provider is ready. Cloning is cheap and tells of the same provider.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<AtomicBool>);

impl Status {
    /// Whether the first lists of all kinds that gates look at have come.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }
}

/// Why a provider stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A setting cannot be used.
    #[error("option {field}: {why}")]
    Option {
        /// The field of [`Options`].
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl<C, IC, IM> fmt::Debug for Provider<C, IC, IM> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<C: Connect> Provider<C> {
    /// Begins with what makes sessions.
    pub fn new(connector: C) -> Self {
        Self {
            connector,
            clusters: (),
            machines: (),
            hooks: Vec::new(),
            options: Options::default(),
            status: Status::default(),
        }
    }
}

impl<C: Connect, IC, IM> Provider<C, IC, IM> {
    /// Names what builds infra clusters.
    pub fn cluster<T>(self, clusters: T) -> Provider<C, T, IM>
    where
        T: InfraCluster<Session = C::Session>,
    {
        Provider {
            connector: self.connector,
            clusters,
            machines: self.machines,
            hooks: self.hooks,
            options: self.options,
            status: self.status,
        }
    }

    /// Names what builds machines.
    pub fn machine<T>(self, machines: T) -> Provider<C, IC, T>
    where
        T: InfraMachine<Session = C::Session>,
    {
        Provider {
            connector: self.connector,
            clusters: self.clusters,
            machines,
            hooks: self.hooks,
            options: self.options,
            status: self.status,
        }
    }

    /// Adds a hook; hooks are asked in the order in which they were added.
    pub fn hook(mut self, hook: impl Hook + 'static) -> Self {
        self.hooks.push(Arc::new(hook));
        self
    }

    /// Whether it is ready, once it [runs](Provider::run); for [`serve::health`](crate::serve::health).
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Tells whether it is ready through this, beside an earlier run that did.
    pub(crate) fn told_by(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// Replaces the settings.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }
}

impl<C, IC, IM> Provider<C, IC, IM>
where
    C: Connect<Session = <IC as External>::Session>,
    IC: InfraCluster,
    IM: InfraMachine<Session = <IC as External>::Session, Cluster = <IC as InfraCluster>::Kind>,
{
    /// Works until `shutdown` is ready, then lets the passes that are under way come to their end.
    ///
    /// Use [`client`](crate::client()) to make the client. The future can be dropped at any moment:
    /// nothing of it goes on, and a new run takes up the work from what is written down.
    ///
    /// # Errors
    ///
    /// [`RunError::Option`] at once, for settings that cannot be used. Trouble with Kubernetes or the
    /// backend is no error: it is retried and reported in conditions, logs and metrics.
    pub async fn run(
        self,
        client: Client,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), RunError> {
        if self.options.concurrency == 0 {
            return Err(RunError::Option {
                field: "concurrency",
                why: "at least one object must be worked on at once",
            });
        }
        // A run before this one may have been ready.
        self.status.set_ready(false);
        let (engine, writer) = self.assemble(client);
        tokio::select! {
            () = engine.work(shutdown) => Ok(()),
            // Neither of these ends.
            () = engine.watch() => Ok(()),
            () = writer.run() => Ok(()),
        }
    }

    fn assemble(self, client: Client) -> (Engine<C, IC, IM>, events::Writer) {
        let options = self.options;
        let kinds = child_kinds(&self.clusters, &self.machines);
        let world = Arc::new(World::new(&options.namespaces, &kinds));
        let sessions = Arc::new(Sessions::new(
            self.connector,
            client.clone(),
            options.clock.clone(),
            options.call_timeout,
        ));
        let (recorder, writer) = events::recorder(
            client.clone(),
            options.clock.clone(),
            options.telemetry.clone(),
            options.manager.clone(),
        );
        let nursery = || Nursery {
            world: Arc::clone(&world),
            client: client.clone(),
            manager: options.manager.clone(),
            watch_filter: options.watch_filter.clone(),
        };
        let manager = options.manager.clone();
        let keeper = Keeper::new(client.clone(), manager, IC::SECRET_FINALIZER);
        let clusters = Clusters {
            external: self.clusters,
            nursery: nursery(),
            recorder: recorder.clone(),
            chosen: Mutex::new(HashMap::new()),
            keeper,
        };
        let wishes = Arc::new(Wishes::new());
        let machines = Machines {
            external: self.machines,
            nursery: nursery(),
            recorder: recorder.clone(),
            wishes: Arc::clone(&wishes),
        };
        let nodes = Nodes::new(
            wishes,
            Arc::clone(&world),
            client.clone(),
            recorder,
            options.clone(),
        );
        let clusters = Driver::new(
            Arc::new(clusters),
            client.clone(),
            Arc::clone(&sessions),
            self.hooks.clone(),
            options.clone(),
        );
        let machines = Driver::new(
            Arc::new(machines),
            client.clone(),
            Arc::clone(&sessions),
            self.hooks,
            options.clone(),
        );
        let engine = Engine {
            clusters: Arc::new(clusters),
            machines: Arc::new(machines),
            sessions,
            nodes,
            world,
            client,
            options,
            status: self.status,
        };
        (engine, writer)
    }
}

/// The kinds of children of both, each once.
fn child_kinds(clusters: &impl InfraCluster, machines: &impl InfraMachine) -> Vec<ChildKind> {
    let mut all = clusters.child_kinds().to_vec();
    for kind in machines.child_kinds() {
        if !all.contains(kind) {
            all.push(kind.clone());
        }
    }
    all
}
