//! The deletion of a Machine, step by step, each visible as a reason of the condition `Deleting`
//! (S-08).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::condition::{DELETING, Report};
use super::gate::External;
use super::hub::Result;
use super::machine::Pass;
use super::object::Object;
use super::word::{
    CONTROL_PLANE_LABEL, EXCLUDE_DRAINING, EXCLUDE_VOLUME_DETACH, MACHINE, PRE_DRAIN_HOOK,
    PRE_TERMINATE_HOOK,
};
use super::{NodeLoad, World, cluster};

/// How often a drain or a detachment is looked at again.
const DRAIN_RETRY: Duration = Duration::from_secs(20);
/// How long core tries to delete the Node, unless the Machine says otherwise.
const NODE_DELETION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it tries meanwhile.
const NODE_DELETION_RETRY: Duration = Duration::from_secs(2);

/// What the decision over the next step rests on.
#[derive(Clone, Debug, Default)]
struct View {
    /// Whether the Node may be drained and deleted; if not, why.
    keeps_node: Option<&'static str>,
    pre_drain_hooks: Vec<String>,
    pre_terminate_hooks: Vec<String>,
    skips_drain: bool,
    skips_volumes: bool,
    is_drained: bool,
    is_detached: bool,
    drain_is_overdue: bool,
    volumes_are_overdue: bool,
    has_begun_to_terminate: bool,
    infra_is_gone: bool,
    bootstrap_is_gone: bool,
    node_is_gone: bool,
    node_deletion_is_overdue: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    AwaitPreDrain,
    Drain,
    AwaitVolumes,
    AwaitPreTerminate,
    DeleteInfra,
    DeleteBootstrap,
    DeleteNode,
    Finish,
}

fn next(view: &View) -> Step {
    let touches_node = view.keeps_node.is_none() && !view.has_begun_to_terminate;
    if touches_node {
        if !view.pre_drain_hooks.is_empty() {
            return Step::AwaitPreDrain;
        }
        if !view.skips_drain && !view.is_drained && !view.drain_is_overdue {
            return Step::Drain;
        }
        if !view.skips_volumes && !view.is_detached && !view.volumes_are_overdue {
            return Step::AwaitVolumes;
        }
    }
    if !view.pre_terminate_hooks.is_empty() {
        Step::AwaitPreTerminate
    } else if !view.infra_is_gone {
        Step::DeleteInfra
    } else if !view.bootstrap_is_gone {
        Step::DeleteBootstrap
    } else if view.keeps_node.is_none() && !view.node_is_gone && !view.node_deletion_is_overdue {
        Step::DeleteNode
    } else {
        Step::Finish
    }
}

/// Does the next step. True once nothing is left but the finalizer.
pub(super) async fn advance(world: &World, pass: &mut Pass) -> Result<bool> {
    let mut view = look(world, pass);
    let mut step = next(&view);
    // Cordoning drains a node without stubborn pods at once, and the steps after it need no new look
    // at the world.
    if step == Step::Drain {
        cordon(world, pass);
        let load = world.load(node_name(pass).unwrap_or_default());
        view.is_drained = load.pods == 0 && answers(world, pass);
        step = next(&view);
    }
    start_clocks(world, pass, &step);
    let report = report(&step, &view);
    pass.conditions.set(DELETING, &report);
    match step {
        Step::AwaitPreDrain | Step::AwaitPreTerminate => {}
        Step::Drain | Step::AwaitVolumes => pass.soon(world.hub.scaled(DRAIN_RETRY)),
        Step::DeleteInfra => delete(world, pass, "/spec/infrastructureRef").await?,
        Step::DeleteBootstrap => delete(world, pass, "/spec/bootstrap/configRef").await?,
        Step::DeleteNode => {
            delete_node(world, pass);
            pass.soon(world.hub.scaled(NODE_DELETION_RETRY));
        }
        Step::Finish => return Ok(true),
    }
    Ok(false)
}

fn report(step: &Step, view: &View) -> Report {
    let (reason, message) = match step {
        Step::AwaitPreDrain => (
            "WaitingForPreDrainHook",
            format!("Waiting for hooks: {}", view.pre_drain_hooks.join(", ")),
        ),
        Step::Drain => ("DrainingNode", "Drain not completed yet".to_owned()),
        Step::AwaitVolumes => (
            "WaitingForVolumeDetach",
            "Waiting for Node volumes to be detached".to_owned(),
        ),
        Step::AwaitPreTerminate => (
            "WaitingForPreTerminateHook",
            format!("Waiting for hooks: {}", view.pre_terminate_hooks.join(", ")),
        ),
        Step::DeleteInfra => (
            "WaitingForInfrastructureDeletion",
            "Waiting for the infra machine to be deleted".to_owned(),
        ),
        Step::DeleteBootstrap => (
            "WaitingForBootstrapDeletion",
            "Waiting for the bootstrap config to be deleted".to_owned(),
        ),
        Step::DeleteNode => ("DeletingNode", "Node has not been deleted yet".to_owned()),
        Step::Finish => ("DeletionCompleted", "Deletion completed".to_owned()),
    };
    Report::new("True", reason, message)
}

