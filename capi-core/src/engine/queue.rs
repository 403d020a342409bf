//! Which object is worked on next: one run per object, urgent work first, clusters in turn.
//!
//! # Guarantees
//!
//! A key is never handed out again before it is [finished](Queue::finished); a push in the meantime is
//! remembered. Within one urgency the groups (clusters) take turns, so that a cluster with a thousand
//! machines does not keep one with three waiting. Time is passed in, so the queue is pure.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// How urgent a run is; the lowest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// The object is being deleted.
    Deletion,
    /// A user changed it, or something that it waits for.
    Edit,
    /// It is time to look again.
    Resync,
}

const URGENCIES: usize = 3;

/// How many wakes from outside an object may get in a row: a machine's whole birth on a backend that
/// tells of every phase has about a dozen.
const WAKES_MAX: u32 = 20;
/// How soon another is earned. A backend that flaps costs a pass this often, not a core.
const WAKE_EARNED: Duration = Duration::from_millis(500);

impl Urgency {
    fn index(self) -> usize {
        match self {
            Urgency::Deletion => 0,
            Urgency::Edit => 1,
            Urgency::Resync => 2,
        }
    }
}

#[derive(Debug)]
struct Entry<G> {
    group: G,
    /// In which list of ready keys it is valid.
    ready: Option<Urgency>,
    running: bool,
    timer: Option<Duration>,
    /// When all wakes from outside will be earned again.
    woken_until: Duration,
}

/// Ready keys of one urgency: the groups in turn, the keys of a group in order.
#[derive(Debug)]
struct Ready<K, G> {
    turn: VecDeque<G>,
    keys: HashMap<G, VecDeque<K>>,
}

impl<K, G: Clone + Eq + Hash> Ready<K, G> {
    fn new() -> Self {
        Self {
            turn: VecDeque::new(),
            keys: HashMap::new(),
        }
    }

    fn push(&mut self, group: &G, key: K) {
        let keys = self.keys.entry(group.clone()).or_default();
        if keys.is_empty() {
            self.turn.push_back(group.clone());
        }
        keys.push_back(key);
    }

    fn pop(&mut self) -> Option<K> {
        let group = self.turn.pop_front()?;
        let keys = self.keys.get_mut(&group)?;
        let key = keys.pop_front();
        if keys.is_empty() {
            self.keys.remove(&group);
        } else {
            self.turn.push_back(group);
        }
        key
    }
}

/// The queue of one provider. `K` names an object, `G` its cluster.
#[derive(Debug)]
pub(crate) struct Queue<K, G> {
    entries: HashMap<K, Entry<G>>,
    ready: [Ready<K, G>; URGENCIES],
    timers: BTreeSet<(Duration, K)>,
    waiting: usize,
}

