//! `clusterctl` with a local repository, for one management cluster.
//!
//! The repository holds what releases hold: Cluster API with kubeadm, rendered from their module, the
//! definitions and rights of the in-cluster IPAM provider, and a provider of ours in several releases. All
//! components are rewritten for programs outside the cluster, so `clusterctl init` installs webhooks
//! that work, and the processes are started afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::apply::{Applier, ApplyError};
use crate::ipam;
use crate::management::Management;
use crate::manager::{MANAGERS, ManagerError};
use crate::manifest::{self, Webhooks};
use crate::provider::{Program, ProviderError};
use crate::site::SiteError;
use crate::tool::{CLUSTERCTL, CORE, ToolError};

/// Below the run's directory.
const REPOSITORY: &str = "repository";
/// The release of the in-cluster IPAM provider whose definitions the testkit holds.
const IPAM_RELEASE: &str = "v1.1.0";
/// What each of [`MANAGERS`] is to clusterctl: its label, its name, its type, its components.
const PUBLISHED: [(&str, &str, &str, &str); 3] = [
    (
        "cluster-api",
        "cluster-api",
        "CoreProvider",
        "core-components.yaml",
    ),
    (
        "bootstrap-kubeadm",
        "kubeadm",
        "BootstrapProvider",
        "bootstrap-components.yaml",
    ),
    (
        "control-plane-kubeadm",
        "kubeadm",
        "ControlPlaneProvider",
        "control-plane-components.yaml",
    ),
];

/// Why clusterctl did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterctlError {
    /// It could not be built, or the sources of Cluster API are missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A release manifest could not be rendered.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// The provider's program does not print its manifests.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// A file could not be written.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// A file of the repository could not be read or written.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Components are no manifest.
    #[error("read the components {}", .0.display())]
    Components(PathBuf, #[source] Box<serde_saphyr::Error>),
    /// The manifests of the IPAM provider are none.
    #[error("read the manifests of the IPAM provider: {0}")]
    Ipam(String),
    /// The stand-in for cert-manager was refused.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// It could not be run.
    #[error("run clusterctl")]
    Run(#[source] io::Error),
    /// It ended with an error.
    #[error("clusterctl {arguments}: {output}")]
    Failed {
        /// What it was asked to do.
        arguments: String,
        /// What it said, on both outputs.
        output: String,
    },
}

/// A provider of ours in the repository.
#[derive(Debug)]
pub struct Published<'a> {
    /// Its name, as `--infrastructure` takes it.
    pub name: &'a str,
    /// Its program.
    pub program: &'a Program,
    /// Its place among the managers.
    pub place: u16,
    /// The releases that its program is asked for.
    pub releases: &'a [&'a str],
}

/// clusterctl, told where providers lie and which management cluster is meant.
#[derive(Clone)]
pub struct Clusterctl {
    program: PathBuf,
    configuration: PathBuf,
    kubeconfig: PathBuf,
    variables: Vec<(String, String)>,
}

// Variables hold credentials.
impl std::fmt::Debug for Clusterctl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clusterctl")
            .field("configuration", &self.configuration)
            .finish_non_exhaustive()
    }
}

impl Clusterctl {
    /// Writes repository and configuration, and puts into the cluster what stands for cert-manager:
    /// kinds of which clusterctl makes an object each, to see whether it is there.
    ///
    /// # Errors
    ///
    /// Programs or sources that are missing, files that cannot be written.
    pub async fn prepare(
        management: &Management,
        provider: &Published<'_>,
    ) -> Result<Self, ClusterctlError> {
        let program = CLUSTERCTL.build()?;
        let repository = management.site.make(REPOSITORY)?;
        let mut providers = cluster_api(management)?;
        providers.push(in_cluster_ipam(management)?);
        providers.push(ours(management, &repository, provider)?);
        let configuration = json!({
            "providers": providers,
            "cert-manager": {"externallyProvisioned": "true", "timeout": "1m"},
        });
        let configuration = management
            .site
            .write("clusterctl.yaml", &configuration.to_string())?;
        let mut applier = Applier::new(management.client.clone());
        for kind in ["Issuer", "Certificate"] {
            let definition = permissive("cert-manager.io", "v1", kind);
            applier.apply(definition).await?;
        }
        Ok(Self {
            program,
            configuration,
            kubeconfig: management.kubeconfig.clone(),
            variables: Vec::new(),
        })
    }

    /// clusterctl without a repository, for what it does with files.
    ///
    /// # Errors
    ///
    /// A program that cannot be built, a file that cannot be written.
    pub fn alone(management: &Management) -> Result<Self, ClusterctlError> {
        Ok(Self {
            program: CLUSTERCTL.build()?,
            configuration: management.site.write("clusterctl.yaml", "{}")?,
            kubeconfig: management.kubeconfig.clone(),
            variables: Vec::new(),
        })
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.unset(name);
        self.variables.push((name.to_owned(), value.into()));
    }

