//! Who made what, and what was done to others' things: read from the changes that the API shows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capi_contract::Mark;
use capi_testkit::actor::{Change, Kind, Name, Object};
use serde_json::{Value, json};

use crate::word::{CLAIM, DATA_VOLUME, INSTANCE, MACHINE, SECRET, SERVICE};

/// The label of everything that Cluster API makes for a cluster.
const CLUSTER_NAME_LABEL: &str = "cluster.x-k8s.io/cluster-name";
/// The labels by which the Go provider says what a VM stands for.
const MACHINE_NAME_LABEL: &str = "capk.cluster.x-k8s.io/kubevirt-machine-name";
const MACHINE_NAMESPACE_LABEL: &str = "capk.cluster.x-k8s.io/kubevirt-machine-namespace";

/// A VM that is or was there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Birth {
    /// Its uid.
    pub uid: String,
    /// `namespace/name`.
    pub name: String,
    /// What it stands for: by the [mark](Mark) in one of its annotations, else by the Go provider's
    /// labels.
    pub object: Option<String>,
    /// When it was first seen, since the platform's start.
    pub made: Duration,
    /// When it was gone.
    pub gone: Option<Duration>,
}

/// Two VMs that stood for the same object at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Twins {
    /// The object.
    pub object: String,
    /// The older one, `namespace/name`.
    pub first: String,
    /// The younger one, `namespace/name`.
    pub second: String,
}

/// Something that belongs to somebody else was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// The kind.
    pub kind: String,
    /// `namespace/name`.
    pub name: String,
    /// `changed` or `deleted`.
    pub how: &'static str,
}

/// The book of changes.
#[derive(Debug, Default)]
pub(crate) struct Book {
    births: BTreeMap<String, Birth>,
    order: Vec<String>,
    overlaps: Vec<Twins>,
    touched: Vec<Touched>,
    /// Uids of what bears a mark of ours, or is owned by it.
    ours: BTreeSet<String>,
    /// Uids of what is changed by hand or by the platform itself.
    excused: BTreeSet<String>,
}

impl Book {
    /// Says that a change of this object is nobody's fault.
    pub(crate) fn excuse(&mut self, uid: &str) {
        self.excused.insert(uid.to_owned());
    }

    pub(crate) fn is_ours(&self, object: &Object) -> bool {
        self.ours.contains(object.uid())
    }

    pub(crate) fn births(&self) -> Vec<Birth> {
        self.order
            .iter()
            .filter_map(|uid| self.births.get(uid).cloned())
            .collect()
    }

    pub(crate) fn overlaps(&self) -> Vec<Twins> {
        self.overlaps.clone()
    }

    /// The pairs that are still there.
    pub(crate) fn twins(&self) -> Vec<Twins> {
        let live = self.order.iter().filter_map(|uid| self.births.get(uid));
        let live: Vec<&Birth> = live.filter(|birth| birth.gone.is_none()).collect();
        let mut twins = Vec::new();
        for (position, second) in live.iter().enumerate() {
            let Some(object) = &second.object else {
                continue;
            };
            let firsts = live[..position].iter();
            twins.extend(
                firsts
                    .filter(|first| first.object.as_ref() == Some(object))
                    .map(|first| pair(object, first, second)),
            );
        }
        twins
    }

    pub(crate) fn touched(&self) -> Vec<Touched> {
        self.touched.clone()
    }

    /// Takes a change in. `now` is the time since the platform's start.
    pub(crate) fn note(&mut self, change: &Change, now: Duration) {
        self.judge(change);
        if let Some(object) = change.object() {
            let mut owners = object.owners().iter();
            let is_ours = bears_mark(object) || owners.any(|owner| self.ours.contains(&owner.uid));
            if is_ours {
                self.ours.insert(object.uid().to_owned());
            }
            if object.is_deleting() {
                // What belongs to it goes with it.
                self.pass_excuse(object);
            }
        }
        if change.kind == MACHINE {
            self.note_birth(change, now);
        }
    }

    /// Whoever may delete a thing may delete what it owns.
    fn pass_excuse(&mut self, object: &Object) {
        let mut owners = object.owners().iter();
        if owners.any(|owner| self.excused.contains(&owner.uid)) {
            self.excused.insert(object.uid().to_owned());
        }
    }

    fn judge(&mut self, change: &Change) {
        let Some(before) = &change.before else { return };
        let owner_is =
            |set: &BTreeSet<String>| before.owners().iter().any(|owner| set.contains(&owner.uid));
        let is_free = |set: &BTreeSet<String>| set.contains(before.uid()) || owner_is(set);
        if is_free(&self.ours) || is_free(&self.excused) {
            return;
        }
        let is_going = change
            .after
            .as_ref()
            .is_none_or(|after| after.is_deleting());
        let how = if is_going && !before.is_deleting() {
            "deleted"
        } else if is_watched(&change.kind)
            && change
                .after
                .as_ref()
                .is_some_and(|after| content(before) != content(after))
        {
            "changed"
        } else {
            return;
        };
        // The end of an instance is told by its VM; only one that is deleted itself counts.
        let counts =
            is_watched(&change.kind) || (change.kind == INSTANCE && change.after.is_some());
        if counts {
            self.touched.push(Touched {
                kind: change.kind.kind.to_string(),
                name: before.key().to_string(),
                how,
            });
            if how == "deleted" {
                // Once is enough, for it and for what it owns.
                self.excused.insert(before.uid().to_owned());
            }
        }
    }

