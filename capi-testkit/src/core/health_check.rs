//! The MachineHealthCheck controller: which machines are unhealthy, and who is asked to replace them
//! (S-11, RM-01 to RM-03).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::clone::{Metadata, Template};
use super::condition::{
    CONTROL_PLANE_INITIALIZED, Conditions, EXTERNALLY_REMEDIATED, HEALTH_CHECK_SUCCEEDED,
    INFRASTRUCTURE_READY, OWNER_REMEDIATED, Report,
};
use super::driver::Again;
use super::gate;
use super::hub::{Error, Result};
use super::object::{Kind, Name, Object, Reference, is_paused};
use super::word::{
    CLUSTER, CLUSTER_NAME_LABEL, CONTROL_PLANE_LABEL, CORE_API, MACHINE, MACHINE_HEALTH_CHECK,
    REMEDIATE_MACHINE, SKIP_REMEDIATION, manager,
};
use super::{World, cluster};

/// How long a machine may take to become a node, unless the check says otherwise.
const NODE_STARTUP_TIMEOUT: Duration = Duration::from_secs(600);

/// What is known of one machine. Durations are the time that a state has lasted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Target {
    is_marked: bool,
    node: NodeState,
    /// Since the last of: Machine made, control plane initialised, Cluster's and Machine's
    /// infrastructure ready, as far as these happened.
    startup: Option<Duration>,
    /// Status of the node's conditions, with how long.
    node_conditions: Vec<(String, String, Duration)>,
    machine_conditions: Vec<(String, String, Duration)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NodeState {
    #[default]
    NotYet,
    There,
    Gone,
    /// The workload cluster does not answer; nothing can be said.
    Unseen,
}

/// One entry of the lists of unhealthy conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    kind: String,
    status: String,
    timeout: Duration,
}

/// What a check says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    /// None: never.
    startup: Option<Duration>,
    node: Vec<Rule>,
    machine: Vec<Rule>,
}

/// The verdict on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Healthy,
    /// It may become unhealthy after this long.
    Undecided(Option<Duration>),
    Unhealthy(&'static str, String),
}

fn judge(target: &Target, rules: &Rules) -> Verdict {
    if target.is_marked {
        let text = "marked for remediation via remediate-machine annotation";
        return Verdict::Unhealthy("HasRemediateAnnotation", text.to_owned());
    }
    let mut next: Again = None;
    for (reason, rules, held) in [
        (
            "UnhealthyMachine",
            &rules.machine,
            &target.machine_conditions,
        ),
        ("UnhealthyNode", &rules.node, &target.node_conditions),
    ] {
        match worst(rules, held) {
            Some((rule, Duration::ZERO)) => {
                let text = format!(
                    "Condition {} is {} for more than {:?}",
                    rule.kind, rule.status, rule.timeout
                );
                return Verdict::Unhealthy(reason, text);
            }
            Some((_, left)) => next = Some(next.map_or(left, |held: Duration| held.min(left))),
            None => {}
        }
    }
    match target.node {
        NodeState::Gone => Verdict::Unhealthy("NodeDeleted", "Node has been deleted".to_owned()),
        NodeState::There if next.is_none() => Verdict::Healthy,
        NodeState::There | NodeState::Unseen => Verdict::Undecided(next),
        NodeState::NotYet => match (rules.startup, target.startup) {
            (Some(limit), Some(spent)) if spent >= limit => Verdict::Unhealthy(
                "NodeStartupTimeout",
                format!("Node has not become available within {limit:?}"),
            ),
            (Some(limit), Some(spent)) => {
                let left = limit - spent;
                Verdict::Undecided(Some(next.map_or(left, |held| held.min(left))))
            }
            (Some(_) | None, _) => Verdict::Undecided(next),
        },
    }
}

