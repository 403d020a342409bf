//! The quick start: a day in the life of a cluster on Proxmox VE or KubeVirt, in one process.
//!
//! ```console
//! cargo run --example quickstart
//! cargo run --example quickstart -- --provider kubevirt
//! cargo run --example quickstart -- --help
//! ```
//!
//! What is real: the provider and its engine, TLS and HTTPS on loopback sockets, the custom resource
//! definitions, the cloud-init seed that the virtual machines boot from. What is played: Kubernetes
//! and Cluster API core (`capi-testkit`), Proxmox VE (`pve-sim`) and KubeVirt (`kubevirt-sim`).

mod cast;
mod chapter;
mod manifest;
mod moments;
mod options;
mod platform;
mod progress;
mod provider;
mod serve;
mod story;
mod summary;
mod tree;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::manifest::Manifest;
use crate::options::Options;
use crate::progress::Progress;
use crate::story::{Length, Story};
use crate::summary::Summary;
use crate::world::World;

#[tokio::main]
async fn main() -> ExitCode {
    // The other role, of which users need not know: this program starts itself in it.
    if std::env::args().nth(1).as_deref() == Some(provider::ROLE) {
        return provider::main()
            .await
            .unwrap_or_else(|error| failed(&error));
    }
    let options = Options::parse();
    if let Some(filter) = &options.log {
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        log.init();
    }
    match run(&options).await {
        Ok(is_well) if is_well => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => failed(error.as_ref()),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        eprintln!("  because: {inner}");
        cause = inner.source();
    }
    ExitCode::FAILURE
}

/// True if all went well and nothing is left.
async fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let manifest = match &options.file {
        Some(path) => Manifest::read(path, &options.assignments.iter().cloned().collect())?,
        None => options.provider.profile().manifest()?,
    };
    if let Some(other) = options.provider.other_of(&manifest) {
        let (name, word) = (other.profile().name, other.word());
        return Err(format!("{} is for {name}: add --provider {word}", manifest.source).into());
    }
    let mut definitions = world::definitions(options.provider);
    (options.provider.profile().refine)(&mut definitions);
    manifest.check(&definitions)?;

    let mut progress = Progress::new(options.plain);
    let world = World::start(options).await?;
    progress.say(&format!(
        "management cluster at {}, over TLS",
        world.kubernetes_url()
    ));
    progress.say(&world.platform().greeting());
    if let Some(secret) = world.profile().secret {
        progress.say(&format!(
            "the provider reaches it by the kubeconfig in Secret/{secret}"
        ));
    }
    if options.chaos {
        progress.say(&format!(
            "faults on every connection and task, seed {}",
            options.seed
        ));
    }
    for note in &manifest.notes {
        progress.say(&format!(
            "no value, so nothing, as with clusterctl: {}",
            note.trim()
        ));
    }
    world.dry_run(&manifest).await?;
    if options.serve {
        serve::hold(&world, &manifest, &mut progress).await?;
        return Ok(true);
    }
    let length = if options.file.is_none() || options.whole_day {
        Length::WholeDay
    } else {
        Length::UpAndDown
    };
    let story = Story::new(&world, &manifest, length, &mut progress);
    let summary = Summary::of(&world, options, story.tell().await?);
    for line in summary.lines() {
        progress::print(&line);
    }
    Ok(summary.is_clean())
}
