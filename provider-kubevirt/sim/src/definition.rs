//! The definitions of KubeVirt and CDI.

use capi_testkit::apiserver::{ApiServer, StatusError};
use capi_testkit::crds;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::Value;

/// The published definitions could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("installing the definition {name}")]
pub struct InstallError {
    name: String,
    #[source]
    cause: Box<kube::Error>,
}

/// Installs the published definitions of KubeVirt and CDI through the API, by server-side apply: those
/// that are there are brought to the same version.
///
/// # Errors
///
/// [`InstallError`] with the server's refusal of the first one.
pub async fn install(client: &Client) -> Result<(), InstallError> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let params = PatchParams::apply("virt-operator").force();
    for definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let applied = api.patch(name, &params, &Patch::Apply(definition)).await;
        applied.map_err(|cause| InstallError {
            name: name.to_owned(),
            cause: Box::new(cause),
        })?;
    }
    Ok(())
}

pub(crate) fn install_in(server: &ApiServer) -> Result<(), StatusError> {
    server.install_crds(definitions())
}

fn definitions() -> impl Iterator<Item = &'static Value> {
    crds::kubevirt().iter().chain(crds::cdi())
}
