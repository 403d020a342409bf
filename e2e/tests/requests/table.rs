//! The figures beside those of the Go provider.

use std::collections::BTreeMap;

use e2e::audit::Tally;

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    Writes,
    Reads,
    Steady,
    Deletion,
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::Writes => "writes per machine, provisioning",
            Self::Reads => "reads per machine, provisioning",
            Self::Steady => "requests per minute, steady state",
            Self::Deletion => "requests per machine, deletion",
        }
    }

    /// The Go provider for Proxmox VE, its snapshot of August 2026, measured the same way: a release
    /// binary against etcd and kube-apiserver 1.36, the rest played, hypervisor without delays.
    fn capmox(self) -> &'static str {
        match self {
            Self::Writes => "20",
            Self::Reads => "0 (watches all Secrets)",
            Self::Steady => "0",
            Self::Deletion => "4",
        }
    }

    /// The most that is allowed.
    pub(crate) fn goal(self) -> f64 {
        match self {
            Self::Writes => 8.0,
            Self::Reads => 1.0,
            Self::Steady => 0.0,
            Self::Deletion => 5.0,
        }
    }
}

/// What was measured so far, and of what it consists.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: BTreeMap<Row, f64>,
    details: Vec<String>,
}

impl Figures {
    pub(crate) fn provision(&mut self, tally: &Tally, machines: usize) {
        let per_machine = |count: usize| count as f64 / machines as f64;
        self.rows.insert(Row::Writes, per_machine(tally.writes()));
        self.rows.insert(Row::Reads, per_machine(tally.reads()));
        self.detail("provisioning", tally);
    }

    pub(crate) fn steady(&mut self, tally: &Tally) {
        self.rows.insert(Row::Steady, tally.all() as f64);
    }

    pub(crate) fn delete(&mut self, tally: &Tally, machines: usize) {
        let count = tally.all() as f64 / machines as f64;
        self.rows.insert(Row::Deletion, count);
        self.detail("deletion", tally);
    }

    fn detail(&mut self, phase: &str, tally: &Tally) {
        for (what, count) in tally.writes.iter() {
            self.details.push(format!("  {phase}: {count} x {what}"));
        }
        for (what, count) in tally.reads.iter() {
            self.details
                .push(format!("  {phase}: {count} x get {what}"));
        }
        self.details
            .push(format!("  {phase}: {} x events, not counted", tally.events));
    }

    pub(crate) fn print(&self) {
        println!();
        println!("{:<36}{:>24}{:>8}{:>10}", "", "CAPMOX", "goal", "this");
        for (row, value) in &self.rows {
            println!(
                "{:<36}{:>24}{:>8}{value:>10.2}",
                row.name(),
                row.capmox(),
                format!("<= {}", row.goal()),
            );
        }
        for line in &self.details {
            println!("{line}");
        }
    }
}
