//! Whether a running instance is ready, as its readiness probe says.

use std::time::Duration;

use capi_testkit::guest::Agent;
use serde_json::Value;

/// What a probe came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Ready,
    /// Not yet; the next try is this long after the start, or after the last.
    NotReady(String),
}

/// How often a probe is tried, unless it says otherwise.
const PERIOD_DEFAULT: Duration = Duration::from_secs(10);

/// The time before the first try, and between two.
pub(super) fn times(probe: &Value) -> (Duration, Duration) {
    let seconds = |key: &str| probe[key].as_u64().map(Duration::from_secs);
    let period = seconds("periodSeconds").filter(|period| !period.is_zero());
    (
        seconds("initialDelaySeconds").unwrap_or_default(),
        period.unwrap_or(PERIOD_DEFAULT),
    )
}

/// Tries a probe once. An instance without one is ready as soon as it runs.
///
/// `exec` runs its command through the guest agent. TCP and HTTP answer once the guest is a member of a
/// cluster, whatever the port.
pub(super) fn answer(probe: &Value, agent: Option<&Agent<'_>>, is_member: bool) -> Answer {
    if !probe.is_object() {
        return Answer::Ready;
    }
    let not_ready = |why: String| Answer::NotReady(why);
    if let Some(command) = probe["exec"]["command"].as_array() {
        let Some(agent) = agent else {
            return not_ready("QEMU guest agent is not connected".to_owned());
        };
        let words: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
        let executed = agent.execute(&unwrapped(&words));
        return if executed.code == 0 {
            Answer::Ready
        } else {
            not_ready(format!("command exited with {}", executed.code))
        };
    }
    if probe["guestAgentPing"].is_object() {
        return match agent {
            Some(_) => Answer::Ready,
            None => not_ready("QEMU guest agent is not connected".to_owned()),
        };
    }
    if is_member {
        Answer::Ready
    } else {
        not_ready("connection refused".to_owned())
    }
}

/// A command without the shell around it, where that shell has nothing else to do.
fn unwrapped<'a>(words: &[&'a str]) -> Vec<&'a str> {
    match words {
        ["sh" | "bash" | "/bin/sh" | "/bin/bash", "-c", script] => {
            script.split_whitespace().collect()
        }
        words => words.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn without_agent_only_the_network_answers() {
        assert_eq!(answer(&Value::Null, None, false), Answer::Ready);
        let ping = json!({"guestAgentPing": {}});
        assert!(matches!(answer(&ping, None, true), Answer::NotReady(_)));
        let port = json!({"tcpSocket": {"port": 6443}});
        assert!(matches!(answer(&port, None, false), Answer::NotReady(_)));
        assert_eq!(answer(&port, None, true), Answer::Ready);
        assert_eq!(times(&port), (Duration::ZERO, PERIOD_DEFAULT));
        assert_eq!(unwrapped(&["sh", "-c", "test -f /x"]), ["test", "-f", "/x"]);
    }
}
