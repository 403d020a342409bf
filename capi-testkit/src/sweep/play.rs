//! One run.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::faults::{Faults, Traced};
use crate::sweep::{Goal, Held, Interference, Scenario, Timing, World};

/// Calls of one run, reads included. A life of a Proxmox cluster takes some hundred, with restarts
/// and fifteen virtual minutes of rechecks some thousand.
const CALLS_MAX: u64 = 100_000;

/// How one run ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// What was wrong; `None` if all was well.
    pub failure: Option<String>,
    /// Mutating calls until all was built.
    pub mutations_built: usize,
    /// Mutating calls.
    pub mutations: usize,
    /// Crashes of the controller.
    pub crashes: u64,
    /// Whether the world can hold a view.
    pub can_hold: bool,
    /// Real time.
    pub took: Duration,
    /// All calls.
    pub trace: Vec<Traced>,
}

/// Plays one scenario in a runtime of its own.
pub(super) fn play<F, M, W>(make: &F, scenario: &Scenario, timing: &Timing) -> Outcome
where
    F: Fn() -> M,
    M: Future<Output = W>,
    W: World,
{
    let started = std::time::Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing of the system");
    let mut outcome = runtime.block_on(async {
        let run = Run::new(make().await, scenario, timing);
        run.play().await
    });
    drop(runtime);
    outcome.took = started.elapsed();
    outcome
}

struct Run<'a, W> {
    world: Arc<W>,
    scenario: &'a Scenario,
    timing: &'a Timing,
    faults: Faults,
    crashes: Arc<AtomicU64>,
    /// Set by what the scenario does at a call, when that call came.
    deleted: Arc<AtomicBool>,
    removed: Arc<AtomicBool>,
    /// The first panic of a controller, or failure of the script.
    broken: Arc<Mutex<Option<String>>>,
}

impl<'a, W: World> Run<'a, W> {
    fn new(world: W, scenario: &'a Scenario, timing: &'a Timing) -> Self {
        let faults = Faults::planned(scenario.fates.iter().cloned());
        faults.limit_calls(CALLS_MAX);
        let run = Self {
            world: Arc::new(world),
            scenario,
            timing,
            faults,
            crashes: Arc::default(),
            deleted: Arc::default(),
            removed: Arc::default(),
            broken: Arc::default(),
        };
        run.plan_interrupts();
        run
    }

