//! The crash sweep over the life of a Proxmox machine and its cluster, and the proof that it can
//! fail.
//!
//! A run takes about a quarter of a second of processor time in a debug build, and there are more than
//! a thousand. So the default run plays every [`STRIDE`]th scenario, and a full sweep is asked for:
//! `PROXMOX_SWEEP=full cargo test -p provider-proxmox --test it sweep::whatever -- --nocapture`.

mod life;
mod weak;

use capi_testkit::sweep::{Family, Sweep};
use rstest::rstest;

use self::weak::Weakening;

/// A prime, so that it falls on every way in which a call can go wrong.
const STRIDE: usize = 31;

fn stride() -> usize {
    match std::env::var("PROXMOX_SWEEP") {
        Ok(wish) if wish == "full" => 1,
        _ => STRIDE,
    }
}

#[test]
fn whatever_crashes_and_whenever_one_vm_is_kept_and_nothing_is_left() {
    let sweep = Sweep::new(|| async { life::world(Weakening::None) });
    let report = sweep.stride(stride()).threads(2).run();
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(
        report.runs > report.calm_built * 3 * Family::ALL.len() / stride(),
        "{report}"
    );
}

/// Each weakening is met by the family of scenarios that it cannot survive, in the stretch of the life
/// that it is about: from the clone on, or from the seed on.
#[rstest]
#[case(Weakening::UnsettledIsAbsent, Family::Crashes, 6)]
#[case(Weakening::NumbersAreMarks, Family::Strangers, 5)]
#[case(Weakening::NoPreconditions, Family::StaleCrashes, 5)]
#[case(Weakening::SentDestroyIsGone, Family::Deletions, 13)]
#[case(Weakening::SeedIsForgotten, Family::Deletions, 13)]
fn a_weakened_provider_is_caught(
    #[case] weakening: Weakening,
    #[case] family: Family,
    #[case] from_call: usize,
) {
    let sweep = Sweep::new(move || async move { life::world(weakening) });
    let sweep = sweep.families([family]).from_call(from_call);
    let report = sweep.failures_max(1).run();
    // The undisturbed life, which is the first run, must not be what fails.
    assert!(
        !report.is_clean() && report.runs > 1,
        "{weakening:?} was not caught in {} runs",
        report.runs
    );
    println!(
        "{weakening:?} was caught in run {}: {}",
        report.runs, report.failures[0].reason
    );
}
