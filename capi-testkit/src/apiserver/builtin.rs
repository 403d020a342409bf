//! The resources that are compiled into a real kube-apiserver, as far as providers, Cluster API and
//! the manifests people apply need them. Others are answered 404, as by a server built without them.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, batch::v1 as batch,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    events::v1 as events, networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::kinds::{Origin, Resource, Scale, api_version, qualified};
use crate::schema::Schema;

/// Depth to which references between schemas are followed; the deepest kind here, a pod template,
/// needs 12. `CustomResourceDefinition` alone refers to itself, and is checked by its own module.
const SCHEMA_DEPTH_MAX: usize = 24;

/// What is special about a built-in resource.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) status: bool,
    pub(crate) scale: bool,
    pub(crate) generation: bool,
    pub(crate) unconditional_update: bool,
    pub(crate) create_on_update: bool,
    /// Whether a delete answers with the object instead of a `Status`.
    pub(crate) returns_deleted: bool,
    pub(crate) selectable: &'static [&'static str],
    open_api: fn() -> Value,
}

const PLAIN: Builtin = Builtin {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
    unconditional_update: true,
    create_on_update: false,
    returns_deleted: false,
    selectable: &[],
    open_api: || Value::Null,
};

const WORKLOAD: Builtin = Builtin {
    group: "apps",
    status: true,
    generation: true,
    categories: &["all"],
    ..PLAIN
};

const CLUSTER: Builtin = Builtin {
    namespaced: false,
    ..PLAIN
};

const EVENT: Builtin = Builtin {
    kind: "Event",
    plural: "events",
    short_names: &["ev"],
    create_on_update: true,
    selectable: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    open_api: open_api::<core::Event>,
    ..PLAIN
};

const RBAC: Builtin = Builtin {
    group: "rbac.authorization.k8s.io",
    create_on_update: true,
    ..PLAIN
};

const WEBHOOKS: Builtin = Builtin {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    generation: true,
    categories: &["api-extensions"],
    ..PLAIN
};

