//! The provider, broken on purpose in one place; each must be caught by the sweep.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use capi_contract::{Depth, External, Lookup};
use capi_testkit::faults::without_preconditions;
use capi_testkit::weakness::{GoneOnceSent, UnsettledIsAbsent, Weaken, Weakened};
use http::{Request, Response};
use kube::Client;
use parking_lot::Mutex;
use provider_proxmox::machine::{MachineClaim, MachineError, Machines, Seen};
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
    /// A destroy that was sent is taken for done.
    SentDestroyIsGone,
    /// The seed image is not looked for once the VM is gone.
    SeedIsForgotten,
}

/// Runs the provider, broken like this, until it is dropped.
pub(super) async fn provide(site: &Site, weakening: Weakening, client: Client, line: Line) {
    match weakening {
        Weakening::None => site.provide(client, line, Machines).await,
        Weakening::NoPreconditions => {
            let client = without_preconditions(client);
            site.provide(client, line, Machines).await;
        }
        Weakening::UnsettledIsAbsent => {
            let weak = Weakened::new(Machines, UnsettledIsAbsent);
            site.provide(client, line, weak).await;
        }
        Weakening::NumbersAreMarks => {
            let marks = Marks::default();
            let weak = Weakened::new(Machines, NumbersAreMarks(Arc::clone(&marks)));
            site.provide(client, Forger { line, marks }, weak).await;
        }
        Weakening::SentDestroyIsGone => {
            let weak = Weakened::new(Machines, GoneOnceSent::step("Destroying"));
            site.provide(client, line, weak).await;
        }
        Weakening::SeedIsForgotten => {
            let weak = Weakened::new(Machines, SeedIsForgotten);
            site.provide(client, line, weak).await;
        }
    }
}

/// The mark that each VMID is said to bear.
type Marks = Arc<Mutex<BTreeMap<u32, String>>>;

/// Writes the claimed mark into whatever configuration is read.
#[derive(Debug)]
struct Forger {
    line: Line,
    marks: Marks,
}

#[async_trait]
impl Transport for Forger {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let path = request.uri().path().to_owned();
        let response = self.line.exchange(request).await?;
        let vmid = path
            .strip_suffix("/config")
            .and_then(|path| path.rsplit('/').next()?.parse().ok());
        let mark = vmid.and_then(|vmid: u32| self.marks.lock().get(&vmid).cloned());
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

struct NumbersAreMarks(Marks);

impl Weaken<Machines> for NumbersAreMarks {
    async fn observe(
        &self,
        real: &Machines,
        on: &Session,
        claim: &MachineClaim,
        depth: Depth,
    ) -> Result<Lookup<Seen>, MachineError> {
        self.0.lock().insert(claim.vmid, claim.mark.to_string());
        real.observe(on, claim, depth).await
    }
}

struct SeedIsForgotten;

impl Weaken<Machines> for SeedIsForgotten {
    async fn observe(
        &self,
        real: &Machines,
        on: &Session,
        claim: &MachineClaim,
        depth: Depth,
    ) -> Result<Lookup<Seen>, MachineError> {
        Ok(match real.observe(on, claim, depth).await? {
            Lookup::Ours(seen) if seen.phase.is_none() => Lookup::Absent,
            seen => seen,
        })
    }
}
