//! The next step of a machine. Pure.

use std::time::Duration;

use capi_contract::{Drained, Plan, Teardown, Waiting};

use super::Scope;
use super::claim::MachineClaim;
use super::observe::{Remain, SecretState, Seen, migration_name};
use super::steps::MachineStep;
use crate::api::TERMINAL_LABEL;
use crate::infra::{ConditionView, DataVolumeView, InstanceView, Version, VmView};
use crate::network;
use crate::vm::{self, Wanted};

/// When to look again at what settles by itself within seconds and is not watched.
pub(super) const SOON: Duration = Duration::from_secs(2);

/// When to look again at what a watch tells of. The look costs nothing while the watch is up; where it
/// is not, this is how often the infra cluster is asked.
const WATCHED: Duration = Duration::from_secs(15);

/// How long the pods of a Node may take to leave it before its VM is taken from under them; the Go
/// provider's time.
pub(super) const DRAIN_WITHIN: Duration = Duration::from_secs(600);

fn waiting<T>(reason: &'static str, message: impl Into<String>) -> Plan<T> {
    Plan::Wait(Waiting::new(reason, message.into(), WATCHED))
}

fn lost<T>(reason: &'static str, message: impl Into<String>) -> Plan<T> {
    Plan::Lost(Waiting::new(reason, message.into(), WATCHED))
}

/// What makes the VM this machine's; says what is wrong where it has no place.
fn wanted<'a>(
    scope: &'a Scope,
    claim: &'a MachineClaim,
    mark: &'a str,
) -> Result<Wanted<'a>, String> {
    let node_labels = match scope.failure_domain.as_deref() {
        None => Default::default(),
        Some(domain) => match scope.cluster.spec.zone(domain) {
            Some(zone) => zone.node_labels(),
            None => {
                return Err(format!(
                    "the Machine wants failure domain {domain}, which spec.failureDomains of the \
                     KubevirtCluster does not list: add it there, or remove the Machine"
                ));
            }
        },
    };
    Ok(Wanted {
        name: &claim.name,
        namespace: &claim.namespace,
        cluster: &scope.machine.spec.cluster_name,
        control_plane: scope.is_control_plane(),
        mark,
        secret: claim.secret.as_deref(),
        node_labels,
        cards: network::cards(&scope.object, &claim.mark),
    })
}

/// The next step.
pub(super) fn plan(scope: &Scope, claim: &MachineClaim, seen: Option<&Seen>) -> Plan<MachineStep> {
    let Some(seen) = seen else {
        return create(scope, claim);
    };
    let Some(vm) = &seen.vm else {
        return lost("VMDeleted", "the VirtualMachine was deleted");
    };
    if vm.metadata.deletion_timestamp.is_some() {
        return lost(
            "VMDeleted",
            "the VirtualMachine is being deleted, by somebody else than this provider",
        );
    }
    let instance = seen.instance.as_deref();
    if let Some(why) = terminal(vm, instance) {
        return lost("VMTerminal", why);
    }
    if let Some(step) = supply(scope, claim, seen, vm) {
        return Plan::Apply(step);
    }
    if let Some(next) = evacuate(scope, claim, seen) {
        return next;
    }
    let Some(instance) = instance.filter(|one| one.status.phase == "Running") else {
        return not_running(seen, vm);
    };
    if super::facts::addresses(scope, instance).is_empty() {
        return waiting(
            "VMNotReady",
            "the VM runs, and no address of it is known yet",
        );
    }
    match &seen.secret {
        SecretState::Full(version) if scope.has_node() => {
            Plan::Apply(MachineStep::EmptySecret(version.clone()))
        }
        _ => Plan::Settled,
    }
}

fn create(scope: &Scope, claim: &MachineClaim) -> Plan<MachineStep> {
    let mark = claim.mark.to_string();
    match wanted(scope, claim, &mark) {
        Err(why) => waiting("FailureDomainUnknown", why),
        Ok(wanted) => Plan::Apply(MachineStep::CreateVm {
            manifest: vm::manifest(&scope.object, &wanted),
            source: scope.object.spec.bootstrap_data_source.unwrap_or_default(),
            has_network_data: !wanted.cards.is_empty(),
        }),
    }
}

