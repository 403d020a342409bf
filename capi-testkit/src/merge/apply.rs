//! Server-side apply.

use serde_json::{Value, json};

use super::{
    ApplyError, Conflict, Shape, Writer, check, combine,
    compare::{self, compare},
    element,
    field_set::FieldSet,
    owners::{Identity, Operation, Owner, Owners},
    shape::Place,
    stripped, take_managed_fields, track,
};

/// The annotation in which client-side apply keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manager that may take over from client-side apply without a conflict.
const KUBECTL: &str = "kubectl";

/// The manager of what was there before anybody applied, in an object whose owners are not known.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

pub(super) fn apply(
    shape: Shape<'_>,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let root = shape.root();
    check_request(root, applied, writer)?;
    let empty = json!({"apiVersion": applied["apiVersion"], "kind": applied["kind"]});
    let mut stored = live.unwrap_or(&empty).clone();
    let entries = take_managed_fields(&mut stored);
    let mut owners = Owners::decode(entries).unwrap_or_default();
    if owners.is_empty() {
        let first = Writer {
            manager: BEFORE_FIRST_APPLY,
            ..*writer
        };
        // What cannot be compared cannot be merged either, and is reported below.
        if let Ok(changes) = compare(root, &empty, &stored) {
            track(&mut owners, changes, &first);
        }
    }
    let attempt = Attempt {
        root,
        stored: &stored,
        applied,
        writer,
    };
    let result = match attempt.run(owners.clone(), force) {
        Err(ApplyError::Conflicts(conflicts)) if writer.manager == KUBECTL => {
            let left = attempt.without_own_past(conflicts);
            if left.is_empty() {
                attempt.run(owners, true)
            } else {
                Err(ApplyError::Conflicts(left))
            }
        }
        result => result,
    };
    result.map(|mut object| {
        if writer.manager == KUBECTL {
            refresh_last_applied(&mut object, applied);
        }
        object
    })
}

fn check_request(root: Place<'_>, applied: &Value, writer: &Writer<'_>) -> Result<(), ApplyError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&applied["apiVersion"]), text(&applied["kind"]));
    let kind = match api_version.split_once('/') {
        Some(_) => format!("{api_version}, Kind={kind}"),
        None => format!("/{api_version}, Kind={kind}"),
    };
    if api_version != writer.api_version {
        return Err(ApplyError::BadRequest(format!(
            "invalid object type: {kind}"
        )));
    }
    let metadata = &applied["metadata"];
    if !metadata["managedFields"].is_null() {
        return Err(ApplyError::BadRequest(
            "metadata.managedFields must be nil".into(),
        ));
    }
    match check::misfit(root, applied) {
        None => Ok(()),
        Some(fault) => Err(ApplyError::Untyped(format!(
            "failed to create typed patch object ({}/{}; {kind}): {fault}",
            text(&metadata["namespace"]),
            text(&metadata["name"]),
        ))),
    }
}

/// One try to apply, with or without force.
struct Attempt<'a> {
    root: Place<'a>,
    stored: &'a Value,
    applied: &'a Value,
    writer: &'a Writer<'a>,
}

