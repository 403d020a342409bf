//! ProxmoxMachine: one virtual machine.
//!
//! | file | what it holds |
//! |---|---|
//! | `claim` | identity and placement, chosen before anything is made |
//! | `recover` | finding a machine whose ledger is missing |
//! | `observe` | looking at it: whose it is, how far it is |
//! | `plan` | the next step, pure |
//! | `steps` | carrying out one step |
//! | `watch` | how long tasks stand |
//! | `zone` | which part of the cluster it belongs to, pure |
//! | `facts` | what is told to Kubernetes, pure |
//!
//! The way of a machine: clone with the mark in the notes; grow the disk; store the seed; one
//! change of the configuration that sets everything, attaches the seed and protects the VM; start.
//! Once it is a node: take the seed out, remove the image, seal. At the end: lift the protection,
//! stop, destroy, remove what is left of the seed.

mod claim;
mod error;
mod facts;
#[cfg(test)]
mod fixture;
mod observe;
mod plan;
mod recover;
mod steps;
mod watch;
mod zone;

use capi_contract::view::MachineView;
use capi_contract::{
    Child, Depth, External, Identity, InfraMachine, Lookup, Lost, MachineFacts, MachineScope,
    Operation, Plan, Progress, Receipt, Supply, Teardown,
};

pub use claim::{BootCheck, MachineClaim, SeedPlace, TemplateRef};
pub use error::MachineError;
pub use facts::MachineStatus;
pub use observe::{Phase, Seen};
pub use steps::{Change, Guard, MachineStep};
pub use zone::ZoneError;

use crate::api::{MACHINE_FINALIZER, ProxmoxCluster, ProxmoxMachine};
use crate::session::Session;
use crate::{network, pool};

/// All that is needed to build a machine.
pub type Scope = MachineScope<ProxmoxMachine, ProxmoxCluster>;

/// Makes, watches and unmakes virtual machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machines;

impl External for Machines {
    type Object = ProxmoxMachine;
    type Scope = Scope;
    type Session = Session;
    type Claim = MachineClaim;
    type Seen = Seen;
    type Step = MachineStep;
    type Facts = MachineFacts<MachineStatus>;
    type Error = MachineError;

    async fn recover(
        &self,
        on: &Session,
        lost: &Lost<'_, ProxmoxMachine>,
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

    async fn poll(
        &self,
        on: &Session,
        operation: &Operation,
    ) -> Result<Progress<MachineError>, MachineError> {
        watch::poll(on, operation).await
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
    const CONDITION: &'static str = "VirtualMachineProvisioned";
    const FINALIZER: &'static str = MACHINE_FINALIZER;
    const SPEC_WRITES: &'static [&'static str] = &["virtualMachineID"];

    type Kind = ProxmoxMachine;
    type Cluster = ProxmoxCluster;
    type Status = MachineStatus;

    fn identity(
        &self,
        object: &ProxmoxMachine,
        cluster: Option<&ProxmoxCluster>,
        _failure_domain: Option<&str>,
    ) -> Option<Identity> {
        let _ = object;
        crate::cluster::identity(cluster?)
    }

    fn objects(
        &self,
        object: &ProxmoxMachine,
        cluster: &ProxmoxCluster,
        machine: &MachineView,
    ) -> Vec<Child> {
        let name = |meta: &kube::core::ObjectMeta| meta.name.clone().unwrap_or_default();
        let domain = machine.spec.failure_domain.as_deref();
        // A zone without configuration is reported by `unsupported`, a failure domain without a
        // zone when the place is chosen: both before anything is made.
        let Ok(network) = zone::network(&object.spec.network, domain, cluster) else {
            return Vec::new();
        };
        let requests = pool::requests(
            &name(&object.metadata),
            &network,
            &name(&cluster.metadata),
            &cluster.spec,
        );
        requests
            .unwrap_or_default()
            .into_iter()
            .map(Child::Address)
            .collect()
    }

    fn unsupported(&self, object: &ProxmoxMachine, cluster: &ProxmoxCluster) -> Vec<String> {
        let checked = network::check(&object.spec.network, &cluster.spec);
        checked.err().iter().map(ToString::to_string).collect()
    }
}
