//! The in-cluster IPAM provider, simulated (S-16): it gives addresses of `InClusterIPPool` and
//! `GlobalInClusterIPPool` to `IPAddressClaim`s, as contract rules IPP-01 to IPP-06 say.
//!
//! # Flow
//!
//! Per claim: gates (pool of ours, Cluster there and not paused), finalizer, the lowest free address,
//! an `IPAddress` of the claim's name, its name in the claim's status. Deletion goes the other way: the
//! `IPAddress` first, then the claim's finalizer. A pool keeps its finalizer while addresses are in use.
//!
//! # Guarantees
//!
//! An address is held once per pool, and a claim keeps its address: what counts is the `IPAddress`
//! objects, and passes over one pool's claims choose one after the other.
//!
//! # Caveats
//!
//! `spec.addressReuseGracePeriodSeconds` and the webhooks of the real provider are not played.

mod claim;
mod pool;
mod range;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream;
use jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;

use crate::core::driver::{self, Actor, Again};
use crate::core::hub::{Hub, Result};
use crate::core::object::{Kind, Name, Object};
use crate::core::store::Change;
use crate::core::word::{
    CLUSTER, GLOBAL_POOL, IN_CLUSTER_POOL, IP_ADDRESS, IP_ADDRESS_CLAIM, resource,
};

pub use self::range::{AddressSet, BadAddresses};

/// The least distance between two looks at one pool: its figures change with every claim.
const POOL_PACE: Duration = Duration::from_millis(100);

/// Settings of an [`Ipam`].
#[derive(Clone)]
pub struct IpamBuilder {
    client: Client,
    speed: f64,
    epoch: Option<Timestamp>,
    delay: Duration,
}

impl IpamBuilder {
    /// Divides the delay. Default 1; values that are not above 0 count as 1.
    #[must_use]
    pub fn speed(mut self, factor: f64) -> Self {
        self.speed = if factor > 0.0 { factor } else { 1.0 };
        self
    }

    /// Wall-clock time at the start; the tokio clock moves it on. Default: now.
    #[must_use]
    pub fn epoch(mut self, epoch: Timestamp) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// How long a claim waits for its address, counted from its creation. Default: not at all.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The simulator, not yet running.
    #[must_use]
    pub fn build(self) -> Ipam {
        let epoch = self.epoch.unwrap_or_else(Timestamp::now);
        let hub = Hub::new(self.client, self.speed, epoch);
        Ipam {
            office: Arc::new(Office::new(hub, self.delay)),
        }
    }

    /// Builds it and runs it until the future is dropped.
    pub async fn run(self) -> Infallible {
        self.build().run().await
    }
}

impl std::fmt::Debug for IpamBuilder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("IpamBuilder")
            .field("speed", &self.speed)
            .field("epoch", &self.epoch)
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}

/// The simulated IPAM provider.
#[derive(Debug)]
pub struct Ipam {
    office: Arc<Office>,
}

impl Ipam {
    /// Settings first. `client` needs all rights on the IPAM kinds, and to read Clusters.
    pub fn builder(client: Client) -> IpamBuilder {
        IpamBuilder {
            client,
            speed: 1.0,
            epoch: None,
            delay: Duration::ZERO,
        }
    }

    /// A handle that steers the simulator while it runs.
    #[must_use]
    pub fn handle(&self) -> IpamHandle {
        IpamHandle {
            office: Arc::clone(&self.office),
        }
    }

    /// Runs until the future is dropped; everything stops then.
    pub async fn run(self) -> Infallible {
        driver::drive(self.office.as_ref(), stream::empty()).await
    }
}

/// Steers a running [`Ipam`].
#[derive(Clone, Debug)]
pub struct IpamHandle {
    office: Arc<Office>,
}

impl IpamHandle {
    /// Makes every pool answer as if it were used up, or lets them give again. Addresses that are out
    /// stay out.
    pub fn set_exhausted(&self, is_exhausted: bool) {
        *self.office.is_exhausted.lock() = is_exhausted;
        self.office.wake_all();
    }

    /// Sets how long a claim waits from now on.
    pub fn set_delay(&self, delay: Duration) {
        *self.office.delay.lock() = delay;
        self.office.wake_all();
    }
}

/// One thing to reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(Name),
    Pool(Kind, Name),
}

/// Which pool: its kind, and its name with the namespace it lives in.
type PoolId = (Kind, Name);

/// What all passes share.
struct Office {
    hub: Hub,
    delay: Mutex<Duration>,
    is_exhausted: Mutex<bool>,
    /// Addresses chosen and not yet seen as objects, by claim uid: two passes that run at once must
    /// not choose the same one.
    chosen: Mutex<BTreeMap<String, (PoolId, IpAddr)>>,
    wishes: Mutex<Vec<Key>>,
}

