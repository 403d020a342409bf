//! Making a thing and keeping it.

use std::time::Duration;

use capi_contract::{
    Class, Connect, Depth, External, Health, Ledger, Lookup, Lost, Moment, Plan, Step, Teardown,
};

use kube::Resource;

use super::act::{Done, create_unanswered};
use super::decide::{Aim, Decision, Sight, decide};
use super::drive::{LOST_RECHECK, Pass};
use super::hooks::Answer;
use super::kind::{Kind, ScopeOf, SessionOf};
use super::outcome::{Failure, Notice, Outcome, Stop};

/// How many steps one pass may take; the longest plan of a provider here has half of that. A plan
/// that never ends is stopped, reported and goes on a little later.
const STEPS_MAX: u32 = 24;
/// How often the same step may follow itself in one pass, as for several disks.
const SAME_STEP_MAX: u32 = 8;
/// Pause of a plan that does not come to its end.
const PLAN_PAUSE: Duration = Duration::from_secs(2);
/// How many claims are tried in one pass before it fails with backoff.
const CLAIMS_MAX: u32 = 3;

/// Counts what one pass does.
#[derive(Debug, Default)]
pub(super) struct Course {
    steps: u32,
    same: u32,
    last: Option<&'static str>,
    claims: u32,
}

impl Course {
    /// Notes a step; a notice if it is one too many.
    pub(super) fn step(&mut self, name: &'static str) -> Option<Notice> {
        self.steps += 1;
        self.same = if self.last == Some(name) {
            self.same + 1
        } else {
            1
        };
        self.last = Some(name);
        (self.steps > STEPS_MAX || self.same > SAME_STEP_MAX).then(|| {
            let message = format!("{name} was carried out and does not show yet");
            Notice::new(name, message, PLAN_PAUSE)
        })
    }
}

