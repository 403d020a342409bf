//! The short way: backends that make a machine in one call.
//!
//! # Flow
//!
//! The author writes five methods of [`Instances`]; [`ByInstance`] turns them into an
//! [`InfraMachine`] with the same guarantees as one written by hand: `find` is the look, the claim is
//! nothing but the [`Mark`], surplus instances are removed, `recover` is `find`.
//!
//! # Guarantees
//!
//! After any crash, and whatever the backend did with a request whose answer was lost, exactly one
//! instance of a machine is kept, and none after its deletion.
//!
//! # Assumptions
//!
//! `find` returns *all* instances that bear the owner token and the object of the mark, whatever
//! their claim token, including those that are still being made and those that are stopping.

use std::future::Future;
use std::time::Duration;

use crate::bootstrap::{Bootstrap, Supply};
use crate::class::{Class, Classify};
use crate::connect::Identity;
use crate::external::{External, Lost, Object};
use crate::lookup::{Depth, Lookup};
use crate::machine::{InfraMachine, MachineFacts, MachineScope};
use crate::mark::{Mark, Proof};
use crate::operation::Receipt;
use crate::plan::{Plan, Teardown, Waiting};
use crate::step::{Effect, Step};

/// How the backend's create behaves when it is asked twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The name is ours to choose, derived from the mark, and the backend refuses a second.
    Exclusive,
    /// The backend honours an idempotency key; the mark's token is one.
    Keyed,
    /// Neither: an unanswered create may still take effect for this long.
    Ambiguous {
        /// Longer than a request may be in flight or queued.
        settle: Duration,
    },
}

/// How long an unanswered create of an [`Exclusive`](Creation::Exclusive) or
/// [`Keyed`](Creation::Keyed) backend is waited for before its absence is believed. Creating again
/// would be harmless, but a finalizer must not go before a late create has landed; twice the usual
/// 30 s limit of a request.
const SETTLE: Duration = Duration::from_secs(60);

/// How soon to look again for an instance that is being made or removed.
const RECHECK: Duration = Duration::from_secs(5);

/// What an instance is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceState {
    /// Being made or booting.
    Pending,
    /// Runs.
    Running,
    /// Being removed.
    Stopping,
    /// Will never run; the text says why.
    Failed(String),
}

/// One instance, as [`Instances::find`] reports it.
pub trait Instance: Send + Sync + 'static {
    /// The mark that it bears, read from the instance itself.
    fn mark(&self) -> &Mark;

    /// What it is doing.
    fn state(&self) -> InstanceState;
}

/// What is created.
#[derive(Debug)]
#[non_exhaustive]
pub struct Order<'a, K> {
    /// The mark that the instance must bear from the first moment.
    pub mark: &'a Mark,
    /// The InfraMachine.
    pub object: &'a K,
    /// The bootstrap data; `None` for machines that have none (IM-14).
    pub bootstrap: Option<&'a Bootstrap>,
}

impl<'a, K> Order<'a, K> {
    /// An order; the adapter makes it, and whoever wraps [`Instances`] in another.
    pub fn new(mark: &'a Mark, object: &'a K, bootstrap: Option<&'a Bootstrap>) -> Self {
        Self {
            mark,
            object,
            bootstrap,
        }
    }
}

/// A backend that makes a machine in one call.
pub trait Instances: Send + Sync + 'static {
    /// How a create behaves when it is asked twice.
    const CREATION: Creation;
    /// The finalizer, domain-qualified (IC-12).
    const FINALIZER: &'static str;
    /// Type of the condition that says whether the machine is made.
    const CONDITION: &'static str = "Provisioned";

    /// The InfraMachine kind.
    type Kind: Object;
    /// The InfraCluster kind.
    type Cluster: Object;
    /// A connected client.
    type Session: Send + Sync + 'static;
    /// One instance.
    type Instance: Instance;
    /// What can go wrong.
    type Error: Classify;

    /// Finds all instances that bear this mark's owner and object, whatever their claim token.
    ///
    /// *Must* fail rather than return an incomplete list. *Must not* mutate.
    fn find(
        &self,
        on: &Self::Session,
        mark: &Mark,
    ) -> impl Future<Output = Result<Vec<Self::Instance>, Self::Error>> + Send;

    /// Creates one instance with one request that carries the mark. *Must not* wait for it to run.
    fn create(
        &self,
        on: &Self::Session,
        order: Order<'_, Self::Kind>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Removes one instance with one request. *Must not* wait for it to be gone.
    fn destroy(
        &self,
        on: &Self::Session,
        instance: &Self::Instance,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// What to tell Kubernetes about an instance. Pure. `running` is filled in by the adapter.
    fn facts(&self, object: &Self::Kind, instance: &Self::Instance) -> MachineFacts<()>;

    /// Names the credentials; `None`, the default, means the process's own.
    fn identity(&self, _object: &Self::Kind, _cluster: Option<&Self::Cluster>) -> Option<Identity> {
        None
    }
}

/// Turns any [`Instances`] into an [`InfraMachine`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ByInstance<I>(pub I);

/// The steps of [`ByInstance`].
#[derive(Clone, Debug)]
pub enum InstanceStep<K> {
    /// Create the instance.
    Create {
        /// The object to create it for.
        object: Box<K>,
        /// How long an unanswered create may still take effect.
        settle: Duration,
        /// Whether there is bootstrap data.
        bootstrap: bool,
    },
    /// Remove the instance with this index of the observation.
    Destroy {
        /// The claim token of the instance to remove, with its position among equals.
        token: Proof,
        /// Position among the instances that bear this token.
        position: usize,
    },
}

impl<K: Send + Sync> Step for InstanceStep<K> {
    fn name(&self) -> &'static str {
        match self {
            InstanceStep::Create { .. } => "Create",
            InstanceStep::Destroy { .. } => "Destroy",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            InstanceStep::Create { settle, .. } => Effect::Creates { settle: *settle },
            InstanceStep::Destroy { .. } => Effect::Destroys,
        }
    }

    fn wants_bootstrap(&self) -> bool {
        matches!(
            self,
            InstanceStep::Create {
                bootstrap: true,
                ..
            }
        )
    }
}

