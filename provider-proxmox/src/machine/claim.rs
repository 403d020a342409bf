//! What a machine will be, chosen and named before anything is made.

use std::collections::{BTreeMap, BTreeSet};

use capi_contract::{Mark, Proof};
use serde::{Deserialize, Serialize};

use super::{MachineError, Scope, zone};
use crate::api::{ProxmoxMachine, ProxmoxMachineSpec};
use crate::placement::{
    self, GuestRow, Listing as Hypervisor, NodeRequest, NodeRow, Reservation, VmidRequest,
};
use crate::property::Tags;
use crate::pve::{Resource, ResourceKind};
use crate::session::{Listing, Session};

/// How often another VMID is tried in one pass, when those that look free belong to guests that
/// the token may not see. The next pass goes on.
const TRIES_MAX: usize = 16;

/// Identity and placement of a virtual machine; all that teardown has to go by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineClaim {
    /// Its number.
    pub vmid: u32,
    /// The node where it is made. It may move later.
    pub node: String,
    /// The template it is made from; absent if it was there before us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,
    /// Where its seed is stored; absent if it was there before us, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<SeedPlace>,
    /// How the end of the bootstrap is noticed.
    pub check: BootCheck,
    /// What it bears.
    pub mark: Mark,
}

/// A template and the node that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRef {
    /// Its number.
    pub vmid: u32,
    /// The node that has its configuration.
    pub node: String,
}

/// Where a seed image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedPlace {
    /// The node that it is uploaded to.
    pub node: String,
    /// The storage.
    pub storage: String,
    /// File name. It holds the claim's token, so an image of this name is nobody else's.
    pub file: String,
}

/// How the end of the bootstrap is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BootCheck {
    /// Not at all.
    Skipped,
    /// The guest agent answers.
    Agent,
    /// The guest has the file that tells of the end of the bootstrap (IM-15).
    Sentinel,
}

impl BootCheck {
    /// What the spec asks for.
    pub fn of(object: &ProxmoxMachine) -> Self {
        if object.spec.checks_cloud_init() {
            Self::Sentinel
        } else if object.spec.checks_agent() {
            Self::Agent
        } else {
            Self::Skipped
        }
    }
}

impl capi_contract::Claim for MachineClaim {
    fn mark(&self) -> &Mark {
        &self.mark
    }
}

impl SeedPlace {
    /// Id of the volume.
    pub fn volume(&self) -> String {
        format!("{}:iso/{}", self.storage, self.file)
    }

    /// Chooses a storage of the node that takes ISO images: one that all nodes see if there is one,
    /// so that the image can be removed when its node is down; then by name.
    pub(super) fn choose(listing: &Listing, node: &str, file: String) -> Option<Self> {
        let fits = |row: &&Resource| {
            row.kind == ResourceKind::Storage
                && row.node == node
                && row.status == "available"
                && row.takes("iso")
        };
        let best = listing
            .rows()
            .iter()
            .filter(fits)
            .min_by_key(|row| (!row.shared, row.storage.clone()))?;
        Some(Self {
            node: node.to_owned(),
            storage: best.storage.clone()?,
            file,
        })
    }
}

/// File name of a seed. The number is its end, for people and for tools that count by it.
pub(super) fn seed_file(mark: &Mark, vmid: u32) -> String {
    match &mark.proof {
        Proof::Made { token } => format!("user-data-{token}-{vmid}.iso"),
        // What the Go provider calls its images.
        Proof::Adopted { .. } => format!("user-data-{vmid}.iso"),
    }
}

/// The tags by which the listing shows how far a machine of ours is. Tags are for looking only:
/// before anything is changed, the mark itself is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PhaseTags {
    /// Configured, with a seed that has not been removed yet.
    pub seeded: String,
    /// Joined, the seed removed.
    pub sealed: String,
}

impl PhaseTags {
    /// The tags of a mark; `None` for machines that we did not make, which bear nothing of ours.
    pub(super) fn of(mark: &Mark) -> Option<Self> {
        let short = mark.token()?.as_str().get(..12)?.to_owned();
        Some(Self {
            seeded: format!("capi-seeded-{short}"),
            sealed: format!("capi-{short}"),
        })
    }
}

/// The listing in the words of placement.
fn hypervisor(listing: &Listing) -> Hypervisor {
    let mut all = Hypervisor::default();
    for row in listing.rows() {
        match (row.kind, row.vmid) {
            (ResourceKind::Node, _) => all.nodes.push(NodeRow {
                name: row.node.clone(),
                online: row.status == "online",
                memory: row.maxmem.unwrap_or_default(),
                cpus: row.maxcpu.unwrap_or_default(),
            }),
            (ResourceKind::Qemu | ResourceKind::Lxc, Some(vmid)) => all.guests.push(GuestRow {
                vmid,
                node: row.node.clone(),
                name: row.name.clone().unwrap_or_default(),
                template: row.template,
                container: row.kind == ResourceKind::Lxc,
                tags: Tags::parse(row.tags.as_deref().unwrap_or_default()),
                memory: row.maxmem.unwrap_or_default(),
                cpus: row.maxcpu.unwrap_or_default(),
            }),
            _ => {}
        }
    }
    all
}

/// The machines among which a machine is spread over nodes: those of the same set, whose names
/// differ in the random part at the end.
fn set_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(set, _)| set)
}

