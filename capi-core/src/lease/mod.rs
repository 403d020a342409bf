//! Leader election by a Kubernetes Lease, so that of several replicas one acts.
//!
//! # Guarantees
//!
//! - Every write (acquire, renew, release) is conditional on the version that was seen: of two
//!   candidates that try at once, one is refused.
//! - Whether another's lease is over is judged by how long its record was seen not to change, on this
//!   machine's [`Clock`], which counts suspend. Wall clocks of machines are never compared.
//! - The holder counts from the moment at which it *sent* a renewal that was accepted, and stops
//!   [`LeaseOptions::renew_deadline`] later; a rival counts the longer [`LeaseOptions::duration`] from
//!   a later moment. [`Leadership`] is answered from the clock at every mutation (R2), so a process
//!   that was stopped (SIGSTOP, a suspended laptop, a frozen virtual machine) does nothing when it
//!   goes on, before anybody had a chance to tell it that it was succeeded.
//! - A lease is given back only after the work has ended, and only if it is still ours.
//!
//! # What happens when the lease is lost
//!
//! The future of the work is dropped, as if the process had crashed, and the candidate tries again
//! with a new one. The process goes on: [`Provider::run`](crate::Provider::run) spawns nothing and
//! starts from what is written on the objects (R12), so a restart of the container would bring nothing
//! but a pause and an alarm. Work that spawns tasks of its own must end them when it is dropped.
//!
//! # Example
//!
//! ```no_run
//! use capi_core::lease::{Election, LeaseOptions};
//!
//! # async fn example(client: kube::Client) -> Result<(), capi_core::lease::LeaseError> {
//! let options = LeaseOptions::new("capi-rack-system", "rack.infrastructure.cluster.x-k8s.io");
//! let stop = async {
//!     let _ = tokio::signal::ctrl_c().await;
//! };
//! Election::new(client, options)?
//!     .run(stop, |term| async move {
//!         // A provider warms its caches now and asks `term.leadership()` before it acts:
//!         // `Provider::new(..).options(Options { leadership: term.leadership(), .. })
//!         //     .run(client, term.stopped()).await`.
//!         // Work that asks nobody waits instead:
//!         term.elected().await;
//!         term.stopped().await;
//!     })
//!     .await;
//! # Ok(())
//! # }
//! ```

mod record;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use capi_contract::Token;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::record::{DURATION_MAX, Move, Sighting};
use crate::cause::chain;
use crate::engine::Clock;
use crate::options::Leadership;
use crate::telemetry::Telemetry;

/// How often a release that was refused is tried again. Only we renew what is ours, so one try that
/// meets our own late renewal is all that can happen.
const RELEASE_TRIES: usize = 3;

/// How long a release may take; afterwards a rival waits for the lease to run out.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// The part of the renew deadline that one request may take, so that a request which hangs leaves time
/// for another.
const REQUESTS_PER_DEADLINE: u32 = 2;

/// Settings of an [`Election`]. The defaults are those of the Cluster API managers: 15, 10 and 2 s.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Namespace of the Lease: the one that the program runs in.
    pub namespace: String,
    /// Name of the Lease; equal for all replicas of one program and for nothing else.
    pub name: String,
    /// Name of this candidate; must differ from any other's, also from that of an earlier life.
    pub identity: String,
    /// How long the holder may stay silent before another may take the lease.
    pub duration: Duration,
    /// How long the holder acts without having renewed; shorter than [`duration`](Self::duration), by
    /// as much as a request to the backend may take to leave.
    pub renew_deadline: Duration,
    /// Pause between two tries to acquire or to renew; shorter than
    /// [`renew_deadline`](Self::renew_deadline).
    pub retry_period: Duration,
    /// Name under which writes are recorded in `managedFields`.
    pub manager: String,
    /// Where time comes from; the same clock as the engine's.
    pub clock: Clock,
    /// Where metrics go.
    pub telemetry: Telemetry,
}

impl LeaseOptions {
    /// The usual settings, with an identity of this computer's name and random digits.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: format!("{host}_{}", Token::random()),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            manager: "capi-rs".to_owned(),
            clock: Clock::system(),
            telemetry: Telemetry::unread(),
        }
    }

    fn check(&self) -> Result<(), LeaseError> {
        let wrong = |field, why| Err(LeaseError::Option { field, why });
        if self.namespace.is_empty() {
            return wrong("namespace", "name the namespace that the program runs in");
        }
        if self.name.is_empty() {
            return wrong("name", "give the lease a name");
        }
        if self.identity.is_empty() {
            return wrong("identity", "give this candidate a name of its own");
        }
        if self.duration > DURATION_MAX {
            return wrong("duration", "at most an hour");
        }
        if self.duration < Duration::from_secs(1) {
            return wrong(
                "duration",
                "at least a second: the API counts whole seconds",
            );
        }
        if self.renew_deadline >= self.duration {
            return wrong("renew_deadline", "must be shorter than the lease duration");
        }
        if self.retry_period.is_zero() {
            return wrong("retry_period", "must be longer than nothing");
        }
        if self.retry_period >= self.renew_deadline {
            return wrong("retry_period", "must be shorter than the renew deadline");
        }
        Ok(())
    }
}

