//! Waking objects from outside Kubernetes.

use std::fmt;
use std::sync::Arc;

use crate::mark::ObjectName;

/// Which object something outside has changed for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wake {
    /// An infra cluster, by namespace and name of the Kubernetes object.
    Cluster(ObjectName),
    /// A machine, by namespace and name of the Kubernetes object.
    Machine(ObjectName),
}

/// Wakes objects whose thing has changed; given to [`Connect::follow`](crate::Connect::follow).
///
/// Cloning is cheap and wakes the same objects. A wake is a hint: it costs nothing to wake too often
/// or an object that does not exist, and a wake that is lost only delays, since every object is
/// looked at again in any case. The engine runs an object at most once at a time, merges the wakes
/// that come meanwhile, and slows down objects that are woken without end.
#[derive(Clone)]
pub struct Wakes(Arc<dyn Fn(Wake) + Send + Sync>);

impl Wakes {
    /// Hands each wake to `to`, which must return at once.
    pub fn new(to: impl Fn(Wake) + Send + Sync + 'static) -> Self {
        Self(Arc::new(to))
    }

    /// The thing of an infra cluster has changed.
    pub fn cluster(&self, name: ObjectName) {
        (self.0)(Wake::Cluster(name));
    }

    /// The thing of a machine has changed.
    pub fn machine(&self, name: ObjectName) {
        (self.0)(Wake::Machine(name));
    }
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wakes(..)")
    }
}
