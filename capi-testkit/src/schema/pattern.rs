//! Regular expressions of `pattern`, which are Go's dialect of RE2.

use regex::Regex;

use super::SchemaError;

/// Compiles a pattern so that it matches what Go's `regexp` would match.
pub(crate) fn compile(pattern: &str, path: &str) -> Result<Regex, SchemaError> {
    Regex::new(&translated(pattern)).map_err(|source| SchemaError::Pattern {
        path: format!("{path}.pattern"),
        pattern: pattern.to_owned(),
        source,
    })
}

/// Go's Perl classes are ASCII, and its brackets know neither nesting nor set operations.
fn translated(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut class = Class::Outside;
    while let Some(c) = chars.next() {
        let within = class != Class::Outside;
        match c {
            '\\' => {
                if let Some(escaped) = chars.next() {
                    push_escape(&mut text, escaped, within);
                }
                class = class.after_first();
            }
            '[' if !within => {
                text.push('[');
                class = Class::Opened;
                if chars.next_if_eq(&'^').is_some() {
                    text.push('^');
                }
            }
            '[' if chars.peek() != Some(&':') => {
                text.push_str("\\[");
                class = Class::Inside;
            }
            '[' => {
                // A POSIX class such as [:alpha:] is copied whole.
                text.push('[');
                for posix in chars.by_ref() {
                    text.push(posix);
                    if posix == ']' {
                        break;
                    }
                }
                class = Class::Inside;
            }
            ']' if class == Class::Inside => {
                text.push(']');
                class = Class::Outside;
            }
            // The first bracket of a class stands for itself.
            ']' if class == Class::Opened => {
                text.push_str("\\]");
                class = Class::Inside;
            }
            '&' | '~' | '-' if within && chars.peek() == Some(&c) => {
                text.push('\\');
                text.push(c);
                class = Class::Inside;
            }
            _ => {
                text.push(c);
                class = class.after_first();
            }
        }
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Outside,
    /// Right behind the opening bracket.
    Opened,
    Inside,
}

impl Class {
    fn after_first(self) -> Self {
        match self {
            Self::Opened => Self::Inside,
            Self::Outside | Self::Inside => self,
        }
    }
}

fn push_escape(text: &mut String, escaped: char, within_class: bool) {
    let ascii = match (escaped, within_class) {
        ('d', false) => "[0-9]",
        ('d', true) => "0-9",
        ('w', false) => "[0-9A-Za-z_]",
        ('w', true) => "0-9A-Za-z_",
        ('s', false) => "[\\t\\n\\f\\r ]",
        ('s', true) => "\\t\\n\\f\\r ",
        ('D', _) => "[^0-9]",
        ('W', _) => "[^0-9A-Za-z_]",
        ('S', _) => "[^\\t\\n\\f\\r ]",
        ('b', false) => "(?-u:\\b)",
        ('B', false) => "(?-u:\\B)",
        _ => {
            text.push('\\');
            text.push(escaped);
            return;
        }
    };
    text.push_str(ascii);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_what_go_matches() {
        let cases = [
            (r"^\d+$", "12", true),
            (r"^\d+$", "٣", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[\w.-]+$", "ä", false),
            (r"^[[a]+$", "[a", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "b", true),
            (r"^[^]a]+$", "]", false),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"^a\/b$", "a/b", true),
            (r"^\S+$", "a b", false),
        ];
        for (pattern, text, expected) in cases {
            let regex = compile(pattern, "").unwrap();
            assert_eq!(regex.is_match(text), expected, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_an_error_that_names_the_place() {
        let error = compile("(", "properties[spec]").unwrap_err();
        assert!(
            error.to_string().contains("properties[spec].pattern"),
            "{error}"
        );
    }
}
