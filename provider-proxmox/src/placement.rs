//! Where a machine goes: which template, which node, which number.
//!
//! Pure functions over listings. Whoever calls them fetches one listing of the whole hypervisor
//! cluster, adds what this process has promised and Proxmox VE does not show yet, and gets a
//! choice, or an error that says what was looked at and what to change. No error here is for
//! ever: memory is freed, templates are made, nodes come back. The caller asks again later.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::api::{MatchPolicy, TemplateSource, VmIdRange};
use crate::property::Tags;

/// Names listed in a message; more would hide the advice at its end.
const LISTED_MAX: usize = 8;

/// The largest VMID of Proxmox VE.
const VMID_MAX: u32 = 999_999_999;

/// The smallest VMID of Proxmox VE; lower numbers are its own.
const VMID_MIN: u32 = 100;

/// A node of the hypervisor cluster, from `GET /cluster/resources`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeRow {
    /// Name.
    pub name: String,
    /// Whether it answers.
    pub online: bool,
    /// Memory in bytes.
    pub memory: u64,
    /// Threads of its processors.
    pub cpus: u64,
}

/// A virtual machine, template or container, from `GET /cluster/resources`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuestRow {
    /// Its number.
    pub vmid: u32,
    /// Node that has its configuration.
    pub node: String,
    /// Name; empty while it is being cloned.
    pub name: String,
    /// Whether it is a template.
    pub template: bool,
    /// Whether it is a container, which nothing of ours is cloned from.
    pub container: bool,
    /// Tags.
    pub tags: Tags,
    /// Memory in bytes that it was promised.
    pub memory: u64,
    /// Virtual processors that it was promised.
    pub cpus: u64,
}

/// What the hypervisor cluster consists of at the moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listing {
    /// All nodes.
    pub nodes: Vec<NodeRow>,
    /// All virtual machines, templates and containers.
    pub guests: Vec<GuestRow>,
}

/// A machine that has been promised a place and may not be in the listing yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// Its number.
    pub vmid: u32,
    /// Its node.
    pub node: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Virtual processors.
    pub cpus: u64,
}

/// The template that a machine is cloned from, or one of its copies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    /// Its number.
    pub vmid: u32,
    /// Node that has it.
    pub node: String,
    /// Memory in bytes that a clone has unless told otherwise.
    pub memory: u64,
    /// Virtual processors that a clone has unless told otherwise.
    pub cpus: u64,
}

/// What a machine asks of a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeRequest<'a> {
    /// Node that was named outright.
    pub target: Option<&'a str>,
    /// Nodes to choose from; those of the template if empty.
    pub allowed: &'a [String],
    /// Nodes that have the template or a copy of it.
    pub template_nodes: &'a [String],
    /// Memory in bytes.
    pub memory: u64,
    /// Percent of a node's memory that may be promised; 0 turns the check off.
    pub adjustment: u64,
    /// Virtual processors.
    pub cpus: u64,
    /// Percent of a node's threads that may be promised; 0 turns the check off.
    pub cpu_adjustment: u64,
    /// Machines of the same cluster and role by node.
    pub peers: &'a BTreeMap<String, usize>,
}

/// A node and the reason for choosing it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeChoice {
    /// Name of the node.
    pub node: String,
    /// Why this one, for a condition or an event.
    pub explanation: String,
}

/// What a machine asks of a number.
#[derive(Clone, Copy, Debug)]
pub struct VmidRequest<'a> {
    /// Range of the machine's spec.
    pub range: Option<VmIdRange>,
    /// Where to begin without a range: the answer of `GET /cluster/nextid`.
    pub next_free: u32,
    /// Numbers in use.
    pub used: &'a BTreeSet<u32>,
    /// Numbers that this process has promised.
    pub reserved: &'a BTreeSet<u32>,
    /// The number that was just given up, because somebody else had it.
    pub given_up: Option<u32>,
}

