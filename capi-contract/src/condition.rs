//! Conditions: types, reasons, summary, order (contract rules CO-*).
//!
//! Conditions are output only. They are made from the result of a pass, never read to decide (R12).

use std::cmp::Ordering;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The summary of all others (CO-04).
pub const READY: &str = "Ready";
/// Whether the object is paused (PA-03).
pub const PAUSED: &str = "Paused";
/// Whether it is being deleted, with progress; negative polarity (CO-06).
pub const DELETING: &str = "Deleting";

/// Reasons that Cluster API names, so that users find the same words in every provider (CO-05).
pub mod reason {
    /// `Ready` is true.
    pub const READY: &str = "Ready";
    /// `Ready` is false.
    pub const NOT_READY: &str = "NotReady";
    /// `Ready` cannot be told.
    pub const READY_UNKNOWN: &str = "ReadyUnknown";
    /// A condition that nobody has reported yet.
    pub const NOT_YET_REPORTED: &str = "NotYetReported";
    /// The Cluster's infrastructure is not there yet.
    pub const WAITING_FOR_CLUSTER_INFRASTRUCTURE_READY: &str =
        "WaitingForClusterInfrastructureReady";
    /// The first control-plane machine is not up yet.
    pub const WAITING_FOR_CONTROL_PLANE_INITIALIZED: &str = "WaitingForControlPlaneInitialized";
    /// The bootstrap data does not exist yet.
    pub const WAITING_FOR_BOOTSTRAP_DATA: &str = "WaitingForBootstrapData";
    /// Core has not set the endpoint yet (IC-05).
    pub const WAITING_FOR_CONTROL_PLANE_ENDPOINT: &str = "WaitingForControlPlaneEndpoint";
    /// A pool has not given an address yet (IPC-04).
    pub const WAITING_FOR_ADDRESS: &str = "WaitingForIPAddress";
    /// A Kubernetes object that the provider needs is not there yet.
    pub const WAITING_FOR_OBJECT: &str = "WaitingForObject";
    /// Machines of the cluster still exist (IC-14).
    pub const WAITING_FOR_MACHINES: &str = "WaitingForMachinesDeletion";
    /// The thing is made.
    pub const PROVISIONED: &str = "Provisioned";
    /// The thing is not made yet.
    pub const NOT_PROVISIONED: &str = "NotProvisioned";
    /// It is being deleted.
    pub const DELETING: &str = "Deleting";
    /// It is not being deleted.
    pub const NOT_DELETING: &str = "NotDeleting";
    /// It is gone.
    pub const DELETION_COMPLETED: &str = "DeletionCompleted";
    /// The program failed in a way that is no user's mistake.
    pub const INTERNAL_ERROR: &str = "InternalError";
    /// It is paused.
    pub const PAUSED: &str = "Paused";
    /// It is not paused.
    pub const NOT_PAUSED: &str = "NotPaused";
    /// Once seen, it is gone or damaged for good; remediation replaces it (R9).
    pub const LOST: &str = "Lost";
    /// The spec asks for what this version does not do.
    pub const UNSUPPORTED: &str = "UnsupportedField";
    /// The spec is wrong; the message names the field.
    pub const MISCONFIGURED: &str = "Misconfigured";
    /// The credentials are missing, refused, or lack a right.
    pub const CREDENTIALS: &str = "CredentialsRefused";
    /// The backend cannot be reached.
    pub const UNREACHABLE: &str = "BackendUnreachable";
    /// A hook holds.
    pub const HELD_BY_HOOK: &str = "HeldByHook";
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

impl Status {
    /// The word that Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

/// The longest message that is published. The API allows 32,768 characters; a condition is for
/// reading.
pub const MESSAGE_MAX: usize = 1024;

/// What a pass says about one condition, before it is merged with the last status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its type.
    pub kind: &'static str,
    /// Its status.
    pub status: Status,
    /// CamelCase reason.
    pub reason: String,
    /// Message for people; deterministic (CO-07).
    pub message: String,
}

impl Report {
    /// A report. An empty or malformed reason becomes `InternalError`, because one malformed
    /// condition spoils the whole mirror in core (CO-01).
    pub fn new(
        kind: &'static str,
        status: Status,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let mut reason = reason.into();
        if !is_reason(&reason) {
            reason = reason::INTERNAL_ERROR.to_owned();
        }
        Self {
            kind,
            status,
            reason,
            message: shorten(message.into()),
        }
    }
}

/// Whether a text is a valid reason: CamelCase, 1 to 1024 characters (CO-01).
pub fn is_reason(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 1024
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':'))
        && !text.ends_with([',', ':'])
}

fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let cut = (0..=MESSAGE_MAX - 3)
            .rev()
            .find(|&at| message.is_char_boundary(at))
            .unwrap_or(0);
        message.truncate(cut);
        message.push_str("...");
    }
    message
}

/// The summary `Ready` of a set of reports (CO-04): an issue outweighs an unknown, that outweighs
/// good news; with one issue its reason is taken, with several `NotReady`.
///
/// Every report is of positive polarity, except `Deleting` and `Paused`: deleting makes the object
/// not ready, pausing says nothing about it.
pub fn summary(reports: &[Report]) -> Report {
    let is_issue = |r: &&Report| {
        if r.kind == DELETING {
            r.status == Status::True
        } else {
            r.status == Status::False
        }
    };
    let counted = || {
        reports
            .iter()
            .filter(|r| r.kind != PAUSED && r.kind != READY)
    };
    let issues: Vec<_> = counted().filter(is_issue).collect();
    let unknown: Vec<_> = counted().filter(|r| r.status == Status::Unknown).collect();
    let (status, several, found) = if !issues.is_empty() {
        (Status::False, reason::NOT_READY, issues)
    } else if !unknown.is_empty() {
        (Status::Unknown, reason::READY_UNKNOWN, unknown)
    } else {
        return Report::new(READY, Status::True, reason::READY, "");
    };
    match found.as_slice() {
        [one] => Report::new(READY, status, one.reason.clone(), one.message.clone()),
        many => {
            let lines: Vec<_> = many
                .iter()
                .map(|r| format!("* {}: {}", r.kind, r.message))
                .collect();
            Report::new(READY, status, several, lines.join("\n"))
        }
    }
}

/// Merges reports into the conditions of the last status: the transition time changes only with the
/// status and is in whole seconds (CO-02); order as in CO-08. Types that are not reported are not
/// ours and are left out, since server-side apply keeps them (CO-09).
pub fn merge(
    last: &[Condition],
    reports: &[Report],
    generation: Option<i64>,
    now: jiff::Timestamp,
) -> Vec<Condition> {
    let now = Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now));
    let mut merged: Vec<_> = reports
        .iter()
        .map(|report| {
            let before = last.iter().find(|c| c.type_ == report.kind);
            let kept = before.filter(|c| c.status == report.status.as_str());
            Condition {
                type_: report.kind.to_owned(),
                status: report.status.as_str().to_owned(),
                reason: report.reason.clone(),
                message: report.message.clone(),
                observed_generation: generation,
                last_transition_time: kept.map_or(now.clone(), |c| c.last_transition_time.clone()),
            }
        })
        .collect();
    merged.sort_by(|a, b| order(&a.type_, &b.type_));
    merged
}

