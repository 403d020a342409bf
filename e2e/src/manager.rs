//! The managers of Cluster API: core, kubeadm bootstrap, kubeadm control plane.
//!
//! Each runs under the service account and the rights of its release manifest, not as an
//! administrator, so that a missing right shows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::apply::{Applier, ApplyError};
use crate::management::Management;
use crate::manifest::{self, Webhooks};
use crate::process::{self, Launch, ProcessError};
use crate::site::SiteError;
use crate::tool::{BOOTSTRAP, CONTROL_PLANE, CORE, KUBECTL, Tool, ToolError};

/// Longer than any run.
const TOKEN_SECONDS: i64 = 24 * 3_600;
/// How long a manager may take to be ready; idle it takes one second.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Why a manager does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// A program could not be built, or its sources are missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file could not be written.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// A process could not be started, or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// An object was refused.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The release manifest could not be rendered.
    #[error("render the manifest below {}: {output}", path.display())]
    Render {
        /// Where the manifest lies.
        path: PathBuf,
        /// What was said.
        output: String,
    },
    /// No token for the manager's account.
    #[error("ask for a token of service account {0}")]
    Token(String, #[source] Box<kube::Error>),
    /// It is not ready in time.
    #[error("{name} is not ready after {} s; its log is {}", READY_WITHIN.as_secs(), log.display())]
    NotReady {
        /// The manager.
        name: &'static str,
        /// Where its log lies.
        log: PathBuf,
    },
}

/// A manager of Cluster API.
#[derive(Clone, Copy, Debug)]
pub struct Manager {
    /// The program.
    pub tool: Tool,
    /// Its place among the ports.
    number: u16,
    /// Below the module's sources.
    manifest: &'static str,
    namespace: &'static str,
    account: &'static str,
    features: &'static str,
}

/// Gates that must agree between core and control plane, and that of data in Ignition's format, which the
/// webhooks of both kubeadm providers look at.
const FEATURES: &str = "ClusterTopology=true,RuntimeSDK=true,InPlaceUpdates=true,MachinePool=true,\
                        MachineTaintPropagation=true,KubeadmBootstrapFormatIgnition=true";

/// All managers, in the order in which they are started.
pub const MANAGERS: [Manager; 3] = [
    Manager {
        tool: CORE,
        number: 0,
        manifest: "core/config/default",
        namespace: "capi-system",
        account: "capi-manager",
        features: FEATURES,
    },
    Manager {
        tool: BOOTSTRAP,
        number: 1,
        manifest: "bootstrap/kubeadm/config/default",
        namespace: "capi-kubeadm-bootstrap-system",
        account: "capi-kubeadm-bootstrap-manager",
        features: "MachinePool=true,KubeadmBootstrapFormatIgnition=true",
    },
    Manager {
        tool: CONTROL_PLANE,
        number: 2,
        manifest: "controlplane/kubeadm/config/default",
        namespace: "capi-kubeadm-control-plane-system",
        account: "capi-kubeadm-control-plane-manager",
        features: FEATURES,
    },
];

impl Manager {
    /// Its release manifest, rewritten for a program outside the cluster.
    ///
    /// # Errors
    ///
    /// Sources or `kubectl` that are missing.
    pub fn objects(&self, management: &Management) -> Result<Vec<Value>, ManagerError> {
        let [port, ..] = management.ports.manager(self.number);
        let webhooks = Webhooks {
            port,
            authority: management.authority.clone(),
        };
        let all = render(&self.tool.sources()?.join(self.manifest))?;
        let kept = all.into_iter();
        Ok(kept
            .filter_map(|object| manifest::rewrite(object, &webhooks))
            .collect())
    }

    /// Starts it and waits until it is ready; its objects must be applied.
    ///
    /// # Errors
    ///
    /// A program that is missing or does not become ready.
    pub async fn start(&self, management: &Management) -> Result<(), ManagerError> {
        self.start_with(management, &[]).await
    }

