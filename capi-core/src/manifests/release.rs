//! The version that a package is released as.

use std::fmt;
use std::str::FromStr;

use super::{ManifestError, Package};

/// A version as clusterctl takes it for a directory and as a registry takes it for a tag:
/// `v1.2.0`, `v1.2.0-rc.1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    patch: u32,
    /// After the hyphen.
    preview: Option<String>,
}

impl Release {
    /// The program's own.
    pub(crate) fn of(package: &Package) -> Result<Self, ManifestError> {
        package
            .version
            .parse()
            .map_err(|why| ManifestError::Version {
                version: package.version,
                why,
            })
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a version such as v1.2.0 or v1.2.0-rc.1");
        let plain = text.strip_prefix('v').unwrap_or(text);
        let (numbers, preview) = match plain.split_once('-') {
            Some((numbers, preview)) => (numbers, Some(preview)),
            None => (plain, None),
        };
        let is_identifier = |word: &str| {
            let mut letters = word.chars();
            !word.is_empty() && letters.all(|it| it.is_ascii_alphanumeric() || it == '-')
        };
        if !preview.is_none_or(|preview| preview.split('.').all(is_identifier)) {
            return Err(wrong());
        }
        let number = |word: &str| {
            let is_plain = word == "0" || !word.starts_with(['0', '+']);
            word.parse::<u32>().ok().filter(|_| is_plain)
        };
        let numbers: Option<Vec<_>> = numbers.split('.').map(number).collect();
        let Some([major, minor, patch]) = numbers.as_deref() else {
            return Err(wrong());
        };
        Ok(Self {
            major: *major,
            minor: *minor,
            patch: *patch,
            preview: preview.map(str::to_owned),
        })
    }
}

/// With the `v` of tags and directories.
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)?;
        match &self.preview {
            Some(preview) => write!(f, "-{preview}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctl_01_versions_are_those_of_tags() {
        for (given, written) in [
            ("v1.2.3", "v1.2.3"),
            ("1.2.3", "v1.2.3"),
            ("v0.10.0", "v0.10.0"),
            ("v1.2.3-rc.1", "v1.2.3-rc.1"),
            ("1.0.1-acme-4", "v1.0.1-acme-4"),
        ] {
            let read: Release = given.parse().unwrap();
            assert_eq!(read.to_string(), written);
        }
        for wrong in [
            "",
            "v",
            "1",
            "v1.2",
            "v1.2.3.4",
            "v1.02.3",
            "v1.+2.3",
            "1.2.3-",
            "1.2.3-a..b",
            // No registry takes it as a tag.
            "v1.2.3+build",
            "latest",
            "v1.2.x",
            "V1.2.3",
            "1.2.99999999999",
        ] {
            let error = wrong.parse::<Release>().unwrap_err();
            assert!(error.contains("v1.2.0"), "{wrong}: {error}");
        }
    }
}
