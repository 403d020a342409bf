//! Programs that are Go modules: built once per version, kept in the user's cache directory.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

/// Names the directory of built programs, instead of the user's cache directory.
pub const CACHE_VARIABLE: &str = "CAPI_RS_TOOLS";
/// Bytes of the digest in a cache directory's name; a clash needs two modules of the same version.
const KEY_BYTES: usize = 6;

/// A program that a module below `e2e/tools/` pins as a tool dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tool {
    /// Name of the program.
    pub name: &'static str,
    /// The module's directory below `tools/`.
    pub folder: &'static str,
    /// The main package.
    pub package: &'static str,
    /// The required module whose version is the program's.
    pub module: &'static str,
    /// The package with the variables `gitVersion`, `gitMajor` and `gitMinor`, where the program has
    /// such. Unstamped, Kubernetes' programs say they are `v0.0.0-master`, and others refuse them.
    pub stamp: Option<&'static str>,
}

/// Where Kubernetes' programs look for their version.
const KUBERNETES_STAMP: Option<&str> = Some("k8s.io/component-base/version");
/// Where Cluster API's programs look for their version.
const CLUSTER_API_STAMP: Option<&str> = Some("sigs.k8s.io/cluster-api/version");

/// The command line client of Kubernetes.
pub const KUBECTL: Tool = Tool {
    name: "kubectl",
    folder: "kubectl",
    package: "k8s.io/kubernetes/cmd/kubectl",
    module: "k8s.io/kubernetes",
    stamp: KUBERNETES_STAMP,
};
/// The store of API servers.
pub const ETCD: Tool = Tool {
    name: "etcd",
    folder: "etcd",
    package: "go.etcd.io/etcd/server/v3",
    module: "go.etcd.io/etcd/server/v3",
    stamp: None,
};
/// The API server of Kubernetes.
pub const KUBE_APISERVER: Tool =
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");
/// The controllers of Kubernetes: garbage collection, service accounts, aggregation of roles.
pub const KUBE_CONTROLLER_MANAGER: Tool = kubernetes(
    "kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
);
/// The manager of Cluster API's core.
pub const CORE: Tool = cluster_api("capi-core-manager", "sigs.k8s.io/cluster-api/core");
/// The manager of the kubeadm bootstrap provider.
pub const BOOTSTRAP: Tool = cluster_api(
    "capi-bootstrap-manager",
    "sigs.k8s.io/cluster-api/bootstrap/kubeadm",
);
/// The manager of the kubeadm control plane provider.
pub const CONTROL_PLANE: Tool = cluster_api(
    "capi-control-plane-manager",
    "sigs.k8s.io/cluster-api/controlplane/kubeadm",
);
/// The command line client of Cluster API.
pub const CLUSTERCTL: Tool = cluster_api("clusterctl", "sigs.k8s.io/cluster-api/cmd/clusterctl");

/// What checks objects against the published API types of KubeVirt: ours, on its modules.
pub const STRICT: Tool = Tool {
    name: "strict",
    folder: "kubevirt",
    package: ".",
    module: "kubevirt.io/api",
    stamp: None,
};

/// What stands in for a kubelet on simulated machines: port forwarding, served by Kubernetes' own code.
pub const KUBELET: Tool = Tool {
    name: "kubelet-stand-in",
    folder: "kubelet",
    package: ".",
    module: "k8s.io/cri-streaming",
    stamp: None,
};

/// All programs of a management cluster with Cluster API, in the order in which they are built: the
/// slowest first, so that a missing module shows early.
pub const MANAGEMENT: [Tool; 7] = [
    KUBE_APISERVER,
    KUBE_CONTROLLER_MANAGER,
    ETCD,
    CORE,
    BOOTSTRAP,
    CONTROL_PLANE,
    KUBECTL,
];

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool {
        name,
        folder: "kubernetes",
        package,
        module: "k8s.io/kubernetes",
        stamp: KUBERNETES_STAMP,
    }
}

const fn cluster_api(name: &'static str, package: &'static str) -> Tool {
    Tool {
        name,
        folder: "cluster-api",
        package,
        module: "sigs.k8s.io/cluster-api",
        stamp: CLUSTER_API_STAMP,
    }
}

/// Why a program could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// There is no Go toolchain.
    #[error("run `go`, which builds {tool}; install Go, or put it on the path")]
    NoGo {
        /// The program wanted.
        tool: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a home nor a cache directory is set.
    #[error("find a cache directory: set {CACHE_VARIABLE} to one")]
    NoCache,
    /// The module does not say which version it pins.
    #[error("find the version of {module} in {path}")]
    NoVersion {
        /// The module looked for.
        module: &'static str,
        /// The `go.mod` read.
        path: PathBuf,
    },
    /// A file or directory could not be read or written.
    #[error("{attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The build failed.
    #[error("build {tool}: {output}")]
    Build {
        /// The program.
        tool: &'static str,
        /// What Go said, its last lines.
        output: String,
    },
}

impl ToolError {
    /// Whether the machine lacks Go; everything else is a fault.
    #[must_use]
    pub fn is_go_missing(&self) -> bool {
        matches!(self, Self::NoGo { .. })
    }
}

impl Tool {
    /// The directory of the module.
    fn directory(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tools")
            .join(self.folder)
    }

    /// Where the sources of [`Tool::module`] lie, with the manifests that its releases are made of.
    ///
    /// # Errors
    ///
    /// No Go, or a module that cannot be fetched.
    pub fn sources(&self) -> Result<PathBuf, ToolError> {
        // Unlike `go list -m`, which says nothing of a module that was never fetched.
        let output = Command::new("go")
            .current_dir(self.directory())
            .args(["mod", "download", "-json", self.module])
            .output()
            .map_err(|source| ToolError::NoGo {
                tool: self.name,
                source,
            })?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if let Some(path) = said["Dir"].as_str() {
            return Ok(path.into());
        }
        let error = said["Error"].as_str().map(str::to_owned);
        Err(ToolError::Build {
            tool: self.name,
            output: error
                .unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        })
    }

