//! Task ids.

use std::fmt;
use std::str::FromStr;

/// Names a task: `UPID:<node>:<pid>:<pstart>:<starttime>:<type>:<id>:<user>:`.
///
/// The status is asked on the node that the id names, which need not be the node that the call was
/// about: an upload runs where the request arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upid {
    text: String,
    node: (usize, usize),
    kind: (usize, usize),
}

/// The text is not a task id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a task id")]
pub struct UpidError;

impl Upid {
    /// The node that the task runs on.
    pub fn node(&self) -> &str {
        &self.text[self.node.0..self.node.1]
    }

    /// What the task does, such as `qmclone`.
    pub fn kind(&self) -> &str {
        &self.text[self.kind.0..self.kind.1]
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Upid {
    type Err = UpidError;

    fn from_str(text: &str) -> Result<Self, UpidError> {
        // The user may hold any character but a colon; the id may be empty.
        let parts: Vec<&str> = text.split(':').collect();
        let [head, node, _pid, _pstart, _start, kind, _id, user, ""] = parts.as_slice() else {
            return Err(UpidError);
        };
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        if *head != "UPID" || node.is_empty() || kind.is_empty() || user.is_empty() || !printable {
            return Err(UpidError);
        }
        let node_at = "UPID:".len();
        let kind_at = parts[..5].iter().map(|part| part.len() + 1).sum();
        let (node, kind) = (node.len(), kind.len());
        Ok(Self {
            text: text.to_owned(),
            node: (node_at, node_at + node),
            kind: (kind_at, kind_at + kind),
        })
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        let text = "UPID:pve-2:0000C3AF:0A1B2C3D:6920AA00:qmclone:9000:capi@pve!ci:";
        let upid: Upid = text.parse().unwrap();
        assert_eq!(
            (upid.node(), upid.kind(), upid.as_str()),
            ("pve-2", "qmclone", text)
        );
        let upload = "UPID:pve:0000C3AF:0A1B2C3D1:6920AA00:imgcopy::root@pam:";
        assert_eq!(upload.parse::<Upid>().unwrap().kind(), "imgcopy");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "UPID:",
            "UPID:a:b:c:d:e:f:g",
            "UPID::1:2:3:t:i:u:",
            "X:a:1:2:3:t:i:u:",
        ] {
            assert_eq!(text.parse::<Upid>(), Err(UpidError), "{text}");
        }
    }
}
