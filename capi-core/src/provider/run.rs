//! Runs a provider: its watches, its passes, its events, all in one future.
//!
//! Nothing is spawned, so dropping the future stops everything at once, between two polls; that is
//! what a crash looks like to the sweeps. Passes wait for the network nearly all the time, and one
//! thread serves many thousand machines.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::view::{AddressClaimView, AddressView, ClusterView, MachineView};
use capi_contract::view::{CLUSTER_NAME_LABEL, WATCH_FILTER_LABEL};
use capi_contract::{ChildKind, Connect, External, InfraCluster, InfraMachine, Wake, Wakes};
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DynamicObject, NamespaceResourceScope};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until};

use super::Status;
use super::children::resource_of;
use super::cluster::Clusters;
use super::machine::Machines;
use super::node::Nodes;
use super::store::{Change, Store};
use super::watch::{Lenient, On, Watch, decoded, filter_selector, follow};
use super::world::{Key, Role, Topic, World};
use crate::engine::{Driver, Next, Sessions};
use crate::options::Options;

/// How long passes that are under way may take to come to their end after a shutdown; less than the
/// 30 s that Kubernetes gives a pod.
const STOP_WITHIN: Duration = Duration::from_secs(25);

/// How often the metric of the queue is brought up to date while nothing happens.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How often a process that may not act asks whether it may now.
const LEADERSHIP_LOOK: Duration = Duration::from_secs(1);

/// A provider with everything that it needs.
pub(crate) struct Engine<C: Connect, IC: InfraCluster, IM: InfraMachine> {
    pub(crate) world: Arc<World<<IC as InfraCluster>::Kind, <IM as InfraMachine>::Kind>>,
    pub(crate) clusters: Arc<Driver<Clusters<IC, <IM as InfraMachine>::Kind>, C>>,
    pub(crate) machines: Arc<Driver<Machines<IM>, C>>,
    pub(crate) sessions: Arc<Sessions<C>>,
    pub(crate) nodes: Nodes<IM>,
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) status: Status,
}

