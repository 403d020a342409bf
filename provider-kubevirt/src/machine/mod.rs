//! KubevirtMachine: one virtual machine.
//!
//! | file | what it holds |
//! |---|---|
//! | `claim` | the names, chosen before anything is made |
//! | `recover` | finding a machine whose ledger is missing |
//! | `observe` | looking at it: whose it is, how far it is |
//! | `plan` | the next step, pure |
//! | `steps` | carrying out one step |
//! | `facts` | what is told to Kubernetes, pure |
//!
//! The way of a machine: create the VM, which bears the mark; create the Secret with the bootstrap
//! data, which the VM owns and its pod waits for. Once it is a node: take the data out of the Secret.
//! At the end: delete the VM, and wait until it, its instance, its volumes and the Secret are gone.
//!
//! The VM comes first, so that there is never a thing that nothing owns: the Secret's name is the
//! claim's own, so the VM cannot find another's under it, and whatever happens to this provider the
//! Secret goes with the VM.

mod claim;
mod error;
mod facts;
#[cfg(test)]
mod fixture;
mod observe;
mod plan;
mod recover;
mod steps;

use capi_contract::view::MachineView;
use capi_contract::{
    Child, Depth, External, Identity, InfraMachine, Lookup, Lost, MachineFacts, MachineScope, Plan,
    Receipt, Supply, Teardown,
};

pub use claim::MachineClaim;
pub use error::MachineError;
pub use facts::MachineStatus;
pub use observe::{Remain, RemainKind, SecretState, Seen};
pub use steps::MachineStep;

use crate::api::{KubevirtCluster, KubevirtMachine, MACHINE_FINALIZER};
use crate::session::Session;

/// All that is needed to build a machine.
pub type Scope = MachineScope<KubevirtMachine, KubevirtCluster>;

/// Makes, watches and unmakes virtual machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machines;

impl External for Machines {
    type Object = KubevirtMachine;
    type Scope = Scope;
    type Session = Session;
    type Claim = MachineClaim;
    type Seen = Seen;
    type Step = MachineStep;
    type Facts = MachineFacts<MachineStatus>;
    type Error = MachineError;

    fn creates_once(&self) -> bool {
        // The name of the VM is in the claim, and a name can be given once.
        true
    }

    async fn recover(
        &self,
        on: &Session,
        lost: &Lost<'_, KubevirtMachine>,
    ) -> Result<Option<MachineClaim>, MachineError> {
        recover::recover(on, lost).await
    }

    async fn claim(
        &self,
        on: &Session,
        scope: &Scope,
        given_up: Option<&MachineClaim>,
    ) -> Result<MachineClaim, MachineError> {
        claim::choose(on, scope, given_up).await
    }

    async fn observe(
        &self,
        on: &Session,
        claim: &MachineClaim,
        depth: Depth,
    ) -> Result<Lookup<Seen>, MachineError> {
        observe::look(on, claim, depth).await
    }

    fn plan(&self, scope: &Scope, claim: &MachineClaim, seen: Option<&Seen>) -> Plan<MachineStep> {
        plan::plan(scope, claim, seen)
    }

    fn plan_teardown(&self, claim: &MachineClaim, seen: &Seen) -> Teardown<MachineStep> {
        plan::plan_teardown(claim, seen)
    }

    async fn apply(
        &self,
        on: &Session,
        claim: &MachineClaim,
        step: &MachineStep,
        supply: Supply<'_>,
    ) -> Result<Receipt, MachineError> {
        steps::apply(on, claim, step, supply).await
    }

    fn facts(
        &self,
        scope: &Scope,
        claim: &MachineClaim,
        seen: &Seen,
    ) -> MachineFacts<MachineStatus> {
        facts::facts(scope, claim, seen)
    }
}

impl InfraMachine for Machines {
    const CONDITION: &'static str = "VMProvisioned";
    const FINALIZER: &'static str = MACHINE_FINALIZER;
    const CONDITIONS: &'static [&'static str] = facts::CONDITIONS;
    const PROVIDER_ID_IS_CLAIMED: bool = true;

    type Kind = KubevirtMachine;
    type Cluster = KubevirtCluster;
    type Status = MachineStatus;

    fn identity(
        &self,
        object: &KubevirtMachine,
        cluster: Option<&KubevirtCluster>,
        failure_domain: Option<&str>,
    ) -> Option<Identity> {
        let own = object.metadata.namespace.as_deref().unwrap_or_default();
        let named = object.spec.infra_cluster_secret_ref.as_ref();
        if let Some(named) = named.and_then(|secret| crate::cluster::secret_identity(secret, own)) {
            return Some(named);
        }
        crate::cluster::identity(cluster?, failure_domain)
    }

    fn objects(
        &self,
        object: &KubevirtMachine,
        _cluster: &KubevirtCluster,
        _machine: &MachineView,
    ) -> Vec<Child> {
        let requests = crate::network::requests(object).into_iter();
        requests.map(Child::Address).collect()
    }

    fn unsupported(&self, object: &KubevirtMachine, _cluster: &KubevirtCluster) -> Vec<String> {
        crate::vm::faults(object)
    }
}
