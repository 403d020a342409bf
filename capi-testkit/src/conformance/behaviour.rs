//! What a running provider does, rule by rule.

use std::future::Future;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::conformance::story::{Infra, Stop, Story, Told, condition};
use crate::conformance::{Report, Verdict};
use crate::faults::Faults;
use crate::sweep::{Backend, Interference, ProviderWorld, World};

const PAUSED: &str = "cluster.x-k8s.io/paused";
const MANAGED_BY: &str = "cluster.x-k8s.io/managed-by";

/// Examines a provider in worlds that `make` makes, one for each story.
///
/// Must not be called inside a tokio runtime, since each story has its own, with a paused clock.
pub fn behaviour<F, M, B>(make: F) -> Report
where
    F: Fn() -> M,
    M: Future<Output = ProviderWorld<B>>,
    B: Backend,
{
    let mut report = Report::default();
    for (rules, case, tell) in lives::<B>().into_iter().chain(gates()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without IO needs nothing of the system");
        let told = runtime.block_on(async {
            let world = make().await;
            let provider = tokio::spawn(world.start(Faults::none()));
            let surroundings = tokio::spawn(world.surroundings());
            let told = tell(&Story { world }).await;
            provider.abort();
            surroundings.abort();
            told
        });
        let verdict = match told {
            Ok(()) => Verdict::Kept,
            Err(Stop::Broken(why)) => Verdict::Broken(why),
            Err(Stop::Skipped(why)) => Verdict::Skipped(why),
        };
        report.add(rules, case, verdict);
    }
    report
}

type Tell<B> = for<'a> fn(&'a Story<B>) -> BoxFuture<'a, Told>;

/// Rules, what is examined, and the story.
type Entry<B> = (&'static str, &'static str, Tell<B>);

/// Stories of machines that are built.
fn lives<B: Backend>() -> Vec<Entry<B>> {
    vec![
        (
            "IM-05 IC-08",
            "machine and cluster are provisioned, then go",
            |story| Box::pin(life(story)),
        ),
        (
            "CO-01 CO-03",
            "conditions have the shape that core reads",
            |story| Box::pin(shape(story)),
        ),
        (
            "PA-03 CO-04",
            "Ready and Paused are always there",
            |story| Box::pin(always(story)),
        ),
        ("CO-07", "nothing is written once all is settled", |story| {
            Box::pin(settles(story))
        }),
        ("WR-01", "what others wrote stays", |story| {
            Box::pin(foreign(story))
        }),
        ("PA-02", "a paused machine is not unmade", |story| {
            Box::pin(paused_deletion(story))
        }),
        (
            "IM-16",
            "a lost machine is reported and not made again",
            |story| Box::pin(lost(story)),
        ),
        (
            "IM-20",
            "a machine goes without Cluster and Machine",
            |story| Box::pin(bare_deletion(story)),
        ),
        (
            "IM-22",
            "hooks of the Machine do not hold its infra machine",
            |story| Box::pin(hooked_deletion(story)),
        ),
    ]
}

/// Stories of what must not be touched yet, or at all.
fn gates<B: Backend>() -> Vec<Entry<B>> {
    vec![
        (
            "IC-11",
            "an infra cluster without owner is left alone",
            |story| Box::pin(orphan_cluster(story)),
        ),
        (
            "IM-12 IM-19",
            "an infra machine that a MachineSet owns is left alone",
            |story| Box::pin(unadopted(story)),
        ),
        (
            "IM-11",
            "the machine waits for the cluster's infrastructure",
            |story| Box::pin(waits_for_cluster(story)),
        ),
        ("IM-11", "the machine waits for bootstrap data", |story| {
            Box::pin(waits_for_data(story))
        }),
        (
            "PA-01 PA-02",
            "a paused machine is not made, whatever the annotation says",
            |story| Box::pin(paused_object(story)),
        ),
        (
            "PA-01 PA-02",
            "a machine of a paused cluster is not made",
            |story| Box::pin(paused_cluster(story)),
        ),
        (
            "EX-01",
            "an externally managed infra cluster is left alone",
            |story| Box::pin(external(story)),
        ),
    ]
}

fn untouched(_: &mut Value) {}

fn is(object: &Value, suffix: &str) -> bool {
    let infra = object["apiVersion"]
        .as_str()
        .is_some_and(|version| version.starts_with("infrastructure."));
    infra
        && object["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with(suffix))
}

async fn life<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    story.delete().await?;
    story.gone().await
}