/// The Secret with the bootstrap data, as long as the guest has not read it: the VM's pod waits for
/// it.
fn supply(scope: &Scope, claim: &MachineClaim, seen: &Seen, vm: &VmView) -> Option<MachineStep> {
    let name = claim.secret.as_ref()?;
    if seen.secret != SecretState::Missing || scope.has_node() {
        return None;
    }
    let mark = claim.mark.to_string();
    // Place and cards of the VM do not matter for the Secret.
    let wanted = Wanted {
        name: &claim.name,
        namespace: &claim.namespace,
        cluster: &scope.machine.spec.cluster_name,
        control_plane: scope.is_control_plane(),
        mark: &mark,
        secret: Some(name),
        node_labels: Default::default(),
        cards: Vec::new(),
    };
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    let manifest = vm::secret(&scope.object, &wanted, &uid);
    Some(MachineStep::CreateSecret {
        manifest,
        network_data: network::data(&scope.object, &claim.mark, &scope.addresses),
    })
}

/// Why a machine is failed for good, if it is.
fn terminal(vm: &VmView, instance: Option<&InstanceView>) -> Option<String> {
    let declared = |meta: &kube::core::ObjectMeta| {
        let labels = meta.labels.as_ref()?;
        labels.get(TERMINAL_LABEL).cloned()
    };
    let by_instance = instance.and_then(|one| declared(&one.metadata));
    if let Some(why) = declared(&vm.metadata).or(by_instance) {
        return Some(format!(
            "the label {TERMINAL_LABEL} declares the VM failed for good: {why}"
        ));
    }
    let instance = instance?;
    let strategy = run_strategy(vm);
    let phase = instance.status.phase.as_str();
    let stays = match strategy {
        "Once" | "Halted" => instance.is_final(),
        "RerunOnFailure" => phase == "Succeeded",
        _ => false,
    };
    if stays {
        return Some(format!(
            "the VM has stopped ({phase}), and its runStrategy {strategy} does not start it again"
        ));
    }
    None
}

/// When the VM runs; neither field set means never.
fn run_strategy(vm: &VmView) -> &str {
    match (&vm.spec.run_strategy, vm.spec.running) {
        (Some(strategy), _) => strategy,
        (None, Some(true)) => "Always",
        (None, _) => "Halted",
    }
}

/// The infra node of the VM is being drained. With evictionStrategy External somebody outside KubeVirt
/// has to act: move the VM, or empty its Node and let it start elsewhere.
fn evacuate(scope: &Scope, claim: &MachineClaim, seen: &Seen) -> Option<Plan<MachineStep>> {
    let instance = seen.instance.as_deref()?;
    let Some(node) = leaving(instance) else {
        // One that is over would be taken for the next one.
        let over = seen.migration.as_deref().filter(|one| one.is_over())?;
        let version = Version::identity(&over.metadata);
        return Some(Plan::Apply(MachineStep::ForgetMigration(version)));
    };
    let migratable = ConditionView::find(&instance.status.conditions, "LiveMigratable");
    if !is_external(instance) {
        let stuck = migratable.filter(|one| one.status == "False");
        return Some(match stuck {
            Some(why) => lost(
                "VMEvicted",
                format!(
                    "infra node {node} is being drained, and the VM cannot be moved off it: {}",
                    why.message
                ),
            ),
            None => waiting(
                "VMEvacuating",
                format!("infra node {node} is being drained; KubeVirt moves the VM"),
            ),
        });
    }
    let may_move = migratable.is_some_and(ConditionView::is_true);
    match seen.migration.as_deref() {
        None if may_move => {
            return Some(Plan::Apply(MachineStep::Migrate(vm::migration(
                &claim.name,
                &claim.namespace,
                &migration_name(claim),
                &claim.mark.to_string(),
                &scope.name(),
                seen.vm.as_deref().and_then(|vm| vm.metadata.uid.as_deref()),
            ))));
        }
        Some(one) if !one.has_failed() => {
            let message = format!("infra node {node} is being drained; the VM is moving off it");
            return Some(waiting("VMEvacuating", message));
        }
        Some(_) | None => {}
    }
    Some(match scope.drained {
        Some(Drained::Empty | Drained::TimedOut) => Plan::Apply(MachineStep::DeleteInstance(
            Version::identity(&instance.metadata),
        )),
        None => waiting(
            "DrainingNode",
            format!(
                "infra node {node} is being drained and the VM cannot be moved: its Node is emptied \
                 first, for at most {} minutes",
                DRAIN_WITHIN.as_secs() / 60
            ),
        ),
    })
}

/// The infra node that the instance has to leave.
pub(super) fn leaving(instance: &InstanceView) -> Option<&str> {
    let node = instance.status.evacuation_node_name.as_deref()?;
    let stays =
        !node.is_empty() && !instance.is_final() && instance.metadata.deletion_timestamp.is_none();
    stays.then_some(node)
}

