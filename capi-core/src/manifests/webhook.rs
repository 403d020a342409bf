//! The webhooks' Service, certificate and registration.

use serde_json::{Value, json};

use super::Package;
use crate::serve::Reviewed;

fn service_name(package: &Package) -> String {
    package.namespaced("webhook-service")
}

fn certificate_name(package: &Package) -> String {
    package.namespaced("serving-cert")
}

/// The Secret that cert-manager fills and the pod mounts.
pub(super) fn certificate_secret(package: &Package) -> String {
    package.namespaced("webhook-service-cert")
}

pub(super) fn service(package: &Package) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service_name(package), "namespace": package.namespace},
        "spec": {
            "ports": [{"port": 443, "targetPort": "webhook-server"}],
            "selector": {"cluster.x-k8s.io/provider": package.label()},
        },
    })
}

/// An issuer that signs its own, and the certificate for the Service (CTL-05).
pub(super) fn certificates(package: &Package) -> [Value; 2] {
    let host = format!("{}.{}.svc", service_name(package), package.namespace);
    let issuer = package.namespaced("selfsigned-issuer");
    [
        json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Issuer",
            "metadata": {"name": issuer, "namespace": package.namespace},
            "spec": {"selfSigned": {}},
        }),
        json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
            "metadata": {"name": certificate_name(package), "namespace": package.namespace},
            "spec": {
                "dnsNames": [host.clone(), format!("{host}.cluster.local")],
                "issuerRef": {"kind": "Issuer", "name": issuer},
                "secretName": certificate_secret(package),
            },
        }),
    ]
}

/// The registration, to which cert-manager adds the authority (WH-01, CTL-05).
pub(super) fn configuration(package: &Package, reviewed: &[Reviewed]) -> Value {
    let webhooks: Vec<_> = reviewed.iter().map(|one| webhook(package, one)).collect();
    let authority = format!("{}/{}", package.namespace, certificate_name(package));
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {
            "annotations": {"cert-manager.io/inject-ca-from": authority},
            "name": package.cluster_wide("validating-webhook-configuration"),
        },
        "webhooks": webhooks,
    })
}

fn webhook(package: &Package, reviewed: &Reviewed) -> Value {
    let name = reviewed.kind.to_ascii_lowercase();
    json!({
        "name": format!("validation.{name}.{}", reviewed.group),
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {
            "name": service_name(package),
            "namespace": package.namespace,
            "path": reviewed.path(),
        }},
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "rules": [{
            "apiGroups": [reviewed.group],
            "apiVersions": [reviewed.version],
            "operations": ["CREATE", "UPDATE"],
            "resources": [reviewed.plural],
        }],
        "sideEffects": "None",
    })
}
