//! Who may do what: authorization of requests, and acting as another user.

use http::{HeaderMap, request::Parts};
use serde_json::{Value, json};

use super::{
    ApiServer,
    rbac::{self, Decision, Policy},
    request::{Query, Route, Target, Verb},
    selector::{FieldSelector, LabelSelector},
    serve::{Caller, method_verb},
    status::{StatusError, Subject},
    store::Write,
};

/// Members may do everything, whatever the rules say.
pub(crate) const MASTERS: &str = "system:masters";
/// Everyone who came in with a certificate, a token or an in-memory client.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Rounds of aggregation after one change; each is a role that picks a role that changed.
const AGGREGATIONS_MAX: usize = 32;

/// How a server decides who may do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Authorization {
    /// Everyone who came in may do everything.
    #[default]
    AllowAll,
    /// The roles and bindings on the server decide, as with `--authorization-mode=RBAC`. Members of
    /// `system:masters` may do everything. The ClusterRoles that every cluster has for everyone
    /// (`cluster-admin`, `system:basic-user`, `system:discovery`, `system:public-info-viewer`) exist
    /// from the start.
    ///
    /// Not checked is whether a user grants rights that it does not have itself.
    Rbac,
}

/// A user, as requests are authorized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    groups: Vec<String>,
}

impl User {
    /// A user in no group but `system:authenticated`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            groups: Vec::new(),
        }
    }

    /// The user that a service account is. The account need not exist.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(format!("system:serviceaccount:{namespace}:{name}"))
            .in_group("system:serviceaccounts")
            .in_group(format!("system:serviceaccounts:{namespace}"))
    }

    /// The same user in a further group.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// User name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Groups, `system:authenticated` left out.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The user with this name as the server knows it: service accounts have their groups.
    pub(crate) fn named(name: &str) -> Self {
        let account = name.strip_prefix("system:serviceaccount:");
        match account.and_then(|account| account.split_once(':')) {
            Some((namespace, account)) => Self::service_account(namespace, account),
            None => Self::new(name),
        }
    }

    pub(crate) fn caller(&self, actor: &str) -> Caller {
        let groups = self.groups.iter().map(String::as_str);
        Caller {
            actor: actor.to_owned(),
            user: self.name.clone(),
            groups: groups.chain([AUTHENTICATED]).map(str::to_owned).collect(),
        }
    }
}

/// What a request wants, as an authorizer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    Resource {
        verb: String,
        group: String,
        resource: String,
        subresource: String,
        namespace: String,
        name: String,
    },
    Path {
        verb: String,
        path: String,
    },
}

impl Access {
    /// What a request wants.
    fn of(route: &Route, parts: &Parts, query: &Query) -> Self {
        match route {
            Route::Resource(target) => Self::of_target(target, query),
            Route::Discovery(_) | Route::Other => Self::Path {
                verb: method_verb(parts).to_owned(),
                path: parts.uri.path().to_owned(),
            },
        }
    }

    fn of_target(target: &Target, query: &Query) -> Self {
        let is_namespace = target.group.is_empty() && target.plural == "namespaces";
        // A namespace lies in itself, so that rights in it cover it.
        let namespace = if is_namespace {
            &target.name
        } else {
            &target.namespace
        };
        let selects = matches!(
            target.verb,
            Verb::List | Verb::Watch | Verb::DeleteCollection
        );
        // Whoever may read one object by name may also watch just that one.
        let name = if selects {
            FieldSelector::parse_for(query.text("fieldSelector"), |_| Ok(()))
                .ok()
                .and_then(|fields| fields.only("metadata.name").map(str::to_owned))
                .unwrap_or_default()
        } else {
            target.name.clone()
        };
        Self::Resource {
            verb: target.verb.as_str().to_owned(),
            group: target.group.clone(),
            resource: target.plural.clone(),
            subresource: target.subresource.clone(),
            namespace: namespace.clone(),
            name,
        }
    }

    /// The attributes of an access review.
    pub(crate) fn of_review(spec: &Value) -> Option<Self> {
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match (resource.is_object(), path.is_object()) {
            (true, false) => Some(Self::Resource {
                verb: text(&resource["verb"]),
                group: text(&resource["group"]),
                resource: text(&resource["resource"]),
                subresource: text(&resource["subresource"]),
                namespace: text(&resource["namespace"]),
                name: text(&resource["name"]),
            }),
            (false, true) => Some(Self::Path {
                verb: text(&path["verb"]),
                path: text(&path["path"]),
            }),
            (true, true) | (false, false) => None,
        }
    }

    /// Empty for what lies in no namespace.
    pub(crate) fn namespace(&self) -> &str {
        match self {
            Self::Resource { namespace, .. } => namespace,
            Self::Path { .. } => "",
        }
    }

