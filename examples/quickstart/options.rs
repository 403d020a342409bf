//! What can be said on the command line.

use std::path::PathBuf;

use clap::Parser;

use crate::platform::Platform;

/// A cluster comes up on Proxmox VE or KubeVirt and goes away again.
///
/// Everything runs in this process: a management cluster over TLS, Cluster API core, a simulated
/// Proxmox VE over HTTPS or infra cluster with KubeVirt over TLS, and the real provider.
#[derive(Debug, Clone, Parser)]
#[command(name = "quickstart", max_term_width = 100)]
pub(crate) struct Options {
    /// On which platform the story is told.
    #[arg(long, value_enum, default_value_t = Platform::Proxmox)]
    pub(crate) provider: Platform,

    /// Apply this manifest instead of the platform's own in examples/quickstart.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Fill in a variable of the manifest, as clusterctl does; may be repeated.
    ///
    /// `${VAR}`, and with defaults `${VAR:=x}`, `${VAR=x}`, `${VAR:-x}`. What is not given here is
    /// taken from the environment.
    #[arg(long = "set", value_name = "VAR=VALUE", value_parser = assignment, requires = "file")]
    pub(crate) assignments: Vec<(String, String)>,

    /// Stay up once everything runs, for kubectl; Ctrl-C ends it.
    #[arg(long)]
    pub(crate) serve: bool,

    /// How many times faster than life the simulated machines and controllers of core are.
    ///
    /// The engine and the provider are never sped up.
    #[arg(long, default_value_t = 30.0, value_parser = positive)]
    pub(crate) speed: f64,

    /// Seed of everything random: equal seeds give equal faults.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Inject random faults into every connection and task; the same summary must hold.
    #[arg(long)]
    pub(crate) chaos: bool,

    /// Run the provider as a process of its own, and kill it this often (kill -9) on the way.
    ///
    /// Its successor waits for a lease of 3 s to run out, so the story takes longer.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) kill: u32,

    /// Play every chapter with the manifest of -f, too: it is scaled up, has a machine replaced and
    /// is upgraded to Kubernetes v1.37.0.
    #[arg(long)]
    pub(crate) whole_day: bool,

    /// Print one line per change instead of redrawing a tree.
    #[arg(long)]
    pub(crate) plain: bool,

    /// Show the provider's log on standard error, filtered as in RUST_LOG.
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("must be a number above 0".to_owned()),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|it| it.is_alphanumeric() || it == '_');
    match text.split_once('=') {
        Some((name, value)) if is_name(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be VAR=value, with letters, digits and _ in VAR".to_owned()),
    }
}
