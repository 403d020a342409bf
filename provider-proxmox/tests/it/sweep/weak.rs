//! The provider, broken on purpose in one place; each must be caught by the sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use capi_contract::view::MachineView;
use capi_contract::{
    Child, Depth, External, Identity, InfraMachine, Lookup, Lost, MachineFacts, Operation, Plan,
    Progress, Receipt, Step, Supply, Teardown,
};
use capi_testkit::faults::without_preconditions;
use http::{Request, Response};
use kube::Client;
use parking_lot::Mutex;
use provider_proxmox::api::{ProxmoxCluster, ProxmoxMachine};
use provider_proxmox::machine::{
    MachineClaim, MachineError, MachineStatus, MachineStep, Machines, Scope, Seen,
};
use provider_proxmox::pve::{Transport, TransportError};
use provider_proxmox::session::Session;
use serde_json::Value;

use crate::site::{Line, Site};

/// How the provider is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weakening {
    /// Not at all.
    None,
    /// What cannot be told now is taken for absent.
    UnsettledIsAbsent,
    /// Whatever has the claimed VMID is taken for ours.
    NumbersAreMarks,
    /// Writes to Kubernetes lose the resource version that makes them conditional.
    NoPreconditions,
    /// A destroy that was accepted is taken for done.
    AcceptedDestroyIsGone,
    /// The seed image is not looked for once the VM is gone.
    SeedIsForgotten,
}

/// Runs the provider, broken like this, until it is dropped.
pub(super) async fn provide(site: &Site, weakening: Weakening, client: Client, line: Line) {
    let memory = Arc::new(Memory::default());
    let weak = Weak {
        machines: Machines,
        weakening,
        memory: Arc::clone(&memory),
    };
    match weakening {
        Weakening::None => site.provide(client, line, Machines).await,
        Weakening::NoPreconditions => {
            let client = without_preconditions(client);
            site.provide(client, line, Machines).await;
        }
        Weakening::NumbersAreMarks => {
            let forger = Forger { line, memory };
            site.provide(client, forger, weak).await;
        }
        Weakening::UnsettledIsAbsent
        | Weakening::AcceptedDestroyIsGone
        | Weakening::SeedIsForgotten => site.provide(client, line, weak).await,
    }
}

/// What a weakened provider remembers.
#[derive(Debug, Default)]
struct Memory {
    destroyed: Mutex<BTreeSet<u32>>,
    /// The mark that each VMID is said to bear.
    marks: Mutex<BTreeMap<u32, String>>,
}

/// Writes the claimed mark into whatever configuration is read.
#[derive(Debug)]
struct Forger {
    line: Line,
    memory: Arc<Memory>,
}

#[async_trait]
impl Transport for Forger {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let path = request.uri().path().to_owned();
        let response = self.line.exchange(request).await?;
        let vmid = path
            .strip_suffix("/config")
            .and_then(|path| path.rsplit('/').next()?.parse().ok());
        let mark = vmid.and_then(|vmid: u32| self.memory.marks.lock().get(&vmid).cloned());
        let (Some(mark), true) = (mark, response.status().is_success()) else {
            return Ok(response);
        };
        Ok(response.map(|body| {
            let mut answer: Value = serde_json::from_slice(&body).unwrap();
            if answer["data"].is_object() {
                answer["data"]["description"] = mark.into();
            }
            answer.to_string().into()
        }))
    }
}

/// The machines of the provider, with one answer bent.
#[derive(Debug)]
struct Weak {
    machines: Machines,
    weakening: Weakening,
    memory: Arc<Memory>,
}

impl External for Weak {
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
        if self.weakening == Weakening::AcceptedDestroyIsGone
            && self.memory.destroyed.lock().contains(&claim.vmid)
        {
            return Ok(Lookup::Absent);
        }
        let mark = claim.mark.to_string();
        self.memory.marks.lock().insert(claim.vmid, mark);
        let seen = self.machines.observe(on, claim, depth).await?;
        Ok(match (self.weakening, seen) {
            (Weakening::UnsettledIsAbsent, Lookup::Unsettled(_)) => Lookup::Absent,
            (Weakening::SeedIsForgotten, Lookup::Ours(seen)) if seen.phase.is_none() => {
                Lookup::Absent
            }
            (_, seen) => seen,
        })
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
        let receipt = self.machines.apply(on, claim, step, supply).await?;
        if step.name() == "Destroying" {
            self.memory.destroyed.lock().insert(claim.vmid);
        }
        Ok(receipt)
    }

    async fn poll(
        &self,
        on: &Session,
        operation: &Operation,
    ) -> Result<Progress<MachineError>, MachineError> {
        self.machines.poll(on, operation).await
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
    const SPEC_WRITES: &'static [&'static str] = Machines::SPEC_WRITES;

    type Kind = ProxmoxMachine;
    type Cluster = ProxmoxCluster;
    type Status = MachineStatus;

    fn identity(
        &self,
        object: &ProxmoxMachine,
        cluster: Option<&ProxmoxCluster>,
        failure_domain: Option<&str>,
    ) -> Option<Identity> {
        self.machines.identity(object, cluster, failure_domain)
    }

    fn objects(
        &self,
        object: &ProxmoxMachine,
        cluster: &ProxmoxCluster,
        machine: &MachineView,
    ) -> Vec<Child> {
        self.machines.objects(object, cluster, machine)
    }

    fn unsupported(&self, object: &ProxmoxMachine, cluster: &ProxmoxCluster) -> Vec<String> {
        self.machines.unsupported(object, cluster)
    }
}
