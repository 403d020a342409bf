//! What the lists and maps at a place of an object mean for merging.

use serde_json::{Map, Value};

use super::{builtin, builtin::Type, element};
use crate::schema::{Additional, Kind, ListType, Node, Schema};

/// What the lists and maps of a kind mean: which merge by key, which are sets, which are one value.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// A custom resource, by its schema.
    Structural(&'a Schema),
    /// A kind that is compiled into real servers.
    BuiltIn {
        /// API group, empty for core.
        group: &'a str,
        /// Kind, such as `Pod`.
        kind: &'a str,
    },
}

impl<'a> Shape<'a> {
    pub(crate) fn root(self) -> Place<'a> {
        match self {
            Self::Structural(schema) => Place::Resource(schema.root()),
            Self::BuiltIn { group, kind } => Place::Fixed(builtin::root(group, kind)),
        }
    }
}

/// A place within a shape.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// The root of a custom resource, or of a resource embedded in one.
    Resource(&'a Node),
    Node(&'a Node),
    Fixed(&'static Type),
    /// Below `x-kubernetes-preserve-unknown-fields`: maps merge by key, lists are one value.
    Deduced,
}

/// How a value at a place is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// One value: scalars, null, atomic lists and maps.
    Leaf,
    /// A map that merges key by key.
    Granular,
    /// A list that merges item by item.
    Associative,
}

impl<'a> Place<'a> {
    pub(crate) fn treatment(self, value: &Value) -> Treatment {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Treatment::Leaf,
            Value::Object(_) => {
                let atomic = match self {
                    Self::Node(node) => node.atomic_map,
                    Self::Fixed(kind) => matches!(kind, Type::Atomic),
                    Self::Resource(_) | Self::Deduced => false,
                };
                if atomic {
                    Treatment::Leaf
                } else {
                    Treatment::Granular
                }
            }
            Value::Array(_) => match self {
                Self::Node(node) if node.list_type != ListType::Atomic => Treatment::Associative,
                Self::Fixed(Type::Set | Type::List { .. }) => Treatment::Associative,
                Self::Node(_) | Self::Resource(_) | Self::Fixed(_) | Self::Deduced => {
                    Treatment::Leaf
                }
            },
        }
    }

    /// The place of a field, and whether the shape names that field (rather than any key).
    pub(crate) fn field(self, name: &str) -> Field<'a> {
        let known = |place| Field {
            place,
            named: true,
            declared: true,
        };
        match self {
            Self::Resource(_) if name == "metadata" => known(Place::Fixed(&builtin::OBJECT_META)),
            Self::Resource(_) if name == "apiVersion" || name == "kind" => {
                known(Place::Fixed(&Type::Open))
            }
            Self::Resource(node) | Self::Node(node) => {
                match (node.properties.get(name), &node.additional) {
                    (Some(child), _) if child.embedded_resource => known(Place::Resource(child)),
                    (Some(child), _) => known(Place::Node(child)),
                    (None, Additional::Of(child)) => Field {
                        place: Place::Node(child),
                        named: false,
                        declared: true,
                    },
                    (None, Additional::None | Additional::Any) => Field {
                        place: Place::Deduced,
                        named: false,
                        declared: node.preserve_unknown
                            || matches!(node.additional, Additional::Any)
                            || matches!(node.kind, Kind::Any | Kind::IntOrString),
                    },
                }
            }
            Self::Fixed(Type::Struct(fields)) => {
                let found = fields.iter().find(|(field, _)| *field == name);
                known(Place::Fixed(found.map_or(&Type::Open, |(_, kind)| kind)))
            }
            Self::Fixed(Type::Whole(fields)) => {
                let found = fields.iter().find(|(field, _)| *field == name);
                Field {
                    declared: found.is_some(),
                    ..known(Place::Fixed(found.map_or(&Type::Open, |(_, kind)| kind)))
                }
            }
            Self::Fixed(Type::Map(item)) => Field {
                place: Place::Fixed(item),
                named: false,
                declared: true,
            },
            Self::Fixed(Type::Open | Type::Atomic | Type::Set | Type::List { .. }) => {
                known(Place::Fixed(&Type::Open))
            }
            Self::Deduced => Field {
                place: Place::Deduced,
                named: false,
                declared: true,
            },
        }
    }

    /// The place of the items of a list.
    pub(crate) fn item(self) -> Place<'a> {
        match self {
            Self::Node(node) | Self::Resource(node) => {
                node.items.as_deref().map_or(Place::Deduced, Place::Node)
            }
            Self::Fixed(Type::List { item, .. }) => Place::Fixed(item),
            Self::Fixed(_) => Place::Fixed(&Type::Open),
            Self::Deduced => Place::Deduced,
        }
    }

    /// The place under a path element.
    pub(crate) fn below(self, path_element: &str) -> Field<'a> {
        match element::field_name(path_element) {
            Some(name) => self.field(name),
            None => Field {
                place: self.item(),
                named: false,
                declared: true,
            },
        }
    }

    /// The path element of an item of an associative list.
    pub(crate) fn element(self, item: &Value) -> Result<String, String> {
        match self {
            Self::Node(node) => match &node.list_type {
                ListType::Map(keys) => {
                    let default =
                        |key: &str| node.items.as_ref()?.properties.get(key)?.default.clone();
                    keyed(keys.iter().map(String::as_str), item, default)
                }
                ListType::Set | ListType::Atomic => set_item(item),
            },
            Self::Fixed(Type::List { keys, defaults, .. }) => {
                let default = |key: &str| {
                    let found = defaults.iter().find(|(name, _)| *name == key);
                    found.map(|(_, value)| Value::from(*value))
                };
                keyed(keys.iter().copied(), item, default)
            }
            Self::Fixed(_) | Self::Resource(_) | Self::Deduced => set_item(item),
        }
    }

    /// Whether two items are seen to be one without a look at defaults: both have all keys, and the
    /// same ones. Items of sets are one only if they are equal.
    pub(crate) fn same_keys(self, one: &Value, other: &Value) -> bool {
        let same = |key: &str| one.get(key).is_some() && one.get(key) == other.get(key);
        match self {
            Self::Node(node) => match &node.list_type {
                ListType::Map(keys) => keys.iter().all(|key| same(key)),
                ListType::Set | ListType::Atomic => one == other,
            },
            Self::Fixed(Type::List { keys, .. }) => keys.iter().all(|key| same(key)),
            Self::Fixed(_) | Self::Resource(_) | Self::Deduced => one == other,
        }
    }

    /// Why a value cannot be at this place, in the words of the real server.
    pub(crate) fn mismatch(self, value: &Value) -> Option<String> {
        let Self::Node(node) = self else { return None };
        let (expected, fits) = match node.kind {
            // Published without a type, and so not checked.
            Kind::Any | Kind::IntOrString => return None,
            Kind::Object => ("map", value.is_object()),
            Kind::Array => ("list", value.is_array()),
            Kind::String => ("string", value.is_string()),
            Kind::Integer | Kind::Number => ("numeric (int or float)", value.is_number()),
            Kind::Boolean => ("boolean", value.is_boolean()),
        };
        (!fits && !value.is_null()).then(|| match node.kind {
            Kind::Integer | Kind::Number => format!("expected {expected}, got {}", go_type(value)),
            Kind::String => {
                format!("expected {expected}, got &value.valueUnstructured{{Value:{value}}}")
            }
            Kind::Any | Kind::Object | Kind::Array | Kind::Boolean | Kind::IntOrString => {
                format!("expected {expected}, got &{{{}}}", go_value(value))
            }
        })
    }
}

