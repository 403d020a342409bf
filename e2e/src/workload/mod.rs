//! Workload clusters of real API servers, joined by simulated machines.
//!
//! A simulated guest boots from the seed that the provider attached to its VM. What kubeadm would do
//! then is done here for real: certificates are signed with the authorities from the machine's disk,
//! control-plane machines run etcd (unless the cluster's is external) and kube-apiserver on the machine's
//! own address, others find the cluster through its endpoint, check its authority against their pin and
//! show their bootstrap token. So a wrong seed means that no node appears.
//!
//! Played are the kubelet (the Node, the static Pods and port forwarding), kube-vip (a load balancer on
//! the endpoint's address) and the controller that tells lost nodes. There is no scheduler, no
//! controller manager, no Pod that runs.
//!
//! # Caller's side
//!
//! All addresses lie inside 127.0.0.0/8, where Linux answers every address without set-up. No two
//! machines that are there at the same time have the same.
//!
//! # Guarantees
//!
//! Programs end with their machine, hard, and its files go with it, before the hypervisor says that it
//! is gone: whoever gets the address next finds it free. All bear the mark of the run.

mod balancer;
mod certificates;
mod cluster;
mod document;
mod etcd;
mod kubeadm;
mod machine;
mod node;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use capi_testkit::guest::{Disk, Membership};
use capi_testkit::workload::{Endpoint, Join, Refused, Role};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use self::etcd::ExternalEtcd;

use self::cluster::Cluster;
use self::machine::Machine;
use crate::failure::Failure;
use crate::site::Site;
use crate::tool::{ETCD, KUBE_APISERVER, KUBELET, ToolError};

/// The workload clusters of one run. Clones share them.
#[derive(Clone)]
pub struct Machines {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Machines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Machines")
            .field("machines", &state.slots.len())
            .field("clusters", &state.clusters.keys())
            .finish_non_exhaustive()
    }
}

/// The programs of a control-plane machine.
#[derive(Clone, Debug)]
struct Programs {
    etcd: PathBuf,
    apiserver: PathBuf,
    kubelet: PathBuf,
}

struct Shared {
    site: Site,
    programs: Programs,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By SMBIOS UUID.
    slots: BTreeMap<String, Slot>,
    clusters: BTreeMap<Endpoint, Arc<Cluster>>,
}

/// A machine that asked to come in.
struct Slot {
    machine: Arc<Machine>,
    admission: Option<Admission>,
    member: Option<Member>,
}

/// Work in progress, and what came of it.
struct Admission {
    task: JoinHandle<()>,
    answer: Arc<Mutex<Option<Result<(), Refused>>>>,
}

impl Admission {
    fn answer(&self) -> Result<(), Refused> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match &*answer {
            Some(answer) => answer.clone(),
            None if self.task.is_finished() => Err(Refused::Failed(
                "kubeadm ended without an answer".to_owned(),
            )),
            None => Err(Refused::Pending),
        }
    }
}

/// What a machine is in its cluster.
#[derive(Clone)]
struct Member {
    endpoint: Endpoint,
    node: String,
    is_control_plane: bool,
    /// The address of its API server, if it is behind the endpoint.
    serves: Option<SocketAddr>,
}

impl Machines {
    /// No machines yet; their files and processes belong to this site.
    ///
    /// # Errors
    ///
    /// A program that cannot be built.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn new(site: Site) -> Result<Self, ToolError> {
        let programs = Programs {
            etcd: ETCD.build()?,
            apiserver: KUBE_APISERVER.build()?,
            kubelet: KUBELET.build()?,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                site,
                programs,
                runtime: Handle::current(),
                state: Mutex::default(),
            }),
        })
    }

    /// The control plane endpoints that are answered.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.shared.lock().clusters.keys().cloned().collect()
    }

    /// An administrator's client of the cluster at this endpoint.
    #[must_use]
    pub fn client(&self, endpoint: &Endpoint) -> Option<kube::Client> {
        let cluster = self.shared.cluster(endpoint)?;
        Some(cluster.admin.client())
    }

    /// The machine no longer runs, or is gone with its disk.
    fn end(&self, machine: &str, is_gone: bool) {
        let mut state = self.shared.lock();
        let Some(slot) = state.slots.get_mut(machine) else {
            return;
        };
        if let Some(admission) = slot.admission.take() {
            admission.task.abort();
        }
        slot.machine.end();
        let member = slot.member.clone();
        if is_gone {
            slot.machine.wipe();
            state.slots.remove(machine);
        }
        let Some(member) = member else { return };
        let Some(cluster) = state.clusters.get(&member.endpoint).cloned() else {
            return;
        };
        if let Some(serves) = member.serves {
            cluster.balancer.remove(serves);
        }
        let lives = state.slots.values().any(|slot| {
            let member_of = slot.member.as_ref();
            member_of.is_some_and(|one| one.endpoint == member.endpoint && one.is_control_plane)
        });
        if lives {
            let weak = Arc::downgrade(&self.shared);
            let lost = lost_node(weak, member);
            self.shared.runtime.spawn(lost);
        } else {
            // The last control-plane machine takes the cluster along.
            state.clusters.remove(&member.endpoint);
        }
    }
}

