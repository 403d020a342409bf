//! Rights: what the engine does with which kinds, and nothing more (RB-03).

use serde_json::{Value, json};

use super::{Choices, Package, Surface};

/// One rule: groups, resources and verbs.
struct Rule {
    group: String,
    resources: Vec<String>,
    verbs: &'static [&'static str],
}

fn rule<const N: usize>(group: &str, resources: [&str; N], verbs: &'static [&'static str]) -> Rule {
    Rule {
        group: group.to_owned(),
        resources: resources.map(str::to_owned).to_vec(),
        verbs,
    }
}

/// What is watched: one list, then a watch.
const WATCHED: &[&str] = &["list", "watch"];

/// What is created for a provider: read by name when another's stands in the way, patched to restore
/// an owner (WR-06) or the body.
const RAISED: &[&str] = &["create", "get", "list", "patch", "watch"];

/// Rights in the namespaces that the provider works in.
fn rules(package: &Package, surface: &Surface, choices: &Choices) -> Vec<Rule> {
    let (group, clusters, machines) = (
        surface.group.as_str(),
        surface.clusters.as_str(),
        surface.machines.as_str(),
    );
    let of = |what: &str| [format!("{clusters}/{what}"), format!("{machines}/{what}")];
    let mut all = vec![
        rule(group, [clusters, machines], &["list", "patch", "watch"]),
        Rule {
            group: group.to_owned(),
            resources: of("status").to_vec(),
            verbs: &["patch"],
        },
        // For blockOwnerDeletion of what they own, where OwnerReferencesPermissionEnforcement is on
        // (RB-02).
        Rule {
            group: group.to_owned(),
            resources: of("finalizers").to_vec(),
            verbs: &["update"],
        },
        rule("cluster.x-k8s.io", ["clusters", "machines"], WATCHED),
        // Credentials, bootstrap data, kubeconfigs: by name, never listed. Credentials are patched to
        // keep them until their cluster is gone (ID-02).
        rule(
            "",
            ["secrets"],
            if surface.keeps_secrets {
                &["get", "patch"]
            } else {
                &["get"]
            },
        ),
        rule("", ["events"], &["create"]),
    ];
    if package.takes_addresses {
        all.push(rule("ipam.cluster.x-k8s.io", ["ipaddressclaims"], RAISED));
        all.push(rule("ipam.cluster.x-k8s.io", ["ipaddresses"], WATCHED));
    }
    for kind in &surface.children {
        all.push(rule(kind.group, [kind.plural], RAISED));
    }
    if choices.extras {
        for kind in &surface.extras {
            all.push(rule(kind.group, [kind.plural], &["deletecollection"]));
        }
    }
    all
}

/// Rights that hold for the cluster as a whole: asking who scrapes metrics.
fn reviews() -> [Rule; 2] {
    [
        rule("authentication.k8s.io", ["tokenreviews"], &["create"]),
        rule(
            "authorization.k8s.io",
            ["subjectaccessreviews"],
            &["create"],
        ),
    ]
}

/// Roles and their bindings. For chosen namespaces, Roles only.
pub(super) fn objects(package: &Package, surface: &Surface, choices: &Choices) -> Vec<Value> {
    let mut all = Vec::new();
    let rules = rules(package, surface, choices);
    if choices.namespaces.is_empty() {
        let name = package.cluster_wide("manager");
        let rules: Vec<_> = rules.iter().chain(&reviews()).map(written).collect();
        all.extend(granted(package, &Scope::Cluster, &name, &rules));
    } else {
        let name = package.namespaced("manager");
        let rules: Vec<_> = rules.iter().map(written).collect();
        for namespace in &choices.namespaces {
            let scope = Scope::Namespace(namespace);
            all.extend(granted(package, &scope, &name, &rules));
        }
    }
    let on_platform: Vec<_> = surface.platform.iter().map(|rule| json!(rule)).collect();
    for namespace in choices.platform.iter().filter(|_| !on_platform.is_empty()) {
        let (scope, name) = match namespace.as_str() {
            "" => (Scope::Cluster, package.cluster_wide("platform")),
            one => (Scope::Namespace(one), package.namespaced("platform")),
        };
        all.extend(granted(package, &scope, &name, &on_platform));
    }
    let lease = rule(
        "coordination.k8s.io",
        ["leases"],
        &["create", "get", "patch"],
    );
    let name = package.namespaced("leader-election");
    let scope = Scope::Namespace(package.namespace);
    all.extend(granted(package, &scope, &name, &[written(&lease)]));
    all
}

enum Scope<'a> {
    Cluster,
    Namespace(&'a str),
}

fn written(rule: &Rule) -> Value {
    json!({"apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs})
}

/// A role and its binding to the program's account.
fn granted(package: &Package, scope: &Scope<'_>, name: &str, rules: &[Value]) -> [Value; 2] {
    let (role, binding) = match scope {
        Scope::Cluster => ("ClusterRole", "ClusterRoleBinding"),
        Scope::Namespace(_) => ("Role", "RoleBinding"),
    };
    let mut metadata = json!({"name": name});
    if let Scope::Namespace(namespace) = scope {
        metadata["namespace"] = json!(namespace);
    }
    let api = "rbac.authorization.k8s.io";
    [
        json!({
            "apiVersion": format!("{api}/v1"), "kind": role, "metadata": metadata, "rules": rules,
        }),
        json!({
            "apiVersion": format!("{api}/v1"), "kind": binding, "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": role, "name": name},
            "subjects": [{
                "kind": "ServiceAccount",
                "name": package.namespaced("manager"),
                "namespace": package.namespace,
            }],
        }),
    ]
}
