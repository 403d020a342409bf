//! Objects of others that go with a cluster.

use capi_contract::view::CLUSTER_NAME_LABEL;
use capi_contract::{Class, Extras, ObjectName};
use kube::api::{DeleteParams, ListParams};
use kube::core::DynamicObject;
use kube::{Api, Client};

use super::children::resource_of;
use crate::engine::Failure;

/// Deletes them. The kinds that this program may not delete are returned.
pub(super) async fn delete(
    client: &Client,
    extras: &Extras,
    cluster: &ObjectName,
) -> Result<Vec<&'static str>, Failure> {
    let (label, value) = extras.label;
    let selector = format!("{label}={value},{CLUSTER_NAME_LABEL}={}", cluster.name);
    let of_cluster = ListParams::default().labels(&selector);
    let mut refused = Vec::new();
    for kind in extras.kinds {
        let resource = resource_of(kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &cluster.namespace, &resource);
        match api
            .delete_collection(&DeleteParams::background(), &of_cluster)
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => refused.push(kind.plural),
            // Nobody can have made any.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::debug!(%cluster, kind = kind.kind, %error, "extra resources not deleted");
                let message = format!("deleting the {} of the cluster failed", kind.plural);
                return Err(Failure::new("ExtraResources", Class::Transient, message));
            }
        }
    }
    Ok(refused)
}