/// Why there is no place for a machine at the moment.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// The spec names no template.
    #[error("choose a template: set either sourceNode and templateID or templateSelector")]
    NoSource,
    /// No machine of that number.
    #[error(
        "find template {vmid}: there is no such virtual machine, or the credentials may not see \
         it; correct templateID or grant VM.Audit and VM.Clone on it; templates to be seen: {seen}"
    )]
    NoTemplate {
        /// Value of templateID.
        vmid: i64,
        /// Templates in the listing.
        seen: String,
    },
    /// The template is elsewhere.
    #[error("find template {vmid}: it is on node {found}, not on {wanted}; correct sourceNode")]
    TemplateElsewhere {
        /// Value of templateID.
        vmid: i64,
        /// Value of sourceNode.
        wanted: String,
        /// Where it is.
        found: String,
    },
    /// No template has the tags.
    #[error(
        "find a template with tags {tags} (policy {policy}): none matches; add the tags to one \
         template or correct templateSelector; templates to be seen: {seen}"
    )]
    NoMatch {
        /// Value of matchTags.
        tags: String,
        /// Value of matchPolicy.
        policy: &'static str,
        /// Templates in the listing, with their tags.
        seen: String,
    },
    /// Several templates have the tags.
    #[error(
        "find a template with tags {tags} (policy {policy}): {count} match, and it must be one, or \
         one copy per node with equal tags; take the tags off the others or narrow \
         templateSelector: {seen}"
    )]
    ManyMatch {
        /// Value of matchTags.
        tags: String,
        /// Value of matchPolicy.
        policy: &'static str,
        /// How many match.
        count: usize,
        /// The templates that match.
        seen: String,
    },
    /// The node of the template or the target is not there.
    #[error("use node {node}: {problem}; nodes to be seen: {seen}")]
    NodeUnusable {
        /// The node.
        node: String,
        /// Whether it is unknown or offline, and what to do.
        problem: &'static str,
        /// All nodes.
        seen: String,
    },
    /// No allowed node can take the machine.
    #[error(
        "place a machine with {memory_mib} MiB and {cpus} CPUs: no allowed node can take it \
         ({nodes}); remove machines, add nodes to allowedNodes or raise \
         schedulerHints.memoryAdjustment or cpuAdjustment"
    )]
    NoNode {
        /// Memory of the machine.
        memory_mib: u64,
        /// Virtual processors of the machine.
        cpus: u64,
        /// Each allowed node and why not.
        nodes: String,
    },
    /// The machine may only be where its failure domain is not.
    #[error(
        "place a machine in failure domain {zone}: it has the nodes {nodes}, and {named}; change \
         that, or allowedNodes of the zone in the ProxmoxCluster's zoneConfig"
    )]
    OutsideZone {
        /// Name of the zone.
        zone: String,
        /// Nodes of the zone.
        nodes: String,
        /// What the machine says instead.
        named: String,
    },
    /// All numbers of the range are taken.
    #[error(
        "choose a VMID from {start} to {end}: all are taken; widen vmIDRange or remove unused \
         virtual machines"
    )]
    RangeExhausted {
        /// First number.
        start: u32,
        /// Last number.
        end: u32,
    },
}

impl Listing {
    fn node(&self, name: &str) -> Option<&NodeRow> {
        self.nodes.iter().find(|node| node.name == name)
    }

    fn templates(&self) -> impl Iterator<Item = &GuestRow> {
        self.guests
            .iter()
            .filter(|guest| guest.template && !guest.container)
    }

    /// Memory in bytes and processors that the guests of a node were promised, running or not.
    /// Templates never run. Reservations count until their number is listed on that node: a clone
    /// is listed on the node of its template until the end.
    fn promised(&self, node: &str, reservations: &[Reservation]) -> (u64, u64) {
        let here = |guest: &&GuestRow| guest.node == node && !guest.template;
        let listed: BTreeSet<u32> = self
            .guests
            .iter()
            .filter(here)
            .map(|row| row.vmid)
            .collect();
        let guests = self.guests.iter().filter(here);
        let guests = guests.map(|guest| (guest.memory, guest.cpus));
        let reserved = reservations
            .iter()
            .filter(|reservation| reservation.node == node && !listed.contains(&reservation.vmid))
            .map(|reservation| (reservation.memory, reservation.cpus));
        guests.chain(reserved).fold((0, 0), |(memory, cpus), more| {
            (memory.saturating_add(more.0), cpus.saturating_add(more.1))
        })
    }
}

