//! Looking at a virtual machine.

use std::time::Duration;

use capi_contract::{Depth, Lookup, Mark, Proof, Waiting};
use tokio::time::Instant;

use super::claim::{BootCheck, MachineClaim, PhaseTags, SeedPlace};
use super::error::MachineError;
use crate::property::{Drive, Smbios};
use crate::pve::{Config, Error, Power, Refusal, Resource, ResourceKind};
use crate::session::{Glance, GuestTurn, Listing, PowerSource, Session};

/// When to look again at what settles by itself within seconds.
const SOON: Duration = Duration::from_secs(2);

/// When to look again at what waits for a person or a host.
const LATER: Duration = Duration::from_secs(15);

/// The file that tells of the end of the bootstrap (IM-15).
const SENTINEL: &str = "/run/cluster-api/bootstrap-success.complete";

/// How far a virtual machine of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Cloned, nothing more.
    Bare,
    /// Configured, the seed attached.
    Seeded,
    /// The seed is detached, the image may still be there.
    Detached,
    /// The seed is gone: it needs nothing more.
    Sealed,
}

/// What a look saw.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Seen {
    /// The node where the VM is now.
    pub node: String,
    /// How far it is; `None` if the VM is gone and only its seed image is left.
    pub phase: Option<Phase>,
    /// Whether it runs.
    pub power: Power,
    /// Why its configuration is locked.
    pub lock: Option<String>,
    /// Its configuration; absent if the shared listing was enough.
    pub config: Option<Config>,
    /// Whether the seed image is known to be stored.
    pub stored: bool,
    /// Whether the guest said that its bootstrap is over; `None` where nobody asks.
    pub booted: Option<bool>,
    /// When the look was taken: a step that cannot be guarded otherwise must not be much later.
    pub at: Instant,
}

impl Seen {
    /// The SMBIOS uuid, where the configuration was read.
    pub fn uuid(&self) -> Option<String> {
        Smbios::parse(self.config.as_ref()?.get("smbios1")?)
            .ok()?
            .uuid()
    }
}

/// Looks at the machine of a claim.
pub(super) async fn look(
    on: &Session,
    claim: &MachineClaim,
    depth: Depth,
) -> Result<Lookup<Seen>, MachineError> {
    let (asked_at, listing) = on.dated_listing().await?;
    let row = listing.guest(claim.vmid);
    if depth == Depth::Listing {
        // Of the listing and the last look at the thing itself, the younger one counts.
        let seen = match on.look_since(claim.vmid, &claim.mark, asked_at) {
            Some(seen) => (seen.power == Power::Running && seen.lock.is_none()).then_some(seen),
            None => row.and_then(|row| glimpse(on, claim, row)),
        };
        let Some(mut seen) = seen else {
            return Ok(Lookup::Unsettled(unlisted(claim.vmid)));
        };
        seen.booted = boot_check(on, claim, &seen).await?;
        return Ok(Lookup::Ours(seen));
    }
    let closer = Closer {
        on,
        claim,
        listing: &listing,
        row,
    };
    let lookup = closer.look().await?;
    match &lookup {
        Lookup::Ours(seen) => on.note_look(claim.vmid, &claim.mark, seen),
        Lookup::Absent | Lookup::Foreign(_) | Lookup::Unsettled(_) => on.forget_look(claim.vmid),
    }
    Ok(lookup)
}

/// What the listing alone can tell: that a settled machine is still there. Anything else asks for a
/// closer look.
fn glimpse(on: &Session, claim: &MachineClaim, row: &Resource) -> Option<Seen> {
    let named = row.name.as_deref() == Some(claim.mark.object.name.as_str());
    let ready = row.kind == ResourceKind::Qemu && !row.template && row.lock.is_none();
    let power = match on.power_source(claim.vmid) {
        PowerSource::Listing => power_in(row),
        PowerSource::Known(power) => power,
        PowerSource::Ask => return None,
    };
    if !named || !ready || power != Power::Running {
        return None;
    }
    let phase = match PhaseTags::of(&claim.mark) {
        Some(tags) if row.has_tag(&tags.sealed) => Phase::Sealed,
        Some(tags) if row.has_tag(&tags.seeded) => Phase::Seeded,
        Some(_) => return None,
        None => Phase::Sealed,
    };
    Some(Seen {
        node: row.node.clone(),
        phase: Some(phase),
        power,
        lock: None,
        config: None,
        stored: false,
        booted: None,
        at: Instant::now(),
    })
}

