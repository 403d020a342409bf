//! What can go wrong with a machine, and what the engine should do about it.

use std::time::Duration;

use capi_contract::{Class, Classify};

use crate::infra::InfraError;
use crate::login::LoginError;

/// When to look again for what cannot be told apart yet.
const UNCLEAR_RECHECK: Duration = Duration::from_secs(5);

/// When to look again for keys that somebody has to make.
const KEYS_RECHECK: Duration = Duration::from_secs(30);

/// Why a machine cannot be made, changed or seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The infra cluster said no, or nothing.
    #[error(transparent)]
    Infra(#[from] InfraError),
    /// Ignition is not read from a NoCloud disk.
    #[error(
        "the bootstrap data is Ignition, which is not read from a NoCloud disk: remove \
         spec.bootstrapDataSource or set it to ConfigDrive"
    )]
    IgnitionOnNoCloud,
    /// Ignition does not read network data.
    #[error(
        "the bootstrap data is Ignition, which does not read the addresses of \
         spec.networkInterfaces: remove them and let a DHCP server give the addresses, or use an \
         image with cloud-init"
    )]
    IgnitionWithAddresses,
    /// The keys for asking the guest cannot be had.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// Something was changed since it was looked at.
    #[error("cannot act on an old observation")]
    Stale,
    /// What is there cannot be told to be this machine, or not to be.
    #[error("cannot tell whether {name} exists: {why}")]
    Unclear {
        /// Name of the machine.
        name: String,
        /// What is in the way and what to do.
        why: String,
    },
}

impl Classify for MachineError {
    fn class(&self) -> Class {
        match self {
            Self::Infra(error) => error.class(),
            Self::IgnitionOnNoCloud | Self::IgnitionWithAddresses => Class::Misconfigured,
            Self::Login(_) => Class::RetryAfter(KEYS_RECHECK),
            Self::Stale => Class::Conflict,
            Self::Unclear { .. } => Class::RetryAfter(UNCLEAR_RECHECK),
        }
    }
}
