//! From credentials to a session.

use std::fmt;
use std::sync::Arc;

use capi_contract::{Class, Classify, Connect, Credentials, Identity, Wakes};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::login::Logins;
use crate::session::Session;

/// Key of the kubeconfig in the Secret.
const KUBECONFIG: &str = "kubeconfig";
/// Key of the namespace in the Secret.
const NAMESPACE: &str = "namespace";

/// Makes clients for tests and for simulators in the same process, whatever the credentials say.
type Dial = dyn Fn(Option<&Identity>) -> Client + Send + Sync;

/// Makes sessions from Secrets with kubeconfigs, and one with the process's own client.
///
/// # The Secret
///
/// | key | meaning |
/// |---|---|
/// | `kubeconfig` | how the infra cluster is reached |
/// | `namespace` | optional: where things are made there; else the namespace of the kubeconfig's context |
///
/// A kubeconfig that runs programs or reads files (`exec`, `authProvider`, `tokenFile`,
/// `client-key`, ...) is refused: whoever may write the Secret would run programs and read files in
/// the provider's pod.
///
/// Without a Secret the infra cluster is the one where the objects are.
#[derive(Clone, Default)]
pub struct Connector {
    own: Option<Client>,
    through: Option<Arc<Dial>>,
    logins: Option<Arc<dyn Logins>>,
    wishes_ssh: bool,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("own", &self.own.is_some())
            .finish_non_exhaustive()
    }
}

/// Why credentials cannot be used. The text names the key and what to put there, never a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The process has no cluster of its own.
    #[error(
        "find the cluster that the provider itself runs in: give it a kubeconfig or run it in a pod"
    )]
    NoOwn(#[source] Box<kube::config::InferConfigError>),
    /// A key is missing or empty.
    #[error("Secret {secret} has no {KUBECONFIG}: set it to the kubeconfig of the infra cluster")]
    Missing {
        /// The Secret.
        secret: String,
    },
    /// The kubeconfig is not one.
    #[error("Secret {secret}: {KUBECONFIG} is not a kubeconfig with a current context")]
    Malformed {
        /// The Secret.
        secret: String,
    },
    /// The kubeconfig would run programs or read files.
    #[error(
        "Secret {secret}: {KUBECONFIG} uses {field}, which would act in the provider's pod; put the \
         token or certificate itself there"
    )]
    Unsafe {
        /// The Secret.
        secret: String,
        /// The field.
        field: &'static str,
    },
    /// The client cannot be made, for instance for a malformed certificate.
    #[error("{place} cannot be used for a client: check its certificates, keys and proxy")]
    Client {
        /// The Secret, or the process's own configuration.
        place: String,
        /// What is wrong.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Classify for ConnectError {
    fn class(&self) -> Class {
        Class::Credentials
    }
}

/// The part of a kubeconfig that would act in the process that reads it.
fn acting(kubeconfig: &Kubeconfig) -> Option<&'static str> {
    let users = kubeconfig.auth_infos.iter();
    let by_user = users
        .filter_map(|user| user.auth_info.as_ref())
        .find_map(|user| {
            [
                (user.exec.is_some(), "exec"),
                (user.auth_provider.is_some(), "auth-provider"),
                (user.token_file.is_some(), "tokenFile"),
                (user.client_certificate.is_some(), "client-certificate"),
                (user.client_key.is_some(), "client-key"),
            ]
            .into_iter()
            .find_map(|(used, field)| used.then_some(field))
        });
    let mut clusters = kubeconfig.clusters.iter();
    by_user.or_else(|| {
        let reads = clusters.any(|one| {
            let cluster = one.cluster.as_ref();
            cluster.is_some_and(|cluster| cluster.certificate_authority.is_some())
        });
        reads.then_some("certificate-authority")
    })
}

/// A client that sends each request once: kube's own retry repeats creates, which the engine must
/// know about.
fn client(place: &str, mut config: Config) -> Result<Client, ConnectError> {
    config.default_retry = false;
    Client::try_from(config).map_err(|source| ConnectError::Client {
        place: place.to_owned(),
        source: Box::new(source),
    })
}

impl Connector {
    /// Without a Secret, the cluster of the process's own kubeconfig or pod.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the client for objects without a Secret.
    #[must_use]
    pub fn with_own(mut self, own: Client) -> Self {
        self.own = Some(own);
        self
    }

    /// Wishes for guests to be asked over SSH: [`asking`](Self::asking) follows once the cluster with the
    /// keys is known.
    #[must_use]
    pub fn wishing_ssh(mut self) -> Self {
        self.wishes_ssh = true;
        self
    }

    /// Whether guests are to be asked over SSH.
    #[must_use]
    pub fn wishes_ssh(&self) -> bool {
        self.wishes_ssh
    }

    /// Asks guests by these means whether their bootstrap is over.
    #[must_use]
    pub fn asking(mut self, logins: Arc<dyn Logins>) -> Self {
        self.logins = Some(logins);
        self
    }