/// Finds the template of a machine, with its copies: templates on other nodes that have equal tags, as
/// storages that nodes do not share need them. Those of nodes that do not answer are left out.
///
/// A number may name a virtual machine that is no template; Proxmox VE clones that, too.
///
/// # Errors
///
/// If none or several match, if it is on another node than the spec says, or if no node that has it
/// answers.
pub fn templates(
    source: Option<TemplateSource<'_>>,
    listing: &Listing,
) -> Result<Vec<Template>, PlacementError> {
    let rows = match source.ok_or(PlacementError::NoSource)? {
        TemplateSource::Id { node, vmid } => vec![by_id(node, vmid, listing)?],
        TemplateSource::Tags(selector) => by_tags(
            &selector.match_tags.iter().collect(),
            selector.match_policy,
            listing,
        )?,
    };
    let mut last = Ok(());
    let mut found = Vec::new();
    for row in rows {
        match usable(&row.node, listing) {
            Ok(_) => found.push(Template {
                vmid: row.vmid,
                node: row.node.clone(),
                memory: row.memory,
                cpus: row.cpus,
            }),
            Err(error) => last = Err(error),
        }
    }
    if found.is_empty() {
        last?;
    }
    Ok(found)
}

fn by_id<'a>(node: &str, vmid: i64, listing: &'a Listing) -> Result<&'a GuestRow, PlacementError> {
    let found = listing
        .guests
        .iter()
        .find(|guest| !guest.container && i64::from(guest.vmid) == vmid);
    match found {
        Some(row) if row.node == node => Ok(row),
        Some(row) => Err(PlacementError::TemplateElsewhere {
            vmid,
            wanted: node.to_owned(),
            found: row.node.clone(),
        }),
        None => Err(PlacementError::NoTemplate {
            vmid,
            seen: list(listing.templates().map(describe)),
        }),
    }
}

fn by_tags<'a>(
    tags: &Tags,
    policy: MatchPolicy,
    listing: &'a Listing,
) -> Result<Vec<&'a GuestRow>, PlacementError> {
    let mut matches: Vec<&GuestRow> = match policy {
        MatchPolicy::Exact => listing
            .templates()
            .filter(|row| row.tags == *tags)
            .collect(),
        MatchPolicy::UniqueSubset => having(tags, listing).collect(),
        MatchPolicy::BestSubset => {
            let fewest = having(tags, listing).map(|row| row.tags.len()).min();
            having(tags, listing)
                .filter(|row| Some(row.tags.len()) == fewest)
                .collect()
        }
    };
    let policy = match policy {
        MatchPolicy::Exact => "exact",
        MatchPolicy::UniqueSubset => "uniqueSubset",
        MatchPolicy::BestSubset => "bestSubset",
    };
    matches.sort_by_key(|row| (&row.node, row.vmid));
    match matches.as_slice() {
        several if are_copies(several) => Ok(matches),
        [] => Err(PlacementError::NoMatch {
            tags: tags.to_string(),
            policy,
            seen: list(listing.templates().map(describe)),
        }),
        several => Err(PlacementError::ManyMatch {
            tags: tags.to_string(),
            policy,
            count: several.len(),
            seen: list(several.iter().map(|row| describe(row))),
        }),
    }
}

/// Whether these are one template, as far as tags tell: equal tags, and one on each node.
fn are_copies(sorted: &[&GuestRow]) -> bool {
    let alike = |pair: &[&GuestRow]| pair[0].tags == pair[1].tags && pair[0].node != pair[1].node;
    !sorted.is_empty() && sorted.windows(2).all(alike)
}

fn having<'a>(tags: &Tags, listing: &'a Listing) -> impl Iterator<Item = &'a GuestRow> {
    listing
        .templates()
        .filter(move |row| row.tags.contains_all(tags))
}

