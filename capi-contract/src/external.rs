//! The seam: one thing outside Kubernetes, made, watched and unmade.

use std::fmt::Debug;
use std::future::Future;

use kube::core::NamespaceResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bootstrap::Supply;
use crate::class::Classify;
use crate::lookup::{Depth, Lookup};
use crate::mark::{Mark, ObjectName, Token};
use crate::operation::{Operation, Progress, Receipt};
use crate::plan::{Plan, Teardown};
use crate::step::Step;

/// A namespaced Kubernetes object of the provider's own: an InfraMachine or an InfraCluster.
///
/// Implemented for every type that `kube::CustomResource` derives; nothing has to be written for it.
/// The engine reads the contract's fields (`spec.providerID`, `status.conditions`, ...) from the
/// object's serialised form, so the type must keep the fields that its CRD declares.
pub trait Object:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<T> Object for T where
    T: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// What will exist, named before it exists.
///
/// A claim holds the backend's natural id (a VM number, a name), the placement that was chosen, and
/// the [`Mark`] that the thing will bear. It is stored in the ledger annotation of the Kubernetes
/// object before the first mutating call, survives `clusterctl move` and backups, and is all that
/// teardown gets.
///
/// It must hold no secret, and everything that a life makes must be findable from it alone (R11).
pub trait Claim:
    Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync + 'static
{
    /// The mark by which the thing is recognised as ours.
    ///
    /// The engine ignores a ledger whose claim names another object, since templates and people copy
    /// annotations.
    fn mark(&self) -> &Mark;
}

/// Where the backend finds everything by mark, the mark is all there is to claim.
impl Claim for Mark {
    fn mark(&self) -> &Mark {
        self
    }
}

/// What [`External::recover`] has to go by.
#[derive(Debug)]
#[non_exhaustive]
pub struct Lost<'a, O> {
    /// The object whose ledger is missing.
    pub object: &'a O,
    /// Its name as it stands on the marks of the things made for it.
    pub name: ObjectName,
    /// The owner token of the infra cluster, where that object still exists.
    pub owner: Option<Token>,
}

impl<'a, O> Lost<'a, O> {
    /// Describes an object without a ledger.
    pub fn new(object: &'a O, name: ObjectName, owner: Option<Token>) -> Self {
        Self {
            object,
            name,
            owner,
        }
    }
}

