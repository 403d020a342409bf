//! Providers that are weak on purpose, to see that a test can fail.
//!
//! A sweep that is green says little before it has been red. [`Weakened`] is a provider with one of its
//! answers bent: it asks the real one whatever its [`Weaken`] does not answer otherwise, so a weakness
//! is only the method that it is about. It is an [`InfraMachine`] where the real one is, and an
//! [`InfraCluster`] likewise, and takes its place in whatever world runs it.
//!
//! # Ready-made
//!
//! | weakness | breaks | met by |
//! |---|---|---|
//! | [`UnsettledIsAbsent`] | unknown is not absent (R5) | [`Family::Crashes`], on a backend that is slower than a create is waited for |
//! | [`EmptyAtFirst`] | a cache that was not filled yet proves nothing (R4, R5) | [`Family::Crashes`] |
//! | [`GoneOnceSent`] | only an observed absence ends a teardown (R4) | [`Family::Answers`]; where destroying takes its time, [`Family::Deletions`] |
//! | [`without_preconditions`] | a conditional write precedes every step (R2) | [`Family::StaleCrashes`] |
//!
//! The last one is no provider's but its client's. Which of them a backend makes harmless depends on
//! the backend: where a name is given once, a twin is refused there.
//!
//! # Example
//!
//! A weakness of one's own, and one of any provider's machines with it:
//!
//! ```
//! use capi_contract::{External, InfraMachine, Receipt, Supply};
//! use capi_testkit::weakness::{Weaken, Weakened};
//!
//! /// A step that failed is taken for done.
//! struct FailureIsDone;
//!
//! impl<T: External> Weaken<T> for FailureIsDone {
//!     async fn apply(
//!         &self,
//!         real: &T,
//!         on: &T::Session,
//!         claim: &T::Claim,
//!         step: &T::Step,
//!         supply: Supply<'_>,
//!     ) -> Result<Receipt, T::Error> {
//!         let receipt = real.apply(on, claim, step, supply).await;
//!         Ok(receipt.unwrap_or(Receipt::Finished))
//!     }
//! }
//!
//! fn weak<M: InfraMachine>(machines: M) -> impl InfraMachine<Kind = M::Kind, Session = M::Session> {
//!     Weakened::new(machines, FailureIsDone)
//! }
//! ```
//!
//! A sweep over a world that runs `weak(machines)` must then have failures:
//! `assert!(!report.is_clean())`.
//!
//! # Guarantees
//!
//! Every method, constant and type of the seam is the real provider's, those with a default included.
//!
//! [`Family::Crashes`]: crate::sweep::Family::Crashes
//! [`Family::StaleCrashes`]: crate::sweep::Family::StaleCrashes
//! [`Family::Answers`]: crate::sweep::Family::Answers
//! [`Family::Deletions`]: crate::sweep::Family::Deletions
//! [`without_preconditions`]: crate::faults::without_preconditions

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use capi_contract::view::{ClusterView, MachineView};
use capi_contract::{
    Child, ChildKind, Claim, Depth, External, Extras, Identity, InfraCluster, InfraMachine, Lookup,
    Lost, Mark, Operation, Plan, Progress, Receipt, Step, Supply, Teardown,
};
use parking_lot::Mutex;

/// What a provider answers otherwise than it should. Each method stands for the one of [`External`] with
/// its name, gets the real provider, and asks it unless it is overridden.
pub trait Weaken<T: External>: Send + Sync + 'static {
    /// In place of [`External::nothing_outside`].
    fn nothing_outside(&self, real: &T) -> bool {
        real.nothing_outside()
    }

    /// In place of [`External::creates_once`].
    fn creates_once(&self, real: &T) -> bool {
        real.creates_once()
    }

    /// In place of [`External::recover`].
    fn recover(
        &self,
        real: &T,
        on: &T::Session,
        lost: &Lost<'_, T::Object>,
    ) -> impl Future<Output = Result<Option<T::Claim>, T::Error>> + Send {
        real.recover(on, lost)
    }

    /// In place of [`External::claim`].
    fn claim(
        &self,
        real: &T,
        on: &T::Session,
        scope: &T::Scope,
        given_up: Option<&T::Claim>,
    ) -> impl Future<Output = Result<T::Claim, T::Error>> + Send {
        real.claim(on, scope, given_up)
    }

    /// In place of [`External::observe`].
    fn observe(
        &self,
        real: &T,
        on: &T::Session,
        claim: &T::Claim,
        depth: Depth,
    ) -> impl Future<Output = Result<Lookup<T::Seen>, T::Error>> + Send {
        real.observe(on, claim, depth)
    }

    /// In place of [`External::plan`].
    fn plan(
        &self,
        real: &T,
        scope: &T::Scope,
        claim: &T::Claim,
        seen: Option<&T::Seen>,
    ) -> Plan<T::Step> {
        real.plan(scope, claim, seen)
    }

    /// In place of [`External::plan_teardown`].
    fn plan_teardown(&self, real: &T, claim: &T::Claim, seen: &T::Seen) -> Teardown<T::Step> {
        real.plan_teardown(claim, seen)
    }

    /// In place of [`External::apply`].
    fn apply(
        &self,
        real: &T,
        on: &T::Session,
        claim: &T::Claim,
        step: &T::Step,
        supply: Supply<'_>,
    ) -> impl Future<Output = Result<Receipt, T::Error>> + Send {
        real.apply(on, claim, step, supply)
    }

    /// In place of [`External::poll`].
    fn poll(
        &self,
        real: &T,
        on: &T::Session,
        operation: &Operation,
    ) -> impl Future<Output = Result<Progress<T::Error>, T::Error>> + Send {
        real.poll(on, operation)
    }

    /// In place of [`External::facts`].
    fn facts(&self, real: &T, scope: &T::Scope, claim: &T::Claim, seen: &T::Seen) -> T::Facts {
        real.facts(scope, claim, seen)
    }
}

