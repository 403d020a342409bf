//! Tasks: what runs behind a UPID.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use tokio::time::Instant;

use crate::fault::TaskFault;
use crate::world::work::Work;

/// How many tasks of a node `/cluster/tasks` shows: each node publishes all that run, and fills up
/// to 25 with those that ended. With 25 running, one that ends is not seen there at all.
const RECENT_MAX: usize = 25;

/// How many tasks are kept in all. The real log index is rotated at about a thousand entries and
/// logs are removed later; after that a UPID is answered with 400 `no such task`.
const ARCHIVE_MAX: usize = 20_000;

/// Lines of one task's log.
const LOG_MAX: usize = 200;

/// A unique process id: who runs what, where, since when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Upid {
    pub(crate) node: String,
    pub(crate) pid: u32,
    pub(crate) pstart: u32,
    pub(crate) starttime: u64,
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) user: String,
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            pid,
            pstart,
            starttime,
            kind,
            id,
            user,
        } = self;
        write!(
            f,
            "UPID:{node}:{pid:08X}:{pstart:08X}:{starttime:08X}:{kind}:{id}:{user}:"
        )
    }
}

impl Upid {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.strip_prefix("UPID:")?.split(':').collect();
        let [node, pid, pstart, starttime, kind, id, user, ""] = parts.as_slice() else {
            return None;
        };
        Some(Self {
            node: (*node).to_owned(),
            pid: u32::from_str_radix(pid, 16).ok()?,
            pstart: u32::from_str_radix(pstart, 16).ok()?,
            starttime: u64::from_str_radix(starttime, 16).ok()?,
            kind: (*kind).to_owned(),
            id: (*id).to_owned(),
            user: (*user).to_owned(),
        })
    }
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for a lock file until then.
    Waiting { until: Instant },
    /// Its work has begun and ends then.
    Running { ends: Instant },
    /// It ended, with this exit status.
    Stopped {
        at: Instant,
        endtime: u64,
        exit: String,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) upid: Upid,
    pub(crate) state: State,
    pub(crate) work: Work,
    pub(crate) fault: Option<TaskFault>,
    pub(crate) log: Vec<String>,
}

impl Task {
    pub(crate) fn exit(&self) -> Option<&str> {
        match &self.state {
            State::Stopped { exit, .. } => Some(exit),
            State::Waiting { .. } | State::Running { .. } => None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.exit().is_none()
    }

    pub(crate) fn note(&mut self, line: impl Into<String>) {
        if self.log.len() < LOG_MAX {
            self.log.push(line.into());
        }
    }
}

/// Whether an exit status means that the work was done.
pub(crate) fn is_success(exit: &str) -> bool {
    exit == "OK" || exit.starts_with("WARNINGS: ")
}

/// All tasks, running and ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    by_upid: BTreeMap<String, Task>,
    /// UPIDs in the order in which they started.
    order: VecDeque<String>,
}

impl Tasks {
    pub(crate) fn insert(&mut self, task: Task) -> String {
        let upid = task.upid.to_string();
        self.by_upid.insert(upid.clone(), task);
        self.order.push_back(upid.clone());
        self.rotate();
        upid
    }

    /// Drops the oldest ended tasks, once there are too many.
    fn rotate(&mut self) {
        let mut kept = Vec::new();
        while self.order.len() > ARCHIVE_MAX {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if self.by_upid.get(&oldest).is_some_and(Task::is_running) {
                kept.push(oldest);
            } else {
                self.by_upid.remove(&oldest);
            }
        }
        for upid in kept.into_iter().rev() {
            self.order.push_front(upid);
        }
    }

    /// Drops the logs of all ended tasks.
    pub(crate) fn forget_ended(&mut self) {
        self.by_upid.retain(|_, task| task.is_running());
        let by_upid = &self.by_upid;
        self.order.retain(|upid| by_upid.contains_key(upid));
    }

    pub(crate) fn get(&self, upid: &str) -> Option<&Task> {
        self.by_upid.get(upid)
    }

    pub(crate) fn get_mut(&mut self, upid: &str) -> Option<&mut Task> {
        self.by_upid.get_mut(upid)
    }

    /// Newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Task> {
        self.order
            .iter()
            .rev()
            .filter_map(|upid| self.by_upid.get(upid))
    }

    /// What `/cluster/tasks` shows: of each node the running ones, and of those that started
    /// last as many ended ones as there is room beside them.
    pub(crate) fn recent(&self) -> Vec<&Task> {
        let mut room: BTreeMap<&str, usize> = BTreeMap::new();
        for task in self.newest().filter(|task| task.is_running()) {
            let room = room.entry(&task.upid.node).or_insert(RECENT_MAX);
            *room = room.saturating_sub(1);
        }
        let mut shown = Vec::new();
        for task in self.newest() {
            if task.is_running() {
                shown.push(task);
                continue;
            }
            let room = room.entry(&task.upid.node).or_insert(RECENT_MAX);
            if *room > 0 {
                *room -= 1;
                shown.push(task);
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upids_are_printed_and_read_back() {
        let text = "UPID:pve1:0000ABCD:0000EF01:69553B00:qmclone:9000:capi@pve!provider:";
        let upid = Upid::parse(text).unwrap();
        assert_eq!(upid.user, "capi@pve!provider");
        assert_eq!(upid.to_string(), text);
        assert!(Upid::parse("UPID:pve1:0000ABCD:0000EF01:69553B00:qmclone:9000:x").is_none());
        assert!(Upid::parse("UPID:pve1:zz:0000EF01:69553B00:imgcopy::root@pam:").is_none());
        assert!(Upid::parse("UPID:pve1:1:1:69553B00:imgcopy::root@pam:").is_some());
    }
}
