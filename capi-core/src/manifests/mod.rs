//! What it takes to install a provider, made from what its program is: values in, YAML out.
//!
//! Nothing is written by hand twice: definitions come from the types, rights from what the engine does
//! with them, webhooks from the rules that are served (rules CTL-*, CRD-*, RB-*, WH-01).

mod deployment;
mod release;
mod rights;
mod webhook;

use capi_contract::{ChildKind, InfraCluster as _, InfraMachine as _};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Resource;
use serde_json::{Value, json};

pub(crate) use self::release::Release;
use crate::command::Program;
use crate::serve::Reviewed;

/// Label with the provider's name on everything that belongs to it (CTL-04).
const PROVIDER_LABEL: &str = "cluster.x-k8s.io/provider";

/// The contract that every release of this SDK speaks.
const CONTRACT: &str = "v1beta2";

/// What a provider is called, and what it ships.
#[derive(Clone, Debug)]
pub struct Package {
    /// Name as `clusterctl init --infrastructure` takes it (CTL-03): `rack`.
    pub name: &'static str,
    /// One line about it, for `--help`.
    pub about: &'static str,
    /// Version without `v`: `1.0.0`.
    pub version: &'static str,
    /// Path of the program in its image.
    pub binary: &'static str,
    /// Image without a tag.
    pub image: &'static str,
    /// Namespace that it is installed into. Names of cluster-wide objects begin with it (CTL-09).
    pub namespace: &'static str,
    /// What names of namespaced objects begin with.
    pub prefix: &'static str,
    /// Name of the Lease. A drop-in takes its predecessor's, so that the two never act at once.
    pub lease: &'static str,
    /// Earlier release series, also those of a predecessor, without this version's own (CTL-02).
    pub series: &'static [Series],
    /// The definitions.
    pub definitions: Vec<CustomResourceDefinition>,
    /// Whether machines ask pools for addresses.
    pub takes_addresses: bool,
    /// A Secret whose keys become variables of the program, if it takes credentials that way.
    pub environment: Option<Environment>,
    /// What `clusterctl generate cluster` finds beside the components.
    pub templates: &'static [Template],
}

/// A file for `clusterctl generate cluster` (CTL-01, CTL-08).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name, by which clusterctl finds it: `cluster-template.yaml` for the default flavor,
    /// `cluster-template-FLAVOR.yaml` for another, `clusterclass-CLASS.yaml` for a class that one of
    /// them names.
    pub file: &'static str,
    /// Its content, with variables.
    pub text: &'static str,
}

/// A Secret whose keys become variables of the environment.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    /// Name of the Secret.
    pub secret: &'static str,
    /// Variables and the keys that fill them. For `clusterctl` the variables are asked for by name
    /// (CTL-06); one that is not set is a space, which the program has to take for nothing.
    pub variables: &'static [(&'static str, &'static str)],
}

/// A release series and the contract that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Contract: `v1beta1`, `v1beta2`.
    pub contract: &'static str,
}

/// Why manifests cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The version is not `MAJOR.MINOR.PATCH`.
    #[error("read the version {version:?} of the package: {why}")]
    Version {
        /// What stands in the package.
        version: &'static str,
        /// What was expected.
        why: String,
    },
    /// A definition is not of the form that is published.
    #[error("publish a definition")]
    Definition(#[source] serde_json::Error),
    /// YAML cannot be written.
    #[error("write YAML")]
    Yaml(#[source] serde_saphyr::ser::Error),
}

impl Package {
    /// The provider's label: `infrastructure-rack`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("infrastructure-{}", self.name)
    }

    fn cluster_wide(&self, what: &str) -> String {
        format!("{}-{what}", self.namespace)
    }

    fn namespaced(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }
}