/// A place reached by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) place: Place<'a>,
    /// A field of a struct; a key of a map is not.
    pub(crate) named: bool,
    /// Whether the shape admits the field at all.
    pub(crate) declared: bool,
}

fn keyed<'k>(
    keys: impl Iterator<Item = &'k str> + Clone,
    item: &Value,
    default: impl Fn(&str) -> Option<Value>,
) -> Result<String, String> {
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => {
            return Err("associative list with keys may not have a null element".into());
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err("associative list with keys may not have non-map elements".into());
        }
    };
    let mut found = Map::new();
    for key in keys.clone() {
        if let Some(value) = fields.get(key).cloned().or_else(|| default(key)) {
            found.insert(key.to_owned(), value);
        }
    }
    if found.is_empty() {
        let names: Vec<String> = keys.map(|key| format!("{key:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            names.join(" ")
        ));
    }
    Ok(element::keys(found))
}

fn set_item(item: &Value) -> Result<String, String> {
    match item {
        Value::Object(_) => {
            Err("associative list without keys has an element that's a map type".into())
        }
        Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
        Value::Null => {
            Err("associative list without keys has an element that's an explicit null".into())
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(element::value(item)),
    }
}

pub(crate) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go prints it with `%v`.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(go_value).collect::<Vec<_>>().join(" ")
            )
        }
        Value::Object(fields) => {
            let pairs = fields
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_value(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
    }
}
