//! How core resolves a reference to a kind of another provider: by the name of its definition and
//! the contract label on it, never by discovery (S-01, CRD-03 to CRD-06).

use kube::core::ApiResource;
use serde_json::Value;

use super::object::{Kind, Object};

/// The contract that a provider's kind follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contract {
    /// `cluster.x-k8s.io/v1beta1`, deprecated.
    V1Beta1,
    /// `cluster.x-k8s.io/v1beta2`.
    V1Beta2,
}

impl Contract {
    /// Where an infra cluster or machine says that it is provisioned.
    pub(crate) fn provisioned(self) -> &'static str {
        match self {
            Self::V1Beta1 => "/status/ready",
            Self::V1Beta2 => "/status/initialization/provisioned",
        }
    }

    /// Where a bootstrap config says that its data is there.
    pub(crate) fn data_secret_created(self) -> &'static str {
        match self {
            Self::V1Beta1 => "/status/ready",
            Self::V1Beta2 => "/status/initialization/dataSecretCreated",
        }
    }

    /// Where a control plane says that it answers requests.
    pub(crate) fn control_plane_initialized(self) -> &'static str {
        match self {
            Self::V1Beta1 => "/status/initialized",
            Self::V1Beta2 => "/status/initialization/controlPlaneInitialized",
        }
    }
}

/// Why a reference cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No definition of the kind.
    #[error(
        "cannot resolve kind {kind}: no CustomResourceDefinition {name}; install the provider's \
         definitions, whose names are the lower-case plural of the kind and its group"
    )]
    NoDefinition {
        /// The kind.
        kind: Kind,
        /// What its definition would be named.
        name: String,
    },
    /// A definition without a contract label.
    #[error(
        "cannot resolve kind {kind}: CustomResourceDefinition {name} has no label \
         cluster.x-k8s.io/v1beta2 (or v1beta1) that lists its versions"
    )]
    NoLabel {
        /// The kind.
        kind: Kind,
        /// Its definition.
        name: String,
    },
}

/// A kind with the version that core uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) resource: ApiResource,
    pub(crate) contract: Contract,
}

/// The name that core computes for the definition of a kind (CRD-03).
pub(crate) fn definition_name(kind: &Kind) -> String {
    format!("{}.{}", plural(&kind.kind.to_lowercase()), kind.group)
}

/// English plural, as far as the rules that core's library applies to CamelCase kinds go.
fn plural(word: &str) -> String {
    let is_vowel = |letter: Option<char>| letter.is_some_and(|l| "aeiou".contains(l));
    let mut letters = word.chars().rev();
    let (last, previous) = (letters.next(), letters.next());
    if word.ends_with("endpoints") {
        return word.to_owned();
    }
    match last {
        Some('s' | 'x' | 'z') => format!("{word}es"),
        Some('h') if matches!(previous, Some('c' | 's')) => format!("{word}es"),
        Some('y') if !is_vowel(previous) => format!("{}ies", &word[..word.len() - 1]),
        Some('f') if previous != Some('f') => format!("{}ves", &word[..word.len() - 1]),
        Some('e') if previous == Some('f') => format!("{}ves", &word[..word.len() - 2]),
        _ => format!("{word}s"),
    }
}

/// Resolves a kind from its definition.
pub(crate) fn resolve(kind: &Kind, definition: Option<&Object>) -> Result<Resolved, Error> {
    let name = definition_name(kind);
    let Some(definition) = definition else {
        return Err(Error::NoDefinition {
            kind: kind.clone(),
            name,
        });
    };
    let labelled = |label: &str| {
        let versions = definition.label(label)?.split('_');
        versions
            .filter_map(|version| Some((rank(version)?, version)))
            .max()
            .map(|(_, version)| version.to_owned())
    };
    let found = labelled("cluster.x-k8s.io/v1beta2")
        .map(|version| (version, Contract::V1Beta2))
        .or_else(|| Some((labelled("cluster.x-k8s.io/v1beta1")?, Contract::V1Beta1)));
    let Some((version, contract)) = found else {
        return Err(Error::NoLabel {
            kind: kind.clone(),
            name,
        });
    };
    let plural = definition
        .at("/spec/names/plural")
        .and_then(Value::as_str)
        .map_or_else(|| plural(&kind.kind.to_lowercase()), str::to_owned);
    Ok(Resolved {
        resource: super::word::resource(kind, &version, &plural),
        contract,
    })
}

/// Kubernetes version order: GA before beta before alpha, then the higher number (CRD-05).
fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    for (stage, word) in [(1, "beta"), (0, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stage, major.parse().ok()?, minor.parse().ok()?));
        }
    }
    Some((2, rest.parse().ok()?, 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn crd_03_names_are_computed_from_group_and_kind() {
        for (kind, name) in [
            ("ProxmoxMachine", "proxmoxmachines"),
            ("KubeadmConfig", "kubeadmconfigs"),
            ("DevProxy", "devproxies"),
            ("DevGateway", "devgateways"),
            ("MachineClass", "machineclasses"),
            ("DevBox", "devboxes"),
            ("DevMesh", "devmeshes"),
            ("DevShelf", "devshelves"),
        ] {
            let wanted = format!("{name}.infra.x");
            assert_eq!(definition_name(&Kind::new("infra.x", kind)), wanted);
        }
    }

    #[test]
    fn s_01_the_label_decides_contract_and_version() {
        let kind = Kind::new("infra.x", "Thing");
        let resolved = |labels: Value| {
            let definition = Object::from_value(json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "things.infra.x", "labels": labels},
            }));
            resolve(&kind, Some(&definition)).map(|it| (it.resource.api_version, it.contract))
        };
        for (labels, version, contract) in [
            (
                json!({"cluster.x-k8s.io/v1beta2": "v1alpha1"}),
                "v1alpha1",
                Contract::V1Beta2,
            ),
            (
                json!({"cluster.x-k8s.io/v1beta2": "v1alpha2_v1alpha10"}),
                "v1alpha10",
                Contract::V1Beta2,
            ),
            (
                json!({"cluster.x-k8s.io/v1beta2": "v2alpha1_v1beta1"}),
                "v1beta1",
                Contract::V1Beta2,
            ),
            (
                json!({"cluster.x-k8s.io/v1beta2": "v1beta9_v1"}),
                "v1",
                Contract::V1Beta2,
            ),
            (
                json!({"cluster.x-k8s.io/v1beta1": "v1", "cluster.x-k8s.io/v1beta2": "v1alpha1"}),
                "v1alpha1",
                Contract::V1Beta2,
            ),
            (
                json!({"cluster.x-k8s.io/v1beta1": "v1beta1"}),
                "v1beta1",
                Contract::V1Beta1,
            ),
        ] {
            let wanted = Ok((format!("infra.x/{version}"), contract));
            assert_eq!(resolved(labels.clone()), wanted, "{labels}");
        }
        for labels in [json!({}), json!({"cluster.x-k8s.io/v1beta2": ""})] {
            let fault = resolved(labels).expect_err("must fail");
            assert!(matches!(fault, Error::NoLabel { .. }), "{fault}");
        }
        let fault = resolve(&kind, None).expect_err("must fail");
        assert!(fault.to_string().contains("things.infra.x"), "{fault}");
    }
}
