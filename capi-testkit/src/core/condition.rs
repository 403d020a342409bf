//! Conditions as core writes and mirrors them (CO-01, CO-02, CO-08).

use capi_contract::condition::is_reason;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{Kind, Object};

pub(crate) const AVAILABLE: &str = "Available";
pub(crate) const READY: &str = "Ready";
pub(crate) const PAUSED: &str = "Paused";
pub(crate) const DELETING: &str = "Deleting";
pub(crate) const INFRASTRUCTURE_READY: &str = "InfrastructureReady";
pub(crate) const CONTROL_PLANE_INITIALIZED: &str = "ControlPlaneInitialized";
pub(crate) const CONTROL_PLANE_AVAILABLE: &str = "ControlPlaneAvailable";
pub(crate) const WORKERS_AVAILABLE: &str = "WorkersAvailable";
pub(crate) const REMOTE_CONNECTION_PROBE: &str = "RemoteConnectionProbe";
pub(crate) const BOOTSTRAP_CONFIG_READY: &str = "BootstrapConfigReady";
pub(crate) const NODE_HEALTHY: &str = "NodeHealthy";
pub(crate) const NODE_READY: &str = "NodeReady";
pub(crate) const HEALTH_CHECK_SUCCEEDED: &str = "HealthCheckSucceeded";
pub(crate) const OWNER_REMEDIATED: &str = "OwnerRemediated";
pub(crate) const EXTERNALLY_REMEDIATED: &str = "ExternallyRemediated";

/// What one condition shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Report {
    pub(crate) fn new(
        status: &'static str,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }

    pub(crate) fn yes(reason: impl Into<String>) -> Self {
        Self::new("True", reason, "")
    }

    pub(crate) fn no(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new("False", reason, message)
    }

    pub(crate) fn unknown(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new("Unknown", reason, message)
    }
}

/// The conditions of an object on the way to its status.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    list: Vec<Value>,
    generation: i64,
    now: Timestamp,
}

impl Conditions {
    pub(crate) fn of(object: &Object, now: Timestamp) -> Self {
        Self {
            list: object.conditions().to_vec(),
            generation: object.generation(),
            now,
        }
    }

    /// Sets one; the time of transition changes with the status only, in whole seconds.
    pub(crate) fn set(&mut self, kind: &str, report: &Report) {
        let held = self.list.iter_mut().find(|held| held["type"] == kind);
        let unchanged = held
            .as_ref()
            .filter(|held| held["status"] == report.status)
            .map(|held| held["lastTransitionTime"].clone());
        let whole_second = Timestamp::from_second(self.now.as_second()).unwrap_or(self.now);
        let mut condition = json!({
            "type": kind,
            "status": report.status,
            "reason": report.reason,
            "message": report.message,
            "lastTransitionTime": unchanged.unwrap_or_else(|| json!(whole_second.to_string())),
        });
        if self.generation > 0 {
            condition["observedGeneration"] = json!(self.generation);
        }
        match held {
            Some(held) => *held = condition,
            None => self.list.push(condition),
        }
    }

    pub(crate) fn remove(&mut self, kind: &str) {
        self.list.retain(|held| held["type"] != kind);
    }

    pub(crate) fn status(&self, kind: &str) -> Option<&str> {
        let held = self.list.iter().find(|held| held["type"] == kind)?;
        held["status"].as_str()
    }

    fn message(&self, kind: &str) -> String {
        let held = self.list.iter().find(|held| held["type"] == kind);
        let text = |field: &str| {
            held.and_then(|held| held[field].as_str())
                .unwrap_or_default()
        };
        match text("message") {
            "" => text("reason").to_owned(),
            message => message.to_owned(),
        }
    }

    /// Sums up positive conditions and `Deleting`: an issue beats the unknown, that beats all well.
    pub(crate) fn summary(&self, good: &str, bad: &str, unknown: &str, kinds: &[&str]) -> Report {
        let mut issues = Vec::new();
        let mut unknowns = Vec::new();
        if self.status(DELETING) == Some("True") {
            issues.push(format!("* {DELETING}: {}", self.message(DELETING)));
        }
        for kind in kinds {
            match self.status(kind) {
                Some("True") => {}
                Some("False") => issues.push(format!("* {kind}: {}", self.message(kind))),
                Some(_) => unknowns.push(format!("* {kind}: {}", self.message(kind))),
                None => unknowns.push(format!("* {kind}: Condition {kind} not yet reported")),
            }
        }
        if !issues.is_empty() {
            issues.extend(unknowns);
            Report::no(bad, issues.join("\n"))
        } else if unknowns.is_empty() {
            Report::yes(good)
        } else {
            Report::unknown(unknown, unknowns.join("\n"))
        }
    }

    /// The list in its order: `Available` and `Ready` first, `Deleting` and `Paused` last.
    pub(crate) fn into_value(mut self) -> Value {
        let place = |condition: &Value| match condition["type"].as_str() {
            Some(AVAILABLE) => 0,
            Some(READY) => 1,
            Some(DELETING) => 3,
            Some(PAUSED) => 4,
            _ => 2,
        };
        self.list.sort_by(|one, other| {
            let names = |it: &Value| it["type"].as_str().unwrap_or_default().to_owned();
            (place(one), names(one)).cmp(&(place(other), names(other)))
        });
        Value::Array(self.list)
    }
}

/// What core says of an infra or bootstrap object: its `Ready`, or what `fallback` says without one.
///
/// One malformed condition spoils the mirror, whichever it is (CO-01).
pub(crate) fn mirror(object: &Object, fallback: Report) -> Report {
    mirror_of(object, READY, fallback)
}