/// The listing is no proof of anything but presence.
fn unlisted(vmid: u32) -> Waiting {
    let message = format!("the listing does not show VM {vmid} as it should be");
    Waiting::new("LookingCloser", message, SOON)
}

fn power_in(row: &Resource) -> Power {
    match row.status.as_str() {
        "running" => Power::Running,
        "paused" | "suspended" => Power::Paused,
        _ => Power::Stopped,
    }
}

/// A look at the thing itself.
struct Closer<'a> {
    on: &'a Session,
    claim: &'a MachineClaim,
    listing: &'a Listing,
    row: Option<&'a Resource>,
}

impl Closer<'_> {
    async fn look(&self) -> Result<Lookup<Seen>, MachineError> {
        let (on, vmid) = (self.on, self.claim.vmid);
        if on.take_affirmed_free(vmid, &self.claim.mark.to_string()) {
            return Ok(Lookup::Absent);
        }
        let (config, gone) = match on.take_glance(vmid) {
            Some(Glance::Config(config)) => (Some(config), false),
            Some(Glance::Gone) => (None, true),
            None => (None, false),
        };
        let at = Instant::now();
        if gone || (self.row.is_none() && config.is_none() && !on.may_be_unlisted(vmid)) {
            return self.without_vm(gone).await;
        }
        let node = self.row.map_or(&self.claim.node, |row| &row.node).clone();
        if !self.listing.is_online(&node) {
            return Ok(Lookup::Unsettled(offline(&node, vmid)));
        }
        let config = match config {
            Some(config) => config,
            None => match on.client().config(&node, vmid).await {
                Ok(config) => config,
                Err(error) => return self.unreadable(&node, error).await,
            },
        };
        match whose(self.claim, &config) {
            Whose::Ours => {}
            Whose::Unreadable => return Ok(Lookup::Unsettled(being_made(&config, &node, vmid))),
            Whose::Other(text) => return self.foreign(text).await,
        }
        let phase = phase_of(self.claim, &config);
        let power = self.power(&node, phase).await?;
        let mut seen = Seen {
            stored: self.is_stored(phase, &config).await?,
            node,
            phase: Some(phase),
            power,
            lock: config.lock().map(str::to_owned),
            config: Some(config),
            booted: None,
            at,
        };
        seen.booted = boot_check(on, self.claim, &seen).await?;
        Ok(Lookup::Ours(seen))
    }

    /// The listing's status is believed unless this process switched the VM a moment ago.
    async fn power(&self, node: &str, phase: Phase) -> Result<Power, MachineError> {
        let (on, vmid) = (self.on, self.claim.vmid);
        match (on.power_source(vmid), self.row) {
            (PowerSource::Known(power), _) => Ok(power),
            (PowerSource::Listing, Some(row)) => Ok(power_in(row)),
            // Nothing but a clone of a moment ago is unlisted, and this process did not start it.
            // Should a person have, the start is refused, and the VM itself is asked.
            (PowerSource::Listing, None) if phase == Phase::Bare || on.may_be_unlisted(vmid) => {
                Ok(Power::Stopped)
            }
            (PowerSource::Listing | PowerSource::Ask, _) => {
                let power = on.client().status(node, vmid).await?.power();
                on.note_power(vmid, power);
                Ok(power)
            }
        }
    }

    /// Whether the image is stored, as far as the next step depends on it: before it is attached, a
    /// note of this process is enough, since a second upload does no harm; afterwards the storage
    /// has to say that it is gone.
    async fn is_stored(&self, phase: Phase, config: &Config) -> Result<bool, MachineError> {
        let Some(seed) = &self.claim.seed else {
            return Ok(false);
        };
        let volume = seed.volume();
        match phase {
            Phase::Bare => Ok(self.on.is_stored(&volume)),
            Phase::Seeded => Ok(attached_at(config, &volume).is_some()),
            Phase::Detached if self.on.is_stored(&volume) => Ok(true),
            Phase::Detached if self.on.was_removed(&volume) => Ok(false),
            Phase::Detached => match self.image(seed).await? {
                Image::Gone => Ok(false),
                // What cannot be told now has to be removed once more.
                Image::There | Image::Unknown(_) => Ok(true),
            },
            Phase::Sealed => Ok(false),
        }
    }

    /// The configuration could not be read: the VM is elsewhere, gone, or its node is silent.
    async fn unreadable(&self, node: &str, error: Error) -> Result<Lookup<Seen>, MachineError> {
        let vmid = self.claim.vmid;
        match error.refusal() {
            Some(Refusal::NodeUnreachable) => Ok(Lookup::Unsettled(offline(node, vmid))),
            Some(Refusal::NoSuchVm) => self.without_vm(false).await,
            _ if matches!(error, Error::Unanswered { .. }) => Err(MachineError::NodeSilent(error)),
            _ => Err(error.into()),
        }
    }

    /// The VM is not where it was looked for. Only the backend's word on the whole cluster counts
    /// (`affirmed` if it gave that a moment ago), and the image must be gone as well.
    async fn without_vm(&self, affirmed: bool) -> Result<Lookup<Seen>, MachineError> {
        let vmid = self.claim.vmid;
        if !affirmed && !self.on.client().is_free(vmid).await? {
            return Ok(Lookup::Unsettled(Waiting::new(
                "Cloning",
                format!(
                    "VMID {vmid} is taken, and the VM cannot be read yet: it is being cloned or \
                     moved, or the API token lacks VM.Audit on /vms/{vmid} or its pool"
                ),
                SOON,
            )));
        }
        self.remains(Lookup::Absent).await
    }

    async fn foreign(&self, text: String) -> Result<Lookup<Seen>, MachineError> {
        self.remains(Lookup::Foreign(text)).await
    }

    /// `otherwise`, unless the seed image is left over: then there is something of ours.
    async fn remains(&self, otherwise: Lookup<Seen>) -> Result<Lookup<Seen>, MachineError> {
        let Some(seed) = &self.claim.seed else {
            return Ok(otherwise);
        };
        Ok(match self.image(seed).await? {
            Image::Gone => otherwise,
            Image::Unknown(waiting) => Lookup::Unsettled(waiting),
            Image::There => Lookup::Ours(Seen {
                node: seed.node.clone(),
                phase: None,
                power: Power::Stopped,
                lock: None,
                config: None,
                stored: true,
                booted: None,
                at: Instant::now(),
            }),
        })
    }

    async fn image(&self, seed: &SeedPlace) -> Result<Image, MachineError> {
        let Some(node) = reachable(self.listing, seed) else {
            return Ok(Image::Unknown(Waiting::new(
                "WaitingForStorage",
                format!(
                    "storage {} on node {} does not answer, so it cannot be told whether the seed \
                     image {} is gone; bring the node or storage back",
                    seed.storage, seed.node, seed.file
                ),
                LATER,
            )));
        };
        let answer = self
            .on
            .client()
            .has_volume(&node, &seed.storage, &seed.volume())
            .await;
        match answer {
            Ok(true) => Ok(Image::There),
            Ok(false) => Ok(Image::Gone),
            // A storage that was taken out of the configuration has no images.
            Err(error) if error.refusal() == Some(&Refusal::NoSuchStorage) => Ok(Image::Gone),
            Err(error) => Err(error.into()),
        }
    }
}

