//! What changed between two objects, field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    element,
    field_set::FieldSet,
    shape::{Place, Treatment},
};

/// The fields that differ between an old and a new object.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) removed: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) added: FieldSet,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// Drops changes to top-level fields that the endpoint ignores.
    pub(crate) fn drop_fields(&mut self, names: &[&str]) {
        self.removed.drop_fields(names);
        self.modified.drop_fields(names);
        self.added.drop_fields(names);
    }

    /// What the writer of the new object takes for its own.
    pub(crate) fn into_written(self) -> FieldSet {
        let mut written = self.modified;
        written.union(&self.added);
        written
    }
}

/// Compares two objects.
///
/// # Errors
///
/// The reason why an item of a list has no identity.
pub(crate) fn compare(place: Place<'_>, old: &Value, new: &Value) -> Result<Changes, String> {
    let mut walk = Walk {
        changes: Changes::default(),
        path: Vec::new(),
    };
    walk.both(place, old, new)?;
    Ok(walk.changes)
}

struct Walk {
    changes: Changes,
    path: Vec<String>,
}

impl Walk {
    fn both(&mut self, place: Place<'_>, old: &Value, new: &Value) -> Result<(), String> {
        if old == new {
            return Ok(());
        }
        match (old, place.treatment(old), new, place.treatment(new)) {
            (Value::Object(old), Treatment::Granular, Value::Object(new), Treatment::Granular) => {
                self.maps(place, old, new)
            }
            (
                Value::Array(old),
                Treatment::Associative,
                Value::Array(new),
                Treatment::Associative,
            ) => self.lists(place, old, new),
            // Null is a container without content: what it held is gone, it stays.
            (_, Treatment::Granular | Treatment::Associative, Value::Null, _) => {
                let below = all_below(place, old)?;
                self.changes.removed.insert_below(&self.path, false, &below);
                Ok(())
            }
            (Value::Null, _, _, Treatment::Granular | Treatment::Associative) => {
                let below = all_below(place, new)?;
                self.changes.added.insert_below(&self.path, false, &below);
                Ok(())
            }
            _ => {
                self.changes.modified.insert(&self.path);
                let gone = all_below(place, old)?;
                self.changes.removed.insert_below(&self.path, false, &gone);
                let come = all_below(place, new)?;
                self.changes.added.insert_below(&self.path, false, &come);
                Ok(())
            }
        }
    }

    fn maps(
        &mut self,
        place: Place<'_>,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
    ) -> Result<(), String> {
        for (name, old) in old {
            let new = new.get(name);
            if new == Some(old) || self.is_ownership(name) {
                continue;
            }
            self.path.push(element::field(name));
            let result = self.item(place.field(name).place, Some(old), new);
            self.path.pop();
            result?;
        }
        for (name, new) in new {
            if old.contains_key(name) || self.is_ownership(name) {
                continue;
            }
            self.path.push(element::field(name));
            let result = self.item(place.field(name).place, None, Some(new));
            self.path.pop();
            result?;
        }
        Ok(())
    }

    /// Ownership itself is not owned, and not looked at.
    fn is_ownership(&self, name: &str) -> bool {
        name == "managedFields" && matches!(self.path.as_slice(), [only] if only == "f:metadata")
    }

    fn lists(&mut self, place: Place<'_>, old: &[Value], new: &[Value]) -> Result<(), String> {
        if let Some(changed) = changed_in_place(place, old, new) {
            for (old, new) in changed {
                self.path.push(place.element(new)?);
                let result = self.both(place.item(), old, new);
                self.path.pop();
                result?;
            }
            return Ok(());
        }
        let mut items: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for item in old {
            items.entry(place.element(item)?).or_default().0.push(item);
        }
        for item in new {
            items.entry(place.element(item)?).or_default().1.push(item);
        }
        for (key, (old, new)) in items {
            self.path.push(key);
            let result = self.items(place.item(), &old, &new);
            self.path.pop();
            result?;
        }
        Ok(())
    }

