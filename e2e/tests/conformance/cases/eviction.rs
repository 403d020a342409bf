//! Evictions, and the disruption budgets that may refuse them.

use serde_json::{Value, json};

use crate::case::{Case, MERGE, Step, case, get, patch, post};

const PODS: &str = "/api/v1/namespaces/{ns}/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets";

fn eviction(pod: &str, more: &Value) -> Value {
    let mut body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": "{ns}"}});
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    body
}

fn evict(pod: &str) -> Step {
    post(&format!("{PODS}/{pod}/eviction"), eviction(pod, &json!({})))
}

/// A pod that runs, as far as its status goes: nothing schedules it.
fn running(name: &str) -> [Step; 2] {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"serviceAccountName": "own", "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i"}]}});
    let status = json!({"status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    [
        post(PODS, pod).only_code(),
        patch(MERGE, &format!("{PODS}/{name}/status"), status).only_code(),
    ]
}

fn pods<const N: usize>(names: [&str; N]) -> Vec<Step> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "own"}});
    let account = post("/api/v1/namespaces/{ns}/serviceaccounts", account).only_code();
    let pods = names.into_iter().flat_map(running);
    [account].into_iter().chain(pods).collect()
}

fn budget(name: &str) -> Step {
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    post(BUDGETS, budget).only_code()
}

/// What a controller would write: so many disruptions are allowed.
fn allows(name: &str, disruptions: i32) -> Step {
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": disruptions,
        "currentHealthy": 1 + disruptions, "desiredHealthy": 1, "expectedPods": 2}});
    patch(MERGE, &format!("{BUDGETS}/{name}/status"), status).only_code()
}

pub(crate) fn cases() -> Vec<Case> {
    let missing = |pod: &str| get(&format!("{PODS}/{pod}")).until(|status, _| status == 404);
    let with = |before: Vec<Step>, steps: Vec<Step>| before.into_iter().chain(steps);
    vec![
        case(
            "eviction",
            with(
                pods(["a", "b"]),
                vec![
                    evict("a"),
                    missing("a"),
                    evict("none"),
                    post(&format!("{PODS}/b/eviction"), eviction("a", &json!({}))),
                    post(
                        &format!("{PODS}/b/eviction"),
                        eviction(
                            "b",
                            &json!({"deleteOptions": {"preconditions": {"uid": "other"}}}),
                        ),
                    ),
                    post(
                        &format!("{PODS}/b/eviction"),
                        eviction("b", &json!({"deleteOptions": {"dryRun": ["All"]}})),
                    ),
                    get(&format!("{PODS}/b")).only_code(),
                ],
            ),
        ),
        case(
            "eviction-within-a-budget",
            with(
                pods(["a", "b"]),
                vec![
                    budget("one"),
                    evict("a"),
                    allows("one", 0),
                    evict("a"),
                    post(
                        &format!("{PODS}/a/eviction?dryRun=All"),
                        eviction("a", &json!({})),
                    ),
                    allows("one", 1),
                    post(
                        &format!("{PODS}/a/eviction?dryRun=All"),
                        eviction("a", &json!({})),
                    ),
                    get(&format!("{PODS}/a")).only_code(),
                    evict("a"),
                    missing("a"),
                    evict("b"),
                ],
            ),
        ),
        case(
            "eviction-within-two-budgets",
            with(
                pods(["a"]),
                vec![
                    budget("one"),
                    budget("two"),
                    allows("one", 1),
                    allows("two", 1),
                    evict("a"),
                ],
            ),
        ),
    ]
}
