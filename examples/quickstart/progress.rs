//! What the person sees while it happens.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use capi_testkit::core::Branch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::tree::{self, Row};

/// How often the terminal is redrawn.
const FRAME: Duration = Duration::from_millis(100);

/// Prints lines, and a tree that is redrawn in place where there is a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    bar: Option<ProgressBar>,
    since: HashMap<String, (Row, Instant)>,
}

impl Progress {
    /// A view; `plain` or a standard output that is no terminal gives one line per change.
    pub(crate) fn new(plain: bool) -> Self {
        let is_drawn = !plain && std::io::stdout().is_terminal();
        let bar = is_drawn.then(|| {
            let style = ProgressStyle::with_template("{msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let target = ProgressDrawTarget::stdout_with_hz(10);
            ProgressBar::with_draw_target(None, target).with_style(style)
        });
        Self {
            started: Instant::now(),
            bar,
            since: HashMap::new(),
        }
    }

    /// How often [`show`](Self::show) should be called.
    pub(crate) fn frame(&self) -> Duration {
        FRAME
    }

    /// Prints a line that stays.
    pub(crate) fn say(&self, text: &str) {
        let line = tree::fit(
            &format!("[{:5.1}s] {text}", self.started.elapsed().as_secs_f64()),
            tree::WIDTH,
        );
        match &self.bar {
            Some(bar) => bar.println(line),
            None => print(&line),
        }
    }

    /// Prints a line that stays, as it is: whatever its length, without the time.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => print(text),
        }
    }

    /// Shows how the clusters stand.
    pub(crate) fn show(&mut self, clusters: &[Branch]) {
        let rows = tree::rows(clusters);
        let now = Instant::now();
        let mut lines = Vec::with_capacity(rows.len());
        let mut changed = Vec::new();
        for row in &rows {
            let known = self.since.get(&row.key);
            let is_same_state = known
                .is_some_and(|(before, _)| before.state == row.state && word(before) == word(row));
            if !is_same_state {
                changed.push(row.clone());
                self.since.insert(row.key.clone(), (row.clone(), now));
            }
            let since = self.since.get(&row.key).map_or(now, |(_, at)| *at);
            lines.push(row.text(now.duration_since(since).as_secs()));
        }
        self.since
            .retain(|key, _| rows.iter().any(|row| row.key == *key));
        match &self.bar {
            Some(bar) => bar.set_message(lines.join("\n")),
            None => changed.iter().for_each(|row| self.say(&sentence(row))),
        }
    }

    /// Removes the tree, so that what follows begins on a clear line.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("");
        }
    }

    /// Leaves the tree as it stands now, above what follows.
    pub(crate) fn keep(&self, clusters: &[Branch]) {
        if let Some(bar) = &self.bar {
            for row in tree::rows(clusters) {
                bar.println(row.text(0));
            }
        }
        self.clear();
    }
}

/// Prints a line to standard output; a closed pipe ends nothing.
pub(crate) fn print(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}

/// The reason at the beginning of a detail: a change of the words behind it is no new state.
fn word(row: &Row) -> &str {
    row.detail.split(':').next().unwrap_or_default()
}

fn sentence(row: &Row) -> String {
    let name = row.label.trim_start_matches(['│', '├', '└', '─', ' ']);
    let colon = if row.detail.is_empty() { "" } else { ": " };
    format!("{name}  {}{colon}{}", row.state, row.detail)
}
