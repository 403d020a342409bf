//! One pass over one object: load, gate, poll, observe, decide, write the intent, apply, publish.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::ledger::LEDGER_ANNOTATION;
use capi_contract::{Class, Classify, Connect, Hook, Intent, Ledger, Moment, ObjectName, Occasion};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::timeout;

use super::backoff;
use super::hooks::{self, Answer};
use super::kind::{Admission, ClaimOf, Kind, ObjectOf, SessionOf, Subject, Told};
use super::outcome::{Failure, Notice, Outcome, Stop, class_label};
use super::session::{Held, Sessions};
use super::visit::Visit;
use crate::options::Options;

/// How soon an object is looked at again when our view of it was old and no event has come. The watch
/// usually delivers within milliseconds.
const VIEW_FIRST: Duration = Duration::from_millis(100);
const VIEW_MAX: Duration = Duration::from_secs(10);

/// How soon a mutation that was not sent in time is tried again.
const LATE_RETRY: Duration = Duration::from_secs(1);

/// How often a lost thing is looked for: it may come back (R10), and the look is not a shared one.
pub(super) const LOST_RECHECK: Duration = Duration::from_secs(30);

/// Drives the objects of one kind.
pub(crate) struct Driver<K: Kind, C: Connect> {
    pub(super) kind: Arc<K>,
    pub(super) client: Client,
    pub(super) sessions: Arc<Sessions<C>>,
    pub(super) hooks: Vec<Arc<dyn Hook>>,
    pub(super) options: Options,
    visits: Mutex<HashMap<ObjectName, Visit<ClaimOf<K>>>>,
    /// Objects whose thing is said to have changed since their last pass began.
    disturbed: Mutex<HashSet<ObjectName>>,
}

/// When an object is due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// After this time at the latest.
    After(Duration),
    /// Only after an event.
    Event,
    /// The object does not exist any more.
    Never,
}

/// A pass under way.
pub(super) struct Pass<'d, K: Kind, C: Connect> {
    pub(super) driver: &'d Driver<K, C>,
    pub(super) name: ObjectName,
    pub(super) subject: Subject<ObjectOf<K>>,
    pub(super) visit: Visit<ClaimOf<K>>,
    /// The ledger as this pass sees it.
    pub(super) ledger: Option<Ledger<ClaimOf<K>>>,
    /// Whether `ledger` is on the object, claim and proof.
    pub(super) is_recorded: bool,
    pub(super) held: Option<Held<SessionOf<K>>>,
    pub(super) told: Option<Told>,
    /// What the first write carries beside the ledger.
    pub(super) first_annotations: Vec<(&'static str, String)>,
}

impl<K: Kind, C: Connect<Session = SessionOf<K>>> Driver<K, C> {
    pub(crate) fn new(
        kind: Arc<K>,
        client: Client,
        sessions: Arc<Sessions<C>>,
        hooks: Vec<Arc<dyn Hook>>,
        options: Options,
    ) -> Self {
        Self {
            kind,
            client,
            sessions,
            hooks,
            options,
            visits: Mutex::new(HashMap::new()),
            disturbed: Mutex::new(HashSet::new()),
        }
    }

    /// Notes that the thing of an object, which the queue knows, has changed: the next pass looks at
    /// the thing itself.
    pub(crate) fn disturb(&self, name: &ObjectName) {
        self.disturbed.lock().insert(name.clone());
    }

    /// Makes one pass.
    pub(crate) async fn pass(&self, name: &ObjectName) -> Next {
        let is_disturbed = self.disturbed.lock().remove(name);
        let Some(object) = self.kind.load(name) else {
            self.visits.lock().remove(name);
            return Next::Never;
        };
        let mut pass = match self.begin(name, object) {
            Ok(pass) => pass,
            Err(error) => {
                tracing::error!(object = %name, %error, "object could not be serialised");
                return Next::Event;
            }
        };
        if is_disturbed {
            pass.visit.settled = false;
        }
        let result = pass.work().await;
        let next = pass.conclude(result).await;
        self.visits.lock().insert(name.clone(), pass.visit);
        next
    }