    /// The refusal of `caller`, in the words of a real server.
    fn forbidden(&self, caller: &Caller, reason: &str) -> StatusError {
        let user = &caller.user;
        let (subject, mut why) = match self {
            Self::Resource {
                verb,
                group,
                resource,
                subresource,
                namespace,
                name,
            } => {
                let separator = if subresource.is_empty() { "" } else { "/" };
                let place = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {namespace:?}")
                };
                let why = format!(
                    "User {user:?} cannot {verb} resource \"{resource}{separator}{subresource}\" \
                     in API group {group:?} {place}"
                );
                let subject = Subject {
                    group,
                    resource,
                    name,
                };
                (subject, why)
            }
            Self::Path { verb, path } => {
                let subject = Subject {
                    group: "",
                    resource: "",
                    name: "",
                };
                (
                    subject,
                    format!("User {user:?} cannot {verb} path {path:?}"),
                )
            }
        };
        if !reason.is_empty() {
            why += &format!(": {reason}");
        }
        StatusError::forbidden(subject, &why)
    }
}

impl ApiServer {
    /// Whom a request is from in the end, if that one may send it.
    pub(super) fn admit(
        &self,
        caller: Caller,
        parts: &Parts,
        route: &Route,
        query: &Query,
    ) -> Result<Caller, StatusError> {
        let caller = self.impersonated(caller, &parts.headers)?;
        if self.inner.authorization == Authorization::Rbac {
            self.require(&caller, &Access::of(route, parts, query))?;
        }
        Ok(caller)
    }

    /// Refuses what `caller` may not do.
    pub(super) fn require(&self, caller: &Caller, access: &Access) -> Result<(), StatusError> {
        let decision = self.authorize(caller, access);
        if decision.allowed {
            return Ok(());
        }
        Err(access.forbidden(caller, &decision.reason))
    }

    /// Updates and applies that bring an object into being need the right to create it.
    pub(super) fn require_create(
        &self,
        caller: &Caller,
        target: &Target,
    ) -> Result<(), StatusError> {
        let mut access = Access::of_target(target, &Query::default());
        if let Access::Resource { verb, .. } = &mut access {
            "create".clone_into(verb);
        }
        self.require(caller, &access)
    }

    /// Whether `caller` may do what `access` says.
    pub(super) fn authorize(&self, caller: &Caller, access: &Access) -> Decision {
        let allowed = |reason: &str| Decision {
            allowed: true,
            reason: reason.to_owned(),
        };
        match self.inner.authorization {
            Authorization::AllowAll => allowed("this server has no authorizer"),
            Authorization::Rbac if caller.groups.iter().any(|group| group == MASTERS) => {
                allowed("")
            }
            Authorization::Rbac => self.policy(access.namespace()).decide(caller, access),
        }
    }

    /// The rules of `caller` in `namespace`.
    pub(super) fn rules_of(&self, caller: &Caller, namespace: &str) -> Vec<Value> {
        let is_master = caller.groups.iter().any(|group| group == MASTERS);
        match self.inner.authorization {
            Authorization::Rbac if !is_master => {
                let policy = self.policy(namespace);
                policy
                    .rules(caller, namespace)
                    .into_iter()
                    .cloned()
                    .collect()
            }
            Authorization::Rbac | Authorization::AllowAll => everything(),
        }
    }

    fn policy(&self, namespace: &str) -> Policy {
        let all = |plural: &str| self.objects(&format!("{plural}.{}", rbac::GROUP));
        let here = |plural: &str| {
            if namespace.is_empty() {
                return Vec::new();
            }
            let collection = format!("{plural}.{}", rbac::GROUP);
            let listed = self.inner.store.list(&collection, Some(namespace), None);
            let snapshot = listed.expect("the present is never compacted");
            let objects = snapshot.objects.iter();
            objects.map(|(_, object)| object.value().clone()).collect()
        };
        Policy {
            cluster_roles: all("clusterroles"),
            cluster_role_bindings: all("clusterrolebindings"),
            roles: here("roles"),
            role_bindings: here("rolebindings"),
        }
    }