/// `Available` and `Ready` first, `Deleting` and `Paused` last, the others by name (CO-08).
pub fn order(a: &str, b: &str) -> Ordering {
    let rank = |kind: &str| match kind {
        "Available" => 0,
        READY => 1,
        DELETING => 3,
        PAUSED => 4,
        _ => 2,
    };
    rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn report(kind: &'static str, status: Status, reason: &str) -> Report {
        Report::new(kind, status, reason, format!("about {kind}"))
    }

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    #[rstest]
    #[case::all_good(&[("A", Status::True, "Fine")], Status::True, "Ready")]
    #[case::one_issue(&[("A", Status::False, "Cloning"), ("B", Status::True, "Fine")], Status::False, "Cloning")]
    #[case::issue_beats_unknown(&[("A", Status::Unknown, "NotYetReported"), ("B", Status::False, "Lost")], Status::False, "Lost")]
    #[case::unknown_beats_good(&[("A", Status::Unknown, "NotYetReported"), ("B", Status::True, "Fine")], Status::Unknown, "NotYetReported")]
    #[case::two_issues(&[("A", Status::False, "X"), ("B", Status::False, "Y")], Status::False, "NotReady")]
    #[case::two_unknown(&[("A", Status::Unknown, "X"), ("B", Status::Unknown, "Y")], Status::Unknown, "ReadyUnknown")]
    #[case::deleting_is_negative(&[("A", Status::True, "Fine"), (DELETING, Status::True, "Deleting")], Status::False, "Deleting")]
    #[case::not_deleting(&[("A", Status::True, "Fine"), (DELETING, Status::False, "NotDeleting")], Status::True, "Ready")]
    #[case::paused_says_nothing(&[("A", Status::True, "Fine"), (PAUSED, Status::True, "Paused")], Status::True, "Ready")]
    fn co_04_summary(
        #[case] reports: &[(&'static str, Status, &str)],
        #[case] status: Status,
        #[case] reason: &str,
    ) {
        let reports: Vec<_> = reports.iter().map(|(k, s, r)| report(k, *s, r)).collect();
        let ready = summary(&reports);
        assert_eq!((ready.status, ready.reason.as_str()), (status, reason));
    }

    #[test]
    fn co_02_transition_time_changes_only_with_the_status() {
        let first = merge(&[], &[report("A", Status::False, "X")], Some(1), at(100));
        let reworded = merge(&first, &[report("A", Status::False, "Y")], Some(2), at(200));
        assert_eq!(
            reworded[0].last_transition_time,
            first[0].last_transition_time
        );
        assert_eq!(reworded[0].reason, "Y");
        assert_eq!(reworded[0].observed_generation, Some(2));
        let turned = merge(
            &reworded,
            &[report("A", Status::True, "Z")],
            Some(2),
            at(300),
        );
        assert_eq!(turned[0].last_transition_time.0, at(300));
    }

    #[test]
    fn co_02_transition_time_is_in_whole_seconds() {
        let now = jiff::Timestamp::from_millisecond(1_234_567).unwrap();
        let merged = merge(&[], &[report("A", Status::True, "X")], None, now);
        assert_eq!(merged[0].last_transition_time.0, at(1234));
    }

    /// The words that core and dashboards compare with; a typo here would pass everywhere else.
    #[test]
    fn co_05_reasons_are_the_words_of_cluster_api() {
        let ours = [
            reason::WAITING_FOR_CLUSTER_INFRASTRUCTURE_READY,
            reason::WAITING_FOR_CONTROL_PLANE_INITIALIZED,
            reason::WAITING_FOR_BOOTSTRAP_DATA,
            reason::PROVISIONED,
            reason::NOT_PROVISIONED,
            reason::DELETING,
            reason::DELETION_COMPLETED,
            reason::INTERNAL_ERROR,
        ];
        let theirs = "WaitingForClusterInfrastructureReady WaitingForControlPlaneInitialized \
                      WaitingForBootstrapData Provisioned NotProvisioned Deleting \
                      DeletionCompleted InternalError";
        assert_eq!(ours.join(" "), theirs);
        assert!(ours.into_iter().all(is_reason));
    }

    #[test]
    fn co_08_order() {
        let kinds = [PAUSED, "B", DELETING, READY, "A"];
        let reports: Vec<_> = kinds.iter().map(|k| report(k, Status::True, "X")).collect();
        let merged = merge(&[], &reports, None, at(0));
        let order: Vec<_> = merged.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(order, [READY, "A", "B", DELETING, PAUSED]);
    }

    #[test]
    fn co_09_foreign_conditions_are_not_ours_to_write() {
        let foreign = merge(&[], &[report("Theirs", Status::True, "X")], None, at(0));
        let merged = merge(&foreign, &[report("A", Status::True, "X")], None, at(0));
        assert!(merged.iter().all(|c| c.type_ != "Theirs"));
    }

    proptest! {
        #[test]
        fn co_01_no_report_is_malformed(reason in ".{0,40}", message in ".{0,3000}") {
            let report = Report::new("A", Status::True, reason, message);
            prop_assert!(is_reason(&report.reason));
            prop_assert!(report.message.len() <= MESSAGE_MAX);
        }
    }
}