    /// The version that the module pins, such as `v1.36.3`.
    ///
    /// # Errors
    ///
    /// The module cannot be read or does not require [`Tool::module`].
    pub fn version(&self) -> Result<String, ToolError> {
        let path = self.directory().join("go.mod");
        let version = required_version(&read(&path)?, self.module);
        version.ok_or(ToolError::NoVersion {
            module: self.module,
            path,
        })
    }

    /// The program: from the cache, or built into it, which takes minutes and needs Go and the
    /// modules. Processes that ask at the same time build once.
    ///
    /// # Errors
    ///
    /// No Go, no cache directory, or a build that failed.
    pub fn build(&self) -> Result<PathBuf, ToolError> {
        let version = self.version()?;
        let cached = cache()?.join(format!("{}-{version}-{}", self.name, self.key()?));
        let program = cached.join(self.name);
        if program.exists() {
            return Ok(program);
        }
        let failed = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| ToolError::File {
                attempt,
                path,
                source,
            }
        };
        fs::create_dir_all(&cached).map_err(failed("create", &cached))?;
        let lock_path = cached.join("lock");
        let lock = File::create(&lock_path).map_err(failed("create", &lock_path))?;
        lock.lock().map_err(failed("lock", &lock_path))?;
        if program.exists() {
            return Ok(program);
        }
        // A build that is cut off must not leave half a program under the final name.
        let partial = cached.join(format!("{}.partial", self.name));
        self.compile(&version, &partial)?;
        fs::rename(&partial, &program).map_err(failed("rename", &partial))?;
        Ok(program)
    }

    /// What else than the version the program depends on: the pins, and sources of our own.
    fn key(&self) -> Result<String, ToolError> {
        let directory = self.directory();
        let failed = |source| ToolError::File {
            attempt: "list",
            path: directory.clone(),
            source,
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        files.sort();
        let mut digest = Sha256::new();
        for file in files {
            digest.update(read(&file)?);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let bytes = digest.iter().take(KEY_BYTES);
        Ok(bytes.map(|byte| format!("{byte:02x}")).collect())
    }

    fn compile(&self, version: &str, to: &Path) -> Result<(), ToolError> {
        let output = Command::new("go")
            .current_dir(self.directory())
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"])
            .arg(format!("-ldflags={}", link_flags(self.stamp, version)))
            .arg("-o")
            .arg(to)
            .arg(self.package)
            .output()
            .map_err(|source| ToolError::NoGo {
                tool: self.name,
                source,
            })?;
        if output.status.success() {
            return Ok(());
        }
        Err(ToolError::Build {
            tool: self.name,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// The version of a direct or replaced requirement in a `go.mod`.
fn required_version(text: &str, module: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim();
        let mut words = line
            .strip_prefix("require ")
            .unwrap_or(line)
            .split_whitespace();
        let found = words.next() == Some(module);
        words
            .next()
            .filter(|version| found && version.starts_with('v'))
            .map(str::to_owned)
    })
}

/// Without symbol table; with the version where the program looks for it.
fn link_flags(stamp: Option<&str>, version: &str) -> String {
    let mut flags = "-s -w".to_owned();
    let Some(package) = stamp else { return flags };
    let mut numbers = version.trim_start_matches('v').split('.');
    let variables = [
        ("gitVersion", Some(version)),
        ("gitMajor", numbers.next()),
        ("gitMinor", numbers.next()),
    ];
    for (variable, value) in variables {
        if let Some(value) = value {
            flags += &format!(" -X {package}.{variable}={value}");
        }
    }
    flags
}

fn read(path: &Path) -> Result<String, ToolError> {
    fs::read_to_string(path).map_err(|source| ToolError::File {
        attempt: "read",
        path: path.to_owned(),
        source,
    })
}

/// `cargo clean` is no reason to build for minutes, so the programs are kept beside what Go caches.
fn cache() -> Result<PathBuf, ToolError> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(directory) = set(CACHE_VARIABLE) {
        return Ok(directory.into());
    }
    let base = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
    Ok(base
        .ok_or(ToolError::NoCache)?
        .join("capi-rs")
        .join("tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_says_which_version_is_built() {
        assert_eq!(STRICT.version().expect("the module is there"), "v1.9.0");
        for tool in [KUBECTL, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER] {
            assert_eq!(tool.version().expect("the module is there"), "v1.36.3");
        }
        for tool in [CORE, BOOTSTRAP, CONTROL_PLANE, CLUSTERCTL] {
            assert_eq!(tool.version().expect("the module is there"), "v1.14.2");
        }
        assert_eq!(ETCD.version().expect("the module is there"), "v3.6.14");
        let table = [
            ("require a/b v1.2.3", Some("v1.2.3")),
            ("require (\n\ta/b v1.2.3 // indirect\n)", Some("v1.2.3")),
            ("replace a/b => c/d v4.5.6", None),
            ("require a/bc v1.2.3", None),
        ];
        for (text, expected) in table {
            assert_eq!(required_version(text, "a/b").as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn stamps_carry_the_version_in_three_variables() {
        assert_eq!(
            link_flags(Some("p/version"), "v1.36.3"),
            "-s -w -X p/version.gitVersion=v1.36.3 -X p/version.gitMajor=1 \
             -X p/version.gitMinor=36"
        );
        assert_eq!(link_flags(None, "v3.6.14"), "-s -w");
    }
}
