//! Traits and rules for writing [Cluster API] infrastructure providers.
//!
//! You know a platform: an API that makes virtual machines. This crate is all that your provider's
//! library depends on; the engine that runs it is `capi-core`. You say how to look and how to make one
//! change; the engine sees to finalizers, crashes, stale caches, conditions, pausing, owner
//! references, address claims, `clusterctl move`.
//!
//! # One complete machine
//!
//! Many platforms make a machine in one call. Then [`Instances`] is enough, five methods, and
//! [`ByInstance`] turns them into an [`InfraMachine`] with every guarantee below:
//!
//! ```
//! use capi_contract::{
//!     Classify, Creation, Instance, InstanceState, Instances, MachineFacts, Mark, Order,
//! };
//! # use capi_contract::crd::{InfraClusterStatus, InfraMachineStatus};
//! # use kube::CustomResource;
//! # use schemars::JsonSchema;
//! # use serde::{Deserialize, Serialize};
//! # #[derive(CustomResource, Clone, Debug, Serialize, Deserialize, JsonSchema)]
//! # #[kube(group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1", kind = "FarmMachine")]
//! # #[kube(namespaced, status = "InfraMachineStatus")]
//! # pub struct FarmMachineSpec {}
//! # #[derive(CustomResource, Clone, Debug, Serialize, Deserialize, JsonSchema)]
//! # #[kube(group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1", kind = "FarmCluster")]
//! # #[kube(namespaced, status = "InfraClusterStatus")]
//! # pub struct FarmClusterSpec {}
//! # pub struct Client;
//! # impl Client {
//! #     async fn servers(&self, _label: &str) -> Result<Vec<Server>, FarmError> { Ok(vec![]) }
//! #     async fn boot(&self, _: &str, _: &str, _: &[u8]) -> Result<(), FarmError> { Ok(()) }
//! #     async fn delete(&self, _id: &str) -> Result<(), FarmError> { Ok(()) }
//! # }
//! # #[derive(Debug, thiserror::Error)]
//! # #[error("asking the farm")]
//! # pub struct FarmError;
//! # impl Classify for FarmError {}
//!
//! pub struct Server { id: String, mark: Mark, ip: String, up: bool }
//!
//! impl Instance for Server {
//!     fn mark(&self) -> &Mark { &self.mark }
//!     fn state(&self) -> InstanceState {
//!         if self.up { InstanceState::Running } else { InstanceState::Pending }
//!     }
//! }
//!
//! pub struct Farm;
//!
//! impl Instances for Farm {
//!     // The farm refuses a second server with the same name, and we choose the name.
//!     const CREATION: Creation = Creation::Exclusive;
//!     const FINALIZER: &'static str = "farmmachine.infrastructure.cluster.x-k8s.io";
//!     type Kind = FarmMachine;
//!     type Cluster = FarmCluster;
//!     type Session = Client;
//!     type Instance = Server;
//!     type Error = FarmError;
//!
//!     async fn find(&self, on: &Client, mark: &Mark) -> Result<Vec<Server>, FarmError> {
//!         let all = on.servers(&format!("owner={}", mark.owner)).await?;
//!         Ok(all.into_iter().filter(|server| server.mark.same_object(mark)).collect())
//!     }
//!
//!     async fn create(&self, on: &Client, order: Order<'_, FarmMachine>) -> Result<(), FarmError> {
//!         let data = order.bootstrap.map(|data| data.bytes()).unwrap_or_default();
//!         let name = order.mark.token().map(|token| token.to_string()).unwrap_or_default();
//!         on.boot(&name, &order.mark.to_string(), data).await
//!     }
//!
//!     async fn destroy(&self, on: &Client, server: &Server) -> Result<(), FarmError> {
//!         on.delete(&server.id).await
//!     }
//!
//!     fn facts(&self, _object: &FarmMachine, server: &Server) -> MachineFacts<()> {
//!         let mut facts = MachineFacts::default();
//!         facts.provider_id = Some(format!("farm://{}", server.id));
//!         facts.addresses = vec![capi_contract::MachineAddress::new(
//!             capi_contract::AddressType::InternalIP, server.ip.clone())];
//!         facts
//!     }
//! }
//! ```
//!
//! `examples/hello_provider` is the same with its CRDs and a `main`, and passes the crash sweep.
//! Platforms that need several calls per machine (clone, configure, upload, start) implement
//! [`External`] and [`InfraMachine`] themselves; `provider-proxmox` is the example.
//!
//! # Map
//!
//! | what | where |
//! |---|---|
//! | the seam | [`External`]: recover, claim, observe, plan, apply, poll, facts |
//! | its values | [`Lookup`], [`Plan`], [`Teardown`], [`Step`], [`Effect`], [`Receipt`], [`Progress`], [`Waiting`] |
//! | whose a thing is | [`Mark`], [`Token`], [`Claim`] |
//! | errors | [`Classify`], [`Class`] |
//! | the contract's words | [`InfraMachine`], [`InfraCluster`], their scopes and facts |
//! | the short way | [`Instances`], [`ByInstance`], [`GivenEndpoint`] |
//! | credentials | [`Connect`], [`Identity`], [`Credentials`] |
//! | a backend that tells of changes | [`Connect::follow`], [`Wakes`] |
//! | the workload cluster's node | [`NodeWish`] |
//! | Kubernetes objects you need | [`Child`], [`AddressRequest`], [`ChildObject`] |
//! | lifecycle hooks | [`Hook`], [`Moment`], [`Verdict`] |
//! | CRDs, templates, status fields | [`crd`], [`template!`] |
//! | conditions and reasons | [`condition`] |
//! | rules for webhooks, findings of a doctor | [`admission`], [`checkup`] |
//! | may anything be done now? | [`gate`] |
//! | what survives a crash | [`ledger`] |
//! | core's kinds, read only | [`view`] |
//!
//! # Guarantees
//!
//! With a backend that tells the truth about what exists, and for a crash at any line, a second
//! controller, a stale cache or a lost answer: never two things kept for one object, nothing leaked,
//! nothing of another's touched. The invariants R1 to R15 that make it so are in `docs/contract.md`
//! of the repository; each has tests that fail when it is broken.
//!
//! # Features
//!
//! `k8s-1_33` to `k8s-1_36` and `k8s-latest` choose the Kubernetes version of `k8s-openapi`, once per
//! build; none is on by default, so a binary chooses:
//!
//! ```console
//! cargo add capi-contract --features k8s-1_35
//! cargo add kube --no-default-features --features derive
//! cargo add serde --features derive && cargo add serde_json schemars thiserror
//! cargo add k8s-openapi --no-default-features
//! ```
//!
//! [Cluster API]: https://cluster-api.sigs.k8s.io

