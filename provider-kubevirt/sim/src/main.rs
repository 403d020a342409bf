//! Plays KubeVirt on an API server of its own or on a given one, until it is interrupted.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use capi_testkit::apiserver::{ApiServer, TlsFace};
use capi_testkit::workload::Workloads;
use clap::Parser;
use ipnet::IpNet;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use kubevirt_sim::{
    Builder, Delays, GoldenSpec, Guests, NodeSpec, Platform, Rates, StorageSpec, install,
};
use tokio::io::AsyncWriteExt;

/// A simulated KubeVirt: controllers that play on an API server.
#[derive(Debug, Parser)]
#[command(name = "kubevirt-sim", version)]
struct Arguments {
    /// Plays on the API server of this kubeconfig, in its current context. Without it there is one in
    /// this process.
    #[arg(long, conflicts_with_all = ["listen", "kubeconfig_out"])]
    kubeconfig: Option<PathBuf>,
    /// Address of the own API server; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Writes a kubeconfig of the own API server, with all rights, to this file.
    #[arg(long, default_value = "kubevirt-sim.kubeconfig")]
    kubeconfig_out: PathBuf,
    /// Number of nodes; they are named node-1, node-2, ... and lie in zones zone-1 to zone-3.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    nodes: u32,
    /// Cores of each node.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    cores: u32,
    /// Memory of each node, in GiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    memory: u64,
    /// Divides all delays.
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Lets nothing take time.
    #[arg(long)]
    no_delays: bool,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Lets starts, imports and migrations fail at random.
    #[arg(long)]
    chaos: bool,
    /// Range of pod addresses. One inside 127.0.0.0/8 lets other processes of this host answer there.
    #[arg(long, default_value = "10.244.0.0/16")]
    pods: IpNet,
    /// Range of load balancer addresses.
    #[arg(long, default_value = "192.168.100.0/24")]
    load_balancers: IpNet,
    /// Gives load balancers a host name below this domain instead of an address.
    #[arg(long)]
    load_balancer_domain: Option<String>,
    /// A golden image, NAMESPACE/NAME. May be repeated.
    #[arg(long = "golden", value_parser = golden)]
    goldens: Vec<(String, String)>,
    /// Leaves the instances empty: no guest boots, and no agent answers.
    #[arg(long)]
    no_guests: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err("speed is a number above zero".into()),
    }
}

fn golden(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("a golden image is NAMESPACE/NAME".into()),
    }
}

fn builder(arguments: &Arguments) -> Builder {
    let delays = if arguments.no_delays {
        Delays::zero()
    } else {
        Delays::realistic()
    };
    let mut builder = Builder::empty()
        .storage(StorageSpec::shared("shared").as_default())
        .storage(StorageSpec::local("local"))
        .delays(delays)
        .speed(arguments.speed)
        .seed(arguments.seed)
        .pods(arguments.pods)
        .load_balancer_addresses(arguments.load_balancers);
    for n in 1..=arguments.nodes {
        let zone = format!("zone-{}", (n - 1) % 3 + 1);
        let node = NodeSpec::new(format!("node-{n}")).zone(&zone);
        builder = builder.node(node.cores(arguments.cores).memory_gib(arguments.memory));
    }
    for (namespace, name) in &arguments.goldens {
        builder = builder.golden(GoldenSpec::new(namespace, name));
    }
    if let Some(domain) = &arguments.load_balancer_domain {
        builder = builder.load_balancer_hostnames(domain);
    }
    if arguments.chaos {
        builder = builder.chaos(Rates::rough());
    }
    if !arguments.no_guests {
        builder = builder.guests(Guests::new(Workloads::new()));
    }
    builder
}

type Failure = Box<dyn std::error::Error>;

async fn on_given(builder: Builder, kubeconfig: &Path) -> Result<Platform, Failure> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    install(&client).await?;
    Ok(builder.build(&client))
}

async fn on_own(builder: Builder, arguments: &Arguments) -> Result<(Platform, TlsFace), Failure> {
    let server = ApiServer::new();
    let platform = builder.build_in(&server).await?;
    let face = server.serve_tls(arguments.listen).await?;
    let kubeconfig = face.kubeconfig("admin", &["system:masters"])?;
    // With all rights: its owner's alone, whatever the file was before.
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&arguments.kubeconfig_out)
        .await?;
    file.set_permissions(Permissions::from_mode(0o600)).await?;
    file.write_all(kubeconfig.as_bytes()).await?;
    file.flush().await?;
    Ok((platform, face))
}

#[expect(
    clippy::print_stdout,
    reason = "telling the user how to reach it is what it prints for"
)]
fn tell(arguments: &Arguments, face: Option<&TlsFace>) {
    let kubeconfig = arguments.kubeconfig.as_ref();
    let kubeconfig = kubeconfig.unwrap_or(&arguments.kubeconfig_out).display();
    if let Some(face) = face {
        println!("url         {}", face.url());
    }
    println!("kubeconfig  {kubeconfig}");
    println!("\nTry:");
    println!("  kubectl --kubeconfig {kubeconfig} get nodes,vm,vmi,dv");
    println!("\nStop with Ctrl-C.");
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let builder = builder(arguments);
    let (platform, face) = match &arguments.kubeconfig {
        Some(kubeconfig) => (on_given(builder, kubeconfig).await?, None),
        None => {
            let (platform, face) = on_own(builder, arguments).await?;
            (platform, Some(face))
        }
    };
    tell(arguments, face.as_ref());
    tokio::select! {
        never = platform.run() => match never {},
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut causes = vec![error.to_string()];
            let mut cause = error.source();
            while let Some(next) = cause {
                causes.push(next.to_string());
                cause = next.source();
            }
            tracing::error!("{}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}