impl<K: Kind, C: Connect<Session = SessionOf<K>>> Pass<'_, K, C> {
    /// Brings the thing towards what is wanted, as far as one pass gets.
    pub(super) async fn make(&mut self, scope: &ScopeOf<K>) -> Result<Outcome, Stop> {
        self.first_annotations = self.driver.kind.annotations(scope);
        let session = self.connect().await?;
        let kind = std::sync::Arc::clone(&self.driver.kind);
        kind.connected(&self.subject).await?;
        if !self.find_claim(&session, scope).await? {
            let message = "the machine was provisioned and nothing of it is left on the backend";
            let lost = Notice::new("Lost", message, LOST_RECHECK);
            return Ok(Outcome::Lost(lost));
        }
        if let Some(notice) = self.follow(&session).await? {
            return Ok(Outcome::Waiting(notice));
        }
        if self.held_before_first_step().await?
            && let Answer::Hold(notice) = self.ask_hooks(Moment::Claimed).await?
        {
            return Ok(Outcome::Waiting(notice));
        }
        let mut depth = self.first_depth();
        let mut course = Course::default();
        if self.is_unheard_of()
            && let Advance::Done(outcome) = self.begin_making(&session, scope, &mut course).await?
        {
            return Ok(outcome);
        }
        loop {
            let lookup = self.look(&session, depth).await?;
            match self
                .advance(&session, scope, lookup, depth, &mut course)
                .await?
            {
                Advance::Done(outcome) => return Ok(outcome),
                Advance::Again => depth = Depth::Thing,
            }
        }
    }

    /// Whether nobody but this process knows the claim, and the backend refuses what would be made
    /// twice for it: then there is nothing to look at yet.
    fn is_unheard_of(&self) -> bool {
        let now = self.driver.options.clock.wall().as_second();
        self.visit.is_new_claim
            && !self.is_recorded
            && !self.is_proven()
            && self.visit.outstanding(now).is_none()
            && self.driver.kind.external().creates_once()
    }

    /// Takes the first step for a claim that nobody else knows.
    async fn begin_making(
        &mut self,
        session: &SessionOf<K>,
        scope: &ScopeOf<K>,
        course: &mut Course,
    ) -> Result<Advance, Stop> {
        let external = self.driver.kind.external();
        let plan = external.plan(scope, &self.known()?.claim, None);
        self.follow_plan(session, scope, plan, course).await
    }

    /// A listing, one call for all, suffices for a settled thing whose object has not changed. If
    /// something around it has, the plan tells whether that asks for more.
    fn first_depth(&self) -> Depth {
        let version = self.subject.object.meta().resource_version.as_deref();
        let now = self.driver.options.clock.monotonic();
        if self.is_proven() && self.visit.is_calm(version, now) {
            Depth::Listing
        } else {
            Depth::Thing
        }
    }

    /// With hooks, the claim is written before they are told of it; without, it shares the patch of
    /// the first intent.
    async fn held_before_first_step(&mut self) -> Result<bool, Stop> {
        if self.driver.hooks.is_empty() || self.visit.seen_ours {
            return Ok(false);
        }
        if !self.is_recorded {
            let ledger = self.known()?.clone();
            let extra = super::write::Extra {
                name: "claim",
                spec: None,
            };
            self.record(ledger, extra).await?;
        }
        Ok(!self.is_proven())
    }

    /// Makes sure that the pass has a claim: from the ledger, by recovery, or a new one. `false`
    /// means that what was made is lost.
    async fn find_claim(
        &mut self,
        session: &SessionOf<K>,
        scope: &ScopeOf<K>,
    ) -> Result<bool, Stop> {
        if self.ledger.is_some() {
            return Ok(true);
        }
        if let Some(claim) = self.recover(session).await? {
            self.keep(claim);
            self.visit.is_new_claim = false;
            return Ok(true);
        }
        // A provider id in spec is proof enough, whatever the ledger says (IM-16).
        if self.is_proven() && !K::REMADE {
            return Ok(false);
        }
        let external = self.driver.kind.external();
        let claim = self
            .driver
            .ask("Claim", external.claim(session, scope, None))
            .await?;
        self.keep(claim);
        Ok(true)
    }

    /// Asks for what an earlier life made.
    pub(super) async fn recover(
        &mut self,
        session: &SessionOf<K>,
    ) -> Result<Option<super::kind::ClaimOf<K>>, Stop> {
        if self.visit.nothing_to_recover {
            return Ok(None);
        }
        let owner = self.driver.kind.owner(&self.subject);
        let lost = Lost::new(self.subject.object.as_ref(), self.name.clone(), owner);
        let external = self.driver.kind.external();
        let found = self
            .driver
            .ask("Recover", external.recover(session, &lost))
            .await?;
        // A proven machine that was not found may come back, so it is asked for again (R10).
        self.visit.nothing_to_recover = found.is_none() && !self.is_proven();
        Ok(found)
    }

    /// Takes a claim that is not written yet; it is kept between passes, so that waiting does not
    /// choose again and again.
    fn keep(&mut self, claim: super::kind::ClaimOf<K>) {
        let identity = self.driver.kind.identity(&self.subject);
        let ledger = Ledger::new(claim, identity);
        self.visit.chosen = Some(ledger.clone());
        self.visit.is_new_claim = true;
        self.ledger = Some(ledger);
        self.is_recorded = false;
    }

    async fn advance(
        &mut self,
        session: &SessionOf<K>,
        scope: &ScopeOf<K>,
        lookup: Lookup<<K::External as External>::Seen>,
        depth: Depth,
        course: &mut Course,
    ) -> Result<Advance, Stop> {
        let aim = if self.visit.give_up && !self.is_proven() {
            Aim::GiveUp
        } else {
            Aim::Keep
        };
        let situation = self.situation(Sight::from(&lookup), depth, aim);
        let decision = decide(situation);
        tracing::trace!(object = %self.name, ?situation, ?decision, "decided");
        match decision {
            Decision::LookCloser | Decision::Release => Ok(Advance::Again),
            Decision::AwaitCreate(rest) => {
                Ok(Advance::Done(Outcome::Waiting(create_unanswered(rest))))
            }
            Decision::Wait => {
                self.visit.settled = false;
                Ok(Advance::Done(unsettled(lookup)))
            }
            Decision::Lost => {
                self.visit.settled = false;
                Ok(Advance::Done(Outcome::Lost(vanished(&lookup))))
            }
            Decision::ChooseAnew => self.choose_anew(session, scope, course).await,
            Decision::Plan => {
                let Lookup::Ours(seen) = lookup else {
                    return Ok(Advance::Again);
                };
                self.visit.saw_ours();
                let claim = &self.known()?.claim;
                let external = self.driver.kind.external();
                let plan = external.plan(scope, claim, Some(&seen));
                // A listing knows less than the thing itself: what it does not say was told before.
                if depth == Depth::Listing {
                    return Ok(match plan {
                        Plan::Settled => Advance::Done(Outcome::Calm),
                        Plan::Apply(_) | Plan::Wait(_) | Plan::Lost(_) => Advance::Again,
                    });
                }
                let facts = external.facts(scope, claim, &seen);
                drop(seen);
                self.told = Some(self.driver.kind.tell(&self.subject, scope, &facts));
                drop(facts);
                self.follow_plan(session, scope, plan, course).await
            }
            Decision::PlanAbsent => {
                if self.is_proven() {
                    tracing::warn!(object = %self.name, "what was shared is gone and is made again");
                }
                let external = self.driver.kind.external();
                let plan = external.plan(scope, &self.known()?.claim, None);
                self.follow_plan(session, scope, plan, course).await
            }
            Decision::Teardown => {
                let Lookup::Ours(seen) = lookup else {
                    return Ok(Advance::Again);
                };
                let external = self.driver.kind.external();
                let plan = external.plan_teardown(&self.known()?.claim, &seen);
                drop(seen);
                match plan {
                    Teardown::Apply(step) => self.take_step(session, scope, &step, course).await,
                    Teardown::Wait(waiting) => Ok(Advance::Done(Outcome::Waiting(waiting.into()))),
                    Teardown::Release => self.choose_anew(session, scope, course).await,
                }
            }
        }
    }

    async fn follow_plan(
        &mut self,
        session: &SessionOf<K>,
        scope: &ScopeOf<K>,
        plan: Plan<<K::External as External>::Step>,
        course: &mut Course,
    ) -> Result<Advance, Stop> {
        match plan {
            Plan::Settled => {
                let told = self.told.as_ref();
                self.visit.settled = told.is_some_and(|told| told.health == Health::Good);
                Ok(Advance::Done(Outcome::Settled))
            }
            Plan::Wait(waiting) => {
                self.visit.settled = false;
                Ok(Advance::Done(Outcome::Waiting(waiting.into())))
            }
            Plan::Lost(waiting) => {
                self.visit.settled = false;
                Ok(Advance::Done(Outcome::Lost(waiting.into())))
            }
            Plan::Apply(step) => {
                self.visit.settled = false;
                self.take_step(session, scope, &step, course).await
            }
        }
    }

    async fn take_step(
        &mut self,
        session: &SessionOf<K>,
        scope: &ScopeOf<K>,
        step: &<K::External as External>::Step,
        course: &mut Course,
    ) -> Result<Advance, Stop> {
        if let Some(notice) = course.step(step.name()) {
            return Ok(Advance::Done(Outcome::Waiting(notice)));
        }
        match self.carry_out(session, step, Some(scope)).await? {
            Done::Finished => Ok(Advance::Again),
            Done::Wait(notice) => Ok(Advance::Done(Outcome::Waiting(notice))),
        }
    }

    /// Drops the claim, of which nothing is left, and chooses another.
    async fn choose_anew(
        &mut self,
        session: &SessionOf<K>,
        scope: &ScopeOf<K>,
        course: &mut Course,
    ) -> Result<Advance, Stop> {
        course.claims += 1;
        if course.claims > CLAIMS_MAX {
            let message = "every identity that was chosen was taken by another";
            return Err(Failure::new("Claim", Class::Transient, message).into());
        }
        let given_up = self.known()?.claim.clone();
        let external = self.driver.kind.external();
        let claiming = external.claim(session, scope, Some(&given_up));
        let claim = self.driver.ask("Claim", claiming).await?;
        tracing::info!(object = %self.name, "claim given up for another");
        self.visit.give_up = false;
        self.visit.seen_ours = false;
        self.keep(claim);
        self.visit.is_new_claim = false;
        Ok(Advance::Again)
    }
}

