//! A connected client with what all machines and clusters of one infra cluster share: the caches that
//! watches fill, and what this process itself did a moment ago.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Mark, Wakes};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kube::{Client, Resource};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::infra::{
    Cache, DataVolumeView, Infra, InstanceView, MigrationView, OF_CLUSTERS, OF_MACHINES,
    ServiceView, Version, VmView, cluster_of, follow, machine_of,
};
use crate::login::{Checks, Logins};

/// How many watches one session has. A tenant has a namespace, and a namespace two to four of them;
/// beyond this number objects are asked for one by one.
const WATCHES_MAX: usize = 400;

/// How long a look waits for the first list of a watch that was just asked for. A list takes
/// milliseconds; without it every machine would be asked for by itself after a restart.
const FIRST_LIST: Duration = Duration::from_secs(3);

/// How many notes about bootstrap Secrets are kept; one is some hundred bytes.
const NOTES_MAX: usize = 20_000;

/// A client and what its users share.
pub struct Session {
    infra: Infra,
    namespace: Option<String>,
    vms: Cache<VmView>,
    instances: Cache<InstanceView>,
    volumes: Cache<DataVolumeView>,
    migrations: Cache<MigrationView>,
    services: Cache<ServiceView>,
    wanted: Mutex<BTreeMap<(Kind, String), Instant>>,
    more: Notify,
    secrets: Mutex<HashMap<Mark, SecretNote>>,
    logins: Option<Arc<dyn Logins>>,
    checks: Checks,
}

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Vm,
    Instance,
    Volume,
    Migration,
    Service,
}

/// How the bootstrap Secret of a machine stands, as this process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretNote {
    /// It is not there.
    Missing,
    /// It holds data that may be needed again.
    Kept,
    /// It holds data that no later boot needs.
    Full(Version),
    /// They were taken out.
    Used,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session on a client. `namespace` is where things are made; `None` means in the namespace of
    /// the object that they are for, as in an infra cluster that is the management cluster.
    pub fn new(client: Client, namespace: Option<String>) -> Self {
        Self {
            infra: Infra::new(client),
            namespace,
            vms: Cache::default(),
            instances: Cache::default(),
            volumes: Cache::default(),
            migrations: Cache::default(),
            services: Cache::default(),
            wanted: Mutex::new(BTreeMap::new()),
            more: Notify::new(),
            secrets: Mutex::new(HashMap::new()),
            logins: None,
            checks: Checks::default(),
        }
    }

    /// Asks guests by these means whether their bootstrap is over.
    #[must_use]
    pub fn asking(mut self, logins: Option<Arc<dyn Logins>>) -> Self {
        self.logins = logins;
        self
    }

    /// What asks guests; `None` where nobody does.
    pub(crate) fn logins(&self) -> Option<&dyn Logins> {
        self.logins.as_deref()
    }

    /// The guests that are asked.
    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    /// The client.
    pub fn infra(&self) -> &Infra {
        &self.infra
    }

    /// Where a thing is made: the namespace that its template asks for, else the infra cluster's, else
    /// that of the object.
    pub fn namespace<'a>(&'a self, template: Option<&'a str>, own: &'a str) -> &'a str {
        template.or(self.namespace.as_deref()).unwrap_or(own)
    }

    /// VMs that are known without asking.
    pub fn vms(&self) -> &Cache<VmView> {
        &self.vms
    }

    /// Instances that are known without asking.
    pub fn instances(&self) -> &Cache<InstanceView> {
        &self.instances
    }

    /// DataVolumes that are known without asking.
    pub fn volumes(&self) -> &Cache<DataVolumeView> {
        &self.volumes
    }

    /// Migrations that are known without asking.
    pub fn migrations(&self) -> &Cache<MigrationView> {
        &self.migrations
    }

    /// Services that are known without asking.
    pub fn services(&self) -> &Cache<ServiceView> {
        &self.services
    }

    /// Asks for kinds in a namespace to be watched from now on.
    pub(crate) fn want(&self, namespace: &str, kinds: &[Kind]) {
        let mut wanted = self.wanted.lock();
        for kind in kinds {
            let watch = (*kind, namespace.to_owned());
            if wanted.len() < WATCHES_MAX && !wanted.contains_key(&watch) {
                wanted.insert(watch, Instant::now());
                self.more.notify_one();
            }
        }
    }

    /// Waits for the first list of a kind in a namespace, if it was asked for a moment ago.
    pub(crate) async fn first_list<K: Resource>(
        &self,
        kind: Kind,
        cache: &Cache<K>,
        namespace: &str,
    ) {
        let asked = self
            .wanted
            .lock()
            .get(&(kind, namespace.to_owned()))
            .copied();
        if let Some(asked) = asked {
            cache.first_list(namespace, asked + FIRST_LIST).await;
        }
    }

    /// Keeps the watches up that are asked for, and wakes the machines whose things change.
    pub(crate) async fn follow(&self, wakes: &Wakes) {
        let mut begun = BTreeSet::new();
        let mut running = FuturesUnordered::new();
        if let Some(logins) = self.logins() {
            running.push(Box::pin(self.checks.run(logins, wakes)) as BoxFuture<'_, ()>);
        }
        loop {
            let wanted: Vec<_> = self.wanted.lock().keys().cloned().collect();
            for watch in wanted {
                if begun.insert(watch.clone()) {
                    let (kind, namespace) = watch;
                    running.push(self.watch(kind, namespace, wakes));
                }
            }
            tokio::select! {
                () = self.more.notified() => {}
                // A watch never ends.
                Some(()) = running.next() => {}
            }
        }
    }

    fn watch<'a>(&'a self, kind: Kind, namespace: String, wakes: &'a Wakes) -> BoxFuture<'a, ()> {
        let client = self.infra.client();
        Box::pin(async move {
            let (at, of) = (namespace.as_str(), OF_MACHINES);
            match kind {
                Kind::Vm => follow(client, at, of, &self.vms, |vm| wake(wakes, vm)).await,
                Kind::Instance => {
                    follow(client, at, of, &self.instances, |one| wake(wakes, one)).await;
                }
                Kind::Volume => {
                    follow(client, at, of, &self.volumes, |one| wake(wakes, one)).await;
                }
                Kind::Migration => {
                    follow(client, at, of, &self.migrations, |one| wake(wakes, one)).await;
                }
                Kind::Service => {
                    let changed = |service: &ServiceView| {
                        if let Some(name) = cluster_of(service) {
                            wakes.cluster(name);
                        }
                    };
                    follow(client, at, OF_CLUSTERS, &self.services, changed).await;
                }
            }
        })
    }

    pub(crate) fn secret_note(&self, mark: &Mark) -> Option<SecretNote> {
        self.secrets.lock().get(mark).cloned()
    }

    pub(crate) fn note_secret(&self, mark: &Mark, note: SecretNote) {
        let mut secrets = self.secrets.lock();
        if secrets.len() >= NOTES_MAX {
            // They save a request each and are cheap to come by again.
            secrets.clear();
        }
        secrets.insert(mark.clone(), note);
    }

    pub(crate) fn forget_secret(&self, mark: &Mark) {
        self.secrets.lock().remove(mark);
    }
}

/// Wakes the machine that an object of the infra cluster was made for.
fn wake<K: Resource>(wakes: &Wakes, object: &K) {
    if let Some(name) = machine_of(object) {
        wakes.machine(name);
    }
}
