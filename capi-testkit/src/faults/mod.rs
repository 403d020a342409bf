//! Faults: what goes wrong between a controller and the ports it calls.
//!
//! A port (the Kubernetes client, the hypervisor's client, ...) passes each call through
//! [`Faults::around`]; [`Faults::kubernetes`] does so for the client of any API server. Without a plan the call passes and is recorded; with one it may be dropped on
//! either side of its effect, land late, be refused, be slow, or kill the process that made it.
//!
//! # Guarantees
//!
//! - Equal plan and equal order of calls give equal faults: nothing is read from the clock or from a
//!   global source of randomness.
//! - Mutating calls are numbered from 0 over the whole run, restarts included, so that a sweep can
//!   name each of them.
//! - A handle belongs to one life of the process ([`Faults::revive`] makes the next). A call through
//!   a handle of an earlier life never reaches its port and never returns: what a killed controller
//!   left running behind its back can do no more harm than a dead process.
//! - Only tokio's time is used, so everything works on a paused clock.

mod kubernetes;
mod weak;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Debug, Display, Formatter};
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::weak::{without_preconditions, without_refresh};

/// Calls kept in the trace. A whole life of a cluster in a sweep makes a few hundred; beyond this
/// the oldest go, and [`Faults::trace_dropped`] says how many.
const TRACE_CALLS_MAX: usize = 10_000;

/// One call of a port, as it is counted and shown in a trace. It holds no payload and so no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The port: `kubernetes`, `hypervisor`, ...
    pub port: &'static str,
    /// Who calls: the field manager or user agent.
    pub actor: String,
    /// What is done: `patch`, `POST clone`, ...
    pub verb: String,
    /// To what it is done: `proxmoxmachines/default/a`, `nodes/pve1/qemu/100`, ...
    pub target: String,
    /// Whether the call changes something when it succeeds.
    pub mutates: bool,
}

impl Call {
    /// A call that only looks.
    pub fn read(
        port: &'static str,
        actor: impl Into<String>,
        verb: impl Into<String>,
        target: impl Into<String>,
    ) -> Self {
        Self {
            port,
            actor: actor.into(),
            verb: verb.into(),
            target: target.into(),
            mutates: false,
        }
    }

    /// A call that changes something.
    pub fn mutation(
        port: &'static str,
        actor: impl Into<String>,
        verb: impl Into<String>,
        target: impl Into<String>,
    ) -> Self {
        Self {
            mutates: true,
            ..Self::read(port, actor, verb, target)
        }
    }
}

impl Display for Call {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} {} {} (by {})",
            self.port, self.verb, self.target, self.actor
        )
    }
}

/// What the caller sees of a fault. The port translates it into its own error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Injected {
    /// The connection broke; whether the call took effect is unknown to the caller.
    #[error("injected fault: the connection was lost before an answer came")]
    Lost,
    /// 409: somebody else was faster.
    #[error("injected fault: conflict (409)")]
    Conflict,
    /// 429: too many requests.
    #[error("injected fault: too many requests (429), retry after {retry_after:?}")]
    Throttled {
        /// What the answer's `Retry-After` says.
        retry_after: Duration,
    },
    /// A status of the 500s.
    #[error("injected fault: server error ({0})")]
    Failed(u16),
}

impl Injected {
    /// The HTTP status that says this; `None` if there is no answer at all.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Lost => None,
            Self::Conflict => Some(409),
            Self::Throttled { .. } => Some(429),
            Self::Failed(status) => Some(*status),
        }
    }
}

/// On which side of a call's effect the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The call never reaches the port.
    Before,
    /// The call takes effect, its answer is lost.
    After,
    /// The caller is told nothing, and the call takes effect this much later: a request that lay in
    /// a queue while its sender died or gave up.
    Late(Duration),
}

/// What becomes of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It passes.
    Pass,
    /// It passes after a while.
    Delay(Duration),
    /// The caller gets this instead of the port's answer.
    Answer(Injected, Side),
    /// The process dies with the call.
    Kill(Side),
}