fn usable<'a>(name: &str, listing: &'a Listing) -> Result<&'a NodeRow, PlacementError> {
    let problem = match listing.node(name) {
        Some(node) if node.online => return Ok(node),
        Some(_) => "it is offline; bring it back or name another",
        None => "there is no such node in this Proxmox VE cluster; correct the name",
    };
    Err(PlacementError::NodeUnusable {
        node: name.to_owned(),
        problem,
        seen: list(listing.nodes.iter().map(|node| node.name.clone())),
    })
}

/// The nodes that a machine may be on: its own choice, else the zone's, else the cluster's; where it
/// is in a zone that has nodes, only those.
///
/// # Errors
///
/// If the machine's own choice leaves none of the zone's.
pub fn allowed(
    zone: &str,
    of_zone: &[String],
    of_machine: &[String],
    of_cluster: &[String],
    target: Option<&str>,
) -> Result<Vec<String>, PlacementError> {
    let outside = |named: String| PlacementError::OutsideZone {
        zone: zone.to_owned(),
        nodes: list(of_zone.iter().cloned()),
        named,
    };
    if of_zone.is_empty() {
        let chosen = if of_machine.is_empty() {
            of_cluster
        } else {
            of_machine
        };
        return Ok(chosen.to_vec());
    }
    if let Some(target) = target
        && !of_zone.iter().any(|node| node == target)
    {
        return Err(outside(format!("spec.target names {target}")));
    }
    if of_machine.is_empty() {
        return Ok(of_zone.to_vec());
    }
    let both = of_machine.iter().filter(|node| of_zone.contains(node));
    let both: Vec<String> = both.cloned().collect();
    if both.is_empty() {
        let own = list(of_machine.iter().cloned());
        return Err(outside(format!("spec.allowedNodes names {own}")));
    }
    Ok(both)
}

/// Chooses the node of a machine.
///
/// The target, if one is named; the template's node, if no nodes are allowed; else, of the allowed
/// nodes that are online and have the memory and processors, the one with the fewest machines of
/// the same set, then the one with the most memory left, then the first by name. Where the template
/// has copies, allowed nodes without one are left out, unless none has one. The order is total, so
/// that the same listing gives the same node.
///
/// # Errors
///
/// If the named node cannot be used, or none of the allowed nodes can.
pub fn node(
    request: &NodeRequest<'_>,
    listing: &Listing,
    reservations: &[Reservation],
) -> Result<NodeChoice, PlacementError> {
    let named = match (request.target, request.allowed, request.template_nodes) {
        (Some(target), _, _) => Some((target, "spec.target names it")),
        (None, [], [only]) => Some((
            only.as_str(),
            "it holds the template, and allowedNodes is empty",
        )),
        (None, _, _) => None,
    };
    if let Some((name, reason)) = named {
        usable(name, listing)?;
        let explanation = format!("node {name}: {reason}");
        return Ok(NodeChoice {
            node: name.to_owned(),
            explanation,
        });
    }
    choose(request, &candidates(request), listing, reservations)
}

fn candidates<'a>(request: &NodeRequest<'a>) -> BTreeSet<&'a str> {
    let (allowed, templates) = (request.allowed, request.template_nodes);
    if allowed.is_empty() {
        return templates.iter().map(String::as_str).collect();
    }
    let with_copy = |node: &&String| templates.len() > 1 && templates.contains(node);
    let near: BTreeSet<&str> = allowed
        .iter()
        .filter(with_copy)
        .map(String::as_str)
        .collect();
    if near.is_empty() {
        allowed.iter().map(String::as_str).collect()
    } else {
        near
    }
}

/// What became of one allowed node.
enum Candidate {
    Fits { peers: usize, left: Option<u64> },
    Unknown,
    Offline,
    Short { left: u64 },
    Crowded { left: u64 },
}