static BUILTINS: &[Builtin] = &[
    Builtin {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        status: true,
        selectable: &["status.phase"],
        open_api: open_api::<core::Namespace>,
        ..CLUSTER
    },
    Builtin {
        kind: "Secret",
        plural: "secrets",
        selectable: &["type"],
        open_api: open_api::<core::Secret>,
        ..PLAIN
    },
    Builtin {
        kind: "ConfigMap",
        plural: "configmaps",
        short_names: &["cm"],
        open_api: open_api::<core::ConfigMap>,
        ..PLAIN
    },
    EVENT,
    Builtin {
        group: "events.k8s.io",
        open_api: open_api::<events::Event>,
        ..EVENT
    },
    Builtin {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short_names: &["sa"],
        returns_deleted: true,
        open_api: open_api::<core::ServiceAccount>,
        ..PLAIN
    },
    Builtin {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
        returns_deleted: true,
        selectable: &["spec.clusterIP", "spec.type"],
        open_api: open_api::<core::Service>,
        ..PLAIN
    },
    Builtin {
        kind: "Endpoints",
        plural: "endpoints",
        short_names: &["ep"],
        open_api: open_api::<core::Endpoints>,
        ..PLAIN
    },
    Builtin {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        generation: true,
        returns_deleted: true,
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        open_api: open_api::<core::Pod>,
        ..PLAIN
    },
    Builtin {
        kind: "Node",
        plural: "nodes",
        short_names: &["no"],
        status: true,
        selectable: &["spec.unschedulable"],
        open_api: open_api::<core::Node>,
        ..CLUSTER
    },
    Builtin {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        short_names: &["pv"],
        status: true,
        returns_deleted: true,
        open_api: open_api::<core::PersistentVolume>,
        ..CLUSTER
    },
    Builtin {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        short_names: &["pvc"],
        status: true,
        returns_deleted: true,
        open_api: open_api::<core::PersistentVolumeClaim>,
        ..PLAIN
    },
    Builtin {
        kind: "Deployment",
        plural: "deployments",
        short_names: &["deploy"],
        scale: true,
        open_api: open_api::<apps::Deployment>,
        ..WORKLOAD
    },
    Builtin {
        kind: "ReplicaSet",
        plural: "replicasets",
        short_names: &["rs"],
        scale: true,
        selectable: &["status.replicas"],
        open_api: open_api::<apps::ReplicaSet>,
        ..WORKLOAD
    },
    Builtin {
        kind: "StatefulSet",
        plural: "statefulsets",
        short_names: &["sts"],
        scale: true,
        open_api: open_api::<apps::StatefulSet>,
        ..WORKLOAD
    },
    Builtin {
        kind: "DaemonSet",
        plural: "daemonsets",
        short_names: &["ds"],
        open_api: open_api::<apps::DaemonSet>,
        ..WORKLOAD
    },
    Builtin {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        selectable: &["status.successful"],
        open_api: open_api::<batch::Job>,
        ..WORKLOAD
    },
    Builtin {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        short_names: &["cj"],
        open_api: open_api::<batch::CronJob>,
        ..WORKLOAD
    },
    Builtin {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        unconditional_update: false,
        create_on_update: true,
        open_api: open_api::<coordination::Lease>,
        ..PLAIN
    },
    Builtin {
        kind: "Role",
        plural: "roles",
        open_api: open_api::<rbac::Role>,
        ..RBAC
    },
    Builtin {
        kind: "RoleBinding",
        plural: "rolebindings",
        open_api: open_api::<rbac::RoleBinding>,
        ..RBAC
    },
    Builtin {
        kind: "ClusterRole",
        plural: "clusterroles",
        namespaced: false,
        open_api: open_api::<rbac::ClusterRole>,
        ..RBAC
    },
    Builtin {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        namespaced: false,
        open_api: open_api::<rbac::ClusterRoleBinding>,
        ..RBAC
    },
    Builtin {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        open_api: open_api::<admission::MutatingWebhookConfiguration>,
        ..WEBHOOKS
    },
    Builtin {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        open_api: open_api::<admission::ValidatingWebhookConfiguration>,
        ..WEBHOOKS
    },
    Builtin {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        generation: true,
        unconditional_update: false,
        open_api: open_api::<CustomResourceDefinition>,
        ..PLAIN
    },
    Builtin {
        group: "policy",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        short_names: &["pdb"],
        status: true,
        generation: true,
        unconditional_update: false,
        open_api: open_api::<policy::PodDisruptionBudget>,
        ..PLAIN
    },
    Builtin {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        short_names: &["netpol"],
        generation: true,
        open_api: open_api::<networking::NetworkPolicy>,
        ..PLAIN
    },
    Builtin {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        generation: true,
        open_api: open_api::<discovery::EndpointSlice>,
        ..PLAIN
    },
    Builtin {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        short_names: &["pc"],
        generation: true,
        open_api: open_api::<scheduling::PriorityClass>,
        ..CLUSTER
    },
    Builtin {
        group: "storage.k8s.io",
        kind: "StorageClass",
        plural: "storageclasses",
        short_names: &["sc"],
        returns_deleted: true,
        open_api: open_api::<storage::StorageClass>,
        ..CLUSTER
    },
    Builtin {
        group: "storage.k8s.io",
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        status: true,
        returns_deleted: true,
        open_api: open_api::<storage::VolumeAttachment>,
        ..CLUSTER
    },
    Builtin {
        group: "storage.k8s.io",
        kind: "CSINode",
        plural: "csinodes",
        open_api: open_api::<storage::CSINode>,
        ..CLUSTER
    },
];

/// Compiled once per process: servers in a sweep come and go by the thousand.
static RESOURCES: LazyLock<Vec<Resource>> =
    LazyLock::new(|| BUILTINS.iter().map(Builtin::resource).collect());

pub(crate) fn resources() -> impl Iterator<Item = Resource> {
    RESOURCES.iter().cloned()
}