    fn plan_interrupts(&self) {
        if let Some(number) = self.scenario.stale_from {
            let (world, time) = (Arc::clone(&self.world), self.timing.stale_for);
            self.faults.interrupt(number, async move {
                let held: Arc<Mutex<Option<Held>>> = Arc::new(Mutex::new(world.hold()));
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    held.lock().take();
                });
            });
        }
        if let Some(number) = self.scenario.delete_at {
            let (world, deleted) = (Arc::clone(&self.world), Arc::clone(&self.deleted));
            let broken = Arc::clone(&self.broken);
            self.faults.interrupt(number, async move {
                deleted.store(true, Ordering::SeqCst);
                if let Err(error) = world.delete().await {
                    broken.lock().get_or_insert(error);
                }
            });
        }
        if let Some((Some(number), what)) = self.scenario.interference {
            let (world, removed) = (Arc::clone(&self.world), Arc::clone(&self.removed));
            self.faults.interrupt(number, async move {
                let done = world.interfere(what).await;
                removed.store(done && what == Interference::Removal, Ordering::SeqCst);
            });
        }
    }

    async fn play(self) -> Outcome {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.world.surroundings());
        tasks.spawn(supervise(
            Arc::clone(&self.world),
            self.faults.clone(),
            self.timing.restart_after,
            Arc::clone(&self.crashes),
            Arc::clone(&self.broken),
        ));
        let mut mutations_built = 0;
        let mut failure = tokio::select! {
            biased;
            ended = tasks.join_next() => Some(match ended {
                Some(Err(error)) => format!("the world ended: {error}"),
                _ => "the world ended".to_owned(),
            }),
            lived = self.live(&mut mutations_built) => lived.err(),
        };
        let violations = self.world.violations();
        if !violations.is_empty() {
            let all = violations.join("; ");
            failure = Some(match failure {
                Some(failure) => format!("{all}; {failure}"),
                None => all,
            });
        }
        Outcome {
            mutations_built,
            mutations: self.faults.mutations(),
            crashes: self.crashes.load(Ordering::SeqCst),
            can_hold: self.world.hold().is_some(),
            took: Duration::ZERO,
            trace: if failure.is_some() {
                self.faults.trace()
            } else {
                Vec::new()
            },
            failure,
        }
    }

    /// The script: create, wait, delete, wait.
    async fn live(&self, mutations_built: &mut usize) -> Result<(), String> {
        self.world.create().await?;
        self.reach_built().await?;
        *mutations_built = self.faults.mutations();
        if let Some((None, what)) = self.scenario.interference {
            let done = self.world.interfere(what).await;
            if done && what == Interference::Removal {
                self.removed.store(true, Ordering::SeqCst);
                self.reach(|_| vec![Goal::Lost]).await?;
                tokio::time::sleep(self.timing.lasts_for).await;
                let made = self.world.things();
                if made.len() >= self.world.things_wanted() {
                    return Err(format!("was lost and made again: {}", made.join(", ")));
                }
            }
        }
        self.last_built().await?;
        self.world.delete().await?;
        self.reach(|_| vec![Goal::Gone]).await?;
        // What lands late shows up only now.
        tokio::time::sleep(self.timing.lasts_for).await;
        self.alive()?;
        let left = self.world.things();
        if !left.is_empty() {
            return Err(format!("leaked after all was gone: {}", left.join(", ")));
        }
        match self.world.missing(Goal::Gone).await {
            Some(missing) => Err(format!("came back after it was gone: {missing}")),
            None => Ok(()),
        }
    }

    /// Waits until it is built, or deleted or lost where the scenario had that in mind.
    async fn reach_built(&self) -> Result<(), String> {
        self.reach(|run| {
            let mut goals = vec![Goal::Built];
            if run.deleted.load(Ordering::SeqCst) {
                goals.push(Goal::Gone);
            }
            if run.removed.load(Ordering::SeqCst) {
                goals.push(Goal::Lost);
            }
            goals
        })
        .await
    }

    /// What was built stays, alone; what was removed is not made twice.
    async fn last_built(&self) -> Result<(), String> {
        tokio::time::sleep(self.timing.lasts_for).await;
        // What came late may be removed again within the time that a goal may take.
        let until = Instant::now() + self.timing.goal_within;
        loop {
            self.alive()?;
            let Some(wrong) = self.not_lasting().await else {
                return Ok(());
            };
            if Instant::now() >= until {
                return Err(wrong);
            }
            tokio::time::sleep(self.timing.asked_every).await;
        }
    }

    async fn not_lasting(&self) -> Option<String> {
        if self.deleted.load(Ordering::SeqCst) {
            return None;
        }
        let removed = self.removed.load(Ordering::SeqCst);
        let (things, wanted) = (self.world.things(), self.world.things_wanted());
        if things.len() > wanted || (things.len() < wanted && !removed) {
            let all = things.join(", ");
            return Some(format!(
                "{} things where {wanted} are wanted: {all}",
                things.len()
            ));
        }
        let missing = self.world.missing(Goal::Built).await?;
        if removed && self.world.missing(Goal::Lost).await.is_none() {
            return None;
        }
        Some(format!("was built and did not stay so: {missing}"))
    }

    async fn reach(&self, goals: impl Fn(&Self) -> Vec<Goal>) -> Result<(), String> {
        let until = Instant::now() + self.timing.goal_within;
        loop {
            self.alive()?;
            let goals = goals(self);
            let mut open = Vec::new();
            for goal in goals {
                match self.world.missing(goal).await {
                    Some(missing) => open.push(format!("{goal:?} not reached: {missing}")),
                    None => return Ok(()),
                }
            }
            if Instant::now() >= until {
                let minutes = self.timing.goal_within.as_secs() / 60;
                return Err(format!("{} (after {minutes} min)", open.join("; ")));
            }
            tokio::time::sleep(self.timing.asked_every).await;
        }
    }

    fn alive(&self) -> Result<(), String> {
        if let Some(broken) = &*self.broken.lock() {
            return Err(broken.clone());
        }
        if self.faults.is_exhausted() {
            return Err(format!("the controller spins: {CALLS_MAX} calls"));
        }
        Ok(())
    }
}

/// Runs the controller, kills it when the faults say so, and starts it again.
async fn supervise<W: World>(
    world: Arc<W>,
    faults: Faults,
    restart_after: Duration,
    crashes: Arc<AtomicU64>,
    broken: Arc<Mutex<Option<String>>>,
) {
    let mut life = faults.clone();
    loop {
        let mut controller = JoinSet::new();
        controller.spawn(world.start(life.clone()));
        tokio::select! {
            biased;
            () = life.killed() => { crashes.fetch_add(1, Ordering::SeqCst); }
            ended = controller.join_next() => {
                if let Some(Err(error)) = ended {
                    broken
                        .lock()
                        .get_or_insert_with(|| format!("the controller panicked: {error}"));
                }
            }
        }
        controller.shutdown().await;
        tokio::time::sleep(restart_after).await;
        life = faults.revive();
    }
}
