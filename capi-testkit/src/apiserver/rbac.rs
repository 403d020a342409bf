//! Role based access control: which rules bind a user, and whether one of them allows a request.
//!
//! Pure functions over the stored objects. The words of reasons are those of the real authorizer.

use serde_json::Value;

use super::{access::Access, serve::Caller};

/// The group of the roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// The roles and bindings of a server at one moment.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    pub(crate) cluster_roles: Vec<Value>,
    pub(crate) cluster_role_bindings: Vec<Value>,
    /// Of the request's namespace only.
    pub(crate) roles: Vec<Value>,
    /// Of the request's namespace only.
    pub(crate) role_bindings: Vec<Value>,
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// Why; empty where nothing is to be said.
    pub(crate) reason: String,
}

/// A rule that binds a user, and where it comes from.
#[derive(Debug)]
struct Bound<'a> {
    rule: &'a Value,
    source: String,
}

impl Policy {
    /// Whether `caller` may do what `access` says.
    pub(crate) fn decide(&self, caller: &Caller, access: &Access) -> Decision {
        let mut dangling = Vec::new();
        let bound = self.bound(caller, access.namespace(), &mut dangling);
        if let Some(allowing) = bound.iter().find(|bound| allows(bound.rule, access)) {
            return Decision {
                allowed: true,
                reason: format!("RBAC: allowed by {}", allowing.source),
            };
        }
        let reason = match dangling.as_slice() {
            [] => String::new(),
            [only] => format!("RBAC: {only}"),
            several => format!("RBAC: [{}]", several.join(", ")),
        };
        Decision {
            allowed: false,
            reason,
        }
    }

    /// All rules that bind `caller` in `namespace`.
    pub(crate) fn rules(&self, caller: &Caller, namespace: &str) -> Vec<&Value> {
        let bound = self.bound(caller, namespace, &mut Vec::new());
        bound.into_iter().map(|bound| bound.rule).collect()
    }

    fn bound(
        &self,
        caller: &Caller,
        namespace: &str,
        dangling: &mut Vec<String>,
    ) -> Vec<Bound<'_>> {
        let mut bound = Vec::new();
        for binding in &self.cluster_role_bindings {
            self.bind(binding, caller, "", &mut bound, dangling);
        }
        if !namespace.is_empty() {
            for binding in &self.role_bindings {
                self.bind(binding, caller, namespace, &mut bound, dangling);
            }
        }
        bound
    }

    fn bind<'a>(
        &'a self,
        binding: &Value,
        caller: &Caller,
        namespace: &str,
        bound: &mut Vec<Bound<'a>>,
        dangling: &mut Vec<String>,
    ) {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let mut subjects = subjects.into_iter();
        let Some(subject) = subjects.find(|subject| applies(subject, caller, namespace)) else {
            return;
        };
        let reference = &binding["roleRef"];
        let name = text(&reference["name"]);
        let (roles, resource) = match text(&reference["kind"]) {
            "Role" => (&self.roles, "role"),
            _ => (&self.cluster_roles, "clusterrole"),
        };
        let Some(role) = roles.iter().find(|role| role["metadata"]["name"] == name) else {
            dangling.push(format!("{resource}.{GROUP} {name:?} not found"));
            return;
        };
        let source = describe(binding, subject, namespace);
        let rules = role["rules"].as_array().into_iter().flatten();
        bound.extend(rules.map(|rule| Bound {
            rule,
            source: source.clone(),
        }));
    }
}

