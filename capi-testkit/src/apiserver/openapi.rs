//! OpenAPI v3: what `kubectl explain` shows, and what `kubectl apply` asks before it sends.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    ApiServer, builtin,
    kinds::{Resource, api_version},
    serve::Answer,
    status::StatusError,
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What a real server says of the fields that all custom resources have, whatever their schema says.
const API_VERSION_TEXT: &str = "APIVersion defines the versioned schema of this representation of an \
    object. Servers should convert recognized schemas to the latest internal value, and may reject \
    unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/\
    api-conventions.md#resources";
const KIND_TEXT: &str = "Kind is a string value representing the REST resource this object \
    represents. Servers may infer this from the endpoint the client submits requests to. Cannot be \
    updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/\
    sig-architecture/api-conventions.md#types-kinds";
const METADATA_TEXT: &str = "Standard object's metadata. More info: https://git.k8s.io/community/\
    contributors/devel/sig-architecture/api-conventions.md#metadata";

impl ApiServer {
    /// `/openapi/v3`: where the documents of the versions are.
    pub(super) fn openapi_index(&self) -> Answer {
        let mut versions: BTreeMap<String, Sha256> = BTreeMap::new();
        for resource in self.inner.registry.all() {
            let digest = versions.entry(document_path(&resource)).or_default();
            digest.update(resource.plural.as_bytes());
            digest.update(resource.open_api.to_string());
        }
        let paths: Map<String, Value> = versions
            .into_iter()
            .map(|(path, digest)| {
                let digest: [u8; 32] = digest.finalize().into();
                let hash: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
                let url = format!("/openapi/v3/{path}?hash={hash}");
                (path, json!({"serverRelativeURL": url}))
            })
            .collect();
        Answer::json(Bytes::from(json!({"paths": paths}).to_string()))
    }

    /// The document of one version: `api/v1` or `apis/{group}/{version}`.
    pub(super) fn openapi_document(&self, path: &str) -> Result<Answer, StatusError> {
        let all = self.inner.registry.all();
        let resources: Vec<_> = all
            .iter()
            .filter(|one| document_path(one) == path)
            .collect();
        if resources.is_empty() {
            return Err(StatusError::unknown_path());
        }
        let (mut schemas, mut paths) = (Map::new(), Map::new());
        for resource in resources {
            add_schemas(&mut schemas, resource);
            add_paths(&mut paths, resource);
        }
        let document = json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "unversioned"},
            "paths": paths,
            "components": {"schemas": schemas},
        });
        Ok(Answer::json(Bytes::from(document.to_string())))
    }
}

fn document_path(resource: &Resource) -> String {
    let root = if resource.group.is_empty() {
        "api"
    } else {
        "apis"
    };
    format!("{root}/{}", api_version(&resource.group, &resource.version))
}

/// The name of a kind's schema: that of the Go package, or the group turned round.
fn schema_name(resource: &Resource) -> String {
    if let Some(name) = resource.open_api["x-name"].as_str() {
        return name.to_owned();
    }
    let mut parts: Vec<&str> = resource.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), resource.version, resource.kind)
}

fn add_schemas(schemas: &mut Map<String, Value>, resource: &Arc<Resource>) {
    let mut schema = (*resource.open_api).clone();
    if resource.is_custom() {
        let meta = builtin::open_api::<ObjectMeta>();
        add_definitions(schemas, &meta);
        schemas.insert(OBJECT_META.to_owned(), without_definitions(meta));
        schema["properties"]["metadata"] = json!({
            "allOf": [{"$ref": format!("#/components/schemas/{OBJECT_META}")}],
            "description": METADATA_TEXT,
        });
        for (field, text) in [("apiVersion", API_VERSION_TEXT), ("kind", KIND_TEXT)] {
            schema["properties"][field] = json!({"type": "string", "description": text});
        }
    } else {
        add_definitions(schemas, &schema);
        schema = without_definitions(schema);
        // Go's types require no metadata; those that this server is built from do.
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|field| field != "metadata");
        }
    }
    schema["x-kubernetes-group-version-kind"] = json!([kind(resource)]);
    schemas.insert(schema_name(resource), schema);
}

fn add_definitions(schemas: &mut Map<String, Value>, document: &Value) {
    for (name, schema) in document["definitions"].as_object().into_iter().flatten() {
        schemas
            .entry(name.clone())
            .or_insert_with(|| schema.clone());
    }
}

fn without_definitions(mut schema: Value) -> Value {
    if let Some(map) = schema.as_object_mut() {
        for field in ["definitions", "components", "$schema", "title", "x-name"] {
            map.remove(field);
        }
    }
    schema
}

fn kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let root = format!("/{}", document_path(resource));
    let scope = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let operation = |action: &str, parameters: &[&str]| {
        let reference = format!("#/components/schemas/{}", schema_name(resource));
        let parameters: Vec<_> = parameters.iter().map(|name| parameter(name)).collect();
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind(resource),
            "parameters": parameters,
            "responses": {"200": {
                "description": "OK",
                "content": {"application/json": {"schema": {"$ref": reference}}},
            }},
        })
    };
    let write = ["dryRun", "fieldManager", "fieldValidation"];
    let list = [
        "labelSelector",
        "fieldSelector",
        "limit",
        "continue",
        "resourceVersion",
        "watch",
    ];
    paths.insert(
        collection.clone(),
        json!({"get": operation("list", &list), "post": operation("post", &write)}),
    );
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", &["resourceVersion"]),
            "put": operation("put", &write),
            "patch": operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
            "delete": operation("delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
        }),
    );
}

fn parameter(name: &str) -> Value {
    let kind = match name {
        "limit" | "gracePeriodSeconds" => "integer",
        "watch" | "force" => "boolean",
        _ => "string",
    };
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}
