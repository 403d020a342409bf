//! Whether a Proxmox VE cluster can be used with given credentials, and what to change if not.
//!
//! [`examine`] asks, [`judge`] decides from the answers. What is missing is named with the `pveum`
//! command that grants it, on the narrowest path; the rights are those that this provider uses, and a
//! test lets a machine live and go with nothing more.

use std::collections::{BTreeMap, BTreeSet};

use capi_contract::checkup::Checkup;

use crate::connect::{ConnectError, Settings};
use crate::pve::{self, Client, Resource, ResourceKind};

/// Rights on a template.
const ON_TEMPLATE: &[&str] = &["VM.Audit", "VM.Clone"];

/// Rights on the machines, on `/vms` or on their pool.
const ON_MACHINES: &[&str] = &[
    "VM.Allocate",
    "VM.Audit",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.PowerMgmt",
];

/// What stands for the rights on guest agents before Proxmox VE 9.
const AGENT_BEFORE_9: &str = "VM.Monitor";

/// Rights on the storage of the first boot's images; removing one needs `Datastore.Allocate`.
const ON_IMAGES: &[&str] = &[
    "Datastore.Allocate",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
];

/// Rights on the storage of disks.
const ON_DISKS: &[&str] = &["Datastore.AllocateSpace"];

/// Rights on a bridge or virtual network.
const ON_BRIDGE: &[&str] = &["SDN.Use"];

/// Rights on nodes, for their memory, by which machines are placed.
const ON_NODES: &[&str] = &["Sys.Audit"];

/// The zone in which Proxmox VE keeps plain bridges.
const BRIDGES: &str = "/sdn/zones/localnetwork";

/// Storages and templates that are looked at one by one; more are counted.
const LOOKED_AT_MAX: usize = 32;

/// What machines are to use; what is left empty is not narrowed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Nodes.
    pub nodes: Vec<String>,
    /// VMIDs of templates.
    pub templates: Vec<u32>,
    /// Storages for disks.
    pub storages: Vec<String>,
    /// Bridges or virtual networks.
    pub bridges: Vec<String>,
    /// The pool of the machines.
    pub pool: Option<String>,
}

/// What the platform answered.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// The token's id.
    pub token: String,
    /// Version of Proxmox VE.
    pub version: String,
    /// Guests, nodes and storages that the token sees.
    pub resources: Vec<Resource>,
    /// The token's rights on each path that was asked for.
    pub rights: BTreeMap<String, BTreeSet<String>>,
}

/// Asks the platform, and judges its answers.
pub async fn examine(settings: Option<Settings>, wanted: &Wanted) -> Checkup {
    let Some(settings) = settings else {
        return without_credentials(&ConnectError::None);
    };
    let mut checkup = Checkup::new();
    let token = settings.token().to_owned();
    let verification = if settings.is_verified() {
        None
    } else {
        Some("set root_ca or fingerprint instead of insecure")
    };
    match settings.client("the credentials") {
        Ok(client) => ask(&client, token, verification, wanted, &mut checkup).await,
        Err(error) => checkup.bad("credentials", error.to_string(), "put in what it names"),
    }
    checkup
}

/// What is found when there are no credentials to look with.
pub fn without_credentials(error: &(dyn std::error::Error + 'static)) -> Checkup {
    let mut checkup = Checkup::new();
    let fix = "set PROXMOX_URL, PROXMOX_TOKEN and PROXMOX_SECRET, or name a Secret with --secret";
    checkup.bad("credentials", error.to_string(), fix);
    checkup
}

async fn ask(
    client: &Client,
    token: String,
    unverified: Option<&str>,
    wanted: &Wanted,
    checkup: &mut Checkup,
) {
    let version = match client.version().await {
        Ok(version) => version,
        Err(error) => return unreachable(&error, &token, checkup),
    };
    checkup.good("reachable", format!("Proxmox VE {version} answers"));
    match unverified {
        None => checkup.good("tls", "the certificate is verified"),
        Some(fix) => checkup.doubtful("tls", "the certificate is not verified", fix),
    }
    checkup.good("token", format!("{token} is accepted"));
    let resources = match client.resources().await {
        Ok(resources) => resources,
        Err(error) => {
            return checkup.bad("resources", error.to_string(), "see the log of pveproxy");
        }
    };
    let mut answers = Answers {
        token,
        version,
        resources,
        rights: BTreeMap::new(),
    };
    for need in needs(&answers, wanted) {
        match client.rights(&need.path).await {
            Ok(rights) => {
                answers.rights.insert(need.path, rights);
            }
            Err(error) => {
                return checkup.bad("rights", error.to_string(), "see the log of pveproxy");
            }
        }
    }
    judge(&answers, wanted, checkup);
}

/// Says which of address, certificate and token is wrong.
fn unreachable(error: &pve::Error, token: &str, checkup: &mut Checkup) {
    let text = error.to_string();
    if let pve::Error::Unanswered { fault, .. } = error {
        if let pve::Fault::Certificate(_) = fault {
            checkup.good("reachable", "something answers");
            let fix = "set root_ca (PEM of the cluster's authority, /etc/pve/pve-root-ca.pem) or \
                       fingerprint (pvenode cert info)";
            checkup.bad("tls", text, fix);
        } else {
            let fix = "check the address and port (8006), and that no firewall stands between";
            checkup.bad("reachable", text, fix);
            checkup.unknown("tls", "not reached");
        }
        checkup.unknown("token", "not reached");
    } else if error.refusal() == Some(&pve::Refusal::Unauthorized) {
        checkup.good("reachable", "Proxmox VE answers");
        let fix = match token.split_once('!') {
            Some((user, name)) => format!("pveum user token add {user} {name} --privsep 1"),
            None => "use the id of an API token, user@realm!name".to_owned(),
        };
        checkup.bad("token", text, fix);
    } else {
        checkup.bad(
            "reachable",
            text,
            "check that the address is that of Proxmox VE",
        );
    }
    checkup.unknown("rights", "not reached");
}

/// Rights that are needed on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need {
    subject: &'static str,
    path: String,
    privileges: &'static [&'static str],
}

