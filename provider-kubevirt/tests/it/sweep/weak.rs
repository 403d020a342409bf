//! The provider, broken on purpose in one place; each must be caught by the sweep.

use capi_contract::{
    Class, Classify, Depth, External, Identity, InfraMachine, Lookup, Lost, MachineFacts, Mark,
    Plan, Proof, Receipt, Supply, Teardown,
};
use capi_testkit::faults::without_preconditions;
use kube::Client;
use provider_kubevirt::api::{KubevirtCluster, KubevirtMachine};
use provider_kubevirt::machine::{
    MachineClaim, MachineError, MachineStatus, MachineStep, Machines, Scope, Seen,
};
use provider_kubevirt::session::Session;

use crate::site::Site;

/// How the provider is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weakening {
    /// Not at all.
    None,
    /// Whatever VM has the claimed name is taken for ours.
    NamesAreMarks,
    /// Writes to Kubernetes lose the resource version that makes them conditional.
    NoPreconditions,
    /// What the watch has not brought is taken for absent.
    CacheProvesAbsence,
    /// A create that was refused, since the name is taken, is taken for done.
    TakenNameIsDone,
}

/// Runs the provider, broken like this, until it is dropped.
pub(super) async fn provide(site: &Site, weakening: Weakening, client: Client, infra: Client) {
    let weak = Weak {
        machines: Machines,
        weakening,
    };
    match weakening {
        Weakening::None => site.provide(client, infra, Machines).await,
        Weakening::NoPreconditions => {
            let client = without_preconditions(client);
            site.provide(client, infra, Machines).await;
        }
        Weakening::NamesAreMarks | Weakening::CacheProvesAbsence | Weakening::TakenNameIsDone => {
            site.provide(client, infra, weak).await;
        }
    }
}

/// The machines of the provider, with one answer bent.
#[derive(Debug)]
struct Weak {
    machines: Machines,
    weakening: Weakening,
}

impl Weak {
    /// The claim as if the VM that has its name had been taken over.
    async fn bent(&self, on: &Session, claim: &MachineClaim) -> MachineClaim {
        let mut bent = claim.clone();
        if matches!(
            self.weakening,
            Weakening::NamesAreMarks | Weakening::TakenNameIsDone
        ) {
            let found = on
                .infra()
                .get::<provider_kubevirt::infra::VmView>(&claim.namespace, &claim.name)
                .await;
            if let Ok(Some(vm)) = found {
                let Mark { owner, object, .. } = claim.mark.clone();
                let id = vm.metadata.uid.unwrap_or_default();
                let proof = Proof::Adopted { id };
                bent.mark = Mark {
                    owner,
                    object,
                    proof,
                };
            }
        }
        bent
    }
}

impl External for Weak {
    type Object = KubevirtMachine;
    type Scope = Scope;
    type Session = Session;
    type Claim = MachineClaim;
    type Seen = Seen;
    type Step = MachineStep;
    type Facts = MachineFacts<MachineStatus>;
    type Error = MachineError;

    fn creates_once(&self) -> bool {
        self.machines.creates_once()
    }

    async fn recover(
        &self,
        on: &Session,
        lost: &Lost<'_, KubevirtMachine>,
    ) -> Result<Option<MachineClaim>, MachineError> {
        self.machines.recover(on, lost).await
    }

    async fn claim(
        &self,
        on: &Session,
        scope: &Scope,
        given_up: Option<&MachineClaim>,
    ) -> Result<MachineClaim, MachineError> {
        self.machines.claim(on, scope, given_up).await
    }

    async fn observe(
        &self,
        on: &Session,
        claim: &MachineClaim,
        depth: Depth,
    ) -> Result<Lookup<Seen>, MachineError> {
        let known = on.vms().get(&claim.namespace, &claim.name);
        if self.weakening == Weakening::CacheProvesAbsence && known.is_none() {
            return Ok(Lookup::Absent);
        }
        let claim = self.bent(on, claim).await;
        self.machines.observe(on, &claim, depth).await
    }

    fn plan(&self, scope: &Scope, claim: &MachineClaim, seen: Option<&Seen>) -> Plan<MachineStep> {
        self.machines.plan(scope, claim, seen)
    }

    fn plan_teardown(&self, claim: &MachineClaim, seen: &Seen) -> Teardown<MachineStep> {
        self.machines.plan_teardown(claim, seen)
    }

    async fn apply(
        &self,
        on: &Session,
        claim: &MachineClaim,
        step: &MachineStep,
        supply: Supply<'_>,
    ) -> Result<Receipt, MachineError> {
        let receipt = self.machines.apply(on, claim, step, supply).await;
        match receipt {
            Err(error)
                if self.weakening == Weakening::TakenNameIsDone
                    && error.class() == Class::Conflict =>
            {
                Ok(Receipt::Finished)
            }
            receipt => receipt,
        }
    }

    fn facts(
        &self,
        scope: &Scope,
        claim: &MachineClaim,
        seen: &Seen,
    ) -> MachineFacts<MachineStatus> {
        self.machines.facts(scope, claim, seen)
    }
}

impl InfraMachine for Weak {
    const CONDITION: &'static str = Machines::CONDITION;
    const FINALIZER: &'static str = Machines::FINALIZER;
    const CONDITIONS: &'static [&'static str] = Machines::CONDITIONS;
    const PROVIDER_ID_IS_CLAIMED: bool = Machines::PROVIDER_ID_IS_CLAIMED;

    type Kind = KubevirtMachine;
    type Cluster = KubevirtCluster;
    type Status = MachineStatus;

    fn identity(
        &self,
        object: &KubevirtMachine,
        cluster: Option<&KubevirtCluster>,
        failure_domain: Option<&str>,
    ) -> Option<Identity> {
        self.machines.identity(object, cluster, failure_domain)
    }

    fn unsupported(&self, object: &KubevirtMachine, cluster: &KubevirtCluster) -> Vec<String> {
        self.machines.unsupported(object, cluster)
    }
}
