//! The MachineDeployment controller: one MachineSet per distinct template, rolled from one to the next
//! (S-04).

use std::sync::Arc;

use serde_json::{Value, json};

use super::World;
use super::clone::{Metadata, short_hash, suffix};
use super::condition::{AVAILABLE, Conditions, DELETING, Report};
use super::driver::Again;
use super::gate::{self, adoption};
use super::hub::{Error, Result, difference};
use super::machine_set::{counts, replicas};
use super::object::{Name, Object};
use super::word::{
    CLUSTER, CLUSTER_NAME_LABEL, CORE_API, DEPLOYMENT_NAME_LABEL, MACHINE, MACHINE_DEPLOYMENT,
    MACHINE_DEPLOYMENT_FINALIZER, MACHINE_SET, REVISION, TEMPLATE_HASH_LABEL, manager,
};

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let hub = &world.hub;
    let Some(deployment) = hub.get(&MACHINE_DEPLOYMENT, name) else {
        return Ok(None);
    };
    let cluster_name = deployment.cluster_name().unwrap_or_default().to_owned();
    let Some(cluster) = hub.get(&CLUSTER, &Name::new(&name.namespace, &cluster_name)) else {
        return Err(Error::Inconsistent(format!(
            "MachineDeployment {name} belongs to Cluster {cluster_name}, which does not exist"
        )));
    };
    let manager = manager::MACHINE_DEPLOYMENT;
    let finalizer = MACHINE_DEPLOYMENT_FINALIZER;
    let deployment = gate::hold(hub, &MACHINE_DEPLOYMENT, deployment, finalizer, manager).await?;
    let kind = &MACHINE_DEPLOYMENT;
    if gate::stops(hub, kind, &deployment, Some(&cluster), manager).await? {
        return Ok(None);
    }
    let sets = hub.owned(&MACHINE_SET, deployment.uid());
    if deployment.is_deleting() {
        for set in &sets {
            hub.delete(&MACHINE_SET, set).await?;
        }
        if hub.owned(&MACHINE_SET, deployment.uid()).is_empty() {
            gate::release(hub, kind, &deployment, finalizer, manager).await?;
        }
        return Ok(None);
    }
    let owner = cluster.owner_reference(CORE_API, &CLUSTER, false);
    let deployment = match adoption(&deployment, &owner, &[], cluster.name())? {
        Some(patch) => hub.merge(kind, name, patch, manager).await?,
        None => deployment,
    };
    let current = match current(&deployment, &sets) {
        Some(set) => propagate(world, &deployment, set).await?,
        None => create(world, &deployment, &sets).await?,
    };
    roll(world, &deployment, &current).await?;
    publish(world, &deployment, &current).await?;
    Ok(None)
}

/// What makes a machine another machine: a change of anything else is carried over in place.
fn identity(template: Option<&Value>) -> Value {
    let spec = template.map(|template| &template["spec"]);
    let field = |pointer: &str| spec.and_then(|spec| spec.pointer(pointer)).cloned();
    json!([
        field("/version"),
        field("/bootstrap/configRef"),
        field("/bootstrap/dataSecretName"),
        field("/infrastructureRef/kind"),
        field("/infrastructureRef/name"),
        field("/failureDomain"),
    ])
}

/// The set of the deployment's present template; the oldest, should there be several.
fn current<'a>(deployment: &Object, sets: &'a [Arc<Object>]) -> Option<&'a Arc<Object>> {
    let wanted = identity(deployment.at("/spec/template"));
    sets.iter()
        .filter(|set| !set.is_deleting() && identity(set.at("/spec/template")) == wanted)
        .min_by_key(|set| (set.created(), set.name().to_owned()))
}

/// Labels of the deployment's template and those that the webhook would add.
fn template_metadata(deployment: &Object) -> Metadata {
    let cluster = deployment.cluster_name().unwrap_or_default();
    Metadata::read(deployment.at("/spec/template/metadata")).with_labels(&[
        (CLUSTER_NAME_LABEL, cluster),
        (DEPLOYMENT_NAME_LABEL, deployment.name()),
    ])
}

