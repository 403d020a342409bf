//! The real tier by hand: `cargo run -p e2e -- up`.

#![expect(
    clippy::print_stdout,
    reason = "a command's answers go to whoever called it"
)]

use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use e2e::management::{Management, Ports};
use e2e::site::Site;
use e2e::tool::{KUBECTL, MANAGEMENT};
use e2e::{manager, process};

/// A management cluster of real programs: etcd, kube-apiserver, Cluster API with kubeadm.
///
/// The programs are built from Go modules into a cache, which takes some ten minutes the first time,
/// and run as plain processes on loopback.
#[derive(Debug, Parser)]
#[command(name = "e2e", max_term_width = 100)]
struct Arguments {
    /// Which run: its files lie in target/e2e/NAME.
    #[arg(long, default_value = "default", global = true)]
    name: String,
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
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let site = Site::named(&arguments.name);
    let done = match arguments.task {
        Task::Up { port, bare } => up(site, port, bare).await,
        Task::Down => down(&site),
        Task::Status => status(&site),
        Task::Logs { process } => logs(&site, process.as_deref()),
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
