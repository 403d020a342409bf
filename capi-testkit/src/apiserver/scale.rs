//! The `scale` subresource: replicas of any kind that has some.

use serde_json::{Value, json};

use super::{
    ApiServer,
    decode::{self, media_type},
    kinds::{Resource, Scale},
    metadata::invalid,
    output::{Form, partial},
    patch,
    selector::LabelSelector,
    serve::{Answer, Ask},
    status::{StatusError, Subject},
    store::Object,
    table,
    write::{Proposal, presented},
};
use crate::{merge::go_type, schema::FieldError};

impl ApiServer {
    pub(super) fn get_scale(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let object = self.stored(ask)?;
        let path = &paths(ask)?.spec_replicas;
        if ask.resource.is_custom() && get(object.value(), path).is_none() {
            let message = format!("the spec replicas field {path:?} does not exist");
            return Err(StatusError::internal(message));
        }
        answer(ask, &object)
    }

    pub(super) async fn update_scale(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let scale = decode::body(ask)?.value;
        self.write_scale(ask, |_| Ok(scale.clone())).await
    }

    pub(super) async fn patch_scale(&self, ask: &Ask) -> Result<Answer, StatusError> {
        match media_type(&ask.content_type) {
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                let patch = decode::json_patch(ask)?.value;
                let change = |mut scale: Value| {
                    json_patch::merge(&mut scale, &patch);
                    Ok(scale)
                };
                self.write_scale(ask, change).await
            }
            "application/json-patch+json" => {
                let operations = patch::json_patch(ask)?;
                let change = |mut scale: Value| {
                    patch::carry_out(&operations, &mut scale)?;
                    Ok(scale)
                };
                self.write_scale(ask, change).await
            }
            _ => Err(StatusError::not_implemented(
                "apply patches of the subresource scale",
            )),
        }
    }

    async fn write_scale(
        &self,
        ask: &Ask,
        change: impl Fn(Value) -> Result<Value, StatusError>,
    ) -> Result<Answer, StatusError> {
        let paths = paths(ask)?;
        let written = self
            .change(ask, |live| {
                let live = live.ok_or_else(|| StatusError::not_found(ask.subject()))?;
                let wanted = change(of(paths, live.value()))?;
                let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
                if replicas < 0 && !ask.resource.is_custom() {
                    let detail = "must be greater than or equal to 0";
                    let error = invalid("spec.replicas", &replicas.into(), detail);
                    let subject = Subject {
                        group: "autoscaling",
                        resource: "Scale",
                        name: &ask.target.name,
                    };
                    return Err(StatusError::invalid(subject, &[error]));
                }
                let mut object = presented(ask, live);
                set(&mut object, &paths.spec_replicas, replicas.into());
                for field in ["resourceVersion", "uid"] {
                    object["metadata"][field] = wanted["metadata"][field].clone();
                }
                Ok(Proposal {
                    object,
                    warnings: Vec::new(),
                    applied: false,
                })
            })
            .await?;
        answer(ask, &written.object)
    }
}

/// What is wrong with the fields of a custom object that its scale shows.
pub(crate) fn errors(
    resource: &Resource,
    object: &Value,
    of_status_alone: bool,
) -> Vec<FieldError> {
    let Some(paths) = &resource.scale else {
        return Vec::new();
    };
    let counts = [&paths.spec_replicas, &paths.status_replicas];
    let counts = counts.into_iter().skip(usize::from(of_status_alone));
    counts
        .filter_map(|path| match count(object, path) {
            Ok(None) => None,
            Ok(Some(replicas)) => {
                let detail = if replicas < 0 {
                    "should be a non-negative integer".to_owned()
                } else if replicas > i64::from(i32::MAX) {
                    format!("should be less than or equal to {}", i32::MAX)
                } else {
                    return None;
                };
                Some(invalid(path, &replicas.into(), detail))
            }
            Err(why) => Some(invalid(path, &0.into(), why)),
        })
        .collect()
}

/// The number at a path, or why there can be none, in the words of Go's accessors.
fn count(object: &Value, path: &str) -> Result<Option<i64>, String> {
    let wrong = |found: &Value, wanted: &str| {
        let shown = found
            .as_str()
            .map_or_else(|| found.to_string(), str::to_owned);
        let kind = go_type(found);
        Err(format!(
            "{path} accessor error: {shown} is of the type {kind}, expected {wanted}"
        ))
    };
    let mut at = object;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let Value::Object(fields) = at else {
            return wrong(at, "map[string]interface{}");
        };
        match fields.get(part) {
            Some(value) => at = value,
            None => return Ok(None),
        }
    }
    match at.as_i64() {
        Some(number) => Ok(Some(number)),
        None => wrong(at, "int64"),
    }
}

fn paths(ask: &Ask) -> Result<&Scale, StatusError> {
    ask.resource
        .scale
        .as_ref()
        .ok_or_else(StatusError::unknown_resource)
}

fn answer(ask: &Ask, object: &Object) -> Result<Answer, StatusError> {
    let scale = of(paths(ask)?, object.value());
    let shown = match ask.shape.form {
        Form::Whole => scale,
        Form::Metadata => partial(&scale),
        Form::Table(include) => table::scale_table(&scale, include, ask.shape.now),
    };
    let body = ask.shape.encode(&shown)?;
    Ok(Answer::json(body).of_type(ask.shape.content_type()))
}

/// The `autoscaling/v1` Scale of an object.
pub(crate) fn of(paths: &Scale, value: &Value) -> Value {
    let metadata = &value["metadata"];
    let count = |path: &str| get(value, path).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": count(&paths.status_replicas)});
    let selector = match &paths.label_selector {
        Some(path) => get(value, path).and_then(Value::as_str).map(str::to_owned),
        None => Some(LabelSelector::text_of(&value["spec"]["selector"])),
    };
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        status["selector"] = selector.into();
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {"replicas": count(&paths.spec_replicas)},
        "status": status,
    });
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(text) = metadata.get(field) {
            scale["metadata"][field] = text.clone();
        }
    }
    scale
}

fn get<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .filter(|part| !part.is_empty())
        .try_fold(object, |at, part| at.get(part))
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        at = &mut at[part];
    }
    *at = value;
}
