//! Flags, named as those of the Cluster API managers, and what they are read into.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;

use super::logs::Format;
use super::{CommandError, Program, print};
use crate::manifests::{self, Choices, Package, Release, Surface};
use crate::options::Options;

/// Flags of `run` that every provider has.
#[derive(Debug, Args)]
// clap names a group after the type, and a provider may name its own flags as it likes.
#[group(skip)]
pub(super) struct RunFlags {
    /// Kubeconfig of the management cluster; KUBECONFIG, ~/.kube/config or the pod's service account
    /// if left out.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Namespace to work in; may be repeated. All namespaces if left out.
    #[arg(long, value_name = "NAME")]
    pub(super) namespace: Vec<String>,
    /// Work only on objects whose label cluster.x-k8s.io/watch-filter has this value.
    #[arg(long, value_name = "VALUE")]
    pub(super) watch_filter: Option<String>,
    /// How many objects are worked on at once.
    #[arg(long, value_name = "COUNT", default_value_t = Options::default().concurrency)]
    pub(super) concurrency: usize,
    /// How often a settled machine is looked at.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(super) recheck: Duration,
    /// Let one of several replicas act, elected by a Lease.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) leader_elect: bool,
    /// Namespace of the Lease; the one that the program runs in if left out.
    #[arg(long, value_name = "NAME")]
    pub(super) leader_elect_namespace: Option<String>,
    /// How long the leader may stay silent before another takes over.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub(super) leader_elect_lease_duration: Duration,
    /// How long the leader acts without having renewed.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) leader_elect_renew_deadline: Duration,
    /// Pause between two tries to lead or to renew.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(super) leader_elect_retry_period: Duration,
    /// Address of /healthz and /readyz; 0 for none.
    #[arg(long, value_name = "ADDRESS", default_value = ":9440")]
    pub(super) health_addr: Bind,
    /// Address of /metrics; 0 for none. Over TLS, for callers whose token may get /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = ":8443")]
    pub(super) diagnostics_address: Bind,
    /// Serve the diagnostics over plain HTTP to everybody.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) insecure_diagnostics: bool,
    /// Port of the webhooks.
    #[arg(long, value_name = "PORT", default_value_t = 9443)]
    pub(super) webhook_port: u16,
    /// Directory with tls.crt and tls.key for the webhooks; no webhooks are served without it. Rotated
    /// files are taken in within seconds.
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) webhook_cert_dir: Option<PathBuf>,
    /// How a line of the log looks.
    #[arg(
        long,
        visible_alias = "log-format",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(super) logging_format: Format,
    /// How much is logged: 0 to 3 is normal, 4 for debugging, 6 for everything. RUST_LOG overrides it.
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0)]
    pub(super) verbosity: u8,
}

impl RunFlags {
    /// The namespaces; `--namespace=` means all, as an unset variable in a manifest leaves it (CTL-07).
    pub(super) fn namespaces(&self) -> Vec<String> {
        let named = self.namespace.iter().filter(|name| !name.is_empty());
        named.cloned().collect()
    }
}

/// Flags of `manifests`.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct ManifestFlags {
    /// Directory that becomes a clusterctl repository: <provider>/<version>/ with
    /// infrastructure-components.yaml, metadata.yaml and the templates for clusters. Variables such as
    /// ${NAME:= } are left in it for clusterctl. Standard output, and no variables, if left out.
    #[arg(long, short = 'o', value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// Version to release it as, such as v1.2.0: names the directory, the image's tag and the release
    /// series. The program's own if left out.
    #[arg(long, value_name = "VERSION")]
    release: Option<Release>,
    /// Image of the manager, with its tag.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Namespace to work in; may be repeated. With it, rights are given there only, by Roles.
    #[arg(long, value_name = "NAME")]
    namespace: Vec<String>,
    /// Work only on objects whose label cluster.x-k8s.io/watch-filter has this value.
    #[arg(long, value_name = "VALUE")]
    watch_filter: Option<String>,
    /// Replicas of the manager; one of them acts.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    replicas: u32,
    /// Leave the webhooks out, and cert-manager's objects with them.
    #[arg(long)]
    without_webhooks: bool,
    /// Namespace of the management cluster in which the platform is too, for providers whose platform
    /// is a Kubernetes cluster: gives the rights for it there. May be repeated; empty means everywhere.
    #[arg(long, value_name = "NAME")]
    platform_namespace: Vec<String>,
    /// Give the right to delete others' objects that are labelled to go with a cluster, where the
    /// provider has such.
    #[arg(long)]
    extra_resources: bool,
}

