//! What went wrong, and what the backend meant by it.
//!
//! Proxmox VE answers nearly every domain error with status 500 and a text. Newer releases put the
//! text into the body, all of them into the HTTP reason phrase, which proxies and HTTP/2 lose. So
//! the text is read from `message` of the body, else from the reason phrase, and looked up in one
//! table; only then does the status code count.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use capi_contract::{Class, Classify};

use super::transport::TransportError;

/// The longest text of the backend that is kept; task errors may quote the output of tools.
const TEXT_MAX: usize = 400;

/// When to try again after storage ran out of space: only a person makes room.
const NO_SPACE_RECHECK: Duration = Duration::from_secs(60);

/// Why a call to Proxmox VE failed.
///
/// The messages are shown in conditions: equal causes give equal texts, and there is no secret in
/// them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There was no answer.
    #[error("cannot {attempt}: {fault}")]
    Unanswered {
        /// What was tried, such as `clone template 9000`.
        attempt: Cow<'static, str>,
        /// What the transport says.
        fault: Fault,
    },
    /// The answer was no.
    #[error("cannot {attempt}: {text}{}", refusal.advice())]
    Refused {
        /// What was tried.
        attempt: Cow<'static, str>,
        /// What is meant.
        refusal: Refusal,
        /// What the backend said.
        text: String,
    },
    /// The answer was not understood.
    #[error("cannot {attempt}: the answer is not what the API describes: {detail}")]
    Garbled {
        /// What was tried.
        attempt: Cow<'static, str>,
        /// What the decoder says; never the answer itself.
        detail: String,
    },
}

/// A [`TransportError`] as a value that can be compared and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing reached the server.
    Unsent(String),
    /// The server's certificate is not trusted; nothing reached it.
    Certificate(String),
    /// Whether the request took effect is not known.
    Unknown(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsent(text) | Self::Unknown(text) => f.write_str(text),
            Self::Certificate(text) => write!(
                f,
                "{text}; set root_ca (PEM of the cluster's authority) or fingerprint (SHA-256 of \
                 the certificate) in the credentials Secret"
            ),
        }
    }
}

impl From<TransportError> for Fault {
    fn from(error: TransportError) -> Self {
        let text = error.to_string();
        match error {
            TransportError::Certificate { .. } => Self::Certificate(text),
            _ if error.is_unsent() => Self::Unsent(text),
            _ => Self::Unknown(text),
        }
    }
}

/// What the backend means by a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The VM is not on the node that was asked: moved, not yet there, or gone.
    NoSuchVm,
    /// The VMID is in use.
    VmidTaken,
    /// The VM's configuration is locked by a clone, backup, migration or snapshot.
    Locked,
    /// A lock file was held too long; too much at once.
    LockTimeout,
    /// The cluster has no quorum and is read-only.
    NoQuorum,
    /// The node that owns the path did not answer: whether it acted is not known.
    NodeUnreachable,
    /// There is no node of that name.
    NoSuchNode,
    /// The VM runs, and must not.
    Running,
    /// The VM does not run, and must.
    NotRunning,
    /// The VM takes part in high availability, and purging was not asked for.
    HaManaged,
    /// The VM's protection flag is set.
    Protected,
    /// The disks lie on a storage that the target node does not share.
    LocalStorage,
    /// The storage cannot make linked clones.
    NoLinkedClones,
    /// A disk cannot become smaller.
    Shrinking,
    /// Somebody changed the configuration since it was read.
    DigestConflict,
    /// The guest agent does not answer, or is switched off in the VM's options.
    NoAgent,
    /// There is no such file in the guest.
    NoSuchFile,
    /// The task is not known, or not any more.
    NoSuchTask,
    /// The volume does not exist.
    NoSuchVolume,
    /// The storage does not exist, or not on that node.
    NoSuchStorage,
    /// The snapshot to clone from does not exist.
    NoSuchSnapshot,
    /// A storage is full.
    NoSpace,
    /// A bridge that a network device names does not exist on the node.
    NoSuchBridge,
    /// The token is unknown, wrong or expired.
    Unauthorized,
    /// The token lacks a privilege; the text names path and privilege.
    Forbidden(Option<Missing>),
    /// Parameters were refused, with a text for each.
    Parameters(BTreeMap<String, String>),
    /// None of the above; the number is the status code, 0 for a task.
    Other(u16),
}