/// A binding in the words of the real authorizer, which puts namespaces behind names.
fn describe(binding: &Value, subject: &Value, namespace: &str) -> String {
    let name = text(&binding["metadata"]["name"]);
    let binding_text = if namespace.is_empty() {
        format!("ClusterRoleBinding {name:?}")
    } else {
        format!("RoleBinding {:?}", format!("{name}/{namespace}"))
    };
    let (kind, subject_name) = (text(&subject["kind"]), text(&subject["name"]));
    let subject_text = if kind == "ServiceAccount" {
        let own = subject["namespace"].as_str().unwrap_or(namespace);
        format!("{kind} {:?}", format!("{subject_name}/{own}"))
    } else {
        format!("{kind} {subject_name:?}")
    };
    let role = &binding["roleRef"];
    format!(
        "{binding_text} of {} {:?} to {subject_text}",
        text(&role["kind"]),
        text(&role["name"])
    )
}

fn applies(subject: &Value, caller: &Caller, namespace: &str) -> bool {
    let name = text(&subject["name"]);
    match text(&subject["kind"]) {
        "User" => caller.user == name,
        "Group" => caller.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let own = match text(&subject["namespace"]) {
                "" => namespace,
                own => own,
            };
            !own.is_empty() && caller.user == format!("system:serviceaccount:{own}:{name}")
        }
        _ => false,
    }
}

/// Whether a `PolicyRule` covers a request.
pub(crate) fn allows(rule: &Value, access: &Access) -> bool {
    let texts = |field: &str| {
        let list = rule[field].as_array().into_iter().flatten();
        list.into_iter().filter_map(Value::as_str)
    };
    let names = |field: &str, wanted: &str| texts(field).any(|one| one == "*" || one == wanted);
    match access {
        Access::Resource {
            verb,
            group,
            resource,
            subresource,
            name,
            ..
        } => {
            let combined = if subresource.is_empty() {
                resource.clone()
            } else {
                format!("{resource}/{subresource}")
            };
            let of_any = |one: &str| {
                !subresource.is_empty() && one.strip_prefix("*/") == Some(subresource.as_str())
            };
            let named = texts("resourceNames").next().is_none()
                || texts("resourceNames").any(|one| one == name);
            names("verbs", verb)
                && names("apiGroups", group)
                && (names("resources", &combined) || texts("resources").any(of_any))
                && named
        }
        Access::Path { verb, path } => {
            let covers = |one: &str| {
                one == path
                    || one
                        .strip_suffix('*')
                        .is_some_and(|start| path.starts_with(start))
            };
            names("verbs", verb) && texts("nonResourceURLs").any(covers)
        }
    }
}