/// How often each fault strikes, in calls out of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Connection lost, call not made.
    pub lost_before: u16,
    /// Call made, connection lost.
    pub lost_after: u16,
    /// Connection lost, mutation made up to [`Rates::delay_max`] later.
    pub lost_late: u16,
    /// 409, for mutations only.
    pub conflict: u16,
    /// 429.
    pub throttled: u16,
    /// 500 or 503, half of them after a mutation took effect.
    pub failed: u16,
    /// Slow answers, up to [`Rates::delay_max`].
    pub delayed: u16,
    /// Death of the process, on either side. Needs a runner that listens to [`Faults::killed`].
    pub killed: u16,
    /// Break of a watch, per event.
    pub watch_broken: u16,
    /// The longest delay.
    pub delay_max: Duration,
}

impl Default for Rates {
    /// One call in ten goes wrong; no process dies.
    fn default() -> Self {
        Self {
            lost_before: 20,
            lost_after: 20,
            lost_late: 5,
            conflict: 10,
            throttled: 10,
            failed: 15,
            delayed: 20,
            killed: 0,
            watch_broken: 20,
            delay_max: Duration::from_secs(2),
        }
    }
}

/// One recorded call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// Time since the first handle was made.
    pub at: Duration,
    /// Which life of the process made the call, from 0.
    pub life: u64,
    /// The call's number among the mutating ones, if it is one.
    pub number: Option<usize>,
    /// The call.
    pub call: Call,
    /// What became of it.
    pub fate: Fate,
}

impl Display for Traced {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:>9.3}s", self.at.as_secs_f64())?;
        match self.number {
            Some(number) => write!(out, " #{number:<3}")?,
            None => write!(out, "     ")?,
        }
        write!(out, " life {} {}", self.life, self.call)?;
        match &self.fate {
            Fate::Pass => Ok(()),
            fate => write!(out, " -> {fate:?}"),
        }
    }
}

/// The faults of one run, shared by all ports of one process.
///
/// Clones share plan, numbering and trace.
#[derive(Debug, Clone)]
pub struct Faults {
    shared: Arc<Shared>,
    life: u64,
}

#[derive(Debug)]
struct Shared {
    planned: BTreeMap<usize, Fate>,
    chaos: Option<(u64, Rates)>,
    started: Instant,
    state: Mutex<State>,
    /// The newest life that was killed, plus one; 0 while none was.
    killed: watch::Sender<u64>,
    /// How many events a watch has to be behind.
    lag: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    life: u64,
    calls: u64,
    calls_max: Option<u64>,
    interrupts: BTreeMap<usize, Vec<BoxFuture<'static, ()>>>,
    mutations: usize,
    trace: VecDeque<Traced>,
    trace_dropped: u64,
    counts: BTreeMap<(&'static str, String), u64>,
}

impl Debug for State {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("State")
            .field("life", &self.life)
            .field("calls", &self.calls)
            .field("mutations", &self.mutations)
            .finish_non_exhaustive()
    }
}

impl Faults {
    /// Everything passes and is recorded.
    pub fn none() -> Self {
        Self::planned([])
    }

    /// The process dies at the mutating call with this number.
    pub fn cut(number: usize, side: Side) -> Self {
        Self::planned([(number, Fate::Kill(side))])
    }

    /// Mutating calls with these numbers meet these fates.
    pub fn planned(fates: impl IntoIterator<Item = (usize, Fate)>) -> Self {
        Self::build(fates.into_iter().collect(), None)
    }

    /// Any call may meet any fault, as drawn from the seed.
    pub fn chaos(seed: u64, rates: Rates) -> Self {
        Self::build(BTreeMap::new(), Some((seed, rates)))
    }

