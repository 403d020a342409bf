//! Metrics, with an explicit registry and no global state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of a count per kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// Labels of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPass {
    kind: &'static str,
    outcome: &'static str,
}

/// Labels of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    kind: &'static str,
    step: &'static str,
    result: &'static str,
}

/// Labels of a call of the seam.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    kind: &'static str,
    call: &'static str,
}

/// Labels of an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfError {
    kind: &'static str,
    call: &'static str,
    class: &'static str,
}

/// Labels of a write to Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWrite {
    kind: &'static str,
    write: &'static str,
    result: &'static str,
}

/// The engine's metrics. Cloning is cheap and counts into the same metrics.
#[derive(Clone)]
pub struct Telemetry(Arc<Metrics>);

struct Metrics {
    passes: Family<OfPass, Counter>,
    steps: Family<OfStep, Counter>,
    calls: Family<OfCall, Histogram>,
    errors: Family<OfError, Counter>,
    writes: Family<OfWrite, Counter>,
    queued: Family<OfKind, Gauge>,
    running: Gauge,
    watches: Family<OfKind, Counter>,
    events_dropped: Counter,
    leader: Gauge,
    lease_failures: Counter,
}

/// Buckets for calls of a backend: 1 ms to 65 s, which spans a local lookup and the longest call
/// that the engine waits for.
fn call_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Telemetry {
    /// Metrics that nobody reads.
    #[must_use]
    pub fn unread() -> Self {
        Self(Arc::new(Metrics {
            passes: Family::default(),
            steps: Family::default(),
            calls: Family::new_with_constructor(call_buckets),
            errors: Family::default(),
            writes: Family::default(),
            queued: Family::default(),
            running: Gauge::default(),
            watches: Family::default(),
            events_dropped: Counter::default(),
            leader: Gauge::default(),
            lease_failures: Counter::default(),
        }))
    }

    /// Metrics in `registry`, under the prefix `capi_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::unread();
        let all = registry.sub_registry_with_prefix("capi");
        let m = &this.0;
        all.register(
            "passes",
            "Passes of the engine by outcome",
            m.passes.clone(),
        );
        all.register("steps", "Steps applied by result", m.steps.clone());
        all.register(
            "call_seconds",
            "Duration of the calls of the provider's seam",
            m.calls.clone(),
        );
        all.register(
            "errors",
            "Errors of the provider by call and class",
            m.errors.clone(),
        );
        all.register("writes", "Writes to Kubernetes by result", m.writes.clone());
        all.register(
            "queued",
            "Objects that wait for a free slot",
            m.queued.clone(),
        );
        all.register("running", "Passes that run now", m.running.clone());
        all.register(
            "watch_failures",
            "Watches that broke with an error",
            m.watches.clone(),
        );
        all.register(
            "events_dropped",
            "Events that were not recorded because too many came at once",
            m.events_dropped.clone(),
        );
        all.register(
            "leader",
            "Whether this process leads by its lease",
            m.leader.clone(),
        );
        all.register(
            "lease_failures",
            "Tries to read or write the lease that failed",
            m.lease_failures.clone(),
        );
        this
    }

    pub(crate) fn pass(&self, kind: &'static str, outcome: &'static str) {
        self.0.passes.get_or_create(&OfPass { kind, outcome }).inc();
    }

    pub(crate) fn step(&self, kind: &'static str, step: &'static str, result: &'static str) {
        self.0
            .steps
            .get_or_create(&OfStep { kind, step, result })
            .inc();
    }

    pub(crate) fn call(&self, kind: &'static str, call: &'static str, took: Duration) {
        self.0
            .calls
            .get_or_create(&OfCall { kind, call })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn error(&self, kind: &'static str, call: &'static str, class: &'static str) {
        self.0
            .errors
            .get_or_create(&OfError { kind, call, class })
            .inc();
    }

    pub(crate) fn write(&self, kind: &'static str, write: &'static str, result: &'static str) {
        self.0
            .writes
            .get_or_create(&OfWrite {
                kind,
                write,
                result,
            })
            .inc();
    }

    pub(crate) fn queued(&self, kind: &'static str, count: usize) {
        self.0
            .queued
            .get_or_create(&OfKind { kind })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn running(&self, count: usize) {
        self.0.running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.0.watches.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn event_dropped(&self) {
        self.0.events_dropped.inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
    }

    pub(crate) fn lease_failed(&self) {
        self.0.lease_failures.inc();
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::unread()
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telemetry")
    }
}
