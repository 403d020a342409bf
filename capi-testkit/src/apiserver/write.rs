//! Create, update and patch: from a proposal to a stored object.
//!
//! Every write is a pure preparation on the object read before, and a commit that holds only if that
//! object is still the newest.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use super::{
    ApiServer,
    admission::Admission,
    decode::{self, screen, to_stored, undecoded},
    kinds::Resource,
    metadata::{self, Birth, invalid},
    output::in_version,
    request::Verb,
    scale,
    serve::{Answer, Ask},
    status::{StatusError, Subject},
    store::{Key, Object, Refused, Write},
    strategy,
};
use crate::{
    merge::{self, STATUS_RESETS, Shape, Writer},
    schema::FieldError,
};

/// Tries of a write whose object moves below it; each try means that another write succeeded.
const TRIES_MAX: u32 = 32;
/// How often a real server looks at these fields of a changed custom object. Each look leaves its own
/// causes in the refusal.
const METADATA_CHECKS: usize = 3;
const CHECKED_AGAIN: [&str; 3] = [
    "metadata.labels",
    "metadata.annotations",
    "metadata.ownerReferences",
];
/// How often it looks at what a change of a custom object may not touch.
const CHANGE_CHECKS: usize = 2;
/// Tries of `generateName`, as in a real server.
const NAME_TRIES_MAX: u32 = 8;

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Main,
    Status,
    /// `namespaces/{name}/finalize`: `spec.finalizers` alone.
    Finalize,
}

impl Endpoint {
    fn of(ask: &Ask) -> Self {
        match ask.target.subresource.as_str() {
            "status" => Self::Status,
            "finalize" => Self::Finalize,
            _ => Self::Main,
        }
    }
}

/// What a request wants to store.
#[derive(Debug)]
pub(crate) struct Proposal {
    /// The whole object, in the version of the request.
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
    /// Whether `managedFields` are settled already, by an apply.
    pub(crate) applied: bool,
}

/// What came of a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

impl Ask {
    /// The resource and name as `Invalid` names them: by kind.
    fn kind_subject<'a>(&'a self, name: &'a str) -> Subject<'a> {
        Subject {
            group: &self.resource.group,
            resource: &self.resource.kind,
            name,
        }
    }

    fn answer(&self, written: Written) -> Result<Answer, StatusError> {
        let body = self.shape.object(&self.resource, &written.object)?;
        Ok(Answer {
            code: if written.created {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            },
            warnings: written.warnings,
            name: written.object.meta("name").map(str::to_owned),
            ..Answer::json(body).of_type(self.shape.content_type())
        })
    }
}

impl ApiServer {
    pub(super) async fn create(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let mut sent = decode::body(ask)?;
        let warnings = screen(ask, &mut sent, |_, why| undecoded(&ask.resource, why))?;
        let proposal = Proposal {
            object: sent.value,
            warnings,
            applied: false,
        };
        ask.answer(self.bear(ask, proposal).await?)
    }

    pub(super) async fn update(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let mut sent = decode::body(ask)?;
        let warnings = screen(ask, &mut sent, |_, why| undecoded(&ask.resource, why))?;
        let mut object = sent.value;
        check_address(ask, &mut object)?;
        let written = self
            .change(ask, |live| {
                if live.is_none() && !ask.resource.allows_create_on_update() {
                    return Err(StatusError::not_found(ask.subject()));
                }
                let unconditional = object["metadata"]["resourceVersion"]
                    .as_str()
                    .is_none_or(|version| version.is_empty() || version == "0");
                if live.is_some() && unconditional && !ask.resource.allows_unconditional_update() {
                    let error = invalid(
                        "metadata.resourceVersion",
                        &Value::from(0),
                        "must be specified for an update",
                    );
                    return Err(StatusError::invalid(ask.subject(), &[error]));
                }
                Ok(Proposal {
                    object: object.clone(),
                    warnings: warnings.clone(),
                    applied: false,
                })
            })
            .await?;
        ask.answer(written)
    }

    pub(super) async fn patch(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let patch = super::patch::parse(ask)?;
        let now = self.inner.clock.time();
        let written = self
            .change(ask, |live| patch.propose(ask, live, &now))
            .await?;
        ask.answer(written)
    }