/// How a pass goes on.
pub(super) enum Advance {
    Done(Outcome),
    /// Look again, at the thing itself.
    Again,
}

fn unsettled<S>(lookup: Lookup<S>) -> Outcome {
    match lookup {
        Lookup::Unsettled(waiting) => Outcome::Unsure(waiting.into()),
        Lookup::Absent | Lookup::Ours(_) | Lookup::Foreign(_) => Outcome::Unsure(Notice::new(
            "LookAgain",
            "the backend is looked at again",
            PLAN_PAUSE,
        )),
    }
}

fn vanished<S>(lookup: &Lookup<S>) -> Notice {
    let message = match lookup {
        Lookup::Foreign(by) => format!("it is gone, and its place is taken: {by}"),
        Lookup::Absent | Lookup::Ours(_) | Lookup::Unsettled(_) => {
            "it was provisioned and does not exist any more".to_owned()
        }
    };
    Notice::new("Lost", message, LOST_RECHECK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_does_not_end_is_stopped() {
        let mut course = Course::default();
        let names = ["A", "B"];
        let stopped = (0..STEPS_MAX + 1).find(|n| course.step(names[(*n % 2) as usize]).is_some());
        assert_eq!(stopped, Some(STEPS_MAX));
        let mut course = Course::default();
        let stopped = (0..STEPS_MAX).find(|_| course.step("Same").is_some());
        assert_eq!(stopped, Some(SAME_STEP_MAX));
    }
}