pub mod admission;
mod bootstrap;
pub mod checkup;
mod child;
mod class;
mod cluster;
pub mod condition;
mod connect;
pub mod crd;
mod external;
pub mod gate;
mod given;
mod hook;
mod instances;
pub mod ledger;
mod lookup;
mod machine;
mod mark;
mod operation;
mod plan;
mod step;
pub mod view;
mod wake;

pub use bootstrap::{Bootstrap, Format, Supply};
pub use child::{Address, AddressRequest, Child, ChildKind, ChildObject, PoolRef};
pub use class::{Class, Classify, Dependency};
pub use cluster::{ClusterFacts, ClusterScope, Endpoint, Extras, FailureDomain, InfraCluster};
pub use connect::{Connect, Connected, Credentials, Identity};
pub use external::{Claim, External, Lost, Object};
pub use given::{Endpointed, GivenEndpoint, NoStep};
pub use hook::{Hook, HookError, Moment, Occasion, Verdict};
pub use instances::{
    ByInstance, Creation, Found, Instance, InstanceError, InstanceState, InstanceStep, Instances,
    Order,
};
pub use ledger::{Intent, Ledger};
pub use lookup::{Depth, Lookup};
pub use machine::{
    AddressType, Drained, Health, InfraMachine, MachineAddress, MachineFacts, MachineScope,
    NodeWish, StringMap,
};
pub use mark::{Mark, MarkError, ObjectName, Proof, Token};
pub use operation::{Operation, Progress, Receipt};
pub use plan::{Plan, Teardown, Waiting};
pub use step::{Effect, Step};
pub use wake::{Wake, Wakes};

pub use async_trait::async_trait;
