//! Differences that are known, each with its reason.

use std::collections::BTreeMap;
use std::path::Path;

/// The listed differences: `case#step  reason`, a line each; `//` begins a remark.
pub(crate) struct Differences(BTreeMap<String, String>);

impl Differences {
    pub(crate) fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/differences.txt");
        let text = std::fs::read_to_string(path).expect("the list is there");
        let entries = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("//"))
            .map(|line| {
                let (place, reason) = line.split_once(' ').expect("a reason follows the place");
                (place.to_owned(), reason.trim().to_owned())
            });
        Self(entries.collect())
    }

    pub(crate) fn reason(&self, place: &str) -> Option<&str> {
        self.0.get(place).map(String::as_str)
    }

    /// Entries that name none of these cases.
    pub(crate) fn unknown(&self, cases: &[&str]) -> Vec<String> {
        let places = self.0.keys().filter(|place| {
            let case = place.split('#').next().unwrap_or_default();
            !cases.contains(&case)
        });
        places.cloned().collect()
    }
}
