//! Runs a simulated Proxmox VE cluster behind HTTPS until it is interrupted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use pve_sim::{
    Builder, Delays, NodeSpec, Platform, Rates, Server, StorageSpec, TemplateSpec, TokenSpec,
};

/// A simulated Proxmox VE cluster that speaks the real HTTPS API.
#[derive(Debug, Parser)]
#[command(name = "pve-sim", version)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8006")]
    listen: SocketAddr,
    /// Number of nodes; they are named pve1, pve2, ...
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=32))]
    nodes: u32,
    /// Memory of each node, in GiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    memory: u64,
    /// Divides all delays.
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Lets every task end at once.
    #[arg(long)]
    no_delays: bool,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Lets tasks and calls fail at random.
    #[arg(long)]
    chaos: bool,
    /// A template: VMID:NODE:NAME[:TAGS], tags separated by semicolons. May be repeated; without
    /// it there is one, 9000 on pve1.
    #[arg(long = "template", value_parser = template)]
    templates: Vec<Template>,
    /// Id of the API token.
    #[arg(long, default_value = "capi@pve!provider")]
    token_id: String,
    /// Secret of the API token.
    #[arg(
        long,
        default_value = "5e1d5ec2-0000-4000-8000-51b0b1f1ed00",
        env = "PVE_SIM_TOKEN_SECRET",
        hide_env_values = true
    )]
    token_secret: String,
    /// Writes the certificate of the cluster's authority to this file.
    #[arg(long)]
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Template {
    vmid: u32,
    node: String,
    name: String,
    tags: Option<String>,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err("speed is a number above zero".into()),
    }
}

fn template(text: &str) -> Result<Template, String> {
    let mut parts = text.splitn(4, ':');
    let (Some(vmid), Some(node), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("a template is VMID:NODE:NAME[:TAGS]".into());
    };
    let vmid = vmid
        .parse()
        .map_err(|_| format!("{vmid:?} is not a VMID"))?;
    let tags = parts.next().map(str::to_owned);
    Ok(Template {
        vmid,
        node: node.to_owned(),
        name: name.to_owned(),
        tags,
    })
}

fn platform(arguments: &Arguments) -> Result<Platform, String> {
    let delays = if arguments.no_delays {
        Delays::zero()
    } else {
        Delays::realistic()
    };
    let mut builder = Builder::empty("pve-sim")
        .storage(StorageSpec::directory("local"))
        .storage(StorageSpec::thin_pool("local-lvm"))
        .storage(StorageSpec::shared("shared"))
        .pool("capi")
        .token(TokenSpec::provider(
            &arguments.token_id,
            &arguments.token_secret,
        ))
        .delays(delays)
        .speed(arguments.speed)
        .seed(arguments.seed)
        .epoch(SystemTime::now());
    for n in 1..=arguments.nodes {
        builder = builder.node(NodeSpec::new(format!("pve{n}")).memory_gib(arguments.memory));
    }
    if arguments.chaos {
        builder = builder.chaos(Rates::rough());
    }
    let default = [Template {
        vmid: 9000,
        node: "pve1".into(),
        name: "ubuntu-2404-kube-v1.36.0".into(),
        tags: Some("kube-v1.36.0;template;ubuntu-2404".into()),
    }];
    let templates = if arguments.templates.is_empty() {
        &default[..]
    } else {
        &arguments.templates
    };
    for template in templates {
        let number = template
            .node
            .strip_prefix("pve")
            .and_then(|n| n.parse::<u32>().ok());
        if !number.is_some_and(|n| (1..=arguments.nodes).contains(&n)) {
            return Err(format!(
                "--template {}: there is no node {:?}; nodes are pve1 to pve{}",
                template.vmid, template.node, arguments.nodes
            ));
        }
        let mut spec = TemplateSpec::new(template.vmid, &template.node, &template.name);
        if let Some(tags) = &template.tags {
            spec = spec.tags(tags);
        }
        builder = builder.template(spec);
    }
    Ok(builder.build())
}

#[expect(
    clippy::print_stdout,
    reason = "telling the user how to reach it is what it prints for"
)]
fn tell(server: &Server, platform: &Platform, ca_file: Option<&PathBuf>) {
    let (id, secret) = platform.token();
    let url = server.url();
    println!("url          {url}");
    println!("token        {id}");
    println!("secret       {secret}");
    println!("fingerprint  {}", server.fingerprint());
    let trust = match ca_file {
        Some(file) => format!("--cacert {}", file.display()),
        None => "-k".to_owned(),
    };
    let curl = format!("curl {trust} -H 'Authorization: PVEAPIToken={id}={secret}'");
    println!("\nTry:");
    println!("  {curl} {url}/api2/json/version");
    println!("  {curl} '{url}/api2/json/cluster/resources?type=vm'");
    println!("  {curl} -d newid=100 -d name=first {url}/api2/json/nodes/pve1/qemu/9000/clone");
    println!("  {curl} {url}/api2/json/cluster/tasks");
    println!("\nStop with Ctrl-C.");
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let platform = platform(arguments)?;
    let server = platform.serve(arguments.listen).await?;
    if let Some(file) = &arguments.ca_file {
        tokio::fs::write(file, server.ca_pem()).await?;
    }
    tell(&server, &platform, arguments.ca_file.as_ref());
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
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
