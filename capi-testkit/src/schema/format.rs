//! Formats of strings that the server checks for custom resources.

use std::{net::Ipv4Addr, net::Ipv6Addr, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use regex::Regex;

/// A `format` that the server checks. Others, such as `int32`, are ignored there and here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Byte,
    Cidr,
    Date,
    DateTime,
    Duration,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    LongName,
    Mac,
    ShortName,
    Uri,
    Uuid,
    Uuid3,
    Uuid4,
    Uuid5,
}

/// Formats that the server checks and this one does not; a schema with one is refused.
pub(crate) const UNSUPPORTED: [&str; 8] = [
    "bsonobjectid",
    "creditcard",
    "hexcolor",
    "isbn",
    "isbn10",
    "isbn13",
    "rgbcolor",
    "ssn",
];

static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^([a-zA-Z0-9\p{S}\p{L}](-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?|([a-zA-Z0-9\p{S}\p{L}]([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?\.)+[a-zA-Z\p{L}]{2,63})$",
    )
});
static UUID: LazyLock<Regex> = LazyLock::new(|| uuid("[0-9a-f]{4}-?[0-9a-f]{4}"));
static UUID3: LazyLock<Regex> = LazyLock::new(|| uuid("3[0-9a-f]{3}-?[0-9a-f]{4}"));
static UUID4: LazyLock<Regex> = LazyLock::new(|| uuid("4[0-9a-f]{3}-?[89ab][0-9a-f]{3}"));
static UUID5: LazyLock<Regex> = LazyLock::new(|| uuid("5[0-9a-f]{3}-?[89ab][0-9a-f]{3}"));
static LABEL: LazyLock<Regex> = LazyLock::new(|| regex("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"));
static MAC: LazyLock<Regex> = LazyLock::new(|| {
    // 6, 8 or 20 octets in one of the three notations that Go's net.ParseMAC knows.
    let octets = |separator: &str, digits: usize, counts: [usize; 3]| {
        counts
            .map(|count| {
                format!(
                    "[0-9a-fA-F]{{{digits}}}({separator}[0-9a-fA-F]{{{digits}}}){{{}}}",
                    count - 1
                )
            })
            .join("|")
    };
    regex(&format!(
        "^({}|{}|{})$",
        octets(":", 2, [6, 8, 20]),
        octets("-", 2, [6, 8, 20]),
        octets("\\.", 4, [3, 4, 10])
    ))
});
static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    regex(r#"^([^<>@]*<)?("[^"]+"|[^\s<>@,;:"()\[\]]+)@([^\s<>@,;:"()\[\]]+|\[[^\]]+\])>?$"#)
});
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    let go = r"[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*";
    let words = r"(?i)(\d+)\s*(d|day|h|hour|hr|m|min|minute|micro|microsecond|micros|milli|millisecond|ms|nano|ns|s|sec|second|us|w|week|wk)s?";
    regex(&format!("^({go})$|^({words})$"))
});

impl Format {
    /// The format of this name. Dashes do not count: `date-time` is `datetime`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name.replace('-', "").as_str() {
            "byte" => Self::Byte,
            "cidr" => Self::Cidr,
            "date" => Self::Date,
            "datetime" => Self::DateTime,
            "duration" => Self::Duration,
            "email" => Self::Email,
            "hostname" => Self::Hostname,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "k8slongname" => Self::LongName,
            "mac" => Self::Mac,
            "k8sshortname" => Self::ShortName,
            "uri" => Self::Uri,
            "uuid" => Self::Uuid,
            "uuid3" => Self::Uuid3,
            "uuid4" => Self::Uuid4,
            "uuid5" => Self::Uuid5,
            _ => return None,
        })
    }

    pub(crate) fn admits(self, text: &str) -> bool {
        match self {
            // The server takes no empty text for base64.
            Self::Byte => !text.is_empty() && STANDARD.decode(text).is_ok(),
            Self::Cidr => without_leading_zeros(text).parse::<IpNet>().is_ok(),
            Self::Date => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
            Self::DateTime => is_date_time(text),
            Self::Duration => DURATION.is_match(text),
            Self::Email => EMAIL.is_match(text),
            Self::Hostname => {
                text.len() <= 255
                    && HOSTNAME.is_match(text)
                    && text.split('.').all(|label| label.len() <= 63)
            }
            Self::Ipv4 => without_leading_zeros(text).parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::LongName => {
                text.len() <= 253 && text.split('.').all(|label| LABEL.is_match(label))
            }
            Self::Mac => MAC.is_match(text),
            Self::ShortName => text.len() <= 63 && LABEL.is_match(text),
            Self::Uri => text.starts_with('/') || url::Url::parse(text).is_ok(),
            Self::Uuid => UUID.is_match(text),
            Self::Uuid3 => UUID3.is_match(text),
            Self::Uuid4 => UUID4.is_match(text),
            Self::Uuid5 => UUID5.is_match(text),
        }
    }
}

/// A dotted quad as the server reads it, which takes `010` for ten; other text as it is.
fn without_leading_zeros(text: &str) -> String {
    let mut shorter = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut octet_starts = !text.contains(':');
    while let Some(c) = chars.next() {
        let padding = octet_starts && c == '0' && chars.peek().is_some_and(char::is_ascii_digit);
        if !padding {
            shorter.push(c);
            octet_starts = c == '.' && !text.contains(':');
        }
    }
    shorter
}

/// RFC 3339 with `T` or `t`; what jiff would also take, a space or no offset, is not.
fn is_date_time(text: &str) -> bool {
    text.len() >= 20
        && text
            .as_bytes()
            .get(10)
            .is_some_and(|byte| byte.eq_ignore_ascii_case(&b'T'))
        && text.parse::<jiff::Timestamp>().is_ok()
}

fn uuid(middle: &str) -> Regex {
    regex(&format!(
        "(?i)^[0-9a-f]{{8}}-?[0-9a-f]{{4}}-?{middle}-?[0-9a-f]{{12}}$"
    ))
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern of this module is valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_padded_with_zeros() {
        assert!(Format::Ipv4.admits("010.000.0.1"));
        assert!(Format::Cidr.admits("010.0.0.0/8"));
        assert!(!Format::Ipv4.admits("10.0.0"));
        assert!(!Format::Ipv4.admits("10.0.0.256"));
    }

    #[test]
    fn dashes_in_names_do_not_count_and_unknown_names_are_no_format() {
        assert_eq!(Format::named("date-time"), Some(Format::DateTime));
        assert_eq!(Format::named("datetime"), Some(Format::DateTime));
        assert_eq!(Format::named("int32"), None);
    }
}
