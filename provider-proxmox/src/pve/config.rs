//! The configuration of a VM.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A VM's configuration: a flat map of property strings, with the digest that guards changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// The value of a key, such as `net0`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The SHA-1 of the configuration file; a change that carries it is refused if it is outdated.
    pub fn digest(&self) -> Option<&str> {
        self.get("digest")
    }

    /// Why the configuration is locked, such as `clone`.
    pub fn lock(&self) -> Option<&str> {
        self.get("lock")
    }

    /// Whether a flag is set.
    pub fn is_set(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "yes" | "on" | "true"))
    }

    /// The uuid in `smbios1`, by which the guest and the provider id know the VM.
    pub fn uuid(&self) -> Option<&str> {
        self.part("smbios1", "uuid")
    }

    /// One `name=value` part of a property string.
    pub fn part(&self, key: &str, name: &str) -> Option<&str> {
        self.get(key)?.split(',').find_map(|part| {
            let (found, value) = part.split_once('=')?;
            (found == name).then_some(value)
        })
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Config {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = BTreeMap::<String, Value>::deserialize(from)?;
        Ok(raw
            .into_iter()
            .filter_map(|(key, value)| Some((key, scalar(&value)?)))
            .collect())
    }
}

/// Numbers and booleans as the text that a configuration file has; anything nested is no property.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_text_are_the_same() {
        let config: Config = serde_json::from_value(json!({
            "cores": 2, "memory": "2048", "protection": 1, "lock": "clone",
            "smbios1": "uuid=7e2f,serial=YQ==,base64=1",
        }))
        .unwrap();
        assert_eq!(config.get("cores"), Some("2"));
        assert_eq!(config.get("memory"), Some("2048"));
        assert!(config.is_set("protection") && !config.is_set("onboot"));
        assert_eq!(
            (config.uuid(), config.lock()),
            (Some("7e2f"), Some("clone"))
        );
        assert_eq!(config.part("smbios1", "serial"), Some("YQ=="));
    }
}