/// The rule that is broken longest, with the time left until it counts.
fn worst<'a>(
    rules: &'a [Rule],
    held: &[(String, String, Duration)],
) -> Option<(&'a Rule, Duration)> {
    rules
        .iter()
        .filter_map(|rule| {
            let (_, _, spent) = held
                .iter()
                .find(|(kind, status, _)| *kind == rule.kind && *status == rule.status)?;
            Some((rule, rule.timeout.saturating_sub(*spent)))
        })
        .min_by_key(|(_, left)| *left)
}

fn rules(check: &Object) -> Rules {
    let list = |field: &str| {
        let list = check.at(&format!("/spec/checks/{field}"));
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|rule| {
            Some(Rule {
                kind: rule["type"].as_str()?.to_owned(),
                status: rule["status"].as_str()?.to_owned(),
                timeout: Duration::from_secs(rule["timeoutSeconds"].as_u64().unwrap_or(0)),
            })
        })
        .collect()
    };
    let startup = match check.number("/spec/checks/nodeStartupTimeoutSeconds") {
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds.unsigned_abs())),
        None => Some(NODE_STARTUP_TIMEOUT),
    };
    Rules {
        startup,
        node: list("unhealthyNodeConditions"),
        machine: list("unhealthyMachineConditions"),
    }
}

/// Whether a label selector takes an object. An empty one takes all.
pub(super) fn selects(selector: Option<&Value>, object: &Object) -> bool {
    let Some(selector) = selector else {
        return true;
    };
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    let fits = |expression: &Value| {
        let held = object.label(expression["key"].as_str().unwrap_or_default());
        let values = expression["values"].as_array().into_iter().flatten();
        let is_listed = held.is_some_and(|held| values.clone().any(|value| value == held));
        match expression["operator"].as_str() {
            Some("In") => is_listed,
            Some("NotIn") => !is_listed,
            Some("Exists") => held.is_some(),
            Some("DoesNotExist") => held.is_none(),
            _ => false,
        }
    };
    labels
        .into_iter()
        .all(|(key, value)| value.as_str() == object.label(key))
        && expressions.all(fits)
}

/// Whether so many unhealthy ones of so many still allow remediation.
fn is_allowed(check: &Object, unhealthy: usize, all: usize) -> bool {
    let trigger = |field: &str| check.at(&format!("/spec/remediation/triggerIf/{field}"));
    if let Some(range) = trigger("unhealthyInRange").and_then(Value::as_str) {
        let bounds = range.trim_matches(['[', ']']).split_once('-');
        let bounds = bounds.and_then(|(low, high)| {
            Some((
                low.trim().parse::<usize>().ok()?,
                high.trim().parse::<usize>().ok()?,
            ))
        });
        return bounds.is_none_or(|(low, high)| (low..=high).contains(&unhealthy));
    }
    match trigger("unhealthyLessThanOrEqualTo") {
        Some(Value::Number(limit)) => limit.as_u64().is_none_or(|limit| unhealthy as u64 <= limit),
        Some(Value::String(text)) => {
            text.trim_end_matches('%')
                .parse::<usize>()
                .is_ok_and(|percent| {
                    let limit = if text.ends_with('%') {
                        percent * all / 100
                    } else {
                        percent
                    };
                    unhealthy <= limit
                })
        }
        _ => true,
    }
}

fn target(world: &World, cluster: &Object, machine: &Object) -> Target {
    let since = |at: Option<Timestamp>| at.map(|at| world.hub.since(at));
    let begun = |object: &Object, kind: &str| {
        let held = object
            .condition(kind)
            .filter(|held| held.status == "True")?;
        held.since
    };
    let startup = [
        machine.created(),
        begun(cluster, CONTROL_PLANE_INITIALIZED),
        begun(cluster, INFRASTRUCTURE_READY),
        begun(machine, INFRASTRUCTURE_READY),
    ];
    let startup = startup.into_iter().flatten().max();
    let (node, node_conditions) = node_state(world, cluster, machine);
    let machine_conditions = machine
        .conditions()
        .iter()
        .filter_map(|condition| {
            let kind = condition["type"].as_str()?;
            let held = machine.condition(kind)?;
            let spent = since(held.since).unwrap_or_default();
            Some((kind.to_owned(), held.status.to_owned(), spent))
        })
        .collect();
    Target {
        is_marked: machine.annotation(REMEDIATE_MACHINE).is_some(),
        node,
        startup: since(startup),
        node_conditions,
        machine_conditions,
    }
}

