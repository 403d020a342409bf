//! From what a pass found to the status that is written. Pure.

use std::time::Duration;

use capi_contract::condition::{
    DELETING, PAUSED, READY, Report, Status as Is, merge, order, reason, summary,
};
use capi_contract::{Class, Health};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Map, Value};

use super::outcome::{Failure, Notice};

/// How many transient failures in a row are kept quiet while a thing is being made.
const QUIET_FAILURES: u32 = 2;
/// How long a backend may be silent before a finished thing is reported as unknown: shorter blips must
/// not flap `Ready`, which health checks act on (CO-10).
const QUIET_TIME: Duration = Duration::from_secs(60);

/// What is shown of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'a> {
    Paused(&'a str),
    Waiting(&'a Notice),
    Unsure(&'a Notice),
    Settled,
    Lost(&'a Notice),
    Deleting(&'a Notice),
    /// A failure, how many in a row, and for how long.
    Failed(&'a Failure, u32, Duration),
}

/// Everything that the conditions are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picture<'a> {
    /// Type of the condition that says whether the thing is made.
    pub(crate) condition: &'static str,
    /// The conditions of the last status.
    pub(crate) last: &'a [Condition],
    pub(crate) provisioned: bool,
    pub(crate) deleting: bool,
    pub(crate) health: Option<&'a Health>,
    /// Types of further conditions.
    pub(crate) further: &'static [&'static str],
    /// What this pass has learned of them.
    pub(crate) told: &'a [Report],
    pub(crate) shown: Shown<'a>,
}

/// The conditions of a status, without those that cannot be read: some Go providers wrote conditions
/// of an older form, and one of them must not hide the others.
pub(crate) fn conditions_of(status: &Map<String, Value>) -> Vec<Condition> {
    let Some(Value::Array(all)) = status.get("conditions") else {
        return Vec::new();
    };
    all.iter()
        .filter_map(|one| serde_json::from_value(one.clone()).ok())
        .collect()
}

impl Picture<'_> {
    /// The reports of all conditions that the engine owns, `Ready` included.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let mut all = self.of_contract();
        all.extend(self.further.iter().filter_map(|kind| self.further(kind)));
        all
    }

    /// A further condition: as it was told, else as it was, else none.
    fn further(&self, kind: &'static str) -> Option<Report> {
        let told = self.told.iter().find(|report| report.kind == kind);
        told.cloned().or_else(|| {
            let known = self.last.iter().any(|last| last.type_ == kind);
            known.then(|| self.kept(kind))
        })
    }

    fn of_contract(&self) -> Vec<Report> {
        let mut all = match self.shown {
            Shown::Paused(message) => {
                let paused = Report::new(PAUSED, Is::True, reason::PAUSED, message);
                let kept = [self.condition, DELETING, READY].map(|kind| self.kept(kind));
                return kept.into_iter().chain([paused]).collect();
            }
            Shown::Deleting(notice) => self.deleting(notice),
            Shown::Failed(failure, count, since) => self.failed(failure, count, since),
            Shown::Waiting(notice) => self.waiting(notice, Is::False),
            Shown::Unsure(notice) => self.waiting(notice, Is::Unknown),
            Shown::Settled => self.settled(),
            Shown::Lost(notice) => {
                let message = notice.message.as_ref();
                vec![Report::new(
                    self.condition,
                    Is::False,
                    reason::LOST,
                    message,
                )]
            }
        };
        if !all.iter().any(|r| r.kind == READY) {
            let ready = summary(&all);
            // What holds back only `Ready` is not a condition of its own.
            all.retain(|r| r.kind == self.condition || r.kind == DELETING);
            all.push(ready);
        }
        if !all.iter().any(|r| r.kind == DELETING) {
            let not = Report::new(DELETING, Is::False, reason::NOT_DELETING, "");
            all.push(not);
        }
        all.push(Report::new(PAUSED, Is::False, reason::NOT_PAUSED, ""));
        all
    }

    fn settled(&self) -> Vec<Report> {
        let made = Report::new(self.condition, Is::True, reason::PROVISIONED, "");
        match self.health {
            None | Some(Health::Good) => vec![made],
            Some(Health::Held { reason, message }) => {
                vec![made, Report::new(HELD, Is::False, *reason, message.clone())]
            }
        }
    }

    fn waiting(&self, notice: &Notice, certainty: Is) -> Vec<Report> {
        let (why, message) = (notice.reason.as_ref(), notice.message.as_ref());
        if self.provisioned {
            let made = Report::new(self.condition, Is::True, reason::PROVISIONED, "");
            vec![made, Report::new(HELD, certainty, why, message)]
        } else {
            vec![Report::new(self.condition, Is::False, why, message)]
        }
    }

    fn deleting(&self, notice: &Notice) -> Vec<Report> {
        let message = notice.message.as_ref();
        let why = notice.reason.as_ref();
        vec![
            self.kept(self.condition),
            Report::new(DELETING, Is::True, why, message),
            Report::new(READY, Is::False, reason::DELETING, message),
        ]
    }

    fn failed(&self, failure: &Failure, count: u32, since: Duration) -> Vec<Report> {
        if self.deleting {
            let why = failure_reason(failure);
            return self.deleting(&Notice::new(why, failure.message.clone(), Duration::ZERO));
        }
        if self.is_quiet(failure, count, since) {
            return vec![
                self.kept(self.condition),
                self.kept(DELETING),
                self.kept(READY),
            ];
        }
        let certainty = match failure.class {
            Class::Transient | Class::Conflict | Class::Credentials => Is::Unknown,
            _ => Is::False,
        };
        let why = failure_reason(failure);
        self.waiting(
            &Notice::new(why, failure.message.clone(), Duration::ZERO),
            certainty,
        )
    }

    fn is_quiet(&self, failure: &Failure, count: u32, since: Duration) -> bool {
        match failure.class {
            Class::Transient if self.provisioned => since < QUIET_TIME,
            Class::Transient | Class::Conflict | Class::Elsewhere => count <= QUIET_FAILURES,
            _ => false,
        }
    }

    fn kept(&self, kind: &'static str) -> Report {
        let found = self.last.iter().find(|c| c.type_ == kind);
        match found {
            Some(last) => Report::new(
                kind,
                status_of(last),
                last.reason.clone(),
                last.message.clone(),
            ),
            None if kind == DELETING => Report::new(kind, Is::False, reason::NOT_DELETING, ""),
            None if kind == self.condition && self.provisioned => {
                Report::new(kind, Is::True, reason::PROVISIONED, "")
            }
            None => Report::new(kind, Is::Unknown, reason::NOT_YET_REPORTED, ""),
        }
    }

    /// Whether the reports must be seen at once: the first visit, a change of pause, deletion,
    /// provisioning or loss, and an error that waits for a person. The rest may be 2 s late.
    pub(crate) fn is_urgent(&self, reports: &[Report]) -> bool {
        let last = |kind: &str| self.last.iter().find(|c| c.type_ == kind);
        let new = |kind: &str| reports.iter().find(|r| r.kind == kind);
        let changes = |kind: &str| match (last(kind), new(kind)) {
            (Some(last), Some(new)) => last.status != new.status.as_str(),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if changes(READY) && last(READY).is_none() || changes(PAUSED) || changes(DELETING) {
            return true;
        }
        match self.shown {
            Shown::Settled | Shown::Lost(_) | Shown::Paused(_) => true,
            Shown::Failed(failure, ..) => matches!(
                failure.class,
                Class::Misconfigured | Class::Credentials | Class::Terminal
            ),
            Shown::Waiting(_) | Shown::Unsure(_) | Shown::Deleting(_) => {
                new(self.condition).is_some_and(|r| r.status == Is::True) && changes(self.condition)
            }
        }
    }
}

/// Type of a report that holds back `Ready` and is not published itself.
const HELD: &str = "Held";

fn status_of(condition: &Condition) -> Is {
    match condition.status.as_str() {
        "True" => Is::True,
        "False" => Is::False,
        _ => Is::Unknown,
    }
}

fn failure_reason(failure: &Failure) -> String {
    match &failure.class {
        Class::Misconfigured => reason::MISCONFIGURED.to_owned(),
        Class::Credentials => reason::CREDENTIALS.to_owned(),
        Class::Dependency(_) => reason::WAITING_FOR_OBJECT.to_owned(),
        Class::Transient if failure.call == "Observe" || failure.call == "Connect" => {
            reason::UNREACHABLE.to_owned()
        }
        _ => format!("{}Failed", failure.call),
    }
}

/// The status fields beside the conditions: what was told, or a copy of the last where nothing was.
pub(crate) fn fields(
    last: &Map<String, Value>,
    told: Option<&Map<String, Value>>,
    provisioned: bool,
) -> Map<String, Value> {
    let mut status = told.unwrap_or(last).clone();
    status.remove("conditions");
    status.remove("initialization");
    strip_nulls(&mut status);
    // Never `{}` (CRD-10) and never back to false (IC-08, IM-05).
    if provisioned {
        let initialization = serde_json::json!({"provisioned": true});
        status.insert("initialization".to_owned(), initialization);
    }
    status
}

/// Completes a status with its conditions.
pub(crate) fn document(
    mut fields: Map<String, Value>,
    last: &[Condition],
    reports: &[Report],
    generation: Option<i64>,
    now: Timestamp,
) -> Map<String, Value> {
    let conditions: Vec<_> = merge(last, reports, generation, now)
        .iter()
        .filter_map(|condition| serde_json::to_value(condition).ok())
        .collect();
    fields.insert("conditions".to_owned(), Value::Array(conditions));
    fields
}

fn strip_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    for value in map.values_mut() {
        if let Value::Object(inner) = value {
            strip_nulls(inner);
        }
    }
}

/// How the status that is there compares with the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Comparison {
    Same,
    /// All that is wanted is there, and more: fields that somebody else owns, defaults of the server,
    /// or an own field that is not wanted any more.
    More,
    Different,
}

