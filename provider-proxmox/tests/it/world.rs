//! A simulated Proxmox VE cluster, a machine on the seam, and the smallest thing that drives it:
//! poll, look, plan, apply, over and over, as the engine does without its bookkeeping.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use capi_contract::view::{ClusterView, MachineView};
use capi_contract::{
    Address, Bootstrap, Class, Classify, Depth, External, Format, Lookup, Lost, MachineFacts,
    Operation, Plan, Progress, Receipt, Step, Supply, Teardown, Token, Waiting,
};
use http::{Request, Response};
use provider_proxmox::api::{ProxmoxCluster, ProxmoxMachine};
use provider_proxmox::machine::{
    MachineClaim, MachineError, MachineStatus, MachineStep, Machines, Scope, Seen,
};
use provider_proxmox::pve::{Client, Transport, TransportError};
use provider_proxmox::session::Session;
use pve_sim::Platform;
use serde_json::json;

/// How many passes one call of [`Life::until`] may take; a life needs about 40.
const PASSES_MAX: usize = 400;

/// The pause between two looks at a running task.
const POLL: Duration = Duration::from_millis(200);

/// Requests go straight to the simulator.
#[derive(Debug)]
struct Direct(Platform);

#[async_trait]
impl Transport for Direct {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        Ok(self.0.handle(request).await)
    }
}

/// A session with the simulator's first token.
pub(crate) fn session(platform: &Platform) -> Session {
    let (token, secret) = platform.token();
    session_as(platform, &token, &secret)
}

pub(crate) fn session_as(platform: &Platform, token: &str, secret: &str) -> Session {
    let transport = Arc::new(Direct(platform.clone()));
    Session::new(Client::new(transport, token, &secret.to_owned().into()))
}

/// Why a life does not go on.
#[derive(Debug)]
pub(crate) enum Halt {
    Settled,
    Gone,
    Foreign(String),
    Lost,
    Waiting(Waiting),
    Error(MachineError),
}

/// One machine.
pub(crate) struct Life {
    pub(crate) on: Session,
    pub(crate) scope: Scope,
    pub(crate) claim: Option<MachineClaim>,
    pub(crate) given_up: Option<MachineClaim>,
    pub(crate) operation: Option<Operation>,
    pub(crate) seen: Option<Seen>,
    pub(crate) bootstrap: Bootstrap,
    pub(crate) steps: Vec<&'static str>,
    pub(crate) deleting: bool,
    /// Errors of a class that is retried end the life, too.
    pub(crate) strict: bool,
}

pub(crate) fn cluster() -> ProxmoxCluster {
    serde_json::from_value(json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2", "kind": "ProxmoxCluster",
        "metadata": {"name": "c", "namespace": "ns"},
        "spec": {
            "controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443},
            "allowedNodes": ["pve1", "pve2", "pve3"],
            "ipv4Config": {"addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24, "gateway": "10.0.0.1"},
            "dnsServers": ["10.0.0.2"],
        },
    }))
    .unwrap()
}

pub(crate) fn machine(name: &str) -> ProxmoxMachine {
    serde_json::from_value(json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2", "kind": "ProxmoxMachine",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {
            "sourceNode": "pve1", "templateID": 9000, "numCores": 4, "memoryMiB": 4096,
            "disks": {"bootVolume": {"disk": "scsi0", "sizeGb": 20}},
            "network": {"networkDevices": [{"name": "net0", "bridge": "vmbr0"}]},
            "checks": {"skipQemuGuestAgent": true},
        },
    }))
    .unwrap()
}

impl Life {
    pub(crate) fn new(platform: &Platform, name: &str) -> Self {
        Self::with(session(platform), machine(name))
    }

    pub(crate) fn with(on: Session, object: ProxmoxMachine) -> Self {
        let view: MachineView =
            serde_json::from_value(json!({"spec": {"clusterName": "c", "version": "v1.35.0"}}))
                .unwrap();
        let owner = Token::random();
        let mut scope = Scope::new(object, cluster(), view, ClusterView::default(), owner);
        scope.addresses = vec![Address {
            claim: format!("{}-net0-00-inet", scope.name().name),
            device: "net0".into(),
            ip: "10.0.0.10".parse().unwrap(),
            prefix: 24,
            gateway: Some("10.0.0.1".parse().unwrap()),
        }];
        Self {
            on,
            scope,
            claim: None,
            given_up: None,
            operation: None,
            seen: None,
            bootstrap: Bootstrap::new(Format::CloudConfig, *b"#cloud-config\nruncmd: []\n"),
            steps: Vec::new(),
            deleting: false,
            strict: false,
        }
    }

    /// A process that starts anew: the ledger stays, everything in memory is gone.
    pub(crate) fn restart(&mut self, platform: &Platform) {
        self.on = session(platform);
        self.seen = None;
    }

    pub(crate) fn joined(&mut self) {
        let facts = self.facts();
        self.scope.object.spec.provider_id = facts.provider_id;
        self.scope.object.spec.virtual_machine_id = facts.spec["virtualMachineID"].as_i64();
        let node = json!({"name": "m-0"});
        self.scope.machine.status.node_ref = serde_json::from_value(node).unwrap();
    }

    pub(crate) fn facts(&self) -> MachineFacts<MachineStatus> {
        let (claim, seen) = (self.claim.as_ref().unwrap(), self.seen.as_ref().unwrap());
        Machines.facts(&self.scope, claim, seen)
    }

