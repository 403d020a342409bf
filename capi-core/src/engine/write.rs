//! Writes to the Kubernetes object: conditional patches of ledger and spec, and the one status.

use std::time::Duration;

use capi_contract::ledger::LEDGER_ANNOTATION;
use capi_contract::{Class, Connect, Health, Ledger};
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};

use super::drive::Pass;
use super::kind::{ClaimOf, Kind, News, ObjectOf, SessionOf, Subject};
use super::outcome::{Failure, Outcome, Stop, is_answer};
use super::publish::{self, Comparison, Picture, Shown};
use super::visit::Pending;

/// How late a wait may reach status: most waits are over by then, and a write each would be noise.
const PUBLISH_AFTER: Duration = Duration::from_secs(2);
/// The longest that a status which keeps changing stays unpublished.
const PUBLISH_AT_LATEST: Duration = Duration::from_secs(10);

impl<K: Kind, C: Connect<Session = SessionOf<K>>> Pass<'_, K, C> {
    /// Writes a ledger, with the finalizer and whatever else belongs into the same patch. Refused if
    /// the object is not the version that this pass has seen (R2).
    pub(super) async fn record(
        &mut self,
        ledger: Ledger<ClaimOf<K>>,
        more: Extra,
    ) -> Result<(), Stop> {
        let text = ledger
            .render()
            .map_err(|error| Failure::new("Ledger", Class::Terminal, error.to_string()))?;
        let mut annotations: Map<String, Value> = self
            .first_annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Value::String(value.clone())))
            .collect();
        annotations.insert(LEDGER_ANNOTATION.to_owned(), Value::String(text));
        let mut metadata = json!({"annotations": annotations});
        if !self.has_finalizer() && !self.is_deleting() {
            let mut finalizers = self.subject.object.finalizers().to_vec();
            finalizers.push(self.driver.kind.finalizer().to_owned());
            metadata["finalizers"] = json!(finalizers);
        }
        let mut patch = json!({"metadata": metadata});
        if let Some(spec) = more.spec {
            patch["spec"] = Value::Object(spec);
        }
        self.patch(more.name, patch).await?;
        if ledger.intent.is_none() {
            self.visit.closed();
        }
        self.visit.chosen = None;
        self.ledger = Some(ledger);
        self.is_recorded = true;
        Ok(())
    }

    /// Notes on the object that the thing was seen as ours, closing the intent that made it; with
    /// `spec`, in the same patch.
    pub(super) async fn record_proof(
        &mut self,
        spec: Option<Map<String, Value>>,
    ) -> Result<(), Stop> {
        let Some(ledger) = &self.ledger else {
            return Ok(());
        };
        let learned = self.visit.seen_ours && !ledger.proven;
        let unrecorded = self.visit.seen_ours && !self.is_recorded;
        if spec.is_none() && !learned && !unrecorded {
            return Ok(());
        }
        let mut ledger = ledger.clone();
        ledger.proven |= self.visit.seen_ours;
        if let Some(identity) = self.driver.kind.identity(&self.subject) {
            ledger.identity = Some(identity);
        }
        let now = self.driver.options.clock.wall().as_second();
        if self.visit.outstanding(now).is_none() && self.visit.operation.is_none() {
            ledger.intent = None;
        }
        let name = if spec.is_some() { "spec" } else { "ledger" };
        self.record(ledger, Extra { name, spec }).await
    }

    /// Takes our finalizer off.
    pub(super) async fn drop_finalizer(&mut self) -> Result<(), Stop> {
        let ours = self.driver.kind.finalizer();
        let rest: Vec<_> = self
            .subject
            .object
            .finalizers()
            .iter()
            .filter(|one| *one != ours)
            .cloned()
            .collect();
        let patch = json!({"metadata": {"finalizers": rest}});
        match self.patch("finalizer", patch).await {
            Err(Stop::Gone) => Ok(()),
            other => other,
        }
    }

    async fn patch(&mut self, name: &'static str, mut patch: Value) -> Result<(), Stop> {
        patch["metadata"]["resourceVersion"] = json!(self.subject.object.resource_version());
        let params = PatchParams {
            field_manager: Some(self.driver.options.manager.clone()),
            ..PatchParams::default()
        };
        let api = self.driver.api(&self.name.namespace);
        let written = api
            .patch(&self.name.name, &params, &Patch::Merge(&patch))
            .await;
        self.take(name, written)
    }

    /// Goes on from what a write returned (R13).
    fn take(
        &mut self,
        name: &'static str,
        written: Result<ObjectOf<K>, kube::Error>,
    ) -> Result<(), Stop> {
        let telemetry = &self.driver.options.telemetry;
        match written {
            Ok(object) => {
                telemetry.write(K::LABEL, name, "accepted");
                tracing::debug!(object = %self.name, write = name, "written");
                let object = self.driver.kind.stored(object);
                let raw = serde_json::to_value(object.as_ref()).map_err(|error| {
                    Failure::new("Serialize", Class::Terminal, error.to_string())
                })?;
                self.subject = Subject { object, raw };
                Ok(())
            }
            Err(error) => {
                let stop = Stop::from(error);
                let result = match &stop {
                    Stop::Refused => "refused",
                    _ => "failed",
                };
                telemetry.write(K::LABEL, name, result);
                Err(stop)
            }
        }
    }

    /// Publishes an outcome if the status differs and it is time; otherwise says when it will be.
    pub(super) async fn publish(&mut self, outcome: &Outcome) -> Result<Option<Duration>, Stop> {
        match shown(outcome) {
            Some(shown) => self.publish_shown(shown, false).await,
            None => Ok(None),
        }
    }

    /// Publishes an outcome at once.
    pub(super) async fn publish_now(&mut self, outcome: &Outcome) -> Result<(), Stop> {
        if let Some(shown) = shown(outcome) {
            self.publish_shown(shown, true).await?;
        }
        Ok(())
    }

    pub(super) async fn publish_failure(
        &mut self,
        failure: &Failure,
    ) -> Result<Option<Duration>, Stop> {
        let now = self.driver.options.clock.monotonic();
        let since = self.visit.failing_since.unwrap_or(now);
        let lasting = now.saturating_sub(since);
        let shown = Shown::Failed(failure, self.visit.failures, lasting);
        self.publish_shown(shown, false).await
    }

    async fn publish_shown(
        &mut self,
        shown: Shown<'_>,
        at_once: bool,
    ) -> Result<Option<Duration>, Stop> {
        // Core has not adopted it: not even a status (IM-12, EX-01).
        let status = self.subject.status();
        let last = publish::conditions_of(&status);
        let provisioned = self.is_provisioned();
        let told = self.told.as_ref();
        let health: Option<&Health> = told.map(|told| &told.health);
        let picture = Picture {
            condition: self.driver.kind.condition(),
            last: &last,
            provisioned,
            deleting: self.is_deleting(),
            health,
            further: self.driver.kind.conditions(),
            told: told.map_or(&[][..], |told| &told.conditions),
            shown,
        };
        let reports = picture.reports();
        let fields = publish::fields(&status, told.map(|told| &told.status), provisioned);
        let fingerprint = publish::fingerprint(&fields, &reports);
        let generation = self.subject.object.meta().generation;
        let now = self.driver.options.clock.wall();
        let wanted = publish::document(fields, &last, &reports, generation, now);
        let is_current = match publish::compare(&status, &wanted) {
            Comparison::Same => true,
            // What is there beside it is another's, or a default, if our last write left it there.
            Comparison::More => self.visit.applied == Some(fingerprint),
            Comparison::Different => false,
        };
        if is_current {
            self.visit.pending = None;
            return Ok(None);
        }
        let becomes_provisioned = provisioned && !self.was_provisioned();
        if !at_once && !becomes_provisioned && !picture.is_urgent(&reports) {
            let rest = self.postpone(fingerprint);
            if !rest.is_zero() {
                return Ok(Some(rest));
            }
        }
        self.write_status(wanted).await?;
        self.visit.pending = None;
        self.visit.applied = Some(fingerprint);
        self.announce_changes(&last, &reports);
        Ok(None)
    }

    /// How long this status may still stay unpublished.
    fn postpone(&mut self, fingerprint: u64) -> Duration {
        let now = self.driver.options.clock.monotonic();
        let fresh = Pending {
            fingerprint,
            since: now,
            first: now,
        };
        let pending = self.visit.pending.get_or_insert(fresh);
        if pending.fingerprint != fingerprint {
            pending.fingerprint = fingerprint;
            pending.since = now;
        }
        let due = (pending.since + PUBLISH_AFTER).min(pending.first + PUBLISH_AT_LATEST);
        due.saturating_sub(now)
    }

    /// Derived, and sticky (IC-08, IM-05): once published it stays; otherwise from this pass's look;
    /// without a look, from spec and ledger, which are written when it first holds (MV-03).
    fn is_provisioned(&self) -> bool {
        if self.was_provisioned() {
            return true;
        }
        match &self.told {
            Some(told) => told.complete,
            None => {
                // An open intent may have carried the provider id before the machine ran.
                let proven = |ledger: &Ledger<_>| ledger.proven && ledger.intent.is_none();
                let proven = self.ledger.as_ref().is_some_and(proven);
                proven && self.driver.kind.is_made(&self.subject)
            }
        }
    }

    async fn write_status(&mut self, status: Map<String, Value>) -> Result<(), Stop> {
        let object = json!({
            "apiVersion": ObjectOf::<K>::api_version(&()),
            "kind": ObjectOf::<K>::kind(&()),
            "metadata": {
                "name": self.name.name,
                "namespace": self.name.namespace,
                // An old view must not bring back an old status, least of all one that is not
                // provisioned.
                "resourceVersion": self.subject.object.resource_version(),
            },
            "status": status,
        });
        let params = PatchParams::apply(&self.driver.options.manager).force();
        let api = self.driver.api(&self.name.namespace);
        let written = api
            .patch_status(&self.name.name, &params, &Patch::Apply(&object))
            .await;
        match self.take("status", written) {
            // The finalizer went, and the object with it (WR-05).
            Err(Stop::Gone) => Ok(()),
            other => other,
        }
    }

    /// Tells the user of changes that matter, once each.
    fn announce_changes(
        &self,
        last: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
        reports: &[capi_contract::condition::Report],
    ) {
        use capi_contract::condition::{READY, Status, reason};

        let kind = self.driver.kind.condition();
        let watched = |name: &str| name == kind || name == READY;
        for report in reports.iter().filter(|r| watched(r.kind)) {
            let before = last.iter().find(|c| c.type_ == report.kind);
            if before.is_some_and(|b| b.reason == report.reason && b.message == report.message) {
                continue;
            }
            let is_made = report.kind == kind && report.status == Status::True;
            let is_bad = report.reason.ends_with("Failed")
                || [
                    reason::LOST,
                    reason::MISCONFIGURED,
                    reason::CREDENTIALS,
                    reason::UNREACHABLE,
                    reason::UNSUPPORTED,
                    reason::WAITING_FOR_ADDRESS,
                ]
                .contains(&report.reason.as_str());
            if is_made && before.is_some_and(|b| b.status == "True") || !is_made && !is_bad {
                continue;
            }
            // `Ready` repeats the reason of the condition that it sums up.
            if report.kind == READY
                && reports
                    .iter()
                    .any(|r| r.kind == kind && r.reason == report.reason)
            {
                continue;
            }
            let message = if is_made {
                "the machine's or cluster's infrastructure is provisioned"
            } else {
                report.message.as_str()
            };
            let news = News {
                warning: is_bad,
                reason: &report.reason,
                message,
            };
            self.driver.kind.announce(&self.subject.object, news);
        }
    }

    /// Whether an error settles the step that it came from.
    pub(super) fn note_error(&mut self, class: &Class) {
        if is_answer(class) {
            self.visit.refused();
        }
    }
}

/// What a patch of the ledger carries beside it.
pub(super) struct Extra {
    /// Label of the metric.
    pub(super) name: &'static str,
    pub(super) spec: Option<Map<String, Value>>,
}

fn shown(outcome: &Outcome) -> Option<Shown<'_>> {
    match outcome {
        Outcome::Ignored | Outcome::Released | Outcome::Calm => None,
        Outcome::Paused(message) => Some(Shown::Paused(message)),
        Outcome::Waiting(notice) => Some(Shown::Waiting(notice)),
        Outcome::Unsure(notice) => Some(Shown::Unsure(notice)),
        Outcome::Settled => Some(Shown::Settled),
        Outcome::Lost(notice) => Some(Shown::Lost(notice)),
        Outcome::Deleting(notice) => Some(Shown::Deleting(notice)),
    }
}