fn need(
    subject: &'static str,
    path: impl Into<String>,
    privileges: &'static [&'static str],
) -> Need {
    Need {
        subject,
        path: path.into(),
        privileges,
    }
}

/// All rights that are needed, path by path.
fn needs(answers: &Answers, wanted: &Wanted) -> Vec<Need> {
    let mut all = Vec::new();
    if wanted.nodes.is_empty() {
        all.push(need("nodes", "/nodes", ON_NODES));
    }
    for node in &wanted.nodes {
        all.push(need("nodes", format!("/nodes/{node}"), ON_NODES));
    }
    for template in templates(answers, wanted).into_iter().take(LOOKED_AT_MAX) {
        all.push(need("templates", format!("/vms/{template}"), ON_TEMPLATE));
    }
    match &wanted.pool {
        Some(pool) => all.push(need("machines", format!("/pool/{pool}"), ON_MACHINES)),
        None => all.push(need("machines", "/vms", ON_MACHINES)),
    }
    for storage in image_storages(answers).into_iter().take(LOOKED_AT_MAX) {
        all.push(need("images", format!("/storage/{storage}"), ON_IMAGES));
    }
    for storage in disk_storages(answers, wanted)
        .into_iter()
        .take(LOOKED_AT_MAX)
    {
        all.push(need("disks", format!("/storage/{storage}"), ON_DISKS));
    }
    if wanted.bridges.is_empty() {
        all.push(need("network", BRIDGES, ON_BRIDGE));
    }
    for bridge in &wanted.bridges {
        all.push(need("network", format!("{BRIDGES}/{bridge}"), ON_BRIDGE));
    }
    all
}

fn templates(answers: &Answers, wanted: &Wanted) -> BTreeSet<u32> {
    if !wanted.templates.is_empty() {
        return wanted.templates.iter().copied().collect();
    }
    let seen = answers.resources.iter().filter(|row| row.template);
    seen.filter_map(|row| row.vmid).collect()
}

fn storages<'a>(answers: &'a Answers, content: &'a str) -> BTreeSet<&'a str> {
    let rows = answers.resources.iter();
    rows.filter(|row| row.kind == ResourceKind::Storage && row.takes(content))
        .filter_map(|row| row.storage.as_deref())
        .collect()
}

fn image_storages(answers: &Answers) -> BTreeSet<&str> {
    storages(answers, "iso")
}

fn disk_storages<'a>(answers: &'a Answers, wanted: &'a Wanted) -> BTreeSet<&'a str> {
    if wanted.storages.is_empty() {
        storages(answers, "images")
    } else {
        wanted.storages.iter().map(String::as_str).collect()
    }
}

/// Judges what the platform answered.
pub fn judge(answers: &Answers, wanted: &Wanted, checkup: &mut Checkup) {
    judge_nodes(answers, wanted, checkup);
    judge_templates(answers, wanted, checkup);
    judge_storages(answers, wanted, checkup);
    // Of the storages that nobody named, one that may be used is enough.
    let any = |subject: &str| match subject {
        "images" => true,
        "disks" => wanted.storages.is_empty(),
        _ => false,
    };
    let needs = needs(answers, wanted);
    let mut told = BTreeSet::new();
    for need in &needs {
        let lacking = lacking(need, answers);
        let alike = || needs.iter().filter(|other| other.subject == need.subject);
        let another_will_do =
            any(need.subject) && alike().any(|n| self::lacking(n, answers).is_empty());
        let place = format!("{} ({})", need.path, need.subject);
        if lacking.is_empty() {
            checkup.good("rights", format!("{place}: all that is needed"));
        } else if another_will_do {
            checkup.unknown("rights", format!("{place}: not usable, and not needed"));
        } else if !any(need.subject) || told.insert(need.subject) {
            let detail = format!("{place}: {} missing", lacking.join(", "));
            checkup.bad(
                "rights",
                detail,
                grant(&answers.token, &need.path, need.subject, need.privileges),
            );
        }
    }
}

