//! An in-process Kubernetes API server.
//!
//! [`ApiServer`] keeps objects in memory behind the real protocol: resource versions, list pages at
//! a fixed revision, watches with bookmarks and an `Expired` horizon, patches with managed fields,
//! subresources, finalizers, owner collection, custom resource definitions, admission webhooks. Who
//! may do what is everything, or what roles and bindings say ([`Authorization`]). It has two faces. The
//! in-memory one ([`ApiServer::client`]) needs no socket and runs on a paused tokio clock. The TLS
//! one ([`ApiServer::serve_tls`]) serves `kubectl` and other processes.
//!
//! What it does not do it refuses with `501 NotImplemented`; it never answers 200 to what it ignored.
//!
//! # Assumptions
//!
//! The server lives on the tokio runtime of its requests: owner collection and namespace deletion
//! run as a task there, as the real controller manager does beside the real server.

mod access;
mod account;
mod admission;
mod audit;
mod authority;
mod builtin;
mod clock;
mod collector;
mod decode;
mod definitions;
mod delete;
mod discovery;
mod event;
mod eviction;
mod hold;
mod hook;
mod jsonpath;
mod kinds;
mod memory;
mod metadata;
mod names;
mod openapi;
mod output;
mod patch;
mod protobuf;
mod rbac;
mod read;
mod request;
mod review;
mod row;
mod scale;
mod selector;
mod serve;
mod status;
mod store;
mod strategic;
mod strategy;
mod syntax;
mod table;
mod tls;
mod watch;
mod webhook;
mod write;

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

pub use self::access::{Authorization, User};
pub use self::audit::{Audit, AuditRecord};
pub use self::hold::Hold;
pub use self::status::StatusError;
pub use self::tls::{TlsError, TlsFace};
pub use self::webhook::ServiceBackend;
use self::{
    account::Tokens,
    clock::Clock,
    collector::Collector,
    hold::Holds,
    kinds::{Registry, Resource},
    metadata::Birth,
    names::Names,
    status::Subject,
    store::{HISTORY_DEFAULT, Key, Object, Refused, Store, Write},
    webhook::Services,
};
use crate::faults::Faults;

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// A Kubernetes API server in this process. Cloning is cheap and gives the same server.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

/// What all clones of a server share.
struct Inner {
    store: Store,
    registry: Registry,
    audit: Audit,
    clock: Clock,
    holds: Holds,
    names: Names,
    collector: Collector,
    authorization: Authorization,
    tokens: Tokens,
    services: Services,
    /// A change ends all watches that are open.
    watch_cut: tokio::sync::watch::Sender<u64>,
}

/// Settings of an [`ApiServer`].
#[derive(Debug, Clone, Default)]
pub struct ApiServerBuilder {
    epoch: Option<Timestamp>,
    seed: Option<u64>,
    history: Option<usize>,
    authorization: Authorization,
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

    /// Changes kept per resource, at least 1. Watches and lists from further back get `Expired`.
    /// Default: 4096.
    #[must_use]
    pub fn history(mut self, changes: usize) -> Self {
        self.history = Some(changes);
        self
    }

    /// Who may do what. Default: everyone everything.
    #[must_use]
    pub fn authorization(mut self, authorization: Authorization) -> Self {
        self.authorization = authorization;
        self
    }

