//! The API server, through `kube::Client` and through raw requests.

mod admission;
mod lifecycle;
mod ownership;
mod raw;
mod refusals;
mod rights;
mod secure;
mod watching;

use capi_testkit::apiserver::ApiServer;
use serde_json::{Value, json};

/// A server with a namespaced kind `Widget` and a cluster-scoped kind `Gadget`.
pub(crate) fn server() -> ApiServer {
    let server = ApiServer::builder().seed(1).build();
    server
        .install_crds([widgets(), gadgets()])
        .expect("the definitions are valid");
    server
}

fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.io"},
        "spec": {
            "group": "test.io",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
                "selectableFields": [{"jsonPath": ".spec.colour"}],
                "additionalPrinterColumns": [
                    {"name": "Colour", "type": "string", "jsonPath": ".spec.colour"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "spec": {
                            "type": "object",
                            "x-kubernetes-validations": [{
                                "rule": "self.colour == oldSelf.colour",
                                "message": "colour is immutable",
                            }],
                            "properties": {
                                "colour": {"type": "string", "default": "red"},
                                "replicas": {"type": "integer", "minimum": 0},
                                "parts": {
                                    "type": "array",
                                    "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["name"],
                                    "items": {
                                        "type": "object",
                                        "required": ["name"],
                                        "properties": {
                                            "name": {"type": "string"},
                                            "size": {"type": "integer"},
                                        },
                                    },
                                },
                            },
                        },
                        "status": {
                            "type": "object",
                            "properties": {
                                "phase": {"type": "string"},
                                "replicas": {"type": "integer"},
                                "selector": {"type": "string"},
                            },
                        },
                    },
                }},
            }],
        },
    })
}

fn gadgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.test.io"},
        "spec": {
            "group": "test.io",
            "scope": "Cluster",
            "names": {"plural": "gadgets", "kind": "Gadget"},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    }},
                }},
            }],
        },
    })
}

/// A `Widget` as a client sends it.
pub(crate) fn widget(name: &str) -> Value {
    json!({
        "apiVersion": "test.io/v1",
        "kind": "Widget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {},
    })
}