    fn begin(
        &self,
        name: &ObjectName,
        object: Arc<ObjectOf<K>>,
    ) -> Result<Pass<'_, K, C>, serde_json::Error> {
        let raw = serde_json::to_value(object.as_ref())?;
        let uid = object.meta().uid.clone();
        let remembered = self.visits.lock().remove(name);
        let visit = remembered
            .filter(|visit| visit.is_of(uid.as_deref()))
            .unwrap_or_else(|| Visit::new(uid));
        Ok(Pass {
            driver: self,
            name: name.clone(),
            subject: Subject { object, raw },
            visit,
            ledger: None,
            is_recorded: false,
            held: None,
            told: None,
            first_annotations: Vec::new(),
        })
    }

    pub(super) fn api(&self, namespace: &str) -> Api<ObjectOf<K>> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Waits for one call of the seam, no longer than the limit, and counts it.
    pub(super) async fn ask<T, E: Classify>(
        &self,
        call: &'static str,
        asked: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, Failure> {
        let begun = self.options.clock.monotonic();
        let answer = timeout(self.options.call_timeout, asked).await;
        let took = self.options.clock.monotonic().saturating_sub(begun);
        self.options.telemetry.call(K::LABEL, call, took);
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::of(call, &error),
            Err(_) => {
                let message = format!("{call} took longer than {:?}", self.options.call_timeout);
                Failure::new(call, Class::Transient, message)
            }
        };
        let class = class_label(&failure.class);
        self.options.telemetry.error(K::LABEL, call, class);
        Err(failure)
    }
}

