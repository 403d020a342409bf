//! Rows of the lists that all objects share, and the state of one VM or task.

use serde::Deserialize;

use super::decode::{flag, number, text};
use super::upid::Upid;

/// What a row of `/cluster/resources` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ResourceKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
    /// A host.
    Node,
    /// A storage, as one node sees it.
    Storage,
    /// Anything else.
    #[default]
    Other,
}

impl<'de> Deserialize<'de> for ResourceKind {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(from)?.as_str() {
            "qemu" => Self::Qemu,
            "lxc" => Self::Lxc,
            "node" => Self::Node,
            "storage" => Self::Storage,
            _ => Self::Other,
        })
    }
}

/// One row of `GET /cluster/resources`: a guest, node or storage that the token may see.
///
/// Existence and node of a guest come from the cluster file system and are current; its status is
/// what each host reports about every 10 s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Resource {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    /// The node it is on, or is.
    #[serde(deserialize_with = "text_or_empty")]
    pub node: String,
    /// Id of a guest.
    #[serde(deserialize_with = "number")]
    pub vmid: Option<u32>,
    /// Name of a guest; absent while it is cloned.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// `running`, `stopped`, `online`, `offline`, `available`, `unknown`.
    #[serde(deserialize_with = "text_or_empty")]
    pub status: String,
    /// Whether a guest is a template.
    #[serde(deserialize_with = "flag")]
    pub template: bool,
    /// Tags of a guest, separated by `;`.
    #[serde(deserialize_with = "text")]
    pub tags: Option<String>,
    /// Why a guest's configuration is locked.
    #[serde(deserialize_with = "text")]
    pub lock: Option<String>,
    /// Memory of a guest or node in bytes.
    #[serde(deserialize_with = "number")]
    pub maxmem: Option<u64>,
    /// Virtual processors of a guest, threads of a node. A container may have a part of one.
    #[serde(deserialize_with = "number")]
    pub maxcpu: Option<u64>,
    /// Memory in use in bytes.
    #[serde(deserialize_with = "number")]
    pub mem: Option<u64>,
    /// Name of a storage.
    #[serde(deserialize_with = "text")]
    pub storage: Option<String>,
    /// Content types of a storage, separated by `,`.
    #[serde(deserialize_with = "text")]
    pub content: Option<String>,
    /// Whether all nodes see the same storage.
    #[serde(deserialize_with = "flag")]
    pub shared: bool,
}

fn text_or_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(text(from)?.unwrap_or_default())
}

impl Resource {
    /// Whether a guest's tag of this name is set; tags are compared without regard to case.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags().any(|found| found.eq_ignore_ascii_case(tag))
    }

    /// The tags of a guest.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let tags = self.tags.as_deref().unwrap_or_default();
        tags.split([';', ',', ' ']).filter(|tag| !tag.is_empty())
    }

    /// Whether a storage takes a type of content, such as `iso`.
    pub fn takes(&self, content: &str) -> bool {
        let all = self.content.as_deref().unwrap_or_default();
        all.split(',').any(|one| one.trim() == content)
    }
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    Running,
    /// It is paused or suspended to memory.
    Paused,
    /// It does not run.
    Stopped,
}

/// The answer of `GET .../status/current`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VmStatus {
    /// `running` or `stopped`.
    #[serde(deserialize_with = "text_or_empty")]
    status: String,
    /// What QEMU says, such as `running`, `paused`, `prelaunch`.
    #[serde(deserialize_with = "text")]
    qmpstatus: Option<String>,
    /// Why the configuration is locked.
    #[serde(deserialize_with = "text")]
    pub lock: Option<String>,
}

impl VmStatus {
    /// Whether it runs.
    pub fn power(&self) -> Power {
        match (self.status.as_str(), self.qmpstatus.as_deref()) {
            ("running", Some("paused" | "suspended")) => Power::Paused,
            ("running", _) => Power::Running,
            _ => Power::Stopped,
        }
    }
}

/// How a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It runs.
    Running,
    /// It ended well, possibly with warnings.
    Done,
    /// It ended badly; the text says why.
    Failed(String),
    /// It ended, and nobody knows how: its host crashed.
    Vanished,
}