/// Writes what `manifests` was asked for.
pub(super) fn write_manifests<P: Program>(
    package: &Package,
    flags: &ManifestFlags,
) -> Result<(), CommandError> {
    let release = match &flags.release {
        Some(release) => release.clone(),
        None => Release::of(package)?,
    };
    let choices = Choices {
        release,
        image: flags.image.clone(),
        namespaces: flags.namespace.clone(),
        watch_filter: flags.watch_filter.clone(),
        replicas: flags.replicas,
        webhooks: !flags.without_webhooks,
        extras: flags.extra_resources,
        platform: flags.platform_namespace.clone(),
        variables: flags.output.is_some(),
    };
    let components = manifests::components(package, &Surface::of::<P>(), &choices)?;
    let components = manifests::yaml(&components)?;
    let Some(directory) = &flags.output else {
        return print(&components);
    };
    let directory = directory
        .join(package.label())
        .join(choices.release.to_string());
    std::fs::create_dir_all(&directory).map_err(|source| unwritten(&directory, source))?;
    let metadata = manifests::yaml(&[manifests::metadata(package, &choices.release)?])?;
    let made = [
        ("infrastructure-components.yaml", components.as_str()),
        ("metadata.yaml", &metadata),
    ];
    let templates = package.templates.iter().map(|it| (it.file, it.text));
    for (name, text) in made.into_iter().chain(templates) {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|source| unwritten(&path, source))?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

fn unwritten(path: &Path, source: std::io::Error) -> CommandError {
    CommandError::Write {
        what: format!(
            "{}, below the directory that --output names; name one that you may write to",
            path.display()
        ),
        source,
    }
}

/// A duration as Go programs write it: `15s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: kube::core::Duration = text
        .parse()
        .map_err(|_| format!("{text:?} is not a duration such as 15s or 1m30s"))?;
    if parsed.is_negative() {
        return Err("a duration cannot be negative".to_owned());
    }
    Ok(parsed.into())
}

/// Where to listen, as Go programs write it: `:9440`, `127.0.0.1:9440`, or `0` for nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    Nowhere,
    /// All addresses of this computer.
    Everywhere(u16),
    At(SocketAddr),
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::Nowhere);
        }
        let wrong = || format!("{text:?} is not an address such as :9440 or 127.0.0.1:9440, nor 0");
        if let Some(port) = text.strip_prefix(':') {
            return port.parse().map(Self::Everywhere).map_err(|_| wrong());
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| wrong())?;
            return Ok(Self::At((Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse().map(Self::At).map_err(|_| wrong())
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("0"),
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Bind {
    /// Listens; `None` for nowhere. `flag` is what an error names.
    pub(super) async fn listen(
        self,
        flag: &'static str,
    ) -> Result<Option<TcpListener>, CommandError> {
        let (address, other) = match self {
            Self::Nowhere => return Ok(None),
            // The first takes both families, and fails where there is no IPv6.
            Self::Everywhere(port) => (
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
                Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
            ),
            Self::At(address) => (address, None),
        };
        let mut listener = TcpListener::bind(address).await;
        if let (Err(_), Some(other)) = (&listener, other) {
            listener = TcpListener::bind(other).await;
        }
        listener.map(Some).map_err(|source| CommandError::Listen {
            flag,
            address,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::off("0", Some(Bind::Nowhere))]
    #[case::go_style(":9440", Some(Bind::Everywhere(9440)))]
    #[case::local("localhost:1", Some(Bind::At(([127, 0, 0, 1], 1).into())))]
    #[case::four("10.0.0.1:80", Some(Bind::At(([10, 0, 0, 1], 80).into())))]
    #[case::six("[::1]:80", Some(Bind::At((Ipv6Addr::LOCALHOST, 80).into())))]
    #[case::no_port("10.0.0.1", None)]
    #[case::large(":65536", None)]
    #[case::empty("", None)]
    fn addresses_are_read_as_go_programs_write_them(
        #[case] text: &str,
        #[case] expected: Option<Bind>,
    ) {
        assert_eq!(text.parse().ok(), expected);
        if let Some(bind) = expected.filter(|_| !text.starts_with("localhost")) {
            assert_eq!(bind.to_string(), text);
        }
    }

    #[rstest]
    #[case("15s", Some(15_000))]
    #[case("1m30s", Some(90_000))]
    #[case("250ms", Some(250))]
    #[case("15", None)]
    #[case("-1s", None)]
    #[case("soon", None)]
    fn durations_are_read_as_go_programs_write_them(
        #[case] text: &str,
        #[case] millis: Option<u64>,
    ) {
        assert_eq!(duration(text).ok(), millis.map(Duration::from_millis));
    }
}
