//! The platform: the cluster's state behind one lock, and the in-memory face.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api::{self, Outcome};
use crate::audit::{Report, Touched};
use crate::builder::Builder;
use crate::fault::Faults;
use crate::world::World;
use crate::world::birth::{Birth, Twins};
use crate::world::storage::Storage;
use crate::world::vm::{Power, Vm};

/// A simulated Proxmox VE cluster. Clones are the same cluster.
///
/// # Flow
///
/// [`Platform::handle`] answers one HTTP request; [`Platform::serve`](crate::Platform::serve)
/// does the same behind TLS. Work that takes time goes on by itself: tasks end and guests boot
/// when tokio's clock says so, paused or not, whether or not anybody asks.
///
/// # Assumptions
///
/// Both are called inside a tokio runtime with time enabled.
#[derive(Clone)]
pub struct Platform {
    inner: Arc<Inner>,
    /// The node that receives the calls of this handle.
    entry: Option<String>,
}

struct Inner {
    state: Mutex<State>,
    /// The header of the first token.
    authorization: Option<String>,
    /// Tells the driver that there is something new to wait for.
    changed: Arc<Notify>,
}

struct State {
    world: World,
    /// The task that lets due events happen, while there are any.
    driver: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(driver) = self.state.get_mut().driver.take() {
            driver.abort();
        }
    }
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// A VM as it stands, read past the API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmView {
    /// Its VMID.
    pub vmid: u32,
    /// The node it is on.
    pub node: String,
    /// Whether it runs.
    pub running: bool,
    /// Whether it is a template.
    pub template: bool,
    /// Its pool.
    pub pool: Option<String>,
    /// Its configuration file, without what waits for a restart.
    pub config: BTreeMap<String, String>,
}

impl VmView {
    fn of(vm: &Vm) -> Self {
        Self {
            vmid: vm.vmid,
            node: vm.node.clone(),
            running: !matches!(vm.power, Power::Stopped),
            template: vm.is_template(),
            pool: vm.pool.clone(),
            config: vm.config.clone(),
        }
    }

    /// Its name; a clone has none before it is finished.
    pub fn name(&self) -> Option<&str> {
        self.config.get("name").map(String::as_str)
    }

    /// Its SMBIOS uuid.
    pub fn uuid(&self) -> Option<&str> {
        let smbios = self.config.get("smbios1")?;
        smbios
            .split(',')
            .find_map(|part| part.strip_prefix("uuid="))
    }
}

/// A volume as it stands, read past the API.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeView {
    /// The node it is on; empty on a shared storage.
    pub node: String,
    /// Its id, `storage:name`.
    pub volid: String,
    /// `iso`, `images`, ...
    pub content: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// What was uploaded.
    pub bytes: Option<Bytes>,
}

