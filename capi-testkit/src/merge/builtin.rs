//! Merge rules of kinds that are compiled into real servers.
//!
//! Only what deviates from the rule is listed: a field that is not listed merges key by key if it is
//! a map, and is one value if it is a list.

/// What a field is.
#[derive(Debug)]
pub(crate) enum Type {
    /// Not listed further: structs merge, lists are one value.
    Open,
    /// One value, whatever is inside.
    Atomic,
    /// A struct whose listed fields deviate.
    Struct(&'static [(&'static str, Type)]),
    /// A struct that has no other fields than those listed.
    Whole(&'static [(&'static str, Type)]),
    /// A map whose keys are data.
    Map(&'static Type),
    /// A list of distinct scalars.
    Set,
    /// A list whose items have keys.
    List {
        keys: &'static [&'static str],
        /// Keys that may be left out, with the value they have then.
        defaults: &'static [(&'static str, &'static str)],
        item: &'static Type,
    },
}

const STRINGS: Type = Type::Map(&Type::Open);

/// A list whose items are known by one key.
const fn by(keys: &'static [&'static str], item: &'static Type) -> Type {
    Type::List {
        keys,
        defaults: &[],
        item,
    }
}

const CONDITIONS: Type = by(&["type"], &Type::Open);

pub(crate) const OBJECT_META: Type = Type::Whole(&[
    ("annotations", STRINGS),
    ("creationTimestamp", Type::Open),
    ("deletionGracePeriodSeconds", Type::Open),
    ("deletionTimestamp", Type::Open),
    ("finalizers", Type::Set),
    ("generateName", Type::Open),
    ("generation", Type::Open),
    ("labels", STRINGS),
    ("managedFields", Type::Atomic),
    ("name", Type::Open),
    ("namespace", Type::Open),
    ("ownerReferences", by(&["uid"], &Type::Atomic)),
    ("resourceVersion", Type::Open),
    ("selfLink", Type::Open),
    ("uid", Type::Open),
]);

const LABEL_SELECTOR: Type = Type::Atomic;

const RESOURCES: Type = Type::Struct(&[
    ("claims", by(&["name"], &Type::Open)),
    ("limits", STRINGS),
    ("requests", STRINGS),
]);

const KEY_SELECTORS: Type = Type::Struct(&[
    ("configMapKeyRef", Type::Atomic),
    ("fieldRef", Type::Atomic),
    ("resourceFieldRef", Type::Atomic),
    ("secretKeyRef", Type::Atomic),
]);

const CONTAINER: Type = Type::Struct(&[
    (
        "env",
        by(&["name"], &Type::Struct(&[("valueFrom", KEY_SELECTORS)])),
    ),
    (
        "ports",
        Type::List {
            keys: &["containerPort", "protocol"],
            defaults: &[("protocol", "TCP")],
            item: &Type::Open,
        },
    ),
    ("resources", RESOURCES),
    ("volumeDevices", by(&["devicePath"], &Type::Open)),
    ("volumeMounts", by(&["mountPath"], &Type::Open)),
]);

const POD_SPEC: Type = Type::Struct(&[
    ("containers", by(&["name"], &CONTAINER)),
    ("ephemeralContainers", by(&["name"], &CONTAINER)),
    ("hostAliases", by(&["ip"], &Type::Open)),
    ("imagePullSecrets", by(&["name"], &Type::Atomic)),
    ("initContainers", by(&["name"], &CONTAINER)),
    ("nodeSelector", Type::Atomic),
    ("overhead", STRINGS),
    ("resourceClaims", by(&["name"], &Type::Open)),
    ("resources", RESOURCES),
    ("schedulingGates", by(&["name"], &Type::Open)),
    (
        "topologySpreadConstraints",
        by(
            &["topologyKey", "whenUnsatisfiable"],
            &Type::Struct(&[("labelSelector", LABEL_SELECTOR)]),
        ),
    ),
    ("volumes", by(&["name"], &Type::Open)),
]);

const POD_TEMPLATE: Type = Type::Struct(&[("metadata", OBJECT_META), ("spec", POD_SPEC)]);

const CONDITIONS_ONLY: Type = Type::Struct(&[("conditions", CONDITIONS)]);

const POD: Type = Type::Struct(&[
    ("metadata", OBJECT_META),
    ("spec", POD_SPEC),
    (
        "status",
        Type::Struct(&[
            ("conditions", CONDITIONS),
            ("podIPs", by(&["ip"], &Type::Open)),
            ("resourceClaimStatuses", by(&["name"], &Type::Open)),
        ]),
    ),
]);

const NODE: Type = Type::Struct(&[
    ("metadata", OBJECT_META),
    ("spec", Type::Struct(&[("podCIDRs", Type::Set)])),
    (
        "status",
        Type::Struct(&[
            ("addresses", by(&["type"], &Type::Open)),
            ("allocatable", STRINGS),
            ("capacity", STRINGS),
            ("conditions", CONDITIONS),
        ]),
    ),
]);

const SERVICE: Type = Type::Struct(&[
    ("metadata", OBJECT_META),
    (
        "spec",
        Type::Struct(&[
            (
                "ports",
                Type::List {
                    keys: &["port", "protocol"],
                    defaults: &[("protocol", "TCP")],
                    item: &Type::Open,
                },
            ),
            ("selector", Type::Atomic),
        ]),
    ),
    ("status", CONDITIONS_ONLY),
]);

const STRING_DATA: Type = Type::Struct(&[
    ("binaryData", STRINGS),
    ("data", STRINGS),
    ("metadata", OBJECT_META),
    ("stringData", STRINGS),
]);

const SERVICE_ACCOUNT: Type = Type::Struct(&[
    ("metadata", OBJECT_META),
    ("secrets", by(&["name"], &Type::Atomic)),
]);

const BINDING: Type = Type::Struct(&[("metadata", OBJECT_META), ("roleRef", Type::Atomic)]);

const WORKLOAD: Type = Type::Struct(&[
    ("metadata", OBJECT_META),
    (
        "spec",
        Type::Struct(&[("selector", LABEL_SELECTOR), ("template", POD_TEMPLATE)]),
    ),
    ("status", CONDITIONS_ONLY),
]);

const WEBHOOKS: Type = Type::Struct(&[
    ("metadata", OBJECT_META),
    (
        "webhooks",
        by(
            &["name"],
            &Type::Struct(&[
                ("matchConditions", by(&["name"], &Type::Open)),
                ("namespaceSelector", LABEL_SELECTOR),
                ("objectSelector", LABEL_SELECTOR),
            ]),
        ),
    ),
]);

const WITH_CONDITIONS: Type =
    Type::Struct(&[("metadata", OBJECT_META), ("status", CONDITIONS_ONLY)]);

const OTHER: Type = Type::Struct(&[("metadata", OBJECT_META)]);

/// The rules of a kind.
pub(crate) fn root(group: &str, kind: &str) -> &'static Type {
    match (group, kind) {
        ("", "Pod") => &POD,
        ("", "Node") => &NODE,
        ("", "Service") => &SERVICE,
        ("", "ConfigMap" | "Secret") => &STRING_DATA,
        ("", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("", "Namespace" | "PersistentVolumeClaim" | "ReplicationController")
        | ("apiextensions.k8s.io", "CustomResourceDefinition")
        | ("apiregistration.k8s.io", "APIService") => &WITH_CONDITIONS,
        ("apps", "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet") => &WORKLOAD,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding" | "RoleBinding") => &BINDING,
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => &WEBHOOKS,
        _ => &OTHER,
    }
}
