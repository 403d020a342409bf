//! The Deployment of the program.

use serde_json::{Value, json};

use super::{Choices, Package};

/// Where the certificate of the webhooks is mounted.
const CERTIFICATE_DIR: &str = "/var/run/secrets/webhook-certificate";

/// A user that owns nothing, as in distroless images.
const NOBODY: u32 = 65_532;

/// Seconds between SIGTERM and SIGKILL; passes under way get 25 s of them.
const GRACE_SECONDS: u32 = 30;

pub(super) fn deployment(package: &Package, choices: &Choices, with_webhooks: bool) -> Value {
    let labels = json!({
        "cluster.x-k8s.io/provider": package.label(),
        "control-plane": format!("{}-controller-manager", package.prefix),
    });
    let account = package.namespaced("manager");
    let mut pod = json!({
        "containers": [container(package, choices, with_webhooks)],
        "securityContext": {
            "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "tolerations": [
            {"effect": "NoSchedule", "key": "node-role.kubernetes.io/control-plane"},
        ],
    });
    if with_webhooks {
        pod["volumes"] = json!([{
            "name": "webhook-certificate",
            "secret": {"secretName": super::webhook::certificate_secret(package)},
        }]);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": package.namespaced("controller-manager"),
            "namespace": package.namespace,
            "labels": labels,
        },
        "spec": {
            "replicas": choices.replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {
                    "annotations": {"kubectl.kubernetes.io/default-container": "manager"},
                    "labels": labels,
                },
                "spec": pod,
            },
        },
    })
}

fn container(package: &Package, choices: &Choices, with_webhooks: bool) -> Value {
    let image = choices
        .image
        .clone()
        .unwrap_or_else(|| format!("{}:{}", package.image, choices.release));
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "healthz"}});
    let mut ports = vec![
        json!({"containerPort": 9440, "name": "healthz", "protocol": "TCP"}),
        json!({"containerPort": 8443, "name": "metrics", "protocol": "TCP"}),
    ];
    let mut container = json!({
        "name": "manager",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [package.binary],
        "args": arguments(choices, with_webhooks),
        "livenessProbe": probe("/healthz"),
        "readinessProbe": probe("/readyz"),
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": NOBODY,
            "runAsUser": NOBODY,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if with_webhooks {
        ports.push(json!({"containerPort": 9443, "name": "webhook-server", "protocol": "TCP"}));
        container["volumeMounts"] = json!([
            {"mountPath": CERTIFICATE_DIR, "name": "webhook-certificate", "readOnly": true},
        ]);
    }
    container["ports"] = json!(ports);
    if let Some(environment) = package.environment {
        let variables = environment.variables.iter().map(|(variable, key)| {
            let from = json!({"key": key, "name": environment.secret, "optional": true});
            json!({"name": variable, "valueFrom": {"secretKeyRef": from}})
        });
        container["env"] = json!(variables.collect::<Vec<_>>());
    }
    container
}

fn arguments(choices: &Choices, with_webhooks: bool) -> Vec<String> {
    let mut all = vec!["run".to_owned(), "--leader-elect".to_owned()];
    for namespace in &choices.namespaces {
        all.push(format!("--namespace={namespace}"));
    }
    if let Some(filter) = &choices.watch_filter {
        all.push(format!("--watch-filter={filter}"));
    }
    if choices.namespaces.is_empty() {
        all.push("--diagnostics-address=:8443".to_owned());
    } else {
        // Who scrapes is asked of the cluster as a whole, which rights in namespaces do not allow: only
        // the pod itself is answered.
        all.push("--diagnostics-address=localhost:8443".to_owned());
        all.push("--insecure-diagnostics".to_owned());
    }
    if with_webhooks {
        all.push(format!("--webhook-cert-dir={CERTIFICATE_DIR}"));
    }
    all
}
