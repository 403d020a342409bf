//! The provider, broken on purpose in one place; each must be caught by the sweep.

use capi_contract::{Class, Classify, Depth, External, Lookup, Mark, Proof, Receipt, Supply};
use capi_testkit::faults::without_preconditions;
use capi_testkit::weakness::{GoneOnceSent, Weaken, Weakened};
use kube::Client;
use provider_kubevirt::infra::VmView;
use provider_kubevirt::machine::{MachineClaim, MachineError, MachineStep, Machines, Seen};
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
    /// The VM is said to be gone once its deletion was asked for.
    DeletedIsGone,
}

/// Runs the provider, broken like this, until it is dropped.
pub(super) async fn provide(site: &Site, weakening: Weakening, client: Client, infra: Client) {
    match weakening {
        Weakening::None => site.provide(client, infra, Machines).await,
        Weakening::NoPreconditions => {
            let client = without_preconditions(client);
            site.provide(client, infra, Machines).await;
        }
        Weakening::NamesAreMarks => {
            let weak = Weakened::new(Machines, NamesAreMarks);
            site.provide(client, infra, weak).await;
        }
        Weakening::CacheProvesAbsence => {
            let weak = Weakened::new(Machines, CacheProvesAbsence);
            site.provide(client, infra, weak).await;
        }
        Weakening::TakenNameIsDone => {
            let weak = Weakened::new(Machines, TakenNameIsDone);
            site.provide(client, infra, weak).await;
        }
        Weakening::DeletedIsGone => {
            let weak = Weakened::new(Machines, GoneOnceSent::step("VMDelete"));
            site.provide(client, infra, weak).await;
        }
    }
}

/// The claim as if the VM that has its name had been taken over.
async fn with_the_name(on: &Session, claim: &MachineClaim) -> MachineClaim {
    let mut bent = claim.clone();
    let found = on
        .infra()
        .get::<VmView>(&claim.namespace, &claim.name)
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
    bent
}

struct NamesAreMarks;

impl Weaken<Machines> for NamesAreMarks {
    async fn observe(
        &self,
        real: &Machines,
        on: &Session,
        claim: &MachineClaim,
        depth: Depth,
    ) -> Result<Lookup<Seen>, MachineError> {
        match real.observe(on, claim, depth).await? {
            Lookup::Foreign(_) => {
                let bent = with_the_name(on, claim).await;
                real.observe(on, &bent, depth).await
            }
            seen => Ok(seen),
        }
    }
}

struct CacheProvesAbsence;

impl Weaken<Machines> for CacheProvesAbsence {
    async fn observe(
        &self,
        real: &Machines,
        on: &Session,
        claim: &MachineClaim,
        depth: Depth,
    ) -> Result<Lookup<Seen>, MachineError> {
        if on.vms().get(&claim.namespace, &claim.name).is_none() {
            return Ok(Lookup::Absent);
        }
        real.observe(on, claim, depth).await
    }
}

struct TakenNameIsDone;

impl Weaken<Machines> for TakenNameIsDone {
    async fn observe(
        &self,
        real: &Machines,
        on: &Session,
        claim: &MachineClaim,
        depth: Depth,
    ) -> Result<Lookup<Seen>, MachineError> {
        NamesAreMarks.observe(real, on, claim, depth).await
    }

    async fn apply(
        &self,
        real: &Machines,
        on: &Session,
        claim: &MachineClaim,
        step: &MachineStep,
        supply: Supply<'_>,
    ) -> Result<Receipt, MachineError> {
        match real.apply(on, claim, step, supply).await {
            Err(error) if error.class() == Class::Conflict => Ok(Receipt::Finished),
            receipt => receipt,
        }
    }
}