/// A privilege that the token lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Path of the access control list.
    pub path: String,
    /// The privilege, or several of which one is enough.
    pub privilege: String,
}

/// Texts of the backend and what they mean, all lower case; the first row that matches counts. A
/// row may ask for two pieces of text.
const MEANINGS: &[(&str, &str, Refusal)] = &[
    (
        "configuration file 'nodes/",
        "does not exist",
        Refusal::NoSuchVm,
    ),
    (
        "unable to find configuration file for vm",
        "",
        Refusal::NoSuchVm,
    ),
    ("config file already exists", "", Refusal::VmidTaken),
    ("unable to create vm", "file exists", Refusal::VmidTaken),
    ("vm ", "already exists", Refusal::VmidTaken),
    ("ct ", "already exists", Refusal::VmidTaken),
    ("can't lock file", "got timeout", Refusal::LockTimeout),
    (
        "cfs-lock",
        "error: got lock request timeout",
        Refusal::LockTimeout,
    ),
    ("vm is locked", "", Refusal::Locked),
    ("ct is locked", "", Refusal::Locked),
    ("no quorum", "", Refusal::NoQuorum),
    ("not running", "qemu guest agent", Refusal::NoAgent),
    ("no qemu guest agent configured", "", Refusal::NoAgent),
    ("guest agent", "got timeout", Refusal::NoAgent),
    ("guest-ping", "got timeout", Refusal::NoAgent),
    (
        "guest-file-open",
        "failed to open file",
        Refusal::NoSuchFile,
    ),
    (
        "no such file or directory",
        "failed to open file",
        Refusal::NoSuchFile,
    ),
    ("is running - destroy failed", "", Refusal::Running),
    ("already running", "", Refusal::Running),
    ("not running", "vm ", Refusal::NotRunning),
    ("used in ha resources", "", Refusal::HaManaged),
    ("protection mode enabled", "", Refusal::Protected),
    ("uses local storage", "", Refusal::LocalStorage),
    (
        "can't clone to non-shared storage",
        "",
        Refusal::LocalStorage,
    ),
    (
        "linked clone feature is not supported",
        "",
        Refusal::NoLinkedClones,
    ),
    (
        "full clone feature is not supported",
        "",
        Refusal::NoLinkedClones,
    ),
    ("shrinking disks is not supported", "", Refusal::Shrinking),
    (
        "checksum mismatch",
        "file change by other user",
        Refusal::DigestConflict,
    ),
    ("no such cluster node", "", Refusal::NoSuchNode),
    ("hostname lookup", "failed", Refusal::NoSuchNode),
    ("no such task", "", Refusal::NoSuchTask),
    ("volume_size_info on", "failed", Refusal::NoSuchVolume),
    ("volume", "does not exist", Refusal::NoSuchVolume),
    ("no such volume", "", Refusal::NoSuchVolume),
    ("storage", "does not exist", Refusal::NoSuchStorage),
    (
        "storage",
        "is not available on node",
        Refusal::NoSuchStorage,
    ),
    ("snapshot", "does not exist", Refusal::NoSuchSnapshot),
    ("no space left on device", "", Refusal::NoSpace),
    ("not enough free space", "", Refusal::NoSpace),
    ("insufficient free space", "", Refusal::NoSpace),
    ("out of space", "", Refusal::NoSpace),
    ("bridge '", "does not exist", Refusal::NoSuchBridge),
];

