//! The in-cluster IPAM provider, played by a program of its own: `ipam-in-cluster`.
//!
//! It runs under a service account with the rights of its manifests, against either API server; the
//! pools are of the published kinds.

use std::path::PathBuf;

use capi_testkit::crds;
use serde_json::Value;

use crate::apply::Applier;
use crate::audit::{self, Request};
use crate::failure::Failure;
use crate::management::Management;
use crate::manager::{account_token, token_kubeconfig};
use crate::process::{self, Launch};
use crate::provider;
use crate::site::Site;

/// The program, also the process's name.
pub const NAME: &str = "ipam-in-cluster";
/// Where its manifests put it, and under whose account it runs there.
pub const NAMESPACE: &str = "ipam-in-cluster-system";
/// The service account.
pub const ACCOUNT: &str = "ipam-in-cluster-manager";

/// The pools' definitions, the service account and its rights.
///
/// # Errors
///
/// None that is expected: the manifests are part of this crate.
pub fn manifests() -> Result<Vec<Value>, Failure> {
    let rights: Vec<Value> = serde_saphyr::from_multiple(include_str!("ipam.yaml"))?;
    let definitions = crds::ipam_in_cluster().iter().cloned();
    Ok(definitions.chain(rights).collect())
}

/// The process, with a kubeconfig for the API server that it is to serve.
#[derive(Clone, Debug)]
pub struct Ipam {
    site: Site,
    launch: Launch,
}

impl Ipam {
    /// Applies the manifests to a management cluster and prepares the process.
    ///
    /// # Errors
    ///
    /// What the server refuses, and as [`Ipam::installed`].
    pub async fn install(management: &Management) -> Result<Self, Failure> {
        let mut applier = Applier::new(management.client.clone());
        for object in manifests()? {
            applier.apply(object).await?;
        }
        Self::installed(management).await
    }

    /// Prepares the process where the manifests are applied already, as by `clusterctl init`.
    ///
    /// # Errors
    ///
    /// No such service account, and as [`Ipam::with`].
    pub async fn installed(management: &Management) -> Result<Self, Failure> {
        let token = account_token(&management.client, NAMESPACE, ACCOUNT).await?;
        let kubeconfig = token_kubeconfig(&management.url(), &management.authority, &token);
        Self::with(management.site.clone(), &kubeconfig)
    }

    /// Prepares the process for any API server that has its manifests. It belongs to the run whose
    /// site this is.
    ///
    /// # Errors
    ///
    /// A program that is not built, a kubeconfig that cannot be written.
    pub fn with(site: Site, kubeconfig: &str) -> Result<Self, Failure> {
        let program = program()?;
        let kubeconfig = site.write(&format!("{NAME}.kubeconfig"), kubeconfig)?;
        let launch = Launch {
            name: NAME.to_owned(),
            program,
            arguments: vec![
                "run".to_owned(),
                format!("--kubeconfig={}", kubeconfig.display()),
            ],
            environment: Vec::new(),
        };
        Ok(Self { site, launch })
    }

    /// Starts the process. Claims are answered as soon as it has seen what is there; nothing needs to
    /// wait for that.
    ///
    /// # Errors
    ///
    /// A program that cannot be run, or ends at once.
    pub fn start(&self) -> Result<(), Failure> {
        process::start(&self.site, &self.launch)?;
        process::check(&self.site, NAME)?;
        Ok(())
    }

    /// Kills the process with `kill -9`.
    ///
    /// # Errors
    ///
    /// A process that stays.
    pub fn kill(&self) -> Result<(), Failure> {
        process::kill(&self.site, NAME)?;
        Ok(())
    }

    /// Its requests, from the log of the real API server.
    ///
    /// # Errors
    ///
    /// As [`audit::requests`].
    pub fn requests(&self) -> Result<Vec<Request>, Failure> {
        audit::requests(&self.site, &audit::account(NAMESPACE, ACCOUNT))
    }
}

/// The program, which cargo builds beside this one.
fn program() -> Result<PathBuf, Failure> {
    let path = provider::folder()?.join(NAME);
    if path.exists() {
        return Ok(path);
    }
    let shown = path.display();
    Err(Failure::new(format!(
        "find {shown}: build it with `cargo build -p e2e --bins`"
    )))
}
