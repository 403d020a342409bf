//! Deletion: at once, or by a mark that finalizers hold.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    ApiServer, decode,
    kinds::Resource,
    read::Selection,
    serve::{Answer, Ask},
    status::{Details, StatusError, Subject},
    store::{Key, Object, Refused, Write},
    strategy,
};
use crate::schema::{FieldError, FieldErrorKind};

/// Finalizer that keeps an owner until its dependents are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that keeps an owner until its dependents have forgotten it.
pub(crate) const ORPHAN: &str = "orphan";
/// Namespaces that a real server refuses to delete.
const KEPT_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];
/// Tries of a delete whose object moves below it.
const TRIES_MAX: u32 = 32;

/// What becomes of the dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) propagation: Option<Propagation>,
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

/// What a deletion does to an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    /// It goes at once.
    Removed,
    /// It stays, marked, until its finalizers are gone.
    Marked(Box<Value>),
    /// It is on its way already.
    Unchanged,
}

impl DeleteOptions {
    pub(crate) fn with(propagation: Propagation) -> Self {
        Self {
            propagation: Some(propagation),
            ..Self::default()
        }
    }

    /// Only the object with this uid is meant.
    pub(crate) fn of_uid(self, uid: &str) -> Self {
        Self {
            uid: Some(uid.to_owned()),
            ..self
        }
    }

    /// From the body, and from the query where the body has none.
    fn of(ask: &Ask) -> Result<Self, StatusError> {
        let body = if ask.body.is_empty() {
            json!({})
        } else {
            decode::body(ask)?.value
        };
        let kind = body["kind"].as_str().unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            let message = format!("the body of a delete must be DeleteOptions, not {kind}");
            return Err(StatusError::bad_request(message));
        }
        let text = |path: &Value| path.as_str().map(str::to_owned);
        let query = |name: &str| ask.query.get(name).filter(|value| !value.is_empty());
        let policy = text(&body["propagationPolicy"])
            .or_else(|| query("propagationPolicy").map(str::to_owned));
        let orphan = body["orphanDependents"]
            .as_bool()
            .or_else(|| ask.query.maybe_flag("orphanDependents"));
        let propagation = match (policy.as_deref(), orphan) {
            (Some(_), Some(_)) => {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                return Err(refused_policy(FieldErrorKind::Invalid, policy, detail));
            }
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(_), None) => {
                let detail =
                    "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
                return Err(refused_policy(FieldErrorKind::NotSupported, policy, detail));
            }
        };
        Ok(Self {
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: ask.dry_run
                || body["dryRun"]
                    .as_array()
                    .is_some_and(|list| !list.is_empty()),
        })
    }

    fn check(&self, resource: &Resource, live: &Object) -> Result<(), StatusError> {
        let name = live.meta("name").unwrap_or_default();
        let subject = Subject {
            group: &resource.group,
            resource: &resource.kind,
            name,
        };
        if let Some(uid) = self.uid.as_deref().filter(|uid| *uid != live.uid()) {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The \
                 object might have been deleted and then recreated",
                live.uid()
            );
            return Err(StatusError::conflict(subject, &why));
        }
        let version = live.meta("resourceVersion");
        if let Some(wanted) = self
            .resource_version
            .as_deref()
            .filter(|it| Some(*it) != version)
        {
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the \
                 ResourceVersion in record ({}). The object might have been modified",
                version.unwrap_or_default()
            );
            return Err(StatusError::conflict(subject, &why));
        }
        Ok(())
    }
}

fn refused_policy(kind: FieldErrorKind, policy: Option<String>, detail: &str) -> StatusError {
    let policy = policy.map(Value::from);
    let error = FieldError::new(kind, "propagationPolicy", policy, detail);
    StatusError::invalid_options("DeleteOptions", &[error])
}