    /// Changes the object that the request names, or creates it if the proposal stands without one.
    pub(super) async fn change(
        &self,
        ask: &Ask,
        propose: impl Fn(Option<&Object>) -> Result<Proposal, StatusError>,
    ) -> Result<Written, StatusError> {
        let key = ask.key();
        for _ in 0..TRIES_MAX {
            let live = self.inner.store.get(&ask.resource.collection, &key);
            let proposal = propose(live.as_deref())?;
            let Some(live) = live else {
                self.require_create(&ask.caller, &ask.target)?;
                match self.bear(ask, proposal).await {
                    Err(error) if error.reason == "AlreadyExists" => continue,
                    result => return result,
                }
            };
            if let Some(written) = self.replace(ask, &key, &live, proposal).await? {
                return Ok(written);
            }
        }
        Err(StatusError::modified(ask.subject()))
    }

    /// One try to store `proposal` in place of `live`; `None` if that moved meanwhile.
    async fn replace(
        &self,
        ask: &Ask,
        key: &Key,
        live: &Arc<Object>,
        proposal: Proposal,
    ) -> Result<Option<Written>, StatusError> {
        let Proposal {
            object,
            mut warnings,
            applied,
        } = proposal;
        let new = self.prepare_update(ask, live, object, applied)?;
        let new = if self.has_webhooks() {
            self.admit_update(ask, live, new, &mut warnings).await?
        } else {
            let checked = self.check_update(ask, &new, live.value());
            checked.map_err(|error| error.with_warnings(&warnings))?;
            new
        };
        if ask.resource.is_custom() {
            warnings.extend(metadata::finalizer_warnings(&new, Some(live.value())));
        }
        let written = |object| {
            Ok(Some(Written {
                object,
                created: false,
                warnings,
            }))
        };
        if new == *live.value() {
            return written(live.clone());
        }
        if ask.dry_run {
            return written(Arc::new(Object::unstored(new)));
        }
        let write = if strategy::is_finished(&ask.resource, &new) {
            Write::Remove(new)
        } else {
            Write::Put(new)
        };
        match self.commit(&ask.resource, key, Some(live.revision()), write) {
            Ok(object) => written(object),
            Err(Refused::Moved | Refused::Exists) => Ok(None),
        }
    }

    /// What webhooks make of a prepared change; the checks come between the two kinds of webhooks.
    async fn admit_update(
        &self,
        ask: &Ask,
        live: &Object,
        new: Value,
        warnings: &mut Vec<String>,
    ) -> Result<Value, StatusError> {
        let old = live.value();
        // Webhooks see a changed scale as the Scale that was sent, and nothing of its object.
        let scale = match &ask.resource.scale {
            Some(paths) if ask.target.subresource == "scale" => Some(paths),
            Some(_) | None => None,
        };
        let mut admission = match scale {
            Some(paths) => Admission::update(ask, scale::of(paths, &new), &scale::of(paths, old)),
            None => Admission::update(ask, new.clone(), old),
        };
        let mut new = new;
        if self.mutate(&mut admission).await?
            && let Some(mutated) = admission.object.take()
        {
            new = settle(ask, mutated, old);
            admission.object = Some(new.clone());
        }
        self.check_update(ask, &new, old)?;
        self.validate(&mut admission).await?;
        warnings.append(&mut admission.warnings);
        Ok(new)
    }

    /// The object to store for a proposal to change `live`.
    fn prepare_update(
        &self,
        ask: &Ask,
        live: &Object,
        mut object: Value,
        applied: bool,
    ) -> Result<Value, StatusError> {
        let resource = &ask.resource;
        let old = live.value();
        check_address(ask, &mut object)?;
        check_preconditions(ask, &object, live)?;
        if let Some(schema) = &resource.schema {
            schema.fill_defaults(&mut object);
        }
        to_stored(resource, &mut object);
        let mut new = settle(ask, object, old);
        if !applied {
            let now = self.inner.clock.time();
            new = merge::update(shape(resource), Some(old), new, &writer(ask, &now));
        }
        Ok(new)
    }

