//! What comes before any work: finalizer, pause, adoption.

use std::sync::Arc;

use serde_json::{Value, json};

use super::condition::{Conditions, PAUSED, Report};
use super::hub::{Error, Hub, Result};
use super::object::{Kind, Name, Object, Reference, is_paused};
use super::reference::{Resolved, definition_name, resolve};
use super::word::{CLUSTER_NAME_LABEL, CRD};

/// Adds a finalizer, unless the object is being deleted.
pub(crate) async fn hold(
    hub: &Hub,
    kind: &Kind,
    object: Arc<Object>,
    finalizer: &str,
    manager: &str,
) -> Result<Arc<Object>> {
    if object.is_deleting() || object.has_finalizer(finalizer) {
        return Ok(object);
    }
    let mut finalizers = object.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(finalizer.to_owned());
    let patch = json!({"metadata": {"finalizers": finalizers}});
    hub.merge(kind, &object.key(), patch, manager).await
}

/// Removes a finalizer.
pub(crate) async fn release(
    hub: &Hub,
    kind: &Kind,
    object: &Object,
    finalizer: &str,
    manager: &str,
) -> Result<()> {
    if !object.has_finalizer(finalizer) {
        return Ok(());
    }
    let held = object.metadata.finalizers.iter().flatten();
    let left: Vec<_> = held.filter(|held| *held != finalizer).collect();
    // A finalizer of somebody else that came meanwhile must not be lost.
    let patch = json!({"metadata": {
        "finalizers": left, "resourceVersion": object.version().to_string(),
    }});
    hub.merge(kind, &object.key(), patch, manager).await?;
    Ok(())
}

/// Publishes the condition `Paused`. True if the pass ends here: because it is paused, or because the
/// transition was just written and wakes the next pass (PA-03, PA-04).
pub(crate) async fn stops(
    hub: &Hub,
    kind: &Kind,
    object: &Object,
    cluster: Option<&Object>,
    manager: &str,
) -> Result<bool> {
    let paused = is_paused(object, cluster);
    let report = paused_report(object, cluster);
    let is_shown = object
        .condition(PAUSED)
        .is_some_and(|held| held.status == report.status && held.message == report.message);
    if is_shown {
        return Ok(paused);
    }
    let mut conditions = Conditions::of(object, hub.now());
    conditions.set(PAUSED, &report);
    let status = json!({"conditions": conditions.into_value()});
    hub.merge_status(kind, object, &status, manager).await?;
    Ok(true)
}

fn paused_report(object: &Object, cluster: Option<&Object>) -> Report {
    let mut causes = Vec::new();
    if cluster.is_some_and(|cluster| cluster.flag("/spec/paused")) {
        causes.push("Cluster spec.paused is set to true");
    }
    if object.is_annotated_paused() {
        causes.push("the object has the annotation cluster.x-k8s.io/paused");
    }
    if causes.is_empty() {
        Report::no("NotPaused", "")
    } else {
        Report::new("True", "Paused", causes.join(", "))
    }
}

/// An object of another provider.
#[derive(Clone, Debug)]
pub(crate) enum External {
    Found(Arc<Object>, Resolved),
    Missing(Resolved),
    /// Its kind is being listed for the first time; the end of that wakes the pass again.
    Listing,
}

/// Finds the referent of a reference, and starts to watch its kind if nobody did yet.
pub(crate) fn external(hub: &Hub, namespace: &str, reference: &Reference) -> Result<External> {
    let resolved = resolved(hub, &reference.kind)?;
    hub.want(&resolved.resource);
    if !hub.read(|store| store.is_synced(&reference.kind)) {
        return Ok(External::Listing);
    }
    let name = Name::new(namespace, &reference.name);
    Ok(match hub.get(&reference.kind, &name) {
        Some(object) => External::Found(object, resolved),
        None => External::Missing(resolved),
    })
}

/// Resolves a kind by its definition.
pub(crate) fn resolved(hub: &Hub, kind: &Kind) -> Result<Resolved> {
    let definition = hub.get(&CRD, &Name::new("", &definition_name(kind)));
    Ok(resolve(kind, definition.as_deref())?)
}

