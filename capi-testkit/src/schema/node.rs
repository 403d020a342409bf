//! One node of a compiled schema, and its compilation from `openAPIV3Schema`.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::{
    SchemaError,
    format::{self, Format},
    pattern,
    rule::Rule,
};

/// Deepest nesting of a schema. Published definitions stay under 30; beyond this the recursion of
/// the walks over an object would no longer be obviously safe.
const DEPTH_MAX: usize = 100;

/// The JSON type that a node admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No type stated: only below `x-kubernetes-preserve-unknown-fields` or in value validations.
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

/// What `additionalProperties` says about keys outside `properties`.
#[derive(Debug)]
pub(crate) enum Additional {
    /// Not stated, or `false`.
    None,
    /// `true`: any value, unspecified below.
    Any,
    Of(Box<Node>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListType {
    Atomic,
    Set,
    /// With `x-kubernetes-list-map-keys`.
    Map(Vec<String>),
}

/// The value validations of a node.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) enumeration: Vec<Value>,
    pub(crate) pattern: Option<(String, Regex)>,
    /// With the name as the schema writes it, for messages.
    pub(crate) format: Option<(String, Format)>,
    pub(crate) length_min: Option<u64>,
    pub(crate) length_max: Option<u64>,
    pub(crate) items_min: Option<u64>,
    pub(crate) items_max: Option<u64>,
    pub(crate) items_unique: bool,
    pub(crate) properties_min: Option<u64>,
    pub(crate) properties_max: Option<u64>,
    pub(crate) minimum: Option<f64>,
    pub(crate) minimum_exclusive: bool,
    pub(crate) maximum: Option<f64>,
    pub(crate) maximum_exclusive: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) required: Vec<String>,
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Box<Node>>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded_resource: bool,
    pub(crate) properties: BTreeMap<String, Node>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Node>>,
    pub(crate) default: Option<Value>,
    pub(crate) list_type: ListType,
    /// `x-kubernetes-map-type: atomic`.
    pub(crate) atomic_map: bool,
    pub(crate) checks: Checks,
    pub(crate) rules: Vec<Rule>,
    /// Whether a node below this one, itself excluded, has a default.
    pub(crate) defaults_below: bool,
    /// Whether this node or one below has rules.
    pub(crate) rules_within: bool,
    /// Whether this node or one below is a list of distinct items.
    pub(crate) distinct_within: bool,
    /// Whether this node or one below is an embedded resource.
    pub(crate) embedded_within: bool,
}

impl Node {
    /// The node of a field or map entry, by its key.
    pub(crate) fn child(&self, key: &str) -> Option<&Node> {
        match (self.properties.get(key), &self.additional) {
            (Some(node), _) => Some(node),
            (None, Additional::Of(node)) => Some(node),
            (None, Additional::None | Additional::Any) => None,
        }
    }

    /// Whether null stands for "not set" here, and is removed.
    pub(crate) fn drops_null(&self) -> bool {
        !self.nullable && self.default.is_none()
    }
}

/// Compiles a node and all below it. `path` is the place within the schema, for errors.
pub(crate) fn compile(schema: &Value, path: &str) -> Result<Node, SchemaError> {
    Compiler {
        value_validation: false,
    }
    .node(schema, path, 0)
}

#[derive(Clone, Copy)]
struct Compiler {
    /// Within `allOf`, `anyOf`, `oneOf` and `not`, where types need not be repeated.
    value_validation: bool,
}

impl Compiler {
    fn node(self, schema: &Value, path: &str, depth: usize) -> Result<Node, SchemaError> {
        if depth > DEPTH_MAX {
            return Err(SchemaError::TooDeep {
                path: path.to_owned(),
                limit: DEPTH_MAX,
            });
        }
        let Value::Object(_) = schema else {
            return Err(SchemaError::invalid(path, "must be an object"));
        };
        let kind = self.kind(schema, path)?;
        let properties = self.properties(schema, path, depth)?;
        let additional = self.additional(schema, path, depth)?;
        let items = match &schema["items"] {
            Value::Null => None,
            items => Some(Box::new(self.node(
                items,
                &format!("{path}.items"),
                depth + 1,
            )?)),
        };
        let rules = Rule::compile_all(&schema["x-kubernetes-validations"], path)?;
        let mut node = Node {
            kind,
            nullable: flag(schema, "nullable"),
            preserve_unknown: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag(schema, "x-kubernetes-embedded-resource"),
            properties,
            additional,
            items,
            default: schema.get("default").cloned(),
            list_type: list_type(schema, path)?,
            atomic_map: schema["x-kubernetes-map-type"] == "atomic",
            checks: self.checks(schema, path, depth)?,
            rules,
            defaults_below: false,
            rules_within: false,
            distinct_within: false,
            embedded_within: false,
        };
        let below = || {
            let additional = match &node.additional {
                Additional::Of(child) => Some(child.as_ref()),
                Additional::None | Additional::Any => None,
            };
            node.properties
                .values()
                .chain(additional)
                .chain(node.items.as_deref())
        };
        let defaults = below().any(|child| child.default.is_some() || child.defaults_below);
        let rules = !node.rules.is_empty()
            || node
                .checks
                .all_of
                .iter()
                .any(|branch| !branch.rules.is_empty())
            || below().any(|child| child.rules_within);
        let embedded = node.embedded_resource || below().any(|child| child.embedded_within);
        let distinct =
            node.list_type != ListType::Atomic || below().any(|child| child.distinct_within);
        node.defaults_below = defaults;
        node.rules_within = rules;
        node.distinct_within = distinct;
        node.embedded_within = embedded;
        Ok(node)
    }

