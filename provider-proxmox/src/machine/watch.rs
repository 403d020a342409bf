//! How long operations stand.
//!
//! Tasks are read from one list per endpoint and 5 s. Between two lists a task is asked after
//! once, when tasks of its kind usually end: by reading what the next look needs anyway.

use std::fmt;
use std::str::FromStr;

use capi_contract::{Operation, Progress};

use super::error::MachineError;
use crate::pve::{Error, Power, Refusal, TaskState, Upid, UpidError};
use crate::session::{Glance, Session};

/// A task that is waited for, and the VM that it changes: a clone's task id names the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    pub upid: Upid,
    pub vmid: u32,
    pub node: String,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.upid, self.node, self.vmid)
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
        Ok(Self {
            upid: upid.parse()?,
            vmid,
            node: node.to_owned(),
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
    let state = if on.is_probe_due(&awaited.upid) {
        probe(on, &awaited).await?
    } else {
        on.listed_task(&awaited.upid).await?
    };
    let upid = &awaited.upid;
    Ok(match state {
        None | Some(TaskState::Running) => Progress::Running,
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

fn failure(awaited: &Awaited, text: &str) -> MachineError {
    let Awaited { upid, vmid, node } = awaited;
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
/// kept for the look that follows.
async fn probe(on: &Session, awaited: &Awaited) -> Result<Option<TaskState>, MachineError> {
    let Awaited { upid, vmid, node } = awaited;
    let client = on.client();
    match upid.kind() {
        "qmclone" => match client.config(node, *vmid).await {
            Ok(config) if config.lock().is_none() => {
                on.put_glance(*vmid, Glance::Config(config));
                Ok(Some(TaskState::Done))
            }
            Ok(_) => Ok(Some(TaskState::Running)),
            Err(error) if error.refusal() == Some(&Refusal::NoSuchVm) => task(on, upid).await,
            Err(error) => Err(error.into()),
        },
        "qmstart" | "qmresume" => {
            let power = client.status(node, *vmid).await?.power();
            seen_switched(on, awaited, power, power == Power::Running).await
        }
        "qmstop" => {
            let power = client.status(node, *vmid).await?.power();
            seen_switched(on, awaited, power, power == Power::Stopped).await
        }
        "qmdestroy" => match client.config(node, *vmid).await {
            Ok(_) => task(on, upid).await,
            Err(error) if error.refusal() == Some(&Refusal::NoSuchVm) => {
                on.put_glance(*vmid, Glance::Gone);
                Ok(Some(TaskState::Done))
            }
            Err(error) => Err(error.into()),
        },
        _ => task(on, upid).await,
    }
}

async fn seen_switched(
    on: &Session,
    awaited: &Awaited,
    power: Power,
    done: bool,
) -> Result<Option<TaskState>, MachineError> {
    if done {
        on.put_glance(awaited.vmid, Glance::Power(power));
        return Ok(Some(TaskState::Done));
    }
    task(on, &awaited.upid).await
}

/// The task's own word; one that is not known any more has ended, nobody knows how.
async fn task(on: &Session, upid: &Upid) -> Result<Option<TaskState>, MachineError> {
    Ok(Some(
        on.client().task(upid).await?.unwrap_or(TaskState::Vanished),
    ))
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
