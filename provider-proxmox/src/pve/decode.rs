//! Lenient decoding: booleans arrive as 0, 1, "1" or true, numbers as text, text as numbers.

use std::fmt;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// A boolean, absent meaning false.
pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(number::<D, u64>(from)?.is_some_and(|number| number != 0))
}

/// A number, absent or empty meaning `None`.
pub(super) fn number<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let Some(number) = from.deserialize_any(Scalar)? else {
        return Ok(None);
    };
    let exact: u64 = match &number {
        Text::Whole(number) => *number,
        Text::Text(text) if text.is_empty() => return Ok(None),
        Text::Text(text) => text
            .parse()
            .map_err(|_| D::Error::invalid_value(Unexpected::Str(text), &"a number"))?,
    };
    T::try_from(exact)
        .map(Some)
        .map_err(|_| D::Error::invalid_value(Unexpected::Unsigned(exact), &"a smaller number"))
}

/// Text, where numbers count as their digits.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(from.deserialize_any(Scalar)?.map(|scalar| match scalar {
        Text::Whole(number) => number.to_string(),
        Text::Text(text) => text,
    }))
}

enum Text {
    Whole(u64),
    Text(String),
}

struct Scalar;

impl<'de> Visitor<'de> for Scalar {
    type Value = Option<Text>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, text or a boolean")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Text::Whole(u64::from(value))))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Text::Whole(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Text::Text(value.to_string())))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        // Some plugins compute sizes in floating point; whole numbers are meant.
        Ok(Some(Text::Text(format!("{value:.0}"))))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(Text::Text(value.to_owned())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        Ok(Some(Text::Text(value)))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Row {
        #[serde(default, deserialize_with = "super::flag")]
        flag: bool,
        #[serde(default, deserialize_with = "super::number")]
        number: Option<u32>,
        #[serde(default, deserialize_with = "super::text")]
        text: Option<String>,
    }

    #[test]
    fn every_spelling_is_read() {
        let row = |flag, number, text: Option<&str>| Row {
            flag,
            number,
            text: text.map(Into::into),
        };
        for (from, expected) in [
            (json!({}), row(false, None, None)),
            (
                json!({"flag": 1, "number": "100", "text": 7}),
                row(true, Some(100), Some("7")),
            ),
            (
                json!({"flag": "1", "number": 100.0}),
                row(true, Some(100), None),
            ),
            (
                json!({"flag": true, "number": "", "text": "a"}),
                row(true, None, Some("a")),
            ),
            (
                json!({"flag": "0", "number": null, "text": null}),
                row(false, None, None),
            ),
            (json!({"flag": 0}), row(false, None, None)),
        ] {
            let read: Row = serde_json::from_value(from.clone()).unwrap();
            assert_eq!(read, expected, "{from}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for from in [
            json!({"number": "x"}),
            json!({"number": -1}),
            json!({"number": 1u64 << 40}),
        ] {
            assert!(
                serde_json::from_value::<Row>(from.clone()).is_err(),
                "{from}"
            );
        }
    }
}
