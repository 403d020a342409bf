//! Looking at a virtual machine.

use std::sync::Arc;

use capi_contract::{Depth, Lookup, Mark, Proof, Waiting};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use super::claim::MachineClaim;
use super::error::MachineError;
use super::plan::SOON;
use crate::api::MARK_ANNOTATION;
use crate::infra::{
    Cache, DataVolumeView, Infra, InstanceView, MigrationView, Namespaced, Version, VmView,
    Watched, mark_in,
};
use crate::login::{Answer, Target};
use crate::session::{Kind, SecretNote, Session};

/// Annotation on a bootstrap Secret: `once` while it holds data that no later boot needs, `used` when
/// that was taken out.
pub(super) const BOOTSTRAP_ANNOTATION: &str = "capi-rs.dev/bootstrap";
pub(super) const ONCE: &str = "once";
pub(super) const USED: &str = "used";

/// Annotation on a bootstrap Secret: the user that was added to it, who may ask the guest.
pub(super) const USER_ANNOTATION: &str = "capi-rs.dev/ssh-user";

/// What a look saw.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Seen {
    /// The VM; `None` if it is gone and only what went with it is left.
    pub vm: Option<Arc<VmView>>,
    /// Its instance, if there is one.
    pub instance: Option<Arc<InstanceView>>,
    /// The Secret with the bootstrap data.
    pub secret: SecretState,
    /// What the guest itself said of its bootstrap, where it is asked by SSH and is not done with it.
    pub login: Option<Answer>,
    /// The volumes that are made with the VM, by name, as far as they are there; looked at until the
    /// instance runs.
    pub volumes: Vec<(String, Option<Arc<DataVolumeView>>)>,
    /// The move to another infra node that we asked for.
    pub migration: Option<Arc<MigrationView>>,
    /// What is left of a VM that is gone.
    pub remains: Vec<Remain>,
}

/// How the bootstrap Secret of a machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// Nothing has to be known: there is none, or it is not ours to change.
    Unasked,
    /// It is not there.
    Missing,
    /// It holds data that are needed again, or that nobody knows.
    Kept,
    /// It holds data that no later boot needs.
    Full(Version),
    /// What was in it was taken out.
    Used,
}

/// A thing that outlived its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remain {
    /// What it is.
    pub kind: RemainKind,
    /// Its name.
    pub name: String,
    /// Which one.
    pub version: Version,
    /// Whether it goes by itself: it is being deleted, or its owner is.
    pub is_going: bool,
}

/// The kinds of things that go with a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemainKind {
    /// The instance.
    Instance,
    /// A DataVolume.
    Volume,
    /// A PersistentVolumeClaim.
    Claim,
    /// The Secret with the bootstrap data.
    Secret,
}

impl RemainKind {
    /// The Kubernetes kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Instance => "VirtualMachineInstance",
            Self::Volume => "DataVolume",
            Self::Claim => "PersistentVolumeClaim",
            Self::Secret => "Secret",
        }
    }
}

/// The mark that an object bears.
pub(super) fn mark_of<K: Resource>(object: &K) -> Option<Mark> {
    mark_in(object.meta())
}

/// Name of the migration that we ask for. One at a time, so the server refuses a second.
pub(super) fn migration_name(claim: &MachineClaim) -> String {
    format!("{}-evacuation", claim.name)
}