fn node_state(
    world: &World,
    cluster: &Object,
    machine: &Object,
) -> (NodeState, Vec<(String, String, Duration)>) {
    let Some(name) = machine.word("/status/nodeRef/name") else {
        return (NodeState::NotYet, Vec::new());
    };
    let roster = cluster::endpoint(cluster).and_then(|at| world.roster(&at));
    let Some(roster) = roster.filter(|roster| roster.answers) else {
        return (NodeState::Unseen, Vec::new());
    };
    match roster.by_name(name) {
        None => (NodeState::Gone, Vec::new()),
        Some(node) => {
            // The node lifecycle controller says Unknown of a kubelet that went silent.
            let status = if node.ready { "True" } else { "Unknown" };
            let spent = world.node_state_lasted(machine.uid(), node.ready);
            let ready = ("Ready".to_owned(), status.to_owned(), spent);
            (NodeState::There, vec![ready])
        }
    }
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let hub = &world.hub;
    let Some(check) = hub.get(&MACHINE_HEALTH_CHECK, name) else {
        return Ok(None);
    };
    let cluster_name = Name::new(&name.namespace, check.cluster_name().unwrap_or_default());
    let Some(cluster) = hub.get(&CLUSTER, &cluster_name) else {
        return Err(Error::Inconsistent(format!(
            "MachineHealthCheck {name} belongs to Cluster {cluster_name}, which does not exist"
        )));
    };
    let manager = manager::MACHINE_HEALTH_CHECK;
    let kind = &MACHINE_HEALTH_CHECK;
    if check.is_deleting() || gate::stops(hub, kind, &check, Some(&cluster), manager).await? {
        return Ok(None);
    }
    let owner = cluster.owner_reference(CORE_API, &CLUSTER, false);
    let check = match gate::adoption(&check, &owner, &[], cluster.name())? {
        Some(patch) => hub.merge(kind, name, patch, manager).await?,
        None => check,
    };
    // Nothing can be said of machines as long as what they stand on is not there (CO-10).
    if !cluster.is_true(INFRASTRUCTURE_READY) {
        return Ok(None);
    }
    let has_control_plane = cluster.is_true(CONTROL_PLANE_INITIALIZED);
    let rules = rules(&check);
    let selector = check.at("/spec/selector");
    let machines: Vec<_> = hub
        .clustered(&MACHINE, &cluster_name)
        .into_iter()
        .filter(|it| selects(selector, it) && !it.is_deleting())
        .filter(|it| it.annotation(SKIP_REMEDIATION).is_none() && !is_paused(it, None))
        .filter(|it| has_control_plane || it.label(CONTROL_PLANE_LABEL).is_some())
        .collect();
    let verdicts: Vec<_> = machines
        .iter()
        .map(|machine| judge(&target(world, &cluster, machine), &rules))
        .collect();
    conclude(world, &check, &machines, &verdicts).await
}

