//! Quantities as Kubernetes writes them.

use serde_json::Value;

/// Suffixes with their factors, in thousandths; the longer ones first.
const SUFFIXES: [(&str, u128); 12] = [
    ("Ki", 1_024_000),
    ("Mi", 1_024_000 << 10),
    ("Gi", 1_024_000 << 20),
    ("Ti", 1_024_000 << 30),
    ("Pi", 1_024_000 << 40),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("", 1_000),
];

/// A quantity in thousandths of its unit, with decimals cut off below that; none if it can't be read.
pub(crate) fn thousandths(value: &Value) -> Option<u64> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let (suffix, factor) = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix))?;
    let number = text.strip_suffix(suffix)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let part = &part[..part.len().min(6)];
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    u64::try_from(digits.checked_mul(*factor)? / scale).ok()
}

/// A quantity of bytes.
pub(crate) fn bytes(value: &Value) -> Option<u64> {
    thousandths(value).map(|amount| amount / 1_000)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(json!("4Gi"), Some(4 << 30))]
    #[case(json!("512Mi"), Some(512 << 20))]
    #[case(json!("1.5Gi"), Some(3 << 29))]
    #[case(json!("1G"), Some(1_000_000_000))]
    #[case(json!("500m"), Some(0))]
    #[case(json!(1024), Some(1024))]
    #[case(json!("4GiB"), None)]
    #[case(json!(""), None)]
    #[case(json!(null), None)]
    fn quantities_are_read(#[case] value: Value, #[case] read: Option<u64>) {
        assert_eq!(bytes(&value), read);
    }

    #[test]
    fn thousandths_count() {
        assert_eq!(thousandths(&json!("250m")), Some(250));
        assert_eq!(thousandths(&json!("2")), Some(2_000));
    }
}
