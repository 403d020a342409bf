//! Differences that are known, each with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use similar::{ChangeTag, TextDiff};

/// What happens to the objects of each role.
pub(crate) type Lives = BTreeMap<String, Vec<String>>;

/// A line that only one of the two has: the role, `-` for the real core's or `+` for the simulator's,
/// the line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference(String);

impl Difference {
    fn new(role: &str, sign: char, line: &str) -> Self {
        Self(format!("{role}: {sign} {}", line.trim()))
    }
}

/// The listed differences. Each is a line, indented below the reason that it has with those beside it.
pub(crate) struct Differences(BTreeSet<Difference>);

impl Differences {
    pub(crate) fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core/differences.txt");
        let text = std::fs::read_to_string(path).expect("the list is there");
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut has_reason = false;
        let mut listed = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with("//")) {
            if line.trim().is_empty() {
                has_reason = false;
            } else if line.starts_with(' ') {
                assert!(has_reason, "no reason stands above {line:?}");
                listed.insert(Difference(line.trim().to_owned()));
            } else {
                has_reason = true;
            }
        }
        Self(listed)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What differs and is not listed, and what is listed and does not differ.
    pub(crate) fn judge(&self, real: &Lives, played: &Lives) -> String {
        let found = found(real, played);
        let mut faults = String::new();
        for Difference(unlisted) in found.difference(&self.0) {
            faults += &format!("differs and is not listed: {unlisted}\n");
        }
        for Difference(stale) in self.0.difference(&found) {
            faults += &format!("is listed and does not differ: {stale}\n");
        }
        faults
    }
}

fn found(real: &Lives, played: &Lives) -> BTreeSet<Difference> {
    let roles: BTreeSet<_> = real.keys().chain(played.keys()).collect();
    let mut found = BTreeSet::new();
    for role in roles {
        let text = |lives: &Lives| {
            let lines = lives.get(role).map(Vec::as_slice).unwrap_or_default();
            lines.join("\n") + "\n"
        };
        let (theirs, ours) = (text(real), text(played));
        for change in TextDiff::from_lines(&theirs, &ours).iter_all_changes() {
            let sign = match change.tag() {
                ChangeTag::Equal => continue,
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            found.insert(Difference::new(role, sign, change.value()));
        }
    }
    found
}
