//! Carrying out one step.

use std::time::Duration;

use capi_contract::{Bootstrap, Effect, Format, Receipt, Step, Supply};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::claim::MachineClaim;
use super::error::MachineError;
use super::observe::{
    BOOTSTRAP_ANNOTATION, ONCE, Remain, RemainKind, USED, USER_ANNOTATION, migration_name,
};
use crate::api::BootstrapDataSource;
use crate::infra::{Cache, DataVolumeView, Deletion, InfraError, InstanceView, Version, VmView};
use crate::login;
use crate::session::{SecretNote, Session};

/// How long a create may still take effect after its caller is gone. A Kubernetes API server gives up
/// on a request after 60 s (`--request-timeout`); the rest is for clocks.
const LIFETIME_OF_A_REQUEST: Duration = Duration::from_secs(70);

/// What a bootstrap Secret holds once its data was used, beside its network data. It stays, and stays
/// valid user data: the pod of a restarted or migrated VM does not start without the Secret.
const NOTHING: &str = "#cloud-config\n{}\n";

/// One change of the infra cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum MachineStep {
    /// Creates the VM, which waits for its Secret.
    CreateVm {
        /// The VM.
        manifest: Value,
        /// How the guest finds its bootstrap data.
        source: BootstrapDataSource,
        /// Whether the guest is told its static addresses.
        has_network_data: bool,
    },
    /// Creates the Secret with the bootstrap data.
    CreateSecret {
        /// The Secret, without data.
        manifest: Value,
        /// What the guest is told of its static addresses.
        network_data: Option<String>,
    },
    /// Takes the bootstrap data out of the Secret.
    EmptySecret(Version),
    /// Asks KubeVirt to move the VM to another infra node.
    Migrate(Value),
    /// Removes a migration that is over.
    ForgetMigration(Version),
    /// Deletes the instance, so that the VM starts on another infra node.
    DeleteInstance(Version),
    /// Deletes the VM, for teardown.
    DeleteVm(Version),
    /// Deletes what outlived the VM, for teardown.
    Remove(Remain),
}

impl Step for MachineStep {
    /// Names as in the conditions of the Go provider, where it has one: with `Failed` behind it,
    /// `VMCreate` is its `VMCreateFailed`.
    fn name(&self) -> &'static str {
        match self {
            Self::CreateVm { .. } => "VMCreate",
            Self::CreateSecret { .. } => "BootstrapSecretCreate",
            Self::EmptySecret(_) => "BootstrapSecretEmpty",
            Self::Migrate(_) => "VMMigrate",
            Self::ForgetMigration(_) => "MigrationDelete",
            Self::DeleteInstance(_) => "VMRestart",
            Self::DeleteVm(_) => "VMDelete",
            Self::Remove(_) => "RemainsDelete",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::CreateVm { .. } | Self::CreateSecret { .. } => Effect::Creates {
                settle: LIFETIME_OF_A_REQUEST,
            },
            // The uid keeps it off another's Secret; a second one finds nothing to change.
            Self::EmptySecret(_) => Effect::Repeats,
            // A second one of the name is refused, and one that comes late moves the VM once more.
            Self::Migrate(_) | Self::DeleteInstance(_) => Effect::Changes,
            Self::ForgetMigration(_) | Self::DeleteVm(_) | Self::Remove(_) => Effect::Destroys,
        }
    }

    fn wants_bootstrap(&self) -> bool {
        match self {
            // Looked at before anything is made of it.
            Self::CreateVm { .. } | Self::CreateSecret { .. } => true,
            Self::EmptySecret(_)
            | Self::Migrate(_)
            | Self::ForgetMigration(_)
            | Self::DeleteInstance(_)
            | Self::DeleteVm(_)
            | Self::Remove(_) => false,
        }
    }
}

/// Carries out one step.
pub(super) async fn apply(
    on: &Session,
    claim: &MachineClaim,
    step: &MachineStep,
    supply: Supply<'_>,
) -> Result<Receipt, MachineError> {
    match step {
        MachineStep::CreateVm {
            manifest,
            source,
            has_network_data,
        } => {
            readable(*source, *has_network_data, &supply)?;
            create_vm(on, claim, manifest).await?;
        }
        MachineStep::CreateSecret {
            manifest,
            network_data,
        } => {
            create_secret(on, claim, manifest, network_data.as_deref(), supply).await?;
        }
        MachineStep::EmptySecret(version) => empty_secret(on, claim, version).await?,
        MachineStep::Migrate(manifest) => migrate(on, claim, manifest).await?,
        MachineStep::ForgetMigration(version) => forget_migration(on, claim, version).await?,
        MachineStep::DeleteInstance(version) => delete_instance(on, claim, version).await?,
        MachineStep::DeleteVm(version) => delete_vm(on, claim, version).await?,
        MachineStep::Remove(remain) => remove(on, claim, remain).await?,
    }
    Ok(Receipt::Finished)
}