impl TaskState {
    /// Reads an exit status.
    pub(super) fn ended(exit: &str) -> Self {
        match exit {
            "OK" => Self::Done,
            // A warning, such as a missing guest agent during a snapshot, is no failure.
            _ if exit.starts_with("WARNINGS") => Self::Done,
            "" | "unexpected status" => Self::Vanished,
            text => Self::Failed(text.to_owned()),
        }
    }
}

/// One row of `GET /cluster/tasks`.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct TaskRow {
    /// Which task.
    pub upid: Upid,
    #[serde(default, deserialize_with = "number")]
    endtime: Option<u64>,
    #[serde(default, deserialize_with = "text")]
    status: Option<String>,
}

impl TaskRow {
    /// How it stands.
    pub fn state(&self) -> TaskState {
        match (self.endtime, self.status.as_deref()) {
            (None, None | Some("" | "running" | "RUNNING")) => TaskState::Running,
            (_, status) => TaskState::ended(status.unwrap_or_default()),
        }
    }
}

impl<'de> Deserialize<'de> for Upid {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The answer of `GET .../tasks/{upid}/status`.
#[derive(Debug, Deserialize)]
pub(super) struct TaskStatus {
    #[serde(deserialize_with = "text_or_empty")]
    status: String,
    #[serde(default, deserialize_with = "text")]
    exitstatus: Option<String>,
}

impl TaskStatus {
    pub(super) fn state(&self) -> TaskState {
        match self.status.as_str() {
            "running" => TaskState::Running,
            _ => TaskState::ended(self.exitstatus.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_read_with_numbers_as_text_and_missing_fields() {
        let row: Resource = serde_json::from_value(json!({
            "type": "qemu", "id": "qemu/104", "vmid": "104", "node": "a", "template": 1,
            "maxmem": 2147483648u64, "tags": "Prod;k8s", "status": "stopped", "new": {"x": []},
        }))
        .unwrap();
        assert_eq!(
            (row.kind, row.vmid, row.template),
            (ResourceKind::Qemu, Some(104), true)
        );
        assert!(row.has_tag("prod") && row.has_tag("k8s") && !row.has_tag("k8"));
        let row: Resource = serde_json::from_value(json!({"type": "sdn"})).unwrap();
        assert_eq!(row.kind, ResourceKind::Other);
    }

    #[rstest]
    #[case("OK", TaskState::Done)]
    #[case("WARNINGS: 2", TaskState::Done)]
    #[case("unexpected status", TaskState::Vanished)]
    #[case("", TaskState::Vanished)]
    #[case("storage is full", TaskState::Failed("storage is full".into()))]
    fn warnings_are_no_failure_and_a_lost_task_is_neither(
        #[case] exit: &str,
        #[case] expected: TaskState,
    ) {
        assert_eq!(TaskState::ended(exit), expected);
    }

    #[test]
    fn a_task_without_an_end_runs() {
        let upid = "UPID:a:0000C3AF:0A1B2C3D:6920AA00:qmstart:104:root@pam:";
        let row = |more: serde_json::Value| {
            let mut row = json!({"upid": upid, "node": "a"});
            row.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            serde_json::from_value::<TaskRow>(row).unwrap().state()
        };
        assert_eq!(row(json!({})), TaskState::Running);
        assert_eq!(row(json!({"endtime": 5, "status": "OK"})), TaskState::Done);
        let failed = TaskState::Failed("no".into());
        assert_eq!(row(json!({"endtime": 5, "status": "no"})), failed);
        assert_eq!(row(json!({"endtime": 5})), TaskState::Vanished);
    }

    #[rstest]
    #[case("running", Some("running"), Power::Running)]
    #[case("running", Some("paused"), Power::Paused)]
    #[case("running", None, Power::Running)]
    #[case("stopped", Some("stopped"), Power::Stopped)]
    fn power_is_told(#[case] status: &str, #[case] qmp: Option<&str>, #[case] expected: Power) {
        let status = VmStatus {
            status: status.into(),
            qmpstatus: qmp.map(Into::into),
            lock: None,
        };
        assert_eq!(status.power(), expected);
    }
}
