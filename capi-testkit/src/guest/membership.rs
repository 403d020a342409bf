//! Where machines become nodes.

use crate::guest::disk::Disk;
use crate::workload::{Endpoint, Join, Refused, Workloads};

/// What stands behind the control plane endpoints that guests are given: it answers each
/// [`Event::Join`](crate::guest::Event::Join), and is told when a machine stops or goes.
///
/// [`Workloads`] decides at once and keeps its nodes as values. One that starts real programs needs
/// time: it answers [`Refused::Pending`] at first, and the guest asks again.
///
/// The calls come from inside the simulated platform and must not take long.
pub trait Membership: std::fmt::Debug + Send + Sync {
    /// Lets a machine in, or says why not. `disk` is what its seed made of it: the certificates and
    /// the documents that kubeadm works with ([`Disk::kubeadm_config`]).
    ///
    /// # Errors
    ///
    /// [`Refused`], in the words of kubeadm.
    fn join(&self, join: &Join, disk: &Disk) -> Result<(), Refused>;

    /// Something outside the machines leads from this endpoint, a host name, to those of its control
    /// plane: the load balancer of a platform. Nothing unless said otherwise.
    fn declare_load_balancer(&self, _endpoint: &Endpoint) {}

    /// The machine, by its SMBIOS UUID, no longer runs; it may start again.
    fn machine_stopped(&self, machine: &str);

    /// The machine is gone with its disk.
    fn machine_destroyed(&self, machine: &str);
}

impl Membership for Workloads {
    fn join(&self, join: &Join, _: &Disk) -> Result<(), Refused> {
        Workloads::join(self, join)
    }

    fn declare_load_balancer(&self, endpoint: &Endpoint) {
        Workloads::declare_load_balancer(self, endpoint);
    }

    fn machine_stopped(&self, machine: &str) {
        Workloads::machine_stopped(self, machine);
    }

    fn machine_destroyed(&self, machine: &str) {
        Workloads::machine_destroyed(self, machine);
    }
}