/// One thing outside Kubernetes: what the engine must know to make, watch and unmake it.
///
/// This trait is the whole seam. [`InfraMachine`](crate::InfraMachine) and
/// [`InfraCluster`](crate::InfraCluster) only add the words of the Cluster API contract.
///
/// # Flow
///
/// One pass of the engine: load the object, ask the gates, poll an open operation, observe, decide,
/// write the intent, apply one step, publish status. Each arrow is a method here or pure code in the
/// engine.
///
/// # Guarantees
///
/// - The claim is on the Kubernetes object before the first mutating call (R1).
/// - A conditional write precedes every [`apply`](Self::apply) except of steps that declare
///   [`Effect::Repeats`](crate::Effect::Repeats), and the call leaves within 5 s of it (R2).
/// - Before every [`apply`](Self::apply) the thing was observed with [`Depth::Thing`] and was either
///   ours, or absent with no create outstanding (R3, R5); but for the first step of a claim that
///   nobody else knows, see [`creates_once`](Self::creates_once).
/// - A thing that was once seen as ours is never made again (R9).
/// - The finalizer goes only after an observed absence, a foreign answer or
///   [`Teardown::Release`].
///
/// # What the author owes
///
/// Each method says what it must and must not do. All of them may be called again at any moment, in
/// any process, after a crash at any line.
pub trait External: Send + Sync + 'static {
    /// The Kubernetes object that stands for the thing.
    type Object: Object;
    /// All that is needed to build; made by the gates. Teardown never gets one (R7).
    type Scope: Send + Sync;
    /// A connected client, from [`Connect`](crate::Connect).
    type Session: Send + Sync + 'static;
    /// Identity, fixed before the first call.
    type Claim: Claim;
    /// What the outside looks like now.
    type Seen: Send + Sync;
    /// One mutation.
    type Step: Step;
    /// What is told to Kubernetes about the thing.
    type Facts: Send;
    /// What can go wrong; see [`Classify`].
    type Error: Classify;

    /// Whether nothing outside Kubernetes ever belongs to this object.
    ///
    /// With `true` the engine releases the finalizer without a session or a look at the backend, so
    /// that a deletion needs no credentials. The default is `false`.
    fn nothing_outside(&self) -> bool {
        false
    }

    /// Whether the backend itself refuses to create a second thing for one claim, such as by a name
    /// that is taken.
    ///
    /// With `true` the engine does not look before the first step of a claim that
    /// [`claim`](Self::claim) has just chosen and that is written nowhere: nobody can have acted on
    /// it, so nothing that bears its mark exists (R1), and a stranger in its place makes the create
    /// fail, which *must* be of class [`Conflict`](crate::Class::Conflict) or
    /// [`Elsewhere`](crate::Class::Elsewhere). It saves one read per life. The default is `false`.
    fn creates_once(&self) -> bool {
        false
    }

    /// Finds what an earlier life, another management cluster or a Go provider made for this object.
    ///
    /// Asked whenever the ledger is missing, before [`claim`](Self::claim): the annotation was
    /// stripped, a backup was restored, or another provider made the machine. Look by provider id,
    /// by natural ids in spec, by mark, by running task.
    ///
    /// *Must* answer `None` only if the backend affirms that there is nothing: for an object that is
    /// being deleted this releases the finalizer. *Must not* mutate.
    fn recover(
        &self,
        on: &Self::Session,
        lost: &Lost<'_, Self::Object>,
    ) -> impl Future<Output = Result<Option<Self::Claim>, Self::Error>> + Send;

    /// Chooses an identity and a placement that are free as far as can be told.
    ///
    /// `given_up` is the claim that failed with [`Class::Elsewhere`](crate::Class::Elsewhere) (no
    /// space, id taken, lost to another) or turned out foreign: choose differently.
    ///
    /// *Must not* mutate. The mark of the claim is new in each call, see `mark` of the scope.
    fn claim(
        &self,
        on: &Self::Session,
        scope: &Self::Scope,
        given_up: Option<&Self::Claim>,
    ) -> impl Future<Output = Result<Self::Claim, Self::Error>> + Send;

    /// Looks at the world: one consistent answer.
    ///
    /// With [`Depth::Listing`] one call may be shared by all objects; with [`Depth::Thing`] the mark
    /// is read from the thing itself; a copy that a watch brought will do for what is there, if every
    /// mutation names its version or uid as a condition. [`Lookup::Absent`] is an affirmation by the
    /// backend, that the thing *and every side object* are gone; a cache may prove presence, never
    /// absence.
    /// [`Lookup::Unsettled`] if the thing is there and the mark cannot be read yet, or rights or a
    /// silent node do not allow an answer.
    ///
    /// *Must not* mutate; *must not* turn an error, a filtered list or a silent node into absent.
    fn observe(
        &self,
        on: &Self::Session,
        claim: &Self::Claim,
        depth: Depth,
    ) -> impl Future<Output = Result<Lookup<Self::Seen>, Self::Error>> + Send;

    /// Chooses the next step from what is wanted and what is seen; `None` means absent.
    ///
    /// Pure: no IO, no clock, no randomness; equal input gives an equal answer. It may be given what
    /// a [`Depth::Listing`] look saw; before a step is applied it is asked again with a
    /// [`Depth::Thing`] look.
    fn plan(
        &self,
        scope: &Self::Scope,
        claim: &Self::Claim,
        seen: Option<&Self::Seen>,
    ) -> Plan<Self::Step>;

    /// Chooses the next step of the teardown, from claim and observation only.
    ///
    /// It has no way to say "done": only an observed absence ends a teardown. Pure, like
    /// [`plan`](Self::plan).
    fn plan_teardown(&self, claim: &Self::Claim, seen: &Self::Seen) -> Teardown<Self::Step>;

    /// Carries out one step: exactly one mutating request.
    ///
    /// The request that creates carries the mark. A long operation is handed back as
    /// [`Receipt::Started`].
    ///
    /// *Must not* wait for a task, *must not* make a second mutating request.
    fn apply(
        &self,
        on: &Self::Session,
        claim: &Self::Claim,
        step: &Self::Step,
        supply: Supply<'_>,
    ) -> impl Future<Output = Result<Receipt, Self::Error>> + Send;

    /// Says how a long operation stands.
    ///
    /// [`Progress::Forgotten`] is normal (the task log rotated): the engine then looks at the world.
    /// *Must not* mutate or decide life cycle. The default forgets at once, for backends without
    /// operations.
    fn poll(
        &self,
        _on: &Self::Session,
        _operation: &Operation,
    ) -> impl Future<Output = Result<Progress<Self::Error>, Self::Error>> + Send {
        async { Ok(Progress::Forgotten) }
    }

    /// What to tell Kubernetes about a thing that is ours. Pure.
    fn facts(&self, scope: &Self::Scope, claim: &Self::Claim, seen: &Self::Seen) -> Self::Facts;
}
