//! CRDs as the contract wants them: labels, status fields, templates (rules CRD-*, IMT-*, ICT-*).

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::FailureDomain;

/// Label on a CRD that says which of its versions speak contract `v1beta2` (CRD-04).
pub const CONTRACT_LABEL: &str = "cluster.x-k8s.io/v1beta2";

/// Sets the contract label of a CRD to all its served versions, joined by `_` (CRD-04 to CRD-06).
pub fn with_contract_label(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let served: Vec<_> = crd
        .spec
        .versions
        .iter()
        .filter(|v| v.served)
        .map(|v| v.name.as_str())
        .collect();
    let value = served.join("_");
    let labels = crd.metadata.labels.get_or_insert_default();
    labels.insert(CONTRACT_LABEL.to_owned(), value);
    crd
}

/// Metadata of a template's clones (CRD-09): a bare object schema would be pruned, and template
/// metadata lost silently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateMeta {
    /// Labels of the clones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the clones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl TemplateMeta {
    /// Whether there is nothing to copy.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

/// `status.initialization` (IC-08, IM-05).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct Initialization {
    /// Whether the first provisioning is complete; never goes back to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned: Option<bool>,
}

/// One entry of `status.addresses`, with the type as text, so that a newer type is no decode error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressStatus {
    /// Kind of the address (IM-08).
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Hostname", "ExternalIP", "InternalIP", "ExternalDNS", "InternalDNS"]))]
    pub kind: String,
    /// The address.
    #[schemars(length(min = 1, max = 256))]
    pub address: String,
}

/// The status that the contract wants of an InfraMachine; a provider without status fields of its
/// own uses it as it is, others flatten it into theirs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InfraMachineStatus {
    /// How far the first provisioning is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,
    /// Conditions, `Ready` among them (IM-09).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[schemars(length(max = 32))]
    pub conditions: Vec<Condition>,
    /// Addresses of the machine (IM-08).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[schemars(length(max = 256))]
    pub addresses: Vec<AddressStatus>,
    /// Where the machine is (IM-07).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub failure_domain: Option<String>,
}

/// The status that the contract wants of an InfraCluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InfraClusterStatus {
    /// How far the first provisioning is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,
    /// Conditions, `Ready` among them (IC-09).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[schemars(length(max = 32))]
    pub conditions: Vec<Condition>,
    /// Where machines can be (IC-06).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[schemars(length(max = 100))]
    pub failure_domains: Vec<FailureDomain>,
}

/// Declares the template kind of an InfraMachine or InfraCluster (IMT-01, ICT-01).
///
/// ```
/// use kube::{CustomResource, CustomResourceExt};
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
/// #[kube(group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1")]
/// #[kube(kind = "HelloMachine", namespaced, status = "capi_contract::crd::InfraMachineStatus")]
/// #[serde(rename_all = "camelCase")]
/// pub struct HelloMachineSpec {
///     pub size: u32,
/// }
///
/// capi_contract::template! {
///     /// Template of [`HelloMachine`].
///     HelloMachineTemplate(HelloMachineTemplateSpec, HelloMachineTemplateResource)
///     of HelloMachineSpec,
///     group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1", kind = "HelloMachineTemplate"
/// }
///
/// let crd = HelloMachineTemplate::crd();
/// assert_eq!(crd.metadata.labels.unwrap()[capi_contract::crd::CONTRACT_LABEL], "v1alpha1");
/// ```
#[macro_export]
macro_rules! template {
    (
        $(#[$doc:meta])*
        $kind:ident($spec:ident, $resource:ident) of $of:ty,
        group = $group:tt, version = $version:tt, kind = $name:tt
    ) => {
        $(#[$doc])*
        #[derive(
            ::kube::CustomResource, Clone, Debug,
            ::serde::Deserialize, ::serde::Serialize, ::schemars::JsonSchema,
        )]
        #[kube(group = $group, version = $version, kind = $name, namespaced)]
        #[kube(category = "cluster-api", label("cluster.x-k8s.io/v1beta2", $version))]
        pub struct $spec {
            /// What clones are made from.
            pub template: $resource,
        }

        /// What clones are made from.
        #[derive(
            Clone, Debug, ::serde::Deserialize, ::serde::Serialize, ::schemars::JsonSchema,
        )]
        pub struct $resource {
            /// Labels and annotations of the clones.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub metadata: Option<$crate::crd::TemplateMeta>,
            /// Spec of the clones.
            pub spec: $of,
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crd_04_and_crd_05_the_label_lists_served_versions_only() {
        let version = |name: &str, served: bool| {
            serde_json::json!({
                "name": name, "served": served, "storage": false,
            })
        };
        let crd: CustomResourceDefinition = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "xs.g"},
            "spec": {
                "group": "g", "scope": "Namespaced", "names": {"kind": "X", "plural": "xs"},
                "versions": [version("v1", true), version("v2", false), version("v3", true)],
            },
        }))
        .unwrap();
        let labelled = with_contract_label(crd);
        assert_eq!(labelled.metadata.labels.unwrap()[CONTRACT_LABEL], "v1_v3");
    }

    #[test]
    fn crd_10_an_empty_status_serialises_no_key() {
        assert_eq!(
            serde_json::to_string(&InfraMachineStatus::default()).unwrap(),
            "{}"
        );
        assert_eq!(
            serde_json::to_string(&InfraClusterStatus::default()).unwrap(),
            "{}"
        );
        assert_eq!(
            serde_json::to_string(&TemplateMeta::default()).unwrap(),
            "{}"
        );
    }
}
