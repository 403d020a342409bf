//! Finds the NoCloud seed among the media and reads its meta-data.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::guest::hardware::Medium;
use crate::guest::iso::read_iso;

/// The volume label that NoCloud looks for; upper case is accepted as well.
const LABEL: &str = "cidata";

/// What the provider wants this instance to be.
#[derive(Clone, PartialEq)]
pub(super) struct Seed {
    /// Where it was found, as in `cloud-init query subplatform`.
    pub(super) device: String,
    pub(super) instance_id: String,
    pub(super) meta_data: Map<String, Value>,
    pub(super) user_data: Bytes,
    pub(super) network_config: Option<Value>,
}

/// Why there is no seed to work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSeed {
    #[error("No local datasource found: {0}")]
    Missing(String),
    #[error("{0}")]
    Broken(String),
}

/// Looks at every medium; the first one with the label counts.
pub(super) fn find_seed(media: &[Medium]) -> Result<Seed, NoSeed> {
    let mut seen = Vec::new();
    for (index, medium) in media.iter().enumerate() {
        let Medium::Cdrom(image) = medium;
        let device = format!("/dev/sr{index}");
        match read_iso(image) {
            Ok((label, files)) if label.eq_ignore_ascii_case(LABEL) => {
                let read = |name: &str| {
                    files
                        .iter()
                        .find(|file| file.path == name)
                        .map(|file| file.bytes.clone())
                };
                return read_seed(device, read);
            }
            Ok((label, _)) => seen.push(format!("{device} has label {label:?}")),
            Err(error) => seen.push(format!("{device}: {error}")),
        }
    }
    Err(NoSeed::Missing(if seen.is_empty() {
        "no medium is attached".to_owned()
    } else {
        format!("no volume is labelled {LABEL:?} ({})", seen.join(", "))
    }))
}

/// What Ignition reads: `user-data` of the volume with the label.
pub(super) fn find_document(media: &[Medium]) -> Result<(String, Bytes), NoSeed> {
    for (index, medium) in media.iter().enumerate() {
        let Medium::Cdrom(image) = medium;
        let device = format!("/dev/sr{index}");
        let labelled = read_iso(image)
            .ok()
            .filter(|(label, _)| label.eq_ignore_ascii_case(LABEL));
        if let Some((_, files)) = labelled {
            let document = files.into_iter().find(|file| file.path == "user-data");
            let document = document.ok_or_else(|| {
                NoSeed::Broken(format!(
                    "{device} is labelled {LABEL:?} but has no file \"user-data\""
                ))
            })?;
            return Ok((device, document.bytes));
        }
    }
    Err(NoSeed::Missing(format!("no volume is labelled {LABEL:?}")))
}

fn read_seed(device: String, read: impl Fn(&str) -> Option<Bytes>) -> Result<Seed, NoSeed> {
    let missing = |name: &str| {
        NoSeed::Broken(format!(
            "{device} is labelled {LABEL:?} but has no file {name:?}"
        ))
    };
    let user_data = read("user-data").ok_or_else(|| missing("user-data"))?;
    let meta_data = read("meta-data").ok_or_else(|| missing("meta-data"))?;
    let meta_data = match yaml("meta-data", &meta_data)? {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        _ => return Err(NoSeed::Broken("meta-data is not a mapping".to_owned())),
    };
    let instance_id = match meta_data.get("instance-id") {
        Some(Value::String(id)) if !id.trim().is_empty() => id.trim().to_owned(),
        Some(Value::Number(id)) => id.to_string(),
        _ => {
            return Err(NoSeed::Broken(
                "meta-data has no instance-id, so this instance cannot be told from another"
                    .to_owned(),
            ));
        }
    };
    let network_config = match read("network-config") {
        Some(bytes) => Some(yaml("network-config", &bytes)?).filter(|value| !value.is_null()),
        None => None,
    };
    Ok(Seed {
        device,
        instance_id,
        meta_data,
        user_data,
        network_config,
    })
}

fn yaml(name: &str, bytes: &Bytes) -> Result<Value, NoSeed> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| NoSeed::Broken(format!("{name} is not UTF-8 text")))?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        NoSeed::Broken(format!("failed loading yaml of {name}: {}", brief(&error)))
    })
}

/// The first line of a YAML error. What follows may quote the document, which holds secrets.
pub(super) fn brief(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

impl Seed {
    /// What templates can name, as `cloud-init query --all` shows it.
    pub(super) fn instance_data(&self) -> Value {
        let meta_data = jinja_names(&self.meta_data);
        let hostname = self.hostname().unwrap_or_default();
        let (short, _) = hostname.split_once('.').unwrap_or((hostname, ""));
        let v1 = serde_json::json!({
            "instance_id": self.instance_id,
            "local_hostname": short,
            "cloud_name": "nocloud",
            "platform": "nocloud",
            "subplatform": format!("seed ({})", self.device),
            "distro": "ubuntu",
        });
        let mut all = match &v1 {
            Value::Object(map) => map.clone(),
            _ => Map::new(),
        };
        all.insert("v1".to_owned(), v1);
        all.insert(
            "ds".to_owned(),
            serde_json::json!({ "meta_data": meta_data }),
        );
        Value::Object(all)
    }

    /// The host name in meta-data.
    pub(super) fn hostname(&self) -> Option<&str> {
        ["local-hostname", "hostname"]
            .iter()
            .find_map(|key| self.meta_data.get(*key)?.as_str())
            .filter(|name| !name.is_empty())
    }
}

/// A hyphen is no part of a jinja name, so cloud-init offers each key with underscores too.
fn jinja_names(map: &Map<String, Value>) -> Value {
    let mut named = map.clone();
    for (key, value) in map {
        if key.contains('-') {
            let value = match value {
                Value::Object(inner) => jinja_names(inner),
                other => other.clone(),
            };
            named.insert(key.replace('-', "_"), value);
        }
    }
    Value::Object(named)
}
