//! Who may do what: tokens, roles, access control lists.

use std::collections::{BTreeMap, BTreeSet};

use crate::builder::TokenSpec;

/// Privileges on one path: name and whether they hold below it too.
pub(crate) type Privileges = BTreeMap<String, bool>;

const VM_ADMIN: &[&str] = &[
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Console",
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Replicate",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];
const TEMPLATE_USER: &[&str] = &["VM.Audit", "VM.Clone"];
const DATASTORE_ADMIN: &[&str] = &[
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
];
const DATASTORE_USER: &[&str] = &["Datastore.AllocateSpace", "Datastore.Audit"];
const SDN_USER: &[&str] = &["SDN.Audit", "SDN.Use"];
const POOL_USER: &[&str] = &["Pool.Audit"];
const AUDITOR: &[&str] = &[
    "Datastore.Audit",
    "Mapping.Audit",
    "Pool.Audit",
    "SDN.Audit",
    "Sys.Audit",
    "VM.Audit",
];
const OTHERS: &[&str] = &[
    "Group.Allocate",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "Sys.AccessNetwork",
    "Sys.Console",
    "Sys.Incoming",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "User.Modify",
];

/// The privileges of a role, or the one that a name stands for itself.
fn privileges_of(name: &str) -> Vec<&str> {
    match name {
        "Administrator" => {
            let all: BTreeSet<_> = [VM_ADMIN, DATASTORE_ADMIN, SDN_USER, AUDITOR, OTHERS]
                .into_iter()
                .flatten()
                .copied()
                .collect();
            all.into_iter().collect()
        }
        "NoAccess" => Vec::new(),
        "PVEVMAdmin" => VM_ADMIN.to_vec(),
        "PVETemplateUser" => TEMPLATE_USER.to_vec(),
        "PVEDatastoreAdmin" => DATASTORE_ADMIN.to_vec(),
        "PVEDatastoreUser" => DATASTORE_USER.to_vec(),
        "PVESDNUser" => SDN_USER.to_vec(),
        "PVEPoolUser" => POOL_USER.to_vec(),
        "PVEAuditor" => AUDITOR.to_vec(),
        privilege => vec![privilege],
    }
}

#[derive(Clone, Debug)]
struct ApiToken {
    secret: String,
    acl: BTreeMap<String, BTreeSet<String>>,
}

/// Tokens and their rights. `None` as a token means root, who may do anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    tokens: BTreeMap<String, ApiToken>,
}

impl Access {
    pub(crate) fn new(tokens: Vec<TokenSpec>) -> Self {
        let mut access = Self::default();
        for spec in tokens {
            let token = ApiToken {
                secret: spec.secret,
                acl: BTreeMap::new(),
            };
            access.tokens.insert(spec.id.clone(), token);
            for (path, privileges) in spec.grants {
                access.grant(&spec.id, &path, &privileges);
            }
        }
        access
    }