/// Why an election cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// A setting cannot be used.
    #[error("lease option {field}: {why}")]
    Option {
        /// The field of [`LeaseOptions`].
        field: &'static str,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
}

/// A candidate for one Lease. See the [module](self).
pub struct Election {
    api: Api<Lease>,
    options: LeaseOptions,
    shared: Arc<Shared>,
    sighting: Sighting,
    /// The Lease as our last write left it, as long as no write has failed since.
    held: Option<Lease>,
    /// A write of ours was accepted, or its answer is not known.
    may_hold: bool,
    failures: u32,
}

/// What work is told about the election.
#[derive(Clone)]
pub struct Term {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    clock: Clock,
    /// Until when this process may act, in nanoseconds of the clock; 0 while it does not lead.
    deadline: AtomicU64,
    elected: watch::Sender<bool>,
}

impl Shared {
    fn holds(&self) -> bool {
        self.clock.monotonic() < self.deadline()
    }

    fn deadline(&self) -> Duration {
        Duration::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    fn leads_until(&self, deadline: Duration) {
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        self.deadline.store(nanos, Ordering::Release);
        self.elected.send_replace(nanos > 0);
    }
}

impl Term {
    /// Whether this process may act, for [`Options::leadership`](crate::Options::leadership).
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        let shared = Arc::clone(&self.shared);
        Leadership::when(move || shared.holds())
    }

    /// Waits until this process leads. When it does no more, the work is dropped.
    pub async fn elected(&self) {
        let mut elected = self.shared.elected.subscribe();
        // The sender lives as long as `self`.
        let _ = elected.wait_for(|elected| *elected).await;
    }

    /// Waits until the work is to come to its end.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stop.clone().cancelled_owned()
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term")
            .field("leads", &self.shared.holds())
            .field("stopped", &self.stop.is_cancelled())
            .finish()
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election")
            .field("options", &self.options)
            .field("leads", &self.shared.holds())
            .finish_non_exhaustive()
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        // Nobody renews any more; what is left of the work must not act on what is left of the time.
        self.step_down();
    }
}

impl Election {
    /// A candidate that does nothing yet. Use [`client`](crate::client()) to make the client.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Option`] for settings that cannot be used.
    pub fn new(client: Client, options: LeaseOptions) -> Result<Self, LeaseError> {
        options.check()?;
        let shared = Shared {
            clock: options.clock.clone(),
            deadline: AtomicU64::new(0),
            elected: watch::Sender::new(false),
        };
        Ok(Self {
            api: Api::namespaced(client, &options.namespace),
            options,
            shared: Arc::new(shared),
            sighting: Sighting::default(),
            held: None,
            may_hold: false,
            failures: 0,
        })
    }

    /// Stands for election and works, until `shutdown` is ready and the work has come to its end.
    ///
    /// `work` is begun at once, as a candidate, so that a replica which waits has warm caches; it must
    /// ask [`Term::leadership`] before it acts, or wait for [`Term::elected`]. When the lease is lost,
    /// the work is dropped and begun anew. At the shutdown the work hears [`Term::stopped`], the lease
    /// is renewed until the work has ended, and then given back.
    ///
    /// Returns what the work returned, or `None` if the lease was lost while the work came to its end.
    /// Work that ends before the shutdown ends the election too.
    pub async fn run<T, W, F>(
        mut self,
        shutdown: impl Future<Output = ()> + Send,
        mut work: W,
    ) -> Option<T>
    where
        W: FnMut(Term) -> F,
        F: Future<Output = T>,
    {
        let stop = CancellationToken::new();
        let mut shutdown = pin!(shutdown);
        let result = loop {
            let term = Term {
                shared: Arc::clone(&self.shared),
                stop: stop.clone(),
            };
            let mut working = pin!(work(term));
            let mut campaign = pin!(self.campaign());
            let ended = loop {
                tokio::select! {
                    biased;
                    result = &mut working => break Some(result),
                    () = &mut campaign => break None,
                    () = &mut shutdown, if !stop.is_cancelled() => stop.cancel(),
                }
            };
            if ended.is_some() || stop.is_cancelled() {
                break ended;
            }
            tracing::warn!("the work is begun anew, as a candidate");
        };
        self.release().await;
        result
    }

    /// Acquires and renews; returns when leadership was lost.
    async fn campaign(&mut self) {
        loop {
            let asked = self.now();
            match timeout(self.request_limit(asked), self.attempt()).await {
                Ok(Ok(standing)) => {
                    self.failures = 0;
                    if !self.take(standing, asked) {
                        tracing::warn!(lease = %self.options.name, "another took the lease");
                        return;
                    }
                }
                Ok(Err(error)) => self.report(&chain(&error)),
                Err(_) => self.report("no answer in time"),
            }
            let now = self.now();
            if self.leads() && now >= self.shared.deadline() {
                tracing::warn!(lease = %self.options.name, "the lease was not renewed in time");
                self.step_down();
                return;
            }
            sleep(self.pause(now)).await;
        }
    }