    fn check_update(&self, ask: &Ask, new: &Value, old: &Value) -> Result<(), StatusError> {
        let resource = &ask.resource;
        let mut errors = Vec::new();
        for error in metadata::validate(new, resource) {
            let again = resource.is_custom() && CHECKED_AGAIN.contains(&error.field.as_str());
            let times = if again { METADATA_CHECKS } else { 1 };
            errors.extend(std::iter::repeat_n(error, times));
        }
        let times = if resource.is_custom() {
            CHANGE_CHECKS
        } else {
            1
        };
        for error in metadata::validate_update(new, old) {
            errors.extend(std::iter::repeat_n(error, times));
        }
        errors.extend(strategy::validate(resource, new, Some(old)));
        self.check(ask, &ask.target.name, new, Some(old), errors)
    }

    /// Creates the proposed object.
    async fn bear(&self, ask: &Ask, proposal: Proposal) -> Result<Written, StatusError> {
        let Proposal {
            mut object,
            mut warnings,
            mut applied,
        } = proposal;
        let resource = &ask.resource;
        check_address(ask, &mut object)?;
        check_unborn(ask, &object, applied)?;
        if let Some(schema) = &resource.schema {
            schema.fill_defaults(&mut object);
        }
        to_stored(resource, &mut object);
        if resource.is_custom() {
            warnings.extend(metadata::finalizer_warnings(&object, None));
        }
        if self.has_webhooks() {
            object = self.mutate_new(ask, object, applied, &mut warnings).await?;
            applied = true;
        }
        let given = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let base = object["metadata"]["generateName"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        for _ in 0..NAME_TRIES_MAX {
            let name = if given.is_empty() && !base.is_empty() {
                self.inner.names.generate(&base)
            } else {
                given.clone()
            };
            self.check_namespace(ask, &name)?;
            let new = self.prepare_create(ask, object.clone(), &name, applied);
            let new = new.map_err(|error| error.with_warnings(&warnings))?;
            if self.has_webhooks() {
                let mut admission = Admission::create(ask, new.clone());
                self.validate(&mut admission).await?;
                warnings.append(&mut admission.warnings);
            }
            match self.bring_in(ask, new, &name) {
                Ok(object) => {
                    return Ok(Written {
                        object,
                        created: true,
                        warnings,
                    });
                }
                Err(error) if given.is_empty() && error.reason == "AlreadyExists" => {}
                Err(error) => return Err(error),
            }
        }
        let subject = Subject {
            name: &base,
            ..ask.subject()
        };
        Err(StatusError::already_exists(subject))
    }

    /// What webhooks make of a new object; its managed fields are settled then.
    async fn mutate_new(
        &self,
        ask: &Ask,
        mut object: Value,
        applied: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Value, StatusError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.check_namespace(ask, name)?;
        if !applied {
            let now = self.inner.clock.time();
            object = merge::update(shape(&ask.resource), None, object, &writer(ask, &now));
        }
        let mut admission = Admission::create(ask, object);
        self.mutate(&mut admission).await?;
        warnings.append(&mut admission.warnings);
        Ok(admission.object.take().unwrap_or_default())
    }

    fn prepare_create(
        &self,
        ask: &Ask,
        mut object: Value,
        name: &str,
        applied: bool,
    ) -> Result<Value, StatusError> {
        let resource = &ask.resource;
        let now = self.inner.clock.time();
        let birth = Birth {
            name,
            namespace: &ask.target.namespace,
            uid: self.inner.names.uid(),
            now: now.clone(),
        };
        metadata::stamp(&mut object, resource, &birth);
        strategy::prepare_create(resource, &mut object, &now);
        if !applied {
            object = merge::update(shape(resource), None, object, &writer(ask, &now));
        }
        let mut errors = metadata::validate(&object, resource);
        errors.extend(strategy::validate(resource, &object, None));
        self.check(ask, name, &object, None, errors)?;
        Ok(object)
    }

    fn bring_in(&self, ask: &Ask, object: Value, name: &str) -> Result<Arc<Object>, StatusError> {
        let key = ask.resource.key(&ask.target.namespace, name);
        let subject = Subject {
            name,
            ..ask.subject()
        };
        if ask.dry_run {
            return match self.inner.store.get(&ask.resource.collection, &key) {
                Some(_) => Err(StatusError::already_exists(subject)),
                None => Ok(Arc::new(Object::unstored(object))),
            };
        }
        self.commit(&ask.resource, &key, None, Write::Put(object))
            .map_err(|_| StatusError::already_exists(subject))
    }

    /// Refuses an object with errors, its schema's included.
    fn check(
        &self,
        ask: &Ask,
        name: &str,
        new: &Value,
        old: Option<&Value>,
        mut errors: Vec<FieldError>,
    ) -> Result<(), StatusError> {
        let resource = &ask.resource;
        if let Some(schema) = &resource.schema {
            let blocked = errors.iter().any(|error| error.kind.blocks_rules());
            let mut found = schema.validate_beside(new, old, blocked);
            if !resource.is_custom() {
                // Built-in kinds are typed: what has the wrong type does not even decode.
                if let Some(first) = found.first() {
                    return Err(undecoded(resource, &first.to_string()));
                }
            } else if Endpoint::of(ask) == Endpoint::Status {
                found.iter_mut().for_each(name_from_status);
            }
            errors.extend(found);
        }
        if resource.is_custom() {
            let of_status_alone = Endpoint::of(ask) == Endpoint::Status;
            errors.extend(scale::errors(resource, new, of_status_alone));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(StatusError::invalid(ask.kind_subject(name), &errors))
    }

    /// New objects need a namespace that exists and stays.
    fn check_namespace(&self, ask: &Ask, name: &str) -> Result<(), StatusError> {
        if !ask.resource.namespaced {
            return Ok(());
        }
        let namespace = ask.target.namespace.as_str();
        let key = Key {
            namespace: String::new(),
            name: namespace.to_owned(),
        };
        let Some(found) = self.inner.store.get("namespaces", &key) else {
            let subject = Subject {
                group: "",
                resource: "namespaces",
                name: namespace,
            };
            return Err(StatusError::not_found(subject));
        };
        if !found.is_deleting() {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let cause = format!("namespace {namespace} is being terminated");
        Err(StatusError::forbidden(
            Subject {
                name,
                ..ask.subject()
            },
            &why,
        )
        .cause("NamespaceTerminating", cause, "metadata.namespace"))
    }
}

/// The status is checked by itself, so that details name places within it.
fn name_from_status(error: &mut FieldError) {
    if error.detail.contains(" in body ")
        && let Some(rest) = error.detail.strip_prefix("status.")
    {
        error.detail = rest.to_owned();
    }
}

/// What of a proposal reaches the store, with what the server itself says of the object.
fn settle(ask: &Ask, object: Value, old: &Value) -> Value {
    let resource = &ask.resource;
    let mut new = endpoint_rules(Endpoint::of(ask), resource, object, old);
    metadata::carry(&mut new, old);
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    strategy::prepare_update(resource, &mut new, old);
    if resource.counts_generation() && counts_as_new(resource, &new, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = (generation + 1).into();
    }
    new
}

pub(crate) fn shape(resource: &Resource) -> Shape<'_> {
    match &resource.schema {
        Some(schema) if resource.is_custom() => Shape::Structural(schema),
        _ => Shape::BuiltIn {
            group: &resource.group,
            kind: &resource.kind,
        },
    }
}

pub(crate) fn writer<'a>(ask: &'a Ask, now: &'a str) -> Writer<'a> {
    Writer {
        manager: &ask.manager,
        api_version: match ask.target.group.as_str() {
            "" => &ask.target.version,
            // Events of both groups are stored as core's.
            "events.k8s.io" => "v1",
            _ => &ask.resource.stored_as,
        },
        subresource: &ask.target.subresource,
        resets: resets(&ask.resource, Endpoint::of(ask)),
        now,
    }
}

/// The top-level fields that an endpoint takes no change to, and so gives nobody.
fn resets(resource: &Resource, endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::Main if resource.status => &["status"],
        Endpoint::Status if resource.is_custom() => STATUS_RESETS,
        Endpoint::Status => &["spec"],
        Endpoint::Main | Endpoint::Finalize => &[],
    }
}

/// The name and namespace in the body must be those in the path, or missing.
fn check_address(ask: &Ask, object: &mut Value) -> Result<(), StatusError> {
    let target = &ask.target;
    let metadata = metadata::of(object);
    let text = |field: &str| {
        metadata
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (name, namespace) = (text("name").to_owned(), text("namespace").to_owned());
    if !target.name.is_empty() {
        if !name.is_empty() && name != target.name {
            return Err(StatusError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name
            )));
        }
        metadata.insert("name".to_owned(), target.name.as_str().into());
    }
    if ask.resource.namespaced {
        if !namespace.is_empty() && namespace != target.namespace {
            return Err(StatusError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
        metadata.insert("namespace".to_owned(), target.namespace.as_str().into());
    }
    Ok(())
}

/// A proposal for an object that is not there must not rest on one that is.
fn check_unborn(ask: &Ask, object: &Value, applied: bool) -> Result<(), StatusError> {
    let metadata = &object["metadata"];
    let version = metadata["resourceVersion"].as_str().unwrap_or_default();
    if !matches!(version, "" | "0") {
        return Err(if applied {
            StatusError::modified(ask.subject())
        } else {
            StatusError::unknown("resourceVersion should not be set on objects to be created")
        });
    }
    let uid = metadata["uid"].as_str().unwrap_or_default();
    if applied && !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(StatusError::conflict(ask.subject(), &why));
    }
    Ok(())
}

/// The uid and the resource version that the proposal rests on.
fn check_preconditions(ask: &Ask, new: &Value, live: &Object) -> Result<(), StatusError> {
    let metadata = &new["metadata"];
    let uid = metadata["uid"].as_str().unwrap_or_default();
    // In a patch another uid is a change, which is refused as one.
    if ask.target.verb == Verb::Update && !uid.is_empty() && uid != live.uid() {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, \
             AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object \
             meta: {}",
            registry_path(&ask.resource, &ask.key()),
            live.uid()
        );
        return Err(StatusError::conflict(ask.subject(), &why));
    }
    let version = metadata["resourceVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && version != "0" && Some(version) != live.meta("resourceVersion") {
        return Err(StatusError::modified(ask.subject()));
    }
    Ok(())
}

