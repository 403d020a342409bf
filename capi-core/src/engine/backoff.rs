//! When to try again, by error class. Pure.

use std::hash::Hash;
use std::time::Duration;

use capi_contract::Class;

/// First delay after a transient error; most are locks and dropped connections that pass at once.
const TRANSIENT_FIRST: Duration = Duration::from_millis(500);
/// Longest delay after transient errors: an outage of an hour costs an object 30 calls, and a backend
/// that comes back is noticed within two minutes.
const TRANSIENT_MAX: Duration = Duration::from_secs(120);
/// How often something else that changed is looked at again at once.
const CONFLICTS_AT_ONCE: u32 = 3;
/// First slow look after a mistake that a person must correct. Changes of the object or of what it
/// names come as events; this look finds corrections on the backend.
const SLOW_FIRST: Duration = Duration::from_secs(10);
/// Longest delay between slow looks (R10: nothing is terminal for ever).
const SLOW_MAX: Duration = Duration::from_secs(300);
/// Longest that a backend may send us away, so that a broken header does not stop an object.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// First and longest delay before credentials are read again.
const CREDENTIALS_FIRST: Duration = Duration::from_secs(1);
const CREDENTIALS_MAX: Duration = Duration::from_secs(60);

/// The delay before the next try after `failures` failures in a row (at least one).
///
/// `seed` spreads the objects that failed at the same moment; equal input gives an equal delay.
pub(crate) fn delay(class: &Class, failures: u32, seed: impl Hash) -> Duration {
    let exact = match class {
        Class::RetryAfter(asked) => return (*asked).clamp(TRANSIENT_FIRST, RETRY_AFTER_MAX),
        Class::Conflict if failures <= CONFLICTS_AT_ONCE => return Duration::ZERO,
        Class::Conflict => growth(TRANSIENT_FIRST, TRANSIENT_MAX, failures - CONFLICTS_AT_ONCE),
        // Another place is chosen, so the first try again need not wait for this one.
        Class::Elsewhere if failures <= 1 => return Duration::ZERO,
        Class::Elsewhere => growth(TRANSIENT_FIRST, TRANSIENT_MAX, failures - 1),
        Class::Dependency(_) | Class::Misconfigured | Class::Terminal => {
            growth(SLOW_FIRST, SLOW_MAX, failures)
        }
        Class::Credentials => credentials(failures),
        // `Transient`, and classes that a later version may add.
        _ => growth(TRANSIENT_FIRST, TRANSIENT_MAX, failures),
    };
    spread(exact, (failures, seed))
}

/// The delay before credentials that were refused `failures` times are read again.
pub(crate) fn credentials(failures: u32) -> Duration {
    growth(CREDENTIALS_FIRST, CREDENTIALS_MAX, failures)
}

/// The delays between looks at a running operation: a task that ends at once must not cost a wait, one
/// of a few hundred milliseconds (a change of configuration, a stop) must not cost a second, and one
/// that takes minutes must not cost a call every second.
pub(crate) fn poll(polls: u32) -> Duration {
    const DELAYS_MS: [u64; 5] = [50, 200, 400, 1_000, 2_000];
    let index = usize::try_from(polls).unwrap_or(usize::MAX);
    let last = DELAYS_MS[DELAYS_MS.len() - 1];
    Duration::from_millis(DELAYS_MS.get(index).copied().unwrap_or(last))
}

/// `first` doubled for each failure after the first, up to `max`.
pub(crate) fn growth(first: Duration, max: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(max)
}

/// Up to a quarter more or less.
fn spread(exact: Duration, seed: impl Hash) -> Duration {
    let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(seed);
    let permille = u32::try_from(hash % 501).unwrap_or(0);
    exact * (750 + permille) / 1000
}

#[cfg(test)]
mod tests {
    use capi_contract::Dependency;

    use super::*;

    fn within(class: &Class, failures: u32, exact: Duration) {
        let got = delay(class, failures, "object");
        assert!(got >= exact * 3 / 4 && got <= exact * 5 / 4, "{got:?}");
    }

    #[test]
    fn transient_errors_grow_and_stay_bounded() {
        within(&Class::Transient, 1, TRANSIENT_FIRST);
        within(&Class::Transient, 2, TRANSIENT_FIRST * 2);
        within(&Class::Transient, 5, TRANSIENT_FIRST * 16);
        within(&Class::Transient, u32::MAX, TRANSIENT_MAX);
    }

    #[test]
    fn a_backend_that_says_when_is_believed_within_bounds() {
        let asked = |d| delay(&Class::RetryAfter(d), 9, "object");
        assert_eq!(asked(Duration::from_secs(3)), Duration::from_secs(3));
        assert_eq!(asked(Duration::ZERO), TRANSIENT_FIRST);
        assert_eq!(asked(Duration::from_secs(1 << 40)), RETRY_AFTER_MAX);
    }

    #[test]
    fn conflicts_are_looked_at_at_once_but_not_for_ever() {
        assert_eq!(delay(&Class::Conflict, 3, "object"), Duration::ZERO);
        within(&Class::Conflict, 4, TRANSIENT_FIRST);
        assert_eq!(delay(&Class::Elsewhere, 1, "object"), Duration::ZERO);
        within(&Class::Elsewhere, 2, TRANSIENT_FIRST);
    }

    #[test]
    fn r10_slow_classes_are_tried_again_for_ever() {
        let dependency = Class::Dependency(Dependency {
            kind: "Secret".into(),
            name: "s".into(),
        });
        for class in [dependency, Class::Misconfigured, Class::Terminal] {
            within(&class, 1, SLOW_FIRST);
            within(&class, 1000, SLOW_MAX);
        }
    }

    #[test]
    fn credentials_are_read_again_after_1_to_60_seconds() {
        let seconds: Vec<_> = (1..=8).map(|n| credentials(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn objects_that_fail_together_do_not_come_back_together() {
        let delays: std::collections::HashSet<_> = (0..20)
            .map(|n| delay(&Class::Transient, 3, format!("machine-{n}")))
            .collect();
        assert!(delays.len() > 15);
    }

    #[test]
    fn a_task_is_polled_soon_and_then_less_often() {
        let ms: Vec<_> = (0..7).map(|n| poll(n).as_millis()).collect();
        assert_eq!(ms, [50, 200, 400, 1000, 2000, 2000, 2000]);
    }
}
