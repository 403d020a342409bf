//! What differs from run to run, made the same: times, ages, uids, versions, addresses.

use std::sync::LazyLock;

use regex::{Captures, Regex};

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns of this module are valid")
}

/// What is replaced, and by what; in this order.
static REPLACED: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (
            r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "00000000-0000-0000-0000-000000000000",
        ),
        (r"\b[0-9a-f]{64}\b", "<token>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (
            r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000",
            "<time>",
        ),
        (r#"(resourceVersion"?: ?)"\d+""#, "$1<version>"),
        (r"(Resource Version: +)\d+", "$1<version>"),
        (r"/(LIVE|MERGED)-\d+", "/$1"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \+0000", "<time>"),
        (r"127\.0\.0\.1:\d+", "<address>"),
    ]
    .map(|(text, by)| (pattern(text), by))
    .into()
});

/// An age in a table or a description. All are below 100 seconds here, and so take the same width
/// with their padding; it is kept, so that columns are seen to be aligned.
static AGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(^| )(\d{1,2}s)( +|$)"));

/// What differs from run to run where everybody acts: suffixes of names that controllers make up, in
/// Kubernetes' own alphabet, ages of any length, and so the padding of columns.
static LIVELY: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let suffix = "[bcdfghjklmnpqrstvwxz2456789]{5}";
    let workers = format!("demo-workers-{suffix}-{suffix}");
    let control_plane = format!("demo-control-plane-{suffix}");
    [
        (workers.as_str(), "demo-workers-xxxxx-xxxxx"),
        (control_plane.as_str(), "demo-control-plane-xxxxx"),
        (r"(^| )\d+[smh](\d+[smh])?( |$)", "${1}0s$3"),
        (r"(\S) {2,}", "$1   "),
    ]
    .map(|(text, by)| (pattern(&format!("(?m){text}")), by))
    .into()
});

/// As [`normal`], for a world in which others act too.
pub(crate) fn normal_of_lively(text: &str) -> String {
    let mut text = normal(text);
    for (found, by) in LIVELY.iter() {
        text = found.replace_all(&text, *by).into_owned();
    }
    text
}

/// `text` without what differs from run to run.
pub(crate) fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for (found, by) in REPLACED.iter() {
        text = found.replace_all(&text, *by).into_owned();
    }
    let lines = text.lines().map(|line| {
        let line = AGE.replace_all(line, |age: &Captures<'_>| {
            let width = age[2].len() + age[3].len();
            format!("{}{:width$}", &age[1], "0s")
        });
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}