    /// The user that the `Impersonate-` headers name, if `caller` may act as that one.
    fn impersonated(&self, caller: Caller, headers: &HeaderMap) -> Result<Caller, StatusError> {
        let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let named = |name: &str| headers.get_all(name).iter().map(text).collect::<Vec<_>>();
        let further = headers.keys().find(|name| {
            name.as_str().starts_with("impersonate-extra-") || *name == "impersonate-uid"
        });
        if let Some(further) = further {
            return Err(StatusError::not_implemented(format!(
                "the header {further}"
            )));
        }
        let groups = named("impersonate-group");
        let Some(name) = named("impersonate-user").into_iter().next() else {
            if groups.is_empty() {
                return Ok(caller);
            }
            let what = format!("requested the groups {groups:?} without impersonating a user");
            return Err(StatusError::internal(what));
        };
        let mut user = User::named(&name);
        let account = name.strip_prefix("system:serviceaccount:");
        match account.and_then(|account| account.split_once(':')) {
            Some((namespace, account)) => {
                self.require(
                    &caller,
                    &impersonation("serviceaccounts", namespace, account),
                )?;
            }
            None => self.require(&caller, &impersonation("users", "", &name))?,
        }
        for group in &groups {
            self.require(&caller, &impersonation("groups", "", group))?;
        }
        if !groups.is_empty() {
            user.groups = groups;
        }
        Ok(user.caller(&caller.actor))
    }

    /// Brings aggregated ClusterRoles up to date, as the controller manager does.
    pub(super) fn aggregate_roles(&self) {
        let collection = format!("clusterroles.{}", rbac::GROUP);
        let Some(resource) = self.inner.registry.of_collection(&collection) else {
            return;
        };
        for _ in 0..AGGREGATIONS_MAX {
            let roles = self.objects(&collection);
            let stale = roles.iter().find_map(|role| {
                if !role["aggregationRule"].is_object() {
                    return None;
                }
                let rules = rbac::aggregated(role, roles.iter(), picks);
                let now = role["rules"].as_array().map_or(&[][..], Vec::as_slice);
                (rules != now).then(|| {
                    let mut fresh = role.clone();
                    fresh["rules"] = rules.into();
                    fresh
                })
            });
            let Some(fresh) = stale else { return };
            let name = fresh["metadata"]["name"].as_str().unwrap_or_default();
            let key = resource.key("", name);
            let Some(live) = self.inner.store.get(&collection, &key) else {
                continue;
            };
            // Whoever was faster leaves a change behind that brings us here again.
            if self
                .inner
                .store
                .commit(
                    &resource.collection,
                    &key,
                    Some(live.revision()),
                    Write::Put(fresh),
                )
                .is_err()
            {
                tracing::debug!(?key, "an aggregated role changed meanwhile");
            }
        }
    }

    /// The roles that every cluster has for everyone.
    pub(super) fn seed_roles(&self) {
        for (name, rules, groups) in seeds() {
            let role = json!({
                "kind": "ClusterRole", "apiVersion": format!("{}/v1", rbac::GROUP), "rules": rules,
            });
            let subjects: Vec<_> = groups
                .iter()
                .map(|group| json!({"kind": "Group", "apiGroup": rbac::GROUP, "name": group}))
                .collect();
            let binding = json!({
                "kind": "ClusterRoleBinding",
                "apiVersion": format!("{}/v1", rbac::GROUP),
                "roleRef": {"apiGroup": rbac::GROUP, "kind": "ClusterRole", "name": name},
                "subjects": subjects,
            });
            for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
                let made = self.seed(&format!("{plural}.{}", rbac::GROUP), name, object);
                made.expect("the first roles are valid and new");
            }
        }
    }
}

fn impersonation(resource: &str, namespace: &str, name: &str) -> Access {
    Access::Resource {
        verb: "impersonate".to_owned(),
        group: String::new(),
        resource: resource.to_owned(),
        subresource: String::new(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn picks(selector: &Value, role: &Value) -> bool {
    LabelSelector::parse(&LabelSelector::text_of(selector)).is_ok_and(|it| it.matches(role))
}

/// The rules of those who may do everything.
fn everything() -> Vec<Value> {
    vec![
        json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
        json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
    ]
}

/// Name, rules and groups of the first roles, as `bootstrappolicy` has them.
fn seeds() -> [(&'static str, Value, &'static [&'static str]); 4] {
    [
        ("cluster-admin", Value::Array(everything()), &[MASTERS]),
        (
            "system:basic-user",
            json!([
                {
                    "verbs": ["create"],
                    "apiGroups": ["authorization.k8s.io"],
                    "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                },
                {
                    "verbs": ["create"],
                    "apiGroups": ["authentication.k8s.io"],
                    "resources": ["selfsubjectreviews"],
                },
            ]),
            &[AUTHENTICATED],
        ),
        (
            "system:discovery",
            json!([{
                "verbs": ["get"],
                "nonResourceURLs": [
                    "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi",
                    "/openapi/*", "/readyz", "/version", "/version/",
                ],
            }]),
            &[AUTHENTICATED],
        ),
        (
            "system:public-info-viewer",
            json!([{
                "verbs": ["get"],
                "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"],
            }]),
            &[AUTHENTICATED, "system:unauthenticated"],
        ),
    ]
}