impl Refusal {
    /// What an answer means. `text` is the message of the body, else the reason phrase; `errors`
    /// are the texts per parameter.
    pub fn of(status: u16, text: &str, errors: &BTreeMap<String, String>) -> Self {
        match status {
            401 => return Self::Unauthorized,
            403 => return Self::Forbidden(Missing::read(text)),
            595..=599 => return Self::NodeUnreachable,
            _ => {}
        }
        if let Some(text) = errors.get("vmid").or_else(|| errors.get("newid")) {
            let meant = Self::meant_by(text);
            if meant == Some(Self::VmidTaken) {
                return Self::VmidTaken;
            }
        }
        if !errors.is_empty() {
            return Self::Parameters(errors.clone());
        }
        Self::meant_by(text).unwrap_or(Self::Other(status))
    }

    /// What the text of a failed task means.
    pub fn of_task(text: &str) -> Self {
        if let Some(missing) = Missing::read(text) {
            return Self::Forbidden(Some(missing));
        }
        Self::meant_by(text).unwrap_or(Self::Other(0))
    }

    fn meant_by(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        MEANINGS
            .iter()
            .find(|(one, other, _)| text.contains(one) && text.contains(other))
            .map(|(_, _, meaning)| meaning.clone())
    }

    /// What to change, where a person must.
    fn advice(&self) -> Cow<'static, str> {
        match self {
            Self::Unauthorized => {
                "; check token (user@realm!name) and secret in the credentials Secret, and that \
                 the token has not expired"
                    .into()
            }
            Self::Forbidden(Some(Missing { path, privilege })) => {
                format!("; grant {privilege} on {path} to the API token, and to its user").into()
            }
            Self::Forbidden(None) => "; grant the API token, and its user, the privilege".into(),
            Self::Parameters(errors) => {
                let all: Vec<_> = errors
                    .iter()
                    .map(|(name, text)| format!("{name}: {}", tidy(text)))
                    .collect();
                format!(" {}", all.join("; ")).into()
            }
            Self::LocalStorage => {
                "; list only the template's node in allowedNodes, or move the template to a \
                 storage that all allowed nodes share"
                    .into()
            }
            Self::NoLinkedClones => "; set full to true, or use another storage".into(),
            Self::NoSpace => "; make room on the storage, or name another one in storage".into(),
            _ => "".into(),
        }
    }

    /// What the engine should do about it, if nothing else is known about the attempt.
    fn class(&self) -> Class {
        match self {
            Self::Unauthorized | Self::Forbidden(_) => Class::Credentials,
            Self::VmidTaken => Class::Elsewhere,
            Self::NoSuchVm
            | Self::DigestConflict
            | Self::Protected
            | Self::Running
            | Self::NoSuchVolume => Class::Conflict,
            Self::NoSpace => Class::RetryAfter(NO_SPACE_RECHECK),
            Self::LocalStorage
            | Self::NoLinkedClones
            | Self::Shrinking
            | Self::NoSuchNode
            | Self::NoSuchStorage
            | Self::NoSuchSnapshot
            | Self::NoSuchBridge
            | Self::Parameters(_) => Class::Misconfigured,
            Self::Locked
            | Self::LockTimeout
            | Self::NoQuorum
            | Self::NodeUnreachable
            | Self::NotRunning
            | Self::HaManaged
            | Self::NoAgent
            | Self::NoSuchFile
            | Self::NoSuchTask
            | Self::Other(_) => Class::Transient,
        }
    }
}

impl Missing {
    /// Reads `Permission check failed (<path>, <privilege>[|<privilege>])`.
    fn read(text: &str) -> Option<Self> {
        let lower = text.to_lowercase();
        let at = lower.find("permission check failed")?;
        let (_, inside) = text.get(at..)?.split_once('(')?;
        let (path, privilege) = inside.split_once(')')?.0.split_once(',')?;
        Some(Self {
            path: path.trim().to_owned(),
            privilege: privilege.trim().replace('|', " or "),
        })
    }
}

impl Error {
    pub(super) fn refused(
        attempt: Cow<'static, str>,
        status: u16,
        text: &str,
        errors: &BTreeMap<String, String>,
    ) -> Self {
        Self::Refused {
            attempt,
            refusal: Refusal::of(status, text, errors),
            text: tidy(text),
        }
    }

