//! What a run strategy asks for. Pure.

use capi_testkit::actor::Object;
use serde_json::Value;

/// What to do with a VM's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Leave it.
    Nothing,
    /// Make one.
    Start,
    /// Delete it.
    Stop,
    /// Delete it, and ask for another.
    Rerun,
}

/// How the instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instance {
    Absent,
    Live,
    Succeeded,
    Failed,
}

impl Instance {
    pub(crate) fn of(instance: Option<&Object>) -> Self {
        match instance.map(|instance| instance.text("/status/phase").unwrap_or_default()) {
            None => Self::Absent,
            Some("Succeeded") => Self::Succeeded,
            Some("Failed") => Self::Failed,
            Some(_) => Self::Live,
        }
    }

    fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// The strategy of a VM: `spec.running` is the older way to say it, and silence means `Halted`.
pub(crate) fn strategy(machine: &Object) -> &str {
    match machine.at("/spec/running").and_then(Value::as_bool) {
        Some(true) => "Always",
        Some(false) => "Halted",
        None => machine.word("/spec/runStrategy").unwrap_or("Halted"),
    }
}

/// Decides. `asked` is the first open request of `start`, `stop` or `restart`; `played` the strategy
/// that the VM's status names.
pub(crate) fn decide(
    strategy: &str,
    instance: Instance,
    asked: Option<&str>,
    played: Option<&str>,
) -> Decision {
    let is_stop = asked == Some("Stop") && instance != Instance::Absent;
    let is_start = asked == Some("Start");
    match (strategy, instance) {
        ("Always" | "Once", Instance::Absent) => Decision::Start,
        ("RerunOnFailure", Instance::Absent) if is_start || played != Some(strategy) => {
            Decision::Start
        }
        ("RerunOnFailure", Instance::Failed) => Decision::Rerun,
        ("Always" | "RerunOnFailure", _) if is_stop || instance.is_final() => Decision::Stop,
        ("Manual", Instance::Absent) if is_start => Decision::Start,
        ("Manual", _) if is_stop => Decision::Stop,
        ("Halted", Instance::Live | Instance::Succeeded | Instance::Failed) => Decision::Stop,
        _ => Decision::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Decision::{Nothing, Rerun, Start, Stop};
    use super::Instance::{Absent, Failed, Live, Succeeded};
    use super::*;

    #[rstest]
    #[case::always("Always", [Start, Nothing, Stop, Stop])]
    #[case::rerun("RerunOnFailure", [Nothing, Nothing, Stop, Rerun])]
    #[case::once("Once", [Start, Nothing, Nothing, Nothing])]
    #[case::manual("Manual", [Nothing, Nothing, Nothing, Nothing])]
    #[case::halted("Halted", [Nothing, Stop, Stop, Stop])]
    fn each_strategy_has_its_answer(#[case] strategy: &str, #[case] wanted: [Decision; 4]) {
        let decided = [Absent, Live, Succeeded, Failed]
            .map(|instance| decide(strategy, instance, None, Some(strategy)));
        assert_eq!(decided, wanted);
    }

    #[test]
    fn requests_are_heard_where_the_strategy_allows_them() {
        assert_eq!(
            decide("RerunOnFailure", Absent, None, None),
            Start,
            "its first start"
        );
        assert_eq!(
            decide(
                "RerunOnFailure",
                Absent,
                Some("Start"),
                Some("RerunOnFailure")
            ),
            Start
        );
        assert_eq!(decide("Manual", Absent, Some("Start"), None), Start);
        assert_eq!(decide("Manual", Live, Some("Stop"), None), Stop);
        assert_eq!(
            decide("Always", Live, Some("Stop"), None),
            Stop,
            "and starts again"
        );
        assert_eq!(decide("Once", Live, Some("Stop"), None), Nothing);
    }
}
