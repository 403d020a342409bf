//! Staying up: a kubeconfig, commands worth trying, and the end by a signal.

use std::io::Write;
use std::process;

use tempfile::{Builder, TempDir};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::manifest::Manifest;
use crate::platform::Profile;
use crate::progress::Progress;
use crate::story::{self, Length, Story};
use crate::world::{World, WorldError};

/// Who the kubeconfigs are for.
const ADMIN: &str = "quickstart-admin";

/// Why serving could not begin or ended by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Story(#[from] story::Error),
    #[error("writing the kubeconfig")]
    Kubeconfig(#[source] std::io::Error),
    #[error("listening to signals")]
    Signal(#[source] std::io::Error),
}

/// Brings the manifest up, then stays until SIGINT or SIGTERM. Nothing is deleted at the end: the
/// world ends with this process.
pub(crate) async fn hold(
    world: &World,
    manifest: &Manifest,
    progress: &mut Progress,
) -> Result<(), Error> {
    let mut signals = Signals::listen().map_err(Error::Signal)?;
    // Ended before all runs, too: somebody who has seen enough need not wait.
    let ended = tokio::select! {
        ended = signals.next() => Some(ended),
        up = come_up(world, manifest, progress) => { up?; None }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => stay(world, manifest, progress, &mut signals).await?,
    };
    progress.clear();
    progress.say(&format!(
        "{ended}: ends here. Nothing was deleted; the simulated world ends with this process"
    ));
    Ok(())
}

async fn come_up(
    world: &World,
    manifest: &Manifest,
    progress: &mut Progress,
) -> Result<(), story::Error> {
    let mut story = Story::new(world, manifest, Length::Up, progress);
    story.come_up().await
}

async fn stay(
    world: &World,
    manifest: &Manifest,
    progress: &mut Progress,
    signals: &mut Signals,
) -> Result<&'static str, Error> {
    let kubeconfig = Kubeconfig::write(&world.kubeconfig(ADMIN)?);
    let kubeconfig = kubeconfig.map_err(Error::Kubeconfig)?;
    let infra = world.platform().kubeconfig(ADMIN).transpose()?;
    let infra = infra.map(|text| kubeconfig.add(Kubeconfig::INFRA, &text));
    let infra = infra.transpose().map_err(Error::Kubeconfig)?;
    for line in invitation(
        &kubeconfig.path(),
        infra.as_deref(),
        manifest,
        world.profile(),
    ) {
        progress.line(&line);
    }
    loop {
        for news in world.kills().take_news() {
            progress.say(&news);
        }
        progress.show(&world.clusters());
        if let Some(ended) = world.ended() {
            return Err(story::Error::ActorEnded(ended).into());
        }
        tokio::select! {
            ended = signals.next() => return Ok(ended),
            () = sleep(progress.frame()) => {}
        }
    }
}

/// The first line is for programs: its beginning is kept.
/// `infra` is the kubeconfig of the infra cluster, where there is one.
fn invitation(
    path: &str,
    infra: Option<&str>,
    manifest: &Manifest,
    profile: &Profile,
) -> Vec<String> {
    let first = |kind: &str| {
        let found = manifest.of_kind(kind).next()?;
        let name = found.metadata.name.as_deref()?;
        let namespace = found.metadata.namespace.as_deref().unwrap_or("default");
        // The kubeconfig's own namespace needs no word.
        let namespace = match namespace {
            "default" => String::new(),
            other => format!(" -n {other}"),
        };
        Some(format!("{name}{namespace}"))
    };
    let mut lines = vec![
        format!("kubeconfig: {path}"),
        "Try in another terminal:".to_owned(),
        format!("  export KUBECONFIG={path}"),
        format!(
            "  kubectl get clusters,machines,{} -A",
            profile.machine().plural
        ),
    ];
    if let Some(cluster) = first("Cluster") {
        lines.push(format!("  kubectl describe cluster {cluster}"));
    }
    if let Some(deployment) = first("MachineDeployment") {
        lines.push(format!(
            "  kubectl scale machinedeployment {deployment} --replicas 4"
        ));
    }
    if let Some(infra) = infra {
        let command = format!("  kubectl --kubeconfig {infra}");
        lines.push(format!("{command} get vm,vmi,dv,svc,nodes"));
    }
    lines.push("Ctrl-C ends it.".to_owned());
    lines
}

/// A kubeconfig in a directory of its own that only its owner can read, and that goes with this value.
struct Kubeconfig {
    directory: TempDir,
}

impl Kubeconfig {
    /// Its name in the directory.
    const NAME: &str = "kubeconfig";

    /// The name of the infra cluster's beside it.
    const INFRA: &str = "infra";

    fn write(text: &str) -> std::io::Result<Self> {
        let directory = Builder::new()
            .prefix(&format!("quickstart-{}-", process::id()))
            .tempdir()?;
        let kubeconfig = Self { directory };
        kubeconfig.add(Self::NAME, text)?;
        Ok(kubeconfig)
    }

    /// Writes another one beside it.
    fn add(&self, name: &str, text: &str) -> std::io::Result<String> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.directory.path().join(name);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path.display().to_string())
    }

    fn path(&self) -> String {
        self.directory.path().join(Self::NAME).display().to_string()
    }
}

/// The signals that end a program in a terminal or under a supervisor.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::platform::Platform;

    #[test]
    fn a_kubeconfig_is_for_its_owner_only_and_goes_with_the_program() {
        let kubeconfig = Kubeconfig::write("secret").unwrap();
        let infra = kubeconfig.add(Kubeconfig::INFRA, "other").unwrap();
        let mode = std::fs::metadata(&infra).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let path = kubeconfig.path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret");
        drop(kubeconfig);
        assert!(!std::path::Path::new(&path).exists());
        assert!(!std::path::Path::new(&infra).exists());
    }

    #[test]
    fn the_invitation_begins_with_the_path_and_names_what_the_manifest_has() {
        let text = "apiVersion: cluster.x-k8s.io/v1beta2\nkind: Cluster\n\
                    metadata: {name: c, namespace: team}\n---\n\
                    apiVersion: cluster.x-k8s.io/v1beta2\nkind: MachineDeployment\n\
                    metadata: {name: md}\n";
        let manifest = Manifest::parse("m".to_owned(), text).unwrap();
        let lines = invitation("/tmp/k", None, &manifest, Platform::Proxmox.profile());
        assert_eq!(lines[0], "kubeconfig: /tmp/k");
        assert!(lines.contains(&"  kubectl describe cluster c -n team".to_owned()));
        assert!(lines.contains(&"  kubectl scale machinedeployment md --replicas 4".to_owned()));
        assert_eq!(
            lines
                .iter()
                .filter(|it| it.starts_with("  kubectl"))
                .count(),
            3
        );
        let profile = Platform::Kubevirt.profile();
        let lines = invitation("/tmp/k", Some("/tmp/infra"), &manifest, profile);
        assert!(lines.contains(&"  kubectl get clusters,machines,kubevirtmachines -A".to_owned()));
        let infra = "  kubectl --kubeconfig /tmp/infra get vm,vmi,dv,svc,nodes".to_owned();
        assert!(lines.contains(&infra), "{lines:#?}");
    }
}