/// Whether the guest can read its data where they will be.
fn readable(
    source: BootstrapDataSource,
    has_network_data: bool,
    supply: &Supply<'_>,
) -> Result<(), MachineError> {
    if supply.bootstrap.map(|data| data.format) != Some(Format::Ignition) {
        return Ok(());
    }
    if source == BootstrapDataSource::NoCloud {
        return Err(MachineError::IgnitionOnNoCloud);
    }
    if has_network_data {
        return Err(MachineError::IgnitionWithAddresses);
    }
    Ok(())
}

async fn create_vm(
    on: &Session,
    claim: &MachineClaim,
    manifest: &Value,
) -> Result<(), MachineError> {
    let created = on
        .infra()
        .create::<VmView>(&claim.namespace, &claim.name, manifest)
        .await?;
    on.vms().answered(created);
    // The VM is new, so nobody can have made a Secret that it owns.
    if claim.secret.is_some() {
        on.note_secret(&claim.mark, SecretNote::Missing);
    }
    Ok(())
}

/// Whether a later boot of the machine has no use for the data: cloud-init and Ignition read them once
/// in the life of a disk. Other programs may read them at every boot.
fn is_read_once(bootstrap: &Bootstrap) -> bool {
    match bootstrap.format {
        Format::Ignition => true,
        Format::CloudConfig => [&b"#cloud-config"[..], b"## template: jinja"]
            .iter()
            .any(|head| bootstrap.bytes().trim_ascii_start().starts_with(head)),
        _ => false,
    }
}

/// The data with the user who asks the guest, where one is to ask and can be added.
async fn admitted(
    on: &Session,
    claim: &MachineClaim,
    bootstrap: &Bootstrap,
) -> Result<Option<Vec<u8>>, MachineError> {
    let (Some(logins), Some(keys)) = (on.logins(), &claim.keys) else {
        return Ok(None);
    };
    if bootstrap.format != Format::CloudConfig {
        return Ok(None);
    }
    let login = logins.login(keys, &claim.mark).await?;
    Ok(login::admit(bootstrap.bytes(), &login))
}

async fn create_secret(
    on: &Session,
    claim: &MachineClaim,
    manifest: &Value,
    network_data: Option<&str>,
    supply: Supply<'_>,
) -> Result<(), MachineError> {
    let bootstrap = supply.bootstrap.ok_or(MachineError::Stale)?;
    let mut manifest = manifest.clone();
    let admitted = admitted(on, claim, bootstrap).await?;
    if admitted.is_some() {
        manifest["metadata"]["annotations"][USER_ANNOTATION] = login::USER.into();
    }
    let data = admitted.unwrap_or_else(|| bootstrap.bytes().to_vec());
    manifest["data"] = json!({"userdata": ByteString(data)});
    if let Some(data) = network_data {
        manifest["data"]["networkdata"] = json!(ByteString(data.into()));
    }
    if is_read_once(bootstrap) {
        manifest["metadata"]["annotations"][BOOTSTRAP_ANNOTATION] = ONCE.into();
    }
    let name = claim.secret.as_deref().unwrap_or_default();
    let created = on
        .infra()
        .create::<Secret>(&claim.namespace, name, &manifest)
        .await;
    match created {
        Ok(secret) => {
            on.note_admitted(&claim.mark, &secret.metadata);
            on.note_secret(&claim.mark, SecretNote::of(&secret.metadata));
        }
        Err(error) => {
            // Whether it is there has to be looked at.
            on.forget_secret(&claim.mark);
            return Err(error.into());
        }
    }
    Ok(())
}

