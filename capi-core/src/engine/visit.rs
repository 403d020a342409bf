//! What a process remembers of an object between passes. All of it may be lost at any moment (R12).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use capi_contract::{Bootstrap, Claim, Intent, Ledger, ObjectName, Operation};

/// R2: how long after a write its mutation may still leave.
pub(crate) const LEAVES_WITHIN: Duration = Duration::from_secs(5);

/// How long a listing suffices. It shows that a thing is there and runs; what only the thing itself
/// shows, such as its addresses, is brought up to date this often. As long as core's own resync.
const LOOK_CLOSER_AFTER: Duration = Duration::from_secs(600);

/// An intent is written with whole seconds, rounded down.
const ROUNDING: Duration = Duration::from_secs(1);

/// An operation of the backend that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) step: String,
    pub(crate) operation: Operation,
    /// Whether its token belongs into the ledger: only those of creates and destroys do.
    pub(crate) tracked: bool,
    pub(crate) polls: u32,
}

/// A status that waits to be published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) fingerprint: u64,
    pub(crate) since: Duration,
    pub(crate) first: Duration,
}

/// Memory of one object.
#[derive(Debug)]
pub(crate) struct Visit<C> {
    /// The object's uid: a new object of the same name starts anew.
    uid: Option<String>,
    pub(crate) failures: u32,
    pub(crate) failing_since: Option<Duration>,
    /// Since when nobody has been able to look at the thing of an object that is being deleted.
    pub(crate) blind_since: Option<Duration>,
    pub(crate) conflicts: u32,
    /// A claim that was chosen and not written yet.
    pub(crate) chosen: Option<Ledger<C>>,
    /// Whether `chosen` is a claim that nobody can have acted on, and none that was recovered.
    pub(crate) is_new_claim: bool,
    /// `recover` affirmed that there is nothing.
    pub(crate) nothing_to_recover: bool,
    pub(crate) operation: Option<Open>,
    /// The intent that this memory is about.
    intent: Option<(String, i64)>,
    /// Until when, in seconds since 1970, an unanswered create may take effect.
    horizon: Option<i64>,
    /// What the horizon was before the step under way.
    horizon_before: Option<i64>,
    /// The step under way was answered; the next look at what is ours closes it.
    answered: bool,
    pub(crate) give_up: bool,
    /// The last look at the thing itself found nothing to do and nothing to wait for.
    pub(crate) settled: bool,
    /// The version of the object after such a look, and until when a listing suffices.
    calm: Option<(Option<String>, Duration)>,
    /// Whether this process has not looked at the object's ledger yet.
    pub(crate) is_first: bool,
    pub(crate) seen_ours: bool,
    pub(crate) teardown_begun: bool,
    pub(crate) looks: u32,
    pub(crate) pending: Option<Pending>,
    /// Fingerprint of the status that was written last.
    pub(crate) applied: Option<u64>,
    pub(crate) bootstrap: Option<Bootstrap>,
}

impl<C: Claim> Visit<C> {
    pub(crate) fn new(uid: Option<String>) -> Self {
        Self {
            uid,
            failures: 0,
            failing_since: None,
            blind_since: None,
            conflicts: 0,
            chosen: None,
            is_new_claim: false,
            nothing_to_recover: false,
            operation: None,
            intent: None,
            horizon: None,
            horizon_before: None,
            answered: false,
            give_up: false,
            settled: false,
            calm: None,
            is_first: true,
            seen_ours: false,
            teardown_begun: false,
            looks: 0,
            pending: None,
            applied: None,
            bootstrap: None,
        }
    }

    pub(crate) fn is_of(&self, uid: Option<&str>) -> bool {
        self.uid.as_deref() == uid
    }

    /// Compares memory with the ledger on the object. An intent that this memory does not know was
    /// written by another process or an earlier life: nothing is known of its answer.
    pub(crate) fn sync(&mut self, ledger: Option<&Ledger<C>>) {
        let Some(ledger) = ledger else {
            return;
        };
        self.chosen = None;
        self.is_new_claim = false;
        let found = ledger.intent.as_ref();
        let id = found.map(|intent| (intent.step.clone(), intent.since));
        if id == self.intent {
            return;
        }
        self.intent = id;
        self.horizon_before = None;
        self.answered = false;
        self.horizon = found.and_then(horizon_of);
        self.operation = found.and_then(|intent| {
            Some(Open {
                step: intent.step.clone(),
                operation: intent.operation.clone()?,
                tracked: true,
                polls: 0,
            })
        });
    }

    /// Notes an intent that is being written.
    pub(crate) fn intend(&mut self, intent: &Intent) {
        self.intent = Some((intent.step.clone(), intent.since));
        self.horizon_before = self.horizon;
        self.horizon = self.horizon.max(horizon_of(intent));
        self.answered = false;
        self.operation = None;
    }

    /// Notes that the ledger's intent is closed.
    pub(crate) fn closed(&mut self) {
        self.intent = None;
    }

