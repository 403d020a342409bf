//! A provider as it is shipped: its program, the manifests that the program prints, and the rights of
//! these. Nothing here knows a platform.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::apply::{Applier, ApplyError};
use crate::audit::{self, Request};
use crate::failure::Failure;
use crate::management::Management;
use crate::manager::{ManagerError, account_token, token_kubeconfig};
use crate::manifest::{self, Webhooks};
use crate::process::{self, Launch, ProcessError};
use crate::site::SiteError;

/// Names a directory of built programs, such as `target/release`, to be used instead of building.
pub const PROGRAMS_VARIABLE: &str = "CAPI_RS_E2E_PROGRAMS";
/// How long a provider may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Why a provider does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// A program could not be run.
    #[error("run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program did not end well.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// What it said.
        output: String,
    },
    /// The directory of built programs cannot be told from where this one lies.
    #[error("find the built programs beside {}: set {PROGRAMS_VARIABLE}", .0.display())]
    NoPrograms(PathBuf),
    /// What the program prints is no manifest.
    #[error("read the manifests that {0} prints")]
    Manifests(String, #[source] Box<serde_saphyr::Error>),
    /// The server refused an object.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// No token for its account.
    #[error(transparent)]
    Account(#[from] ManagerError),
    /// A file could not be written.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The process could not be started, or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It is not ready in time.
    #[error("{name} is not ready after {} s; its log is {}", READY_WITHIN.as_secs(), log.display())]
    NotReady {
        /// The program.
        name: String,
        /// Where its log lies.
        log: PathBuf,
    },
}

/// A provider's program, and what it is started with.
#[derive(Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    namespace: String,
    account: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    of_manifests: Vec<String>,
    is_often_killed: bool,
}

// Variables hold credentials.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.environment.iter().map(|(name, _)| name);
        f.debug_struct("Program")
            .field("path", &self.path)
            .field("arguments", &self.arguments)
            .field("environment", &names.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Program {
    /// A program of this workspace, built first. Its manifests make this namespace and this service
    /// account, under which it runs.
    ///
    /// With [`PROGRAMS_VARIABLE`] set it is taken from there, and nothing is built.
    ///
    /// # Errors
    ///
    /// A build that fails.
    pub fn built(name: &str, namespace: &str, account: &str) -> Result<Self, ProviderError> {
        let folder = match std::env::var_os(PROGRAMS_VARIABLE) {
            Some(folder) => folder.into(),
            None => build()?,
        };
        Ok(Self {
            name: name.to_owned(),
            path: folder.join(name),
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            environment: Vec::new(),
            arguments: Vec::new(),
            of_manifests: Vec::new(),
            is_often_killed: true,
        })
    }

    /// Keeps the times of leader election that operators have, so that a machine that is busy with
    /// much else does not cost it the lease. After a kill it waits then until the lease has run out.
    #[must_use]
    pub fn seldom_killed(mut self) -> Self {
        self.is_often_killed = false;
        self
    }

    /// Sets another program file, as of another version.
    #[must_use]
    pub fn path(mut self, path: PathBuf) -> Self {
        self.path = path;
        self
    }

    /// Sets an environment variable, of the process and while the manifests are printed.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The program file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.path
    }

    /// Adds an argument of `run`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds an argument of `manifests`, as they are installed.
    #[must_use]
    pub fn of_manifests(mut self, argument: impl Into<String>) -> Self {
        self.of_manifests.push(argument.into());
        self
    }

    /// What `manifests` prints.
    ///
    /// # Errors
    ///
    /// A program that cannot be run, or refuses the arguments.
    pub fn manifests(&self, arguments: &[&str]) -> Result<String, ProviderError> {
        self.says(&[&["manifests"], arguments].concat())
    }

    /// What it prints with these arguments, and then ends.
    ///
    /// # Errors
    ///
    /// A program that cannot be run, or does not end well.
    pub fn says(&self, arguments: &[&str]) -> Result<String, ProviderError> {
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .envs(self.environment.iter().cloned());
        run(&mut command)
    }

    /// The objects of its manifests, rewritten for a program outside the cluster. `place` is its
    /// number among the managers: those of Cluster API have the first three.
    ///
    /// # Errors
    ///
    /// As [`Program::manifests`].
    pub fn objects(
        &self,
        management: &Management,
        place: u16,
    ) -> Result<Vec<Value>, ProviderError> {
        let [port, ..] = management.ports.manager(place);
        let rewriting = Webhooks {
            port,
            authority: management.authority.clone(),
        };
        let asked: Vec<_> = self.of_manifests.iter().map(String::as_str).collect();
        let all: Vec<Value> = serde_saphyr::from_multiple(&self.manifests(&asked)?)
            .map_err(|error| ProviderError::Manifests(self.name.clone(), Box::new(error)))?;
        let kept = all.into_iter();
        Ok(kept
            .filter_map(|object| manifest::rewrite(object, &rewriting))
            .collect())
    }

    /// Applies the manifests and prepares the process.
    ///
    /// # Errors
    ///
    /// As [`Program::objects`] and [`Program::installed`], and what the server refuses.
    pub async fn install(
        self,
        management: &Management,
        place: u16,
    ) -> Result<Provider, ProviderError> {
        let mut applier = Applier::new(management.client.clone());
        for object in self.objects(management, place)? {
            applier.apply(object).await?;
        }
        self.installed(management, place).await
    }

    /// Prepares the process where the manifests are applied already, as by `clusterctl init`.
    ///
    /// # Errors
    ///
    /// No such service account.
    pub async fn installed(
        self,
        management: &Management,
        place: u16,
    ) -> Result<Provider, ProviderError> {
        let token = account_token(&management.client, &self.namespace, &self.account).await?;
        let kubeconfig = token_kubeconfig(&management.url(), &management.authority, &token);
        let site = &management.site;
        let kubeconfig = site.write(&format!("{}.kubeconfig", self.name), &kubeconfig)?;
        let [webhooks, health, _] = management.ports.manager(place);
        let mut arguments = vec![
            "run".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect".to_owned(),
            format!("--leader-elect-namespace={}", self.namespace),
            format!("--health-addr=127.0.0.1:{health}"),
            "--diagnostics-address=0".to_owned(),
            format!("--webhook-port={webhooks}"),
            format!("--webhook-cert-dir={}", site.path("webhooks").display()),
        ];
        if self.is_often_killed {
            // Killed processes do not give the lease back.
            let short = [
                "--leader-elect-lease-duration=3s",
                "--leader-elect-renew-deadline=2s",
                "--leader-elect-retry-period=300ms",
            ];
            arguments.extend(short.map(str::to_owned));
        }
        arguments.extend(self.arguments);
        Ok(Provider {
            management: management.clone(),
            user: audit::account(&self.namespace, &self.account),
            launch: Launch {
                name: self.name,
                program: self.path,
                arguments,
                environment: self.environment,
            },
            health,
        })
    }
}

