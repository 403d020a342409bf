//! JSON values as CEL sees them, by their schema.

use std::{collections::HashMap, sync::Arc, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use kube_cel::cel::{
    Context, Program, Value as CelValue,
    objects::{Key, Map},
};
use serde_json::{Map as JsonMap, Value};

use super::{
    format::Format,
    node::{Additional, Kind, Node},
};

/// Words that CEL reserves; as field names they are written between double underscores.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// cel builds times from text only; its constructors are reached through these programs.
static TIMESTAMP: LazyLock<Program> = LazyLock::new(|| constructor("timestamp(text)"));
static DURATION: LazyLock<Program> = LazyLock::new(|| constructor("duration(text)"));
static CONSTRUCTORS: LazyLock<Context<'static>> = LazyLock::new(Context::default);

/// The value that rules at `node` see. At the root of an object its metadata is reduced to the name,
/// as rules may not look at the rest.
pub(crate) fn of(value: &Value, node: &Node, root: bool) -> CelValue {
    match value {
        Value::Object(fields) if root => {
            let mut entries = object_entries(fields, node, &["apiVersion", "kind", "metadata"]);
            for name in ["apiVersion", "kind"] {
                if let Some(value) = fields.get(name) {
                    entries.insert(key(name), untyped(value));
                }
            }
            let names = ["name", "generateName"].into_iter().filter_map(|name| {
                fields
                    .get("metadata")?
                    .get(name)
                    .map(|value| (key(name), untyped(value)))
            });
            entries.insert(key("metadata"), map(names.collect()));
            map(entries)
        }
        Value::Object(fields) => map(object_entries(fields, node, &[])),
        Value::Array(items) => {
            let item = |item: &Value| match node.items.as_deref() {
                Some(node) => of(item, node, false),
                None => untyped(item),
            };
            CelValue::List(Arc::new(items.iter().map(item).collect()))
        }
        Value::String(text) => of_text(text, node),
        Value::Number(number) if node.kind == Kind::Number => {
            CelValue::Float(number.as_f64().unwrap_or(f64::NAN))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => untyped(value),
    }
}

fn object_entries(
    fields: &JsonMap<String, Value>,
    node: &Node,
    except: &[&str],
) -> HashMap<Key, CelValue> {
    let mut entries = HashMap::with_capacity(fields.len());
    for (name, value) in fields {
        if except.contains(&name.as_str()) {
            continue;
        }
        match (node.properties.get(name), &node.additional) {
            (Some(child), _) => {
                entries.insert(key(&escaped(name)), of(value, child, false));
            }
            (None, Additional::Of(child)) => {
                entries.insert(key(name), of(value, child, false));
            }
            (None, Additional::Any) => {
                entries.insert(key(name), untyped(value));
            }
            // Rules cannot see what the schema does not specify.
            (None, Additional::None) => {}
        }
    }
    entries
}

fn of_text(text: &str, node: &Node) -> CelValue {
    let string = || CelValue::String(Arc::new(text.to_owned()));
    match node.checks.format.as_ref().map(|(_, format)| *format) {
        Some(Format::DateTime) => constructed(&TIMESTAMP, text).unwrap_or_else(string),
        Some(Format::Date) => {
            constructed(&TIMESTAMP, &format!("{text}T00:00:00Z")).unwrap_or_else(string)
        }
        Some(Format::Duration) => constructed(&DURATION, text).unwrap_or_else(string),
        Some(Format::Byte) => match STANDARD.decode(text) {
            Ok(bytes) => CelValue::Bytes(Arc::new(bytes)),
            // Rules do not run on an object whose formats are violated; this keeps the value total.
            Err(_) => string(),
        },
        Some(
            Format::Cidr
            | Format::Email
            | Format::Hostname
            | Format::Ipv4
            | Format::Ipv6
            | Format::LongName
            | Format::Mac
            | Format::ShortName
            | Format::Uri
            | Format::Uuid
            | Format::Uuid3
            | Format::Uuid4
            | Format::Uuid5,
        )
        | None => string(),
    }
}

fn untyped(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(flag) => CelValue::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => CelValue::Int(integer),
            (None, Some(unsigned)) => CelValue::UInt(unsigned),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(untyped).collect())),
        Value::Object(fields) => map(fields
            .iter()
            .map(|(name, value)| (key(name), untyped(value)))
            .collect()),
    }
}

fn map(entries: HashMap<Key, CelValue>) -> CelValue {
    CelValue::Map(Map {
        map: Arc::new(entries),
    })
}

fn key(name: &str) -> Key {
    Key::String(Arc::new(name.to_owned()))
}

/// A field name as rules write it.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

fn constructed(program: &Program, text: &str) -> Option<CelValue> {
    let mut scope = CONSTRUCTORS.new_inner_scope();
    scope.add_variable_from_value("text", CelValue::String(Arc::new(text.to_owned())));
    program.execute(&scope).ok()
}

fn constructor(text: &str) -> Program {
    Program::compile(text).expect("a constant expression of this module is valid")
}
