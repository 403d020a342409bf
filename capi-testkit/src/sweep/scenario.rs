//! What goes wrong in one run.

use std::fmt::{Display, Formatter};

use crate::faults::{Fate, Injected, Side, random};
use crate::sweep::Timing;

/// What nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interference {
    /// Somebody else's thing takes the identity that was claimed, or may be claimed next.
    Stranger,
    /// The thing is removed by hand.
    Removal,
}

/// A family of scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// The process dies at each call: before it, after it, or with the call landing late.
    Crashes,
    /// The same, while the controller sees Kubernetes as it was before that call.
    StaleCrashes,
    /// The process lives, and each call is lost: before, after, late; or refused with 409, 429, 500.
    Answers,
    /// The controller sees Kubernetes as it was before each call, without a crash.
    StaleViews,
    /// The object is deleted right before each call of its making; also with a crash at that call.
    Deletions,
    /// A stranger takes the identity right before each call.
    Strangers,
    /// The thing is removed by hand right before each call, and once all is built.
    Removals,
    /// Two faults of any kind, drawn from the seed.
    Pairs,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Crashes,
        Self::StaleCrashes,
        Self::Answers,
        Self::StaleViews,
        Self::Deletions,
        Self::Strangers,
        Self::Removals,
        Self::Pairs,
    ];
}

/// What goes wrong in one run. The default is nothing.
///
/// Numbers are those of mutating calls, from 0, restarts included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scenario {
    /// What becomes of calls.
    pub fates: Vec<(usize, Fate)>,
    /// From which call on the view is stale, for a while.
    pub stale_from: Option<usize>,
    /// Before which call the object is deleted.
    pub delete_at: Option<usize>,
    /// Before which call something else happens; `None` in place of the number: once all is built.
    pub interference: Option<(Option<usize>, Interference)>,
}

impl Scenario {
    /// The first mutating call at which something goes wrong; the largest number if that is only once
    /// all is built.
    pub(super) fn begins_at(&self) -> usize {
        let fates = self.fates.iter().map(|(number, _)| *number);
        let interference = self.interference.and_then(|(number, _)| number);
        fates
            .chain(self.stale_from)
            .chain(self.delete_at)
            .chain(interference)
            .min()
            .unwrap_or(usize::MAX)
    }
}

impl Display for Scenario {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = self
            .fates
            .iter()
            .map(|(number, fate)| format!("call #{number}: {fate:?}"))
            .collect();
        if let Some(number) = self.stale_from {
            parts.push(format!("stale view from call #{number}"));
        }
        if let Some(number) = self.delete_at {
            parts.push(format!("object deleted before call #{number}"));
        }
        match self.interference {
            Some((Some(number), what)) => parts.push(format!("{what:?} before call #{number}")),
            Some((None, what)) => parts.push(format!("{what:?} once built")),
            None => {}
        }
        if parts.is_empty() {
            parts.push("undisturbed".to_owned());
        }
        out.write_str(&parts.join("; "))
    }
}

/// The calls of an undisturbed life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Until all was built.
    pub(super) built: usize,
    /// Until all was gone.
    pub(super) all: usize,
    /// Whether the world can hold a view.
    pub(super) holds: bool,
}

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawn {
    pub(super) seed: u64,
    pub(super) pairs: usize,
}

/// All scenarios of these families.
pub(super) fn all(families: &[Family], span: Span, drawn: Drawn, timing: &Timing) -> Vec<Scenario> {
    families
        .iter()
        .filter(|family| span.holds || !matches!(family, Family::StaleCrashes | Family::StaleViews))
        .flat_map(|family| match family {
            Family::Crashes => each(span.all, |number| crashes(number, timing)),
            Family::StaleCrashes => each(span.all, |number| {
                let stale = |scenario| Scenario {
                    stale_from: Some(number),
                    ..scenario
                };
                crashes(number, timing).into_iter().map(stale).collect()
            }),
            Family::Answers => each(span.all, |number| answers(number, timing)),
            Family::StaleViews => each(span.all, |number| {
                vec![Scenario {
                    stale_from: Some(number),
                    ..Scenario::default()
                }]
            }),
            Family::Deletions => each(span.built, |number| {
                let deleted = |scenario| Scenario {
                    delete_at: Some(number),
                    ..scenario
                };
                let mut all = crashes(number, timing);
                all.push(Scenario::default());
                all.into_iter().map(deleted).collect()
            }),
            Family::Strangers => each(span.all, |number| {
                interference(Some(number), Interference::Stranger, timing)
            }),
            Family::Removals => {
                let mut all = each(span.all, |number| {
                    interference(Some(number), Interference::Removal, timing)
                });
                all.extend(interference(None, Interference::Removal, timing));
                all
            }
            Family::Pairs => pairs(span, drawn, timing),
        })
        .collect()
}

fn each(count: usize, scenarios: impl Fn(usize) -> Vec<Scenario>) -> Vec<Scenario> {
    (0..count).flat_map(scenarios).collect()
}

fn sides(timing: &Timing) -> [Side; 3] {
    [Side::Before, Side::After, Side::Late(timing.late_by)]
}

fn one(number: usize, fate: Fate) -> Scenario {
    Scenario {
        fates: vec![(number, fate)],
        ..Scenario::default()
    }
}