/// What the user chooses.
#[derive(Clone, Debug)]
pub(crate) struct Choices {
    /// What it is released as.
    pub(crate) release: Release,
    /// Image with its tag; the package's at the release if not given.
    pub(crate) image: Option<String>,
    /// Namespaces to work in; empty means all, and rights in all.
    pub(crate) namespaces: Vec<String>,
    pub(crate) watch_filter: Option<String>,
    pub(crate) replicas: u32,
    pub(crate) webhooks: bool,
    /// Whether others' objects may be deleted with their cluster.
    pub(crate) extras: bool,
    /// Namespaces in which the management cluster is the platform too; an empty name means all.
    pub(crate) platform: Vec<String>,
    /// Whether variables are left for clusterctl to fill.
    pub(crate) variables: bool,
}

/// What a program touches in Kubernetes.
#[derive(Clone, Debug)]
pub(crate) struct Surface {
    group: String,
    clusters: String,
    machines: String,
    children: Vec<ChildKind>,
    reviewed: Vec<Reviewed>,
    /// Whether credentials Secrets are kept until their cluster is gone (ID-02).
    keeps_secrets: bool,
    /// Kinds of others' objects that go with a cluster.
    extras: Vec<ChildKind>,
    /// Rights on a platform that is the management cluster itself.
    platform: Vec<PolicyRule>,
}

impl Surface {
    pub(crate) fn of<P: Program>() -> Self {
        type Object<T> = <T as capi_contract::External>::Object;
        let mut children = P::clusters().child_kinds().to_vec();
        children.extend_from_slice(P::machines().child_kinds());
        children.sort();
        children.dedup();
        Self {
            group: Object::<P::Clusters>::group(&()).into_owned(),
            clusters: Object::<P::Clusters>::plural(&()).into_owned(),
            machines: Object::<P::Machines>::plural(&()).into_owned(),
            children,
            reviewed: P::webhooks().reviewed(),
            keeps_secrets: <P::Clusters as capi_contract::InfraCluster>::SECRET_FINALIZER.is_some(),
            extras: <P::Clusters as capi_contract::InfraCluster>::EXTRAS
                .map_or_else(Vec::new, |extras| extras.kinds.to_vec()),
            platform: P::platform_rights(),
        }
    }
}

/// Everything that is installed, in the order in which it can be applied.
pub(crate) fn components(
    package: &Package,
    surface: &Surface,
    choices: &Choices,
) -> Result<Vec<Value>, ManifestError> {
    let with_webhooks = choices.webhooks && !surface.reviewed.is_empty();
    let mut all = vec![json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": package.namespace},
    })];
    for definition in &package.definitions {
        all.push(serde_json::to_value(definition).map_err(ManifestError::Definition)?);
    }
    all.push(account(package));
    all.extend(rights::objects(package, surface, choices));
    if choices.variables {
        all.extend(package.environment.map(|it| credentials(package, &it)));
    }
    if with_webhooks {
        all.push(webhook::service(package));
    }
    all.push(deployment::deployment(package, choices, with_webhooks));
    if with_webhooks {
        all.extend(webhook::certificates(package));
        all.push(webhook::configuration(package, &surface.reviewed));
    }
    for object in &mut all {
        object["metadata"]["labels"][PROVIDER_LABEL] = json!(package.label());
    }
    Ok(all)
}

fn account(package: &Package) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": package.namespaced("manager"), "namespace": package.namespace},
    })
}

/// The Secret with the program's own credentials, as clusterctl's variables. What is not set becomes a
/// space, since a variable without any default has to be set.
fn credentials(package: &Package, environment: &Environment) -> Value {
    let data = environment.variables.iter();
    let data =
        data.map(|(variable, key)| ((*key).to_owned(), json!(format!("${{{variable}:= }}"))));
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": environment.secret, "namespace": package.namespace},
        "stringData": data.collect::<serde_json::Map<_, _>>(),
    })
}

/// `metadata.yaml`: which release series speak which contract (CTL-02).
///
/// A release beyond the program's own version lists the minor series between, since clusterctl must
/// know the series that it upgrades from.
pub(crate) fn metadata(package: &Package, release: &Release) -> Result<Value, ManifestError> {
    let own = Release::of(package)?;
    let first = if own.major == release.major {
        own.minor.min(release.minor)
    } else {
        release.minor
    };
    let mut series = package.series.to_vec();
    let minors = (first..=release.minor).map(|minor| (release.major, minor));
    for (major, minor) in minors.chain([(own.major, own.minor)]) {
        let one = Series {
            major,
            minor,
            contract: CONTRACT,
        };
        if !series.contains(&one) {
            series.push(one);
        }
    }
    series.sort_by_key(|one| (one.major, one.minor));
    let series: Vec<_> = series
        .iter()
        .map(|one| json!({"major": one.major, "minor": one.minor, "contract": one.contract}))
        .collect();
    Ok(json!({
        "apiVersion": "clusterctl.cluster.x-k8s.io/v1alpha3",
        "kind": "Metadata",
        "releaseSeries": series,
    }))
}