    /// Whose secret this is: the id of the token, or why authentication failed.
    pub(crate) fn authenticate(&self, authorization: Option<&str>) -> Result<String, &'static str> {
        let value = authorization.ok_or("No ticket")?;
        let value = value.strip_prefix("PVEAPIToken=").ok_or("No ticket")?;
        let (id, secret) = value.split_once('=').ok_or("invalid API token format")?;
        if !id.contains('@') || !id.contains('!') {
            return Err("invalid API token format");
        }
        match self.tokens.get(id) {
            None => Err("no such token"),
            Some(token) if token.secret != secret => Err("invalid token value!"),
            Some(_) => Ok(id.to_owned()),
        }
    }

    pub(crate) fn grant(&mut self, id: &str, path: &str, privileges: &[String]) {
        if let Some(token) = self.tokens.get_mut(id) {
            let entry = token.acl.entry(path.to_owned()).or_default();
            let privileges = privileges.iter().flat_map(|name| privileges_of(name));
            entry.extend(privileges.map(str::to_owned));
        }
    }

    /// Takes one privilege away on all paths; the paths stay.
    pub(crate) fn withdraw(&mut self, id: &str, privilege: &str) {
        if let Some(token) = self.tokens.get_mut(id) {
            for privileges in token.acl.values_mut() {
                privileges.remove(privilege);
            }
        }
    }

    pub(crate) fn set_secret(&mut self, id: &str, secret: &str) {
        if let Some(token) = self.tokens.get_mut(id) {
            secret.clone_into(&mut token.secret);
        }
    }

    pub(crate) fn revoke(&mut self, id: &str) {
        self.tokens.remove(id);
    }

    pub(crate) fn add(&mut self, spec: TokenSpec) {
        let more = Self::new(vec![spec]);
        self.tokens.extend(more.tokens);
    }

    /// The privileges of a token on a path. The deepest entry on the way replaces those above
    /// it; a pool's entries add to those of the VMs and storages in it.
    pub(crate) fn privileges(&self, id: &str, path: &str, pool: Option<&str>) -> Privileges {
        let Some(token) = self.tokens.get(id) else {
            return Privileges::new();
        };
        let mut found = deepest(&token.acl, path);
        if let Some(pool) = pool {
            for (privilege, _) in deepest(&token.acl, &format!("/pool/{pool}")) {
                found.entry(privilege).or_insert(true);
            }
        }
        found
    }

    pub(crate) fn allows(&self, id: &str, path: &str, pool: Option<&str>, privilege: &str) -> bool {
        let Some(token) = self.tokens.get(id) else {
            return false;
        };
        let pool_path = pool.map(|pool| format!("/pool/{pool}"));
        [Some(path), pool_path.as_deref()]
            .into_iter()
            .flatten()
            .any(|path| {
                deepest_entry(&token.acl, path).is_some_and(|entry| entry.contains(privilege))
            })
    }

    /// All paths on which a token has an entry.
    pub(crate) fn paths(&self, id: &str) -> Vec<String> {
        self.tokens
            .get(id)
            .map(|token| token.acl.keys().cloned().collect())
            .unwrap_or_default()
    }
}

fn deepest_entry<'a>(
    acl: &'a BTreeMap<String, BTreeSet<String>>,
    path: &str,
) -> Option<&'a BTreeSet<String>> {
    let mut at = path;
    loop {
        if let Some(entry) = acl.get(at) {
            return Some(entry);
        }
        match at.rfind('/') {
            Some(0) if at.len() > 1 => at = "/",
            Some(cut) if cut > 0 => at = &at[..cut],
            _ => return None,
        }
    }
}

fn deepest(acl: &BTreeMap<String, BTreeSet<String>>, path: &str) -> Privileges {
    let entry = deepest_entry(acl, path);
    entry
        .into_iter()
        .flatten()
        .map(|privilege| (privilege.clone(), true))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::new(vec![
            TokenSpec::new("u@pve!t", "s3cret")
                .grant("/", &["Sys.Audit"])
                .grant("/vms", &["PVETemplateUser"])
                .grant("/vms/100", &["NoAccess"])
                .grant("/pool/p", &["VM.Allocate"]),
        ])
    }

    #[test]
    fn a_deeper_entry_replaces_those_above() {
        let access = access();
        assert!(access.allows("u@pve!t", "/vms/101", None, "VM.Clone"));
        assert!(!access.allows("u@pve!t", "/vms/101", None, "Sys.Audit"));
        assert!(!access.allows("u@pve!t", "/vms/100", None, "VM.Clone"));
        assert!(access.allows("u@pve!t", "/nodes/pve1", None, "Sys.Audit"));
    }

    #[test]
    fn a_pool_adds_its_rights() {
        let access = access();
        assert!(!access.allows("u@pve!t", "/vms/101", None, "VM.Allocate"));
        assert!(access.allows("u@pve!t", "/vms/101", Some("p"), "VM.Allocate"));
    }

    #[test]
    fn a_token_is_known_by_its_secret() {
        let access = access();
        let is = |value: &str| access.authenticate(Some(value));
        assert_eq!(is("PVEAPIToken=u@pve!t=s3cret"), Ok("u@pve!t".into()));
        assert_eq!(is("PVEAPIToken=u@pve!t=other"), Err("invalid token value!"));
        assert_eq!(is("PVEAPIToken=u@pve!x=other"), Err("no such token"));
        assert_eq!(is("Bearer x"), Err("No ticket"));
        assert_eq!(access.authenticate(None), Err("No ticket"));
    }
}