/// As [`mirror`], of another condition.
pub(crate) fn mirror_of(object: &Object, kind: &str, fallback: Report) -> Report {
    if let Some(fault) = object.conditions().iter().find_map(malformed) {
        return Report::unknown("InvalidConditionReported", fault);
    }
    let Some(held) = object.condition(kind) else {
        return fallback;
    };
    let status = match held.status {
        "True" => "True",
        "False" => "False",
        _ => "Unknown",
    };
    Report::new(status, held.reason, held.message)
}

/// What core says as long as an object has no `Ready`: whether it is provisioned.
pub(crate) fn provisioned_fallback(kind: &Kind, field: &str, is_provisioned: bool) -> Report {
    let field = field.trim_start_matches('/').replace('/', ".");
    if is_provisioned {
        Report::yes("Ready")
    } else {
        Report::no("NotReady", format!("{} {field} is false", kind.kind))
    }
}

fn malformed(condition: &Value) -> Option<String> {
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let kind = text("type");
    let fault = if kind.is_empty() {
        "a condition has no type"
    } else if !matches!(text("status"), "True" | "False" | "Unknown") {
        "has a status that is not True, False or Unknown"
    } else if !is_reason(text("reason")) {
        "has no valid reason"
    } else if text("lastTransitionTime").parse::<Timestamp>().is_err() {
        "has no valid lastTransitionTime"
    } else {
        return None;
    };
    Some(format!("invalid condition {kind:?}: {fault}"))
}

#[cfg(test)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "literals read better without borrows"
)]
mod tests {
    use super::*;

    const AT: &str = "2026-11-21T10:00:00Z";

    fn object(conditions: Value) -> Object {
        Object::from_value(json!({
            "apiVersion": "infra.x/v1", "kind": "Thing", "metadata": {"name": "x", "generation": 3},
            "status": {"conditions": conditions},
        }))
    }

    fn ready(reason: &str) -> Value {
        json!({"type": "Ready", "status": "False", "reason": reason, "message": "m",
            "lastTransitionTime": AT})
    }

    #[test]
    fn co_04_ready_is_mirrored_as_it_is_and_replaced_by_provisioned_when_absent() {
        let fallback = |is| provisioned_fallback(&Kind::new("g", "Thing"), "/status/ready", is);
        let held = mirror(&object(json!([ready("Waiting")])), fallback(true));
        assert_eq!(held, Report::no("Waiting", "m"));
        assert_eq!(
            mirror(&object(json!([])), fallback(true)),
            Report::yes("Ready")
        );
        let wanted = Report::no("NotReady", "Thing status.ready is false");
        assert_eq!(mirror(&object(json!([])), fallback(false)), wanted);
    }

    #[test]
    fn co_01_one_malformed_condition_spoils_the_mirror() {
        for bad in [
            json!({"type": "Other", "status": "True", "lastTransitionTime": AT}),
            json!({"type": "Other", "status": "yes", "reason": "A", "lastTransitionTime": AT}),
            json!({"status": "True", "reason": "A", "lastTransitionTime": AT}),
            json!({"type": "Other", "status": "True", "reason": "A"}),
            json!({"type": "Other", "status": "True", "reason": "with space", "lastTransitionTime": AT}),
        ] {
            let held = mirror(&object(json!([ready("A"), bad])), Report::yes("Ready"));
            assert_eq!(held.status, "Unknown", "{bad}");
            assert_eq!(held.reason, "InvalidConditionReported", "{bad}");
        }
    }

    #[test]
    fn co_02_and_co_08_transition_time_and_order() {
        let now: Timestamp = "2026-11-21T12:00:00.9Z".parse().expect("a time");
        let mut conditions = Conditions::of(&object(json!([ready("A")])), now);
        conditions.set("Ready", &Report::no("B", ""));
        for kind in ["Paused", "Zebra", "Deleting", "Apple", "Available"] {
            conditions.set(kind, &Report::yes("Is"));
        }
        let value = conditions.clone().into_value();
        let kinds: Vec<_> = value
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| &it["type"])
            .collect();
        assert_eq!(
            kinds,
            ["Available", "Ready", "Apple", "Zebra", "Deleting", "Paused"]
        );
        assert_eq!(value[1]["lastTransitionTime"], AT, "the status is the same");
        assert_eq!(value[1]["observedGeneration"], 3);
        assert_eq!(value[0]["lastTransitionTime"], "2026-11-21T12:00:00Z");
        conditions.set("Ready", &Report::yes("B"));
        assert_eq!(
            conditions.into_value()[1]["lastTransitionTime"],
            "2026-11-21T12:00:00Z"
        );
    }

    #[test]
    fn an_issue_beats_the_unknown_in_a_summary() {
        let now = Timestamp::UNIX_EPOCH;
        let sum = |a: &'static str, b: &'static str| {
            let mut conditions = Conditions::of(&object(json!([])), now);
            conditions.set("A", &Report::new(a, "Ra", ""));
            conditions.set("B", &Report::new(b, "Rb", ""));
            conditions
                .summary("Good", "Bad", "Dunno", &["A", "B"])
                .reason
        };
        for (a, b, wanted) in [
            ("True", "True", "Good"),
            ("True", "Unknown", "Dunno"),
            ("False", "Unknown", "Bad"),
        ] {
            assert_eq!(sum(a, b), wanted, "{a} {b}");
        }
        let none = Conditions::of(&object(json!([])), now);
        assert_eq!(
            none.summary("G", "B", "U", &["A"]).reason,
            "U",
            "not yet reported"
        );
    }
}
