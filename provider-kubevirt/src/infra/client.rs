//! Single requests to the infra cluster.

use std::fmt;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::{NamespaceResourceScope, Request};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::InfraError;

/// Field manager of what is applied; other writers are told apart by it.
const MANAGER: &str = "capi-rs-kubevirt";

/// How many objects one search may find: a machine has one of each kind, and a copy that a person made
/// of its VM has the same labels.
const FOUND_MAX: u32 = 16;

/// A kind whose objects live in a namespace.
pub trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + DeserializeOwned
    + Clone
    + fmt::Debug
    + Send
    + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + fmt::Debug
        + Send
        + 'static
{
}

/// A client for the infra cluster. Nothing is repeated behind the caller's back: a request is sent
/// once, and its answer is the caller's to understand.
#[derive(Clone)]
pub struct Infra {
    client: Client,
}

impl fmt::Debug for Infra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Infra").finish_non_exhaustive()
    }
}

/// Which state of an object a change is meant for. The server refuses the change of another one, so
/// that a look at a cache is enough to decide on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Identity of the object.
    pub uid: String,
    /// Its version; `None` if any state of this very object may be changed.
    pub resource_version: Option<String>,
}

impl Version {
    /// This very object, in whatever state.
    pub fn identity(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: None,
        }
    }

    /// The object in exactly this state.
    pub fn state(meta: &ObjectMeta) -> Self {
        Self {
            resource_version: meta.resource_version.clone(),
            ..Self::identity(meta)
        }
    }
}

/// What goes along with an object that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It disappears after what it owns.
    Foreground,
    /// What it owns disappears later.
    Background,
}

fn attempt<K: Resource<DynamicType = ()>>(verb: &str, namespace: &str, name: &str) -> String {
    format!("{verb} {} {namespace}/{name}", K::kind(&()))
}

impl Infra {
    /// A client that speaks through this one.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client, for watches.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn api<K: Namespaced>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// One object; `None` if the server affirms that there is none of this name.
    ///
    /// # Errors
    ///
    /// If the server does not say. That it does not know the kind says nothing of the object.
    pub async fn get<K: Namespaced>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, InfraError> {
        match self.api::<K>(namespace).get(name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => {
                let error = InfraError::new(attempt::<K>("get", namespace, name), error);
                if error.is_absent() {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        }
    }

    /// The objects that bear these labels, at most `FOUND_MAX` of them.
    ///
    /// # Errors
    ///
    /// If the server does not say.
    pub async fn list<K: Namespaced>(
        &self,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<K>, InfraError> {
        let params = ListParams::default().labels(selector).limit(FOUND_MAX);
        let listed = self.api::<K>(namespace).list(&params).await;
        let listed = listed
            .map_err(|error| InfraError::new(attempt::<K>("list", namespace, selector), error))?;
        Ok(listed.items)
    }

    /// Creates an object; one of this name that is there already is a refusal.
    ///
    /// # Errors
    ///
    /// Of class `Conflict` if the name is taken.
    pub async fn create<K: Namespaced>(
        &self,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<K, InfraError> {
        let failed = |error| InfraError::new(attempt::<K>("create", namespace, name), error);
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError);
        let request = Request::new(K::url_path(&(), Some(namespace)));
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let request = request
            .create(&params, body.map_err(failed)?)
            .map_err(kube::Error::BuildRequest);
        self.client
            .request(request.map_err(failed)?)
            .await
            .map_err(failed)
    }

    /// Changes fields of an object with a merge patch, if it is still the one that is meant.
    ///
    /// # Errors
    ///
    /// Of class `Conflict` if it is another, or in another state.
    pub async fn change<K: Namespaced>(
        &self,
        namespace: &str,
        name: &str,
        version: &Version,
        mut patch: Value,
    ) -> Result<K, InfraError> {
        patch["metadata"]["uid"] = Value::from(version.uid.clone());
        if let Some(at) = &version.resource_version {
            patch["metadata"]["resourceVersion"] = Value::from(at.clone());
        }
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = self
            .api::<K>(namespace)
            .patch(name, &params, &Patch::Merge(&patch))
            .await;
        patched.map_err(|error| InfraError::new(attempt::<K>("change", namespace, name), error))
    }

    /// Deletes an object, if it is still the one that is meant. The object as it is afterwards, if it
    /// does not disappear at once.
    ///
    /// # Errors
    ///
    /// Of class `Conflict` if it is another. That it is gone already is no error.
    pub async fn delete<K: Namespaced>(
        &self,
        namespace: &str,
        name: &str,
        version: &Version,
        deletion: Deletion,
    ) -> Result<Option<K>, InfraError> {
        let policy = match deletion {
            Deletion::Foreground => PropagationPolicy::Foreground,
            Deletion::Background => PropagationPolicy::Background,
        };
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(version.uid.clone()),
                resource_version: version.resource_version.clone(),
            }),
            propagation_policy: Some(policy),
            ..DeleteParams::default()
        };
        match self.api::<K>(namespace).delete(name, &params).await {
            Ok(answer) => Ok(answer.left()),
            Err(error) => {
                let error = InfraError::new(attempt::<K>("delete", namespace, name), error);
                if error.is_absent() {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Metadata of a Secret; its contents never leave the infra cluster.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn secret_meta(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, InfraError> {
        self.meta::<Secret>(namespace, name).await
    }

    /// Metadata of a PersistentVolumeClaim.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn claim_meta(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, InfraError> {
        self.meta::<PersistentVolumeClaim>(namespace, name).await
    }

    async fn meta<K: Namespaced>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, InfraError> {
        match self.api::<K>(namespace).get_metadata(name).await {
            Ok(found) => Ok(Some(found.metadata)),
            Err(error) => {
                let error = InfraError::new(attempt::<K>("get", namespace, name), error);
                if error.is_absent() {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        }
    }
}
