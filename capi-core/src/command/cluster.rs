//! The way to the management cluster.

use std::path::Path;

use capi_contract::Credentials;
use http::HeaderValue;
use http::header::USER_AGENT;
use k8s_openapi::api::core::v1::Secret;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::CommandError;

/// From a file, or from `KUBECONFIG`, `~/.kube/config` or the pod's service account.
pub(super) async fn configuration(
    kubeconfig: Option<&Path>,
    agent: &str,
) -> Result<Config, CommandError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let unread = |source| CommandError::Kubeconfig {
                path: path.to_owned(),
                source,
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(unread)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.map_err(unread)?
        }
        None => Config::infer().await.map_err(CommandError::NoCluster)?,
    };
    // Names and versions are ASCII words.
    if let Ok(agent) = HeaderValue::from_str(agent) {
        config.headers.push((USER_AGENT, agent));
    }
    Ok(config)
}

pub(super) fn client(config: Config) -> Result<Client, CommandError> {
    crate::client(config).map_err(|error| CommandError::Client(Box::new(error)))
}

/// Reads a credentials Secret, `NAMESPACE/NAME`, for a `doctor`.
///
/// # Errors
///
/// If there is no cluster, or the Secret cannot be read.
pub async fn credentials(
    kubeconfig: Option<&Path>,
    secret: &str,
) -> Result<Credentials, CommandError> {
    let parts = secret.split_once('/');
    let (namespace, name) = parts.ok_or_else(|| CommandError::SecretName(secret.to_owned()))?;
    let client = client(configuration(kubeconfig, "capi-doctor").await?)?;
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let found = api.get(name).await.map_err(|error| CommandError::Secret {
        name: secret.to_owned(),
        source: Box::new(error),
    })?;
    let data = found.data.unwrap_or_default().into_iter();
    Ok(Credentials::new(data.map(|(key, bytes)| (key, bytes.0))))
}
