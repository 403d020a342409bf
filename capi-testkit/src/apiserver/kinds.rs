//! Which resources are served: the built-in ones and those of custom resource definitions.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use serde_json::Value;

use super::{builtin, builtin::Builtin, store::Key};
use crate::schema::Schema;

/// One resource in one served version.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Name of the store's collection: the qualified plural name (`machines.cluster.x-k8s.io`).
    pub(crate) collection: Arc<str>,
    /// `apiVersion` of stored objects.
    pub(crate) stored_as: String,
    /// Whether `status` is written through the subresource only.
    pub(crate) status: bool,
    pub(crate) scale: Option<Scale>,
    /// Paths a field selector may name besides `metadata.name` and `metadata.namespace`.
    pub(crate) selectable: Vec<String>,
    pub(crate) columns: Vec<Column>,
    /// Says how pruning, defaults and validation go; `None` for kinds without a schema.
    pub(crate) schema: Option<Arc<Schema>>,
    /// The schema as published, for `explain`.
    pub(crate) open_api: Arc<Value>,
    pub(crate) origin: Origin,
    /// Text of the warning that every request gets, for deprecated versions.
    pub(crate) deprecation: Option<String>,
}

/// Where a resource comes from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// Compiled into a real server.
    Builtin(&'static Builtin),
    /// A custom resource definition.
    Custom,
}

/// Paths of the `scale` subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scale {
    /// `.spec.replicas` and so on.
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) label_selector: Option<String>,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    /// Above 0: only in `-o wide`.
    pub(crate) priority: i64,
    /// Simple JSON path of the cell.
    pub(crate) path: String,
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    pub(crate) fn is_custom(&self) -> bool {
        match self.origin {
            Origin::Custom => true,
            Origin::Builtin(_) => false,
        }
    }

    /// Whether `metadata.generation` is kept.
    pub(crate) fn counts_generation(&self) -> bool {
        match self.origin {
            Origin::Custom => true,
            Origin::Builtin(builtin) => builtin.generation,
        }
    }

    /// Whether an update may leave out the resource version.
    pub(crate) fn allows_unconditional_update(&self) -> bool {
        match self.origin {
            Origin::Custom => false,
            Origin::Builtin(builtin) => builtin.unconditional_update,
        }
    }

    /// Whether an update of a missing object creates it.
    pub(crate) fn allows_create_on_update(&self) -> bool {
        match self.origin {
            Origin::Custom => false,
            Origin::Builtin(builtin) => builtin.create_on_update,
        }
    }

    pub(crate) fn key(&self, namespace: &str, name: &str) -> Key {
        let namespace = if self.namespaced {
            namespace.to_owned()
        } else {
            String::new()
        };
        Key {
            namespace,
            name: name.to_owned(),
        }
    }

    pub(crate) fn selects_by(&self, path: &str) -> bool {
        path == "metadata.name"
            || (path == "metadata.namespace" && self.namespaced)
            || self.selectable.iter().any(|known| known == path)
    }
}

pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// `plural.group`, or `plural` for core.
pub(crate) fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

/// All served resources.
#[derive(Debug)]
pub(crate) struct Registry {
    served: RwLock<BTreeMap<ResourceName, Arc<Resource>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ResourceName {
    group: String,
    version: String,
    plural: String,
}

impl ResourceName {
    fn of(resource: &Resource) -> Self {
        Self {
            group: resource.group.clone(),
            version: resource.version.clone(),
            plural: resource.plural.clone(),
        }
    }
}

impl Registry {
    /// The built-in resources.
    pub(crate) fn new() -> Self {
        let served = builtin::resources()
            .map(|resource| (ResourceName::of(&resource), Arc::new(resource)))
            .collect();
        Self {
            served: RwLock::new(served),
        }
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let name = ResourceName {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
        };
        self.served.read().get(&name).cloned()
    }

    /// Any served version of the resource that objects of `collection` belong to, the stored one
    /// first.
    pub(crate) fn of_collection(&self, collection: &str) -> Option<Arc<Resource>> {
        let served = self.served.read();
        let of_it = served
            .values()
            .filter(|resource| &*resource.collection == collection);
        of_it
            .max_by_key(|resource| resource.api_version() == resource.stored_as)
            .cloned()
    }

    /// The resource of a kind, for owner references.
    pub(crate) fn of_kind(&self, group: &str, kind: &str) -> Option<Arc<Resource>> {
        let served = self.served.read();
        let mut of_it = served
            .values()
            .filter(|one| one.group == group && one.kind == kind);
        of_it.next().cloned()
    }

    /// Whether any resource of the group is built in.
    pub(crate) fn has_builtin_version(&self, group: &str, version: &str) -> bool {
        let served = self.served.read();
        served
            .values()
            .any(|one| one.group == group && one.version == version && !one.is_custom())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Resource>> {
        self.served.read().values().cloned().collect()
    }

    /// Replaces what is served for a custom resource definition.
    pub(crate) fn serve(&self, group: &str, plural: &str, versions: Vec<Resource>) {
        let mut served = self.served.write();
        served
            .retain(|name, one| !(one.is_custom() && name.group == group && name.plural == plural));
        for resource in versions {
            served.insert(ResourceName::of(&resource), Arc::new(resource));
        }
    }
}
