//! The engine behind a Cluster API infrastructure provider.
//!
//! An author writes two values, one of [`capi_contract::InfraCluster`] and one of
//! [`capi_contract::InfraMachine`]; this crate does the rest: watches, gates, finalizers, the ledger
//! that makes a crash at any line harmless, backoff, conditions, Events, metrics. It knows no
//! platform.
//!
//! # A complete program
//!
//! ```no_run
//! use capi_contract::crd::{InfraClusterStatus, InfraMachineStatus};
//! use capi_contract::{
//!     ByInstance, Connected, Creation, Endpoint, Endpointed, GivenEndpoint, Instance, InstanceState,
//!     Instances, MachineFacts, Mark, Order,
//! };
//! use capi_core::{Options, Provider};
//! use kube::{Config, CustomResource};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(CustomResource, Clone, Debug, Serialize, Deserialize, JsonSchema)]
//! #[kube(group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1", kind = "RackMachine")]
//! #[kube(namespaced, status = "InfraMachineStatus")]
//! struct RackMachineSpec {
//!     #[serde(rename = "providerID")]
//!     provider_id: Option<String>,
//! }
//!
//! #[derive(CustomResource, Clone, Debug, Serialize, Deserialize, JsonSchema)]
//! #[kube(group = "infrastructure.cluster.x-k8s.io", version = "v1alpha1", kind = "RackCluster")]
//! #[kube(namespaced, status = "InfraClusterStatus")]
//! struct RackClusterSpec {
//!     #[serde(rename = "controlPlaneEndpoint")]
//!     control_plane_endpoint: Option<Endpoint>,
//! }
//!
//! impl Endpointed for RackCluster {
//!     const FINALIZER: &'static str = "rackcluster.infrastructure.cluster.x-k8s.io";
//!
//!     fn endpoint(&self) -> Option<Endpoint> {
//!         self.spec.control_plane_endpoint.clone()
//!     }
//! }
//!
//! /// The platform, and one machine of it.
//! struct Rack;
//! struct Server(Mark);
//!
//! impl Instance for Server {
//!     fn mark(&self) -> &Mark {
//!         &self.0
//!     }
//!
//!     fn state(&self) -> InstanceState {
//!         InstanceState::Running
//!     }
//! }
//!
//! impl Instances for Rack {
//!     const CREATION: Creation = Creation::Keyed;
//!     const FINALIZER: &'static str = "rackmachine.infrastructure.cluster.x-k8s.io";
//!     type Kind = RackMachine;
//!     type Cluster = RackCluster;
//!     type Session = ();
//!     type Instance = Server;
//!     type Error = std::convert::Infallible;
//!
//!     async fn find(&self, _: &(), _mark: &Mark) -> Result<Vec<Server>, Self::Error> {
//!         Ok(Vec::new()) // ask the platform for all servers with this owner and object
//!     }
//!
//!     async fn create(&self, _: &(), _: Order<'_, RackMachine>) -> Result<(), Self::Error> {
//!         Ok(()) // one request that carries `order.mark`
//!     }
//!
//!     async fn destroy(&self, _: &(), _server: &Server) -> Result<(), Self::Error> {
//!         Ok(()) // one request
//!     }
//!
//!     fn facts(&self, _: &RackMachine, server: &Server) -> MachineFacts<()> {
//!         let mut facts = MachineFacts::default();
//!         facts.provider_id = server.0.token().map(|token| format!("rack://{token}"));
//!         facts
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = capi_core::client(Config::infer().await?)?;
//!     let stop = async {
//!         let _ = tokio::signal::ctrl_c().await;
//!     };
//!     Provider::new(Connected)
//!         .cluster(GivenEndpoint::<RackCluster>::new())
//!         .machine(ByInstance(Rack))
//!         .options(Options::default())
//!         .run(client, stop)
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! # Map
//!
//! | item | is |
//! |---|---|
//! | [`Provider`] | what is put together and run; one future, nothing spawned, no global state |
//! | [`Options`] | namespaces, watch filter, concurrency, time, metrics, leadership |
//! | [`client()`] | a client that does not repeat requests behind the engine's back |
//! | [`Dial`] | how workload clusters are reached, for node provider ids and drains |
//! | [`Clock`] | time that counts suspend, and virtual time for tests |
//! | [`Telemetry`] | metrics in a registry of the caller's |
//! | [`Status`] | whether a provider is ready, for a health endpoint |
//! | [`lease`] | leader election by a Kubernetes Lease |
//! | [`serve`](mod@serve) | health, readiness, metrics and webhooks over HTTP |
//! | [`command`] | `run`, `manifests`, `doctor`: the program of a provider |
//! | [`manifests`] | what it takes to install one |
//!
//! Inside, `engine` knows one thing outside Kubernetes and nothing of Cluster API: a pure decision
//! table and the pass around it. `provider` knows the kinds: watches, gates, children, conditions.
//!
//! # Guarantees
//!
//! - A write with the object's version precedes every mutation of the platform, except of steps that
//!   declare themselves repeatable, and the mutation leaves within 5 s of it (R1, R2).
//! - Never two things for one object, never a leaked one, never another's touched, whatever crashes
//!   and whenever (R3 to R5, R9, R11).
//! - A pass that finds nothing to do neither writes nor reads Kubernetes (R13).
//! - Dropping the future of [`Provider::run`] stops everything between two polls. The next run needs
//!   nothing but what is written on the objects (R12).
//! - Secrets are read by name, never listed or watched, and appear in no log, Event, condition or
//!   metric (R15).
//!
//! # Features
//!
//! `k8s-1_33` to `k8s-1_36` and `k8s-latest` choose the Kubernetes version of the types; a binary
//! enables exactly one.

mod cause;
mod client;
pub mod command;
mod engine;
mod events;
pub mod lease;
pub mod manifests;
mod options;
mod provider;
pub mod serve;
mod telemetry;
mod workload;

pub use client::client;
pub use engine::Clock;
pub use options::{Leadership, Options};
pub use provider::{Provider, RunError, Status};
pub use telemetry::Telemetry;
pub use workload::{Dial, DialError};
