//! The user's manifest: read strictly, before anything is created.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use capi_testkit::substitute::{self, substitute};
use kube::api::{DynamicObject, GroupVersionKind};
use serde_json::Value;

/// The largest manifest that is read, in bytes. Cluster manifests are some 20 KiB.
const MANIFEST_MAX: u64 = 4 * 1024 * 1024;
/// How different a known field may be from an unknown one to be named as its correction.
const TYPO_DISTANCE_MAX: usize = 3;

/// Objects of a manifest, in its order.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) source: String,
    pub(crate) objects: Vec<DynamicObject>,
    /// What a reader should know about how it was read.
    pub(crate) notes: Vec<String>,
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{source_name} has more than {MANIFEST_MAX} bytes")]
    TooLarge { source_name: String },
    #[error("{source_name} is not YAML")]
    Yaml {
        source_name: String,
        #[source]
        cause: Box<serde_saphyr::Error>,
    },
    #[error(
        "nothing was created, because of the manifest's variables; give each with --set NAME=value or in \
         the environment"
    )]
    Variables(#[from] substitute::Error),
    #[error("nothing was created, because of the manifest:\n{}", lines(.0))]
    Findings(Vec<Finding>),
}

/// One mistake: file, object, field, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) source: String,
    pub(crate) object: String,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.source, self.object, self.what)
    }
}

fn lines(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("  {finding}"))
        .collect::<Vec<_>>()
        .join("\n")
}

impl Manifest {
    /// Reads a file of the user's and fills in its variables, from `set` or the environment.
    pub(crate) fn read(path: &Path, set: &BTreeMap<String, String>) -> Result<Self, Error> {
        let failed = |cause| Error::Read {
            path: path.to_owned(),
            cause,
        };
        let source_name = path.display().to_string();
        if std::fs::metadata(path).map_err(failed)?.len() > MANIFEST_MAX {
            return Err(Error::TooLarge { source_name });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let done = substitute(&source_name, &text, set, |name| std::env::var(name).ok())?;
        let mut manifest = Self::parse(source_name, &done.text)?;
        manifest.notes = done.blanks.iter().map(ToString::to_string).collect();
        Ok(manifest)
    }

    /// Reads the text of a manifest; empty documents are skipped and not counted.
    pub(crate) fn parse(source: String, text: &str) -> Result<Self, Error> {
        // kubectl reads 0644 as 420; a YAML 1.2 parser would read 644.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|cause| Error::Yaml {
                source_name: source.clone(),
                cause: Box::new(cause),
            })?;
        let mut objects = Vec::new();
        let mut findings = Vec::new();
        for (index, document) in documents.into_iter().enumerate() {
            if document.is_null() {
                continue;
            }
            match object(document) {
                Ok(object) => objects.push(object),
                Err(what) => findings.push(Finding {
                    source: source.clone(),
                    object: format!("document {}", index + 1),
                    what,
                }),
            }
        }
        if findings.is_empty() {
            Ok(Self {
                source,
                objects,
                notes: Vec::new(),
            })
        } else {
            Err(Error::Findings(findings))
        }
    }

    /// Compares every object with the definitions: unknown kinds and unknown fields.
    pub(crate) fn check(&self, definitions: &[Value]) -> Result<(), Error> {
        let findings: Vec<_> = self
            .objects
            .iter()
            .flat_map(|object| {
                let about = name_of(object);
                let found = mistakes(object, definitions).into_iter();
                found.map(move |what| self.finding(about.clone(), what))
            })
            .collect();
        if findings.is_empty() {
            Ok(())
        } else {
            Err(Error::Findings(findings))
        }
    }

    /// The objects of a kind, in order.
    pub(crate) fn of_kind<'a>(
        &'a self,
        kind: &str,
    ) -> impl Iterator<Item = &'a DynamicObject> + use<'a> {
        let kind = kind.to_owned();
        let is_of = move |object: &&DynamicObject| {
            object
                .types
                .as_ref()
                .is_some_and(|types| types.kind == kind)
        };
        self.objects.iter().filter(is_of)
    }

    /// A mistake in one object of this manifest.
    pub(crate) fn finding(&self, object: String, what: String) -> Finding {
        Finding {
            source: self.source.clone(),
            object,
            what,
        }
    }
}

/// Kind and name of an object, for people.
pub(crate) fn name_of(object: &DynamicObject) -> String {
    let kind = object
        .types
        .as_ref()
        .map_or("object", |types| types.kind.as_str());
    format!(
        "{kind} {}",
        object.metadata.name.as_deref().unwrap_or("without a name")
    )
}

/// Group, version and kind of an object.
pub(crate) fn kind_of(object: &DynamicObject) -> Option<GroupVersionKind> {
    object
        .types
        .as_ref()
        .and_then(|types| types.try_into().ok())
}

fn object(document: Value) -> Result<DynamicObject, String> {
    for field in ["apiVersion", "kind"] {
        if document.get(field).and_then(Value::as_str).is_none() {
            return Err(format!("{field} is missing"));
        }
    }
    if document
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .is_none()
    {
        return Err("metadata.name is missing".to_owned());
    }
    serde_json::from_value(document).map_err(|error| error.to_string())
}

