//! The credentials Secret of an infra cluster: owned by it, and kept until it is gone (ID-02).
//!
//! # Guarantees
//!
//! A Secret in the cluster's own namespace moves with it and cannot vanish before its last user,
//! so that a teardown finds its credentials even if everything was deleted at once. One in another
//! namespace is its owner's business, and is left alone. Nothing waits for this: without the right
//! to patch Secrets, work goes on unprotected.

use std::collections::HashMap;

use capi_contract::{Class, Identity, ObjectName};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::engine::Failure;

/// A Secret and the uid of the cluster that it is kept for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    uid: Option<String>,
    secret: ObjectName,
}

/// Keeps the Secrets of clusters.
pub(crate) struct Keeper {
    client: Client,
    manager: String,
    /// What keeps a Secret; `None` if the provider's Secrets are not kept.
    finalizer: Option<&'static str>,
    /// By cluster, what this process has seen to.
    kept: Mutex<HashMap<ObjectName, Kept>>,
}

impl Keeper {
    pub(crate) fn new(client: Client, manager: String, finalizer: Option<&'static str>) -> Self {
        Self {
            client,
            manager,
            finalizer,
            kept: Mutex::default(),
        }
    }

    /// Sees to it that the Secret that a cluster names now is kept, and no other.
    pub(crate) async fn keep<K>(
        &self,
        cluster: &K,
        identity: Option<&Identity>,
    ) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let Some(finalizer) = self.finalizer else {
            return Ok(());
        };
        let name = ObjectName::of(cluster);
        let wanted = identity.and_then(|identity| own_secret(&name, identity));
        let wanted = wanted.map(|secret| Kept {
            uid: cluster.uid(),
            secret,
        });
        let known = self.kept.lock().get(&name).cloned();
        if known == wanted {
            return Ok(());
        }
        if let Some(known) = known.filter(|known| known.uid == cluster.uid()) {
            self.let_go(&owner(cluster), &known.secret, finalizer)
                .await?;
            self.kept.lock().remove(&name);
        }
        let Some(wanted) = wanted else {
            return Ok(());
        };
        if self.take(&owner(cluster), &wanted.secret, finalizer).await {
            self.kept.lock().insert(name, wanted);
        }
        Ok(())
    }

    /// The cluster is gone: its Secret is kept no longer, unless others use it.
    pub(crate) async fn release<K>(
        &self,
        cluster: &K,
        identity: Option<&Identity>,
    ) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let name = ObjectName::of(cluster);
        if let (Some(finalizer), Some(identity)) = (self.finalizer, identity)
            && let Some(secret) = own_secret(&name, identity)
        {
            self.let_go(&owner(cluster), &secret, finalizer).await?;
        }
        self.kept.lock().remove(&name);
        Ok(())
    }

    /// Adds owner and finalizer. Returns whether it need not be tried again.
    async fn take(
        &self,
        owner: &OwnerReference,
        secret: &ObjectName,
        finalizer: &'static str,
    ) -> bool {
        // Both lists merge by their elements, so nothing has to be read, and nothing of others is
        // touched; where both are there already, nothing changes.
        let patch = json!({"metadata": {"finalizers": [finalizer], "ownerReferences": [owner]}});
        let written = self.write(secret, &Patch::Strategic(patch)).await;
        match written {
            Ok(()) => true,
            // It may be on its way out, or we lack the right: neither will be better in a moment.
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
                tracing::warn!(%secret, message = %status.message, "credentials are not protected");
                status.code != 404
            }
            Err(error) => {
                tracing::debug!(%secret, %error, "credentials are not protected yet");
                false
            }
        }
    }

    async fn let_go(
        &self,
        owner: &OwnerReference,
        secret: &ObjectName,
        finalizer: &'static str,
    ) -> Result<(), Failure> {
        let failed = |class: Class, error: kube::Error| {
            tracing::debug!(%secret, %error, "credentials could not be let go");
            Failure::new(
                "Secret",
                class,
                format!("letting Secret {secret} go failed"),
            )
        };
        let found = self.api(secret).get_opt(&secret.name).await;
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            // What cannot be read was never kept.
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(()),
            Err(error) => return Err(failed(Class::Transient, error)),
        };
        let Some(patch) = without(&found, owner, finalizer) else {
            return Ok(());
        };
        match self.write(secret, &Patch::Merge(patch)).await {
            Ok(()) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(failed(Class::Conflict, kube::Error::Api(status)))
            }
            Err(error) => Err(failed(Class::Transient, error)),
        }
    }

    fn api(&self, secret: &ObjectName) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &secret.namespace)
    }

    async fn write<P>(&self, secret: &ObjectName, patch: &Patch<P>) -> Result<(), kube::Error>
    where
        P: serde::Serialize + std::fmt::Debug,
    {
        let params = PatchParams {
            field_manager: Some(self.manager.clone()),
            ..PatchParams::default()
        };
        // The answer holds the credentials; nobody needs them here.
        let api = self.api(secret);
        api.patch_metadata(&secret.name, &params, patch).await?;
        Ok(())
    }
}