/// Looks at the machine of a claim.
///
/// What a watch brought is enough to know that something is there: whatever is done about it names
/// the version it is meant for. That something is not there is asked of the server, object by object,
/// unless it is the very thing whose deletion was asked for, and the watch has told of its end.
pub(super) async fn look(
    on: &Session,
    claim: &MachineClaim,
    depth: Depth,
) -> Result<Lookup<Seen>, MachineError> {
    on.want(&claim.namespace, &[Kind::Vm, Kind::Instance]);
    if !claim.volumes.is_empty() {
        on.want(&claim.namespace, &[Kind::Volume]);
    }
    let look = Look { on, claim, depth };
    let (namespace, name) = (&claim.namespace, &claim.name);
    on.first_list(Kind::Vm, on.vms(), namespace).await;
    on.first_list(Kind::Instance, on.instances(), namespace)
        .await;
    let known = on.vms().get(namespace, name);
    if depth == Depth::Listing {
        let watched = on.vms().watched(namespace) == Watched::Live
            && on.instances().watched(namespace) == Watched::Live;
        return match known {
            Some(vm) if watched && whose(claim, &vm) == Whose::Ours => {
                look.at(vm).await.map(Lookup::Ours)
            }
            _ => Ok(Lookup::Unsettled(unlisted(claim))),
        };
    }
    let ended = on.vms().ended(namespace, name);
    let vm = match (known, ended) {
        (Some(vm), _) => Some(vm),
        (None, Some(ended)) if whose(claim, &ended) == Whose::Ours => None,
        (None, _) => look.ask(on.vms(), name).await?,
    };
    match vm {
        None => look.without_vm(Lookup::Absent).await,
        Some(vm) => match whose(claim, &vm) {
            Whose::Ours => look.at(vm).await.map(Lookup::Ours),
            Whose::Other(text) => look.without_vm(Lookup::Foreign(text)).await,
        },
    }
}

fn unlisted(claim: &MachineClaim) -> Waiting {
    let message = format!(
        "the watch does not show VirtualMachine {}/{} as it should be",
        claim.namespace, claim.name
    );
    Waiting::new("LookingCloser", message, SOON)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    Other(String),
}

fn whose(claim: &MachineClaim, vm: &VmView) -> Whose {
    let at = format!("VirtualMachine {}/{}", claim.namespace, claim.name);
    let found = mark_of(vm);
    match (&claim.mark.proof, found) {
        (Proof::Adopted { id }, _) if vm.metadata.uid.as_ref() == Some(id) => Whose::Ours,
        (Proof::Adopted { .. }, _) => {
            Whose::Other(format!("{at} is not the one that was taken over"))
        }
        (Proof::Made { .. }, Some(mark)) if mark == claim.mark => Whose::Ours,
        (Proof::Made { .. }, Some(mark)) => {
            Whose::Other(format!("{at} belongs to {}", mark.object))
        }
        (Proof::Made { .. }, None) => {
            Whose::Other(format!("{at} has no annotation {MARK_ANNOTATION}"))
        }
    }
}

/// A look at one machine.
struct Look<'a> {
    on: &'a Session,
    claim: &'a MachineClaim,
    depth: Depth,
}

