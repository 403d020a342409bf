//! The `scale` subresource: replicas of any kind that has some.

use serde_json::{Value, json};

use super::{
    ApiServer,
    decode::{self, media_type},
    kinds::Scale,
    output::{Form, partial},
    selector::LabelSelector,
    serve::{Answer, Ask},
    status::StatusError,
    store::Object,
    table,
    write::{Proposal, presented},
};

impl ApiServer {
    pub(super) fn get_scale(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let object = self.stored(ask)?;
        answer(ask, &object)
    }

    pub(super) async fn update_scale(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let scale = decode::body(ask)?;
        self.write_scale(ask, |_| Ok(scale.clone())).await
    }

    pub(super) async fn patch_scale(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let patch = decode::json(ask)?;
        match media_type(&ask.content_type) {
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                let change = |mut scale: Value| {
                    json_patch::merge(&mut scale, &patch);
                    Ok(scale)
                };
                self.write_scale(ask, change).await
            }
            "application/json-patch+json" => {
                let operations: json_patch::Patch = serde_json::from_value(patch)
                    .map_err(|error| StatusError::bad_request(error.to_string()))?;
                let change = |mut scale: Value| {
                    json_patch::patch(&mut scale, &operations)
                        .map_err(|_| StatusError::unprocessable())?;
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
                if replicas < 0 {
                    return Err(StatusError::invalid_options(format!(
                        "Scale.autoscaling {:?} is invalid: spec.replicas: Invalid value: \
                         {replicas}: must be greater than or equal to 0",
                        ask.target.name
                    )));
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