/// The Secret of an identity, if it is in the cluster's own namespace.
fn own_secret(cluster: &ObjectName, identity: &Identity) -> Option<ObjectName> {
    (identity.secret.namespace == cluster.namespace).then(|| identity.secret.clone())
}

/// An owner among others: not the controller, and in nobody's way.
fn owner<K: Resource<DynamicType = ()>>(cluster: &K) -> OwnerReference {
    OwnerReference {
        controller: None,
        block_owner_deletion: None,
        ..super::children::owner_reference(cluster)
    }
}

/// What has to change when an owner goes; `None` if nothing. While other clusters own the Secret, only
/// the owner goes; after the last one the finalizer goes, and the Secret with its owner.
fn without(secret: &Secret, owner: &OwnerReference, finalizer: &str) -> Option<serde_json::Value> {
    let mut owners = secret.owner_references().to_vec();
    let mut finalizers = secret.finalizers().to_vec();
    let is_other = |other: &OwnerReference| other.kind == owner.kind && other.uid != owner.uid;
    if owners.iter().any(is_other) {
        owners.retain(|one| one.uid != owner.uid);
    } else {
        finalizers.retain(|one| one != finalizer);
    }
    if owners.len() == secret.owner_references().len()
        && finalizers.len() == secret.finalizers().len()
    {
        return None;
    }
    Some(json!({"metadata": {
        "resourceVersion": secret.resource_version(),
        "uid": secret.uid(),
        "ownerReferences": owners,
        "finalizers": finalizers,
    }}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINALIZER: &str = "farm.example.com/secret";

    fn by(uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "infrastructure.cluster.x-k8s.io/v1alpha1".into(),
            kind: "FarmCluster".into(),
            name: uid.into(),
            uid: uid.into(),
            ..OwnerReference::default()
        }
    }

    fn secret(owners: &[&str], finalizers: &[&str]) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.resource_version = Some("7".into());
        let owners = owners.iter().map(|uid| by(uid)).collect();
        secret.metadata.owner_references = Some(owners);
        let finalizers = finalizers.iter().map(|one| (*one).to_owned()).collect();
        secret.metadata.finalizers = Some(finalizers);
        secret
    }

    #[test]
    fn id_02_the_last_owner_takes_the_finalizer_off() {
        let shared = secret(&["a", "b"], &[FINALIZER, "others"]);
        let patch = without(&shared, &by("a"), FINALIZER).unwrap();
        assert_eq!(patch["metadata"]["ownerReferences"], json!([by("b")]));
        assert_eq!(
            patch["metadata"]["finalizers"],
            json!([FINALIZER, "others"])
        );
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let last = secret(&["b"], &[FINALIZER, "others"]);
        let patch = without(&last, &by("b"), FINALIZER).unwrap();
        assert_eq!(patch["metadata"]["ownerReferences"], json!([by("b")]));
        assert_eq!(patch["metadata"]["finalizers"], json!(["others"]));
        assert_eq!(
            without(&secret(&["b"], &["others"]), &by("b"), FINALIZER),
            None
        );
    }

    #[test]
    fn id_02_only_a_secret_beside_the_cluster_is_its_own() {
        let cluster = ObjectName::new("ns", "c");
        let own = Identity::secret("ns", "login");
        assert_eq!(
            own_secret(&cluster, &own),
            Some(ObjectName::new("ns", "login"))
        );
        assert_eq!(
            own_secret(&cluster, &Identity::secret("vault", "login")),
            None
        );
    }
}