/// Compares two states; of conditions only the wanted types count, and not their times (CO-09).
pub(crate) fn compare(current: &Map<String, Value>, wanted: &Map<String, Value>) -> Comparison {
    let mut worst = if current.keys().all(|key| wanted.contains_key(key)) {
        Comparison::Same
    } else {
        Comparison::More
    };
    for (key, value) in wanted {
        let one = match current.get(key) {
            None => Comparison::Different,
            Some(there) if key == "conditions" => conditions_compare(there, value),
            Some(there) => values_compare(there, value),
        };
        worst = worst.max(one);
    }
    worst
}

fn values_compare(current: &Value, wanted: &Value) -> Comparison {
    match (current, wanted) {
        (Value::Object(current), Value::Object(wanted)) => {
            let mut worst = if current.keys().all(|key| wanted.contains_key(key)) {
                Comparison::Same
            } else {
                Comparison::More
            };
            for (key, value) in wanted {
                let one = current
                    .get(key)
                    .map_or(Comparison::Different, |there| values_compare(there, value));
                worst = worst.max(one);
            }
            worst
        }
        (Value::Array(current), Value::Array(wanted)) if current.len() == wanted.len() => current
            .iter()
            .zip(wanted)
            .map(|(there, value)| values_compare(there, value))
            .max()
            .unwrap_or(Comparison::Same),
        (current, wanted) if current == wanted => Comparison::Same,
        _ => Comparison::Different,
    }
}

