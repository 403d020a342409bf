//! The conformance kit: does a provider keep the Cluster API contract?
//!
//! [`shape`] looks at the definitions alone. [`behaviour`] plays one short story per rule against the
//! running provider, each in a fresh [`ProviderWorld`](crate::sweep::ProviderWorld), and looks only at
//! Kubernetes objects and at what the platform says is there.
//!
//! # Example
//!
//! ```no_run
//! # use capi_testkit::{conformance, sweep::{Backend, ProviderWorld}};
//! # struct Farm;
//! # impl Backend for Farm { fn things(&self) -> Vec<String> { Vec::new() } }
//! # async fn make() -> ProviderWorld<Farm> { unimplemented!() }
//! # let definitions: Vec<serde_json::Value> = Vec::new();
//! let mut report = conformance::shape(&definitions);
//! report.extend(conformance::behaviour(make));
//! println!("{report}");
//! assert!(report.is_clean(), "{report}");
//! ```
//!
//! # Caveats
//!
//! Rules about webhooks, pools, move and releases are not examined yet.

mod behaviour;
mod shape;
mod story;

use std::fmt::{Display, Formatter};

pub use self::behaviour::behaviour;
pub use self::shape::shape;

/// How a rule was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it says.
    Kept,
    /// Not; with what was seen instead.
    Broken(String),
    /// It could not be examined, and why.
    Skipped(String),
}

/// One rule, examined once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The rules of the contract, such as `IM-11`.
    pub rules: &'static str,
    /// What was examined.
    pub case: String,
    /// How it went.
    pub verdict: Verdict,
}

/// All findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of examination.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether no rule was broken.
    pub fn is_clean(&self) -> bool {
        self.broken().next().is_none()
    }

    /// The findings of broken rules.
    pub fn broken(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| matches!(finding.verdict, Verdict::Broken(_)))
    }

    /// Adds the findings of another examination.
    pub fn extend(&mut self, other: Self) {
        self.findings.extend(other.findings);
    }

    fn add(&mut self, rules: &'static str, case: impl Into<String>, verdict: Verdict) {
        self.findings.push(Finding {
            rules,
            case: case.into(),
            verdict,
        });
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            let (word, detail) = match &finding.verdict {
                Verdict::Kept => ("kept", None),
                Verdict::Broken(why) => ("BROKEN", Some(why)),
                Verdict::Skipped(why) => ("skipped", Some(why)),
            };
            write!(out, "{word:<8} {:<14} {}", finding.rules, finding.case)?;
            match detail {
                Some(detail) => writeln!(out, ": {detail}")?,
                None => writeln!(out)?,
            }
        }
        let broken = self.broken().count();
        write!(out, "{} examined, {broken} broken", self.findings.len())
    }
}
