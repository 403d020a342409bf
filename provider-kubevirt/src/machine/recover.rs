//! Finding a machine whose ledger is missing.
//!
//! It may have been stripped of its annotation, restored from a backup, or made by the Go provider.
//! What counts is our mark; of a VM without one, the labels that the Go provider gives to the VMs of
//! a machine.

use std::collections::BTreeMap;

use capi_contract::{Lost, Mark, Token};
use kube::{Resource, ResourceExt};

use super::claim::{self, MachineClaim};
use super::error::MachineError;
use super::observe::mark_of;
use crate::api::{
    KubevirtMachine, MACHINE_FINALIZER, MACHINE_NAME_LABEL, MACHINE_NAMESPACE_LABEL,
    PROVIDER_ID_SCHEME,
};
use crate::infra::{InstanceView, VmView};
use crate::session::Session;

/// Looks for the machine of an object.
pub(super) async fn recover(
    on: &Session,
    lost: &Lost<'_, KubevirtMachine>,
) -> Result<Option<MachineClaim>, MachineError> {
    let spec = &lost.object.spec;
    // Whoever makes a machine sets the finalizer first, so without it there is nothing. Where it was
    // taken off by hand, the server refuses a second VM of this name, and the first is found then.
    let finalizers = lost.object.metadata.finalizers.iter().flatten();
    let begun = finalizers.into_iter().any(|one| one == MACHINE_FINALIZER);
    if !begun && spec.provider_id.is_none() {
        return Ok(None);
    }
    let template = spec.virtual_machine_template.namespace();
    let namespace = on.namespace(template, &lost.name.namespace).to_owned();
    let selector = format!(
        "{MACHINE_NAME_LABEL}={},{MACHINE_NAMESPACE_LABEL}={}",
        lost.name.name, lost.name.namespace
    );
    let mut found: Vec<VmView> = on.infra().list(&namespace, &selector).await?;
    if found.is_empty() {
        // Labels are for everybody to change.
        found.extend(on.infra().get(&namespace, &lost.name.name).await?);
    }
    let marked = found
        .iter()
        .find_map(|vm| ours(lost, vm).map(|mark| claim::of_vm(vm, mark)));
    if let Some(claim) = marked {
        return Ok(Some(claim));
    }
    if let Some(claim) = found.iter().find_map(|vm| adopted(lost, vm)) {
        return Ok(Some(claim));
    }
    // The VM is gone, and its instance was left behind.
    let instances: Vec<InstanceView> = on.infra().list(&namespace, &selector).await?;
    let left = instances
        .iter()
        .find_map(|one| ours(lost, one).map(|mark| claim::of_instance(one, mark)));
    Ok(left)
}

/// The mark of this machine on an object.
fn ours<K: Resource>(lost: &Lost<'_, KubevirtMachine>, object: &K) -> Option<Mark> {
    let owner = |mark: &Mark| lost.owner.as_ref().is_none_or(|owner| *owner == mark.owner);
    mark_of(object).filter(|mark| mark.object == lost.name && owner(mark))
}

/// The claim of a VM that the Go provider made.
fn adopted(lost: &Lost<'_, KubevirtMachine>, vm: &VmView) -> Option<MachineClaim> {
    let none = BTreeMap::new();
    let labels = vm.metadata.labels.as_ref().unwrap_or(&none);
    let names = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    let is_labelled = names(MACHINE_NAME_LABEL, &lost.name.name)
        && names(MACHINE_NAMESPACE_LABEL, &lost.name.namespace);
    let wanted = lost.object.spec.provider_id.as_deref();
    let wanted = wanted.and_then(|id| id.strip_prefix(PROVIDER_ID_SCHEME));
    let is_named = wanted.is_none_or(|name| name == vm.name_any());
    if mark_of(vm).is_some() || !is_labelled || !is_named {
        return None;
    }
    // The owner is not on a VM that we did not make; without it the proof alone counts.
    let owner = lost.owner.clone().unwrap_or_else(Token::random);
    let mark = Mark::adopted(owner, lost.name.clone(), vm.metadata.uid.clone()?);
    Some(claim::of_vm(vm, mark))
}