impl<K: Clone + Eq + Hash + Ord, G: Clone + Eq + Hash> Queue<K, G> {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            ready: std::array::from_fn(|_| Ready::new()),
            timers: BTreeSet::new(),
            waiting: 0,
        }
    }

    /// Asks for a run as soon as there is a slot.
    pub(crate) fn push(&mut self, key: K, group: G, urgency: Urgency) {
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            group: group.clone(),
            ready: None,
            running: false,
            timer: None,
            woken_until: Duration::ZERO,
        });
        entry.group = group;
        if let Some(at) = entry.timer.take() {
            self.timers.remove(&(at, key.clone()));
        }
        if entry.ready.is_some_and(|already| already <= urgency) {
            return;
        }
        if entry.ready.replace(urgency).is_none() {
            self.waiting += 1;
        }
        if !entry.running {
            let group = entry.group.clone();
            self.ready[urgency.index()].push(&group, key);
        }
    }

    /// Asks for a run of a key that is already known, at its usual group; unknown keys are ignored.
    pub(crate) fn wake(&mut self, key: &K, urgency: Urgency) {
        if let Some(entry) = self.entries.get(key) {
            let group = entry.group.clone();
            self.push(key.clone(), group, urgency);
        }
    }

    /// Asks for a run because something outside has changed. A key that is woken without end runs as
    /// often as it earns. Unknown keys are ignored; returns whether this one is known.
    pub(crate) fn nudge(&mut self, key: &K, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        if entry.ready.is_some() {
            return true;
        }
        let earned = entry.woken_until.saturating_sub(WAKE_EARNED * WAKES_MAX);
        if earned <= now {
            entry.woken_until = entry.woken_until.max(now) + WAKE_EARNED;
            self.wake(key, Urgency::Edit);
        } else if entry.timer.is_none_or(|at| at > earned) {
            entry.woken_until += WAKE_EARNED;
            if let Some(at) = entry.timer.replace(earned) {
                self.timers.remove(&(at, key.clone()));
            }
            self.timers.insert((earned, key.clone()));
        }
        true
    }

    /// The next key to run, and why. It must be [finished](Self::finished).
    pub(crate) fn next(&mut self, now: Duration) -> Option<(K, Urgency)> {
        self.expire(now);
        for index in 0..URGENCIES {
            while let Some(key) = self.ready[index].pop() {
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                // A key that became more urgent is still in the list of its old urgency.
                let Some(urgency) = entry.ready.filter(|u| u.index() == index) else {
                    continue;
                };
                if entry.running {
                    continue;
                }
                entry.ready = None;
                entry.running = true;
                self.waiting -= 1;
                return Some((key, urgency));
            }
        }
        None
    }

    /// Ends a run. With `again` the key runs again at that time at the latest.
    pub(crate) fn finished(&mut self, key: &K, again: Option<Duration>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.running = false;
        // A wake that was put off during the run.
        let earlier = entry.timer.take();
        if let Some(at) = earlier {
            self.timers.remove(&(at, key.clone()));
        }
        if let Some(urgency) = entry.ready {
            let group = entry.group.clone();
            self.ready[urgency.index()].push(&group, key.clone());
        } else if let Some(at) = earlier.into_iter().chain(again).min() {
            entry.timer = Some(at);
            self.timers.insert((at, key.clone()));
        }
    }

    /// Ends the last run of a key that does not exist any more. If it was pushed meanwhile, something
    /// of that name exists again, and it runs again.
    pub(crate) fn retire(&mut self, key: &K) {
        if self.entries.get(key).is_some_and(|e| e.ready.is_none()) {
            self.entries.remove(key);
        } else {
            self.finished(key, None);
        }
    }

    /// When the next timer is due.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many keys wait for a slot.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    fn expire(&mut self, now: Duration) {
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.timer = None;
            }
            self.wake(&key, Urgency::Resync);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn take(queue: &mut Queue<&'static str, char>, now: Duration) -> Option<&'static str> {
        queue.next(now).map(|(key, _)| key)
    }

    fn drain(queue: &mut Queue<&'static str, char>) -> Vec<&'static str> {
        std::iter::from_fn(|| take(queue, NOW)).collect()
    }

    #[test]
    fn deletions_come_before_edits_before_resyncs() {
        let mut queue = Queue::new();
        queue.push("resync", 'a', Urgency::Resync);
        queue.push("edit", 'a', Urgency::Edit);
        queue.push("delete", 'a', Urgency::Deletion);
        assert_eq!(queue.waiting(), 3);
        assert_eq!(drain(&mut queue), ["delete", "edit", "resync"]);
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn a_storm_of_wakes_costs_what_is_earned_and_loses_none() {
        let mut queue = Queue::new();
        assert!(!queue.nudge(&"x", NOW));
        queue.push("x", 'a', Urgency::Edit);
        assert_eq!(take(&mut queue, NOW), Some("x"));
        queue.finished(&"x", None);
        let (mut now, mut runs) = (NOW, 0);
        let end = NOW + Duration::from_secs(10);
        while now < end {
            queue.nudge(&"x", now);
            if take(&mut queue, now).is_some() {
                runs += 1;
                // Also those that come during the run.
                queue.nudge(&"x", now);
                queue.finished(&"x", Some(now + Duration::from_secs(60)));
            }
            now += Duration::from_millis(1);
        }
        let earned = WAKES_MAX + 20;
        assert!((earned - 2..=earned + 2).contains(&runs), "{runs}");
        // The last wake of the storm is answered.
        let due = queue.due().unwrap();
        assert!(due <= now + WAKE_EARNED, "{due:?}");
        assert_eq!(take(&mut queue, due), Some("x"));
        queue.finished(&"x", None);
        // A quiet minute later it may be woken as often as before.
        now += Duration::from_secs(60);
        queue.nudge(&"x", now);
        assert_eq!(take(&mut queue, now), Some("x"));
    }

    #[test]
    fn clusters_take_turns() {
        let mut queue = Queue::new();
        for key in ["a1", "a2", "a3"] {
            queue.push(key, 'a', Urgency::Resync);
        }
        queue.push("b1", 'b', Urgency::Resync);
        assert_eq!(drain(&mut queue), ["a1", "b1", "a2", "a3"]);
    }

    #[test]
    fn one_object_runs_once_at_a_time_and_again_if_pushed_meanwhile() {
        let mut queue = Queue::new();
        queue.push("x", 'a', Urgency::Edit);
        assert_eq!(take(&mut queue, NOW), Some("x"));
        queue.push("x", 'a', Urgency::Edit);
        queue.push("x", 'a', Urgency::Deletion);
        assert_eq!(take(&mut queue, NOW), None);
        queue.finished(&"x", Some(NOW + Duration::from_secs(60)));
        assert_eq!(take(&mut queue, NOW), Some("x"));
        queue.finished(&"x", None);
        assert_eq!(take(&mut queue, NOW), None);
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn a_more_urgent_push_overtakes_and_runs_once() {
        let mut queue = Queue::new();
        queue.push("x", 'a', Urgency::Resync);
        queue.push("y", 'a', Urgency::Edit);
        queue.push("x", 'a', Urgency::Deletion);
        assert_eq!(drain(&mut queue), ["x", "y"]);
    }

    #[test]
    fn timers_come_due_and_events_come_earlier() {
        let mut queue = Queue::new();
        queue.push("x", 'a', Urgency::Edit);
        queue.next(NOW);
        queue.finished(&"x", Some(NOW + Duration::from_secs(5)));
        assert_eq!(queue.due(), Some(NOW + Duration::from_secs(5)));
        assert_eq!(take(&mut queue, NOW + Duration::from_secs(4)), None);
        assert_eq!(take(&mut queue, NOW + Duration::from_secs(5)), Some("x"));
        queue.finished(&"x", Some(NOW + Duration::from_secs(50)));
        queue.wake(&"x", Urgency::Edit);
        assert_eq!(take(&mut queue, NOW), Some("x"));
        assert_eq!(queue.due(), None, "the run sets its own timer");
    }

    #[test]
    fn retired_keys_come_back_only_if_they_were_pushed_meanwhile() {
        let mut queue = Queue::new();
        queue.push("x", 'a', Urgency::Edit);
        queue.next(NOW);
        queue.push("x", 'a', Urgency::Edit);
        queue.retire(&"x");
        assert_eq!(take(&mut queue, NOW), Some("x"));
        queue.retire(&"x");
        queue.wake(&"x", Urgency::Edit);
        assert_eq!(take(&mut queue, NOW), None);
        assert_eq!(queue.waiting(), 0);
    }
}
