//! The provider as it is shipped: its program, its manifests, its rights.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::apply::Applier;
use e2e::management::Management;
use e2e::manager::{account_token, token_kubeconfig};
use e2e::manifest::{self, Webhooks};
use e2e::process::{self, Launch};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Under which name the process is listed.
const NAME: &str = "provider-proxmox";
/// Where the manifests put it, and under whose account it runs there.
pub(crate) const NAMESPACE: &str = "capmox-system";
pub(crate) const ACCOUNT: &str = "capmox-manager";
/// How long it may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// The provider's program, and what it is started with.
pub(crate) struct Provider {
    management: Management,
    launch: Launch,
    health: u16,
}

/// Builds the program.
pub(crate) fn build() -> Result<PathBuf, Box<dyn Error>> {
    // Of the whole workspace, whose dependencies are there already: of one package they would be
    // built again with fewer features.
    let build = ["build", "--workspace", "--bins"];
    let status = Command::new(env!("CARGO")).args(build).status()?;
    if !status.success() {
        return Err(format!("cargo {} failed", build.join(" ")).into());
    }
    // Tests lie in the same folder's `deps`.
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).ok_or("no folder")?;
    Ok(folder.join("provider-proxmox"))
}

/// What `manifests` prints.
pub(crate) fn manifests(program: &Path, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program)
        .arg("manifests")
        .args(arguments)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

impl Provider {
    /// Applies the manifests, with webhooks that are reached on loopback, and prepares the process: it
    /// runs under the account of the manifests and nobody else's rights.
    pub(crate) async fn install(
        management: &Management,
        program: &Path,
        proxmox: [(&str, String); 4],
    ) -> Result<Self, Box<dyn Error>> {
        // The managers of Cluster API have the first three places.
        let [webhooks, health, _] = management.ports.manager(3);
        let rewriting = Webhooks {
            port: webhooks,
            authority: management.authority.clone(),
        };
        let mut applier = Applier::new(management.client.clone());
        let all: Vec<Value> = serde_saphyr::from_multiple(&manifests(program, &[])?)?;
        for object in all {
            if let Some(object) = manifest::rewrite(object, &rewriting) {
                applier.apply(object).await?;
            }
        }
        let token = account_token(&management.client, NAMESPACE, ACCOUNT).await?;
        let kubeconfig = token_kubeconfig(&management.url(), &management.authority, &token);
        let site = &management.site;
        let kubeconfig = site.write(&format!("{NAME}.kubeconfig"), &kubeconfig)?;
        let arguments = vec![
            "run".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect".to_owned(),
            format!("--leader-elect-namespace={NAMESPACE}"),
            // Killed processes do not give the lease back.
            "--leader-elect-lease-duration=3s".to_owned(),
            "--leader-elect-renew-deadline=2s".to_owned(),
            "--leader-elect-retry-period=300ms".to_owned(),
            format!("--health-addr=127.0.0.1:{health}"),
            "--diagnostics-address=0".to_owned(),
            format!("--webhook-port={webhooks}"),
            format!("--webhook-cert-dir={}", site.path("webhooks").display()),
        ];
        let environment = proxmox.map(|(name, value)| (name.to_owned(), value));
        Ok(Self {
            management: management.clone(),
            launch: Launch {
                name: NAME.to_owned(),
                program: program.to_owned(),
                arguments,
                environment: environment.into(),
            },
            health,
        })
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<(), Box<dyn Error>> {
        let site = &self.management.site;
        process::start(site, &self.launch)?;
        let url = format!("http://127.0.0.1:{}/readyz", self.health);
        let begun = Instant::now();
        loop {
            let answer = reqwest::get(&url).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            process::check(site, NAME)?;
            if begun.elapsed() > READY_WITHIN {
                return Err(format!("not ready; its log is {}", site.log(NAME).display()).into());
            }
            sleep(LOOK).await;
        }
    }

    /// Kills the process with `kill -9` and starts it again.
    pub(crate) async fn kill_and_start(&self) -> Result<(), Box<dyn Error>> {
        process::kill(&self.management.site, NAME)?;
        self.start().await
    }
}