impl Builtin {
    fn resource(&'static self) -> Resource {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        // Both groups of events show one store.
        let storage_group = if self.plural == "events" {
            ""
        } else {
            self.group
        };
        let open_api = (self.open_api)();
        Resource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            kind: self.kind.to_owned(),
            list_kind: format!("{}List", self.kind),
            plural: self.plural.to_owned(),
            singular: self.kind.to_lowercase(),
            short_names: texts(self.short_names),
            categories: texts(self.categories),
            namespaced: self.namespaced,
            collection: qualified(self.plural, storage_group).into(),
            stored_as: api_version(storage_group, self.version),
            status: self.status,
            scale: self.scale.then(|| Scale {
                spec_replicas: ".spec.replicas".to_owned(),
                status_replicas: ".status.replicas".to_owned(),
                label_selector: None,
            }),
            selectable: texts(self.selectable),
            columns: Vec::new(),
            schema: self.schema(&open_api),
            open_api: Arc::new(open_api),
            origin: Origin::Builtin(self),
            deprecation: None,
        }
    }

    fn schema(&self, open_api: &Value) -> Option<Arc<Schema>> {
        if self.plural == "customresourcedefinitions" {
            return None;
        }
        let schema = Schema::compile(&structural(open_api, true, SCHEMA_DEPTH_MAX));
        Some(Arc::new(
            schema.expect("schemas of built-in kinds are structural"),
        ))
    }
}

/// The schema of a kind with the definitions it refers to under `definitions`, its name under
/// `x-name`.
pub(crate) fn open_api<K: JsonSchema>() -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let root = generator.root_schema_for::<K>();
    let mut root = root.to_value();
    let mut definitions = BTreeMap::new();
    let found = root
        .get_mut("components")
        .map(|found| found["schemas"].take());
    if let Some(Value::Object(found)) = found {
        definitions.extend(found);
    }
    root["definitions"] = json!(definitions);
    root["x-name"] = K::schema_name().into();
    root
}

/// What Go's decoder knows of a kind: fields and types. It knows of no required field.
fn structural(document: &Value, is_root: bool, depth: usize) -> Value {
    let empty = json!({});
    let definitions = document.get("definitions").unwrap_or(&empty);
    convert(document, definitions, is_root, depth)
}

fn convert(schema: &Value, definitions: &Value, is_root: bool, depth: usize) -> Value {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        // Embedded templates allow any metadata that objects have.
        if name == "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" {
            return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": !is_root});
        }
        if name == "io.k8s.apimachinery.pkg.runtime.RawExtension" || depth == 0 {
            return json!({"x-kubernetes-preserve-unknown-fields": true});
        }
        return convert(&definitions[name], definitions, false, depth - 1);
    }
    if schema.get("allOf").is_some() {
        return convert(&schema["allOf"][0], definitions, is_root, depth);
    }
    let mut node = Map::new();
    for keyword in ["type", "format", "x-kubernetes-int-or-string"] {
        if let Some(value) = schema.get(keyword) {
            node.insert(keyword.to_owned(), value.clone());
        }
    }
    if let Some(properties) = schema["properties"].as_object() {
        let converted = properties.iter().map(|(name, inner)| {
            let inner = convert(inner, definitions, is_root && name == "metadata", depth);
            (name.clone(), inner)
        });
        node.insert("properties".to_owned(), Value::Object(converted.collect()));
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(keyword).filter(|inner| inner.is_object()) {
            node.insert(
                keyword.to_owned(),
                convert(inner, definitions, false, depth),
            );
        }
    }
    let open = !node.contains_key("properties") && !node.contains_key("additionalProperties");
    if !node.contains_key("x-kubernetes-int-or-string")
        && (!node.contains_key("type") || (open && node["type"] == "object"))
    {
        node.insert(
            "x-kubernetes-preserve-unknown-fields".to_owned(),
            true.into(),
        );
    }
    Value::Object(node)
}
