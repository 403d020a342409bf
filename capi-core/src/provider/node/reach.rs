//! Clients of workload clusters: one each, made from the kubeconfig Secret and kept.
//!
//! The Secret is read by name when a cluster is first served, and again only after its credentials
//! were refused.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use capi_contract::ObjectName;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::workload::{Dial, DialError};

/// Key of the kubeconfig in its Secret (S-06).
const KEY: &str = "value";

/// Why a wish was not fulfilled yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    #[error("Secret {0} with the kubeconfig does not exist yet")]
    NoSecret(ObjectName),
    #[error("Secret {0} has no kubeconfig under the key {KEY}")]
    NoKubeconfig(ObjectName),
    #[error("read Secret {secret} with the kubeconfig")]
    Secret {
        secret: ObjectName,
        #[source]
        source: kube::Error,
    },
    #[error("use the kubeconfig of Secret {secret}")]
    Dial {
        secret: ObjectName,
        #[source]
        source: DialError,
    },
    #[error("{call}")]
    Request {
        call: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("watch the nodes")]
    Watch(#[source] Box<kube::runtime::watcher::Error>),
    #[error("this process does not lead")]
    NotLeading,
}

impl Unreached {
    /// Wraps the error of a call.
    pub(super) fn request(call: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Request { call, source }
    }

    /// Whether the credentials were refused, or the server's were.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Unreached::Request { source, .. } => is_refusal(source),
            Unreached::Watch(source) => is_refusal(source.as_ref()),
            Unreached::NoSecret(_)
            | Unreached::NoKubeconfig(_)
            | Unreached::Secret { .. }
            | Unreached::Dial { .. }
            | Unreached::NotLeading => false,
        }
    }

    /// Label of the metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Unreached::NoSecret(_) | Unreached::NotLeading => "dependency",
            Unreached::NoKubeconfig(_) | Unreached::Dial { .. } => "misconfigured",
            Unreached::Request { .. } | Unreached::Watch(_) if self.is_refusal() => "credentials",
            Unreached::Secret { .. } | Unreached::Request { .. } | Unreached::Watch(_) => {
                "transient"
            }
        }
    }
}

/// Whether 401, 403 or a TLS failure is among the causes.
fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
            return matches!(status.code, 401 | 403);
        }
        if error.is::<rustls::Error>() {
            return true;
        }
        // An IO error does not count what it carries among its sources.
        let io = error.downcast_ref::<std::io::Error>();
        if let Some(inner) = io.and_then(std::io::Error::get_ref) {
            return is_refusal(inner);
        }
        next = error.source();
    }
    false
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    generation: u64,
}

type Slot = Arc<tokio::sync::Mutex<State>>;

/// A client, and which one it is.
#[derive(Clone)]
pub(super) struct Reached {
    pub(super) client: Client,
    generation: u64,
}

/// The clients of workload clusters.
pub(super) struct Clients {
    management: Client,
    dial: Dial,
    slots: Mutex<HashMap<ObjectName, Slot>>,
}

impl Clients {
    pub(super) fn new(management: Client, dial: Dial) -> Self {
        Self {
            management,
            dial,
            slots: Mutex::default(),
        }
    }

    /// The client of a cluster, made if there is none.
    pub(super) async fn get(&self, cluster: &ObjectName) -> Result<Reached, Unreached> {
        let slot = self.slot(cluster);
        let mut state = slot.lock().await;
        let client = match &state.client {
            Some(client) => client.clone(),
            None => {
                let client = self.dial(cluster).await?;
                state.generation += 1;
                state.client.insert(client).clone()
            }
        };
        Ok(Reached {
            client,
            generation: state.generation,
        })
    }

    /// Takes note of a failure: after a refusal, the kubeconfig is read again.
    pub(super) async fn failed(&self, cluster: &ObjectName, on: &Reached, error: &Unreached) {
        if !error.is_refusal() {
            return;
        }
        let slot = self.slot(cluster);
        let mut state = slot.lock().await;
        if state.generation == on.generation {
            state.client = None;
        }
    }

    /// Forgets the clients of other clusters than these.
    pub(super) fn retain(&self, stays: impl Fn(&ObjectName) -> bool) {
        self.slots.lock().retain(|cluster, _| stays(cluster));
    }

    fn slot(&self, cluster: &ObjectName) -> Slot {
        let mut slots = self.slots.lock();
        Arc::clone(slots.entry(cluster.clone()).or_default())
    }

    async fn dial(&self, cluster: &ObjectName) -> Result<Client, Unreached> {
        let name = format!("{}-kubeconfig", cluster.name);
        let secret = ObjectName::new(cluster.namespace.clone(), name);
        let api: Api<Secret> = Api::namespaced(self.management.clone(), &secret.namespace);
        let read = api.get_opt(&secret.name).await;
        let read = read.map_err(|source| Unreached::Secret {
            secret: secret.clone(),
            source,
        })?;
        let found = read.ok_or_else(|| Unreached::NoSecret(secret.clone()))?;
        let kubeconfig = found.data.and_then(|mut data| data.remove(KEY));
        let kubeconfig = kubeconfig.ok_or_else(|| Unreached::NoKubeconfig(secret.clone()))?;
        let dialled = self.dial.reach(kubeconfig.0).await;
        dialled.map_err(|source| Unreached::Dial { secret, source })
    }
}
