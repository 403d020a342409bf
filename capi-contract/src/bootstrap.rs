//! Bootstrap data: what a machine runs at first boot (IM-13).

use std::fmt;

/// The format of bootstrap data, from the key `format` of its Secret; absent means cloud-config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// cloud-init user data.
    #[default]
    CloudConfig,
    /// An Ignition configuration.
    Ignition,
}

impl Format {
    /// Reads the value of the key `format`; `None` for a format that the contract does not name.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "" | "cloud-config" => Some(Self::CloudConfig),
            "ignition" => Some(Self::Ignition),
            _ => None,
        }
    }
}

/// Bootstrap data. `Debug` shows neither contents nor length, since it holds join tokens and keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// How to read the bytes.
    pub format: Format,
    bytes: Vec<u8>,
}

impl Bootstrap {
    /// Wraps the value of a bootstrap Secret.
    pub fn new(format: Format, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            format,
            bytes: bytes.into(),
        }
    }

    /// The bytes, to be handed on unchanged and never shown.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// What the engine hands to [`External::apply`](crate::External::apply).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Supply<'a> {
    /// The bootstrap data; always there for a step that
    /// [wants it](crate::Step::wants_bootstrap).
    pub bootstrap: Option<&'a Bootstrap>,
}

impl<'a> Supply<'a> {
    /// A supply with bootstrap data.
    pub fn with_bootstrap(bootstrap: &'a Bootstrap) -> Self {
        Self {
            bootstrap: Some(bootstrap),
        }
    }
}
