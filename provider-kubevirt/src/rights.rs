//! What this provider does in the namespace of an infra cluster, and nothing more.
//!
//! One table for the Role that `tenant` makes and for the questions that `doctor` asks. Secrets are
//! read and written by name only; RBAC cannot narrow names, so a tenant gets a namespace of its own.

use k8s_openapi::api::rbac::v1::PolicyRule;

/// Verbs on resources of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Plural name.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

/// All rules.
pub const RULES: &[Rule] = &[
    Rule {
        group: "kubevirt.io",
        resource: "virtualmachines",
        verbs: &["create", "delete", "get", "list", "watch"],
    },
    Rule {
        group: "kubevirt.io",
        resource: "virtualmachineinstances",
        verbs: &["delete", "get", "list", "watch"],
    },
    Rule {
        group: "kubevirt.io",
        resource: "virtualmachineinstancemigrations",
        verbs: &["create", "delete", "get", "list", "watch"],
    },
    Rule {
        group: "cdi.kubevirt.io",
        resource: "datavolumes",
        verbs: &["delete", "get", "list", "watch"],
    },
    Rule {
        group: "",
        resource: "persistentvolumeclaims",
        verbs: &["delete", "get"],
    },
    Rule {
        group: "",
        resource: "secrets",
        verbs: &["create", "delete", "get", "patch"],
    },
    Rule {
        group: "",
        resource: "services",
        verbs: &["create", "delete", "get", "list", "patch", "watch"],
    },
];

/// Rights that this provider does not use, and that say too much about the others of a namespace.
pub const NEEDLESS: &[Rule] = &[Rule {
    group: "",
    resource: "secrets",
    verbs: &["list"],
}];

/// The rules as a Role has them.
#[must_use]
pub fn rules() -> Vec<PolicyRule> {
    let words = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    let rule = |rule: &Rule| PolicyRule {
        api_groups: Some(words(&[rule.group])),
        resources: Some(words(&[rule.resource])),
        verbs: words(rule.verbs),
        ..PolicyRule::default()
    };
    RULES.iter().map(rule).collect()
}
