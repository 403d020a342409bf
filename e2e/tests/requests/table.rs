//! The figures beside those of a Go provider.

use std::collections::BTreeMap;

use e2e::audit::Tally;

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    /// Until the provider asks for nothing more.
    Writes,
    /// Of these, from open gates to `provisioned`.
    Making,
    Reads,
    /// In milliseconds.
    Delay,
    Steady,
    Deletion,
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::Writes => "writes per machine, until settled",
            Self::Making => "  from open gates to provisioned",
            Self::Reads => "reads per machine, provisioning",
            Self::Delay => "ms from running to provisioned",
            Self::Steady => "requests per minute, steady state",
            Self::Deletion => "requests per machine, deletion",
        }
    }
}

/// What stands beside our figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// The Go provider for the same platform.
    pub(crate) name: &'static str,
    /// Its figures, of its snapshot of August 2026, measured the same way: a release binary against etcd
    /// and kube-apiserver 1.36, the rest played, a platform without delays.
    pub(crate) figures: &'static [(Row, &'static str)],
    /// The most that is allowed of ours.
    pub(crate) goals: &'static [(Row, f64)],
}

fn of<T: Copy>(all: &[(Row, T)], row: Row) -> Option<T> {
    let found = all.iter().find(|(of, _)| *of == row);
    found.map(|(_, value)| *value)
}

impl Peer {
    /// The most that is allowed of ours; where nothing is said, anything is.
    pub(crate) fn goal(&self, row: Row) -> f64 {
        of(self.goals, row).unwrap_or(f64::INFINITY)
    }
}

/// What was measured so far, and of what it consists.
#[derive(Debug)]
pub(crate) struct Figures {
    peer: Peer,
    rows: BTreeMap<Row, f64>,
    details: Vec<String>,
}

impl Figures {
    pub(crate) fn beside(peer: Peer) -> Self {
        Self {
            peer,
            rows: BTreeMap::new(),
            details: Vec::new(),
        }
    }

    /// `making`: the writes of each machine from open gates to `provisioned`.
    pub(crate) fn provision(&mut self, tally: &Tally, making: &[usize], machines: usize) {
        let per_machine = |count: usize| count as f64 / machines as f64;
        self.rows.insert(Row::Writes, per_machine(tally.writes()));
        self.rows
            .insert(Row::Making, per_machine(making.iter().sum()));
        self.rows.insert(Row::Reads, per_machine(tally.reads()));
        self.detail("provisioning", tally);
    }

    /// How many milliseconds after its VM ran each machine was provisioned, fewest first.
    pub(crate) fn delays(&mut self, delays: &[f64]) {
        let Some(longest) = delays.last() else { return };
        let at = |part: usize| delays[delays.len() * part / 100];
        self.rows.insert(Row::Delay, at(50));
        self.details.push(format!(
            "  from running to provisioned: {:.0} ms in the median, {:.0} ms of nine in ten, {longest:.0} ms \
             at most",
            at(50),
            at(90)
        ));
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
        for (what, count) in tally.lists.iter() {
            self.details
                .push(format!("  {phase}: {count} x list {what}"));
        }
        self.details
            .push(format!("  {phase}: {} x events, not counted", tally.events));
    }

    pub(crate) fn print(&self) {
        println!();
        let peer = self.peer.name;
        println!("{:<36}{peer:>24}{:>8}{:>10}", "", "goal", "this");
        for (row, value) in &self.rows {
            let goal = self.peer.goal(*row);
            let goal = if goal.is_finite() {
                format!("<= {goal}")
            } else {
                String::new()
            };
            let (name, peer) = (row.name(), of(self.peer.figures, *row).unwrap_or_default());
            println!("{name:<36}{peer:>24}{goal:>8}{value:>10.2}");
        }
        for line in &self.details {
            println!("{line}");
        }
    }
}
