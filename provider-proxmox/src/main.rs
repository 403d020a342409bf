//! The provider as a program: the library on the engine.

use std::process::ExitCode;

use capi_core::{Options, Provider};
use clap::Parser;
use provider_proxmox::cluster::Clusters;
use provider_proxmox::connect::{Connector, Settings};
use provider_proxmox::machine::Machines;
use tokio::signal::unix::{SignalKind, signal};

/// Cluster API infrastructure provider for Proxmox VE.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Namespace to work in; may be repeated. All namespaces if left out.
    #[arg(long)]
    namespace: Vec<String>,
    /// Work only on objects whose label cluster.x-k8s.io/watch-filter has this value.
    #[arg(long)]
    watch_filter: Option<String>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn run(arguments: Arguments) -> Result<(), Error> {
    let mut connector = Connector::new();
    if let Some(own) = Settings::of_environment(std::env::vars())? {
        connector = connector.with_own(own);
    }
    let options = Options {
        namespaces: arguments.namespace,
        watch_filter: arguments.watch_filter,
        ..Options::default()
    };
    let client = capi_core::client(kube::Config::infer().await?)?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    Provider::new(connector)
        .cluster(Clusters)
        .machine(Machines)
        .options(options)
        .run(client, shutdown)
        .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the provider stopped");
            ExitCode::FAILURE
        }
    }
}
