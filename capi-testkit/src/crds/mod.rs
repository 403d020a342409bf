//! The custom resource definitions that Cluster API and the in-cluster IPAM provider publish.
//!
//! They are generated data, kept in the release's own words: names, labels, schemas, defaults, CEL
//! rules, printer columns and subresources. Only the storage version is present (`v1beta2` for the
//! kinds of Cluster API), and descriptions are stripped. Source and licence are stated in the
//! `README.md` beside the data.

use std::sync::LazyLock;

use serde_json::Value;

macro_rules! definitions {
    ($directory:literal: $($name:literal),+ $(,)?) => {
        &[$(include_str!(concat!("data/", $directory, "/", $name, ".json"))),+]
    };
}

const CLUSTER_API: &[&str] = definitions!("cluster-api":
    "clusterclasses.cluster.x-k8s.io",
    "clusterresourcesetbindings.addons.cluster.x-k8s.io",
    "clusterresourcesets.addons.cluster.x-k8s.io",
    "clusters.cluster.x-k8s.io",
    "extensionconfigs.runtime.cluster.x-k8s.io",
    "ipaddressclaims.ipam.cluster.x-k8s.io",
    "ipaddresses.ipam.cluster.x-k8s.io",
    "kubeadmconfigs.bootstrap.cluster.x-k8s.io",
    "kubeadmconfigtemplates.bootstrap.cluster.x-k8s.io",
    "kubeadmcontrolplanes.controlplane.cluster.x-k8s.io",
    "kubeadmcontrolplanetemplates.controlplane.cluster.x-k8s.io",
    "machinedeployments.cluster.x-k8s.io",
    "machinedrainrules.cluster.x-k8s.io",
    "machinehealthchecks.cluster.x-k8s.io",
    "machinepools.cluster.x-k8s.io",
    "machines.cluster.x-k8s.io",
    "machinesets.cluster.x-k8s.io",
);

const IPAM_IN_CLUSTER: &[&str] = definitions!("ipam-in-cluster":
    "globalinclusterippools.ipam.cluster.x-k8s.io",
    "globalinclusterprefixpools.ipam.cluster.x-k8s.io",
    "inclusterippools.ipam.cluster.x-k8s.io",
    "inclusterprefixpools.ipam.cluster.x-k8s.io",
);

static PARSED_CLUSTER_API: LazyLock<Vec<Value>> = LazyLock::new(|| parsed(CLUSTER_API));
static PARSED_IPAM_IN_CLUSTER: LazyLock<Vec<Value>> = LazyLock::new(|| parsed(IPAM_IN_CLUSTER));

/// The definitions of Cluster API: core, add-ons, runtime, IPAM, kubeadm bootstrap and control plane.
///
/// Each value is a complete `apiextensions.k8s.io/v1` CustomResourceDefinition. Parsed once per
/// process, on first use.
#[must_use]
pub fn cluster_api() -> &'static [Value] {
    &PARSED_CLUSTER_API
}

/// The pool kinds of the in-cluster IPAM provider, version `v1alpha2`.
#[must_use]
pub fn ipam_in_cluster() -> &'static [Value] {
    &PARSED_IPAM_IN_CLUSTER
}

/// Everything of [`cluster_api`] and [`ipam_in_cluster`].
pub fn all() -> impl Iterator<Item = &'static Value> {
    cluster_api().iter().chain(ipam_in_cluster())
}

/// The definition with this name, such as `machines.cluster.x-k8s.io`.
#[must_use]
pub fn named(name: &str) -> Option<&'static Value> {
    all().find(|crd| crd["metadata"]["name"] == name)
}

fn parsed(texts: &[&str]) -> Vec<Value> {
    texts
        .iter()
        .map(|text| serde_json::from_str(text).expect("the generator writes valid JSON"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_has_one_served_storage_version_and_the_name_of_its_plural_and_group() {
        let mut count = 0;
        for crd in all() {
            count += 1;
            let spec = &crd["spec"];
            let expected = format!(
                "{}.{}",
                spec["names"]["plural"].as_str().unwrap(),
                spec["group"].as_str().unwrap()
            );
            assert_eq!(crd["metadata"]["name"], expected.as_str());
            let versions = spec["versions"].as_array().unwrap();
            assert_eq!(versions.len(), 1, "{expected}");
            assert_eq!(versions[0]["served"], true);
            assert_eq!(versions[0]["storage"], true);
            // CRD-02: lists are read by kind + "List".
            let list = format!("{}List", spec["names"]["kind"].as_str().unwrap());
            assert_eq!(spec["names"]["listKind"], list.as_str());
        }
        assert_eq!(count, 21);
    }

    #[test]
    fn kinds_of_cluster_api_are_v1beta2_and_kubeadm_kinds_carry_the_contract_label() {
        for crd in cluster_api() {
            assert_eq!(crd["spec"]["versions"][0]["name"], "v1beta2");
        }
        // CRD-04: core resolves bootstrap and control plane kinds by this label.
        for name in [
            "kubeadmconfigs.bootstrap.cluster.x-k8s.io",
            "kubeadmconfigtemplates.bootstrap.cluster.x-k8s.io",
            "kubeadmcontrolplanes.controlplane.cluster.x-k8s.io",
            "kubeadmcontrolplanetemplates.controlplane.cluster.x-k8s.io",
        ] {
            let labels = &named(name).unwrap()["metadata"]["labels"];
            assert_eq!(labels["cluster.x-k8s.io/v1beta2"], "v1beta2", "{name}");
            // CRD-05: a listed version must exist.
            assert!(labels.get("cluster.x-k8s.io/v1beta1").is_none(), "{name}");
        }
    }
}
