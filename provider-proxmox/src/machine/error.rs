//! What can go wrong with a machine, and what the engine should do about it.

use std::time::Duration;

use capi_contract::{Class, Classify};

use super::zone::ZoneError;
use crate::network::NetworkError;
use crate::placement::PlacementError;
use crate::pve::{self, Refusal};
use crate::seed::{ImageError, SeedError};

/// When to look again for memory, a node or a VMID: as often as a person would want to see that it
/// helped to make room, and at the price of the shared listing only.
const PLACE_RECHECK: Duration = Duration::from_secs(30);

/// Why a machine cannot be made, changed or seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// Proxmox VE said no, or nothing.
    #[error(transparent)]
    Pve(#[from] pve::Error),
    /// A node did not answer for its VM; the listing, which any node gives, was answered.
    #[error("{0}; if this lasts, bring the node back, or move the VM to another one")]
    NodeSilent(pve::Error),
    /// A clone failed.
    #[error(transparent)]
    Clone(pve::Error),
    /// There is no place at the moment.
    #[error("cannot {0}")]
    Place(#[from] PlacementError),
    /// The bootstrap data or what goes with it cannot be made into a seed.
    #[error("cannot {0}")]
    Seed(#[from] SeedError),
    /// The machine has no zone.
    #[error("cannot {0}")]
    Zone(#[from] ZoneError),
    /// The seed does not fit into an image.
    #[error("cannot make the seed image: {0}")]
    Image(#[from] ImageError),
    /// The network of the spec cannot be made.
    #[error("cannot {0}")]
    Network(#[from] NetworkError),
    /// No storage for the seed.
    #[error(
        "cannot store the seed: node {node} has no active storage that takes ISO images; allow the \
         content type ISO image on one, and grant Datastore.Audit and Datastore.AllocateTemplate \
         on it to the API token"
    )]
    NoSeedStorage {
        /// The node.
        node: String,
    },
    /// The VMIDs that look free are not.
    #[error(
        "cannot choose a VMID: those that look free belong to guests that the API token may not \
         see; grant VM.Audit on them or set vmIDRange to a range of its own"
    )]
    VmidsHidden,
    /// Somebody else is still making something that may be this machine.
    #[error("cannot tell whether {name} exists: {why}")]
    Unclear {
        /// Name of the machine.
        name: String,
        /// What is in the way and what to do.
        why: String,
    },
    /// The look that led to the step is too old for it.
    #[error("cannot act on an old observation")]
    Stale,
}

impl Classify for MachineError {
    fn class(&self) -> Class {
        match self {
            Self::Pve(error) | Self::NodeSilent(error) => error.class(),
            Self::Clone(error) => clone_class(error),
            Self::Place(error) => place_class(error),
            Self::Seed(_)
            | Self::Image(_)
            | Self::Network(_)
            | Self::Zone(_)
            | Self::NoSeedStorage { .. } => Class::Misconfigured,
            Self::VmidsHidden => Class::RetryAfter(PLACE_RECHECK),
            Self::Unclear { .. } => Class::RetryAfter(Duration::from_secs(5)),
            Self::Stale => Class::Conflict,
        }
    }
}

/// A clone that was refused for its template or number wants another claim.
fn clone_class(error: &pve::Error) -> Class {
    match error.refusal() {
        Some(Refusal::NoSuchVm | Refusal::VmidTaken) => Class::Elsewhere,
        _ => error.class(),
    }
}

/// What a person must correct waits for the spec; what only needs room or a node waits for that.
fn place_class(error: &PlacementError) -> Class {
    match error {
        PlacementError::NoNode { .. }
        | PlacementError::NodeUnusable { .. }
        | PlacementError::RangeExhausted { .. }
        | PlacementError::NoTemplate { .. }
        | PlacementError::NoMatch { .. }
        | PlacementError::ManyMatch { .. } => Class::RetryAfter(PLACE_RECHECK),
        PlacementError::NoSource
        | PlacementError::TemplateElsewhere { .. }
        | PlacementError::OutsideZone { .. } => Class::Misconfigured,
    }
}
