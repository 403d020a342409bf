//! How answers are written: JSON or YAML, whole objects or their metadata.

use std::{borrow::Cow, sync::Arc};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{event, kinds::Resource, status::StatusError, store::Object, table};

/// What a real server says it accepts.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The form that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) form: Form,
    pub(crate) yaml: bool,
    /// When the request came; tables show ages.
    pub(crate) now: Timestamp,
}

/// How much of the objects a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`, with what goes along in each row.
    Table(RowObject),
}

/// `includeObject` of a table request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowObject {
    None,
    Metadata,
    Object,
}

impl Shape {
    /// Whole objects as JSON.
    pub(crate) fn json(now: Timestamp) -> Self {
        Self {
            form: Form::Whole,
            yaml: false,
            now,
        }
    }

    /// The first acceptable entry of an `Accept` header, in the order given.
    pub(crate) fn negotiate(
        accept: &str,
        include: &str,
        now: Timestamp,
    ) -> Result<Self, StatusError> {
        if accept.trim().is_empty() {
            return Ok(Self::json(now));
        }
        let found = accept
            .split(',')
            .find_map(|entry| Self::of_media_type(entry, include, now));
        found.ok_or_else(|| StatusError::not_acceptable(ACCEPTED))
    }

    fn of_media_type(entry: &str, include: &str, now: Timestamp) -> Option<Self> {
        let mut parts = entry.split(';').map(str::trim);
        let yaml = match parts.next()? {
            "application/json" | "*/*" | "application/*" => false,
            "application/yaml" => true,
            _ => return None,
        };
        let mut form = Form::Whole;
        for parameter in parts {
            form = match parameter.split_once('=') {
                Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                    Form::Metadata
                }
                Some(("as", "Table")) => Form::Table(match include {
                    "None" => RowObject::None,
                    "Object" => RowObject::Object,
                    _ => RowObject::Metadata,
                }),
                Some(("as", _)) => return None,
                // Only the newest version of the transformations exists.
                Some(("v", version)) if version != "v1" => return None,
                Some(("g", group)) if group != "meta.k8s.io" => return None,
                _ => form,
            };
        }
        Some(Self { form, yaml, now })
    }

    pub(crate) fn content_type(self) -> &'static str {
        if self.yaml {
            "application/yaml"
        } else {
            "application/json"
        }
    }

    /// A whole body.
    pub(crate) fn encode(self, value: &Value) -> Result<Bytes, StatusError> {
        if self.yaml {
            yaml(value)
        } else {
            Ok(Bytes::from(value.to_string()))
        }
    }

    /// The body for one object.
    pub(crate) fn object(
        self,
        resource: &Resource,
        object: &Arc<Object>,
    ) -> Result<Bytes, StatusError> {
        let encoded = match self.form {
            Form::Whole => whole(resource, object),
            Form::Metadata => Bytes::from(partial(object.value()).to_string()),
            Form::Table(include) => {
                let table = table::table(
                    resource,
                    std::slice::from_ref(object),
                    include,
                    true,
                    self.now,
                );
                Bytes::from(table.to_string())
            }
        };
        if self.yaml {
            yaml_of_json(&encoded)
        } else {
            Ok(encoded)
        }
    }

    /// The body for a list; `metadata` is the list's.
    pub(crate) fn list(
        self,
        resource: &Resource,
        objects: &[Arc<Object>],
        metadata: &Value,
    ) -> Result<Bytes, StatusError> {
        let encoded = match self.form {
            Form::Whole => {
                let items = objects.iter().map(|object| whole(resource, object));
                let mut metadata = metadata.clone();
                if resource.is_custom() && metadata["continue"].is_null() {
                    // Lists of custom kinds are no structs that leave out what is empty.
                    metadata["continue"] = "".into();
                }
                list_of(
                    &resource.list_kind,
                    &resource.api_version(),
                    &metadata,
                    items,
                )
            }
            Form::Metadata => {
                let items = objects
                    .iter()
                    .map(|object| Bytes::from(partial(object.value()).to_string()));
                list_of(
                    "PartialObjectMetadataList",
                    "meta.k8s.io/v1",
                    metadata,
                    items,
                )
            }
            Form::Table(include) => {
                let mut table = table::table(resource, objects, include, true, self.now);
                table["metadata"] = metadata.clone();
                Bytes::from(table.to_string())
            }
        };
        if self.yaml {
            yaml_of_json(&encoded)
        } else {
            Ok(encoded)
        }
    }

    /// One line of a watch.
    pub(crate) fn watch_line(
        self,
        resource: &Resource,
        kind: &str,
        object: &Arc<Object>,
        first: bool,
    ) -> Bytes {
        let encoded = match self.form {
            Form::Whole => whole(resource, object),
            Form::Metadata => Bytes::from(partial(object.value()).to_string()),
            Form::Table(include) => {
                let table = table::table(
                    resource,
                    std::slice::from_ref(object),
                    include,
                    first,
                    self.now,
                );
                Bytes::from(table.to_string())
            }
        };
        line(kind, &encoded)
    }

    /// A bookmark at `revision`.
    pub(crate) fn bookmark(self, resource: &Resource, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Whole => json!({
                "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
            }),
            Form::Table(_) => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "columnDefinitions": null,
                "rows": [],
            }),
        };
        line("BOOKMARK", &Bytes::from(object.to_string()))
    }
}