    /// Takes in what a try brought; false if leadership was lost by it.
    fn take(&mut self, standing: Standing, asked: Duration) -> bool {
        match standing {
            Standing::Held => {
                if !self.leads() {
                    tracing::info!(lease = %self.options.name, "this process leads");
                }
                self.shared
                    .leads_until(asked.saturating_add(self.options.renew_deadline));
                self.options.telemetry.leads(true);
                true
            }
            Standing::Open => true,
            Standing::Anothers => {
                let led = self.leads();
                self.step_down();
                !led
            }
        }
    }

    /// At most one look at the Lease and one write.
    async fn attempt(&mut self) -> Result<Standing, kube::Error> {
        let (next, seen) = match self.held.take() {
            // Nobody else has written if the patch is accepted, so there is no need to look.
            Some(held) => (Move::Renew, Some(held)),
            None => {
                let seen = self.api.get_opt(&self.options.name).await?;
                let me = &self.options.identity;
                let next = self.sighting.look(me, seen.as_ref(), self.now());
                (next, seen)
            }
        };
        let wall = self.shared.clock.wall();
        let (me, duration) = (&self.options.identity, self.options.duration);
        let written = match (next, seen) {
            (Move::Wait, _) => {
                self.may_hold = false;
                return Ok(Standing::Anothers);
            }
            (Move::Take | Move::Renew, Some(seen)) => {
                self.may_hold = true;
                self.patch(&record::claim(me, duration, &seen, wall)).await
            }
            (Move::Create, _) | (_, None) => {
                self.may_hold = true;
                let lease = record::first(me, &self.options.name, duration, wall);
                let params = PostParams {
                    field_manager: Some(self.options.manager.clone()),
                    ..PostParams::default()
                };
                self.api.create(&params, &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.held = Some(lease);
                self.sighting = Sighting::default();
                Ok(Standing::Held)
            }
            // Somebody else wrote, or deleted it; the next look tells who. Until then the last
            // renewal carries.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                tracing::debug!(lease = %self.options.name, "the lease has changed meanwhile");
                Ok(Standing::Open)
            }
            Err(error) => Err(error),
        }
    }

    async fn patch(&self, patch: &serde_json::Value) -> Result<Lease, kube::Error> {
        let params = PatchParams {
            field_manager: Some(self.options.manager.clone()),
            ..PatchParams::default()
        };
        let name = &self.options.name;
        self.api.patch(name, &params, &Patch::Merge(patch)).await
    }

    /// Gives the lease back if it is, or may be, ours.
    async fn release(&mut self) {
        self.step_down();
        if !self.may_hold {
            return;
        }
        let lease = &self.options.name;
        match timeout(RELEASE_WITHIN, self.give_back()).await {
            Ok(Ok(())) => tracing::info!(%lease, "the lease is given back"),
            Ok(Err(error)) => {
                tracing::warn!(%lease, error = chain(&error), "the lease was not given back");
            }
            Err(_) => tracing::warn!(%lease, "the lease was not given back in time"),
        }
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        let mut tries = 1;
        loop {
            let Some(seen) = self.api.get_opt(&self.options.name).await? else {
                return Ok(());
            };
            if record::holder(&seen) != Some(&self.options.identity) {
                return Ok(());
            }
            let patch = record::release(&seen, self.shared.clock.wall());
            match self.patch(&patch).await {
                Err(kube::Error::Api(status)) if status.code == 409 && tries < RELEASE_TRIES => {
                    tries += 1;
                }
                other => return other.map(drop),
            }
        }
    }

    fn now(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    /// Whether this process leads, or did until its time ran out a moment ago.
    fn leads(&self) -> bool {
        !self.shared.deadline().is_zero()
    }

    fn step_down(&mut self) {
        self.held = None;
        self.shared.leads_until(Duration::ZERO);
        self.options.telemetry.leads(false);
    }

    fn request_limit(&self, now: Duration) -> Duration {
        let share = self.options.renew_deadline / REQUESTS_PER_DEADLINE;
        if self.leads() {
            share.min(self.shared.deadline().saturating_sub(now))
        } else {
            share
        }
    }

    fn pause(&self, now: Duration) -> Duration {
        let period = self.options.retry_period;
        if self.leads() {
            period.min(self.shared.deadline().saturating_sub(now))
        } else {
            period
        }
    }

    /// Warns of the first failure in a row.
    fn report(&mut self, error: &str) {
        self.failures = self.failures.saturating_add(1);
        self.options.telemetry.lease_failed();
        let lease = &self.options.name;
        if self.failures == 1 {
            tracing::warn!(%lease, error, "the lease could not be read or written; it is retried");
        } else {
            tracing::debug!(%lease, error, "the lease could not be read or written again");
        }
    }
}

/// How we stand after a try.
#[derive(Clone, Copy)]
enum Standing {
    /// The lease is ours, from the moment at which we asked.
    Held,
    /// Nothing is known that was not known before.
    Open,
    /// The lease is another's.
    Anothers,
}
