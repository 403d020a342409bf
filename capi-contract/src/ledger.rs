//! The ledger: what must survive a crash, in one annotation.
//!
//! # Why an annotation
//!
//! `clusterctl move` and backup tools keep annotations and drop status; a move changes uids. So the
//! claim, the identity and the open intent are in an annotation, and nothing is in memory or status
//! only (R1, R2, R12).
//!
//! # Assumptions
//!
//! Users can edit it. A ledger whose claim names another object is ignored, since templates and
//! people copy annotations; a missing one is rebuilt by [`External::recover`](crate::External::recover).
//!
//! # Caveats
//!
//! It holds step names, never step contents, since those may be secret.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connect::Identity;
use crate::external::Claim;
use crate::mark::{ObjectName, Token};
use crate::operation::Operation;

/// The annotation that holds the ledger.
pub const LEDGER_ANNOTATION: &str = "capi-rs.dev/ledger";
/// The annotation on an InfraCluster that holds its owner token.
pub const OWNER_ANNOTATION: &str = "capi-rs.dev/owner";

/// The annotation by which a person gives up what was made for an object that is being deleted, where
/// the backend is gone for good. The value is the object's own name, and, after a colon, why: an
/// annotation that came from a template names no object. Once the backend could not be looked at for a
/// minute, the finalizer is released, and what may be left is named in a warning. A backend that
/// answers is cleaned up as ever.
pub const ABANDON_ANNOTATION: &str = "capi-rs.dev/abandon";

/// Format of the ledger, raised when an older engine could not read it.
pub const LEDGER_VERSION: u32 = 1;

/// A step that may be under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Name of the step.
    pub step: String,
    /// Since when, in whole seconds since 1970 (UTC). Only ever compared with
    /// [`settle_seconds`](Self::settle_seconds) and shown.
    pub since: i64,
    /// For a step that creates: how long an unanswered create may still take effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_seconds: Option<u64>,
    /// Token of the running operation, where the backend gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// The ledger of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound = "C: Serialize + DeserializeOwned")]
pub struct Ledger<C> {
    /// [`LEDGER_VERSION`].
    pub version: u32,
    /// What will exist, or exists.
    pub claim: C,
    /// The credentials it was made with; absent for the process's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Whether the thing was once observed as ours: from then on it is never made again (R9).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
    /// The step that may be under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
}

/// Why an annotation is no ledger of the object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// Not JSON, or not this claim type.
    #[error("annotation {LEDGER_ANNOTATION} could not be read; remove it and it is rebuilt")]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer engine.
    #[error(
        "annotation {LEDGER_ANNOTATION} has version {found}, this program knows {LEDGER_VERSION}"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
    /// A copy of another object's ledger.
    #[error("annotation {LEDGER_ANNOTATION} belongs to {found}")]
    OfAnother {
        /// The object that it names.
        found: ObjectName,
    },
}

#[derive(Deserialize)]
struct Versioned {
    #[serde(default)]
    version: u32,
}

impl<C: Claim> Ledger<C> {
    /// A ledger with a new claim.
    pub fn new(claim: C, identity: Option<Identity>) -> Self {
        Self {
            version: LEDGER_VERSION,
            claim,
            identity,
            proven: false,
            intent: None,
        }
    }

    /// Reads the annotation of an object.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if the text is no ledger of this object. The caller must not treat that as an
    /// absent ledger without asking [`External::recover`](crate::External::recover).
    pub fn parse(text: &str, of: &ObjectName) -> Result<Self, LedgerError> {
        let versioned: Versioned = serde_json::from_str(text).map_err(LedgerError::Malformed)?;
        if versioned.version > LEDGER_VERSION {
            return Err(LedgerError::Newer {
                found: versioned.version,
            });
        }
        let ledger: Self = serde_json::from_str(text).map_err(LedgerError::Malformed)?;
        let found = &ledger.claim.mark().object;
        if found != of {
            return Err(LedgerError::OfAnother {
                found: found.clone(),
            });
        }
        Ok(ledger)
    }

    /// The text of the annotation.
    ///
    /// # Errors
    ///
    /// A claim whose `Serialize` fails.
    pub fn render(&self) -> Result<String, LedgerError> {
        serde_json::to_string(self).map_err(LedgerError::Malformed)
    }
}

/// The owner token on an InfraCluster, if it is there and well formed.
pub fn owner_of<K: kube::Resource>(cluster: &K) -> Option<Token> {
    cluster
        .meta()
        .annotations
        .as_ref()?
        .get(OWNER_ANNOTATION)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::Mark;

    fn name() -> ObjectName {
        ObjectName::new("ns", "m")
    }

    fn ledger() -> Ledger<Mark> {
        let mut ledger = Ledger::new(Mark::made(Token::random(), name()), None);
        ledger.identity = Some(Identity::secret("ns", "credentials"));
        ledger.intent = Some(Intent {
            step: "Clone".to_owned(),
            since: 1_700_000_000,
            settle_seconds: Some(60),
            operation: Some(Operation("UPID:x".to_owned())),
        });
        ledger
    }

    #[test]
    fn it_reads_back() {
        let text = ledger();
        let parsed = Ledger::parse(&text.render().unwrap(), &name()).unwrap();
        assert_eq!(parsed, text);
    }

    #[test]
    fn a_copy_of_another_objects_ledger_is_refused() {
        let text = ledger().render().unwrap();
        let error = Ledger::<Mark>::parse(&text, &ObjectName::new("ns", "other")).unwrap_err();
        assert!(matches!(error, LedgerError::OfAnother { found } if found == name()));
    }

    #[test]
    fn a_newer_ledger_is_not_taken_for_a_broken_one() {
        let text = r#"{"version": 2, "claim": {"shape": "unknown to us"}}"#;
        let error = Ledger::<Mark>::parse(text, &name()).unwrap_err();
        assert!(matches!(error, LedgerError::Newer { found: 2 }));
    }

    #[test]
    fn nonsense_is_malformed() {
        for text in ["", "{}", "null", r#"{"version": 1}"#] {
            let error = Ledger::<Mark>::parse(text, &name()).unwrap_err();
            assert!(matches!(error, LedgerError::Malformed(_)), "{text}");
        }
    }
}
