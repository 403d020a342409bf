//! What a sweep found.

use std::fmt::{Display, Formatter};
use std::time::Duration;

use crate::faults::{Fate, Traced};
use crate::sweep::Scenario;
use crate::sweep::play::Outcome;

/// Mutating or faulty calls of a failing run that are shown of its beginning and of its end.
const ACTS_SHOWN: [usize; 2] = [30, 30];
/// Reads shown before each of them; what was seen right before an act is what it was decided on.
const READS_SHOWN_MAX: usize = 3;

/// A run that did not end as it should.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// What was done to it.
    pub scenario: Scenario,
    /// What was wrong.
    pub reason: String,
    /// Its calls, oldest first.
    pub trace: Vec<Traced>,
}

impl Display for Failure {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{}: {}", self.scenario, self.reason)?;
        let telling = |call: &Traced| call.number.is_some() || call.fate != Fate::Pass;
        let acts: Vec<usize> = (0..self.trace.len())
            .filter(|at| telling(&self.trace[*at]))
            .collect();
        let [first, last] = ACTS_SHOWN;
        let hidden = first..acts.len().saturating_sub(last);
        let shown = acts.iter().enumerate();
        let shown = shown.filter(|(number, _)| !hidden.contains(number));
        let mut next = 0;
        for at in shown.map(|(_, at)| *at).chain([self.trace.len()]) {
            let from = at.saturating_sub(READS_SHOWN_MAX).max(next);
            if from > next {
                writeln!(out, "  ({} calls not shown)", from - next)?;
            }
            for call in self.trace.iter().take(at + 1).skip(from) {
                writeln!(out, "  {call}")?;
            }
            next = at + 1;
        }
        Ok(())
    }
}

/// What a sweep found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The seed of what was drawn.
    pub seed: u64,
    /// Runs played.
    pub runs: usize,
    /// Mutating calls of an undisturbed life, deletion included.
    pub calm_mutations: usize,
    /// Mutating calls of an undisturbed life until all was built.
    pub calm_built: usize,
    /// Real time of all runs together.
    pub took: Duration,
    /// Crashes of controllers in all runs.
    pub crashes: u64,
    /// Runs that did not end as they should.
    pub failures: Vec<Failure>,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            runs: 0,
            calm_mutations: 0,
            calm_built: 0,
            took: Duration::ZERO,
            crashes: 0,
            failures: Vec::new(),
        }
    }

    /// Whether every run ended as it should.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    pub(super) fn add(&mut self, scenario: &Scenario, outcome: &Outcome) {
        self.runs += 1;
        self.took += outcome.took;
        self.crashes += outcome.crashes;
        if let Some(reason) = &outcome.failure {
            self.failures.push(Failure {
                scenario: scenario.clone(),
                reason: reason.clone(),
                trace: outcome.trace.clone(),
            });
        }
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let runs = u32::try_from(self.runs.max(1)).unwrap_or(u32::MAX);
        writeln!(
            out,
            "crash sweep: {} runs, {} crashes, seed {}, {} mutating calls per life ({} to build), {:?} per run, {} failures",
            self.runs,
            self.crashes,
            self.seed,
            self.calm_mutations,
            self.calm_built,
            self.took / runs,
            self.failures.len(),
        )?;
        self.failures
            .iter()
            .try_for_each(|failure| write!(out, "{failure}"))
    }
}