impl Attempt<'_> {
    fn run(&self, mut owners: Owners, force: bool) -> Result<Value, ApplyError> {
        let writer = self.writer;
        let identity = Identity::of(writer, Operation::Apply);
        let merged = combine::merged(self.root, self.stored, self.applied)
            .map_err(|fault| ApplyError::Untyped(format!("failed to merge config: {fault}")))?;
        let mut fields =
            compare::field_set(self.root, self.applied).map_err(ApplyError::Untyped)?;
        fields.drop_fields(writer.resets);

        let last = owners.take(&identity);
        let dropped = last
            .as_ref()
            .filter(|last| !last.fields.difference(&fields).is_empty());
        let (new, mut result) = match dropped {
            Some(last) => self.pruned(&merged, &last.fields, &fields, &owners)?,
            None => (merged.clone(), merged),
        };

        let mut changes = compare(self.root, self.stored, &new).map_err(ApplyError::Untyped)?;
        changes.drop_fields(writer.resets);
        let mut written = changes.modified;
        written.union(&changes.added);
        if !force {
            let conflicts = conflicts(&owners, &written);
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
        }
        owners.take_fields(&written);
        owners.take_fields(&changes.removed);

        let before = last.and_then(|last| last.time);
        let time = if new == *self.stored {
            before
        } else {
            Some(writer.now.to_owned())
        };
        owners.put(Owner {
            identity,
            api_version: writer.api_version.to_owned(),
            time,
            fields: stripped(&fields),
        });
        let entries = owners.encode();
        if !entries.is_null() {
            result["metadata"]["managedFields"] = entries;
        }
        Ok(result)
    }

    /// `merged` without what this applier dropped and nobody else owns: as ownership sees it, and as
    /// it is to be stored. They differ in containers that lost their content, see
    /// [`combine::without_and_clean`].
    fn pruned(
        &self,
        merged: &Value,
        last: &FieldSet,
        fields: &FieldSet,
        owners: &Owners,
    ) -> Result<(Value, Value), ApplyError> {
        let root = self.root;
        let set_of = |value: &Value| -> Result<FieldSet, ApplyError> {
            let set = compare::field_set(root, value).map_err(ApplyError::Untyped)?;
            Ok(combine::with_named_parents(root, &set))
        };
        let last = combine::with_named_parents(root, last);
        let pruned = combine::without(root, merged, &last);

        // What somebody owns comes back, with all that leads to it.
        let mut owned = fields.clone();
        owners.iter().for_each(|owner| owned.union(&owner.fields));
        let mut keep = set_of(&pruned)?;
        keep.union(&combine::with_named_parents(root, &owned));
        let all = set_of(merged)?;
        let pruned = combine::without(root, merged, &all.difference(&keep));

        // What this applier never owned comes back too.
        let gone = all.difference(&set_of(&pruned)?).intersection(&last);
        let seen = combine::without(root, merged, &gone);
        Ok((seen, combine::without_and_clean(root, merged, &gone)))
    }

    /// Conflicts on fields that client-side apply left exactly as they are are none.
    fn without_own_past(&self, conflicts: Vec<Conflict>) -> Vec<Conflict> {
        let Some(own) = self.own_past() else {
            return conflicts;
        };
        conflicts
            .into_iter()
            .filter(|conflict| {
                let mut field = FieldSet::default();
                field.insert(&conflict.path);
                !own.intersects(&field)
            })
            .collect()
    }

    fn own_past(&self) -> Option<FieldSet> {
        let text = self.stored["metadata"]["annotations"]
            .get(LAST_APPLIED)?
            .as_str()?;
        let last: Value = serde_json::from_str(text).ok()?;
        if last["apiVersion"] != self.writer.api_version {
            return None;
        }
        let set = compare::field_set(self.root, &last).ok()?;
        let since = compare(self.root, &last, self.stored).ok()?;
        Some(
            set.difference(&since.modified)
                .difference(&since.added)
                .difference(&since.removed),
        )
    }
}

/// What others own of the fields to be written, by manager.
fn conflicts(owners: &Owners, written: &FieldSet) -> Vec<Conflict> {
    let mut conflicts: Vec<(Identity, Conflict)> = Vec::new();
    for owner in owners.iter() {
        for path in owner.fields.intersection(written).paths() {
            let conflict = Conflict {
                manager: owner.identity.display(),
                field: element::display_path(&path),
                path,
            };
            conflicts.push((owner.identity.clone(), conflict));
        }
    }
    conflicts.sort_by(|(a, _), (b, _)| {
        (&a.manager, a.operation, &a.api_version, &a.subresource).cmp(&(
            &b.manager,
            b.operation,
            &b.api_version,
            &b.subresource,
        ))
    });
    conflicts
        .into_iter()
        .map(|(_, conflict)| conflict)
        .collect()
}

/// Client-side apply goes on from what was applied here, if the object knows it.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let known = object["metadata"]["annotations"]
        .get(LAST_APPLIED)
        .and_then(Value::as_str);
    if known.is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(Value::Object(annotations)) = applied.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    object["metadata"]["annotations"][LAST_APPLIED] = format!("{applied}\n").into();
}