/// A provider that is weak in one place. The words of the contract (condition, finalizer, identity,
/// children, ...) are the real one's.
#[derive(Clone, Copy, Debug)]
pub struct Weakened<T, W> {
    real: T,
    weakness: W,
}

impl<T: External, W: Weaken<T>> Weakened<T, W> {
    /// Weakens a provider. What the weakness remembers begins anew, as it would in a new process.
    pub fn new(real: T, weakness: W) -> Self {
        Self { real, weakness }
    }
}

impl<T, W> Weakened<T, W> {
    /// The provider that is weakened.
    pub fn real(&self) -> &T {
        &self.real
    }
}

impl<T: External, W: Weaken<T>> External for Weakened<T, W> {
    type Object = T::Object;
    type Scope = T::Scope;
    type Session = T::Session;
    type Claim = T::Claim;
    type Seen = T::Seen;
    type Step = T::Step;
    type Facts = T::Facts;
    type Error = T::Error;

    fn nothing_outside(&self) -> bool {
        self.weakness.nothing_outside(&self.real)
    }

    fn creates_once(&self) -> bool {
        self.weakness.creates_once(&self.real)
    }

    fn recover(
        &self,
        on: &T::Session,
        lost: &Lost<'_, T::Object>,
    ) -> impl Future<Output = Result<Option<T::Claim>, T::Error>> + Send {
        self.weakness.recover(&self.real, on, lost)
    }

    fn claim(
        &self,
        on: &T::Session,
        scope: &T::Scope,
        given_up: Option<&T::Claim>,
    ) -> impl Future<Output = Result<T::Claim, T::Error>> + Send {
        self.weakness.claim(&self.real, on, scope, given_up)
    }

    fn observe(
        &self,
        on: &T::Session,
        claim: &T::Claim,
        depth: Depth,
    ) -> impl Future<Output = Result<Lookup<T::Seen>, T::Error>> + Send {
        self.weakness.observe(&self.real, on, claim, depth)
    }

    fn plan(&self, scope: &T::Scope, claim: &T::Claim, seen: Option<&T::Seen>) -> Plan<T::Step> {
        self.weakness.plan(&self.real, scope, claim, seen)
    }

    fn plan_teardown(&self, claim: &T::Claim, seen: &T::Seen) -> Teardown<T::Step> {
        self.weakness.plan_teardown(&self.real, claim, seen)
    }

    fn apply(
        &self,
        on: &T::Session,
        claim: &T::Claim,
        step: &T::Step,
        supply: Supply<'_>,
    ) -> impl Future<Output = Result<Receipt, T::Error>> + Send {
        self.weakness.apply(&self.real, on, claim, step, supply)
    }

    fn poll(
        &self,
        on: &T::Session,
        operation: &Operation,
    ) -> impl Future<Output = Result<Progress<T::Error>, T::Error>> + Send {
        self.weakness.poll(&self.real, on, operation)
    }

    fn facts(&self, scope: &T::Scope, claim: &T::Claim, seen: &T::Seen) -> T::Facts {
        self.weakness.facts(&self.real, scope, claim, seen)
    }
}