fn look(world: &World, pass: &Pass) -> View {
    let machine = &pass.machine;
    let hooks = |prefix| {
        machine
            .hooks(prefix)
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let load = node_name(pass).map_or(NodeLoad::default(), |name| world.load(name));
    let reason = machine.condition(DELETING).map_or("", |held| held.reason);
    let infra_leaves = match &pass.infra {
        Some(External::Found(infra, _)) => infra.is_deleting(),
        Some(External::Missing(_)) => true,
        Some(External::Listing) | None => false,
    };
    let began = |field: &str| {
        machine
            .text(&format!("/status/deletion/{field}"))
            .and_then(|at| at.parse::<Timestamp>().ok())
    };
    let is_over = |field: &str, limit: &str| {
        let limit = machine.number(limit).filter(|seconds| *seconds > 0);
        let limit = limit.and_then(|seconds| u64::try_from(seconds).ok());
        let spent = began(field).map(|at| world.hub.since(at));
        limit
            .zip(spent)
            .is_some_and(|(limit, spent)| spent >= Duration::from_secs(limit))
    };
    View {
        keeps_node: keeps_node(world, pass),
        pre_drain_hooks: hooks(PRE_DRAIN_HOOK),
        pre_terminate_hooks: hooks(PRE_TERMINATE_HOOK),
        skips_drain: machine.annotation(EXCLUDE_DRAINING).is_some() || infra_leaves,
        skips_volumes: machine.annotation(EXCLUDE_VOLUME_DETACH).is_some() || infra_leaves,
        is_drained: is_cordoned(world, pass) && load.pods == 0,
        is_detached: load.volumes == 0,
        drain_is_overdue: is_over(
            "nodeDrainStartTime",
            "/spec/deletion/nodeDrainTimeoutSeconds",
        ),
        volumes_are_overdue: is_over(
            "waitForNodeVolumeDetachStartTime",
            "/spec/deletion/nodeVolumeDetachTimeoutSeconds",
        ),
        has_begun_to_terminate: began("waitForPreTerminateHookStartTime").is_some()
            || matches!(
                reason,
                "WaitingForPreTerminateHook"
                    | "WaitingForInfrastructureDeletion"
                    | "WaitingForBootstrapDeletion"
                    | "DeletingNode"
            ),
        infra_is_gone: is_gone(machine, "/spec/infrastructureRef", pass.infra.as_ref()),
        bootstrap_is_gone: is_gone(
            machine,
            "/spec/bootstrap/configRef",
            pass.bootstrap.as_ref(),
        ),
        node_is_gone: !has_node(world, pass),
        node_deletion_is_overdue: node_deletion_is_overdue(world, pass),
    }
}

fn is_gone(machine: &Object, pointer: &str, found: Option<&External>) -> bool {
    machine.at(pointer).is_none() || matches!(found, Some(External::Missing(_)))
}

/// Why the Node is left alone, if it is.
fn keeps_node(world: &World, pass: &Pass) -> Option<&'static str> {
    if pass.cluster.is_deleting() {
        return Some("the Cluster is being deleted");
    }
    if node_name(pass).is_none() {
        return Some("the Machine has no Node");
    }
    pass.machine.label(CONTROL_PLANE_LABEL)?;
    let control_plane = pass.cluster.reference("/spec/controlPlaneRef");
    let name = control_plane.map(|it| {
        let name = super::object::Name::new(pass.cluster.namespace(), &it.name);
        world.hub.get(&it.kind, &name)
    });
    match name {
        Some(Some(object)) if object.is_deleting() => {
            return Some("the control plane is being deleted");
        }
        Some(Some(object)) if object.flag("/status/externalManagedControlPlane") => return None,
        Some(Some(_) | None) | None => {}
    }
    let all = world.hub.clustered(&MACHINE, &pass.cluster.key());
    let has_other = all.iter().any(|other| {
        other.label(CONTROL_PLANE_LABEL).is_some()
            && other.uid() != pass.machine.uid()
            && !other.is_deleting()
    });
    (!has_other).then_some("no control plane Machine would be left")
}

fn node_name(pass: &Pass) -> Option<&str> {
    pass.status
        .pointer("/nodeRef/name")
        .and_then(serde_json::Value::as_str)
        .or_else(|| pass.machine.word("/status/nodeRef/name"))
}

fn answers(world: &World, pass: &Pass) -> bool {
    cluster::endpoint(&pass.cluster).is_some_and(|at| world.workloads.answers(&at))
}

fn has_node(world: &World, pass: &Pass) -> bool {
    let roster = cluster::endpoint(&pass.cluster).and_then(|at| world.roster(&at));
    let name = node_name(pass).unwrap_or_default();
    roster.is_some_and(|roster| roster.by_name(name).is_some())
}

/// A cordoned node; one whose object is gone has nothing left to drain.
fn is_cordoned(world: &World, pass: &Pass) -> bool {
    let roster = cluster::endpoint(&pass.cluster).and_then(|at| world.roster(&at));
    let Some(roster) = roster.filter(|roster| roster.answers) else {
        return false;
    };
    let node = roster.by_name(node_name(pass).unwrap_or_default());
    node.is_none_or(|node| node.unschedulable)
}

