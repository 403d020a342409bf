//! The commands of every provider's program, from one place.
//!
//! A provider's `main.rs` says what is its own, as a [`Program`], and calls [`main`]. The flags follow
//! those of the Cluster API managers, so that manifests and habits carry over.
//!
//! | command | does |
//! |---|---|
//! | `run` | runs the provider: engine, election, health, metrics, webhooks |
//! | `manifests` | writes what `clusterctl` or `kubectl apply` needs |
//! | `doctor` | looks whether the platform can be used, and says what to change |
//! | `version` | prints name and version |
//!
//! A provider may have [commands of its own](Program::tools) beside them.

mod checkup;
mod cluster;
mod flags;
mod logs;
mod run;

use std::error::Error;
use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use capi_contract::checkup::Checkup;
use capi_contract::{Connect, External, InfraCluster, InfraMachine};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::PolicyRule;

pub use self::cluster::credentials;
use self::flags::{ManifestFlags, RunFlags};
use crate::cause::chain;
use crate::lease::LeaseError;
use crate::manifests::{ManifestError, Package};
use crate::provider::RunError;
use crate::serve::{TlsError, Webhooks};

/// What a provider's own code reports: any error. It is shown with its sources and must hold no secret.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a program has that others have not.
pub trait Program: Send + Sync + 'static {
    /// Flags of `run` beside those of every provider.
    type RunFlags: Args + Send + Sync;
    /// Flags of `doctor`.
    type DoctorFlags: Args + Send + Sync;
    /// Makes sessions.
    type Connector: Connect<Session = <Self::Clusters as External>::Session>;
    /// Builds infra clusters.
    type Clusters: InfraCluster;
    /// Builds machines.
    type Machines: InfraMachine<
            Session = <Self::Clusters as External>::Session,
            Cluster = <Self::Clusters as InfraCluster>::Kind,
        >;

    /// Name, version, definitions: what the manifests say.
    fn package() -> Package;

    /// What builds infra clusters.
    fn clusters() -> Self::Clusters;

    /// What builds machines.
    fn machines() -> Self::Machines;

    /// What makes sessions. Asked at the start, and again after leadership was lost.
    ///
    /// # Errors
    ///
    /// For settings that cannot be used; `run` ends with the message.
    fn connector(flags: &Self::RunFlags) -> Result<Self::Connector, BoxError>;

    /// Tells what makes sessions how the management cluster is reached, for platforms that may be that
    /// very cluster.
    fn at_home(connector: Self::Connector, _management: &kube::Client) -> Self::Connector {
        connector
    }

    /// The rules that the webhooks serve.
    fn webhooks() -> Webhooks {
        Webhooks::new()
    }

    /// Rights that the program needs on the management cluster where that is the platform too; given
    /// on request only (`manifests --platform-namespace`).
    fn platform_rights() -> Vec<PolicyRule> {
        Vec::new()
    }

    /// Commands of the provider's own, beside those of every provider.
    fn tools() -> Vec<Tool> {
        Vec::new()
    }

    /// Looks whether the platform can be used.
    fn doctor(flags: Self::DoctorFlags) -> impl Future<Output = Checkup> + Send;
}

/// A command of a provider's own.
#[derive(Debug)]
pub struct Tool {
    /// Its name, help and flags.
    pub command: clap::Command,
    /// Carries it out; what comes back is printed to standard output.
    pub run: fn(clap::ArgMatches) -> BoxFuture<'static, Result<String, BoxError>>,
}