    fn note_birth(&mut self, change: &Change, now: Duration) {
        let Some(machine) = &change.after else {
            let gone = change.before.as_ref().map(|machine| machine.uid());
            if let Some(birth) = gone.and_then(|uid| self.births.get_mut(uid)) {
                birth.gone = Some(now);
            }
            return;
        };
        let uid = machine.uid().to_owned();
        let object = identity(machine);
        if !self.births.contains_key(&uid) {
            self.order.push(uid.clone());
        }
        let birth = self.births.entry(uid).or_insert_with(|| Birth {
            uid: machine.uid().to_owned(),
            name: machine.key().to_string(),
            object: None,
            made: now,
            gone: None,
        });
        if birth.object != object && object.is_some() {
            birth.object = object;
            let twins = self.twins();
            let new = twins
                .into_iter()
                .filter(|pair| !self.overlaps.contains(pair));
            let new: Vec<Twins> = new.collect();
            self.overlaps.extend(new);
        }
    }
}

fn pair(object: &str, first: &Birth, second: &Birth) -> Twins {
    Twins {
        object: object.to_owned(),
        first: first.name.clone(),
        second: second.name.clone(),
    }
}

/// Kinds whose content users write. An instance is its VM's.
fn is_watched(kind: &Kind) -> bool {
    [&MACHINE, &DATA_VOLUME, &CLAIM, &SECRET, &SERVICE].contains(&kind)
}

/// The mark that an object bears.
pub(crate) fn mark(object: &Object) -> Option<Mark> {
    let annotations = object.metadata.annotations.iter().flatten();
    annotations
        .into_iter()
        .find_map(|(_, value)| Mark::find_in(value))
}

/// What a VM stands for.
fn identity(machine: &Object) -> Option<String> {
    if let Some(mark) = mark(machine) {
        return Some(format!("{}:{}", mark.owner, mark.object));
    }
    let name = machine.label(MACHINE_NAME_LABEL)?;
    let namespace = machine.label(MACHINE_NAMESPACE_LABEL)?;
    Some(Name::new(namespace, name).to_string())
}

fn bears_mark(object: &Object) -> bool {
    mark(object).is_some()
        || object.label(CLUSTER_NAME_LABEL).is_some()
        || object.label(MACHINE_NAME_LABEL).is_some()
}

/// What users write of an object: no status, no finalizers.
fn content(object: &Object) -> Value {
    let part = |pointer: &str| object.at(pointer).cloned();
    json!({
        "labels": object.metadata.labels,
        "annotations": object.metadata.annotations,
        "owners": object.metadata.owner_references,
        "spec": part("/spec"), "data": part("/data"), "type": part("/type"),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn machine(name: &str, labels: &Value) -> Arc<Object> {
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "labels": labels},
            "spec": {"runStrategy": "Always"},
        });
        Arc::new(Object::new(
            serde_json::from_value(object).expect("an object"),
        ))
    }

    fn change(before: Option<&Arc<Object>>, after: Option<&Arc<Object>>) -> Change {
        Change {
            kind: MACHINE.clone(),
            before: before.cloned(),
            after: after.cloned(),
        }
    }

    #[test]
    fn two_machines_of_one_object_are_twins_as_long_as_both_are_there() {
        let labels = json!({MACHINE_NAME_LABEL: "m", MACHINE_NAMESPACE_LABEL: "d"});
        let (first, second) = (machine("a", &labels), machine("b", &labels));
        let mut book = Book::default();
        book.note(&change(None, Some(&first)), Duration::ZERO);
        assert_eq!(book.twins(), []);
        book.note(&change(None, Some(&second)), Duration::ZERO);
        assert_eq!(book.twins().len(), 1);
        book.note(&change(Some(&first), None), Duration::ZERO);
        assert_eq!(book.twins(), []);
        assert_eq!(book.overlaps().len(), 1);
        assert_eq!(book.touched(), [], "both are ours");
    }

    #[test]
    fn what_bears_no_mark_is_not_to_be_touched() {
        let stranger = machine("x", &json!({}));
        let marked = machine("x", &json!({CLUSTER_NAME_LABEL: "c"}));
        let mut book = Book::default();
        book.note(&change(None, Some(&stranger)), Duration::ZERO);
        book.note(&change(Some(&stranger), Some(&stranger)), Duration::ZERO);
        assert_eq!(book.touched(), []);
        book.note(&change(Some(&stranger), Some(&marked)), Duration::ZERO);
        assert_eq!(book.touched().len(), 1, "to mark it is to take it");
        let other = machine("y", &json!({}));
        book.note(&change(None, Some(&other)), Duration::ZERO);
        book.note(&change(Some(&other), None), Duration::ZERO);
        assert_eq!(book.touched()[1].how, "deleted");
        let excused = machine("z", &json!({}));
        book.excuse("uid-z");
        book.note(&change(Some(&excused), None), Duration::ZERO);
        assert_eq!(book.touched().len(), 2);
    }
}