impl Look<'_> {
    fn infra(&self) -> &Infra {
        self.on.infra()
    }

    /// Asks the server for an object of this machine's namespace.
    async fn ask<K: Namespaced>(
        &self,
        cache: &Cache<K>,
        name: &str,
    ) -> Result<Option<Arc<K>>, MachineError> {
        let namespace = &self.claim.namespace;
        let found = self.infra().get::<K>(namespace, name).await?;
        if found.is_none() {
            cache.forget(namespace, name);
        }
        Ok(found.map(|object| cache.answered(object)))
    }

    /// What the watch knows of an object beside the VM. Nothing is done because of its absence, so
    /// the server is asked only where nobody watches.
    async fn beside<K: Namespaced>(
        &self,
        kind: Kind,
        cache: &Cache<K>,
        name: &str,
    ) -> Result<Option<Arc<K>>, MachineError> {
        let namespace = &self.claim.namespace;
        self.on.first_list(kind, cache, namespace).await;
        match cache.get(namespace, name) {
            Some(found) => Ok(Some(found)),
            None if cache.watched(namespace) == Watched::Live => Ok(None),
            None => self.ask(cache, name).await,
        }
    }

    /// What there is beside a VM that is ours.
    async fn at(&self, vm: Arc<VmView>) -> Result<Seen, MachineError> {
        let (on, claim) = (self.on, self.claim);
        let instance = self.beside(Kind::Instance, on.instances(), &claim.name);
        let instance = instance.await?;
        let instance = instance.filter(|instance| instance.is_of(&vm));
        let runs = instance
            .as_ref()
            .is_some_and(|one| one.status.phase == "Running");
        let mut volumes = Vec::new();
        if !runs {
            for name in &claim.volumes {
                let volume = self.beside(Kind::Volume, on.volumes(), name).await?;
                volumes.push((name.clone(), volume));
            }
        }
        let evicted = instance.as_ref();
        let evicted = evicted.is_some_and(|one| one.status.evacuation_node_name.is_some());
        let migration = if evicted {
            on.want(&claim.namespace, &[Kind::Migration]);
            let name = migration_name(claim);
            self.beside(Kind::Migration, on.migrations(), &name).await?
        } else {
            // Known only if one was asked for in this process; that is when it has to be removed.
            on.migrations()
                .get(&claim.namespace, &migration_name(claim))
        };
        let secret = self.secret().await?;
        let login = self.login(instance.as_deref(), &secret);
        Ok(Seen {
            vm: Some(vm),
            instance,
            secret,
            login,
            volumes,
            migration,
            remains: Vec::new(),
        })
    }

    /// How the bootstrap Secret stands: asked once, then remembered, since only we change it.
    async fn secret(&self) -> Result<SecretState, MachineError> {
        let claim = self.claim;
        let (Some(name), Proof::Made { .. }) = (&claim.secret, &claim.mark.proof) else {
            return Ok(SecretState::Unasked);
        };
        if let Some(note) = self.on.secret_note(&claim.mark) {
            return Ok(note.into());
        }
        // Of a guest that is asked by SSH it has to be known, after a restart, too: whether it is asked
        // depends on it.
        if self.depth == Depth::Listing && claim.keys.is_none() {
            return Ok(SecretState::Unasked);
        }
        let found = self.infra().secret_meta(&claim.namespace, name).await?;
        let note = match found {
            None => SecretNote::Missing,
            Some(meta) => {
                self.on.note_admitted(&claim.mark, &meta);
                SecretNote::of(&meta)
            }
        };
        self.on.note_secret(&claim.mark, note.clone());
        Ok(note.into())
    }

    /// What the guest said when it was last asked, as long as it is to be asked: until its bootstrap data
    /// are used up.
    fn login(&self, instance: Option<&InstanceView>, secret: &SecretState) -> Option<Answer> {
        let (on, claim) = (self.on, self.claim);
        let keys = claim.keys.as_ref()?;
        on.logins()?;
        if !matches!(secret, SecretState::Full(_)) {
            on.checks().forget(&claim.mark);
            return None;
        }
        let running = instance.filter(|one| one.status.phase == "Running")?;
        on.checks().answer(Target {
            machine: claim.mark.object.clone(),
            mark: claim.mark.clone(),
            keys: keys.clone(),
            addresses: super::facts::reported(running),
        })
    }

    /// The VM is not there, or is another's: `otherwise`, unless something of ours is left.
    async fn without_vm(&self, otherwise: Lookup<Seen>) -> Result<Lookup<Seen>, MachineError> {
        self.on.forget_secret(&self.claim.mark);
        self.on.checks().forget(&self.claim.mark);
        let remains = self.remains().await?;
        if remains.is_empty() {
            return Ok(otherwise);
        }
        Ok(Lookup::Ours(Seen {
            vm: None,
            instance: None,
            secret: SecretState::Unasked,
            login: None,
            volumes: Vec::new(),
            migration: None,
            remains,
        }))
    }

    /// Asks for what may be left, unless the watch has told of its end.
    async fn left<K: Namespaced>(
        &self,
        kind: RemainKind,
        cache: &Cache<K>,
        name: &str,
    ) -> Result<Option<Arc<K>>, MachineError> {
        let ended = cache.ended(&self.claim.namespace, name);
        match ended.and_then(|one| self.remain(kind, one.meta())) {
            Some(_) => Ok(None),
            None => self.ask(cache, name).await,
        }
    }

    async fn remains(&self) -> Result<Vec<Remain>, MachineError> {
        let (on, claim) = (self.on, self.claim);
        let mut remains = Vec::new();
        let instance = self.left(RemainKind::Instance, on.instances(), &claim.name);
        if let Some(one) = instance.await? {
            remains.extend(self.remain(RemainKind::Instance, &one.metadata));
        }
        for name in &claim.volumes {
            let volume = match self.left(RemainKind::Volume, on.volumes(), name).await {
                // Without CDI there are no DataVolumes.
                Err(MachineError::Infra(error)) if error.is_unserved() => None,
                asked => asked?,
            };
            if let Some(one) = volume {
                remains.extend(self.remain(RemainKind::Volume, &one.metadata));
            }
            let held = self.infra().claim_meta(&claim.namespace, name).await?;
            remains.extend(held.and_then(|meta| self.remain(RemainKind::Claim, &meta)));
        }
        if let Some(name) = &claim.secret {
            let secret = self.infra().secret_meta(&claim.namespace, name).await?;
            remains.extend(secret.and_then(|meta| self.remain(RemainKind::Secret, &meta)));
        }
        Ok(remains)
    }

    /// What is left, if it is ours: by the mark, by its owner, or, of a VM that was taken over, by the
    /// name that the VM itself had for it.
    fn remain(&self, kind: RemainKind, meta: &ObjectMeta) -> Option<Remain> {
        let owners = || meta.owner_references.iter().flatten();
        let is_owned = owners().any(|owner| match kind {
            RemainKind::Instance | RemainKind::Secret | RemainKind::Volume => {
                owner.kind == "VirtualMachine"
            }
            RemainKind::Claim => matches!(owner.kind.as_str(), "DataVolume" | "VirtualMachine"),
        });
        let is_ours = match (&self.claim.mark.proof, kind) {
            (_, RemainKind::Claim) => is_owned,
            (Proof::Made { .. }, _) => mark_in(meta).as_ref() == Some(&self.claim.mark),
            (Proof::Adopted { .. }, RemainKind::Secret) => mark_in(meta).is_none(),
            (Proof::Adopted { id }, _) => owners().any(|owner| owner.uid == *id),
        };
        is_ours.then(|| Remain {
            kind,
            name: meta.name.clone().unwrap_or_default(),
            version: Version::identity(meta),
            is_going: is_owned || meta.deletion_timestamp.is_some(),
        })
    }
}