// Uploads hold bootstrap data, so only their size is shown.
impl std::fmt::Debug for VolumeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeView")
            .field("node", &self.node)
            .field("volid", &self.volid)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Platform {
    pub(crate) fn new(builder: Builder) -> Self {
        let authorization = builder
            .tokens
            .first()
            .map(|token| format!("PVEAPIToken={}={}", token.id, token.secret));
        let world = World::new(builder, Instant::now());
        let inner = Inner {
            state: Mutex::new(State {
                world,
                driver: None,
            }),
            authorization,
            changed: Arc::new(Notify::new()),
        };
        Self {
            inner: Arc::new(inner),
            entry: None,
        }
    }

    /// The same cluster, called through this node. Otherwise the first node that is online
    /// receives the calls, as behind a load balancer.
    pub fn at(&self, node: impl Into<String>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            entry: Some(node.into()),
        }
    }

    /// The `Authorization` header of the first token; empty without tokens.
    pub fn authorization(&self) -> HeaderValue {
        let value = self.inner.authorization.as_deref().unwrap_or_default();
        let mut header = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""));
        header.set_sensitive(true);
        header
    }

    /// The first token: its id (`user@realm!name`) and its secret; both empty without tokens.
    pub fn token(&self) -> (String, String) {
        let header = self.inner.authorization.as_deref().unwrap_or_default();
        let value = header.trim_start_matches("PVEAPIToken=");
        let (id, secret) = value.split_once('=').unwrap_or_default();
        (id.to_owned(), secret.to_owned())
    }

    /// Answers one request as the real server would: status, reason phrase (as hyper's
    /// `ReasonPhrase` extension), headers and body. The path begins with `/api2/json`.
    ///
    /// Takes time only where the real answer would: a silent node, a wrong token, a call that
    /// waits for its task. Dropping the future never undoes what the call began.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let outcome = self.with_world(|world| api::handle(world, self.entry.as_deref(), &request));
        match outcome {
            Outcome::Respond { after, response } => {
                if !after.is_zero() {
                    sleep(after).await;
                }
                response
            }
            Outcome::Await {
                upid,
                at_most,
                failure,
            } => self.wait(&upid, at_most, &failure).await,
        }
    }

    async fn wait(&self, upid: &str, at_most: Duration, failure: &str) -> Response<Bytes> {
        let deadline = Instant::now() + at_most;
        loop {
            let ends = self
                .with_world(|world| world.task_ends(upid))
                .unwrap_or(deadline);
            sleep_until(ends.min(deadline)).await;
            let over = Instant::now() >= deadline;
            let settled = self.with_world(|world| api::settle(world, upid, failure, over));
            if let Some(response) = settled {
                return response;
            }
        }
    }

    /// Looks at or changes the world as of now, and sees to it that time goes on.
    pub(crate) fn with_world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut state = self.inner.state.lock();
        let State { world, driver } = &mut *state;
        world.advance(Instant::now());
        let before = world.next_event();
        let result = look(world);
        let next = world.next_event();
        if next.is_some() && driver.as_ref().is_none_or(JoinHandle::is_finished) {
            let changed = Arc::clone(&self.inner.changed);
            let events = run_events(Arc::downgrade(&self.inner), changed);
            *driver = Handle::try_current()
                .ok()
                .map(|runtime| runtime.spawn(events));
        } else if next != before {
            self.inner.changed.notify_one();
        }
        result
    }

    /// Scripted faults.
    pub fn faults(&self) -> Faults<'_> {
        Faults::new(self)
    }

    /// Every request so far.
    pub fn audit(&self) -> Report {
        self.with_world(|world| world.audit.report())
    }

    /// Forgets the requests so far; what was touched of others stays.
    pub fn clear_audit(&self) {
        self.with_world(|world| world.audit.clear());
    }

    /// All VMs and templates, by VMID.
    pub fn vms(&self) -> Vec<VmView> {
        self.with_world(|world| world.vms.values().map(VmView::of).collect())
    }

    /// One VM.
    pub fn vm(&self, vmid: u32) -> Option<VmView> {
        self.with_world(|world| world.vms.get(&vmid).map(VmView::of))
    }

    /// The VMs that are neither templates nor somebody else's: what must be gone in the end.
    pub fn vms_left(&self) -> Vec<VmView> {
        self.with_world(|world| {
            let ours = world
                .vms
                .values()
                .filter(|vm| !world.births.is_stranger(vm.birth));
            ours.map(VmView::of).collect()
        })
    }

    /// All volumes.
    pub fn volumes(&self) -> Vec<VolumeView> {
        self.with_world(|world| {
            let all = world.storages.values().flat_map(Storage::all);
            all.map(|(node, volid, volume)| VolumeView {
                node: node.to_owned(),
                volid: volid.to_owned(),
                content: volume.content,
                size: volume.size,
                bytes: volume.bytes.clone(),
            })
            .collect()
        })
    }

    /// ISO images that were uploaded and are still there: what must be gone in the end.
    pub fn isos_left(&self) -> Vec<VolumeView> {
        let mut volumes = self.volumes();
        volumes.retain(|volume| volume.content == "iso" && volume.bytes.is_some());
        volumes
    }

    /// Disks that no VM's configuration names any more.
    pub fn disks_left(&self) -> Vec<VolumeView> {
        let named: Vec<String> =
            self.with_world(|world| world.vms.values().flat_map(Vm::disks).collect());
        let mut volumes = self.volumes();
        volumes.retain(|volume| volume.content == "images" && !named.contains(&volume.volid));
        volumes
    }

    /// Every VM that ever was, in the order of making, templates included.
    pub fn births(&self) -> Vec<Birth> {
        self.with_world(|world| world.births.all().to_vec())
    }

    /// Pairs of VMs that bear a mark of the same object now.
    pub fn twins(&self) -> Vec<Twins> {
        self.with_world(|world| world.births.kept_twins())
    }

    /// Pairs of VMs that at any moment bore a mark of the same object, the parted ones too.
    pub fn overlaps(&self) -> Vec<Twins> {
        self.with_world(|world| world.births.overlaps())
    }

    /// What accepted calls changed though it belongs to somebody else.
    pub fn strangers_touched(&self) -> Vec<Touched> {
        self.with_world(|world| world.audit.touched.clone())
    }

    /// What the serial console of a VM showed at its last boot, oldest line first.
    pub fn console(&self, vmid: u32) -> Vec<String> {
        self.with_world(|world| {
            let birth = world.vms.get(&vmid).map(|vm| vm.birth);
            birth
                .map(|birth| world.guests.console(birth))
                .unwrap_or_default()
        })
    }

    /// The node that this handle's calls arrive at.
    pub(crate) fn entry_name(&self) -> String {
        let entry = self.entry.clone();
        entry.unwrap_or_else(|| self.with_world(|world| api::entry_node(world, None)))
    }

    /// How many tasks run or wait for a lock.
    pub fn tasks_running(&self) -> usize {
        self.with_world(|world| {
            world
                .tasks
                .newest()
                .filter(|task| task.is_running())
                .count()
        })
    }
}

/// Lets events happen when they are due; ends when none is left or the platform is gone.
async fn run_events(platform: Weak<Inner>, changed: Arc<Notify>) {
    loop {
        let next = {
            let Some(inner) = platform.upgrade() else {
                return;
            };
            let mut state = inner.state.lock();
            state.world.advance(Instant::now());
            let Some(next) = state.world.next_event() else {
                // Under the lock, so that whoever schedules next sees that nobody drives.
                state.driver = None;
                return;
            };
            next
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = changed.notified() => {}
        }
    }
}