    fn build(planned: BTreeMap<usize, Fate>, chaos: Option<(u64, Rates)>) -> Self {
        Self {
            shared: Arc::new(Shared {
                planned,
                chaos,
                started: Instant::now(),
                state: Mutex::default(),
                killed: watch::Sender::new(0),
                lag: watch::Sender::new(0),
            }),
            life: 0,
        }
    }

    /// Makes a call of a port, or does not.
    ///
    /// The future is owned, since a call may land after its caller is gone.
    ///
    /// # Errors
    ///
    /// The fault that the caller is to see. If the process is killed by the call, or was killed
    /// before, this never returns; the runner drops the future of the controller.
    pub async fn around<T, F>(&self, call: Call, future: F) -> Result<T, Injected>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let Some((fate, interrupts)) = self.meet(call) else {
            return pending().await;
        };
        for interrupt in interrupts {
            interrupt.await;
        }
        match fate {
            Fate::Pass => Ok(future.await),
            Fate::Delay(time) => {
                tokio::time::sleep(time).await;
                self.alive_or_never().await;
                Ok(future.await)
            }
            Fate::Answer(injected, side) => {
                strike(side, future).await;
                Err(injected)
            }
            Fate::Kill(side) => {
                strike(side, future).await;
                self.kill();
                pending().await
            }
        }
    }

    /// Passes the events of a watch, which may break and, while [`Faults::lag`] says so, be late.
    ///
    /// The stream ends after the first error.
    pub fn watch<T, S>(
        &self,
        call: Call,
        events: S,
    ) -> impl Stream<Item = Result<T, Injected>> + use<T, S>
    where
        S: Stream<Item = T> + Send + 'static,
        T: Send + 'static,
    {
        let faults = self.clone();
        let lag = faults.shared.lag.subscribe();
        let watching = Watching {
            faults,
            call,
            lag,
            events: Box::pin(events),
            held: VecDeque::new(),
            ended: false,
        };
        stream::unfold(watching, |mut watching| async move {
            let item = watching.next().await?;
            Some((item, watching))
        })
    }

    /// Sets how many events each watch has to be behind the truth; 0 releases what is held back.
    pub fn set_lag(&self, events: usize) {
        self.shared.lag.send_replace(events);
    }

    /// How many events each watch is behind.
    pub fn lag(&self) -> usize {
        *self.shared.lag.borrow()
    }

    /// Does something else first when the mutating call with this number is about to be made: the
    /// world changes between the caller's last look and its act.
    pub fn interrupt(&self, number: usize, act: impl Future<Output = ()> + Send + 'static) {
        self.shared
            .state
            .lock()
            .interrupts
            .entry(number)
            .or_default()
            .push(Box::pin(act));
    }

    /// Lets no more than this many calls return, reads included: a caller that spins without ever
    /// waiting would keep a paused clock from moving on. See [`Faults::is_exhausted`].
    pub fn limit_calls(&self, calls_max: u64) {
        self.shared.state.lock().calls_max = Some(calls_max);
    }

    /// Whether the limit of [`Faults::limit_calls`] was reached.
    pub fn is_exhausted(&self) -> bool {
        let state = self.shared.state.lock();
        state.calls_max.is_some_and(|max| state.calls >= max)
    }

    /// Kills the current life: none of its calls gets through from now on.
    pub fn kill(&self) {
        let life = self.life;
        self.shared
            .killed
            .send_modify(|killed| *killed = (*killed).max(life + 1));
    }

    /// Waits until the life of this handle is killed.
    pub async fn killed(&self) {
        let mut killed = self.shared.killed.subscribe();
        let life = self.life;
        if killed.wait_for(|killed| *killed > life).await.is_err() {
            // The sender lives in `self`, so the channel cannot close while this runs.
            pending::<()>().await;
        }
    }

    /// Starts the next life of the process and hands out its handle. Handles of earlier lives are
    /// dead from now on.
    pub fn revive(&self) -> Self {
        let mut state = self.shared.state.lock();
        state.life += 1;
        let life = state.life;
        self.shared
            .killed
            .send_modify(|killed| *killed = (*killed).max(life));
        Self {
            shared: Arc::clone(&self.shared),
            life,
        }
    }

    /// Mutating calls so far.
    pub fn mutations(&self) -> usize {
        self.shared.state.lock().mutations
    }

    /// How often each verb of each port was called.
    pub fn counts(&self) -> BTreeMap<(&'static str, String), u64> {
        self.shared.state.lock().counts.clone()
    }

    /// The calls so far, oldest first.
    pub fn trace(&self) -> Vec<Traced> {
        self.shared.state.lock().trace.iter().cloned().collect()
    }

    /// How many old calls are no longer in the trace.
    pub fn trace_dropped(&self) -> u64 {
        self.shared.state.lock().trace_dropped
    }

    fn is_dead(&self) -> bool {
        *self.shared.killed.borrow() > self.life
    }

    async fn alive_or_never(&self) {
        if self.is_dead() {
            pending::<()>().await;
        }
    }

    /// Records the call and draws its fate; `None` for a call that never returns.
    fn meet(&self, call: Call) -> Option<(Fate, Vec<BoxFuture<'static, ()>>)> {
        if self.is_dead() || self.is_exhausted() {
            return None;
        }
        let mut state = self.shared.state.lock();
        let serial = state.calls;
        state.calls += 1;
        let number = call.mutates.then_some(state.mutations);
        if call.mutates {
            state.mutations += 1;
        }
        let fate = number
            .and_then(|number| self.shared.planned.get(&number).cloned())
            .or_else(|| {
                let (seed, rates) = self.shared.chaos.as_ref()?;
                Some(draw(rates, *seed, serial, call.mutates))
            })
            .unwrap_or(Fate::Pass);
        *state
            .counts
            .entry((call.port, call.verb.clone()))
            .or_default() += 1;
        if state.trace.len() == TRACE_CALLS_MAX {
            state.trace.pop_front();
            state.trace_dropped += 1;
        }
        state.trace.push_back(Traced {
            at: self.shared.started.elapsed(),
            life: self.life,
            number,
            call,
            fate: fate.clone(),
        });
        let interrupts = number.and_then(|number| state.interrupts.remove(&number));
        Some((fate, interrupts.unwrap_or_default()))
    }

    /// Whether a watch breaks after this event.
    fn breaks_watch(&self) -> bool {
        let Some((seed, rates)) = self.shared.chaos.as_ref() else {
            return false;
        };
        let serial = {
            let mut state = self.shared.state.lock();
            state.calls += 1;
            state.calls
        };
        random(*seed, serial) % 1000 < u64::from(rates.watch_broken)
    }
}

