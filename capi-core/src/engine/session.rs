//! Sessions: one per identity, shared, bounded, made again only after a refusal.
//!
//! # Guarantees
//!
//! A credentials Secret is read once per session, by name; again only after an error of class
//! `Credentials`, with a pause of 1 to 60 s between tries whatever the number of objects that ask
//! (ID-04). Nothing is on a timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Class, Classify, Connect, Credentials, Identity};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::backoff;
use super::clock::Clock;
use super::outcome::Failure;

/// How many sessions are kept. A session is a connection pool and a cached listing; a thousand
/// identities in one process is beyond what one process should serve.
const SESSIONS_MAX: usize = 1_000;

/// A session with the proof of which one it is.
pub(crate) struct Held<S> {
    pub(crate) session: Arc<S>,
    identity: Option<Identity>,
    generation: u64,
}

type Slot<S> = Arc<tokio::sync::Mutex<State<S>>>;

struct State<S> {
    session: Option<Arc<S>>,
    generation: u64,
    failures: u32,
    not_before: Duration,
    refusal: Option<String>,
}

struct Known<S> {
    slot: Slot<S>,
    used: Duration,
}

/// The sessions of one provider.
pub(crate) struct Sessions<C: Connect> {
    connector: C,
    client: Client,
    clock: Clock,
    call_timeout: Duration,
    known: Mutex<HashMap<Option<Identity>, Known<C::Session>>>,
}

impl<C: Connect> Sessions<C> {
    pub(crate) fn new(connector: C, client: Client, clock: Clock, call_timeout: Duration) -> Self {
        Self {
            connector,
            client,
            clock,
            call_timeout,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// The session of an identity, made if need be. Objects that ask at the same time share one try.
    pub(crate) async fn get(
        &self,
        identity: Option<Identity>,
    ) -> Result<Held<C::Session>, Failure> {
        let slot = self.slot(&identity);
        let mut state = slot.lock().await;
        if let Some(session) = &state.session {
            return Ok(Held {
                session: Arc::clone(session),
                identity,
                generation: state.generation,
            });
        }
        let now = self.clock.monotonic();
        if now < state.not_before {
            let message = state.refusal.clone().unwrap_or_default();
            return Err(Failure::new("Connect", Class::Credentials, message));
        }
        match self.connect(identity.as_ref()).await {
            Ok(session) => {
                let session = Arc::new(session);
                state.session = Some(Arc::clone(&session));
                state.generation += 1;
                Ok(Held {
                    session,
                    identity,
                    generation: state.generation,
                })
            }
            Err(failure) => {
                if failure.class == Class::Credentials {
                    self.refuse(&mut state, failure.message.clone());
                }
                Err(failure)
            }
        }
    }

    /// The backend refused this session: the next one is made from credentials read again.
    pub(crate) async fn refused(&self, held: &Held<C::Session>, message: &str) {
        let slot = self.slot(&held.identity);
        let mut state = slot.lock().await;
        // Others may have reported the same session before, and it may have been replaced since.
        if state.generation == held.generation && state.session.is_some() {
            state.session = None;
            self.refuse(&mut state, message.to_owned());
        }
    }

    /// The backend answered this session.
    pub(crate) async fn proved(&self, held: &Held<C::Session>) {
        let slot = self.slot(&held.identity);
        let mut state = slot.lock().await;
        if state.generation == held.generation && state.session.is_some() {
            state.failures = 0;
        }
    }

    fn refuse(&self, state: &mut State<C::Session>, message: String) {
        state.failures = state.failures.saturating_add(1);
        state.not_before = self.clock.monotonic() + backoff::credentials(state.failures);
        state.refusal = Some(message);
    }

    fn slot(&self, identity: &Option<Identity>) -> Slot<C::Session> {
        let now = self.clock.monotonic();
        let mut known = self.known.lock();
        if let Some(found) = known.get_mut(identity) {
            found.used = now;
            return Arc::clone(&found.slot);
        }
        if known.len() >= SESSIONS_MAX {
            let oldest = known.iter().min_by_key(|(_, k)| k.used);
            if let Some(oldest) = oldest.map(|(identity, _)| identity.clone()) {
                known.remove(&oldest);
            }
        }
        let slot = Arc::new(tokio::sync::Mutex::new(State {
            session: None,
            generation: 0,
            failures: 0,
            not_before: Duration::ZERO,
            refusal: None,
        }));
        known.insert(
            identity.clone(),
            Known {
                slot: Arc::clone(&slot),
                used: now,
            },
        );
        slot
    }

    async fn connect(&self, identity: Option<&Identity>) -> Result<C::Session, Failure> {
        let credentials = match identity {
            Some(identity) => Some(self.read(identity).await?),
            None => None,
        };
        let connecting = self.connector.connect(identity, credentials.as_ref());
        match timeout(self.call_timeout, connecting).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => {
                let failure = Failure::of("Connect", &error);
                let Some(identity) = identity.filter(|_| error.class() == Class::Credentials)
                else {
                    return Err(failure);
                };
                let message = format!("Secret {}: {}", identity.secret, failure.message);
                Err(Failure::new("Connect", Class::Credentials, message))
            }
            Err(_) => Err(Failure::new(
                "Connect",
                Class::Transient,
                "connecting to the backend took too long",
            )),
        }
    }

    async fn read(&self, identity: &Identity) -> Result<Credentials, Failure> {
        let name = &identity.secret;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &name.namespace);
        let secret = match api.get_opt(&name.name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                let message =
                    format!("Secret {name} with the credentials does not exist; create it");
                return Err(Failure::new("Connect", Class::Credentials, message));
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let message = format!("Secret {name} cannot be read; allow this program to get it");
                return Err(Failure::new("Connect", Class::Credentials, message));
            }
            Err(error) => {
                tracing::debug!(secret = %name, %error, "credentials could not be read");
                let message = format!("reading Secret {name} with the credentials failed");
                return Err(Failure::new("Connect", Class::Transient, message));
            }
        };
        let data = secret.data.unwrap_or_default();
        Ok(Credentials::new(
            data.into_iter().map(|(key, bytes)| (key, bytes.0)),
        ))
    }
}