async fn shape<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    for infra in [Infra::Cluster, Infra::Machine] {
        let seen = story.seen(infra).unwrap_or_default();
        if !seen["status"]["v1beta2"].is_null() {
            return Err(Stop::Broken("status.v1beta2 is there".to_owned()));
        }
        let conditions = seen["status"]["conditions"].as_array();
        for condition in conditions.into_iter().flatten() {
            if let Some(wrong) = malformed(condition) {
                return Err(Stop::Broken(format!("{wrong} in {condition}")));
            }
        }
    }
    Ok(())
}

/// What is wrong with a condition, by metav1's rules.
fn malformed(condition: &Value) -> Option<&'static str> {
    let text = |key: &str| condition[key].as_str().unwrap_or_default();
    let reason = text("reason");
    let camel = reason
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && reason.starts_with(|letter: char| letter.is_ascii_alphabetic());
    let time = text("lastTransitionTime");
    if text("type").is_empty() {
        Some("no type")
    } else if !matches!(text("status"), "True" | "False" | "Unknown") {
        Some("an unknown status")
    } else if !camel || reason.len() > 1024 {
        Some("a reason that is not CamelCase")
    } else if !condition["message"].is_string() {
        Some("no message")
    } else if time.contains('.') || time.parse::<jiff::Timestamp>().is_err() {
        Some("a time that is not in whole seconds")
    } else {
        None
    }
}

async fn always<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    for infra in [Infra::Cluster, Infra::Machine] {
        story.condition(infra, "Ready", "True", "").await?;
        story
            .condition(infra, "Paused", "False", "NotPaused")
            .await?;
    }
    Ok(())
}

async fn settles<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    // Waits reach status up to 2 s late.
    story.quiet().await;
    for infra in [Infra::Cluster, Infra::Machine] {
        let before = story.seen(infra).unwrap_or_default();
        story.quiet().await;
        story.unwritten(infra, &before)?;
    }
    Ok(())
}

async fn foreign<B: Backend>(story: &Story<B>) -> Told {
    let theirs = "example.com/theirs";
    story
        .create(|object| {
            if is(object, "Machine") {
                object["metadata"]["annotations"][theirs] = json!("yes");
                object["metadata"]["labels"][theirs] = json!("yes");
                object["metadata"]["finalizers"] = json!([theirs]);
            }
        })
        .await?;
    story.built().await?;
    let seen = story.seen(Infra::Machine).unwrap_or_default();
    let metadata = &seen["metadata"];
    let finalizers = metadata["finalizers"].as_array();
    let kept = metadata["labels"][theirs] == "yes"
        && metadata["annotations"][theirs] == "yes"
        && finalizers.is_some_and(|all| all.contains(&json!(theirs)));
    if kept {
        return Ok(());
    }
    let what = format!("labels, annotations or finalizers of others went: {metadata}");
    Err(Stop::Broken(what))
}

async fn orphan_cluster<B: Backend>(story: &Story<B>) -> Told {
    story
        .create(|object| {
            if is(object, "Cluster") {
                object["metadata"]["ownerReferences"] = json!([]);
            }
        })
        .await?;
    left_alone(story, Infra::Cluster).await
}

async fn unadopted<B: Backend>(story: &Story<B>) -> Told {
    story
        .create(|object| {
            if is(object, "Machine") {
                object["metadata"]["ownerReferences"] = json!([{
                    "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineSet",
                    "name": "sweep", "uid": "5a1d0c9e-2b7f-4e57-9f5a-0d6a3e6b7c11",
                }]);
            }
        })
        .await?;
    left_alone(story, Infra::Machine).await?;
    story.without_things()
}

/// Nobody but its creator has written the object: one version, no status, no finalizer.
async fn left_alone<B: Backend>(story: &Story<B>, infra: Infra) -> Told {
    let before = story.seen(infra).unwrap_or_default();
    story.quiet().await;
    story.unwritten(infra, &before)?;
    let finalizers = before["metadata"]["finalizers"]
        .as_array()
        .is_none_or(Vec::is_empty);
    if before["status"].is_null() && finalizers {
        return Ok(());
    }
    Err(Stop::Broken(format!("was written: {before}")))
}

async fn waits_for_cluster<B: Backend>(story: &Story<B>) -> Told {
    story
        .create(|object| {
            if object["kind"] == "Cluster" && !is(object, "Cluster") {
                object["status"] = json!({"initialization": {"controlPlaneInitialized": true}});
            }
        })
        .await?;
    let reason = "WaitingForClusterInfrastructureReady";
    story
        .condition(Infra::Machine, "Ready", "False", reason)
        .await?;
    story.quiet().await;
    story.without_things()?;
    let open = json!({"status": {"initialization": {"infrastructureProvisioned": true}}});
    story.patch_core("Cluster", open, true).await?;
    story.built().await
}