/// Why a command ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no usable kubeconfig.
    #[error("read the kubeconfig {path}")]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// Neither a kubeconfig nor a pod's service account was found.
    #[error("find a cluster: give --kubeconfig, set KUBECONFIG or run in a pod")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// The Secret is not named as it should be.
    #[error("read Secret {0:?}: name it as NAMESPACE/NAME")]
    SecretName(String),
    /// The Secret cannot be read.
    #[error("read Secret {name}")]
    Secret {
        /// Namespace and name.
        name: String,
        /// What Kubernetes said.
        source: Box<kube::Error>,
    },
    /// The client cannot be made from the configuration.
    #[error("make a Kubernetes client")]
    Client(#[source] Box<kube::Error>),
    /// An address cannot be listened on.
    #[error("listen on {address} for --{flag}")]
    Listen {
        /// The flag that names the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A server ended.
    #[error("serve for --{flag}")]
    Serve {
        /// The flag of the server.
        flag: &'static str,
        /// Why it ended.
        source: BoxError,
    },
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The election cannot be held.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The provider's own settings cannot be used.
    #[error("set up the provider")]
    Provider(#[source] BoxError),
    /// A setting of the engine cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Signals cannot be waited for.
    #[error("wait for signals")]
    Signal(#[source] io::Error),
    /// A second signal came during the stop.
    #[error("stopped by a second signal, before the passes under way had ended")]
    Cut,
    /// Manifests cannot be made.
    #[error(transparent)]
    Manifests(#[from] ManifestError),
    /// Something cannot be written.
    #[error("write {what}")]
    Write {
        /// The file, or standard output.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The command line.
#[derive(Debug, Parser)]
struct Arguments<R: Args, D: Args> {
    #[command(subcommand)]
    command: Command<R, D>,
}

#[derive(Debug, Subcommand)]
enum Command<R: Args, D: Args> {
    /// Runs the provider until SIGTERM or SIGINT.
    Run {
        #[command(flatten)]
        flags: Box<RunFlags>,
        #[command(flatten)]
        own: R,
    },
    /// Writes the manifests: to standard output for kubectl apply, to a directory for clusterctl.
    Manifests(Box<ManifestFlags>),
    /// Looks whether the platform can be used, and says what to change.
    Doctor(D),
    /// Prints name and version.
    Version,
}

/// Runs the command that the process's arguments name.
///
/// Exit codes: 0 for success, 1 if the command failed or `doctor` found something, 2 for a command line
/// that is not understood.
pub async fn main<P: Program>() -> ExitCode {
    run_from::<P>(std::env::args_os()).await
}

/// The same with the given arguments, of which the first is the program's name.
pub async fn run_from<P: Program>(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let package = P::package();
    let parsed = parse::<P>(&package, arguments);
    let command = match parsed {
        Ok(Line::Common(arguments)) => arguments.command,
        Ok(Line::Own(own)) => return use_tool(*own).await,
        Err(error) => {
            // Help and version are written to standard output with code 0, mistakes to standard error.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let done = match command {
        Command::Run { flags, own } => {
            logs::begin(flags.logging_format, flags.verbosity);
            let done = run::run::<P>(&package, *flags, own).await;
            if let Err(error) = &done {
                tracing::error!(error = chain(error), "the provider stopped");
            }
            return code(done.is_ok());
        }
        Command::Manifests(flags) => flags::write_manifests::<P>(&package, &flags),
        Command::Doctor(flags) => {
            let checkup = P::doctor(flags).await;
            let shown = print(&checkup::render(&checkup));
            if shown.is_ok() && !checkup.is_healthy() {
                return ExitCode::FAILURE;
            }
            shown
        }
        Command::Version => print(&format!("{} v{}\n", package.label(), package.version)),
    };
    if let Err(error) = &done {
        let _ = writeln!(io::stderr(), "error: {}", chain(error));
    }
    code(done.is_ok())
}

/// A command line that was understood.
enum Line<R: Args, D: Args> {
    Common(Arguments<R, D>),
    Own(Box<(Tool, clap::ArgMatches)>),
}

fn parse<P: Program>(
    package: &Package,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Line<P::RunFlags, P::DoctorFlags>, clap::Error> {
    let tools = P::tools();
    let mut command = Arguments::<P::RunFlags, P::DoctorFlags>::command()
        .about(package.about)
        .version(package.version);
    for tool in &tools {
        command = command.subcommand(tool.command.clone());
    }
    let mut matches = command.try_get_matches_from(arguments)?;
    let named = matches.subcommand_name().unwrap_or_default().to_owned();
    let own = tools
        .into_iter()
        .find(|tool| tool.command.get_name() == named);
    let Some(tool) = own else {
        return Arguments::from_arg_matches(&matches).map(Line::Common);
    };
    let flags = matches.remove_subcommand().map(|(_, flags)| flags);
    Ok(Line::Own(Box::new((tool, flags.unwrap_or_default()))))
}

async fn use_tool((tool, matches): (Tool, clap::ArgMatches)) -> ExitCode {
    let shown = match (tool.run)(matches).await {
        Ok(text) => print(&text).map_err(BoxError::from),
        Err(error) => Err(error),
    };
    if let Err(error) = &shown {
        let _ = writeln!(io::stderr(), "error: {}", chain(error.as_ref()));
    }
    code(shown.is_ok())
}

fn code(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print(text: &str) -> Result<(), CommandError> {
    let written = io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|source| CommandError::Write {
        what: "to standard output".to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider's flags may be called as ours are.
    #[derive(Debug, Args)]
    struct RunFlags {
        /// Of the provider's own.
        #[arg(long)]
        rack: Option<String>,
    }

    #[derive(Debug, Args)]
    struct ManifestFlags {}

    type Own = Arguments<RunFlags, ManifestFlags>;

    fn run_flags(words: &[&str]) -> Result<(Box<flags::RunFlags>, RunFlags), clap::Error> {
        let words = ["rack", "run"].iter().chain(words);
        match Own::try_parse_from(words)?.command {
            Command::Run { flags, own } => Ok((flags, own)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_put_together_without_contradiction() {
        Own::command().debug_assert();
    }

    #[test]
    fn ctl_07_flags_are_those_of_the_managers() {
        let (flags, own) = run_flags(&[
            "--namespace=a",
            "--namespace=b",
            "--namespace=",
            "--watch-filter=blue",
            "--leader-elect=true",
            "--health-addr=:9440",
            "--diagnostics-address=:8443",
            "--insecure-diagnostics=false",
            "--webhook-port=9443",
            "--webhook-cert-dir=/certs",
            "--logging-format=json",
            "--v=4",
            "--rack=r1",
        ])
        .unwrap();
        assert_eq!(flags.namespaces(), ["a", "b"]);
        assert_eq!(flags.watch_filter.as_deref(), Some("blue"));
        assert!(flags.leader_elect && !flags.insecure_diagnostics);
        assert_eq!((flags.webhook_port, flags.verbosity), (9443, 4));
        assert_eq!(own.rack.as_deref(), Some("r1"));
    }

    #[test]
    fn defaults_are_those_of_the_managers() {
        let (flags, _) = run_flags(&["--leader-elect", "-v6"]).unwrap();
        assert!(flags.leader_elect && flags.namespaces().is_empty());
        let lease = [
            flags.leader_elect_lease_duration,
            flags.leader_elect_renew_deadline,
            flags.leader_elect_retry_period,
        ];
        assert_eq!(lease.map(|it| it.as_secs()), [15, 10, 2]);
        assert_eq!(flags.health_addr.to_string(), ":9440");
        assert_eq!(flags.diagnostics_address.to_string(), ":8443");
        assert_eq!(flags.webhook_cert_dir, None);
    }

    #[test]
    fn a_flag_that_does_nothing_here_is_refused() {
        assert_eq!(
            run_flags(&["--sync-period=10m"]).unwrap_err().exit_code(),
            2
        );
    }
}