/// What [`ByInstance`] observes: all instances of the object, the kept one first.
#[derive(Debug)]
pub struct Found<I>(Vec<I>);

impl<I: Instance> Found<I> {
    fn new(claim: &Mark, mut all: Vec<I>) -> Self {
        // The instance of this claim is kept, and of several the one that is furthest; stable, so
        // that two passes choose the same.
        all.sort_by_key(|i| (i.mark() != claim, rank(&i.state())));
        Self(all)
    }

    /// The instance that is kept.
    pub fn kept(&self) -> Option<&I> {
        self.0.first()
    }

    fn destroy(&self, index: usize) -> Option<(Proof, usize)> {
        let proof = self.0.get(index)?.mark().proof.clone();
        let position = self
            .0
            .iter()
            .take(index)
            .filter(|i| i.mark().proof == proof)
            .count();
        Some((proof, position))
    }
}

fn rank(state: &InstanceState) -> u8 {
    match state {
        InstanceState::Running => 0,
        InstanceState::Pending => 1,
        InstanceState::Failed(_) => 2,
        InstanceState::Stopping => 3,
    }
}

/// Errors of [`ByInstance`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError<E: std::error::Error> {
    /// The backend's own.
    #[error(transparent)]
    Backend(E),
    /// Ledger and infra cluster are both gone, so no mark can be compared. Answering "nothing" would
    /// leak an instance.
    #[error(
        "looking for instances of an object without ledger: its infra cluster, which holds the \
         owner token, is gone; restore it, or remove the instances and the finalizer by hand"
    )]
    OwnerUnknown,
    /// The instance to remove is not there any more.
    #[error("removing an instance: it has changed since it was seen")]
    Changed,
}

impl<E: Classify> Classify for InstanceError<E> {
    fn class(&self) -> Class {
        match self {
            InstanceError::Backend(error) => error.class(),
            InstanceError::OwnerUnknown => Class::Terminal,
            InstanceError::Changed => Class::Conflict,
        }
    }
}

impl<I: Instances> External for ByInstance<I> {
    type Object = I::Kind;
    type Scope = MachineScope<I::Kind, I::Cluster>;
    type Session = I::Session;
    type Claim = Mark;
    type Seen = Found<I::Instance>;
    type Step = InstanceStep<I::Kind>;
    type Facts = MachineFacts<()>;
    type Error = InstanceError<I::Error>;

    async fn recover(
        &self,
        on: &I::Session,
        lost: &Lost<'_, I::Kind>,
    ) -> Result<Option<Mark>, Self::Error> {
        let owner = lost.owner.clone().ok_or(InstanceError::OwnerUnknown)?;
        let any = Mark::made(owner, lost.name.clone());
        let all = self
            .0
            .find(on, &any)
            .await
            .map_err(InstanceError::Backend)?;
        let ours = all
            .into_iter()
            .filter(|i| i.mark().same_object(&any))
            .collect();
        Ok(Found::new(&any, ours)
            .kept()
            .map(|i: &I::Instance| i.mark().clone()))
    }

    async fn claim(
        &self,
        _on: &I::Session,
        scope: &Self::Scope,
        _given_up: Option<&Mark>,
    ) -> Result<Mark, Self::Error> {
        Ok(scope.mark())
    }

