//! Objects of any kind, applied as a person would with `kubectl apply --server-side`.

use std::collections::HashMap;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Who applies.
const MANAGER: &str = "e2e";
/// How long a new kind may take until it is served. In the first second after a definition is made,
/// its objects are answered with 404 and 429.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(200);

/// Why an object was not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// It is no object.
    #[error("read an object of a manifest")]
    Malformed(#[from] serde_json::Error),
    /// It has no kind.
    #[error("an object of a manifest has no kind")]
    NoKind,
    /// The server refused it.
    #[error("apply {kind} {name}")]
    Refused {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What the server said.
        source: Box<kube::Error>,
    },
}

/// Applies objects, one after the other, and remembers how kinds are served.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    kinds: HashMap<GroupVersionKind, (ApiResource, Scope)>,
}

impl std::fmt::Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").finish_non_exhaustive()
    }
}

impl Applier {
    /// An applier with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: HashMap::new(),
        }
    }

    /// Applies one object; namespaced ones without namespace go to `default`.
    ///
    /// # Errors
    ///
    /// What the server refuses, unless it only needs time for a kind that is new.
    pub async fn apply(&mut self, object: Value) -> Result<DynamicObject, ApplyError> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.as_ref().ok_or(ApplyError::NoKind)?;
        let kind = GroupVersionKind::try_from(types).map_err(|_| ApplyError::NoKind)?;
        let begun = Instant::now();
        loop {
            let error = match self.try_apply(&kind, &object).await {
                Ok(applied) => return Ok(applied),
                Err(error) => error,
            };
            let is_early = match &error {
                kube::Error::Api(status) => matches!(status.code, 404 | 429),
                // A kind that discovery does not show yet.
                kube::Error::Discovery(_) => true,
                _ => false,
            };
            if !is_early || begun.elapsed() > SERVED_WITHIN {
                return Err(ApplyError::Refused {
                    kind: kind.kind,
                    name: object.name_any(),
                    source: Box::new(error),
                });
            }
            sleep(RETRY).await;
        }
    }

    async fn try_apply(
        &mut self,
        kind: &GroupVersionKind,
        object: &DynamicObject,
    ) -> Result<DynamicObject, kube::Error> {
        let (resource, scope) = match self.kinds.get(kind) {
            Some(known) => known.clone(),
            None => {
                let (resource, capabilities) = pinned_kind(&self.client, kind).await?;
                let known = (resource, capabilities.scope);
                self.kinds.insert(kind.clone(), known.clone());
                known
            }
        };
        let client = self.client.clone();
        let api: Api<DynamicObject> = match (scope, object.namespace()) {
            (Scope::Cluster, _) => Api::all_with(client, &resource),
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(client, &namespace, &resource)
            }
            (Scope::Namespaced, None) => Api::default_namespaced_with(client, &resource),
        };
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&object.name_any(), &params, &Patch::Apply(object))
            .await
    }
}
