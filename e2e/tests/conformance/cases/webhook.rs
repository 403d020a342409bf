//! Admission webhooks: whether they are called, and what their verdicts become.

use serde_json::{Value, json};

use super::{CONFIG_MAPS, WIDGETS, at, config_map, widget};
use crate::case::{APPLY, Case, MERGE, Step, case, delete, patch, post};

const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// A configuration of one webhook for the widgets of the case's namespace.
fn configuration(kind: &str, url: &str) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
    "metadata": {"name": "{ns}"},
    "webhooks": [{
        "name": "judge.example.com",
        "clientConfig": {"url": url, "caBundle": "{authority}"},
        "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": ["example.com"],
            "apiVersions": ["v1"], "resources": ["widgets"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "{ns}"}},
        "sideEffects": "None", "timeoutSeconds": 5,
        "admissionReviewVersions": ["v1"],
    }]})
}

/// A configuration is called some moments after it was written.
fn dry(size: i64) -> Step {
    post(
        &format!("{WIDGETS}?dryRun=All"),
        widget("a", json!({"size": size})),
    )
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "webhook-validates",
            [
                post(
                    VALIDATING,
                    configuration("ValidatingWebhookConfiguration", "{webhook}/validate"),
                ),
                dry(13).until(|status, _| status != 201),
                dry(14),
                dry(15),
                dry(16),
                post(
                    WIDGETS,
                    json!({"apiVersion": "example.com/v1", "kind": "Widget",
                        "metadata": {"name": "a", "labels": {"keep": "it"}}, "spec": {"size": 2}}),
                ),
                patch(MERGE, &at("a"), json!({"spec": {"size": 13}})),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one&force=true", at("a")),
                    widget("a", json!({"size": 13})),
                ),
                patch(MERGE, &at("a"), json!({"spec": {"size": 1000}})),
                delete(&at("a")),
                delete(WIDGETS),
                post(CONFIG_MAPS, config_map("a", json!({}))),
                delete(&format!("{VALIDATING}/{{ns}}")),
            ],
        ),
        case(
            "webhook-mutates",
            [
                post(
                    MUTATING,
                    configuration("MutatingWebhookConfiguration", "{webhook}/mutate"),
                ),
                dry(2).until(|_, body| body.contains("blue")),
                post(WIDGETS, widget("a", json!({"size": 2, "colour": "green"}))),
                patch(
                    MERGE,
                    &at("a"),
                    json!({"spec": {"size": 3, "colour": "red"}}),
                ),
                patch(
                    APPLY,
                    &format!("{}?fieldManager=one&force=true", at("a")),
                    widget("a", json!({"colour": "green"})),
                ),
                // The rule of the schema holds for what the webhook made.
                patch(MERGE, &at("a"), json!({"spec": {"size": 20}})),
                delete(&format!("{MUTATING}/{{ns}}")),
            ],
        ),
        case(
            "webhook-out-of-reach",
            [
                post(
                    VALIDATING,
                    configuration("ValidatingWebhookConfiguration", "https://127.0.0.1:1/none"),
                ),
                dry(2).until(|status, _| status != 201),
                delete(&format!("{VALIDATING}/{{ns}}")),
            ],
        ),
        case(
            "webhook-configuration-refused",
            [post(
                VALIDATING,
                json!({"apiVersion": "admissionregistration.k8s.io/v1",
                    "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "refused"},
                    "webhooks": [{"name": "short", "clientConfig": {"url": "http://127.0.0.1"},
                        "admissionReviewVersions": ["v1"], "sideEffects": "None"}]}),
            )],
        ),
    ]
}