    /// The server, with the namespaces that every cluster has, and with the first ClusterRoles if
    /// they decide; no other object.
    #[must_use]
    pub fn build(self) -> ApiServer {
        let inner = Inner {
            store: Store::new(self.history.unwrap_or(HISTORY_DEFAULT)),
            registry: Registry::new(),
            audit: Audit::default(),
            clock: Clock::starting_at(self.epoch.unwrap_or_else(Timestamp::now)),
            holds: Holds::default(),
            names: Names::new(self.seed),
            collector: Collector::default(),
            authorization: self.authorization,
            tokens: Tokens::default(),
            services: Services::default(),
            watch_cut: tokio::sync::watch::Sender::new(0),
        };
        let server = ApiServer {
            inner: Arc::new(inner),
        };
        for name in NAMESPACES {
            let namespace = json!({"kind": "Namespace", "apiVersion": "v1"});
            let made = server.seed("namespaces", name, namespace);
            made.expect("the first namespaces are valid and new");
        }
        if self.authorization == Authorization::Rbac {
            server.seed_roles();
        }
        server
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

    /// As [`ApiServer::client`], but with the rights of `user` only, where [`Authorization::Rbac`]
    /// decides. The requests are recorded under `actor`.
    #[must_use]
    pub fn client_as(&self, actor: &str, user: &User) -> kube::Client {
        memory::client_as(self, user.caller(actor))
    }

    /// As [`ApiServer::client`], with `faults` between the client and the server.
    ///
    /// This is [`Faults::kubernetes`] around it.
    #[must_use]
    pub fn client_with(&self, actor: &str, faults: &Faults) -> kube::Client {
        faults.kubernetes(self.client(actor), actor)
    }

    /// Creates or replaces definitions (of any type that serializes to a
    /// `CustomResourceDefinition`), as applying a provider's components would; the kinds are served
    /// at once.
    ///
    /// # Errors
    ///
    /// The refusal of the first definition that is not valid; those before it stay.
    pub fn install_crds<D: Serialize>(
        &self,
        definitions: impl IntoIterator<Item = D>,
    ) -> Result<(), StatusError> {
        for definition in definitions {
            let definition = serde_json::to_value(definition).map_err(StatusError::internal)?;
            let name = definition["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            self.seed(
                "customresourcedefinitions.apiextensions.k8s.io",
                &name,
                definition,
            )?;
        }
        Ok(())
    }

    /// Holds back what `actor` sees of `resource` (`machines.cluster.x-k8s.io`, `secrets`; empty for
    /// every resource) at the present revision, until the [`Hold`] is dropped.
    ///
    /// Held are watch events and lists that accept a cache (`resourceVersion=0`), as behind a slow
    /// watch cache. Gets and consistent lists stay current, since they are on a real server too.
    pub fn hold_watch(&self, actor: &str, resource: &str) -> Hold {
        self.inner
            .holds
            .hold(actor, resource, self.inner.store.revision())
    }

    /// Ends all open watches, as a server that restarts does.
    pub fn break_watches(&self) {
        self.inner.watch_cut.send_modify(|cuts| *cuts += 1);
    }

    /// Forgets the history, as compaction does: watches and list pages that go on from before now
    /// are told `Expired`.
    pub fn compact(&self) {
        self.inner.store.compact();
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.inner.store.revision()
    }

    /// All objects of a resource (`machines.cluster.x-k8s.io`, `secrets`) as they are stored, for
    /// checks that are no requests and leave no audit record.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let listed = self.inner.store.list(resource, None, None);
        let snapshot = listed.expect("the present is never compacted");
        snapshot
            .objects
            .into_iter()
            .map(|(_, object)| object.value().clone())
            .collect()
    }

    /// One object as it is stored; `namespace` is empty for cluster-scoped kinds.
    #[must_use]
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = Key {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.inner
            .store
            .get(resource, &key)
            .map(|object| object.value().clone())
    }

    /// The record of all requests so far; a handle that stays current.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.inner.audit.clone()
    }

    /// Stores a cluster-scoped built-in object without a request, in place of an older one.
    fn seed(&self, collection: &str, name: &str, mut object: Value) -> Result<(), StatusError> {
        let resource = self.inner.registry.of_collection(collection);
        let resource = resource.ok_or_else(StatusError::unknown_resource)?;
        let key = Key {
            namespace: String::new(),
            name: name.to_owned(),
        };
        let now = self.inner.clock.time();
        let old = self.inner.store.get(collection, &key);
        let uid = self.inner.names.uid();
        let birth = Birth {
            name,
            namespace: "",
            uid,
            now: now.clone(),
        };
        metadata::stamp(&mut object, &resource, &birth);
        strategy::prepare_create(&resource, &mut object, &now);
        if let Some(old) = &old {
            object["metadata"]["uid"] = old.uid().into();
        }
        let errors = strategy::validate(&resource, &object, old.as_deref().map(Object::value));
        if !errors.is_empty() {
            let subject = Subject {
                group: &resource.group,
                resource: &resource.kind,
                name,
            };
            return Err(StatusError::invalid(subject, &errors));
        }
        let expected = old.map(|old| old.revision());
        let stored = self.commit(&resource, &key, expected, Write::Put(object));
        let subject = Subject {
            group: &resource.group,
            resource: &resource.plural,
            name,
        };
        stored
            .map(|_| ())
            .map_err(|_| StatusError::modified(subject))
    }

    /// Commits a write, and lets the parts of the server that follow it know.
    fn commit(
        &self,
        resource: &Resource,
        key: &Key,
        expected: Option<u64>,
        write: Write,
    ) -> Result<Arc<Object>, Refused> {
        let gone = matches!(write, Write::Remove(_));
        let object = self
            .inner
            .store
            .commit(&resource.collection, key, expected, write)?;
        if !resource.is_custom() && resource.kind == "CustomResourceDefinition" {
            let spec = &object.value()["spec"];
            let group = spec["group"].as_str().unwrap_or_default();
            let plural = spec["names"]["plural"].as_str().unwrap_or_default();
            let served = if gone {
                Vec::new()
            } else {
                definitions::resources(object.value())
            };
            self.inner.registry.serve(group, plural, served);
            self.inner.store.wake(&kinds::qualified(plural, group));
        }
        if &*resource.collection == "clusterroles.rbac.authorization.k8s.io" {
            self.aggregate_roles();
        }
        self.inner.collector.notice(resource, key, &object, gone);
        Ok(object)
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}