async fn strike<T, F>(side: Side, future: F)
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    match side {
        Side::Before => {}
        Side::After => {
            future.await;
        }
        Side::Late(time) => {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                future.await;
            });
        }
    }
}

struct Watching<T, S> {
    faults: Faults,
    call: Call,
    lag: watch::Receiver<usize>,
    events: std::pin::Pin<Box<S>>,
    held: VecDeque<T>,
    ended: bool,
}

impl<T, S: Stream<Item = T>> Watching<T, S> {
    async fn next(&mut self) -> Option<Result<T, Injected>> {
        loop {
            self.faults.alive_or_never().await;
            let lag = *self.lag.borrow_and_update();
            if self.held.len() > lag {
                return self.release();
            }
            if self.ended {
                // What is held back is lost with the connection, as it would be in a real one.
                return None;
            }
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => self.held.push_back(event),
                    None => self.ended = true,
                },
                _ = self.lag.changed() => {}
            }
        }
    }

    fn release(&mut self) -> Option<Result<T, Injected>> {
        if self.faults.breaks_watch() {
            self.held.clear();
            self.ended = true;
            tracing::debug!(call = %self.call, "watch broken by a fault");
            return Some(Err(Injected::Lost));
        }
        self.held.pop_front().map(Ok)
    }
}

