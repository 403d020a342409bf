//! What a look at the platform found: whether it can be used, what is missing, what to do about it.

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be.
    Good,
    /// Not looked at, since something before it failed.
    Unknown,
    /// Works, but not as it should.
    Doubtful,
    /// Has to be changed.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at, in a word or two: `reachable`, `privileges`.
    pub subject: String,
    /// How it is.
    pub health: Health,
    /// What was found. No secrets.
    pub detail: String,
    /// The command that changes it, or what to do where there is none.
    pub fix: Option<String>,
}

/// All that was looked at, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkup {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Checkup {
    /// Nothing was looked at yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes what is as it should be.
    pub fn good(&mut self, subject: &str, detail: impl Into<String>) {
        self.push(subject, Health::Good, detail.into(), None);
    }

    /// Notes what could not be looked at.
    pub fn unknown(&mut self, subject: &str, detail: impl Into<String>) {
        self.push(subject, Health::Unknown, detail.into(), None);
    }

    /// Notes what should be better, and how to make it so.
    pub fn doubtful(&mut self, subject: &str, detail: impl Into<String>, fix: impl Into<String>) {
        self.push(subject, Health::Doubtful, detail.into(), Some(fix.into()));
    }

    /// Notes what has to be changed, and how.
    pub fn bad(&mut self, subject: &str, detail: impl Into<String>, fix: impl Into<String>) {
        self.push(subject, Health::Bad, detail.into(), Some(fix.into()));
    }

    /// Whether nothing has to be changed.
    pub fn is_healthy(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.health != Health::Bad)
    }

    fn push(&mut self, subject: &str, health: Health, detail: String, fix: Option<String>) {
        self.findings.push(Finding {
            subject: subject.to_owned(),
            health,
            detail,
            fix,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_finding_spoils_it_and_a_doubt_does_not() {
        let mut checkup = Checkup::new();
        checkup.good("a", "fine");
        checkup.unknown("b", "not reached");
        checkup.doubtful("c", "works", "better it");
        assert!(checkup.is_healthy());
        checkup.bad("d", "broken", "mend it");
        assert!(!checkup.is_healthy());
    }
}
