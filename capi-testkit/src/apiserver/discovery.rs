//! Discovery: which groups, versions and resources there are; and the paths beside the API.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    ApiServer,
    kinds::{Resource, api_version},
    request::DiscoveryPath,
    review::{REVIEWS, Review},
    serve::Answer,
    status::StatusError,
};

/// The Kubernetes version that the server says it is: that of the types it is built from.
const MAJOR: &str = "1";
const MINOR: &str = "35";

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Custom kinds name theirs in another order.
const CUSTOM_VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
/// Group of what the subresource `eviction` takes.
const EVICTION_GROUP: &str = "policy";
/// Group of what the subresource `token` takes.
const TOKEN_GROUP: &str = "authentication.k8s.io";
const SUBRESOURCE_VERBS: [&str; 3] = ["get", "patch", "update"];

impl ApiServer {
    pub(super) fn discover(
        &self,
        path: &DiscoveryPath,
        accept: &str,
    ) -> Result<Answer, StatusError> {
        let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2");
        let groups = self.groups();
        let document = match path {
            DiscoveryPath::CoreVersions if aggregated => aggregate(&groups, true),
            DiscoveryPath::Groups if aggregated => aggregate(&groups, false),
            DiscoveryPath::CoreVersions => json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            }),
            DiscoveryPath::Groups => {
                let named = groups.iter().filter(|(name, _)| !name.is_empty());
                let list: Vec<_> = named
                    .map(|(name, versions)| group(name, versions))
                    .collect();
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
            }
            DiscoveryPath::Group(name) => {
                let versions = groups.get(name).filter(|_| !name.is_empty());
                let mut found = group(name, versions.ok_or_else(StatusError::unknown_path)?);
                found["kind"] = "APIGroup".into();
                found["apiVersion"] = "v1".into();
                found
            }
            DiscoveryPath::Version { group, version } => {
                let versions = groups.get(group).ok_or_else(StatusError::unknown_path)?;
                let found = versions.iter().find(|(name, _)| name == version);
                let (_, resources) = found.ok_or_else(StatusError::unknown_path)?;
                json!({
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": api_version(group, version),
                    "resources": resources
                        .iter()
                        .flat_map(plain)
                        .chain(reviews(group).map(plain_review))
                        .collect::<Vec<_>>(),
                })
            }
        };
        let answer = Answer::json(Bytes::from(document.to_string()));
        let is_list = matches!(path, DiscoveryPath::CoreVersions | DiscoveryPath::Groups);
        Ok(if aggregated && is_list {
            answer.of_type("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
        } else {
            answer
        })
    }

    /// Paths that are no API: version and health.
    pub(super) fn other(&self, method: &Method, path: &str) -> Result<Answer, StatusError> {
        if method != Method::GET {
            return Err(StatusError::unknown_path());
        }
        match path {
            "/version" => {
                let version = json!({
                    "major": MAJOR,
                    "minor": MINOR,
                    "gitVersion": format!("v{MAJOR}.{MINOR}.0+capi-testkit"),
                    "gitCommit": "",
                    "gitTreeState": "",
                    "buildDate": "",
                    "goVersion": "",
                    "compiler": "rustc",
                    "platform": std::env::consts::OS,
                });
                Ok(Answer::json(Bytes::from(version.to_string())))
            }
            "/healthz" | "/livez" | "/readyz" => {
                Ok(Answer::json(Bytes::from_static(b"ok")).of_type("text/plain; charset=utf-8"))
            }
            "/openapi/v3" => Ok(self.openapi_index()),
            _ => match path.strip_prefix("/openapi/v3/") {
                Some(document) => self.openapi_document(document),
                None => Err(StatusError::unknown_path()),
            },
        }
    }

    fn groups(&self) -> Groups {
        let mut groups = Groups::new();
        for resource in self.inner.registry.all() {
            let versions = groups.entry(resource.group.clone()).or_default();
            match versions
                .iter_mut()
                .find(|(version, _)| *version == resource.version)
            {
                Some((_, resources)) => resources.push(resource),
                None => versions.push((resource.version.clone(), vec![resource])),
            }
        }
        for review in &REVIEWS {
            let versions = groups.entry(review.group.to_owned()).or_default();
            if versions.is_empty() {
                versions.push(("v1".to_owned(), Vec::new()));
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|(version, _)| Reverse(priority(version)));
        }
        groups
    }
}

/// Groups, their versions (preferred first) and the resources in each.
type Groups = BTreeMap<String, Vec<(String, Vec<Arc<Resource>>)>>;

