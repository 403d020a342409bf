//! Unmaking a thing: needs the claim and nearly nothing else (R7).

use std::sync::Arc;
use std::time::Duration;

use capi_contract::condition::reason;
use capi_contract::ledger::ABANDON_ANNOTATION;
use capi_contract::{Connect, Depth, External, Ledger, Lookup, Moment, Step, Teardown};
use kube::ResourceExt;

use super::act::{Done, create_unanswered};
use super::decide::{Aim, Decision, Sight, decide};
use super::drive::Pass;
use super::hooks::Answer;
use super::kind::{Kind, Leave, News, SessionOf};
use super::make::Course;
use super::outcome::{Failure, Notice, Outcome, Stop};

/// How long a backend must not have answered before it is given up, whatever a person said: longer
/// than the restart of an API server or a network's failover.
const BLIND_FOR: Duration = Duration::from_secs(60);

/// Why a person gives an object up: what stands behind its name. Another's name, or none, means
/// nothing: a template spreads its annotations over all objects that are made from it.
fn reason_of<'a>(word: &'a str, name: &str) -> Option<&'a str> {
    let rest = word.trim().strip_prefix(name)?.trim_start();
    match rest.strip_prefix(':') {
        Some(why) => Some(why.trim()),
        None => rest.is_empty().then_some("no reason given"),
    }
}

/// Whether a failure means that nobody knows what is there; a refused step has been looked at before.
fn is_blind(failure: &Failure) -> bool {
    ["Connect", "Recover", "Observe"].contains(&failure.call.as_ref())
}