/// What deleting `live` does.
pub(crate) fn ending(
    resource: &Resource,
    live: &Value,
    propagation: Option<Propagation>,
    now: &str,
) -> Ending {
    let old: Vec<&str> = live["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    // Without a policy the finalizers of an earlier one stay.
    let keeps = |finalizer: &str, policy: Propagation| match propagation {
        None => old.contains(&finalizer),
        Some(asked) => asked == policy,
    };
    let mut finalizers: Vec<&str> = old
        .iter()
        .copied()
        .filter(|one| *one != FOREGROUND && *one != ORPHAN)
        .collect();
    if keeps(ORPHAN, Propagation::Orphan) {
        finalizers.push(ORPHAN);
    } else if keeps(FOREGROUND, Propagation::Foreground) {
        finalizers.push(FOREGROUND);
    }
    if finalizers.is_empty() && !strategy::has_own_finalizers(resource, live) {
        return Ending::Removed;
    }
    let mut marked = live.clone();
    if finalizers.is_empty() {
        if let Some(metadata) = marked["metadata"].as_object_mut() {
            metadata.remove("finalizers");
        }
    } else {
        marked["metadata"]["finalizers"] = json!(finalizers);
    }
    if live["metadata"]["deletionTimestamp"].is_null() {
        marked["metadata"]["deletionTimestamp"] = now.into();
        marked["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        if let Some(generation) = live["metadata"]["generation"].as_i64() {
            marked["metadata"]["generation"] = (generation + 1).into();
        }
        strategy::mark_deleting(resource, &mut marked, now);
    }
    let before: std::collections::BTreeSet<_> = old.into_iter().collect();
    let after: std::collections::BTreeSet<_> = finalizers.into_iter().collect();
    if before == after && !live["metadata"]["deletionTimestamp"].is_null() {
        return Ending::Unchanged;
    }
    Ending::Marked(Box::new(marked))
}

impl ApiServer {
    pub(super) async fn delete(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let options = DeleteOptions::of(ask)?;
        let live = self.stored(ask)?;
        options.check(&ask.resource, &live)?;
        let warnings = self.admit_deletion(ask, live.value(), options.dry_run);
        let warnings = warnings.await?;
        let (object, gone) = self.end(&ask.resource, &ask.key(), &options)?;
        let returns_object = !gone || strategy::returns_deleted(&ask.resource);
        let body = if returns_object {
            ask.shape.object(&ask.resource, &object)?
        } else {
            let details = Details {
                name: ask.target.name.clone(),
                group: ask.resource.group.clone(),
                kind: ask.resource.plural.clone(),
                uid: object.uid().to_owned(),
                ..Details::default()
            };
            ask.shape.encode(&json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details.to_value(),
            }))?
        };
        Ok(Answer {
            warnings,
            ..Answer::json(body).of_type(ask.shape.content_type())
        })
    }

    pub(super) async fn delete_collection(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let options = DeleteOptions::of(ask)?;
        let selection = Selection::of(ask)?;
        let store = &self.inner.store;
        let listed = store.list(&ask.resource.collection, ask.scope(), None);
        let snapshot = listed.map_err(|_| StatusError::internal("list the newest revision"))?;
        let (mut deleted, mut warnings) = (Vec::new(), Vec::new());
        for (key, object) in &snapshot.objects {
            if !selection.picks(object) {
                continue;
            }
            let admitted = self.admit_deletion(ask, object.value(), options.dry_run);
            warnings.extend(admitted.await?);
            match self.end(&ask.resource, key, &options) {
                Ok(_) => deleted.push(object.clone()),
                // Someone else was faster.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let metadata = json!({"resourceVersion": snapshot.revision.to_string()});
        let body = ask.shape.list(&ask.resource, &deleted, &metadata)?;
        Ok(Answer {
            warnings,
            ..Answer::json(body).of_type(ask.shape.content_type())
        })
    }

    /// Deletes an object; the last state, and whether it is gone.
    pub(super) fn end(
        &self,
        resource: &Resource,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<(Arc<Object>, bool), StatusError> {
        let subject = Subject {
            group: &resource.group,
            resource: &resource.plural,
            name: &key.name,
        };
        if !resource.is_custom()
            && resource.plural == "namespaces"
            && KEPT_NAMESPACES.contains(&key.name.as_str())
        {
            return Err(StatusError::forbidden(
                subject,
                "this namespace may not be deleted",
            ));
        }
        for _ in 0..TRIES_MAX {
            let live = self.inner.store.get(&resource.collection, key);
            let live = live.ok_or_else(|| StatusError::not_found(subject))?;
            options.check(resource, &live)?;
            let now = self.inner.clock.time();
            let write = match ending(resource, live.value(), options.propagation, &now) {
                Ending::Unchanged => return Ok((live, false)),
                Ending::Removed => Write::Remove(live.value().clone()),
                Ending::Marked(marked) => Write::Put(*marked),
            };
            let gone = matches!(write, Write::Remove(_));
            if options.dry_run {
                return Ok((live, gone));
            }
            match self.commit(resource, key, Some(live.revision()), write) {
                Ok(object) => return Ok((object, gone)),
                Err(Refused::Moved | Refused::Exists) => {}
            }
        }
        Err(StatusError::modified(subject))
    }
}
