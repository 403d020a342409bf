//! A simulated KubeVirt, with CDI and a load balancer, for tests of anything that drives one, and for
//! trying things out where no cluster with virtual machines is.
//!
//! KubeVirt's API is Kubernetes' own, so this is a set of controllers: they play on any API server, the
//! embedded one or a real one, and answer as virt-controller, virt-handler, CDI and MetalLB would.
//!
//! ```
//! use capi_testkit::apiserver::ApiServer;
//! use kubevirt_sim::{Builder, Delays};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
//! # runtime.block_on(async {
//! let infra = ApiServer::builder().seed(1).build();
//! let platform = Builder::new()
//!     .delays(Delays::zero())
//!     .build_in(&infra)
//!     .await
//!     .expect("the published definitions are valid");
//! let story = async {
//!     platform.hand().stranger("default", "database").await.unwrap();
//!     while platform.vm("default", "database").is_none_or(|vm| vm.status != "Running") {
//!         tokio::time::sleep(std::time::Duration::from_secs(1)).await;
//!     }
//! };
//! tokio::select! {
//!     never = platform.run() => match never {},
//!     () = story => {}
//! }
//! # });
//! ```
//!
//! # Two ways to play
//!
//! * **In an embedded API server**: [`Builder::build_in`] installs the published definitions and
//!   KubeVirt's admission webhooks, all on one runtime and a paused clock. Equal seeds and equal
//!   requests give equal worlds.
//! * **On a real API server**: [`install`] and [`Builder::build`]. The binary does both:
//!
//! ```text
//! $ cargo run -p kubevirt-sim -- --kubeconfig-out infra.yaml --speed 5
//! $ kubectl --kubeconfig infra.yaml apply -f vm.yaml
//! $ kubectl --kubeconfig infra.yaml get vm,vmi,dv,nodes
//! ```
//!
//! # What is played
//!
//! | KubeVirt | here |
//! |---|---|
//! | VirtualMachine | run strategies, `running`, requests of `virtctl start` and `restart`, DataVolume templates, instance types, printable status, conditions, start failures with backoff, live updates and `RestartRequired` |
//! | VirtualMachineInstance | all phases, scheduling, finalizers and grace period, addresses, guest agent, readiness probes, `LiveMigratable`, evictions |
//! | VirtualMachineInstanceMigration | all phases, failures, evacuation of drained nodes |
//! | DataVolume, DataSource | imports, clones, blank volumes, storage that waits for its first consumer |
//! | Service | cluster addresses, node ports, load balancers with an address or a host name |
//! | admission | what KubeVirt refuses of VMs and migrations; the firmware's uuid |
//!
//! A guest boots from what the instance's cloud-init volume names, read from the Secret in the API: a
//! wrong seed means no node, and [`Platform::console`] says why. A pod waits for its Secret, as one does
//! that mounts it, at each start. What is on a container disk is lost with its instance; a DataVolume
//! keeps it. A node joins through a Service only if that leads to its machine: type, ports, selector, and
//! for the first machine `publishNotReadyAddresses` or readiness.
//!
//! # What goes wrong
//!
//! [`Platform::faults`] scripts it, [`Rates`] draw it at random from the seed, [`Platform::hand`] does
//! what people do. Faults of API requests are those of [`capi_testkit::faults`].
//!
//! # What tests ask in the end
//!
//! | question | answer |
//! |---|---|
//! | Is anything left? | [`Platform::vms_left`], [`volumes_left`](Platform::volumes_left), [`secrets_left`](Platform::secrets_left), [`services_left`](Platform::services_left) |
//! | Were there ever two for one object? | [`Platform::twins`], [`overlaps`](Platform::overlaps) |
//! | Was another's thing changed? | [`Platform::strangers_touched`] |
//! | What was made, and when? | [`Platform::births`] |
//!
//! # What it leaves out
//!
//! * Pods: an instance says which pod it has, but there is none in the API. So drains are
//!   [`Hand::drain`](Hand::drain), and Services have no endpoints.
//! * The subresource API (`subresources.kubevirt.io`): start, stop, console, guest information. What
//!   it would change in status is read from there.
//! * Snapshots, exports, pools, hot-plugged volumes and interfaces, paused machines, memory dumps,
//!   migration policies, decentralised migration, `WaitAsReceiver`, liveness probes.
//! * Preferred affinity and topology spread constraints; the node that a local volume is bound to.
//! * Live updates of sockets and memory take effect at once, without a migration.
//! * Uploads are never done by anybody; clones of snapshots are refused. The cluster's quota is endless.
//! * Of `ControllerRevision`s nothing is written: the instance type that counts is the present one.
//! * After a restart of the simulator its guests are gone: running instances go on without one.
//! * On a real API server the nodes have no kubelet that renews their Leases, claims have no volumes, and
//!   no pod uses a claim: of the controller manager, the controllers of node lifecycle, volume binding
//!   and claim protection must not run beside it. Its garbage collector must.

mod admission;
mod audit;
mod builder;
mod condition;
mod definition;
mod delays;
mod fault;
mod guest;
mod hand;
mod hardware;
mod platform;
mod quantity;
mod rng;
mod seed;
mod word;
mod world;

pub use crate::audit::{Birth, Touched, Twins};
pub use crate::builder::{BuildError, Builder, GoldenSpec, NodeSpec, StorageSpec};
pub use crate::definition::{InstallError, install};
pub use crate::delays::Delays;
pub use crate::fault::{Faults, Rates};
pub use crate::guest::Guests;
pub use crate::hand::Hand;
pub use crate::platform::{Platform, VmView};