impl<K: Kind, C: Connect<Session = SessionOf<K>>> Pass<'_, K, C> {
    /// One pass over an object that is being deleted.
    pub(super) async fn leave(&mut self) -> Result<Outcome, Stop> {
        let kind = Arc::clone(&self.driver.kind);
        if !self.has_finalizer() {
            return Ok(Outcome::Ignored);
        }
        match kind.leave(&self.subject) {
            Leave::Ignore => Ok(Outcome::Ignored),
            Leave::Paused(message) => Ok(Outcome::Paused(message)),
            Leave::Wait(notice) => Ok(Outcome::Deleting(notice)),
            Leave::Open => {
                self.load_ledger()?;
                if kind.external().nothing_outside() {
                    return self.release("nothing was made outside Kubernetes").await;
                }
                self.say_goodbye().await?;
                match self.unmake().await {
                    Err(Stop::Failed(failure)) if is_blind(&failure) => self.abandon(failure).await,
                    // Whatever else went wrong, the backend was there to be looked at.
                    other => {
                        self.visit.blind_since = None;
                        other
                    }
                }
            }
        }
    }

    /// Leaves what was made to itself, if a person has said so of this object and it cannot be looked
    /// at for longer than an outage lasts.
    async fn abandon(&mut self, failure: Failure) -> Result<Outcome, Stop> {
        let annotations = self.subject.object.annotations();
        let word = annotations.get(ABANDON_ANNOTATION);
        let now = self.driver.options.clock.monotonic();
        let since = *self.visit.blind_since.get_or_insert(now);
        let is_lasting = now >= since + BLIND_FOR;
        let why = word.and_then(|word| reason_of(word, &self.name.name));
        let (Some(why), true) = (why, is_lasting) else {
            return Err(failure.into());
        };
        let message = format!(
            "given up by annotation {ABANDON_ANNOTATION} ({why}); what was made may be left: {}",
            failure.message
        );
        let news = News {
            warning: true,
            reason: "Abandoned",
            message: &message,
        };
        self.driver.kind.announce(&self.subject.object, news);
        self.release("it was given up").await
    }

    /// Shows that the deletion has begun, before calls that may take long (CO-06).
    async fn say_goodbye(&mut self) -> Result<(), Stop> {
        let shown = self.condition_status(capi_contract::condition::DELETING);
        if shown.as_deref() == Some("True") {
            return Ok(());
        }
        let notice = Notice::new(reason::DELETING, "teardown begins", Duration::ZERO);
        self.publish_now(&Outcome::Deleting(notice)).await
    }

    async fn unmake(&mut self) -> Result<Outcome, Stop> {
        let session = self.connect().await?;
        if self.ledger.is_none() {
            match self.recover(&session).await? {
                Some(claim) => {
                    let identity = self.driver.kind.identity(&self.subject);
                    self.ledger = Some(Ledger::new(claim, identity));
                }
                None => return self.release("nothing was found on the backend").await,
            }
        }
        if !self.visit.teardown_begun {
            if let Answer::Hold(notice) = self.ask_hooks(Moment::BeforeTeardown).await? {
                return Ok(Outcome::Deleting(notice));
            }
            self.visit.teardown_begun = true;
        }
        if let Some(notice) = self.follow(&session).await? {
            return Ok(Outcome::Deleting(notice));
        }
        let mut course = Course::default();
        loop {
            let lookup = self.look(&session, Depth::Thing).await?;
            if let Some(outcome) = self.retreat(&session, lookup, &mut course).await? {
                return Ok(outcome);
            }
        }
    }

    async fn retreat(
        &mut self,
        session: &SessionOf<K>,
        lookup: Lookup<<K::External as External>::Seen>,
        course: &mut Course,
    ) -> Result<Option<Outcome>, Stop> {
        let situation = self.situation(Sight::from(&lookup), Depth::Thing, Aim::Delete);
        let decision = decide(situation);
        tracing::trace!(object = %self.name, ?situation, ?decision, "decided");
        match (decision, lookup) {
            (Decision::AwaitCreate(rest), _) => {
                Ok(Some(Outcome::Deleting(create_unanswered(rest))))
            }
            (_, Lookup::Unsettled(waiting)) => Ok(Some(Outcome::Deleting(waiting.into()))),
            (_, Lookup::Absent) => self.release("it is gone").await.map(Some),
            (_, Lookup::Foreign(by)) => {
                if self.is_proven() {
                    let message =
                        format!("what was made is not ours any more and is left alone: {by}");
                    let news = News {
                        warning: true,
                        reason: "Foreign",
                        message: &message,
                    };
                    self.driver.kind.announce(&self.subject.object, news);
                }
                self.release("its place is taken by another")
                    .await
                    .map(Some)
            }
            (_, Lookup::Ours(seen)) => {
                self.visit.saw_ours();
                let external = self.driver.kind.external();
                let plan = external.plan_teardown(&self.known()?.claim, &seen);
                drop(seen);
                match plan {
                    Teardown::Wait(waiting) => Ok(Some(Outcome::Deleting(waiting.into()))),
                    Teardown::Release => self.release("it is left as it is").await.map(Some),
                    Teardown::Apply(step) => {
                        if let Some(notice) = course.step(step.name()) {
                            return Ok(Some(Outcome::Deleting(notice)));
                        }
                        match self.carry_out(session, &step, None).await? {
                            Done::Finished => Ok(None),
                            Done::Wait(notice) => Ok(Some(Outcome::Deleting(notice))),
                        }
                    }
                }
            }
        }
    }

    /// Lets the object go.
    async fn release(&mut self, why: &'static str) -> Result<Outcome, Stop> {
        // A hook may delay the finalizer no longer than its deadline.
        match self.ask_hooks(Moment::Gone).await {
            Ok(Answer::Proceed) => {}
            Ok(Answer::Hold(notice)) => {
                tracing::info!(object = %self.name, message = %notice.message, "hook ignored");
            }
            Err(failure) => {
                tracing::warn!(object = %self.name, message = %failure.message, "hook ignored");
            }
        }
        let kind = Arc::clone(&self.driver.kind);
        kind.release(&self.subject).await?;
        let news = News {
            warning: false,
            reason: "Deleted",
            message: why,
        };
        self.drop_finalizer().await?;
        kind.announce(&self.subject.object, news);
        Ok(Outcome::Released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_objects_own_name_gives_it_up() {
        let table = [
            ("m: the rack burned", Some("the rack burned")),
            ("m", Some("no reason given")),
            (" m : flooded ", Some("flooded")),
            ("the rack burned", None),
            ("true", None),
            ("m-0: another's", None),
            ("mm", None),
            ("", None),
        ];
        for (word, why) in table {
            assert_eq!(reason_of(word, "m"), why, "{word:?}");
        }
    }
}