/// The rules of an aggregated ClusterRole: those of all others that one of its selectors picks, each
/// rule once.
pub(crate) fn aggregated<'a>(
    role: &Value,
    all: impl Iterator<Item = &'a Value>,
    picks: impl Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    let selectors: Vec<&Value> = selectors.into_iter().flatten().collect();
    let mut rules = Vec::new();
    for other in all {
        let is_self = other["metadata"]["name"] == role["metadata"]["name"];
        if is_self || !selectors.iter().any(|selector| picks(selector, other)) {
            continue;
        }
        for rule in other["rules"].as_array().into_iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn access(words: &str) -> Access {
        let words: Vec<&str> = words.split(' ').collect();
        match words[..] {
            [verb, path] => Access::Path {
                verb: verb.to_owned(),
                path: path.to_owned(),
            },
            [verb, group, resource, subresource, namespace, name] => Access::Resource {
                verb: verb.to_owned(),
                group: group.trim_matches('-').to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.trim_matches('-').to_owned(),
                namespace: namespace.trim_matches('-').to_owned(),
                name: name.trim_matches('-').to_owned(),
            },
            _ => panic!("not a request: {words:?}"),
        }
    }

    #[test]
    fn rules_cover_what_they_name() {
        let rule = json!({
            "verbs": ["get", "patch"],
            "apiGroups": ["", "a.io"],
            "resources": ["secrets", "things/status", "*/scale"],
        });
        let named = json!({
            "verbs": ["*"], "apiGroups": [""], "resources": ["*"], "resourceNames": ["one"],
        });
        let paths = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]});
        let table = [
            (&rule, "get - secrets - ns x", true),
            (&rule, "list - secrets - ns -", false),
            (&rule, "get a.io secrets - ns x", true),
            (&rule, "get b.io secrets - ns x", false),
            (&rule, "patch a.io things status ns x", true),
            (&rule, "patch a.io things - ns x", false),
            (&rule, "patch a.io anything scale ns x", true),
            (&rule, "get /healthz", false),
            (&named, "delete - secrets - ns one", true),
            (&named, "delete - secrets - ns two", false),
            // Nobody knows the name of what is created yet.
            (&named, "create - secrets - ns -", false),
            (&paths, "get /healthz", true),
            (&paths, "get /api/v1", true),
            (&paths, "get /apis", false),
            (&paths, "post /healthz", false),
        ];
        for (rule, request, expected) in table {
            assert_eq!(
                allows(rule, &access(request)),
                expected,
                "{request}: {rule}"
            );
        }
    }

    fn binding(kind: &str, role: &str, subject: &Value) -> Value {
        json!({
            "metadata": {"name": "b", "namespace": "ns"},
            "roleRef": {"kind": kind, "name": role},
            "subjects": [subject],
        })
    }

    #[test]
    fn bindings_reach_users_groups_and_service_accounts() {
        let reads = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]);
        let role = json!({"metadata": {"name": "reader"}, "rules": reads});
        let robot = "system:serviceaccount:ns:robot";
        let request = access("get - secrets - ns x");
        let elsewhere = access("get - secrets - other x");
        let table = [
            (json!({"kind": "User", "name": robot}), true),
            (json!({"kind": "Group", "name": "robots"}), true),
            (
                json!({"kind": "ServiceAccount", "name": "robot", "namespace": "ns"}),
                true,
            ),
            (
                json!({"kind": "ServiceAccount", "name": "robot", "namespace": "no"}),
                false,
            ),
            (json!({"kind": "User", "name": "someone"}), false),
        ];
        let caller = Caller {
            actor: "robot".to_owned(),
            user: robot.to_owned(),
            groups: vec!["robots".to_owned()],
        };
        for (subject, expected) in table {
            let everywhere = Policy {
                cluster_roles: vec![role.clone()],
                cluster_role_bindings: vec![binding("ClusterRole", "reader", &subject)],
                ..Policy::default()
            };
            assert_eq!(
                everywhere.decide(&caller, &elsewhere).allowed,
                expected,
                "{subject}"
            );
            let here = Policy {
                roles: vec![role.clone()],
                role_bindings: vec![binding("Role", "reader", &subject)],
                ..Policy::default()
            };
            assert_eq!(
                here.decide(&caller, &request).allowed,
                expected,
                "{subject}"
            );
        }
        let local = Policy {
            cluster_roles: vec![role],
            role_bindings: vec![binding(
                "ClusterRole",
                "reader",
                &json!({"kind": "ServiceAccount", "name": "robot"}),
            )],
            ..Policy::default()
        };
        let decision = local.decide(&caller, &request);
        assert_eq!(
            decision.reason,
            "RBAC: allowed by RoleBinding \"b/ns\" of ClusterRole \"reader\" to ServiceAccount \
             \"robot/ns\""
        );
        assert!(
            !local
                .decide(&caller, &access("get - secrets - - x"))
                .allowed
        );
    }

    #[test]
    fn a_binding_to_nothing_is_told() {
        let caller = Caller {
            actor: "a".to_owned(),
            user: "a".to_owned(),
            groups: Vec::new(),
        };
        let policy = Policy {
            cluster_role_bindings: vec![binding(
                "ClusterRole",
                "gone",
                &json!({"kind": "User", "name": "a"}),
            )],
            ..Policy::default()
        };
        let decision = policy.decide(&caller, &access("get - secrets - ns x"));
        let expected = "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found";
        assert_eq!(
            (decision.allowed, decision.reason.as_str()),
            (false, expected)
        );
    }
}