    /// The same with these arguments besides.
    ///
    /// # Errors
    ///
    /// As [`Manager::start`].
    pub async fn start_with(
        &self,
        management: &Management,
        more: &[&str],
    ) -> Result<(), ManagerError> {
        let site = &management.site;
        let token = account_token(&management.client, self.namespace, self.account).await?;
        let name = self.tool.name;
        let kubeconfig = token_kubeconfig(&management.url(), &management.authority, &token);
        let kubeconfig = site.write(&format!("{name}.kubeconfig"), &kubeconfig)?;
        let [webhooks, health, metrics] = management.ports.manager(self.number);
        let mut arguments = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".to_owned(),
            format!("--webhook-port={webhooks}"),
            format!("--webhook-cert-dir={}", site.path("webhooks").display()),
            format!("--health-addr=127.0.0.1:{health}"),
            format!("--diagnostics-address=127.0.0.1:{metrics}"),
            "--insecure-diagnostics".to_owned(),
            format!("--feature-gates={}", self.features),
        ];
        arguments.extend(more.iter().map(|&one| one.to_owned()));
        let launch = Launch {
            name: name.to_owned(),
            program: self.tool.build()?,
            arguments,
            environment: Vec::new(),
        };
        process::start(site, &launch)?;
        self.ready(management, health).await
    }

    async fn ready(&self, management: &Management, port: u16) -> Result<(), ManagerError> {
        let begun = Instant::now();
        let url = format!("http://127.0.0.1:{port}/readyz");
        loop {
            let answer = reqwest::get(&url).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            process::check(&management.site, self.tool.name)?;
            if begun.elapsed() > READY_WITHIN {
                return Err(ManagerError::NotReady {
                    name: self.tool.name,
                    log: management.site.log(self.tool.name),
                });
            }
            sleep(LOOK).await;
        }
    }
}

/// Applies the manifests of all managers.
///
/// # Errors
///
/// As [`Manager::objects`] and [`Applier::apply`].
pub async fn install_all(management: &Management) -> Result<(), ManagerError> {
    let mut applier = Applier::new(management.client.clone());
    for manager in MANAGERS {
        for object in manager.objects(management)? {
            applier.apply(object).await?;
        }
    }
    Ok(())
}

/// Installs and starts all managers.
///
/// # Errors
///
/// As [`install_all`] and [`Manager::start`].
pub async fn start_all(management: &Management) -> Result<(), ManagerError> {
    install_all(management).await?;
    for manager in MANAGERS {
        manager.start(management).await?;
    }
    Ok(())
}

/// Renders a kustomization with the pinned `kubectl`.
fn render(directory: &Path) -> Result<Vec<Value>, ManagerError> {
    let failed = |output: String| ManagerError::Render {
        path: directory.to_owned(),
        output,
    };
    let output = Command::new(KUBECTL.build()?)
        .arg("kustomize")
        .arg(directory)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_saphyr::from_multiple(&text).map_err(|error| failed(error.to_string()))
}

/// A token of a service account, as the API server gives it out.
///
/// # Errors
///
/// [`ManagerError::Token`], if there is no such account.
pub async fn account_token(
    client: &Client,
    namespace: &str,
    account: &str,
) -> Result<String, ManagerError> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let given = api.create_token_request(account, &params, &request);
    let given = given
        .await
        .map_err(|error| ManagerError::Token(account.to_owned(), Box::new(error)))?;
    Ok(given.status.map(|status| status.token).unwrap_or_default())
}

/// A kubeconfig with a service account's token.
#[must_use]
pub fn token_kubeconfig(url: &str, authority: &str, token: &str) -> String {
    let authority = k8s_openapi::ByteString(authority.as_bytes().to_vec());
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "clusters": [{"name": "e2e", "cluster": {
            "server": url, "certificate-authority-data": authority}}],
        "users": [{"name": "e2e", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
    });
    config.to_string()
}