impl<K: Kind, C: Connect<Session = SessionOf<K>>> Pass<'_, K, C> {
    async fn work(&mut self) -> Result<Outcome, Stop> {
        if self.is_deleting() {
            return self.leave().await;
        }
        self.load_ledger()?;
        let proven = self.is_proven();
        let kind = Arc::clone(&self.driver.kind);
        match kind.admit(&self.subject, proven).await? {
            Admission::Ignore => Ok(Outcome::Ignored),
            Admission::Paused(message) => Ok(Outcome::Paused(message)),
            Admission::Wait(notice) if proven => Ok(Outcome::Unsure(notice)),
            Admission::Wait(notice) => Ok(Outcome::Waiting(notice)),
            Admission::Open(scope) => {
                self.greet().await?;
                self.make(&scope).await
            }
        }
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.subject.object.meta().deletion_timestamp.is_some()
    }

    pub(super) fn has_finalizer(&self) -> bool {
        let finalizer = self.driver.kind.finalizer();
        self.subject
            .object
            .finalizers()
            .iter()
            .any(|one| one == finalizer)
    }

    /// Reads the ledger off the object. Fails if a newer program wrote a form that this one does not
    /// know: the object is left alone then.
    pub(super) fn load_ledger(&mut self) -> Result<(), Stop> {
        use capi_contract::ledger::LedgerError;

        let text = self.subject.object.annotations().get(LEDGER_ANNOTATION);
        let parsed = text.map(|text| Ledger::parse(text, &self.name)).transpose();
        let found = match parsed {
            Ok(found) => found,
            Err(error @ LedgerError::Newer { .. }) => {
                return Err(Failure::new("Ledger", Class::Terminal, error.to_string()).into());
            }
            // Torn, or copied from another object: as if there were none, so `recover` is asked.
            Err(error) => {
                tracing::warn!(object = %self.name, %error, "ledger ignored");
                None
            }
        };
        self.visit.sync(found.as_ref());
        if std::mem::take(&mut self.visit.is_first)
            && let Some(ledger) = &found
            && ledger.proven
            && self.is_closed(ledger)
            && !self.driver.kind.is_unfinished(&self.subject)
            && self.was_left_ready()
        {
            let version = self.subject.object.meta().resource_version.clone();
            let now = self.driver.options.clock.monotonic();
            self.visit.left_calm(version, &self.name, now);
        }
        self.is_recorded = found.is_some() && self.has_finalizer();
        self.ledger = found.or_else(|| self.visit.chosen.clone());
        Ok(())
    }

    /// Whether nothing more can come of the ledger's intent. That of the last create stays there, since
    /// nothing has to be written once the thing runs.
    fn is_closed(&self, ledger: &Ledger<ClaimOf<K>>) -> bool {
        let now = self.driver.options.clock.wall().as_second();
        let is_create =
            |intent: &Intent| intent.settle_seconds.is_some() && intent.operation.is_none();
        ledger.intent.as_ref().is_none_or(is_create) && self.visit.outstanding(now).is_none()
    }

    /// Whether the status says that all was well with the spec as it is now. It decides how closely to
    /// look first, and nothing else: what a listing shows is compared with what is wanted all the same.
    fn was_left_ready(&self) -> bool {
        let generation = self.subject.object.meta().generation;
        let ready = self.condition(capi_contract::condition::READY);
        self.was_provisioned()
            && ready.is_some_and(|ready| {
                ready["status"] == "True" && ready["observedGeneration"].as_i64() == generation
            })
    }

    /// Whether the thing was ever seen as ours (R9, IM-16).
    pub(super) fn is_proven(&self) -> bool {
        let by_ledger = self.ledger.as_ref().is_some_and(|ledger| ledger.proven);
        by_ledger || self.visit.seen_ours || self.driver.kind.is_made(&self.subject)
    }

    /// Publishes what a user must see before work that may take long: the first visit, and the end of
    /// a pause (PA-04).
    async fn greet(&mut self) -> Result<(), Stop> {
        let is_new = self
            .condition_status(capi_contract::condition::READY)
            .is_none();
        let was_paused = self
            .condition_status(capi_contract::condition::PAUSED)
            .as_deref()
            == Some("True");
        if !is_new && !was_paused {
            return Ok(());
        }
        let notice = Notice::new(
            capi_contract::condition::reason::NOT_PROVISIONED,
            "work begins",
            Duration::ZERO,
        );
        let outcome = if self.is_proven() {
            Outcome::Unsure(notice)
        } else {
            Outcome::Waiting(notice)
        };
        self.publish_now(&outcome).await
    }

    pub(super) fn condition_status(&self, kind: &str) -> Option<String> {
        let one = self.condition(kind)?;
        one["status"].as_str().map(ToOwned::to_owned)
    }

    fn condition(&self, kind: &str) -> Option<&Value> {
        let all = self.subject.raw.pointer("/status/conditions")?.as_array()?;
        all.iter().find(|one| one["type"] == kind)
    }

    /// Connects with the credentials that the object names, or, where it cannot tell any more, with
    /// those that the thing was made with.
    pub(super) async fn connect(&mut self) -> Result<Arc<SessionOf<K>>, Failure> {
        let named = self.driver.kind.identity(&self.subject);
        let identity = named.or_else(|| self.ledger.as_ref()?.identity.clone());
        let held = self.driver.sessions.get(identity).await?;
        let session = Arc::clone(&held.session);
        self.held = Some(held);
        Ok(session)
    }

    /// Asks the hooks about a moment.
    pub(super) async fn ask_hooks(&self, moment: Moment) -> Result<Answer, Failure> {
        if self.driver.hooks.is_empty() {
            return Ok(Answer::Proceed);
        }
        let kind = ObjectOf::<K>::kind(&()).into_owned();
        let object: Value = self.subject.raw.clone();
        let occasion = Occasion::new(moment, kind, self.name.clone(), object);
        hooks::ask(&self.driver.hooks, &occasion).await
    }

    /// Ends a pass: writes what is known and says when to come back.
    async fn conclude(&mut self, result: Result<Outcome, Stop>) -> Next {
        match result {
            Ok(outcome) => self.conclude_well(outcome).await,
            Err(stop) => self.conclude_badly(stop).await,
        }
    }

    async fn conclude_well(&mut self, outcome: Outcome) -> Next {
        self.driver
            .options
            .telemetry
            .pass(K::LABEL, outcome.label());
        tracing::debug!(object = %self.name, outcome = outcome.label(), "pass");
        if let Some(held) = &self.held {
            self.driver.sessions.proved(held).await;
        }
        let outcome = match self.settle_accounts(outcome).await {
            Ok(outcome) => outcome,
            Err(stop) => return self.conclude_badly(stop).await,
        };
        let next = match &outcome {
            Outcome::Ignored | Outcome::Released => return Next::Event,
            Outcome::Paused(_) => Next::Event,
            Outcome::Settled | Outcome::Calm => Next::After(self.driver.options.recheck),
            Outcome::Waiting(notice)
            | Outcome::Unsure(notice)
            | Outcome::Lost(notice)
            | Outcome::Deleting(notice) => Next::After(notice.recheck),
        };
        match self.publish(&outcome).await {
            Ok(None) => {
                self.visit.succeed();
                if matches!(outcome, Outcome::Settled) && self.visit.settled {
                    let version = self.subject.object.meta().resource_version.clone();
                    let now = self.driver.options.clock.monotonic();
                    self.visit.calm_since(version, now);
                }
                next
            }
            Ok(Some(due)) => {
                self.visit.succeed();
                earlier(next, due)
            }
            Err(stop) => self.conclude_badly(stop).await,
        }
    }

    async fn conclude_badly(&mut self, stop: Stop) -> Next {
        let label = match &stop {
            Stop::Refused => "refused",
            Stop::Gone => "gone",
            Stop::Kubernetes(_) => "kubernetes_error",
            Stop::Late => "late",
            Stop::Failed(_) => "failed",
        };
        self.driver.options.telemetry.pass(K::LABEL, label);
        let now = self.driver.options.clock.monotonic();
        match stop {
            Stop::Refused => {
                self.visit.conflicts = self.visit.conflicts.saturating_add(1);
                tracing::debug!(object = %self.name, "our view was old");
                if self.view_has_moved() && self.visit.conflicts <= 3 {
                    return Next::After(Duration::ZERO);
                }
                let delay = backoff::growth(VIEW_FIRST, VIEW_MAX, self.visit.conflicts);
                Next::After(delay)
            }
            // The watch says whether it is gone for good.
            Stop::Gone => Next::After(VIEW_MAX),
            Stop::Late => {
                tracing::info!(object = %self.name, "mutation dropped: its write took too long");
                Next::After(LATE_RETRY)
            }
            Stop::Kubernetes(error) => {
                self.visit.fail(now);
                tracing::warn!(object = %self.name, %error, "Kubernetes refused a request");
                let delay = backoff::delay(&Class::Transient, self.visit.failures, &self.name);
                Next::After(delay)
            }
            Stop::Failed(failure) => self.conclude_failed(failure, now).await,
        }
    }

    async fn conclude_failed(&mut self, failure: Failure, now: Duration) -> Next {
        self.visit.fail(now);
        tracing::warn!(
            object = %self.name,
            call = %failure.call,
            class = class_label(&failure.class),
            failures = self.visit.failures,
            message = %failure.message,
            "pass failed"
        );
        if failure.class == Class::Credentials
            && let Some(held) = &self.held
        {
            self.driver.sessions.refused(held, &failure.message).await;
        }
        let delay = backoff::delay(&failure.class, self.visit.failures, &self.name);
        match self.publish_failure(&failure).await {
            Ok(Some(due)) => Next::After(delay.min(due)),
            Err(Stop::Refused) => Next::After(delay.min(VIEW_FIRST)),
            Ok(None) | Err(_) => Next::After(delay),
        }
    }

    /// Whether the watch has brought a newer version than the one this pass worked on.
    fn view_has_moved(&self) -> bool {
        let newest = self.driver.kind.load(&self.name);
        newest.is_none_or(|newest| {
            newest.meta().resource_version != self.subject.object.meta().resource_version
        })
    }

    /// Writes the claim, the proof and the spec fields that the pass has learned of, if they are not
    /// on the object yet. One patch, before status (WR-03).
    async fn settle_accounts(&mut self, outcome: Outcome) -> Result<Outcome, Stop> {
        match outcome {
            Outcome::Waiting(_) | Outcome::Unsure(_) | Outcome::Settled | Outcome::Lost(_) => {}
            Outcome::Ignored
            | Outcome::Paused(_)
            | Outcome::Calm
            | Outcome::Deleting(_)
            | Outcome::Released => return Ok(outcome),
        }
        let due = self.told.as_mut().filter(|told| told.is_due);
        let spec = due.and_then(|told| told.spec.take());
        let is_completing =
            self.told.as_ref().is_some_and(|told| told.complete) && !self.was_provisioned();
        if is_completing && let Answer::Hold(notice) = self.ask_hooks(Moment::Provisioned).await? {
            if let Some(told) = &mut self.told {
                told.complete = false;
            }
            self.record_proof(None).await?;
            return Ok(Outcome::Waiting(notice));
        }
        self.record_proof(spec).await?;
        let Some(told) = &self.told else {
            return Ok(outcome);
        };
        if matches!(outcome, Outcome::Settled) && !told.complete && !self.was_provisioned() {
            let recheck = backoff::poll(self.visit.looks.saturating_add(1));
            self.visit.looks = self.visit.looks.saturating_add(1);
            let reason = capi_contract::condition::reason::NOT_PROVISIONED;
            return Ok(Outcome::Waiting(Notice::new(reason, told.missing, recheck)));
        }
        Ok(outcome)
    }

    /// Whether `provisioned` was published.
    pub(super) fn was_provisioned(&self) -> bool {
        let path = "/status/initialization/provisioned";
        self.subject.raw.pointer(path) == Some(&Value::Bool(true))
    }
}

fn earlier(next: Next, due: Duration) -> Next {
    match next {
        Next::After(after) => Next::After(after.min(due)),
        Next::Event => Next::After(due),
        Next::Never => Next::Never,
    }
}
