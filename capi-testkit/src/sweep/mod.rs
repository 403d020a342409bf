//! The crash sweep: one life of one object, with every single thing that can go wrong.
//!
//! A [`World`] is everything that a controller works in, made fresh for each run. The sweep first
//! plays a life undisturbed (create, wait, delete, wait) and counts the mutating calls of all ports.
//! Then it plays it again for each of them and each way in which that call can go wrong, and after
//! each run checks that the wanted end was reached and no invariant was broken on the way.
//!
//! # Example
//!
//! ```no_run
//! # use capi_testkit::sweep::{Goal, Sweep, World};
//! # use capi_testkit::faults::Faults;
//! # use futures::future::BoxFuture;
//! # struct MyWorld;
//! # impl World for MyWorld {
//! #     fn start(&self, _: Faults) -> BoxFuture<'static, ()> { unimplemented!() }
//! #     fn create(&self) -> BoxFuture<'_, Result<(), String>> { unimplemented!() }
//! #     fn delete(&self) -> BoxFuture<'_, Result<(), String>> { unimplemented!() }
//! #     fn missing(&self, _: Goal) -> BoxFuture<'_, Option<String>> { unimplemented!() }
//! #     fn things(&self) -> Vec<String> { unimplemented!() }
//! # }
//! # async fn make() -> MyWorld { MyWorld }
//! let report = Sweep::new(make).pairs(500).run();
//! println!("{report}");
//! assert!(report.is_clean(), "{report}");
//! ```
//!
//! [`ProviderWorld`] is the world of an infrastructure provider on the in-process API server; only
//! the simulated platform has to be added.
//!
//! # Guarantees
//!
//! - Runs are as deterministic as the controller: one current-thread runtime each, a paused clock, and
//!   draws from the seed. A failure names its [`Scenario`], which [`Sweep::replay`] plays again. (What
//!   a controller draws itself, as `tokio::select!` without `biased` does, is its own.)
//! - A killed controller is gone: its future is dropped and calls of what it left behind never reach
//!   a port.
//! - No run takes for ever: virtual time and the number of calls are limited.

mod play;
mod provider;
mod report;
mod scenario;

use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::faults::Faults;

pub use self::play::Outcome;
pub use self::provider::{Backend, Manifest, PROVIDER, ProviderWorld};
pub use self::report::{Failure, Report};
pub use self::scenario::{Family, Interference, Scenario};

/// What a life has to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The thing is there and reported as such.
    Built,
    /// The thing was lost and that is reported; nothing was made in its place (R9).
    Lost,
    /// The Kubernetes object is gone, and so is all that was made for it.
    Gone,
}

/// Holds a view back while it lives, from [`World::hold`].
pub type Held = Box<dyn Send + Sync>;

/// Everything that a controller works in, made fresh for each run.
///
/// All methods but [`World::start`] belong to the test: they must not go through the faults.
pub trait World: Send + Sync + 'static {
    /// The controller, from its start; called again after each crash. Every port has to pass its
    /// calls through `faults`.
    ///
    /// The future may be dropped at any moment; if it ends, it is started again.
    fn start(&self, faults: Faults) -> BoxFuture<'static, ()>;

    /// Everything else that has to run: Cluster API core, address management, the backend's clock.
    fn surroundings(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    /// Creates the objects.
    ///
    /// # Errors
    ///
    /// What went wrong; the run fails with it, since a script has no faults.
    fn create(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Asks for their deletion; called at any moment, also twice.
    ///
    /// # Errors
    ///
    /// As for [`World::create`].
    fn delete(&self) -> BoxFuture<'_, Result<(), String>>;

    /// What is still missing to the goal; `None` when it is reached.
    fn missing(&self, goal: Goal) -> BoxFuture<'_, Option<String>>;

    /// What is there now, outside Kubernetes, that was made for the objects: side objects included,
    /// strangers' things not.
    fn things(&self) -> Vec<String>;

    /// How many things there are when all is built.
    fn things_wanted(&self) -> usize {
        1
    }

    /// Invariants that the backend saw broken: a stranger's thing changed or destroyed, a second
    /// start accepted, bootstrap data left behind.
    fn violations(&self) -> Vec<String> {
        Vec::new()
    }

    /// Does what nobody asked for. False if the world has no such thing now or at all.
    fn interfere(&self, interference: Interference) -> BoxFuture<'_, bool> {
        let _ = interference;
        Box::pin(async { false })
    }

    /// Holds the controller's view of Kubernetes as it is now, until dropped. `None` if the world
    /// cannot; then runs with stale views are left out.
    fn hold(&self) -> Option<Held> {
        None
    }
}

