//! Release manifests, rewritten for programs that run outside a cluster. Pure.
//!
//! Deployments, Services and cert-manager's objects go; webhooks and conversion are reached by an
//! address on loopback instead of a Service. It must be done before the first apply: another field
//! manager cannot replace `service` by `url` later.

use serde_json::{Value, json};

/// Where a manager's webhooks answer, and who signed their certificate.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// The authority's certificate, as PEM.
    pub authority: String,
}

/// Kinds that only make sense for programs inside the cluster.
const INSIDE: [&str; 4] = ["Deployment", "Service", "Certificate", "Issuer"];
/// The annotation by which cert-manager fills in the authority's certificate.
const INJECT: &str = "cert-manager.io/inject-ca-from";

/// Rewrites one object; `None` if it goes.
#[must_use]
pub fn rewrite(mut object: Value, webhooks: &Webhooks) -> Option<Value> {
    let kind = object["kind"].as_str()?.to_owned();
    if INSIDE.contains(&kind.as_str()) {
        return None;
    }
    if let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(INJECT);
    }
    if kind == "CustomResourceDefinition" {
        let at = "/spec/conversion/webhook/clientConfig";
        if let Some(config) = object.pointer_mut(at) {
            redirect(config, webhooks);
        }
    }
    for hook in object
        .get_mut("webhooks")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        redirect(&mut hook["clientConfig"], webhooks);
    }
    Some(object)
}

fn redirect(config: &mut Value, webhooks: &Webhooks) {
    let path = config
        .pointer("/service/path")
        .and_then(Value::as_str)
        .unwrap_or("/");
    let bytes = k8s_openapi::ByteString(webhooks.authority.as_bytes().to_vec());
    *config = json!({
        "url": format!("https://127.0.0.1:{}{path}", webhooks.port),
        "caBundle": bytes,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhooks() -> Webhooks {
        Webhooks {
            port: 26_010,
            authority: "PEM".to_owned(),
        }
    }

    #[test]
    fn what_runs_inside_a_cluster_goes() {
        for kind in INSIDE {
            assert_eq!(rewrite(json!({"kind": kind}), &webhooks()), None, "{kind}");
        }
        let role = json!({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": []});
        assert_eq!(rewrite(role.clone(), &webhooks()), Some(role));
    }

    #[test]
    fn webhooks_and_conversion_are_reached_on_loopback() {
        let service =
            |path: &str| json!({"service": {"name": "s", "namespace": "n", "path": path}});
        let hooks = json!({"kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "v", "annotations": {INJECT: "n/c", "kept": "yes"}},
            "webhooks": [{"name": "a", "clientConfig": service("/validate-x")}]});
        let rewritten = rewrite(hooks, &webhooks()).expect("it stays");
        let config = &rewritten["webhooks"][0]["clientConfig"];
        assert_eq!(
            *config,
            json!({"url": "https://127.0.0.1:26010/validate-x", "caBundle": "UEVN"})
        );
        assert_eq!(rewritten["metadata"]["annotations"], json!({"kept": "yes"}));

        let definition = json!({"kind": "CustomResourceDefinition", "spec": {"conversion": {
            "strategy": "Webhook",
            "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": service("/convert")}}}});
        let rewritten = rewrite(definition, &webhooks()).expect("it stays");
        let url = rewritten.pointer("/spec/conversion/webhook/clientConfig/url");
        assert_eq!(url, Some(&json!("https://127.0.0.1:26010/convert")));
    }
}
