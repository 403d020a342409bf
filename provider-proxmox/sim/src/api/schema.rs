//! What a call's parameters may be, and what the server says when they aren't.

use std::collections::BTreeMap;

use crate::api::reply::Refusal;

/// Says what is wrong with a value.
pub(crate) type Check = fn(&str) -> Result<(), String>;

/// Says whether a further key is known, and what is wrong with its value.
pub(crate) type Others = fn(&str, &str) -> Option<Result<(), String>>;

/// The form of a parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    Integer(i64, i64),
    Number,
    Boolean,
    OneOf(&'static [&'static str]),
    Format(Check),
    /// May be given more than once.
    List,
}

/// One parameter of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Param {
    name: &'static str,
    kind: Kind,
    required: bool,
}

/// A parameter that must be there.
pub(crate) const fn required(name: &'static str, kind: Kind) -> Param {
    Param {
        name,
        kind,
        required: true,
    }
}

/// A parameter that may be there.
pub(crate) const fn optional(name: &'static str, kind: Kind) -> Param {
    Param {
        name,
        kind,
        required: false,
    }
}

/// The parameters of a route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schema {
    pub(crate) params: &'static [Param],
    /// Keys beside the listed ones.
    pub(crate) others: Option<Others>,
}

/// A VMID.
pub(crate) const VMID: Kind = Kind::Integer(100, 999_999_999);

/// A DNS label sequence, as VM names must be.
pub(crate) const DNS_NAME: Kind = Kind::Format(dns_name);

fn dns_name(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(())
    } else {
        Err("invalid format - value does not look like a valid DNS name\n".into())
    }
}

/// A storage id.
pub(crate) const STORAGE_ID: Kind = Kind::Format(storage_id);

fn storage_id(text: &str) -> Result<(), String> {
    let fits = text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fits {
        Ok(())
    } else {
        Err(format!(
            "invalid format - storage ID '{text}' contains illegal characters\n"
        ))
    }
}

/// A node's name.
pub(crate) const NODE: Kind = Kind::Format(node_name);

fn node_name(text: &str) -> Result<(), String> {
    let fits = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits {
        Ok(())
    } else {
        Err("invalid format - value does not look like a valid node name\n".into())
    }
}

impl Kind {
    pub(crate) fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Text | Self::List => Ok(()),
            Self::Integer(least, most) => match value.parse::<i64>() {
                Err(_) => Err(format!("type check ('integer') failed - got '{value}'")),
                Ok(n) if n < least => Err(format!("value must have a minimum value of {least}")),
                Ok(n) if n > most => Err(format!("value must have a maximum value of {most}")),
                Ok(_) => Ok(()),
            },
            Self::Number => match value.parse::<f64>() {
                Ok(_) => Ok(()),
                Err(_) => Err(format!("type check ('number') failed - got '{value}'")),
            },
            Self::Boolean => match boolean(value) {
                Some(_) => Ok(()),
                None => Err(format!("type check ('boolean') failed - got '{value}'")),
            },
            Self::OneOf(values) if values.contains(&value) => Ok(()),
            Self::OneOf(values) => Err(format!(
                "value '{value}' does not have a value in the enumeration '{}'",
                values.join(", ")
            )),
            Self::Format(check) => check(value),
        }
    }
}

/// A boolean in one of the spellings that the server takes.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// The parameters of one call: name and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params(BTreeMap<String, Vec<String>>);

impl Params {
    pub(crate) fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().push(value.into());
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .and_then(|values| values.last())
            .map(String::as_str)
    }

    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(boolean).unwrap_or(false)
    }

    /// A number; a call's schema has checked that it is one.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).and_then(|text| text.parse().ok())
    }

    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .keys()
            .filter_map(|name| Some((name.as_str(), self.get(name)?)))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl Schema {
    pub(crate) const fn of(params: &'static [Param]) -> Self {
        Self {
            params,
            others: None,
        }
    }

    /// Checks what is there, what is missing, and what shouldn't be there.
    pub(crate) fn check(&self, params: &Params) -> Result<(), Refusal> {
        let mut errors = Vec::new();
        for (name, values) in &params.0 {
            if let Err(reason) = self.check_one(name, values) {
                errors.push((name.clone(), reason));
            }
        }
        for param in self.params.iter().filter(|param| param.required) {
            if !params.contains(param.name) {
                errors.push((
                    param.name.to_owned(),
                    "property is missing and it is not optional".to_owned(),
                ));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Refusal::invalid(errors))
        }
    }

    fn check_one(&self, name: &str, values: &[String]) -> Result<(), String> {
        let unknown = || {
            "property is not defined in schema and the schema does not allow additional properties"
                .to_owned()
        };
        let value = values.last().map(String::as_str).unwrap_or_default();
        if let Some(param) = self.params.iter().find(|param| param.name == name) {
            if values.len() > 1 && !matches!(param.kind, Kind::List) {
                return Err("type check ('string') failed - got ARRAY".into());
            }
            return param.kind.check(value);
        }
        match self.others.and_then(|others| others(name, value)) {
            Some(result) => result,
            None => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SCHEMA: Schema = Schema::of(&[
        required("newid", VMID),
        optional("name", DNS_NAME),
        optional("full", Kind::Boolean),
        optional("format", Kind::OneOf(&["raw", "qcow2"])),
    ]);

    #[rstest]
    #[case(&[("newid", "100"), ("name", "a.b-c"), ("full", "1")], None)]
    #[case(&[("newid", "99")], Some(("newid", "value must have a minimum value of 100")))]
    #[case(&[("newid", "x")], Some(("newid", "type check ('integer') failed - got 'x'")))]
    #[case(&[], Some(("newid", "property is missing and it is not optional")))]
    #[case(
        &[("newid", "100"), ("nme", "x")],
        Some(("nme", "property is not defined in schema and the schema does not allow additional properties"))
    )]
    #[case(
        &[("newid", "100"), ("name", "under_score")],
        Some(("name", "invalid format - value does not look like a valid DNS name\n"))
    )]
    #[case(&[("newid", "100"), ("full", "2")], Some(("full", "type check ('boolean') failed - got '2'")))]
    #[case(
        &[("newid", "100"), ("format", "vmdk")],
        Some(("format", "value 'vmdk' does not have a value in the enumeration 'raw, qcow2'"))
    )]
    fn parameters_are_checked(#[case] given: &[(&str, &str)], #[case] wrong: Option<(&str, &str)>) {
        let mut params = Params::default();
        for (name, value) in given {
            params.push(*name, *value);
        }
        let errors = SCHEMA.check(&params).err().map(|refusal| refusal.errors);
        let wrong = wrong.map(|(name, text)| vec![(name.to_owned(), text.to_owned())]);
        assert_eq!(errors, wrong);
    }
}