/// Limits and delays of each run, in virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// How long a goal may take. The default of 15 min covers the longest backoff several times.
    pub goal_within: Duration,
    /// How often it is asked whether the goal is reached. Default 500 ms.
    pub asked_every: Duration,
    /// How long a reached goal has to last. The default of 30 s covers late landings and several
    /// rechecks.
    pub lasts_for: Duration,
    /// From a crash to the next start. Default 1 s.
    pub restart_after: Duration,
    /// How late a late call lands. The default of 3 s is after the restart.
    pub late_by: Duration,
    /// How long a view stays stale. Default 20 s.
    pub stale_for: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            goal_within: Duration::from_secs(900),
            asked_every: Duration::from_millis(500),
            lasts_for: Duration::from_secs(30),
            restart_after: Duration::from_secs(1),
            late_by: Duration::from_secs(3),
            stale_for: Duration::from_secs(20),
        }
    }
}

/// A sweep that is being put together, then [run](Sweep::run).
pub struct Sweep<F> {
    make: F,
    timing: Timing,
    families: Vec<Family>,
    pairs: usize,
    stride: usize,
    from_call: usize,
    seed: u64,
    failures_max: usize,
    threads: usize,
}

impl<F> std::fmt::Debug for Sweep<F> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sweep")
            .field("timing", &self.timing)
            .field("families", &self.families)
            .field("pairs", &self.pairs)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl<F, M, W> Sweep<F>
where
    F: Fn() -> M + Sync,
    M: Future<Output = W>,
    W: World,
{
    /// A sweep over worlds that `make` makes, inside the runtime of each run. What does not change
    /// between runs, like parsed definitions, should be made once and shared: it is called for every
    /// run.
    pub fn new(make: F) -> Self {
        Self {
            make,
            timing: Timing::default(),
            families: Family::ALL.to_vec(),
            pairs: 200,
            stride: 1,
            from_call: 0,
            seed: 1,
            // One failure says enough; a few show a pattern.
            failures_max: 3,
            threads: 1,
        }
    }

    /// Which families of scenarios are played. Default: all.
    #[must_use]
    pub fn families(mut self, families: impl IntoIterator<Item = Family>) -> Self {
        self.families = families.into_iter().collect();
        self
    }

    /// How many pairs of faults are drawn from the seed. Default 200.
    #[must_use]
    pub fn pairs(mut self, pairs: usize) -> Self {
        self.pairs = pairs;
        self
    }

    /// Plays only every `stride`th scenario, for worlds whose runs are dear; where a full sweep is
    /// played elsewhere, a sample guards against what breaks often. Default 1: all of them.
    ///
    /// The ways in which one call can go wrong follow each other, 3 to 7 of them: a larger prime meets
    /// each of them in turn.
    #[must_use]
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = stride.max(1);
        self
    }

    /// Leaves out scenarios that begin before the mutating call of this number, for a test that is
    /// after one stretch of the life. Default 0: none.
    #[must_use]
    pub fn from_call(mut self, number: usize) -> Self {
        self.from_call = number;
        self
    }

    /// The seed of what is drawn. Default 1.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Limits and delays.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// After how many failures the sweep stops. Default 3.
    #[must_use]
    pub fn failures_max(mut self, failures_max: usize) -> Self {
        self.failures_max = failures_max.max(1);
        self
    }

    /// How many runs are played at once, each on a thread of its own. Default 1; the report does not
    /// depend on it.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Plays all scenarios. Must not be called inside a tokio runtime, since each run has its own.
    pub fn run(&self) -> Report {
        let mut report = Report::new(self.seed);
        let calm = self.replay(&Scenario::default());
        report.add(&Scenario::default(), &calm);
        report.calm_mutations = calm.mutations;
        report.calm_built = calm.mutations_built;
        if calm.failure.is_some() {
            // A life that fails undisturbed has no call numbers to go by.
            return report;
        }
        let scenarios = scenario::all(
            &self.families,
            scenario::Span {
                built: calm.mutations_built,
                all: calm.mutations,
                holds: calm.can_hold,
            },
            scenario::Drawn {
                seed: self.seed,
                pairs: self.pairs,
            },
            &self.timing,
        );
        let wanted = |scenario: &Scenario| scenario.begins_at() >= self.from_call;
        let scenarios = scenarios.into_iter().filter(wanted);
        let sample: Vec<Scenario> = scenarios.step_by(self.stride).collect();
        self.play_all(&sample, &mut report);
        report
    }

    /// Plays one scenario.
    pub fn replay(&self, scenario: &Scenario) -> Outcome {
        play::play(&self.make, scenario, &self.timing)
    }

    fn play_all(&self, scenarios: &[Scenario], report: &mut Report) {
        // Chunks keep the order, and with it the report, independent of the threads.
        for chunk in scenarios.chunks(self.threads) {
            let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
                let Some((first, others)) = chunk.split_first() else {
                    return Vec::new();
                };
                let others: Vec<_> = others
                    .iter()
                    .map(|scenario| scope.spawn(move || self.replay(scenario)))
                    .collect();
                let mut outcomes = vec![self.replay(first)];
                for other in others {
                    match other.join() {
                        Ok(outcome) => outcomes.push(outcome),
                        Err(panic) => std::panic::resume_unwind(panic),
                    }
                }
                outcomes
            });
            for (scenario, outcome) in chunk.iter().zip(&outcomes) {
                report.add(scenario, outcome);
            }
            if report.failures.len() >= self.failures_max {
                return;
            }
        }
    }
}
