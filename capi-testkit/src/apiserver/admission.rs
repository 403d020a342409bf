//! Admission: what webhooks make of a write, and whether they let it through.
//!
//! Mutating webhooks are called in the order of their configurations' names; those with the
//! reinvocation policy `IfNeeded` once more if a later one changed the object. Validating webhooks are
//! called at the same time, and the first refusal in the order of names counts. Writes of the server
//! itself (definitions that are installed, owner collection, namespace deletion) call none.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    ApiServer,
    decode::to_stored,
    hook::{self, Operation, Verdict, kind_of, resource_of},
    kinds::Resource,
    output::in_version,
    serve::Ask,
    status::StatusError,
};

/// The collections of the two kinds of configurations.
const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";

/// A write that webhooks are asked about.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    ask: &'a Ask,
    operation: Operation,
    name: String,
    /// The object as it is to be stored; `None` for a deletion.
    pub(crate) object: Option<Value>,
    /// The object as it is stored; `None` for a creation.
    old: Option<Value>,
    dry_run: bool,
    pub(crate) warnings: Vec<String>,
}

impl<'a> Admission<'a> {
    pub(crate) fn create(ask: &'a Ask, object: Value) -> Self {
        Self::new(ask, Operation::Create, Some(object), None)
    }

    pub(crate) fn update(ask: &'a Ask, object: Value, old: &Value) -> Self {
        Self::new(ask, Operation::Update, Some(object), Some(old.clone()))
    }

    pub(crate) fn delete(ask: &'a Ask, old: &Value, dry_run: bool) -> Self {
        Self {
            dry_run,
            ..Self::new(ask, Operation::Delete, None, Some(old.clone()))
        }
    }

    fn new(ask: &'a Ask, operation: Operation, object: Option<Value>, old: Option<Value>) -> Self {
        let named = old.as_ref().or(object.as_ref());
        let name = named.and_then(|named| named["metadata"]["name"].as_str());
        Self {
            ask,
            operation,
            name: name.unwrap_or_default().to_owned(),
            object,
            old,
            dry_run: ask.dry_run,
            warnings: Vec::new(),
        }
    }

    fn is_of_scale(&self) -> bool {
        self.ask.target.subresource == "scale"
    }

    /// The review that a webhook gets, which wants the resource in `version`.
    fn review(&self, uid: &str, version: &Resource) -> Value {
        let (ask, target) = (self.ask, &self.ask.target);
        let shown = |object: &Option<Value>| match object {
            None => Value::Null,
            Some(object) if self.is_of_scale() => object.clone(),
            Some(object) => in_version(version, object).into_owned(),
        };
        let kind = |resource: &Resource| {
            if self.is_of_scale() {
                kind_of("autoscaling", "v1", "Scale")
            } else {
                kind_of(&resource.group, &resource.version, &resource.kind)
            }
        };
        let options = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
        };
        let mut options = json!({"kind": options, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if self.operation != Operation::Delete && !ask.query.text("fieldManager").is_empty() {
            options["fieldManager"] = ask.manager.as_str().into();
        }
        let mut request = json!({
            "uid": uid,
            "kind": kind(version),
            "resource": resource_of(version),
            "requestKind": kind(&ask.resource),
            "requestResource": resource_of(&ask.resource),
            "name": self.name,
            "operation": self.operation.as_str(),
            "userInfo": {"username": ask.caller.user, "groups": ask.caller.groups},
            "object": shown(&self.object),
            "oldObject": shown(&self.old),
            "dryRun": self.dry_run,
            "options": options,
        });
        if !target.namespace.is_empty() {
            request["namespace"] = target.namespace.as_str().into();
        }
        if !target.subresource.is_empty() {
            request["subResource"] = target.subresource.as_str().into();
            request["requestSubResource"] = target.subresource.as_str().into();
        }
        json!({
            "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request,
        })
    }
}

/// What a call came to.
enum Called {
    /// The webhook answered.
    Answered(Verdict),
    /// It did not, which its failure policy ignores.
    Ignored,
}

impl ApiServer {
    /// Lets mutating webhooks change the object of an admission; whether one did.
    pub(super) async fn mutate(&self, admission: &mut Admission<'_>) -> Result<bool, StatusError> {
        let webhooks = self.webhooks(MUTATING, admission);
        let (mut called, mut again) = (Vec::new(), BTreeSet::new());
        let mut changed = false;
        for (index, webhook) in webhooks.iter().enumerate() {
            let Some(version) = self.picks(webhook, admission) else {
                continue;
            };
            if self.mutate_by(webhook, &version, admission).await? {
                changed = true;
                again.extend(called.drain(..));
            }
            if webhook["reinvocationPolicy"] == "IfNeeded" {
                called.push(index);
            }
        }
        for index in again {
            let webhook = &webhooks[index];
            if let Some(version) = self.picks(webhook, admission) {
                changed |= self.mutate_by(webhook, &version, admission).await?;
            }
        }
        Ok(changed)
    }

