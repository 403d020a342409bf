//! One mutation each.
//!
//! Every step names the node that was just seen and is guarded against another's VM: changes of the
//! configuration carry the digest of the configuration that bore our mark; images have names that
//! only this claim has; starting, stopping and destroying, which the API cannot guard, are refused
//! when the look that led to them is not fresh, and our VMs are protected until teardown.

use std::time::Duration;

use capi_contract::{Effect, Operation, Receipt, Step, Supply};
use tokio::time::Instant;

use super::claim::{MachineClaim, SeedPlace, TemplateRef};
use super::error::MachineError;
use super::observe;
use super::watch::Awaited;
use crate::network::GuestNetwork;
use crate::pve::{CloneRequest, Image, LIFETIME_OF_A_REQUEST, Power, Quick, Refusal, Upid};
use crate::seed::{MetaData, Seed};
use crate::session::Session;

/// The oldest look on which a VM may be started, stopped or destroyed. In that time no VMID can
/// have been freed and given to another VM that stands where ours was.
const LOOK_FRESH_FOR: Duration = Duration::from_secs(5);

/// One mutation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MachineStep {
    /// Nothing: only a look at the thing itself can tell what to do.
    LookCloser,
    /// Clones the template, with the mark in the notes.
    Clone {
        /// What is cloned.
        template: TemplateRef,
        /// How.
        request: CloneRequest,
    },
    /// Grows a disk to a size.
    Resize {
        /// The disk.
        disk: String,
        /// Size in GiB.
        size: u32,
        /// What it changes.
        guard: Guard,
    },
    /// Stores the seed image.
    UploadSeed {
        /// Where.
        place: SeedPlace,
        /// Who the machine is.
        meta_data: MetaData,
        /// Its network.
        network: GuestNetwork,
    },
    /// Sets size, network, mark, tags, protection, and attaches the seed.
    Configure(Change),
    /// Starts or resumes it.
    Start {
        /// Where it is.
        node: String,
        /// Whether it is paused.
        paused: bool,
        /// When it was looked at.
        seen_at: Instant,
    },
    /// Takes the seed out.
    DetachSeed(Change),
    /// Removes the seed image.
    RemoveSeed {
        /// Where it is.
        place: SeedPlace,
    },
    /// Marks the machine as one that needs nothing more.
    Seal(Change),
    /// Lifts the protection, for teardown.
    Unprotect(Change),
    /// Pulls the plug, for teardown.
    Stop {
        /// Where it is.
        node: String,
        /// When it was looked at.
        seen_at: Instant,
    },
    /// Removes it with its disks.
    Destroy {
        /// Where it is.
        node: String,
        /// When it was looked at.
        seen_at: Instant,
    },
}

/// A node, and the digest of the configuration that bore our mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Where the VM is.
    pub node: String,
    /// The digest.
    pub digest: String,
}

/// A change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it changes.
    pub guard: Guard,
    /// Keys and values to set.
    pub set: Vec<(String, String)>,
    /// Keys to delete.
    pub delete: Vec<String>,
}

impl Step for MachineStep {
    /// Names as in the conditions of the Go provider, where it has one.
    fn name(&self) -> &'static str {
        match self {
            Self::LookCloser => "Inspecting",
            Self::Clone { .. } => "Cloning",
            Self::Resize { .. } => "WaitingForDiskReconciliation",
            Self::UploadSeed { .. } => "WaitingForBootstrapDataReconciliation",
            Self::Configure(_) => "Configuring",
            Self::Start { .. } => "PoweringOn",
            Self::DetachSeed(_) => "DetachingSeed",
            Self::RemoveSeed { .. } => "RemovingSeed",
            Self::Seal(_) => "Sealing",
            Self::Unprotect(_) => "Unprotecting",
            Self::Stop { .. } => "PoweringOff",
            Self::Destroy { .. } => "Destroying",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::Clone { .. } | Self::UploadSeed { .. } => Effect::Creates {
                settle: LIFETIME_OF_A_REQUEST,
            },
            // The digest or the freshness of the look keeps them off another's VM; a second one
            // finds nothing to do.
            Self::LookCloser
            | Self::Resize { .. }
            | Self::Configure(_)
            | Self::Start { .. }
            | Self::DetachSeed(_)
            | Self::Seal(_)
            | Self::Unprotect(_) => Effect::Repeats,
            Self::Stop { .. } => Effect::Changes,
            Self::RemoveSeed { .. } | Self::Destroy { .. } => Effect::Destroys,
        }
    }

    fn wants_bootstrap(&self) -> bool {
        matches!(self, Self::UploadSeed { .. })
    }
}

/// Carries out one step.
pub(super) async fn apply(
    on: &Session,
    claim: &MachineClaim,
    step: &MachineStep,
    supply: Supply<'_>,
) -> Result<Receipt, MachineError> {
    let vmid = claim.vmid;
    // Something is about to change: what was read before does not count any more.
    on.take_glance(vmid);
    on.forget_look(vmid);
    match step {
        MachineStep::LookCloser => Err(MachineError::Stale),
        MachineStep::Clone { template, request } => clone(on, claim, template, request).await,
        MachineStep::Resize { disk, size, guard } => {
            let Guard { node, digest } = guard;
            let quick = on.client().resize(node, vmid, digest, disk, *size).await?;
            Ok(changed(on, claim, guard, quick))
        }
        MachineStep::UploadSeed {
            place,
            meta_data,
            network,
        } => upload(on, claim, place, meta_data, network, supply).await,
        MachineStep::Configure(change)
        | MachineStep::DetachSeed(change)
        | MachineStep::Seal(change)
        | MachineStep::Unprotect(change) => configure(on, claim, change).await,
        MachineStep::Start {
            node,
            paused,
            seen_at,
        } => {
            fresh(*seen_at)?;
            start(on, claim, node, *paused).await
        }
        MachineStep::RemoveSeed { place } => remove(on, claim, place).await,
        MachineStep::Stop { node, seen_at } => {
            fresh(*seen_at)?;
            on.note_switched(vmid, Power::Stopped);
            let upid = on.client().stop(node, vmid).await?;
            Ok(started(on, claim, node, upid))
        }
        MachineStep::Destroy { node, seen_at } => {
            fresh(*seen_at)?;
            destroy(on, claim, node).await
        }
    }
}