async fn waits_for_data<B: Backend>(story: &Story<B>) -> Told {
    story
        .create(|object| {
            if object["kind"] == "Machine" && !is(object, "Machine") {
                // One of both has to be there; the reference is not looked at by providers.
                object["spec"]["bootstrap"] = json!({"configRef": {
                    "apiGroup": "bootstrap.cluster.x-k8s.io", "kind": "KubeadmConfig", "name": "sweep",
                }});
            }
        })
        .await?;
    story
        .condition(Infra::Machine, "Ready", "False", "WaitingForBootstrapData")
        .await?;
    story.quiet().await;
    story.without_things()?;
    let data = json!({"spec": {"bootstrap": {"dataSecretName": "sweep-bootstrap"}}});
    story.patch_core("Machine", data, false).await?;
    story.built().await
}

async fn paused_object<B: Backend>(story: &Story<B>) -> Told {
    story
        .create(|object| {
            if is(object, "Machine") {
                object["metadata"]["annotations"][PAUSED] = json!("false");
            }
        })
        .await?;
    story
        .condition(Infra::Machine, "Paused", "True", "Paused")
        .await?;
    story.quiet().await;
    story.without_things()?;
    let go = json!({"metadata": {"annotations": {PAUSED: null}}});
    story.patch(Infra::Machine, go, false).await?;
    story.built().await
}

async fn paused_cluster<B: Backend>(story: &Story<B>) -> Told {
    story
        .create(|object| {
            if object["kind"] == "Cluster" && !is(object, "Cluster") {
                object["spec"]["paused"] = json!(true);
            }
        })
        .await?;
    story
        .condition(Infra::Machine, "Paused", "True", "Paused")
        .await?;
    story.quiet().await;
    story.without_things()?;
    story
        .patch_core("Cluster", json!({"spec": {"paused": false}}), false)
        .await?;
    story.built().await
}

async fn paused_deletion<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    let things = story.world.things();
    let pause = json!({"metadata": {"annotations": {PAUSED: ""}}});
    story.patch(Infra::Machine, pause, false).await?;
    story
        .condition(Infra::Machine, "Paused", "True", "Paused")
        .await?;
    story.delete().await?;
    story.quiet().await;
    if story.seen(Infra::Machine).is_none() || story.world.things() != things {
        return Err(Stop::Broken("was unmade while paused".to_owned()));
    }
    let go = json!({"metadata": {"annotations": {PAUSED: null}}});
    story.patch(Infra::Machine, go, false).await?;
    story.gone().await
}

async fn lost<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    story.interfere(Interference::Removal)?;
    let left = story.world.things().len();
    story
        .condition(Infra::Machine, "Ready", "False", "")
        .await?;
    story.quiet().await;
    let seen = story.seen(Infra::Machine).unwrap_or_default();
    if story.world.things().len() > left {
        return Err(Stop::Broken("was made again".to_owned()));
    }
    if seen["status"]["initialization"]["provisioned"] != true {
        return Err(Stop::Broken("provisioned went back".to_owned()));
    }
    story.delete().await?;
    story.gone().await
}

async fn bare_deletion<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    story.remove_core("Machine").await?;
    story.remove_core("Cluster").await?;
    story.delete().await?;
    story.gone().await
}

async fn hooked_deletion<B: Backend>(story: &Story<B>) -> Told {
    story.create(untouched).await?;
    story.built().await?;
    let hook = "pre-terminate.delete.hook.machine.cluster.x-k8s.io/test";
    let hooked = json!({"metadata": {"annotations": {hook: ""}}});
    story.patch_core("Machine", hooked, false).await?;
    story.delete().await?;
    story.gone().await
}

async fn external<B: Backend>(story: &Story<B>) -> Told {
    story
        .create(|object| {
            if is(object, "Cluster") {
                object["metadata"]["annotations"][MANAGED_BY] = json!("somebody");
            }
        })
        .await?;
    left_alone(story, Infra::Cluster).await?;
    let conditions = condition(story.seen(Infra::Cluster).as_ref(), "Paused");
    if conditions.is_null() {
        return Ok(());
    }
    Err(Stop::Broken("has a condition Paused".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_conditions_are_seen() {
        let good = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        assert_eq!(malformed(&good), None);
        for (key, value) in [
            ("type", json!("")),
            ("status", json!("true")),
            ("reason", json!("")),
            ("reason", json!("not camel")),
            ("message", Value::Null),
            ("lastTransitionTime", json!("2026-01-01T00:00:00.5Z")),
            ("lastTransitionTime", Value::Null),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(malformed(&bad).is_some(), "{bad}");
        }
    }
}