/// Where a real server would keep the object in etcd; only texts show it.
fn registry_path(resource: &Resource, key: &Key) -> String {
    let group = if resource.is_custom() {
        format!("{}/", resource.group)
    } else {
        String::new()
    };
    let namespace = if key.namespace.is_empty() {
        String::new()
    } else {
        format!("{}/", key.namespace)
    };
    format!(
        "/registry/{group}{}/{namespace}{}",
        resource.plural, key.name
    )
}

/// What of the proposal the endpoint lets through.
fn endpoint_rules(endpoint: Endpoint, resource: &Resource, object: Value, old: &Value) -> Value {
    match endpoint {
        Endpoint::Main if resource.status => {
            let mut new = object;
            take(&mut new, old, "status");
            new
        }
        Endpoint::Main => object,
        Endpoint::Status => {
            let mut new = old.clone();
            take(&mut new, &object, "status");
            take(&mut new["metadata"], &object["metadata"], "managedFields");
            if !resource.is_custom() && resource.kind == "Node" {
                // Kubelets write labels and annotations along with the status.
                for field in ["labels", "annotations"] {
                    take(&mut new["metadata"], &object["metadata"], field);
                }
            }
            new
        }
        Endpoint::Finalize => {
            let mut new = old.clone();
            take(&mut new["spec"], &object["spec"], "finalizers");
            new
        }
    }
}

/// Makes `field` what it is in `from`, absence included.
fn take(to: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => {
            if let Some(map) = to.as_object_mut() {
                map.remove(field);
            }
        }
    }
}

/// Whether the change is one of those that the generation counts: everything but metadata and, where
/// it is a subresource, status.
fn counts_as_new(resource: &Resource, new: &Value, old: &Value) -> bool {
    let counted = |name: &str| name != "metadata" && !(name == "status" && resource.status);
    let fields = |object: &Value| -> Vec<(String, Value)> {
        let map = object.as_object().into_iter().flatten();
        map.filter(|(name, _)| counted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    fields(new) != fields(old)
}

/// The stored object in the version of the request, as patches see it.
pub(crate) fn presented(ask: &Ask, live: &Object) -> Value {
    in_version(&ask.resource, live.value()).into_owned()
}
