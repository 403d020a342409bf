//! What a candidate may do about a Lease, decided from what it saw and from its own clock alone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::{Value, json};

/// The longest lease that is believed. Nobody who runs this code can hold a longer one, and a record
/// that was edited by hand must not stop all candidates for years.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// What is said in a released record, in seconds: the least that the API allows.
const RELEASED_SECONDS: i32 = 1;

/// What to do about the Lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// There is none: create it.
    Create,
    /// Nobody holds it, or its holder has been silent for its whole duration: take it over.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Another holds it.
    Wait,
}

/// What a candidate remembers of another's record: when it last saw it change.
///
/// The times in the record are never compared with a clock of this machine. A holder whose clock is
/// off by an hour is as good as any other.
#[derive(Debug, Default)]
pub(super) struct Sighting {
    spec: Option<LeaseSpec>,
    changed: Duration,
}

impl Sighting {
    /// Takes in the Lease as it was answered at `now`, and decides.
    pub(super) fn look(&mut self, me: &str, lease: Option<&Lease>, now: Duration) -> Move {
        let Some(lease) = lease else {
            // Deleted by hand while its holder may still act; that holder will make it again.
            return if self.is_silent(me, now) {
                Move::Create
            } else {
                Move::Wait
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.spec.as_ref() != Some(&spec) {
            self.spec = Some(spec);
            self.changed = now;
        }
        match holder(lease) {
            None => Move::Take,
            Some(holder) if holder == me => Move::Renew,
            Some(_) if self.is_silent(me, now) => Move::Take,
            Some(_) => Move::Wait,
        }
    }

    /// Whether no other holder is known who may still act.
    fn is_silent(&self, me: &str, now: Duration) -> bool {
        let Some(spec) = &self.spec else {
            return true;
        };
        match held_in(spec) {
            Some(holder) if holder != me => now >= self.changed.saturating_add(duration(spec)),
            _ => true,
        }
    }
}

/// Who holds a Lease, if anybody.
pub(super) fn holder(lease: &Lease) -> Option<&str> {
    held_in(lease.spec.as_ref()?)
}

fn held_in(spec: &LeaseSpec) -> Option<&str> {
    let holder = spec.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// How long a holder may stay silent, by its own word: it may have been started with other settings
/// than ours, as in a rolling update.
fn duration(spec: &LeaseSpec) -> Duration {
    let said = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    said.map_or(DURATION_MAX, Duration::from_secs)
        .min(DURATION_MAX)
}

/// The merge patch that renews a Lease, or takes it over. Refused with 409 if the Lease is not the
/// one that `seen` shows.
pub(super) fn claim(me: &str, length: Duration, seen: &Lease, wall: Timestamp) -> Value {
    let old = seen.spec.clone().unwrap_or_default();
    let mut spec = json!({
        "holderIdentity": me,
        "leaseDurationSeconds": seconds(length),
        "renewTime": MicroTime(wall),
    });
    if holder(seen) != Some(me) {
        spec["acquireTime"] = json!(MicroTime(wall));
        let transitions = old.lease_transitions.unwrap_or_default();
        spec["leaseTransitions"] = json!(transitions.saturating_add(1));
    }
    guarded(seen, &spec)
}

/// The merge patch that gives a Lease back, so that the next holder need not wait.
pub(super) fn release(seen: &Lease, wall: Timestamp) -> Value {
    let spec = json!({
        "holderIdentity": "",
        "leaseDurationSeconds": RELEASED_SECONDS,
        "renewTime": MicroTime(wall),
    });
    guarded(seen, &spec)
}

/// A new Lease.
pub(super) fn first(me: &str, name: &str, length: Duration, wall: Timestamp) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(name.to_owned());
    lease.spec = Some(LeaseSpec {
        acquire_time: Some(MicroTime(wall)),
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(seconds(length)),
        lease_transitions: Some(0),
        renew_time: Some(MicroTime(wall)),
        ..LeaseSpec::default()
    });
    lease
}

fn guarded(seen: &Lease, spec: &Value) -> Value {
    json!({"metadata": {"resourceVersion": seen.metadata.resource_version}, "spec": spec})
}

/// Whole seconds, rounded up, so that a rival never waits for less than was meant.
fn seconds(length: Duration) -> i32 {
    let whole = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    i32::try_from(whole.max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(15);

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn held_by(holder: &str, renewed: &str) -> Lease {
        let mut lease = first(holder, "lease", LENGTH, time(renewed));
        lease.metadata.resource_version = Some("7".into());
        lease
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[rstest]
    #[case::nobody(None, Move::Create)]
    #[case::mine(Some(held_by("me", "2026-01-01T00:00:00Z")), Move::Renew)]
    #[case::anothers(Some(held_by("you", "2026-01-01T00:00:00Z")), Move::Wait)]
    #[case::anothers_from_the_past(Some(held_by("you", "1990-01-01T00:00:00Z")), Move::Wait)]
    #[case::anothers_from_the_future(Some(held_by("you", "2050-01-01T00:00:00Z")), Move::Wait)]
    #[case::released(Some(held_by("", "2026-01-01T00:00:00Z")), Move::Take)]
    #[case::empty(Some(Lease::default()), Move::Take)]
    fn the_first_look_believes_a_holder_whatever_its_clock_says(
        #[case] lease: Option<Lease>,
        #[case] expected: Move,
    ) {
        let seen = Sighting::default().look("me", lease.as_ref(), at(1_000));
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_silent_holder_is_succeeded_after_its_whole_duration_as_seen_from_here() {
        let mut sighting = Sighting::default();
        let silent = held_by("you", "2026-01-01T00:00:00Z");
        assert_eq!(sighting.look("me", Some(&silent), at(100)), Move::Wait);
        assert_eq!(sighting.look("me", Some(&silent), at(114)), Move::Wait);
        let alive = held_by("you", "2026-01-01T00:00:02Z");
        assert_eq!(sighting.look("me", Some(&alive), at(114)), Move::Wait);
        assert_eq!(sighting.look("me", Some(&alive), at(128)), Move::Wait);
        assert_eq!(sighting.look("me", Some(&alive), at(129)), Move::Take);
    }

    #[test]
    fn a_change_that_is_not_the_holders_does_not_prolong() {
        let mut sighting = Sighting::default();
        let mut lease = held_by("you", "2026-01-01T00:00:00Z");
        assert_eq!(sighting.look("me", Some(&lease), at(0)), Move::Wait);
        lease.metadata.resource_version = Some("8".into());
        lease.metadata.labels = Some([("edited".into(), "yes".into())].into());
        assert_eq!(sighting.look("me", Some(&lease), at(15)), Move::Take);
    }

    #[test]
    fn a_lease_deleted_under_its_holder_is_not_free_yet() {
        let mut sighting = Sighting::default();
        let lease = held_by("you", "2026-01-01T00:00:00Z");
        assert_eq!(sighting.look("me", Some(&lease), at(0)), Move::Wait);
        assert_eq!(sighting.look("me", None, at(14)), Move::Wait);
        assert_eq!(sighting.look("me", None, at(15)), Move::Create);
    }

    #[rstest]
    #[case::longer_than_ours(Some(60), at(59), at(60))]
    #[case::edited_by_hand(Some(i32::MAX), at(3_599), at(3_600))]
    #[case::malformed(Some(-5), at(3_599), at(3_600))]
    #[case::missing(None, at(3_599), at(3_600))]
    fn the_duration_is_the_holders_own_within_bounds(
        #[case] said: Option<i32>,
        #[case] wait: Duration,
        #[case] take: Duration,
    ) {
        let mut lease = held_by("you", "2026-01-01T00:00:00Z");
        lease.spec.as_mut().unwrap().lease_duration_seconds = said;
        let mut sighting = Sighting::default();
        sighting.look("me", Some(&lease), at(0));
        assert_eq!(sighting.look("me", Some(&lease), wait), Move::Wait);
        assert_eq!(sighting.look("me", Some(&lease), take), Move::Take);
    }

    #[test]
    fn every_write_names_the_version_that_was_seen() {
        let seen = held_by("you", "2026-01-01T00:00:00Z");
        let wall = time("2026-01-01T01:00:00Z");
        for patch in [claim("me", LENGTH, &seen, wall), release(&seen, wall)] {
            assert_eq!(patch["metadata"]["resourceVersion"], "7");
        }
    }

    #[test]
    fn a_new_holder_counts_up_and_a_renewal_does_not() {
        let wall = time("2026-01-01T01:00:00Z");
        let taken = claim("me", LENGTH, &held_by("you", "2026-01-01T00:00:00Z"), wall);
        assert_eq!(taken["spec"]["leaseTransitions"], 1);
        assert_eq!(taken["spec"]["acquireTime"], taken["spec"]["renewTime"]);
        let renewed = claim("me", LENGTH, &held_by("me", "2026-01-01T00:00:00Z"), wall);
        assert_eq!(renewed["spec"].get("leaseTransitions"), None);
        assert_eq!(renewed["spec"].get("acquireTime"), None);
    }

    #[rstest]
    #[case(Duration::from_millis(10), 1)]
    #[case(Duration::from_secs(15), 15)]
    #[case(Duration::from_millis(15_001), 16)]
    fn durations_round_up(#[case] length: Duration, #[case] expected: i32) {
        assert_eq!(seconds(length), expected);
    }
}
