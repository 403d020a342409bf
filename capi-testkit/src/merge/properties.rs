//! Properties of field ownership that hold for any objects and managers.

use proptest::{collection::btree_map, prelude::*};
use serde_json::{Map, Value, json};

use super::{Shape, Writer, apply, update};
use crate::schema::Schema;

fn schema() -> Schema {
    let item = json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    });
    Schema::compile(&json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {
            "text": {"type": "string"},
            "struct": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "string"}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "list": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": item,
            },
        }}},
    }))
    .unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "example.com/v1",
        subresource: "",
        resets: &[],
        now: "2026-01-02T03:04:05Z",
    }
}

/// An object that always says something of its spec, for an empty spec would speak of the spec itself.
fn thing(mut spec: Map<String, Value>) -> Value {
    spec.insert("text".into(), json!("same"));
    json!({
        "apiVersion": "example.com/v1",
        "kind": "Thing",
        "metadata": {"name": "t", "namespace": "n"},
        "spec": spec,
    })
}

/// Specs whose map keys and list items begin with `prefix`. Containers are never empty, since an
/// empty one speaks of the container itself.
fn spec(prefix: &'static str) -> impl Strategy<Value = Map<String, Value>> {
    let name =
        prop::sample::select(vec!["a", "b", "c"]).prop_map(move |name| format!("{prefix}{name}"));
    let entries = btree_map(name, 0..3_i64, 1..4);
    let fields = [
        entries
            .clone()
            .prop_map(|entries| {
                entries
                    .iter()
                    .map(|(key, value)| (key.clone(), json!(value.to_string())))
                    .collect()
            })
            .prop_map(|map: Map<String, Value>| ("map", Value::Object(map)))
            .boxed(),
        entries
            .clone()
            .prop_map(|entries| ("set", json!(entries.into_keys().collect::<Vec<_>>())))
            .boxed(),
        entries
            .prop_map(|entries| {
                let item = |(name, size)| json!({"name": name, "size": size});
                (
                    "list",
                    Value::Array(entries.into_iter().map(item).collect()),
                )
            })
            .boxed(),
    ];
    let fields = fields.map(|field| prop::option::of(field).boxed());
    fields.prop_map(|fields| {
        fields
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    })
}

/// Lists in the order of their text, since managers that commute may leave items in either order.
fn sorted(mut object: Value) -> Value {
    for list in ["set", "list"] {
        if let Some(items) = object["spec"].get_mut(list).and_then(Value::as_array_mut) {
            items.sort_by_key(ToString::to_string);
        }
    }
    object
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn applying_the_same_twice_changes_nothing(first in spec(""), second in spec("")) {
        let schema = schema();
        let shape = Shape::Structural(&schema);
        let live = apply(shape, None, &thing(first), &writer("one"), false).unwrap();
        let later = Writer { now: "2027-01-01T00:00:00Z", ..writer("two") };
        let once = apply(shape, Some(&live), &thing(second.clone()), &writer("two"), true).unwrap();
        let twice = apply(shape, Some(&once), &thing(second), &later, false).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn managers_of_disjoint_fields_never_conflict_and_commute(a in spec("a-"), b in spec("b-")) {
        let schema = schema();
        let shape = Shape::Structural(&schema);
        let both = |first: (&str, &Map<String, Value>), second: (&str, &Map<String, Value>)| {
            let live = apply(shape, None, &thing(first.1.clone()), &writer(first.0), false).unwrap();
            apply(shape, Some(&live), &thing(second.1.clone()), &writer(second.0), false).unwrap()
        };
        let ab = both(("one", &a), ("two", &b));
        let ba = both(("two", &b), ("one", &a));
        prop_assert_eq!(&sorted(ab)["spec"], &sorted(ba)["spec"]);
    }

    #[test]
    fn what_a_manager_drops_and_nobody_else_owns_goes(first in spec(""), second in spec("")) {
        let schema = schema();
        let shape = Shape::Structural(&schema);
        let live = apply(shape, None, &thing(first), &writer("one"), false).unwrap();
        let next = apply(shape, Some(&live), &thing(second.clone()), &writer("one"), false).unwrap();
        let fresh = apply(shape, None, &thing(second), &writer("one"), false).unwrap();
        prop_assert_eq!(sorted(next), sorted(fresh));
    }

    #[test]
    fn what_another_manager_owns_stays(mine in spec(""), theirs in spec("")) {
        let schema = schema();
        let shape = Shape::Structural(&schema);
        let live = apply(shape, None, &thing(theirs.clone()), &writer("two"), false).unwrap();
        let live = apply(shape, Some(&live), &thing(mine.clone()), &writer("one"), true).unwrap();
        // Both say what the other took; dropping it from one leaves the other's.
        let live = apply(shape, Some(&live), &thing(theirs.clone()), &writer("two"), true).unwrap();
        let live = apply(shape, Some(&live), &thing(Map::new()), &writer("one"), false).unwrap();
        let alone = apply(shape, None, &thing(theirs), &writer("two"), false).unwrap();
        let (live, alone) = (sorted(live), sorted(alone));
        for (name, value) in alone["spec"].as_object().unwrap() {
            prop_assert_eq!(&live["spec"][name], value);
        }
    }

    #[test]
    fn an_update_owns_exactly_what_it_changed(before in spec(""), after in spec("")) {
        let schema = schema();
        let shape = Shape::Structural(&schema);
        let live = update(shape, None, thing(before.clone()), &writer("one"));
        let new = update(shape, Some(&live), thing(after.clone()), &writer("two"));
        let owners = new["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let second = owners.iter().any(|owner| owner["manager"] == "two");
        let only_removed = after.iter().all(|(name, value)| {
            let text = |value: &Value| value.to_string();
            before.get(name).is_some_and(|old| match (old, value) {
                (Value::Array(old), Value::Array(new)) => {
                    new.iter().all(|item| old.iter().any(|other| text(other) == text(item)))
                }
                (Value::Object(old), Value::Object(new)) => {
                    new.iter().all(|(key, value)| old.get(key) == Some(value))
                }
                _ => false,
            })
        });
        prop_assert_eq!(second, !only_removed);
    }
}
