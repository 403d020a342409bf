//! `status.printableStatus` of a VM. Pure.

use capi_testkit::actor::Object;

/// What the status depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) machine: &'a Object,
    pub(crate) instance: Option<&'a Object>,
    /// A DataVolume of its volumes failed.
    pub(crate) has_volume_error: bool,
    /// One is being filled.
    pub(crate) is_provisioning: bool,
    /// A claim of its volumes is not bound though the VM is to run.
    pub(crate) is_binding: bool,
    /// Its starts fail again and again.
    pub(crate) is_crashing: bool,
}

/// The first that fits, in KubeVirt's order.
pub(crate) fn printable(facts: &Facts<'_>) -> &'static str {
    let instance = facts.instance;
    let phase = instance.map_or("", |one| one.text("/status/phase").unwrap_or_default());
    let is_final = matches!(phase, "Succeeded" | "Failed");
    let reason = |condition: &str| {
        let held = instance.and_then(|one| one.condition(condition));
        held.filter(|held| held.status == "False")
            .map_or("", |held| held.reason)
    };
    let is_migrating = instance.is_some_and(is_migrating);
    let is_paused = phase == "Running" && instance.is_some_and(|one| one.is_true("Paused"));
    let is_stopping = instance.is_some_and(|one| one.is_deleting() && !is_final);
    let table = [
        ("Terminating", facts.machine.is_deleting()),
        ("Stopping", is_stopping),
        ("Migrating", is_migrating),
        ("Paused", is_paused),
        ("Running", phase == "Running"),
        (
            "ErrorPvcNotFound",
            reason("Synchronized") == "FailedPvcNotFound",
        ),
        ("DataVolumeError", facts.has_volume_error),
        (
            "ErrorUnschedulable",
            reason("PodScheduled") == "Unschedulable",
        ),
        ("Provisioning", facts.is_provisioning),
        ("WaitingForVolumeBinding", facts.is_binding),
        ("ErrImagePull", reason("Synchronized") == "ErrImagePull"),
        (
            "ImagePullBackOff",
            reason("Synchronized") == "ImagePullBackOff",
        ),
        (
            "Starting",
            instance.is_some() && matches!(phase, "" | "Pending" | "Scheduling" | "Scheduled"),
        ),
        (
            "CrashLoopBackOff",
            facts.is_crashing && (instance.is_none() || is_final),
        ),
        ("Stopped", instance.is_none() || is_final),
    ];
    let fitting = table.iter().find(|(_, fits)| *fits);
    fitting.map_or("Unknown", |(status, _)| status)
}

/// Whether a migration of this instance is under way.
pub(crate) fn is_migrating(instance: &Object) -> bool {
    instance
        .at("/status/migrationState/startTimestamp")
        .is_some()
        && !instance.flag("/status/migrationState/completed")
        && !instance.flag("/status/migrationState/failed")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn object(status: &Value, deleting: bool) -> Object {
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "X", "metadata": {"name": "a"}, "status": status,
        });
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Object::new(serde_json::from_value(object).expect("an object"))
    }

    #[rstest]
    #[case::none(None, false, "Stopped")]
    #[case::fresh(Some(json!({})), false, "Starting")]
    #[case::running(Some(json!({"phase": "Running"})), false, "Running")]
    #[case::going(Some(json!({"phase": "Running"})), true, "Stopping")]
    #[case::ended(Some(json!({"phase": "Succeeded"})), true, "Stopped")]
    #[case::moving(
        Some(json!({"phase": "Running", "migrationState": {"startTimestamp": "t"}})),
        false,
        "Migrating"
    )]
    #[case::no_room(
        Some(json!({"phase": "Scheduling", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]})),
        false,
        "ErrorUnschedulable"
    )]
    #[case::no_image(
        Some(json!({"phase": "Scheduling", "conditions": [
            {"type": "Synchronized", "status": "False", "reason": "ImagePullBackOff"}]})),
        false,
        "ImagePullBackOff"
    )]
    fn statuses_are_found_in_order(
        #[case] status: Option<Value>,
        #[case] deleting: bool,
        #[case] wanted: &str,
    ) {
        let machine = object(&json!({}), false);
        let instance = status.map(|status| object(&status, deleting));
        let facts = Facts {
            machine: &machine,
            instance: instance.as_ref(),
            has_volume_error: false,
            is_provisioning: false,
            is_binding: false,
            is_crashing: false,
        };
        assert_eq!(printable(&facts), wanted);
    }
}