/// Machines of a set by node: listed ones, and promised ones that are not listed yet.
fn peers(
    hypervisor: &Hypervisor,
    set: &str,
    promised: &[(u32, String)],
) -> BTreeMap<String, usize> {
    let listed: BTreeMap<u32, &str> = hypervisor
        .guests
        .iter()
        .filter(|guest| !guest.template && set_of(&guest.name) == set)
        .map(|guest| (guest.vmid, guest.node.as_str()))
        .collect();
    let coming = promised
        .iter()
        .filter(|(vmid, _)| !listed.contains_key(vmid));
    let nodes = listed
        .values()
        .copied()
        .chain(coming.map(|(_, node)| node.as_str()));
    let mut count = BTreeMap::new();
    for node in nodes {
        *count.entry(node.to_owned()).or_insert(0) += 1;
    }
    count
}

/// Chooses template, node, VMID and seed storage, and keeps them from others.
pub(super) async fn choose(
    on: &Session,
    scope: &Scope,
    given_up: Option<&MachineClaim>,
) -> Result<MachineClaim, MachineError> {
    let listing = on.listing().await?;
    let hypervisor = hypervisor(&listing);
    let next_free = match scope.object.spec.vm_id_range {
        Some(_) => 0,
        None => on.first_id().await?,
    };
    let mut hidden = BTreeSet::new();
    for _ in 0..TRIES_MAX {
        let claim = {
            let _turn = on.choosing().await;
            promise(
                on,
                scope,
                &listing,
                &hypervisor,
                &hidden,
                next_free,
                given_up,
            )?
        };
        if on.client().is_free(claim.vmid).await? {
            on.affirm_free(claim.vmid, claim.mark.to_string());
            return Ok(claim);
        }
        hidden.insert(claim.vmid);
    }
    Err(MachineError::VmidsHidden)
}

/// Virtual processors of a machine. Of a template only the product is known: where only one of the
/// factors is named, the other counts as one.
fn cpus(spec: &ProxmoxMachineSpec, of_template: u64) -> u64 {
    let factor = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    match (factor(spec.num_sockets), factor(spec.num_cores)) {
        (None, None) => of_template,
        (sockets, cores) => sockets.unwrap_or(1).saturating_mul(cores.unwrap_or(1)),
    }
}

/// The nodes that a machine may be on.
fn allowed_nodes(scope: &Scope) -> Result<Vec<String>, MachineError> {
    let (spec, cluster) = (&scope.object.spec, &scope.cluster.spec);
    let network = zone::network_of(scope)?;
    let zone = network.zone();
    let allowed = placement::allowed(
        zone,
        cluster.zone_nodes(zone),
        &spec.allowed_nodes,
        &cluster.allowed_nodes,
        spec.target.as_deref(),
    )?;
    Ok(allowed)
}

fn promise(
    on: &Session,
    scope: &Scope,
    listing: &Listing,
    hypervisor: &Hypervisor,
    hidden: &BTreeSet<u32>,
    next_free: u32,
    given_up: Option<&MachineClaim>,
) -> Result<MachineClaim, MachineError> {
    let spec = &scope.object.spec;
    let templates = placement::templates(spec.template(), hypervisor)?;
    let Some(first) = templates.first() else {
        return Err(placement::PlacementError::NoSource.into());
    };
    let memory = match spec.memory_mib.and_then(|mib| u64::try_from(mib).ok()) {
        Some(mib) if mib > 0 => mib << 20,
        _ => first.memory,
    };
    let cpus = cpus(spec, first.cpus);
    let name = scope.name().name;
    let set = set_of(&name);
    let (reservations, promised) = on.promised(set);
    let template_nodes: Vec<String> = templates.iter().map(|one| one.node.clone()).collect();
    let request = NodeRequest {
        target: spec.target.as_deref(),
        allowed: &allowed_nodes(scope)?,
        template_nodes: &template_nodes,
        memory,
        adjustment: scope.cluster.spec.memory_adjustment(),
        cpus,
        cpu_adjustment: scope.cluster.spec.cpu_adjustment(),
        peers: &peers(hypervisor, set, &promised),
    };
    let node = placement::node(&request, hypervisor, &reservations)?.node;
    let near = templates.iter().find(|template| template.node == node);
    let template = near.unwrap_or(first);
    let used = hypervisor
        .guests
        .iter()
        .map(|guest| guest.vmid)
        .chain(hidden.iter().copied());
    let vmid = placement::vmid(&VmidRequest {
        range: spec.vm_id_range,
        next_free,
        used: &used.collect(),
        reserved: &on.promised_ids(),
        given_up: given_up.map(|claim| claim.vmid),
    })?;
    let mark = scope.mark();
    let seed = SeedPlace::choose(listing, &node, seed_file(&mark, vmid))
        .ok_or_else(|| MachineError::NoSeedStorage { node: node.clone() })?;
    on.promise(
        Reservation {
            vmid,
            node: node.clone(),
            memory,
            cpus,
        },
        set,
    );
    Ok(MachineClaim {
        vmid,
        node,
        template: Some(TemplateRef {
            vmid: template.vmid,
            node: template.node.clone(),
        }),
        seed: Some(seed),
        check: BootCheck::of(&scope.object),
        mark,
    })
}