/// The merge patch by which an owner adopts an object: one patch for owner references and label
/// (IC-16, S-07). References of `replaced` kinds go. Nothing if the object is adopted already.
///
/// Fails if another controller owns the object.
pub(crate) fn adoption(
    object: &Object,
    owner: &Value,
    replaced: &[&Kind],
    cluster: &str,
) -> Result<Option<Value>> {
    let controls = owner["controller"] == true;
    let mut owners: Vec<Value> = Vec::new();
    for held in object.owners() {
        if replaced.iter().any(|kind| kind.is_of(held)) || owner["uid"] == held.uid.as_str() {
            continue;
        }
        if controls && held.controller == Some(true) {
            return Err(Error::Inconsistent(format!(
                "cannot adopt {}: {} {} is its controller already",
                object.key(),
                held.kind,
                held.name
            )));
        }
        owners.push(json!(held));
    }
    owners.push(owner.clone());
    let held: Vec<Value> = object.owners().iter().map(|held| json!(held)).collect();
    let mut metadata = json!({});
    if !is_same_set(&held, &owners) {
        metadata["ownerReferences"] = json!(owners);
    }
    if object.label(CLUSTER_NAME_LABEL) != Some(cluster) {
        metadata["labels"] = json!({CLUSTER_NAME_LABEL: cluster});
    }
    let is_adopted = metadata.as_object().is_some_and(serde_json::Map::is_empty);
    Ok((!is_adopted).then(|| json!({"metadata": metadata})))
}

fn is_same_set(one: &[Value], other: &[Value]) -> bool {
    one.len() == other.len() && one.iter().all(|it| other.contains(it))
}

#[cfg(test)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "literals read better without borrows"
)]
mod tests {
    use super::super::word::{CLUSTER, MACHINE_SET};
    use super::*;

    fn object(owners: Value, labels: Value) -> Object {
        Object::from_value(json!({
            "apiVersion": "infra.x/v1", "kind": "Thing",
            "metadata": {"name": "x", "namespace": "d", "ownerReferences": owners, "labels": labels},
        }))
    }

    fn owner(kind: &str, uid: &str, controls: bool) -> Value {
        let mut owner = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": kind,
            "name": "o", "uid": uid});
        if controls {
            owner["controller"] = json!(true);
            owner["blockOwnerDeletion"] = json!(true);
        }
        owner
    }

    #[test]
    fn s_07_one_patch_replaces_the_set_by_the_machine_and_keeps_strangers() {
        let stranger = owner("Stranger", "9", false);
        let held = object(
            json!([owner("MachineSet", "1", false), stranger]),
            json!({}),
        );
        let machine = owner("Machine", "2", true);
        let patch = adoption(&held, &machine, &[&MACHINE_SET], "c")
            .expect("fits")
            .expect("a patch");
        let owners = &patch["metadata"]["ownerReferences"];
        assert_eq!(*owners, json!([stranger, machine]));
        assert_eq!(
            patch["metadata"]["labels"],
            json!({CLUSTER_NAME_LABEL: "c"})
        );
        let adopted = object(owners.clone(), json!({CLUSTER_NAME_LABEL: "c"}));
        let again = adoption(&adopted, &machine, &[&MACHINE_SET], "c").expect("fits");
        assert_eq!(again, None);
    }

    #[test]
    fn ic_17_a_second_controller_is_an_error_and_a_plain_owner_is_not() {
        let held = object(json!([owner("Other", "1", true)]), json!({}));
        assert!(adoption(&held, &owner("Cluster", "2", true), &[&CLUSTER], "c").is_err());
        assert!(adoption(&held, &owner("Cluster", "2", false), &[], "c").is_ok());
    }

    #[test]
    fn ic_16_the_flags_follow_the_topology() {
        let held = object(
            json!([owner("Cluster", "1", false)]),
            json!({CLUSTER_NAME_LABEL: "c"}),
        );
        let patch = adoption(&held, &owner("Cluster", "1", true), &[], "c").expect("fits");
        let patch = patch.expect("a patch");
        assert_eq!(
            patch["metadata"]["ownerReferences"],
            json!([owner("Cluster", "1", true)])
        );
    }
}