    /// The backend answered: it will show what it did.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
        self.operation = None;
    }

    /// The backend refused: nothing of this step will take effect later.
    pub(crate) fn refused(&mut self) {
        self.horizon = self.horizon_before;
        self.answered = false;
        self.operation = None;
    }

    /// What is ours was seen after the answer, so that a backend whose listing lags behind its answers
    /// is not believed when it says that what it just made is absent.
    pub(crate) fn saw_ours(&mut self) {
        self.seen_ours = true;
        if self.answered {
            self.refused();
        }
    }

    /// How long an unanswered create may still take effect.
    pub(crate) fn outstanding(&self, now: i64) -> Option<Duration> {
        let rest = self.horizon?.checked_sub(now)?;
        u64::try_from(rest)
            .ok()
            .filter(|rest| *rest > 0)
            .map(Duration::from_secs)
    }

    /// What an intent written now has to say about settling: the own time, or the rest of an earlier
    /// create that is still unanswered, whose intent it replaces.
    pub(crate) fn settle_seconds(&self, own: Option<Duration>, now: i64) -> Option<u64> {
        let margin = (LEAVES_WITHIN + ROUNDING).as_secs();
        let earlier = self
            .outstanding(now)
            .map(|rest| rest.as_secs().saturating_sub(margin).max(1));
        own.map(|own| own.as_secs() + u64::from(own.subsec_nanos() > 0))
            .max(earlier)
    }

    /// Notes that all was as it should be, and published.
    pub(crate) fn calm_since(&mut self, version: Option<String>, now: Duration) {
        self.calm = Some((version, now + LOOK_CLOSER_AFTER));
    }

    /// Takes over from an earlier process that all was as it should be: a listing then suffices for
    /// now, so that a restart does not look at every thing at once. The closer looks are spread.
    pub(crate) fn left_calm(&mut self, version: Option<String>, name: &ObjectName, now: Duration) {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let spread = LOOK_CLOSER_AFTER.as_secs();
        let until = now + Duration::from_secs(hasher.finish() % spread);
        self.settled = true;
        self.calm = Some((version, until));
    }

    /// Whether a listing suffices: the last look at the thing itself found nothing to do, its result
    /// is published, the object has not changed, and it is not too long ago.
    pub(crate) fn is_calm(&self, version: Option<&str>, now: Duration) -> bool {
        let calm = self.calm.as_ref().filter(|_| self.settled);
        calm.is_some_and(|(seen, until)| seen.as_deref() == version && now < *until)
    }

    pub(crate) fn fail(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        self.settled = false;
    }

    pub(crate) fn succeed(&mut self) {
        self.failures = 0;
        self.failing_since = None;
        self.conflicts = 0;
    }
}

/// Until when the create of an intent may take effect: the request leaves within 5 s of the write, and
/// is settled within the step's time. A time of zero means that it cannot be late.
fn horizon_of(intent: &Intent) -> Option<i64> {
    let settle = intent.settle_seconds.filter(|settle| *settle > 0)?;
    let margin = (LEAVES_WITHIN + ROUNDING).as_secs();
    let rest = i64::try_from(settle.saturating_add(margin)).unwrap_or(i64::MAX);
    Some(intent.since.saturating_add(rest))
}

#[cfg(test)]
mod tests {
    use capi_contract::{Mark, ObjectName, Token};

    use super::*;

    const NOW: i64 = 1_000;

    fn intent(step: &str, settle: Option<u64>) -> Intent {
        Intent {
            step: step.into(),
            since: NOW,
            settle_seconds: settle,
            operation: None,
        }
    }

    fn ledger(intent: Option<Intent>) -> Ledger<Mark> {
        let mark = Mark::made(Token::random(), ObjectName::new("ns", "m"));
        Ledger {
            intent,
            ..Ledger::new(mark, None)
        }
    }

    #[test]
    fn an_earlier_lifes_create_is_outstanding_until_it_must_have_settled() {
        let mut visit = Visit::new(None);
        visit.sync(Some(&ledger(Some(intent("Clone", Some(30))))));
        assert_eq!(visit.outstanding(NOW), Some(Duration::from_secs(36)));
        assert_eq!(visit.outstanding(NOW + 35), Some(Duration::from_secs(1)));
        assert_eq!(visit.outstanding(NOW + 36), None);
    }

    #[test]
    fn an_answered_create_is_outstanding_until_ours_was_seen() {
        let mut visit = Visit::<Mark>::new(None);
        visit.intend(&intent("Clone", Some(30)));
        visit.answered();
        assert!(visit.outstanding(NOW).is_some());
        visit.saw_ours();
        assert_eq!(visit.outstanding(NOW), None);
    }

    #[test]
    fn an_unanswered_create_is_outstanding_though_something_of_ours_was_seen() {
        let mut visit = Visit::<Mark>::new(None);
        visit.intend(&intent("Upload", Some(30)));
        visit.saw_ours();
        assert!(visit.outstanding(NOW).is_some());
        visit.refused();
        assert_eq!(visit.outstanding(NOW), None);
    }

    #[test]
    fn a_later_intent_carries_the_rest_of_an_unanswered_create() {
        let mut visit = Visit::<Mark>::new(None);
        visit.intend(&intent("Upload", Some(30)));
        assert_eq!(visit.settle_seconds(None, NOW), Some(30));
        let carried = intent("Configure", visit.settle_seconds(None, NOW));
        let mut next_life = Visit::new(None);
        next_life.sync(Some(&ledger(Some(carried))));
        assert_eq!(next_life.outstanding(NOW), visit.outstanding(NOW));
    }

    #[test]
    fn a_known_intent_keeps_what_was_learned_of_it() {
        let mut visit = Visit::new(None);
        visit.intend(&intent("Clone", Some(30)));
        visit.answered();
        visit.saw_ours();
        visit.sync(Some(&ledger(Some(intent("Clone", Some(30))))));
        assert_eq!(visit.outstanding(NOW), None);
        let other = Intent {
            since: NOW + 1,
            ..intent("Clone", Some(30))
        };
        visit.sync(Some(&ledger(Some(other))));
        assert!(visit.outstanding(NOW).is_some());
    }
}