fn crashes(number: usize, timing: &Timing) -> Vec<Scenario> {
    sides(timing)
        .map(|side| one(number, Fate::Kill(side)))
        .to_vec()
}

fn answers(number: usize, timing: &Timing) -> Vec<Scenario> {
    fates(timing)
        .into_iter()
        .filter(|fate| !matches!(fate, Fate::Kill(_)))
        .map(|fate| one(number, fate))
        .collect()
}

fn interference(number: Option<usize>, what: Interference, timing: &Timing) -> Vec<Scenario> {
    let calm = Scenario {
        interference: Some((number, what)),
        ..Scenario::default()
    };
    let mut all = vec![calm.clone()];
    for fate in [
        Fate::Kill(Side::Before),
        Fate::Kill(Side::After),
        Fate::Kill(Side::Late(timing.late_by)),
    ] {
        all.extend(number.map(|number| Scenario {
            fates: vec![(number, fate)],
            ..calm.clone()
        }));
    }
    all
}

/// Everything that can become of one call.
fn fates(timing: &Timing) -> Vec<Fate> {
    let mut fates: Vec<Fate> = sides(timing).map(Fate::Kill).to_vec();
    fates.extend(sides(timing).map(|side| Fate::Answer(Injected::Lost, side)));
    fates.extend([
        Fate::Answer(Injected::Conflict, Side::Before),
        Fate::Answer(
            Injected::Throttled {
                retry_after: std::time::Duration::from_secs(1),
            },
            Side::Before,
        ),
        Fate::Answer(Injected::Failed(500), Side::Before),
        Fate::Answer(Injected::Failed(500), Side::After),
    ]);
    fates
}

/// Two faults at different calls, some with a deletion, a stale view or an interference on top.
fn pairs(span: Span, drawn: Drawn, timing: &Timing) -> Vec<Scenario> {
    // What is done again after the first fault has numbers beyond those of the calm life.
    let numbers = (span.all + 4) as u64;
    let fates = fates(timing);
    (0..drawn.pairs as u64)
        .map(|pair| {
            let draw = |which: u64, below: u64| {
                let drawn = random(drawn.seed, pair * 16 + which) % below.max(1);
                usize::try_from(drawn).unwrap_or_default()
            };
            let first = draw(0, numbers);
            let second = first + 1 + draw(1, 6);
            let mut scenario = Scenario {
                fates: vec![
                    (first, fates[draw(2, fates.len() as u64)].clone()),
                    (second, fates[draw(3, fates.len() as u64)].clone()),
                ],
                ..Scenario::default()
            };
            let at = draw(4, numbers);
            match draw(5, 6) {
                0 if span.holds => scenario.stale_from = Some(at),
                1 => scenario.delete_at = Some(draw(4, span.built as u64)),
                2 => scenario.interference = Some((Some(at), Interference::Stranger)),
                3 => scenario.interference = Some((Some(at), Interference::Removal)),
                _ => {}
            }
            scenario
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(families: &[Family], holds: bool) -> Vec<Scenario> {
        let span = Span {
            built: 3,
            all: 5,
            holds,
        };
        let drawn = Drawn { seed: 7, pairs: 40 };
        all(families, span, drawn, &Timing::default())
    }

    #[test]
    fn every_call_is_met_in_every_way() {
        assert_eq!(of(&[Family::Crashes], true).len(), 5 * 3);
        assert_eq!(of(&[Family::StaleCrashes], true).len(), 5 * 3);
        assert_eq!(of(&[Family::StaleCrashes, Family::StaleViews], false), []);
        assert_eq!(of(&[Family::Answers], true).len(), 5 * 7);
        assert_eq!(of(&[Family::Deletions], true).len(), 3 * 4);
        assert_eq!(of(&[Family::Strangers], true).len(), 5 * 4);
        assert_eq!(of(&[Family::Removals], true).len(), 5 * 4 + 1);
        assert_eq!(of(&[Family::Pairs], true), of(&[Family::Pairs], true));
        let pairs = of(&[Family::Pairs], false);
        assert_eq!(pairs.len(), 40);
        assert!(pairs.iter().all(|pair| pair.stale_from.is_none()));
        assert!(pairs.iter().any(|pair| pair.delete_at.is_some()));
    }

    #[test]
    fn a_scenario_begins_with_its_first_fault() {
        let mut scenario = one(3, Fate::Kill(Side::After));
        assert_eq!(scenario.begins_at(), 3);
        scenario.delete_at = Some(1);
        assert_eq!(scenario.begins_at(), 1);
        scenario.interference = Some((Some(0), Interference::Stranger));
        assert_eq!(scenario.begins_at(), 0);
        scenario = Scenario {
            interference: Some((None, Interference::Removal)),
            ..Scenario::default()
        };
        assert_eq!(scenario.begins_at(), usize::MAX);
    }

    #[test]
    fn a_scenario_says_what_it_does() {
        let mut scenario = one(3, Fate::Kill(Side::After));
        scenario.stale_from = Some(3);
        scenario.interference = Some((None, Interference::Removal));
        assert_eq!(
            scenario.to_string(),
            "call #3: Kill(After); stale view from call #3; Removal once built"
        );
        assert_eq!(Scenario::default().to_string(), "undisturbed");
    }
}