async fn conclude(
    world: &World,
    check: &Object,
    machines: &[Arc<Object>],
    verdicts: &[Verdict],
) -> Result<Again> {
    let hub = &world.hub;
    let is_sick = |verdict: &&Verdict| matches!(verdict, Verdict::Unhealthy(..));
    let unhealthy = verdicts.iter().filter(is_sick).count();
    let is_allowed = is_allowed(check, unhealthy, machines.len());
    let mut again: Again = None;
    for (machine, verdict) in machines.iter().zip(verdicts) {
        match verdict {
            Verdict::Healthy => healthy(world, check, machine).await?,
            Verdict::Undecided(next) => {
                let next = next.map(|next| hub.scaled(next));
                again = [again, next].into_iter().flatten().min();
            }
            Verdict::Unhealthy(reason, message) => {
                sick(world, check, machine, is_allowed, reason, message).await?;
            }
        }
    }
    let well = verdicts
        .iter()
        .filter(|it| **it == Verdict::Healthy)
        .count();
    let mut conditions = Conditions::of(check, hub.now());
    let report = if is_allowed {
        Report::yes("RemediationAllowed")
    } else {
        Report::no(
            "TooManyUnhealthy",
            "Remediation is not allowed: too many unhealthy Machines",
        )
    };
    conditions.set("RemediationAllowed", &report);
    let names: Vec<_> = machines.iter().map(|it| it.name()).collect();
    let status = json!({
        "expectedMachines": machines.len(), "currentHealthy": well, "targets": names,
        "observedGeneration": check.generation(), "conditions": conditions.into_value(),
    });
    let manager = manager::MACHINE_HEALTH_CHECK;
    hub.merge_status(&MACHINE_HEALTH_CHECK, check, &status, manager)
        .await?;
    Ok(again)
}

async fn healthy(world: &World, check: &Object, machine: &Object) -> Result<()> {
    let mut conditions = Conditions::of(machine, world.hub.now());
    conditions.set(HEALTH_CHECK_SUCCEEDED, &Report::yes("Succeeded"));
    conditions.remove(OWNER_REMEDIATED);
    conditions.remove(EXTERNALLY_REMEDIATED);
    write(world, machine, conditions).await?;
    if let Some((kind, name)) = external_name(world, check, machine)?
        && let Some(object) = world.hub.get(&kind, &name)
    {
        world.hub.delete(&kind, &object).await?;
    }
    Ok(())
}

async fn sick(
    world: &World,
    check: &Object,
    machine: &Object,
    is_allowed: bool,
    reason: &str,
    message: &str,
) -> Result<()> {
    let mut conditions = Conditions::of(machine, world.hub.now());
    conditions.set(HEALTH_CHECK_SUCCEEDED, &Report::no(reason, message));
    let template = check.reference("/spec/remediation/templateRef");
    if is_allowed {
        let kind = if template.is_some() {
            EXTERNALLY_REMEDIATED
        } else {
            OWNER_REMEDIATED
        };
        // A remediator that said True is not told again.
        if conditions.status(kind).is_none() {
            conditions.set(kind, &Report::no("WaitingForRemediation", ""));
        }
    }
    write(world, machine, conditions).await?;
    match template.filter(|_| is_allowed) {
        Some(template) => remediate_externally(world, check, machine, &template).await,
        None => Ok(()),
    }
}

async fn write(world: &World, machine: &Object, conditions: Conditions) -> Result<()> {
    let status = json!({"conditions": conditions.into_value()});
    let manager = manager::MACHINE_HEALTH_CHECK;
    let held = world.hub.merge_status(&MACHINE, machine, &status, manager);
    held.await.map(|_| ())
}

/// Kind and name of the remediation request for a machine, with the kind watched.
fn external_name(world: &World, check: &Object, machine: &Object) -> Result<Option<(Kind, Name)>> {
    let Some(template) = check.reference("/spec/remediation/templateRef") else {
        return Ok(None);
    };
    let kind = template.kind.kind.strip_suffix("Template");
    let kind = Kind::new(&template.kind.group, kind.unwrap_or(&template.kind.kind));
    let resolved = gate::resolved(&world.hub, &kind)?;
    world.hub.want(&resolved.resource);
    Ok(Some((kind, machine.key())))
}

