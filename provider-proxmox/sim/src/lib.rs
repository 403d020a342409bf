//! A simulated Proxmox VE cluster that speaks the real REST API, for tests of anything that
//! drives one, and for trying things out where no hypervisor is.
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use pve_sim::{Builder, Delays, TaskFault};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(async {
//! let platform = Builder::new().delays(Delays::zero()).build();
//! platform.faults().task("qmclone", TaskFault::Warn(1));
//!
//! let clone = Request::post("/api2/json/nodes/pve1/qemu/9000/clone")
//!     .header("authorization", platform.authorization())
//!     .header("content-type", "application/x-www-form-urlencoded")
//!     .body(Bytes::from("newid=100&name=first"))
//!     .unwrap();
//! let response = platform.handle(clone).await;
//!
//! assert_eq!(response.status(), 200);
//! assert_eq!(platform.vm(100).unwrap().name(), Some("first"));
//! # });
//! ```
//!
//! # Two faces
//!
//! * **In memory**: [`Platform::handle`] takes an HTTP request and gives the response: status,
//!   reason phrase, headers, body. It needs no socket and works on a paused clock, so a sweep
//!   runs thousands of machines in seconds.
//! * **HTTPS**: [`Platform::serve`] does the same over TLS and HTTP/1.1, with an authority per
//!   cluster and a certificate per node. The binary does it for you:
//!
//! ```text
//! $ cargo run -p pve-sim -- --ca-file ca.pem --speed 5
//! url          https://127.0.0.1:8006
//! token        capi@pve!provider
//! ...
//! ```
//!
//! `--help` lists its options: nodes, memory, speed, seed, chaos, templates, token.
//!
//! # How strict it is
//!
//! A client that works here should work on the real thing. Each call is checked in the server's
//! order: token (401, after 3 s), content (501, 506), route (501), privileges (403, naming path
//! and privilege), the way to the node (595 off, 596 silent), parameters (400, naming each), and
//! then the matter itself (500 with the server's text as message and reason phrase). Statuses of
//! 400 and above close the connection. What the simulator does not know it refuses; it never
//! answers 200 to something that it ignored.
//!
//! It shows what surprises clients in real life:
//!
//! * A clone is visible with `lock=clone` before it has a name, tags or description, on the
//!   source's node; at the end it is complete and on its target.
//! * `/cluster/nextid` reserves nothing; a VMID is free when the destroying task has ended, and
//!   may be somebody else's a moment later.
//! * Name and state in `/cluster/resources` are up to 10 s old; node, tags and lock are not.
//! * Tasks wait for lock files and give up; they end with warnings, with failures after the work
//!   was done, or without a status; their logs rotate away.
//! * An upload's task runs on the node that received it. Deleting an image that is gone succeeds.
//! * A NIC written without its MAC gets a new one; a new disk asked for twice leaves one unused.
//! * Changes of a running VM's CPU, memory or IDE drives wait for its next start.
//! * `/cluster/tasks` shows of each node all running tasks, and ended ones only up to 25 in all:
//!   with 25 clones running, one that ends is not seen there.
//!
//! # The world
//!
//! [`Builder::new`] gives three nodes, storages, a template and a token with the least rights;
//! everything can be replaced. [`Guests`] puts a simulated operating system into VMs: it boots
//! from the attached image and joins its cluster, or [`Platform::console`] says why not. Without
//! it VMs run empty and no guest agent answers.
//!
//! What happens behind a client's back is a method of [`Platform`]: VMs destroyed, moved or put
//! there by strangers, nodes off or silent, storages full, tokens revoked. [`Platform::faults`]
//! scripts failures of calls and tasks, and [`Rates`] draws them at random from the seed.
//!
//! # What tests ask in the end
//!
//! | question | answer |
//! |---|---|
//! | Is anything left? | [`Platform::vms_left`], [`isos_left`](Platform::isos_left), [`disks_left`](Platform::disks_left) |
//! | Were there ever two for one object? | [`Platform::twins`], [`overlaps`](Platform::overlaps): by the [mark](capi_contract::Mark) in the description |
//! | Was another's VM changed? | [`Platform::strangers_touched`] |
//! | What was made, when, by whom? | [`Platform::births`] |
//! | How much was asked? | [`Platform::audit`] |
//!
//! # What it leaves out
//!
//! Tickets (tokens only), containers, Ceph, replication, firewall, backups, consoles, Proxmox
//! VE's own cloud-init drive inside guests, and making snapshots. Those calls are answered 501.

mod api;
mod audit;
mod builder;
mod delays;
mod fault;
mod guest;
mod hand;
mod platform;
mod property;
mod rng;
mod server;
mod tls;
mod world;

pub use crate::audit::{Record, Report, Touched};
pub use crate::builder::{Builder, NodeSpec, StorageSpec, TemplateSpec, TokenSpec};
pub use crate::delays::Delays;
pub use crate::fault::{CallFault, Faults, Rates, TaskFault};
pub use crate::guest::Guests;
pub use crate::platform::{Platform, VmView, VolumeView};
pub use crate::server::{ServeError, Server};
pub use crate::world::birth::{Birth, Maker, Twins};