/// Builds the programs of the workspace; the directory where they lie.
fn build() -> Result<PathBuf, ProviderError> {
    // Of the whole workspace, whose dependencies are there already: of one package they would be
    // built again with fewer features.
    // The cargo that runs this, or the one of the path: another would not know the toolchain.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).args(["build", "--workspace", "--bins"]))?;
    folder()
}

/// The directory where cargo puts the programs that it builds with this one.
pub(crate) fn folder() -> Result<PathBuf, ProviderError> {
    let own = std::env::current_exe().map_err(|source| ProviderError::Run {
        program: "this program".to_owned(),
        source,
    })?;
    // Tests lie in the same folder's `deps`.
    let folder = own.parent().map(|folder| match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().unwrap_or(folder),
        _ => folder,
    });
    let folder = folder.map(Path::to_owned);
    folder.ok_or(ProviderError::NoPrograms(own))
}

fn run(command: &mut Command) -> Result<String, ProviderError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| ProviderError::Run {
        program: program.clone(),
        source,
    })?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ProviderError::Failed { program, output });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A provider's process, which runs or not. It has the rights of its manifests and no others.
#[derive(Clone)]
pub struct Provider {
    management: Management,
    user: String,
    launch: Launch,
    health: u16,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.launch.name)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// Under which name the process is listed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    ///
    /// A process that ends, or is not ready in time.
    pub async fn start(&self) -> Result<(), ProviderError> {
        let site = &self.management.site;
        process::start(site, &self.launch)?;
        let url = format!("http://127.0.0.1:{}/readyz", self.health);
        let begun = Instant::now();
        loop {
            let answer = reqwest::get(&url).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            process::check(site, self.name())?;
            if begun.elapsed() > READY_WITHIN {
                return Err(ProviderError::NotReady {
                    name: self.name().to_owned(),
                    log: site.log(self.name()),
                });
            }
            sleep(LOOK).await;
        }
    }

    /// Kills the process with `kill -9`.
    ///
    /// # Errors
    ///
    /// A process that stays.
    pub fn kill(&self) -> Result<(), ProviderError> {
        Ok(process::kill(&self.management.site, self.name())?)
    }

    /// Kills the process with `kill -9` and starts it again.
    ///
    /// # Errors
    ///
    /// As [`Provider::kill`] and [`Provider::start`].
    pub async fn kill_and_start(&self) -> Result<(), ProviderError> {
        self.kill()?;
        self.start().await
    }

    /// Its requests, from the server's own log.
    ///
    /// # Errors
    ///
    /// As [`audit::requests`].
    pub fn requests(&self) -> Result<Vec<Request>, Failure> {
        audit::requests(&self.management.site, &self.user)
    }
}