/// Documents in one file. Keys are sorted, so that equal values give equal text.
pub(crate) fn yaml(documents: &[Value]) -> Result<String, ManifestError> {
    let mut text = String::new();
    for document in documents {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        let written = serde_saphyr::to_string(&sorted(document)).map_err(ManifestError::Yaml)?;
        for line in written.lines() {
            text.push_str(&quoted(line));
            text.push('\n');
        }
    }
    Ok(text)
}

/// Puts a variable that stands alone in quotes: whatever clusterctl fills in stays text (CTL-06).
fn quoted(line: &str) -> String {
    match line.split_once(": ${") {
        Some((key, rest)) => format!("{key}: \"${{{rest}\""),
        None => line.to_owned(),
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            let pairs = pairs.into_iter();
            Value::Object(pairs.map(|(k, v)| (k.clone(), sorted(v))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(version: &'static str) -> Package {
        const EARLIER: &[Series] = &[Series {
            major: 0,
            minor: 9,
            contract: "v1beta1",
        }];
        Package {
            name: "rack",
            about: "Machines in a rack",
            version,
            binary: "/rack",
            image: "registry.example.com/rack",
            namespace: "capr-system",
            prefix: "capr",
            lease: "rack",
            series: EARLIER,
            definitions: Vec::new(),
            takes_addresses: false,
            environment: Some(Environment {
                secret: "rack-credentials",
                variables: &[("RACK_TOKEN", "token")],
            }),
            templates: &[],
        }
    }

    fn series(version: &'static str, release: &str) -> Vec<String> {
        let written = metadata(&package(version), &release.parse().unwrap()).unwrap();
        let all = written["releaseSeries"].as_array().unwrap();
        let all = all.iter();
        all.map(|one| {
            let contract = one["contract"].as_str().unwrap();
            format!("{}.{} {contract}", one["major"], one["minor"])
        })
        .collect()
    }

    #[test]
    fn ctl_02_all_series_are_listed_with_their_contract() {
        let own = ["0.9 v1beta1", "1.2 v1beta2"];
        assert_eq!(series("1.2.3", "v1.2.3"), own);
        assert_eq!(series("1.2.3", "1.2.9"), own);
        let ahead = ["0.9 v1beta1", "1.2 v1beta2", "1.3 v1beta2", "1.4 v1beta2"];
        assert_eq!(series("1.2.3", "v1.4.0"), ahead);
        let behind = ["0.9 v1beta1", "1.1 v1beta2", "1.2 v1beta2"];
        assert_eq!(series("1.2.3", "v1.1.7"), behind);
        let next = ["0.9 v1beta1", "1.2 v1beta2", "2.0 v1beta2"];
        assert_eq!(series("1.2.3", "v2.0.0-rc.1"), next);
        let release = "1.0.0".parse().unwrap();
        let error = metadata(&package("next"), &release)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"next\"") && error.contains("v1.2.0"),
            "{error}"
        );
    }

    /// clusterctl fills in text before it reads YAML: numbers and nothing must stay strings.
    #[test]
    fn ctl_06_what_fills_a_variable_stays_text() {
        let package = package("1.0.0");
        let secret = credentials(&package, &package.environment.unwrap());
        let text = yaml(&[secret]).unwrap();
        for value in ["", "12345", "user@rack!token"] {
            let filled = text.replace("${RACK_TOKEN:= }", value);
            let read: Value = serde_saphyr::from_str(&filled).unwrap();
            assert_eq!(read["stringData"]["token"], value, "{text}");
        }
    }
}