fn is_external(instance: &InstanceView) -> bool {
    instance.spec.eviction_strategy.as_deref() == Some("External")
}

/// Whether the Node has to be emptied before its VM is started elsewhere.
pub(super) fn wants_drain(seen: &Seen) -> bool {
    let instance = seen.instance.as_deref();
    let Some(instance) = instance.filter(|one| leaving(one).is_some() && is_external(one)) else {
        return false;
    };
    match seen.migration.as_deref() {
        Some(one) => one.has_failed(),
        None => {
            let all = &instance.status.conditions;
            !ConditionView::find(all, "LiveMigratable").is_some_and(ConditionView::is_true)
        }
    }
}

/// Why a VM does not run yet, in the words of the Go provider.
fn not_running(seen: &Seen, vm: &VmView) -> Plan<MachineStep> {
    let scheduled = ConditionView::find(&vm.status.conditions, "PodScheduled");
    if let Some(one) =
        scheduled.filter(|one| one.status == "False" && one.reason == "Unschedulable")
    {
        return waiting(
            "Unschedulable",
            format!("no infra node takes the VM: {}", one.message),
        );
    }
    for (name, volume) in &seen.volumes {
        if let Some((reason, message)) = volume.as_deref().and_then(|one| volume_wait(name, one)) {
            return waiting(reason, message);
        }
    }
    let status = vm.status.printable_status.as_str();
    let message = match (run_strategy(vm), status) {
        (strategy @ ("Halted" | "Manual"), "" | "Stopped") => format!(
            "the VM does not start by itself with runStrategy {strategy}: start it, or set \
             runStrategy to Always in the template"
        ),
        (_, "") => "the VM was created; KubeVirt has not reported on it yet".to_owned(),
        (_, status) => format!("KubeVirt reports the VM as {status}"),
    };
    waiting("VMNotReady", message)
}

/// What a volume waits for, if the VM waits for the volume.
fn volume_wait(name: &str, volume: &DataVolumeView) -> Option<(&'static str, String)> {
    let status = &volume.status;
    let running = ConditionView::find(&status.conditions, "Running");
    if let Some(one) = running.filter(|one| one.reason == "ImagePullFailed") {
        let message = format!(
            "the image for DataVolume {name} cannot be pulled: {}",
            one.message
        );
        return Some(("DVImagePullFailed", message));
    }
    match status.phase.as_str() {
        // These two wait for the VM.
        "Succeeded" | "WaitForFirstConsumer" | "PendingPopulation" => None,
        "Failed" => Some((
            "DVFailed",
            format!("DataVolume {name} has failed; its events say why"),
        )),
        "" | "Pending" => Some(("DVPending", format!("DataVolume {name} is pending"))),
        phase => Some((
            "DVNotReady",
            format!("DataVolume {name} is in phase {phase}"),
        )),
    }
}

/// The next step of the teardown.
pub(super) fn plan_teardown(claim: &MachineClaim, seen: &Seen) -> Teardown<MachineStep> {
    let Some(vm) = &seen.vm else {
        return clear(&seen.remains);
    };
    if vm.metadata.deletion_timestamp.is_none() {
        return Teardown::Apply(MachineStep::DeleteVm(Version::identity(&vm.metadata)));
    }
    let at = format!("VirtualMachine {}/{}", claim.namespace, claim.name);
    let message = match &seen.instance {
        Some(instance) => format!(
            "{at} is being deleted; its instance is {}",
            instance.status.phase
        ),
        None => format!("{at} is being deleted; its volumes go with it"),
    };
    Teardown::Wait(Waiting::new("DeletingVM", message, WATCHED))
}

