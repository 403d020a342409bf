//! Finding a machine whose ledger is missing.
//!
//! It may have been stripped of its annotation, restored from a backup, or made by the Go provider.
//! A name alone proves nothing: what counts is our mark, the provider id, or the VMID in spec.

use capi_contract::{Lost, Mark, Token};

use super::claim::{BootCheck, MachineClaim, SeedPlace, seed_file};
use super::error::MachineError;
use super::observe::{is_drive, mark_of};
use crate::api::{MACHINE_FINALIZER, PROVIDER_ID_SCHEME, ProxmoxMachine};
use crate::property::{Drive, Smbios};
use crate::pve::{Config, Refusal, Resource, ResourceKind};
use crate::session::{Listing, Session};

/// How many VMs are read in search of one machine. Only those with its name or number are.
const CANDIDATES_MAX: usize = 8;

/// Looks for the machine of an object.
pub(super) async fn recover(
    on: &Session,
    lost: &Lost<'_, ProxmoxMachine>,
) -> Result<Option<MachineClaim>, MachineError> {
    let listing = on.listing().await?;
    let spec = &lost.object.spec;
    let vmid = spec
        .virtual_machine_id
        .and_then(|vmid| u32::try_from(vmid).ok());
    let candidates = listing.rows().iter().filter(|row| {
        let named = row.name.as_deref() == Some(lost.name.name.as_str());
        row.kind == ResourceKind::Qemu
            && !row.template
            && (named || (vmid.is_some() && row.vmid == vmid))
    });
    let mut found = Vec::new();
    for row in candidates.take(CANDIDATES_MAX) {
        let Some(number) = row.vmid else { continue };
        match on.client().config(&row.node, number).await {
            Ok(config) => {
                if let Some(proof) = proof(lost, number, &config) {
                    found.push((
                        proof.rank(),
                        claim(lost, &listing, row, number, &config, proof),
                    ));
                }
            }
            Err(error) if error.refusal() == Some(&Refusal::NoSuchVm) => {
                return Err(unclear(
                    lost,
                    format!("VM {number} is being moved or removed"),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    if let Some((_, claim)) = found.into_iter().next() {
        return claim.map(Some);
    }
    nothing(on, lost, &listing, vmid).await
}

/// Makes sure that there is nothing, as far as there may be.
async fn nothing(
    on: &Session,
    lost: &Lost<'_, ProxmoxMachine>,
    listing: &Listing,
    vmid: Option<u32>,
) -> Result<Option<MachineClaim>, MachineError> {
    if let Some(vmid) = vmid
        && listing.guest(vmid).is_none()
        && !on.client().is_free(vmid).await?
    {
        let why = format!(
            "VMID {vmid} is taken by a guest that the API token may not see; grant VM.Audit on /vms/{vmid} or its pool"
        );
        return Err(unclear(lost, why));
    }
    // Whoever makes a machine sets the finalizer first, so without it nothing can be under way.
    let begun = lost
        .object
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == MACHINE_FINALIZER);
    let promised = on.promised_ids();
    let unnamed = listing.rows().iter().find(|row| {
        let ours = row.vmid.is_some_and(|vmid| promised.contains(&vmid));
        row.kind == ResourceKind::Qemu && row.lock.as_deref() == Some("clone") && !ours
    });
    match unnamed {
        Some(row) if begun => {
            let vmid = row.vmid.unwrap_or_default();
            Err(unclear(
                lost,
                format!(
                    "VM {vmid} on {} is being cloned, and nobody can tell yet for whom; wait for the clone to end",
                    row.node
                ),
            ))
        }
        _ => Ok(None),
    }
}

fn unclear(lost: &Lost<'_, ProxmoxMachine>, why: String) -> MachineError {
    MachineError::Unclear {
        name: lost.name.to_string(),
        why,
    }
}

/// Why a VM is the machine.
enum Proof {
    /// It bears our mark.
    Mark(Mark),
    /// Its uuid is in the provider id, or its number in spec together with its name.
    Uuid(String),
}

impl Proof {
    fn rank(&self) -> u8 {
        match self {
            Proof::Mark(_) => 1,
            Proof::Uuid(_) => 0,
        }
    }
}

fn proof(lost: &Lost<'_, ProxmoxMachine>, vmid: u32, config: &Config) -> Option<Proof> {
    let spec = &lost.object.spec;
    let uuid = config
        .get("smbios1")
        .and_then(|line| Smbios::parse(line).ok()?.uuid());
    let wanted = spec
        .provider_id
        .as_deref()
        .and_then(|id| id.strip_prefix(PROVIDER_ID_SCHEME));
    let same_uuid =
        matches!((&uuid, wanted), (Some(uuid), Some(wanted)) if uuid.eq_ignore_ascii_case(wanted));
    if let Some(mark) = mark_of(config) {
        let ours = mark.object == lost.name
            && lost.owner.as_ref().is_none_or(|owner| *owner == mark.owner);
        // A copy of our VM bears our mark too, but has a uuid of its own.
        let original = wanted.is_none() || same_uuid;
        return (ours && original).then_some(Proof::Mark(mark));
    }
    let named = config.get("name") == Some(lost.name.name.as_str());
    let numbered = spec.virtual_machine_id == Some(i64::from(vmid)) && wanted.is_none();
    (same_uuid || (numbered && named))
        .then(|| uuid.map(Proof::Uuid))
        .flatten()
}

fn claim(
    lost: &Lost<'_, ProxmoxMachine>,
    listing: &Listing,
    row: &Resource,
    vmid: u32,
    config: &Config,
    proof: Proof,
) -> Result<MachineClaim, MachineError> {
    let mark = match proof {
        Proof::Mark(mark) => mark,
        Proof::Uuid(uuid) => {
            // The owner is not on a VM that we did not make; without it the proof alone counts.
            let owner = lost.owner.clone().unwrap_or_else(Token::random);
            Mark::adopted(owner, lost.name.clone(), uuid)
        }
    };
    let file = seed_file(&mark, vmid);
    let seed = attached(config, &row.node, &file).or_else(|| {
        mark.token()?;
        SeedPlace::choose(listing, &row.node, file)
    });
    Ok(MachineClaim {
        vmid,
        node: row.node.clone(),
        template: None,
        seed,
        check: BootCheck::of(lost.object),
        mark,
    })
}

/// The seed that is attached.
fn attached(config: &Config, node: &str, file: &str) -> Option<SeedPlace> {
    config
        .iter()
        .filter(|(key, _)| is_drive(key))
        .find_map(|(_, line)| {
            let drive = Drive::parse(line).ok()?;
            let (storage, found) = drive.volume().split_once(":iso/")?;
            (found == file).then(|| SeedPlace {
                node: node.to_owned(),
                storage: storage.to_owned(),
                file: file.to_owned(),
            })
        })
}
