//! The crash sweep over the life of a KubeVirt machine and its cluster, and the proof that it can
//! fail.
//!
//! The default run plays every [`STRIDE`]th scenario, and a full sweep is asked for:
//! `KUBEVIRT_SWEEP=full cargo test -p provider-kubevirt --test it sweep::whatever -- --nocapture`.

mod life;
mod weak;

use capi_testkit::sweep::{Family, Sweep};
use rstest::rstest;
use serde_json::Value;

use self::weak::Weakening;
use crate::site::{on_vlan, persistent};

/// A prime, so that it falls on every way in which a call can go wrong.
const STRIDE: usize = 31;

fn stride() -> usize {
    match std::env::var("KUBEVIRT_SWEEP") {
        Ok(wish) if wish == "full" => 1,
        Ok(wish) => wish.parse().unwrap_or(STRIDE),
        Err(_) => STRIDE,
    }
}

#[test]
fn whatever_crashes_and_whenever_one_vm_is_kept_and_nothing_is_left() {
    survives(persistent);
}

/// Claims and addresses are given back, too.
#[test]
fn whatever_crashes_and_whenever_no_address_is_left_behind() {
    survives(|| on_vlan(persistent()));
}

/// Plays the life of a machine.
fn survives(machine: fn() -> Value) {
    let sweep = Sweep::new(move || async move { life::world(Weakening::None, machine()).await });
    let report = sweep.stride(stride()).threads(2).run();
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(
        report.runs > report.calm_built * 3 * Family::ALL.len() / stride(),
        "{report}"
    );
}

/// Each weakening is met by the family of scenarios that it cannot survive, in the stretch of the life
/// that it is about: from the beginning on, or from the deletion of the VM on.
#[rstest]
#[case(Weakening::NamesAreMarks, Family::Strangers, 0)]
#[case(Weakening::NoPreconditions, Family::StaleCrashes, 0)]
#[case(Weakening::CacheProvesAbsence, Family::Crashes, 0)]
#[case(Weakening::TakenNameIsDone, Family::Strangers, 0)]
#[case(Weakening::DeletedIsGone, Family::Answers, 24)]
fn a_weakened_provider_is_caught(
    #[case] weakening: Weakening,
    #[case] family: Family,
    #[case] from_call: usize,
) {
    let sweep = Sweep::new(move || async move { life::world(weakening, persistent()).await });
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
