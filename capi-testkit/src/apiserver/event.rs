//! The two groups in which events are served, over one store.
//!
//! Events are stored as core `v1`. In `events.k8s.io/v1` the same fields have other names.

use serde_json::Value;

/// Names in core `v1` and in `events.k8s.io/v1`.
const FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
/// The component's name is `reportingComponent` in core `v1`.
const CONTROLLER: (&str, &str) = ("reportingComponent", "reportingController");

/// Renames the fields of a stored event for `events.k8s.io`.
pub(crate) fn to_events_group(object: &mut Value) {
    rename(object, |(core, events)| (core, events));
}

/// Renames the fields of an `events.k8s.io` event to those of core.
pub(crate) fn to_core_group(object: &mut Value) {
    rename(object, |(core, events)| (events, core));
}

fn rename(
    object: &mut Value,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    for pair in FIELDS.into_iter().chain([CONTROLLER]) {
        let (from, to) = direction(pair);
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_groups_show_the_same_event() {
        let stored = json!({"message": "m", "involvedObject": {"name": "a"}, "reason": "r"});
        let mut shown = stored.clone();
        to_events_group(&mut shown);
        assert_eq!(
            shown,
            json!({"note": "m", "regarding": {"name": "a"}, "reason": "r"})
        );
        to_core_group(&mut shown);
        assert_eq!(shown, stored);
    }
}