fn choose(
    request: &NodeRequest<'_>,
    nodes: &BTreeSet<&str>,
    listing: &Listing,
    reservations: &[Reservation],
) -> Result<NodeChoice, PlacementError> {
    let candidates: Vec<(&str, Candidate)> = nodes
        .iter()
        .map(|name| (*name, weigh(name, request, listing, reservations)))
        .collect();
    let fitting = candidates
        .iter()
        .filter_map(|(name, candidate)| match candidate {
            Candidate::Fits { peers, left } => Some((*name, *peers, *left)),
            Candidate::Unknown
            | Candidate::Offline
            | Candidate::Short { .. }
            | Candidate::Crowded { .. } => None,
        });
    // `min_by_key` takes the first of equals, and the names are sorted.
    match fitting.min_by_key(|(_, peers, left)| (*peers, std::cmp::Reverse(*left))) {
        Some((name, peers, left)) => {
            let memory = match left {
                Some(left) => format!("{} MiB to promise", mib(left)),
                None => "memory not checked".to_owned(),
            };
            let explanation = format!("node {name}: {peers} machines of this set, {memory}");
            Ok(NodeChoice {
                node: name.to_owned(),
                explanation,
            })
        }
        None => Err(PlacementError::NoNode {
            memory_mib: mib(request.memory),
            cpus: request.cpus,
            nodes: list(
                candidates
                    .iter()
                    .map(|(name, candidate)| format!("{name} {candidate}")),
            ),
        }),
    }
}

fn weigh(
    name: &str,
    request: &NodeRequest<'_>,
    listing: &Listing,
    reservations: &[Reservation],
) -> Candidate {
    let Some(row) = listing.node(name) else {
        return Candidate::Unknown;
    };
    if !row.online {
        return Candidate::Offline;
    }
    let peers = request.peers.get(name).copied().unwrap_or(0);
    let (memory, cpus) = listing.promised(name, reservations);
    if request.cpu_adjustment > 0 {
        let left = percent(row.cpus, request.cpu_adjustment).saturating_sub(cpus);
        if left < request.cpus {
            return Candidate::Crowded { left };
        }
    }
    if request.adjustment == 0 {
        return Candidate::Fits { peers, left: None };
    }
    let left = percent(row.memory, request.adjustment).saturating_sub(memory);
    if left < request.memory {
        Candidate::Short { left }
    } else {
        Candidate::Fits {
            peers,
            left: Some(left),
        }
    }
}

fn percent(whole: u64, adjustment: u64) -> u64 {
    let scaled = u128::from(whole) * u128::from(adjustment) / 100;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits { .. } => f.write_str("fits"),
            Self::Unknown => f.write_str("is unknown"),
            Self::Offline => f.write_str("is offline"),
            Self::Short { left } => write!(f, "has {} MiB to promise", mib(*left)),
            Self::Crowded { left } => write!(f, "has {left} CPUs to promise"),
        }
    }
}

/// Chooses the number of a machine: the first of its range that nobody has and that was not just
/// given up.
///
/// It may still be taken by somebody else before the clone begins. The clone then fails, the claim
/// is given up, and the next choice is another one.
///
/// # Errors
///
/// If all are taken.
pub fn vmid(request: &VmidRequest<'_>) -> Result<u32, PlacementError> {
    let (start, end) = match request.range {
        Some(range) => (bounded(range.start), bounded(range.end)),
        None => (request.next_free.max(VMID_MIN), VMID_MAX),
    };
    // The search ends after as many steps as numbers are taken, however wide the range is.
    (start..=end)
        .find(|vmid| {
            let taken = request.used.contains(vmid) || request.reserved.contains(vmid);
            !taken && request.given_up != Some(*vmid)
        })
        .ok_or(PlacementError::RangeExhausted { start, end })
}

fn bounded(vmid: i64) -> u32 {
    u32::try_from(vmid).unwrap_or(0).clamp(VMID_MIN, VMID_MAX)
}

fn describe(row: &GuestRow) -> String {
    let tags = if row.tags.is_empty() {
        "no tags".to_owned()
    } else {
        row.tags.to_string()
    };
    format!("{} {} on {} ({tags})", row.vmid, row.name, row.node)
}

/// A list for a message: sorted, so that equal situations give equal messages (rule CO-07).
fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.sort();
    let more = names.len().saturating_sub(LISTED_MAX);
    names.truncate(LISTED_MAX);
    match (names.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests;