/// Draws the fate of one call; the same for equal arguments.
fn draw(rates: &Rates, seed: u64, serial: u64, mutates: bool) -> Fate {
    let drawn = random(seed, serial);
    let detail = random(seed ^ 0x5DEE_CE66, serial);
    let span = u64::try_from(rates.delay_max.as_millis()).unwrap_or(u64::MAX);
    let time = Duration::from_millis(detail % span.max(1));
    let coin = detail & (1 << 40) != 0;
    // What a read cannot suffer is left out of its table, so the rates of the rest hold for it too.
    let table = [
        (
            rates.lost_before,
            Some(Fate::Answer(Injected::Lost, Side::Before)),
        ),
        (
            rates.lost_after,
            Some(Fate::Answer(Injected::Lost, Side::After)),
        ),
        (
            rates.lost_late,
            mutates.then_some(Fate::Answer(Injected::Lost, Side::Late(time))),
        ),
        (
            rates.conflict,
            mutates.then_some(Fate::Answer(Injected::Conflict, Side::Before)),
        ),
        (
            rates.throttled,
            Some(Fate::Answer(
                Injected::Throttled {
                    retry_after: Duration::from_secs(1),
                },
                Side::Before,
            )),
        ),
        (
            rates.failed,
            Some(Fate::Answer(
                Injected::Failed(if detail & 1 == 0 { 500 } else { 503 }),
                if coin { Side::After } else { Side::Before },
            )),
        ),
        (rates.delayed, Some(Fate::Delay(time))),
        (
            rates.killed,
            Some(Fate::Kill(if coin { Side::After } else { Side::Before })),
        ),
    ];
    let mut left = drawn % 1000;
    for (rate, fate) in table {
        let rate = u64::from(rate);
        if left < rate {
            return fate.unwrap_or(Fate::Pass);
        }
        left -= rate;
    }
    Fate::Pass
}