    /// Asks the validating webhooks.
    pub(super) async fn validate(&self, admission: &mut Admission<'_>) -> Result<(), StatusError> {
        let webhooks = self.webhooks(VALIDATING, admission);
        let picked: Vec<_> = webhooks
            .iter()
            .filter_map(|webhook| Some((webhook, self.picks(webhook, admission)?)))
            .collect();
        let calls = picked
            .iter()
            .map(|(webhook, version)| self.call(webhook, version, admission, false));
        let mut refusal = None;
        for called in join_all(calls).await {
            match called {
                Ok(Called::Ignored) => {}
                Ok(Called::Answered(verdict)) => {
                    admission.warnings.extend(verdict.warnings);
                    refusal = refusal.or(verdict.denied);
                }
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Both kinds of webhooks about a deletion.
    pub(super) async fn admit_deletion(
        &self,
        ask: &Ask,
        live: &Value,
        dry_run: bool,
    ) -> Result<Vec<String>, StatusError> {
        if !self.has_webhooks() {
            return Ok(Vec::new());
        }
        let mut admission = Admission::delete(ask, live, dry_run);
        self.mutate(&mut admission).await?;
        self.validate(&mut admission).await?;
        Ok(admission.warnings)
    }

    /// Whether any webhook is configured. Most servers have none, and do not even look.
    pub(super) fn has_webhooks(&self) -> bool {
        let store = &self.inner.store;
        [MUTATING, VALIDATING]
            .into_iter()
            .any(|kind| store.count(kind) > 0)
    }

    /// The webhooks of a kind of configuration, in order; none for configurations themselves.
    fn webhooks(&self, collection: &str, admission: &Admission<'_>) -> Vec<Value> {
        if admission.ask.resource.group == hook::GROUP {
            return Vec::new();
        }
        let configurations = self.objects(collection);
        let lists = configurations
            .into_iter()
            .map(|mut one| one["webhooks"].take());
        let lists = lists.filter_map(|list| match list {
            Value::Array(webhooks) => Some(webhooks),
            _ => None,
        });
        lists.flatten().collect()
    }

    /// The version of the resource that a webhook is to be called with, if it is.
    fn picks(&self, webhook: &Value, admission: &Admission<'_>) -> Option<Arc<Resource>> {
        let (resource, target) = (&admission.ask.resource, &admission.ask.target);
        let mut versions = vec![resource.clone()];
        let others = self.inner.registry.all().into_iter();
        versions.extend(others.filter(|one| {
            one.collection == resource.collection
                && one.group == resource.group
                && one.version != resource.version
        }));
        let (operation, inner) = (admission.operation, target.subresource.as_str());
        let version = hook::wanted_version(webhook, operation, inner, &versions)?.clone();
        let objects = [&admission.object, &admission.old];
        let mut objects = objects.into_iter().flatten();
        let selected = objects.any(|object| hook::selects(&webhook["objectSelector"], object));
        (selected && self.in_selected_namespace(webhook, admission)).then_some(version)
    }

    fn in_selected_namespace(&self, webhook: &Value, admission: &Admission<'_>) -> bool {
        let (resource, target) = (&admission.ask.resource, &admission.ask.target);
        let selector = &webhook["namespaceSelector"];
        if !resource.is_custom() && resource.kind == "Namespace" {
            let itself = admission.object.as_ref().or(admission.old.as_ref());
            return itself.is_none_or(|namespace| hook::selects(selector, namespace));
        }
        let namespace = self.object("namespaces", "", &target.namespace);
        // What lies in no namespace is not selected by one.
        namespace.is_none_or(|namespace| hook::selects(selector, &namespace))
    }

    async fn mutate_by(
        &self,
        webhook: &Value,
        version: &Resource,
        admission: &mut Admission<'_>,
    ) -> Result<bool, StatusError> {
        let called = self.call(webhook, version, admission, true).await?;
        let Called::Answered(verdict) = called else {
            return Ok(false);
        };
        admission.warnings.extend(verdict.warnings);
        if let Some(denied) = verdict.denied {
            return Err(denied);
        }
        if verdict.patch.0.is_empty() {
            return Ok(false);
        }
        let name = webhook["name"].as_str().unwrap_or_default();
        let Some(object) = &admission.object else {
            return Err(StatusError::internal(format!(
                "admission webhook {name:?} attempted to modify the object, which is not supported \
                 for this operation"
            )));
        };
        if admission.is_of_scale() {
            let what = format!("changes to a Scale, as the webhook {name} asks for");
            return Err(StatusError::not_implemented(what));
        }
        let mut patched = in_version(version, object).into_owned();
        json_patch::patch(&mut patched, &verdict.patch).map_err(StatusError::internal)?;
        let resource = &admission.ask.resource;
        if let Some(schema) = &resource.schema {
            schema.prune(&mut patched);
            schema.fill_defaults(&mut patched);
        }
        to_stored(resource, &mut patched);
        let changed = patched != *object;
        admission.object = Some(patched);
        Ok(changed)
    }

    async fn call(
        &self,
        webhook: &Value,
        version: &Resource,
        admission: &Admission<'_>,
        is_mutating: bool,
    ) -> Result<Called, StatusError> {
        let name = webhook["name"].as_str().unwrap_or_default();
        let uid = self.inner.names.uid();
        let answered = match self.post(webhook, &admission.review(&uid, version)).await {
            Ok(answer) => hook::verdict(name, &uid, is_mutating, &answer)
                .map_err(|why| format!("received invalid webhook response: {why}")),
            Err(error) => Err(error.to_string()),
        };
        match answered {
            Ok(verdict) => Ok(Called::Answered(verdict)),
            Err(why) if webhook["failurePolicy"] == "Ignore" => {
                tracing::warn!(webhook = name, why, "a webhook failed, which it lets pass");
                Ok(Called::Ignored)
            }
            Err(why) => Err(StatusError::internal(format!(
                "failed calling webhook {name:?}: {why}"
            ))),
        }
    }
}