/// The template of a set: the deployment's, with all labels and the hash that tells it apart.
fn template_of_set(deployment: &Object, hash: &str) -> Value {
    let metadata = template_metadata(deployment).with_labels(&[(TEMPLATE_HASH_LABEL, hash)]);
    let mut template = deployment.at("/spec/template").cloned().unwrap_or_default();
    let mut value = json!({"labels": metadata.labels});
    if !metadata.annotations.is_empty() {
        value["annotations"] = json!(metadata.annotations);
    }
    template["metadata"] = value;
    template
}

async fn create(world: &World, deployment: &Object, sets: &[Arc<Object>]) -> Result<Arc<Object>> {
    let hub = &world.hub;
    let hash = short_hash(&[&identity(deployment.at("/spec/template")).to_string()]);
    let name = format!(
        "{}-{}",
        deployment.name(),
        suffix(&[deployment.uid(), &hash, &world.serial()])
    );
    let metadata = template_metadata(deployment).with_labels(&[(TEMPLATE_HASH_LABEL, &hash)]);
    let mut spec = json!({
        "clusterName": deployment.cluster_name(),
        // It grows as the rollout allows.
        "replicas": 0,
        "selector": {"matchLabels": {
            CLUSTER_NAME_LABEL: deployment.cluster_name(),
            DEPLOYMENT_NAME_LABEL: metadata.labels.get(DEPLOYMENT_NAME_LABEL),
            TEMPLATE_HASH_LABEL: hash,
        }},
        "template": template_of_set(deployment, &hash),
    });
    for field in ["deletion", "machineNaming"] {
        if let Some(value) = deployment.at(&format!("/spec/{field}")) {
            spec[field] = value.clone();
        }
    }
    let owner = deployment.owner_reference(CORE_API, &MACHINE_DEPLOYMENT, true);
    let value = json!({
        "apiVersion": CORE_API, "kind": "MachineSet",
        "metadata": {
            "name": name, "namespace": deployment.namespace(), "labels": metadata.labels,
            "annotations": {REVISION: (sets.len() + 1).to_string()},
            "ownerReferences": [owner],
        },
        "spec": spec,
    });
    let name = Name::new(deployment.namespace(), &name);
    let manager = manager::MACHINE_DEPLOYMENT;
    let (set, _) = hub.apply(&MACHINE_SET, &name, value, manager).await?;
    Ok(set)
}

/// Carries labels, annotations and the fields that need no new machine over to the set.
async fn propagate(world: &World, deployment: &Object, set: &Arc<Object>) -> Result<Arc<Object>> {
    let hash = set.label(TEMPLATE_HASH_LABEL).unwrap_or_default();
    let template = template_of_set(deployment, hash);
    let mut wanted = json!({"template": template});
    // A merge patch keeps keys it does not name; those that the deployment dropped are named.
    for field in ["labels", "annotations"] {
        let pointer = format!("/spec/template/metadata/{field}");
        let held = set.at(&pointer).and_then(Value::as_object);
        for key in held.into_iter().flatten().map(|(key, _)| key) {
            if template["metadata"][field].get(key).is_none() {
                wanted["template"]["metadata"][field][key] = Value::Null;
            }
        }
    }
    if let Some(deletion) = deployment.at("/spec/deletion") {
        wanted["deletion"] = deletion.clone();
    }
    let held = set.at("/spec").cloned().unwrap_or_default();
    match difference(&held, &wanted) {
        None => Ok(Arc::clone(set)),
        Some(patch) => {
            let patch = json!({"spec": patch});
            let manager = manager::MACHINE_DEPLOYMENT;
            world
                .hub
                .merge(&MACHINE_SET, &set.key(), patch, manager)
                .await
        }
    }
}

/// One set, as the rollout sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    /// What it was told to have.
    wanted: i64,
    /// What it has.
    has: i64,
    /// Of these, how many are available.
    available: i64,
}

/// How far a rolling update may go at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slack {
    surge: i64,
    unavailable: i64,
}

/// The next sizes: of the new set, and of the old ones, oldest first.
fn rollout(wanted: i64, new: Tally, old: &[Tally], slack: Slack) -> (i64, Vec<i64>) {
    let old_wanted: i64 = old.iter().map(|set| set.wanted).sum();
    let all_has: i64 =
        new.has.max(new.wanted) + old.iter().map(|set| set.has.max(set.wanted)).sum::<i64>();
    let room = (wanted + slack.surge - all_has).max(0);
    let new_size = if new.wanted >= wanted || old_wanted == 0 {
        wanted
    } else {
        (new.wanted + room).min(wanted)
    };
    // Machines that are not available may go at any time; others only while enough are left.
    let available: i64 = new.available + old.iter().map(|set| set.available).sum::<i64>();
    let mut spare = (available - (wanted - slack.unavailable)).max(0);
    let sizes = old.iter().map(|set| {
        let healthy = set.available.min(set.wanted);
        let drop = healthy.min(spare);
        spare -= drop;
        healthy - drop
    });
    (new_size, sizes.collect())
}