    async fn observe(
        &self,
        on: &I::Session,
        claim: &Mark,
        _depth: Depth,
    ) -> Result<Lookup<Self::Seen>, Self::Error> {
        let all = self
            .0
            .find(on, claim)
            .await
            .map_err(InstanceError::Backend)?;
        let ours: Vec<_> = all
            .into_iter()
            .filter(|i| i.mark().same_object(claim))
            .collect();
        if ours.is_empty() {
            return Ok(Lookup::Absent);
        }
        Ok(Lookup::Ours(Found::new(claim, ours)))
    }

    fn plan(
        &self,
        scope: &Self::Scope,
        _claim: &Mark,
        seen: Option<&Self::Seen>,
    ) -> Plan<Self::Step> {
        let Some((found, kept)) = seen.and_then(|found| Some((found, found.kept()?))) else {
            let secret = scope.machine.spec.bootstrap.data_secret_name.as_deref();
            return Plan::Apply(InstanceStep::Create {
                object: Box::new(scope.object.clone()),
                settle: settle(I::CREATION),
                bootstrap: secret.is_some_and(|name| !name.is_empty()),
            });
        };
        if let Some(surplus) = next_surplus(found) {
            return Plan::Apply(surplus);
        }
        match kept.state() {
            InstanceState::Running => Plan::Settled,
            InstanceState::Pending => Plan::Wait(Waiting::new(
                "InstancePending",
                "the instance is starting",
                RECHECK,
            )),
            InstanceState::Stopping => Plan::Lost(Waiting::new(
                "InstanceStopping",
                "the instance is stopping",
                RECHECK,
            )),
            InstanceState::Failed(why) => Plan::Lost(Waiting::new("InstanceFailed", why, RECHECK)),
        }
    }

    fn plan_teardown(&self, _claim: &Mark, seen: &Self::Seen) -> Teardown<Self::Step> {
        let going = seen
            .0
            .iter()
            .rposition(|i| i.state() != InstanceState::Stopping);
        match going.and_then(|index| seen.destroy(index)) {
            Some((token, position)) => Teardown::Apply(InstanceStep::Destroy { token, position }),
            None => Teardown::Wait(Waiting::new(
                "InstanceStopping",
                "waiting for the instance to be gone",
                RECHECK,
            )),
        }
    }

    async fn apply(
        &self,
        on: &I::Session,
        claim: &Mark,
        step: &Self::Step,
        supply: Supply<'_>,
    ) -> Result<Receipt, Self::Error> {
        match step {
            InstanceStep::Create { object, .. } => {
                let order = Order {
                    mark: claim,
                    object: object.as_ref(),
                    bootstrap: supply.bootstrap,
                };
                self.0
                    .create(on, order)
                    .await
                    .map_err(InstanceError::Backend)?;
            }
            InstanceStep::Destroy { token, position } => {
                let all = self
                    .0
                    .find(on, claim)
                    .await
                    .map_err(InstanceError::Backend)?;
                let ours = all
                    .into_iter()
                    .filter(|i| i.mark().same_object(claim))
                    .collect();
                let Found(ours) = Found::new(claim, ours);
                let target = ours
                    .iter()
                    .filter(|i| i.mark().proof == *token)
                    .nth(*position);
                let target = target.ok_or(InstanceError::Changed)?;
                self.0
                    .destroy(on, target)
                    .await
                    .map_err(InstanceError::Backend)?;
            }
        }
        Ok(Receipt::Finished)
    }

    fn facts(&self, scope: &Self::Scope, _claim: &Mark, seen: &Self::Seen) -> MachineFacts<()> {
        let Some(kept) = seen.kept() else {
            return MachineFacts::default();
        };
        let running = kept.state() == InstanceState::Running;
        MachineFacts {
            running,
            ..self.0.facts(&scope.object, kept)
        }
    }
}

fn next_surplus<I: Instance, K>(found: &Found<I>) -> Option<InstanceStep<K>> {
    let surplus = found
        .0
        .iter()
        .skip(1)
        .rposition(|i| i.state() != InstanceState::Stopping)?
        + 1;
    let (token, position) = found.destroy(surplus)?;
    Some(InstanceStep::Destroy { token, position })
}

fn settle(creation: Creation) -> Duration {
    match creation {
        Creation::Exclusive | Creation::Keyed => SETTLE,
        Creation::Ambiguous { settle } => settle,
    }
}

impl<I: Instances> InfraMachine for ByInstance<I> {
    const CONDITION: &'static str = I::CONDITION;
    const FINALIZER: &'static str = I::FINALIZER;
    type Kind = I::Kind;
    type Cluster = I::Cluster;
    type Status = ();

    fn identity(
        &self,
        object: &I::Kind,
        cluster: Option<&I::Cluster>,
        _failure_domain: Option<&str>,
    ) -> Option<Identity> {
        self.0.identity(object, cluster)
    }
}
