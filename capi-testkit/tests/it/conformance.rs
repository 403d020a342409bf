//! The conformance kit finds what a provider that ignores the contract does wrong.

use capi_testkit::conformance::{self, Verdict};

use crate::sweep::provider;

#[test]
fn a_provider_without_gates_breaks_their_rules_and_no_others() {
    let report = conformance::behaviour(|| async { provider::world(|client| client) });
    let broken: Vec<&str> = report.broken().map(|finding| finding.rules).collect();
    // It makes machines whatever is missing or paused, writes to what is not its own, and knows no
    // condition but a bare Ready.
    for rules in [
        "CO-01 CO-03",
        "PA-03 CO-04",
        "IC-11",
        "IM-12 IM-19",
        "IM-11",
        "PA-01 PA-02",
        "PA-02",
        "EX-01",
    ] {
        assert!(broken.contains(&rules), "{rules} was not noticed: {report}");
    }
    // What it was written for it does.
    for rules in ["IM-05 IC-08", "IM-16", "IM-20", "IM-22", "CO-07"] {
        let kept = report
            .findings
            .iter()
            .any(|finding| finding.rules == rules && finding.verdict == Verdict::Kept);
        assert!(kept, "{rules}: {report}");
    }
}