/// Tells the cluster of a node whose machine does not run, as its node controller would.
async fn lost_node(shared: Weak<Shared>, member: Member) {
    for _ in 0..node::TELL_TRIES {
        let Some(cluster) = shared
            .upgrade()
            .and_then(|shared| shared.cluster(&member.endpoint))
        else {
            return;
        };
        if node::lost(&cluster.admin, &member.node).await.is_ok() {
            return;
        }
        tokio::time::sleep(node::TELL_AGAIN).await;
    }
}

impl Membership for Machines {
    fn join(&self, join: &Join, disk: &Disk) -> Result<(), Refused> {
        let uuid = &join.node.machine;
        let mut state = self.shared.lock();
        let slot = state.slots.entry(uuid.clone()).or_insert_with(|| Slot {
            machine: Arc::new(Machine::new(&self.shared.site, uuid, &join.node.name)),
            admission: None,
            member: None,
        });
        if let Some(admission) = &slot.admission {
            let answer = admission.answer();
            if answer != Err(Refused::Pending) {
                slot.admission = None;
            }
            return answer;
        }
        let answer = Arc::new(Mutex::new(None));
        let (shared, machine) = (Arc::clone(&self.shared), Arc::clone(&slot.machine));
        let (join, disk, told) = (join.clone(), disk.clone(), Arc::clone(&answer));
        machine.revive();
        let task = self.shared.runtime.spawn(async move {
            let said = kubeadm::admit(&shared, &machine, &join, &disk).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        });
        slot.admission = Some(Admission { task, answer });
        Err(Refused::Pending)
    }

    fn machine_stopped(&self, machine: &str) {
        self.end(&machine.to_ascii_lowercase(), false);
    }

    fn machine_destroyed(&self, machine: &str) {
        self.end(&machine.to_ascii_lowercase(), true);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster(&self, endpoint: &Endpoint) -> Option<Arc<Cluster>> {
        self.lock().clusters.get(endpoint).cloned()
    }

    /// Makes a machine a member; one that is gone meanwhile is not.
    fn enter(&self, machine: &str, member: Member, new: Option<Cluster>) -> Result<(), Refused> {
        let mut state = self.lock();
        let State { slots, clusters } = &mut *state;
        let gone = || Refused::Failed("the machine was switched off".to_owned());
        let slot = slots.get_mut(machine).ok_or_else(gone)?;
        if let Some(cluster) = new {
            clusters.insert(member.endpoint.clone(), Arc::new(cluster));
        }
        if let Some(serves) = member.serves {
            let cluster = clusters.get(&member.endpoint).ok_or_else(gone)?;
            cluster.balancer.add(serves);
        }
        slot.member = Some(member);
        Ok(())
    }

    /// A member that was switched off is behind the endpoint again.
    fn came_back(&self, machine: &str) {
        let state = self.lock();
        let member = state
            .slots
            .get(machine)
            .and_then(|slot| slot.member.as_ref());
        let cluster = member.and_then(|member| state.clusters.get(&member.endpoint));
        if let (Some(cluster), Some(serves)) = (cluster, member.and_then(|one| one.serves)) {
            cluster.balancer.add(serves);
        }
    }
}

/// The words of kubeadm for something that it could not do.
fn failed(attempt: &str) -> impl Fn(Failure) -> Refused + '_ {
    move |failure| Refused::Failed(format!("{attempt}: {failure}"))
}

/// The address that a machine is reached at.
fn address(join: &Join) -> Result<IpAddr, Refused> {
    let first = join.node.addresses.first().copied();
    let address = first.ok_or_else(|| Refused::Failed("the machine has no address".to_owned()))?;
    if address.is_loopback() {
        return Ok(address);
    }
    Err(Refused::Failed(format!(
        "listen on {address}: cannot assign requested address; addresses of simulated machines with \
         real programs lie in 127.0.0.0/8"
    )))
}

/// Whether the machine is part of the control plane.
fn is_control_plane(join: &Join) -> bool {
    join.node.role == Role::ControlPlane
}