impl<C, IC, IM> Engine<C, IC, IM>
where
    C: Connect<Session = <IC as External>::Session>,
    IC: InfraCluster,
    IM: InfraMachine<Session = <IC as External>::Session, Cluster = <IC as InfraCluster>::Kind>,
{
    /// Keeps all stores up to date, for ever.
    pub(crate) async fn watch(&self) {
        let mut all: Vec<BoxFuture<'_, ()>> = Vec::new();
        for namespace in &self.world.namespaces {
            all.push(self.watch_clusters(namespace.clone()).boxed());
            all.push(self.watch_machines(namespace.clone()).boxed());
            all.push(self.watch_infra_clusters(namespace.clone()).boxed());
            all.push(self.watch_infra_machines(namespace.clone()).boxed());
            for (kind, store) in &self.world.children {
                let watching = self.watch_children(namespace.clone(), kind, store);
                all.push(watching.boxed());
            }
        }
        all.push(self.watch_addresses().boxed());
        all.push(self.follow_backends().boxed());
        all.push(self.nodes.serve().boxed());
        join_all(all).await;
    }

    /// Lets backends that tell of changes wake objects.
    async fn follow_backends(&self) {
        let (world, clock) = (Arc::clone(&self.world), self.options.clock.clone());
        let (clusters, machines) = (Arc::clone(&self.clusters), Arc::clone(&self.machines));
        let wakes = Wakes::new(move |wake| {
            let (role, name) = match wake {
                Wake::Cluster(name) => (Role::Cluster, name),
                Wake::Machine(name) => (Role::Machine, name),
            };
            let key = Key { role, name };
            // Before the pass that may begin at once.
            match role {
                _ if !world.is_known(&key) => return,
                Role::Cluster => clusters.disturb(&key.name),
                Role::Machine => machines.disturb(&key.name),
            }
            world.nudge(&key, clock.monotonic());
        });
        self.sessions.follow(&wakes).await;
    }

    /// Makes passes until `shutdown`.
    pub(crate) async fn work(&self, shutdown: impl Future<Output = ()>) {
        let shutdown = std::pin::pin!(shutdown.fuse());
        let mut shutdown = shutdown;
        let mut passes: FuturesUnordered<BoxFuture<'_, (Key, Next)>> = FuturesUnordered::new();
        loop {
            let now = self.now();
            self.begin_passes(&mut passes, now);
            let timer = sleep(self.pause(passes.len(), now));
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some((key, next)) = passes.next(), if !passes.is_empty() => {
                    self.end_pass(&key, next);
                }
                () = self.world.pushed() => {}
                () = timer => {}
            }
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while !passes.is_empty() {
            tokio::select! {
                _ = passes.next() => {}
                () = sleep_until(deadline) => {
                    tracing::warn!(count = passes.len(), "passes cut off by the shutdown");
                    return;
                }
            }
        }
    }

    /// How long nothing happens if no event comes.
    fn pause(&self, running: usize, now: Duration) -> Duration {
        if !self.options.leadership.holds() {
            return LEADERSHIP_LOOK;
        }
        if running >= self.options.concurrency || !self.world.is_synced() {
            return IDLE_MAX;
        }
        let due = self.world.due().map(|due| due.saturating_sub(now));
        due.map_or(IDLE_MAX, |due| due.min(IDLE_MAX))
    }

    fn begin_passes<'a>(
        &'a self,
        passes: &mut FuturesUnordered<BoxFuture<'a, (Key, Next)>>,
        now: Duration,
    ) {
        // Before the first lists are there, whatever is missing might just not have come yet.
        let may_act = self.world.is_synced() && self.options.leadership.holds();
        while may_act && passes.len() < self.options.concurrency {
            let Some(key) = self.world.next(now) else {
                break;
            };
            passes.push(self.pass(key).boxed());
        }
        self.options.telemetry.running(passes.len());
        self.options.telemetry.queued("all", self.world.waiting());
    }

    async fn pass(&self, key: Key) -> (Key, Next) {
        let next = match key.role {
            Role::Cluster => self.clusters.pass(&key.name).await,
            Role::Machine => self.machines.pass(&key.name).await,
        };
        (key, next)
    }

    fn end_pass(&self, key: &Key, next: Next) {
        match next {
            Next::After(after) => self.world.finished(key, Some(self.now() + after)),
            Next::Event => self.world.finished(key, None),
            Next::Never => self.world.forget(key),
        }
    }

    fn now(&self) -> Duration {
        self.options.clock.monotonic()
    }

    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn surroundings(&self, kind: &'static str, namespace: Option<String>) -> Watch {
        Watch {
            kind,
            namespace,
            selector: filter_selector(self.options.watch_filter.as_deref()),
            telemetry: self.options.telemetry.clone(),
        }
    }

    async fn keep<K>(&self, watch: Watch, store: &Store<K>, on_change: impl Fn(Change<K>))
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + 'static,
    {
        let api: Api<Lenient<K>> = self.api(watch.namespace.as_deref());
        let on = On {
            change: on_change,
            synced: || self.synced(),
        };
        follow(api, watch, store, decoded, on).await;
    }

    async fn watch_clusters(&self, namespace: Option<String>) {
        let watch = self.surroundings("Cluster", namespace);
        let store = &self.world.clusters;
        self.keep(watch, store, |change: Change<ClusterView>| {
            if is_news(&change, |a, b| a.spec == b.spec && a.status == b.status) {
                self.world.wake(&Topic::Cluster(change.name));
            }
        })
        .await;
    }

    async fn watch_machines(&self, namespace: Option<String>) {
        let watch = self.surroundings("Machine", namespace);
        let store = &self.world.machines;
        self.keep(watch, store, |change: Change<MachineView>| {
            if is_news(&change, |a, b| a.spec == b.spec && a.status == b.status) {
                self.world.wake(&Topic::Machine(change.name));
            }
        })
        .await;
    }

    async fn watch_infra_clusters(&self, namespace: Option<String>) {
        let watch = self.surroundings("infra cluster", namespace);
        let store = &self.world.infra_clusters;
        self.keep(watch, store, |change| {
            self.world.driven(Role::Cluster, &change);
        })
        .await;
    }

    async fn watch_infra_machines(&self, namespace: Option<String>) {
        let watch = self.surroundings("infra machine", namespace);
        let store = &self.world.infra_machines;
        self.keep(watch, store, |change| {
            self.world.driven(Role::Machine, &change);
        })
        .await;
    }

    async fn watch_children(
        &self,
        namespace: Option<String>,
        kind: &ChildKind,
        store: &Store<DynamicObject>,
    ) {
        let resource = resource_of(kind);
        let api: Api<DynamicObject> = match &namespace {
            Some(one) => Api::namespaced_with(self.client.clone(), one, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let mut watch = self.surroundings(kind.kind, namespace);
        // Ours bear the label; the other Services of a cluster stay out of memory.
        let ours = match &self.options.watch_filter {
            Some(filter) => format!("{CLUSTER_NAME_LABEL},{WATCH_FILTER_LABEL}={filter}"),
            None => CLUSTER_NAME_LABEL.to_owned(),
        };
        watch.selector = Some(ours);
        let slim = |mut object: DynamicObject| {
            object.metadata.managed_fields = None;
            Some(object)
        };
        let on = On {
            change: |change: Change<DynamicObject>| {
                self.world.wake(&Topic::Child(kind.clone(), change.name));
            },
            synced: || self.synced(),
        };
        follow(api, watch, store, slim, on).await;
    }

    /// The address kinds, from the first time that somebody asks.
    async fn watch_addresses(&self) {
        self.world.ipam_wanted().await;
        let mut all: Vec<BoxFuture<'_, ()>> = Vec::new();
        for namespace in &self.world.namespaces {
            let mut watch = self.surroundings("IPAddressClaim", namespace.clone());
            // Pools fill these in and know nothing of our filter.
            watch.selector = None;
            let claims = self.keep(
                watch.clone(),
                &self.world.claims,
                |change: Change<AddressClaimView>| {
                    self.world.wake(&Topic::AddressClaim(change.name));
                },
            );
            all.push(claims.boxed());
            watch.kind = "IPAddress";
            let addresses = self.keep(
                watch,
                &self.world.addresses,
                |change: Change<AddressView>| {
                    self.world.wake(&Topic::Address(change.name));
                },
            );
            all.push(addresses.boxed());
        }
        join_all(all).await;
    }

    fn synced(&self) {
        if self.world.is_synced() {
            self.status.set_ready(true);
        }
        self.world.synced();
        self.world.wake(&Topic::Ipam);
    }
}

/// Whether a change is of anything that gates or scopes read.
fn is_news<K: Resource>(change: &Change<K>, same: impl Fn(&K, &K) -> bool) -> bool {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => {
            !same_meta(before.meta(), after.meta()) || !same(before.as_ref(), after.as_ref())
        }
        _ => true,
    }
}

fn same_meta(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    a.uid == b.uid
        && a.labels == b.labels
        && a.annotations == b.annotations
        && a.deletion_timestamp == b.deletion_timestamp
        && a.owner_references == b.owner_references
}