    /// Speaks through these clients whatever the credentials: for tests and for simulators in the
    /// same process. Kubeconfigs are read as ever.
    #[must_use]
    pub fn through(
        mut self,
        dial: impl Fn(Option<&Identity>) -> Client + Send + Sync + 'static,
    ) -> Self {
        self.through = Some(Arc::new(dial));
        self
    }

    async fn own_client(&self) -> Result<Client, ConnectError> {
        if let Some(dial) = &self.through {
            return Ok(dial(None));
        }
        if let Some(own) = &self.own {
            return Ok(own.clone());
        }
        let config = Config::infer()
            .await
            .map_err(|error| ConnectError::NoOwn(Box::new(error)))?;
        client("the provider's own configuration", config)
    }

    async fn foreign(
        &self,
        identity: &Identity,
        credentials: &Credentials,
    ) -> Result<Session, ConnectError> {
        let secret = identity.secret.to_string();
        let config = configuration(&secret, credentials).await?;
        let namespace = credentials.text(NAMESPACE).filter(|text| !text.is_empty());
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = match &self.through {
            Some(dial) => dial(Some(identity)),
            None => client(&format!("{KUBECONFIG} of Secret {secret}"), config)?,
        };
        Ok(Session::new(client, Some(namespace)).asking(self.logins.clone()))
    }
}

/// Reads the kubeconfig of a Secret.
async fn configuration(secret: &str, credentials: &Credentials) -> Result<Config, ConnectError> {
    let text = credentials.text(KUBECONFIG).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| ConnectError::Missing {
        secret: secret.to_owned(),
    })?;
    // What is wrong with it may quote it, so the error is not kept.
    let malformed = || ConnectError::Malformed {
        secret: secret.to_owned(),
    };
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|_| malformed())?;
    if let Some(field) = acting(&kubeconfig) {
        return Err(ConnectError::Unsafe {
            secret: secret.to_owned(),
            field,
        });
    }
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|_| malformed())
}

impl Connect for Connector {
    type Session = Session;
    type Error = ConnectError;

    async fn connect(
        &self,
        identity: Option<&Identity>,
        credentials: Option<&Credentials>,
    ) -> Result<Session, ConnectError> {
        match (identity, credentials) {
            (Some(identity), Some(data)) => self.foreign(identity, data).await,
            _ => {
                let session = Session::new(self.own_client().await?, None);
                Ok(session.asking(self.logins.clone()))
            }
        }
    }

    async fn follow(&self, session: &Session, wakes: &Wakes) {
        session.follow(wakes).await;
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GOOD: &str = r#"
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u, namespace: tenant}}]
clusters: [{name: c, cluster: {server: "https://infra:6443"}}]
users: [{name: u, user: {token: s3cret}}]
"#;

    fn secret(kubeconfig: &str) -> Credentials {
        Credentials::new([(KUBECONFIG.to_owned(), kubeconfig.as_bytes().to_vec())])
    }

    async fn refusal(credentials: Credentials) -> ConnectError {
        configuration("ns/infra", &credentials).await.unwrap_err()
    }

    #[tokio::test]
    async fn the_namespace_is_that_of_the_context() {
        let config = configuration("ns/infra", &secret(GOOD)).await.unwrap();
        assert_eq!(config.default_namespace, "tenant");
    }

    #[rstest]
    #[case(
        "token: s3cret",
        "exec: {command: id, apiVersion: client.authentication.k8s.io/v1}",
        "exec"
    )]
    #[case(
        "token: s3cret",
        "auth-provider: {name: gcp, config: {}}",
        "auth-provider"
    )]
    #[case("token: s3cret", "tokenFile: /var/run/secrets/token", "tokenFile")]
    #[case("token: s3cret", "client-key: /etc/key", "client-key")]
    #[case(
        "server: \"https://infra:6443\"",
        "server: \"https://infra:6443\", certificate-authority: /etc/ca",
        "certificate-authority"
    )]
    #[tokio::test]
    async fn a_kubeconfig_that_acts_in_the_pod_is_refused(
        #[case] from: &str,
        #[case] to: &str,
        #[case] field: &str,
    ) {
        let error = refusal(secret(&GOOD.replace(from, to))).await;
        assert!(
            error.to_string().contains(&format!("uses {field},")),
            "{error}"
        );
        assert_eq!(error.class(), Class::Credentials);
    }

    #[tokio::test]
    async fn bad_credentials_name_the_secret_and_what_belongs_there() {
        let error = refusal(Credentials::default()).await;
        assert!(
            error
                .to_string()
                .starts_with("Secret ns/infra has no kubeconfig")
        );
        let error = refusal(secret("s3cret: [")).await;
        let shown = format!("{error} {error:?}");
        assert!(
            shown.contains("not a kubeconfig") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
}