fn lacking(need: &Need, answers: &Answers) -> Vec<&'static str> {
    let empty = BTreeSet::new();
    let there = answers.rights.get(&need.path).unwrap_or(&empty);
    let is_agent = |privilege: &str| privilege.starts_with("VM.GuestAgent.");
    let privileges = need.privileges.iter().copied();
    privileges
        .filter(|privilege| !there.contains(*privilege))
        .filter(|privilege| !(is_agent(privilege) && there.contains(AGENT_BEFORE_9)))
        .collect()
}

/// The commands that grant rights: a role of exactly these privileges, on this path.
///
/// All that are needed there and not only those that are missing, since an entry on a path replaces
/// what comes from above; for the user too, since a token has no more than its user.
fn grant(token: &str, path: &str, subject: &str, privileges: &[&str]) -> String {
    let role = format!("CAPI-{subject}");
    let (user, _) = token.split_once('!').unwrap_or((token, ""));
    format!(
        "pveum role add {role} --privs '{}' && pveum acl modify {path} --tokens '{token}' --users \
         '{user}' --roles {role}",
        privileges.join(" ")
    )
}

fn judge_nodes(answers: &Answers, wanted: &Wanted, checkup: &mut Checkup) {
    let rows = answers.resources.iter();
    let nodes: Vec<_> = rows.filter(|row| row.kind == ResourceKind::Node).collect();
    for name in &wanted.nodes {
        match nodes.iter().find(|row| row.node == *name) {
            None => {
                let known: Vec<_> = nodes.iter().map(|row| row.node.as_str()).collect();
                let fix = format!("name one of {}", known.join(", "));
                checkup.bad("nodes", format!("there is no node {name}"), fix);
            }
            Some(row) if row.status != "online" => {
                let fix = "start it, or take it out of allowedNodes";
                checkup.doubtful("nodes", format!("{name} is {}", row.status), fix);
            }
            Some(_) => checkup.good("nodes", format!("{name} is online")),
        }
    }
    let online = nodes.iter().filter(|row| row.status == "online").count();
    if online == 0 {
        let fix = "start one, and see pvecm status for the quorum";
        checkup.bad("nodes", "no node is online", fix);
    } else if wanted.nodes.is_empty() {
        let detail = format!("{online} of {} are online", nodes.len());
        checkup.good("nodes", detail);
    }
}

fn judge_templates(answers: &Answers, wanted: &Wanted, checkup: &mut Checkup) {
    let guest = |vmid: u32| {
        let mut rows = answers.resources.iter();
        rows.find(|row| row.vmid == Some(vmid))
    };
    for vmid in &wanted.templates {
        match guest(*vmid) {
            None => {
                let detail = format!("{vmid} is not there, or the token may not see it");
                let role = grant(
                    &answers.token,
                    &format!("/vms/{vmid}"),
                    "templates",
                    ON_TEMPLATE,
                );
                checkup.bad("templates", detail, role);
            }
            Some(row) if !row.template => {
                let detail = format!("{vmid} is a guest and no template");
                checkup.bad("templates", detail, format!("qm template {vmid}"));
            }
            Some(row) => {
                let name = row.name.as_deref().unwrap_or("without a name");
                checkup.good("templates", format!("{vmid} ({name}) on {}", row.node));
            }
        }
    }
    if wanted.templates.is_empty() {
        match templates(answers, wanted).len() {
            0 => {
                let fix = "make one with image-builder, or let the token see it: pveum acl modify \
                           /vms/<vmid> --tokens <token> --roles PVETemplateUser";
                checkup.bad("templates", "the token sees none", fix);
            }
            count => checkup.good("templates", format!("{count} can be seen")),
        }
    }
}

fn judge_storages(answers: &Answers, wanted: &Wanted, checkup: &mut Checkup) {
    let images = image_storages(answers);
    if images.is_empty() {
        let fix = "pvesm set local --content iso,vztmpl,backup, or let the token see it: pveum acl \
                   modify /storage/local --tokens <token> --roles PVEDatastoreAdmin";
        let detail = "the token sees none that takes ISO images, from which machines boot first";
        checkup.bad("storages", detail, fix);
    }
    let disks = storages(answers, "images");
    for name in &wanted.storages {
        if disks.contains(name.as_str()) {
            checkup.good("storages", format!("{name} takes disks"));
        } else {
            let detail =
                format!("{name} is not there, takes no disks, or the token may not see it");
            let fix = format!(
                "pvesm status; {}",
                grant(
                    &answers.token,
                    &format!("/storage/{name}"),
                    "disks",
                    &["Datastore.Audit"]
                )
            );
            checkup.bad("storages", detail, fix);
        }
    }
    if !images.is_empty() {
        let list: Vec<_> = images.into_iter().take(LOOKED_AT_MAX).collect();
        checkup.good("storages", format!("ISO images: {}", list.join(", ")));
    }
}