impl<T: InfraMachine, W: Weaken<T>> InfraMachine for Weakened<T, W> {
    const CONDITION: &'static str = T::CONDITION;
    const FINALIZER: &'static str = T::FINALIZER;
    const SPEC_WRITES: &'static [&'static str] = T::SPEC_WRITES;
    const CONDITIONS: &'static [&'static str] = T::CONDITIONS;
    const PROVIDER_ID_IS_CLAIMED: bool = T::PROVIDER_ID_IS_CLAIMED;

    type Kind = T::Kind;
    type Cluster = T::Cluster;
    type Status = T::Status;

    fn identity(
        &self,
        object: &T::Kind,
        cluster: Option<&T::Cluster>,
        failure_domain: Option<&str>,
    ) -> Option<Identity> {
        self.real.identity(object, cluster, failure_domain)
    }

    fn objects(&self, object: &T::Kind, cluster: &T::Cluster, machine: &MachineView) -> Vec<Child> {
        self.real.objects(object, cluster, machine)
    }

    fn child_kinds(&self) -> &'static [ChildKind] {
        self.real.child_kinds()
    }

    fn unsupported(&self, object: &T::Kind, cluster: &T::Cluster) -> Vec<String> {
        self.real.unsupported(object, cluster)
    }
}

impl<T: InfraCluster, W: Weaken<T>> InfraCluster for Weakened<T, W> {
    const CONDITION: &'static str = T::CONDITION;
    const FINALIZER: &'static str = T::FINALIZER;
    const SECRET_FINALIZER: Option<&'static str> = T::SECRET_FINALIZER;
    const EXTRAS: Option<Extras> = T::EXTRAS;

    type Kind = T::Kind;
    type Status = T::Status;

    fn identity(&self, object: &T::Kind) -> Option<Identity> {
        self.real.identity(object)
    }

    fn objects(&self, object: &T::Kind, cluster: &ClusterView) -> Vec<Child> {
        self.real.objects(object, cluster)
    }

    fn child_kinds(&self) -> &'static [ChildKind] {
        self.real.child_kinds()
    }

    fn endpoint_is_external(&self, object: &T::Kind) -> bool {
        self.real.endpoint_is_external(object)
    }

    fn unsupported(&self, object: &T::Kind) -> Vec<String> {
        self.real.unsupported(object)
    }
}

/// What cannot be told now is taken for absent, at whatever depth.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnsettledIsAbsent;

impl<T: External> Weaken<T> for UnsettledIsAbsent {
    async fn observe(
        &self,
        real: &T,
        on: &T::Session,
        claim: &T::Claim,
        depth: Depth,
    ) -> Result<Lookup<T::Seen>, T::Error> {
        Ok(match real.observe(on, claim, depth).await? {
            Lookup::Unsettled(_) => Lookup::Absent,
            known @ (Lookup::Absent | Lookup::Ours(_) | Lookup::Foreign(_)) => known,
        })
    }
}

/// The first looks find nothing, as in a cache that has not been filled yet.
#[derive(Debug)]
pub struct EmptyAtFirst {
    looks_left: AtomicUsize,
}

impl EmptyAtFirst {
    /// So many looks find nothing.
    pub fn looks(count: usize) -> Self {
        Self {
            looks_left: AtomicUsize::new(count),
        }
    }
}

impl<T: External> Weaken<T> for EmptyAtFirst {
    async fn observe(
        &self,
        real: &T,
        on: &T::Session,
        claim: &T::Claim,
        depth: Depth,
    ) -> Result<Lookup<T::Seen>, T::Error> {
        let one_less = |left: usize| left.checked_sub(1);
        let left = self
            .looks_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if left.is_ok() {
            return Ok(Lookup::Absent);
        }
        real.observe(on, claim, depth).await
    }
}

/// Once a step has been sent, the thing is said to be gone, whatever became of the request.
#[derive(Debug)]
pub struct GoneOnceSent {
    step: &'static str,
    /// Marks of what is said to be gone; a world of a test has a handful.
    gone: Mutex<Vec<Mark>>,
}

impl GoneOnceSent {
    /// The step with this [name](Step::name), which destroys the thing.
    pub fn step(name: &'static str) -> Self {
        Self {
            step: name,
            gone: Mutex::default(),
        }
    }
}

impl<T: External> Weaken<T> for GoneOnceSent {
    async fn observe(
        &self,
        real: &T,
        on: &T::Session,
        claim: &T::Claim,
        depth: Depth,
    ) -> Result<Lookup<T::Seen>, T::Error> {
        if self.gone.lock().contains(claim.mark()) {
            return Ok(Lookup::Absent);
        }
        real.observe(on, claim, depth).await
    }

    async fn apply(
        &self,
        real: &T,
        on: &T::Session,
        claim: &T::Claim,
        step: &T::Step,
        supply: Supply<'_>,
    ) -> Result<Receipt, T::Error> {
        let receipt = real.apply(on, claim, step, supply).await;
        if step.name() != self.step {
            return receipt;
        }
        self.gone.lock().push(claim.mark().clone());
        Ok(receipt.unwrap_or(Receipt::Finished))
    }
}
