//! How long the simulated work takes.

use std::time::Duration;

/// How long each kind of work takes, before the platform's speed divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delays {
    /// An instance's creation until its pod exists: `Pending` to `Scheduling`.
    pub pod: Duration,
    /// The pod's images are pulled and its containers ready: `Scheduling` to `Scheduled`.
    pub launch: Duration,
    /// virt-handler starts the domain: `Scheduled` to `Running`.
    pub start: Duration,
    /// A guest agent's first answer until it is seen in the instance's status.
    pub agent: Duration,
    /// A guest that was asked to shut down, unless its grace period is shorter.
    pub shutdown: Duration,
    /// An ended guest until its pod, and with it the instance's finalizer, is gone.
    pub pod_removal: Duration,
    /// A claim until a volume is bound to it.
    pub bind: Duration,
    /// An import or upload of a disk image, whatever its size.
    pub import: Duration,
    /// A clone of another claim or snapshot.
    pub clone: Duration,
    /// Each stage of a live migration before its memory is copied.
    pub migration_stage: Duration,
    /// The copy of a migrating guest's memory.
    pub migration: Duration,
    /// A Service of type `LoadBalancer` until it has its address.
    pub load_balancer: Duration,
}

impl Delays {
    /// What a small cluster with images at hand needs: about 8 s to a running domain, an import of
    /// a minute, a clone of 5 s.
    #[must_use]
    pub fn realistic() -> Self {
        Self {
            pod: Duration::from_secs(1),
            launch: Duration::from_secs(5),
            start: Duration::from_secs(2),
            agent: Duration::from_secs(5),
            shutdown: Duration::from_secs(4),
            pod_removal: Duration::from_secs(1),
            bind: Duration::from_secs(1),
            import: Duration::from_secs(60),
            clone: Duration::from_secs(5),
            migration_stage: Duration::from_secs(1),
            migration: Duration::from_secs(10),
            load_balancer: Duration::from_secs(1),
        }
    }

    /// Nothing waits. Probes still have the periods that their specs say.
    #[must_use]
    pub fn zero() -> Self {
        Self {
            pod: Duration::ZERO,
            launch: Duration::ZERO,
            start: Duration::ZERO,
            agent: Duration::ZERO,
            shutdown: Duration::ZERO,
            pod_removal: Duration::ZERO,
            bind: Duration::ZERO,
            import: Duration::ZERO,
            clone: Duration::ZERO,
            migration_stage: Duration::ZERO,
            migration: Duration::ZERO,
            load_balancer: Duration::ZERO,
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self::realistic()
    }
}