    pub(crate) fn vmid(&self) -> u32 {
        self.claim.as_ref().unwrap().vmid
    }

    pub(crate) async fn recover(&self) -> Result<Option<MachineClaim>, MachineError> {
        let owner = Some(self.scope.owner.clone());
        let lost = Lost::new(&self.scope.object, self.scope.name(), owner);
        Machines.recover(&self.on, &lost).await
    }

    /// Goes on until there is nothing to do, or for ever if that never comes.
    pub(crate) async fn run(&mut self) -> Halt {
        for _ in 0..PASSES_MAX {
            match self.pass().await {
                Ok(None) => {}
                Ok(Some(Halt::Waiting(waiting))) if !self.strict => {
                    tokio::time::sleep(waiting.recheck).await;
                }
                Ok(Some(halt)) => return halt,
                Err(error) if self.strict => return Halt::Error(error),
                Err(error) => match error.class() {
                    Class::Elsewhere => self.given_up = self.claim.take(),
                    Class::RetryAfter(after) => tokio::time::sleep(after).await,
                    Class::Transient | Class::Conflict => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    _ => return Halt::Error(error),
                },
            }
        }
        panic!("it does not end; steps: {:?}", self.steps);
    }

    /// Goes on until the next step would be `name`, and stops before it.
    pub(crate) async fn until(&mut self, name: &str) {
        for _ in 0..PASSES_MAX {
            while self.is_busy().await.unwrap() {
                tokio::time::sleep(POLL).await;
            }
            if self
                .next_step()
                .await
                .is_some_and(|step| step.name() == name)
            {
                return;
            }
            let pass = self.pass().await;
            assert!(
                matches!(pass, Ok(None | Some(Halt::Waiting(_)))),
                "{name}: {pass:?}"
            );
        }
        panic!("{name} never comes; steps: {:?}", self.steps);
    }

    async fn next_step(&self) -> Option<MachineStep> {
        let claim = self.claim.as_ref()?;
        if self.operation.is_some() {
            return None;
        }
        match Machines
            .observe(&self.on, claim, Depth::Thing)
            .await
            .unwrap()
        {
            Lookup::Ours(seen) if self.deleting => match Machines.plan_teardown(claim, &seen) {
                Teardown::Apply(step) => Some(step),
                _ => None,
            },
            Lookup::Ours(seen) => match Machines.plan(&self.scope, claim, Some(&seen)) {
                Plan::Apply(step) => Some(step),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether an operation goes on.
    async fn is_busy(&mut self) -> Result<bool, MachineError> {
        let Some(operation) = &self.operation else {
            return Ok(false);
        };
        match Machines.poll(&self.on, operation).await? {
            Progress::Running => return Ok(true),
            Progress::Finished | Progress::Forgotten => self.operation = None,
            Progress::Failed(error) => {
                self.operation = None;
                return Err(error);
            }
        }
        Ok(false)
    }

    /// One pass. `None` means that there is more to do at once.
    pub(crate) async fn pass(&mut self) -> Result<Option<Halt>, MachineError> {
        if self.is_busy().await? {
            tokio::time::sleep(POLL).await;
            return Ok(None);
        }
        let claim = match &self.claim {
            Some(claim) => claim.clone(),
            None => {
                let claim = match self.recover().await? {
                    Some(claim) => claim,
                    None => {
                        Machines
                            .claim(&self.on, &self.scope, self.given_up.as_ref())
                            .await?
                    }
                };
                // What is written down must read back.
                let written = serde_json::to_string(&claim).unwrap();
                let claim: MachineClaim = serde_json::from_str(&written).unwrap();
                self.claim = Some(claim.clone());
                claim
            }
        };
        let lookup = Machines.observe(&self.on, &claim, Depth::Thing).await?;
        let step = match lookup {
            Lookup::Absent if self.deleting => return Ok(Some(Halt::Gone)),
            Lookup::Absent => Machines.plan(&self.scope, &claim, None),
            Lookup::Foreign(text) => return Ok(Some(Halt::Foreign(text))),
            Lookup::Unsettled(waiting) => return Ok(Some(Halt::Waiting(waiting))),
            Lookup::Ours(seen) => {
                let plan = if self.deleting {
                    match Machines.plan_teardown(&claim, &seen) {
                        Teardown::Apply(step) => Plan::Apply(step),
                        Teardown::Wait(waiting) => Plan::Wait(waiting),
                        Teardown::Release => return Ok(Some(Halt::Gone)),
                    }
                } else {
                    Machines.plan(&self.scope, &claim, Some(&seen))
                };
                self.seen = Some(seen);
                plan
            }
        };
        match step {
            Plan::Settled => Ok(Some(Halt::Settled)),
            Plan::Lost(_) => Ok(Some(Halt::Lost)),
            Plan::Wait(waiting) => Ok(Some(Halt::Waiting(waiting))),
            Plan::Apply(step) => self.apply(&claim, &step).await.map(|()| None),
        }
    }

    async fn apply(
        &mut self,
        claim: &MachineClaim,
        step: &MachineStep,
    ) -> Result<(), MachineError> {
        self.steps.push(step.name());
        let supply = if step.wants_bootstrap() {
            Supply::with_bootstrap(&self.bootstrap)
        } else {
            Supply::default()
        };
        match Machines.apply(&self.on, claim, step, supply).await? {
            Receipt::Finished => {}
            Receipt::Started(operation) => self.operation = Some(operation),
        }
        Ok(())
    }
}
