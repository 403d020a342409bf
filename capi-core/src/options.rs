//! What can be set without writing code.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Clock;
use crate::telemetry::Telemetry;
use crate::workload::Dial;

/// Settings of a running [`Provider`](crate::Provider); the defaults suit production.
///
/// ```
/// use capi_core::Options;
///
/// let options = Options {
///     namespaces: vec!["team-a".into(), "team-b".into()],
///     ..Options::default()
/// };
/// assert_eq!(options.concurrency, 64);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces to work in; empty means all. With a list, namespaced rights suffice.
    pub namespaces: Vec<String>,
    /// Work only on objects whose label `cluster.x-k8s.io/watch-filter` has this value (CTL-07).
    pub watch_filter: Option<String>,
    /// How many objects are worked on at once.
    pub concurrency: usize,
    /// How often a settled thing is looked at. A look is one shared listing of the backend, and
    /// neither reads nor writes Kubernetes (R13). Objects whose thing is destroyed by hand are
    /// reported within this time and the length of two looks.
    pub recheck: Duration,
    /// How long one call of the provider's code may take before it is given up as if the process had
    /// crashed there.
    pub call_timeout: Duration,
    /// Name under which writes are recorded in `managedFields`. Two programs that write the same
    /// kinds must have different names.
    pub manager: String,
    /// Where time comes from.
    pub clock: Clock,
    /// Where metrics go.
    pub telemetry: Telemetry,
    /// Whether this process may act.
    pub leadership: Leadership,
    /// How workload clusters are reached, where a provider's facts ask for something of a node.
    pub dial: Dial,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            watch_filter: None,
            // Passes wait for the network most of the time; a kube-apiserver gives one client some
            // hundred requests in flight, a hypervisor far fewer.
            concurrency: 64,
            recheck: Duration::from_secs(5),
            // Twice the request limit of the providers in this project, and room for an upload.
            call_timeout: Duration::from_secs(120),
            manager: "capi-rs".to_owned(),
            clock: Clock::system(),
            telemetry: Telemetry::unread(),
            leadership: Leadership::always(),
            dial: Dial::default(),
        }
    }
}

/// Whether this process may act, asked again right before every mutation (R2).
///
/// Cloning is cheap and asks the same question.
#[derive(Clone)]
pub struct Leadership(Arc<dyn Fn() -> bool + Send + Sync>);

impl Leadership {
    /// For a process that has no rival.
    #[must_use]
    pub fn always() -> Self {
        Self::when(|| true)
    }

    /// For any other election: `holds` must answer at once and from this process's own clock, and
    /// must turn false before a rival can start.
    #[must_use]
    pub fn when(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    /// Whether this process may act now. The answer is good for this moment only.
    #[must_use]
    pub fn holds(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leadership").field(&self.holds()).finish()
    }
}
