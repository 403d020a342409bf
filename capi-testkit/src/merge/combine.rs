//! Putting an applied object into a stored one, and taking fields out again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    element,
    field_set::{Child, FieldSet},
    shape::{Place, Treatment},
};

/// `live` with everything that `applied` says.
pub(crate) fn merged(place: Place<'_>, live: &Value, applied: &Value) -> Result<Value, String> {
    match (
        live,
        place.treatment(live),
        applied,
        place.treatment(applied),
    ) {
        (Value::Object(live), Treatment::Granular, Value::Object(applied), Treatment::Granular) => {
            let mut out = live.clone();
            for (name, applied) in applied {
                let value = match live.get(name) {
                    Some(live) => merged(place.field(name).place, live, applied)?,
                    None => applied.clone(),
                };
                out.insert(name.clone(), value);
            }
            Ok(Value::Object(out))
        }
        (
            Value::Array(live),
            Treatment::Associative,
            Value::Array(applied),
            Treatment::Associative,
        ) => merged_lists(place, live, applied),
        // Null says nothing about what a container holds.
        (Value::Object(content), Treatment::Granular, Value::Null, _) if !content.is_empty() => {
            Ok(live.clone())
        }
        (Value::Array(content), Treatment::Associative, Value::Null, _) if !content.is_empty() => {
            Ok(live.clone())
        }
        _ => Ok(applied.clone()),
    }
}

/// Items of both lists, in the order of the applied one as far as that goes, with items that only
/// the stored list has kept near their neighbours.
fn merged_lists(place: Place<'_>, live: &[Value], applied: &[Value]) -> Result<Value, String> {
    let keys_of = |items: &[Value]| -> Result<Vec<String>, String> {
        items.iter().map(|item| place.element(item)).collect()
    };
    let live_keys = keys_of(live)?;
    let applied_keys = keys_of(applied)?;
    let live_set: BTreeSet<&String> = live_keys.iter().collect();
    let applied_set: BTreeSet<&String> = applied_keys.iter().collect();
    let mut unique_live: BTreeMap<&String, Option<&Value>> = BTreeMap::new();
    for (key, item) in live_keys.iter().zip(live) {
        // Of items that share a key, none can be told to be the one meant.
        unique_live
            .entry(key)
            .and_modify(|found| *found = None)
            .or_insert(Some(item));
    }
    let with_live = |index: usize| match unique_live.get(&applied_keys[index]).copied().flatten() {
        Some(item) => merged(place.item(), item, &applied[index]),
        None => Ok(applied[index].clone()),
    };

    let mut shared = applied_keys.iter().filter(|key| live_set.contains(key));
    let mut next_shared = shared.next();
    let mut done: BTreeSet<&String> = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < applied.len() {
        if l < live.len() && r < applied.len() {
            if live_keys[l] == applied_keys[r] {
                done.insert(&applied_keys[r]);
                out.push(with_live(r)?);
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if applied_set.contains(&live_keys[l])
                && next_shared.is_some_and(|next| *next != live_keys[l])
            {
                // Shared, but its turn comes later.
                l += 1;
                continue;
            }
        }
        if l < live.len() {
            if !applied_set.contains(&live_keys[l]) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(&live_keys[l]) {
                l += 1;
            }
        }
        if r < applied.len() {
            done.insert(&applied_keys[r]);
            out.push(with_live(r)?);
            if next_shared == Some(&applied_keys[r]) {
                next_shared = shared.next();
            }
            r += 1;
        }
    }
    Ok(Value::Array(out))
}

/// `value` without the fields of a set. A container that loses all its content becomes null.
pub(crate) fn without(place: Place<'_>, value: &Value, gone: &FieldSet) -> Value {
    Removal {
        emptied: Some(Value::Null),
    }
    .from(place, value, gone)
}

/// `value` without the fields of a set, and without containers that lost all their content.
///
/// The real server stores null for those, and drops that null when it reads the object again, which
/// it does before it answers.
pub(crate) fn without_and_clean(place: Place<'_>, value: &Value, gone: &FieldSet) -> Value {
    Removal { emptied: None }.from(place, value, gone)
}

struct Removal {
    /// What stands for a container that lost its content, if anything does.
    emptied: Option<Value>,
}

/// What is left of a value.
enum Rest {
    Something(Value),
    /// A container without its content; it still counts as content of the container around it.
    Emptied,
    Gone,
}

impl Removal {
    fn from(&self, place: Place<'_>, value: &Value, gone: &FieldSet) -> Value {
        if gone.is_empty() {
            return value.clone();
        }
        match self.remove(place, value, &|element| gone.child(element)) {
            Rest::Something(rest) => rest,
            Rest::Gone | Rest::Emptied => Value::Null,
        }
    }

    fn remove<'s>(
        &self,
        place: Place<'_>,
        value: &Value,
        gone: &dyn Fn(&str) -> Option<Child<'s>>,
    ) -> Rest {
        match (value, place.treatment(value)) {
            (Value::Object(fields), Treatment::Granular) => {
                let mut out = Map::new();
                let mut emptied = true;
                for (name, value) in fields {
                    let place = place.field(name).place;
                    let rest = self.remove_child(place, value, gone(&element::field(name)));
                    emptied &= matches!(rest, Rest::Gone);
                    if let Some(value) = self.value(rest) {
                        out.insert(name.clone(), value);
                    }
                }
                if emptied {
                    Rest::Emptied
                } else {
                    Rest::Something(Value::Object(out))
                }
            }
            (Value::Array(items), Treatment::Associative) => {
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    // Items without identity are in no set.
                    let child = place.element(item).ok().and_then(|element| gone(&element));
                    out.extend(self.value(self.remove_child(place.item(), item, child)));
                }
                if out.is_empty() {
                    Rest::Emptied
                } else {
                    Rest::Something(Value::Array(out))
                }
            }
            (Value::Object(_) | Value::Array(_), _) => Rest::Emptied,
            (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => {
                Rest::Something(value.clone())
            }
        }
    }

    fn remove_child(&self, place: Place<'_>, value: &Value, gone: Option<Child<'_>>) -> Rest {
        match gone {
            Some(child) if child.is_member() => Rest::Gone,
            Some(child) if child.has_children() => {
                self.remove(place, value, &|element| child.child(element))
            }
            Some(_) | None => Rest::Something(value.clone()),
        }
    }

    fn value(&self, rest: Rest) -> Option<Value> {
        match rest {
            Rest::Something(value) => Some(value),
            Rest::Emptied => self.emptied.clone(),
            Rest::Gone => None,
        }
    }
}

/// The set with the structs around its fields, which [`super::compare::field_set`] leaves out.
pub(crate) fn with_named_parents(place: Place<'_>, set: &FieldSet) -> FieldSet {
    let mut out = FieldSet::default();
    for (element, child) in set.children() {
        add_named(place, element, child, &mut out);
    }
    out
}

fn add_named(place: Place<'_>, element: &str, child: Child<'_>, out: &mut FieldSet) {
    let field = place.below(element);
    let mut below = FieldSet::default();
    for (element, child) in child.children() {
        add_named(field.place, element, child, &mut below);
    }
    let member = child.is_member() || (field.named && child.has_children());
    out.push(element.to_owned(), member, below);
}
