//! How long operations stand.
//!
//! Tasks are read from one list per endpoint and 5 s. Between two lists a task is asked after
//! once, when tasks of its kind usually end: by reading what the next look needs anyway.

use std::fmt;
use std::str::FromStr;

use capi_contract::{Operation, Progress};

use super::error::MachineError;
use crate::pve::{Error, Power, Refusal, TaskState, Upid, UpidError};
use crate::session::{Glance, Listed, Session};

/// A task that is waited for, and the VM that it changes: a clone's task id names the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    pub upid: Upid,
    pub vmid: u32,
    pub node: String,
    /// Digest of the configuration that the task is to change.
    pub digest: Option<String>,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.upid, self.node, self.vmid)?;
        match &self.digest {
            Some(digest) => write!(f, " {digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Awaited {
    type Err = UpidError;

    fn from_str(text: &str) -> Result<Self, UpidError> {
        let mut words = text.split(' ');
        let (Some(upid), Some(node), Some(vmid)) = (words.next(), words.next(), words.next())
        else {
            return Err(UpidError);
        };
        let vmid = vmid.parse().map_err(|_| UpidError)?;
        let digest = words.next().map(str::to_owned);
        Ok(Self {
            upid: upid.parse()?,
            vmid,
            node: node.to_owned(),
            digest,
        })
    }
}

/// How the task of an operation stands.
pub(super) async fn poll(
    on: &Session,
    operation: &Operation,
) -> Result<Progress<MachineError>, MachineError> {
    // An operation of another version: the world tells.
    let Ok(awaited) = operation.0.parse::<Awaited>() else {
        return Ok(Progress::Forgotten);
    };
    let upid = &awaited.upid;
    let state = if on.is_probe_due(upid) {
        probe(on, &awaited).await?
    } else {
        listed(on, upid).await?
    };
    Ok(match state {
        // The list is older than the task, which says nothing about it.
        None => Progress::Running,
        Some(TaskState::Running) => {
            on.note_running(upid);
            Progress::Running
        }
        Some(TaskState::Vanished) => Progress::Forgotten,
        Some(TaskState::Done) => {
            on.note_ended(upid);
            on.note_uploaded(upid);
            Progress::Finished
        }
        Some(TaskState::Failed(text)) => {
            on.note_ended(upid);
            Progress::Failed(failure(&awaited, &text))
        }
    })
}

/// What the shared list says. It holds a few dozen tasks per node: one that should be in it and is
/// not has to be asked after by itself.
async fn listed(on: &Session, upid: &Upid) -> Result<Option<TaskState>, MachineError> {
    match on.listed_task(upid).await? {
        Listed::As(state) => Ok(Some(state)),
        Listed::NotYet => Ok(None),
        Listed::Missing => Ok(Some(
            on.client().task(upid).await?.unwrap_or(TaskState::Vanished),
        )),
    }
}

fn failure(awaited: &Awaited, text: &str) -> MachineError {
    let Awaited {
        upid, vmid, node, ..
    } = awaited;
    match upid.kind() {
        "qmclone" => MachineError::Clone(Error::of_task(
            format!("clone to VM {vmid} on {node}"),
            text,
        )),
        kind => {
            let what = doing(kind);
            MachineError::Pve(Error::of_task(format!("{what} VM {vmid} on {node}"), text))
        }
    }
}

/// What a task does, in words.
fn doing(kind: &str) -> &str {
    match kind {
        "qmconfig" => "configure",
        "qmstart" | "hastart" => "start",
        "qmresume" => "resume",
        "qmstop" | "hastop" => "stop",
        "qmdestroy" => "destroy",
        "resize" => "resize the disk of",
        "imgcopy" => "store the seed of",
        "imgdel" => "remove the seed of",
        other => other,
    }
}

/// Asks after one task. Where the VM itself shows that the task is over, it is read instead, and
/// kept for the look that follows; that a task failed is for the list of tasks to say.
async fn probe(on: &Session, awaited: &Awaited) -> Result<Option<TaskState>, MachineError> {
    let Awaited {
        upid, vmid, node, ..
    } = awaited;
    let client = on.client();
    let done = match upid.kind() {
        "qmclone" | "resize" | "qmconfig" => match client.config(node, *vmid).await {
            Ok(config) => {
                let changed = config.digest() != awaited.digest.as_deref();
                let done = changed && config.lock().is_none();
                if done {
                    on.put_glance(*vmid, Glance::Config(config));
                }
                done
            }
            // A clone comes to its node at its end.
            Err(error) if error.refusal() == Some(&Refusal::NoSuchVm) => false,
            Err(error) => return Err(error.into()),
        },
        "qmstart" | "qmresume" => power(on, awaited).await? == Power::Running,
        "qmstop" => power(on, awaited).await? == Power::Stopped,
        "qmdestroy" => {
            let gone = client.is_free(*vmid).await?;
            if gone {
                on.put_glance(*vmid, Glance::Gone);
            }
            gone
        }
        _ => {
            return Ok(Some(
                client.task(upid).await?.unwrap_or(TaskState::Vanished),
            ));
        }
    };
    Ok(Some(if done {
        TaskState::Done
    } else {
        TaskState::Running
    }))
}

async fn power(on: &Session, awaited: &Awaited) -> Result<Power, MachineError> {
    let power = on
        .client()
        .status(&awaited.node, awaited.vmid)
        .await?
        .power();
    on.note_power(awaited.vmid, power);
    Ok(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_reads_back() {
        let text = "UPID:a:0000C3AF:0A1B2C3D:6920AA00:qmclone:9000:u@pve!t: b 104";
        let awaited: Awaited = text.parse().unwrap();
        assert_eq!(
            (awaited.upid.node(), awaited.node.as_str(), awaited.vmid),
            ("a", "b", 104)
        );
        assert_eq!(awaited.to_string(), text);
        let guarded = format!("{text} d1");
        let awaited: Awaited = guarded.parse().unwrap();
        assert_eq!(
            (awaited.digest.as_deref(), awaited.to_string()),
            (Some("d1"), guarded)
        );
        assert_eq!("something else".parse::<Awaited>(), Err(UpidError));
    }

    #[test]
    fn a_failed_clone_says_what_was_tried_and_why() {
        let text = "UPID:a:0000C3AF:0A1B2C3D:6920AA00:qmclone:9000:u@pve!t: b 104";
        let error = failure(
            &text.parse().unwrap(),
            "clone failed: no space left on device",
        );
        assert!(
            error
                .to_string()
                .starts_with("cannot clone to VM 104 on b: clone failed"),
            "{error}"
        );
    }
}