async fn empty_secret(
    on: &Session,
    claim: &MachineClaim,
    version: &Version,
) -> Result<(), MachineError> {
    let name = claim.secret.as_deref().unwrap_or_default();
    on.forget_secret(&claim.mark);
    let patch = json!({
        "metadata": {"annotations": {BOOTSTRAP_ANNOTATION: USED}},
        "data": {"userdata": ByteString(NOTHING.into())},
    });
    let changed = on
        .infra()
        .change::<Secret>(&claim.namespace, name, version, patch)
        .await;
    match changed {
        Ok(_) => on.note_secret(&claim.mark, SecretNote::Used),
        // Somebody removed it, which is their right: the next look finds it missing.
        Err(error) if error.is_absent() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn migrate(on: &Session, claim: &MachineClaim, manifest: &Value) -> Result<(), InfraError> {
    let name = migration_name(claim);
    let created = on.infra().create(&claim.namespace, &name, manifest).await?;
    on.migrations().answered(created);
    Ok(())
}

async fn forget_migration(
    on: &Session,
    claim: &MachineClaim,
    version: &Version,
) -> Result<(), InfraError> {
    let (namespace, name) = (&claim.namespace, migration_name(claim));
    let left = on
        .infra()
        .delete(namespace, &name, version, Deletion::Background)
        .await?;
    on.migrations().removed(namespace, &name, version, left);
    Ok(())
}

async fn delete_instance(
    on: &Session,
    claim: &MachineClaim,
    version: &Version,
) -> Result<(), InfraError> {
    // In the foreground, so that the next instance starts when this one's pod is gone.
    let left = on
        .infra()
        .delete::<InstanceView>(&claim.namespace, &claim.name, version, Deletion::Foreground)
        .await?;
    on.instances()
        .removed(&claim.namespace, &claim.name, version, left);
    Ok(())
}

async fn delete_vm(
    on: &Session,
    claim: &MachineClaim,
    version: &Version,
) -> Result<(), MachineError> {
    note_deletion(on, claim, version);
    let left = on
        .infra()
        .delete::<VmView>(&claim.namespace, &claim.name, version, Deletion::Foreground)
        .await?;
    on.vms()
        .removed(&claim.namespace, &claim.name, version, left);
    Ok(())
}

/// Notes what is about to go: the VM, and what it owns. Before the request, since the watch may tell of
/// their ends before it is answered.
fn note_deletion(on: &Session, claim: &MachineClaim, vm: &Version) {
    let (namespace, name) = (&claim.namespace, &claim.name);
    on.vms().deleting(namespace, name, &vm.uid);
    if let Some(instance) = on.instances().get(namespace, name) {
        note_with(on.instances(), instance.as_ref(), vm);
    }
    for name in &claim.volumes {
        if let Some(volume) = on.volumes().get(namespace, name) {
            note_with(on.volumes(), volume.as_ref(), vm);
        }
    }
}

fn note_with<K: Resource>(cache: &Cache<K>, object: &K, vm: &Version) {
    let owners = object.meta().owner_references.iter().flatten();
    let is_owned = owners.into_iter().any(|owner| owner.uid == vm.uid);
    if let Some(uid) = object.meta().uid.as_deref().filter(|_| is_owned) {
        let namespace = object.namespace().unwrap_or_default();
        cache.deleting(&namespace, &object.name_any(), uid);
    }
}

async fn remove(on: &Session, claim: &MachineClaim, remain: &Remain) -> Result<(), InfraError> {
    let (namespace, name) = (&claim.namespace, &remain.name);
    let (infra, version, how) = (on.infra(), &remain.version, Deletion::Background);
    match remain.kind {
        RemainKind::Instance => {
            infra
                .delete::<InstanceView>(namespace, name, version, how)
                .await?;
        }
        RemainKind::Volume => {
            infra
                .delete::<DataVolumeView>(namespace, name, version, how)
                .await?;
        }
        RemainKind::Claim => {
            infra
                .delete::<PersistentVolumeClaim>(namespace, name, version, how)
                .await?;
        }
        RemainKind::Secret => {
            infra
                .delete::<Secret>(namespace, name, version, how)
                .await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_that_are_read_once_are_taken_out() {
        let once = |format, text: &str| is_read_once(&Bootstrap::new(format, text.as_bytes()));
        assert!(once(Format::CloudConfig, "#cloud-config\nruncmd: []\n"));
        assert!(once(
            Format::CloudConfig,
            "## template: jinja\n#cloud-config\n"
        ));
        assert!(once(Format::Ignition, "{\"ignition\": {}}"));
        assert!(!once(Format::CloudConfig, "version: v1alpha1\nmachine:\n"));
        assert!(!once(Format::CloudConfig, "#!/bin/sh\n"));
    }
}