fn fresh(seen_at: Instant) -> Result<(), MachineError> {
    if seen_at.elapsed() <= LOOK_FRESH_FOR {
        Ok(())
    } else {
        Err(MachineError::Stale)
    }
}

fn started(on: &Session, claim: &MachineClaim, node: &str, upid: Upid) -> Receipt {
    awaited(on, claim, node, upid, None)
}

fn awaited(
    on: &Session,
    claim: &MachineClaim,
    node: &str,
    upid: Upid,
    digest: Option<String>,
) -> Receipt {
    on.note_begun(&upid);
    let (vmid, node) = (claim.vmid, node.to_owned());
    Receipt::Started(Operation(
        Awaited {
            upid,
            vmid,
            node,
            digest,
        }
        .to_string(),
    ))
}

fn changed(on: &Session, claim: &MachineClaim, guard: &Guard, quick: Quick) -> Receipt {
    match quick {
        Quick::Done => Receipt::Finished,
        Quick::Task(upid) => awaited(on, claim, &guard.node, upid, Some(guard.digest.clone())),
    }
}

async fn clone(
    on: &Session,
    claim: &MachineClaim,
    template: &TemplateRef,
    request: &CloneRequest,
) -> Result<Receipt, MachineError> {
    on.note_cloned(claim.vmid);
    let upid = on
        .client()
        .clone_vm(&template.node, template.vmid, request)
        .await
        .map_err(MachineError::Clone)?;
    Ok(started(on, claim, &claim.node, upid))
}

async fn upload(
    on: &Session,
    claim: &MachineClaim,
    place: &SeedPlace,
    meta_data: &MetaData,
    network: &GuestNetwork,
    supply: Supply<'_>,
) -> Result<Receipt, MachineError> {
    let bootstrap = supply.bootstrap.ok_or(MachineError::Stale)?;
    let image = Seed::new(bootstrap, meta_data, network)?.image()?;
    let image = Image {
        name: &place.file,
        bytes: &image,
    };
    let upid = on
        .client()
        .upload(&place.node, &place.storage, &image)
        .await?;
    on.note_upload(&upid, &place.volume());
    Ok(started(on, claim, &place.node, upid))
}

async fn configure(
    on: &Session,
    claim: &MachineClaim,
    change: &Change,
) -> Result<Receipt, MachineError> {
    let Guard { node, digest } = &change.guard;
    let quick = on
        .client()
        .configure(node, claim.vmid, digest, &change.set, &change.delete)
        .await;
    if let (Err(error), Some(seed)) = (&quick, &claim.seed)
        && error.refusal() == Some(&Refusal::NoSuchVolume)
    {
        on.forget_stored(&seed.volume());
    }
    Ok(changed(on, claim, &change.guard, quick?))
}

async fn start(
    on: &Session,
    claim: &MachineClaim,
    node: &str,
    paused: bool,
) -> Result<Receipt, MachineError> {
    let vmid = claim.vmid;
    on.note_switched(vmid, Power::Running);
    on.note_booting(vmid, &claim.mark.to_string());
    let answer = if paused {
        on.client().resume(node, vmid).await
    } else {
        on.client().start(node, vmid).await
    };
    match answer {
        Ok(upid) => Ok(started(on, claim, node, upid)),
        // The listing was old; the next look asks the VM itself.
        Err(error) if error.refusal() == Some(&Refusal::Running) => Ok(Receipt::Finished),
        Err(error) => {
            if let (Some(Refusal::NoSuchVolume), Some(seed)) = (error.refusal(), &claim.seed) {
                on.forget_stored(&seed.volume());
            }
            Err(error.into())
        }
    }
}

async fn remove(
    on: &Session,
    claim: &MachineClaim,
    place: &SeedPlace,
) -> Result<Receipt, MachineError> {
    let volume = place.volume();
    on.forget_stored(&volume);
    let listing = on.listing().await?;
    let node = observe::reachable(&listing, place).unwrap_or_else(|| place.node.clone());
    let quick = on
        .client()
        .remove_volume(&node, &place.storage, &volume)
        .await?;
    Ok(match quick {
        Quick::Done => {
            on.note_removed(&volume);
            Receipt::Finished
        }
        Quick::Task(upid) => started(on, claim, &node, upid),
    })
}

async fn destroy(on: &Session, claim: &MachineClaim, node: &str) -> Result<Receipt, MachineError> {
    match on.client().destroy(node, claim.vmid).await {
        Ok(upid) => Ok(started(on, claim, node, upid)),
        Err(error) => {
            // It runs although it did not seem to: the next look asks the VM itself.
            if error.refusal() == Some(&Refusal::Running) {
                on.note_switched(claim.vmid, Power::Stopped);
            }
            Err(error.into())
        }
    }
}

/// Whether a VM that is to be destroyed has to be stopped first.
pub(super) fn must_stop(power: Power) -> bool {
    match power {
        Power::Running | Power::Paused => true,
        Power::Stopped => false,
    }
}
