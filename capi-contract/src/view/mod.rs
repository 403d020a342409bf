//! Read-only views of the kinds that Cluster API owns.
//!
//! The types hold the few fields that a provider reads. They have no `Serialize`, so a lossy full
//! write of a foreign object does not compile: foreign objects are changed by patches only (WR-01).
//! They are tolerant: every field is optional or defaulted, unknown fields and enum values are kept
//! out of the way, so that a new release of Cluster API does not stop a watch. `managedFields` is
//! dropped while parsing, since it is four fifths of the memory of a Machine.
//!
//! ```compile_fail
//! fn writable<T: serde::Serialize>() {}
//! writable::<capi_contract::view::MachineView>();
//! ```

mod cluster;
mod ipam;
mod machine;
mod meta;

pub use cluster::{ClusterInitialization, ClusterSpec, ClusterStatus, ClusterView};
pub use ipam::{
    AddressClaimSpec, AddressClaimStatus, AddressClaimView, AddressSpec, AddressView, LocalRef,
};
pub use machine::{MachineInitialization, MachineSpec, MachineStatus, MachineView, NodeRef};
pub use meta::{ObjectRef, OwnerKind, is_paused_by_annotation, owner_named, slim_meta};

/// API version of core's kinds that the views are read in.
pub const CORE_VERSION: &str = "v1beta2";
/// API group of core's kinds.
pub const CORE_GROUP: &str = "cluster.x-k8s.io";
/// API group of the IPAM kinds.
pub const IPAM_GROUP: &str = "ipam.cluster.x-k8s.io";
/// Label with the name of the Cluster that an object belongs to.
pub const CLUSTER_NAME_LABEL: &str = "cluster.x-k8s.io/cluster-name";
/// Label of control-plane machines (IM-18).
pub const CONTROL_PLANE_LABEL: &str = "cluster.x-k8s.io/control-plane";
/// Annotation that pauses one object, with any value (PA-01).
pub const PAUSED_ANNOTATION: &str = "cluster.x-k8s.io/paused";
/// Annotation of externally managed infra clusters, with any value (EX-01).
pub const MANAGED_BY_ANNOTATION: &str = "cluster.x-k8s.io/managed-by";
/// Label that several managers of one kind share the objects by (CTL-07).
pub const WATCH_FILTER_LABEL: &str = "cluster.x-k8s.io/watch-filter";

/// Implements `kube::Resource` for a view.
macro_rules! resource {
    ($view:ty, $kind:literal, $plural:literal, $group:expr) => {
        impl kube::Resource for $view {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $crate::view::CORE_VERSION.into()
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
use resource;