impl std::fmt::Debug for Office {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Office").finish_non_exhaustive()
    }
}

impl Office {
    fn new(hub: Hub, delay: Duration) -> Self {
        for (kind, version, plural) in [
            (&CLUSTER, "v1beta2", "clusters"),
            (&IP_ADDRESS_CLAIM, "v1beta2", "ipaddressclaims"),
            (&IP_ADDRESS, "v1beta2", "ipaddresses"),
            (&IN_CLUSTER_POOL, "v1alpha2", "inclusterippools"),
            (&GLOBAL_POOL, "v1alpha2", "globalinclusterippools"),
        ] {
            hub.want(&resource(kind, version, plural));
        }
        Self {
            hub,
            delay: Mutex::new(delay),
            is_exhausted: Mutex::new(false),
            chosen: Mutex::default(),
            wishes: Mutex::default(),
        }
    }

    fn wake_all(&self) {
        let claims = self.hub.read(|store| store.all(&IP_ADDRESS_CLAIM));
        let keys = claims.iter().map(|claim| Key::Claim(claim.key()));
        self.wishes.lock().extend(keys);
        self.hub.ring();
    }

    /// The pool that a claim or address refers to, if it is one of ours (IPP-01).
    fn pool_of(object: &Object) -> Option<PoolId> {
        let reference = object.reference("/spec/poolRef")?;
        let namespace = if reference.kind == IN_CLUSTER_POOL {
            object.namespace()
        } else if reference.kind == GLOBAL_POOL {
            ""
        } else {
            return None;
        };
        Some((
            reference.kind.clone(),
            Name::new(namespace, &reference.name),
        ))
    }

    fn pool(&self, id: &PoolId) -> Option<Arc<Object>> {
        self.hub.get(&id.0, &id.1)
    }

    /// The `IPAddress` objects of a pool. They are its dependents.
    fn addresses(&self, pool: &Object) -> Vec<Arc<Object>> {
        self.hub.owned(&IP_ADDRESS, pool.uid())
    }

    /// Addresses of a pool that are taken, or about to be.
    fn taken(&self, id: &PoolId, pool: &Object) -> BTreeSet<IpAddr> {
        let objects = self.addresses(pool);
        let held = objects
            .iter()
            .filter_map(|address| address.text("/spec/address")?.parse().ok());
        let chosen = self.chosen.lock();
        let pending = chosen
            .values()
            .filter(|(pool, _)| pool == id)
            .map(|(_, address)| *address);
        held.chain(pending).collect()
    }
}

impl Actor for Office {
    type Key = Key;

    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn affected(&self, change: &Change) -> Vec<Key> {
        let Some(object) = change.object() else {
            return Vec::new();
        };
        let mut keys = Vec::new();
        if change.kind == IP_ADDRESS_CLAIM {
            keys.push(Key::Claim(object.key()));
        } else if change.kind == IP_ADDRESS {
            if let Some(claim) = object.word("/spec/claimRef/name") {
                keys.push(Key::Claim(Name::new(object.namespace(), claim)));
            }
            keys.extend(Self::pool_of(object).map(|(kind, name)| Key::Pool(kind, name)));
            if change.after.is_none() {
                keys.extend(self.hungry(Self::pool_of(object).as_ref()));
            }
        } else if change.kind == CLUSTER {
            let claims = self.hub.clustered(&IP_ADDRESS_CLAIM, &object.key());
            keys.extend(claims.iter().map(|claim| Key::Claim(claim.key())));
        } else {
            keys.push(Key::Pool(change.kind.clone(), object.key()));
            let id = (change.kind.clone(), object.key());
            keys.extend(self.hungry(Some(&id)));
        }
        keys
    }

    fn synced(&self, _kind: &Kind) -> Vec<Key> {
        Vec::new()
    }

    fn pace(&self, key: &Key) -> Duration {
        match key {
            Key::Claim(_) => Duration::ZERO,
            Key::Pool(..) => self.hub.scaled(POOL_PACE),
        }
    }

    fn wishes(&self) -> Vec<Key> {
        std::mem::take(&mut *self.wishes.lock())
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Again>> {
        match key {
            Key::Claim(name) => Box::pin(claim::reconcile(self, name)),
            Key::Pool(kind, name) => Box::pin(pool::reconcile(self, kind, name)),
        }
    }
}

impl Office {
    /// Claims of a pool that have no address yet.
    fn hungry(&self, id: Option<&PoolId>) -> Vec<Key> {
        let Some(id) = id else {
            return Vec::new();
        };
        let claims = self.hub.read(|store| store.all(&IP_ADDRESS_CLAIM));
        claims
            .iter()
            .filter(|claim| claim.at("/status/addressRef").is_none())
            .filter(|claim| Self::pool_of(claim).as_ref() == Some(id))
            .map(|claim| Key::Claim(claim.key()))
            .collect()
    }
}