fn mistakes(object: &DynamicObject, definitions: &[Value]) -> Vec<String> {
    let Some(kind) = kind_of(object) else {
        return vec!["apiVersion cannot be read".to_owned()];
    };
    let text = |value: &Value, pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let of_kind = definitions.iter().find(|definition| {
        text(definition, "/spec/group") == kind.group
            && text(definition, "/spec/names/kind") == kind.kind
    });
    let Some(definition) = of_kind else {
        // Kinds of Kubernetes itself (Secret, ConfigMap) are judged by the server.
        let built_in = !kind.group.contains('.')
            || kind.group.ends_with(".k8s.io") && !kind.group.contains("x-k8s.io");
        return if built_in {
            Vec::new()
        } else {
            vec![format!(
                "there is no kind {} in group {}",
                kind.kind, kind.group
            )]
        };
    };
    let versions = definition
        .pointer("/spec/versions")
        .and_then(Value::as_array);
    let versions = versions.map(Vec::as_slice).unwrap_or_default();
    let Some(version) = versions
        .iter()
        .find(|version| version["name"] == kind.version.as_str())
    else {
        let served: Vec<_> = versions
            .iter()
            .filter_map(|version| version["name"].as_str())
            .collect();
        return vec![format!(
            "apiVersion {}/{} is not served here; use {}/{}",
            kind.group,
            kind.version,
            kind.group,
            served.join(" or ")
        )];
    };
    let mut found = Vec::new();
    unknown_fields(
        &object.data,
        &version["schema"]["openAPIV3Schema"],
        "",
        &mut found,
    );
    found
}

/// Fields of an object that its schema does not know, with the nearest one that it knows.
fn unknown_fields(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                unknown_fields(item, &schema["items"], &format!("{path}[{index}]"), found);
            }
        }
        Value::Object(fields) => {
            let additional = &schema["additionalProperties"];
            for (name, inner) in fields {
                let at = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                match (schema["properties"].get(name), additional) {
                    (Some(known), _) => unknown_fields(inner, known, &at, found),
                    (None, Value::Object(_)) => unknown_fields(inner, additional, &at, found),
                    (None, Value::Bool(true)) => {}
                    _ => found.push(unknown(&at, name, &schema["properties"])),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn unknown(path: &str, name: &str, known: &Value) -> String {
    let known = known
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.keys());
    let nearest = known
        .map(|field| {
            (
                strsim::damerau_levenshtein(&name.to_lowercase(), &field.to_lowercase()),
                field,
            )
        })
        .min();
    match nearest {
        Some((distance, field)) if distance <= TYPO_DISTANCE_MAX => {
            format!("unknown field \"{path}\"; did you mean \"{field}\"?")
        }
        _ => format!("unknown field \"{path}\""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definitions() -> Vec<Value> {
        vec![json!({"spec": {
            "group": "infrastructure.cluster.x-k8s.io",
            "names": {"kind": "Thing"},
            "versions": [{"name": "v1alpha2", "schema": {"openAPIV3Schema": {"properties": {
                "spec": {"properties": {
                    "numCores": {"type": "integer"},
                    "disks": {"items": {"properties": {"sizeGb": {}}}},
                    "labels": {"additionalProperties": {"type": "string"}},
                    "free": {"x-kubernetes-preserve-unknown-fields": true},
                }},
            }}}}],
        }})]
    }

    fn findings(text: &str) -> Vec<String> {
        let manifest = Manifest::parse("m.yaml".to_owned(), text).unwrap();
        match manifest.check(&definitions()) {
            Ok(()) => Vec::new(),
            Err(Error::Findings(all)) => all.iter().map(ToString::to_string).collect(),
            Err(other) => panic!("{other}"),
        }
    }

    fn thing(spec: &str) -> String {
        format!(
            "apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2\nkind: Thing\n\
             metadata: {{name: a}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn a_typo_names_file_object_field_and_the_nearest_known_field() {
        assert_eq!(
            findings(&thing("{numCore: 2, disks: [{sizeGB: 3}]}")),
            [
                "m.yaml: Thing a: unknown field \"spec.disks[0].sizeGB\"; did you mean \"sizeGb\"?",
                "m.yaml: Thing a: unknown field \"spec.numCore\"; did you mean \"numCores\"?",
            ]
        );
    }

    #[test]
    fn known_free_and_mapped_fields_are_accepted() {
        assert!(
            findings(&thing(
                "{numCores: 2, labels: {any: x}, free: {what: ever}}"
            ))
            .is_empty()
        );
    }

    #[test]
    fn a_version_that_is_not_served_names_the_one_to_use() {
        let text = thing("{}").replace("v1alpha2", "v1alpha1");
        assert_eq!(
            findings(&text),
            [
                "m.yaml: Thing a: apiVersion infrastructure.cluster.x-k8s.io/v1alpha1 is not served here; \
              use infrastructure.cluster.x-k8s.io/v1alpha2"
            ]
        );
    }

    #[test]
    fn an_unknown_kind_is_refused_and_kinds_of_kubernetes_are_left_to_the_server() {
        let text = thing("{}").replace("kind: Thing", "kind: Thong");
        assert_eq!(findings(&text).len(), 1);
        assert!(findings("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n").is_empty());
    }

    #[test]
    fn documents_without_kind_or_name_are_named_by_number() {
        let error = Manifest::parse(
            "m.yaml".to_owned(),
            "---\nkind: A\n---\n---\napiVersion: v1\nkind: B\n",
        );
        let Err(Error::Findings(all)) = error else {
            panic!("accepted")
        };
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            [
                "m.yaml: document 1: apiVersion is missing",
                "m.yaml: document 2: metadata.name is missing"
            ]
        );
    }

    #[test]
    fn octal_numbers_are_read_as_kubectl_reads_them() {
        let manifest = Manifest::parse("m".to_owned(), &thing("{numCores: 0644}")).unwrap();
        assert_eq!(manifest.objects[0].data["spec"]["numCores"], 420);
    }
}
