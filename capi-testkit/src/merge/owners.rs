//! `metadata.managedFields`: who owns which fields.

use serde_json::{Map, Value, json};

use super::{Writer, field_set::FieldSet};

/// Most entries of updates that an object keeps; older ones are put together. The server's number.
const UPDATERS_MAX: usize = 10;

/// The manager that entries are put together under.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who an entry belongs to. Appliers keep theirs when they move to another version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) manager: String,
    pub(crate) operation: Operation,
    /// Empty for appliers.
    pub(crate) api_version: String,
    pub(crate) subresource: String,
}

impl Identity {
    pub(crate) fn of(writer: &Writer<'_>, operation: Operation) -> Self {
        let manager = if writer.manager.is_empty() {
            "unknown"
        } else {
            writer.manager
        };
        Self {
            manager: manager.to_owned(),
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => writer.api_version.to_owned(),
            },
            subresource: writer.subresource.to_owned(),
        }
    }

    /// The manager as conflicts name it.
    pub(crate) fn display(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text = format!("{text} using {}", self.api_version);
        }
        text
    }
}

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) identity: Identity,
    pub(crate) api_version: String,
    /// When the entry last changed the object; absent if it never did.
    pub(crate) time: Option<String>,
    pub(crate) fields: FieldSet,
}

/// All entries of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owners(Vec<Owner>);

impl Owners {
    /// Reads `managedFields`; `None` if an entry is not one a server would write.
    pub(crate) fn decode(entries: Value) -> Option<Self> {
        match entries {
            Value::Null => Some(Self::default()),
            Value::Array(entries) => entries
                .into_iter()
                .map(decode_entry)
                .collect::<Option<Vec<_>>>()
                .map(Self),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => None,
        }
    }

    /// The value of `managedFields`, sorted as the server sorts it; null if nobody owns anything.
    pub(crate) fn encode(mut self) -> Value {
        self.0.retain(|owner| !owner.fields.is_empty());
        if self.0.is_empty() {
            return Value::Null;
        }
        self.0.sort_by(|a, b| {
            let key = |owner: &Owner| {
                (
                    owner.identity.operation,
                    // RFC 3339 in UTC with seconds sorts as text; no time comes first.
                    owner.time.clone().unwrap_or_default(),
                    owner.identity.manager.clone(),
                    owner.api_version.clone(),
                    owner.identity.subresource.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        Value::Array(self.0.into_iter().map(encode_entry).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Owner> {
        self.0.iter()
    }

    pub(crate) fn get(&self, identity: &Identity) -> Option<&Owner> {
        self.0.iter().find(|owner| owner.identity == *identity)
    }

    pub(crate) fn take(&mut self, identity: &Identity) -> Option<Owner> {
        let index = self
            .0
            .iter()
            .position(|owner| owner.identity == *identity)?;
        Some(self.0.remove(index))
    }

    pub(crate) fn put(&mut self, owner: Owner) {
        self.take(&owner.identity);
        if !owner.fields.is_empty() {
            self.0.push(owner);
        }
    }

    /// Takes fields from every owner.
    pub(crate) fn take_fields(&mut self, fields: &FieldSet) {
        for owner in &mut self.0 {
            if owner.fields.intersects(fields) {
                owner.fields = owner.fields.difference(fields);
            }
        }
        self.0.retain(|owner| !owner.fields.is_empty());
    }

    /// Puts the oldest entries of updates together until there are few enough.
    pub(crate) fn cap(&mut self) {
        let mut updaters: Vec<Identity> = self
            .0
            .iter()
            .filter(|owner| owner.identity.operation == Operation::Update)
            .map(|owner| owner.identity.clone())
            .collect();
        if updaters.len() <= UPDATERS_MAX {
            return;
        }
        updaters.sort_by_key(|identity| {
            let time = self.get(identity).and_then(|owner| owner.time.clone());
            (time.unwrap_or_default(), identity.clone())
        });
        let mut count = updaters.len();
        let mut firsts: Vec<Identity> = Vec::new();
        for identity in updaters {
            if count <= UPDATERS_MAX {
                break;
            }
            // The oldest entry of a version waits for a second one to be put together with.
            let Some(first) = firsts
                .iter()
                .find(|first| first.api_version == identity.api_version)
            else {
                firsts.push(identity);
                continue;
            };
            let bucket = Identity {
                manager: ANCIENT.to_owned(),
                operation: Operation::Update,
                api_version: identity.api_version.clone(),
                subresource: String::new(),
            };
            let Some(newer) = self.take(&identity) else {
                continue;
            };
            let Some(mut older) = self.take(&bucket).or_else(|| self.take(first)) else {
                continue;
            };
            older.fields.union(&newer.fields);
            self.put(Owner {
                identity: bucket,
                time: newer.time,
                ..older
            });
            count -= 1;
        }
    }
}

/// Whether a client asks for `managedFields` to be forgotten: an empty list, or one empty entry.
pub(crate) fn is_reset(entries: &Value) -> bool {
    match entries {
        Value::Array(entries) => match entries.as_slice() {
            [] => true,
            [Value::Object(entry)] => entry.is_empty(),
            _ => false,
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            false
        }
    }
}

fn decode_entry(mut entry: Value) -> Option<Owner> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let operation = match entry["operation"].as_str() {
        Some("Apply") => Operation::Apply,
        Some("Update") => Operation::Update,
        _ => return None,
    };
    let api_version = text("apiVersion");
    if api_version.is_empty() || entry["fieldsType"] != "FieldsV1" {
        return None;
    }
    Some(Owner {
        identity: Identity {
            manager: text("manager"),
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => api_version.clone(),
            },
            subresource: text("subresource"),
        },
        api_version,
        time: entry["time"].as_str().map(str::to_owned),
        fields: FieldSet::from_fields_v1(entry["fieldsV1"].take()),
    })
}

fn encode_entry(owner: Owner) -> Value {
    let mut entry = Map::new();
    entry.insert("manager".into(), owner.identity.manager.into());
    entry.insert("operation".into(), owner.identity.operation.name().into());
    entry.insert("apiVersion".into(), owner.api_version.into());
    if let Some(time) = owner.time {
        entry.insert("time".into(), time.into());
    }
    entry.insert("fieldsType".into(), json!("FieldsV1"));
    entry.insert("fieldsV1".into(), owner.fields.into_fields_v1());
    if !owner.identity.subresource.is_empty() {
        entry.insert("subresource".into(), owner.identity.subresource.into());
    }
    Value::Object(entry)
}
