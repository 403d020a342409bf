//! Whose a thing is: the mark that it bears.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A random token of 128 bits, unguessable, as 32 hexadecimal digits. Not a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

/// Why a text is not a [`Token`], an [`ObjectName`] or a [`Mark`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MarkError {
    /// Not 32 hexadecimal digits.
    #[error("a token is 32 lower-case hexadecimal digits")]
    Token,
    /// Not of the form `namespace/name`.
    #[error("an object name is namespace/name")]
    ObjectName,
    /// Not of the form that [`Mark`] displays.
    #[error("a mark is {PREFIX}<owner>:<namespace>/<name>:<proof>")]
    Mark,
}

impl Token {
    /// A new random token.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The token that follows from these words, for owners on which none may be written: externally
    /// managed infra clusters (EX-01). Equal words give an equal token, so they must name the owner
    /// uniquely over all management clusters.
    pub fn derived(words: &[&str]) -> Self {
        use sha2::{Digest, Sha256};

        let mut hash = Sha256::new();
        for word in words {
            // With its length, so that words cannot run into each other.
            hash.update(word.len().to_be_bytes());
            hash.update(word.as_bytes());
        }
        let digits = hash.finalize();
        Self(digits.iter().take(16).map(|b| format!("{b:02x}")).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Token {
    type Error = MarkError;

    fn try_from(text: String) -> Result<Self, MarkError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(hex) {
            Ok(Self(text))
        } else {
            Err(MarkError::Token)
        }
    }
}

impl FromStr for Token {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        text.to_owned().try_into()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

/// Namespace and name of the Kubernetes object that a thing belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// Names an object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of an existing namespaced object.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = MarkError;

    fn try_from(text: String) -> Result<Self, MarkError> {
        let (namespace, name) = text.split_once('/').ok_or(MarkError::ObjectName)?;
        if namespace.is_empty() || name.is_empty() || name.contains(['/', ':']) {
            return Err(MarkError::ObjectName);
        }
        Ok(Self::new(namespace, name))
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.to_string()
    }
}

/// What proves that the thing is the one of this claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Proof {
    /// We made it, or will: the token was chosen before and stands on the thing.
    Made {
        /// The claim token.
        token: Token,
    },
    /// It was there before us; proof is the backend's immutable id.
    Adopted {
        /// That id, such as an SMBIOS uuid.
        id: String,
    },
}

/// What a thing bears, so that it is never taken for another's and another's never for ours (R5).
///
/// Names are no identity: two management clusters may hold the same names, so the mark begins with
/// the owner token of the infra cluster, which travels with it in a move.
///
/// `Display` gives one line of ASCII for a description, a label set or a serial number, and
/// `FromStr` reads it back:
///
/// ```
/// use capi_contract::{Mark, ObjectName, Token};
///
/// let mark = Mark::made(Token::random(), ObjectName::new("default", "worker-0"));
/// assert_eq!(mark.to_string().parse::<Mark>(), Ok(mark));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Owner token of the infra cluster.
    pub owner: Token,
    /// The object that the thing stands for.
    pub object: ObjectName,
    /// What proves that it is the one of this claim.
    pub proof: Proof,
}

const PREFIX: &str = "capi:";
const ADOPTED: &str = "adopted=";

impl Mark {
    /// A new mark with a random claim token.
    pub fn made(owner: Token, object: ObjectName) -> Self {
        Self {
            owner,
            object,
            proof: Proof::Made {
                token: Token::random(),
            },
        }
    }

    /// A mark for something that was there before us.
    pub fn adopted(owner: Token, object: ObjectName, id: impl Into<String>) -> Self {
        Self {
            owner,
            object,
            proof: Proof::Adopted { id: id.into() },
        }
    }

    /// The claim token, where we made the thing.
    pub fn token(&self) -> Option<&Token> {
        match &self.proof {
            Proof::Made { token } => Some(token),
            Proof::Adopted { .. } => None,
        }
    }

    /// Whether both marks are of the same object of the same infra cluster, of any claim.
    pub fn same_object(&self, other: &Mark) -> bool {
        self.owner == other.owner && self.object == other.object
    }

    /// Finds the first mark in a longer text, such as a description that people edit.
    pub fn find_in(text: &str) -> Option<Mark> {
        text.split_whitespace().find_map(|word| word.parse().ok())
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}:", self.owner, self.object)?;
        match &self.proof {
            Proof::Made { token } => write!(f, "{token}"),
            Proof::Adopted { id } => write!(f, "{ADOPTED}{id}"),
        }
    }
}

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        let rest = text.strip_prefix(PREFIX).ok_or(MarkError::Mark)?;
        let mut parts = rest.splitn(3, ':');
        let (Some(owner), Some(object), Some(proof)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(MarkError::Mark);
        };
        let proof = match proof.strip_prefix(ADOPTED) {
            Some("") => return Err(MarkError::Mark),
            Some(id) => Proof::Adopted { id: id.to_owned() },
            None => Proof::Made {
                token: proof.parse()?,
            },
        };
        Ok(Self {
            owner: owner.parse()?,
            object: object.to_owned().try_into()?,
            proof,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_mark_is_found_among_what_people_write() {
        let mark = Mark::made(T.parse().unwrap(), ObjectName::new("ns", "m-0"));
        let notes = format!("database host, call Ada first\n{mark}\n-- do not touch");
        assert_eq!(Mark::find_in(&notes), Some(mark));
        assert_eq!(Mark::find_in("capi:nonsense"), None);
    }

    #[test]
    fn texts_that_are_no_marks_are_refused() {
        for text in [
            String::new(),
            "capi:".to_owned(),
            format!("capi:{T}:ns/m:"),
            format!("capi:{T}:m:{T}"),
            format!("capi:{T}:ns/m:adopted="),
            format!("capi:{}:ns/m:{T}", T.to_uppercase()),
            format!("other:{T}:ns/m:{T}"),
        ] {
            assert!(text.parse::<Mark>().is_err(), "{text}");
        }
    }

    #[test]
    fn r5_and_id_05_marks_of_two_management_clusters_differ_though_names_are_alike() {
        let name = ObjectName::new("default", "worker-0");
        let (here, there) = (
            Mark::made(Token::random(), name.clone()),
            Mark::made(Token::random(), name),
        );
        assert!(!here.same_object(&there));
        let again = Mark::made(here.owner.clone(), here.object.clone());
        assert!(here.same_object(&again) && here != again);
    }

    proptest! {
        #[test]
        fn a_mark_reads_back(ns in "[a-z0-9-]{1,20}", name in "[a-z0-9.-]{1,40}", id in "[!-~]{1,40}") {
            let owner = Token::random();
            let object = ObjectName::new(ns, name);
            for mark in [Mark::made(owner.clone(), object.clone()), Mark::adopted(owner, object, id)] {
                prop_assert_eq!(mark.to_string().parse::<Mark>(), Ok(mark.clone()));
                let json = serde_json::to_string(&mark).unwrap();
                prop_assert_eq!(serde_json::from_str::<Mark>(&json).unwrap(), mark);
            }
        }
    }
}
