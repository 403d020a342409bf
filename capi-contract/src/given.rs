//! The InfraCluster of platforms where the endpoint comes with the spec.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;

use crate::bootstrap::Supply;
use crate::cluster::{ClusterFacts, ClusterScope, Endpoint, InfraCluster};
use crate::connect::Identity;
use crate::external::{External, Lost, Object};
use crate::lookup::{Depth, Lookup};
use crate::mark::Mark;
use crate::operation::Receipt;
use crate::plan::{Plan, Teardown};
use crate::step::{Effect, Step};

/// An InfraCluster kind whose `spec.controlPlaneEndpoint` is filled in by the user.
pub trait Endpointed: Object {
    /// The finalizer, domain-qualified (IC-12).
    const FINALIZER: &'static str;

    /// The endpoint, if the user has given one; otherwise the Cluster's is waited for (IC-05).
    fn endpoint(&self) -> Option<Endpoint>;
}

/// An [`InfraCluster`] with nothing outside Kubernetes: provisioned once an endpoint is known.
///
/// `K` is the kind, `S` the session of the provider's machines.
pub struct GivenEndpoint<K, S = ()>(PhantomData<fn() -> (K, S)>);

impl<K, S> GivenEndpoint<K, S> {
    /// Nothing to configure.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K, S> Default for GivenEndpoint<K, S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, S> fmt::Debug for GivenEndpoint<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenEndpoint")
    }
}

/// The steps of [`GivenEndpoint`]: there are none.
#[derive(Clone, Copy, Debug)]
pub enum NoStep {}

impl Step for NoStep {
    fn name(&self) -> &'static str {
        match *self {}
    }

    fn effect(&self) -> Effect {
        match *self {}
    }
}

impl<K: Endpointed, S: Send + Sync + 'static> External for GivenEndpoint<K, S> {
    type Object = K;
    type Scope = ClusterScope<K>;
    type Session = S;
    type Claim = Mark;
    type Seen = ();
    type Step = NoStep;
    type Facts = ClusterFacts<()>;
    type Error = Infallible;

    fn nothing_outside(&self) -> bool {
        true
    }

    async fn recover(&self, _on: &S, _lost: &Lost<'_, K>) -> Result<Option<Mark>, Infallible> {
        Ok(None)
    }

    async fn claim(
        &self,
        _on: &S,
        scope: &ClusterScope<K>,
        _given_up: Option<&Mark>,
    ) -> Result<Mark, Infallible> {
        Ok(scope.mark())
    }

    async fn observe(
        &self,
        _on: &S,
        _claim: &Mark,
        _depth: Depth,
    ) -> Result<Lookup<()>, Infallible> {
        Ok(Lookup::Ours(()))
    }

    fn plan(&self, _scope: &ClusterScope<K>, _claim: &Mark, _seen: Option<&()>) -> Plan<NoStep> {
        Plan::Settled
    }

    fn plan_teardown(&self, _claim: &Mark, _seen: &()) -> Teardown<NoStep> {
        Teardown::Release
    }

    async fn apply(
        &self,
        _on: &S,
        _claim: &Mark,
        step: &NoStep,
        _supply: Supply<'_>,
    ) -> Result<Receipt, Infallible> {
        match *step {}
    }

    fn facts(&self, scope: &ClusterScope<K>, _claim: &Mark, _seen: &()) -> ClusterFacts<()> {
        ClusterFacts {
            endpoint: scope.object.endpoint(),
            complete: true,
            ..ClusterFacts::default()
        }
    }
}

impl<K: Endpointed, S: Send + Sync + 'static> InfraCluster for GivenEndpoint<K, S> {
    const FINALIZER: &'static str = K::FINALIZER;
    type Kind = K;
    type Status = ();

    fn identity(&self, _object: &K) -> Option<Identity> {
        None
    }

    fn endpoint_is_external(&self, object: &K) -> bool {
        object.endpoint().is_none()
    }
}
