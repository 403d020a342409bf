//! The tree of a cluster as rows of text: pure.

use capi_testkit::core::Branch;

/// The widest line that is printed, in characters.
pub(crate) const WIDTH: usize = 100;
/// Where the state begins, in characters.
const STATE_COLUMN: usize = 46;

/// One line of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Kind and name: what the row is about, the same in every frame.
    pub(crate) key: String,
    /// The tree's branches and the name.
    pub(crate) label: String,
    /// One or two words.
    pub(crate) state: String,
    /// What it waits for.
    pub(crate) detail: String,
}

impl Row {
    /// The row as text, with the seconds that the state has lasted.
    pub(crate) fn text(&self, seconds: u64) -> String {
        let label = fit(&self.label, STATE_COLUMN - 2);
        let pad = STATE_COLUMN.saturating_sub(label.chars().count());
        let lasted = if self.detail.is_empty() {
            String::new()
        } else {
            format!(" ({seconds}s)")
        };
        let colon = if self.detail.is_empty() { "" } else { ": " };
        let line = format!(
            "{label}{}{}{lasted}{colon}{}",
            " ".repeat(pad),
            self.state,
            self.detail
        );
        fit(&line, WIDTH)
    }
}

/// Shortens a text to a number of characters.
pub(crate) fn fit(text: &str, width: usize) -> String {
    let text = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(3)).collect();
    format!("{}...", kept.trim_end())
}

/// The rows of all clusters.
pub(crate) fn rows(clusters: &[Branch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for cluster in clusters {
        push(cluster, "", "", &mut rows);
    }
    rows
}

/// A machine is one row: what its infra machine and its bootstrap data say is its detail.
fn push(branch: &Branch, lead: &str, indent: &str, rows: &mut Vec<Row>) {
    let (state, detail) = story(branch);
    rows.push(Row {
        key: format!("{}/{}/{}", branch.kind, branch.namespace, branch.name),
        label: format!("{lead}{}/{}", branch.kind, branch.name),
        state,
        detail,
    });
    if branch.kind == "Machine" {
        return;
    }
    let count = branch.children.len();
    for (index, child) in branch.children.iter().enumerate() {
        let last = index + 1 == count;
        let lead = format!("{indent}{}", if last { "└─ " } else { "├─ " });
        let indent = format!("{indent}{}", if last { "   " } else { "│  " });
        push(child, &lead, &indent, rows);
    }
}

fn story(branch: &Branch) -> (String, String) {
    let phase = branch.phase.clone();
    let summary = branch.summary();
    let word = |line: &capi_testkit::core::Line| line.reason.clone();
    let state = if branch.is_deleting {
        "Deleting".to_owned()
    } else {
        phase
            .or_else(|| summary.map(word))
            .unwrap_or_else(|| "Pending".to_owned())
    };
    if is_done(&state) && !branch.is_deleting {
        let version = branch.version.as_deref().filter(|_| state == "Running");
        let state = version.map_or(state.clone(), |version| format!("{state} {version}"));
        return (state, complaint(branch).unwrap_or_default());
    }
    let detail = waits_for(branch).unwrap_or_default();
    // A reason that says what the state says is not said twice.
    let rest = detail
        .strip_prefix(&format!("{state}: "))
        .map(str::to_owned);
    (state, rest.unwrap_or(detail))
}

/// What is wrong with a machine that runs. Its infra machine may still wait for something, which is
/// not wrong.
fn complaint(branch: &Branch) -> Option<String> {
    let infra = branch.children.iter().filter(|_| branch.kind == "Machine");
    let mut infra = infra.filter(|child| !child.kind.ends_with("Config"));
    let ready = infra.next()?.condition("Ready")?;
    let is_wrong = ready.status == "False" && !ready.reason.starts_with("Waiting");
    is_wrong.then(|| format!("{}: {}", ready.reason, ready.message))
}

/// The most telling condition that is not good: of a machine, its infra machine's comes first, since
/// that is where the work is done.
fn waits_for(branch: &Branch) -> Option<String> {
    let infra = branch.children.iter().filter(|_| branch.kind == "Machine");
    let mut candidates: Vec<&Branch> = infra
        .filter(|child| !child.kind.ends_with("Config"))
        .collect();
    candidates.push(branch);
    candidates.into_iter().find_map(|of| {
        let line = of.summary()?;
        let bad = line.status != "True" || line.kind == "Deleting";
        let text = if line.message.is_empty() {
            line.reason.clone()
        } else {
            format!("{}: {}", line.reason, line.message)
        };
        bad.then_some(text)
    })
}

/// Whether a state needs no explanation.
pub(crate) fn is_done(state: &str) -> bool {
    matches!(
        state,
        "Running" | "Ready" | "Available" | "ScalingUp" | "Provisioned"
    )
}