    /// Whether a variable was set here.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|(known, _)| known == name)
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &str) {
        self.variables.retain(|(known, _)| known != name);
    }

    /// Runs it to its end; what it printed for programs to read. What it tells people goes with the
    /// error.
    ///
    /// # Errors
    ///
    /// [`ClusterctlError::Failed`].
    pub fn run(&self, arguments: &[&str]) -> Result<String, ClusterctlError> {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(&self.configuration)
            .env("KUBECONFIG", &self.kubeconfig)
            // It would look on GitHub whether there is a newer one.
            .env("CLUSTERCTL_DISABLE_VERSIONCHECK", "true")
            .envs(self.variables.iter().cloned())
            .output()
            .map_err(ClusterctlError::Run)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        Err(ClusterctlError::Failed {
            arguments: arguments.join(" "),
            output: format!("{said}{}", String::from_utf8_lossy(&output.stderr)),
        })
    }
}

/// Cluster API and its kubeadm providers, as they are released.
fn cluster_api(management: &Management) -> Result<Vec<Value>, ClusterctlError> {
    let release = CORE.version()?;
    let metadata = read(&CORE.sources()?.join("metadata.yaml"))?;
    let mut providers = Vec::new();
    for (manager, (label, name, kind, components)) in MANAGERS.into_iter().zip(PUBLISHED) {
        let below = format!("{REPOSITORY}/{label}/{release}");
        let site = &management.site;
        site.write(&format!("{below}/metadata.yaml"), &metadata)?;
        let objects = manager.objects(management)?;
        let path = site.write(&format!("{below}/{components}"), &documents(&objects))?;
        providers.push(entry(name, kind, &path));
    }
    Ok(providers)
}

/// The in-cluster IPAM provider, with our own program's rights.
fn in_cluster_ipam(management: &Management) -> Result<Value, ClusterctlError> {
    let below = format!("{REPOSITORY}/ipam-in-cluster/{IPAM_RELEASE}");
    let metadata = json!({
        "apiVersion": "clusterctl.cluster.x-k8s.io/v1alpha3", "kind": "Metadata",
        "releaseSeries": [{"major": 1, "minor": 1, "contract": "v1beta2"}],
    });
    let objects =
        ipam::manifests().map_err(|failure| ClusterctlError::Ipam(failure.to_string()))?;
    let site = &management.site;
    site.write(&format!("{below}/metadata.yaml"), &metadata.to_string())?;
    let path = site.write(
        &format!("{below}/ipam-components.yaml"),
        &documents(&objects),
    )?;
    Ok(entry("in-cluster", "IPAMProvider", &path))
}

/// What `manifests` of our program writes, rewritten.
fn ours(
    management: &Management,
    repository: &Path,
    provider: &Published<'_>,
) -> Result<Value, ClusterctlError> {
    let [port, ..] = management.ports.manager(provider.place);
    let webhooks = Webhooks {
        port,
        authority: management.authority.clone(),
    };
    let base = repository.join(format!("infrastructure-{}", provider.name));
    let components = "infrastructure-components.yaml";
    for release in provider.releases {
        let output = repository.display().to_string();
        provider
            .program
            .manifests(&["--output", &output, "--release", release])?;
        let path = base.join(release).join(components);
        let objects: Vec<Value> = serde_saphyr::from_multiple(&read(&path)?)
            .map_err(|error| ClusterctlError::Components(path.clone(), Box::new(error)))?;
        let kept: Vec<_> = objects
            .into_iter()
            .filter_map(|object| manifest::rewrite(object, &webhooks))
            .collect();
        fs::write(&path, documents(&kept)).map_err(failed("write", &path))?;
    }
    let path = base.join("latest").join(components);
    Ok(entry(provider.name, "InfrastructureProvider", &path))
}

fn entry(name: &str, kind: &str, components: &Path) -> Value {
    json!({"name": name, "type": kind, "url": format!("file://{}", components.display())})
}

/// JSON is YAML, and what fills a variable between quotes stays a string.
fn documents(objects: &[Value]) -> String {
    let texts: Vec<_> = objects.iter().map(Value::to_string).collect();
    texts.join("\n---\n")
}

/// A kind that takes anything. Cluster API finds its own kinds, and those that they refer to, by the label
/// of a contract.
pub(crate) fn permissive(group: &str, version: &str, kind: &str) -> Value {
    let (singular, plural) = (kind.to_lowercase(), format!("{}s", kind.to_lowercase()));
    let labels = if group.ends_with("cluster.x-k8s.io") {
        json!({"cluster.x-k8s.io/v1beta1": version})
    } else {
        json!({})
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "labels": labels},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural,
                "singular": singular},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    })
}

fn read(path: &Path) -> Result<String, ClusterctlError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterctlError {
    let path = path.to_owned();
    move |source| ClusterctlError::File {
        attempt,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate with its line ends in a variable must not end a string.
    #[test]
    fn ctl_06_variables_stay_between_quotes() {
        let secret = json!({"kind": "Secret", "stringData": {"url": "${RACK_URL:=}"}});
        let text = documents(&[json!({"kind": "Namespace"}), secret]);
        assert!(text.contains("\"${RACK_URL:=}\""), "{text}");
        let filled = text.replace("${RACK_URL:=}", "0123");
        let read: Vec<Value> = serde_saphyr::from_multiple(&filled).expect("it is YAML");
        assert_eq!(read[1]["stringData"]["url"], "0123");
    }
}
