//! The custom resource definitions that Cluster API, the in-cluster IPAM provider, KubeVirt and CDI
//! publish.
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

const KUBEVIRT: &[&str] = definitions!("kubevirt":
    "virtualmachineclusterinstancetypes.instancetype.kubevirt.io",
    "virtualmachineclusterpreferences.instancetype.kubevirt.io",
    "virtualmachineinstancemigrations.kubevirt.io",
    "virtualmachineinstances.kubevirt.io",
    "virtualmachineinstancetypes.instancetype.kubevirt.io",
    "virtualmachinepools.pool.kubevirt.io",
    "virtualmachinepreferences.instancetype.kubevirt.io",
    "virtualmachines.kubevirt.io",
);

const CDI: &[&str] = definitions!("cdi":
    "dataimportcrons.cdi.kubevirt.io",
    "datasources.cdi.kubevirt.io",
    "datavolumes.cdi.kubevirt.io",
    "storageprofiles.cdi.kubevirt.io",
);

static PARSED_CLUSTER_API: LazyLock<Vec<Value>> = LazyLock::new(|| parsed(CLUSTER_API));
static PARSED_IPAM_IN_CLUSTER: LazyLock<Vec<Value>> = LazyLock::new(|| parsed(IPAM_IN_CLUSTER));
static PARSED_KUBEVIRT: LazyLock<Vec<Value>> = LazyLock::new(|| parsed(KUBEVIRT));
static PARSED_CDI: LazyLock<Vec<Value>> = LazyLock::new(|| parsed(CDI));

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

/// The kinds of KubeVirt that users and providers write: virtual machines, instances, migrations and
/// pools, instance types and preferences.
///
/// In them `template.metadata` and the like keep fields that no schema names, as in KubeVirt.
#[must_use]
pub fn kubevirt() -> &'static [Value] {
    &PARSED_KUBEVIRT
}

/// The kinds of CDI, KubeVirt's importer of disk images: `DataVolume`, `DataSource`,
/// `DataImportCron` and `StorageProfile`, version `v1beta1`.
#[must_use]
pub fn cdi() -> &'static [Value] {
    &PARSED_CDI
}

/// What a management cluster has: everything of [`cluster_api`] and [`ipam_in_cluster`].
pub fn all() -> impl Iterator<Item = &'static Value> {
    cluster_api().iter().chain(ipam_in_cluster())
}

/// The definition with this name, such as `machines.cluster.x-k8s.io`.
#[must_use]
pub fn named(name: &str) -> Option<&'static Value> {
    published().find(|crd| crd["metadata"]["name"] == name)
}

fn published() -> impl Iterator<Item = &'static Value> {
    all().chain(kubevirt()).chain(cdi())
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
        for crd in published() {
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
            // CRD-02: lists are read by kind + "List", which is also what a server assumes if the
            // definition does not say.
            let list = format!("{}List", spec["names"]["kind"].as_str().unwrap());
            let named = spec["names"].get("listKind");
            assert!(
                named.is_none_or(|named| *named == list.as_str()),
                "{expected}"
            );
        }
        assert_eq!(count, 33);
    }

    #[tokio::test(start_paused = true)]
    async fn the_embedded_server_serves_the_kinds_of_kubevirt_and_cdi() {
        let server = crate::apiserver::ApiServer::new();
        server.install_crds(kubevirt().iter().chain(cdi())).unwrap();
        // A VM's status is a subresource and an instance's is not, as KubeVirt has it.
        let version = |name: &str| &named(name).unwrap()["spec"]["versions"][0];
        let machine = version("virtualmachines.kubevirt.io");
        assert!(machine["subresources"]["status"].is_object());
        let instance = version("virtualmachineinstances.kubevirt.io");
        assert!(instance["subresources"]["status"].is_null());
        let api = |group: &str, version: &str, kind: &str| {
            kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
                group, version, kind,
            ))
        };
        for resource in [
            api("kubevirt.io", "v1", "VirtualMachine"),
            api("kubevirt.io", "v1", "VirtualMachineInstance"),
            api("cdi.kubevirt.io", "v1beta1", "DataVolume"),
        ] {
            let all: kube::Api<kube::core::DynamicObject> =
                kube::Api::all_with(server.client("test"), &resource);
            let listed = all.list(&kube::api::ListParams::default()).await.unwrap();
            assert_eq!(listed.types.kind, format!("{}List", resource.kind));
        }
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