    /// The failure of a task, from its exit status.
    pub fn of_task(attempt: impl Into<Cow<'static, str>>, exit: &str) -> Self {
        Self::Refused {
            attempt: attempt.into(),
            refusal: Refusal::of_task(exit),
            text: tidy(exit),
        }
    }

    /// What the backend meant, where it answered.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            Self::Unanswered { .. } | Self::Garbled { .. } => None,
        }
    }

    /// Whether the request may have taken effect although it failed.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Unanswered { fault, .. } => matches!(fault, Fault::Unknown(_)),
            Self::Refused { refusal, .. } => *refusal == Refusal::NodeUnreachable,
            Self::Garbled { .. } => true,
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Unanswered {
                fault: Fault::Certificate(_),
                ..
            } => Class::Credentials,
            Self::Unanswered { .. } | Self::Garbled { .. } => Class::Transient,
            Self::Refused { refusal, .. } => refusal.class(),
        }
    }
}

/// One line of bounded length.
fn tidy(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(TEXT_MAX) {
        line.truncate(end);
        line.push_str("...");
    }
    line.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "Configuration file 'nodes/a/qemu-server/104.conf' does not exist",
        Refusal::NoSuchVm
    )]
    #[case(
        "unable to create VM 104: config file already exists",
        Refusal::VmidTaken
    )]
    #[case("unable to create VM 104 - open file: File exists", Refusal::VmidTaken)]
    #[case("VM 104 already exists", Refusal::VmidTaken)]
    #[case("VM is locked (clone)", Refusal::Locked)]
    #[case("VM is locked (backup)", Refusal::Locked)]
    #[case(
        "can't lock file '/var/lock/qemu-server/lock-104.conf' - got timeout",
        Refusal::LockTimeout
    )]
    #[case(
        "clone failed: can't lock file '/run/pve-storage-fast' - got timeout",
        Refusal::LockTimeout
    )]
    #[case("cluster not ready - no quorum?", Refusal::NoQuorum)]
    #[case("VM 104 is running - destroy failed", Refusal::Running)]
    #[case("VM 104 already running", Refusal::Running)]
    #[case(
        "unable to remove VM 104 - used in HA resources and purge parameter not set.",
        Refusal::HaManaged
    )]
    #[case("can't remove VM 104 - protection mode enabled", Refusal::Protected)]
    #[case(
        "can't clone VM to node 'b' (VM uses local storage)",
        Refusal::LocalStorage
    )]
    #[case("can't clone to non-shared storage 'local-lvm'", Refusal::LocalStorage)]
    #[case(
        "Linked clone feature is not supported for 'fast:vm-1-disk-0'",
        Refusal::NoLinkedClones
    )]
    #[case("shrinking disks is not supported", Refusal::Shrinking)]
    #[case(
        "checksum mismatch (file change by other user?)",
        Refusal::DigestConflict
    )]
    #[case("QEMU guest agent is not running", Refusal::NoAgent)]
    #[case("No QEMU guest agent configured", Refusal::NoAgent)]
    #[case("VM 104 not running", Refusal::NotRunning)]
    #[case("VM 104 is not running", Refusal::NotRunning)]
    #[case("no such cluster node 'x'", Refusal::NoSuchNode)]
    #[case(
        "hostname lookup 'x' failed - failed to get address info",
        Refusal::NoSuchNode
    )]
    #[case("no such task", Refusal::NoSuchTask)]
    #[case("volume_size_info on 'local:iso/a.iso' failed", Refusal::NoSuchVolume)]
    #[case("volume 'local:iso/a.iso' does not exist", Refusal::NoSuchVolume)]
    #[case("storage 'fast' does not exist", Refusal::NoSuchStorage)]
    #[case("storage 'fast' is not available on node 'a'", Refusal::NoSuchStorage)]
    #[case("snapshot 'base' does not exist", Refusal::NoSuchSnapshot)]
    #[case(
        "clone failed: unable to write: No space left on device",
        Refusal::NoSpace
    )]
    #[case("bridge 'vmbr9' does not exist", Refusal::NoSuchBridge)]
    #[case("something else", Refusal::Other(500))]
    fn a_text_says_what_is_meant(#[case] text: &str, #[case] expected: Refusal) {
        assert_eq!(Refusal::of(500, text, &BTreeMap::new()), expected);
        let of_task = Refusal::of_task(text);
        let other = matches!(expected, Refusal::Other(_));
        assert_eq!(of_task, if other { Refusal::Other(0) } else { expected });
    }

    #[rstest]
    #[case(401, Refusal::Unauthorized)]
    #[case(595, Refusal::NodeUnreachable)]
    #[case(596, Refusal::NodeUnreachable)]
    #[case(597, Refusal::NodeUnreachable)]
    #[case(599, Refusal::NodeUnreachable)]
    #[case(501, Refusal::Other(501))]
    fn a_status_says_what_is_meant(#[case] status: u16, #[case] expected: Refusal) {
        assert_eq!(Refusal::of(status, "", &BTreeMap::new()), expected);
    }

    #[test]
    fn a_missing_privilege_is_named_with_its_path() {
        let text = "Permission check failed (/vms/104, VM.Clone|VM.Allocate)";
        let error = Error::refused("clone".into(), 403, text, &BTreeMap::new());
        assert_eq!(error.class(), Class::Credentials);
        let message = error.to_string();
        assert!(
            message.contains("grant VM.Clone or VM.Allocate on /vms/104"),
            "{message}"
        );
    }

    #[test]
    fn refused_parameters_are_named() {
        let errors = BTreeMap::from([("net0".to_owned(), "invalid format\n".to_owned())]);
        let text = "Parameter verification failed.\n";
        let error = Error::refused("configure VM 104".into(), 400, text, &errors);
        assert_eq!(error.class(), Class::Misconfigured);
        assert_eq!(
            error.to_string(),
            "cannot configure VM 104: Parameter verification failed net0: invalid format"
        );
    }

    #[test]
    fn a_taken_vmid_is_told_from_other_parameters() {
        let errors = BTreeMap::from([("vmid".to_owned(), "VM 104 already exists".to_owned())]);
        let text = "Parameter verification failed.";
        assert_eq!(Refusal::of(400, text, &errors), Refusal::VmidTaken);
    }

    #[rstest]
    #[case(
        TransportError::TimedOut(Duration::from_secs(1)),
        true,
        Class::Transient
    )]
    #[case(TransportError::Broken, true, Class::Transient)]
    #[case(TransportError::Connect { host: "h".into(), reason: "r".into() }, false, Class::Transient)]
    #[case(TransportError::Certificate { host: "h".into(), reason: "r".into() }, false, Class::Credentials)]
    fn silence_leaves_the_outcome_open_unless_nothing_was_sent(
        #[case] fault: TransportError,
        #[case] unknown: bool,
        #[case] class: Class,
    ) {
        let error = Error::Unanswered {
            attempt: "start".into(),
            fault: fault.into(),
        };
        assert_eq!(
            (error.is_outcome_unknown(), error.class()),
            (unknown, class)
        );
    }

    #[rstest]
    #[case(Refusal::VmidTaken, Class::Elsewhere)]
    #[case(Refusal::NodeUnreachable, Class::Transient)]
    #[case(Refusal::Locked, Class::Transient)]
    #[case(Refusal::NoQuorum, Class::Transient)]
    #[case(Refusal::DigestConflict, Class::Conflict)]
    #[case(Refusal::NoSpace, Class::RetryAfter(NO_SPACE_RECHECK))]
    #[case(Refusal::LocalStorage, Class::Misconfigured)]
    fn each_meaning_has_a_class(#[case] refusal: Refusal, #[case] class: Class) {
        assert_eq!(refusal.class(), class);
    }

    #[test]
    fn long_texts_are_cut_and_joined_to_one_line() {
        let error = Error::of_task("clone", &"many\nwords ".repeat(200));
        let text = error.to_string();
        assert!(text.len() < TEXT_MAX + 40 && !text.contains('\n'), "{text}");
    }
}
