//! Reaching workload clusters.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// How long a control plane may take to answer a connection: one that is still coming up drops
/// packets, and is tried again.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Makes clients of workload clusters from their kubeconfigs.
///
/// The default takes a kubeconfig that carries all its credentials in itself, as those of Cluster
/// API do. One that names a command, a plugin or files is refused: whoever may write the Secret
/// would run programs and read files as this process. Cloning is cheap.
#[derive(Clone)]
pub struct Dial(Arc<Dialler>);

type Dialler = dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<Client, DialError>> + Send + Sync;

/// Why a workload cluster cannot be reached with its kubeconfig.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// It is not a kubeconfig. What the parser says is left out: it repeats parts of the text, which is
    /// secret.
    #[error("the kubeconfig is not YAML of kind Config")]
    Malformed,
    /// It names what it does not hold.
    #[error("read the kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    /// It asks to run a program or to read a file.
    #[error("the kubeconfig has {field}, which is not followed; put the credentials into it")]
    Outside {
        /// The field.
        field: &'static str,
    },
    /// No client can be made of it.
    #[error("make a client of the kubeconfig")]
    Client(#[from] kube::Error),
}

impl Dial {
    /// Reaches workload clusters in another way, such as in tests.
    pub fn new<F, R>(dial: F) -> Self
    where
        F: Fn(Vec<u8>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Client, DialError>> + Send + 'static,
    {
        Self(Arc::new(move |kubeconfig| dial(kubeconfig).boxed()))
    }

    pub(crate) async fn reach(&self, kubeconfig: Vec<u8>) -> Result<Client, DialError> {
        (self.0)(kubeconfig).await
    }
}

impl Default for Dial {
    fn default() -> Self {
        Self::new(by_kubeconfig)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial(..)")
    }
}

async fn by_kubeconfig(bytes: Vec<u8>) -> Result<Client, DialError> {
    let text = String::from_utf8_lossy(&bytes);
    let kubeconfig = Kubeconfig::from_yaml(&text).map_err(|_| DialError::Malformed)?;
    check(&kubeconfig)?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    config.connect_timeout = Some(CONNECT_WITHIN);
    Ok(crate::client(config)?)
}

/// Refuses whatever reaches outside the document.
fn check(kubeconfig: &Kubeconfig) -> Result<(), DialError> {
    let users = kubeconfig
        .auth_infos
        .iter()
        .filter_map(|named| named.auth_info.as_ref());
    let mut outside: Vec<&'static str> = Vec::new();
    for user in users {
        outside.extend(user.exec.as_ref().map(|_| "users[].user.exec"));
        outside.extend(
            user.auth_provider
                .as_ref()
                .map(|_| "users[].user.auth-provider"),
        );
        outside.extend(user.token_file.as_ref().map(|_| "users[].user.tokenFile"));
        outside.extend(
            user.client_certificate
                .as_ref()
                .map(|_| "users[].user.client-certificate"),
        );
        outside.extend(user.client_key.as_ref().map(|_| "users[].user.client-key"));
    }
    let clusters = kubeconfig
        .clusters
        .iter()
        .filter_map(|named| named.cluster.as_ref());
    for cluster in clusters {
        let file = cluster.certificate_authority.as_ref();
        outside.extend(file.map(|_| "clusters[].cluster.certificate-authority"));
    }
    match outside.first() {
        Some(field) => Err(DialError::Outside { field }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kubeconfig(cluster: &Value, user: &Value) -> Vec<u8> {
        let mut whole = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}],
            "users": [{"name": "u", "user": {"token": "t0ken"}}],
        });
        json_patch::merge(&mut whole["clusters"][0]["cluster"], cluster);
        json_patch::merge(&mut whole["users"][0]["user"], user);
        whole.to_string().into_bytes()
    }

    async fn refusal(cluster: Value, user: Value) -> String {
        let dialled = Dial::default().reach(kubeconfig(&cluster, &user)).await;
        dialled.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_kubeconfig_that_reaches_outside_itself_is_refused() {
        let none = || json!({});
        assert_eq!(refusal(none(), none()).await, "");
        for (cluster, user, field) in [
            (
                none(),
                json!({"exec": {"command": "sh", "apiVersion": "v1"}}),
                "exec",
            ),
            (
                none(),
                json!({"auth-provider": {"name": "gcp", "config": {}}}),
                "auth-provider",
            ),
            (none(), json!({"tokenFile": "/var/run/token"}), "tokenFile"),
            (
                none(),
                json!({"client-certificate": "/etc/c"}),
                "client-certificate",
            ),
            (none(), json!({"client-key": "/etc/k"}), "client-key"),
            (
                json!({"certificate-authority": "/etc/ca"}),
                none(),
                "certificate-authority",
            ),
        ] {
            let message = refusal(cluster, user).await;
            assert!(message.contains(field), "{field}: {message}");
        }
    }

    #[tokio::test]
    async fn r15_what_is_no_kubeconfig_is_refused_without_being_repeated() {
        let refused = Dial::default().reach(b"users: t0ken".to_vec()).await;
        let error = refused.err().unwrap();
        assert!(matches!(error, DialError::Malformed), "{error}");
        let shown = format!("{error} {error:?} {}", crate::cause::chain(&error));
        assert!(!shown.contains("t0ken"), "{shown}");
    }
}
