//! The work queue of an actor: one run per object at a time, the earliest wish wins, failures back
//! off. Pure: the caller says what time it is.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// First delay after a failure, doubled with each further one; controller-runtime's value.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// Longest delay after failures. Controller-runtime goes to 1000 s, which no test would wait for.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How many resting objects are remembered before those that may run again are forgotten; only
/// aggregates and failing objects rest.
const RESTS_MAX: usize = 1024;

/// How long changes cannot wake an object that keeps failing; a fault's cure is seen this late.
const FAILED_REST_MAX: Duration = Duration::from_secs(1);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to do until something changes, or this much later.
    Settled(Option<Duration>),
    /// It failed; try again after a backoff.
    Failed,
}

#[derive(Debug)]
pub(crate) struct Queue<K> {
    order: BTreeMap<(Instant, u64), K>,
    waiting: HashMap<K, (Instant, u64)>,
    /// Objects that a run is at work on, with the time of the wish that came meanwhile.
    running: HashMap<K, Option<Instant>>,
    failures: HashMap<K, u32>,
    /// When paced objects may run again.
    rests: HashMap<K, Instant>,
    serial: u64,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub(crate) fn new() -> Self {
        Self {
            order: BTreeMap::new(),
            waiting: HashMap::new(),
            running: HashMap::new(),
            failures: HashMap::new(),
            rests: HashMap::new(),
            serial: 0,
        }
    }

    /// Wishes for a run at `at`.
    pub(crate) fn add(&mut self, key: K, at: Instant) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = Some(again.map_or(at, |earlier| earlier.min(at)));
            return;
        }
        let at = self.rests.get(&key).map_or(at, |rest| at.max(*rest));
        if let Some(&slot) = self.waiting.get(&key) {
            if slot.0 <= at {
                return;
            }
            self.order.remove(&slot);
        }
        self.serial += 1;
        let slot = (at, self.serial);
        self.order.insert(slot, key.clone());
        self.waiting.insert(key, slot);
    }

    /// When the next run is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.order.keys().next().map(|slot| slot.0)
    }

    /// Takes the next object whose time has come.
    pub(crate) fn take(&mut self, now: Instant) -> Option<K> {
        let slot = *self.order.keys().next().filter(|slot| slot.0 <= now)?;
        let key = self.order.remove(&slot)?;
        self.waiting.remove(&key);
        self.running.insert(key.clone(), None);
        Some(key)
    }

    /// A run ended. `pace` is the least distance to the next one.
    pub(crate) fn done(&mut self, key: K, now: Instant, outcome: Outcome, pace: Duration) {
        let again = self.running.remove(&key).flatten();
        if self.rests.len() >= RESTS_MAX {
            self.rests.retain(|_, rest| *rest > now);
        }
        if !pace.is_zero() {
            self.rests.insert(key.clone(), now + pace);
        }
        match outcome {
            Outcome::Settled(after) => {
                self.failures.remove(&key);
                let timer = after.map(|after| now + after);
                if let Some(at) = [timer, again].into_iter().flatten().min() {
                    self.add(key, at);
                }
            }
            Outcome::Failed => {
                let count = self.failures.entry(key.clone()).or_insert(0);
                let delay = backoff(*count);
                *count = count.saturating_add(1);
                // What a failing run wrote and took back would wake it at once, for ever.
                let rest = now + delay.min(FAILED_REST_MAX).max(pace);
                self.rests.insert(key.clone(), rest);
                self.add(key, now + delay);
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.min(20)).unwrap_or(u32::MAX);
    BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wish_wins_and_equal_times_keep_their_order() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.add("b", now + SECOND);
        queue.add("a", now);
        queue.add("b", now);
        queue.add("b", now + 9 * SECOND);
        assert_eq!(queue.take(now), Some("a"));
        assert_eq!(queue.take(now), Some("b"));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_during_a_run_makes_one_more_run_not_a_second_at_once() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.add("a", now);
        assert_eq!(queue.take(now), Some("a"));
        queue.add("a", now);
        queue.add("a", now);
        assert_eq!(queue.take(now), None, "one run at a time");
        queue.done("a", now, Outcome::Settled(None), SECOND);
        assert_eq!(queue.take(now), None, "not before its pace");
        assert_eq!(queue.take(now + SECOND), Some("a"));
        queue.done("a", now, Outcome::Settled(None), SECOND);
        assert_eq!(queue.due(), None);
        queue.add("a", now + SECOND);
        assert_eq!(queue.due(), Some(now + SECOND), "it rests after each run");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_up_to_a_limit_and_success_forgets_them() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.add("a", now);
        let mut delays = Vec::new();
        for _ in 0..20 {
            let due = queue.due().expect("is queued");
            queue.take(due);
            queue.done("a", due, Outcome::Failed, Duration::ZERO);
            delays.push(queue.due().expect("is queued") - due);
        }
        assert_eq!(delays[0], BACKOFF_FIRST);
        assert_eq!(delays[3], BACKOFF_FIRST * 8);
        assert_eq!(delays[19], BACKOFF_MAX);
        let due = queue.due().expect("is queued");
        queue.take(due);
        queue.done("a", due, Outcome::Settled(Some(SECOND)), Duration::ZERO);
        assert_eq!(queue.due(), Some(due + SECOND));
    }
}