enum Image {
    There,
    Gone,
    Unknown(Waiting),
}

/// A node that can see the storage of a seed: its own, or any for a shared one. A storage that no
/// row names is asked for on the seed's own node, whose answer says whether it exists.
pub(super) fn reachable(listing: &Listing, seed: &SeedPlace) -> Option<String> {
    let of_storage = |row: &&Resource| {
        row.kind == ResourceKind::Storage && row.storage.as_deref() == Some(&seed.storage)
    };
    let Some(own) = listing.storage(&seed.node, &seed.storage) else {
        return listing.is_online(&seed.node).then(|| seed.node.clone());
    };
    if own.status == "available" && listing.is_online(&seed.node) {
        return Some(seed.node.clone());
    }
    let other = listing
        .rows()
        .iter()
        .filter(of_storage)
        .find(|row| row.shared && row.status == "available" && listing.is_online(&row.node));
    other.map(|row| row.node.clone())
}

fn offline(node: &str, vmid: u32) -> Waiting {
    Waiting::new(
        "NodeUnreachable",
        format!(
            "node {node} does not answer, so VM {vmid} cannot be looked at; bring the node back, or \
             move the VM to another one"
        ),
        LATER,
    )
}

fn being_made(config: &Config, node: &str, vmid: u32) -> Waiting {
    let lock = config.lock().unwrap_or("clone");
    Waiting::new(
        "Cloning",
        format!(
            "VM {vmid} on {node} is locked ({lock}); if no task is working on it any more, remove \
             the lock with: qm unlock {vmid}"
        ),
        SOON,
    )
}