/// One line of a watch, around an encoded object.
pub(crate) fn line(kind: &str, object: &Bytes) -> Bytes {
    const AROUND: usize = 32;
    let mut line = BytesMut::with_capacity(object.len() + AROUND);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.freeze()
}

/// The object in the version that was asked for.
pub(crate) fn in_version<'a>(resource: &Resource, object: &'a Value) -> Cow<'a, Value> {
    let wanted = resource.api_version();
    if object["apiVersion"] == wanted.as_str() {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    if resource.group == "events.k8s.io" {
        event::to_events_group(&mut object);
    }
    object["apiVersion"] = wanted.into();
    Cow::Owned(object)
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

fn whole(resource: &Resource, object: &Arc<Object>) -> Bytes {
    match in_version(resource, object.value()) {
        Cow::Borrowed(_) => object.encoded(),
        Cow::Owned(converted) => Bytes::from(converted.to_string()),
    }
}

fn list_of(
    kind: &str,
    api_version: &str,
    metadata: &Value,
    items: impl Iterator<Item = Bytes>,
) -> Bytes {
    let items: Vec<Bytes> = items.collect();
    let size: usize = items.iter().map(|item| item.len() + 1).sum();
    let head = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}).to_string();
    let head = head.strip_suffix('}').unwrap_or(&head);
    let mut list = BytesMut::with_capacity(size + head.len() + 16);
    list.extend_from_slice(head.as_bytes());
    list.extend_from_slice(b",\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            list.extend_from_slice(b",");
        }
        list.extend_from_slice(item);
    }
    list.extend_from_slice(b"]}");
    list.freeze()
}

fn yaml_of_json(encoded: &Bytes) -> Result<Bytes, StatusError> {
    let value: Value = serde_json::from_slice(encoded).map_err(StatusError::internal)?;
    yaml(&value)
}

fn yaml(value: &Value) -> Result<Bytes, StatusError> {
    serde_saphyr::to_string(value)
        .map(Bytes::from)
        .map_err(StatusError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_acceptable_media_type_wins() {
        let negotiate = |accept: &str| Shape::negotiate(accept, "", Timestamp::UNIX_EPOCH);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let shape = negotiate(table).unwrap();
        assert_eq!(shape.form, Form::Table(RowObject::Metadata));
        let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(old).unwrap().form, Form::Whole);
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(negotiate(metadata).unwrap().form, Form::Metadata);
        assert!(negotiate("application/yaml").unwrap().yaml);
        let protobuf = "application/vnd.kubernetes.protobuf, */*";
        assert!(!negotiate(protobuf).unwrap().yaml);
        assert_eq!(negotiate("text/html").unwrap_err().code, 406);
    }
}