/// One request per machine, named as it, plainly owned by it (RM-02).
async fn remediate_externally(
    world: &World,
    check: &Object,
    machine: &Object,
    template: &Reference,
) -> Result<()> {
    let hub = &world.hub;
    let Some((kind, name)) = external_name(world, check, machine)? else {
        return Ok(());
    };
    if hub.get(&kind, &name).is_some() {
        return Ok(());
    }
    let template = Template::fetch(hub, check.namespace(), template).await?;
    let cluster = machine.cluster_name().unwrap_or_default();
    let draft = super::clone::Draft {
        name,
        metadata: Metadata::default().with_labels(&[(CLUSTER_NAME_LABEL, cluster)]),
        owner: machine.owner_reference(CORE_API, &MACHINE, false),
    };
    let value = draft.clone_of(&template.object, &template.resolved);
    let resource = gate::resolved(hub, &kind)?.resource;
    hub.create(&resource, value, manager::MACHINE_HEALTH_CHECK)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn conditions(status: &str, spent: u32) -> Vec<(String, String, Duration)> {
        vec![("Ready".to_owned(), status.to_owned(), SECOND * spent)]
    }

    fn rules() -> Rules {
        Rules {
            startup: Some(SECOND * 600),
            node: vec![Rule {
                kind: "Ready".to_owned(),
                status: "Unknown".to_owned(),
                timeout: SECOND * 300,
            }],
            machine: Vec::new(),
        }
    }

    fn reason(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Healthy => "Healthy",
            Verdict::Undecided(_) => "Undecided",
            Verdict::Unhealthy(reason, _) => reason,
        }
    }

    #[test]
    fn s_11_verdicts() {
        let there = |status, spent| Target {
            node: NodeState::There,
            node_conditions: conditions(status, spent),
            ..Target::default()
        };
        let not_yet = |spent: Option<u32>| Target {
            startup: spent.map(|spent| SECOND * spent),
            ..Target::default()
        };
        let marked = Target {
            is_marked: true,
            ..there("True", 9)
        };
        let gone = Target {
            node: NodeState::Gone,
            ..Target::default()
        };
        let unseen = Target {
            node: NodeState::Unseen,
            ..Target::default()
        };
        for (target, wanted) in [
            (there("True", 999), "Healthy"),
            (there("Unknown", 299), "Undecided"),
            (there("Unknown", 300), "UnhealthyNode"),
            (there("False", 999), "Healthy"),
            (not_yet(None), "Undecided"),
            (not_yet(Some(599)), "Undecided"),
            (not_yet(Some(600)), "NodeStartupTimeout"),
            (marked, "HasRemediateAnnotation"),
            (gone, "NodeDeleted"),
            (unseen, "Undecided"),
        ] {
            assert_eq!(reason(&judge(&target, &rules())), wanted, "{target:?}");
        }
        let next = judge(&not_yet(Some(590)), &rules());
        assert_eq!(
            next,
            Verdict::Undecided(Some(SECOND * 10)),
            "looks again in time"
        );
        let never = Rules {
            startup: None,
            ..rules()
        };
        assert_eq!(
            judge(&not_yet(Some(9999)), &never),
            Verdict::Undecided(None)
        );
    }

    #[test]
    fn s_11_selectors() {
        let object = Object::from_value(json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "labels": {"a": "1"}},
        }));
        for (selector, wanted) in [
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "2"}}), false),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}),
                true,
            ),
        ] {
            assert_eq!(selects(Some(&selector), &object), wanted, "{selector}");
        }
    }

    #[test]
    fn s_11_too_many_unhealthy_ones_stop_remediation() {
        let check = |trigger: Value| {
            Object::from_value(json!({
                "apiVersion": CORE_API, "kind": "MachineHealthCheck", "metadata": {"name": "x"},
                "spec": {"remediation": {"triggerIf": trigger}},
            }))
        };
        for (trigger, wanted) in [
            (json!({}), true),
            (json!({"unhealthyLessThanOrEqualTo": 1}), false),
            (json!({"unhealthyLessThanOrEqualTo": 2}), true),
            (json!({"unhealthyLessThanOrEqualTo": "40%"}), true),
            (json!({"unhealthyLessThanOrEqualTo": "39%"}), false),
            (json!({"unhealthyInRange": "[1-2]"}), true),
            (json!({"unhealthyInRange": "[3-5]"}), false),
        ] {
            assert_eq!(
                is_allowed(&check(trigger.clone()), 2, 5),
                wanted,
                "{trigger}"
            );
        }
    }
}
