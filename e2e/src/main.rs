//! The real tier by hand: `cargo run -p e2e -- up`.

#![expect(
    clippy::print_stdout,
    reason = "a command's answers go to whoever called it"
)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use e2e::infrastructure::Names;
use e2e::management::{Management, Ports};
use e2e::site::Site;
use e2e::template::{self, Bench};
use e2e::tool::{KUBECTL, MANAGEMENT};
use e2e::{kubevirt, manager, process, proxmox};

/// A management cluster of real programs: etcd, kube-apiserver, Cluster API with kubeadm.
///
/// The programs are built from Go modules into a cache, which takes some ten minutes the first time,
/// and run as plain processes on loopback.
#[derive(Debug, Parser)]
#[command(name = "e2e", max_term_width = 100)]
struct Arguments {
    /// Which run: its files lie in target/e2e/NAME. Left out it is `default`, and `templates` for the
    /// command of this name.
    #[arg(long, global = true)]
    name: Option<String>,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build what is missing, start everything, print a kubeconfig.
    Up {
        /// The first of the ports on 127.0.0.1; some twenty are used.
        #[arg(long, default_value_t = 26_440)]
        port: u16,
        /// Only Kubernetes, without Cluster API.
        #[arg(long)]
        bare: bool,
    },
    /// End every process of the run, also after a crash.
    Down,
    /// List processes and memory.
    Status,
    /// Print the log of a process, or name the logs.
    Logs {
        /// Name of the process, as `status` shows it.
        process: Option<String>,
    },
    /// Tell whether cluster templates apply as they are.
    ///
    /// Starts Kubernetes, Cluster API and the webhooks of a provider. Every cluster-template*.yaml and
    /// clusterclass-*.yaml of the folder is filled in by clusterctl, applied with strict validation, compared
    /// with what is stored of the provider's kinds, and deleted. Nothing is built of it. Variables without
    /// default are taken from the environment, and else made up. Ends with an error if a template was refused
    /// or is not stored as it is written.
    Templates {
        /// The folder.
        folder: PathBuf,
        /// The provider.
        #[arg(long, value_name = "PROVIDER")]
        infrastructure: Infrastructure,
        /// The first of the ports on 127.0.0.1; some twenty are used.
        #[arg(long, default_value_t = 26_490)]
        port: u16,
    },
}

/// Our providers, as clusterctl calls them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Infrastructure {
    Kubevirt,
    Proxmox,
}

impl Infrastructure {
    fn names(self) -> Names {
        match self {
            Self::Kubevirt => kubevirt::NAMES,
            Self::Proxmox => proxmox::NAMES,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A cluster that somebody plays with goes on while templates are tried.
    let usual = match arguments.task {
        Task::Templates { .. } => "templates",
        _ => "default",
    };
    let site = Site::named(arguments.name.as_deref().unwrap_or(usual));
    let done = match arguments.task {
        Task::Up { port, bare } => up(site, port, bare).await,
        Task::Down => down(&site),
        Task::Status => status(&site),
        Task::Logs { process } => logs(&site, process.as_deref()),
        Task::Templates {
            folder,
            infrastructure,
            port,
        } => templates(site, Ports(port), infrastructure.names(), &folder).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(inner) = cause {
                eprintln!("  because: {inner}");
                cause = inner.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn up(site: Site, port: u16, bare: bool) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    for tool in MANAGEMENT {
        let before = Instant::now();
        tool.build()?;
        let took = before.elapsed().as_secs();
        if took > 0 {
            println!("{} {} built in {took} s", tool.name, tool.version()?);
        }
    }
    println!(
        "programs are there after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    let management = Management::start(site, Ports(port)).await?;
    println!(
        "Kubernetes answers after {:.1} s at {}",
        begun.elapsed().as_secs_f64(),
        management.url()
    );
    if !bare {
        let begun = Instant::now();
        manager::start_all(&management).await?;
        println!(
            "Cluster API is ready after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
    }
    status(&management.site)?;
    println!();
    println!("export KUBECONFIG={}", management.kubeconfig.display());
    println!("export PATH=$PATH:{}", directory_of_kubectl()?);
    println!("kubectl get namespaces");
    println!("kubectl api-resources --api-group cluster.x-k8s.io");
    println!("cargo run -p e2e -- down");
    Ok(())
}

fn directory_of_kubectl() -> Result<String, Box<dyn Error>> {
    let path = KUBECTL.build()?;
    Ok(path.parent().unwrap_or(&path).display().to_string())
}

fn down(site: &Site) -> Result<(), Box<dyn Error>> {
    let count = process::stop(site, None)?;
    println!("{count} processes ended");
    Ok(())
}

fn status(site: &Site) -> Result<(), Box<dyn Error>> {
    let all = process::list(site);
    let mut sum_kib = 0;
    for process in &all {
        println!(
            "  {:<30} pid {:<8} {:>5} MiB",
            process.name,
            process.id,
            process.memory_kib / 1024
        );
        sum_kib += process.memory_kib;
    }
    println!(
        "{} processes, {} MiB; logs are in {}",
        all.len(),
        sum_kib / 1024,
        site.path("logs").display()
    );
    Ok(())
}

fn logs(site: &Site, process: Option<&str>) -> Result<(), Box<dyn Error>> {
    if let Some(name) = process {
        print!("{}", site.read(&format!("logs/{name}.log"))?);
        return Ok(());
    }
    for entry in fs::read_dir(site.path("logs"))? {
        println!("{}", entry?.path().display());
    }
    Ok(())
}

async fn templates(
    site: Site,
    ports: Ports,
    names: Names,
    folder: &Path,
) -> Result<(), Box<dyn Error>> {
    let said = |failure: e2e::failure::Failure| failure.to_string();
    let all = template::templates(folder).map_err(said)?;
    let mut bench = Bench::start(site, ports, names).await.map_err(said)?;
    let mut refused = 0;
    for template in &all {
        let verdict = bench.judge(template).await.map_err(said)?;
        println!("{verdict}");
        refused += usize::from(!verdict.is_good());
    }
    if refused > 0 {
        return Err(format!(
            "{refused} of {} templates do not apply as they are",
            all.len()
        )
        .into());
    }
    println!("all {} templates apply as they are", all.len());
    Ok(())
}