/// Reads `1`, `"1"` or `"25%"` of `total`.
fn share(value: Option<&Value>, total: i64, default: i64, rounds_up: bool) -> i64 {
    match value {
        Some(Value::Number(number)) => number.as_i64().unwrap_or(default),
        Some(Value::String(text)) => match text.strip_suffix('%') {
            Some(percent) => {
                let part = percent.parse::<i64>().unwrap_or(0) * total;
                if rounds_up {
                    (part + 99) / 100
                } else {
                    part / 100
                }
            }
            None => text.parse().unwrap_or(default),
        },
        _ => default,
    }
}

fn slack(deployment: &Object, wanted: i64) -> Slack {
    let field = |name: &str| deployment.at(&format!("/spec/rollout/strategy/rollingUpdate/{name}"));
    let slack = Slack {
        surge: share(field("maxSurge"), wanted, 1, true),
        unavailable: share(field("maxUnavailable"), wanted, 0, false),
    };
    // With neither nothing could move.
    if slack.surge == 0 && slack.unavailable == 0 {
        return Slack {
            surge: 0,
            unavailable: 1,
        };
    }
    slack
}

async fn roll(world: &World, deployment: &Object, current: &Object) -> Result<()> {
    let hub = &world.hub;
    let wanted = replicas(deployment);
    let tally = |set: &Object| {
        let machines = hub.owned(&MACHINE, set.uid());
        let available = machines
            .iter()
            .filter(|it| it.is_true(AVAILABLE) && !it.is_deleting());
        Tally {
            wanted: replicas(set),
            has: i64::try_from(machines.len()).unwrap_or(i64::MAX),
            available: i64::try_from(available.count()).unwrap_or(i64::MAX),
        }
    };
    let mut old: Vec<_> = hub
        .owned(&MACHINE_SET, deployment.uid())
        .into_iter()
        .filter(|set| set.uid() != current.uid())
        .collect();
    old.sort_by_key(|set| (set.created(), set.name().to_owned()));
    let tallies: Vec<_> = old.iter().map(|set| tally(set)).collect();
    let is_on_delete = deployment.text("/spec/rollout/strategy/type") == Some("OnDelete");
    let (new_size, old_sizes) = if is_on_delete {
        // Old machines go when somebody deletes them; each makes room for a new one.
        let left: Vec<_> = tallies
            .iter()
            .map(|set| set.wanted.min(set.available))
            .collect();
        ((wanted - left.iter().sum::<i64>()).max(0), left)
    } else {
        rollout(wanted, tally(current), &tallies, slack(deployment, wanted))
    };
    resize(world, current, new_size).await?;
    for (set, size) in old.iter().zip(old_sizes) {
        resize(world, set, size).await?;
    }
    Ok(())
}

async fn resize(world: &World, set: &Object, size: i64) -> Result<()> {
    if replicas(set) == size || set.is_deleting() {
        return Ok(());
    }
    let patch = json!({"spec": {"replicas": size}});
    let manager = manager::MACHINE_DEPLOYMENT;
    world
        .hub
        .merge(&MACHINE_SET, &set.key(), patch, manager)
        .await?;
    Ok(())
}