fn conditions_compare(current: &Value, wanted: &Value) -> Comparison {
    let empty = Vec::new();
    let current = current.as_array().unwrap_or(&empty);
    let all_there = wanted.as_array().unwrap_or(&empty).iter().all(|one| {
        let same_kind = current.iter().find(|there| there["type"] == one["type"]);
        same_kind.is_some_and(|there| {
            ["status", "reason", "message", "observedGeneration"]
                .iter()
                .all(|field| there.get(*field) == one.get(*field))
        })
    });
    if all_there {
        Comparison::Same
    } else {
        Comparison::Different
    }
}

/// A fingerprint of a wanted status, without times.
pub(crate) fn fingerprint(fields: &Map<String, Value>, reports: &[Report]) -> u64 {
    let mut sorted: Vec<_> = reports.iter().collect();
    sorted.sort_by(|a, b| order(a.kind, b.kind));
    let conditions: Vec<_> = sorted
        .iter()
        .map(|r| (r.kind, r.status, &r.reason, &r.message))
        .collect();
    let text = Value::Object(fields.clone()).to_string();
    ahash::RandomState::with_seeds(5, 6, 7, 8).hash_one((text, conditions))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const MADE: &str = "VMProvisioned";

    fn notice() -> Notice {
        Notice::new("Clone", "cloning", Duration::ZERO)
    }

    fn show(shown: Shown<'_>, provisioned: bool, last: &[Condition]) -> (Vec<Report>, bool) {
        let picture = Picture {
            condition: MADE,
            last,
            provisioned,
            deleting: false,
            health: None,
            further: &[],
            told: &[],
            shown,
        };
        let reports = picture.reports();
        let urgent = picture.is_urgent(&reports);
        (reports, urgent)
    }

    fn brief(reports: &[Report], kind: &str) -> (Is, String) {
        let report = reports.iter().find(|r| r.kind == kind).unwrap();
        (report.status, report.reason.clone())
    }

    fn conditions(reports: &[Report]) -> Vec<Condition> {
        merge(&[], reports, Some(1), Timestamp::UNIX_EPOCH)
    }

    fn failure(class: Class) -> Failure {
        Failure::new("Clone", class, "cloning template 9000 failed")
    }

    #[test]
    fn further_conditions_are_shown_kept_and_without_say_about_ready() {
        const FURTHER: &[&str] = &["LiveMigratable", "Unheard"];
        let told = [Report::new(
            "LiveMigratable",
            Is::False,
            "HasHostDevice",
            "gpu",
        )];
        let mut picture = Picture {
            condition: MADE,
            last: &[],
            provisioned: true,
            deleting: false,
            health: Some(&Health::Good),
            further: FURTHER,
            told: &told,
            shown: Shown::Settled,
        };
        let reports = picture.reports();
        assert_eq!(
            brief(&reports, "LiveMigratable"),
            (Is::False, "HasHostDevice".to_owned())
        );
        assert_eq!(brief(&reports, READY).0, Is::True);
        assert!(!reports.iter().any(|report| report.kind == "Unheard"));
        // A pass without a look leaves it as it was.
        let last = conditions(&reports);
        picture.last = &last;
        picture.told = &[];
        let kept = picture.reports();
        assert_eq!(
            brief(&kept, "LiveMigratable"),
            (Is::False, "HasHostDevice".to_owned())
        );
    }

    #[test]
    fn all_conditions_are_there_from_the_first_visit() {
        let (reports, urgent) = show(Shown::Waiting(&notice()), false, &[]);
        let kinds: Vec<_> = reports.iter().map(|r| r.kind).collect();
        for kind in [MADE, READY, DELETING, PAUSED] {
            assert!(kinds.contains(&kind), "{kind}");
        }
        assert_eq!(kinds.len(), 4);
        assert!(urgent);
        assert_eq!(brief(&reports, READY), (Is::False, "Clone".into()));
    }

    #[test]
    fn a_later_wait_is_not_urgent_and_provisioned_lost_deleting_are() {
        let (first, _) = show(Shown::Waiting(&notice()), false, &[]);
        let last = conditions(&first);
        let other = Notice::new("Start", "starting", Duration::ZERO);
        assert!(!show(Shown::Waiting(&other), false, &last).1);
        assert!(show(Shown::Settled, true, &last).1);
        assert!(show(Shown::Lost(&other), true, &last).1);
        let (deleting, urgent) = show(Shown::Deleting(&other), true, &last);
        assert!(urgent);
        let last = conditions(&deleting);
        assert!(!show(Shown::Deleting(&notice()), true, &last).1);
    }

    #[test]
    fn co_06_a_deletion_shows_with_progress() {
        let (reports, _) = show(Shown::Deleting(&notice()), true, &[]);
        assert_eq!(brief(&reports, DELETING), (Is::True, "Clone".into()));
        assert_eq!(brief(&reports, READY), (Is::False, "Deleting".into()));
    }

    #[test]
    fn pa_04_a_pause_changes_only_paused() {
        let (running, _) = show(Shown::Settled, true, &[]);
        let last = conditions(&running);
        let (paused, urgent) = show(Shown::Paused("Cluster c has spec.paused"), true, &last);
        assert!(urgent);
        assert_eq!(brief(&paused, PAUSED), (Is::True, "Paused".into()));
        for kind in [MADE, READY, DELETING] {
            assert_eq!(brief(&paused, kind), brief(&running, kind));
        }
    }

    #[test]
    fn a_finished_machine_that_waits_stays_provisioned_and_is_not_ready() {
        let (reports, _) = show(Shown::Waiting(&notice()), true, &[]);
        assert_eq!(brief(&reports, MADE), (Is::True, "Provisioned".into()));
        assert_eq!(brief(&reports, READY), (Is::False, "Clone".into()));
        assert_eq!(reports.len(), 4);
        let (unsure, _) = show(Shown::Unsure(&notice()), true, &[]);
        assert_eq!(brief(&unsure, READY).0, Is::Unknown);
    }

    #[test]
    fn health_holds_back_ready_only() {
        let health = Health::Held {
            reason: "BootstrapUnfinished",
            message: "the sentinel is missing".into(),
        };
        let picture = Picture {
            condition: MADE,
            last: &[],
            provisioned: true,
            deleting: false,
            health: Some(&health),
            further: &[],
            told: &[],
            shown: Shown::Settled,
        };
        let reports = picture.reports();
        assert_eq!(brief(&reports, MADE).0, Is::True);
        assert_eq!(
            brief(&reports, READY),
            (Is::False, "BootstrapUnfinished".into())
        );
    }

    #[rstest]
    #[case(Class::Transient, 2, Is::Unknown, "NotYetReported")]
    #[case(Class::Transient, 3, Is::False, "CloneFailed")]
    #[case(Class::Misconfigured, 1, Is::False, "Misconfigured")]
    #[case(Class::Credentials, 1, Is::False, "CredentialsRefused")]
    #[case(Class::Terminal, 1, Is::False, "CloneFailed")]
    #[case(Class::RetryAfter(Duration::from_secs(1)), 1, Is::False, "CloneFailed")]
    #[case(Class::Elsewhere, 2, Is::Unknown, "NotYetReported")]
    fn failures_show_by_class(
        #[case] class: Class,
        #[case] count: u32,
        #[case] status: Is,
        #[case] why: &str,
    ) {
        let failure = failure(class);
        let shown = Shown::Failed(&failure, count, Duration::from_secs(1));
        let (reports, _) = show(shown, false, &[]);
        assert_eq!(brief(&reports, MADE), (status, why.to_owned()));
    }

    #[test]
    fn co_10_a_blip_of_the_backend_does_not_flap_ready() {
        let (running, _) = show(Shown::Settled, true, &[]);
        let last = conditions(&running);
        let failure = Failure::new("Observe", Class::Transient, "listing failed");
        let blip = Shown::Failed(&failure, 9, Duration::from_secs(59));
        assert_eq!(brief(&show(blip, true, &last).0, READY).0, Is::True);
        let outage = Shown::Failed(&failure, 9, Duration::from_secs(60));
        let (reports, _) = show(outage, true, &last);
        assert_eq!(brief(&reports, MADE).0, Is::True);
        assert_eq!(
            brief(&reports, READY),
            (Is::Unknown, "BackendUnreachable".into())
        );
    }

    #[test]
    fn r12_what_is_not_known_is_copied_and_provisioned_stays() {
        let last = json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "initialization": {"provisioned": true}, "conditions": []});
        let last = last.as_object().unwrap();
        let copied = fields(last, None, true);
        assert_eq!(copied["addresses"], last["addresses"]);
        assert_eq!(copied["initialization"]["provisioned"], true);
        let told = json!({"addresses": null, "vmID": 7});
        let told = fields(last, told.as_object(), false);
        assert_eq!(Value::Object(told), json!({"vmID": 7}));
    }

    #[test]
    fn r13_equal_states_compare_as_same_whatever_their_times() {
        let wanted = json!({"vmID": 7, "conditions": [{"type": "Ready", "status": "True",
            "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let mut there = wanted.clone();
        there["conditions"][0]["lastTransitionTime"] = json!("2025-01-01T00:00:00Z");
        there["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "Theirs", "status": "True"}));
        let against =
            |there: &Value| compare(there.as_object().unwrap(), wanted.as_object().unwrap());
        assert_eq!(against(&there), Comparison::Same);
        there["theirs"] = json!(1);
        assert_eq!(against(&there), Comparison::More);
        there["vmID"] = json!(8);
        assert_eq!(against(&there), Comparison::Different);
        assert_eq!(against(&json!({})), Comparison::Different);
    }
}