/// Order of versions as Kubernetes has it: stable before beta before alpha, higher first.
fn priority(version: &str) -> (u8, u32, u32) {
    let digits = |text: &str| text.parse::<u32>().unwrap_or(0);
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    if let Some((major, minor)) = rest.split_once("beta") {
        (2, digits(major), digits(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (1, digits(major), digits(minor))
    } else {
        (3, digits(rest), 0)
    }
}

fn group(name: &str, versions: &[(String, Vec<Arc<Resource>>)]) -> Value {
    let entries: Vec<_> = versions
        .iter()
        .map(|(version, _)| json!({"groupVersion": api_version(name, version), "version": version}))
        .collect();
    json!({"name": name, "versions": entries, "preferredVersion": entries.first()})
}

fn reviews(group: &str) -> impl Iterator<Item = &'static Review> {
    REVIEWS.iter().filter(move |review| review.group == group)
}

fn plain_review(review: &'static Review) -> Value {
    json!({
        "name": review.plural,
        "singularName": review.kind.to_lowercase(),
        "namespaced": false,
        "kind": review.kind,
        "verbs": ["create"],
    })
}

fn aggregated_review(review: &'static Review) -> Value {
    json!({
        "resource": review.plural,
        "responseKind": {"group": review.group, "version": "v1", "kind": review.kind},
        "scope": "Cluster",
        "singularResource": review.kind.to_lowercase(),
        "verbs": ["create"],
    })
}

/// The entries of a resource and its subresources in an `APIResourceList`.
fn plain(resource: &Arc<Resource>) -> Vec<Value> {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs(resource),
        "storageVersionHash": storage_version_hash(resource),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let mut entries = vec![entry];
    if resource.status {
        entries.push(json!({
            "name": format!("{}/status", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": SUBRESOURCE_VERBS,
        }));
    }
    if issues_tokens(resource) {
        entries.push(json!({
            "name": format!("{}/token", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "group": TOKEN_GROUP,
            "version": "v1",
            "kind": "TokenRequest",
            "verbs": ["create"],
        }));
    }
    if is_evicted(resource) {
        entries.push(json!({
            "name": format!("{}/eviction", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "group": EVICTION_GROUP,
            "version": "v1",
            "kind": "Eviction",
            "verbs": ["create"],
        }));
    }
    if resource.scale.is_some() {
        entries.push(json!({
            "name": format!("{}/scale", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "group": "autoscaling",
            "version": "v1",
            "kind": "Scale",
            "verbs": SUBRESOURCE_VERBS,
        }));
    }
    entries
}

fn verbs(resource: &Resource) -> [&'static str; 8] {
    if resource.is_custom() {
        CUSTOM_VERBS
    } else {
        VERBS
    }
}

/// Tells clients when objects begin to be stored in another version: the start of the SHA-256 of group,
/// version and kind.
fn storage_version_hash(resource: &Resource) -> String {
    const BYTES: usize = 8;
    let (group, version) = resource
        .stored_as
        .split_once('/')
        .unwrap_or(("", &resource.stored_as));
    let hash = Sha256::digest(format!("{group}/{version}/{}", resource.kind));
    STANDARD.encode(&hash[..BYTES])
}

fn issues_tokens(resource: &Resource) -> bool {
    !resource.is_custom() && resource.kind == "ServiceAccount"
}

fn is_evicted(resource: &Resource) -> bool {
    !resource.is_custom() && resource.kind == "Pod"
}

/// `APIGroupDiscoveryList`, of the core group or of all others.
fn aggregate(groups: &Groups, core: bool) -> Value {
    let chosen = groups.iter().filter(|(name, _)| name.is_empty() == core);
    let items: Vec<_> = chosen
        .map(|(name, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|(version, resources)| {
                    json!({
                        "version": version,
                        "freshness": "Current",
                        "resources": resources
                            .iter()
                            .map(aggregated)
                            .chain(reviews(name).map(aggregated_review))
                            .collect::<Vec<_>>(),
                    })
                })
                .collect();
            let metadata = if name.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated(resource: &Arc<Resource>) -> Value {
    let scope = if resource.namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let own = kind(&resource.group, &resource.version, &resource.kind);
    let mut subresources = Vec::new();
    if resource.status {
        subresources.push(json!({
            "subresource": "status", "responseKind": own, "verbs": SUBRESOURCE_VERBS,
        }));
    }
    if resource.scale.is_some() {
        subresources.push(json!({
            "subresource": "scale",
            "responseKind": kind("autoscaling", "v1", "Scale"),
            "verbs": SUBRESOURCE_VERBS,
        }));
    }
    if issues_tokens(resource) {
        subresources.push(json!({
            "subresource": "token",
            "responseKind": kind(TOKEN_GROUP, "v1", "TokenRequest"),
            "verbs": ["create"],
        }));
    }
    if is_evicted(resource) {
        subresources.push(json!({
            "subresource": "eviction",
            "responseKind": kind(EVICTION_GROUP, "v1", "Eviction"),
            "verbs": ["create"],
        }));
    }
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": own,
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}