enum Whose {
    Ours,
    Unreadable,
    Other(String),
}

/// The mark that a VM bears: the serial number, since people edit notes; before it is set, the
/// notes.
pub(super) fn mark_of(config: &Config) -> Option<Mark> {
    let serial = config
        .get("smbios1")
        .and_then(|text| Smbios::parse(text).ok())
        .and_then(|smbios| smbios.serial())
        .and_then(|serial| serial.parse().ok());
    serial.or_else(|| Mark::find_in(config.get("description")?))
}

fn whose(claim: &MachineClaim, config: &Config) -> Whose {
    let name = config.get("name").unwrap_or("unnamed");
    let vmid = claim.vmid;
    if config.is_set("template") {
        return Whose::Other(format!("VM {vmid} is the template {name}"));
    }
    let found = mark_of(config);
    match &claim.mark.proof {
        Proof::Made { .. } if found.as_ref() == Some(&claim.mark) => Whose::Ours,
        Proof::Adopted { id } => {
            let uuid = config
                .get("smbios1")
                .and_then(|text| Smbios::parse(text).ok()?.uuid());
            match uuid {
                Some(uuid) if uuid.eq_ignore_ascii_case(id) => Whose::Ours,
                _ => Whose::Other(format!("VM {vmid} is {name}, with another SMBIOS uuid")),
            }
        }
        // The notes of a clone are written at its end, together with the rest.
        Proof::Made { .. }
            if found.is_none() && matches!(config.lock(), Some("clone" | "create")) =>
        {
            Whose::Unreadable
        }
        Proof::Made { .. } => Whose::Other(match found {
            Some(mark) => format!("VM {vmid} is {name}, which belongs to {}", mark.object),
            None => format!("VM {vmid} is {name}, which bears no mark of this provider"),
        }),
    }
}

fn phase_of(claim: &MachineClaim, config: &Config) -> Phase {
    let volume = claim.seed.as_ref().map(SeedPlace::volume);
    let attached = volume.is_some_and(|volume| attached_at(config, &volume).is_some());
    let Some(tags) = PhaseTags::of(&claim.mark) else {
        return if attached {
            Phase::Seeded
        } else {
            Phase::Sealed
        };
    };
    let tagged = crate::property::Tags::parse(config.get("tags").unwrap_or_default());
    let has = |tag: &str| tagged.iter().any(|found| found == tag);
    let serial = config
        .get("smbios1")
        .and_then(|text| Smbios::parse(text).ok()?.serial());
    let configured = serial == Some(claim.mark.to_string());
    match (attached, has(&tags.seeded)) {
        (true, _) => Phase::Seeded,
        (false, true) => Phase::Detached,
        (false, false) if configured || has(&tags.sealed) => Phase::Sealed,
        (false, false) => Phase::Bare,
    }
}

