//! IPAM: address claims and addresses (IPC-02, IPC-03).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::Deserialize;

use super::meta::{ObjectRef, slim_meta};
use super::{IPAM_GROUP, resource};

/// `IPAddressClaim`, as far as providers read it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AddressClaimView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: AddressClaimSpec,
    /// What is.
    pub status: AddressClaimStatus,
}

resource!(
    AddressClaimView,
    "IPAddressClaim",
    "ipaddressclaims",
    IPAM_GROUP
);

/// `IPAddressClaim.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct AddressClaimSpec {
    /// The pool.
    pub pool_ref: ObjectRef,
    /// The Cluster's name.
    pub cluster_name: String,
}

/// `IPAddressClaim.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct AddressClaimStatus {
    /// The address, once given.
    pub address_ref: Option<LocalRef>,
    /// Conditions of the pool's provider (IPC-04).
    pub conditions: Vec<Condition>,
}

/// A name in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LocalRef {
    /// The name.
    pub name: String,
}

/// `IPAddress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AddressView {
    /// Metadata without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What was given.
    pub spec: AddressSpec,
}

resource!(AddressView, "IPAddress", "ipaddresses", IPAM_GROUP);

/// `IPAddress.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct AddressSpec {
    /// The claim that it answers.
    pub claim_ref: LocalRef,
    /// The pool that it is from.
    pub pool_ref: ObjectRef,
    /// The address, as text.
    pub address: String,
    /// Length of the prefix in bits.
    pub prefix: u8,
    /// The gateway, as text; empty if none.
    pub gateway: Option<String>,
}