async fn publish(world: &World, deployment: &Object, current: &Object) -> Result<()> {
    let hub = &world.hub;
    let machines: Vec<_> = hub
        .owned(&MACHINE_SET, deployment.uid())
        .iter()
        .flat_map(|set| hub.owned(&MACHINE, set.uid()))
        .collect();
    let wanted = replicas(deployment);
    let mut status = counts(&machines);
    status["upToDateReplicas"] = json!(hub.owned(&MACHINE, current.uid()).len());
    status["observedGeneration"] = json!(deployment.generation());
    status["selector"] = json!(format!(
        "{CLUSTER_NAME_LABEL}={},{DEPLOYMENT_NAME_LABEL}={}",
        deployment.cluster_name().unwrap_or_default(),
        deployment.name()
    ));
    let available = status["availableReplicas"].as_i64().unwrap_or(0);
    let has = status["replicas"].as_i64().unwrap_or(0);
    let up_to_date = status["upToDateReplicas"].as_i64().unwrap_or(0);
    status["phase"] = json!(if has < wanted || available < wanted {
        "ScalingUp"
    } else if has > wanted {
        "ScalingDown"
    } else {
        "Running"
    });
    let least = wanted - slack(deployment, wanted).unavailable;
    let mut conditions = Conditions::of(deployment, hub.now());
    let report = if available >= least {
        Report::yes("Available")
    } else {
        let text = format!("{available} available replicas, at least {least} required");
        Report::no("NotAvailable", text)
    };
    conditions.set(AVAILABLE, &report);
    let rolling = if up_to_date < has {
        let text = format!("Rolling out {} not up-to-date replicas", has - up_to_date);
        Report::new("True", "RollingOut", text)
    } else {
        Report::no("NotRollingOut", "")
    };
    conditions.set("RollingOut", &rolling);
    conditions.set(DELETING, &Report::no("NotDeleting", ""));
    status["conditions"] = conditions.into_value();
    let manager = manager::MACHINE_DEPLOYMENT;
    hub.merge_status(&MACHINE_DEPLOYMENT, deployment, &status, manager)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(wanted: i64, has: i64, available: i64) -> Tally {
        Tally {
            wanted,
            has,
            available,
        }
    }

    #[test]
    fn s_04_a_rollout_adds_one_and_takes_one_when_the_new_one_is_available() {
        let one = Slack {
            surge: 1,
            unavailable: 0,
        };
        for (new, old, sizes) in [
            // Nothing old: all at once.
            (tally(0, 0, 0), vec![], (3, vec![])),
            // Begin: one more than wanted.
            (tally(0, 0, 0), vec![tally(3, 3, 3)], (1, vec![3])),
            // The new one is not available yet: wait.
            (tally(1, 1, 0), vec![tally(3, 3, 3)], (1, vec![3])),
            // It is: one old may go.
            (tally(1, 1, 1), vec![tally(3, 3, 3)], (1, vec![2])),
            // While the old one is still going there is no room.
            (tally(1, 1, 1), vec![tally(2, 3, 2)], (1, vec![2])),
            (tally(1, 1, 1), vec![tally(2, 2, 2)], (2, vec![2])),
            (tally(3, 3, 3), vec![tally(1, 1, 1)], (3, vec![0])),
            // Unavailable old machines go first and at once.
            (tally(0, 0, 0), vec![tally(3, 3, 2)], (1, vec![2])),
        ] {
            assert_eq!(rollout(3, new, &old, one), sizes, "{new:?} {old:?}");
        }
    }

    #[test]
    fn s_04_max_unavailable_lets_old_machines_go_first() {
        let slack = Slack {
            surge: 0,
            unavailable: 1,
        };
        let begin = rollout(3, tally(0, 0, 0), &[tally(3, 3, 3)], slack);
        assert_eq!(begin, (0, vec![2]));
        let next = rollout(3, tally(0, 0, 0), &[tally(2, 2, 2)], slack);
        assert_eq!(next, (1, vec![2]));
    }

    #[test]
    fn shares_are_numbers_or_percents() {
        for (value, up, wanted) in [
            (json!(2), true, 2),
            (json!("2"), true, 2),
            (json!("25%"), true, 2),
            (json!("25%"), false, 1),
        ] {
            assert_eq!(share(Some(&value), 5, 9, up), wanted, "{value} {up}");
        }
        assert_eq!(share(None, 5, 9, true), 9);
    }

    #[test]
    fn s_04_only_version_references_and_domain_make_another_set() {
        let template = |version: &str, infra: &str, label: &str| {
            json!({
                "metadata": {"labels": {"a": label}},
                "spec": {"version": version, "infrastructureRef": {"kind": "T", "name": infra}},
            })
        };
        let base = template("v1", "i", "x");
        assert_eq!(
            identity(Some(&base)),
            identity(Some(&template("v1", "i", "y")))
        );
        assert_ne!(
            identity(Some(&base)),
            identity(Some(&template("v2", "i", "x")))
        );
        assert_ne!(
            identity(Some(&base)),
            identity(Some(&template("v1", "j", "x")))
        );
    }
}