/// The drive that has this volume.
pub(super) fn attached_at<'a>(config: &'a Config, volume: &str) -> Option<&'a str> {
    config
        .iter()
        .filter(|(key, _)| is_drive(key))
        .find(|(_, line)| Drive::parse(line).is_ok_and(|drive| drive.volume() == volume))
        .map(|(key, _)| key)
}

/// Whether a key of the configuration names a drive.
pub(super) fn is_drive(key: &str) -> bool {
    ["ide", "sata", "scsi", "virtio"].iter().any(|bus| {
        key.strip_prefix(bus)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Looks into a running guest that has its seed, when it is time to. A guest that cannot be asked
/// is one that has not booted yet.
async fn boot_check(
    on: &Session,
    claim: &MachineClaim,
    seen: &Seen,
) -> Result<Option<bool>, MachineError> {
    if claim.check == BootCheck::Skipped || seen.phase != Some(Phase::Seeded) {
        return Ok(None);
    }
    if seen.power != Power::Running {
        return Ok(Some(false));
    }
    let mark = claim.mark.to_string();
    match on.guest(claim.vmid, &mark) {
        GuestTurn::Ready => return Ok(Some(true)),
        GuestTurn::NotYet => return Ok(Some(false)),
        GuestTurn::Ask => {}
    }
    let client = on.client();
    let ready = match claim.check {
        BootCheck::Skipped => true,
        BootCheck::Agent => client.agent_answers(&seen.node, claim.vmid).await?,
        BootCheck::Sentinel => {
            client
                .guest_has_file(&seen.node, claim.vmid, SENTINEL)
                .await?
                == Some(true)
        }
    };
    if ready {
        on.note_guest_ready(claim.vmid, &mark);
    }
    Ok(Some(ready))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{claim, configured};
    use super::*;

    #[test]
    fn r5_the_serial_counts_before_the_notes_that_people_edit() {
        let claim = claim();
        let config = configured(&claim, &[("description", "do not touch")]);
        assert_eq!(mark_of(&config), Some(claim.mark.clone()));
        let notes = format!("web server\n\n{}", claim.mark);
        let bare = Config::from_iter([("description", notes.as_str())]);
        assert_eq!(mark_of(&bare), Some(claim.mark.clone()));
        assert_eq!(mark_of(&Config::default()), None);
    }

    #[test]
    fn r5_anything_without_our_mark_is_foreign_and_a_clone_under_way_is_neither() {
        let claim = claim();
        let of = |pairs: &[(&str, &str)]| whose(&claim, &pairs.iter().copied().collect());
        assert!(matches!(of(&[("name", "db")]), Whose::Other(text) if text.contains("db")));
        assert!(matches!(of(&[("lock", "clone")]), Whose::Unreadable));
        assert!(matches!(of(&[("lock", "backup")]), Whose::Other(_)));
        let mark = claim.mark.to_string();
        assert!(matches!(of(&[("description", &mark)]), Whose::Ours));
        assert!(matches!(
            of(&[("description", &mark), ("lock", "backup")]),
            Whose::Ours
        ));
        assert!(matches!(
            of(&[("description", &mark), ("template", "1")]),
            Whose::Other(_)
        ));
    }

    #[test]
    fn the_phase_is_read_from_the_vm_itself() {
        let claim = claim();
        let tags = PhaseTags::of(&claim.mark).unwrap();
        let volume = format!("{},media=cdrom", claim.seed.as_ref().unwrap().volume());
        let phase = |pairs: &[(&str, &str)]| phase_of(&claim, &configured(&claim, pairs));
        assert_eq!(
            phase(&[("ide0", &volume), ("tags", &tags.seeded)]),
            Phase::Seeded
        );
        assert_eq!(
            phase(&[("ide0", &volume)]),
            Phase::Seeded,
            "tags taken off by hand"
        );
        assert_eq!(phase(&[("tags", &tags.seeded)]), Phase::Detached);
        assert_eq!(phase(&[("tags", &tags.sealed)]), Phase::Sealed);
        assert_eq!(phase(&[]), Phase::Sealed, "tags taken off by hand");
        assert_eq!(phase_of(&claim, &Config::default()), Phase::Bare);
    }
}
