//! Kubernetes objects that a provider needs on the management cluster.
//!
//! The author says which; the engine creates them (a POST, R5), owns them, keeps their spec in shape
//! and waits for them. It watches the kinds that the author lists.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Group, version, kind and plural of objects that the engine creates for a provider and watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildKind {
    /// API group, empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural resource name, as in URLs.
    pub plural: &'static str,
}

/// A reference to an IPAM pool, as in `IPAddressClaim.spec.poolRef` (IPC-02).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// API group of the pool.
    pub api_group: String,
    /// Kind of the pool.
    pub kind: String,
    /// Name of the pool.
    pub name: String,
}

/// One `IPAddressClaim`: one address of one family (IPC-01).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressRequest {
    /// Name of the claim: deterministic, unique in the namespace.
    pub name: String,
    /// The device that the address is for; comes back in [`Address::device`].
    pub device: String,
    /// Where the address comes from.
    pub pool: PoolRef,
    /// Labels beside the cluster name, which the engine sets.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl AddressRequest {
    /// Asks for one address.
    pub fn new(name: impl Into<String>, device: impl Into<String>, pool: PoolRef) -> Self {
        Self {
            name: name.into(),
            device: device.into(),
            pool,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// An address that a pool gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name of the claim it was asked with.
    pub claim: String,
    /// The device it is for.
    pub device: String,
    /// The address.
    pub ip: IpAddr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// The network's gateway, if the pool has one.
    pub gateway: Option<IpAddr>,
}

/// Any other namespaced object: a pool, a Service.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChildObject {
    /// What it is.
    pub kind: ChildKind,
    /// Its name in the namespace of the owner: deterministic.
    pub name: String,
    /// Labels beside the cluster name, which the engine sets.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The rest of the object (`spec`, `data`): only what the author wants to own.
    pub body: Map<String, Value>,
}

impl ChildObject {
    /// An object with a body.
    pub fn new(kind: ChildKind, name: impl Into<String>, body: Map<String, Value>) -> Self {
        Self {
            kind,
            name: name.into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            body,
        }
    }
}

/// A Kubernetes object that the provider needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Child {
    /// An address from a pool. Machines wait until it is given; the claim goes with the machine,
    /// after the thing is gone (IPC-05).
    Address(AddressRequest),
    /// An object of another kind; waited for until it exists.
    Object(ChildObject),
}
