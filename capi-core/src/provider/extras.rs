//! Objects of others that go with a cluster.

use capi_contract::view::CLUSTER_NAME_LABEL;
use capi_contract::{ChildKind, Class, Extras, ObjectName};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};

use super::children::resource_of;
use crate::engine::Failure;

/// Deletes them. The kinds that this program may not delete are returned; it asks first, so that nobody
/// who reads the audit log finds it at what it has no right to.
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
        let may_delete = may_delete(client, kind, &cluster.namespace)
            .await
            .map_err(|error| failed("asking for the right to delete", kind, cluster, &error))?;
        if !may_delete {
            refused.push(kind.plural);
            continue;
        }
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
            Err(error) => return Err(failed("deleting", kind, cluster, &error)),
        }
    }
    Ok(refused)
}

fn failed(doing: &str, kind: &ChildKind, cluster: &ObjectName, error: &kube::Error) -> Failure {
    tracing::warn!(%cluster, kind = kind.kind, %error, "{doing} extra resources failed");
    // What is not the server's answer is about the connection, and the log's.
    let why = match error {
        kube::Error::Api(status) => format!(": {}", status.message),
        _ => String::new(),
    };
    let message = format!("{doing} the {} of the cluster failed{why}", kind.plural);
    Failure::new("ExtraResources", Class::Transient, message)
}

/// Whether this program has the right to delete them, says the server.
async fn may_delete(
    client: &Client,
    kind: &ChildKind,
    namespace: &str,
) -> Result<bool, kube::Error> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(kind.group.to_owned()),
                resource: Some(kind.plural.to_owned()),
                verb: Some("deletecollection".to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