/// Removes what outlived the VM. What has an owner goes by itself.
fn clear(remains: &[Remain]) -> Teardown<MachineStep> {
    if let Some(left) = remains.iter().find(|one| !one.is_going) {
        return Teardown::Apply(MachineStep::Remove(left.clone()));
    }
    let left = remains.iter();
    let left: Vec<_> = left
        .map(|one| format!("{} {}", one.kind.kind(), one.name))
        .collect();
    let message = format!("the VM is gone; waiting for {}", left.join(", "));
    Teardown::Wait(Waiting::new("DeletingVM", message, SOON))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use capi_contract::Step;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::fixture::{claim, joined, scope, seen};
    use super::super::observe::RemainKind;
    use super::*;
    use crate::api::Zone;

    /// Step, or the reason of a wait or loss.
    fn brief(plan: Plan<MachineStep>) -> String {
        match plan {
            Plan::Apply(step) => step.name().to_owned(),
            Plan::Wait(waiting) => format!("wait {}", waiting.reason),
            Plan::Lost(waiting) => format!("lost {}", waiting.reason),
            Plan::Settled => "settled".to_owned(),
        }
    }

    fn next(scope: &Scope, seen: &Seen) -> String {
        brief(plan(scope, &claim(), Some(seen)))
    }

    #[test]
    fn the_vm_is_made_before_the_secret_that_it_owns() {
        let (scope, claim) = (scope(), claim());
        assert_eq!(brief(plan(&scope, &claim, None)), "VMCreate");
        let mut look = seen(json!({}), None);
        look.secret = SecretState::Missing;
        let Plan::Apply(MachineStep::CreateSecret { manifest, .. }) =
            plan(&scope, &claim, Some(&look))
        else {
            panic!("no Secret");
        };
        assert_eq!(manifest["metadata"]["ownerReferences"][0]["uid"], "vm-1");
        assert_eq!(manifest["metadata"]["name"], "m-bootstrap-userdata-1");
        assert!(manifest.get("data").is_none(), "a step holds no secret");
    }

    #[test]
    fn the_secret_is_emptied_once_the_node_is_there() {
        let mut look = seen(json!({}), Some(json!({})));
        look.secret = SecretState::Full(Version::default());
        assert_eq!(next(&scope(), &look), "settled");
        assert_eq!(next(&joined(), &look), "BootstrapSecretEmpty");
        look.secret = SecretState::Missing;
        assert_eq!(
            next(&joined(), &look),
            "settled",
            "used, and removed by hand"
        );
    }

    #[rstest]
    #[case::gone(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), None, "lost VMDeleted")]
    #[case::declared(json!({"metadata": {"labels": {TERMINAL_LABEL: "x"}}}), Some(json!({})), "lost VMTerminal")]
    #[case::declared_on_the_instance(json!({}), Some(json!({"metadata": {"labels": {TERMINAL_LABEL: "x"}}})), "lost VMTerminal")]
    #[case::once(json!({"spec": {"runStrategy": "Once"}}), Some(json!({"status": {"phase": "Failed"}})), "lost VMTerminal")]
    #[case::halted(json!({"spec": {"runStrategy": "Halted"}}), Some(json!({"status": {"phase": "Succeeded"}})), "lost VMTerminal")]
    #[case::rerun_done(json!({"spec": {"runStrategy": "RerunOnFailure"}}), Some(json!({"status": {"phase": "Succeeded"}})), "lost VMTerminal")]
    #[case::rerun_again(json!({"spec": {"runStrategy": "RerunOnFailure"}}), Some(json!({"status": {"phase": "Failed"}})), "wait VMNotReady")]
    #[case::always(json!({}), Some(json!({"status": {"phase": "Failed"}})), "wait VMNotReady")]
    #[case::not_started(json!({"spec": {"runStrategy": "Halted"}}), None, "wait VMNotReady")]
    #[case::unschedulable(json!({"status": {"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"},
    ]}}), None, "wait Unschedulable")]
    #[case::no_address(json!({}), Some(json!({"status": {"interfaces": []}})), "wait VMNotReady")]
    #[case::well(json!({}), Some(json!({})), "settled")]
    fn states_of_a_vm(#[case] vm: Value, #[case] instance: Option<Value>, #[case] expected: &str) {
        assert_eq!(next(&scope(), &seen(vm, instance)), expected);
    }

    #[rstest]
    #[case("Pending", json!([]), "wait DVPending")]
    #[case("ImportInProgress", json!([]), "wait DVNotReady")]
    #[case("ImportInProgress", json!([{"type": "Running", "status": "False", "reason": "ImagePullFailed"}]), "wait DVImagePullFailed")]
    #[case("Failed", json!([]), "wait DVFailed")]
    #[case("WaitForFirstConsumer", json!([]), "wait VMNotReady")]
    #[case("PendingPopulation", json!([]), "wait VMNotReady")]
    #[case("Succeeded", json!([]), "wait VMNotReady")]
    fn states_of_a_volume(#[case] phase: &str, #[case] conditions: Value, #[case] expected: &str) {
        let volume = json!({"status": {"phase": phase, "conditions": conditions}});
        let volume = serde_json::from_value(volume).unwrap();
        let mut look = seen(json!({}), None);
        look.volumes = vec![("m-root".to_owned(), Some(Arc::new(volume)))];
        assert_eq!(next(&scope(), &look), expected);
    }

    fn evicted(strategy: &str, migratable: &str) -> Seen {
        seen(
            json!({}),
            Some(json!({
                "spec": {"evictionStrategy": strategy},
                "status": {
                    "evacuationNodeName": "node-1",
                    "conditions": [{"type": "LiveMigratable", "status": migratable}],
                },
            })),
        )
    }

    fn with_migration(mut look: Seen, phase: &str) -> Seen {
        let migration = json!({"metadata": {"uid": "mig"}, "status": {"phase": phase}});
        look.migration = Some(Arc::new(serde_json::from_value(migration).unwrap()));
        look
    }

    /// PR #392: moved where that is possible, else emptied first.
    #[test]
    fn an_infra_node_that_is_drained_is_left() {
        let scope = scope();
        assert_eq!(next(&scope, &evicted("External", "True")), "VMMigrate");
        let moving = with_migration(evicted("External", "True"), "Running");
        assert_eq!(next(&scope, &moving), "wait VMEvacuating");
        let stuck = with_migration(evicted("External", "True"), "Failed");
        assert!(!wants_drain(&moving) && !wants_drain(&evicted("LiveMigrate", "False")));
        for look in [stuck, evicted("External", "False")] {
            assert!(wants_drain(&look));
            assert_eq!(next(&scope, &look), "wait DrainingNode");
            for end in [Drained::Empty, Drained::TimedOut] {
                let mut drained = scope.clone();
                drained.drained = Some(end);
                assert_eq!(next(&drained, &look), "VMRestart");
            }
        }
        let over = with_migration(seen(json!({}), Some(json!({}))), "Succeeded");
        assert_eq!(next(&scope, &over), "MigrationDelete");
    }

    /// What ends already, or has to leave nothing, is neither moved nor is its Node emptied.
    #[rstest]
    #[case::nowhere(json!({"status": {"evacuationNodeName": ""}}), "settled")]
    #[case::ended(json!({"status": {"evacuationNodeName": "node-1", "phase": "Failed"}}), "wait VMNotReady")]
    #[case::ending(json!({
        "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"evacuationNodeName": "node-1"},
    }), "settled")]
    fn an_instance_that_need_not_leave_is_left_alone(
        #[case] mut instance: Value,
        #[case] expected: &str,
    ) {
        instance["spec"] = json!({"evictionStrategy": "External"});
        let look = seen(json!({}), Some(instance));
        assert_eq!(next(&scope(), &look), expected);
        assert!(!wants_drain(&look));
    }

    #[test]
    fn kubevirt_moves_by_itself_what_it_may_move() {
        assert_eq!(
            next(&scope(), &evicted("LiveMigrate", "True")),
            "wait VMEvacuating"
        );
        assert_eq!(
            next(&scope(), &evicted("LiveMigrate", "False")),
            "lost VMEvicted"
        );
    }

    /// Defect 12: the failure domain of a Machine decides, and an unknown one is told.
    #[test]
    fn defect_12_an_unknown_failure_domain_is_told() {
        let mut scope = scope();
        scope.failure_domain = Some("west".into());
        assert_eq!(
            brief(plan(&scope, &claim(), None)),
            "wait FailureDomainUnknown"
        );
        scope.cluster.spec.failure_domains = vec![Zone {
            name: "west".into(),
            ..Zone::default()
        }];
        assert_eq!(brief(plan(&scope, &claim(), None)), "VMCreate");
    }

    fn teardown(seen: &Seen) -> String {
        match plan_teardown(&claim(), seen) {
            Teardown::Apply(step) => step.name().to_owned(),
            Teardown::Wait(waiting) => format!("wait {}", waiting.message),
            Teardown::Release => "release".to_owned(),
        }
    }

    #[test]
    fn a_teardown_deletes_the_vm_and_waits_for_what_goes_with_it() {
        assert_eq!(teardown(&seen(json!({}), Some(json!({})))), "VMDelete");
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let wait = teardown(&seen(going, Some(json!({}))));
        assert!(wait.contains("its instance is Running"), "{wait}");
    }

    #[test]
    fn r11_what_outlived_the_vm_goes_by_itself_or_is_deleted() {
        let remain = |kind, is_going| Remain {
            kind,
            name: "m".into(),
            version: Version::default(),
            is_going,
        };
        let mut look = seen(json!({}), None);
        look.vm = None;
        look.remains = vec![remain(RemainKind::Secret, true)];
        assert_eq!(teardown(&look), "wait the VM is gone; waiting for Secret m");
        look.remains.push(remain(RemainKind::Instance, false));
        assert_eq!(teardown(&look), "RemainsDelete");
        assert_eq!(next(&scope(), &look), "lost VMDeleted");
    }
}