/// SplitMix64 over seed and serial number: a stream of draws without state to share.
pub(crate) fn random(seed: u64, serial: u64) -> u64 {
    let mut mixed = seed
        .wrapping_mul(0x2545_F491_4F6C_DD1D)
        .wrapping_add(serial.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;

    fn write(target: &str) -> Call {
        Call::mutation("kubernetes", "test", "patch", target)
    }

    /// A port with one counter as its world.
    async fn bump(faults: &Faults, world: &Arc<AtomicUsize>) -> Result<usize, Injected> {
        let world = Arc::clone(world);
        faults
            .around(write("a"), async move {
                world.fetch_add(1, Ordering::SeqCst) + 1
            })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_before_leaves_the_world_alone_and_never_returns() {
        let world = Arc::new(AtomicUsize::new(0));
        let faults = Faults::cut(1, Side::Before);
        assert_eq!(bump(&faults, &world).await, Ok(1));
        assert_eq!(bump(&faults, &world).now_or_never(), None);
        faults.killed().await;
        assert_eq!(world.load(Ordering::SeqCst), 1);
        // The dead make no further call; the next life does.
        assert_eq!(bump(&faults, &world).now_or_never(), None);
        let next = faults.revive();
        assert_eq!(bump(&next, &world).await, Ok(2));
        assert_eq!(bump(&faults, &world).now_or_never(), None);
        assert_eq!(next.mutations(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_after_commits_and_a_late_one_commits_later() {
        let world = Arc::new(AtomicUsize::new(0));
        let faults = Faults::cut(0, Side::After);
        assert_eq!(bump(&faults, &world).now_or_never(), None);
        assert_eq!(world.load(Ordering::SeqCst), 1);

        let late = Faults::cut(0, Side::Late(Duration::from_secs(3)));
        assert_eq!(bump(&late, &world).now_or_never(), None);
        assert_eq!(world.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(world.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupt_comes_between_the_decision_and_the_call() {
        let world = Arc::new(AtomicUsize::new(0));
        let faults = Faults::none();
        let theirs = Arc::clone(&world);
        faults.interrupt(1, async move {
            theirs.fetch_add(10, Ordering::SeqCst);
        });
        assert_eq!(bump(&faults, &world).await, Ok(1));
        assert_eq!(bump(&faults, &world).await, Ok(12));
        assert_eq!(bump(&faults, &world).await, Ok(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_spins_is_stopped() {
        let world = Arc::new(AtomicUsize::new(0));
        let faults = Faults::none();
        faults.limit_calls(2);
        assert_eq!(bump(&faults, &world).await, Ok(1));
        assert!(!faults.is_exhausted());
        assert_eq!(bump(&faults, &world).await, Ok(2));
        assert_eq!(bump(&faults, &world).now_or_never(), None);
        assert!(faults.is_exhausted());
    }

    #[tokio::test(start_paused = true)]
    async fn s_17_equal_seeds_give_equal_fates_and_every_fault_is_drawn() {
        let rates = Rates {
            killed: 10,
            ..Rates::default()
        };
        let fates = |seed| -> Vec<Fate> {
            (0..4000)
                .map(|serial| draw(&rates, seed, serial, true))
                .collect()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        let drawn = fates(7);
        let count = |wanted: fn(&Fate) -> bool| drawn.iter().filter(|fate| wanted(fate)).count();
        // 1.1 % of 4000 are expected to be killed and lost late each; a third of it is far off chance.
        assert!(count(|fate| matches!(fate, Fate::Kill(_))) > 13);
        assert!(count(|fate| matches!(fate, Fate::Answer(Injected::Lost, Side::Late(_)))) > 6);
        assert!(count(|fate| matches!(fate, Fate::Answer(Injected::Conflict, _))) > 13);
        assert!(count(|fate| matches!(fate, Fate::Pass)) > 3000);
        assert!(
            (0..4000).all(|serial| !matches!(
                draw(&rates, 7, serial, false),
                Fate::Answer(Injected::Conflict, _)
            )),
            "a read has no conflict"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lagging_watch_holds_events_back_until_released() {
        let faults = Faults::none();
        faults.set_lag(2);
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let events = stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let call = Call::read("kubernetes", "test", "watch", "things");
        let mut watched = Box::pin(faults.watch(call, events));
        for event in 1..=3 {
            sender.send(event).expect("the watch holds the receiver");
        }
        assert_eq!(watched.next().await, Some(Ok(1)));
        assert_eq!(watched.next().now_or_never(), None);
        faults.set_lag(0);
        assert_eq!(watched.next().await, Some(Ok(2)));
        assert_eq!(watched.next().await, Some(Ok(3)));
        drop(sender);
        assert_eq!(watched.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_watch_says_so_and_ends() {
        let rates = Rates {
            watch_broken: 1000,
            ..Rates::default()
        };
        let faults = Faults::chaos(1, rates);
        let call = Call::read("kubernetes", "test", "watch", "things");
        let mut watched = Box::pin(faults.watch(call, stream::iter([1, 2])));
        assert_eq!(watched.next().await, Some(Err(Injected::Lost)));
        assert_eq!(watched.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_trace_names_number_life_and_fate() {
        let world = Arc::new(AtomicUsize::new(0));
        let faults = Faults::planned([(0, Fate::Answer(Injected::Conflict, Side::Before))]);
        assert_eq!(bump(&faults, &world).await, Err(Injected::Conflict));
        let read = Call::read("hypervisor", "test", "GET", "nodes");
        assert_eq!(faults.around(read, async { 5 }).await, Ok(5));
        let shown: Vec<String> = faults.trace().iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "    0.000s #0   life 0 kubernetes patch a (by test) -> Answer(Conflict, Before)",
                "    0.000s      life 0 hypervisor GET nodes (by test)",
            ]
        );
        assert_eq!(faults.counts()[&("hypervisor", "GET".to_owned())], 1);
    }
}
