//! Sessions: one per identity, shared, bounded, made again only after a refusal.
//!
//! # Guarantees
//!
//! A credentials Secret is read once per session, by name; again only after an error of class
//! `Credentials`, with a pause of 1 to 60 s between tries whatever the number of objects that ask
//! (ID-04). Nothing is on a timer. Credentials that turn out to be the same keep their session, with
//! all that it knows.
//!
//! A refusal may be about one object, which lacks a right, or about the session, whose token was
//! revoked. It is about the session where nobody is answered on it any more: only then are the
//! others held back, so that one machine without rights does not stop its neighbours.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Class, Classify, Connect, Credentials, Identity};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::backoff;
use super::clock::Clock;
use super::outcome::Failure;

/// How many sessions are kept. A session is a connection pool and a cached listing; a thousand
/// identities in one process is beyond what one process should serve.
const SESSIONS_MAX: usize = 1_000;

/// How long an answer shows that a session is good, whatever one object was refused: settled things
/// are looked at every few seconds.
const PROVED_FOR: Duration = Duration::from_secs(15);

/// A session with the proof of which one it is.
pub(crate) struct Held<S> {
    pub(crate) session: Arc<S>,
    identity: Option<Identity>,
    generation: u64,
}

type Slot<S> = Arc<tokio::sync::Mutex<State<S>>>;

struct State<S> {
    session: Option<Arc<S>>,
    /// What the session was made from.
    credentials: Option<Credentials>,
    generation: u64,
    /// Whether the credentials are to be read again.
    suspect: bool,
    failures: u32,
    not_before: Duration,
    refusal: Option<String>,
    /// When the backend last answered a session of this identity.
    proved_at: Option<Duration>,
}

impl<S> State<S> {
    /// The session, if there is one that may be used.
    fn usable(&self, now: Duration) -> Option<&Arc<S>> {
        let is_good = !self.suspect || self.is_proved(now);
        self.session.as_ref().filter(|_| is_good)
    }

    fn is_proved(&self, now: Duration) -> bool {
        self.proved_at.is_some_and(|at| now < at + PROVED_FOR)
    }
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
    /// The session of each identity that may be used, for those that follow it.
    live: Mutex<Live<C::Session>>,
    changed: Notify,
}

type Live<S> = HashMap<Option<Identity>, Arc<S>>;

impl<C: Connect> Sessions<C> {
    pub(crate) fn new(connector: C, client: Client, clock: Clock, call_timeout: Duration) -> Self {
        Self {
            connector,
            client,
            clock,
            call_timeout,
            known: Mutex::new(HashMap::new()),
            live: Mutex::new(HashMap::new()),
            changed: Notify::new(),
        }
    }

    pub(super) fn connector(&self) -> &C {
        &self.connector
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The sessions that are there now.
    pub(super) fn live(&self) -> Live<C::Session> {
        self.live.lock().clone()
    }

    /// Waits until there are others.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Ends the sessions that nobody has asked for in this time.
    pub(super) fn forget_idle(&self, idle: Duration) {
        let now = self.now();
        let mut known = self.known.lock();
        known.retain(|identity, one| {
            let stays = now < one.used + idle;
            if !stays {
                self.end(identity);
            }
            stays
        });
        // One that was made while its place was given to another.
        let mut live = self.live.lock();
        live.retain(|identity, _| known.contains_key(identity));
    }

    fn begin(&self, identity: Option<&Identity>, session: Arc<C::Session>) {
        self.live.lock().insert(identity.cloned(), session);
        self.changed.notify_one();
    }

    fn end(&self, identity: &Option<Identity>) {
        if self.live.lock().remove(identity).is_some() {
            self.changed.notify_one();
        }
    }

    /// The session of an identity, made if need be. Objects that ask at the same time share one try.
    pub(crate) async fn get(
        &self,
        identity: Option<Identity>,
    ) -> Result<Held<C::Session>, Failure> {
        let slot = self.slot(&identity);
        let mut state = slot.lock().await;
        let now = self.clock.monotonic();
        let is_due = (state.suspect || state.session.is_none()) && now >= state.not_before;
        if is_due {
            self.renew(&mut state, identity.as_ref()).await?;
        }
        match state.usable(now) {
            Some(session) => Ok(Held {
                session: Arc::clone(session),
                identity,
                generation: state.generation,
            }),
            None => {
                let message = state.refusal.clone().unwrap_or_default();
                Err(Failure::new("Connect", Class::Credentials, message))
            }
        }
    }

    /// Reads the credentials, and makes a session of them if they are not those of the present one.
    async fn renew(
        &self,
        state: &mut State<C::Session>,
        identity: Option<&Identity>,
    ) -> Result<(), Failure> {
        match self.connect(identity, state).await {
            Ok(()) => {
                state.suspect = false;
                Ok(())
            }
            Err(failure) => {
                if failure.class == Class::Credentials {
                    self.refuse(state, failure.message.clone());
                    // What is in the Secret now cannot be used, whatever was there before.
                    state.session = None;
                    self.end(&identity.cloned());
                }
                Err(failure)
            }
        }
    }

    /// The backend refused this session: the credentials are read again.
    pub(crate) async fn refused(&self, held: &Held<C::Session>, message: &str) {
        let slot = self.slot(&held.identity);
        let mut state = slot.lock().await;
        // Others may have reported the same session before, and it may have been replaced since.
        if state.generation == held.generation && !state.suspect {
            state.suspect = true;
            self.refuse(&mut state, message.to_owned());
        }
    }

    /// The backend answered this session.
    pub(crate) async fn proved(&self, held: &Held<C::Session>) {
        let slot = self.slot(&held.identity);
        let mut state = slot.lock().await;
        if state.generation == held.generation && state.session.is_some() {
            state.failures = 0;
            state.proved_at = Some(self.clock.monotonic());
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
                self.end(&oldest);
            }
        }
        let slot = Arc::new(tokio::sync::Mutex::new(State {
            session: None,
            credentials: None,
            generation: 0,
            suspect: false,
            failures: 0,
            not_before: Duration::ZERO,
            refusal: None,
            proved_at: None,
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

    async fn connect(
        &self,
        identity: Option<&Identity>,
        state: &mut State<C::Session>,
    ) -> Result<(), Failure> {
        let credentials = match identity {
            Some(identity) => Some(self.read(identity).await?),
            None => None,
        };
        if state.session.is_some() && credentials.is_some() && credentials == state.credentials {
            return Ok(());
        }
        let connecting = self.connector.connect(identity, credentials.as_ref());
        match timeout(self.call_timeout, connecting).await {
            Ok(Ok(session)) => {
                let session = Arc::new(session);
                self.begin(identity, Arc::clone(&session));
                state.session = Some(session);
                state.credentials = credentials;
                state.generation += 1;
                Ok(())
            }
            Ok(Err(error)) => {
                let failure = Failure::of("Connect", &error);
                let Some(identity) = identity.filter(|_| error.class() == Class::Credentials)
                else {
                    return Err(failure);
                };
                let secret = format!("Secret {}", identity.secret);
                let message = if failure.message.starts_with(&secret) {
                    failure.message
                } else {
                    format!("{secret}: {}", failure.message)
                };
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
