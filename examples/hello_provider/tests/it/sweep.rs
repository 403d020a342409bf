//! The sweep, and the proof that it can fail.

use capi_testkit::sweep::{Family, Sweep};
use rstest::rstest;

use crate::life;
use crate::port::Weakening;

#[test]
fn whatever_crashes_and_whenever_one_machine_is_kept_and_none_is_left() {
    let sweep = Sweep::new(|| async { life::world(Weakening::None) });
    let report = sweep.pairs(100).threads(2).run();
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    // Every family was played at every call.
    assert!(
        report.runs > report.calm_built * Family::ALL.len(),
        "{report}"
    );
}

/// Each weakening is met by the family of scenarios that it cannot survive.
#[rstest]
#[case(Weakening::SettlesAtOnce, &[Family::Deletions])]
#[case(Weakening::FailedDestroyIsGone, &[Family::Answers])]
#[case(Weakening::NamesAreMarks, &[Family::Strangers])]
#[case(Weakening::NoPreconditions, &[Family::StaleCrashes, Family::StaleViews])]
#[case(Weakening::LooksEmptyAtFirst, &[Family::Crashes])]
fn a_weakened_provider_is_caught(#[case] weakening: Weakening, #[case] families: &[Family]) {
    let sweep = Sweep::new(move || async move { life::world(weakening) });
    let report = sweep.families(families.to_vec()).failures_max(1).run();
    println!("{weakening:?}: {} runs until it was caught", report.runs);
    // The undisturbed life, which is the first run, must not be what fails.
    assert!(
        !report.is_clean() && report.runs > 1,
        "{weakening:?} was not caught in {} runs",
        report.runs
    );
}