impl Session {
    /// Notes that a guest knows the user, if its Secret says so.
    pub(super) fn note_admitted(&self, mark: &Mark, secret: &ObjectMeta) {
        let annotations = secret.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key(USER_ANNOTATION)) {
            self.checks().admitted(mark);
        }
    }
}

impl SecretNote {
    /// What the metadata of a Secret of ours say.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let annotations = meta.annotations.as_ref();
        match annotations.and_then(|all| all.get(BOOTSTRAP_ANNOTATION)) {
            Some(text) if text == ONCE => Self::Full(Version::identity(meta)),
            Some(text) if text == USED => Self::Used,
            _ => Self::Kept,
        }
    }
}

impl From<SecretNote> for SecretState {
    fn from(note: SecretNote) -> Self {
        match note {
            SecretNote::Missing => Self::Missing,
            SecretNote::Kept => Self::Kept,
            SecretNote::Full(version) => Self::Full(version),
            SecretNote::Used => Self::Used,
        }
    }
}

#[cfg(test)]
mod tests {
    use capi_contract::{ObjectName, Token};
    use serde_json::json;

    use super::*;

    fn claim(mark: &Mark) -> MachineClaim {
        MachineClaim {
            namespace: "tenant".into(),
            name: "m".into(),
            secret: None,
            volumes: Vec::new(),
            keys: None,
            mark: mark.clone(),
        }
    }

    fn vm(mark: Option<&Mark>) -> VmView {
        let mut meta = json!({"name": "m", "namespace": "tenant", "uid": "u-1"});
        if let Some(mark) = mark {
            meta["annotations"] = json!({MARK_ANNOTATION: mark.to_string()});
        }
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    #[test]
    fn r5_named_alike_is_not_ours() {
        let owner = Token::random();
        let name = ObjectName::new("ns", "m");
        let mark = Mark::made(owner.clone(), name.clone());
        let other = Mark::made(Token::random(), name.clone());
        assert_eq!(whose(&claim(&mark), &vm(Some(&mark))), Whose::Ours);
        for stranger in [vm(None), vm(Some(&other))] {
            assert!(matches!(whose(&claim(&mark), &stranger), Whose::Other(_)));
        }
        let adopted = Mark::adopted(owner.clone(), name.clone(), "u-1");
        assert_eq!(whose(&claim(&adopted), &vm(None)), Whose::Ours);
        let gone = Mark::adopted(owner, name, "u-0");
        assert!(matches!(whose(&claim(&gone), &vm(None)), Whose::Other(_)));
    }
}