    /// Items under one key. Several of them are one thing, owned together.
    fn items(&mut self, place: Place<'_>, old: &[&Value], new: &[&Value]) -> Result<(), String> {
        match (old, new) {
            ([] | [_], [] | [_]) => self.item(place, old.first().copied(), new.first().copied()),
            ([_, _, ..], [_, _, ..]) => {
                if old != new {
                    self.changes.modified.insert(&self.path);
                }
                Ok(())
            }
            ([_, _, ..], _) => {
                self.item(place, None, new.first().copied())?;
                self.changes.removed.insert(&self.path);
                Ok(())
            }
            (_, [_, _, ..]) => {
                self.item(place, old.first().copied(), None)?;
                self.changes.added.insert(&self.path);
                Ok(())
            }
        }
    }

    fn item(
        &mut self,
        place: Place<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), String> {
        match (old, new) {
            (None, None) => Ok(()),
            (Some(old), Some(new)) => self.both(place, old, new),
            (Some(old), None) => {
                let below = all_below(place, old)?;
                self.changes.removed.insert_below(&self.path, true, &below);
                Ok(())
            }
            (None, Some(new)) => {
                let below = all_below(place, new)?;
                self.changes.added.insert_below(&self.path, true, &below);
                Ok(())
            }
        }
    }
}

/// The items that changed, if the lists hold the same distinct items in the same order. That is how
/// most lists change, conditions above all, and it takes no index of their keys.
fn changed_in_place<'v>(
    place: Place<'_>,
    old: &'v [Value],
    new: &'v [Value],
) -> Option<Vec<(&'v Value, &'v Value)>> {
    if old.len() != new.len() {
        return None;
    }
    let mut changed = Vec::new();
    for (index, (old, now)) in old.iter().zip(new).enumerate() {
        if old == now {
            continue;
        }
        let repeated = || {
            new.iter()
                .enumerate()
                .any(|(other, item)| other != index && place.same_keys(item, now))
        };
        if !place.same_keys(old, now) || repeated() {
            return None;
        }
        changed.push((old, now));
    }
    Some(changed)
}

/// Every field below a value, the fields around them included.
fn all_below(place: Place<'_>, value: &Value) -> Result<FieldSet, String> {
    let mut set = FieldSet::default();
    match (value, place.treatment(value)) {
        (Value::Object(fields), Treatment::Granular) => {
            for (name, value) in fields {
                let below = all_below(place.field(name).place, value)?;
                set.push(element::field(name), true, below);
            }
        }
        (Value::Array(items), Treatment::Associative) => {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for item in items {
                *seen.entry(place.element(item)?).or_default() += 1;
            }
            for item in items {
                let key = place.element(item)?;
                let below = match seen.get(&key) {
                    Some(1) => all_below(place.item(), item)?,
                    _ => FieldSet::default(),
                };
                set.push(key, true, below);
            }
        }
        _ => {}
    }
    Ok(set)
}

/// The fields that an applied object speaks of: its leaves, the items of its lists and maps, and
/// what it leaves empty; not the structs around them.
pub(crate) fn field_set(place: Place<'_>, value: &Value) -> Result<FieldSet, String> {
    let mut set = FieldSet::default();
    match (value, place.treatment(value)) {
        (Value::Object(fields), Treatment::Granular) => {
            for (name, value) in fields {
                let field = place.field(name);
                let below = field_set(field.place, value)?;
                let empty = value.as_object().is_some_and(Map::is_empty);
                let leaf = field.place.treatment(value) == Treatment::Leaf;
                set.push(element::field(name), leaf || empty || !field.named, below);
            }
        }
        (Value::Array(items), Treatment::Associative) => {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for item in items {
                *seen.entry(place.element(item)?).or_default() += 1;
            }
            for item in items {
                let key = place.element(item)?;
                let below = match seen.get(&key) {
                    Some(1) => field_set(place.item(), item)?,
                    _ => FieldSet::default(),
                };
                set.push(key, true, below);
            }
        }
        _ => {}
    }
    Ok(set)
}