fn cordon(world: &World, pass: &Pass) {
    if let (Some(at), Some(name)) = (cluster::endpoint(&pass.cluster), node_name(pass))
        && world.workloads.answers(&at)
    {
        world
            .workloads
            .update_node(&at, name, |node| node.unschedulable = true);
    }
}

fn delete_node(world: &World, pass: &Pass) {
    if let (Some(at), Some(name)) = (cluster::endpoint(&pass.cluster), node_name(pass))
        && world.workloads.answers(&at)
    {
        world.workloads.remove_node(&at, name);
    }
}

/// Counted from the moment that the condition began to say so; kept in memory, since no field has it.
fn node_deletion_is_overdue(world: &World, pass: &Pass) -> bool {
    let limit = match pass
        .machine
        .number("/spec/deletion/nodeDeletionTimeoutSeconds")
    {
        Some(0) => return false,
        Some(seconds) => Duration::from_secs(seconds.unsigned_abs()),
        None => NODE_DELETION_TIMEOUT,
    };
    let is_under_way = pass
        .machine
        .condition(DELETING)
        .is_some_and(|held| held.reason == "DeletingNode");
    is_under_way && world.spent_on_node_deletion(pass.machine.uid()) >= limit
}

/// Records when a bounded wait began.
fn start_clocks(world: &World, pass: &mut Pass, step: &Step) {
    let field = match step {
        Step::AwaitPreDrain => "waitForPreDrainHookStartTime",
        Step::Drain => "nodeDrainStartTime",
        Step::AwaitVolumes => "waitForNodeVolumeDetachStartTime",
        Step::AwaitPreTerminate => "waitForPreTerminateHookStartTime",
        Step::DeleteInfra | Step::DeleteBootstrap | Step::DeleteNode | Step::Finish => return,
    };
    let pointer = format!("/status/deletion/{field}");
    if pass.machine.at(&pointer).is_none() {
        let now = world.hub.now();
        let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
        pass.status["deletion"] = json!({field: whole.to_string()});
    }
}

async fn delete(world: &World, pass: &Pass, pointer: &str) -> Result<()> {
    let found = match pointer {
        "/spec/infrastructureRef" => &pass.infra,
        _ => &pass.bootstrap,
    };
    if let (Some(reference), Some(External::Found(object, _))) =
        (pass.machine.reference(pointer), found)
    {
        world.hub.delete(&reference.kind, object).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    #[test]
    fn s_08_steps_come_in_order() {
        let mut view = View {
            pre_drain_hooks: hooks(PRE_DRAIN_HOOK),
            pre_terminate_hooks: hooks(PRE_TERMINATE_HOOK),
            ..View::default()
        };
        let mut steps = vec![next(&view)];
        let advances: [fn(&mut View); 7] = [
            |view| view.pre_drain_hooks.clear(),
            |view| view.is_drained = true,
            |view| view.is_detached = true,
            |view| view.pre_terminate_hooks.clear(),
            |view| view.infra_is_gone = true,
            |view| view.bootstrap_is_gone = true,
            |view| view.node_is_gone = true,
        ];
        for advance in advances {
            advance(&mut view);
            steps.push(next(&view));
        }
        assert_eq!(
            steps,
            [
                Step::AwaitPreDrain,
                Step::Drain,
                Step::AwaitVolumes,
                Step::AwaitPreTerminate,
                Step::DeleteInfra,
                Step::DeleteBootstrap,
                Step::DeleteNode,
                Step::Finish
            ]
        );
    }

    #[test]
    fn s_08_what_skips_which_steps() {
        let base = View {
            pre_drain_hooks: hooks(PRE_DRAIN_HOOK),
            pre_terminate_hooks: hooks(PRE_TERMINATE_HOOK),
            ..View::default()
        };
        let kept = View {
            keeps_node: Some("why"),
            ..base.clone()
        };
        assert_eq!(next(&kept), Step::AwaitPreTerminate, "always waited for");
        let begun = View {
            has_begun_to_terminate: true,
            ..base
        };
        assert_eq!(
            next(&begun),
            Step::AwaitPreTerminate,
            "no drain after the wait began"
        );
        for view in [
            View {
                skips_drain: true,
                ..View::default()
            },
            View {
                drain_is_overdue: true,
                ..View::default()
            },
        ] {
            assert_eq!(next(&view), Step::AwaitVolumes);
        }
        for view in [
            View {
                is_drained: true,
                skips_volumes: true,
                ..View::default()
            },
            View {
                is_drained: true,
                volumes_are_overdue: true,
                ..View::default()
            },
        ] {
            assert_eq!(next(&view), Step::DeleteInfra);
        }
        let gone = View {
            keeps_node: Some("why"),
            infra_is_gone: true,
            bootstrap_is_gone: true,
            ..View::default()
        };
        assert_eq!(next(&gone), Step::Finish, "the Node is left alone");
        let late = View {
            keeps_node: None,
            has_begun_to_terminate: true,
            node_deletion_is_overdue: true,
            ..gone
        };
        assert_eq!(next(&late), Step::Finish);
    }
}
