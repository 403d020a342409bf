//! JSON as a real server reads it: with fields that are given twice noticed, and errors in Go's words.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::schema::Path;

/// A value as it was sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    pub(crate) value: Value,
    /// Paths of fields that were given more than once; the last one counts.
    pub(crate) duplicates: Vec<String>,
}

impl From<Value> for Sent {
    fn from(value: Value) -> Self {
        Self {
            value,
            duplicates: Vec::new(),
        }
    }
}

/// Reads JSON; the error is Go's.
pub(crate) fn read(bytes: &[u8]) -> Result<Sent, String> {
    let duplicates = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let reader = Reader {
        path: &Path::Root,
        duplicates: &duplicates,
    };
    let read = reader
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match read {
        Ok(value) => Ok(Sent {
            value,
            duplicates: duplicates.into_inner(),
        }),
        Err(error) => Err(in_words_of_go(bytes, &error)),
    }
}

/// Reads the value at a path.
#[derive(Clone, Copy)]
struct Reader<'a> {
    path: &'a Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number out of range"))?;
        Ok(number.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = Path::Index(self.path, list.len());
            let reader = Reader {
                path: &path,
                duplicates: self.duplicates,
            };
            match items.next_element_seed(reader)? {
                Some(item) => list.push(item),
                None => return Ok(list.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = Path::Field(self.path, &name);
            if map.contains_key(&name) {
                let mut duplicates = self.duplicates.try_borrow_mut().map_err(A::Error::custom)?;
                let duplicate = path.to_string();
                if !duplicates.contains(&duplicate) {
                    duplicates.push(duplicate);
                }
            }
            let value = fields.next_value_seed(Reader {
                path: &path,
                duplicates: self.duplicates,
            })?;
            map.insert(name, value);
        }
        Ok(map.into())
    }
}

/// The text of `encoding/json` for what this parser says.
fn in_words_of_go(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let places = [
        (
            "key must be a string",
            "looking for beginning of object key string",
        ),
        ("expected value", "looking for beginning of value"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        (
            "trailing comma",
            "looking for beginning of object key string",
        ),
    ];
    let known = places.iter().find(|(ours, _)| text.starts_with(ours));
    let line = bytes.split(|byte| *byte == b'\n').nth(error.line() - 1);
    let found = line.and_then(|line| line.get(error.column().saturating_sub(1)));
    match (known, found) {
        (Some((_, place)), Some(found)) => {
            let found = match *found {
                b'\'' => r"'\''".to_owned(),
                byte if byte.is_ascii_graphic() || byte == b' ' => {
                    format!("'{}'", char::from(byte))
                }
                byte => format!("'\\u{byte:04x}'"),
            };
            format!("invalid character {found} {place}")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_given_twice_are_noticed() {
        let sent = read(br#"{"a":{"b":1,"b":2},"c":[{"d":1},{"d":1,"d":3}],"e":1.5}"#).unwrap();
        assert_eq!(sent.duplicates, ["a.b", "c[1].d"]);
        let last = serde_json::json!({"a": {"b": 2}, "c": [{"d": 1}, {"d": 3}], "e": 1.5});
        assert_eq!(sent.value, last);
    }

    #[test]
    fn errors_are_those_of_go() {
        let table = [
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            (
                "{not",
                "invalid character 'n' looking for beginning of object key string",
            ),
            (
                "hello",
                "invalid character 'h' looking for beginning of value",
            ),
            ("{} x", "invalid character 'x' after top-level value"),
            (
                "{\"a\":1 2}",
                "invalid character '2' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
    }
}
