//! The list of conditions in a status of KubeVirt or CDI.

use capi_testkit::actor::Object;
use serde_json::{Value, json};

/// Conditions as they are to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conditions {
    list: Vec<Value>,
    now: String,
}

impl Conditions {
    /// Those that an object has. `now` is the time of what changes.
    pub(crate) fn of(object: &Object, now: String) -> Self {
        Self {
            list: object.conditions().to_vec(),
            now,
        }
    }

    /// Sets a condition. Its transition time stays unless its status changes.
    pub(crate) fn set(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        let status = if status { "True" } else { "False" };
        let held = self.list.iter_mut().find(|held| held["type"] == kind);
        let is_same_status = held.as_ref().is_some_and(|held| held["status"] == status);
        let since = match &held {
            Some(held) if is_same_status => held["lastTransitionTime"].clone(),
            _ => json!(self.now),
        };
        let mut condition = json!({
            "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since,
        });
        for (key, text) in [("reason", reason), ("message", message)] {
            if !text.is_empty() {
                condition[key] = text.into();
            }
        }
        match held {
            Some(held) => *held = condition,
            None => self.list.push(condition),
        }
    }

    /// Takes over a condition of another object, with its times.
    pub(crate) fn copy(&mut self, condition: &Value) {
        let mut held = self.list.iter_mut();
        match held.find(|held| held["type"] == condition["type"]) {
            Some(held) => *held = condition.clone(),
            None => self.list.push(condition.clone()),
        }
    }

    /// Takes a condition away.
    pub(crate) fn remove(&mut self, kind: &str) {
        self.list.retain(|held| held["type"] != kind);
    }

    /// Keeps the conditions whose type passes.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.list
            .retain(|held| held["type"].as_str().is_some_and(&keep));
    }

    /// The list for a status.
    pub(crate) fn into_value(self) -> Value {
        Value::Array(self.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(conditions: &Value) -> Object {
        let object = json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "x"},
            "status": {"conditions": conditions},
        });
        Object::new(serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn the_time_of_a_condition_moves_with_its_status_only() {
        let held = json!([{"type": "Ready", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "t0", "reason": "Old"}]);
        let mut conditions = Conditions::of(&object(&held), "t1".to_owned());
        conditions.set("Ready", true, "New", "");
        conditions.set("AgentConnected", true, "", "");
        let list = conditions.clone().into_value();
        assert_eq!(list[0]["lastTransitionTime"], "t0");
        assert_eq!(list[0]["reason"], "New");
        assert_eq!(list[1]["lastTransitionTime"], "t1");
        conditions.set("Ready", false, "New", "");
        conditions.remove("AgentConnected");
        let list = conditions.into_value();
        assert_eq!(list[0]["lastTransitionTime"], "t1");
        assert_eq!(list[1], Value::Null);
    }
}
