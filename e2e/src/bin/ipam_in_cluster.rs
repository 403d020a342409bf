//! The in-cluster IPAM provider, played, as a program of its own: `ipam-in-cluster run`.
//!
//! It answers the address claims of any API server, embedded or real, with addresses of
//! `InClusterIPPool` and `GlobalInClusterIPPool`, under the rights of the manifests that it prints.

#![expect(
    clippy::print_stdout,
    reason = "a command's answers go to whoever called it"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use capi_testkit::ipam::Ipam;
use clap::{Parser, Subcommand};
use e2e::failure::Failure;
use e2e::{ipam, management};
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: watches that break, since a missing right shows so.
const LOGGED: &str = "warn,capi_testkit=debug";

/// Gives out the addresses of in-cluster pools, as the IPAM provider of that name does.
#[derive(Debug, Parser)]
#[command(name = ipam::NAME, version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Answer address claims until killed.
    Run {
        /// How to reach the API server.
        #[arg(long, env = "KUBECONFIG")]
        kubeconfig: PathBuf,
    },
    /// Print the pools' definitions, the service account and its rights.
    Manifests,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Run { kubeconfig } => run(kubeconfig).await,
        Task::Manifests => manifests(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(kubeconfig: PathBuf) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt().with_env_filter(filter).init();
    let client = management::client(&kubeconfig).await?;
    match Ipam::builder(client).run().await {}
}

fn manifests() -> Result<(), Failure> {
    for object in ipam::manifests()? {
        print!("---\n{}", serde_saphyr::to_string(&object)?);
    }
    Ok(())
}