    fn kind(self, schema: &Value, path: &str) -> Result<Kind, SchemaError> {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Ok(Kind::IntOrString);
        }
        match schema["type"].as_str() {
            Some("object") => Ok(Kind::Object),
            Some("array") if schema["items"].is_null() && !self.value_validation => Err(
                SchemaError::required(&format!("{path}.items"), "must be specified"),
            ),
            Some("array") => Ok(Kind::Array),
            Some("string") => Ok(Kind::String),
            Some("integer") => Ok(Kind::Integer),
            Some("number") => Ok(Kind::Number),
            Some("boolean") => Ok(Kind::Boolean),
            Some(other) => Err(SchemaError::invalid(
                &format!("{path}.type"),
                &format!("{other:?} is not one of array, boolean, integer, number, object, string"),
            )),
            None if self.value_validation
                || flag(schema, "x-kubernetes-preserve-unknown-fields") =>
            {
                Ok(Kind::Any)
            }
            None => Err(SchemaError::required(
                &format!("{path}.type"),
                "must not be empty for specified object fields",
            )),
        }
    }

    fn additional(
        self,
        schema: &Value,
        path: &str,
        depth: usize,
    ) -> Result<Additional, SchemaError> {
        match &schema["additionalProperties"] {
            Value::Bool(true) => Ok(Additional::Any),
            child @ Value::Object(_) => {
                let path = format!("{path}.additionalProperties");
                let node = self.node(child, &path, depth + 1)?;
                Ok(Additional::Of(Box::new(node)))
            }
            _ => Ok(Additional::None),
        }
    }

    fn properties(
        self,
        schema: &Value,
        path: &str,
        depth: usize,
    ) -> Result<BTreeMap<String, Node>, SchemaError> {
        let mut nodes = BTreeMap::new();
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            let node = self.node(child, &format!("{path}.properties[{name}]"), depth + 1)?;
            nodes.insert(name.clone(), node);
        }
        Ok(nodes)
    }

    fn checks(self, schema: &Value, path: &str, depth: usize) -> Result<Checks, SchemaError> {
        let nested = Self {
            value_validation: true,
        };
        let branches = |keyword: &str| -> Result<Vec<Node>, SchemaError> {
            let list = schema[keyword].as_array().map_or(&[][..], Vec::as_slice);
            let branch = |(index, child)| {
                nested.node(child, &format!("{path}.{keyword}[{index}]"), depth + 1)
            };
            list.iter().enumerate().map(branch).collect()
        };
        let count = |keyword: &str| schema[keyword].as_u64();
        Ok(Checks {
            enumeration: schema["enum"].as_array().cloned().unwrap_or_default(),
            pattern: match schema["pattern"].as_str().filter(|text| !text.is_empty()) {
                Some(text) => Some((text.to_owned(), pattern::compile(text, path)?)),
                None => None,
            },
            format: format(schema, path)?,
            length_min: count("minLength"),
            length_max: count("maxLength"),
            items_min: count("minItems"),
            items_max: count("maxItems"),
            items_unique: flag(schema, "uniqueItems"),
            properties_min: count("minProperties"),
            properties_max: count("maxProperties"),
            minimum: schema["minimum"].as_f64(),
            minimum_exclusive: flag(schema, "exclusiveMinimum"),
            maximum: schema["maximum"].as_f64(),
            maximum_exclusive: flag(schema, "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64(),
            required: strings(&schema["required"]),
            all_of: branches("allOf")?,
            any_of: branches("anyOf")?,
            one_of: branches("oneOf")?,
            not: match &schema["not"] {
                Value::Null => None,
                not => Some(Box::new(nested.node(
                    not,
                    &format!("{path}.not"),
                    depth + 1,
                )?)),
            },
        })
    }
}

fn list_type(schema: &Value, path: &str) -> Result<ListType, SchemaError> {
    match schema["x-kubernetes-list-type"].as_str() {
        None | Some("atomic") => Ok(ListType::Atomic),
        Some("set") => Ok(ListType::Set),
        Some("map") => {
            let keys = strings(&schema["x-kubernetes-list-map-keys"]);
            if keys.is_empty() {
                return Err(SchemaError::required(
                    &format!("{path}.x-kubernetes-list-map-keys"),
                    "must not be empty if x-kubernetes-list-type is map",
                ));
            }
            Ok(ListType::Map(keys))
        }
        Some(other) => Err(SchemaError::invalid(
            &format!("{path}.x-kubernetes-list-type"),
            &format!("{other:?} is not one of atomic, map, set"),
        )),
    }
}

fn format(schema: &Value, path: &str) -> Result<Option<(String, Format)>, SchemaError> {
    let Some(name) = schema["format"].as_str() else {
        return Ok(None);
    };
    if format::UNSUPPORTED.contains(&name) {
        return Err(SchemaError::invalid(
            &format!("{path}.format"),
            &format!("format {name:?} is not checked by this server"),
        ));
    }
    Ok(Format::named(name).map(|format| (name.to_owned(), format)))
}

fn flag(schema: &Value, keyword: &str) -> bool {
    schema[keyword] == true
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
