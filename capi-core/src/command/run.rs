//! `run`: the provider with everything around it, in one process.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::flags::{Bind, RunFlags};
use super::{CommandError, Program, cluster};
use crate::lease::{Election, LeaseOptions};
use crate::manifests::Package;
use crate::options::{Leadership, Options};
use crate::provider::{Provider, Status};
use crate::serve::{self, Certificate};
use crate::telemetry::Telemetry;

/// A server that runs beside the provider, until it is dropped.
type Server = BoxFuture<'static, CommandError>;

/// Runs until a signal.
pub(super) async fn run<P: Program>(
    package: &Package,
    flags: RunFlags,
    own: P::RunFlags,
) -> Result<(), CommandError> {
    // Mistakes of the user first, before anything is reached.
    P::connector(&own).map_err(CommandError::Provider)?;
    let mut signals = Signals::new()?;
    let agent = format!("{}/v{}", package.label(), package.version);
    let config = cluster::configuration(flags.kubeconfig.as_deref(), &agent).await?;
    let namespace = config.default_namespace.clone();
    let client = cluster::client(config)?;
    let mut registry = Registry::default();
    let build = Info::new(vec![
        ("provider", package.label()),
        ("version", package.version.to_owned()),
    ]);
    registry.register("build", "What this program is", build);
    let telemetry = Telemetry::register(&mut registry);
    let status = Status::default();
    let servers = servers::<P>(&flags, &client, &status, registry).await?;
    let options = Options {
        namespaces: flags.namespaces(),
        watch_filter: flags.watch_filter.clone(),
        concurrency: flags.concurrency,
        recheck: flags.recheck,
        manager: package.label(),
        telemetry: telemetry.clone(),
        ..Options::default()
    };
    let election = flags.leader_elect.then(|| LeaseOptions {
        duration: flags.leader_elect_lease_duration,
        renew_deadline: flags.leader_elect_renew_deadline,
        retry_period: flags.leader_elect_retry_period,
        manager: package.label(),
        telemetry,
        ..LeaseOptions::new(
            flags.leader_elect_namespace.clone().unwrap_or(namespace),
            package.lease,
        )
    });
    let work = Work::<P> {
        own,
        client,
        options,
        status,
        election,
    };
    let stop = CancellationToken::new();
    tracing::info!(
        provider = package.label(),
        version = package.version,
        "the provider starts"
    );
    let worked = work.until(stop.clone().cancelled_owned());
    let mut worked = std::pin::pin!(worked);
    let mut served = std::pin::pin!(first_end(servers));
    loop {
        tokio::select! {
            biased;
            result = &mut worked => {
                tracing::info!("the provider has stopped");
                return result;
            }
            error = &mut served => return Err(error),
            () = signals.next() => {
                if stop.is_cancelled() {
                    return Err(CommandError::Cut);
                }
                tracing::info!("the provider stops: passes under way come to their end");
                stop.cancel();
            }
        }
    }
}

/// The provider, with or without an election.
struct Work<P: Program> {
    own: P::RunFlags,
    client: Client,
    options: Options,
    status: Status,
    election: Option<LeaseOptions>,
}

impl<P: Program> Work<P> {
    async fn until(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), CommandError> {
        let Some(election) = self.election.clone() else {
            return self.provide(Leadership::always(), stop.boxed()).await;
        };
        let election = Election::new(self.client.clone(), election)?;
        let work =
            |term: crate::lease::Term| self.provide(term.leadership(), term.stopped().boxed());
        // Lost during the stop: whoever leads now goes on.
        election.run(stop, work).await.unwrap_or(Ok(()))
    }

    async fn provide(
        &self,
        leadership: Leadership,
        stop: BoxFuture<'static, ()>,
    ) -> Result<(), CommandError> {
        let connector = P::connector(&self.own).map_err(CommandError::Provider)?;
        let connector = P::at_home(connector, &self.client);
        let options = Options {
            leadership,
            ..self.options.clone()
        };
        let provider = Provider::new(connector)
            .cluster(P::clusters())
            .machine(P::machines())
            .options(options)
            .told_by(self.status.clone());
        Ok(provider.run(self.client.clone(), stop).await?)
    }
}

/// Listens everywhere first, so that a port that is taken ends the program before it acts.
async fn servers<P: Program>(
    flags: &RunFlags,
    client: &Client,
    status: &Status,
    registry: Registry,
) -> Result<Vec<Server>, CommandError> {
    let mut all: Vec<Server> = Vec::new();
    let flag = "health-addr";
    if let Some(listener) = flags.health_addr.listen(flag).await? {
        all.push(plain(flag, listener, serve::health(status.clone())));
    }
    let flag = "diagnostics-address";
    if let Some(listener) = flags.diagnostics_address.listen(flag).await? {
        let routes = serve::metrics(Arc::new(Mutex::new(registry)));
        if flags.insecure_diagnostics {
            all.push(plain(flag, listener, routes));
        } else {
            let certificate = Certificate::self_signed(&["localhost"])?;
            let routes = serve::guarded(routes, client.clone());
            all.push(encrypted(flag, listener, routes, certificate));
        }
    }
    if let Some(directory) = &flags.webhook_cert_dir {
        let flag = "webhook-port";
        let certificate = Certificate::of_directory(directory)?;
        let port = Bind::Everywhere(flags.webhook_port);
        if let Some(listener) = port.listen(flag).await? {
            let routes = P::webhooks().routes();
            all.push(encrypted(flag, listener, routes, certificate));
        }
    }
    Ok(all)
}

fn plain(flag: &'static str, listener: TcpListener, routes: Router) -> Server {
    async move {
        let served = serve::serve(listener, routes, std::future::pending()).await;
        ended(flag, served.err().map(Into::into))
    }
    .boxed()
}

fn encrypted(
    flag: &'static str,
    listener: TcpListener,
    routes: Router,
    certificate: Certificate,
) -> Server {
    async move {
        let never = std::future::pending();
        let served = serve::serve_tls(listener, routes, &certificate, never);
        tokio::select! {
            served = served => ended(flag, served.err().map(Into::into)),
            never = certificate.reload() => match never {},
        }
    }
    .boxed()
}

fn ended(flag: &'static str, why: Option<super::BoxError>) -> CommandError {
    let source = why.unwrap_or_else(|| "it ended without a reason".into());
    CommandError::Serve { flag, source }
}

/// Waits for the first server that ends; for ever if there is none.
async fn first_end(servers: Vec<Server>) -> CommandError {
    if servers.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(servers).await.0
}

/// SIGTERM, which Kubernetes sends, and SIGINT, which a terminal sends.
struct Signals {
    terminated: Signal,
    interrupted: Signal,
}

impl Signals {
    fn new() -> Result<Self, CommandError> {
        Ok(Self {
            terminated: signal(SignalKind::terminate()).map_err(CommandError::Signal)?,
            interrupted: signal(SignalKind::interrupt()).map_err(CommandError::Signal)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminated.recv() => {}
            _ = self.interrupted.recv() => {}
        }
    }
}
